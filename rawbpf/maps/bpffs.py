"""bpffs, the file system that pins live in: where it is mounted, and a private one for a while."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rawbpf.abi import door

_MNT_DETACH = 2


def mounts() -> list[str]:
    """Where a bpffs is mounted, as this process sees it; empty if none is mounted or /proc can't be read."""
    if door.simulated is not None:
        return [door.simulated.bpffs]
    return [path for path, _ in _mounts()]


def delegating_mounts() -> list[str]:
    """Where a bpffs that delegates something is mounted: what Token.open() takes."""
    return [path for path, options in _mounts() if b"delegate_" in options]


def _mounts() -> list[tuple[str, bytes]]:
    """Each bpffs with the options it was mounted with."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = [line.partition(b" - ") for line in file]
    except OSError:
        return []
    found = []
    for mount, _, file_system in lines:
        # "36 35 0:30 / /sys/fs/bpf rw,relatime", then " - ", then "bpf bpf rw,mode=700".
        device, path = mount.split()[2], _unescaped(mount.split()[4])
        if file_system.startswith(b"bpf ") and _is_seen(path, device):
            found.append((path, file_system.split()[-1]))
    return found


def _is_seen(path: str, device: bytes) -> bool:
    """Whether the path leads to this file system, and not to one that was mounted over it."""
    try:
        there = os.stat(path).st_dev
    except OSError:
        return True
    return f"{os.major(there)}:{os.minor(there)}".encode() == device


def _unescaped(path: bytes) -> str:
    """The kernel writes blanks and backslashes as three octal digits (mangle_path())."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path))


@contextmanager
def mounted() -> Iterator[str]:
    """Mounts a bpffs in a new temporary folder, and removes both at the end. OSError (EPERM) without CAP_SYS_ADMIN.

    >>> with mounted() as folder:
    ...     os.path.isdir(folder)
    True
    """
    if door.simulated is not None:
        # The bpffs of the simulated kernel is a plain folder already.
        with tempfile.TemporaryDirectory(prefix="rawbpf-", dir=door.simulated.bpffs) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rawbpf-") as folder:
        _libc("mount", b"bpf", os.fsencode(folder), b"bpf", 0, None)
        try:
            yield folder
        finally:
            _libc("umount2", os.fsencode(folder), _MNT_DETACH)


def _libc(name: str, *arguments: bytes | int | None) -> None:
    # Imported here: the doctor, which mounts nothing, also runs on a Python without ctypes.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(libc, name)(*passed) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
