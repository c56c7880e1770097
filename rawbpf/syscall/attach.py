"""The commands that attach programs without a link, as all of Linux before 5.7 did, and say what is attached.

What is attached this way stays so when its program's descriptor is closed, until it is detached or its target is gone.

Source: kernel/bpf/syscall.c (bpf_prog_attach, bpf_prog_detach, bpf_prog_query).
"""

import errno
from typing import NamedTuple

from rawbpf.abi import AttachFlag, AttachType, Cmd, QueryFlag
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, call
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.proc import kernel_version
from rawbpf.syscall.rules import check_fd, u32


class ProgQuery(NamedTuple):
    """What is attached at a place, in the order in which it runs. A list that this kernel, or this place, does not have
    is empty. `revision` counts changes, 0 where they are not counted."""

    attach_flags: AttachFlag
    prog_ids: list[int]
    prog_attach_flags: list[AttachFlag]
    link_ids: list[int]
    link_attach_flags: list[AttachFlag]
    revision: int


def prog_attach(
    prog_fd: int,
    target: int,
    attach_type: int,
    attach_flags: int = 0,
    *,
    replace_bpf_fd: int = 0,
    relative: int = 0,
    expected_revision: int = 0,
    where: str = "",
) -> None:
    """BPF_PROG_ATTACH: attaches a program to a cgroup, to a map of sockets, to an interface, without a link.

    `target` is a descriptor, or an interface's index for TCX and netkit. `replace_bpf_fd` goes with BPF_F_REPLACE,
    `relative` (a descriptor, or an id with BPF_F_ID) with BPF_F_BEFORE and BPF_F_AFTER. `where` names the target in
    errors.

    Raises AlreadyExists (EEXIST), NotFound (ENODEV: no such interface), NotPermitted (EPERM: no capability, or another
    program is attached that forbids it), BpfError (EINVAL: not this program, place or flag; EBADF; E2BIG: no more
    programs fit there; ESTALE: another revision). Needs CAP_NET_ADMIN, for some types CAP_SYS_ADMIN. Linux 4.10; TCX
    6.6. In the kernel: bpf_prog_attach().
    """
    kind = AttachType(attach_type)
    attr = bpf_attr(
        target_fd=u32("target", target),
        attach_bpf_fd=check_fd(prog_fd),
        attach_type=kind,
        attach_flags=u32("attach_flags", attach_flags),
        replace_bpf_fd=check_fd(replace_bpf_fd),
        relative_fd=u32("relative", relative),
        expected_revision=expected_revision,
    )
    result = call(Cmd.BPF_PROG_ATTACH, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_PROG_ATTACH, -result, about=kind, subject=_place(kind, target, where))


def prog_detach(prog_fd: int, target: int, attach_type: int, *, where: str = "") -> None:
    """BPF_PROG_DETACH: ends what prog_attach() did; `where` names the target in errors.

    Raises NotFound (ENOENT: this program is not attached there), NotPermitted (EPERM), BpfError (EINVAL, EBADF).
    From Linux 5.19 on it needs no capability, only the descriptors. Linux 5.8 to 5.18 ask for CAP_BPF if
    kernel.unprivileged_bpf_disabled is not 0, as for every command; older kernels ask for CAP_NET_ADMIN. Linux 4.10. In
    the kernel: bpf_prog_detach().
    """
    kind = AttachType(attach_type)
    attr = bpf_attr(target_fd=u32("target", target), attach_bpf_fd=check_fd(prog_fd), attach_type=kind)
    result = call(Cmd.BPF_PROG_DETACH, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_PROG_DETACH, -result, about=kind, subject=_place(kind, target, where))


def prog_query(target: int, attach_type: int, query_flags: int = 0, *, where: str = "") -> ProgQuery:
    """BPF_PROG_QUERY: which programs are attached to a cgroup, network namespace, map of sockets or interface.

    `query_flags` may be BPF_F_QUERY_EFFECTIVE, for a cgroup: also what its parents have attached. `where` names the
    target in errors.

    Raises NotPermitted (EPERM), BpfError (EINVAL: not this place; EBADF), NotFound (ENODEV: no such interface). Needs
    CAP_NET_ADMIN. Linux 4.15. In the kernel: bpf_prog_query().
    """
    kind = AttachType(attach_type)
    room = 0
    while True:
        names = ("prog_ids", "prog_attach_flags", "link_ids", "link_attach_flags")
        arrays = {name: ffi.new("uint32_t[]", max(room, 1)) for name in names if _tells(kind, query_flags, name)}
        query = {"target_fd": u32("target", target), "attach_type": kind, "query_flags": query_flags}
        attr = bpf_attr(
            query={**query, "prog_cnt": room, **{name: address_of(array) for name, array in arrays.items() if room}}
        )
        result = call(Cmd.BPF_PROG_QUERY, attr)
        found = attr.query.prog_cnt
        if result == 0 and found <= room:
            break
        if result not in (0, -errno.ENOSPC):
            raise bpf_error(Cmd.BPF_PROG_QUERY, -result, about=kind, subject=_place(kind, target, where))
        room = found
    lists = {name: list(ffi.unpack(arrays[name], found)) if name in arrays else [] for name in names}
    return ProgQuery(
        AttachFlag(attr.query.attach_flags),
        lists["prog_ids"],
        [AttachFlag(flags) for flags in lists["prog_attach_flags"]],
        lists["link_ids"],
        [AttachFlag(flags) for flags in lists["link_attach_flags"]],
        attr.query.revision,
    )


def _tells(kind: AttachType, query_flags: int, name: str) -> bool:
    """Whether the kernel fills this array: else its address must not be there."""
    if name == "prog_ids":
        return True
    ordered = kind.name.startswith(("BPF_TCX_", "BPF_NETKIT_"))
    if name == "prog_attach_flags":
        in_cgroup = kind.name.startswith(("BPF_CGROUP_", "BPF_LSM_CGROUP")) and kernel_version() >= (6, 0)
        return ordered or (in_cgroup and not query_flags & QueryFlag.BPF_F_QUERY_EFFECTIVE)
    return ordered


def _place(kind: AttachType, target: int, where: str) -> str:
    return f"{kind.name} of {where or f'target {target}'}"
