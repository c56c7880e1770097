"""OtherMap: maps of a type that has no class of its own."""

from typing import Any

from rawbpf import syscall
from rawbpf.abi import MapType
from rawbpf.maps.hash import OpenedByKey
from rawbpf.maps.keyed import K, V
from rawbpf.maps.per_cpu import PerCpuValues, buffer_size, is_known
from rawbpf.syscall import MapInfo
from rawbpf.values.codecs import Codec, RawBytes


class OtherMap(OpenedByKey[K, V]):
    """A map of any other type, as open_map() gives it: info(), pin(), freeze(), and its elements as bytes.

    Keys and values are bytes unless the caller says otherwise; where each CPU has a value, they are a list. What a type
    does not support the kernel refuses: BpfError, mostly with EINVAL or ENOTSUPP. A map without keys has no elements
    here. Values of a type that is newer than this rawbpf are bytes, more than the map says: it may have one for each
    CPU.

    >>> attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_BLOOM_FILTER, value_size=4, max_entries=64)
    >>> with OtherMap.from_fd(bpf(Cmd.BPF_MAP_CREATE, attr)) as seen:
    ...     seen.info().type.name
    'BPF_MAP_TYPE_BLOOM_FILTER'
    """

    _has_batches = False

    @classmethod
    def _check_type(cls, info: MapInfo) -> None:
        """Any type will do."""

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        key, value = specs
        if info.key_size == 0:
            return RawBytes(0), RawBytes(info.value_size)
        return super()._codecs_of(info, key, value)

    def _whole_value(self, codec: Codec[Any], info: MapInfo) -> tuple[Any, Any]:
        if info.type == MapType.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE:
            whole: Any = PerCpuValues(codec)
        elif is_known(info.type):
            whole = codec
        else:
            whole = RawBytes(buffer_size(info))
        return whole.encode, whole.decode

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        super()._adopt(fd, info, *codecs)
        if info.key_size == 0:
            self._encode_key = self._no_key

    def _no_key(self, key: Any) -> bytes:
        raise TypeError(f"{syscall.describe(self._info)} has no keys")
