"""How many elements a map holds, and which: read by a BPF program from the map's own struct in the kernel.

No bpf(2) command tells either. But a program may read the fields of the map it uses, and the kernel's BTF says where
they are (struct bpf_queue_stack, kernel/bpf/queue_stack_maps.c): a ring of `size` slots, one more than max_entries, of
which `head` is the next to be written and `tail` the oldest that is filled.

Needs CAP_BPF and CAP_PERFMON, and a kernel with BTF, Linux 5.9 or newer: since then programs may read a map's struct.
What is read while others push and pop is approximate.
"""

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from rawbpf import syscall
from rawbpf.abi import Cmd, MapType, ProgType, door
from rawbpf.abi.door import MAP_CLOSED, lib
from rawbpf.btf import reader
from rawbpf.maps.mapped_array import MappedArray
from rawbpf.maps.own_descriptor import own_descriptor
from rawbpf.programs.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    Helper,
    Item,
    Label,
    add,
    alu,
    call,
    exit_,
    jump_if,
    load,
    load_map,
    load_map_value,
    mov,
    store,
)
from rawbpf.programs.program import ETH_HLEN, TEST_RUN_SIZE, Program
from rawbpf.syscall.errors import EXHAUSTED, BpfError, NotPermitted, Unsupported, bpf_error
from rawbpf.syscall.permission import is_privileged, lacking
from rawbpf.syscall.proc import Capability

if TYPE_CHECKING:
    from collections.abc import Callable

    from rawbpf.abi._native import CData

T = TypeVar("T")

# The memory of a snapshot: what is asked for, what was found, and a part of the ring.
_FROM, _LENGTH, _ADDRESS, _HEAD, _TAIL, _DATA = 0, 8, 16, 24, 28, 64
_CHUNK_MAX = 1 << 20

# A ring that others push to and pop from meanwhile is looked at again, so many times; the program that counts looks so
# many times in each run.
_TRIES = 3
_LOOKS = 16
_UNSTABLE = 0xFFFFFFFF


class _Ring(NamedTuple):
    """Where struct bpf_queue_stack has its fields, in bytes."""

    head: int
    tail: int
    size: int
    elements: int


def _ring() -> _Ring:
    try:
        fields = reader.vmlinux().fields(reader.vmlinux().find(reader.Kind.STRUCT, "bpf_queue_stack"))
    except (OSError, KeyError) as error:
        raise Unsupported(
            errno.EOPNOTSUPP,
            "this kernel does not say where a queue keeps its length",
            Cmd.BPF_PROG_LOAD,
            f"it needs BTF ({reader.VMLINUX}, CONFIG_DEBUG_INFO_BTF): {error}",
        ) from None
    return _Ring(*(fields[name][0] for name in _Ring._fields))


class RingState(NamedTuple):
    """The ring of a queue or stack as it is in the kernel: the next push writes slot `head`, `tail` is the oldest
    element's slot, and head == tail is empty. `data` are the bytes of all slots, also of those that are free."""

    head: int
    tail: int
    data: bytes


