"""From compiled functions to programs: the kernel takes one run of instructions, so behind each program stand the
functions that it calls, and calls become distances.

What only a running kernel can answer stays open: the descriptors of maps (References), the kernel's own symbols
(SymbolUses), and the offsets in the kernel's types, which the kernel itself writes into the instructions that the
CO-RE records name.

Source: Documentation/bpf/llvm_reloc.rst, Documentation/bpf/standardization/instruction-set.rst.
"""

import struct
import sys
from bisect import bisect_left
from collections.abc import Container, Iterator
from typing import NamedTuple, TypeVar

from rawbpf.btf.ext import BtfExt, CoreRecord, FuncRecord, LineRecord
from rawbpf.objects.elf import Elf, ObjectFileError, Relocation, Section, Symbol
from rawbpf.programs.asm import LD_IMM64, Pseudo

_SLOT = 8
CALL = 0x85
_Record = TypeVar("_Record", FuncRecord, LineRecord, CoreRecord)
_INSN = struct.Struct("=BBhi")

# A kernel takes a million instructions in a program (BPF_COMPLEXITY_LIMIT_INSNS; 4096 before 5.2). Each program has its
# own copy of what it calls: all of a file together may not need more memory than this many.
_INSTRUCTIONS_MAX = 4_000_000


class Function(NamedTuple):
    """A function of the file: `start` and `size` are bytes in its section."""

    name: str
    section: Section
    start: int
    size: int
    is_program: bool


class Reference(NamedTuple):
    """The 64-bit load at `slot` wants the address `offset` bytes into a section of maps or data."""

    slot: int
    section: Section
    offset: int
    where: str


class SymbolUse(NamedTuple):
    """The call, or else the 64-bit load, at `slot` is of a symbol that is not in this file."""

    slot: int
    name: str
    is_call: bool
    where: str


class Linked(NamedTuple):
    """A program with all it calls. The records of func_info and line_info are PROG_LOAD's, counted in instructions;
    both are empty if one of the functions has none, for the kernel wants them of all or of none. CO-RE records count
    bytes from the program's first instruction, as the kernel has it."""

    code: bytes
    references: list[Reference]
    symbols: list[SymbolUse]
    func_info: list[tuple[int, int]]
    line_info: list[tuple[int, int, int, int]]
    core_relocations: list[CoreRecord]


