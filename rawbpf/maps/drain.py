"""Drain: what drain() returns, an iterator over the values of one part after the other."""

from collections.abc import Generator, Iterator
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from rawbpf.abi.door import lib

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

T = TypeVar("T")

# Values in a part. Python has the integers up to 256 at hand: it needs no memory to say how many of a part are left.
PART = 256


class Part(NamedTuple):
    """How many values there are up to the end of this part, its own, and what any(over) does when the drain ends while
    it hands them over: what is left is held, in one call, between whose steps no signal handler runs."""

    end: int
    values: Iterator[Any]
    over: Iterator[object]


def parts_of(lists: list[list[Any]], struct: "CData") -> Iterator[Part]:
    """The parts of a drain: the values of a struct batch, in lists of at most PART."""
    for values, end in zip(lists, accumulate(map(len, lists)), strict=True):
        iterator: Any = iter(values)
        # struct.begun, struct.last = end, how many the iterator has left. All iterators are made here, so that none of
        # this needs memory later.
        numbers = chain(iter((end,)), iter(iterator.__length_hint__, None))
        setting = map(setattr, (struct, struct), ("begun", "last"), numbers)
        # Not batch_keep(): another thread may go on from here. And the lists are emptied: Drain has their iterators.
        over = chain(setting, map(lib.batch_hold, (struct,)), map(list.clear, lists))
        yield Part(end, iterator, over)


class Drain(chain[T]):
    """An iterator over elements that are taken out of a map as they are wanted.

    It goes from part to part in C: a generator that yields each value takes twice as long.
    """

    _parts: Generator[Iterator[Any], None, None]

    @classmethod
    def over(cls, parts: "Generator[Iterator[T], None, None]") -> "Drain[T]":
        made = cast("Drain[T]", cls.from_iterable(parts))
        made._parts = parts
        return made

    def close(self) -> None:
        """Ends it: what was taken and not handed over comes first in the map's next call. So does leaving the loop."""
        self._parts.close()
