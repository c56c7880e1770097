"""Maps whose values are other things: maps, programs, sockets, cgroups, perf events, interfaces, CPUs.

What is put in is a descriptor, or an object that has one. What is read back is an id where the kernel gives one: of a
map or a program, or a socket's cookie. The map keeps what is in it alive.
"""

import sys
from typing import Any

from rawbpf import syscall
from rawbpf.abi import MapType
from rawbpf.maps.array import INDEX, IndexedMap
from rawbpf.maps.deleting import DeletingMap
from rawbpf.maps.hash import HashMap, OpenedByKey
from rawbpf.maps.keyed import K, KeyedMap
from rawbpf.maps.opening import open_map
from rawbpf.syscall import MapInfo
from rawbpf.syscall.descriptor import HasFileno, fileno_of
from rawbpf.values.codecs import OpenSpec, OwnCodec, ValueSpec, codec_for

_U32 = 4
_U64 = 8


class DescriptorCodec(OwnCodec):
    """A descriptor on its way in, an id or a cookie on its way out; 4 bytes, or 8."""

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, value: "int | HasFileno") -> bytes:
        return syscall.check_fd(fileno_of(value)).to_bytes(self.size, sys.byteorder)

    def decode(self, data: bytes) -> int:
        return int.from_bytes(data, sys.byteorder)

    def __repr__(self) -> str:
        return f"descriptors in {self.size} bytes"


class _OfDescriptors(KeyedMap[K, Any]):
    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        key, value = specs
        return super()._codecs_of(info, key, DescriptorCodec(info.value_size) if value is None else value)


class DescriptorArray(_OfDescriptors[int], IndexedMap[Any], DeletingMap[int, Any]):
    """What arrays of descriptors have in common: an empty place is no key, and del m[index] empties one."""

    value_bytes = _U32

    # A batch of the kernel ends at an empty place, with EINTR.
    _has_batches = False

    def __init__(
        self,
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE) with so many empty places; the other arguments are those of Hash().

        Raises what Hash() raises.
        """
        self._create(
            INDEX,
            DescriptorCodec(self.value_bytes),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=False,
        )


class ProgArray(DescriptorArray):
    """Programs for bpf_tail_call() (BPF_MAP_TYPE_PROG_ARRAY); reading gives their ids. Linux 4.2.

    >>> with ProgArray(8, name="stages") as stages:
    ...     0 in stages, stages.max_entries
    (False, 8)
    """

    map_types = (MapType.BPF_MAP_TYPE_PROG_ARRAY,)


class PerfEventArray(DescriptorArray):
    """Perf events, one for each CPU, for bpf_perf_event_output() (BPF_MAP_TYPE_PERF_EVENT_ARRAY). They can't be read
    back: BpfError, ENOTSUPP. Linux 4.3.

    >>> with PerfEventArray(2) as events:
    ...     events.max_entries
    2
    """

    map_types = (MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY,)


class CgroupArray(DescriptorArray):
    """Cgroups, by descriptors of their folders (BPF_MAP_TYPE_CGROUP_ARRAY). They can't be read back: BpfError,
    ENOTSUPP. Linux 4.8.

    >>> with CgroupArray(2) as cgroups:
    ...     cgroups.max_entries
    2
    """

    map_types = (MapType.BPF_MAP_TYPE_CGROUP_ARRAY,)


class XskMap(DescriptorArray):
    """AF_XDP sockets, by queue (BPF_MAP_TYPE_XSKMAP). They can't be read back: Unsupported. Linux 4.18.

    >>> with XskMap(4) as sockets:
    ...     sockets.max_entries
    4
    """

    map_types = (MapType.BPF_MAP_TYPE_XSKMAP,)


class SockMap(DescriptorArray):
    """TCP, UDP and Unix sockets (BPF_MAP_TYPE_SOCKMAP); reading gives their cookies. Linux 4.14, reading 5.7.

    >>> with SockMap(4) as sockets:
    ...     list(sockets)
    []
    """

    map_types = (MapType.BPF_MAP_TYPE_SOCKMAP,)
    value_bytes = _U64


class ReuseportSockArray(DescriptorArray):
    """Sockets with SO_REUSEPORT (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY); reading gives their cookies. Linux 4.19.

    >>> with ReuseportSockArray(4) as sockets:
    ...     list(sockets)
    []
    """

    map_types = (MapType.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,)
    value_bytes = _U64


class SockHash(_OfDescriptors[K], OpenedByKey[K, Any]):
    """Sockets by keys of any kind (BPF_MAP_TYPE_SOCKHASH); reading gives their cookies. Linux 4.18, reading 5.7.

    >>> with SockHash("<IH2x", 64) as sockets:
    ...     (0x7F000001, 80) in sockets
    False
    """

    map_types = (MapType.BPF_MAP_TYPE_SOCKHASH,)

    def __init__(
        self,
        key: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE); the arguments are those of Hash(). Raises what Hash() raises."""
        self._create(
            codec_for(key),
            DescriptorCodec(_U64),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=False,
        )


