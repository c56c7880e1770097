"""The commands that attach programs, and for the links that they make."""

import errno
import os
from typing import Any

from rawbpf.abi import AttachFlag, AttachType, Cmd
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, call, fd_by_id, next_id, open_descriptor
from rawbpf.syscall.errors import BpfError, NotFound, bpf_error
from rawbpf.syscall.proc import proc_fields
from rawbpf.syscall.rules import check_fd, u32


def raw_tracepoint_open(name: str | None, prog_fd: int, cookie: int = 0, *, where: str = "") -> int:
    """BPF_RAW_TRACEPOINT_OPEN: attaches a program, returns the link's descriptor (before 5.7 one that is no link).

    `name` is the tracepoint's without its category ("sched_process_exec"); None for a program of type TRACING or LSM,
    which knows its place since it was loaded; `where` names that in errors. The program reads `cookie` with
    bpf_get_attach_cookie() (Linux 6.10).

    Raises NotFound (ENOENT: no such tracepoint; before 5.13 also for a TRACING program that was attached before),
    AlreadyExists (EBUSY: this TRACING program is attached), NotPermitted,
    BpfError (EINVAL: another type of program, or one that reads more arguments than the tracepoint has). Needs
    CAP_PERFMON (before Linux 5.8 CAP_SYS_ADMIN). Linux 4.17. In the kernel: bpf_raw_tp_link_attach().
    """
    if name is not None and (not name or "\0" in name):
        raise ValueError(f"{name!r} is no tracepoint's name")
    text = None if name is None else ffi.new("char[]", name.encode())
    attr = bpf_attr(
        raw_tracepoint={
            "name": 0 if text is None else address_of(text),
            "prog_fd": check_fd(prog_fd),
            "cookie": cookie,
        }
    )
    result = open_descriptor(Cmd.BPF_RAW_TRACEPOINT_OPEN, attr)
    if result < 0:
        place = f"raw tracepoint {name!r}" if name else where or "the function that the program was loaded for"
        about = None if name is not None else _what_busy_means(AttachType.BPF_TRACE_FENTRY, -result, prog_fd)
        raise bpf_error(Cmd.BPF_RAW_TRACEPOINT_OPEN, -result, about=about, subject=place)
    return result


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0, *, where: str = "", **more: Any) -> int:
    """BPF_LINK_CREATE: attaches a program, returns the link's descriptor.

    `target` is a descriptor (of a cgroup's folder, of a network namespace) or the index of an interface, 0 if the
    attach type has none. `more` is what the attach type has of its own, as in the union: tracing={"cookie": 7}.
    `where` names the target in errors.

    Raises AlreadyExists (EBUSY, EEXIST: something is attached there), NotFound (ENODEV: no such interface), Unsupported
    (EOPNOTSUPP), NotPermitted, BpfError (EINVAL: the kernel does not serve this attach type or flag, or the program is
    for another; EBADF: the target is none; E2BIG). Needs CAP_NET_ADMIN or CAP_PERFMON, by the attach type. Linux 5.7;
    each attach type has its own version. In the kernel: link_create().
    """
    kind = AttachType(attach_type)
    attr = bpf_attr(
        link_create={
            "prog_fd": check_fd(prog_fd),
            "target_fd": u32("target", target),
            "attach_type": kind,
            "flags": u32("flags", flags),
            **more,
        }
    )
    result = open_descriptor(Cmd.BPF_LINK_CREATE, attr)
    if result < 0:
        subject = f"{kind.name} of {where or f'target {target}'}"
        raise bpf_error(Cmd.BPF_LINK_CREATE, -result, about=_what_busy_means(kind, -result, prog_fd), subject=subject)
    return result


def _what_busy_means(attach_type: AttachType, error: int, prog_fd: int) -> AttachType | None:
    """The attach type, unless a tracing program is attached already: that is EBUSY as well, and means another thing."""
    return None if error == errno.EBUSY and _is_attached(prog_fd) else attach_type


