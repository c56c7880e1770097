"""How many elements a map holds, and how many came and went between two looks.

The kernel counts neither pushes nor pops. What it has are positions:

- of a queue, the slot that is pushed next (`head`) and the one that is popped next (`tail`), modulo the ring's size. A
  push that overwrites the oldest element moves both.
- of a stack, the `head`, which a push moves forth and a pop back, and the `tail`, which only overwriting moves.
- of a ring buffer, the producers' and the consumer's position in bytes, which only grow.

So two looks at a queue or stack tell how many elements came and went at least: when the ring went round in between,
that is not seen. Of a ring buffer they tell it exactly, in bytes.
"""

import mmap
import struct
from typing import Any, NamedTuple

from rawbpf.abi import MapType
from rawbpf.maps.opening import open_map
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.maps.ring_buffer import RingBuffer

# The types of maps that can be looked at.
TYPES = (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK, MapType.BPF_MAP_TYPE_RINGBUF)


class Look(NamedTuple):
    """A moment: how many elements are in the map (a ring buffer: bytes), and the two positions."""

    size: int
    head: int
    tail: int


def open_to_look(spec: str) -> Any:
    """Opens a map so that it can be looked at, and no further: see open_map().

    A ring buffer's descriptor must be writable, because mmap(2) makes no shared mapping of a file that is not.
    """
    m = open_map(spec, access="r")
    if isinstance(m, RingBuffer):
        m.close()
        m = open_map(spec)
    return m


def look(m: "QueueOrStack[Any] | RingBuffer[Any]") -> Look:
    """What is in a map now.

    For a queue or stack it raises NotPermitted without CAP_BPF and CAP_PERFMON, Unsupported if the kernel is older than
    Linux 5.9 or has no BTF; for a ring buffer, which needs no capability, OSError if it can't be mapped.
    """
    if isinstance(m, RingBuffer):
        tail, head = (_position(m, page) for page in (0, 1))
        return Look(max(head - tail, 0), head, tail)
    head, tail = m._inspected().positions()
    return Look((head - tail) % (m.max_entries + 1), head, tail)


def _position(ring: RingBuffer[Any], page: int) -> int:
    """The consumer's position (page 0) or the producers' (page 1)."""
    offset = page * mmap.PAGESIZE
    with mmap.mmap(ring.fileno(), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset) as memory:
        (found,) = struct.unpack_from("=Q", memory)
    return int(found)


def moved(m: "QueueOrStack[Any] | RingBuffer[Any]", before: Look, after: Look) -> tuple[int, int]:
    """How many elements came, and how many went (were popped or overwritten), at least; of a ring buffer, bytes."""
    if isinstance(m, RingBuffer):
        return after.head - before.head, after.tail - before.tail
    slots = m.max_entries + 1
    came, went = (after.head - before.head) % slots, (after.tail - before.tail) % slots
    if m.map_types == (MapType.BPF_MAP_TYPE_STACK,):
        # What moved the tail was overwritten by a push; the head moves both ways.
        grown = after.size - before.size
        came = max(grown + went, went)
        went = came - grown
    return came, went
