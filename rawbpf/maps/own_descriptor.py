"""A descriptor of a map for one call, which no other thread can close meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rawbpf.abi import Cmd
from rawbpf.abi.door import MAP_CLOSED, ffi, lib
from rawbpf.syscall.errors import bpf_error

if TYPE_CHECKING:
    from rawbpf.abi._native import CData


@contextmanager
def own_descriptor(m: "CData", cmd: Cmd, subject: str) -> Iterator[int]:
    """A copy of the map's descriptor, closed at the end of the context.

    The map's own may be closed by another thread at any moment, and its number given to another map before a call
    reaches the kernel. Raises ValueError if the map was closed, BpfError if this process has no free descriptor
    (EMFILE) or somebody else closed the map's (EBADF); `cmd` and `subject` say in the error what it was for.
    """
    made = ffi.new("int32_t *", -1)
    try:
        fd = lib.map_dup(m, made)
        if fd == MAP_CLOSED:
            raise ValueError(f"{subject} is closed")
        if fd < 0:
            raise bpf_error(cmd, -fd, subject=subject)
        yield fd
    finally:
        if made[0] >= 0:
            os.close(made[0])
