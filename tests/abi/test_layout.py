"""bpf.h against the outside: the running kernel's BTF and, where installed, the C compiler's view of <linux/bpf.h>."""

import functools
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from rawbpf.abi import constants, layout
from rawbpf.abi.door import ffi
from rawbpf.btf import reader
from rawbpf.syscall.proc import kernel_version

LAYOUT = layout.parse(files("rawbpf.abi").joinpath("bpf.h").read_text())

# Every type of the text: the union with the fields of all commands, and the structs that commands fill or read.
TYPES = {
    "bpf_attr": {f.path: f for command, fields in LAYOUT.items() if command.startswith("BPF_") for f in fields},
    **{name: {f.path: f for f in fields} for name, fields in LAYOUT.items() if name.startswith("bpf_")},
}


def c_type(name: str) -> str:
    return "union bpf_attr" if name == "bpf_attr" else layout.c_type(name)


ENUMS = (
    constants.Cmd,
    constants.MapType,
    constants.ProgType,
    constants.AttachType,
    constants.LinkType,
    constants.StatsType,
    constants.TaskFdType,
    constants.PerfEventType,
    constants.IterOrder,
)
# ProgFlag, RunFlag, AttachFlag, QueryFlag and NetfilterFlag are macros in the header: BTF does not have them.
FLAGS = (
    constants.MapFlag,
    constants.ElemFlag,
    constants.FileFlag,
    constants.ProgFlag,
    constants.RunFlag,
    constants.AttachFlag,
    constants.QueryFlag,
    constants.KprobeMultiFlag,
    constants.UprobeMultiFlag,
    constants.NetfilterFlag,
    constants.XdpFlag,
)

