"""struct map, struct batch and struct scratch of bpf.h, made in Python for the functions in door.c."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rawbpf.abi._native import ffi, lib

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_HEADER = ffi.sizeof("struct batch")


def new_map(fd: int, value_size: int) -> "CData":
    """A struct map for an open descriptor. Who closes the descriptor calls map_retire() first."""
    return ffi.new("struct map *", {"fd": fd, "value_size": value_size})


def forget_calls(m: "CData") -> None:
    """In a forked child: the calls under way are of threads that are not here, and what is held is the parent's."""
    m.calls = m.held = 0


def new_batch(m: "CData", capacity: int) -> "tuple[CData, bytearray, memoryview]":
    """A struct batch with room for `capacity` elements, its memory, whose first byte is its state, and a view of that
    room. The caller keeps the map alive."""
    memory = bytearray(_HEADER + capacity * m.value_size)
    batch = ffi.from_buffer("struct batch *", memory)
    batch.map, batch.capacity = m, capacity
    batch.data = ffi.from_buffer("char[]", memoryview(memory)[_HEADER:])
    return batch, memory, memoryview(memory)[_HEADER:]


def forget_batches(batches: "list[CData]", scratches: "list[CData]") -> None:
    """In a forked child: what calls under way have in these batches is the parent's. So is the memory of the scratches:
    they stay in use, for calls that go on in the child."""
    for batch in batches:
        batch.first = batch.count = 0
        batch.scratch = ffi.NULL
    for scratch in scratches:
        scratch.busy = 1


def batch_holding(batch: "CData") -> Iterator[object]:
    """batch_hold(), when the iterator is asked for its item."""
    return map(lib.batch_hold, (batch,))


def new_scratch(
    m: "CData", memory: memoryview, data: int, capacity: int, pop_attr: "CData", push_attr: "CData", attr_size: int
) -> "CData":
    """A struct scratch for memory whose words stand at its beginning and whose elements begin at byte `data`. The
    caller keeps all of these alive."""
    scratch = ffi.new("struct scratch *")
    scratch.batch.map, scratch.batch.capacity = m, capacity
    scratch.batch.data = ffi.from_buffer("char[]", memory[data:])
    scratch.words = ffi.from_buffer("uint32_t[]", memory[:data])
    scratch.pop_attr, scratch.push_attr, scratch.attr_size = pop_attr, push_attr, attr_size
    return scratch
