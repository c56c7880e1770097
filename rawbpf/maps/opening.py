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
    held = [-1]
    try:
        held[0] = _opened(spec, tuple(MapType), access)
        return map_from_held(held, value, key=key)
    finally:
        close_held(held)


def open_queue_or_stack(spec: StrPath, value: "OpenSpec" = None, *, access: str = "rw") -> "Queue[Any] | Stack[Any]":
    """As open_map(), for a queue or a stack: TypeError for any other map, and a name is looked for among these."""
    held = [-1]
    try:
        held[0] = _opened(spec, syscall.QUEUE_AND_STACK, access)
        info = map_info_of(held[0])
        if info.type not in syscall.QUEUE_AND_STACK:
            raise TypeError(f"{syscall.describe(info)} is neither a queue nor a stack")
        m: Queue[Any] | Stack[Any] = map_from_held(held, value)
        return m
    finally:
        close_held(held)


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


def map_from_held(held: list[int], value: "OpenSpec" = None, *, key: "OpenSpec" = None) -> Any:
    """The map whose descriptor is held[0], as what the kernel says it is. The descriptor has one owner at every moment,
    whatever a signal handler raises: the list, until -1 is there, and then the map.

    Raises TypeError for the descriptor of something else; see open_map().
    """
    info = map_info_of(held[0])
    kind = class_for(info.type)
    given = {"value": value, "key": key}
    names = getattr(kind, "spec_names", ("value",))
    if key is not None and "key" not in names:
        raise TypeError(f"{syscall.describe(info)} takes no specification of keys")

    def taken() -> int:
        # No call here, in which a signal handler might run.
        fd, held[0] = held[0], -1
        return fd

    return kind.from_fd(taken, **{name: given[name] for name in names})


def close_held(held: list[int]) -> None:
    """Closes the descriptor that is still in the list."""
    if held[0] >= 0:
        os.close(held[0])


def map_from_new_fd(make: "Callable[[], int]", map_type: MapType, **specs: Any) -> Any:
    """The map of the descriptor that make() returns. At every moment it has one owner: it is closed on an error."""
    return class_for(map_type).from_fd(make, **specs)
