"""Builds the guest's file system: an uncompressed cpio archive (newc) that the kernel unpacks at boot.

In it are busybox, this interpreter with its standard library, the rawbpf wheel with what its tests need, the tests,
the BPF programs that they load, compiled, and those outside tools the tests ask that are installed here. Programs keep
the paths they have on this machine, so that they find what belongs to them; the shared libraries come along that ldd
names.
"""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

BUILD_SECONDS = 300

# What the tests ask, if it is there.
TOOLS = ("bash", "unshare", "strace", "bpftool")

# Parts of the standard library that no test imports, and what takes most room.
NOT_IN_STDLIB = re.compile(r"/(test|site-packages|dist-packages|config-[^/]*|idlelib|tkinter|lib2to3|turtledemo)(/|$)")
OPTIMISED = re.compile(r"\.opt-[12]\.pyc$")

NOT_IN_PROJECT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info", "*.so")

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/tmp:/bin/sh\nuser:x:1000:1000:an ordinary user:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\n",
}

# What the console shows before each run.
BANNER = "=== as "

# The first process. Each run's report goes out through the second serial port. (By its bare name busybox would run its
# own setpriv, which can't change the user.)
INIT = """\
#!/bin/sh
export PATH={path}:/bin PYTHONPATH=/site PYTHONUNBUFFERED=1 HOME=/tmp RAWBPF_STRESS_SECONDS=0.15 \
    RAWBPF_SLOWNESS=20 RAWBPF_TEST_OBJECTS=/project/objects
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 none /dev/pts
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /dev/shm
mount -t cgroup2 none /sys/fs/cgroup && echo +memory >/sys/fs/cgroup/cgroup.subtree_control
ln -s /proc/self/fd /dev/fd
ip link set lo up
stty -F /dev/ttyS1 raw

run() {{
    name=$1 marks=$2
    shift 2
    echo "{banner}$name"
    export HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis-$name
    "$@" {python} -m pytest -v --tb=short --color=no -p no:cacheprovider -m "$marks" -o faulthandler_timeout=120 \\
        -o junit_suite_name=$name --junitxml=/tmp/$name.xml
    cat /tmp/$name.xml >/dev/ttyS1
}}

cd /project
run root "$root_marks" env RAWBPF_REQUIRE_KERNEL=1
run user "$user_marks" {setpriv} --reuid=1000 --regid=1000 --clear-groups
reboot -f
"""


def build(image: Path, wheel: Path | None = None) -> None:
    """Writes the archive to `image`; without a wheel given it is built from the project in the working folder."""
    project = Path.cwd()
    python = os.path.realpath(sys.executable)
    busybox, setpriv = _needed("busybox"), _needed("setpriv")
    tools = [setpriv, *filter(None, map(shutil.which, TOOLS))]
    with tempfile.TemporaryDirectory() as scratch, _Cpio(image) as cpio:
        site = _site(wheel or _wheel(project, Path(scratch)), Path(scratch, "site"))
        tests = _tests(project, Path(scratch, "project"), site)
        stdlib = Path(sysconfig.get_path("stdlib"))
        native = [*(path for path in stdlib.rglob("*.so") if _belongs(path.relative_to(stdlib))), *site.rglob("*.so")]
        for program in [python, busybox, *tools, *_libraries([python, busybox, *tools, *map(str, native)], site)]:
            cpio.add(program, Path(program))
        cpio.add_tree(str(stdlib), stdlib)
        cpio.add_tree("site", site)
        for script in filter(Path.is_file, site.glob("bin/*")):
            _, _, text = script.read_text().partition("\n")
            cpio.add_text(f"{os.path.dirname(python)}/{script.name}", f"#!{python}\n{text}", executable=True)
        cpio.add_tree("project", tests)
        for target in _objects(project, Path(scratch, "objects")):
            cpio.add(f"project/objects/{target.name}", target)
        for applet in _run(busybox, "--list").split():
            cpio.add_link(f"bin/{applet}", busybox)
        for name, text in ACCOUNTS.items():
            cpio.add_text(name, text)
        for folder in ("proc", "sys", "dev", "tmp"):
            cpio.add_folder(folder)
        path = ":".join(dict.fromkeys(os.path.dirname(program) for program in [python, *tools]))
        init = INIT.format(path=path, python=python, setpriv=setpriv, banner=BANNER)
        cpio.add_text("init", init, executable=True)


