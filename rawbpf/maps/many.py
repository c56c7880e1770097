"""Many elements of one map: push_many, pop_many, pop_into, drain, and that none of them loses an element.

An element that was taken out of the kernel belongs to somebody at every moment. A signal handler may raise between any
two steps, and then what was taken and not handed over must not vanish with a local variable. Two facts make that
possible:

- CPython runs signal handlers after calls and at jumps backward, not between plain loads and stores. `held += (x,)`,
  `header[TAKEN] = 0` and `del held[0]` are no calls: two of them in a row are one step.
- Whoever takes elements puts them in a list of their own (`raws`) that an exception handler gives back, without a call:
  `held += ((raws, 0),)`.

So each operation ends with a commit, a few plain statements behind the last call. A lock's release() would be a call;
the lock here is a dictionary with one key, and whoever deletes the key has it.
"""

import errno
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from rawbpf import syscall
from rawbpf.abi import BPF_ANY, Cmd
from rawbpf.abi.door import FFI_MODE, HOOK_RAISED, lib, raise_hook_failure
from rawbpf.maps.scratch import PUSHED, TAKEN, Status
from rawbpf.values.codecs import Codec, RawBytes, decode_many, encode_many

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData
    from rawbpf.maps.bulk import InKernel

_push = lib.map_update_elem
_pop = lib.map_lookup_and_delete_elem

# Whether a spare element is kept for the next pop. Without the GIL (a free-threaded CPython) two threads might take it.
# And a pop in Python (abidoor.py) can be interrupted before it unmarks the element as taken, which C can't.
KEEPS_SPARE: bool = FFI_MODE == "api" and getattr(sys, "_is_gil_enabled", lambda: True)()

# Fewer elements than this are moved one by one: a run costs about as much as so many calls.
BREAK_EVEN = 12

# Elements that drain() takes at once.
DRAIN_CHUNK = 1024

# A run that ends with EBUSY is tried again so many times.
_BUSY_TRIES = 10

# What was taken and not handed over: bytes, in pop order; behind them what was given back since, (chunks, n): without
# the first n elements. Of those the last comes first: who gives back last took first.
Held = list[Any]

R = TypeVar("R")