def _is_attached(prog_fd: int) -> bool:
    """Whether one of the system's links has this program; False where that can't be seen."""
    prog_id = proc_fields(f"/proc/self/fdinfo/{prog_fd}").get("prog_id")
    try:
        link_id = link_get_next_id(0)
        while link_id is not None:
            try:
                fd = link_get_fd_by_id(link_id)
            except NotFound:
                continue
            finally:
                link_id = link_get_next_id(link_id)
            try:
                if proc_fields(f"/proc/self/fdinfo/{fd}").get("prog_id") == prog_id:
                    return True
            finally:
                os.close(fd)
    except BpfError:
        pass
    return False


def link_update(link_fd: int, new_prog_fd: int, old_prog_fd: int | None = None) -> None:
    """BPF_LINK_UPDATE: puts another program in the place of the attached one; no event is missed in between.

    With `old_prog_fd` only if that is the one which is attached (BPF_F_REPLACE).

    Raises NotPermitted (EPERM: another program is attached than `old_prog_fd`), BpfError (EINVAL: this type of link
    can't do that, or not with this type of program; ENOLINK: what it was attached to is gone). Needs no
    capability. Linux 5.7. In the kernel: link_update().
    """
    fields = {"link_fd": check_fd(link_fd), "new_prog_fd": check_fd(new_prog_fd)}
    if old_prog_fd is not None:
        fields |= {"flags": AttachFlag.BPF_F_REPLACE, "old_prog_fd": check_fd(old_prog_fd)}
    result = call(Cmd.BPF_LINK_UPDATE, bpf_attr(link_update=fields))
    if result < 0:
        # The kernel asks for no capability here: this is what it answers for the wrong old program.
        hint = "another program than `old` is attached" if result == -errno.EPERM and old_prog_fd is not None else ""
        raise bpf_error(Cmd.BPF_LINK_UPDATE, -result, subject=f"the link of descriptor {link_fd}", hint=hint)


def link_detach(link_fd: int) -> None:
    """BPF_LINK_DETACH: ends the attachment, whoever else has the link; the link itself stays, attached to nothing.

    Raises Unsupported (EOPNOTSUPP: links of raw tracepoints and of TRACING programs detach when the last descriptor or
    pin goes, and not before). Needs no capability. Linux 5.9. In the kernel: link_detach().
    """
    result = call(Cmd.BPF_LINK_DETACH, bpf_attr(link_detach={"link_fd": check_fd(link_fd)}))
    if result < 0:
        raise bpf_error(Cmd.BPF_LINK_DETACH, -result, subject=f"the link of descriptor {link_fd}")


def link_get_next_id(start_id: int) -> int | None:
    """BPF_LINK_GET_NEXT_ID: the smallest link id above `start_id`, None after the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 5.8. In the kernel: bpf_obj_get_next_id().
    """
    return next_id(Cmd.BPF_LINK_GET_NEXT_ID, start_id, "the ids of links")


def link_get_fd_by_id(link_id: int) -> int:
    """BPF_LINK_GET_FD_BY_ID: opens the link with this id, returns a descriptor.

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 5.8. In the kernel:
    bpf_link_get_fd_by_id().
    """
    return fd_by_id(Cmd.BPF_LINK_GET_FD_BY_ID, "link_id", link_id)


def iter_create(link_fd: int) -> int:
    """BPF_ITER_CREATE: returns a file whose reading runs the iterator program of this link.

    Raises BpfError (EINVAL) for links of other types. Needs no capability. Linux 5.8. In the kernel: bpf_iter_create().
    """
    attr = bpf_attr(iter_create={"link_fd": check_fd(link_fd)})
    result = open_descriptor(Cmd.BPF_ITER_CREATE, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_ITER_CREATE, -result, subject=f"the link of descriptor {link_fd}")
    return result
