"""A root with nothing but libc, Python, cffi and rawbpf, and the same job done by others:

    python -m tests.harness.roots.minimal


The job: make a queue, push three values, pop them. In the root there is no libbpf, no compiler, no shell. The table
says what each way needs beyond libc and Python (bytes installed, by Debian's packages for the others), the processor
time of the job from the start of the process to its end, and its largest resident set. All run on one Python, Debian's,
in interleaved rounds. Needs root and GNU time; the others are measured where they are installed (bpftool, libbpf1,
python3-bpfcc).
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rawbpf.maps import bpffs
from tests.harness.benchmarks.measure import Contender, medians, table

DEBIANS_PYTHON = "/usr/bin/python3"
ROUNDS = 15

RAWBPF = """
from rawbpf import Queue
with Queue("<Q", 8, name="minimal") as q:
    for number in (7, 8, 9):
        q.push(number)
    print(q.pop(), q.pop(), q.pop(), q.pop(default=None))
"""

LIBBPF = """
import ctypes
libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
fd = libbpf.bpf_map_create(22, b"minimal", 0, 8, 8, None)
assert fd >= 0
value, seen = ctypes.c_uint64(), []
for value.value in (7, 8, 9):
    assert libbpf.bpf_map_update_elem(fd, None, ctypes.byref(value), ctypes.c_uint64(0)) == 0
while libbpf.bpf_map_lookup_and_delete_elem(fd, None, ctypes.byref(value)) == 0:
    seen.append(value.value)
print(*seen, None)
"""

# What its QueueStack calls. BPF(text="BPF_QUEUE(...)"), as its users write, compiles C, and needs kernel headers too.
BCC = """
import ctypes
from bcc import lib
fd = lib.bcc_create_map(22, b"minimal", 0, 8, 8, 0)
assert fd >= 0
value, seen = ctypes.c_uint64(), []
for value.value in (7, 8, 9):
    assert lib.bpf_update_elem(fd, None, ctypes.byref(value), 0) == 0
while lib.bpf_lookup_and_delete(fd, None, ctypes.byref(value)) == 0:
    seen.append(value.value)
print(*seen, None)
"""

EXPECTED = "7 8 9 None\n"

# Parts of the standard library that nobody imports in a container, and what takes most room.
NOT_IN_STDLIB = shutil.ignore_patterns(
    "test", "tests", "site-packages", "dist-packages", "config-*", "idlelib", "tkinter", "lib2to3", "turtledemo",
    "ensurepip", "pydoc_data", "*.opt-[12].pyc", "*.a", "lib-dynload",
)  # fmt: skip

# What belongs to libc and to Python themselves.
ITS_OWN = re.compile(r"(ld-linux.*|libc|libm|libdl|libpthread|librt|libutil|libpython3.*)\.so[.0-9]*$|linux-vdso")

_ENTER = """
set -e
[ ! -d "$0/proc" ] || mount --rbind /proc "$0/proc"
mount -t bpf bpf "$0/bpf"
exec chroot "$0" "$@"
"""


class Root(NamedTuple):
    """Where it is, which Python is in it, and how many bytes its parts have."""

    path: Path
    python: str
    sizes: dict[str, int]


def build(path: Path, python: str, proc: bool = True) -> Root:
    """Makes the root of an interpreter's own files, and of cffi's compiled part and rawbpf as pip installs them."""
    program = os.path.realpath(python)
    stdlib = Path(_said(program, "import sysconfig; print(sysconfig.get_path('stdlib'))"))
    pure = shutil.copytree(stdlib, _inside(path, stdlib), ignore=NOT_IN_STDLIB, symlinks=True)
    modules = []
    for module in stdlib.glob("lib-dynload/*.so"):
        if all(ITS_OWN.search(library) for library in _libraries([str(module)])):
            modules.append(_copy(str(module), path))
    site = path / "site"
    with tempfile.TemporaryDirectory() as scratch:
        _install(program, scratch)
        for wanted in ("rawbpf", "_cffi_backend*.so", "cffi.libs"):
            for found in Path(scratch).glob(wanted):
                (shutil.copytree if found.is_dir() else shutil.copy)(found, _folder(site) / found.name)
    native = map(str, site.rglob("*.so*"))
    interpreter = [_copy(each, path) for each in (program, *_libraries([program, *native]))]
    libc = [each for each in interpreter if re.match(r"ld-linux|libc\.|libm\.|libdl|libpthread", each.name)]
    if proc:
        _folder(path / "proc")
    _folder(path / "bpf")
    sizes = {
        "libc": _size(libc),
        "Python": _size([*_files(pure), *modules, *interpreter]) - _size(libc),
        "cffi": _size(each for each in _files(site) if "cffi" in str(each.relative_to(site))),
        "rawbpf": _size(_files(site / "rawbpf")),
    }
    return Root(path, program, sizes)


def command(root: Root, *arguments: str) -> list[str]:
    """What runs Python in the root, in a mount namespace of its own."""
    entering = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _ENTER, str(root.path)]
    return [*entering, root.python, "-S", *arguments]


def environment(door: str = "") -> dict[str, str]:
    """All that a process in the root is told."""
    return {"PATH": "/bin:/usr/bin:/usr/sbin:/sbin", "PYTHONPATH": "/site", "RAWBPF_FFI": door}


def _install(python: str, target: str) -> None:
    """rawbpf and cffi for an interpreter, in a folder. The wheel is built here from a copy: nothing stale is in it."""
    # Byte code is part of an installation.
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as scratch:
        ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "*.so", "_abi.py", "__pycache__", "tests")
        copy = shutil.copytree(Path.cwd(), Path(scratch, "project"), ignore=ignored)
        building = [*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", scratch, str(copy)]
        subprocess.run(building, env={**surroundings, "RAWBPF_FFI": "api"}, check=True, capture_output=True)
        [wheel] = Path(scratch).glob("*.whl")
        installing = [*pip, "--python", python, "install", "--quiet", "--target", target, str(wheel)]
        subprocess.run(installing, env=surroundings, check=True, capture_output=True)


def _said(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _libraries(programs: Iterable[str]) -> list[str]:
    """The shared libraries of programs, and the loader, as ldd names them."""
    found: set[str] = set()
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        found.update(re.findall(r"(?:=> )?(/\S+) \(0x", listed))
    # cffi's own, which are beside it.
    found = {library for library in found if "cffi.libs" not in library}
    return sorted(found)


def _inside(root: Path, path: "str | Path") -> Path:
    return root / str(path).lstrip("/")


def _copy(file: str, root: Path) -> Path:
    target = _inside(root, file)
    _folder(target.parent)
    return Path(shutil.copy(file, target))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _files(folder: "str | Path") -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


# The others


class Way(NamedTuple):
    """One way to do the job: the commands of it, their environment, and the bytes it needs beyond libc and Python."""

    commands: list[list[str]]
    environment: dict[str, str]
    size: int


def ways(root: Root, folder: str) -> dict[str, Way]:
    """Each way that is installed here. `folder` is a bpffs, which bpftool can't do without."""
    ours = root.sizes["cffi"] + root.sizes["rawbpf"]
    found = {
        "Python alone": Way([command(root, "-c", "print(*(7, 8, 9), None)")], environment(), 0),
        "rawbpf": Way([command(root, "-c", RAWBPF)], environment("api"), ours),
        "rawbpf, ABI mode": Way([command(root, "-c", RAWBPF)], environment("abi"), ours),
    }
    host = {"PATH": os.environ["PATH"]}
    if _works(DEBIANS_PYTHON, LIBBPF):
        found["ctypes over libbpf"] = Way([[DEBIANS_PYTHON, "-c", LIBBPF]], host, _installed("libbpf1"))
    if _works(DEBIANS_PYTHON, BCC):
        found["bcc"] = Way([[DEBIANS_PYTHON, "-c", BCC]], host, _installed("python3-bpfcc"))
    if tool := shutil.which("bpftool"):
        pin = f"{folder}/minimal"
        value = "value {} 0 0 0 0 0 0 0"
        steps = [f"create {pin} type queue key 0 value 8 entries 8 name minimal"]
        steps += [f"push pinned {pin} {value.format(number)}" for number in (7, 8, 9)]
        steps += [f"pop pinned {pin}"] * 3
        commands = [[tool, "map", *step.split()] for step in steps]
        found["bpftool, 7 processes"] = Way([*commands, ["rm", pin]], host, _installed("bpftool"))
    return found


