"""The tests that ask other programs, with those of other suites of Debian:

    python -m tests.harness.neighbours trixie sid

bpftool, with the libbpf in it, and strace are unpacked, not installed, and stand first in PATH; the headers of libbpf
stay those of this machine. To be called in the project's folder; needs apt.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.harness.kernels import fetch
from tests.harness.kernels.__main__ import CACHE
from tests.harness.kernels.machines import HERE

PROGRAMS = ("bpftool", "strace")

# Each runs with its own loader and libraries.
WRAPPER = """\
#!/bin/sh
exec {loader} --library-path {libraries} {program} "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.neighbours", description="The tests that ask other programs, with newer ones."
    )
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="Debian's: trixie, sid")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more for pytest: --pytest='-k interop'")
    options = parser.parse_args()
    asks = re.compile("|".join(PROGRAMS))
    asking = [path for path in sorted(Path("tests").glob("*/test_*.py")) if asks.search(path.read_text())]
    codes = []
    for suite in options.suites:
        with tempfile.TemporaryDirectory(prefix="rawbpf-neighbours-") as folder:
            Path(folder).chmod(0o755)  # some tests run as another user
            environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTEST_ADDOPTS": options.pytest}
            for program in PROGRAMS:
                _wrap(program, fetch.tree(PROGRAMS, HERE, CACHE, suite=suite), Path(folder))
                said = subprocess.run([program, "--version"], env=environment, check=True, capture_output=True)
                print(f"== {suite}: {' '.join(said.stdout.decode().split()[:6])}", flush=True)
            codes.append(subprocess.run([sys.executable, "-m", "pytest", "-q", *asking], env=environment).returncode)
    return max(codes)


def _wrap(program: str, tree: Path, folder: Path) -> None:
    [found] = [path for path in tree.rglob(f"*bin/{program}") if path.is_file()]
    [loader] = {path.resolve() for path in tree.rglob("ld-linux-*.so.*")}
    libraries = ":".join(sorted({str(path.parent) for path in tree.glob(f"**/{HERE.name}-linux-gnu/*.so.*")}))
    wrapper = folder / program
    wrapper.write_text(WRAPPER.format(loader=loader, libraries=libraries, program=found))
    wrapper.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
