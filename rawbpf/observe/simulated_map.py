"""A simulated queue or stack: the kernel's ring buffer, kept in a file."""

import errno
import os
import struct
from typing import Any, NamedTuple

from rawbpf.abi import MapType

U32 = 0xFFFFFFFF


class Refused(Exception):
    """The simulated call fails with this errno. `log`: what Linux 7.2 writes into the caller's log, "" for nothing."""

    def __init__(self, error: int, log: str = "") -> None:
        self.errno = error
        self.log = log


def refuse_if(condition: object, error: int, log: str = "") -> None:
    """Raises Refused if the condition holds."""
    if condition:
        raise Refused(error, log)


class Header(NamedTuple):
    """The beginning of a map's file. head and tail are those of struct bpf_queue_stack."""

    magic: bytes
    id: int
    type: int
    value_size: int
    max_entries: int
    map_flags: int
    frozen: int
    head: int
    tail: int
    name: bytes
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int


HEADER = struct.Struct("=8s8I16s3I")
# Where the first slot begins in the file, in bytes.
SLOTS = 128
MAGIC = b"rawbpf 2"


class SimulatedMap:
    """The ring of kernel/bpf/queue_stack_maps.c, through a descriptor of its file that may be read and written.

    The ring has one slot more than max_entries: head == tail is empty. All sums are the kernel's 32 bits: with
    max_entries 0xFFFFFFFF the size wraps to 0, and beyond 4 GiB slots share their bytes.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.header = Header(*HEADER.unpack(os.pread(file, HEADER.size, 0)))
        self.size = (self.header.max_entries + 1) & U32

    def save(self, **changes: Any) -> None:
        self.header = self.header._replace(**changes)
        os.pwrite(self.file, HEADER.pack(*self.header), 0)

    @property
    def count(self) -> int:
        """How many elements it holds."""
        return (self.header.head - self.header.tail) % self.size if self.size else 0

    @property
    def elements(self) -> list[bytes]:
        """The elements in the order in which they would be popped."""
        slots = [(self.header.tail + number) % self.size for number in range(self.count)]
        if self.header.type == MapType.BPF_MAP_TYPE_STACK:
            slots.reverse()
        return [os.pread(self.file, self.header.value_size, self._offset(slot)) for slot in slots]

    @property
    def slots(self) -> bytes:
        """The bytes of the whole ring."""
        return os.pread(self.file, self.size * self.header.value_size, SLOTS)

    @property
    def empty(self) -> bool:
        return self.header.head == self.header.tail

    def push(self, value: bytes, replace: bool) -> None:
        head, tail = self.header.head, self.header.tail
        if self._after(head) == tail:
            refuse_if(not replace, errno.E2BIG)
            # A stack as well drops its oldest element, the one at the bottom.
            tail = self._after(tail)
        os.pwrite(self.file, value, self._offset(head))
        self.save(head=self._after(head), tail=tail)

    def peek(self) -> bytes:
        return os.pread(self.file, self.header.value_size, self._offset(self._next_out()))

    def remove(self) -> None:
        """Forgets the element that peek() gave; its bytes stay where they are."""
        if self.header.type == MapType.BPF_MAP_TYPE_QUEUE:
            self.save(tail=self._after(self.header.tail))
        else:
            self.save(head=self._next_out())

    def _next_out(self) -> int:
        if self.header.type == MapType.BPF_MAP_TYPE_QUEUE:
            return self.header.tail
        # `index = head - 1; if (index >= size) index = size - 1`, unsigned.
        before = (self.header.head - 1) & U32
        return before if before < self.size else (self.size - 1) & U32

    def _after(self, index: int) -> int:
        return index + 1 if index + 1 < self.size else 0

    def _offset(self, index: int) -> int:
        return SLOTS + (index * self.header.value_size & U32)
