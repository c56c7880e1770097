"""Rounds, medians and tables.

The machine is noisy and changes its speed: in every round each contender runs once, so that all of them see the same
weather, and what counts is the ratio of medians from one run.
"""

import ctypes
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent

# A contender does its work once and returns nanoseconds per element.
Contender = Callable[[], float]


def compiled(source: str, *options: str) -> ctypes.CDLL:
    """A C file of this folder as a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library.so")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / source), *options]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


def floor() -> ctypes.CDLL:
    """The C loops of floor.c."""
    library = compiled("floor.c")
    for name in ("push", "pop"):
        getattr(library, name).restype = ctypes.c_double
    return library


def timed(work: Callable[[], object], elements: int) -> float:
    """Nanoseconds per element of one run."""
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / elements


def medians(contenders: dict[str, Contender], rounds: int) -> dict[str, float]:
    """The median of each contender over interleaved rounds, one warm-up round apart."""
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            nanoseconds = contender()
            if number:
                results[name].append(nanoseconds)
    return {name: statistics.median(values) for name, values in results.items()}


def machine() -> str:
    """What the figures come from, in a line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, {python}"


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table; the first is the head, all columns but the first are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = (
        "|" + "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    )
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])