def _works(python: str, code: str) -> bool:
    result = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return result.stdout == EXPECTED


def _installed(package: str) -> int:
    """Bytes of a package and of all that it depends on, without what Python depends on as well."""
    return sum(map(_package_size, _closure(package) - _closure("python3")))


def _closure(package: str) -> set[str]:
    options = ["--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"]
    listed = subprocess.run(
        ["apt-cache", "depends", "--installed", *options, "--no-enhances", package], capture_output=True, text=True
    )
    return set(re.findall(r"^([a-z0-9][a-z0-9.+-]*)", listed.stdout, re.MULTILINE))


def _package_size(package: str) -> int:
    result = subprocess.run(["dpkg-query", "-W", "-f", "${Installed-Size}\n", package], capture_output=True, text=True)
    return 1024 * int(result.stdout.split()[0]) if result.stdout.split() else 0


def _milliseconds(way: Way) -> Contender:
    """The processor time of all processes of a way: on a busy machine the clock would measure the others."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for each in way.commands:
            subprocess.run(each, env=way.environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    return once


def _peak(way: Way) -> int:
    """The largest resident set of a way's processes in KiB; GNU time starts them, or this process's own would count."""
    peaks = []
    for each in way.commands:
        command = ["/usr/bin/time", "-f", "%M", *each]
        result = subprocess.run(command, env=way.environment, capture_output=True, text=True, check=True)
        peaks.append(int(result.stderr.split()[-1]))
    return max(peaks)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.roots.minimal", description="The job in a minimal root."
    )
    parser.add_argument("--python", default=DEBIANS_PYTHON, help="whose files the root has (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interleaved rounds (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rawbpf-root-") as folder, bpffs.mounted() as mounted:
        root = build(Path(folder, "root"), options.python)
        parts = ", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in root.sizes.items())
        print(f"the root: {parts}; together {sum(root.sizes.values()) / 1e6:.1f} MB\n")
        all_ways = ways(root, mounted)
        times = medians({name: _milliseconds(way) for name, way in all_ways.items()}, options.rounds)
        peaks = {name: _peak(way) for name, way in all_ways.items()}
    rows = [["a queue, 3 pushes, 3 pops", "beyond libc and Python", "processor time", "largest resident set"]]
    for name, way in all_ways.items():
        ratio = times[name] / times["rawbpf"]
        time = f"{times[name]:.0f} ms, {ratio:.2f} x"
        rows.append([name, f"{way.size / 1e6:.1f} MB", time, f"{peaks[name] / 1024:.0f} MiB"])
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
