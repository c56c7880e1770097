"""The batches of door.c in Python: elements that were taken out of the kernel and not handed over to a caller yet."""

import errno
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from operator import getitem, setitem
from typing import TYPE_CHECKING

from rawbpf.abi import python_calls as calls
from rawbpf.abi.constants import Cmd
from rawbpf.abi.python_ffi import ffi
from rawbpf.abi.python_maps import CLOSED, MAP_CLOSED, Lease, Map, counted, element_command

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

BATCH_FREE, BATCH_TAKEN, BATCH_HELD = range(3)
_BEGUN = 3  # what Batch.memory says while batch_begin() makes it empty
SCRATCH_POPPED, SCRATCH_PUSHED, SCRATCH_LIMIT, SCRATCH_WHY, SCRATCH_FLAGS = range(5)

_BATCH_IN_USE, _HOOK_RAISED = -errno.EALREADY, -errno.EINTR
_U32 = 0xFFFFFFFF
_LOOKUP_AND_DELETE, _TEST_RUN = int(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM), int(Cmd.BPF_PROG_TEST_RUN)

# A lease that never ends. Whose lease it was is gone; and the same of a batch whose call has ended with batch_hold().
_FOR_EVER = Lease()
_ENDED = weakref.ref(Lease())
_HANDED_OVER = weakref.ref(Lease())


class Batch:
    """struct batch. `data` is the memory of its elements. `memory` says whether it is free: if it is not, it is TAKEN
    while the lease lives, and afterwards HELD if anything is left in it. `begin` is `first` without regard to `rest`.
    """

    __slots__ = (
        "__weakref__",
        "begin",
        "capacity",
        "count",
        "data",
        "lease",
        "map",
        "memory",
        "number",
        "owner",
        "rest",
        "scratch",
    )

    def __init__(self, m: Map, data: memoryview, capacity: int) -> None:
        self.map = m
        self.data = data
        self.capacity = capacity
        self.scratch: Scratch | None = None
        self.owner = self.number = self.begin = self.count = 0
        self.rest = [0, 0, 0, 0]
        self.memory = bytearray((BATCH_FREE,))
        self.lease = _ENDED

    @property
    def state(self) -> int:
        """BATCH_FREE, BATCH_TAKEN or BATCH_HELD."""
        if self.memory[0] == BATCH_FREE:
            return BATCH_FREE
        if self.lease() is not None:
            return BATCH_TAKEN
        return BATCH_HELD if self.memory[0] == BATCH_TAKEN and batch_left(self) else BATCH_FREE

    @property
    def is_held(self) -> bool:
        """For Map.held."""
        return self.state == BATCH_HELD

    @property
    def first(self) -> int:
        """The index of the first element that is left."""
        return self.count - sum(self.rest) if self.lease is _HANDED_OVER else self.begin


class Answer(int):
    """A number, and the lease of a batch: it is the caller's as long as the caller has the number."""

    lease: Lease

    @classmethod
    def of(cls, number: int, lease: Lease) -> "Answer":
        answer = cls(number)
        answer.lease = lease
        return answer


def new_batch(m: Map, capacity: int) -> tuple[Batch, bytearray, memoryview]:
    view = memoryview(bytearray(capacity * m.value_size))
    batch = Batch(m, view, capacity)
    for each in m.batches[:]:
        if each() is None:
            m.batches.remove(each)
    m.batches.append(weakref.ref(batch))
    return batch, batch.memory, view


def _claim(batch: Batch, state: int, memory: int) -> Lease | None:
    """A lease of a batch that is in this state; None if it is not, or another thread was first."""
    lease, before, me = Lease(), batch.lease, threading.get_ident()
    reference, first = weakref.ref(lease), batch.first
    if batch.state != state:
        return None
    # From here on there is no call: other threads don't get their turn.
    if batch.lease is not before:
        return None
    batch.begin = first
    batch.owner = me
    batch.lease = reference
    batch.memory[0] = memory
    return lease


def _begin(batch: Batch) -> Lease | None:
    lease = _claim(batch, BATCH_FREE, _BEGUN)
    if lease is not None:
        batch.begin = batch.count = 0
        batch.scratch = None
        batch.memory[0] = BATCH_TAKEN
    return lease


