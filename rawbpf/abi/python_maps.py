"""The maps of door.c in Python: calls for one element, batches, and commands for maps with keys.

Threads that share a map count on the GIL here: claiming a batch takes two steps.
"""

import errno
import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain
from operator import getitem, setitem
from typing import TYPE_CHECKING, Any

from rawbpf.abi import python_calls as calls
from rawbpf.abi.constants import Cmd
from rawbpf.abi.python_ffi import ffi

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

BATCH_FREE, BATCH_TAKEN, BATCH_HELD = range(3)
SCRATCH_POPPED, SCRATCH_PUSHED, SCRATCH_LIMIT, SCRATCH_WHY, SCRATCH_FLAGS = range(5)

_BUSY_TRIES = 10
_ATTR_SIZE = 32
_U32 = 0xFFFFFFFF
_CLOSED = _U32  # no descriptor: the kernel answers EBADF
_MAP_CLOSED, _BATCH_IN_USE, _HOOK_RAISED = -errno.ESHUTDOWN, -errno.EALREADY, -errno.EINTR

# Plain ints, for the calls that are made most.
_LOOKUP, _UPDATE = int(Cmd.BPF_MAP_LOOKUP_ELEM), int(Cmd.BPF_MAP_UPDATE_ELEM)
_LOOKUP_AND_DELETE, _TEST_RUN = int(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM), int(Cmd.BPF_PROG_TEST_RUN)


class Map:
    """struct map. `calls` has a mark for each call that is under way."""

    __slots__ = ("calls", "fd", "held", "taken", "value_size")

    def __init__(self, fd: int, value_size: int) -> None:
        self.fd = fd
        self.value_size = value_size
        self.calls: list[object] = []
        self.held = 0
        self.taken = 0


new_map = Map


def forget_calls(m: Map) -> None:
    m.calls.clear()


def map_retire(m: Map) -> None:
    m.fd = _CLOSED
    # When the interpreter ends, daemon threads stand still wherever they are.
    while m.calls and not sys.is_finalizing():
        time.sleep(0.00005)


def _counted(m: Map, steps: "Iterable[None]") -> None:
    """Runs the steps as one, counted as a call that map_retire() waits for."""
    mark = object()
    marked, unmarked = map(m.calls.append, (mark,)), map(m.calls.remove, (mark,))
    try:
        any(chain(marked, steps, unmarked))
    except BaseException:
        if mark in m.calls:
            m.calls.remove(mark)
        raise


def map_dup(m: Map, made: Any) -> int:
    if m.fd == _CLOSED:
        return _MAP_CLOSED
    copying = map(calls.copy_descriptor, map(getattr, (m,), ("fd",)), (fcntl.F_DUPFD_CLOEXEC,), (calls.STDERR + 1,))
    try:
        _counted(m, map(setitem, (made,), (0,), copying))
    except OSError as error:
        # EINVAL: the process may have no descriptor above 2.
        return -errno.EBADF if error.errno == errno.EBADF else -errno.EMFILE
    except OverflowError:
        return _MAP_CLOSED
    return int(made[0])


def map_bpf(m: Map, cmd: int, attr: "CData", size: int) -> int:
    answer = [calls.UNANSWERED, 0]
    if m.fd == _CLOSED:
        return _MAP_CLOSED
    if calls.hooked:
        return calls.ask_hook(cmd, attr, size, answer)
    _counted(m, chain(map(setitem, (answer,), (0,), calls.entering(cmd, attr, size)), calls.noting_errno(answer)))
    return calls.result_of(answer)


def _element_command(
    cmd: int, m: Map, value: "CData", flags: int, answer: list[int], note: "Callable[[], Iterable[None]]" = tuple
) -> int:
    """A command for an element. note() is what to do in the same step, once the answer is there."""
    attr = ffi.new("union bpf_attr *")
    attr.value = int(ffi.cast("uintptr_t", value))
    attr.flags = flags
    result = -errno.EBUSY
    for _ in range(_BUSY_TRIES):
        if calls.hooked:
            attr.map_fd = m.fd
            result = calls.ask_hook(cmd, attr, _ATTR_SIZE, answer)
        else:
            # The descriptor is read after the call was counted, as map_retire() does it the other way round.
            descriptor = map(setattr, (attr,), ("map_fd",), map(getattr, (m,), ("fd",)))
            entering = map(setitem, (answer,), (0,), calls.entering(cmd, attr, _ATTR_SIZE))
            _counted(m, chain(descriptor, entering, note(), calls.noting_errno(answer)))
            result = calls.result_of(answer)
        if result != -errno.EBUSY:
            break
    return _MAP_CLOSED if m.fd == _CLOSED and result == -errno.EBADF else result


def map_update_elem(m: Map, value: "bytes | CData", flags: int) -> int:
    data = ffi.from_buffer("char[]", value) if isinstance(value, bytes) else value
    return _element_command(_UPDATE, m, data, flags, [calls.UNANSWERED, 0])


