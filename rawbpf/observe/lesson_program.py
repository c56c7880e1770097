"""A BPF program of a few instructions, run without a kernel: for the exercise that writes one.

It knows what that takes: constants, copies, additions, stores on the stack, loading a map, the helper that pushes, and
exit. What the verifier would refuse is refused here in its words.
"""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from rawbpf.programs.asm import LD_IMM64, Helper, Item, Pseudo, Register, resolve

_STACK_SIZE = 512
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_U64 = (1 << 64) - 1


class Refused(Exception):
    """The verifier would not take the program."""


class Unknown(Exception):
    """An instruction that is not known here; a kernel may well take it."""


class _Value(NamedTuple):
    """What a register holds: a number, an offset from the stack's top, the context, or a map's descriptor."""

    kind: str
    number: int


class Pushed(NamedTuple):
    """A push: the map's descriptor, the value, the flags."""

    map_fd: int
    value: bytes
    flags: int


def interpret(program: Iterable[Item], value_sizes: dict[int, int]) -> list[Pushed]:
    """The pushes that a program makes. `value_sizes` are those of the maps, by descriptor."""
    machine = _Machine(value_sizes)
    for insn in resolve(program):
        if insn.opcode == 0x95:
            machine.read(0)
            return machine.pushed
        machine.step(insn.opcode, insn.dst, insn.src, insn.offset, insn.imm)
    raise Refused("last insn is not an exit or jmp")


class _Machine:
    def __init__(self, value_sizes: dict[int, int]) -> None:
        self.value_sizes = value_sizes
        self.registers = {Register.R1: _Value("ctx", 0), Register.R10: _Value("fp", 0)}
        self.stack = bytearray(_STACK_SIZE)
        self.written: set[int] = set()
        self.pushed: list[Pushed] = []

    def read(self, register: int) -> _Value:
        if register not in self.registers:
            raise Refused(f"R{register} !read_ok")
        return self.registers[Register(register)]

    def step(self, opcode: int, dst: int, src: int, offset: int, imm: int) -> None:
        kind = opcode & 0x07
        if opcode == LD_IMM64 and src in (Pseudo.MAP_FD, Pseudo.NUMBER):
            self._write(dst, _Value("map" if src == Pseudo.MAP_FD else "scalar", imm))
        elif opcode in (0xB7, 0xBF):
            self._write(dst, self.read(src) if opcode == 0xBF else _Value("scalar", imm & _U64))
        elif opcode in (0x07, 0x0F):
            self._add(dst, self.read(src) if opcode == 0x0F else _Value("scalar", imm))
        elif kind in (0x02, 0x03) and opcode & 0xE0 == 0x60:
            number = imm if kind == 0x02 else self._number(src)
            self._store(_SIZES[opcode & 0x18], self.read(dst), dst, offset, number)
        elif opcode == 0x85 and src == 0 and imm == Helper.BPF_FUNC_map_push_elem:
            self._push()
        else:
            raise Unknown(f"opcode {opcode:#x}")

    def _write(self, register: int, value: _Value) -> None:
        if register == Register.R10:
            raise Refused("frame pointer is read only")
        self.registers[Register(register)] = value

    def _add(self, register: int, other: _Value) -> None:
        value = self.read(register)
        if value.kind not in ("scalar", "fp") or other.kind != "scalar":
            raise Refused(f"R{register} pointer arithmetic prohibited")
        number = value.number + other.number
        self._write(register, value._replace(number=number & _U64 if value.kind == "scalar" else number))

    def _number(self, register: int) -> int:
        value = self.read(register)
        if value.kind != "scalar":
            raise Unknown("a pointer is stored")
        return value.number

    def _store(self, size: int, base: _Value, register: int, offset: int, number: int) -> None:
        if base.kind != "fp":
            raise Refused(f"R{register} invalid mem access '{base.kind}'")
        first = base.number + offset
        if not -_STACK_SIZE <= first <= -size:
            raise Refused(f"invalid write to stack R{register} off={first} size={size}")
        if first % size:
            raise Refused(f"misaligned stack access off {first} size {size}")
        data = (number & (1 << 8 * size) - 1).to_bytes(size, sys.byteorder)
        self.stack[_STACK_SIZE + first : _STACK_SIZE + first + size] = data
        self.written |= set(range(first, first + size))

    def _push(self) -> None:
        for register in (1, 2, 3):
            self.read(register)
        map_, value = self.registers[Register.R1], self.registers[Register.R2]
        if map_.kind != "map":
            raise Refused(f"R1 type={map_.kind} expected=map_ptr")
        if map_.number not in self.value_sizes:
            raise Refused(f"fd {map_.number} is not pointing to valid bpf_map")
        if value.kind != "fp":
            raise Refused(f"R2 type={value.kind} expected=fp")
        size = self.value_sizes[map_.number]
        if not {*range(value.number, value.number + size)} <= self.written:
            raise Refused(f"invalid read from stack R2 off {value.number} size {size}")
        at = _STACK_SIZE + value.number
        self.pushed.append(Pushed(map_.number, bytes(self.stack[at : at + size]), self._number(3)))
        for register in (1, 2, 3, 4, 5):
            self.registers.pop(Register(register), None)
        self.registers[Register.R0] = _Value("scalar", 0)
