"""Builds the guest's file system: an uncompressed cpio archive (newc) that the kernel unpacks at boot.

In it are busybox, a Python with its standard library, the rawbpf wheel with what its tests need, the tests, the BPF
programs that they load, compiled, and outside tools the tests ask. For this machine all that is what is installed here:
programs keep the paths they have, so that they find what belongs to them, and the shared libraries come along that ldd
names. For another machine it is Debian's (foreign.py).
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.harness.kernels import foreign
from tests.harness.kernels.cpio import Cpio
from tests.harness.kernels.machines import Machine
from tests.harness.kernels.running import BUILD_SECONDS, pip, run

# What the tests ask, if it is there.
TOOLS = ("bash", "unshare", "strace", "bpftool")

# Parts of the standard library that no test imports, and what takes most room.
NOT_IN_STDLIB = re.compile(r"/(test|site-packages|dist-packages|config-[^/]*|idlelib|tkinter|lib2to3|turtledemo)(/|$)")
OPTIMISED = re.compile(r"\.opt-[12]\.pyc$")

NOT_IN_PROJECT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info", "*.so")

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/tmp:/bin/sh\nuser:x:1000:1000:an ordinary user:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
}

# What the console shows before each run, and around its report.
BANNER = "=== as "
REPORT = "=== report as "
END = "=== end"

# The first process. Each run's report goes out over the console, which not every machine has two of; the kernel is
# silent meanwhile. (By its bare name busybox would run its own setpriv, which can't change the user.)
INIT = """\
#!{busybox} sh
export PATH={path} PYTHONPATH=/site PYTHONUNBUFFERED=1 HOME=/tmp RAWBPF_STRESS_SECONDS=0.15 \
    RAWBPF_SLOWNESS=20 RAWBPF_TEST_OBJECTS=/project/objects
{busybox} mount -t proc none /proc
{busybox} --install -s /bin
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 none /dev/pts
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /dev/shm
mount -t cgroup2 none /sys/fs/cgroup && echo +memory >/sys/fs/cgroup/cgroup.subtree_control
ln -s /proc/self/fd /dev/fd
ip link set lo up

run() {{
    name=$1 marks=$2
    shift 2
    echo "{banner}$name"
    export HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis-$name
    "$@" {python} -m pytest -v --tb=short --color=no -p no:cacheprovider -m "$marks" -o faulthandler_timeout=120 \\
        -o junit_suite_name=$name --junitxml=/tmp/$name.xml
    dmesg -n 1
    echo "{report}$name"
    gzip -c /tmp/$name.xml | base64
    echo "{end}"
    dmesg -n 5
}}

