"""The commands that make maps, find them by id, and freeze them."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rawbpf.abi import BPF_COMMON_ATTRS, Cmd, MapFlag, MapType
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall import memlock
from rawbpf.syscall.call import bpf_attr, call, fd_by_id, next_id, open_descriptor, try_again
from rawbpf.syscall.errors import BpfError, bpf_error
from rawbpf.syscall.info import check_queue_or_stack, describe, obj_get_info_by_fd
from rawbpf.syscall.proc import kernel_version
from rawbpf.syscall.rules import (
    QUEUE_AND_STACK,
    check_fd,
    check_name,
    check_numa_node,
    check_open_flags,
    check_rules,
    u32,
)

if TYPE_CHECKING:
    from rawbpf.abi._native import CData


def map_create(
    map_type: int,
    map_name: str,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    map_flags: int = 0,
    numa_node: int | None = None,
    token_fd: int | None = None,
    btf_fd: int = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
    **more: int,
) -> int:
    """BPF_MAP_CREATE: makes a map, returns its descriptor (close-on-exec, never 0, 1 or 2).

    For queue and stack maps every rule is checked first: key_size 0, value_size from 1 byte to 4 MiB, max_entries
    not 0, names of at most 15 characters from [A-Za-z0-9_.], and the flags these maps know. The kernel allocates
    max_entries + 1 values at once. `numa_node` sets BPF_F_NUMA_NODE, `token_fd` BPF_F_TOKEN_FD. `btf_fd` is what
    btf_load() returned; for these maps, which have no key, btf_key_type_id is that of an empty struct. `more` is what
    other types of maps have of their own, by its name in the union: inner_map_fd, map_extra.

    Raises ValueError for a broken rule; NotPermitted (EPERM), BpfError (EINVAL, E2BIG, ENOMEM, EMFILE, ENFILE). Needs
    CAP_BPF (before Linux 5.8 CAP_SYS_ADMIN), or a token. Linux 3.18; queue and stack maps 4.20. In the kernel:
    map_create(), queue_stack_map_alloc().
    """
    flags = u32("map_flags", map_flags)
    if numa_node is not None:
        flags |= MapFlag.BPF_F_NUMA_NODE
    elif flags & MapFlag.BPF_F_NUMA_NODE:
        raise ValueError("BPF_F_NUMA_NODE needs numa_node")
    if token_fd is not None:
        flags |= MapFlag.BPF_F_TOKEN_FD
    elif flags & MapFlag.BPF_F_TOKEN_FD:
        raise ValueError("BPF_F_TOKEN_FD needs the token's descriptor")
    attr = bpf_attr(
        map_type=u32("map_type", map_type),
        key_size=u32("key_size", key_size),
        value_size=u32("value_size", value_size),
        max_entries=u32("max_entries", max_entries),
        map_flags=flags,
        numa_node=check_numa_node(numa_node),
        map_name=check_name(map_name),
        map_token_fd=0 if token_fd is None else check_fd(token_fd),
        btf_fd=check_fd(btf_fd),
        btf_key_type_id=u32("btf_key_type_id", btf_key_type_id),
        btf_value_type_id=u32("btf_value_type_id", btf_value_type_id),
        **more,
    )
    if attr.map_type in QUEUE_AND_STACK:
        check_rules(attr)
    kind = MapType(map_type).name.removeprefix("BPF_MAP_TYPE_").lower()
    return create(attr, f"{kind} {map_name!r}" if map_name else f"the {kind}")


def create(attr: "CData", subject: str) -> int:
    """BPF_MAP_CREATE with an attr that is filled already; `subject` names it in errors."""
    result = open_descriptor(Cmd.BPF_MAP_CREATE, attr)
    hint = ""
    if result == -errno.EPERM:
        result, hint = memlock.retry(result, lambda: open_descriptor(Cmd.BPF_MAP_CREATE, attr))
    if result in (-errno.EINVAL, -errno.EBADF):
        hint = _kernels_words(attr)
    if result < 0:
        raise bpf_error(
            Cmd.BPF_MAP_CREATE,
            -result,
            subject=subject,
            hint=hint,
            token_fd=attr.map_token_fd if attr.map_flags & MapFlag.BPF_F_TOKEN_FD else None,
            about=MapType(attr.map_type),
            max_entries=attr.max_entries,
            value_size=attr.value_size,
        )
    return result


def _kernels_words(attr: "CData") -> str:
    """Asks the kernel again, for its own words on why it does not create the map: a hint, "" where it has none (before
    Linux 7.2, and for some reasons)."""
    if kernel_version() < (7, 2):
        return ""
    try_again(Cmd.BPF_MAP_CREATE | BPF_COMMON_ATTRS, attr)
    words = ffi.string(lib.bpf_log()).decode(errors="replace").strip()
    return f"the kernel says: {words}" if words else ""


def map_freeze(fd: int) -> None:
    """BPF_MAP_FREEZE: no more push and pop from user space, ever; programs go on, and so does peek.

    Raises NotPermitted (EPERM) if the descriptor is read-only or the map is frozen already. Before Linux 6.5 the kernel
    asks for CAP_BPF instead of a writable descriptor, and a second freeze is EBUSY. Linux 5.2. In the kernel:
    map_freeze().
    """
    result = call(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=check_fd(fd)))
    if result < 0:
        raise bpf_error(Cmd.BPF_MAP_FREEZE, -result, fd=fd, subject=_map_of(fd))


def _map_of(fd: int) -> str:
    """A descriptor's map in an error's words, by its name if it is a queue or a stack."""
    try:
        return describe(check_queue_or_stack(obj_get_info_by_fd(fd)))
    except (BpfError, TypeError):
        return f"the map of descriptor {fd}"


def map_get_next_id(start_id: int) -> int | None:
    """BPF_MAP_GET_NEXT_ID: the smallest map id above `start_id`, None after the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN; CAP_BPF is not enough. Linux 4.13. In the kernel:
    bpf_obj_get_next_id().
    """
    return next_id(Cmd.BPF_MAP_GET_NEXT_ID, start_id, "the ids of maps")


def map_ids() -> Iterator[int]:
    """All map ids of the system in ascending order, of maps of any type; see map_get_next_id()."""
    map_id = map_get_next_id(0)
    while map_id is not None:
        yield map_id
        map_id = map_get_next_id(map_id)


def map_get_fd_by_id(map_id: int, open_flags: int = 0) -> int:
    """BPF_MAP_GET_FD_BY_ID: opens the map with this id, returns a descriptor. `open_flags` as in obj_get().

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 4.13. In the kernel:
    bpf_map_get_fd_by_id().
    """
    return fd_by_id(Cmd.BPF_MAP_GET_FD_BY_ID, "map_id", map_id, check_open_flags(open_flags))
