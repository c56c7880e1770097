"""Hash maps: Hash, LruHash, and those with a value for each CPU."""

from typing import TYPE_CHECKING, Any

from rawbpf.abi import MapType
from rawbpf.maps.deleting import DeletingMap
from rawbpf.maps.keyed import K, V
from rawbpf.maps.per_cpu import PerCpuValues
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.values.codecs import Codec, OpenSpec, ValueSpec, codec_for

if TYPE_CHECKING:
    from typing_extensions import Self


class OpenedByKey(DeletingMap[K, V]):
    """How maps are opened whose keys need a specification, as their values do."""

    @classmethod
    def open(cls, path: StrPath, key: "OpenSpec" = None, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map that is pinned at `path` (BPF_OBJ_GET).

        Args:
            path: A pin in a bpffs.
            key, value: As for creation; None is bytes of the map's own sizes. rawbpf.BTF: by the C types that the map
                carries, see rawbpf.values.btf_codec; that needs CAP_SYS_ADMIN.
            access: "rw", "r" or "w".

        Raises:
            NotFound: Nothing is pinned there.
            NotPermitted: The file's mode does not allow the access, or the file is no pin (EACCES).
            TypeError: The pin is of something else: another type of map, a program.
            ValueError: `key` or `value` has not the map's size, or is BTF and the map carries none.
        """
        return cls._open(path, key, value, access=access)

    @classmethod
    def from_id(cls, map_id: int, key: "OpenSpec" = None, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map with this id (BPF_MAP_GET_FD_BY_ID); needs CAP_SYS_ADMIN. Otherwise as open()."""
        return cls._from_id(map_id, key, value, access=access)

    @classmethod
    def from_name(cls, name: str, key: "OpenSpec" = None, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the one map of this type and name among all on the system; needs CAP_SYS_ADMIN.

        Raises NotFound if there is none, ValueError if there are several, and what open() raises.
        """
        return cls._from_name(name, key, value, access=access)

    @classmethod
    def from_fd(cls, fd: int, key: "OpenSpec" = None, value: "OpenSpec" = None) -> "Self":
        """Takes over a descriptor: from now on close() closes it. On an error it stays the caller's, open."""
        return cls._from_fd(fd, key, value)


class HashMap(OpenedByKey[K, V]):
    """What hashes have in common: how they are made, and that batches go over them bucket by bucket."""

    _batches_repeat_keys = False
    _drains_in_batches = True

    def __init__(
        self,
        key: "ValueSpec",
        value: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
        btf: bool = False,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE).

        Args:
            key: What a key is: a size in bytes, a struct format ("<IH"), a ctypes type, or a codec; see Queue().
                Padding is part of a key: the kernel compares all bytes.
            value: What a value is; of one CPU, in a map that has one for each.
            max_entries: How many keys the map holds.
            name: Shown by info() and bpftool: at most 15 characters of [A-Za-z0-9_.].
            flags: MapFlag bits: BPF_F_NO_PREALLOC takes memory only when a key is added.
            numa_node: Where the memory comes from (sets BPF_F_NUMA_NODE); -1 is anywhere.
            token: A BPF token, as descriptor or object with fileno() (Linux 6.9).
            btf: Describe key and value to the kernel (BPF_BTF_LOAD): bpftool then shows fields, and the map can be
                opened with rawbpf.BTF.

        Raises:
            ValueError, TypeError: An argument breaks a rule, or is nothing that BTF can describe.
            NotPermitted: No CAP_BPF (before 5.8: CAP_SYS_ADMIN, except for Hash).
            BpfError: EINVAL: the kernel does not take a size or a flag; ENOMEM, EMFILE, ENFILE.

        Source: Documentation/bpf/map_hash.rst.
        """
        self._create(
            codec_for(key),
            codec_for(value),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=btf,
        )


class Hash(HashMap[K, V]):
    """A hash in the kernel (BPF_MAP_TYPE_HASH): a dict that BPF programs and processes share. Linux 3.19.

    >>> with Hash("<I", 16, 1024, name="owners") as owners:
    ...     owners[8080] = b"nginx".ljust(16)
    ...     owners.get(8081), 8080 in owners, dict(owners.items())
    (None, True, {8080: b'nginx           '})
    """

    map_types = (MapType.BPF_MAP_TYPE_HASH,)


class LruHash(HashMap[K, V]):
    """A hash that is never full (BPF_MAP_TYPE_LRU_HASH): a new key takes the place of one that was not used for long.

    A small one evicts keys before max_entries are in it: the kernel keeps free entries for each CPU. Linux 4.10.

    >>> with LruHash("<I", "<I", 1024) as seen:
    ...     seen[1] = 2
    ...     seen.pop(1)
    2
    """

    map_types = (MapType.BPF_MAP_TYPE_LRU_HASH,)


class _PerCpu(HashMap[K, "list[V]"]):
    def _whole_value(self, codec: Codec[Any], info: MapInfo) -> tuple[Any, Any]:
        whole = PerCpuValues(codec)
        return whole.encode, whole.decode


class PerCpuHash(_PerCpu[K, V]):
    """A hash with a value for each possible CPU, as a list (BPF_MAP_TYPE_PERCPU_HASH). Linux 4.6.

    A program reads and writes that of the CPU on which it runs, so that no two of them ever meet.

    >>> from rawbpf.syscall.proc import possible_cpus
    >>> with PerCpuHash("<I", "<Q", 64) as counters:
    ...     counters[7] = [1] * possible_cpus()
    ...     sum(counters[7]) == possible_cpus()
    True
    """

    map_types = (MapType.BPF_MAP_TYPE_PERCPU_HASH,)


class LruPerCpuHash(_PerCpu[K, V]):
    """A PerCpuHash that evicts as LruHash does (BPF_MAP_TYPE_LRU_PERCPU_HASH). Linux 4.10.

    >>> from rawbpf.syscall.proc import possible_cpus
    >>> with LruPerCpuHash("<I", "<Q", 64) as counters:
    ...     counters[7] = [1] * possible_cpus()
    ...     len(counters.pop(7)) == possible_cpus()
    True
    """

    map_types = (MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH,)