def map_lookup_elem(m: Map, value: "CData") -> int:
    return _element_command(_LOOKUP, m, value, 0, [calls.UNANSWERED, 0])


def map_push(m: Map, values: "bytes | CData", count: int, flags: int) -> int:
    size = m.value_size
    data = memoryview(values if isinstance(values, bytes) else ffi.buffer(values, count * size))
    for pushed in range(count):
        result = map_update_elem(m, bytes(data[pushed * size : (pushed + 1) * size]), flags)
        if result < 0:
            return -result << 32 | pushed
    return count


# Batches


class Batch:
    """struct batch. `data` is the memory of its elements, `memory` that of its state."""

    __slots__ = ("begun", "capacity", "count", "data", "first", "last", "map", "memory", "number", "owner", "scratch")

    def __init__(self, m: Map, data: memoryview, capacity: int) -> None:
        self.map = m
        self.data = data
        self.capacity = capacity
        self.scratch: Scratch | None = None
        self.owner = self.number = self.first = self.count = self.begun = self.last = 0
        self.memory = bytearray((BATCH_FREE,))

    @property
    def state(self) -> int:
        return self.memory[0]


def new_batch(m: Map, capacity: int) -> tuple[Batch, bytearray, memoryview]:
    view = memoryview(bytearray(capacity * m.value_size))
    batch = Batch(m, view, capacity)
    return batch, batch.memory, view


def _claim(batch: Batch, state: int) -> bool:
    me = threading.get_ident()
    # From here on there is no call: other threads don't get their turn, and nothing can fail.
    memory = batch.memory
    if memory[0] != state:
        return False
    memory[0] = BATCH_TAKEN
    batch.owner = me
    return True


def batch_begin(batch: Batch) -> bool:
    if not _claim(batch, BATCH_FREE):
        return False
    batch.first = batch.count = 0
    batch.scratch = None
    return True


def _number(batch: Batch, count: int) -> None:
    """`count` elements are about to be taken: an element's number is that of its call."""
    if batch.count == 0:
        batch.number = batch.map.taken
    batch.map.taken += count


def _pop_one(batch: Batch) -> int:
    m, count = batch.map, batch.count
    _number(batch, 1)
    value = ffi.from_buffer("char[]", batch.data[count * m.value_size : (count + 1) * m.value_size])
    answer = [calls.UNANSWERED, 0]
    taken = {0: count + 1}

    def note() -> "map[None]":
        # count = taken.get(answer[0], count)
        return map(setattr, (batch,), ("count",), map(taken.get, map(getitem, (answer,), (0,)), (count,)))

    result = calls.UNANSWERED
    try:
        result = _element_command(_LOOKUP_AND_DELETE, m, value, 0, answer, note)
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
    if batch.map.held or not batch_begin(batch):
        return _BATCH_IN_USE
    result = batch_pop(batch, want)
    if batch.count == 0 or result == _HOOK_RAISED:
        _hold(batch, 0)
        return result
    return batch.count


def map_lookup_and_delete_elem(batch: Batch) -> int:
    return min(map_pop(batch, 1), 0)


def _left(batch: Batch) -> int:
    return batch.count - batch.first


def batch_left(batch: Batch) -> int:
    return _left(batch) + (_left(batch.scratch.batch) if batch.scratch else 0)


def _hold(batch: Batch, handed: int) -> None:
    # Without a call, for a signal handler may run after each.
    if batch.memory[0] != BATCH_TAKEN:
        return
    batch.first += handed
    left = batch.count - batch.first
    if batch.scratch is not None:
        behind = batch.scratch.batch
        left += behind.count - behind.first
    if left == 0:
        batch.memory[0] = BATCH_FREE
    else:
        batch.map.held += 1
        batch.memory[0] = BATCH_HELD


def batch_hold(batch: Batch) -> None:
    _hold(batch, batch.begun - batch.last)


def batch_keep(batch: Batch) -> None:
    if batch.owner == threading.get_ident():
        _hold(batch, 0)


def batch_keep_both(batch: Batch, other: Batch) -> None:
    me = threading.get_ident()
    if batch.owner == me:
        _hold(batch, 0)
    if other.owner == me:
        _hold(other, 0)


def _move(to: Batch, source: Batch, most: int) -> int:
    size = to.map.value_size
    count = min(_left(source), most, to.capacity - to.count)
    if count:
        begin = source.first * size
        to.data[to.count * size : (to.count + count) * size] = source.data[begin : begin + count * size]
        if to.count == 0:
            to.number = source.number + source.first
        # Both in one step, or the elements would be there twice, or not at all.
        any(map(setattr, (to, source), ("count", "first"), (to.count + count, source.first + count)))
    return count


