"""BPF instructions: a small assembler with labels, and a listing in the verifier's own style.

A program is a list of instructions and labels; assemble() makes bytes of it. Each instruction is 8 bytes, in the
machine's byte order:

    opcode:8   src:4 dst:4   offset:16   imm:32          (dst is the low half of its byte on little-endian machines)

The opcode's low three bits are its class. Arithmetic (ALU64 0x07, ALU 0x04) and jumps (JMP 0x05, JMP32 0x06) have the
operation in the high four bits and in bit 3 whether the operand is `imm` (K, 0) or the src register (X, 8). Loads and
stores (LDX 0x01, ST 0x02, STX 0x03) have the size in bits 3 and 4 (W 0x00, H 0x08, B 0x10, DW 0x18) and the mode in the
high three (MEM 0x60). The one exception, the load of a 64-bit constant (0x18), takes two instructions' room.

    >>> program = [
    ...     mov(R0, 0),
    ...     Label("again"),
    ...     add(R0, 1),
    ...     jump_if("<", R0, 10, "again"),
    ...     exit_(),
    ... ]
    >>> print(listing(program))
    0: (b7) r0 = 0
    1: (07) r0 += 1
    2: (a5) if r0 < 0xa goto pc-2
    3: (95) exit

Sources: Documentation/bpf/standardization/instruction-set.rst, kernel/bpf/disasm.c.
"""

import struct
import sys
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class Register(IntEnum):
    """r0: result; r1 to r5: arguments, lost in a call; r6 to r9: kept; r10: end of the 512-byte stack, read-only."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register


class Helper(IntEnum):
    """enum bpf_func_id, as far as it is used here: functions that a program may call."""

    BPF_FUNC_map_lookup_elem = 1
    BPF_FUNC_map_update_elem = 2
    BPF_FUNC_map_delete_elem = 3
    BPF_FUNC_ktime_get_ns = 5
    BPF_FUNC_get_current_pid_tgid = 14
    BPF_FUNC_get_current_comm = 16
    BPF_FUNC_get_current_task = 35
    BPF_FUNC_map_push_elem = 87
    BPF_FUNC_map_pop_elem = 88
    BPF_FUNC_map_peek_elem = 89
    BPF_FUNC_probe_read_kernel = 113
    BPF_FUNC_ringbuf_output = 130
    BPF_FUNC_ringbuf_reserve = 131
    BPF_FUNC_ringbuf_submit = 132
    BPF_FUNC_ringbuf_discard = 133
    BPF_FUNC_get_attach_cookie = 174
    BPF_FUNC_loop = 181


class Pseudo(IntEnum):
    """What stands in src of a 64-bit load or a call, and tells the verifier how to read imm (BPF_PSEUDO_*)."""

    NUMBER = 0
    MAP_FD = 1
    MAP_VALUE = 2
    BTF_ID = 3
    FUNC = 4
    # The same number 1, in a call.
    CALL = 1


class Insn(NamedTuple):
    """One instruction. `target` is a label's name where offset or imm is still to be computed."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0
    # The upper half of a 64-bit constant.
    imm_high: int = 0
    target: str = ""

    @property
    def slots(self) -> int:
        """How many instructions' room it takes."""
        return 2 if self.opcode == LD_IMM64 else 1


class Label(NamedTuple):
    """A place in the program, for jumps and calls."""

    name: str


Item = Insn | Label

LD_IMM64 = 0x18

_SIZES = {"u8": 0x10, "u16": 0x08, "u32": 0x00, "u64": 0x18}
_SIZE_NAMES = {code: name for name, code in _SIZES.items()}

_ALU64, _ALU, _JMP, _JMP32, _LDX, _ST, _STX = 0x07, 0x04, 0x05, 0x06, 0x01, 0x02, 0x03
_X = 0x08
_MEM = 0x60

_ALU_OPS = {"+=": 0x00, "-=": 0x10, "*=": 0x20, "/=": 0x30, "|=": 0x40, "&=": 0x50, "<<=": 0x60, ">>=": 0x70}
_ALU_OPS |= {"neg": 0x80, "%=": 0x90, "^=": 0xA0, "=": 0xB0, "s>>=": 0xC0}
_ALU_NAMES = {code: name for name, code in _ALU_OPS.items()}

