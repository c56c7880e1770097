"""Queue and Stack: push, peek and pop, one element and many. How they are made, opened and closed is in keyless.py."""

import errno
import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict, TypeVar, overload

from rawbpf import syscall
from rawbpf.abi import BPF_ANY, BPF_EXIST, Cmd, MapType
from rawbpf.abi.door import BATCH_IN_USE, HOOK_RAISED, ffi, lib, raise_hook_failure
from rawbpf.maps.batch import Batch
from rawbpf.maps.bulk import FREE
from rawbpf.maps.drain import Drain
from rawbpf.maps.keyless import KeylessMap, T
from rawbpf.maps.waiting import POLL, Follow, FollowMap, Waiting
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.errors import Full
from rawbpf.values.codecs import Codec

if TYPE_CHECKING:
    import ctypes
    import struct

    from typing_extensions import Buffer, Unpack

D = TypeVar("D")

# Looking a function up in `lib` takes a tenth of the call.
_push = lib.map_update_elem
_pop = lib.map_lookup_and_delete_elem
_keep = lib.batch_keep


if TYPE_CHECKING:

    class Options(TypedDict, total=False):
        """The keyword arguments of Queue() and Stack(), for their overloads."""

        name: str
        flags: int
        numa_node: int | None
        token: int | HasFileno | None
        btf: bool


class _Raise:
    """The default of `default`: raise Empty."""

    def __repr__(self) -> str:
        return "<raise Empty>"


_RAISE = _Raise()
# What pop() returns to itself where there is no element: no caller has it as a value.
_NOTHING = object()


