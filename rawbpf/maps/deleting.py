"""Maps whose keys can be deleted, and their elements taken out.

An element that was taken out of the kernel is never dropped. It stands in a Taken, together with the kernel's answer,
before Python can be interrupted; who has it counts it as handed over by `at += 1`, behind which no call follows that
might raise. What was taken and did not reach a caller comes first in the next drain(), or see take_held().
"""

import errno
import os
import warnings
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from rawbpf import syscall
from rawbpf.abi import BPF_NOEXIST, ENOTSUPP, Cmd
from rawbpf.abi.door import HOOK_RAISED, ffi, lib, raise_hook_failure
from rawbpf.maps.keyed import NO_BATCH, K, KeyedMap, Page, Raw, V
from rawbpf.syscall.errors import AlreadyExists, NoSuchKey

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

D = TypeVar("D")

_DELETE, _TAKE = int(Cmd.BPF_MAP_DELETE_ELEM), int(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)


class _Raise:
    """The default of `default`: raise NoSuchKey."""

    def __repr__(self) -> str:
        return "<raise NoSuchKey>"


_RAISE = _Raise()


class Taken(Page):
    """The buffers of a call that takes elements out of the kernel: `at` of them were handed over.

    A process that was forked off has them not: its parent hands them over.
    """

    def __init__(self, m: KeyedMap[Any, Any], key: bytes | None, count: int = 1, cursor: "CData | None" = None) -> None:
        super().__init__(m, count, cursor)
        self._single = key is not None
        if key is not None:
            ffi.memmove(self.keys, key, len(key))
        self._process = os.getpid()
        self.at = 0

    @property
    def left(self) -> int:
        """How many were taken and not handed over."""
        if self._process != os.getpid():
            return 0
        answer: int = self.answer[0]
        count: int = self.batch.count
        if self._single:
            return int(answer == 0) - self.at
        # A call that was refused before it did anything leaves `count` as it was, and so does one that was not made.
        done = answer in (0, -errno.ENOENT) or count < self.count
        return count - self.at if done else 0

    def next(self) -> Raw:
        """The next one, as bytes."""
        return self.element(self.at)


