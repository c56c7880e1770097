"""CO-RE relocations, which the kernel makes: what a program reads is what the kernel's own BTF says; what can't be
relocated is named by line, type and field. That libbpf makes the same of each kind is in test_corpus.py.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rawbpf import ObjectFile, ObjectFileError
from rawbpf.abi.constants import ProgType
from rawbpf.btf.reader import Kind, vmlinux
from rawbpf.objects import loader
from rawbpf.objects.core_relocations import CoreKind, target_of
from rawbpf.objects.declarations import read
from rawbpf.programs.program import ETH_HLEN, VerifierError
from tests.conftest import OBJECTS

Compiled = Callable[[str], Path]

pytestmark = [
    pytest.mark.admin,
    pytest.mark.linux("5.17"),
    pytest.mark.real_kernel(reason="programs run in the kernel alone"),
]


@contextmanager
def after_an_exec(path: Path, **wishes: Any) -> Iterator[ObjectFile]:
    """The file loaded and attached, after this process has had a child that called execve()."""
    with ObjectFile.load(path, **wishes) as loaded:
        loaded.attach()
        subprocess.run([sys.executable, "-c", ""], check=True)
        yield loaded


class TestResults:
    def test_fields_of_a_task(self, compiled: Compiled) -> None:
        """Members of the kernel's task, behind pointers, are those of the process: the parent is this one."""
        with after_an_exec(compiled("corpus/core_task"), max_entries={"events": 1 << 14}) as loaded:
            events = [event for event in loaded.maps["events"].drain() if event.parent == os.getpid()]
        assert len(events) == 1
        assert events[0].command.rstrip(b"\0").decode() == Path(sys.executable).name[:15]
        assert events[0].pages > 0

    def test_facts_of_a_field(self, compiled: Compiled) -> None:
        """Offset and size of a member, and whether it exists and is signed, are those of the kernel's BTF."""
        with after_an_exec(compiled("corpus/core_fields")) as loaded:
            facts = loaded.maps["facts"].pop()
        offset, size = vmlinux().fields(vmlinux().find(Kind.STRUCT, "task_struct"), depth=1)["comm"]
        assert facts == (offset, size, 1, 1)

    def test_facts_of_a_type(self, compiled: Compiled) -> None:
        """A type's id and size are those of the kernel's BTF; one that does not exist has neither."""
        with after_an_exec(compiled("corpus/core_types")) as loaded:
            ids, exists, sizes = (loaded.variables[name] for name in ("ids", "exists", "sizes"))
        task = vmlinux().find(Kind.STRUCT, "task_struct")
        assert (ids[1], sizes[0]) == (task.id, task.size)
        assert (exists[:3], sizes[1:3]) == ((1, 0, 1), (0, 4))

    def test_enumerators(self, compiled: Compiled) -> None:
        """An enumerator has the kernel's value, not that of the program."""
        with after_an_exec(compiled("corpus/core_enums")) as loaded:
            exists, values = loaded.variables["exists"], loaded.variables["values"]
        theirs = vmlinux().enumerators(vmlinux().find(Kind.ENUM, "pid_type"))
        assert exists == (1, 0, 0)
        assert values == (theirs["PIDTYPE_SID"], theirs["PIDTYPE_TGID"], 0)

    @pytest.mark.jit
    def test_in_functions_that_are_called(self, compiled: Compiled) -> None:
        """Relocations move along with functions that are put behind a program, a callback's among them."""
        with after_an_exec(compiled("corpus/core_functions"), max_entries={"ancestors": 1 << 16}) as loaded:
            ancestors = loaded.maps["ancestors"].pop_many(1 << 16)
        assert os.getpid() in ancestors
        assert os.getppid() in ancestors

    def test_packets(self, compiled: Compiled) -> None:
        """Headers and contexts of packets are read where the kernel has them."""
        packet = bytes(12) + b"\x08\x00" + bytes.fromhex("4500002c00000000400600000a0000010a000002") + bytes(20)
        with ObjectFile.load(compiled("corpus/core_packets")) as loaded:
            assert loaded.programs["at_interface"].run(packet).retval == 2
            seen = loaded.maps["packets"].pop()
        assert (seen.protocol, seen.ttl) == (6, 64)
        assert seen[:2] == (
            int.from_bytes(b"\x0a\0\0\x01", sys.byteorder),
            int.from_bytes(b"\x0a\0\0\x02", sys.byteorder),
        )


