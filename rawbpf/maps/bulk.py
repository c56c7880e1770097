"""Many elements of one map: push_many, pop_many, pop_into, drain; and where elements are until a caller has them.

An element that was taken out of the kernel must not vanish, and must not be handed out twice, whatever is raised at
whatever moment. So elements are taken into batches (struct batch in bpf.h), which count them in memory that no Python
statement has to keep consistent. A call takes a batch, makes the values, and marks the batch as free with one store,
the last thing it does. If anything is raised before that, the batch is held: the next call finds it and begins with it.

Batches are numbered as they are taken, and held ones are handed over in that order.
"""

import errno
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rawbpf import syscall
from rawbpf.abi import BPF_ANY, Cmd
from rawbpf.abi.door import BATCH_IN_USE, HOOK_RAISED, MAP_CLOSED, ffi, forget_batches, lib, raise_hook_failure
from rawbpf.maps.batch import Batch, Hand
from rawbpf.maps.drain import DRAIN_CHUNK, PART, ending_of
from rawbpf.values.codecs import Codec, RawBytes, bytes_view, decode_many, encode_many

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData
    from rawbpf.maps.in_kernel import InKernel

# Fewer elements than this are moved one by one: a run costs about as much as so many calls.
BREAK_EVEN = 12

# A run that ends with EBUSY is tried again so many times. A scratch that another call has is waited for as often, a
# millisecond each; then the elements go one by one.
_TRIES = 10

_ALL = 0xFFFFFFFF
FREE: int = lib.BATCH_FREE
_HELD: int = lib.BATCH_HELD

# Looking a function up in `lib` takes a tenth of the call.
_push = lib.map_push

R = TypeVar("R")


class Status(NamedTuple):
    """How a map moves many elements: `in_kernel` None if that is not known yet, and why it is so."""

    in_kernel: bool | None
    why: str


_NOTHING_YET = Status(None, "nothing was moved in bulk yet")


def _first_number(batch: Batch) -> int:
    """The number of the first element that is left in a batch."""
    return int(batch.struct.number + batch.struct.first)