class QueueOrStack(KeylessMap[T]):
    """What Queue and Stack share; make one of those."""

    # One element

    # The timeouts of push() and pop() are meant to be passed by keyword. They are no keyword-only parameters because
    # CPython 3.11 calls functions that have such parameters in a slower way, which adds 8 % to a pop() without timeout.

    def push(self, value: T, flags: int = BPF_ANY, timeout: float | None = None, overwrite: bool = False) -> None:
        """Adds an element (BPF_MAP_UPDATE_ELEM).

        Args:
            value: Encoded to exactly value_size bytes.
            flags: BPF_ANY: fail when full. BPF_EXIST: when full, drop the oldest element first (a stack: its bottom).
            timeout: How many seconds to wait for room in a full map; None and 0: not at all. math.inf: for ever.
            overwrite: True is BPF_EXIST in Python's words.

        Raises:
            Full: max_entries elements are in the map, also after `timeout` seconds, and flags is BPF_ANY (E2BIG).
            NotPermitted: The descriptor is read-only, or the map frozen (EPERM).
            Busy: The map's lock could not be had (EBUSY); nothing was pushed.
            ValueError, TypeError: The value or the flags break a rule, or the timeout is negative.

        >>> with Queue("<I", 1) as q:
        ...     q.push(7)
        ...     try:
        ...         q.push(8, timeout=0.01)
        ...     except Full:
        ...         print("still full")
        still full
        """
        if overwrite:
            flags |= BPF_EXIST
        if timeout is not None:
            return self._push_within(timeout, value, flags)
        if flags is not BPF_ANY:
            syscall.check_push_flags(flags)
        data: Any = value
        if type(data) is not bytes or len(data) != self._raw_size:
            data = self._encode(value)
        result = _push(self._map, data, flags)
        if result < 0:
            raise self._failure(Cmd.BPF_MAP_UPDATE_ELEM, result)
        return None

    def _push_within(self, timeout: float, value: T, flags: int) -> None:
        waiting = Waiting(timeout=timeout)
        while True:
            try:
                return self.push(value, flags)
            except Full:
                if not waiting.wait():
                    raise

    @overload
    def peek(self) -> T: ...
    @overload
    def peek(self, default: D) -> T | D: ...
    def peek(self, default: Any = _RAISE) -> Any:
        """Returns the element that pop() would take, and leaves it there (BPF_MAP_LOOKUP_ELEM).

        Raises Empty if there is none and no `default` was given, NotPermitted on a write-only descriptor, Busy.
        """
        if self._map.held and (held := self._bulk.first_held()) is not None:
            return self._decode(held)
        value = ffi.new("char[]", self._info.value_size)
        result = lib.map_lookup_elem(self._map, value)
        if result == 0:
            return self._decode(ffi.unpack(value, self._info.value_size))
        if result == -errno.ENOENT and default is not _RAISE:
            return default
        raise self._failure(Cmd.BPF_MAP_LOOKUP_ELEM, result)

    @overload
    def pop(self, *, timeout: float | None = None) -> T: ...
    @overload
    def pop(self, default: D, *, timeout: float | None = None) -> T | D: ...
    def pop(self, default: Any = _RAISE, timeout: float | None = None) -> Any:
        """Takes an element: a queue's oldest, a stack's newest (BPF_MAP_LOOKUP_AND_DELETE_ELEM).

        An element that could not be handed over, because a signal handler or the codec raised, is not lost: it comes
        first in the next pop() or peek(), or see take_held().

        Args:
            default: What to return if there is no element; without it that is an exception.
            timeout: How many seconds to wait for an element; None and 0: not at all. math.inf: for ever.

        Raises Empty if there is none, also after `timeout` seconds, and no `default` was given; NotPermitted if the
        descriptor is not read-write or the map is frozen; Busy; ValueError for a negative timeout.

        >>> with Queue("<I", 8) as q:
        ...     q.pop(default=None), q.pop(default=None, timeout=0.01)
        (None, None)
        """
        if timeout is not None:
            return self._pop_within(timeout, default)
        # Short, for the reason that bulk.py gives.
        bulk = self._bulk
        batch, bulk.spare = bulk.spare, None
        if batch is None:
            batch = bulk.another()
        struct = batch.struct
        try:
            result = _pop(struct)
            if result == 0:
                value: Any = batch.first.tobytes()
                if self._raw_size is None:
                    value = self._decode(value)
                bulk.spare = batch
                batch.memory[0] = FREE  # now the caller has it
                return value
        except BaseException:
            _keep(struct)
            raise
        return self._not_popped(batch, result, default)

    def _not_popped(self, batch: Batch, result: int, default: Any) -> Any:
        """The end of a pop() that took nothing, with what it answered."""
        if result == HOOK_RAISED:
            raise_hook_failure(result)
        if result == BATCH_IN_USE:
            # Elements are held, or another call has the batch.
            values = self._bulk.pop_many(1)
            if values:
                return values[0]
            result = -errno.ENOENT
        else:
            self._bulk.spare = batch
        if result == -errno.ENOENT and default is not _RAISE:
            return default
        raise self._failure(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result)

    def _pop_within(self, timeout: float, default: Any) -> Any:
        waiting = Waiting(timeout=timeout)
        while True:
            value = self.pop(_NOTHING)
            # From the pop to the return no call is made, so no signal handler can come between.
            if value is not _NOTHING:
                return value
            if not waiting.wait():
                break
        if default is not _RAISE:
            return default
        raise self._failure(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, -errno.ENOENT)

    # Many elements

    def push_many(self, values: "Iterable[T] | Buffer", flags: int = BPF_ANY, *, overwrite: bool = False) -> int:
        """Pushes many elements, in one system call where the kernel lets a program do it (see `bulk`).

        Args:
            values: An iterable of values, all of which are encoded before the first is pushed; or a contiguous buffer
                (bytes, array, numpy array) of whole values, which is pushed as it is.
            flags, overwrite: As for push(): BPF_ANY stops when the map is full, BPF_EXIST overwrites the oldest.

        Returns how many were pushed, in order: fewer than given if the map became full.

        Raises what push() raises for the first element, except Full: that is 0.
        """
        if type(values) is list and len(values) == 1:
            try:
                self.push(values[0], flags, None, overwrite)
                return 1
            except Full:
                return 0
        return self._bulk.push_many(values, flags | BPF_EXIST if overwrite else flags)

    def pop_many(self, limit: int) -> list[T]:
        """Takes up to `limit` elements, in one system call where the kernel lets a program do it (see `bulk`).

        Returns them in the order of pop(): fewer if the map became empty, none if it was. Many elements are not taken
        at one moment: what others push and pop meanwhile comes in between.

        Raises what pop() raises for the first element, except Empty. On any exception (Ctrl-C, a codec's) nothing is
        lost: what was taken comes first in the next call.
        """
        count = _count("limit", limit)
        if count == 1:
            # The list is there before the element is taken: making it can't fail with the element in no place.
            values: list[Any] = [None]
            values[0] = self.pop(_NOTHING)
            return [] if values[0] is _NOTHING else values
        return self._bulk.pop_many(count)

    def pop_into(self, buffer: "Buffer") -> int:
        """As pop_many(), straight into a writable contiguous buffer (bytearray, array, numpy array), as raw bytes.

        Takes as many elements as the buffer has room for whole values. Returns how many were taken; their bytes stand
        at the buffer's beginning.
        """
        return self._bulk.pop_into(buffer)

    def drain(self, limit: int | None = None) -> "Iterator[T]":
        """Yields elements, taking many at once, until the map is empty or `limit` were yielded.

        `limit` is max_entries unless given: a drain ends also while others go on pushing. If the loop is left early,
        what was taken and not yielded comes first in the next call.
        """
        return Drain.of(self._bulk.drain(self.max_entries if limit is None else _count("limit", limit), self))

    def follow(self, poll: float = POLL, *, timeout: float | None = None) -> "Follow[T]":
        """Elements as they arrive, for `for` and `async for`: for ever, or until `timeout` seconds pass without one.

        Nothing wakes a waiter, so this asks again: each pause is an eighth of the time since the last element came, and
        at most `poll` seconds (0.05 takes less than 1 % of a CPU). stop() ends the loop, also from another thread or a
        signal handler; see Follow.stop(). What was taken and not reached when the loop is left otherwise comes first in
        the next call. In `async for`, cancelling loses nothing.

        Raises ValueError for a poll that is not above 0 and for a negative timeout. Raises in the loop what pop()
        raises, except Empty; ValueError once the map is closed.

        >>> with Queue("<I", 8) as q:
        ...     _ = q.push_many([1, 2, 3])
        ...     list(q.follow(timeout=0.01))
        [1, 2, 3]
        """
        return FollowMap(self.drain, poll, timeout)

    # Elements that were taken out of the kernel and not handed over

    def take_held(self) -> list[bytes]:
        """Hands over, as raw bytes, what was taken out of the kernel and did not reach a caller; normally nothing.

        The way out when a codec can't decode an element: pop() would offer the same one again.
        """
        return self._bulk.take_held()


