"""The life of an object that owns a descriptor: maps, programs, links and tokens have it in common."""

import os
import warnings
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class HasFileno(Protocol):
    """Anything with a descriptor: a file, a socket, a token."""

    def fileno(self) -> int: ...


def fileno_of(owner: int | HasFileno) -> int:
    """A descriptor that is given as its number or by who has it."""
    if isinstance(owner, int):
        return owner
    if not hasattr(owner, "fileno"):
        raise TypeError(f"this wants a descriptor or an object with fileno(), not {type(owner).__name__}")
    return owner.fileno()


class Descriptor:
    """Owns one descriptor. Close it or use `with`: collected while open it is a ResourceWarning."""

    _fd = -1

    def fileno(self) -> int:
        """The descriptor. ValueError after close()."""
        if self._fd < 0:
            raise ValueError(f"{self!r}")
        return self._fd

    def close(self) -> None:
        """Closes the descriptor; the kernel frees the object with the last that refers to it. May be repeated."""
        fd, self._fd = self._fd, -1
        # Where the interpreter ends, it may have emptied this module: the kernel closes the descriptor then.
        if fd >= 0 and os is not None:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or given away."""
        return self._fd < 0

    def __enter__(self) -> "Self":
        self.fileno()
        return self

    def __exit__(
        self,
        exception_type: "type[BaseException] | None",
        exception: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def __reduce__(self) -> "tuple[Any, ...]":
        # A copy would close the descriptor once more.
        raise TypeError(f"a {type(self).__name__} is a descriptor of this process: no copies, no pickles")

    def __del__(self) -> None:
        if self._fd >= 0 and os is not None:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                # Also if a signal handler raised just now.
                self.close()
