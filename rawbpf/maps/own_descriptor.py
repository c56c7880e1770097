"""A descriptor of a map for one call, which no other thread can close meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rawbpf.abi.door import MAP_CLOSED, ffi, lib

if TYPE_CHECKING:
    from rawbpf.abi._native import CData


@contextmanager
def own_descriptor(m: "CData") -> Iterator[int]:
    """A copy of the map's descriptor, closed at the end of the context.

    The map's own may be closed by another thread at any moment, and its number given to another map before a call
    reaches the kernel. Raises ValueError if the map was closed, OSError if this process has no free descriptor.
    """
    made = ffi.new("int32_t *", -1)
    try:
        fd = lib.map_dup(m, made)
        if fd == MAP_CLOSED:
            raise ValueError("the map is closed")
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd))
        yield fd
    finally:
        if made[0] >= 0:
            os.close(made[0])
