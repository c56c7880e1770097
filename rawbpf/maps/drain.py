"""Drain: what drain() returns, an iterator over the values of one part after the other."""

from collections.abc import Generator, Iterator
from itertools import chain, repeat
from operator import setitem
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rawbpf.abi.door import batch_holding

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

T = TypeVar("T")

# Elements that drain() takes at once, in parts of at most so many values. Python has the integers up to 256 at hand: it
# needs no memory to say how many of a part are left. A struct batch has room for these numbers of four parts.
DRAIN_CHUNK = 1024
PART = 256

# A list's iterator is pickled and restored by its position, which this sets.
_SET_POSITION: Any = type(iter([])).__dict__["__setstate__"]


def ending_of(lists: list[list[Any]], values: list[Any], struct: "CData") -> Iterator[object]:
    """What is to be done when a drain ends: any() of it holds what was not handed over.

    Its values are those of a batch, in lists of at most PART, and are handed over by an iterator for each list. To end
    it is one call, which needs no memory: so no signal handler runs between its steps.
    """
    left = chain(map(next, [iter(each.__length_hint__, None) for each in values]), repeat(0))
    noted = map(setitem, repeat(struct.rest), range(4), left)
    # Drain has one of the iterators still, which must not hand over what is held. The lists are emptied last,
    # because a value may run code of its own when it goes.
    return chain(noted, map(_SET_POSITION, values, repeat(PART)), batch_holding(struct), map(list.clear, lists))


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
