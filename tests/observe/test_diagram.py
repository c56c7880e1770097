"""rawbpf.explain(): an attr as a table of offsets, sizes, fields, versions and values."""

import re
import sys

import pytest

import rawbpf
from rawbpf import Cmd, MapFlag, bpf_attr
from rawbpf.abi import AttachType, layout
from rawbpf.abi.door import ffi
from rawbpf.observe import pages
from rawbpf.observe.attr_fields import struct_of
from rawbpf.observe.field_rules import RULES, errnos_in
from rawbpf.syscall import meanings
from rawbpf.syscall.errors import errno_name

pytestmark = pytest.mark.alike


def rows(text: str) -> list[tuple[int, int, str]]:
    """The (offset, size, field) of a drawing's rows."""
    found = re.findall(r"^ +(\d+) +(\d+) (\S+(?: \S+)*)", text, re.MULTILINE)
    return [(int(offset), int(size), label.split()[0]) for offset, size, label in found]


def test_the_layout_of_a_command():
    """Without an attr: every field with its offset, size and version, and the padding; then what it means."""
    assert rawbpf.explain(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM).partition("\n\n")[0] == "\n".join(
        (
            "BPF_MAP_LOOKUP_AND_DELETE_ELEM (21), Linux 4.20: 32 bytes",
            "offset size field                     since",
            "     0    4 map_fd                    4.20",
            "     4    4 (padding)",
            "     8    8 key                       4.20",
            "    16    8 value                     4.20",
            "    24    8 flags                     5.14",
        )
    )


@pytest.mark.parametrize("cmd", list(Cmd))
def test_what_a_command_means(cmd):
    """Below the layout: a rule for each field, the description with versions and privileges, and the errnos: those with
    a meaning of their own, and all that the rules and the description name."""
    page = rawbpf.explain(cmd)
    assert all(len(line) <= 80 for line in page.splitlines())
    struct = struct_of(cmd)
    assert struct is not None
    assert set(RULES[cmd]) == {field.name for field in struct.fields}
    words = " ".join(page.split())
    assert f"Linux {cmd.since}" in words.partition("():")[2]
    assert re.search(r"Needs |CAP_|capability", words.partition("():")[2])
    assert f"rawbpf.syscall.{cmd.name[4:].lower()}():" in page
    assert "In the kernel" in " ".join(page.split())
    listed = page.rpartition("Errors:")[2]
    for command, number in meanings.BY_COMMAND:
        if command == cmd:
            assert f"  {errno_name(number)} " in listed
    for number in errnos_in(page.rpartition("Errors:")[0]):
        assert f"  {errno_name(number)} " in listed, errno_name(number)
    assert "{" not in listed


@pytest.mark.parametrize(("word", "cmd"), list(pages.WORDS.items()))
def test_words_lead_to_commands(word, cmd):
    """What one does to a queue leads to the command that does it; of a push the errors are those of queues."""
    assert rawbpf.explain(word).startswith(f"{cmd.name} ({int(cmd)})")
    listed = " ".join(rawbpf.explain("push").rpartition("Errors:")[2].split())
    assert "pop first, or push with BPF_EXIST" in listed
    assert "delete an element" not in listed
    assert "key" not in listed


def test_an_errno():
    """An errno's name gives its number, and what it means for which command."""
    text = rawbpf.explain("E2BIG")
    assert text.startswith("E2BIG (7): Argument list too long")
    assert "BPF_MAP_UPDATE_ELEM" in text and "pop first" in text and "BPF_LINK_CREATE" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "insn_cnt    from 1 to 1,000,000" in text
    assert "maps with keys" not in text.partition("BPF_LINK_CREATE")[2]
    assert rawbpf.explain("enotsupp").startswith("ENOTSUPP (524)")
    with pytest.raises(ValueError, match="no bpf command 'ENONSENSE'"):
        rawbpf.explain("ENONSENSE")


def test_the_values_of_an_attr():
    """With an attr: its bytes, and what they mean."""
    attr = bpf_attr(map_type=23, value_size=4, max_entries=3, map_flags=MapFlag.BPF_F_RDONLY, map_name=b"sample_stack")
    assert rawbpf.explain(Cmd.BPF_MAP_CREATE, attr, 44) == "\n".join(
        (
            "BPF_MAP_CREATE (0), Linux 3.18: 92 bytes, 44 sent",
            "offset size field                     since bytes            value",
            "     0    4 map_type                  3.18  17000000         BPF_MAP_TYPE_STACK",
            "     4    4 key_size                  3.18  00000000         0",
            "     8    4 value_size                3.18  04000000         4",
            "    12    4 max_entries               3.18  03000000         3",
            "    16    4 map_flags                 4.6   08000000         BPF_F_RDONLY",
            "    20    4 inner_map_fd              4.12  00000000         0",
            "    24    4 numa_node                 4.14  00000000         0",
            '    28   16 map_name                  4.15  73616d706c655f73 "sample_stack"',
            "                                            7461636b00000000",
            "    44   48 not sent, hence 0:              map_ifindex .. excl_prog_hash_size",
        )
    )