class Queue(QueueOrStack[T]):
    r"""A queue in the kernel (BPF_MAP_TYPE_QUEUE): first in, first out.

    >>> with Queue(4, 10, name="sample_queue") as q:
    ...     q.push(b"\x01\x00\x00\x00")
    ...     q.pop()
    b'\x01\x00\x00\x00'
    """

    map_types = (MapType.BPF_MAP_TYPE_QUEUE,)

    if TYPE_CHECKING:

        @overload
        def __init__(self: "Queue[bytes]", value: int, max_entries: int, **options: Unpack[Options]) -> None: ...
        @overload
        def __init__(
            self: "Queue[Any]",
            value: "str | struct.Struct | type[ctypes._CData]",
            max_entries: int,
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(self, value: Codec[T], max_entries: int, **options: Unpack[Options]) -> None: ...
        def __init__(self, value: Any, max_entries: int, **options: Any) -> None: ...


class Stack(QueueOrStack[T]):
    """A stack in the kernel (BPF_MAP_TYPE_STACK): last in, first out.

    >>> with Stack("<IH", 128) as s:
    ...     s.push((7, 80))
    ...     s.pop()
    (7, 80)
    """

    map_types = (MapType.BPF_MAP_TYPE_STACK,)

    if TYPE_CHECKING:

        @overload
        def __init__(self: "Stack[bytes]", value: int, max_entries: int, **options: Unpack[Options]) -> None: ...
        @overload
        def __init__(
            self: "Stack[Any]",
            value: "str | struct.Struct | type[ctypes._CData]",
            max_entries: int,
            **options: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(self, value: Codec[T], max_entries: int, **options: Unpack[Options]) -> None: ...
        def __init__(self, value: Any, max_entries: int, **options: Any) -> None: ...


def _count(name: str, number: SupportsIndex) -> int:
    count = operator.index(number)
    if count < 0:
        raise ValueError(f"{name} must not be negative")
    return count
