"""Exit codes, and what the command line says of an error."""

import difflib
from collections.abc import Iterable
from typing import Any

from rawbpf.syscall.errors import BpfError, Empty, Full, NotPermitted, errno_name

DONE, ERROR, USAGE, EMPTY_OR_FULL, NOT_PERMITTED = range(5)
# A command that signal N ended has 128 + N, as in a shell.
SIGNALLED = 128

EXIT_CODES = "exit codes: 0 done, 1 error, 2 usage, 3 empty or full, 4 not permitted, 128+N ended by signal N"


class UsageError(Exception):
    """The arguments make no sense. `usage`: how the command is called, if that is worth showing."""

    def __init__(self, text: str, usage: str = "") -> None:
        super().__init__(text)
        self.usage = usage


class NotReturned(Exception):
    """Values were taken out of a map, could not be written, and could not be pushed back."""


_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, USAGE),
    (Empty, EMPTY_OR_FULL),
    (Full, EMPTY_OR_FULL),
    (NotPermitted, NOT_PERMITTED),
)

# What a command may raise: each becomes a message and an exit code.
REPORTED = (OSError, ValueError, TypeError, LookupError, MemoryError, UsageError, NotReturned)


def did_you_mean(word: str, possible: Iterable[str], otherwise: str = "") -> str:
    """What to say of a word that is none of the possible ones: which is probably meant; `otherwise`, or all of them."""
    known = list(possible)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"it is one of {', '.join(known)}"


def exit_code(error: Exception) -> int:
    """The exit code of a command that raised this."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def as_text(error: Exception) -> str:
    """What to print of it."""
    text = f"rawbpf: {str(error) or type(error).__name__}"  # a MemoryError has no text
    return f"{error.usage}{text}" if isinstance(error, UsageError) else text


def as_json(error: Exception) -> dict[str, Any]:
    """The same as an object: "error", and for a failed call also "errno", "command" and "hint"."""
    if isinstance(error, BpfError):
        return {
            "error": error.strerror,
            "errno": errno_name(error.errno or 0),
            "command": error.cmd.name,
            "hint": error.hint,
        }
    return {"error": str(error) or type(error).__name__}