def _needed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def _wheel(project: Path, scratch: Path) -> Path:
    """Builds the wheel from a copy: neither leaves files in the project nor takes stale ones from it."""
    shutil.copytree(project, scratch / "copy", ignore=NOT_IN_PROJECT)
    _pip("wheel", "--no-deps", "--wheel-dir", str(scratch), str(scratch / "copy"))
    [wheel] = scratch.glob("*.whl")
    return wheel


def _site(wheel: Path, target: Path) -> Path:
    _pip("install", "--target", str(target), f"{wheel}[test]")
    return target


def _objects(project: Path, folder: Path) -> Iterator[Path]:
    """The tests' and examples' BPF programs, compiled: no compiler goes into the guest."""
    clang = _needed("clang")
    folder.mkdir()
    for source in (*project.glob("tests/objects/**/*.bpf.c"), *project.glob("rawbpf/examples/*.bpf.c")):
        target = folder / f"{source.stem}.o"
        include = f"-I/usr/include/{platform.machine()}-linux-gnu"
        _run(clang, "-O2", "-g", "-target", "bpf", include, "-c", str(source), "-o", str(target))
        yield target


def _tests(project: Path, folder: Path, site: Path) -> Path:
    """A copy of the project without its package. pytest compiles tests and hypothesis its own way, and keeps that
    beside them: collected here once, they are compiled for all guests."""
    shutil.copytree(project, folder, ignore=lambda path, names: {"rawbpf", *NOT_IN_PROJECT(path, names)})
    command = (sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider")
    _run(*command, cwd=folder, env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": ""})
    return folder


def _belongs(path: Path) -> bool:
    """Whether a file of the standard library, or another tree, is for the guest."""
    return not NOT_IN_STDLIB.search(f"/{path}") and not OPTIMISED.search(path.name)


def _libraries(programs: Iterable[str], site: Path) -> list[str]:
    """The shared libraries of programs, and the loader, as ldd names them; those in `site` come along anyway."""
    found: set[str] = set()
    for program in programs:
        # ldd fails on what is linked statically.
        output = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=BUILD_SECONDS).stdout
        found.update(re.findall(r"(?:=> |^\s+)(/\S+) \(", output, re.MULTILINE))
    return sorted(path for path in found if not Path(path).is_relative_to(site))


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str, **options: Any) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


class _Cpio:
    """Writes a cpio archive in the newc format: a header of hexadecimal numbers, the name and the contents, each
    padded to 4 bytes. Source: Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self, image: Path) -> None:
        self._file = image.open("wb")
        self._names: set[str] = set()

    def __enter__(self) -> "_Cpio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entry("TRAILER!!!", 0)
        self._file.close()

    def add(self, name: str, source: Path) -> None:
        """A file's contents, through symbolic links. The time stays: compiled Python files are compared by it."""
        status = source.stat()
        mode = stat.S_IFREG | (0o755 if status.st_mode & stat.S_IXUSR else 0o644)
        self._entry(name, mode, source.read_bytes(), int(status.st_mtime))

    def add_tree(self, name: str, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and _belongs(path.relative_to(folder)):
                self.add(f"{name}/{path.relative_to(folder)}", path)

    def add_text(self, name: str, text: str, executable: bool = False) -> None:
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), text.encode())

    def add_link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def add_folder(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def _entry(self, name: str, mode: int, data: bytes = b"", mtime: int = 0) -> None:
        name = name.lstrip("/")
        if name in self._names:
            return
        if parent := os.path.dirname(name):
            self.add_folder(parent)
        self._names.add(name)
        encoded = os.fsencode(name) + b"\0"
        # inode, mode, uid, gid, links, time, size, device and its minor, special file's and its minor, name, check
        fields = (len(self._names), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.write(bytes(-self._file.tell() % 4))
