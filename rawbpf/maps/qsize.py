"""How many elements a map holds, and which: read by a BPF program from the map's own struct in the kernel.

No bpf(2) command tells either. But a program may read the fields of the map it uses, and the kernel's BTF says where
they are (struct bpf_queue_stack, kernel/bpf/queue_stack_maps.c): a ring of `size` slots, one more than max_entries, of
which `head` is the next to be written and `tail` the oldest that is filled.

Needs CAP_PERFMON, a kernel with BTF, and Linux 5.9, which let programs read a map's struct. What is read while others
push and pop is approximate.
"""

import errno
import mmap
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from rawbpf import syscall
from rawbpf.abi import Cmd, MapFlag, MapType, ProgType
from rawbpf.btf import reader
from rawbpf.programs.asm import (
    R0,
    R1,
    R2,
    R3,
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
from rawbpf.programs.program import ETH_HLEN, Program
from rawbpf.syscall.errors import EXHAUSTED, BpfError, NotPermitted, Unsupported
from rawbpf.syscall.permission import lacking
from rawbpf.syscall.proc import Capability, has_capability

# The scratch of a snapshot: what is asked for, what was found, and a part of the ring.
_FROM, _LENGTH, _ADDRESS, _HEAD, _TAIL, _DATA = 0, 8, 16, 24, 28, 64
_CHUNK_MAX = 1 << 20

# A ring that others write to while it is copied is copied again, so many times.
_TRIES = 3


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


class Inspector:
    """The programs that look into one map; loaded when first needed. close() gives them back."""

    def __init__(self, map_fileno: Callable[[], int], info: syscall.MapInfo) -> None:
        self._map_fileno = map_fileno
        self._info = info
        self._loaded: dict[str, Program] = {}

    def qsize(self) -> int:
        """The number of elements in the map."""
        counter = self._loaded.get("qsize")
        if counter is None:
            made = self._looking(_counting, "rawbpf_qsize")
            counter = self._loaded.setdefault("qsize", made)
            if counter is not made:
                made.close()  # another thread was first
        return counter.run(bytes(ETH_HLEN)).retval

    def snapshot(self) -> list[bytes]:
        """The raw elements in pop order."""
        slots, size = self._info.max_entries + 1, self._info.value_size
        before, ring, after = self._copied(slots * size)
        for _ in range(_TRIES - 1):
            if before == after:
                break
            before, ring, after = self._copied(slots * size)
        head, tail = before
        filled = range(tail, head) if head >= tail else [*range(tail, slots), *range(head)]
        elements = [ring[slot * size : (slot + 1) * size] for slot in filled]
        return elements if self._info.type == MapType.BPF_MAP_TYPE_QUEUE else elements[::-1]

    def _copied(self, length: int) -> tuple[tuple[int, int], bytes, tuple[int, int]]:
        """The ring's bytes, and (head, tail) before and after they were copied."""
        chunk = min(length, _CHUNK_MAX)
        attr = syscall.bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=_DATA + chunk,
            max_entries=1,
            map_flags=int(MapFlag.BPF_F_MMAPABLE),
            map_name=b"rawbpf_snapshot",
        )
        scratch = syscall.create(attr, "the scratch of a snapshot")
        try:
            with mmap.mmap(scratch, -(-(_DATA + chunk) // mmap.PAGESIZE) * mmap.PAGESIZE) as memory:
                return self._copied_through(scratch, memory, length, chunk)
        finally:
            os.close(scratch)

    def _copied_through(
        self, scratch: int, memory: mmap.mmap, length: int, chunk: int
    ) -> tuple[tuple[int, int], bytes, tuple[int, int]]:
        ring, ends = bytearray(), []
        with self._looking(lambda fd: _copying(fd, scratch, chunk), "rawbpf_snapshot") as copier:
            while len(ring) < length:
                part = min(chunk, length - len(ring))
                struct.pack_into("=QQ", memory, _FROM, len(ring), part)
                if copier.run(bytes(ETH_HLEN)).retval != 0:
                    raise BpfError(errno.EFAULT, "the map could not be read", Cmd.BPF_PROG_TEST_RUN)
                ends.append(struct.unpack_from("=II", memory, _HEAD))
                ring += memory[_DATA : _DATA + part]
            struct.pack_into("=QQ", memory, _FROM, 0, 0)
            copier.run(bytes(ETH_HLEN))
            ends.append(struct.unpack_from("=II", memory, _HEAD))
        return ends[0], bytes(ring), ends[-1]

    def _looking(self, code: Callable[[int], list[Item]], name: str) -> Program:
        """The program that `code` makes for the map's descriptor. If another thread has closed the map meanwhile, that
        number may be another map's: ValueError, as for any call after close()."""
        try:
            program = _load(code(self._map_fileno()), name)
        except BpfError:
            self._map_fileno()
            raise
        try:
            self._map_fileno()
        except ValueError:
            program.close()
            raise
        return program

    def close(self) -> None:
        """Gives the program back."""
        for program in self._loaded.values():
            program.close()
        self._loaded.clear()


def _counting(map_fd: int) -> list[Item]:
    """Returns head - tail, or head + size - tail where the filled part goes round the ring's end."""
    ring = _ring()
    return [
        load_map(R1, map_fd),
        load("u32", R2, R1, ring.head),
        load("u32", R3, R1, ring.tail),
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
        if _only_perfmon_is_missing():
            why = str(lacking(Capability.CAP_PERFMON))
            raise NotPermitted(errno.EPERM, "looking into a map is not permitted", Cmd.BPF_PROG_LOAD, why) from error
        if isinstance(error, NotPermitted) or error.errno in EXHAUSTED:
            raise
        raise Unsupported(
            errno.EOPNOTSUPP,
            "this kernel lets no program look into a map",
            Cmd.BPF_PROG_LOAD,
            "it needs Linux 5.9 with BTF",
        ) from error


def _only_perfmon_is_missing() -> bool:
    if has_capability(Capability.CAP_SYS_ADMIN):
        return False
    return bool(has_capability(Capability.CAP_BPF)) and not has_capability(Capability.CAP_PERFMON)
