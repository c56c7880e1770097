"""What a guest on another machine has: rawbpf cross-compiled, its dependencies' wheels, Debian's packages unpacked.

Byte code is the same on all machines, so this interpreter compiles it; the guest's, Debian's, must be of its version.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from tests.harness.kernels.cpio import Cpio
from tests.harness.kernels.machines import Machine
from tests.harness.kernels.running import pip, run

PYTHON = f"python3.{sys.version_info.minor}"
PACKAGES = (PYTHON, f"lib{PYTHON}-dev", "libstdc++6", "busybox", "bash", "util-linux", "strace", "bpftool")

# The C library that a wheel asks for (manylinux_2_17 to ...) is not newer than Debian's.
GLIBC = range(17, 37)

# The folders of a machine's own files that in its root are links into /usr.
MERGED = ("bin", "sbin", "lib", "lib64")
_IN_TREE = re.compile(r"/(usr/)?(s?bin|lib|lib64)/")
_NOT_IN_TREE = re.compile(r"/(gconv|perl[^/]*|dpkg|systemd|terminfo|security)(/|$)|\.[ah]$")


def wheel(project: Path, machine: Machine, tree: Path, folder: Path) -> Path:
    """Builds the wheel for another machine in `folder`, from a copy of the project in it, with the headers of
    `tree`."""
    compiler = f"{machine.name}-linux-gnu-gcc"
    headers = f"-I{tree}/usr/include/{PYTHON} -idirafter {tree}/usr/include"
    surroundings = {"CC": compiler, "LDSHARED": f"{compiler} -shared", "CFLAGS": headers, "RAWBPF_FFI": "api"}
    setup = (sys.executable, "-c", "from setuptools import setup; setup()", "-q", "bdist_wheel")
    options = ("--plat-name", f"linux_{machine.name}", "--dist-dir", str(folder))
    run(*setup, *options, cwd=project, env={**os.environ, **surroundings})
    [built] = folder.glob(f"*linux_{machine.name}.whl")
    return built


def exchange(site: Path, rawbpf: Path, machine: Machine) -> None:
    """Puts another machine's wheels in the place of those in `site` that are compiled, rawbpf's among them."""
    wanted = [str(rawbpf)]
    for record in sorted(site.glob("*.dist-info/RECORD")):
        if "Root-Is-Purelib: true" in record.with_name("WHEEL").read_text():
            continue
        name, _, release = record.parent.name.removesuffix(".dist-info").partition("-")
        if name not in ("rawbpf", *machine.lacking):
            wanted.append(f"{name}=={release}")
        for top in {line.split("/")[0].split(",")[0] for line in record.read_text().splitlines()} - {".."}:
            shutil.rmtree(site / top, ignore_errors=True)
            (site / top).unlink(missing_ok=True)
    names = [f"linux_{machine.name}", *(f"manylinux_2_{minor}_{machine.name}" for minor in reversed(GLIBC))]
    platforms = [option for name in names for option in ("--platform", name)]
    pip("install", "--target", str(site), "--no-deps", "--only-binary", ":all:", *platforms, *wanted)


def add(cpio: Cpio, tree: Path) -> None:
    """Adds the programs, libraries and the standard library of Debian's packages, with /bin and the like in /usr."""
    run(sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/", str(tree / "usr/lib" / PYTHON))
    for name in MERGED:
        cpio.add_link(name, f"usr/{name}")
    for path in sorted(tree.rglob("*")):
        inside = f"/{path.relative_to(tree)}"
        if _IN_TREE.match(inside) and not _NOT_IN_TREE.search(inside) and path.is_file():
            cpio.add(inside if inside.startswith("/usr/") else f"/usr{inside}", path)
