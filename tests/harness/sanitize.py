"""`python -m tests.harness.sanitize [pytest arguments]`: the suite on an extension built with ASAN and UBSAN.

A report of theirs ends it.

The extension is built into a temporary folder that holds a copy of the package; the installed one is left alone.
CPython frees little at its end, so leaks are not asked for; PYTHONMALLOC=malloc lets ASAN see Python's own buffers.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# ASAN itself reads /proc, is not in a minimal root, takes what two limit, address space and resident memory, and can
# leave its allocator locked in a child that is forked beside threads. ThreadSanitizer does not go with it.
WITHOUT = (
    *("-p", "no:cacheprovider"),
    "--deselect=tests/system/test_faults.py::test_no_proc",
    "--deselect=tests/system/test_faults.py::test_fork_while_a_thread_is_in_a_bulk_call",
    "--deselect=tests/observe/test_simulator.py::test_fork_while_another_thread_is_in_a_call",
    "--ignore=tests/meta/test_benchmarks.py",
    "--ignore=tests/system/test_minimal_root.py",
    "--ignore=tests/objects/test_fuzz.py",
    "--ignore=tests/abi/test_threads.py",
    "--deselect=tests/system/test_stress.py::test_millions_of_calls_grow_nothing",
)

# Other programs go without: bpftool's dumps would take minutes.
TOOLS = ("bpftool", "clang", "cc", "gcc", "llvm-mc", "llvm-strip", "readelf", "ip", "mount", "umount")

FLAGS = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"


def build(folder: Path) -> None:
    """Copies the project into `folder` and compiles its extension there with the sanitizers."""
    for name in ("rawbpf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("build_ffi.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build_ext", "--inplace"]
    # gcc's own sanitizers: the interpreter's compiler may be another one.
    compiler = {"CC": "gcc", "LDSHARED": f"gcc -shared {FLAGS}", "CFLAGS": FLAGS}
    subprocess.run(command, cwd=folder, env=os.environ | compiler, check=True, stdout=subprocess.DEVNULL)


def libraries() -> str:
    """What LD_PRELOAD needs: the interpreter is not linked with the sanitizers."""
    found = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return " ".join(os.path.realpath(path) for path in found)


def unburdened(folder: Path) -> str:
    """A PATH on which the tools run without LD_PRELOAD."""
    for tool in filter(shutil.which, TOOLS):
        wrapper = folder / tool
        wrapper.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {shutil.which(tool)} "$@"\n')
        wrapper.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rawbpf-sanitize-") as name:
        folder = Path(name)
        build(folder)
        tools = folder / "tools"
        tools.mkdir()
        environment = os.environ | {
            "PATH": unburdened(tools),
            "LD_PRELOAD": libraries(),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:verify_asan_link_order=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": name,
            "RAWBPF_STRESS_SECONDS": os.environ.get("RAWBPF_STRESS_SECONDS", "0.5"),
        }
        where = subprocess.run(
            [sys.executable, "-c", "import rawbpf.abi._native as native; print(native.__file__)"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        if not where.startswith(name):
            sys.exit(f"{where} is not the extension that was built")
        command = [sys.executable, "-m", "pytest", "-q", *WITHOUT, *(sys.argv[1:] or ["tests"])]
        return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
