"""The types of the module that build_ffi.py writes for cffi's ABI mode: the FFI of bpf.h, and libc's syscall()."""

from typing import Protocol

from rawbpf.abi import _native
from rawbpf.abi._native import CData

class LibC(Protocol):
    def syscall(self, number: int, cmd: int, attr: CData, size: int, common: CData, size_common: int) -> int: ...

class FFI(_native.FFI, Protocol):
    errno: int

    def integer_const(self, name: str) -> int: ...
    def dlopen(self, name: None) -> LibC: ...

ffi: FFI
