"""The benchmarks run and print their tables. What they measure is nothing to assert."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.alike, pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the benchmarks with so few rounds that their figures mean nothing."""
    command = [sys.executable, "-W", "error", "-m", "tests.harness.benchmarks", "--quick", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.real_kernel(reason="it is what is measured")
@pytest.mark.creates
@pytest.mark.admin
def test_each_benchmark_prints_its_tables() -> None:
    """A quick run of all benchmarks ends well, prints a table of each, and every row of a table has all its cells.
    (Counting what soak leaves needs CAP_PERFMON.)"""
    done = run()
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for head in (
        "8-byte values, one per call",
        "8-byte values, by door",
        "import rawbpf",
        "8-byte values, elements a call",
        "8-byte values, 16384 a call",
        "8-byte values, max_entries",
        "times faster than the C loop",
        "records, 4096 a call",
        "pop_into, elements a call",
        "bulk.BREAK_EVEN",
        "in_kernel.VALUE_SIZE_MAX",
        "8-byte values, threads",
        "8-byte records to another process",
    ):
        assert head in printed
    for table in re.findall(r"(?:^\|.*\n)+", printed, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1


@pytest.mark.creates
def test_the_plot_is_a_png(tmp_path: Path) -> None:
    """--plot writes a PNG of the benchmarks that have curves."""
    pytest.importorskip("matplotlib", reason="by design: matplotlib comes with rawbpf[bench] only")
    run("processes", "--plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_benchmark_is_refused() -> None:
    """A benchmark that is not there is a usage error, exit code 2, and nothing is measured."""
    done = run("nonesuch")
    assert (done.returncode, done.stdout) == (2, "")
