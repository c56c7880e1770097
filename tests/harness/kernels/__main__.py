"""Runs the test suite on other kernels, and on other machines:

    python -m tests.harness.kernels 5.10 6.1 6.12 7.2
    python -m tests.harness.kernels --arch arm64 6.12 7.2
    python -m tests.harness.kernels --arch s390x 6.12 [--abi]

Each kernel is one of Debian's, fetched once with apt (fetch.py), booted in QEMU without KVM (boot.py) with a file
system that holds the rawbpf wheel and the tests (initramfs.py), where pytest runs as root and as an ordinary user.
Prints a table, what failed and the reasons of all skips (report.py). To be called in the project's folder; needs
qemu-system-x86, busybox, clang, and a pip that finds the test dependencies. For another machine than this one
(machines.py) it needs that machine's QEMU, its cross compiler with its C library (gcc-aarch64-linux-gnu
libc6-dev-arm64-cross), and to be run by the version of Python that this Debian has.

Exit code: 0 if every test of every run passed or skipped as it should, 3 if some kernel could not be had and the others
went well, or was not done within the --budget; else 1: also if a kernel did not boot, hung, or did not end in time.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError
from typing import NamedTuple

from tests.harness.kernels import boot, fetch, foreign, initramfs, report
from tests.harness.kernels.machines import HERE, MACHINES

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rawbpf", "kernels")

RUNS = ("root", "user")

# A guest is some twenty times slower than the machine itself. So each test runs once there, as the user it is for, and
# those are left out that say the same on every kernel. --all leaves out nothing.
MARKS = {"root_marks": "not alike and (creates or admin)", "user_marks": "not alike and not creates and not admin"}
CONSOLE_LINES = 80
# A guest prints a line for each test, the longest of which takes half a minute: one this many seconds silent hangs.
HANGS = 240
NOT_HAD = 3
HEADER = ("kernel", "image", "as", "passed", "failed", "skipped by design", "skipped otherwise", "seconds")


class Result(NamedTuple):
    """What became of one kernel: its image's name, the runs that finished, if not all did the reason why, and whether
    there was an image at all."""

    kernel: str
    image: str
    runs: list[report.Run]
    seconds: float
    problem: str
    had: bool = True

    @property
    def failed(self) -> bool:
        return any(run.failed for run in self.runs) or (self.had and bool(self.problem))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "initramfs")
        try:
            tree = None if options.machine is HERE else fetch.tree(foreign.PACKAGES, options.machine, options.cache)
            initramfs.build(image, options.machine, tree, options.wheel)
        except fetch.Unavailable as error:
            print(f"!!! the guests' file system could not be had: {error}", file=sys.stderr)
            return NOT_HAD
        except (OSError, RuntimeError) as error:
            print(f"!!! the guests' file system could not be built: {error}", file=sys.stderr)
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            consoles = options.consoles or Path(folder)
            results = list(pool.map(lambda kernel: _try(kernel, image, consoles, options), options.kernels))
    _print_table(results)
    for result in results:
        _print_details(result)
    if any(result.failed for result in results):
        return 1
    return 0 if all(result.had for result in results) else NOT_HAD


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.kernels", description="Runs the test suite on other kernels."
    )
    parser.add_argument("--arch", choices=MACHINES, default=HERE.arch, help="of the machine (default: %(default)s)")
    parser.add_argument("--abi", action="store_true", help="through cffi's ABI mode (default: the compiled extension)")
    parser.add_argument("kernels", nargs="+", metavar="KERNEL", help="a version: 5.10, 6.1, 6.12, 7.2")
    parser.add_argument("--jobs", type=int, default=2, help="guests at a time, of 2 GiB each (default: 2)")
    parser.add_argument(
        "--timeout",
        type=float,
        help="seconds until a guest is killed (default: the machine's, or the budget's)",
    )
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for all together: what is not done is not had")
    parser.add_argument("--refresh", action="store_true", help="fetch the archive's newest, whatever is cached")
    parser.add_argument("--wheel", type=Path, help="the rawbpf wheel to test (default: built from this folder)")
    parser.add_argument("--all", action="store_true", help="all tests, both as root and as an ordinary user: slow")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more for pytest: --pytest='-k memlock'")
    parser.add_argument("--consoles", type=Path, metavar="FOLDER", help="keep what the guests print in this folder")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if '"' in options.pytest:
        parser.error("--pytest goes through the kernel's command line, which holds no double quotes: use single ones")
    options.machine = MACHINES[options.arch]
    options.deadline = math.inf if options.budget is None else time.monotonic() + options.budget
    options.timeout = options.timeout or (options.machine.seconds if options.budget is None else math.inf)
    return options


def _try(kernel: str, image: Path, consoles: Path, options: argparse.Namespace) -> Result:
    """Boots one kernel and reads what it reports; never raises for what a kernel can do wrong."""
    try:
        vmlinuz = fetch.kernel(kernel, options.machine, options.cache, options.refresh)
    except fetch.Unavailable as error:
        return Result(kernel, "", [], 0, f"could not be had: {error}", had=False)
    left = options.deadline - time.monotonic()
    if left <= 0:
        return Result(kernel, vmlinuz.name, [], 0, "was not begun within the budget", had=False)
    console = consoles / f"console-{options.arch}-{kernel}"
    print(f"{kernel} boots {vmlinuz.name}; its console: {console}", file=sys.stderr)
    try:
        seconds = min(options.timeout, left)
        guest = boot.boot(options.machine, vmlinuz, image, console, seconds, **_selection(options))
    except (OSError, CalledProcessError) as error:
        return Result(kernel, vmlinuz.name, [], 0, f"could not be booted: {error}")
    runs = report.parse(guest.console, kernel, options.machine.jit)
    if not guest.ended and left < options.timeout and guest.silent < HANGS:
        return Result(kernel, vmlinuz.name, runs, guest.seconds, "was not done within the budget", had=False)
    problem = "" if guest.ended else f"was killed after {guest.seconds:.0f} s, the last {guest.silent:.0f} silent\n"
    for name in RUNS:
        if name not in [run.name for run in runs]:
            problem += f"did not finish the run as {name}; the end of its console:\n"
            problem += _last_words(guest.console, name)
    problem += "".join(f"ran no test as {run.name}\n" for run in runs if not run.passed)
    return Result(kernel, vmlinuz.name.removeprefix("vmlinuz-"), runs, guest.seconds, problem)


def _selection(options: argparse.Namespace) -> dict[str, str]:
    """Which tests run, as the guest's environment."""
    door = "abi" if options.abi else "api"
    return {"PYTEST_ADDOPTS": options.pytest, "RAWBPF_FFI": door, **({} if options.all else MARKS)}