class Inspector:
    """The programs that look into one map; loaded when first needed. close() gives them back, after map_retire()."""

    def __init__(self, m: "CData", info: syscall.MapInfo) -> None:
        self._map = m
        self._info = info
        # Under the key 0, once they are made: of two threads, setdefault() takes one's.
        self._counter: dict[int, Program] = {}
        self._looking: dict[int, tuple[MappedArray, Program]] = {}

    def qsize(self) -> int:
        """The number of elements in the map."""
        return self._asked(self._counted)

    def snapshot(self) -> list[bytes]:
        """The raw elements in pop order."""
        return self._asked(self._in_pop_order)

    def ring(self) -> RingState:
        """The whole ring, free slots included."""
        return self._asked(self._whole_ring)

    def positions(self) -> tuple[int, int]:
        """The ring's head and tail now: the slots that are pushed and popped next."""
        return self._asked(self._head_and_tail)

    def _asked(self, look: "Callable[[], T]") -> T:
        """What looking gives; an error is about the map, not about the program that looks."""
        try:
            return look()
        except NotPermitted as error:
            raise _not_permitted(self._info, error) from error

    def _counted(self) -> int:
        if door.simulated is not None:
            return self._simulated(door.simulated.qsize)
        counter = self._counter.get(0)
        if counter is None:
            with own_descriptor(self._map, Cmd.BPF_PROG_LOAD, syscall.describe(self._info)) as fd:
                made = _load(_counting(fd), "rawbpf_qsize")
            counter = self._counter.setdefault(0, made)
            if counter is not made:
                made.close()
        size = _UNSTABLE
        for _ in range(_TRIES):
            size = self._run(counter)
            if size != _UNSTABLE:
                break
        return min(size, self._info.max_entries)

    def _in_pop_order(self) -> list[bytes]:
        if door.simulated is not None:
            return self._simulated(door.simulated.snapshot)
        slots, size = self._info.max_entries + 1, self._info.value_size
        head, tail, data = self._whole_ring()
        filled = range(tail, head) if head >= tail else [*range(tail, slots), *range(head)]
        elements = [data[slot * size : (slot + 1) * size] for slot in filled]
        return elements if self._info.type == MapType.BPF_MAP_TYPE_QUEUE else elements[::-1]

    def _whole_ring(self) -> RingState:
        if door.simulated is not None:
            return RingState(*self._simulated(door.simulated.ring))
        before, data = (0, 0), b""
        for _ in range(_TRIES):
            before, data, after = self._copied((self._info.max_entries + 1) * self._info.value_size)
            if before == after:
                break
        return RingState(*before, data)

    def _head_and_tail(self) -> tuple[int, int]:
        looking = self._looking.get(0)
        if looking is None:
            made = self._looker()
            looking = self._looking.setdefault(0, made)
            if looking is not made:
                made[1].close()
        memory, program = looking
        # A length of 0: nothing is copied.
        self._run(program)
        head, tail = struct.unpack_from("=II", memory.view, _HEAD)
        return head, tail

    def _looker(self) -> "tuple[MappedArray, Program]":
        with (
            own_descriptor(self._map, Cmd.BPF_PROG_LOAD, syscall.describe(self._info)) as fd,
            MappedArray(_DATA + 8, "rawbpf_looks", "the memory for a map's positions") as memory,
        ):
            return memory, _load(_copying(fd, memory.fileno(), 8), "rawbpf_looks")

    def _simulated(self, look: "Callable[[int], T]") -> T:
        with own_descriptor(self._map, Cmd.BPF_PROG_LOAD, syscall.describe(self._info)) as fd:
            return look(fd)

    def _copied(self, length: int) -> tuple[tuple[int, int], bytes, tuple[int, int]]:
        """The ring's bytes, and (head, tail) before and after they were copied."""
        chunk = min(length, _CHUNK_MAX)
        ring, ends = bytearray(), []
        with (
            own_descriptor(self._map, Cmd.BPF_PROG_LOAD, syscall.describe(self._info)) as fd,
            MappedArray(_DATA + chunk, "rawbpf_snapshot", "the buffer for a snapshot") as memory,
            _load(_copying(fd, memory.fileno(), chunk), "rawbpf_snapshot") as copier,
        ):
            while True:
                part = min(chunk, length - len(ring))
                struct.pack_into("=QQ", memory.view, _FROM, len(ring), part)
                if self._run(copier) != 0:
                    raise BpfError(errno.EFAULT, "the map could not be read", Cmd.BPF_PROG_TEST_RUN)
                ends.append(struct.unpack_from("=II", memory.view, _HEAD))
                if not part:
                    return ends[0], bytes(ring), ends[-1]
                ring += memory.view[_DATA : _DATA + part]

    def _run(self, program: Program) -> int:
        """Runs a program and returns its answer. ValueError if the map was closed meanwhile: then its number, and the
        program's, may be others'."""
        packet = bytearray(ETH_HLEN)
        test = {"data_in": syscall.pointer(packet), "data_size_in": len(packet), "repeat": 1}
        attr = syscall.bpf_attr(test={"prog_fd": program.fileno(), **test})
        result = lib.map_bpf(self._map, Cmd.BPF_PROG_TEST_RUN, attr, TEST_RUN_SIZE)
        if result == MAP_CLOSED:
            raise ValueError(f"{syscall.describe(self._info)} is closed")
        if result < 0:
            raise bpf_error(Cmd.BPF_PROG_TEST_RUN, -result, subject=syscall.describe(self._info))
        retval: int = attr.test.retval
        return retval

    def close(self) -> None:
        """Gives the programs back."""
        for program in [*self._counter.values(), *[program for _, program in self._looking.values()]]:
            program.close()


