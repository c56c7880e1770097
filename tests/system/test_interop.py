"""bpftool and rawbpf on one pinned map: each reads, and takes, what the other put there."""

import json
import shutil
import struct
import subprocess

import pytest

from rawbpf import MapFlag, open_map

pytestmark = [
    pytest.mark.real_kernel(reason="bpftool and libbpf"),
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed"),
]


def bpftool(*arguments: str):
    result = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True)
    output = result.stdout.strip()
    return json.loads(output) if output else None


def as_bytes(numbers) -> list[str]:
    return [f"{byte:#04x}" for byte in numbers]


def test_each_pops_what_the_other_pushed(kind, bpf_folder):
    """Values cross in both directions, in the map's order."""
    path = f"{bpf_folder}/shared"
    push, pop = ("enqueue", "dequeue") if kind.__name__ == "Queue" else ("push", "pop")
    with kind(4, 4, name="shared") as m:
        m.pin(path)
        m.push(b"\x01\x02\x03\x04")
        assert bpftool("map", "peek", "pinned", path)["value"] == as_bytes(b"\x01\x02\x03\x04")
        assert bpftool("map", pop, "pinned", path)["value"] == as_bytes(b"\x01\x02\x03\x04")
        bpftool("map", push, "pinned", path, "value", "5", "6", "7", "8")
        assert m.pop() == b"\x05\x06\x07\x08"


def test_bpftool_opens_what_rawbpf_made(kind):
    """type, name, sizes and flags in bpftool's words."""
    with kind(12, 34, name="ours", flags=MapFlag.BPF_F_RDONLY_PROG) as m:
        shown = bpftool("map", "show", "id", str(m.id))
    expected = {
        "id": m.id,
        "type": kind.__name__.lower(),
        "name": "ours",
        "flags": 0x80,
        "bytes_key": 0,
        "bytes_value": 12,
        "max_entries": 34,
        "frozen": 0,
    }
    assert {key: shown[key] for key in expected} == expected


def test_rawbpf_opens_what_bpftool_made(kind, bpf_folder):
    """A map that bpftool created and filled is opened as what it is, with the kernel's sizes."""
    path = f"{bpf_folder}/theirs"
    name = kind.__name__.lower()
    bpftool("map", "create", path, "type", name, "value", "8", "entries", "5", "name", "theirs")
    for number in (1, 2):
        bpftool("map", "push", "pinned", path, "value", "hex", *(f"{b:02x}" for b in struct.pack("<Q", number)))
    with open_map(path, "<Q") as m:
        assert type(m) is kind
        assert (m.name, m.value_size, m.max_entries) == ("theirs", 8, 5)
        expected = [1, 2] if name == "queue" else [2, 1]
        assert [m.pop(), m.pop()] == expected
        assert m.pop(default=None) is None
