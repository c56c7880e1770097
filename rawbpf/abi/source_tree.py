"""cffi's view of bpf.h, made when it is imported: for a source folder in which nothing was built.

An installation has the same as a module, _cdef.py, which loads faster.
"""

from pathlib import Path

from cffi import FFI

# The only function that ABI mode asks of libc.
SYSCALL = "long syscall(long number, int cmd, void *attr, uint32_t size, void *common, uint32_t size_common);"

ffi = FFI()
ffi.cdef(Path(__file__).with_name("bpf.h").read_text() + SYSCALL)
