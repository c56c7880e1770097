"""The BTF reader, against blobs made by hand and bpftool's reading of the kernel's own."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from rawbpf import btf
from rawbpf.btf import Btf, BtfError, Kind

needs_btf = pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="by design: this kernel has no BTF")

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


@needs_btf
def test_the_kernels_structs_equal_bpftools():
    """Members and offsets of some kernel structs are what bpftool prints of them."""
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")
    dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", btf.VMLINUX], capture_output=True, check=True)
    listed = {(t["kind"], t["name"]): t for t in json.loads(dump.stdout)["types"] if t["kind"] in ("STRUCT", "UNION")}
    types = btf.vmlinux()
    for kind, name in ((Kind.STRUCT, "bpf_queue_stack"), (Kind.STRUCT, "bpf_map"), (Kind.STRUCT, "task_struct")):
        found = types.find(kind, name)
        theirs = listed[kind.name, name]
        assert found.size == theirs["size"]
        assert [(m.name, m.type_id, m.bit_offset) for m in types.members(found)] == [
            (m["name"] if m["name"] != "(anon)" else "", m["type_id"], m["bits_offset"]) for m in theirs["members"]
        ]
