"""Batch: where elements are between the kernel and a caller. Hand: what a call has in its hands."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rawbpf.abi.door import new_batch

if TYPE_CHECKING:
    from rawbpf.abi._native import CData
    from rawbpf.maps.in_kernel import InKernel


class Batch:
    """A struct batch, its memory, views of its elements and of its first `few`, and whose scratch it may have borrowed.

    `memory[0] = FREE` is the store that says that the caller has what was in it.
    """

    __slots__ = ("capacity", "data", "elements", "first", "lender", "memory", "struct")

    def __init__(self, m: "CData", capacity: int, few: int) -> None:
        self.struct, self.memory, self.data = new_batch(m, capacity)
        self.capacity = capacity
        size = m.value_size
        self.elements = [self.data[at : at + size] for at in range(0, few * size, size)]
        self.first = self.elements[0]
        self.lender: InKernel | None = None


class Hand:
    """What a call has in its hands: a batch, and where that was too small the one before, until it is empty; and the
    values that a drain hands over, with what is to be done when it ends.

    `begun`: what batch_begin() answered, and before; kept as long as the batches are.
    """

    __slots__ = ("__weakref__", "batch", "begun", "ending", "lists", "older", "struct", "values")

    def __init__(self, nothing: Batch) -> None:
        self.batch = nothing
        self.struct = self.older = nothing.struct
        self.begun: tuple[Any, ...] = ()
        self.lists: list[list[Any]] = []
        self.values: list[Iterator[Any]] = []
        self.ending: Iterator[object] | None = None
