"""This process's memory by address, as the kernel sees it: what is not mapped, or not writable, is a Fault, no crash.

process_vm_readv(2) and process_vm_writev(2) check the pages, and a process may always use them on itself.
"""

import ctypes
import errno
import os


class Fault(Exception):
    """There is no such memory: the kernel would answer EFAULT."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


def _vector_call(name: str) -> "ctypes._FuncPointer":
    function: ctypes._FuncPointer = getattr(_libc, name)
    vector = ctypes.POINTER(_Iovec)
    function.argtypes = (ctypes.c_int, vector, ctypes.c_ulong, vector, ctypes.c_ulong, ctypes.c_ulong)
    function.restype = ctypes.c_ssize_t
    return function


_read = _vector_call("process_vm_readv")
_write = _vector_call("process_vm_writev")


def read(address: int, size: int) -> bytes:
    """The `size` bytes at `address`. Raises Fault if one of them can't be read."""
    data = ctypes.create_string_buffer(size)
    _transfer(_read, data, address, size)
    return data.raw


def write(address: int, data: bytes) -> None:
    """Writes `data` at `address`. Raises Fault if a byte can't be written; those before it may have been."""
    _transfer(_write, ctypes.create_string_buffer(data, len(data)), address, len(data))


def read_string(address: int, limit: int) -> bytes | None:
    """The bytes at `address` before the first NUL; None if there is none within `limit` bytes. Raises Fault."""
    found = b""
    while len(found) < limit:
        # A string may end right before memory that can't be read: never ask beyond a page.
        step = min(limit - len(found), 4096 - (address + len(found)) % 4096)
        found += read(address + len(found), step)
        if b"\0" in found:
            return found[: found.index(b"\0")]
    return None


def _transfer(function: "ctypes._FuncPointer", data: "ctypes.Array[ctypes.c_char]", address: int, size: int) -> None:
    if size == 0:
        return
    if not 0 < address < 2**64 - size:
        raise Fault(address)
    local = _Iovec(ctypes.addressof(data), size)
    remote = _Iovec(address, size)
    done = function(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if done < 0 and ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if done != size:
        raise Fault(address)
