"""A map that others have pinned, opened with the types of the C file that it comes from."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rawbpf import ObjectFile, ObjectFileError, Queue, Stack
from rawbpf.objects.opening import open_map
from tests.objects.test_corpus import needs_bpftool

Compiled = Callable[[str], Path]

pytestmark = [pytest.mark.admin, pytest.mark.real_kernel(reason="programs run in the kernel alone")]


def test_pinned_by_libbpf(compiled: Compiled, bpf_folder: str) -> None:
    """A queue that bpftool has loaded and pinned has no BTF; with the file its elements have their types in C."""
    needs_bpftool()
    path = compiled("everything")
    command = ["bpftool", "prog", "loadall", path, f"{bpf_folder}/programs", "pinmaps", bpf_folder]
    subprocess.run(command, check=True, capture_output=True)
    with open_map(f"{bpf_folder}/events", types=path) as events:
        assert isinstance(events, Queue)
        events.push({"pid": 7, "colour": 5})
        assert (events.peek().pid, events.peek().colour.name) == (7, "GREEN")
    with open_map(f"{bpf_folder}/events", types=path.read_bytes(), access="r") as events:
        assert events.peek().pid == 7
    with open_map(f"{bpf_folder}/bytes", types=path) as stack:
        assert isinstance(stack, Stack)
        assert stack.value_size == 8


def test_with_keys(compiled: Compiled) -> None:
    """Of a map with keys the keys have their types in C as well."""
    with ObjectFile.load(compiled("corpus/free_ports")) as loaded:
        owner_id = loaded.maps["port_of"].id
        with open_map(f"id:{owner_id}", types=compiled("corpus/free_ports"), name="port_of") as owners:
            owners[{"address": 5, "port": 6}] = 20000
        assert {tuple(key): value for key, value in loaded.maps["port_of"].items()} == {(5, 6, 0): 20000}


def test_under_another_name(compiled: Compiled, bpf_folder: str) -> None:
    """The caller says which map of the file it is, where the pin is called otherwise or there is none."""
    with ObjectFile.load(compiled("everything")) as loaded:
        events = loaded.maps["events"]
        events.pin(f"{bpf_folder}/other")
        events.push({"pid": 3})
        for spec in (f"{bpf_folder}/other", f"id:{events.id}"):
            with pytest.raises(ValueError, match="which map of the object file .* it has events, bytes"):
                open_map(spec, types=compiled("everything"))
            with open_map(spec, types=compiled("everything"), name="events") as same:
                assert same.peek().pid == 3
    os.unlink(f"{bpf_folder}/other")


def test_of_another_type(bpf_folder: str, compiled: Compiled) -> None:
    """A map of another type, or with values of another size, is not what the file says."""
    with Stack(48, 4) as stack, Queue(40, 4) as queue:
        with pytest.raises(ValueError, match="of BPF_MAP_TYPE_STACK, and 'events' in .* of BPF_MAP_TYPE_Q"):
            open_map(f"id:{stack.id}", types=compiled("everything"), name="events")
        with pytest.raises(ValueError, match="48"):
            open_map(f"id:{queue.id}", types=compiled("everything"), name="events")


def test_wrong_arguments(compiled: Compiled, no_calls: None) -> None:
    """Types beside a value, and a file that is none, are refused before the kernel is asked."""
    with pytest.raises(TypeError, match="either types or value and key"):
        open_map("/sys/fs/bpf/events", 4, types=compiled("everything"))
    with pytest.raises(ObjectFileError, match="not a well-formed ELF file"):
        open_map("/sys/fs/bpf/events", types=b"\x7fELF")
    with pytest.raises(FileNotFoundError):
        open_map("/sys/fs/bpf/events", types="/nothing.bpf.o")


def test_without_types() -> None:
    """Without a file it is what open_map() of the maps is."""
    with Queue("<I", 3) as q, open_map(f"id:{q.id}", "<I") as same:
        q.push(7)
        assert same.pop() == 7
