"""Builds rawbpf/abi/_native from rawbpf/abi/bpf.h: one C text, read by cffi and by the compiler.

Where it can't be compiled the installation goes on without it: rawbpf/abi/_cdef.py, which is always written, is the
same text for cffi's ABI mode. RAWBPF_FFI=api insists on the extension, RAWBPF_FFI=abi does without.

pyproject.toml names the command classes below, so pip and build need no setup.py.
"""

import os
import runpy
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import CCompilerError, ExecError, PlatformError
from setuptools.extension import Extension

# A free-threaded CPython has no stable ABI: there the extension is built for that one version.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

ROOT = Path(__file__).parent
ABI = ROOT / "rawbpf" / "abi"

# Which of cffi's modes the installation shall use: api, abi, or "" for api where it can be compiled.
FFI_MODE = os.environ.get("RAWBPF_FFI", "")

INCLUDES = """
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
"""

# cffi makes this function: it calls the Python function of the same name. Only cffi's dialect has the word.
HOOK = 'extern "Python" void bpf_hook(int cmd, void *attr, uint32_t size, int32_t *result);'
HOOK_IN_C = "static void bpf_hook(int cmd, void *attr, uint32_t size, int32_t *result);"

NOT_COMPILED = """
******************************************************************************
rawbpf.abi._native could not be compiled:
{error}

rawbpf is installed without it and works through cffi's ABI mode, which makes
each call slower (`rawbpf doctor` says how much). To get the compiled one,
install a C compiler and Python's headers (Debian: gcc python3-dev) and install
rawbpf again; with RAWBPF_FFI=api in the environment that fails if it can't.
******************************************************************************
"""


def assertions(abi: str) -> str:
    """One _Static_assert for each offset that bpf.h states.

    They are not decoration: cffi believes a wrong offset under an anonymous member.
    """
    layout = runpy.run_path(str(ABI / "layout.py"))
    lines = {'_Static_assert(sizeof(union bpf_attr) == 168, "union bpf_attr");'}
    for owner, fields in layout["parse"](abi).items():
        ctype = layout["c_type"](owner)
        for field in fields:
            if field.is_bits:
                continue
            here = f"{ctype}, {field.path}"
            lines.add(f'_Static_assert(offsetof({here}) == {field.offset}, "{here}");')
    return "\n".join(sorted(lines))


def ffibuilder() -> FFI:
    abi = (ABI / "bpf.h").read_text()
    door = (ABI / "door.c").read_text()
    ffi = FFI()
    ffi.cdef(abi + HOOK)
    ffi.set_source("rawbpf.abi._native", "\n".join([INCLUDES, abi, assertions(abi), HOOK_IN_C, door]))
    return ffi


def abi_module() -> FFI:
    ffi: FFI = runpy.run_path(str(ABI / "source_tree.py"))["ffi"]
    ffi.set_source("rawbpf.abi._cdef", None)
    return ffi


class BuildPy(build_py):
    """Writes rawbpf/abi/_cdef.py beside the other modules; an editable installation has it in the source tree."""

    def run(self) -> None:
        super().run()
        folder = ABI if self.editable_mode else Path(self.build_lib, "rawbpf", "abi")
        abi_module().emit_python_code(str(folder / "_cdef.py"))


class BuildExt(build_ext):
    """Lets cffi write the C file of the extension, then compiles it as any other; says loudly if that can't be done."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for ext in self.extensions:
            ext.py_limited_api = STABLE_ABI
            # Nobody misses its file if it was not made.
            ext.optional = FFI_MODE != "api"

    def get_ext_filename(self, fullname: str) -> str:
        # Its name for all of them: what CPython 3.15 would choose, with the platform in it, no older one looks for.
        suffix = ".abi3.so" if STABLE_ABI else sysconfig.get_config_var("EXT_SUFFIX")
        return f"{fullname.replace('.', os.sep)}{suffix}"

    def build_extension(self, ext: Extension) -> None:
        # What an earlier build left is not what this one made.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        if FFI_MODE == "abi":
            return
        source = Path(self.build_temp) / "_native.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        ffibuilder().emit_c_code(str(source))
        ext.sources = [str(source)]
        # Hidden: nothing outside calls these functions, so the compiler may inline them into cffi's wrappers.
        ext.extra_compile_args = ["-Wall", "-fvisibility=hidden"]
        try:
            super().build_extension(ext)
        except (CCompilerError, ExecError, PlatformError) as error:
            if FFI_MODE == "api":
                raise
            print(NOT_COMPILED.format(error=error), file=sys.stderr)


class BdistWheel(bdist_wheel):
    """Tags the wheel abi3: one wheel serves every CPython from 3.10, save free-threaded ones.

    A wheel without the extension serves every Python.
    """

    def finalize_options(self) -> None:
        if STABLE_ABI:
            self.py_limited_api = "cp310"
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        built = self.get_finalized_command("build_ext")
        compiled = any(Path(built.get_ext_fullpath(ext.name)).exists() for ext in built.extensions)
        return super().get_tag() if compiled else ("py3", "none", "any")


class Sdist(sdist):
    """Takes along what a tester needs: all of tests/, and every text at the top."""

    def make_distribution(self) -> None:
        for text in ("CHANGELOG.md", "SECURITY.md"):
            self.filelist.include(text)
        self.filelist.recursive_include("tests", "*")
        for built in ("*.py[co]", "_cdef.py", "*.so"):
            self.filelist.global_exclude(built)
        super().make_distribution()