_JUMPS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70}
_JUMPS |= {"<": 0xA0, "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0}
_JUMP_NAMES = {code: name for name, code in _JUMPS.items()}


# Arithmetic: dst = dst op operand, the operand a register or a 32-bit constant, sign-extended to 64 bits.


def alu(operation: str, dst: Register, operand: "Register | int", bits: int = 64) -> Insn:
    """`dst operation operand`, with an operator of C ("+=", "&=", "=", ...) or "s>>=". Opcode op | K/X | ALU64/ALU.

    With bits=32 only the low half takes part, and the upper half of dst becomes 0.
    """
    opcode = _ALU_OPS[operation] | (_ALU64 if bits == 64 else _ALU)
    if isinstance(operand, Register):
        return Insn(opcode | _X, dst, operand)
    return Insn(opcode, dst, imm=operand)


def mov(dst: Register, operand: "Register | int") -> Insn:
    """dst = operand. 0xbf (register), 0xb7 (constant)."""
    return alu("=", dst, operand)


def add(dst: Register, operand: "Register | int") -> Insn:
    """dst += operand. 0x0f, 0x07."""
    return alu("+=", dst, operand)


def mul(dst: Register, operand: "Register | int") -> Insn:
    """dst *= operand. 0x2f, 0x27."""
    return alu("*=", dst, operand)


def and_(dst: Register, operand: "Register | int") -> Insn:
    """dst &= operand. 0x5f, 0x57."""
    return alu("&=", dst, operand)


# Memory: [base + offset], the offset a signed 16-bit number of bytes.


def load(size: str, dst: Register, base: Register, offset: int = 0) -> Insn:
    """dst = *(size *)(base + offset), size u8, u16, u32 or u64. MEM | size | LDX: 0x71, 0x69, 0x61, 0x79."""
    return Insn(_MEM | _SIZES[size] | _LDX, dst, base, offset)


def store(size: str, base: Register, offset: int, operand: "Register | int") -> Insn:
    """*(size *)(base + offset) = operand. MEM | size | STX (0x73, 0x6b, 0x63, 0x7b) or ST for a constant (0x72 ...)."""
    if isinstance(operand, Register):
        return Insn(_MEM | _SIZES[size] | _STX, base, operand, offset)
    return Insn(_MEM | _SIZES[size] | _ST, base, 0, offset, operand)


def load_imm64(dst: Register, number: int) -> Insn:
    """dst = a 64-bit constant. 0x18, two slots: the low half in imm, the upper in the imm of the second."""
    return Insn(LD_IMM64, dst, Pseudo.NUMBER, 0, _s32(number), _s32(number >> 32))


def load_map(dst: Register, fd: int) -> Insn:
    """dst = the map of this descriptor, for a helper's argument. 0x18 with src BPF_PSEUDO_MAP_FD."""
    return Insn(LD_IMM64, dst, Pseudo.MAP_FD, 0, fd)


def load_map_value(dst: Register, fd: int, offset: int = 0) -> Insn:
    """dst = address within the value of a one-entry array map. 0x18 with src BPF_PSEUDO_MAP_VALUE. Linux 5.2."""
    return Insn(LD_IMM64, dst, Pseudo.MAP_VALUE, 0, fd, offset)


def load_function(dst: Register, label: str) -> Insn:
    """dst = address of the function at a label, for a callback. 0x18 with src BPF_PSEUDO_FUNC. Linux 5.13."""
    return Insn(LD_IMM64, dst, Pseudo.FUNC, target=label)


# Jumps count in instructions from the next one; here they go to labels.


def jump(label: str) -> Insn:
    """goto label. 0x05."""
    return Insn(_JMP, target=label)


def jump_if(comparison: str, dst: Register, operand: "Register | int", label: str) -> Insn:
    """if dst comparison operand goto label: "==", "!=", "<", ">=", "&" (any bit), "s<" (signed) ... op | K/X | JMP."""
    opcode = _JUMPS[comparison] | _JMP
    if isinstance(operand, Register):
        return Insn(opcode | _X, dst, operand, target=label)
    return Insn(opcode, dst, imm=operand, target=label)


def call(helper: Helper) -> Insn:
    """r0 = helper(r1, r2, r3, r4, r5). 0x85 with the helper's number in imm."""
    return Insn(0x85, imm=helper)


def call_function(label: str) -> Insn:
    """r0 = the program's own function at a label. 0x85 with src BPF_PSEUDO_CALL. Linux 4.16."""
    return Insn(0x85, src=Pseudo.CALL, target=label)


def exit_() -> Insn:
    """Returns r0. 0x95."""
    return Insn(0x95)


def resolve(program: Iterable[Item]) -> list[Insn]:
    """The instructions with their labels turned into offsets. ValueError for a label that is missing or twice."""
    items = list(program)
    places: dict[str, int] = {}
    slot = 0
    for item in items:
        if isinstance(item, Label):
            if item.name in places:
                raise ValueError(f"label {item.name!r} stands twice")
            places[item.name] = slot
        else:
            slot += item.slots
    resolved = []
    slot = 0
    for item in items:
        if isinstance(item, Label):
            continue
        if item.target:
            if item.target not in places:
                raise ValueError(f"there is no label {item.target!r}")
            distance = places[item.target] - slot - 1
            field = "imm" if item.opcode in (0x85, LD_IMM64) else "offset"
            resolved.append(item._replace(**{field: distance}, target=""))
        else:
            resolved.append(item)
        slot += item.slots
    return resolved


def assemble(program: Iterable[Item]) -> bytes:
    """The program as the kernel takes it: 8 bytes a slot. ValueError for numbers that do not fit their field."""
    return b"".join(_encode(insn) for insn in resolve(program))


def _encode(insn: Insn) -> bytes:
    registers = insn.src << 4 | insn.dst if sys.byteorder == "little" else insn.dst << 4 | insn.src
    try:
        encoded = struct.pack("=BBhi", insn.opcode, registers, insn.offset, insn.imm)
        if insn.slots == 2:
            encoded += struct.pack("=BBhi", 0, 0, 0, insn.imm_high)
    except struct.error as error:
        raise ValueError(f"{insn} does not fit its fields: {error}") from None
    return encoded


def listing(program: Iterable[Item]) -> str:
    """The program as the verifier prints it, one line an instruction: "2: (a5) if r0 < 0xa goto pc-2"."""
    lines, slot = [], 0
    for insn in resolve(program):
        lines.append(f"{slot}: ({insn.opcode:02x}) {_text(insn)}")
        slot += insn.slots
    return "\n".join(lines)


def _text(insn: Insn) -> str:
    kind = insn.opcode & 0x07
    if insn.opcode == LD_IMM64:
        return f"r{insn.dst} = {_constant(insn)}"
    if kind in (_ALU64, _ALU):
        letter = "r" if kind == _ALU64 else "w"
        operand = f"{letter}{insn.src}" if insn.opcode & _X else str(insn.imm)
        name = _ALU_NAMES[insn.opcode & 0xF0]
        return f"{letter}{insn.dst} = -{letter}{insn.dst}" if name == "neg" else f"{letter}{insn.dst} {name} {operand}"
    if kind == _LDX:
        return f"r{insn.dst} = {_memory(insn, insn.src)}"
    if kind in (_ST, _STX):
        return f"{_memory(insn, insn.dst)} = {f'r{insn.src}' if kind == _STX else insn.imm}"
    return _jump_text(insn)


def _jump_text(insn: Insn) -> str:
    if insn.opcode == 0x95:
        return "exit"
    if insn.opcode == 0x85:
        if insn.src == Pseudo.CALL:
            return f"call pc{insn.imm:+d}"
        names = {helper.value: helper.name for helper in Helper}
        return f"call {names.get(insn.imm, 'unknown').replace('BPF_FUNC', 'bpf')}#{insn.imm}"
    if insn.opcode == 0x05:
        return f"goto pc{insn.offset:+d}"
    letter = "r" if insn.opcode & 0x07 == _JMP else "w"
    operand = f"{letter}{insn.src}" if insn.opcode & _X else f"{insn.imm & 0xFFFFFFFF:#x}"
    return f"if {letter}{insn.dst} {_JUMP_NAMES[insn.opcode & 0xF0]} {operand} goto pc{insn.offset:+d}"


def _constant(insn: Insn) -> str:
    return {
        Pseudo.NUMBER: f"{(insn.imm & 0xFFFFFFFF) | (insn.imm_high & 0xFFFFFFFF) << 32:#x}",
        Pseudo.MAP_FD: f"map[fd:{insn.imm}]",
        Pseudo.MAP_VALUE: f"map[fd:{insn.imm}][0]+{insn.imm_high}",
        Pseudo.FUNC: f"subprog[{insn.imm:+d}]",
    }.get(Pseudo(insn.src), hex(insn.imm))


def _memory(insn: Insn, base: int) -> str:
    return f"*({_SIZE_NAMES[insn.opcode & 0x18]} *)(r{base} {insn.offset:+d})"


def _s32(number: int) -> int:
    """The low 32 bits as a signed number."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number
