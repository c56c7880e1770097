"""Many elements in one system call: a BPF program that loops over the map inside the kernel.

The kernel has no batch commands for queues and stacks (errno 524). But a BPF program may pop and push, and
BPF_PROG_TEST_RUN runs it. It pops into, and pushes out of, a scratch (scratch.py) that this process has mapped into
its memory, so that nothing is copied on the way.

A run costs a few microseconds and then some 20 ns an element, where a system call for each costs 250 and more.
"""

import mmap
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rawbpf import syscall
from rawbpf.abi import Cmd, MapFlag, MapType, ProgFlag, ProgType
from rawbpf.abi.door import HOOK_RAISED, lib, raise_hook_failure
from rawbpf.btf.writer import Builder
from rawbpf.maps.scratch import DATA, FLAGS, LIMIT, PUSHED, SCRATCH_MAX, TAKEN, WHY
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
    Insn,
    Item,
    Label,
    add,
    and_,
    call,
    exit_,
    jump,
    jump_if,
    load,
    load_function,
    load_map,
    load_map_value,
    mov,
    mul,
    store,
)
from rawbpf.programs.program import ETH_HLEN, TEST_RUN_SIZE, FuncInfo, Program, VerifierError
from rawbpf.syscall.descriptor import Descriptor
from rawbpf.syscall.errors import EXHAUSTED, NotPermitted

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# Where the program finds its words, in bytes.
_TAKEN, _PUSHED, _LIMIT, _WHY, _FLAGS = (4 * word for word in (TAKEN, PUSHED, LIMIT, WHY, FLAGS))

# Values larger than this cost more to copy than a system call costs: they go one by one.
VALUE_SIZE_MAX = 1 << 14

# A plain int, for the call that is made most.
_TEST_RUN = int(Cmd.BPF_PROG_TEST_RUN)

# A bounded loop is walked by the verifier one iteration at a time.
_BOUNDED_MAX = 1024


# The programs. Both have one loop body, for a pop or a push of element r6 (an index) at the address in r2.


def _move_one(helper: Helper, map_fd: int, scratch: int) -> list[Item]:
    """r0 = pop or push of the element at r2."""
    code: list[Item] = [load_map(R1, map_fd), call(helper)]
    if helper is Helper.BPF_FUNC_map_push_elem:
        code[:0] = [load_map_value(R1, scratch), load("u64", R3, R1, _FLAGS)]
    return code


def _with_bpf_loop(
    helper: Helper, done: int, map_fd: int, scratch: int, value_size: int, capacity: int
) -> tuple[list[Item], list[FuncInfo], bytes]:
    """bpf_loop(limit, move, NULL, 0); needs Linux 5.17, and CAP_BPF alone, for the index is masked.

    A callback needs BTF that says where it begins and that it is static.
    """
    main: list[Item] = [
        load_map_value(R1, scratch),
        load("u32", R1, R1, _LIMIT),
        load_function(R2, "move"),
        mov(R3, 0),
        mov(R4, 0),
        call(Helper.BPF_FUNC_loop),
        mov(R0, 0),
        exit_(),
    ]
    move: list[Item] = [
        Label("move"),
        mov(R7, R1),
        mov(R6, R1),
        and_(R6, capacity - 1),
        mul(R6, value_size),
        load_map_value(R2, scratch, DATA),
        add(R2, R6),
        *_move_one(helper, map_fd, scratch),
        load_map_value(R1, scratch),
        jump_if("!=", R0, 0, "stop"),
        add(R7, 1),
        store("u32", R1, done, R7),
        mov(R0, 0),
        exit_(),
        Label("stop"),
        store("u32", R1, _WHY, R0),
        mov(R0, 1),
        exit_(),
    ]
    builder = Builder()
    number, pointer = builder.integer("int", 4, signed=True), builder.pointer()
    entry = builder.function("main", number, [("ctx", pointer)])
    callback = builder.function("move", number, [("index", number), ("ctx", pointer)])
    beginning = sum(insn.slots for insn in main if isinstance(insn, Insn))
    return main + move, [FuncInfo(0, entry), FuncInfo(beginning, callback)], builder.encode()


