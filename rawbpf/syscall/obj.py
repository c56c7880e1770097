"""The commands for pins: paths in a bpffs that keep an object alive."""

import os

from rawbpf.abi import Cmd
from rawbpf.syscall.call import address_of, bpf_attr, call, open_descriptor
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.rules import StrPath, c_path, check_fd, check_open_flags


def obj_pin(fd: int, path: StrPath) -> None:
    """BPF_OBJ_PIN: gives a map, program or link a name in a bpffs, mode 0600, where it outlives its descriptors until
    unlinked.

    Raises AlreadyExists (EEXIST), NotFound (ENOENT: no such directory), NotPermitted (EPERM: the path is not in a
    bpffs, or its last part has a '.' in it). Needs write permission for the folder. Linux 4.4. In the kernel:
    bpf_obj_pin().
    """
    name = c_path(path)
    attr = bpf_attr(pathname=address_of(name), bpf_fd=check_fd(fd))
    result = call(Cmd.BPF_OBJ_PIN, attr)
    if result < 0:
        text = os.fsdecode(path)
        raise bpf_error(Cmd.BPF_OBJ_PIN, -result, path=text, subject=repr(text))


def obj_get(path: StrPath, file_flags: int = 0) -> int:
    """BPF_OBJ_GET: opens what is pinned at `path`, returns a descriptor. It may be a program or a link.

    `file_flags`: 0 for read and write, BPF_F_RDONLY or BPF_F_WRONLY. Raises NotFound (ENOENT), NotPermitted (EACCES:
    the file's mode, or no BPF object; EPERM). Needs what the file's mode asks for. Linux 4.4. In the
    kernel: bpf_obj_get().
    """
    name = c_path(path)
    attr = bpf_attr(pathname=address_of(name), file_flags=check_open_flags(file_flags))
    result = open_descriptor(Cmd.BPF_OBJ_GET, attr)
    if result < 0:
        text = os.fsdecode(path)
        raise bpf_error(Cmd.BPF_OBJ_GET, -result, path=text, subject=repr(text))
    return result
