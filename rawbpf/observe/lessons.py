"""The exercises of `rawbpf learn`: read from docs/lessons, tried on a kernel, judged by lesson_checks.py.

A file of docs/lessons is a text, then the sections Start (the program as the learner gets it), Hints, and Solution (a
program, and what it shows).
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rawbpf.abi import door
from rawbpf.maps import bpffs
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.observe import lesson_run
from rawbpf.observe.lesson_checks import CHECKS
from rawbpf.observe.simulator import simulate

_FOLDER = Path(__file__).parents[1] / "docs" / "lessons"

# The running kernel would need 4 GiB of memory for each of its maps.
_ALWAYS_SIMULATED = frozenset({"forgotten-sizes"})


class Lesson(NamedTuple):
    """An exercise: `text` says what to do, `start` is the program to change, `afterword` what the solution shows."""

    number: int
    name: str
    title: str
    text: str
    start: str
    hints: list[str]
    solution: str
    afterword: str

    @property
    def always_simulated(self) -> bool:
        return self.name in _ALWAYS_SIMULATED


class Verdict(NamedTuple):
    """Whether a program is right. `said` is what is wrong, "" if nothing is; `ended` what ended the program early."""

    kernel: str
    said: str
    ended: str

    @property
    def is_right(self) -> bool:
        return not self.said


def lessons() -> list[Lesson]:
    """All exercises, in their order.

    >>> lessons()[1].title
    'Make the kernel answer E2BIG, then make it not'
    """
    return [_read(path) for path in sorted(_FOLDER.glob("*.md"))]


def _read(path: Path) -> Lesson:
    number, _, name = path.stem.partition("-")
    text, start, hints, solution = re.split(r"^## (?:Start|Hints|Solution)\n", path.read_text("utf-8"), flags=re.M)
    title, _, text = text.partition("\n")
    solved, afterword = _code(solution)
    return Lesson(
        int(number),
        name,
        title.removeprefix("# "),
        text.strip(),
        _code(start)[0],
        [" ".join(hint.split()) for hint in re.split(r"^- ", hints.strip(), flags=re.M)[1:]],
        solved,
        afterword,
    )


def _code(section: str) -> tuple[str, str]:
    """The program between the fences, and the text behind it."""
    _, code, text = re.split(r"^```(?:python)?\n", section, flags=re.M)
    return code, text.strip()


def attempt(lesson: Lesson, source: str, *, simulated: bool) -> Verdict:
    """Runs a learner's program and judges it, on the running kernel or on a simulated one."""
    with ExitStack() as stack:
        if door.simulated is None and (simulated or lesson.always_simulated):
            stack.enter_context(simulate())
        kernel = "the running kernel" if door.simulated is None else "the simulated kernel"
        names: dict[str, Any] = {"__name__": "__main__"}
        if lesson.name == "anothers-pop":
            names["path"] = os.path.join(stack.enter_context(bpffs.mounted()), "shared")
        done = lesson_run.run(source, names, kernel)
        ended = done.what_ended_it()
        if isinstance(done.error, SyntaxError):
            return Verdict(kernel, "Python can't read the program.", ended)
        # An exception that came after all that was asked for has been made is no fault of the exercise's.
        said = CHECKS[lesson.name](done)
        _close(names)
    return Verdict(kernel, said, ended)


def _close(names: dict[str, Any]) -> None:
    """Closes the learner's maps, before the simulated kernel is gone."""
    for value in names.values():
        if isinstance(value, QueueOrStack):
            value.close()
