"""BPF_PROG_ATTACH and BPF_PROG_DETACH: attaching without a link, as all of Linux before 5.7 did.

What is attached this way stays so when its program's descriptor is closed, until it is detached or its target is gone.

Source: kernel/bpf/syscall.c (bpf_prog_attach, bpf_prog_detach).
"""

import errno

from rawbpf.abi import AttachType, Cmd
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall.calls import bpf_attr, check_fd
from rawbpf.syscall.errors import NotFound, bpf_error


def prog_attach(prog_fd: int, target_fd: int, attach_type: int, attach_flags: int = 0, *, where: str = "") -> None:
    """BPF_PROG_ATTACH: attaches a program to a cgroup, to a map of sockets, to an infrared receiver. Linux 4.10.

    `where` names the target in errors. Raises NotPermitted, AlreadyExists (EEXIST, EBUSY), BpfError (EINVAL, EBADF,
    E2BIG).
    """
    _call(Cmd.BPF_PROG_ATTACH, prog_fd, target_fd, attach_type, attach_flags, where)


def prog_detach(prog_fd: int, target_fd: int, attach_type: int, *, where: str = "") -> None:
    """BPF_PROG_DETACH: ends what prog_attach() did. Linux 4.10.

    Raises NotFound (ENOENT: this program is not attached there), NotPermitted, BpfError (EINVAL).
    """
    _call(Cmd.BPF_PROG_DETACH, prog_fd, target_fd, attach_type, 0, where)


def _call(cmd: Cmd, prog_fd: int, target_fd: int, attach_type: int, attach_flags: int, where: str) -> None:
    kind = AttachType(attach_type)
    attr = bpf_attr(
        target_fd=check_fd(target_fd), attach_bpf_fd=check_fd(prog_fd), attach_type=kind, attach_flags=attach_flags
    )
    result = lib.bpf(cmd, attr, ffi.sizeof("union bpf_attr"))
    subject = f"{kind.name} of {where or f'descriptor {target_fd}'}"
    if result == -errno.ENOENT:
        raise NotFound(errno.ENOENT, f"{subject}: this program is not attached there", cmd)
    if result < 0:
        raise bpf_error(cmd, -result, subject=subject)
