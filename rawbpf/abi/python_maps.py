"""The maps of door.c in Python: calls for one element, and commands for maps with keys. (Batches: python_batches.py.)

An exception may come between any two steps here, also in an exception handler: from a trace function, a failing
allocation. So who has something for the time of a call (a map's descriptor, a batch, a scratch) has a lease of it, an
object to which nothing refers but that call. It goes with the call, whatever ended that, and nothing has to be done.

No function is made in a call: CPython 3.11 leaks what a new one refers to where there is no memory for it, and 3.12 and
3.13 crash.

Threads that share a map count on the GIL here: taking a lease is more than one step.
"""

import errno
import fcntl
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from operator import setitem
from typing import TYPE_CHECKING, Any

from rawbpf.abi import python_calls as calls
from rawbpf.abi.constants import Cmd
from rawbpf.abi.python_ffi import ffi

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_BUSY_TRIES = 10
_ATTR_SIZE = 32
CLOSED = 0xFFFFFFFF  # no descriptor: the kernel answers EBADF
MAP_CLOSED = -errno.ESHUTDOWN

# Plain ints, for the calls that are made most.
_LOOKUP, _UPDATE = int(Cmd.BPF_MAP_LOOKUP_ELEM), int(Cmd.BPF_MAP_UPDATE_ELEM)


class Lease:
    """What a call has, and nobody else refers to, while something is its own."""

    __slots__ = ("__weakref__",)


class Map:
    """struct map. `calls` refers to the leases of the calls that are under way."""

    __slots__ = ("batches", "calls", "fd", "taken", "value_size")

    def __init__(self, fd: int, value_size: int) -> None:
        self.fd = fd
        self.value_size = value_size
        self.calls: list[weakref.ref[Lease]] = []
        self.batches: list[weakref.ref[Any]] = []
        self.taken = 0

    @property
    def held(self) -> int:
        """How many batches are HELD."""
        return sum([(batch := each()) is not None and batch.is_held for each in self.batches])


new_map = Map


def forget_calls(m: Map) -> None:
    m.calls.clear()
    m.batches.clear()


def map_retire(m: Map) -> None:
    m.fd = CLOSED
    # When the interpreter ends, daemon threads stand still wherever they are.
    while any(call() for call in m.calls) and not sys.is_finalizing():
        time.sleep(0.00005)


def counted(m: Map, steps: "Iterable[None]") -> None:
    """Runs the steps as one, counted as a call that map_retire() waits for."""
    lease = Lease()
    call = weakref.ref(lease)
    counted, ended = map(m.calls.append, (call,)), map(m.calls.remove, (call,))
    try:
        any(chain(counted, steps, ended))
    except BaseException:
        # The lease lives as long as the exception, which refers to this frame.
        if call in m.calls:
            m.calls.remove(call)
        raise


def map_dup(m: Map, made: Any) -> int:
    if m.fd == CLOSED:
        return MAP_CLOSED
    copying = map(calls.copy_descriptor, map(getattr, (m,), ("fd",)), (fcntl.F_DUPFD_CLOEXEC,), (calls.STDERR + 1,))
    try:
        counted(m, map(setitem, (made,), (0,), copying))
    except OSError as error:
        # EINVAL: the process may have no descriptor above 2.
        return -errno.EBADF if error.errno == errno.EBADF else -errno.EMFILE
    except OverflowError:
        return MAP_CLOSED
    return int(made[0])


def map_bpf(m: Map, cmd: int, attr: "CData", size: int) -> int:
    answer = [calls.UNANSWERED, 0]
    if m.fd == CLOSED:
        return MAP_CLOSED
    if calls.hooked:
        return calls.ask_hook(cmd, attr, size, answer)
    counted(m, chain(map(setitem, (answer,), (0,), calls.entering(cmd, attr, size)), calls.noting_errno(answer)))
    return calls.result_of(answer)


def element_command(
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
            counted(m, chain(descriptor, entering, note(), calls.noting_errno(answer)))
            result = calls.result_of(answer)
        if result != -errno.EBUSY:
            break
    return MAP_CLOSED if m.fd == CLOSED and result == -errno.EBADF else result


def map_update_elem(m: Map, value: "bytes | CData", flags: int) -> int:
    data = ffi.from_buffer("char[]", value) if isinstance(value, bytes) else value
    return element_command(_UPDATE, m, data, flags, [calls.UNANSWERED, 0])


def map_lookup_elem(m: Map, value: "CData") -> int:
    return element_command(_LOOKUP, m, value, 0, [calls.UNANSWERED, 0])


def map_push(m: Map, values: "bytes | CData", count: int, flags: int) -> int:
    size = m.value_size
    data = memoryview(values if isinstance(values, bytes) else ffi.buffer(values, count * size))
    for pushed in range(count):
        result = map_update_elem(m, bytes(data[pushed * size : (pushed + 1) * size]), flags)
        if result < 0:
            return -result << 32 | pushed
    return count


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
                counted(m, chain(descriptor, entering, calls.noting_errno(noted)))
                result = calls.result_of(noted)
        finally:
            if noted[0] != calls.UNANSWERED:
                answer[0] = noted[0] if noted[0] >= 0 else -noted[1]
        if result != -errno.EBUSY:
            break
    return MAP_CLOSED if m.fd == CLOSED and result == -errno.EBADF else result


def map_element(m: Map, cmd: int, key: "bytes | CData", value: "bytes | CData", flags: int, answer: "CData") -> int:
    key, value = (ffi.from_buffer("char[]", each) if isinstance(each, bytes) else each for each in (key, value))
    attr = ffi.new("union bpf_attr *")
    attr.key, attr.value, attr.flags = int(ffi.cast("uintptr_t", key)), int(ffi.cast("uintptr_t", value)), flags
    return _counted_bpf(m, cmd, attr, attr, _ATTR_SIZE, answer)


def map_batch(m: Map, cmd: int, batch: "CData", answer: "CData") -> int:
    return _counted_bpf(m, cmd, batch, batch, ffi.sizeof("struct bpf_attr_batch"), answer)
