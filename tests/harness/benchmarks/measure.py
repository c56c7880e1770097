"""Rounds, medians and tables.

The machine is noisy and changes its speed: in every round each contender runs once, so that all of them see the same
weather, and what counts is the ratio of medians from one run.

No call on these maps ever waits. So a contender that is alone is timed by the processor time of its thread, which on an
idle machine is the time on the clock and on a busy one leaves out what others had in between.
"""

import ctypes
import ctypes.util
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar, cast

HERE = Path(__file__).parent

# A contender does its work once and returns nanoseconds per element.
Contender = Callable[[], float]

wall_clock = time.perf_counter_ns

Name = TypeVar("Name", bound=Hashable)


class Report(NamedTuple):
    """What a benchmark found: tables in Markdown and, for the plot, ns per element of each contender and batch size."""

    text: str
    curves: dict[str, dict[float, float]] | None = None


def compiled(source: str, *options: str) -> ctypes.CDLL:
    """A C file of this folder as a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "library.so")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(path), str(HERE / source), *options]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(path))


@cache
def floor() -> ctypes.CDLL:
    """The C loops of floor.c."""
    return compiled("floor.c")


@cache
def libbpf_loops() -> ctypes.CDLL | None:
    """The C loops of libbpf.c, if libbpf is installed."""
    name = ctypes.util.find_library("bpf")
    return compiled("libbpf.c", f"-l:{name}") if name else None


@cache
def libbpf() -> ctypes.CDLL | None:
    """libbpf itself, if it is installed."""
    name = ctypes.util.find_library("bpf")
    return ctypes.CDLL(name, use_errno=True) if name else None


@contextmanager
def cilium(fd: int) -> Iterator[Callable[[str, int], float] | None]:
    """Nanoseconds per element of so many calls ("push" or "pop") by Go's cilium/ebpf, if that is installed."""
    packages = "/usr/share/gocode"
    if shutil.which("go") is None or not Path(packages, "src/github.com/cilium/ebpf").exists():
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "cilium")
        environment = os.environ | {"GO111MODULE": "off", "GOPATH": packages, "GOCACHE": folder}
        subprocess.run(["go", "build", "-o", program, HERE / "cilium.go"], check=True, env=environment)
        with subprocess.Popen(
            [program, str(fd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=[fd]
        ) as process:
            orders, answers = cast(TextIO, process.stdin), cast(TextIO, process.stdout)

            def calls(verb: str, count: int) -> float:
                print(verb, count, file=orders)
                return int(answers.readline()) / count

            yield calls


def timed(work: Callable[[], object], elements: int, clock: Callable[[], int] = time.thread_time_ns) -> float:
    """Nanoseconds per element of one run. Several threads or processes at once are timed by wall_clock."""
    start = clock()
    work()
    return (clock() - start) / elements


class Median(float):
    """The median of some rounds, which is what the tables show; `quartiles` are the plot's error bars."""

    quartiles: tuple[float, float]

    def __new__(cls, values: list[float]) -> "Median":
        first, middle, third = statistics.quantiles(values, method="inclusive")
        made = super().__new__(cls, middle)
        made.quartiles = first, third
        return made


def medians(contenders: dict[Name, Contender], rounds: int) -> dict[Name, Median]:
    """The median of each contender over interleaved rounds, one warm-up round apart."""
    results: dict[Name, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            nanoseconds = contender()
            if number:
                results[name].append(nanoseconds)
    return {name: Median(values) for name, values in results.items()}


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