@pytest.mark.parametrize("cmd", [0, Cmd.BPF_MAP_CREATE, "BPF_MAP_CREATE", "map_create", "map-create"])
def test_names_of_a_command(cmd):
    """A command is its number, its constant, or its name."""
    assert rawbpf.explain(cmd).startswith("BPF_MAP_CREATE (0)")


@pytest.mark.parametrize("cmd", [9999, -1, "", "map_destroy"])
def test_what_is_no_command(cmd):
    """A ValueError names it."""
    with pytest.raises(ValueError, match=f"no bpf command {cmd!r}"):
        rawbpf.explain(cmd)


def test_bytes_that_are_no_field_are_shown():
    """Bytes behind the last field, and in the padding, appear with their values."""
    text = rawbpf.explain("map_freeze", (3).to_bytes(4, sys.byteorder) + b"\xab\xcd")
    assert rows(text) == [(0, 4, "map_fd"), (4, 2, "(no")]
    assert "abcd" in text
    assert "deadbeef" in rawbpf.explain("map_update_elem", bytes.fromhex("03000000deadbeef"))


def test_a_long_tail_of_zeros_is_one_row():
    """Zeros up to a page do not fill the screen."""
    text = rawbpf.explain("map_freeze", bytes(4096))
    assert re.search(r"^ +4 4092 \(no field\) +zero$", text, re.MULTILINE)


def test_a_field_that_is_cut():
    """Half a field: the bytes that are there, dots for those that are not."""
    assert re.search(r"3412\.\.\.\. +4660$", rawbpf.explain("map_freeze", b"\x34\x12"), re.MULTILINE)


def test_addresses_are_followed_in_a_live_attr_only():
    """A path is text in an attr of this process; in mere bytes it is an address of who knows whom."""
    path = ffi.new("char[]", b"/sys/fs/bpf/events")
    attr = bpf_attr(pathname=int(ffi.cast("uintptr_t", path)))
    assert '"/sys/fs/bpf/events"' in rawbpf.explain("obj_get", attr, 20)
    assert "events" not in rawbpf.explain("obj_get", bytes(ffi.buffer(attr)), 20)


def test_no_bytes_at_all():
    """An empty attr has nothing but what is not sent."""
    assert rows(rawbpf.explain("map_freeze", b"")) == [(0, 4, "not")]


@pytest.mark.parametrize("cmd", list(Cmd))
def test_every_command(cmd):
    """Each is drawn with all its fields within 80 columns, and no byte is left out."""
    data = bytes(range(1, 201))
    text = rawbpf.explain(cmd, data)
    assert all(len(line) <= 80 for line in text.splitlines())
    struct = struct_of(cmd, data)
    assert struct is not None
    assert {f.name for f in struct.fields} <= {label for _, _, label in rows(text)}
    covered = {byte for offset, size, _ in rows(text) for byte in range(offset, offset + size)}
    assert covered == set(range(len(data)))


@pytest.mark.parametrize("cmd", list(Cmd))
def test_the_fields_are_the_layouts(cmd):
    """Each field of a command stands in bpf.h, where the drawing says."""
    struct = struct_of(cmd)
    assert struct is not None
    places = {(f.path, f.offset, f.size) for f in layout.load()[cmd.name]}
    prefix = f"{struct.member}." if struct.member else ""
    assert {(prefix + f.name, f.offset, f.size) for f in struct.fields} <= places


@pytest.mark.parametrize(
    ("attach_type", "fields"),
    [
        (AttachType.BPF_TRACE_FENTRY, ["tracing.target_btf_id", "tracing.cookie"]),
        (AttachType.BPF_TRACE_FENTRY_MULTI, ["tracing_multi.ids", "tracing_multi.cookies", "tracing_multi.cnt"]),
        (AttachType.BPF_TRACE_ITER, ["iter_info", "iter_info_len"]),
        (AttachType.BPF_TCX_INGRESS, ["tcx.relative_fd", "tcx.expected_revision"]),
        (AttachType.BPF_CGROUP_INET_INGRESS, []),
        (AttachType.BPF_XDP, []),
    ],
)
def test_the_union_of_link_create(attach_type, fields):
    """With an attr its attach type says which members of the union are drawn, without one all are."""
    attr = bpf_attr(link_create={"attach_type": attach_type})
    drawn = [label for _, _, label in rows(rawbpf.explain("link_create", attr)) if label[0] != "("]
    target = "target_ifindex" if attach_type.name.startswith(("BPF_XDP", "BPF_TCX_")) else "target_fd"
    assert drawn == ["prog_fd", target, "attach_type", "flags", *fields]
    assert set(fields) < {label for _, _, label in rows(rawbpf.explain("link_create"))}


def test_the_drawing_matches_what_cffi_says():
    """A second opinion on the offsets of MAP_CREATE: the compiler's."""
    text = rawbpf.explain("map_create")
    for offset, _, label in rows(text):
        assert ffi.offsetof("union bpf_attr", label) == offset
