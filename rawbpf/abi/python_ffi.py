"""cffi's FFI for its ABI mode."""

from typing import TYPE_CHECKING

__all__ = ["ffi"]

if TYPE_CHECKING:
    from rawbpf.abi._cdef import ffi
else:
    try:
        from rawbpf.abi._cdef import ffi
    except ImportError:
        # A source folder in which nothing was built.
        from rawbpf.abi.source_tree import ffi
