"""strace as the referee of rawbpf.trace(): the same program, the same calls, and each line says the same."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rawbpf.abi import Cmd, constants, layout

PROGRAM = Path(__file__).with_name("every_command.py")

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.real_kernel(reason="strace sees system calls"),
    pytest.mark.creates,
]

# Fields that an installed strace may be too old for.
NEWER_FIELDS = {
    "path_fd": "6.5",
    "value_type_btf_obj_fd": "6.9",
    "map_token_fd": "6.9",
    "excl_prog_hash": "6.18",
    "excl_prog_hash_size": "6.18",
    "core_relo_cnt": "5.17",
    "core_relos": "5.17",
    "core_relo_rec_size": "5.17",
    "log_true_size": "6.4",
    "prog_token_fd": "6.9",
    "fd_array_cnt": "6.14",
    "signature": "6.18",
    "signature_size": "6.18",
    "keyring_id": "6.18",
    "btf_log_true_size": "6.4",
    "btf_flags": "6.9",
    "btf_token_fd": "6.9",
    "fd_by_id_token_fd": "6.15",
    "cookie": "5.19",
    "target_btf_id": "5.19",
    "relative_fd": "6.6",
    "relative_id": "6.6",
    "expected_revision": "6.6",
    "prog_attach_flags": "6.0",
    "link_ids": "6.6",
    "link_attach_flags": "6.6",
    "revision": "6.6",
    "map_extra": "5.16",
    "btf_vmlinux_id": "6.9",
    "hash": "6.18",
    "hash_size": "6.18",
    "attach_btf_obj_id": "6.0",
    "attach_btf_id": "6.0",
    **{f"{name}": "6.4" for name in ("pf", "hooknum", "priority", "flags")},
    **dict.fromkeys(("path", "offsets", "ref_ctr_offsets", "cnt", "pid"), "6.6"),
    "cookies": "5.18",
}

# These an older strace prints though the command does not read them, or leaves out though it does: it takes the struct
# for that of the neighbours. Also values that it shows as they were before the call.
ITS_WAY = {
    "BPF_PROG_GET_FD_BY_ID": {"next_id", "open_flags"},
    "BPF_MAP_GET_FD_BY_ID": {"next_id"},
    "BPF_BTF_GET_FD_BY_ID": {"open_flags"},
    "BPF_PROG_DETACH": {"attach_bpf_fd", "attach_flags", "replace_bpf_fd"},
    **{f"BPF_{kind}_GET_NEXT_ID": {"open_flags"} for kind in ("PROG", "MAP", "BTF", "LINK")},
    "BPF_PROG_TEST_RUN": {"retval", "duration", "data_size_out", "ctx_size_out"},
    # It takes the length in bytes for a number of elements.
    "BPF_LINK_CREATE": {"iter_info"},
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The lines of one run, ours and strace's."""
    folder = tmp_path_factory.mktemp("strace")
    ours, theirs = folder / "ours", folder / "theirs"
    command = ["strace", "-v", "-e", "trace=bpf", "-o", theirs, sys.executable, PROGRAM, folder, ours]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAWBPF_TRACE": "0"})
    assert result.returncode == 0, result.stderr
    return ours.read_text().splitlines(), [line for line in theirs.read_text().splitlines() if line.startswith("bpf(")]


def test_every_line_is_straces(lines):
    """Command, fields, values, size and result are strace's, for every call; fields newer than it aside."""
    ours, theirs = lines
    assert len(ours) == len(theirs) > 100
    found = [f"{different}\n{mine}\n{its}" for mine, its, different in compared(ours, theirs) if different]
    assert found == [], "\n\n".join(found)


def test_every_command_is_among_them(lines):
    """The program makes each command of enum bpf_cmd at least once."""
    ours, _ = lines
    assert {parse(line)[0] for line in ours} >= {cmd.name for cmd in Cmd}


def test_the_newer_fields_are_new():
    """Each field that strace may lack is in bpf.h, and has not been there for longer than it is excused for."""
    known: dict[str, list[str]] = {}
    for fields in layout.load().values():
        for field in fields:
            known.setdefault(field.path.rpartition(".")[2], []).append(field.since)
    for name, since in NEWER_FIELDS.items():
        assert since in known[name], name


# A line taken apart