# Maps of maps


class _OfMaps(_OfDescriptors[K]):
    def inner(self, key: K, inner_key: "OpenSpec" = None, inner_value: "OpenSpec" = None, *, access: str = "rw") -> Any:
        """Opens the map that is at a key, as the class for its type; close it. Needs CAP_SYS_ADMIN.

        `inner_key`, `inner_value` and `access` are as in open_map(). Raises NoSuchKey, NotFound if the map was replaced
        and freed meanwhile.
        """
        return open_map(f"id:{self[key]}", inner_value, key=inner_key, access=access)


class ArrayOfMaps(_OfMaps[int], DescriptorArray):
    """Maps of one kind by index (BPF_MAP_TYPE_ARRAY_OF_MAPS); reading gives their ids, inner() opens one. Linux 4.12.

    >>> with Hash("<I", "<Q", 8) as inner, ArrayOfMaps(inner, 4) as outer:
    ...     outer[2] = inner
    ...     list(outer), outer[2] == inner.id
    ([2], True)
    """

    map_types = (MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS,)

    def __init__(
        self,
        inner: "int | HasFileno",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE).

        `inner` is a map as those that will be in it: of their type, key_size, value_size and flags, and (before 5.10,
        and for arrays) max_entries. It is not put in. The other arguments are those of Hash(). Raises what Hash()
        raises.
        """
        self._create(
            INDEX,
            DescriptorCodec(_U32),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=False,
            inner_map_fd=syscall.check_fd(fileno_of(inner)),
        )


class HashOfMaps(_OfMaps[K], HashMap[K, Any]):
    """Maps of one kind by keys (BPF_MAP_TYPE_HASH_OF_MAPS); reading gives their ids, inner() opens one. Linux 4.12.

    >>> with Queue("<I", 8) as inner, HashOfMaps("<I", inner, 4) as outer:
    ...     outer[7] = inner
    ...     inner.push(1)
    ...     with outer.inner(7, inner_value="<I") as same:
    ...         same.pop()
    1
    """

    map_types = (MapType.BPF_MAP_TYPE_HASH_OF_MAPS,)
    # Taking one out by a single command is refused, and a batch would free the maps that it names.
    _has_take = False
    _drains_in_batches = False

    def __init__(
        self,
        key: "ValueSpec",
        inner: "int | HasFileno",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE); `inner` is that of ArrayOfMaps(), the other arguments are those of Hash().

        Raises what Hash() raises.
        """
        self._create(
            codec_for(key),
            DescriptorCodec(_U32),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=False,
            inner_map_fd=syscall.check_fd(fileno_of(inner)),
        )


# Interfaces and CPUs, for XDP


class DevMap(IndexedMap[Any], DeletingMap[int, Any]):
    """Interfaces for bpf_redirect_map(), by place (BPF_MAP_TYPE_DEVMAP). Linux 4.14.

    A value is struct bpf_devmap_val: the interface's index ("=I"), and from 5.8 on a program ("=Ii": 0 is none).

    >>> with DevMap("=I", 4) as interfaces:
    ...     interfaces[0] = 1  # lo
    ...     dict(interfaces)
    {0: 1}
    """

    map_types = (MapType.BPF_MAP_TYPE_DEVMAP,)
    _has_batches = False


class DevMapHash(HashMap[K, Any]):
    """Interfaces for bpf_redirect_map(), by a number of 32 bits (BPF_MAP_TYPE_DEVMAP_HASH). Linux 5.4.

    >>> with DevMapHash("=I", "=I", 4) as interfaces:
    ...     interfaces[1000] = 1  # lo
    ...     dict(interfaces)
    {1000: 1}
    """

    map_types = (MapType.BPF_MAP_TYPE_DEVMAP_HASH,)
    _has_batches = False
    _drains_in_batches = False


class CpuMap(IndexedMap[Any], DeletingMap[int, Any]):
    """CPUs for bpf_redirect_map(), by number (BPF_MAP_TYPE_CPUMAP). Linux 4.15.

    A value is struct bpf_cpumap_val: how many packets its queue holds ("=I"), and from 5.9 on a program ("=Ii").

    >>> with CpuMap("=I", 1) as cpus:
    ...     cpus[0] = 64
    ...     cpus[0]
    64
    """

    map_types = (MapType.BPF_MAP_TYPE_CPUMAP,)
    _has_batches = False