def _with_bounded_loop(
    helper: Helper, done: int, map_fd: int, scratch: int, value_size: int, capacity: int
) -> tuple[list[Item], list[FuncInfo], bytes]:
    """A loop that the verifier follows to its end; needs Linux 5.3, and CAP_PERFMON, for its moving pointer."""
    return (
        [
            load_map_value(R1, scratch),
            load("u32", R8, R1, _LIMIT),
            load_map_value(R6, scratch, DATA),
            mov(R7, 0),
            Label("move"),
            jump_if(">=", R7, R8, "end"),
            jump_if(">=", R7, capacity, "end"),
            mov(R2, R6),
            *_move_one(helper, map_fd, scratch),
            jump_if("!=", R0, 0, "stop"),
            add(R6, value_size),
            add(R7, 1),
            jump("move"),
            Label("stop"),
            load_map_value(R1, scratch),
            store("u32", R1, _WHY, R0),
            Label("end"),
            load_map_value(R1, scratch),
            store("u32", R1, done, R7),
            mov(R0, 0),
            exit_(),
        ],
        [],
        b"",
    )


class _Way(NamedTuple):
    """One way to do it, and what it asks of the kernel."""

    name: str
    prog_type: ProgType
    prog_flags: int
    largest: int
    program: Callable[..., tuple[list[Item], list[FuncInfo], bytes]]


# In order of preference. A syscall program runs without a packet, which saves half the cost of a run, but may use these
# maps only since 6.9: syscall programs sleep, and queue_stack_map_ops were not on the list of maps they may use.
_WAYS = (
    _Way(
        "syscall program, bpf_loop",
        ProgType.BPF_PROG_TYPE_SYSCALL,
        ProgFlag.BPF_F_SLEEPABLE,
        SCRATCH_MAX,
        _with_bpf_loop,
    ),
    _Way("socket filter, bpf_loop", ProgType.BPF_PROG_TYPE_SOCKET_FILTER, 0, SCRATCH_MAX, _with_bpf_loop),
    _Way("socket filter, bounded loop", ProgType.BPF_PROG_TYPE_SOCKET_FILTER, 0, _BOUNDED_MAX, _with_bounded_loop),
)