def batch_begin(batch: Batch) -> int:
    lease = _begin(batch)
    return 0 if lease is None else Answer.of(1, lease)


def _number(batch: Batch, count: int) -> None:
    """`count` elements are about to be taken: an element's number is that of its call."""
    if batch.count == 0:
        batch.number = batch.map.taken
    batch.map.taken += count


def _noting_element(batch: Batch, answer: list[int]) -> "map[None]":
    # count = {0: count + 1}.get(answer[0], count)
    count = batch.count
    after = {0: count + 1}
    return map(setattr, (batch,), ("count",), map(after.get, map(getitem, (answer,), (0,)), (count,)))


def _pop_one(batch: Batch) -> int:
    m, count = batch.map, batch.count
    _number(batch, 1)
    value = ffi.from_buffer("char[]", batch.data[count * m.value_size : (count + 1) * m.value_size])
    answer = [calls.UNANSWERED, 0]
    result = calls.UNANSWERED
    try:
        result = element_command(_LOOKUP_AND_DELETE, m, value, 0, answer, partial(_noting_element, batch, answer))
        return result
    finally:
        # Where a hook stands at the door.
        if 0 in (result, answer[0]):
            batch.count = count + 1


def batch_pop(batch: Batch, want: int) -> int:
    result = 0
    while result == 0 and want and batch.count < batch.capacity:
        result = _pop_one(batch)
        want -= 1
    return result


def map_pop(batch: Batch, want: int) -> int:
    if batch.map.held or (lease := _begin(batch)) is None:
        return _BATCH_IN_USE
    result = batch_pop(batch, want)
    if batch.count == 0 or result == _HOOK_RAISED:
        batch_keep(batch)
        return result
    return Answer.of(batch.count, lease)


def map_lookup_and_delete_elem(batch: Batch) -> int:
    result = map_pop(batch, 1)
    return Answer.of(0, result.lease) if isinstance(result, Answer) else result


def _left(batch: Batch) -> int:
    return batch.count - batch.first


def batch_left(batch: Batch) -> int:
    return _left(batch) + (_left(batch.scratch.batch) if batch.scratch else 0)


def batch_holding(batch: Batch) -> Iterator[object]:
    return map(setattr, (batch,), ("lease",), (_HANDED_OVER,))


def batch_keep(batch: Batch) -> None:
    state, left, me = batch.state, batch_left(batch), threading.get_ident()
    # From here on there is no call: other threads don't get their turn.
    if state == BATCH_TAKEN and batch.owner == me:
        batch.lease = _ENDED
        if left == 0:
            batch.memory[0] = BATCH_FREE


def batch_keep_both(batch: Batch, other: Batch) -> None:
    batch_keep(batch)
    batch_keep(other)


def _move(to: Batch, source: Batch, most: int) -> int:
    size = to.map.value_size
    count = min(_left(source), most, to.capacity - to.count)
    if count:
        begin = source.first * size
        to.data[to.count * size : (to.count + count) * size] = source.data[begin : begin + count * size]
        if to.count == 0:
            to.number = source.number + source.first
        # Both in one step, or the elements would be there twice, or not at all.
        any(map(setattr, (to, source), ("count", "begin"), (to.count + count, source.first + count)))
    return count


def batch_move(to: Batch, source: Batch, most: int) -> int:
    lease = _claim(source, BATCH_HELD, BATCH_TAKEN)
    if lease is None and (source.state != BATCH_TAKEN or source.owner != threading.get_ident()):
        return 0
    try:
        moved = _move(to, source, most)
        if source.scratch and _left(source) == 0:
            moved += _move(to, source.scratch.batch, most - moved)
        return moved
    finally:
        batch_keep(source)


def batch_absorb(batch: Batch) -> None:
    if batch.scratch:
        _move(batch, batch.scratch.batch, _U32)
        if _left(batch.scratch.batch) == 0:
            batch.scratch = None


