"""`rawbpf learn`: exercises that check themselves, and how far one has come. In a Jupyter notebook %%exercise does the
same.

Progress is kept in $XDG_STATE_HOME/rawbpf/learn.json, by default below ~/.local/state.
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from rawbpf.cli.errors import DONE, ERROR, UsageError
from rawbpf.cli.output import BOLD, complain, say
from rawbpf.cli.tour import refusal
from rawbpf.observe.lessons import Lesson, Verdict, attempt, lessons

_WIDTH = 80


def main(options: argparse.Namespace) -> int:
    """Lists the exercises, or does with one what the options say."""
    if options.notebook is not None:
        Path(options.notebook).write_text(notebook(), encoding="utf-8")
        return DONE
    wants_one = options.start is not None or options.check is not None or options.hint or options.solution
    if options.number is None and wants_one:
        raise UsageError("which exercise? rawbpf learn NUMBER ...; rawbpf learn lists them")
    progress = Progress()
    if options.number is None:
        _list(progress)
        return DONE
    if not 1 <= options.number <= len(lessons()):
        raise UsageError(f"there is no exercise {options.number}: they go from 1 to {len(lessons())}")
    lesson = lessons()[options.number - 1]
    if options.start is not None:
        _start(lesson, options.start or _file(lesson))
    elif options.check is not None:
        return _check(lesson, options.check or _file(lesson), options.simulate, progress)
    elif options.hint:
        _hint(lesson, progress)
    elif options.solution:
        say(lesson.solution)
        say(_filled(lesson.afterword))
    else:
        _show(lesson)
    return DONE


class Progress:
    """Which exercises are done, and how many hints of each were shown: a file of the user's."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        self.path = Path(home, "rawbpf", "learn.json")
        self.done: set[str] = set()
        self.hints: dict[str, int] = {}
        try:
            kept = json.loads(self.path.read_text())
            self.done, self.hints = set(kept["done"]), {name: int(number) for name, number in kept["hints"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none is kept yet, or what is there is no progress

    def save(self) -> None:
        """Keeps it. Where that is not possible it is said, and nothing else fails."""
        text = json.dumps({"done": sorted(self.done), "hints": self.hints})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(f".{os.getpid()}")
            new.write_text(text)
            new.replace(self.path)
        except OSError as error:
            complain(f"rawbpf: progress is not kept: {error}; XDG_STATE_HOME names another folder for it")


def _list(progress: Progress) -> None:
    found = lessons()
    say(f"exercises, {sum(each.name in progress.done for each in found)} of {len(found)} done:\n")
    for lesson in found:
        mark = "done" if lesson.name in progress.done else ""
        say(f"  {mark:4}  {lesson.number:2}  {lesson.title}")
    _say_next(progress)


def _say_next(progress: Progress) -> None:
    nexts = [lesson for lesson in lessons() if lesson.name not in progress.done]
    say(f"\nnext: rawbpf learn {nexts[0].number}" if nexts else "\nAll are done. More: rawbpf help")


def _show(lesson: Lesson) -> None:
    say(f"{lesson.number}. {lesson.title}\n", BOLD)
    say(_filled(lesson.text))
    call = f"rawbpf learn {lesson.number}"
    say(
        f"\n  {call} --start      writes {_file(lesson)}: the program to change"
        f"\n  {call} --check      judges it; with --trace it shows the calls"
        f"\n  {call} --hint       shows a hint; again, another"
        f"\n  {call} --solution   shows a program that is right"
    )


def _file(lesson: Lesson) -> str:
    return f"learn{lesson.number}.py"


def _filled(text: str) -> str:
    """Paragraphs, each filled again."""
    return "\n\n".join(textwrap.fill(each, _WIDTH, break_on_hyphens=False) for each in text.split("\n\n"))


def _start(lesson: Lesson, path: str) -> None:
    call = f"rawbpf learn {lesson.number} --check"
    name = "" if path == _file(lesson) else f" {path}"
    head = f"# {lesson.number}. {lesson.title}\n# Check it with: {call}{name}\n\n"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(head + lesson.start)
    except FileExistsError:
        raise UsageError(f"{path} exists and is left as it is: remove it first, or name another file") from None
    say(f"{path} is written. Change it, then: {call}{name}")


def _check(lesson: Lesson, path: str, simulated: bool, progress: Progress) -> int:
    try:
        source = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no {path}: rawbpf learn {lesson.number} --start writes it") from None
    verdict = attempt(lesson, source, simulated=simulated or bool(refusal()))
    for line in _judgement(lesson, verdict):
        say(line)
    if not verdict.is_right:
        return ERROR
    progress.done.add(lesson.name)
    progress.save()
    _say_next(progress)
    return DONE


def _judgement(lesson: Lesson, verdict: Verdict) -> list[str]:
    if verdict.is_right:
        return [f"Right, on {verdict.kernel}.", "", _filled(lesson.afterword)]
    lines = [f"Not yet, on {verdict.kernel}."]
    if verdict.ended:
        lines += textwrap.wrap(f"The program ended at {verdict.ended}", _WIDTH, subsequent_indent="  ")
    return [*lines, *textwrap.wrap(verdict.said, _WIDTH)]


def _hint(lesson: Lesson, progress: Progress) -> None:
    shown = min(progress.hints.get(lesson.name, 0) + 1, len(lesson.hints))
    for number, hint in enumerate(lesson.hints[:shown], 1):
        say(textwrap.fill(f"{number}. {hint}", _WIDTH, subsequent_indent="   "))
    say(f"\n{shown} of {len(lesson.hints)} hints" + ("." if shown < len(lesson.hints) else "; there are no more."))
    progress.hints[lesson.name] = shown
    progress.save()


# Jupyter


def notebook() -> str:
    """All exercises as a notebook: a text and a program each, which the cell's %%exercise checks."""
    cells: list[dict[str, Any]] = [
        _cell("markdown", _NOTEBOOK_HEAD),
        _cell("code", "%load_ext rawbpf.cli.learn"),
    ]
    for lesson in lessons():
        cells.append(_cell("markdown", f"## {lesson.number}. {lesson.title}\n\n{lesson.text}"))
        cells.append(_cell("code", f"%%exercise {lesson.number}\n{lesson.start.rstrip()}"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1) + "\n"


_NOTEBOOK_HEAD = """\
# rawbpf: exercises

The exercises of `rawbpf learn`. Change the program in a cell and run the cell: its first line, `%%exercise`, runs the
program in a process of its own, on the running kernel or, where that does not permit it, on a simulated one, and says
what is not right yet. `%%exercise 3 --hint` shows a hint instead, `%%exercise 3 --solution` a program that is right."""


def _cell(kind: str, text: str) -> dict[str, Any]:
    more: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True), **more}


def load_ipython_extension(ipython: Any) -> None:
    """%load_ext rawbpf.cli.learn: the magic %%exercise."""
    ipython.register_magic_function(_exercise, "cell", "exercise")


def _exercise(line: str, cell: str) -> None:
    """A program can crash its process, by an address that is none: so it runs in another than the notebook's."""
    words = line.split()
    others = {"--hint", "--solution"} & set(words)
    command = [sys.executable, "-m", "rawbpf", "learn", *words, *([] if others else ["--check", "-"])]
    result = subprocess.run(command, check=False, input=cell, capture_output=True, text=True)
    for text in (result.stdout, result.stderr):
        if text:
            say(text.removesuffix("\n"))
    if result.returncode < 0:
        say(f"The program crashed (signal {-result.returncode}). Has each buffer as many bytes as a value?")
