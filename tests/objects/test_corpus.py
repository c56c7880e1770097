"""Object files after what real programs need (tests/objects/corpus), loaded by bpftool, through libbpf, and by rawbpf:
what libbpf loads here, rawbpf loads, and the kernel has the same instructions afterwards.

`python -m tests.objects.side_by_side FILE...` does the same with any files.
"""

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rawbpf.btf import ext
from rawbpf.btf.reader import Btf
from rawbpf.objects import elf
from rawbpf.objects.core_relocations import CoreKind
from rawbpf.objects.program_sections import kind_of_section
from rawbpf.syscall.proc import kernel_version
from tests.conftest import OBJECTS, TOOLS_REQUIRED, needs_clang, version
from tests.objects.side_by_side import Outcome, compare

Compiled = Callable[[str], Path]

CORPUS = sorted(path.name.removesuffix(".bpf.c") for path in (OBJECTS / "corpus").glob("*.bpf.c"))

# What each needs that is not in Linux 5.10. For relocations of CO-RE rawbpf needs 5.17; libbpf makes them itself.
SINCE = {
    **dict.fromkeys((name for name in CORPUS if name.startswith("core_")), "5.17"),
    "iterators": "5.17",
    "system_calls": "5.17",
    "tracepoints": "5.17",
    "kernel_variables": "5.17",
    "storage": "5.15",  # timers, and before that BPF_MAP_TYPE_TASK_STORAGE
    "tables": "5.16",  # BPF_MAP_TYPE_BLOOM_FILTER
    "xdp_variants": "5.18",  # BPF_F_XDP_HAS_FRAGS
    "rings": "6.1",  # BPF_MAP_TYPE_USER_RINGBUF
    "kernel_functions": "6.2",  # bpf_rcu_read_lock()
    "probes": "6.9",  # as commands
    "commands": "6.9",  # a queue for a program that may sleep
}
# What a kernel may be built without: its configuration in a file, the addresses of its variables, fentry, fprobes, LSM.
BUILT_WITHOUT = {"kconfig", "kernel_variables", "functions_of_the_kernel", "probes", "security"}
# What reads the registers of x86-64 by their names.
FOR_X86 = {"system_calls"}

pytestmark = [
    pytest.mark.admin,
    pytest.mark.real_kernel(reason="programs run in the kernel alone"),
    pytest.mark.skipif(shutil.which("bpftool") is None and not TOOLS_REQUIRED, reason="bpftool is not installed"),
]


def needs_bpftool() -> None:
    """Skips where bpftool is not, and is not asked for."""
    if shutil.which("bpftool") is None and not TOOLS_REQUIRED:
        pytest.skip("bpftool is not installed")


outcomes: dict[str, Outcome] = {}


def test_the_table_is_of_the_corpus() -> None:
    """Each name of the tables is an object's."""
    assert len(CORPUS) >= 25
    assert {*SINCE, *BUILT_WITHOUT, *FOR_X86} <= set(CORPUS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.linux("5.17")) if SINCE.get(name) == "5.17" else name for name in CORPUS],
)
def test_same_as_libbpf(compiled: Compiled, bpf_folder: str, name: str) -> None:
    """What libbpf loads here, rawbpf loads, with the same instructions."""
    outcome = outcomes[name] = compare(compiled(f"corpus/{name}"), bpf_folder)
    assert outcome.verdict in ("same", "both refuse"), outcome


@pytest.mark.jit
def test_those_load_that_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    """What the table says of this kernel loads, and no other; where it is one that not every kernel is built with, it
    may be refused."""
    here = set(CORPUS) - (FOR_X86 if os.uname().machine != "x86_64" else set())
    expected = {name for name in here if kernel_version() >= version(SINCE.get(name, "5.10"))}
    if not expected <= outcomes.keys():
        pytest.skip("by design: the whole file must run")
    loaded = {name for name, outcome in outcomes.items() if not outcome.rawbpf}
    with capsys.disabled():
        print(f"\n{len(loaded)} of {len(CORPUS)} objects load; libbpf refuses the others as well")
    refused, unexpected = expected - BUILT_WITHOUT - loaded, loaded - expected
    assert (refused, unexpected) == (set(), set())


def test_all_kinds_of_relocations(compiled: Compiled) -> None:
    """The corpus has each kind of CO-RE relocation that this clang can write: all but TYPE_MATCHES (LLVM 15)."""
    found = set()
    for name in CORPUS:
        file = elf.read(compiled(f"corpus/{name}").read_bytes())
        sections = [file.section(".BTF.ext"), file.section(".BTF")]
        records = ext.read(sections[0].data, Btf(sections[1].data)) if sections[0] and sections[1] else None
        found |= {each.kind for part in records.core_relocations.values() for each in part} if records else set()
    assert found >= set(CoreKind) - {CoreKind.TYPE_MATCHES}


