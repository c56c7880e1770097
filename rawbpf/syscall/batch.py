"""The commands for many elements of a map with keys in one call. Queues and stacks do not have them (ENOTSUPP).

Source: kernel/bpf/syscall.c (bpf_map_do_batch, generic_map_lookup_batch), kernel/bpf/hashtab.c.
"""

import errno
from typing import TYPE_CHECKING, NamedTuple

from rawbpf.abi import ENOTSUPP, Cmd
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, call
from rawbpf.syscall.element import value_bytes
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.info import MapInfo, check_is_map, describe, obj_get_info_by_fd
from rawbpf.syscall.rules import QUEUE_AND_STACK, u32

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Where a batch ended the kernel notes in 4 bytes for a hash table, in key_size bytes for other maps.
_HASH_BATCH_SIZE = 4


class Batch(NamedTuple):
    """So many keys and their values, one after the other, and where the next batch begins: None after the last."""

    keys: bytes
    values: bytes
    number: int
    out_batch: bytes | None


def map_lookup_batch(fd: int, in_batch: "Buffer | None", count: int, *, elem_flags: int = 0) -> Batch:
    """BPF_MAP_LOOKUP_BATCH: up to `count` keys and values, from where `in_batch` says: None, or an earlier out_batch.

    Raises ValueError for a queue or stack; BpfError (ENOSPC: a bucket of the hash table has more than `count`
    elements), Unsupported (ENOTSUPP: not this type of map), NotPermitted (EPERM: write-only descriptor), Busy. Needs no
    capability, but read permission of the descriptor. Linux 5.6. In the kernel: bpf_map_do_batch().
    """
    return _lookup(Cmd.BPF_MAP_LOOKUP_BATCH, fd, in_batch, count, elem_flags)


def map_lookup_and_delete_batch(fd: int, in_batch: "Buffer | None", count: int, *, elem_flags: int = 0) -> Batch:
    """BPF_MAP_LOOKUP_AND_DELETE_BATCH: as map_lookup_batch(), and the elements leave the map.

    Raises as map_lookup_batch(); NotPermitted (EPERM) also for a read-only descriptor or a frozen map. Needs no
    capability, but read and write permission of the descriptor. Linux 5.6, for hash tables. In the kernel:
    bpf_map_do_batch().
    """
    return _lookup(Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, fd, in_batch, count, elem_flags)


def map_update_batch(fd: int, keys: "Buffer", values: "Buffer", *, elem_flags: int = 0) -> int:
    """BPF_MAP_UPDATE_BATCH: stores each value under its key, one after the other. Returns how many were stored.

    At the first element that can't be stored the kernel stops, and the hint says how many were stored before it.
    `elem_flags` is 0, or BPF_F_LOCK where the values have a lock: no kernel takes BPF_NOEXIST or BPF_EXIST here.

    Raises ValueError for sizes that do not match, and for a queue or stack; Full (E2BIG), NoSuchIndex
    (E2BIG: the index is outside the array), Unsupported (ENOTSUPP: not this type of map), BpfError (EINVAL: other
    flags), NotPermitted (EPERM: read-only descriptor or frozen map), Busy. Needs no capability, but write permission of
    the descriptor. Linux 5.6. In the kernel: bpf_map_do_batch().
    """
    return _change(Cmd.BPF_MAP_UPDATE_BATCH, fd, keys, values, elem_flags)


def map_delete_batch(fd: int, keys: "Buffer", *, elem_flags: int = 0) -> int:
    """BPF_MAP_DELETE_BATCH: takes the keys and their values out of the map. Returns how many were deleted.

    At the first key that is not there the kernel stops, and the hint says how many were deleted before it.

    Raises ValueError for a size that does not match, and for a queue or stack; NoSuchKey (ENOENT), Unsupported
    (ENOTSUPP: not this type of map, so arrays), BpfError (EINVAL: other flags than BPF_F_LOCK), NotPermitted (EPERM:
    read-only descriptor or frozen map), Busy. Needs no capability, but write permission of the descriptor. Linux 5.6.
    In the kernel: bpf_map_do_batch().
    """
    return _change(Cmd.BPF_MAP_DELETE_BATCH, fd, keys, None, elem_flags)


def _lookup(cmd: Cmd, fd: int, in_batch: "Buffer | None", count: int, elem_flags: int) -> Batch:
    info, size = _info_of(fd), u32("count", count)
    value_size = value_bytes(info, elem_flags)
    keys, values = ffi.new("char[]", info.key_size * size), ffi.new("char[]", value_size * size)
    place_size = max(info.key_size, _HASH_BATCH_SIZE)
    out_batch = ffi.new("char[]", place_size)
    begin = None if in_batch is None else ffi.new("char[]", _place(in_batch, place_size))
    attr = bpf_attr(
        batch={
            "in_batch": 0 if begin is None else address_of(begin),
            "out_batch": address_of(out_batch),
            "keys": address_of(keys),
            "values": address_of(values),
            "count": size,
            "map_fd": fd,
            "elem_flags": elem_flags,
        }
    )
    result = call(cmd, attr)
    # ENOENT: these were the last. They are there nevertheless.
    if result < 0 and result != -errno.ENOENT:
        raise _error(cmd, result, fd, info)
    found = attr.batch.count
    return Batch(
        ffi.buffer(keys)[: info.key_size * found],
        ffi.buffer(values)[: value_size * found],
        found,
        None if result < 0 else bytes(ffi.buffer(out_batch)),
    )


def _place(in_batch: "Buffer", size: int) -> bytes:
    data = memoryview(in_batch).tobytes()
    if len(data) != size:
        raise ValueError(f"in_batch is None or an out_batch of {size} bytes, not {len(data)} bytes")
    return data


def _change(cmd: Cmd, fd: int, keys: "Buffer", values: "Buffer | None", elem_flags: int) -> int:
    info = _info_of(fd)
    names, data = memoryview(keys).tobytes(), b"" if values is None else memoryview(values).tobytes()
    count, rest = divmod(len(names), info.key_size)
    if rest:
        raise ValueError(f"{len(names)} bytes of keys: {describe(info)} has keys of {info.key_size}")
    if values is not None and len(data) != count * value_bytes(info, elem_flags):
        raise ValueError(
            f"{len(data)} bytes of values: {count} of {describe(info)} are {value_bytes(info, elem_flags)} each"
        )
    kept = ffi.new("char[]", names), ffi.new("char[]", data)
    attr = bpf_attr(
        batch={
            "keys": address_of(kept[0]),
            "values": address_of(kept[1]) if values is not None else 0,
            "count": count,
            "map_fd": fd,
            "elem_flags": elem_flags,
        }
    )
    result = call(cmd, attr)
    done: int = attr.batch.count
    if result < 0:
        raise _error(cmd, result, fd, info, f"{done} of {count} were done")
    return done


def _info_of(fd: int) -> MapInfo:
    info = obj_get_info_by_fd(fd)
    check_is_map(fd, info)
    if info.type in QUEUE_AND_STACK:
        raise ValueError(f"{describe(info)} has no keys, and no batches (ENOTSUPP)")
    return info


def _error(cmd: Cmd, result: int, fd: int, info: MapInfo, hint: str = "") -> Exception:
    # Where the kernel did not begin, it leaves the count as it was.
    began = result not in (-errno.EPERM, -errno.EINVAL, -errno.EBADF, -ENOTSUPP)
    return bpf_error(
        cmd,
        -result,
        fd=fd,
        about=info.type,
        subject=describe(info),
        max_entries=info.max_entries,
        hint=hint if began else "",
    )
