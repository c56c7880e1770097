"""Builds rawbpf/_native from rawbpf/bpf.h: one C text, read by cffi and by the compiler.

pyproject.toml names the two command classes below, so pip and build need no setup.py.
"""

import runpy
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

# A free-threaded CPython has no stable ABI: there the extension is built for that one version.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

PACKAGE = Path(__file__).parent / "rawbpf"

INCLUDES = """
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
"""

# cffi makes this function: it calls the Python function of the same name. Only cffi's dialect has the word.
HOOK = 'extern "Python" int bpf_hook(int cmd, void *attr, uint32_t size);'
HOOK_IN_C = "static int bpf_hook(int cmd, void *attr, uint32_t size);"


def assertions(abi: str) -> str:
    """One _Static_assert for each offset that bpf.h states.

    They are not decoration: cffi believes a wrong offset under an anonymous member.
    """
    layout = runpy.run_path(str(PACKAGE / "layout.py"))["parse"](abi)
    lines = {'_Static_assert(sizeof(union bpf_attr) == 168, "union bpf_attr");'}
    for owner, fields in layout.items():
        ctype = "union bpf_attr" if owner.startswith("BPF_") else f"struct {owner}"
        for field in fields:
            here = f"{ctype}, {field.path}"
            lines.add(f'_Static_assert(offsetof({here}) == {field.offset}, "{here}");')
    return "\n".join(sorted(lines))


def ffibuilder() -> FFI:
    abi = (PACKAGE / "bpf.h").read_text()
    door = (PACKAGE / "door.c").read_text()
    ffi = FFI()
    ffi.cdef(abi + HOOK)
    ffi.set_source("rawbpf._native", "\n".join([INCLUDES, abi, assertions(abi), HOOK_IN_C, door]))
    return ffi


class BuildExt(build_ext):
    """Lets cffi write the C file of the extension, then compiles it as any other."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for ext in self.extensions:
            ext.py_limited_api = STABLE_ABI

    def build_extension(self, ext: Extension) -> None:
        source = Path(self.build_temp) / "_native.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        ffibuilder().emit_c_code(str(source))
        ext.sources = [str(source)]
        # Hidden: nothing outside calls these functions, so the compiler may inline them into cffi's wrappers.
        ext.extra_compile_args = ["-Wall", "-fvisibility=hidden"]
        super().build_extension(ext)


class BdistWheel(bdist_wheel):
    """Tags the wheel abi3: one wheel serves every CPython from 3.10, save free-threaded ones."""

    def finalize_options(self) -> None:
        if STABLE_ABI:
            self.py_limited_api = "cp310"
        super().finalize_options()
