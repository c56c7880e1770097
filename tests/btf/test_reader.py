"""The BTF reader, against blobs made by hand and bpftool's reading of the kernel's own."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from rawbpf.btf.reader import VMLINUX, Btf, BtfError, Kind, Member, vmlinux
from rawbpf.btf.writer import Builder

needs_btf = pytest.mark.skipif(not os.path.exists(VMLINUX), reason="by design: this kernel has no BTF")

STRINGS = b"\0int\0pair\0a\0b\0"


def blob(types: bytes, strings: bytes = STRINGS) -> bytes:
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


INT = struct.pack("=IIII", 1, 1 << 24, 4, 32)
PAIR = struct.pack("=III", 5, 4 << 24 | 2, 8) + struct.pack("=IIIIII", 10, 1, 0, 12, 1, 32)


def test_types_and_members():
    """A struct of two ints: names, offsets, sizes."""
    types = Btf(blob(INT + PAIR))
    assert len(types) == 3
    pair = types.find(Kind.STRUCT, "pair")
    assert (pair.id, pair.size) == (2, 8)
    assert types.fields(pair) == {"a": (0, 4), "b": (4, 4)}
    assert types.offset_of("pair", "b") == 4
    with pytest.raises(KeyError):
        types.find(Kind.UNION, "pair")
    with pytest.raises(KeyError):
        types.find(Kind.STRUCT, "air")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF" * 10,
        blob(INT)[:30],
        blob(INT, b"no nul at the start\0"),
        blob(INT, b"\0no nul at the end"),
        blob(INT[:10]),
        blob(PAIR[:20]),
        blob(INT[:4] + struct.pack("=I", 31 << 24) + INT[8:]),
    ],
)
def test_malformed_data(data):
    """Whatever is not BTF is a BtfError."""
    with pytest.raises(BtfError):
        Btf(data)


def test_references_that_lead_nowhere():
    """Ids beyond the end, names beyond the strings, and circles are BtfError, not a hang."""
    circle = struct.pack("=III", 1, Kind.TYPEDEF << 24, 1)
    with pytest.raises(BtfError, match="refers to itself"):
        Btf(blob(circle)).resolve(1)
    with pytest.raises(BtfError, match="no type 7"):
        Btf(blob(INT)).type(7)
    with pytest.raises(BtfError, match="no string"):
        Btf(blob(struct.pack("=IIII", 999, 1 << 24, 4, 32))).type(1)


def test_what_the_builder_makes():
    """Each kind that Builder makes is read back as it was given."""
    builder = Builder()
    number = builder.integer("int", 4, signed=True)
    flag = builder.integer("_Bool", 1, boolean=True)
    color = builder.enum("color", {"RED": 0, "BLUE": 7})
    below = builder.enum("below", {"MINUS": -3})
    far = builder.enum("far", {"FAR": 1 << 40}, 8)
    real = builder.float("double", 8)
    text = builder.array(builder.integer("char", 1, signed=True), 16)
    named = builder.typedef("text_t", builder.const(text))
    bits = builder.struct("bits", 4, [Member("a", number, 0, 3), Member("b", color, 3, 5), Member("c", flag, 8, 1)])
    either = builder.union("either", 16, [("text", named, 0), ("real", real, 0)])
    function = builder.function("run", number, [("context", builder.pointer()), ("size", number)])
    types = Btf(builder.encode())

    assert [types.type(each).kind.name for each in (number, color, far, real, text, named, bits, either)] == [
        *("INT", "ENUM", "ENUM64", "FLOAT", "ARRAY", "TYPEDEF", "STRUCT", "UNION")
    ]
    assert types.integer(types.type(number)) == (32, 0, True, False, False)
    assert types.integer(types.type(flag)) == (8, 0, False, False, True)
    assert types.enumerators(types.type(color)) == {"RED": 0, "BLUE": 7}
    assert types.enumerators(types.type(below)) == {"MINUS": -3}
    assert types.enumerators(types.type(far)) == {"FAR": 1 << 40}
    assert types.array(types.type(text))[1] == 16
    assert (types.resolve(named).id, types.size_of(named), types.size_of(either)) == (text, 16, 16)
    members = types.members(types.type(bits))
    assert members == [("a", number, 0, 3), ("b", color, 3, 5), ("c", flag, 8, 1)]
    prototype = types.type(types.type(function).size)
    assert [name for name, _ in types.parameters(prototype)] == ["context", "size"]


def test_a_wrong_kind_is_named():
    """Asking a type for what its kind does not have is a BtfError which names both."""
    types = Btf(blob(INT + PAIR))
    number, pair = types.type(1), types.type(2)
    for call, found, text in (
        (types.members, number, "INT, not STRUCT or UNION"),
        (types.enumerators, number, "INT, not ENUM"),
        (types.array, pair, "STRUCT, not ARRAY"),
        (types.integer, pair, "STRUCT, not INT"),
        (types.variables, pair, "STRUCT, not DATASEC"),
        (types.parameters, pair, "STRUCT, not FUNC_PROTO"),
        (types.linkage, pair, "STRUCT, not VAR"),
        (types.component, pair, "STRUCT, not DECL_TAG"),
    ):
        with pytest.raises(BtfError, match=text):
            call(found)
    with pytest.raises(BtfError, match="VOID, not INT"):
        types.size_of(0)


def test_variables_and_tags():
    """A section's variables, their linkage, and what a tag is about."""
    names = b"\0int\0.data\0counter\0user\0"
    section = struct.pack("=III", 5, Kind.DATASEC << 24 | 1, 4) + struct.pack("=III", 3, 0, 4)
    variable = struct.pack("=IIII", 11, Kind.VAR << 24, 1, 1)
    whole = struct.pack("=IIIi", 19, Kind.DECL_TAG << 24, 3, -1)
    second = struct.pack("=IIIi", 19, Kind.DECL_TAG << 24, 3, 1)
    types = Btf(blob(struct.pack("=IIII", 1, 1 << 24, 4, 32) + section + variable + whole + second, names))
    (entry,) = types.variables(types.find(Kind.DATASEC, ".data"))
    assert entry == (3, 0, 4)
    assert (types.type(entry.type_id).name, types.linkage(types.type(3))) == ("counter", 1)
    assert [(types.type(each).name, types.component(types.type(each))) for each in (4, 5)] == [
        ("user", -1),
        ("user", 1),
    ]


@needs_btf
def test_the_kernels_structs_equal_bpftools():
    """Members and offsets of some kernel structs are what bpftool prints of them."""
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", VMLINUX], capture_output=True, check=True)
    listed = {(t["kind"], t["name"]): t for t in json.loads(dump.stdout)["types"] if t["kind"] in ("STRUCT", "UNION")}
    types = vmlinux()
    for kind, name in ((Kind.STRUCT, "bpf_queue_stack"), (Kind.STRUCT, "bpf_map"), (Kind.STRUCT, "task_struct")):
        found = types.find(kind, name)
        theirs = listed[kind.name, name]
        assert found.size == theirs["size"]
        assert [(m.name, m.type_id, m.bit_offset) for m in types.members(found)] == [
            (m["name"] if m["name"] != "(anon)" else "", m["type_id"], m["bits_offset"]) for m in theirs["members"]
        ]
