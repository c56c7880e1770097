"""BPF tokens: what an unprivileged container may do with bpf(2), delegated by who mounted its bpffs. Linux 6.9.

In a user namespace no capability reaches bpf(2). But a bpffs that belongs to the namespace, which a process outside
mounted with delegate_cmds, delegate_maps and the like, yields a token, and with it and CAP_BPF in the namespace a map
can be made: Queue(..., token=token). What a token does not delegate the kernel refuses as if there were none.

Source: kernel/bpf/token.c.
"""

import os
import warnings
from typing import TYPE_CHECKING

from rawbpf import syscall
from rawbpf.abi import Cmd, MapType, ProgType
from rawbpf.privileges import token_masks

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Token:
    """A BPF token. Holds one descriptor; close it or use `with`. A map that was made with it does not need it any more.

    with Token.open("/sys/fs/bpf") as token:
        q = Queue(8, 128, token=token)
    """

    _fd = -1

    def __init__(self, fd: int) -> None:
        """Takes over a token's descriptor."""
        self._fd = syscall.check_fd(fd)

    @classmethod
    def open(cls, bpffs_path: syscall.StrPath) -> "Self":
        """Makes a token of what the bpffs mounted at this path delegates (BPF_TOKEN_CREATE).

        Raises NotFound if it delegates nothing, NotPermitted if it belongs to another user namespace or CAP_BPF is
        missing in this one, Unsupported in the initial user namespace, BpfError (EINVAL) if the path is not a bpffs's
        root or the kernel is older than 6.9; OSError if the folder can't be opened.
        """
        folder = os.open(bpffs_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls(syscall.token_create(folder))
        finally:
            os.close(folder)

    @property
    def allowed_cmds(self) -> "frozenset[Cmd]":
        """The commands it delegates."""
        mask = self._mask("cmds")
        return frozenset(cmd for cmd in Cmd if mask >> cmd & 1)

    @property
    def allowed_maps(self) -> "frozenset[MapType]":
        """The map types it delegates."""
        mask = self._mask("maps")
        return frozenset(map_type for map_type in MapType if mask >> map_type & 1)

    @property
    def allowed_progs(self) -> "frozenset[ProgType]":
        """The program types it delegates."""
        mask = self._mask("progs")
        return frozenset(prog_type for prog_type in ProgType if mask >> prog_type & 1)

    @property
    def allowed_attachs(self) -> int:
        """The attach types it delegates, as a mask with a bit for each number of enum bpf_attach_type."""
        return self._mask("attachs")

    def _mask(self, name: str) -> int:
        masks = token_masks(self.fileno())
        if masks is None:
            raise RuntimeError("/proc does not tell what the token delegates")
        return masks[name]

    def fileno(self) -> int:
        """The descriptor."""
        if self._fd < 0:
            raise ValueError(f"{self!r}")
        return self._fd

    def close(self) -> None:
        """Closes the descriptor. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
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

    def __del__(self) -> None:
        if self._fd >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<Token fd={self._fd}>" if self._fd >= 0 else "<Token closed>"
