"""Memory by address: the bytes that are there, and a Fault where the kernel would answer EFAULT."""

import ctypes
import mmap

import pytest

from rawbpf.observe import user_memory
from rawbpf.observe.user_memory import Fault

PROT_NONE = 0


@pytest.fixture
def page():
    """The address of a page of 'x' with nothing mapped behind it."""
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    memory[:] = b"x" * len(memory)
    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    libc.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, PROT_NONE)
    yield address
    libc.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
    del anchor
    memory.close()


def test_what_is_written_is_read(page):
    """Bytes come back as they went in, next to bytes that stay."""
    user_memory.write(page + 8, b"ab\0cd")
    assert user_memory.read(page + 7, 7) == b"xab\0cdx"


@pytest.mark.parametrize("address", [0, 1, 4095, 2**47, 2**63, 2**64 - 1])
def test_no_memory_is_a_fault(address):
    """Addresses where nothing can be mapped."""
    for call in (lambda: user_memory.read(address, 4), lambda: user_memory.write(address, b"abcd")):
        with pytest.raises(Fault):
            call()


def test_half_of_it_is_a_fault(page):
    """Eight bytes of which four are there."""
    end = page + mmap.PAGESIZE
    assert user_memory.read(end - 4, 4) == b"xxxx"
    for call in (lambda: user_memory.read(end - 4, 8), lambda: user_memory.write(end - 4, bytes(8))):
        with pytest.raises(Fault):
            call()


def test_read_only_memory_can_not_be_written(page):
    """As in the kernel, and unlike /proc/self/mem."""
    libc = ctypes.CDLL(None)
    libc.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ)
    assert user_memory.read(page, 1) == b"x"
    with pytest.raises(Fault):
        user_memory.write(page, b"y")
    libc.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)


def test_nothing_is_no_fault():
    """No bytes can be read from everywhere."""
    assert user_memory.read(0, 0) == b""
    user_memory.write(0, b"")


def test_strings(page):
    """A string ends at its NUL, also right before memory that is not there; without one it is None or a Fault."""
    end = page + mmap.PAGESIZE
    user_memory.write(end - 6, b"hello\0")
    assert user_memory.read_string(end - 6, 4096) == b"hello"
    assert user_memory.read_string(end - 6, 5) is None
    user_memory.write(end - 1, b"!")
    with pytest.raises(Fault):
        user_memory.read_string(end - 6, 4096)
