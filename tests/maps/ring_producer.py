"""A BPF program that writes numbered records into a ring buffer, for tests."""

import errno
import mmap
import os

from rawbpf import Program, ProgType, RingBuffer, bpf_attr, syscall
from rawbpf.abi import MapFlag, MapType
from rawbpf.programs.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R10,
    Helper,
    Item,
    Label,
    add,
    and_,
    call,
    exit_,
    jump,
    jump_if,
    load,
    load_map,
    load_map_value,
    mov,
    store,
)
from rawbpf.programs.program import ETH_HLEN
from rawbpf.syscall.errors import BpfError

# Where the program counts, in words of 64 bits.
TRIED, DROPPED, DISCARDED = range(3)

NO_WAKEUP = 1


class Producer:
    """Writes records of 8 bytes or more that begin with 0, 1, 2 ... and counts those for which there was no room.

    With `vary` the records have 8 to 39 bytes, all of the number's last byte but for the first 8. With `discard` each
    8th is discarded by the program. The program lives until close().
    """

    def __init__(self, ring: RingBuffer, *, vary: bool = False, discard: bool = False, flags: int = 0) -> None:
        attr = bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=32,
            max_entries=1,
            map_flags=int(MapFlag.BPF_F_MMAPABLE),
        )
        state = syscall.create(attr, "the producer's counters")
        try:
            self._memory = mmap.mmap(state, mmap.PAGESIZE)
            self.counters = memoryview(self._memory)[:24].cast("Q")
            code = _output(ring, state, flags) if vary else _reserve(ring, state, flags, discard)
            self.program = Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, code, name="producer")
        finally:
            os.close(state)

    def produce(self, count: int) -> None:
        """Runs the program so many times, in one system call."""
        end = self.counters[TRIED] + count
        while (left := end - self.counters[TRIED]) > 0:
            try:
                self.program.run(bytes(ETH_HLEN), repeat=left)
            except BpfError as error:
                if error.errno != errno.EINTR:  # a signal ends a run early
                    raise

    @property
    def dropped(self) -> int:
        return self.counters[DROPPED]

    @property
    def discarded(self) -> int:
        return self.counters[DISCARDED]

    def close(self) -> None:
        self.program.close()
        self.counters.release()
        self._memory.close()

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _next_number(state: int) -> list[Item]:
    """r7 = counters; r6 = the number of this run."""
    return [
        load_map_value(R7, state),
        load("u64", R6, R7, 8 * TRIED),
        mov(R1, R6),
        add(R1, 1),
        store("u64", R7, 8 * TRIED, R1),
    ]


def _count(word: int) -> list[Item]:
    return [load("u64", R1, R7, 8 * word), add(R1, 1), store("u64", R7, 8 * word, R1)]


def _reserve(ring: RingBuffer, state: int, flags: int, discard: bool) -> list[Item]:
    return [
        *_next_number(state),
        load_map(R1, ring.fileno()),
        mov(R2, 8),
        mov(R3, 0),
        call(Helper.BPF_FUNC_ringbuf_reserve),
        jump_if("!=", R0, 0, "room"),
        *_count(DROPPED),
        jump("end"),
        Label("room"),
        store("u64", R0, 0, R6),
        mov(R8, R0),
        # Each eighth, or none.
        mov(R1, R6),
        and_(R1, 7),
        jump_if("!=", R1, 7 if discard else 8, "submit"),
        *_count(DISCARDED),
        mov(R1, R8),
        mov(R2, flags),
        call(Helper.BPF_FUNC_ringbuf_discard),
        jump("end"),
        Label("submit"),
        mov(R1, R8),
        mov(R2, flags),
        call(Helper.BPF_FUNC_ringbuf_submit),
        Label("end"),
        mov(R0, 0),
        exit_(),
    ]


def _output(ring: RingBuffer, state: int, flags: int) -> list[Item]:
    fill: list[Item] = [store("u8", R10, -32 + offset, R6) for offset in range(32)]
    return [
        *_next_number(state),
        store("u64", R10, -40, R6),
        *fill,
        load_map(R1, ring.fileno()),
        mov(R2, R10),
        add(R2, -40),
        mov(R3, R6),
        and_(R3, 31),
        add(R3, 8),
        mov(R4, flags),
        call(Helper.BPF_FUNC_ringbuf_output),
        jump_if("==", R0, 0, "end"),
        *_count(DROPPED),
        Label("end"),
        mov(R0, 0),
        exit_(),
    ]