def _last_words(console: str, name: str) -> str:
    """The last lines that the guest printed in the run as `name`, or at all if it did not get so far."""
    _, _, part = console.rpartition(initramfs.BANNER + name)
    lines = part.partition(initramfs.BANNER)[0].partition(initramfs.REPORT)[0].splitlines()
    return "".join(f"{line}\n" for line in lines[-CONSOLE_LINES:])


def _print_table(results: list[Result]) -> None:
    rows: list[tuple[object, ...]] = [HEADER, tuple("---" for _ in HEADER)]
    for result in results:
        for run in result.runs:
            counts = (run.passed, *map(len, (run.failed, run.by_design, run.otherwise)))
            rows.append((result.kernel, result.image, run.name, *counts, round(result.seconds)))
        if result.problem:
            what = "NOT RUN TO THE END" if result.had else "NOT HAD"
            rows.append((result.kernel, result.image, "-", 0, what, 0, 0, round(result.seconds)))
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")


def _print_details(result: Result) -> None:
    if result.problem:
        print(f"\n!!! {result.kernel} {result.problem}")
    for run in result.runs:
        for test, text in run.failed.items():
            print(f"\n{result.kernel} as {run.name}: FAILED {test}\n{text}")
        for reason, count in Counter([*run.by_design.values(), *run.otherwise.values()]).most_common():
            print(f"{result.kernel} as {run.name}: skipped {count}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
