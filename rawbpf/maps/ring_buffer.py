"""RingBuffer: records of any length, from BPF programs to one consumer (BPF_MAP_TYPE_RINGBUF).

A record counts as consumed, and its room is given back, when it has reached the caller: a loop's, when it comes back
for the next one or ends; pop()'s, when it returns. A process that is killed in a loop finds that one record again.

Sources: kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst.
"""

import errno
import mmap
import os
import select
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from rawbpf import syscall
from rawbpf.abi import Cmd, MapFlag, MapType
from rawbpf.maps.map import Map
from rawbpf.maps.ring_memory import RingMemory
from rawbpf.maps.waiting import Follow, Waiting, check_timeout, never
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.errors import Empty
from rawbpf.values.codecs import BTF, Codec, OpenSpec, bytes_view, codec_for

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer, Self
    from typing_extensions import TypeVar as DefaultTypeVar

    # A ring buffer without a specification gives bytes, one with a struct format Any.
    T = DefaultTypeVar("T", default=Any)

else:
    T = TypeVar("T")
D = TypeVar("D")

# Records that are looked up at once, by a loop and by pop_into().
_SCAN = 256
_SCAN_MANY = 1 << 14

# How soon to look again while a producer writes the record that is next, in seconds.
_WHILE_WRITTEN = 0.0002

# A producer may say that it wakes nobody (BPF_RB_NO_WAKEUP): so often a waiter looks by itself, in seconds.
_LOOK_AGAIN = 1.0


class _Raise:
    """The default of `default`: raise Empty."""

    def __repr__(self) -> str:
        return "<raise Empty>"


_RAISE = _Raise()