def parse(line: str) -> tuple[str, Any, str, str]:
    """Command, attr, size and result: the attr as a dict of dicts, or as text where the address alone is shown."""
    match = re.fullmatch(r"bpf\((\w+)(?: /\* BPF_\?\?\? \*/)?, (.*), (\d+)\) += (.*)", line)
    assert match, line
    command, attr, size, result = match.groups()
    if command.startswith("0x"):
        command = Cmd(int(command, 16)).name
    return command, _value(attr), size, result


def _value(text: str) -> Any:
    if not text.startswith("{") or not text.endswith("}"):
        return text
    fields: dict[str, Any] = {}
    for part in _parts(text[1:-1]):
        name, _, value = part.partition("=")
        if re.fullmatch(r"\w+", name):
            fields[name] = _value(value)
    return fields


def _parts(text: str) -> list[str]:
    """What stands between commas, those within braces and quotes left alone."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, letter in enumerate(text):
        if letter == '"' and text[at - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter in "{[(") - (letter in "}])")
            if letter == "," and depth == 0:
                parts.append(text[start:at])
                start = at + 2
    return [*parts, text[start:]]


def compared(ours: list[str], theirs: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    for mine, its in zip(ours, theirs, strict=True):
        yield mine, its, differences(parse(mine), parse(its))


def differences(mine: tuple[str, Any, str, str], its: tuple[str, Any, str, str]) -> list[str]:
    """Where the two lines contradict each other."""
    assert mine[0] == its[0]
    if isinstance(its[1], str) and its[1].startswith("0x"):
        attrs = []  # a command that this strace does not decode
    else:
        attrs = list(_differences(mine[1], its[1], ITS_WAY.get(mine[0], set())))
    return attrs + [f"{a} {b}" for a, b in ((mine[2], its[2]), (mine[3], its[3])) if a != b]


# What an older strace calls a field that counts for some attach types only.
OLDER_NAMES = {"target_ifindex": "target_fd", "map_fd": "prog_fd"}


def _differences(mine: Any, its: Any, ignored: "set[str]") -> Iterator[str]:
    if not isinstance(mine, dict) or not isinstance(its, dict):
        if not _same(str(mine), str(its)):
            yield f"{mine} {its}"
        return
    mine = {name if name in its else OLDER_NAMES.get(name, name): value for name, value in mine.items()}
    # What belongs to an attach type that it does not know it does not show; of this one 7.2 knows the name alone.
    knows = not re.search(r"\?\?\?|BPF_TRACE_KPROBE_SESSION", str(its.get("attach_type")))
    for name in (mine.keys() | its.keys()) - ignored - {"extra_data"}:
        if name not in its:
            inner = mine[name].keys() if isinstance(mine[name], dict) else {name}
            if knows and not inner <= NEWER_FIELDS.keys():
                yield f"only ours: {name}"
        elif name not in mine:
            yield f"only strace's: {name}"
        elif mine[name] != its[name] and not (name == "target_fd" and mine[name].startswith("if_nametoindex")):
            yield from _differences(mine[name], its[name], ignored)


def _same(mine: str, its: str) -> bool:
    return (
        mine == its
        or _without_addresses(mine) == _without_addresses(its)
        # Instructions are not decoded here, nor links there.
        or (its.startswith(("[{code=", "[]")) and mine.startswith("0x"))
        or (mine.startswith(("{'type': 'BPF_LINK_TYPE_", "{'btf': ")) and its.startswith("0x"))
        # Constants that strace has only a number for.
        or ("0x" in its and _number(mine) == _number(its.split()[0]))
        # A result is shown as it is after the call; strace before 6.18 has what stood there before, too.
        or its.endswith(f" => {mine}")
        # 7.2 has a name for the number, shows a buffer of a call that failed, and takes a pointer for a number.
        or (mine, its) in (("-100", "AT_FDCWD"), ("NULL", "0"))
        or (mine.startswith("0x") and re.fullmatch(r'"(\\0)+"', its))
    )


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)


def _number(words: str) -> int | None:
    """The number of a constant, or of flags; None for other text."""
    enums = [each for each in vars(constants).values() if isinstance(each, type) and hasattr(each, "__members__")]
    known = {name: int(member) for each in enums for name, member in each.__members__.items()}
    found = [int(word, 16) if word.startswith("0x") else known.get(word) for word in words.split("|")]
    return None if None in found else sum(found)