def _counting(map_fd: int) -> list[Item]:
    """Returns head - tail, or head + size - tail where the filled part goes round the ring's end.

    Between two loads others may push and pop, and a tail that has passed a head read before looks like a full ring. So
    the tail is read on both sides of the head until both are the same; if they never are, the answer is _UNSTABLE.
    """
    ring = _ring()
    code: list[Item] = [load_map(R1, map_fd)]
    for _ in range(_LOOKS):
        code += [
            load("u32", R3, R1, ring.tail),
            load("u32", R2, R1, ring.head),
            load("u32", R4, R1, ring.tail),
            jump_if("==", R3, R4, "stable"),
        ]
    return [
        *code,
        mov(R0, -1),
        exit_(),
        Label("stable"),
        mov(R0, R2),
        jump_if(">=", R2, R3, "no wrap"),
        load("u32", R6, R1, ring.size),
        add(R0, R6),
        Label("no wrap"),
        alu("-=", R0, R3),
        exit_(),
    ]


def _copying(map_fd: int, scratch: int, chunk: int) -> list[Item]:
    """Notes head and tail, then copies `length` bytes of the ring from byte `from` on into the scratch.

    The verifier allows no arithmetic on a map's address; stored in the scratch and loaded again it is a number.
    """
    ring = _ring()
    return [
        load_map_value(R7, scratch),
        load_map(R6, map_fd),
        load("u32", R1, R6, ring.head),
        store("u32", R7, _HEAD, R1),
        load("u32", R1, R6, ring.tail),
        store("u32", R7, _TAIL, R1),
        mov(R0, 0),
        load("u64", R2, R7, _LENGTH),
        jump_if("==", R2, 0, "end"),
        jump_if(">", R2, chunk, "end"),
        store("u64", R7, _ADDRESS, R6),
        load("u64", R3, R7, _ADDRESS),
        add(R3, ring.elements),
        load("u64", R8, R7, _FROM),
        add(R3, R8),
        load_map_value(R1, scratch, _DATA),
        call(Helper.BPF_FUNC_probe_read_kernel),
        # The address is nobody's business.
        store("u64", R7, _ADDRESS, 0),
        Label("end"),
        exit_(),
    ]


def _load(code: list[Item], name: str) -> Program:
    try:
        return Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, code, name=name)
    except BpfError as error:
        if _missing() == [Capability.CAP_PERFMON]:
            # Without it the verifier refuses what the program does.
            raise NotPermitted(errno.EPERM, "not permitted", Cmd.BPF_PROG_LOAD) from error
        if isinstance(error, NotPermitted) or error.errno in EXHAUSTED:
            raise
        raise Unsupported(
            errno.EOPNOTSUPP,
            "this kernel lets no program look into a map",
            Cmd.BPF_PROG_LOAD,
            "it needs Linux 5.9 with BTF",
        ) from error


def _missing() -> list[Capability]:
    """Which of the capabilities for it this process has not."""
    return [each for each in (Capability.CAP_BPF, Capability.CAP_PERFMON) if is_privileged(each) is False]


def _not_permitted(info: syscall.MapInfo, error: NotPermitted) -> NotPermitted:
    """The error for whoever asked how full the map is: about the map, not about the program that looks into it."""
    cause, missing = error.cause, _missing()
    if missing and (cause is None or cause.kind == "capability"):
        cause = lacking(*missing)
    subject = syscall.describe(info)
    what = f"looking into {subject} is not permitted"
    return NotPermitted(errno.EPERM, what, Cmd.BPF_PROG_LOAD, str(cause or error.hint), subject, cause)
