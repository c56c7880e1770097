"""BPF_OBJ_PIN and BPF_OBJ_GET of the simulated kernel: a pin is a hard link to the map's file."""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rawbpf.abi import FileFlag
from rawbpf.observe import user_memory
from rawbpf.observe.simulated_attr import Attr
from rawbpf.observe.simulated_map import U32, Refused, refuse_if
from rawbpf.observe.simulated_state import OPEN_FLAGS, RDONLY, WRONLY, KernelState, open_mode, out_of_the_way

_PATH_FD = int(FileFlag.BPF_F_PATH_FD)


def obj_pin(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    refuse_if(attr["file_flags"] & ~_path_flag(kernel), errno.EINVAL)
    folder_fd = _folder_fd(attr)
    try:
        fd = kernel.checked(attr["bpf_fd"])
    except Refused:
        raise Refused(errno.EINVAL) from None
    path = _path_at(attr["pathname"])
    folder, name = os.path.split(path.rstrip("/"))
    with _opened_folder(folder, folder_fd) as parent:
        inside = _is_within(parent, kernel.bpffs)
        refuse_if(inside and "." in name and name not in (".", ".."), errno.EPERM)
        refuse_if(name in ("", ".", "..") or _exists(name, parent), errno.EEXIST)
        refuse_if(path.endswith("/"), errno.ENOENT)
        refuse_if(not inside, errno.EPERM)
        with kernel.opened(fd) as found:
            os.link(kernel.map_path(found.header.id), name, dst_dir_fd=parent)
    return 0


def obj_get(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    refuse_if(attr["file_flags"] & ~(OPEN_FLAGS | _path_flag(kernel)), errno.EINVAL)
    folder_fd = _folder_fd(attr)
    open_mode(attr["file_flags"])
    path = _path_at(attr["pathname"])
    folder, name = os.path.split(path)
    with _opened_folder(folder, folder_fd) as parent:
        inside = _is_within(parent, kernel.bpffs)
        refuse_if(inside and "." in name and name not in (".", ".."), errno.EPERM)
    with _opened_path(path, folder_fd) as found:
        target = f"/proc/self/fd/{found}"
        wanted = {0: os.R_OK | os.W_OK, RDONLY: os.R_OK, WRONLY: os.W_OK}
        may = os.access(target, wanted[attr["file_flags"] & OPEN_FLAGS], effective_ids=True)
        refuse_if(not may or not kernel.owns(found), errno.EACCES)
        return kernel.open_file(target, attr["file_flags"])


def _path_flag(kernel: KernelState) -> int:
    return _PATH_FD if kernel.version >= (6, 5) else 0


def _folder_fd(attr: Attr) -> int | None:
    """path_fd, which is allowed only with its flag; None is the working directory."""
    if not attr["file_flags"] & _PATH_FD:
        refuse_if(attr["path_fd"], errno.EINVAL)
        return None
    fd = attr["path_fd"]
    return None if fd == _AT_FDCWD else fd


_AT_FDCWD = -100 & U32


def _path_at(address: int) -> str:
    path = user_memory.read_string(address, 4096)
    if path is None:
        raise Refused(errno.ENAMETOOLONG)
    refuse_if(not path, errno.ENOENT)
    return os.fsdecode(path)


@contextmanager
def _opened_path(path: str, folder_fd: int | None, flags: int = 0) -> Iterator[int]:
    try:
        fd = out_of_the_way(os.open(path, os.O_PATH | flags, dir_fd=folder_fd))
    except OverflowError:
        raise Refused(errno.EBADF) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _opened_folder(folder: str, folder_fd: int | None) -> AbstractContextManager[int]:
    return _opened_path(folder or ".", folder_fd, os.O_DIRECTORY)


def _is_within(folder: int, bpffs: str) -> bool:
    target = os.readlink(f"/proc/self/fd/{folder}")
    return target == bpffs or target.startswith(f"{bpffs}/")


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
