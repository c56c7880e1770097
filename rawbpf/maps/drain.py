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
    """Some of a drain's values: the parts before it and itself have `end` values, and `values` yields its own.

    If the drain ends here, any(ending) holds what was not handed over. That is one call, so no signal handler runs
    between its steps.
    """

    end: int
    values: Iterator[Any]
    ending: Iterator[object]


def parts_of(lists: list[list[Any]], struct: "CData") -> Iterator[Part]:
    """The parts of a drain: the values of a struct batch, in lists of at most PART."""
    for values, end in zip(lists, accumulate(map(len, lists)), strict=True):
        iterator: Any = iter(values)
        # This sets struct.begun to `end` and struct.last to how many values the iterator has left. All iterators are
        # made here, so that the ending needs no memory.
        numbers = chain(iter((end,)), iter(iterator.__length_hint__, None))
        setting = map(setattr, (struct, struct), ("begun", "last"), numbers)
        # batch_hold(), not batch_keep(), as another thread may go on from here. The lists are emptied because Drain has
        # an iterator over one of them still, and must not hand over what is held.
        ending = chain(setting, map(lib.batch_hold, (struct,)), map(list.clear, lists))
        yield Part(end, iterator, ending)


class Drain(chain[T]):
    """An iterator over elements that are taken out of a map as they are wanted.

    The values of a part are handed over by C code alone, which saves the time to resume a generator for each.
    """

    _parts: Generator[Iterator[Any], None, None]

    @classmethod
    def of(cls, parts: "Generator[Iterator[T], None, None]") -> "Drain[T]":
        made = cast("Drain[T]", cls.from_iterable(parts))
        made._parts = parts
        return made

    def close(self) -> None:
        """Ends it: what was taken and not handed over comes first in the map's next call. So does leaving the loop."""
        self._parts.close()
