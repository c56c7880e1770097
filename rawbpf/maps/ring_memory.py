"""What is mapped of a ring buffer, and how its records are found there.

The memory of a ring buffer is mapped into this process, so reading needs no system call:

    page 0           the consumer's position: where the next record begins that it did not have yet. It writes it.
    page 1           the producers' position: behind the last record that was begun. The kernel writes it.
    pages 2 ...      the data, of a size that is a power of two; mapped twice in a row, so that no record is cut in two

Positions only grow; their lowest bits are the place in the data. A record begins with its length, of 4 bytes, whose
highest bit says that its producer still writes it, and the next one that it is to be left out; 4 bytes more follow, and
then the record, padded to 8 bytes.

The positions and lengths are read, and the consumer's position is written, in the order that the kernel expects: C
functions behind the door do it, with acquire loads and a fence. Where nothing could be compiled this works on x86 and
s390x, whose processors keep that order by themselves; on others, such as arm64, reading raises OSError (ENOSYS).

Source: kernel/bpf/ringbuf.c.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rawbpf import syscall
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall import MapInfo

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# The position before a record, which must be that of the hand-over still; the position behind it; its bytes.
Record = tuple[int, int, bytes]

# No position is so large.
_CLOSED = 1 << 64


class RingMemory:
    """What is mapped. `handed_over` is the position behind the last record that reached a caller in this process.

    Several threads, or loops, may look for records at the same time. A record is handed over by who finds `handed_over`
    to be still the position before it: until then its room was not given back, so that its bytes are its own.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        first = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        rest = memoryview(mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page))
        self.consumer = memoryview(first)[:8].cast("Q")
        self.producer = rest[:8].cast("Q")
        self.data = rest[page:]
        self.fence: Callable[[], None] = lib.ring_fence
        self.handed_over: int = self.consumer[0]
        self._size = size
        self._pages: tuple[CData, CData] | None = ffi.from_buffer("char[]", rest), ffi.from_buffer("char[]", self.data)

    def commit(self) -> None:
        """Gives back the room of what was handed over."""
        self.fence()
        handed_over, consumer = self.handed_over, self.consumer
        if len(consumer) and consumer[0] < handed_over < _CLOSED:
            consumer[0] = handed_over

    def forget(self) -> None:
        """Ends the use of the memory: what loops that are under way find from now on counts as handed over.

        A call that is under way in another thread keeps the memory mapped until its end.
        """
        self.commit()
        self.handed_over = _CLOSED
        self.consumer = self.producer = self.data = memoryview(b"")
        self._pages = None

    def scan(self, info: MapInfo, most: int) -> "tuple[Iterable[Record], bool]":
        """Up to `most` records that are complete, from the next one on; and whether there is anything at all."""
        self.commit()
        consumer, pages, data = self.consumer, self._pages, self.data
        if pages is None or not len(consumer):
            return (), False
        # Who has consumed through another descriptor has moved the kernel's position.
        begin = max(self.handed_over, consumer[0])
        if self.handed_over < begin:
            self.handed_over = begin
        records, end = ffi.new("struct ring_record[]", most), ffi.new("uint64_t *")
        count = lib.ring_scan(*pages, self._size, begin, records, most, end)
        if self.handed_over != begin:
            return (), True  # another thread was faster
        if count < 0:
            raise RuntimeError(f"{syscall.describe(info)}: somebody else has moved the consumer's position")
        if count:
            return _contents(begin, records, count, data), True
        found = end[0] != begin
        if found and self.handed_over == begin:
            # Nothing but what its producers discarded.
            self.handed_over = end[0]
            self.commit()
        return (), found

    def is_written(self) -> bool:
        """Whether a record was begun: the descriptor is ready then, also while its producer still writes it."""
        consumer, producer = self.consumer, self.producer
        return len(consumer) == len(producer) == 1 and consumer[0] < producer[0]


def _contents(begin: int, records: "CData", count: int, data: memoryview) -> Iterator[Record]:
    """The records, each copied out of the memory when it is asked for."""
    for index in range(count):
        record = records[index]
        after, offset = record.after, record.offset
        yield begin, after, data[offset : offset + record.length].tobytes()
        begin = after
