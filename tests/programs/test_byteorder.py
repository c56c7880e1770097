"""What is encoded for the other byte order: on this machine, with struct and sys told that it is a big-endian one."""

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.alike

# Everything that rawbpf encodes goes through struct's "=" and sys.byteorder.
AS_BIG_ENDIAN = """
import json, struct, sys
import rawbpf  # whatever else there is has this machine's order
pack, Struct = struct.pack, struct.Struct
struct.pack = lambda form, *values: pack(form.replace("=", ">"), *values)
struct.Struct = lambda form: Struct(form.replace("=", ">"))
sys.byteorder = "big"
for name in ("rawbpf.programs.asm", "rawbpf.btf.reader", "rawbpf.btf.writer"):
    sys.modules.pop(name, None)
"""

ASSEMBLED = """
from tests.programs.test_asm import INSTRUCTIONS
from rawbpf.programs.asm import assemble
print(json.dumps([(assemble([insn]).hex(), llvm) for insn, llvm, _ in INSTRUCTIONS if llvm]))
"""

BTF = """
from rawbpf.btf.reader import Btf, Kind
from rawbpf.btf.writer import Builder
builder = Builder()
number = builder.integer("u32", 4)
builder.struct("pair", 8, [("one", number, 0), ("two", number, 4)])
blob = builder.encode()
types = Btf(blob)
print(json.dumps([blob.hex(), types.fields(types.find(Kind.STRUCT, "pair"))]))
"""


def on_a_big_endian_machine(code: str):
    result = subprocess.run([sys.executable, "-c", AS_BIG_ENDIAN + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.skipif(shutil.which("llvm-mc") is None, reason="llvm-mc is not installed")
def test_instructions_are_what_llvm_reads_as_bpfeb():
    """LLVM's disassembler for big-endian BPF reads every instruction as the one that was meant."""
    found = on_a_big_endian_machine(ASSEMBLED)
    text = "".join(" ".join(f"0x{byte:02x}" for byte in bytes.fromhex(code)) + "\n" for code, _ in found)
    command = ["llvm-mc", "--disassemble", "--triple=bpfeb", "--mattr=+alu32"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    read = [line.strip() for line in result.stdout.splitlines() if line.strip() and not line.strip().startswith(".")]
    assert [" ".join(line.split()) for line in read] == [llvm for _, llvm in found]


def test_the_registers_change_places():
    """dst is the high half of its byte: bpf_insn's bit fields, as big-endian compilers lay them out."""
    code = "from rawbpf.programs.asm import R1, R6, assemble, load\n"
    code += "print(json.dumps(assemble([load('u64', R6, R1, 8)]).hex()))"
    assert on_a_big_endian_machine(code) == "7961000800000000"


def test_btf_is_big_endian():
    """The magic is eb 9f, all words are big-endian, and what was written is read again."""
    blob, fields = on_a_big_endian_machine(BTF)
    data = bytes.fromhex(blob)
    assert data[:4] == b"\xeb\x9f\x01\x00"
    assert int.from_bytes(data[4:8], "big") == 24  # the header's length
    # struct pair: its name, vlen 2 and kind 4, its size; then name, type and offset of a member.
    strings = data[24 + int.from_bytes(data[16:20], "big") :]
    at = data.index((4 << 24 | 2).to_bytes(4, "big"))
    assert strings[int.from_bytes(data[at - 4 : at], "big") :].startswith(b"pair\0")
    assert int.from_bytes(data[at + 4 : at + 8], "big") == 8
    assert fields == {"one": [0, 4], "two": [4, 4]}


def test_btf_of_the_other_order_is_refused():
    """BTF written on a machine of the other byte order is not misread."""
    blob, _ = on_a_big_endian_machine(BTF)
    code = f"from rawbpf.btf.reader import Btf\nBtf(bytes.fromhex({blob!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "not BTF of this machine's byte order" in result.stderr
