"""Waiting, for the library and for the command line: how long to pause, until when, and how a loop over what arrives is
told to stop.

The kernel offers nothing to wait for: poll(2) on a queue or a stack reports an error at once, empty or not. So waiting
is asking again. Each pause is an eighth of the time since the last element came, and at most `poll`. A consumer that
has waited 8 ms gets the next element within about 1 ms; one that waits all night costs 20 calls a second. (A ring
buffer does wake its reader: ring_buffer.py has a Waiting of its own.)
"""

import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# The longest pause unless told otherwise, in seconds.
POLL = 0.05

_SHORTEST = 0.00005
_SHARE = 8

# stop() is noticed within so many seconds, however long a pause is.
_NOTICED = 0.05

# A loop takes at once what it handled in about so many seconds, and never more elements than that.
_AHEAD = 0.01
_MOST = 1024


def check_timeout(timeout: float | None) -> None:
    """Raises ValueError for a timeout that is negative or no number."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must not be negative: {timeout!r}")


def never() -> bool:
    """For who can't be told to stop."""
    return False


class Waiting:
    """The pauses between two looks, `poll` seconds at most, until `timeout` seconds have passed without an arrival.

    A timeout of None never passes. `stopped` is asked meanwhile whether to stop.

    Raises ValueError for a poll that is not above 0 and for a negative timeout.
    """

    def __init__(self, poll: float = POLL, timeout: float | None = None, stopped: Callable[[], bool] = never) -> None:
        if not poll > 0:
            raise ValueError("poll must be more than 0 seconds")
        check_timeout(timeout)
        self._longest = poll
        self._timeout = timeout
        self._stopped = stopped
        self.arrived()

    def arrived(self) -> None:
        """Something came: the pauses begin short again, and the timeout anew."""
        self._since = time.monotonic()

    def pause(self) -> float:
        """The next pause, in seconds; 0 or less if the timeout has passed."""
        waited = time.monotonic() - self._since
        pause = self._longest_now(waited)
        return pause if self._timeout is None else min(pause, self._timeout - waited)

    def wait(self) -> bool:
        """Pauses. False, at once, if the timeout has passed; False also if it was told to stop."""
        pause = self.pause()
        if pause > 0:
            self._sleep(pause)
        return pause > 0 and not self._stopped()

    async def wait_async(self) -> bool:
        """wait() for a coroutine."""
        pause = self.pause()
        if pause > 0:
            await self._sleep_async(pause)
        return pause > 0 and not self._stopped()

    def _longest_now(self, waited: float) -> float:
        return min(self._longest, max(_SHORTEST, waited / _SHARE))

    def _sleep(self, seconds: float) -> None:
        for part in self._parts(seconds):
            time.sleep(part)

    async def _sleep_async(self, seconds: float) -> None:
        from asyncio import sleep

        for part in self._parts(seconds):
            await sleep(part)

    def _parts(self, seconds: float) -> Iterator[float]:
        """The time in parts that are short enough to notice that it was told to stop."""
        until = time.monotonic() + seconds
        while seconds > 0 and not self._stopped():
            yield min(seconds, _NOTICED)
            seconds = until - time.monotonic()


class _ReadAhead:
    """How many elements a loop takes at once: about as many as it handles in _AHEAD seconds.

    What was taken and not yet handled delays the end after stop(), and is lost if the process is killed.
    """

    def __init__(self) -> None:
        self._limit = 1

    def limit(self) -> int:
        self._began = time.monotonic()
        return self._limit

    def handled(self) -> None:
        quick = time.monotonic() - self._began < _AHEAD
        self._limit = min(2 * self._limit, _MOST) if quick else max(self._limit // 2, 1)


class Follow(Generic[T]):
    """What follow() and follow_pin() return: iterate over it with `for` or with `async for`; stop() ends that.

    For authors of subclasses: `_arrivals(limit)` yields what is there, `_new_waiting()` makes what waits for more, and
    `_is_over()` says whether a loop ends.
    """

    def __init__(self) -> None:
        self._stopped = False

    def _arrivals(self, limit: int) -> Iterator[T]:
        raise NotImplementedError

    def _new_waiting(self) -> Waiting:
        raise NotImplementedError

    def stop(self) -> None:
        """Ends the loops over this, for good, within 0.1 seconds if they wait.

        Nothing more is taken out of the map. What was taken already is still handed over: it is as much as the loop
        handles in some 10 ms. May be called from the loop itself, a signal handler, another thread, and as a callback
        of an event loop.
        """
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether stop() was called."""
        return self._stopped

    def _is_over(self) -> bool:
        return self._stopped

    def __iter__(self) -> Iterator[T]:
        return self._loop(self._new_waiting())

    def _loop(self, waiting: Waiting) -> Iterator[T]:
        ahead = _ReadAhead()
        while not self._is_over():
            came = False
            for value in self._arrivals(ahead.limit()):
                came = True
                yield value
            if came:
                ahead.handled()
                waiting.arrived()
            elif not waiting.wait() and not self._stopped:
                return

    def __aiter__(self) -> "_Arriving[T]":
        return _Arriving(self, self._new_waiting())


class _Arriving(Generic[T]):
    """One `async for`. It is freed when the loop is left, and with it the values that are under way."""

    def __init__(self, follow: Follow[T], waiting: Waiting) -> None:
        self._follow = follow
        self._waiting = waiting
        self._ahead = _ReadAhead()
        self._ahead.limit()
        self._values: Iterator[T] = iter(())
        # As if something had come, so that it looks before it waits.
        self._came = True

    def __aiter__(self) -> "_Arriving[T]":
        return self

    async def __anext__(self) -> T:
        from asyncio import sleep

        while True:
            for value in self._values:
                self._came = True
                return value
            if self._came:
                self._ahead.handled()
                self._waiting.arrived()
                # Other tasks get their turn, even if elements never stop arriving.
                await sleep(0)
            elif not await self._waiting.wait_async() and not self._follow._stopped:
                raise StopAsyncIteration
            if self._follow._is_over():
                raise StopAsyncIteration
            self._came = False
            self._values = self._follow._arrivals(self._ahead.limit())


class FollowMap(Follow[T]):
    """What Queue.follow() returns. Elements are taken with drain(limit): what was taken and not reached when a loop is
    left comes first in the map's next pop."""

    def __init__(self, drain: Callable[[int], Iterator[T]], poll: float, timeout: float | None) -> None:
        super().__init__()
        self._drain = drain
        self._poll = poll
        self._timeout = timeout
        self._new_waiting()  # refuses a poll or a timeout that makes no sense

    def _arrivals(self, limit: int) -> Iterator[T]:
        return self._drain(limit)

    def _new_waiting(self) -> Waiting:
        return Waiting(self._poll, self._timeout, lambda: self._stopped)