class InKernel(Descriptor):
    """The scratch and the two programs of one map. Made by make(); not safe for several threads at once.

    It owns the scratch's descriptor while it is made: a signal handler may cut off close() itself, and then that is
    closed with the object.
    """

    def __init__(self, way: _Way, value_size: int, max_entries: int) -> None:
        self.way = way
        self.capacity = min(_capacity(value_size, max_entries), way.largest)
        self._programs: list[Program] = []
        # A socket filter's. The attr of each run points to it.
        self._packet = bytearray(ETH_HLEN)
        # Until load() there is nothing, which close() understands.
        self._view = self.header = self.data = memoryview(b"")

    def load(self, map_fd: int, value_size: int) -> None:
        """Makes the scratch and loads both programs. BpfError if the kernel refuses, OSError if it can't be mapped."""
        # One element more than is used: the verifier sees the pointer behind the last one.
        size = DATA + (self.capacity + 1) * value_size
        attr = syscall.bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=size,
            max_entries=1,
            map_flags=int(MapFlag.BPF_F_MMAPABLE),
            map_name=b"rawbpf_scratch",
        )
        self._fd = syscall.create(attr, "the scratch of a bulk operation")
        self._view = memoryview(mmap.mmap(self._fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE))
        self.header = self._view[:_FLAGS].cast("I")
        self.data = self._view[DATA : DATA + self.capacity * value_size]
        self._pop_attr = self._run_attr(self._loaded(Helper.BPF_FUNC_map_pop_elem, _TAKEN, map_fd, value_size))
        self._push_attr = self._run_attr(self._loaded(Helper.BPF_FUNC_map_push_elem, _PUSHED, map_fd, value_size))
        # The programs and the mapping keep the scratch alive.
        super().close()

    def _loaded(self, helper: Helper, done: int, map_fd: int, value_size: int) -> Program:
        way = self.way
        code, functions, blob = way.program(helper, done, map_fd, self._fd, value_size, self.capacity)
        btf_fd = syscall.btf_load(blob) if blob else 0
        try:
            program = Program(
                way.prog_type,
                code,
                name="rawbpf_" + ("pop" if done == _TAKEN else "push"),
                flags=way.prog_flags,
                btf_fd=btf_fd,
                func_info=functions,
            )
        finally:
            if blob:
                os.close(btf_fd)
        self._programs.append(program)
        return program

    def _run_attr(self, program: Program) -> "CData":
        """The attr of a run, which is the same each time."""
        attr = syscall.bpf_attr(test={"prog_fd": program.fileno()})
        if self.way.prog_type == ProgType.BPF_PROG_TYPE_SOCKET_FILTER:
            attr.test.data_in, attr.test.data_size_in = syscall.pointer(self._packet), ETH_HLEN
            attr.test.repeat = 1
        return attr

    def pop(self, limit: int) -> int:
        """Pops up to `limit` elements into `data`; header[TAKEN] says how many, header[WHY] why not more.

        Returns 0, or the negative errno of a run that did not take place.
        """
        return self._run(self._pop_attr, limit)

    def push(self, limit: int, flags: int) -> int:
        """Pushes `limit` elements of `data`; header[PUSHED] says how many, header[WHY] why not more."""
        self.header[PUSHED] = 0
        struct.pack_into("=Q", self._view, _FLAGS, flags)
        return self._run(self._push_attr, limit)

    def _run(self, attr: "CData", limit: int) -> int:
        self.header[LIMIT] = limit
        self.header[WHY] = 0
        result = lib.bpf(_TEST_RUN, attr, TEST_RUN_SIZE)
        if result == HOOK_RAISED:
            raise_hook_failure()
        return result

    @property
    def why(self) -> int:
        """The errno that ended the last run's loop, 0 if it moved all it should."""
        return -self.header[WHY] & 0xFFFFFFFF

    def close(self) -> None:
        """Gives back the programs and the scratch."""
        for program in self._programs:
            program.close()
        # The mapping goes with the last view of it: one may stand in the traceback of an exception on its way.
        self._view = self.header = self.data = memoryview(b"")
        super().close()


def _capacity(value_size: int, max_entries: int) -> int:
    """Elements in the scratch: a power of two, so that an index can be masked."""
    room = (SCRATCH_MAX - DATA) // value_size - 1
    enough = 1 << (max_entries - 1).bit_length()
    return min(enough, 1 << room.bit_length() - 1)


def make(map_fd: int, value_size: int, max_entries: int) -> tuple[InKernel | None, str]:
    """Makes the in-kernel way for a map if this process and this kernel can; returns it, or None, and why.

    Raises OSError (EMFILE, ENFILE, ENOMEM) if there is no descriptor or no memory for it at this moment.
    """
    if value_size > VALUE_SIZE_MAX:
        return None, f"values of {value_size} bytes are moved as fast one by one"
    why = ""
    for way in _WAYS:
        try:
            return _made(way, map_fd, value_size, max_entries), way.name
        except NotPermitted as error:
            return None, f"{error.strerror}: {error.hint}"
        except VerifierError as error:
            why = f"{way.name}: {error.log.splitlines()[-1] if error.log else error.strerror}"
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            why = f"{way.name}: {error}"
    return None, f"this kernel refuses the programs ({why})"


def _made(way: _Way, map_fd: int, value_size: int, max_entries: int) -> InKernel:
    made = InKernel(way, value_size, max_entries)
    try:
        made.load(map_fd, value_size)
    except BaseException:
        made.close()
        raise
    return made