@pytest.mark.linux("6.0")
def test_type_matches(compiled: Compiled, tmp_path: Path, bpf_folder: str) -> None:
    """TYPE_MATCHES, written over each TYPE_EXISTS, gives what libbpf gives as well. Linux 6.0."""
    data = bytearray(compiled("corpus/core_types").read_bytes())
    file = elf.read(bytes(data))
    section, types = file.section(".BTF.ext"), file.section(".BTF")
    assert section and types
    changed = 0
    for record in ext.read(section.data, Btf(types.data)).core_relocations["raw_tp/sched_process_exec"]:
        if record.kind == CoreKind.TYPE_EXISTS:
            at = data.index(struct.pack("=IIII", *record))
            data[at + 12 : at + 16] = struct.pack("=I", CoreKind.TYPE_MATCHES)
            changed += 1
    path = tmp_path / "matches.o"
    path.write_bytes(data)
    assert changed == 4
    assert compare(path, bpf_folder).verdict == "same"


# Section names


def libbpf_sections(tmp_path: Path) -> list[str]:
    """The names that libbpf says it knows, when it is given one that it does not; "+" is for those with a target."""
    needs_clang()
    source, target = tmp_path / "a.c", tmp_path / "a.o"
    source.write_text('__attribute__((section("nonsense"))) int program(void *context) { return 0; }')
    subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", source, "-o", target], check=True)
    done = subprocess.run(["bpftool", "prog", "load", target, tmp_path / "pin"], capture_output=True, text=True)
    listed = re.search(r"supported section\(type\) names are: (.*)", done.stderr)
    assert listed
    return listed[1].split()


def test_every_section_of_libbpf(tmp_path: Path) -> None:
    """Each name of a section that libbpf takes is known, with and without target; struct_ops and freplace refused."""
    names = libbpf_sections(tmp_path)
    assert len(names) >= 80
    for name in names:
        plain = name.removesuffix("+")
        if plain.startswith(("struct_ops", "freplace")):
            with pytest.raises(ValueError, match="not supported|another program"):
                kind_of_section(f"{plain}/target")
            continue
        kind = kind_of_section(f"{plain}/target" if name.endswith("+") else plain)
        assert kind.attach_to == ("target" if name.endswith("+") else "")
        assert kind.autoload
        assert not kind_of_section(f"?{plain}/target" if name.endswith("+") else f"?{plain}").autoload


def test_types_of_sections(compiled: Compiled, bpf_folder: str, tmp_path: Path) -> None:
    """For each section name the program type and the attach type are libbpf's: strace shows what it asks the kernel."""
    if shutil.which("strace") is None and not TOOLS_REQUIRED:
        pytest.skip("strace is not installed")
    names = [name for name in libbpf_sections(tmp_path) if not name.startswith(("struct_ops", "freplace"))]
    for number, name in enumerate(names):
        section = name.removesuffix("+") + _TARGETS.get(name, "/bpf" if name.endswith("+") else "")
        (tmp_path / "b.c").write_text(f'__attribute__((section("{section}"))) int program(void *c) {{ return 0; }}')
        target = tmp_path / f"{number}.o"
        subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", tmp_path / "b.c", "-o", target], check=True)
        asked = _asked(target, f"{bpf_folder}/{number}")
        kind = kind_of_section(section)
        assert asked["prog_type"] == kind.prog_type, section
        # libbpf since 1.3 attaches usdt/ by a link of many uprobes where the kernel has those.
        if not section.startswith("usdt"):
            assert asked["expected_attach_type"] == (kind.attach_type or 0), section
        assert asked["prog_flags"] == kind.prog_flags, section


# What fits where nothing called bpf can be attached to.
_TARGETS = {
    "tp_btf+": "/sched_process_exec",
    "tp_btf.s+": "/sys_enter",
    "iter+": "/task",
    "iter.s+": "/task",
    **{
        f"{kind}{sleepable}+": "/security_file_open"
        for kind in ("fentry", "fexit", "fmod_ret", "fsession")
        for sleepable in ("", ".s")
    },
}


def _asked(target: Path, pin: str) -> dict[str, int]:
    """The numbers of the last BPF_PROG_LOAD that bpftool makes for the file."""
    command = ["strace", "-X", "raw", "-e", "bpf", "-s", "0", "bpftool", "prog", "load", target, pin]
    done = subprocess.run(command, capture_output=True, text=True)
    loads = [line for line in done.stderr.splitlines() if "prog_name=" in line and '"program"' in line]
    fields = dict(re.findall(r"(prog_type|prog_flags|expected_attach_type)=(0x[0-9a-f]+|\d+)", loads[-1]))
    return {name: int(number, 0) for name, number in fields.items()}