class Linker:
    """The functions of one object file."""

    def __init__(self, elf: Elf, ext: BtfExt, externs: Container[str]) -> None:
        self._ext = ext
        self._externs = externs
        self._left = _INSTRUCTIONS_MAX
        self._functions = {(f.section.number, f.start): f for f in _functions(elf)}
        self._relocations = {
            index: {relocation.offset: relocation for relocation in relocations}
            for index, relocations in elf.relocations.items()
        }

    def programs(self) -> list[Function]:
        """The functions that are programs of their own: global, and in a section other than .text."""
        return [function for function in self._functions.values() if function.is_program]

    def link(self, program: Function) -> Linked:
        """The program and the functions behind it, in the order in which they are first called."""
        code = bytearray()
        places: dict[Function, int] = {}
        references: list[Reference] = []
        symbols: list[SymbolUse] = []
        calls: list[tuple[int, Function]] = []

        def place(function: Function) -> Iterator[Function]:
            """Puts the function at the end, and gives those it refers to."""
            self._left -= function.size // _SLOT
            if self._left < 0:
                raise ObjectFileError(f"{_where(program)}: the programs have over {_INSTRUCTIONS_MAX:,} instructions")
            places[function] = first = len(code) // _SLOT
            code.extend(function.section.data[function.start : function.start + function.size])
            for slot, target in self._targets(function):
                if isinstance(target, Function):
                    calls.append((first + slot, target))
                    yield target
                elif isinstance(target, Reference):
                    references.append(target._replace(slot=first + slot))
                else:
                    symbols.append(target._replace(slot=first + slot))

        waiting = [place(program)]
        while waiting:
            callee = next(waiting[-1], None)
            if callee is None:
                waiting.pop()
            elif callee not in places:
                waiting.append(place(callee))
        for slot, target in calls:
            self._patch_call(code, slot, places[target] - slot - 1)
        functions, lines = self._records(places)
        return Linked(bytes(code), references, symbols, functions, lines, self._core_relocations(places))

    def _targets(self, function: Function) -> Iterator[tuple[int, "Function | Reference | SymbolUse"]]:
        """What the function's calls and 64-bit loads refer to, each with its slot."""
        relocations = self._relocations.get(function.section.number, {})
        for slot, opcode, src, imm in _walk(function):
            at = function.start + slot * _SLOT
            relocation = relocations.get(at)
            if relocation is not None:
                yield slot, self._relocated(function, relocation, opcode, imm)
            elif opcode == CALL and src == Pseudo.CALL:
                yield slot, self._function_at(function, function.section, at + (imm + 1) * _SLOT)

    def _relocated(
        self, function: Function, relocation: Relocation, opcode: int, imm: int
    ) -> "Function | Reference | SymbolUse":
        symbol = relocation.symbol
        if opcode not in (CALL, LD_IMM64):
            raise ObjectFileError(f"{_where(function)}: a relocation to {symbol} on an instruction that has no address")
        if symbol.section is None:
            return self._symbol_use(function, symbol, opcode == CALL)
        if opcode == CALL:
            # To a section, the distance from its beginning is in imm; to a function it is -1, and 0 comes out.
            return self._function_at(function, symbol.section, symbol.offset + (imm + 1) * _SLOT)
        if symbol.section.executable:
            return self._function_at(function, symbol.section, symbol.offset + imm)
        return Reference(0, symbol.section, symbol.offset + imm, _where(function))

    def _symbol_use(self, function: Function, symbol: Symbol, is_call: bool) -> SymbolUse:
        where = f"{_where(function)} refers to {symbol}"
        if symbol.kind == "COMMON":
            raise ObjectFileError(f"{where}, which is common: initialise the variable, or make it static")
        if symbol.name not in self._externs:
            raise ObjectFileError(f"{where}, an extern: it is neither in this file, nor declared __ksym or __kconfig")
        return SymbolUse(0, symbol.name, is_call, where)

    def _function_at(self, caller: Function, section: Section, start: int) -> Function:
        found = self._functions.get((section.number, start))
        if found is None:
            raise ObjectFileError(
                f"{_where(caller)} calls byte {start} of section {section.name!r}: no function is there"
            )
        return found

    @staticmethod
    def _patch_call(code: bytearray, slot: int, distance: int) -> None:
        at = slot * _SLOT
        opcode, registers, offset, _ = _INSN.unpack_from(code, at)
        if opcode == LD_IMM64:
            registers = with_src(registers, Pseudo.FUNC)
            struct.pack_into("=i", code, at + _SLOT + 4, 0)
        _INSN.pack_into(code, at, opcode, registers, offset, distance)

    def _records(self, places: "dict[Function, int]") -> tuple[list[tuple[int, int]], list[tuple[int, int, int, int]]]:
        functions: list[tuple[int, int]] = []
        lines: list[tuple[int, int, int, int]] = []
        complete_functions = complete_lines = True
        for function, first in places.items():
            shift = first * _SLOT - function.start
            own = _within(function, self._ext.functions)[:1]
            here = _within(function, self._ext.lines)
            functions += [((r.offset + shift) // _SLOT, r.type_id) for r in own]
            lines += [((r.offset + shift) // _SLOT, *r[1:]) for r in here]
            complete_functions &= bool(own) and own[0].offset == function.start
            complete_lines &= bool(here) and here[0].offset == function.start
        return functions if complete_functions else [], lines if complete_functions and complete_lines else []

    def _core_relocations(self, places: "dict[Function, int]") -> list[CoreRecord]:
        return [
            record._replace(offset=record.offset + first * _SLOT - function.start)
            for function, first in places.items()
            for record in _within(function, self._ext.core_relocations)
        ]


def _within(function: Function, records: dict[str, list[_Record]]) -> list[_Record]:
    """Those of a section's records, which ascend, that are about the function's bytes."""
    ascending = records.get(function.section.name, [])
    begin = bisect_left(ascending, (function.start,))
    return ascending[begin : bisect_left(ascending, (function.start + function.size,), begin)]


def with_src(registers: int, src: int) -> int:
    """The byte of dst and src with another src."""
    return registers & 0x0F | src << 4 if sys.byteorder == "little" else registers & 0xF0 | src


def _functions(elf: Elf) -> Iterator[Function]:
    for symbol in elf.symbols:
        section = symbol.section
        if symbol.kind != "FUNC" or section is None or not section.executable:
            continue
        where = f"section {section.name!r}, function {symbol.name!r}"
        if not symbol.size or symbol.size % _SLOT or symbol.offset % _SLOT:
            raise ObjectFileError(f"{where}: {symbol.size} bytes at {symbol.offset} are no whole instructions")
        if symbol.offset + symbol.size > len(section.data):
            raise ObjectFileError(f"{where} reaches behind the section's end")
        is_program = symbol.binding != "LOCAL" and section.name != ".text"
        yield Function(symbol.name, section, symbol.offset, symbol.size, is_program)


def _walk(function: Function) -> Iterator[tuple[int, int, int, int]]:
    """Slot, opcode, src and imm of each instruction."""
    slots = function.size // _SLOT
    slot = 0
    while slot < slots:
        opcode, registers, _, imm = _INSN.unpack_from(function.section.data, function.start + slot * _SLOT)
        yield slot, opcode, registers >> 4 if sys.byteorder == "little" else registers & 0x0F, imm
        slot += 2 if opcode == LD_IMM64 else 1
    if slot != slots:
        raise ObjectFileError(f"{_where(function)} ends within an instruction")


def _where(function: Function) -> str:
    return f"section {function.section.name!r}, function {function.name!r}"