class DeletingMap(KeyedMap[K, V]):
    """A KeyedMap with all that a dict has: del m[key], pop(), popitem(), setdefault(), clear()."""

    _taken: list[Taken]
    _has_take: bool = True
    # Only a hash has BPF_MAP_LOOKUP_AND_DELETE_BATCH.
    _drains_in_batches: bool = False

    def _adopt(self, fd: int, info: syscall.MapInfo, *codecs: Any) -> None:
        self._taken = []
        super()._adopt(fd, info, *codecs)

    # Deleting

    def __delitem__(self, key: K) -> None:
        """Deletes a key (BPF_MAP_DELETE_ELEM). Raises NoSuchKey if it is not there, NotPermitted, Busy."""
        result = self._delete(self._encode_key(key))
        if result < 0:
            raise self._failure(Cmd.BPF_MAP_DELETE_ELEM, result, key)

    def discard(self, key: K) -> bool:
        """Deletes a key if it is there; returns whether it was."""
        result = self._delete(self._encode_key(key))
        if result not in (0, -errno.ENOENT):
            raise self._failure(Cmd.BPF_MAP_DELETE_ELEM, result, key)
        return result == 0

    def _delete(self, raw: bytes) -> int:
        return lib.map_element(self._map, _DELETE, raw, ffi.NULL, 0, self._unread)

    def clear(self) -> None:
        """Deletes every key; one that is added meanwhile may stay."""
        for raw, _ in self._raw_items():
            result = self._delete(raw)
            if result not in (0, -errno.ENOENT):
                raise self._failure(Cmd.BPF_MAP_DELETE_ELEM, result, raw)

    # Taking

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: D) -> V | D: ...
    def pop(self, key: K, default: Any = _RAISE) -> Any:
        """Takes a key out of the map and returns its value (BPF_MAP_LOOKUP_AND_DELETE_ELEM; of hashes, Linux 5.14).

        Elsewhere the value is read and the key then deleted: what others set in between is lost.

        Raises NoSuchKey if it is not there and no `default` was given. What a codec can't decode is not lost: see
        take_held().
        """
        return self._take(self._encode_key(key), key, default)

    def _take(self, raw: bytes, key: Any, default: Any = _RAISE) -> Any:
        if not self._has_take:
            return self._read_and_delete(raw, key, default)
        taken = Taken(self, raw)
        answer = taken.answer
        try:
            result = lib.map_element(self._map, _TAKE, taken.keys, taken.values, 0, answer)
            if result == 0:
                return self._decode(taken.next()[1])
            raise_hook_failure(result)
        except BaseException:
            # No call here: a signal handler may raise in one, again.
            if answer[0] == 0:
                self._taken += (taken,)
            raise
        if result == -ENOTSUPP:
            self._has_take = False
            return self._read_and_delete(raw, key, default)
        return self._not_taken(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result, key, default)

    def _read_and_delete(self, raw: bytes, key: Any, default: Any) -> Any:
        taken = Taken(self, raw)
        answer = taken.answer
        result = lib.map_element(self._map, Cmd.BPF_MAP_LOOKUP_ELEM, raw, taken.values, 0, self._unread)
        if result < 0:
            return self._not_taken(Cmd.BPF_MAP_LOOKUP_ELEM, result, key, default)
        # Decoded first: what can't be decoded stays in the map.
        value = self._decode(taken.next()[1])
        try:
            result = lib.map_element(self._map, _DELETE, raw, ffi.NULL, 0, answer)
            if result == 0:
                return value
            raise_hook_failure(result)
        except BaseException:
            if answer[0] == 0:
                self._taken += (taken,)
            raise
        return self._not_taken(Cmd.BPF_MAP_DELETE_ELEM, result, key, default)

    def _not_taken(self, cmd: Cmd, result: int, key: Any, default: Any) -> Any:
        if result == -errno.ENOENT and default is not _RAISE:
            return default
        raise self._failure(cmd, result, key)

    def popitem(self) -> tuple[K, V]:
        """Takes some key and its value out of the map. Raises NoSuchKey if there is none."""
        while (raw := self._next_key(None)) is not None:
            key = self._decode_key(raw)
            try:
                return key, self._take(raw, key)
            except NoSuchKey:
                pass  # somebody else was faster
        raise NoSuchKey(errno.ENOENT, f"{syscall.describe(self._info)} is empty", Cmd.BPF_MAP_GET_NEXT_KEY)

    def setdefault(self, key: K, default: V) -> V:
        """The value of a key, which is set to `default` if it is not there."""
        while True:
            try:
                self._update(key, default, BPF_NOEXIST)
                return default
            except AlreadyExists:
                found = self._looked_up(key)
                if found is not None:
                    return cast(V, self._decode(found))

    def drain(self) -> Iterator[tuple[K, V]]:
        """Takes all elements out of the map and yields them, each once, whoever else drains it.

        A hash gives many in one system call (BPF_MAP_LOOKUP_AND_DELETE_BATCH, Linux 5.6). If the loop is left early,
        what was taken and not yielded comes first in the next call. A key that is added meanwhile may stay.
        """
        mine: list[Taken] = []
        try:
            # What earlier calls left.
            mine, self._taken = self._taken, mine
            yield from self._hand_over(mine)
            if self._drains_in_batches:
                yield from self._drain_in_batches(mine)
            if not self._drains_in_batches:
                yield from self._drain_one_by_one()
        finally:
            self._taken += mine

    def _hand_over(self, mine: list[Taken]) -> Iterator[tuple[K, V]]:
        while mine:
            taken = mine[0]
            while taken.left > 0:
                key, value = taken.next()
                pair = self._decode_key(key), self._decode(value)
                taken.at += 1
                yield pair
            del mine[0]

    def _drain_in_batches(self, mine: list[Taken]) -> Iterator[tuple[K, V]]:
        count, cursor = self._elements_of_batch(), None
        while True:
            page = Taken(self, None, count, cursor)
            mine += (page,)
            result = lib.map_batch(self._map, Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, page.batch, page.answer)
            if result == HOOK_RAISED:
                raise_hook_failure(result)
            yield from self._hand_over(mine)
            if result == -errno.ENOSPC:
                # A bucket is taken as a whole, and there is no room for all that is in this one.
                count *= 2
            elif result in NO_BATCH and cursor is None:
                self._drains_in_batches = False
                return
            elif result == -errno.ENOENT:
                return
            elif result < 0:
                raise self._failure(Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, result)
            else:
                cursor = page.cursor

    def _drain_one_by_one(self) -> Iterator[tuple[K, V]]:
        for raw in self._raw_keys():
            key = self._decode_key(raw)
            try:
                value = self._take(raw, key)
            except NoSuchKey:
                continue
            yield key, value

    def take_held(self) -> list[tuple[bytes, bytes]]:
        """Hands over, as raw bytes, what was taken out of the kernel and did not reach a caller; normally nothing.

        The way out when a codec can't decode an element: drain() would offer the same one again.
        """
        mine, self._taken = self._taken, []
        found = []
        for taken in mine:
            while taken.left > 0:
                found.append(taken.next())
                taken.at += 1
        return found

    def _release(self) -> None:
        super()._release()
        held = sum(max(taken.left, 0) for taken in self._taken)
        if held:
            what = f"{held} elements of {syscall.describe(self._info)} were taken and never handed over"
            warnings.warn(what, RuntimeWarning, stacklevel=3)


MutableMapping.register(DeletingMap)  # pyright: ignore[reportAttributeAccessIssue]
