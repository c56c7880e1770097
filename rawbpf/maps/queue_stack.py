"""Queue and Stack: the two map types as Python objects."""

import errno
import operator
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypedDict, TypeVar, overload

from rawbpf import syscall
from rawbpf.abi import BPF_ANY, BPF_EXIST, Cmd, MapType
from rawbpf.abi.door import BATCH_IN_USE, HOOK_RAISED, ffi, lib, new_map, raise_hook_failure
from rawbpf.maps.bulk import FREE, Batch, Bulk, Status, element_error
from rawbpf.maps.map import Map
from rawbpf.maps.waiting import POLL, Follow, FollowMap, Waiting
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.errors import Full
from rawbpf.syscall.proc import access_of, is_frozen
from rawbpf.values.codecs import BTF, Codec, OpenSpec, RawBytes, ValueSpec, codec_for

if TYPE_CHECKING:
    import ctypes
    import struct

    import numpy as np
    from typing_extensions import Buffer, Self, Unpack
    from typing_extensions import TypeVar as DefaultTypeVar

    from rawbpf.maps.qsize import Inspector

if TYPE_CHECKING:
    # A map opened without a value specification, and one with a struct format, gives Any.
    T = DefaultTypeVar("T", default=Any)
else:
    T = TypeVar("T")
D = TypeVar("D")
S = TypeVar("S", bound="QueueOrStack[Any]")

# Looking a function up in `lib` takes a tenth of the call.
_push = lib.map_update_elem
_pop = lib.map_lookup_and_delete_elem


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


