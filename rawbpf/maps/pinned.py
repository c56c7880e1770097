"""Following by name: the elements of the map that is pinned at a path, and of the next one when the pin is replaced."""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rawbpf.maps.opening import open_queue_or_stack
from rawbpf.maps.waiting import POLL, Follow, Waiting
from rawbpf.syscall import StrPath
from rawbpf.syscall.errors import NotFound, NotPermitted

if TYPE_CHECKING:
    from typing_extensions import Self

    from rawbpf.maps.queue_stack import QueueOrStack
    from rawbpf.values.codecs import OpenSpec

T = TypeVar("T")

# Who pins a map sets the pin's mode and owner afterwards: one that can't be opened is tried again for so many seconds.
_SETTLES = 1.0


class Pinned(Generic[T]):
    """The queue or stack that is pinned at a path. `map` is the one that is open, None if there is none."""

    def __init__(self, path: StrPath, value: "OpenSpec" = None) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self.map: QueueOrStack[T] | None = None
        self._value = value
        self._pin: tuple[int, int] | None = None
        # The pin that could not be opened, and since when.
        self._refused: tuple[tuple[int, int] | None, float] = None, 0.0

    def opened(self) -> "QueueOrStack[T] | None":
        """The map, which is opened if it is not open yet. None if nothing is pinned there that may be opened."""
        while self.map is None:
            pin = self._pin_now()
            try:
                # Also if there is no pin: where a seccomp filter refuses bpf(2), waiting for one would be in vain.
                m = open_queue_or_stack(self.path, self._value)
            except NotFound:
                return None
            except NotPermitted:
                # The pin may have come since the look above.
                if self._must_wait(self._pin_now()):
                    return None
                raise
            if pin is not None and pin == self._pin_now():
                self.map, self._pin = m, pin
            else:
                # Replaced just now: it is not known whether this is the earlier map, and nothing was taken from it.
                m.close()
        return self.map

    def is_replaced(self) -> bool:
        """Whether another map is pinned there by now. While nothing is, whoever has the old one may still push."""
        pin = self._pin_now()
        return pin is not None and pin != self._pin

    def is_orphaned(self) -> bool:
        """Whether nobody finds the open map at the path any more: what it holds may be gone when it is closed."""
        return self.map is not None and self._pin_now() != self._pin

    def leave(self) -> None:
        """Closes the map: the next opened() opens the one that is pinned then."""
        m, self.map = self.map, None
        if m is not None:
            m.close()

    def _must_wait(self, refused: tuple[int, int] | None) -> bool:
        """Whether a pin that could not be opened may still be given to us."""
        if self._refused[0] != refused:
            self._refused = refused, time.monotonic()
        return refused is not None and time.monotonic() - self._refused[1] <= _SETTLES

    def _pin_now(self) -> tuple[int, int] | None:
        """What tells pins apart: each has an inode of its own."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError:
            # As if nothing had changed: where no map is open, opening it raises an error that says why.
            return self._pin or (0, 0)
        return found.st_dev, found.st_ino


class FollowPin(Follow[T]):
    """What follow_pin() returns: a Follow that owns the map which it has open. Close it, or use `with`.

    After stop() a loop still hands over what the map holds if it is no longer pinned at the path: nobody else would
    find it.
    """

    def __init__(self, pinned: Pinned[T], poll: float, timeout: float | None) -> None:
        super().__init__()
        self._pinned = pinned
        self._poll = poll
        self._timeout = timeout
        self._after_stop = 0
        self._new_waiting()  # refuses a poll or a timeout that makes no sense

    @property
    def map(self) -> "QueueOrStack[T] | None":
        """The map whose elements are coming now; None while it waits for a pin."""
        return self._pinned.map

    def close(self) -> None:
        """Closes the map. It warns of elements that were taken and not reached; a new loop would begin with them."""
        self._pinned.leave()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _arrivals(self, limit: int) -> Iterator[T]:
        m = self._pinned.opened()
        if m is None:
            return
        # Looked at first: what was pushed before the pin was replaced is seen afterwards.
        replaced, count, stopped = self._pinned.is_replaced(), 0, self._stopped
        if stopped:
            # As many as it may have held at stop(): whoever has it open may push for ever.
            limit = min(limit, m.max_entries - self._after_stop)
        for value in m.drain(limit) if limit else ():
            count += 1
            yield value
        self._after_stop += count if stopped else 0
        if not count and (replaced or self._stopped):
            self._pinned.leave()

    def _is_over(self) -> bool:
        return self._stopped and not self._pinned.is_orphaned()

    def _new_waiting(self) -> Waiting:
        return Waiting(self._poll, self._timeout, lambda: self._stopped)


def follow_pin(
    path: StrPath, value: "OpenSpec" = None, *, poll: float = POLL, timeout: float | None = None
) -> FollowPin[Any]:
    """Elements of the queue or stack that is pinned at `path`, as they arrive, for `for` and `async for`: for ever, or
    until `timeout` seconds pass without one. It follows the path as `tail -F` follows a file.

    A pin that is not there yet is waited for. When another map is pinned there, the loop goes on with that one, after
    it has taken all that the old one held. No privilege is needed beyond what the pin's mode asks.

    Args:
        path: A pin in a bpffs.
        value: What an element is, as in Queue.open(): None for bytes.
        poll, timeout: As for Queue.follow().

    Raises ValueError for a poll or a timeout that makes no sense. Raises in the loop what Queue.open() and pop() raise,
    except NotFound and Empty: TypeError for a pin of something else, ValueError for values of another size, and
    NotPermitted for a pin that could not be opened for a second.

    >>> with follow_pin("/sys/fs/bpf/jobs", "<I", timeout=0.01) as jobs:
    ...     list(jobs), jobs.map  # nothing is pinned there
    ([], None)
    """
    return FollowPin(Pinned(path, value), poll, timeout)
