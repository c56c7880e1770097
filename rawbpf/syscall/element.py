"""The commands for elements, one at a time: of queues and stacks, which have no keys, and of maps that have them.

The kernel reads and writes as many bytes as the map says, whatever the length of a buffer: so the map is asked for its
sizes first, and every buffer has them.

Sources: kernel/bpf/syscall.c (map_update_elem and its neighbours, bpf_map_value_size), kernel/bpf/queue_stack_maps.c.
"""

import errno
from typing import TYPE_CHECKING

from rawbpf.abi import BPF_ANY, Cmd, ElemFlag, MapType
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, call
from rawbpf.syscall.errors import BpfError, bpf_error
from rawbpf.syscall.info import MapInfo, check_is_map, describe, obj_get_info_by_fd
from rawbpf.syscall.proc import possible_cpus
from rawbpf.syscall.rules import QUEUE_AND_STACK, check_key, check_push_flags

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData

# A bloom filter has values alone, too: an update adds one, a lookup asks whether it may be there.
_WITHOUT_KEYS = (*QUEUE_AND_STACK, MapType.BPF_MAP_TYPE_BLOOM_FILTER)

_PER_CPU = (
    MapType.BPF_MAP_TYPE_PERCPU_HASH,
    MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH,
    MapType.BPF_MAP_TYPE_PERCPU_ARRAY,
    MapType.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
)

_ONE_CPU = ElemFlag.BPF_F_CPU | ElemFlag.BPF_F_ALL_CPUS


def map_update_elem(fd: int, key: "Buffer | None", value: "Buffer", flags: int = BPF_ANY) -> None:
    """BPF_MAP_UPDATE_ELEM: stores a value under a key; in a queue or stack it pushes the value.

    Queues and stacks: `key` is None, `flags` BPF_ANY or BPF_EXIST (full: the oldest is overwritten). Maps with keys:
    `flags` BPF_ANY, BPF_NOEXIST (only a new key) or BPF_EXIST (only a key that is there), and those of the map's type.
    Key and value have exactly the bytes of the map; of a per-CPU map the value has those of every possible CPU, each
    value_size rounded up to 8.

    Raises ValueError for a broken rule; TypeError for the descriptor of something else; Full (E2BIG, ENOSPC);
    AlreadyExists (EEXIST), NoSuchKey (ENOENT); NotPermitted (EPERM: read-only descriptor or frozen map); Busy (EBUSY).
    Needs no capability, but write permission of the descriptor. Linux 3.18; queues and stacks 4.20. In the kernel:
    map_update_elem().
    """
    info = _info_of(fd, key)
    if info.type in QUEUE_AND_STACK:
        check_push_flags(flags)
    data = _sized("value", value, value_bytes(info, flags), info)
    _element_call(Cmd.BPF_MAP_UPDATE_ELEM, fd, info, key, data, flags)


def map_lookup_elem(fd: int, key: "Buffer | None", *, flags: int = 0) -> bytes:
    """BPF_MAP_LOOKUP_ELEM: the value of a key; of a queue or stack the element that the next pop would take (peek).

    `key` is None for queues and stacks. `flags` may be BPF_F_LOCK (Linux 5.1) for maps whose values have a spin lock.
    The bytes are as many as map_update_elem() takes.

    Raises ValueError for a broken rule; Empty (ENOENT), NoSuchKey (ENOENT), NotPermitted (EPERM: write-only
    descriptor), Busy (EBUSY), Unsupported (ENOTSUPP). Needs no capability, but read permission of the descriptor.
    Linux 3.18; queues and stacks 4.20. In the kernel: map_lookup_elem().
    """
    return _lookup(Cmd.BPF_MAP_LOOKUP_ELEM, fd, key, flags)