class Bulk:
    """The batches of one map, and its calls for many elements."""

    def __init__(self, m: "CData", codec: Codec[Any], info: syscall.MapInfo) -> None:
        self._map = m
        self._codec = codec
        self._decoded = partial(decode_many, codec)
        self._info = info
        self._size = info.value_size
        self._closed = False
        self.status = _NOTHING_YET
        # Under the key 0 what moves elements in the kernel, once it is made: of two threads, setdefault() takes one's.
        self._in_kernel: dict[int, InKernel] = {}
        self._few = max(1, min(BREAK_EVEN, 4096 // self._size))
        # The hands of the drains that are under way. No WeakSet: that runs Python code when a hand goes, and CPython
        # drops what a signal handler raises there.
        self._draining: set[weakref.ref[Hand]] = set()
        # All batches there are, so that none is forgotten (other threads may change this list: who goes through it goes
        # through a copy); and one that is never begun. Those with room for self._few
        # are for pop() and its like: a call takes the spare one, and leaves its own as the spare one.
        self._batches = [Batch(m, self._few, self._few)]
        self._nothing = Batch(m, 1, 1)
        self.spare: Batch | None = self._batches[0]

    # Taking
    #
    # These functions are short: where no memory is to be had at all, CPython 3.11 to 3.13 turn for ever in an exception
    # handler behind a function's 256th instruction, for whose number they have no integer. And they make no functions:
    # CPython 3.12 and 3.13 crash where there is no memory for one.

    def pop_many(self, limit: int) -> list[Any]:
        values: list[Any] | None = self._take_few(limit, None) if 0 < limit <= self._few else None
        return values if values is not None else self._take(limit, self._decoded)

    def pop_into(self, buffer: "Buffer") -> int:
        view = bytes_view(buffer)
        if view.readonly:
            raise TypeError("the buffer is read-only")
        limit = len(view) // self._size
        if limit == 0:
            raise ValueError(f"the buffer has {len(view)} bytes, less than one value of {self._size}")
        count: int | None = self._take_few(limit, view) if limit <= self._few else None
        return count if count is not None else self._take(limit, partial(self._copied, view))

    def take_held(self) -> list[bytes]:
        """The elements that were taken and not handed over, raw."""
        return self._take(0, self._split, only_held=True)

    def drain(self, limit: int, owner: object) -> Generator[Iterator[Any], None, None]:
        """The values of up to `limit` elements, an iterator for each part. (For Drain.)"""
        # `owner` is the map, which must not be collected, and so closed, before the generator is.
        while limit > 0:
            hand, keeping = self._hand_and_keeping()
            try:
                self._chunk(hand, limit)
                count = hand.struct.count
                yield from hand.values  # each counts what it handed over
            finally:
                any(hand.ending or keeping)  # one call: a signal handler may run after each
                self._warn_of(hand, owner)
            limit = limit - count if count else 0

    def _hand_and_keeping(self) -> "tuple[Hand, Iterator[object]]":
        """A hand, and what is to be done if a drain ends before there are values: all of it is held."""
        hand = Hand(self._nothing)
        return hand, map(lib.batch_keep, map(getattr, (hand,), ("struct",)))

    def _chunk(self, hand: Hand, limit: int) -> None:
        """The values of up to `limit` elements, taken into a batch; the scratch is free again."""
        limit = min(limit, DRAIN_CHUNK)
        self._begin(hand, limit)
        batch = hand.batch
        if self._map.held:
            self._collect(batch, limit)
        while self._more(batch, limit):
            lib.batch_absorb(batch.struct)
        lib.batch_absorb(batch.struct)
        values = self._decoded(self._chunks(batch))
        if not values:
            return
        hand.lists = [values[at : at + PART] for at in range(0, len(values), PART)]
        hand.values = [iter(each) for each in hand.lists]
        self._draining.difference_update([each for each in list(self._draining) if each() is None])
        hand.ending = ending_of(hand.lists, hand.values, batch.struct)
        # A trace function that raises as a generator yields ends it without its `finally`: then the ending takes place
        # when the hand goes. (next() runs all of it, as none of its steps answers anything.)
        self._draining.add(weakref.ref(hand, partial(next, filter(None, hand.ending))))

    def _warn_of(self, hand: Hand, owner: object) -> None:
        """Once the map is closed, nobody comes for the elements that are left in a batch: that is worth a warning."""
        if self._closed and (left := lib.batch_left(hand.struct)):
            what = f"{left} elements of {owner!r} were popped and never handed over"
            warnings.warn(what, RuntimeWarning, stacklevel=3)

    def first_held(self) -> bytes | None:
        """The element that comes first in the next pop, if it was taken out of the kernel already."""
        for batch in self._held():
            # Copied before it is looked at: another thread may take it at any moment.
            first = b"".join(bytes(chunk[: self._size]) for chunk in self._chunks(batch)[:1])
            if first and batch.struct.state == _HELD:
                return first
        return None

    def _take(self, limit: int, use: "Callable[[list[memoryview]], R]", only_held: bool = False) -> "R":
        """Takes up to `limit` elements, or all that are held, and returns use(chunks) of their bytes."""
        hand = Hand(self._nothing)
        if limit > _ALL:
            limit = _ALL  # the functions of the door take 32 bits
        try:
            self._gather(hand, limit, only_held)
            result = use(self._chunks(hand.batch))
            hand.batch.memory[0] = FREE  # now the caller has them
            return result
        except BaseException:
            lib.batch_keep_both(hand.struct, hand.older)
            raise

    def _take_few(self, limit: int, view: memoryview | None) -> Any:
        """Takes up to `limit` elements, at most what a batch of pop() has room for. Returns their values, or how many
        were copied to `view`; None if something is held, which comes first."""
        batch, self.spare = self.spare, None
        if batch is None:
            batch = self.another()
        struct = batch.struct
        try:
            taken = lib.map_pop(struct, limit)
            if taken >= 0:
                result = self._handed(batch, taken, view)
                self.spare = batch
                batch.memory[0] = FREE  # now the caller has them
                return result
        except BaseException:
            lib.batch_keep(struct)
            raise
        if taken == BATCH_IN_USE:
            return None
        self._took_nothing(batch, taken)
        return self._handed(batch, 0, view)

    def _took_nothing(self, batch: Batch, result: int) -> None:
        if result == HOOK_RAISED:
            raise_hook_failure(result)
        self.spare = batch
        if result != -errno.ENOENT:
            raise self.error(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result)

    def _gather(self, hand: Hand, limit: int, only_held: bool) -> None:
        """Takes up to `limit` elements, or all that are held, into a batch that is large enough; those first that are
        held."""
        held = self._held_count() if self._map.held else 0
        self._begin(hand, held if only_held else min(limit, held))
        if held:
            self._collect(hand.batch, held if only_held else limit)
        while not only_held and self._more(hand.batch, limit):
            batch = hand.batch
            lib.batch_absorb(batch.struct)
            if batch.struct.scratch or batch.struct.count == batch.capacity:
                hand.older = batch.struct
                self._begin(hand, 2 * lib.batch_left(batch.struct))
                lib.batch_move(hand.struct, batch.struct, _ALL)
                hand.older = self._nothing.struct  # it is free, and maybe another call's already

    def _more(self, batch: Batch, limit: int) -> bool:
        """Takes more elements from the kernel. True if there may be more still, and they are wanted.

        Raises what the first element is refused with, except Empty.
        """
        struct = batch.struct
        left = lib.batch_left(struct)
        want = limit - left
        if want <= 0:
            return False
        # The first one singly in any case: a program could pop where this descriptor may not, or from a map that
        # somebody has frozen meanwhile.
        kernel = (self._in_kernel.get(0) or self._made()) if left and want >= BREAK_EVEN else None
        if kernel is not None:
            more = self._run(kernel, batch, min(want, kernel.capacity))
            if more is not None:
                return more and lib.batch_left(struct) < limit
        result = lib.batch_pop(struct, 1 if not left and want >= BREAK_EVEN else want)
        if result == 0:
            return bool(lib.batch_left(struct) < limit)
        if result == HOOK_RAISED:
            raise_hook_failure(result)
        if result != -errno.ENOENT and not lib.batch_left(struct):
            raise self.error(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result)
        return False

    def _run(self, kernel: "InKernel", batch: Batch, count: int) -> bool | None:
        """Takes up to `count` elements in the kernel. True if there may be more, None if no run took place."""
        before = lib.batch_left(batch.struct)
        batch.lender = kernel
        for _ in range(_TRIES):
            result = lib.batch_pop_many(batch.struct, kernel.scratch, count)
            if result == HOOK_RAISED:
                raise_hook_failure(result)
            if result == BATCH_IN_USE:
                time.sleep(0.001)
            elif result < 0:
                break
            elif result != errno.EBUSY or lib.batch_left(batch.struct) > before:
                return result in (0, errno.EBUSY)
        return None

    # The batches

    def _begin(self, hand: Hand, capacity: int) -> None:
        """Puts a batch with room for at least so many elements into the hand, and begins it there: whatever comes in
        between, batch_keep() finds it."""
        for each in self._batches[:]:
            if each.capacity >= capacity and each.capacity > self._few and each.struct.state == FREE:
                hand.batch, hand.struct = each, each.struct
                hand.begun = lib.batch_begin(each.struct), hand.begun
                if hand.begun[0]:
                    return
        made = Batch(self._map, max(capacity, self._few + 1), self._few)
        hand.batch, hand.struct = made, made.struct
        hand.begun = lib.batch_begin(made.struct), hand.begun
        self._batches.append(made)
        # Large ones that are free were too small: they are forgotten, by who has begun them; but for the one that the
        # scratch still asks, because it was lent to it last.
        for each in self._batches[:]:
            hand.begun = each.capacity > self._few and lib.batch_begin(each.struct), hand.begun
            if hand.begun[0] and each.lender is not None and each.lender.scratch.borrower == each.struct:
                each.memory[0] = FREE
            elif hand.begun[0]:
                each.lender = None
                self._batches.remove(each)

    def another(self) -> Batch:
        """A batch for pop(), where another call has the spare one."""
        for each in self._batches[:]:
            if each.capacity == self._few and each.struct.state == FREE and each is not self.spare:
                return each
        made = Batch(self._map, self._few, self._few)
        self._batches.append(made)
        return made

    def _held(self) -> list[Batch]:
        """The batches that are held, in the order in which they were taken."""
        held = [batch for batch in self._batches[:] if batch.struct.state == _HELD]
        return sorted(held, key=_first_number)

    def _held_count(self) -> int:
        return sum([lib.batch_left(batch.struct) for batch in self._held()])

    def _collect(self, batch: Batch, limit: int) -> None:
        """Moves held elements into the batch, those first that were taken first."""
        for held in self._held():
            lib.batch_move(batch.struct, held.struct, limit - lib.batch_left(batch.struct))

    def _chunks(self, batch: Batch) -> list[memoryview]:
        """The bytes of the elements that are left in a batch, in one or two pieces."""
        size, struct, lender = self._size, batch.struct, batch.lender
        chunks = [batch.data[struct.first * size : struct.count * size]]
        if struct.scratch and lender is not None:
            behind = lender.scratch.batch
            chunks.append(lender.data[behind.first * size : behind.count * size])
        return [chunk for chunk in chunks if len(chunk)]

    def _handed(self, batch: Batch, count: int, view: memoryview | None) -> Any:
        """The values of a small batch, or how many were copied to `view`."""
        if view is not None:
            view[: count * self._size] = batch.data[: count * self._size]
            return +count  # an int, though the Python door's answer is more than that
        codec, values = self._codec, []
        raw = type(codec) is RawBytes
        for element in batch.elements[:count]:
            data = element.tobytes()
            values.append(data if raw else codec.decode(data))
        return values

    def _copied(self, view: memoryview, chunks: list[memoryview]) -> int:
        """Copies elements to the beginning of a buffer; returns how many."""
        position = 0
        for chunk in chunks:
            end = position + len(chunk)
            view[position:end] = chunk
            position = end
        return position // self._size

    def _split(self, chunks: list[memoryview]) -> list[bytes]:
        raw = b"".join(chunks)
        return [raw[at : at + self._size] for at in range(0, len(raw), self._size)]

    # Giving

    def push_many(self, values: "Iterable[Any] | Buffer", flags: int) -> int:
        if flags is not BPF_ANY:
            syscall.check_push_flags(flags)
        data = encode_many(self._codec, values)
        size, total = self._size, len(data) // self._size
        if total < BREAK_EVEN:
            return self._push_singly(data, 0, total, flags)
        # The first one singly in any case, as above.
        pushed = self._push_singly(data, 0, 1, flags)
        if pushed < 1:
            return pushed
        kernel = self._in_kernel.get(0) or self._made()
        tries = _TRIES
        while kernel is not None and pushed < total and tries:
            count = min(total - pushed, kernel.capacity)
            part = ffi.from_buffer("char[]", memoryview(data)[pushed * size : (pushed + count) * size])
            result = lib.map_push_many(kernel.scratch, part, count, flags)
            if result == HOOK_RAISED:
                raise_hook_failure(result)
            if result >= 0:
                error, done = divmod(result, 1 << 32)
                pushed += done
                if error not in (0, errno.EBUSY):
                    return pushed
                tries -= done == 0
            elif result == BATCH_IN_USE:
                tries -= 1
                if self._map.held:
                    self._clear_scratch()
                else:
                    time.sleep(0.001)
            else:
                break
        return self._push_singly(data, pushed, total, flags)

    def _push_singly(self, data: bytes | memoryview, pushed: int, total: int, flags: int) -> int:
        """Pushes elements `pushed` to `total`, a call each; returns how many of all are pushed then."""
        values: Any = data
        if pushed or type(data) is not bytes:
            values = ffi.from_buffer("char[]", memoryview(data)[pushed * self._size : total * self._size])
        result = _push(self._map, values, total - pushed, flags)
        if result == total:
            return total
        error, done = divmod(result, 1 << 32)
        pushed += done
        if error == -HOOK_RAISED:
            raise_hook_failure(-error)
        if error not in (0, errno.E2BIG) and pushed == 0:
            raise self.error(Cmd.BPF_MAP_UPDATE_ELEM, -error)
        return pushed

    def _clear_scratch(self) -> None:
        """Moves what is held out of the scratch."""
        for held in self._held():
            if held.struct.scratch:
                hand = Hand(self._nothing)
                try:
                    self._begin(hand, lib.batch_left(held.struct))
                    lib.batch_move(hand.struct, held.struct, _ALL)
                finally:
                    lib.batch_keep(hand.struct)

    # The in-kernel way

    def _made(self) -> "InKernel | None":
        """The scratch and the programs, made when first needed."""
        if self.status.in_kernel is None and not self._closed:
            try:
                from rawbpf.maps import in_kernel

                kernel, why = in_kernel.make(self._map, self._size, self._info.max_entries)
            except OSError as error:
                # No descriptor or no memory, for the programs or for the import: the next call tries again.
                self.status = Status(None, str(error))
                return None
            self.status = Status(kernel is not None, why)
            # Another thread may have been first, or have closed the map.
            if kernel is not None and self._in_kernel.setdefault(0, kernel) is not kernel:
                kernel.close()
            elif self._closed:
                self._forget_kernel()
        return self._in_kernel.get(0)

    def error(self, cmd: Cmd, result: int) -> Exception:
        """The exception for an element command that answered `result`; for a map that was closed a ValueError."""
        if result == MAP_CLOSED:
            return ValueError(f"{syscall.describe(self._info)} is closed")
        return syscall.element_error(cmd, result, self._map.fd, self._info)

    def close(self) -> int:
        """Gives the scratch and the programs back, after map_retire(). Returns how many elements are left held."""
        self._closed = True
        self._clear_scratch()
        self._forget_kernel()
        return self._held_count()

    def _forget_kernel(self) -> None:
        """Closes the programs. The scratch goes with the last that refers to it, a call in another thread maybe."""
        kernel = self._in_kernel.pop(0, None)
        if kernel is not None:
            kernel.close()
            kernel.borrowers = [batch.struct for batch in self._batches[:]]
        for batch in self._batches[:]:
            # To begin a batch is to forget what it had borrowed.
            if lib.batch_begin(batch.struct):
                batch.lender = None
                lib.batch_keep(batch.struct)

    def forget(self) -> None:
        """In a forked child: what the parent took is the parent's to hand over, and the scratch is the parent's too."""
        for each in list(self._draining):
            if (hand := each()) is not None:
                for values in hand.lists:
                    values.clear()
                hand.lists.clear()
        self.status = _NOTHING_YET
        under_way = [batch for batch in self._batches if batch.struct.state not in (FREE, _HELD)]
        forget_batches([batch.struct for batch in under_way], [kernel.scratch for kernel in self._in_kernel.values()])
        self._forget_kernel()
        self._batches = [Batch(self._map, self._few, self._few), *under_way]
        self.spare = self._batches[0]