def forget_batches(batches: list[Batch], scratches: "list[Scratch]") -> None:
    for batch in batches:
        batch.begin = batch.count = 0
        batch.scratch = None
        batch.map.batches.append(weakref.ref(batch))
    for scratch in scratches:
        scratch.lease = weakref.ref(_FOR_EVER)


class Scratch:
    """struct scratch."""

    __slots__ = ("attr_size", "batch", "borrower", "data", "lease", "pop_attr", "push_attr", "words")

    def __init__(
        self,
        m: Map,
        memory: memoryview,
        data: int,
        capacity: int,
        pop_attr: "CData",
        push_attr: "CData",
        attr_size: int,
    ) -> None:
        self.batch = Batch(m, memory[data:], capacity)
        self.borrower: Batch | None = None
        self.lease = _ENDED
        self.words = memory[:data].cast("I")
        self.pop_attr, self.push_attr, self.attr_size = pop_attr, push_attr, attr_size


new_scratch = Scratch


def _lease_of(scratch: Scratch) -> Lease | None:
    """A lease of the scratch, for one call; None if another call has it."""
    lease, before = Lease(), scratch.lease
    reference = weakref.ref(lease)
    if before() is not None:
        return None
    # From here on there is no call: other threads don't get their turn.
    if scratch.lease is not before:
        return None
    scratch.lease = reference
    return lease


def _is_lent(scratch: Scratch) -> bool:
    borrower = scratch.borrower
    return borrower is not None and borrower.scratch is scratch and borrower.state != BATCH_FREE


def _run(scratch: Scratch, attr: "CData", want: int, note: "Callable[[], Iterable[None]]" = tuple) -> int:
    """Runs one of the two programs; note() is what to do in the same step."""
    m, words, answer = scratch.batch.map, scratch.words, [calls.UNANSWERED, 0]
    words[SCRATCH_POPPED] = words[SCRATCH_PUSHED] = words[SCRATCH_WHY] = 0
    words[SCRATCH_LIMIT] = want
    if m.fd == CLOSED:
        return MAP_CLOSED
    if calls.hooked:
        try:
            result = calls.ask_hook(_TEST_RUN, attr, scratch.attr_size, answer)
        finally:
            any(note())
    else:
        entering = map(setitem, (answer,), (0,), calls.entering(_TEST_RUN, attr, scratch.attr_size))
        counted(m, chain(entering, note(), calls.noting_errno(answer)))
        result = calls.result_of(answer)
    return result if result < 0 else -words[SCRATCH_WHY] & _U32


def _noting_run(scratch: Scratch) -> "map[None]":
    # As the program counts to the limit at most, no min(): to compare takes one level of recursion more.
    return map(setattr, (scratch.batch,), ("count",), map(getitem, (scratch.words,), (SCRATCH_POPPED,)))


def batch_pop_many(batch: Batch, scratch: Scratch, want: int) -> int:
    popped = scratch.batch
    lease = _lease_of(scratch)
    if lease is None:
        return _BATCH_IN_USE
    try:
        if _is_lent(scratch) and not (scratch.borrower is batch and _left(popped) == 0):
            return _BATCH_IN_USE
        popped.begin = popped.count = 0
        _number(popped, want)
        if batch.count == 0:
            batch.number = popped.number
        scratch.borrower = batch
        batch.scratch = scratch
        return _run(scratch, scratch.pop_attr, want, partial(_noting_run, scratch))
    finally:
        scratch.lease = _ENDED


def map_push_many(scratch: Scratch, values: "bytes | CData", count: int, flags: int) -> int:
    lease = _lease_of(scratch)
    if lease is None:
        return _BATCH_IN_USE
    try:
        if _is_lent(scratch):
            return _BATCH_IN_USE
        size = count * scratch.batch.map.value_size
        scratch.batch.data[:size] = values if isinstance(values, bytes) else ffi.buffer(values, size)
        scratch.words[SCRATCH_FLAGS : SCRATCH_FLAGS + 2].cast("B").cast("Q")[0] = flags
        result = _run(scratch, scratch.push_attr, count)
        return result << 32 | min(scratch.words[SCRATCH_PUSHED], count) if result >= 0 else result
    finally:
        scratch.lease = _ENDED
