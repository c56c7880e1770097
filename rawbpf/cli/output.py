"""What the commands print. All text leaves through say() and complain(), which show control characters escaped.

Names of maps, pins and types, the verifier's log and the kernel's messages come from outside, and a terminal would obey
the escape sequences in them.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rawbpf.observe.wording import escaped

BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def say(text: object = "", style: str = "") -> None:
    """Prints text on stdout; on a terminal in this style."""
    shown = escaped(str(text))
    print(f"{style}{shown}{PLAIN}" if style and has_colour(sys.stdout) else shown, flush=True)


def say_table(header: list[str], rows: list[list[str]], right: Iterable[str] = ()) -> None:
    """Prints rows in columns under a header; the columns named in `right` are aligned at their right."""
    lines = [[escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align = [str.rjust if name in right else str.ljust for name in header]
    for number, line in enumerate(lines):
        cells = [put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)]
        say("  ".join(cells).rstrip(), style="" if number else BOLD)


def say_json(value: Any) -> None:
    """Prints a value as JSON on one line. json.dumps() escapes whatever is not ASCII."""
    print(json.dumps(value), flush=True)


def write_lines(lines: Iterable[bytes]) -> None:
    """Writes bytes to stdout as they are: values, which their notation has made printable, or raw ones."""
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()


def complain(text: object) -> None:
    """Prints text on stderr; does nothing if nobody can read it there."""
    _print_on_stderr(escaped(str(text)))


def complain_json(value: Any) -> None:
    """Prints a value as JSON on stderr; does nothing if nobody can read it there."""
    _print_on_stderr(json.dumps(value))


def _print_on_stderr(text: str) -> None:
    try:
        # sys.stderr is None where it is closed.
        print(text, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Lets what the stream still has, and what comes, go to /dev/null: at its end Python would complain otherwise."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def redraw(text: str, file: TextIO, end: str = "") -> None:
    """Prints text in the place of the terminal's last line."""
    print(f"\r{escaped(text)}\x1b[K", end=end, file=file, flush=True)


def control(text: str) -> None:
    """Writes escape sequences to a terminal, and text between them that is escaped already."""
    sys.stdout.write(text)
    sys.stdout.flush()


def has_colour(file: TextIO) -> bool:
    """Whether to use colours: on a terminal, unless NO_COLOR is set or the terminal is a dumb one."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fills_screens(file: TextIO) -> bool:
    """Whether it is a terminal that obeys escape sequences."""
    return file.isatty() and os.environ.get("TERM", "dumb") != "dumb"