needs_btf = pytest.mark.skipif(not os.path.exists(reader.VMLINUX), reason="by design: this kernel has no BTF")
has_header = Path("/usr/include/linux/bpf.h").exists() and shutil.which("cc") is not None
needs_header = pytest.mark.skipif(not has_header, reason="<linux/bpf.h> or a C compiler is not installed")


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def leaves(fields: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Without the structs themselves: only what has no fields within."""
    return {path: place for path, place in fields.items() if not any(p.startswith(path + ".") for p in fields)}


def test_every_command_has_a_layout():
    """bpf.h declares the attr of every command in constants.Cmd."""
    assert {cmd.name for cmd in constants.Cmd} == {name for name in LAYOUT if name.startswith("BPF_")}


def test_sizes():
    """The union has 168 bytes, a map's info 104 and a program's 232, as Linux 6.18 has them."""
    assert ffi.sizeof("union bpf_attr") == 168
    assert ffi.sizeof("struct bpf_map_info") == 104
    assert ffi.sizeof("struct bpf_prog_info") == 232


def test_a_field_without_its_offset_is_refused():
    """The text can't lose an offset unnoticed: such a line does not parse."""
    with pytest.raises(ValueError, match="states no offset"):
        layout.parse("struct bpf_map_info {\n    uint32_t type;\n};\n")


def test_a_wrong_offset_does_not_compile(tmp_path: Path):
    """The offsets in bpf.h are compile-time assertions, not remarks."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    build_ffi = pytest.importorskip("build_ffi", reason="the build module needs setuptools and the source tree")
    if not build_ffi.ABI.exists():
        pytest.skip("the source tree is not here")
    text = files("rawbpf.abi").joinpath("bpf.h").read_text()
    for source, compiles in ((text, True), (text.replace("/*  16  4.6 ", "/*  20  4.6 "), False)):
        unit = tmp_path / "unit.c"
        unit.write_text(build_ffi.INCLUDES + source + build_ffi.assertions(source))
        result = subprocess.run(["cc", "-fsyntax-only", str(unit)], capture_output=True, text=True)
        assert (result.returncode == 0) == compiles, result.stderr


@needs_btf
@pytest.mark.real_kernel(reason="it is its BTF that is read")
@pytest.mark.parametrize("name", TYPES)
def test_fields_equal_the_running_kernels(name):
    """Every field the kernel has, we have at the same place; what we have beyond, the kernel is too old for."""
    types, ours = reader.vmlinux(), TYPES[name]
    kind = reader.Kind.UNION if c_type(name).startswith("union") else reader.Kind.STRUCT
    if all(version(field.since) > kernel_version() for field in ours.values()):
        pytest.skip(f"by design: needs Linux {max(field.since for field in ours.values())}")
    kernels = leaves(types.fields(types.find(kind, name)))
    assert {path: (ours[path].offset, ours[path].size) if path in ours else None for path in kernels} == kernels
    for path in ours.keys() - kernels.keys():
        assert version(ours[path].since) > kernel_version(), f"{path} is missing from this kernel"


@needs_btf
@pytest.mark.real_kernel(reason="it is its BTF that is read")
def test_a_perf_event_has_the_running_kernels_fields():
    """What bpf.h has of struct perf_event_attr stands where the kernel has it: the beginning, 72 bytes. The kernel's
    own bit-fields are `bits`, of which `disabled` is the first."""
    types = reader.vmlinux()
    kernels = leaves(types.fields(types.find(reader.Kind.STRUCT, "perf_event_attr")))
    ours = {field.path: (field.offset, field.size) for field in LAYOUT["perf_event_attr"]}
    bits = ours.pop("bits")
    # Since 4.17 under these names.
    assert {path: kernels[path] for path in ours} == ours
    assert kernels["disabled"][0] == bits[0]
    assert ffi.sizeof("struct perf_event_attr") == 72


@needs_btf
@pytest.mark.real_kernel(reason="it is its BTF that is read")
@pytest.mark.parametrize(
    ("enum", "name"),
    [
        (constants.Cmd, "bpf_cmd"),
        (constants.MapType, "bpf_map_type"),
        (constants.ProgType, "bpf_prog_type"),
        (constants.AttachType, "bpf_attach_type"),
        (constants.LinkType, "bpf_link_type"),
        (constants.StatsType, "bpf_stats_type"),
        (constants.TaskFdType, "bpf_task_fd_type"),
        pytest.param(constants.PerfEventType, "bpf_perf_event_type", marks=pytest.mark.linux("6.6")),
        pytest.param(constants.IterOrder, "bpf_cgroup_iter_order", marks=pytest.mark.linux("6.1")),
    ],
)
def test_enums_equal_the_running_kernels(enum, name):
    """Every enumerator of the kernel is ours with the same number; what we have beyond, the kernel is too old for."""
    types = reader.vmlinux()
    kernels = without_aliases(types.enumerators(types.find(reader.Kind.ENUM, name)))
    # It stands among the commands since 7.2, and is a flag.
    assert kernels.pop("BPF_COMMON_ATTRS", constants.BPF_COMMON_ATTRS) == constants.BPF_COMMON_ATTRS
    ours = {member.name: member.value for member in enum}
    assert {key: ours.get(key) for key in kernels} == kernels
    for key in ours.keys() - kernels.keys():
        assert version(enum[key].since) > kernel_version(), f"{key} is missing from this kernel"


@needs_btf
@pytest.mark.real_kernel(reason="it is its BTF that is read")
@pytest.mark.parametrize(
    "flags",
    [
        constants.MapFlag,
        constants.ElemFlag,
        constants.FileFlag,
        constants.KprobeMultiFlag,
        constants.UprobeMultiFlag,
    ],
)
def test_flags_equal_the_running_kernels(flags):
    """Every flag that the kernel is new enough for stands in its anonymous enums with the same value."""
    if flags is constants.KprobeMultiFlag and " register_fprobe" not in Path("/proc/kallsyms").read_text():
        pytest.skip("by design: this kernel was built without fprobes, and so without this enum")
    kernels = anonymous_enums()
    known = {name: member.value for name, member in flags.__members__.items() if known_here(member)}
    assert {name: kernels.get(name) for name in known} == known


@functools.cache
def anonymous_enums() -> dict[str, int]:
    """The enumerators of all the kernel's enums without a name."""
    types = reader.vmlinux()
    enumerators: dict[str, int] = {}
    for type_id in range(1, len(types)):
        found = types.type(type_id)
        if found.kind in (reader.Kind.ENUM, reader.Kind.ENUM64) and not found.name:
            enumerators.update(types.enumerators(found))
    return enumerators


def known_here(member) -> bool:
    return version(member.since) <= kernel_version()


def without_aliases(enumerators: dict[str, int]) -> dict[str, int]:
    """The kernel's enums without their ends (__MAX_BPF_CMD) and second names of a number.

    Of two names we have the one that is not deprecated: BPF_PROG_RUN is the younger name of BPF_PROG_TEST_RUN, which
    bpf(2), strace and bpftool print.
    """
    ours = {name for enum in ENUMS for name in enum.__members__}
    return {
        name: value
        for name, value in enumerators.items()
        if not name.startswith(("__MAX", "MAX_"))
        and not (name not in ours and any(n in ours and v == value for n, v in enumerators.items()))
    }


# The header leaves these u64 to the compiler: one for i386 puts them 4 bytes lower, where no 64-bit kernel looks.
UNALIGNED = {f"link_create.{path}.expected_revision" for path in ("tcx", "netkit", "cgroup")} | {
    "link_create.tracing.cookie"
}


@needs_header
def test_layout_and_constants_equal_the_installed_header(tmp_path: Path):
    """The C compiler places every field of <linux/bpf.h> where bpf.h says, and gives every constant the same value.

    The header may be older or newer than bpf.h: what only bpf.h has is left out, and must not be most of it.
    """
    header = Path("/usr/include/linux/bpf.h").read_text()
    checks = []
    for name, fields in TYPES.items():
        owner = c_type(name)
        for path, field in fields.items():
            # C has no offset of a bit-field.
            if field.is_bits:
                continue
            if path not in UNALIGNED or ffi.sizeof("void *") == 8:
                checks.append((f"offsetof({owner}, {path})", field.offset))
            checks.append((f"sizeof((({owner} *)0)->{path})", field.size))
    for enum in (*ENUMS, *FLAGS):
        checks += [(name, member.value) for name, member in enum.__members__.items()]
    absent = set(undeclared(checks, tmp_path))
    present = [(expression, value) for expression, value in checks if expression not in absent]
    lines = [f'_Static_assert({expression} == {value}, "{expression}");' for expression, value in present]
    result = compile_with_header(lines, tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(present) > len(checks) / 2
    for name in re.findall(r"^\s(BPF_MAP_[A-Z_]+|BPF_OBJ_[A-Z_]+),", header, re.MULTILINE):
        assert name in LAYOUT or name in constants.MapType.__members__ or "DEPRECATED" in name, name


def undeclared(checks: list[tuple[str, int]], tmp_path: Path) -> list[str]:
    """The expressions this header is too old for, found by the line numbers of the compiler's errors."""
    lines = [f"enum {{ check_{i} = {expression} }};" for i, (expression, _) in enumerate(checks)]
    result = compile_with_header(lines, tmp_path)
    wrong = {int(number) for number in re.findall(r"unit\.c:(\d+):\d+: error", result.stderr)}
    return [checks[number - 4][0] for number in wrong]


def compile_with_header(lines: list[str], tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    unit = tmp_path / "unit.c"
    unit.write_text(
        "\n".join(["#include <stddef.h>", "#include <linux/bpf.h>", "#include <linux/if_link.h>", *lines, ""])
    )
    return subprocess.run(
        ["cc", "-fsyntax-only", "-fmax-errors=0", str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
