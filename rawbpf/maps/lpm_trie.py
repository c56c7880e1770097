"""LpmTrie: values by prefix, as in a routing table."""

import ipaddress
import struct
from typing import Any

from rawbpf.abi import MapFlag, MapType
from rawbpf.maps.hash import OpenedByKey
from rawbpf.maps.keyed import K, V
from rawbpf.syscall import MapInfo
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.values.codecs import ByBtf, StructFormat, ValueSpec, codec_for

# struct bpf_lpm_trie_key begins with a u32, the prefix's length in bits.
_LENGTH_SIZE = 4

_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)
_ADDRESSES = (ipaddress.IPv4Address, ipaddress.IPv6Address)


class LpmKey(StructFormat):
    """struct bpf_lpm_trie_key: (length of the prefix in bits, bytes), or a network of the class `network`."""

    def __init__(self, size: int, network: Any = None) -> None:
        if size <= _LENGTH_SIZE:
            raise ValueError(f"a key of {size} bytes has no room for a prefix behind its length, {_LENGTH_SIZE} bytes")
        super().__init__(struct.Struct(f"=I{size - _LENGTH_SIZE}s"))
        self._network = network

    def encode(self, value: Any) -> bytes:
        length, data = self._parts(value)
        if len(data) != self.size - _LENGTH_SIZE:
            raise ValueError(f"{value!r} has {len(data)} bytes, and keys of this map {self.size - _LENGTH_SIZE}")
        if not 0 <= length <= 8 * len(data):
            raise ValueError(f"{value!r}: a prefix here has 0 to {8 * len(data)} bits")
        return super().encode((length, data))

    def _parts(self, key: Any) -> tuple[int, bytes]:
        if isinstance(key, str):
            key = ipaddress.ip_network(key)
        if isinstance(key, _NETWORKS):
            return key.prefixlen, key.network_address.packed
        if isinstance(key, _ADDRESSES):
            return key.max_prefixlen, key.packed
        if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], int):
            return key[0], bytes(memoryview(key[1]))
        raise TypeError(f"a key is a network, an address, or (bits, bytes), not {key!r}")

    def decode(self, data: bytes) -> Any:
        length, address = super().decode(data)
        # Others may have left bits behind the prefix.
        return (length, address) if self._network is None else self._network((address, length), strict=False)


class LpmTrie(OpenedByKey[K, V]):
    """A longest-prefix-match trie in the kernel (BPF_MAP_TYPE_LPM_TRIE). Linux 4.11.

    Reading finds the longest prefix in the map that covers the key: trie["10.1.2.3"], get(), `in`. Setting and deleting
    are about the very prefix that is given, and so are pop(), setdefault() and what a listing gives.

    Keys are networks or addresses, as text or of Python's ipaddress module; or (bits, bytes), which is also what a
    listing gives of a map whose keys are specified by their size.

    >>> from ipaddress import IPv4Network
    >>> with LpmTrie(IPv4Network, "<I", 64) as routes:
    ...     routes["10.0.0.0/8"] = 1
    ...     routes["10.1.0.0/16"] = 2
    ...     routes["10.1.2.3"], routes["10.2.2.3"], "192.168.0.1" in routes
    (2, 1, False)
    """

    map_types = (MapType.BPF_MAP_TYPE_LPM_TRIE,)

    def __init__(
        self,
        key: "ValueSpec | type[ipaddress.IPv4Network] | type[ipaddress.IPv6Network]",
        value: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = MapFlag.BPF_F_NO_PREALLOC,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
        btf: bool = False,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE).

        Args:
            key: ipaddress.IPv4Network, ipaddress.IPv6Network; or the size of struct bpf_lpm_trie_key: 4 bytes more than
                the longest prefix, which has 1 to 256. Or as in Hash(), for a struct that begins with the prefix's
                length.
            flags: The kernel insists on BPF_F_NO_PREALLOC.
            value, max_entries, name, numa_node, token, btf: As in Hash().

        Raises what Hash() raises. Source: Documentation/bpf/map_lpm_trie.rst.
        """
        if not flags & MapFlag.BPF_F_NO_PREALLOC:
            raise ValueError("an LPM trie needs BPF_F_NO_PREALLOC (EINVAL)")
        self._create(
            _key_codec(key),
            codec_for(value),
            max_entries,
            name=name,
            flags=flags,
            numa_node=numa_node,
            token=token,
            btf=btf,
        )

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        cls._check_type(info)
        key, value = specs
        return super()._codecs_of(info, _key_codec(info.key_size if key is None else key), value)


def _key_codec(spec: Any) -> Any:
    """As codec_for(), with networks; a size is that of a struct bpf_lpm_trie_key."""
    if isinstance(spec, int):
        return LpmKey(spec)
    if isinstance(spec, type) and issubclass(spec, _NETWORKS):
        return LpmKey(_LENGTH_SIZE + spec(0).max_prefixlen // 8, spec)
    return spec if spec is None or isinstance(spec, ByBtf) else codec_for(spec)
