"""bpffs, the file system that pins live in: where it is mounted, and a private one for a while."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rawbpf import door

_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2


def mounts() -> list[str]:
    """Where a bpffs is mounted, as this process sees it; empty if nowhere or /proc does not tell."""
    if door.simulated is not None:
        return [door.simulated.bpffs]
    try:
        with open("/proc/self/mounts") as file:
            entries = [line.split() for line in file]
    except OSError:
        return []
    return [os.fsdecode(entry[1].encode().decode("unicode_escape")) for entry in entries if entry[2] == "bpf"]


@contextmanager
def mounted() -> Iterator[str]:
    """Mounts a bpffs in a new temporary folder and takes both away at the end. OSError (EPERM) without CAP_SYS_ADMIN.

    >>> with mounted() as folder:
    ...     os.path.isdir(folder)
    True
    """
    if door.simulated is not None:
        # The simulated kernel's own is a folder already.
        with tempfile.TemporaryDirectory(prefix="rawbpf-", dir=door.simulated.bpffs) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rawbpf-") as folder:
        _libc("mount", b"bpf", os.fsencode(folder), b"bpf", 0, None)
        try:
            yield folder
        finally:
            _libc("umount2", os.fsencode(folder), _MNT_DETACH)


def leave_mount_namespace() -> None:
    """Gives this process mounts of its own: what it mounts from now on nobody else sees, and it ends with it."""
    _libc("unshare", _CLONE_NEWNS)
    _libc("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def _libc(name: str, *arguments: bytes | int | None) -> None:
    # The doctor only looks, also where Python has no ctypes.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(libc, name)(*passed) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