class RingBuffer(Map, Generic[T]):
    """A ring buffer, which BPF programs write and one process reads (BPF_MAP_TYPE_RINGBUF). Linux 5.8.

    >>> with RingBuffer(1 << 16, "<IH", name="events") as events:
    ...     events.pop(default=None), list(events.drain()), events.pending
    (None, [], 0)
    """

    map_types = (MapType.BPF_MAP_TYPE_RINGBUF,)
    spec_names = ("value",)

    _memory: "RingMemory | None"

    def __init__(
        self,
        size: int,
        value: "OpenSpec" = None,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
    ) -> None:
        """Creates the ring buffer (BPF_MAP_CREATE).

        Args:
            size: Bytes of data, a power of two and a whole number of pages. Each record has 8 bytes more than its own,
                and is padded to 8.
            value: What a record is: None for bytes of any length; else as in Queue(), and each record must have that
                size.
            name, flags, numa_node, token: As in Queue().

        Raises:
            ValueError, TypeError: An argument breaks a rule; no map was asked for.
            NotPermitted: No CAP_BPF.
            BpfError: ENOMEM, EMFILE, ENFILE.
        """
        if size < mmap.PAGESIZE or size & (size - 1):
            raise ValueError(f"size is a power of two from {mmap.PAGESIZE}, the size of a page, not {size} (EINVAL)")
        self._new_map(name, (0, 0), size, (_codec(value),), flags=flags, numa_node=numa_node, token=token)

    @classmethod
    def open(cls, path: StrPath, value: "OpenSpec" = None) -> "Self":
        """Opens the ring buffer that is pinned at `path` (BPF_OBJ_GET), where its last consumer stopped.

        `value` is as for creation. Raises NotFound, NotPermitted, TypeError (the pin is of something else), ValueError.
        """
        return cls._open(path, value, access="rw")

    @classmethod
    def from_id(cls, map_id: int, value: "OpenSpec" = None) -> "Self":
        """Opens the ring buffer with this id (BPF_MAP_GET_FD_BY_ID); needs CAP_SYS_ADMIN. Otherwise as open()."""
        return cls._from_id(map_id, value, access="rw")

    @classmethod
    def from_name(cls, name: str, value: "OpenSpec" = None) -> "Self":
        """Opens the one ring buffer of this name on the system; needs CAP_SYS_ADMIN.

        Raises NotFound if there is none, ValueError if there are several, and what open() raises.
        """
        return cls._from_name(name, value, access="rw")

    @classmethod
    def from_fd(cls, fd: int, value: "OpenSpec" = None) -> "Self":
        """Takes over a descriptor: from now on close() closes it. On an error it stays the caller's, open."""
        return cls._from_fd(fd, value)

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        if info.type not in cls.map_types:
            raise TypeError(f"{syscall.describe(info)} is no RingBuffer: rawbpf.open_map() finds the right class")
        return tuple(map(_codec, specs))

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        (codec,) = codecs
        self._memory = None
        self._codec: Codec[Any] | None = codec
        self._size: int | None = None if codec is None else codec.size
        self._decode: Callable[[bytes], Any] = bytes if codec is None else codec.decode
        self._wakers: set[weakref.ref[_Waker]] = set()
        super()._adopt(fd, info)

    @property
    def size(self) -> int:
        """Bytes of data that it holds."""
        return self._info.max_entries

    @property
    def pending(self) -> int:
        """Bytes that are in it, with headers and padding, those of records that are still written included."""
        memory = self._mapped()
        return memory.producer[0] - max(memory.handed_over, memory.consumer[0])

    # Reading

    @overload
    def pop(self, *, timeout: float | None = None) -> T: ...
    @overload
    def pop(self, default: D, *, timeout: float | None = None) -> T | D: ...
    def pop(self, default: Any = _RAISE, *, timeout: float | None = None) -> Any:
        """Takes the oldest record, waiting up to `timeout` seconds for one.

        What a codec can't decode stays: see pop_bytes().

        Raises Empty if there is none and no `default` was given; ValueError for a record that has not the codec's size;
        OSError if the memory can't be mapped (EPERM: the map is frozen).
        """
        return self._pop(self._decoded, default, timeout)

    def pop_bytes(self, default: Any = _RAISE, *, timeout: float | None = None) -> Any:
        """As pop(), with the record as it is: the way past one that the codec can't decode."""
        return self._pop(bytes, default, timeout)

    def _pop(self, decode: "Callable[[bytes], Any]", default: Any, timeout: float | None) -> Any:
        memory = self._mapped()
        waiting = None if timeout is None else _RecordsWaiting(self, memory, timeout)
        while True:
            records, found = memory.scan(self._info, 1)
            for before, after, data in records:
                value = decode(data)
                memory.fence()
                if memory.handed_over == before:
                    # From here to the return no call is made, so no signal handler can come between.
                    memory.consumer[0] = memory.handed_over = after
                    return value
            if not found and (waiting is None or not waiting.wait()):
                break
        self.fileno()
        if default is not _RAISE:
            return default
        raise Empty(errno.ENOENT, f"{syscall.describe(self._info)} is empty", Cmd.BPF_MAP_LOOKUP_ELEM)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The numpy.dtype of a record: `a = np.empty(4096, events.dtype); n = events.pop_into(a)`.

        Raises TypeError where there is none, see rawbpf.values.numpy_dtype; ImportError without numpy.
        """
        if self._codec is None:
            raise TypeError(
                "no numpy.dtype: the records have any length, unless the ring buffer is opened with a value"
            )
        from rawbpf.values.numpy_dtype import dtype_of

        return dtype_of(self._codec)

    def pop_into(self, buffer: "Buffer") -> int:
        """Takes as many records as there are and the buffer has room for: writable and contiguous (bytearray, array,
        numpy array). Their bytes stand at its beginning, without padding; returns how many were taken, 0 if none was.

        Raises TypeError if the records may have any length; ValueError for a buffer that is too small for one, and for
        a first record that has not the codec's size: that stays, as in pop(), and a later one ends the call before it.
        """
        if (size := self._size) is None:
            raise TypeError("the records have any length: open the ring buffer with a value")
        view = bytes_view(buffer)
        if view.readonly:
            raise TypeError("the buffer is read-only")
        if len(view) < size:
            raise ValueError(f"the buffer has {len(view)} bytes, less than one record of {size}")
        memory = self._mapped()
        found = True
        while found:
            records, found = memory.scan(self._info, min(len(view) // size, _SCAN_MANY))
            first, behind, end = None, None, 0
            for before, after, data in records:
                if len(data) != size:
                    if behind is None:
                        raise self._misfit(data)
                    break
                view[end : end + size] = data
                first, behind, end = before if first is None else first, after, end + size
            count = end // size
            memory.fence()
            if behind is not None and memory.handed_over == first:
                # From here to the return no call is made, so no signal handler can come between.
                memory.consumer[0] = memory.handed_over = behind
                return count
            self.fileno()
        return 0

    def drain(self) -> Iterator[T]:
        """Yields the records that are there, until there is none; while others come, not much more than fit in."""
        memory = self._mapped()
        end = max(memory.handed_over, memory.producer[0]) + self.size

        def all_that_is_there() -> Iterator[T]:
            while (yield from self._hand_over(memory, lambda: memory.handed_over >= end)):
                pass

        return all_that_is_there()

    def follow(self, *, timeout: float | None = None) -> "Follow[T]":
        """Records as they arrive, for `for` and for `async for`: for ever, or until `timeout` seconds pass without one.

        The kernel wakes the waiter. stop() ends the loop, also from another thread or a signal handler; see
        Follow.stop(). Leaving the loop loses nothing: the next one goes on with the next record. In `async for`,
        cancelling loses nothing.

        Raises ValueError for a negative timeout. Raises in the loop what pop() raises, except Empty; ValueError once
        the map is closed.
        """
        return FollowRecords(self, timeout)

    def _decoded(self, data: bytes) -> Any:
        if self._size is not None and len(data) != self._size:
            raise self._misfit(data)
        return self._decode(data)

    def _misfit(self, data: bytes) -> ValueError:
        return ValueError(f"a record of {syscall.describe(self._info)} has {len(data)} bytes, not {self._size}")

    def _hand_over(self, memory: "RingMemory", stopped: Callable[[], bool]) -> "Generator[T, None, bool]":
        """Yields up to _SCAN records, until it is to stop. Returns whether there may be more, and they are wanted."""
        if stopped():
            return False
        records, found = memory.scan(self._info, _SCAN)
        for before, after, data in records:
            value = self._decoded(data)
            if memory.handed_over != before:
                break
            # No call comes between this look and the yield.
            memory.handed_over = after
            try:
                yield value
            finally:
                memory.commit()
            if self._fd < 0 or stopped():
                break
        self.fileno()
        return found

    # The memory

    def _mapped(self) -> "RingMemory":
        self.fileno()
        if self._memory is None:
            if self._info.map_flags & MapFlag.BPF_F_RB_OVERWRITE:
                raise TypeError(f"{syscall.describe(self._info)} overwrites old records, and is read in another way")
            # Another thread may be first.
            with self._own_descriptor(Cmd.BPF_MAP_LOOKUP_ELEM) as fd:
                made = RingMemory(fd, self.size)
            if self._memory is None:
                self._memory = made
        return self._memory

    def _new_waker(self) -> "_Waker":
        waker = _Waker(self.fileno())
        # Not a WeakSet, which must not grow in one thread while another goes through it.
        self._wakers.add(weakref.ref(waker, self._wakers.discard))
        return waker

    def _wake_all(self) -> None:
        """Whoever waits looks again."""
        for reference in list(self._wakers):
            if waker := reference():
                waker.wake()

    def _release(self) -> None:
        super()._release()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.forget()
        self._wake_all()

    def __repr__(self) -> str:
        if self._fd < 0:
            return super().__repr__()
        return f"<RingBuffer {self.name!r} fd={self._fd} id={self.id} size={self.size}>"


class _RecordsWaiting(Waiting):
    """Waits until the kernel says that there is a record."""

    def __init__(
        self,
        owner: RingBuffer[Any],
        memory: RingMemory,
        timeout: float | None,
        stopped: Callable[[], bool] = never,
    ) -> None:
        super().__init__(_LOOK_AGAIN, timeout, stopped)
        self._owner = owner
        self._memory = memory

    def _longest_now(self, waited: float) -> float:
        # While its producer writes a record the descriptor is ready already.
        return _WHILE_WRITTEN if self._memory.is_written() else _LOOK_AGAIN

    def _sleep(self, seconds: float) -> None:
        if seconds <= _WHILE_WRITTEN:
            time.sleep(seconds)
            return
        with self._owner._new_waker() as waker:
            if not self._stopped():
                waker.wait(seconds)

    async def _sleep_async(self, seconds: float) -> None:
        if seconds <= _WHILE_WRITTEN:
            await super()._sleep_async(seconds)
            return
        with self._owner._new_waker() as waker:
            if not self._stopped():
                await waker.wait_async(seconds)


class FollowRecords(Follow[T]):
    """What RingBuffer.follow() returns. A record is taken when it is handed over, so stop() ends a loop at once."""

    def __init__(self, owner: RingBuffer[T], timeout: float | None) -> None:
        super().__init__()
        check_timeout(timeout)
        self._owner = owner
        self._timeout = timeout

    def stop(self) -> None:
        """Ends the loops over this, for good: no further record is handed over. May be called from the loop itself, a
        signal handler, another thread, and as a callback of an event loop."""
        super().stop()
        self._owner._wake_all()

    def _is_stopped(self) -> bool:
        return self._stopped

    def _arrivals(self, limit: int) -> Iterator[T]:
        return self._owner._hand_over(self._owner._mapped(), self._is_stopped)

    def _new_waiting(self) -> Waiting:
        return _RecordsWaiting(self._owner, self._owner._mapped(), self._timeout, self._is_stopped)


class _Waker:
    """Sleeps until the kernel says that there is a record, or until it is woken. Its owner closes it."""

    def __init__(self, fd: int) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(self._event, select.EPOLLIN)

    def wait(self, seconds: float) -> None:
        self._epoll.poll(seconds)

    async def wait_async(self, seconds: float) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._epoll.fileno(), ready.set)
        timer = loop.call_later(seconds, ready.set)
        try:
            await ready.wait()
        finally:
            timer.cancel()
            loop.remove_reader(self._epoll.fileno())

    def wake(self) -> None:
        if self._event >= 0:
            os.eventfd_write(self._event, 1)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        event, self._event = self._event, -1
        self._epoll.close()
        if event >= 0:
            os.close(event)

    def __del__(self) -> None:
        self.__exit__()


def _codec(spec: "OpenSpec") -> "Codec[Any] | None":
    if spec is BTF:
        raise ValueError("a ring buffer carries no BTF: give the type of its records as a BtfCodec")
    return None if spec is None else codec_for(cast(Any, spec))
