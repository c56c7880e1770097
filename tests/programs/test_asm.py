"""The assembler against llvm-mc's disassembler and the kernel's own listing of a loaded program."""

import os
import re
import shutil
import struct
import subprocess
import sys

import pytest

from rawbpf import Queue
from rawbpf.abi import ProgType
from rawbpf.programs.asm import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R10,
    Helper,
    Insn,
    Label,
    add,
    alu,
    and_,
    assemble,
    call,
    call_function,
    exit_,
    jump,
    jump_if,
    listing,
    load,
    load_imm64,
    load_map,
    mov,
    mul,
    store,
)
from rawbpf.programs.program import Program

# Each instruction, what LLVM calls it (it names the low half of a register w), and what the verifier calls it.
INSTRUCTIONS = [
    (mov(R0, 0), "r0 = 0", "r0 = 0"),
    (mov(R6, R1), "r6 = r1", "r6 = r1"),
    (mov(R3, -5), "r3 = -5", "r3 = -5"),
    (add(R2, 8), "r2 += 8", "r2 += 8"),
    (add(R2, R6), "r2 += r6", "r2 += r6"),
    (mul(R6, 24), "r6 *= 24", "r6 *= 24"),
    (and_(R6, 1023), "r6 &= 1023", "r6 &= 1023"),
    (alu("-=", R0, R3), "r0 -= r3", "r0 -= r3"),
    (alu("/=", R0, R3), "r0 /= r3", "r0 /= r3"),
    (alu("|=", R0, 4), "r0 |= 4", "r0 |= 4"),
    (alu("^=", R0, R1), "r0 ^= r1", "r0 ^= r1"),
    (alu("%=", R0, 7), None, "r0 %= 7"),
    (alu("<<=", R1, 32), "r1 <<= 32", "r1 <<= 32"),
    (alu(">>=", R1, R2), "r1 >>= r2", "r1 >>= r2"),
    (alu("s>>=", R1, 32), "r1 s>>= 32", "r1 s>>= 32"),
    (alu("=", R0, 7, bits=32), "w0 = 7", "w0 = 7"),
    (alu("+=", R0, R1, bits=32), "w0 += w1", "w0 += w1"),
    (alu("neg", R7, 0), "r7 = -r7", "r7 = -r7"),
    (load("u8", R1, R2, 3), "w1 = *(u8 *)(r2 + 3)", "r1 = *(u8 *)(r2 +3)"),
    (load("u16", R1, R2, -2), "w1 = *(u16 *)(r2 - 2)", "r1 = *(u16 *)(r2 -2)"),
    (load("u32", R1, R2, 308), "w1 = *(u32 *)(r2 + 308)", "r1 = *(u32 *)(r2 +308)"),
    (load("u64", R1, R2), "r1 = *(u64 *)(r2 + 0)", "r1 = *(u64 *)(r2 +0)"),
    (store("u32", R10, -8, R1), "*(u32 *)(r10 - 8) = w1", "*(u32 *)(r10 -8) = r1"),
    (store("u64", R10, -16, R1), "*(u64 *)(r10 - 16) = r1", "*(u64 *)(r10 -16) = r1"),
    (store("u8", R1, 0, R2), "*(u8 *)(r1 + 0) = w2", "*(u8 *)(r1 +0) = r2"),
    (store("u32", R10, -8, 77), None, "*(u32 *)(r10 -8) = 77"),
    (load_imm64(R1, 0x1122334455667788), "r1 = 1234605616436508552 ll", "r1 = 0x1122334455667788"),
    (call(Helper.BPF_FUNC_map_pop_elem), "call 88", "call bpf_map_pop_elem#88"),
    (exit_(), "exit", "exit"),
]


@pytest.mark.skipif(shutil.which("llvm-mc") is None, reason="llvm-mc is not installed")
def test_llvm_reads_the_same():
    """LLVM's disassembler names each instruction as we do."""
    known = [(insn, text) for insn, text, _ in INSTRUCTIONS if text is not None]
    source = "\n".join(" ".join(f"{byte:#04x}" for byte in assemble([insn])) for insn, _ in known)
    triple = "bpfel" if sys.byteorder == "little" else "bpfeb"
    command = ["llvm-mc", "--disassemble", f"--triple={triple}", "--mattr=+alu32"]
    result = subprocess.run(command, input=source, capture_output=True, text=True)
    lines = [re.sub(r"\s+", " ", line).strip() for line in result.stdout.splitlines()]
    disassembled = [line for line in lines if line and not line.startswith(".")]
    assert disassembled == [text for _, text in known], result.stderr


@pytest.mark.parametrize(("insn", "text"), [(insn, text) for insn, _, text in INSTRUCTIONS])
def test_listing(insn, text):
    """The listing prints instructions in the verifier's style."""
    assert listing([insn]) == f"0: ({insn.opcode:02x}) {text}"


def test_labels_become_offsets():
    """Jumps count slots from the next instruction, and a 64-bit load takes two."""
    program = [
        jump_if("==", R1, 0, "end"),
        load_imm64(R0, 1),
        Label("back"),
        jump("back"),
        call_function("end"),
        Label("end"),
        exit_(),
    ]
    assert listing(program).splitlines() == [
        "0: (15) if r1 == 0x0 goto pc+4",
        "1: (18) r0 = 0x1",
        "3: (05) goto pc-1",
        "4: (85) call pc+0",
        "5: (95) exit",
    ]
    assert len(assemble(program)) == 8 * 6


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([jump("nowhere")], "there is no label 'nowhere'"),
        ([Label("a"), Label("a")], "label 'a' stands twice"),
        ([mov(R0, 1 << 40)], "does not fit"),
        ([load("u8", R0, R1, 1 << 20)], "does not fit"),
    ],
)
def test_what_can_not_be_assembled(program, message):
    """Missing and doubled labels, and numbers too large for their field, are ValueError."""
    with pytest.raises(ValueError, match=message):
        assemble(program)


def test_encoding():
    """The bytes of an instruction: opcode, registers, offset, constant, in the machine's order."""
    code = assemble([Insn(0x7B, R10, R1, -16, 0)])
    # The destination is the first of bpf_insn's two bit-fields: the low half, or on a big-endian machine the high one.
    registers = 0x1A if sys.byteorder == "little" else 0xA1
    assert code == struct.pack("=BBhi", 0x7B, registers, -16, 0)


@pytest.mark.creates
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs")
def test_the_kernel_lists_the_same():
    """bpftool's dump of a loaded program is our listing; but for calls, which the kernel turns into direct ones."""
    with Queue(8, 2) as q:
        program = [
            mov(R6, 0),
            store("u64", R10, -8, R6),
            load_map(R1, q.fileno()),
            mov(R2, R10),
            add(R2, -8),
            mov(R3, 0),
            call(Helper.BPF_FUNC_map_push_elem),
            jump_if("s<", R0, 0, "end"),
            alu("|=", R0, 1, bits=32),
            Label("end"),
            exit_(),
        ]
        name = f"listed_{os.getpid()}"
        with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, program, name=name):
            shown = subprocess.run(["bpftool", "prog", "dump", "xlated", "name", name], capture_output=True, text=True)
        theirs = [line.strip() for line in shown.stdout.splitlines()]
        ours = [line.replace(f"fd:{q.fileno()}", f"id:{q.id}") for line in listing(program).splitlines()]
    calls = [i for i, line in enumerate(ours) if "call" in line]
    assert [line for i, line in enumerate(theirs) if i not in calls] == [
        line for i, line in enumerate(ours) if i not in calls
    ], shown.stderr
