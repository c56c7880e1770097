"""Following a map: its elements as they arrive, for `for` and for `async for`.

The kernel offers nothing to wait for: poll(2) on a map reports an error at once, empty or not. So waiting is asking
again. Each pause is an eighth of the time since the last element came, and at most `poll`. A consumer that has waited
8 ms gets the next element within about 1 ms; one that waits all night costs 20 calls a second.
"""

import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# The longest pause unless told otherwise, in seconds.
POLL = 0.05

_SHORTEST = 0.00005
_SHARE = 8


class BackOff:
    """How long to pause before asking again, in seconds, `longest` at most."""

    def __init__(self, longest: float = POLL) -> None:
        if not longest > 0:
            raise ValueError("poll must be more than 0 seconds")
        self._longest = longest
        self.arrived()

    def arrived(self) -> None:
        """Something came: the pauses begin short again."""
        self._since = time.monotonic()

    def pause(self) -> float:
        """The next pause."""
        return min(self._longest, max(_SHORTEST, (time.monotonic() - self._since) / _SHARE))


class Follow(Generic[T]):
    """What Map.follow() returns: iterate over it with `for` or with `async for`.

    Both take elements with drain(), so what was taken and not reached comes first in the map's next pop when the loop
    is left.
    """

    def __init__(self, drain: Callable[[], Iterator[T]], poll: float) -> None:
        self._drain = drain
        self._poll = poll
        BackOff(poll)  # refuses a poll that makes no sense

    def __iter__(self) -> Iterator[T]:
        back_off = BackOff(self._poll)
        while True:
            came = False
            for value in self._drain():
                came = True
                yield value
            if came:
                back_off.arrived()
            else:
                time.sleep(back_off.pause())

    def __aiter__(self) -> "_Arriving[T]":
        return _Arriving(self._drain, self._poll)


class _Arriving(Generic[T]):
    """One `async for`. It is freed when the loop is left, and with it the drain that is under way."""

    def __init__(self, drain: Callable[[], Iterator[T]], poll: float) -> None:
        self._drain = drain
        self._back_off = BackOff(poll)
        self._values: Iterator[T] = iter(())
        self._came = False

    def __aiter__(self) -> "_Arriving[T]":
        return self

    async def __anext__(self) -> T:
        from asyncio import sleep

        while True:
            for value in self._values:
                self._came = True
                return value
            if self._came:
                self._back_off.arrived()
                # Other tasks get their turn, even if elements never stop arriving.
                await sleep(0)
            else:
                await sleep(self._back_off.pause())
            self._came = False
            self._values = self._drain()
