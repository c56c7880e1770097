"""open_map(): the kernel says of which type a map is, and the class for that type opens it."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rawbpf import syscall
from rawbpf.abi import MapType
from rawbpf.maps.listing import id_of_name
from rawbpf.maps.map import map_info_of, open_flags
from rawbpf.syscall import StrPath

if TYPE_CHECKING:
    from collections.abc import Callable

    from rawbpf.maps.queue_stack import Queue, Stack
    from rawbpf.values.codecs import OpenSpec

# Which class a type of map has, and where it stands: nothing is imported before it is needed.
_CLASSES = {
    MapType.BPF_MAP_TYPE_HASH: "hash:Hash",
    MapType.BPF_MAP_TYPE_ARRAY: "array:Array",
    MapType.BPF_MAP_TYPE_PROG_ARRAY: "of_descriptors:ProgArray",
    MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY: "of_descriptors:PerfEventArray",
    MapType.BPF_MAP_TYPE_PERCPU_HASH: "hash:PerCpuHash",
    MapType.BPF_MAP_TYPE_PERCPU_ARRAY: "array:PerCpuArray",
    MapType.BPF_MAP_TYPE_CGROUP_ARRAY: "of_descriptors:CgroupArray",
    MapType.BPF_MAP_TYPE_LRU_HASH: "hash:LruHash",
    MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH: "hash:LruPerCpuHash",
    MapType.BPF_MAP_TYPE_LPM_TRIE: "lpm_trie:LpmTrie",
    MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS: "of_descriptors:ArrayOfMaps",
    MapType.BPF_MAP_TYPE_HASH_OF_MAPS: "of_descriptors:HashOfMaps",
    MapType.BPF_MAP_TYPE_DEVMAP: "of_descriptors:DevMap",
    MapType.BPF_MAP_TYPE_SOCKMAP: "of_descriptors:SockMap",
    MapType.BPF_MAP_TYPE_CPUMAP: "of_descriptors:CpuMap",
    MapType.BPF_MAP_TYPE_XSKMAP: "of_descriptors:XskMap",
    MapType.BPF_MAP_TYPE_SOCKHASH: "of_descriptors:SockHash",
    MapType.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: "of_descriptors:ReuseportSockArray",
    MapType.BPF_MAP_TYPE_QUEUE: "queue_stack:Queue",
    MapType.BPF_MAP_TYPE_STACK: "queue_stack:Stack",
    MapType.BPF_MAP_TYPE_DEVMAP_HASH: "of_descriptors:DevMapHash",
    MapType.BPF_MAP_TYPE_RINGBUF: "ring_buffer:RingBuffer",
}


def class_for(map_type: MapType) -> Any:
    """The class for maps of a type; OtherMap for those that have none of their own."""
    module, _, name = _CLASSES.get(map_type, "other:OtherMap").partition(":")
    return getattr(import_module(f"rawbpf.maps.{module}"), name)


def open_map(spec: StrPath, value: "OpenSpec" = None, *, key: "OpenSpec" = None, access: str = "rw") -> Any:
    """Opens a map as what the kernel says it is: a Queue, a Hash, a RingBuffer ...

    Args:
        spec: A pin's path, "id:294", or "name:events". (A relative path that begins so: "./id:294".)
        value: What an element or a value is, as in Queue.open(): None for bytes, rawbpf.BTF for what the map says.
        key: The same for the keys, of a map that has keys which are no indexes.
        access: "rw", "r" or "w".

    Raises what the class's open(), from_id() and from_name() raise; TypeError for keys of a map that takes none.

    >>> with Stack("<I", 3) as s, open_map(f"id:{s.id}", "<I") as same:
    ...     s.push(7)
    ...     type(same).__name__, same.pop()
    ('Stack', 7)
    """
    fd = _opened(spec, tuple(MapType), access)
    try:
        return map_from_fd(fd, value, key=key)
    except BaseException:
        os.close(fd)
        raise


def open_queue_or_stack(spec: StrPath, value: "OpenSpec" = None, *, access: str = "rw") -> "Queue[Any] | Stack[Any]":
    """As open_map(), for a queue or a stack: TypeError for any other map, and a name is looked for among these."""
    fd = _opened(spec, syscall.QUEUE_AND_STACK, access)
    try:
        info = map_info_of(fd)
        if info.type not in syscall.QUEUE_AND_STACK:
            raise TypeError(f"{syscall.describe(info)} is neither a queue nor a stack")
        m: Queue[Any] | Stack[Any] = map_from_fd(fd, value)
        return m
    except BaseException:
        os.close(fd)
        raise


def _opened(spec: StrPath, types: tuple[MapType, ...], access: str) -> int:
    """The descriptor of what open_map() is given; a name is looked for among maps of these types."""
    kind, _, rest = os.fsdecode(spec).partition(":")
    if kind == "id" and rest:
        if not rest.isdecimal():
            raise ValueError(f"{rest!r} is not a map's id")
        return syscall.map_get_fd_by_id(int(rest), open_flags(access))
    if kind == "name" and rest:
        return syscall.map_get_fd_by_id(id_of_name(rest, types), open_flags(access))
    return syscall.obj_get(spec, open_flags(access))


def map_from_fd(fd: int, value: "OpenSpec" = None, *, key: "OpenSpec" = None) -> Any:
    """Takes over a map's descriptor, as what the kernel says it is. On an error it stays the caller's, open.

    Raises TypeError for the descriptor of something else; see open_map().
    """
    info = map_info_of(fd)
    kind = class_for(info.type)
    given = {"value": value, "key": key}
    names = getattr(kind, "spec_names", ("value",))
    if key is not None and "key" not in names:
        raise TypeError(f"{syscall.describe(info)} takes no specification of keys")
    return kind.from_fd(fd, **{name: given[name] for name in names})


def map_from_new_fd(make: "Callable[[], int]", map_type: MapType, **specs: Any) -> Any:
    """The map of the descriptor that make() returns. At every moment it has one owner: it is closed on an error."""
    return class_for(map_type).from_fd(make, **specs)
