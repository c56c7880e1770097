"""CPythons that Debian does not ship, built from its sources, and the suite on them and on this kernel:

    python -m tests.harness.cpython musl
    python -m tests.harness.cpython free-threaded

The interpreter is built once, some minutes, and kept in ~/.cache/rawbpf/cpython. abi3audit checks the wheel for musl.
(auditwheel can't, on a machine with glibc: it takes that libc.so for glibc's linker script.) The free-threaded
interpreter is 3.14 where its sources can be had, else 3.13, for which cffi refuses to be built: that check is then
taken out of its setup.py. PYTHON_GIL=0 insists that no import brings the lock back. To be called in the project's
folder with the packages of rawbpf[wheels]; needs a compiler and apt, musl-tools for musl, and a pip that finds the test
dependencies.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.harness.kernels import fetch
from tests.harness.kernels.initramfs import NOT_IN_PROJECT
from tests.harness.kernels.machines import HERE

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rawbpf", "cpython")

# Where to look for which CPython, in this order. The libraries that its modules need are those of a suite that has
# libffi as its authors release it: later ones would have to be run through autoconf first.
RELEASES = (("3.14", "sid"), ("3.13", "trixie"))
LIBRARIES = ("zlib", "libffi")
SUITE_OF_LIBRARIES = "bookworm"


# What pyproject.toml names for the build and the tests, and what that needs.
CFFI = ("cffi",)
NEEDED = (*CFFI, "pycparser", "pip", "setuptools>=77", "pytest", "hypothesis", "pyelftools", "numpy")
DOWNLOAD = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")


class Variant(NamedTuple):
    """One kind of CPython: its compiler, what configure is told, and which wheels it takes from an index."""

    compiler: str
    configure: tuple[str, ...]
    platform: str
    abi: str  # after "cp314"
    environment: dict[str, str]
    lacking: tuple[str, ...] = ()  # what the tests can do without, and it can't have


VARIANTS = {
    "musl": Variant("musl-gcc", (), "musllinux_1_2_x86_64", "", {}, ("numpy",)),  # whose wheel crashes
    "free-threaded": Variant("gcc", ("--disable-gil",), "manylinux_2_28_x86_64", "t", {"PYTHON_GIL": "0"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.cpython", description="The suite on CPythons that Debian does not ship."
    )
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more for pytest: --pytest='-k maps'")
    options = parser.parse_args()
    variant = VARIANTS[options.variant]
    kept = built(options.variant)
    with tempfile.TemporaryDirectory(prefix="rawbpf-cpython-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)  # some tests run as another user
        # The cache is in a home, which is closed to them.
        prefix = shutil.copytree(
            kept, scratch / "cpython", symlinks=True, ignore=shutil.ignore_patterns("test", "__pycache__")
        )
        python = installed(prefix, variant, scratch)
        environment = {**os.environ, **variant.environment, "RAWBPF_FFI": "api", "PYTEST_ADDOPTS": options.pytest}
        environment["PATH"] = f"{python.parent}:{os.environ['PATH']}"
        code = "import sys, rawbpf.abi._native as n; print(sys.version, sys.platform, n.__file__)"
        where = subprocess.run([python, "-c", code], cwd=scratch, env=environment, check=True, capture_output=True)
        print(f"== {where.stdout.decode().strip()}", flush=True)
        # Those in meta are about the source tree.
        shutil.copytree("tests", scratch / "tests", ignore=shutil.ignore_patterns("meta"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(name, scratch)
        return subprocess.run([python, "-m", "pytest", "-q"], cwd=scratch, env=environment).returncode


def built(name: str) -> Path:
    """The folder where a variant is installed; built, of the newest release that can be had, if there is none yet."""
    for release, _ in RELEASES:
        if (CACHE / f"{name}-{release}" / "bin" / f"python{release}").exists():
            return CACHE / f"{name}-{release}"
    for release, suite in RELEASES:
        try:
            with tempfile.TemporaryDirectory(prefix="rawbpf-cpython-") as folder:
                return _build(VARIANTS[name], release, suite, CACHE / f"{name}-{release}", Path(folder))
        except fetch.Unavailable as error:
            print(f"CPython {release} could not be had: {error}", file=sys.stderr)
    raise SystemExit(f"no CPython for {name}")


def _build(variant: Variant, release: str, suite: str, prefix: Path, scratch: Path) -> Path:
    archives = []
    for packages, where in ((LIBRARIES, SUITE_OF_LIBRARIES), ((f"python{release}",), suite)):
        (scratch / where).mkdir()
        archives += fetch.sources(packages, where, scratch / where)
    flags = {
        "CC": variant.compiler,
        "CFLAGS": f"-O2 -fPIC -I{prefix}/include",
        "LDFLAGS": f"-L{prefix}/lib",
        "PKG_CONFIG_LIBDIR": f"{prefix}/lib/pkgconfig",  # and none of this machine
    }
    told = (("--static",), ("--disable-shared", "--disable-docs"), ("--without-ensurepip", *variant.configure))
    # The compiler for musl does not look where the kernel's headers are.
    (prefix / "include").mkdir(parents=True, exist_ok=True)
    for headers in ("linux", "asm-generic", f"{HERE.name}-linux-gnu/asm"):
        link = prefix / "include" / Path(headers).name
        if not link.is_symlink():
            link.symlink_to(Path("/usr/include", headers))
    for archive, options in zip(archives, told, strict=True):
        source = unpacked(archive, scratch / archive.name.partition("_")[0])
        print(f"== {archive.name}, {variant.compiler}", flush=True)
        # musl's compiler is gcc, which gives glibc's triplet, and CPython's configure ends where its own is another.
        configure = source / "configure"
        configure.write_text(configure.read_text().replace("$CC --print-multiarch", "echo"))
        for command in (["./configure", f"--prefix={prefix}", *options], ["make", "-j2"], ["make", "install"]):
            _run(*command, cwd=source, **flags)
    return prefix


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as content:
        content.extractall(folder)
    [source] = folder.iterdir()
    return source


def installed(prefix: Path, variant: Variant, scratch: Path) -> Path:
    """A virtual environment with rawbpf and what its tests need; returns its Python.

    The new interpreter knows no TLS: what it installs has been fetched by this one.
    """
    [program] = [path for path in (prefix / "bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
    release = program.name.removeprefix("python")
    wheels = scratch / "wheels"
    _run(str(program), "-m", "venv", "--without-pip", str(scratch / "venv"))
    python = scratch / "venv" / "bin" / "python"
    _fetch_wheels(release, variant, wheels)
    # A wheel of pip can be run as it is. The one here may be too old to know the tags of a free-threaded interpreter.
    [pip] = wheels.glob("pip-*.whl")
    own = (str(python), f"{pip}/pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-index", "--find-links", str(wheels))
    if not list(wheels.glob("cffi-*.whl")):
        _build_cffi(prefix, scratch, [*own, "wheel", *offline, "--wheel-dir", str(wheels)])
    project = shutil.copytree(Path.cwd(), scratch / "project", ignore=NOT_IN_PROJECT)
    _run(*own, "wheel", *offline, "--no-deps", "--wheel-dir", str(scratch / "built"), str(project), RAWBPF_FFI="api")
    [wheel] = (scratch / "built").glob("rawbpf-*.whl")
    if not variant.abi:
        _run(sys.executable, "-m", "abi3audit", "--strict", str(wheel))
    print(f"== {wheel.name}", flush=True)
    _run(*own, "install", *offline, str(wheel), *(name for name in NEEDED if name not in variant.lacking))
    return python


def _fetch_wheels(release: str, variant: Variant, wheels: Path) -> None:
    """Fetches what the tests and the build need for the variant."""
    abis = [f"cp{release.replace('.', '')}{variant.abi}", *([] if variant.abi else ["abi3"]), "none"]
    which = ["--only-binary", ":all:", "--python-version", release, "--implementation", "cp"]
    which += ["--platform", variant.platform, *(word for abi in abis for word in ("--abi", abi))]
    lacking = variant.lacking + (CFFI if (release, variant.abi) == ("3.13", "t") else ())
    _run(*DOWNLOAD, "--dest", str(wheels), *which, *(name for name in NEEDED if name not in lacking))


def _build_cffi(prefix: Path, scratch: Path, build: list[str]) -> None:
    """Builds cffi where there is no wheel of it, without its check."""
    _run(*DOWNLOAD, "--dest", str(scratch), "--no-deps", "--no-binary", ":all:", *CFFI)
    [archive] = scratch.glob("cffi-*.tar.gz")
    source = unpacked(archive, scratch / "cffi")
    setup = source / "setup.py"
    setup.write_text(setup.read_text().replace("FREE_THREADED_BUILD and sys.version_info < (3, 14)", "False"))
    _run(*build, str(source), CFLAGS=f"-I{prefix}/include", LDFLAGS=f"-L{prefix}/lib")


def _run(*command: str, cwd: Path | None = None, **environment: str) -> None:
    """Runs a command quietly; shows the end of what it printed if it fails, and ends."""
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise SystemExit(f"{result.stdout[-3000:]}\n{' '.join(command)}: exit code {result.returncode}")


if __name__ == "__main__":
    sys.exit(main())
