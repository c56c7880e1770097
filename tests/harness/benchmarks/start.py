"""What it costs to start: `import rawbpf` through either door, and `rawbpf --help`, over a bare interpreter."""

import os
import resource
import subprocess
import sys

from tests.harness.benchmarks.measure import Contender, Report, medians, table

STARTS = {
    "bare interpreter": (["-c", "pass"], ""),
    "import rawbpf": (["-c", "import rawbpf"], "api"),
    "import rawbpf, RAWBPF_FFI=abi": (["-c", "import rawbpf"], "abi"),
    "rawbpf --help": (["-m", "rawbpf", "--help"], "api"),
}

# The goals: the import over the bare interpreter, the help from start to end.
BUDGETS = {"import rawbpf": "25 ms over", "rawbpf --help": "150 ms"}


def started(arguments: list[str], door: str) -> Contender:
    """Milliseconds of processor time of one start."""

    def once() -> float:
        # Byte code that is written once belongs to the installation, not to the start.
        environment = {**os.environ, "RAWBPF_FFI": door, "PYTHONDONTWRITEBYTECODE": ""}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    return once


def run(rounds: int) -> Report:
    """The table of one run."""
    results = medians({name: started(*start) for name, start in STARTS.items()}, rounds)
    bare = results["bare interpreter"]
    rows = [["start to end", "processor time", "over bare", "budget"]]
    rows += [[name, f"{ms:.1f} ms", f"{ms - bare:.1f} ms", BUDGETS.get(name, "")] for name, ms in results.items()]
    return Report(table(rows))
