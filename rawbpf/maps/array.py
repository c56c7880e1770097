"""Arrays: Array, and PerCpuArray with a value for each CPU."""

import errno
import operator
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rawbpf import syscall
from rawbpf.abi import Cmd, MapType
from rawbpf.maps.keyed import KeyedMap, V
from rawbpf.maps.per_cpu import PerCpuValues
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.errors import NoSuchIndex
from rawbpf.values.codecs import Codec, OpenSpec, ValueSpec, codec_for

if TYPE_CHECKING:
    from typing_extensions import Self

INDEX = codec_for(struct.Struct("=I"))


class IndexedMap(KeyedMap[int, V]):
    """What arrays have in common: the keys are 0 to max_entries - 1, and how they are made and opened."""

    spec_names = ("value",)

    def __init__(
        self,
        value: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
        btf: bool = False,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE); all values are zero bytes.

        Args:
            value: What a value is: a size in bytes, a struct format ("<IH"), a ctypes type, or a codec; see Queue(). Of
                one CPU, in an array that has one for each.
            max_entries: How many values the array has.
            name, numa_node, token: As in Hash().
            flags: MapFlag bits: BPF_F_MMAPABLE (Linux 5.5), BPF_F_RDONLY_PROG.
            btf: Describe the value to the kernel (BPF_BTF_LOAD): bpftool then shows fields, and the map can be opened
                with rawbpf.BTF.

        Raises what Hash() raises. Source: Documentation/bpf/map_array.rst.
        """
        self._create(
            INDEX,
            codec_for(value),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=btf,
        )

    @classmethod
    def open(cls, path: StrPath, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map that is pinned at `path` (BPF_OBJ_GET).

        `value` is as for creation, None for bytes of the map's value_size, or rawbpf.BTF; `access` is "rw", "r" or "w".
        Raises what Hash.open() raises.
        """
        return cls._open(path, INDEX, value, access=access)

    @classmethod
    def from_id(cls, map_id: int, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map with this id (BPF_MAP_GET_FD_BY_ID); needs CAP_SYS_ADMIN. Otherwise as open()."""
        return cls._from_id(map_id, INDEX, value, access=access)

    @classmethod
    def from_name(cls, name: str, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the one map of this type and name among all on the system; needs CAP_SYS_ADMIN.

        Raises NotFound if there is none, ValueError if there are several, and what open() raises.
        """
        return cls._from_name(name, INDEX, value, access=access)

    @classmethod
    def from_fd(cls, fd: int, value: "OpenSpec" = None) -> "Self":
        """Takes over a descriptor: from now on close() closes it. On an error it stays the caller's, open."""
        return cls._from_fd(fd, INDEX, value)

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        super()._adopt(fd, info, *codecs)
        self._encode_key = self._raw_index

    def _raw_index(self, index: int) -> bytes:
        number = operator.index(index)
        if not 0 <= number < self._info.max_entries:
            raise NoSuchIndex(
                errno.ENOENT,
                f"{syscall.describe(self._info)} has no index {number}: they go from 0 to {self.max_entries - 1}",
                Cmd.BPF_MAP_LOOKUP_ELEM,
            )
        return INDEX.encode(number)


class ArrayMap(IndexedMap[V]):
    """An array whose values are all there from the beginning to the end: nothing is added, nothing deleted."""

    _batches_repeat_keys = False

    def __iter__(self) -> Iterator[int]:
        """The indexes, as any mapping's keys; values() are the values."""
        self.fileno()
        return iter(range(self.max_entries))

    def __len__(self) -> int:
        return self.max_entries

    def __bool__(self) -> bool:
        return True

    def _raw_keys(self) -> Iterator[bytes]:
        return map(INDEX.encode, range(self.max_entries))


class Array(ArrayMap[V]):
    """An array in the kernel (BPF_MAP_TYPE_ARRAY): a value for each index. Linux 3.19.

    >>> with Array("<Q", 4, name="counters") as counters:
    ...     counters[2] = 7
    ...     counters[2], list(counters.values())
    (7, [0, 0, 7, 0])
    """

    map_types = (MapType.BPF_MAP_TYPE_ARRAY,)


class PerCpuArray(ArrayMap["list[V]"]):
    """An array with a value for each possible CPU, as a list (BPF_MAP_TYPE_PERCPU_ARRAY). Linux 4.6.

    >>> with PerCpuArray("<Q", 4) as counters:
    ...     sum(counters[0])
    0
    """

    map_types = (MapType.BPF_MAP_TYPE_PERCPU_ARRAY,)

    def _whole_value(self, codec: Codec[Any], info: MapInfo) -> tuple[Any, Any]:
        whole = PerCpuValues(codec)
        return whole.encode, whole.decode
