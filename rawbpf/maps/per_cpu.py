"""Values that every CPU has of its own: a list, one value for each possible CPU.

The kernel reads and writes them all at once: for each possible CPU the value, padded to a multiple of 8 bytes. A buffer
of value_size bytes would be overrun.

Source: bpf_map_value_size() in kernel/bpf/syscall.c.
"""

from typing import Any

from rawbpf import syscall
from rawbpf.abi import MapType
from rawbpf.syscall import MapInfo
from rawbpf.syscall.proc import possible_cpus
from rawbpf.values.codecs import Codec


def buffer_size(info: MapInfo) -> int:
    """How many bytes the kernel reads or writes for one value of a map, at most."""
    if is_known(info.type):
        return syscall.value_bytes(info)
    return padded(info.value_size) * possible_cpus()


def is_known(map_type: MapType) -> bool:
    """Whether it is a type of which is known what its values are; a newer one may have a value for each CPU."""
    return bool(map_type.since)


def padded(size: int) -> int:
    """The size of one CPU's value in the buffer, in bytes."""
    return -(-size // 8) * 8


class PerCpuValues:
    """A list of values, one for each possible CPU, by the codec of one of them."""

    def __init__(self, codec: Codec[Any]) -> None:
        self._codec = codec
        self._padded = padded(codec.size)
        self._cpus = possible_cpus()

    def encode(self, values: "list[Any] | tuple[Any, ...]") -> bytes:
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"the value is a list, one for each CPU, not {type(values).__name__}")
        if len(values) != self._cpus:
            raise ValueError(f"there are {len(values)} values, and {self._cpus} possible CPUs")
        return b"".join([self._codec.encode(value).ljust(self._padded, b"\0") for value in values])

    def decode(self, data: bytes) -> list[Any]:
        size, step = self._codec.size, self._padded
        return [self._codec.decode(data[at : at + size]) for at in range(0, step * self._cpus, step)]
