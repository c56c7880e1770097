"""The command line: `rawbpf COMMAND`, also `python -m rawbpf COMMAND`."""

import io
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from rawbpf.cli.errors import DONE, REPORTED, UsageError, as_json, as_text, exit_code
from rawbpf.cli.output import complain, complain_json, discard
from rawbpf.cli.parser import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code, see errors.py."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_streams()
        options = parse(given)
        with _traced(options.trace):
            result: int = options.run(options)
        sys.stdout.flush()
        return result
    except BrokenPipeError:
        # Nobody reads any more what was asked for. (drain and pop, which change something, see to that themselves.)
        discard(sys.stdout)
        return DONE
    except REPORTED as error:
        if "--json" in given:
            complain_json(as_json(error))
        else:
            complain(as_text(error))
        return exit_code(error)


def _check_streams() -> None:
    # Python has None for one that is closed. Without stdout there is no place for what comes out of a map.
    if sys.stdin is None or sys.stderr is None or sys.stdout is None:
        raise UsageError("stdin, stdout and stderr must be open")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's encoding lacks is shown with a backslash.
            stream.reconfigure(errors="backslashreplace")


def _traced(wanted: bool) -> AbstractContextManager[None]:
    if not wanted:
        return nullcontext()
    from rawbpf.observe.tracer import trace

    return trace()