cd /project
run root "$root_marks" env RAWBPF_REQUIRE_KERNEL=1
run user "$user_marks" {setpriv} --reuid=1000 --regid=1000 --clear-groups
reboot -f
"""


class Programs(NamedTuple):
    """Where in the guest its programs are."""

    python: str
    busybox: str
    setpriv: str
    path: str


def build(image: Path, machine: Machine, tree: Path | None = None, wheel: Path | None = None) -> None:
    """Writes the archive to `image`: for this machine, or for another with the files of `tree` (fetch.tree()). Without
    a wheel given it is built from the project in the working folder."""
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, Cpio(image) as cpio:
        scratch = Path(folder)
        # Neither leaves files in the project nor takes stale ones from it.
        copy = shutil.copytree(project, scratch / "copy", ignore=NOT_IN_PROJECT)
        own = _wheel(copy, scratch / "own") if tree or not wheel else wheel
        site = _site(own, scratch / "site")
        tests = _tests(project, scratch / "project", site)
        if tree:
            foreign.exchange(site, wheel or foreign.wheel(copy, machine, tree, scratch / "foreign"), machine)
            programs = _add_debian(cpio, tree)
        else:
            programs = _add_this_machine(cpio, site)
        cpio.add_tree("site", site, _belongs)
        for script in filter(Path.is_file, site.glob("bin/*")):
            _, _, text = script.read_text().partition("\n")
            name = f"{os.path.dirname(programs.python)}/{script.name}"
            cpio.add_text(name, f"#!{programs.python}\n{text}", executable=True)
        cpio.add_tree("project", tests, _belongs)
        for target in _objects(project, scratch / "objects", machine):
            cpio.add(f"project/objects/{target.name}", target)
        for name, text in ACCOUNTS.items():
            cpio.add_text(name, text)
        for name in ("bin", "proc", "sys", "dev", "tmp"):
            cpio.add_folder(name)
        init = INIT.format(banner=BANNER, report=REPORT, end=END, **programs._asdict())
        cpio.add_text("init", init, executable=True)


def _add_this_machine(cpio: Cpio, site: Path) -> Programs:
    """Adds what is installed here, and what it needs."""
    python = os.path.realpath(sys.executable)
    busybox, setpriv = _needed("busybox"), _needed("setpriv")
    tools = [setpriv, *filter(None, map(shutil.which, TOOLS))]
    stdlib = Path(sysconfig.get_path("stdlib"))
    native = [*(path for path in stdlib.rglob("*.so") if _belongs(f"/{path.relative_to(stdlib)}")), *site.rglob("*.so")]
    for program in [python, busybox, *tools, *_libraries([python, busybox, *tools, *map(str, native)], site)]:
        cpio.add(program, Path(program))
    cpio.add_tree(str(stdlib), stdlib, _belongs)
    path = ":".join(dict.fromkeys([*(os.path.dirname(program) for program in [python, *tools]), "/bin"]))
    return Programs(python, busybox, setpriv, path)


def _add_debian(cpio: Cpio, tree: Path) -> Programs:
    """Adds the files of Debian's packages."""
    foreign.add(cpio, tree)
    return Programs(f"/usr/bin/{foreign.PYTHON}", "/usr/bin/busybox", "/usr/bin/setpriv", "/usr/bin:/usr/sbin")


def _needed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def _wheel(project: Path, folder: Path) -> Path:
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(project))
    [wheel] = folder.glob("*.whl")
    return wheel


def _site(wheel: Path, target: Path) -> Path:
    pip("install", "--target", str(target), f"{wheel}[test]")
    return target


def _objects(project: Path, folder: Path, machine: Machine) -> Iterator[Path]:
    """The tests' and examples' BPF programs, compiled: no compiler goes into the guest."""
    clang = _needed("clang")
    folder.mkdir()
    for source in (*project.glob("tests/objects/**/*.bpf.c"), *project.glob("rawbpf/examples/*.bpf.c")):
        target = folder / f"{source.stem}.o"
        include = f"-I/usr/include/{platform.machine()}-linux-gnu"
        run(clang, "-O2", "-g", "-target", machine.bpf, include, "-c", str(source), "-o", str(target))
        yield target


def _tests(project: Path, folder: Path, site: Path) -> Path:
    """A copy of the project without its package. pytest compiles tests and hypothesis its own way, and keeps that
    beside them: collected here once, they are compiled for all guests."""
    shutil.copytree(project, folder, ignore=lambda path, names: {"rawbpf", *NOT_IN_PROJECT(path, names)})
    command = (sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider")
    run(*command, cwd=folder, env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": ""})
    return folder


def _belongs(path: str) -> bool:
    """Whether a file of the standard library, or another tree, is for the guest."""
    return not NOT_IN_STDLIB.search(path) and not OPTIMISED.search(path)


def _libraries(programs: Iterable[str], site: Path) -> list[str]:
    """The shared libraries of programs, and the loader, as ldd names them; those in `site` come along anyway."""
    found: set[str] = set()
    for program in programs:
        # ldd fails on what is linked statically.
        output = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=BUILD_SECONDS).stdout
        found.update(re.findall(r"(?:=> |^\s+)(/\S+) \(", output, re.MULTILINE))
    return sorted(path for path in found if not Path(path).is_relative_to(site))