class Many:
    """The state behind a map's bulk calls."""

    def __init__(self, fd: int, m: "CData", codec: Codec[Any], info: syscall.MapInfo) -> None:
        self._fd = fd
        self._map = m
        self._codec = codec
        self._info = info
        self._size = info.value_size
        # Taken out of the kernel and not handed over. Anybody may append; only who has the lock takes away.
        self.held: Held = []
        self._lock = {0: True}
        self._owner = 0
        self._forks = 0
        self._kernel: InKernel | None = None
        self._header: Any = [0]
        self._spare: tuple[CData, memoryview] | None = None
        self._raw = type(codec) is RawBytes
        self.status = Status(None, "nothing was moved in bulk yet")

    # Taking

    def pop_many(self, limit: int) -> list[Any]:
        if limit < BREAK_EVEN and not self.held:
            return self._take_few(limit, self._decoded_few)
        return self._take(limit, self._decoded)

    def _take_few(self, limit: int, use: "Callable[[list[bytes]], R]") -> "R":
        """As _take(), but singly, which needs no lock."""
        raws: Held = []
        try:
            self._singly(limit, raws)
            return use(raws)
        except BaseException:
            self.held += ((raws, 0),)
            raise

    def _decoded_few(self, raws: list[bytes]) -> list[Any]:
        return raws if self._raw else list(map(self._codec.decode, raws))

    def _decoded(self, chunks: "list[bytes | memoryview]") -> list[Any]:
        return decode_many(self._codec, chunks)

    def pop_into(self, buffer: "Buffer") -> int:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("the buffer is read-only")
        limit = len(view) // self._size
        if limit == 0:
            raise ValueError(f"the buffer has {len(view)} bytes, less than one value of {self._size}")

        def copy_few(raws: list[bytes]) -> int:
            data = b"".join(raws)
            view[: len(data)] = data
            return len(raws)

        if limit < BREAK_EVEN and not self.held:
            return self._take_few(limit, copy_few)

        def copy(chunks: "list[Buffer]") -> int:
            position = 0
            for chunk in chunks:
                end = position + memoryview(chunk).nbytes
                view[position:end] = chunk
                position = end
            return position // self._size

        return self._take(limit, copy)

    def drain(self, limit: int, owner: object) -> Iterator[Any]:
        # `owner` is the map, which must not be collected, and so closed, before the generator is.
        forks = self._forks
        while limit > 0:
            raw, given = b"", 0
            try:
                raw, values = self._take(min(limit, DRAIN_CHUNK), self._raw_and_decoded)
                for value in values:
                    if self._forks != forks:
                        return
                    # Handed over: the consumer has it before anything can interrupt.
                    given += 1
                    yield value
                if not given:
                    return
                limit -= given
                raw = b""
            finally:
                # The consumer broke off, or something was raised: the rest comes first in the next call. In a forked
                # child it is the parent's.
                if raw and self._forks == forks:
                    self.held += (((raw,), given),)
                    # Nobody comes for them any more.
                    if self._fd < 0 and (left := len(raw) // self._size - given):
                        what = f"{left} elements of {owner!r} were popped and never handed over"
                        warnings.warn(what, RuntimeWarning, stacklevel=2)

    def _raw_and_decoded(self, chunks: "list[Buffer]") -> tuple[bytes, list[Any]]:
        raw = b"".join(chunks)
        return raw, decode_many(self._codec, [raw])

    def take_held(self) -> list[bytes]:
        """The elements that were taken and not handed over, raw."""

        def split(chunks: "list[Buffer]") -> list[bytes]:
            raw = b"".join(chunks)
            return [raw[at : at + self._size] for at in range(0, len(raw), self._size)]

        return self._take(0, split, everything_held=True)

    def first_held(self) -> bytes | None:
        """The element that comes first in the next pop, if it was taken out of the kernel already."""
        me = self.check_free()
        try:
            self._acquire(me)
            self._merge()
            return self.held[0][: self._size] if self.held else None
        finally:
            if self._owner == me:
                self._owner = 0
                self._lock[0] = True

    def _take(self, limit: int, use: "Callable[[list[Any]], R]", everything_held: bool = False) -> "R":
        """Takes up to `limit` elements and returns use(chunks) of their raw bytes; on an exception all are held."""
        raws: Held = []
        me = self.check_free()
        try:
            self._acquire(me)
            if self.held:
                self._merge()
            if everything_held:
                self._from_held(sum(map(len, self.held)) // self._size, raws)
            else:
                self._gather(limit, raws)
            result = use([*raws, *self._scratch()])
            # The commit: from here on no call.
            self._header[TAKEN] = 0
            return result
        except BaseException:
            # Also if `raws` is empty: the last run's elements may be in the scratch, see _merge().
            self.held += ((raws, 0),)
            raise
        finally:
            if self._owner == me:
                self._owner = 0
                self._lock[0] = True

    def _gather(self, limit: int, raws: Held) -> None:
        """Up to `limit` elements: what is held, a few singly, the rest in the kernel, the last run's in the scratch."""
        want = limit - (self._from_held(limit, raws) if self.held else 0)
        # The first one singly in any case: a program could pop where this descriptor may not, or the map is frozen.
        few = want if want < BREAK_EVEN else 1
        if self._singly(few, raws) < few or want == few:
            return
        kernel = self._kernel or self._in_kernel()
        left = want - few
        if kernel is not None:
            left = self._from_kernel(kernel, left, raws)
        self._singly(left, raws)

    def _merge(self) -> None:
        """Puts what was given back, and what a run left in the scratch, in front, in the order it was popped in."""
        for view in self._scratch():
            chunk = bytes(view)
            self.held[:0] = (chunk,)
            self._header[TAKEN] = 0
        entries = self.held[:]
        back = [b"".join(entry[0])[entry[1] * self._size :] for entry in reversed(entries) if type(entry) is tuple]
        chunks = [chunk for chunk in back + [entry for entry in entries if type(entry) is bytes] if chunk]
        count = len(entries)
        self.held[:count] = chunks

    def _from_held(self, want: int, raws: Held) -> int:
        taken = 0
        while taken < want and self.held and type(self.held[0]) is bytes:
            chunk = self.held[0]
            room = (want - taken) * self._size
            head, rest = chunk[:room], chunk[room:]
            taken += len(head) // self._size
            if rest:
                self.held[0] = rest
                raws += (head,)
            else:
                del self.held[0]
                raws += (head,)
        return taken

    def _singly(self, want: int, raws: Held) -> int:
        """Pops up to `want` elements with a call each; returns how many. Raises only if there is none at all."""
        # Under the GIL no other thread gets in between the two halves of this line.
        spare, self._spare = self._spare, None
        if spare is None:
            spare = syscall.new_element(self._map, self._size)
        element, value = spare
        for taken in range(want):
            try:
                result = _pop(element)
                if result == 0:
                    data = value.tobytes()
                    raws += (data,)
                    element.taken = 0
                elif result == HOOK_RAISED:
                    raise_hook_failure()
            except BaseException:
                # `result` may not have got here: the element itself says whether it was taken.
                if element.taken:
                    raws += (value,)
                raise
            if result < 0:
                self._spare = spare if KEEPS_SPARE else None
                if result == -errno.ENOENT or any(raws):
                    return taken
                raise syscall.element_error(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result, self._fd, self._info)
        self._spare = spare if KEEPS_SPARE else None
        return want

    def _from_kernel(self, kernel: "InKernel", want: int, raws: Held) -> int:
        """Pops up to `want` elements in runs. Returns how many are left to pop singly: some if a run is refused."""
        busy = 0
        while want:
            count = min(want, kernel.capacity)
            if kernel.pop(count) < 0:
                return want
            taken = kernel.header[TAKEN]
            want -= taken
            if taken < count:
                busy += 1
                if kernel.why != errno.EBUSY or busy == _BUSY_TRIES:
                    break
            # Another run needs the scratch.
            if want:
                for view in self._scratch():
                    chunk = bytes(view)
                    raws += (chunk,)
                    kernel.header[TAKEN] = 0
        return 0

    def _scratch(self) -> "list[Buffer]":
        """What the last run popped into the scratch, if anything."""
        taken = self._header[TAKEN]
        return [self._kernel.data[: taken * self._size]] if self._kernel and taken else []

    # Giving

    def push_many(self, values: "Iterable[Any] | Buffer", flags: int) -> int:
        if flags is not BPF_ANY:
            syscall.check_push_flags(flags)
        data = encode_many(self._codec, values)
        total = len(data) // self._size
        # The first one singly in any case: a program could push where this descriptor may not.
        few = total if total < BREAK_EVEN else 1
        pushed = self._push_singly(data, 0, few, flags)
        if pushed < few or pushed == total:
            return pushed
        me = self.check_free()
        try:
            self._acquire(me)
            kernel = self._in_kernel()
            if kernel is not None:
                self._merge()
                pushed, more = self._push_in_kernel(kernel, memoryview(data), pushed, flags)
                if not more:
                    return pushed
        finally:
            if self._owner == me:
                self._owner = 0
                self._lock[0] = True
        return self._push_singly(data, pushed, total, flags)

    def _push_singly(self, data: bytes | memoryview, pushed: int, total: int, flags: int) -> int:
        """Pushes elements `pushed` to `total`, a call each; returns how many of all are pushed then."""
        size = self._size
        values = bytes(data[pushed * size : total * size])
        for number in range(pushed, total):
            at = (number - pushed) * size
            result = _push(self._map, values[at : at + size], flags)
            if result == HOOK_RAISED:
                raise_hook_failure()
            if result < 0:
                if result == -errno.E2BIG or number:
                    return number
                raise syscall.element_error(Cmd.BPF_MAP_UPDATE_ELEM, result, self._fd, self._info)
        return total

    def _push_in_kernel(self, kernel: "InKernel", data: memoryview, pushed: int, flags: int) -> tuple[int, bool]:
        """Pushes the elements from number `pushed` in runs. Returns how many of all are pushed, and whether the rest
        should be tried singly."""
        busy, total = 0, len(data) // self._size
        while pushed < total:
            count = min(total - pushed, kernel.capacity)
            kernel.data[: count * self._size] = data[pushed * self._size : (pushed + count) * self._size]
            if kernel.push(count, flags) < 0:
                return pushed, True
            done = kernel.header[PUSHED]
            pushed += done
            if done < count:
                busy += 1
                if kernel.why != errno.EBUSY or busy == _BUSY_TRIES:
                    return pushed, False
        return pushed, False

    # The in-kernel way

    def _in_kernel(self) -> "InKernel | None":
        """The scratch and the programs, made when first needed."""
        if self.status.in_kernel is None:
            try:
                from rawbpf.maps import bulk

                self._kernel, why = bulk.make(self._fd, self._size, self._info.max_entries)
            except OSError as error:
                # No descriptor or no memory, for the programs or for the import: the next call tries again.
                self.status = Status(None, str(error))
                return None
            self.status = Status(self._kernel is not None, why)
            if self._kernel is not None:
                self._header = self._kernel.header
        return self._kernel

    def close(self) -> int:
        """Gives the scratch and the programs back. Returns how many elements were never handed over."""
        me = self.check_free()
        try:
            self._acquire(me)
            self._merge()
            self._drop()
            self._fd = -1
        finally:
            if self._owner == me:
                self._owner = 0
                self._lock[0] = True
        return sum(map(len, self.held)) // self._size

    def forget(self) -> None:
        """In a forked child: what the parent took is the parent's to hand over, and the scratch is the parent's too."""
        self._forks += 1
        self.held.clear()
        # Of threads that are not here.
        self._map.calls = 0
        self._drop()
        self._owner = 0
        self._lock[0] = True

    def _drop(self) -> None:
        kernel, self._kernel = self._kernel, None
        self._header = [0]
        self.status = Status(None, "nothing was moved in bulk yet")
        if kernel is not None:
            kernel.close()

    # The lock

    def check_free(self) -> int:
        """This thread's number. RuntimeError if a bulk call of it is under way."""
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError("a codec or a signal handler can't use the map in whose bulk call it runs")
        return me

    def _acquire(self, me: int) -> None:
        """Waits for the lock. It is to be given back without a call: `self._owner = 0; self._lock[0] = True`."""
        pause = 0.0
        while True:
            try:
                del self._lock[0]
                self._owner = me
                return
            except KeyError:
                time.sleep(pause)
                pause = min(pause + 0.00005, 0.001)
