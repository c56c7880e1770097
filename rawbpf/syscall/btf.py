"""The commands for type information."""

import errno
from typing import TYPE_CHECKING

from rawbpf.abi import Cmd, MapFlag
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, fd_by_id, next_id, open_descriptor, try_again
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.proc import kernel_version
from rawbpf.syscall.rules import check_fd

if TYPE_CHECKING:
    from rawbpf.abi._native import CData


# Bytes for the kernel's log on types that it does not take, a line for each.
_BTF_LOG_SIZE = 1 << 20


def btf_load(blob: bytes, token_fd: int | None = None) -> int:
    """BPF_BTF_LOAD: gives type information to the kernel, returns its descriptor.

    Raises BpfError (EINVAL; the hint is the kernel's own words) for what is not BTF, NotPermitted (EPERM) without
    CAP_BPF. Linux 4.18; with a token 6.9. In the kernel: bpf_btf_load().
    """
    data = ffi.new("char[]", blob)
    attr = bpf_attr(btf=address_of(data), btf_size=len(blob))
    if token_fd is not None:
        attr.btf_flags, attr.btf_token_fd = MapFlag.BPF_F_TOKEN_FD, check_fd(token_fd)
    result = open_descriptor(Cmd.BPF_BTF_LOAD, attr)
    if result < 0:
        hint = _why_no_btf(attr) if result == -errno.EINVAL else ""
        raise bpf_error(Cmd.BPF_BTF_LOAD, -result, subject="the BTF", token_fd=token_fd, hint=hint)
    return result


def _why_no_btf(attr: "CData") -> str:
    """Asks the kernel again, with a log: its last line is on the type that it stumbled over."""
    log = ffi.new("char[]", _BTF_LOG_SIZE)
    attr.btf_log_buf, attr.btf_log_size = address_of(log), _BTF_LOG_SIZE
    attr.btf_log_level = 1
    result = try_again(Cmd.BPF_BTF_LOAD, attr)
    hints = []
    # ENOSPC: kernels before 6.4 keep the beginning of a log that is too long.
    if result == -errno.EINVAL and (words := ffi.string(log).decode(errors="replace").strip()):
        hints.append(f"the kernel says: {words.splitlines()[-1].strip()}")
    if kernel_version() < (6, 0):
        hints.append("floating-point numbers need Linux 5.13, enums of 8 bytes or with negative values 6.0")
    return "; ".join(hints)


def btf_get_fd_by_id(btf_id: int) -> int:
    """BPF_BTF_GET_FD_BY_ID: opens the type information with this id, returns a descriptor.

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN; CAP_BPF is not enough. Linux 4.18. In the
    kernel: bpf_btf_get_fd_by_id().
    """
    return fd_by_id(Cmd.BPF_BTF_GET_FD_BY_ID, "btf_id", btf_id)


def btf_get_next_id(start_id: int) -> int | None:
    """BPF_BTF_GET_NEXT_ID: the smallest id of type information above `start_id`, None after the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 5.4. In the kernel: bpf_obj_get_next_id().
    """
    return next_id(Cmd.BPF_BTF_GET_NEXT_ID, start_id, "the ids of BTF")
