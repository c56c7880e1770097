"""BPF tokens: what an unprivileged container may do with bpf(2), delegated by whoever mounted its bpffs. Linux 6.9.

In a user namespace no capability reaches bpf(2). But a token can be had from a bpffs that belongs to the namespace and
that a process outside mounted with delegate_cmds, delegate_maps and the like. With the token and CAP_BPF in the
namespace a map can be made: Queue(..., token=token). What the token does not delegate is refused as without a token.

Source: kernel/bpf/token.c.
"""

import os
from typing import TYPE_CHECKING

from rawbpf import syscall
from rawbpf.abi import Cmd, MapType, ProgType
from rawbpf.syscall.descriptor import Descriptor
from rawbpf.syscall.proc import token_masks

if TYPE_CHECKING:
    from typing_extensions import Self


class Token(Descriptor):
    """A BPF token. Holds one descriptor; close it or use `with`. A map that was made with it no longer
    needs it.

    with Token.open("/sys/fs/bpf") as token:
        q = Queue(8, 128, token=token)

    In the initial user namespace there are no tokens:

    >>> from rawbpf.maps import bpffs
    >>> with bpffs.mounted() as folder:
    ...     Token.open(folder)
    Traceback (most recent call last):
        ...
    rawbpf.syscall.errors.Unsupported: ...
    """

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
            # Not cls(fd): between making it and owning it no call is made.
            self = cls.__new__(cls)
            self._fd = syscall.token_create(folder)
            return self
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

    def __repr__(self) -> str:
        return f"<Token fd={self._fd}>" if self._fd >= 0 else "<Token closed>"