def map_lookup_and_delete_elem(fd: int, key: "Buffer | None", *, flags: int = 0) -> bytes:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM: the value of a key, which leaves the map; of a queue or stack it pops.

    `key` is None for queues and stacks. `flags` may be BPF_F_LOCK (Linux 5.14) for hash maps whose values have a lock.

    Raises ValueError for a broken rule; Empty (ENOENT), NoSuchKey (ENOENT), NotPermitted (EPERM: the descriptor is not
    read-write, or the map is frozen), Busy (EBUSY), Unsupported (ENOTSUPP: a type without it, such as an array). Needs
    no capability. Linux 4.20 for queues and stacks, 5.14 for hash maps. In the kernel: map_lookup_and_delete_elem().
    """
    return _lookup(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, key, flags)


def map_delete_elem(fd: int, key: "Buffer") -> None:
    """BPF_MAP_DELETE_ELEM: takes a key and its value out of a map. Queues and stacks have no keys: ValueError.

    Raises NoSuchKey (ENOENT), Unsupported (EINVAL: the elements of an array stay), NotPermitted (EPERM: read-only
    descriptor or frozen map), Busy (EBUSY). Needs no capability, but write permission of the descriptor. Linux 3.18. In
    the kernel: map_delete_elem().
    """
    info = _with_keys(fd, key)
    _element_call(Cmd.BPF_MAP_DELETE_ELEM, fd, info, key, None)


def map_get_next_key(fd: int, key: "Buffer | None") -> bytes | None:
    """BPF_MAP_GET_NEXT_KEY: the key after `key`; the first for None or a key that is not there; None after the last.

    Queues and stacks have no keys: ValueError. Keys that come and go meanwhile may be missed, or start it over.

    Raises NotPermitted (EPERM: write-only descriptor), Unsupported (ENOTSUPP). Needs no capability, but read permission
    of the descriptor. Linux 3.18; `key` None since 4.12. In the kernel: map_get_next_key().
    """
    info = _with_keys(fd, key)
    found = ffi.new("char[]", info.key_size)
    error = _try_element_call(Cmd.BPF_MAP_GET_NEXT_KEY, fd, key, next_key=address_of(found))
    if error == errno.ENOENT:
        return None
    if error:
        raise element_error(Cmd.BPF_MAP_GET_NEXT_KEY, -error, fd, info)
    return bytes(ffi.buffer(found))


def _lookup(cmd: Cmd, fd: int, key: "Buffer | None", flags: int) -> bytes:
    info = _info_of(fd, key)
    if flags and info.type in QUEUE_AND_STACK:
        raise ValueError("a peek and a pop take no flags (EINVAL)")
    value = ffi.new("char[]", value_bytes(info, flags))
    _element_call(cmd, fd, info, key, value, flags)
    return bytes(ffi.buffer(value))


def _element_call(
    cmd: Cmd, fd: int, info: MapInfo, key: "Buffer | None", value: "CData | None", flags: int = 0
) -> None:
    error = _try_element_call(cmd, fd, key, value=0 if value is None else address_of(value), flags=flags)
    if error:
        raise element_error(cmd, -error, fd, info)


def _try_element_call(cmd: Cmd, fd: int, key: "Buffer | None", **fields: int) -> int:
    """An element command; the errno, 0 for success."""
    data = None if key is None else ffi.new("char[]", bytes(key))
    attr = bpf_attr(map_fd=fd, key=0 if data is None else address_of(data), **fields)
    return -min(call(cmd, attr), 0)


def value_bytes(info: MapInfo, flags: int = 0) -> int:
    """How many bytes the kernel reads or writes for a value of this map: more than value_size if it has one for each
    CPU, unless `flags` ask for one (BPF_F_CPU, BPF_F_ALL_CPUS; Linux 7.0)."""
    if info.type in _PER_CPU and not flags & _ONE_CPU:
        return (info.value_size + 7) // 8 * 8 * possible_cpus()
    return info.value_size


def _info_of(fd: int, key: "Buffer | None") -> MapInfo:
    """The map's info, if the key is one of it; no element call is made before."""
    info = obj_get_info_by_fd(fd)
    check_is_map(fd, info)
    if info.type in _WITHOUT_KEYS:
        check_key(key)
    elif key is None:
        raise ValueError(f"{describe(info)} has keys of {info.key_size} bytes: None is none (EFAULT)")
    else:
        _sized("key", key, info.key_size, info)
    return info


def _with_keys(fd: int, key: "Buffer | None") -> MapInfo:
    """The info of a map that has keys. None is the key before the first."""
    info = obj_get_info_by_fd(fd)
    check_is_map(fd, info)
    if info.type in _WITHOUT_KEYS:
        raise ValueError(f"{describe(info)} has no keys (EINVAL)")
    if key is not None:
        _sized("key", key, info.key_size, info)
    return info


def _sized(name: str, data: "Buffer", size: int, info: MapInfo) -> "CData":
    """A copy of the data, if it has the map's size."""
    copy = memoryview(data).tobytes()
    if len(copy) != size:
        raise ValueError(f"the {name} has {len(copy)} bytes, and {describe(info)} wants {size}")
    return ffi.new("char[]", copy)


def element_error(cmd: Cmd, result: int, fd: int, info: MapInfo) -> BpfError:
    """The exception for an element command that answered `result`."""
    return bpf_error(cmd, -result, fd=fd, about=info.type, subject=describe(info), max_entries=info.max_entries)