def batch_move(to: Batch, source: Batch, most: int) -> int:
    if _claim(source, BATCH_HELD):
        source.map.held -= 1
    elif source.state != BATCH_TAKEN or source.owner != threading.get_ident():
        return 0
    try:
        moved = _move(to, source, most)
        if source.scratch and _left(source) == 0:
            moved += _move(to, source.scratch.batch, most - moved)
        return moved
    finally:
        _hold(source, 0)


def batch_absorb(batch: Batch) -> None:
    if batch.scratch:
        _move(batch, batch.scratch.batch, _U32)
        if _left(batch.scratch.batch) == 0:
            batch.scratch = None


class Scratch:
    """struct scratch."""

    __slots__ = ("attr_size", "batch", "borrower", "busy", "data", "pop_attr", "push_attr", "words")

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
        self.busy = threading.Lock()
        self.words = memory[:data].cast("I")
        self.pop_attr, self.push_attr, self.attr_size = pop_attr, push_attr, attr_size


new_scratch = Scratch


def _is_lent(scratch: Scratch) -> bool:
    borrower = scratch.borrower
    return borrower is not None and borrower.scratch is scratch and borrower.state != BATCH_FREE


def _run(scratch: Scratch, attr: "CData", want: int, note: "Callable[[], Iterable[None]]" = tuple) -> int:
    """Runs one of the two programs; note() is what to do in the same step."""
    m, words, answer = scratch.batch.map, scratch.words, [calls.UNANSWERED, 0]
    words[SCRATCH_POPPED] = words[SCRATCH_PUSHED] = words[SCRATCH_WHY] = 0
    words[SCRATCH_LIMIT] = want
    if m.fd == _CLOSED:
        return _MAP_CLOSED
    if calls.hooked:
        try:
            result = calls.ask_hook(_TEST_RUN, attr, scratch.attr_size, answer)
        finally:
            any(note())
    else:
        entering = map(setitem, (answer,), (0,), calls.entering(_TEST_RUN, attr, scratch.attr_size))
        _counted(m, chain(entering, note(), calls.noting_errno(answer)))
        result = calls.result_of(answer)
    return result if result < 0 else -words[SCRATCH_WHY] & _U32


def batch_pop_many(batch: Batch, scratch: Scratch, want: int) -> int:
    popped = scratch.batch
    if not scratch.busy.acquire(False):
        return _BATCH_IN_USE
    try:
        if _is_lent(scratch) and not (scratch.borrower is batch and _left(popped) == 0):
            return _BATCH_IN_USE
        popped.first = popped.count = 0
        _number(popped, want)
        if batch.count == 0:
            batch.number = popped.number
        scratch.borrower = batch
        batch.scratch = scratch

        def note() -> "map[None]":
            # As the program counts to `want` at most, no min(): to compare takes one level of recursion more.
            return map(setattr, (popped,), ("count",), map(getitem, (scratch.words,), (SCRATCH_POPPED,)))

        return _run(scratch, scratch.pop_attr, want, note)
    finally:
        scratch.busy.release()


def map_push_many(scratch: Scratch, values: "bytes | CData", count: int, flags: int) -> int:
    if not scratch.busy.acquire(False):
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
        scratch.busy.release()


# Maps with keys


def _counted_bpf(m: Map, cmd: int, attr: "CData", fields: "CData", size: int, answer: "CData") -> int:
    """A command whose `fields` have the map's descriptor. The kernel's answer is noted in a step without a call."""
    result = -errno.EBUSY
    for _ in range(_BUSY_TRIES):
        noted = [calls.UNANSWERED, 0]
        try:
            if calls.hooked:
                fields.map_fd = m.fd
                result = calls.ask_hook(cmd, attr, size, noted)
            else:
                # The descriptor is read after the call was counted, as map_retire() does it the other way round.
                descriptor = map(setattr, (fields,), ("map_fd",), map(getattr, (m,), ("fd",)))
                entering = map(setitem, (noted,), (0,), calls.entering(cmd, attr, size))
                _counted(m, chain(descriptor, entering, calls.noting_errno(noted)))
                result = calls.result_of(noted)
        finally:
            if noted[0] != calls.UNANSWERED:
                answer[0] = noted[0] if noted[0] >= 0 else -noted[1]
        if result != -errno.EBUSY:
            break
    return _MAP_CLOSED if m.fd == _CLOSED and result == -errno.EBADF else result


def map_element(m: Map, cmd: int, key: "bytes | CData", value: "bytes | CData", flags: int, answer: "CData") -> int:
    key, value = (ffi.from_buffer("char[]", each) if isinstance(each, bytes) else each for each in (key, value))
    attr = ffi.new("union bpf_attr *")
    attr.key, attr.value, attr.flags = int(ffi.cast("uintptr_t", key)), int(ffi.cast("uintptr_t", value)), flags
    return _counted_bpf(m, cmd, attr, attr, _ATTR_SIZE, answer)


def map_batch(m: Map, cmd: int, batch: "CData", answer: "CData") -> int:
    return _counted_bpf(m, cmd, batch, batch, ffi.sizeof("struct bpf_attr_batch"), answer)