class QueueOrStack(Map, Generic[T]):
    """What Queue and Stack share; make one of those."""

    _inspector: "Inspector | None" = None
    _codec: Codec[T]
    _bulk: Bulk

    def __init__(
        self,
        value: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
        btf: bool = False,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE).

        Args:
            value: What an element is. An int is a size in bytes, 1 to 4194304: any buffer of that length in, bytes
                out. A struct format ("<IH"): a tuple, or a scalar if it has one field. A ctypes type. A codec: an
                object with `size`, `encode(value)` and `decode(data)`.
            max_entries: How many elements the map holds, 1 to 4294967294. Memory for one more is taken at once.
            name: Shown by info() and bpftool: at most 15 characters of [A-Za-z0-9_.].
            flags: MapFlag bits: BPF_F_RDONLY or BPF_F_WRONLY for this descriptor, BPF_F_RDONLY_PROG or
                BPF_F_WRONLY_PROG (Linux 5.2) for BPF programs.
            numa_node: Where the memory comes from (sets BPF_F_NUMA_NODE); -1 is anywhere.
            token: A BPF token, as descriptor or object with fileno() (Linux 6.9).
            btf: Describe the value to the kernel (BPF_BTF_LOAD): bpftool then shows fields, and the map can be opened
                with rawbpf.BTF. A struct format has fields f0, f1 ..., raw bytes are an array.

        Raises:
            ValueError, TypeError: An argument breaks a rule, or is nothing that BTF can describe; no map was asked for.
            NotPermitted: No CAP_BPF (before 5.8: CAP_SYS_ADMIN).
            BpfError: ENOMEM, EMFILE, ENFILE.

        Needs Linux 4.20. Source: Documentation/bpf/map_queue_stack.rst.
        """
        codec = codec_for(value)
        self._new_map(
            name,
            (0, codec.size),
            max_entries,
            (codec,),
            flags=flags,
            numa_node=numa_node,
            token=token,
            described=partial(_described, codec) if btf else None,
        )

    # Other ways to get one

    @classmethod
    def open(cls, path: StrPath, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map that is pinned at `path` (BPF_OBJ_GET).

        Args:
            path: A pin in a bpffs.
            value: As for creation; None is bytes of the map's own value_size. rawbpf.BTF: by the C type that the map
                carries, see rawbpf.values.btf_codec; that needs CAP_SYS_ADMIN.
            access: "rw", "r" (peek only) or "w" (push only).

        Raises:
            NotFound: Nothing is pinned there.
            NotPermitted: The file's mode does not allow the access, or the file is no pin (EACCES).
            TypeError: The pin is of something else: the other map type, a program.
            ValueError: `value` has another size than the map's values, or is BTF and the map carries none.
        """
        return cls._open(path, value, access=access)

    @classmethod
    def from_id(cls, map_id: int, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map with this id (BPF_MAP_GET_FD_BY_ID); needs CAP_SYS_ADMIN, CAP_BPF is not enough.

        `value` and `access` as in open(). Raises NotFound, NotPermitted, TypeError, ValueError as open() does.
        """
        return cls._from_id(map_id, value, access=access)

    @classmethod
    def from_name(cls, name: str, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the one map of this name among all on the system; needs CAP_SYS_ADMIN.

        Raises NotFound if there is none, ValueError if there are several (it lists their ids: use from_id()),
        TypeError if the only one is of the other type; and what open() raises.
        """
        return cls._from_name(name, value, access=access)

    @classmethod
    def from_fd(cls, fd: int, value: "OpenSpec" = None) -> "Self":
        """Takes over a descriptor: inherited, received, or made by other code. From now on close() closes it.

        On an error (TypeError, ValueError, BpfError) the descriptor stays the caller's, open.
        """
        return cls._from_fd(fd, value)

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        (value,) = specs
        syscall.check_queue_or_stack(info)
        if info.type not in cls.map_types:
            other = "Stack" if cls is Queue else "Queue"
            raise TypeError(f"{syscall.describe(info)} is no {cls.__name__}: use {other}, or rawbpf.open_map()")
        codec = _codec_by_btf(info) if value is BTF else codec_for(info.value_size if value is None else value)
        if codec.size != info.value_size:
            raise ValueError(f"{codec!r} has {codec.size} bytes, {syscall.describe(info)} value_size {info.value_size}")
        return (codec,)

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        codec: Codec[Any] = codecs[0]
        self._codec = codec
        self._encode = codec.encode
        self._decode = codec.decode
        self._raw_size = info.value_size if type(codec) is RawBytes else None
        self._map = new_map(fd, info.value_size)
        self._bulk = Bulk(self._map, codec, info)
        self._spares = self._bulk.spares
        super()._adopt(fd, info)

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
        spares = self._spares
        try:
            batch = spares.pop()
        except IndexError:
            batch = self._bulk.another()
        struct = batch.struct
        try:
            result = _pop(struct)
            if result == 0:
                value: Any = batch.first.tobytes()
                if self._raw_size is None:
                    value = self._decode(value)
                spares.append(batch)
                batch.memory[0] = FREE  # now the caller has it
                return value
        except BaseException:
            lib.batch_keep(struct, 0, 0)
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
            self._spares.append(batch)
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
        return self._bulk.push_many(values, flags | BPF_EXIST if overwrite else flags)

    def pop_many(self, limit: int) -> list[T]:
        """Takes up to `limit` elements, in one system call where the kernel lets a program do it (see `bulk`).

        Returns them in the order of pop(): fewer if the map became empty, none if it was. Many elements are not taken
        at one moment: what others push and pop meanwhile comes in between.

        Raises what pop() raises for the first element, except Empty. On any exception (Ctrl-C, a codec's) nothing is
        lost: what was taken comes first in the next call.
        """
        return self._bulk.pop_many(_count("limit", limit))

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
        return self._bulk.drain(self.max_entries if limit is None else _count("limit", limit), self)

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

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The numpy.dtype of an element: `a = np.empty(4096, q.dtype); n = q.pop_into(a)`, and q.push_many(a[:n]).

        Raises TypeError where numpy has none, see rawbpf.values.numpy_dtype; ImportError without numpy.
        """
        from rawbpf.values.numpy_dtype import dtype_of

        return dtype_of(self._codec)

    @property
    def bulk(self) -> Status:
        """How push_many() and the like work here: `in_kernel` True (a BPF program), False (a call for each element), or
        None (not tried yet, or there was no descriptor or memory: the next call tries again), and `why`."""
        if (access := access_of(self.fileno())) == "r":
            return Status(False, f'the descriptor has access="{access}"')
        if is_frozen(self._fd):
            return Status(False, "the map is frozen")
        return self._bulk.status

    # Looking without taking

    def qsize(self) -> int:
        """How many elements the map holds, approximate while others push and pop.

        bpf(2) does not tell: a BPF program reads it from the map's struct in the kernel. What take_held() would return
        is no longer in the map, and not counted.

        Raises NotPermitted without CAP_PERFMON, Unsupported where the kernel is older than 5.9 or has no BTF.
        """
        return self._inspected().qsize()

    def snapshot(self) -> list[T]:
        """The elements in pop order, left where they are; approximate while others push and pop.

        Copies the whole ring, max_entries + 1 values, 1 MiB at a time. Raises what qsize() raises.
        """
        return [self._decode(element) for element in self._inspected().snapshot()]

    def _inspected(self) -> "Inspector":
        self.fileno()
        if self._inspector is None:
            from rawbpf.maps.qsize import Inspector

            # Another thread may be first.
            self.__dict__.setdefault("_inspector", Inspector(self._map, self._info))
        assert self._inspector is not None
        return self._inspector

    # Elements that were taken out of the kernel and not handed over

    def take_held(self) -> list[bytes]:
        """Hands over, as raw bytes, what was taken out of the kernel and did not reach a caller; normally nothing.

        The way out when a codec can't decode an element: pop() would offer the same one again.
        """
        return self._bulk.take_held()

    # The descriptor

    def fileno(self) -> int:
        """The descriptor. There is no readiness to wait for: poll() reports POLLERR at once, empty or not."""
        return super().fileno()

    def _release(self) -> None:
        """Closes what bulk calls and qsize() opened; warns if elements were taken and not handed over."""
        super()._release()
        if self._inspector is not None:
            self._inspector.close()
        if held := self._bulk.close():
            what = f"{held} elements of {self!r} were popped and never handed over"
            warnings.warn(what, RuntimeWarning, stacklevel=3)

    def _forget(self) -> None:
        super()._forget()
        self._bulk.forget()

    def __reduce__(self) -> "tuple[Any, ...]":
        # Only multiprocessing, while it starts a child, can give that child a descriptor.
        context = sys.modules.get("multiprocessing.context")
        if context is None or context.get_spawning_popen() is None:
            raise TypeError(f"a {type(self).__name__} is a descriptor of this process: pin it, or rawbpf.send_map() it")
        from multiprocessing.reduction import DupFd

        return _in_child, (type(self), DupFd(self.fileno()), self._codec)

    def _failure(self, cmd: Cmd, result: int) -> Exception:
        return element_error(cmd, result, self._map, self._info)


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


def _in_child(kind: "type[S]", duplicate: Any, codec: Codec[Any]) -> "S":
    """The map that a multiprocessing child was given with its arguments."""
    m = kind._from_new_fd(duplicate.detach, codec)
    os.set_inheritable(m.fileno(), False)
    return m


def _codec_by_btf(info: MapInfo) -> Codec[Any]:
    from rawbpf.values.map_btf import codec_of

    return codec_of(info)


def _described(codec: Codec[Any], token_fd: int | None) -> "AbstractContextManager[tuple[int, int, int]]":
    from rawbpf.values.map_btf import described

    return described(codec, token_fd)


def _count(name: str, number: SupportsIndex) -> int:
    count = operator.index(number)
    if count < 0:
        raise ValueError(f"{name} must not be negative")
    return count