class TestMissing:
    @pytest.mark.parametrize(
        ("program", "section", "says"),
        [
            ("field", "raw_tp/one", "this kernel's struct task_struct has no field 'no_such_member'"),
            ("in_function", "raw_tp/two", "this kernel's struct task_struct has no field 'deep.inner[2]'"),
            ("type", "raw_tp/three", "this kernel has no struct nowhere with the field 'member'"),
            ("enumerator", "raw_tp/four", "this kernel's enum pid_type has no enumerator 'PIDTYPE_NO_SUCH'"),
            ("size", "raw_tp/five", "this kernel's struct task_struct has no field 'deep'"),
        ],
    )
    def test_is_named(self, compiled: Compiled, program: str, section: str, says: str) -> None:
        """What the kernel does not have is named by section, program, line of C, type and field; the log is kept."""
        where = rf"section '{section}', program '{program}': line (\d+) of .*missing.bpf.c, `(.+)`: {re.escape(says)}"
        with pytest.raises(VerifierError, match=where) as caught:
            ObjectFile.load(compiled("missing"), programs=[program])
        found = re.search(where, str(caught.value))
        assert found
        lines = (OBJECTS / "missing.bpf.c").read_text().splitlines()
        assert lines[int(found[1]) - 1].strip() == found[2]
        assert "task" in found[2] or "PIDTYPE" in found[2]
        assert "bpf_core_field_exists" in caught.value.hint
        assert "invalid func unknown#" in caught.value.log

    def test_another_reason(self, compiled: Compiled) -> None:
        """A type that is asked for, and is not there, is not the reason for which the verifier refuses a program."""
        with pytest.raises(VerifierError, match="the verifier refused program 'asks'") as caught:
            ObjectFile.load(compiled("missing"), programs=["asks"])
        assert "no matching targets found" in caught.value.log
        assert "invalid mem access" in caught.value.log
        assert "relocate" not in str(caught.value).partition("\n")[0]

    def test_what_the_kernel_says(self, compiled: Compiled) -> None:
        """Where the kernel stops at a relocation, for it does not know the instruction, its message is in the error."""
        data = bytearray(compiled("corpus/core_enums").read_bytes())
        [program] = read(bytes(data)).programs.values()
        at = data.index(program.linked.code) + program.linked.core_relocations[0].offset
        data[at + 4] ^= 0x40
        with pytest.raises(VerifierError, match=r"line \d+ of .*: the kernel can't relocate it: unexpected insn #\d+ "):
            ObjectFile.load(data)

    def test_other_programs_load(self, compiled: Compiled) -> None:
        """A program that is left out is not in the way of the others; one that asks before it reads, loads."""
        with ObjectFile.load(compiled("missing"), programs=[]) as loaded:
            assert loaded.programs == {}
        with after_an_exec(compiled("corpus/core_flavors")) as loaded:
            assert len(loaded.maps["states"].pop_many(16)) > 0


def test_what_records_are_about(compiled: Compiled) -> None:
    """Each record of the corpus names its type, and a member or an enumerator."""
    declared = read(compiled("corpus/core_task").read_bytes())
    records = declared.programs["on_exec"].linked.core_relocations
    found = {target_of(declared.btf, record) for record in records}
    assert {("struct task_struct", "tgid"), ("struct task_struct", "comm"), ("struct mm_struct", "total_vm")} <= found
    declared = read(compiled("corpus/core_enums").read_bytes())
    records = declared.programs["enumerators"].linked.core_relocations
    assert ("enum pid_type", "PIDTYPE_TGID") in {target_of(declared.btf, record) for record in records}
    assert {record.kind for record in records} == {CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE}


def test_records_move_with_functions(compiled: Compiled) -> None:
    """Each record of a program is on an instruction of it, also where a function is in two programs."""
    for program in read(compiled("corpus/core_functions").read_bytes()).programs.values():
        linked = program.linked
        assert linked.core_relocations
        for record in linked.core_relocations:
            assert record.offset % 8 == 0 <= record.offset < len(linked.code)


@pytest.mark.parametrize("version", [(5, 16), (5, 4)])
def test_on_older_kernels(
    compiled: Compiled, no_calls: None, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    """Before Linux 5.17 a file with relocations is refused by name, with the version and the way around them."""
    monkeypatch.setattr(loader, "kernel_version", lambda: version)
    says = (
        "section 'raw_tp/sched_process_exec', program 'on_exec' has CO-RE relocations, first that of struct task_struct"
        ", .* since Linux 5.17: for an older one compile with -DBPF_NO_PRESERVE_ACCESS_INDEX"
    )
    with pytest.raises(ObjectFileError, match=says):
        ObjectFile.load(compiled("corpus/core_task"))


def test_without_relocations_older_kernels_do(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without relocations does not need Linux 5.17."""
    monkeypatch.setattr(loader, "kernel_version", lambda: (5, 4))
    with ObjectFile.load(compiled("everything")) as loaded:
        assert loaded.programs["fill"].prog_type == ProgType.BPF_PROG_TYPE_SOCKET_FILTER
        assert loaded.programs["fill"].run(bytes(ETH_HLEN + 20)).retval >= 0
