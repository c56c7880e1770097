"""Many elements in one system call: a BPF program that loops over the map inside the kernel.

The kernel has no batch commands for queues and stacks (errno 524). But a BPF program may pop and push, and
BPF_PROG_TEST_RUN runs it. It pops into, and pushes out of, a scratch: the value of a one-entry array map that this
process has mapped into its memory, so that nothing is copied on the way. What its first words say stands in bpf.h
(struct scratch).

A run costs a few microseconds and then some 20 ns an element, where a system call for each costs 250 and more.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rawbpf import syscall
from rawbpf.abi import Cmd, ProgFlag, ProgType
from rawbpf.abi.door import lib, new_scratch
from rawbpf.btf.writer import Builder
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
from rawbpf.syscall.errors import EXHAUSTED, NotPermitted

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# The largest scratch, and where its elements begin, in bytes.
SCRATCH_MAX = 1 << 20
_DATA = 64

# Where the program finds its words, in bytes.
_POPPED, _PUSHED, _LIMIT, _WHY, _FLAGS = (
    4 * word for word in (lib.SCRATCH_POPPED, lib.SCRATCH_PUSHED, lib.SCRATCH_LIMIT, lib.SCRATCH_WHY, lib.SCRATCH_FLAGS)
)

# Values larger than this cost more to copy than a system call costs: they go one by one.
VALUE_SIZE_MAX = 1 << 14

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
        load_map_value(R2, scratch, _DATA),
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
            load_map_value(R6, scratch, _DATA),
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


class _Method(NamedTuple):
    """One way to do it, and what it asks of the kernel."""

    name: str
    prog_type: ProgType
    prog_flags: int
    largest: int
    program: Callable[..., tuple[list[Item], list[FuncInfo], bytes]]


# In order of preference. A syscall program runs without a packet, which saves half the cost of a run, but may use these
# maps only since 6.9: syscall programs sleep, and queue_stack_map_ops were not on the list of maps they may use.
METHODS = (
    _Method(
        "syscall program, bpf_loop",
        ProgType.BPF_PROG_TYPE_SYSCALL,
        ProgFlag.BPF_F_SLEEPABLE,
        SCRATCH_MAX,
        _with_bpf_loop,
    ),
    _Method("socket filter, bpf_loop", ProgType.BPF_PROG_TYPE_SOCKET_FILTER, 0, SCRATCH_MAX, _with_bpf_loop),
    _Method("socket filter, bounded loop", ProgType.BPF_PROG_TYPE_SOCKET_FILTER, 0, _BOUNDED_MAX, _with_bounded_loop),
)


class InKernel:
    """The scratch and the two programs of one map. Made by make()."""

    def __init__(self, method: _Method, value_size: int, max_entries: int) -> None:
        self.method = method
        self.capacity = min(_capacity(value_size, max_entries), method.largest)
        self._programs: list[Program] = []
        # Once the map is closed, the memory of its batches: a call in another thread may still be on its way to the
        # scratch, which asks the batch that borrowed it last.
        self.borrowers: list[CData] = []
        # A socket filter's. The attr of each run points to it.
        self._packet = bytearray(ETH_HLEN)

    def load(self, m: "CData", map_fd: int, value_size: int) -> None:
        """Makes the scratch and loads both programs. BpfError if the kernel refuses, OSError if it can't be mapped."""
        # One element more than is used: the verifier sees the pointer behind the last one.
        size = _DATA + (self.capacity + 1) * value_size
        with MappedArray(size, "rawbpf_scratch", "the buffer for many elements") as memory:
            attrs = [
                self._run_attr(self._loaded(helper, done, map_fd, memory.fileno(), value_size))
                for helper, done in ((Helper.BPF_FUNC_map_pop_elem, _POPPED), (Helper.BPF_FUNC_map_push_elem, _PUSHED))
            ]
            self.data = memory.view[_DATA : _DATA + self.capacity * value_size]
            self.scratch = new_scratch(m, memory.view, _DATA, self.capacity, *attrs, TEST_RUN_SIZE)
            # The struct has their addresses.
            self._kept = attrs

    def _loaded(self, helper: Helper, done: int, map_fd: int, scratch_fd: int, value_size: int) -> Program:
        method = self.method
        code, functions, blob = method.program(helper, done, map_fd, scratch_fd, value_size, self.capacity)
        btf_fd = syscall.btf_load(blob) if blob else 0
        try:
            program = Program(
                method.prog_type,
                code,
                name="rawbpf_" + ("pop" if done == _POPPED else "push"),
                flags=method.prog_flags,
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
        if self.method.prog_type == ProgType.BPF_PROG_TYPE_SOCKET_FILTER:
            attr.test.data_in, attr.test.data_size_in = syscall.pointer(self._packet), ETH_HLEN
            attr.test.repeat = 1
        return attr

    def close(self) -> None:
        """Gives back the programs. The scratch goes with the last that refers to it."""
        for program in self._programs:
            program.close()


def _capacity(value_size: int, max_entries: int) -> int:
    """Elements in the scratch: a power of two, so that an index can be masked."""
    room = (SCRATCH_MAX - _DATA) // value_size - 1
    enough = 1 << (max_entries - 1).bit_length()
    return min(enough, 1 << room.bit_length() - 1)


def make(m: "CData", value_size: int, max_entries: int) -> tuple[InKernel | None, str]:
    """Makes the in-kernel way for a map if this process and this kernel can; returns it, or None, and why.

    Raises OSError (EMFILE, ENFILE, ENOMEM) if there is no descriptor or no memory for it at this moment, and ValueError
    if the map was closed.
    """
    if value_size > VALUE_SIZE_MAX:
        return None, f"values of {value_size} bytes are moved as fast one by one"
    why = ""
    for method in METHODS:
        try:
            return _made(method, m, value_size, max_entries), method.name
        except NotPermitted as error:
            return None, f"{error.strerror}: {error.hint}"
        except VerifierError as error:
            why = f"{method.name}: {_reason(error)}"
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            why = f"{method.name}: {error}"
    return None, f"this kernel refuses the programs ({why})"


def _reason(error: VerifierError) -> str:
    """The verifier's reason: its last line is statistics, the one before says what it does not take."""
    lines = [line for line in error.log.splitlines() if not line.startswith("processed ")]
    return lines[-1] if lines else str(error.strerror)


def _made(method: _Method, m: "CData", value_size: int, max_entries: int) -> InKernel:
    with own_descriptor(m, Cmd.BPF_PROG_LOAD, "the map") as map_fd:
        made = InKernel(method, value_size, max_entries)
        try:
            made.load(m, map_fd, value_size)
        except BaseException:
            made.close()
            raise
        return made
