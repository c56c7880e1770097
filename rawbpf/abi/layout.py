"""The layout of the bpf(2) ABI, read from bpf.h: which field stands at which byte, and since when.

bpf.h says both in the comment behind each field; parse() turns that text into a table. build_ffi.py runs
this file on its own, before the package can be imported, to turn the table into compile-time assertions.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SIZES = {"char": 1, "int32_t": 4, "uint32_t": 4, "uint64_t": 8}

_TYPE = re.compile(r"(?:union|struct) (?P<tag>\w+) \{")
_OPEN = re.compile(r"(?:union|struct)(?: \w+)? \{(?: +/\* (?P<commands>[A-Z0-9_ ]+) \*/)?")
_CLOSE = re.compile(r"\}(?: (?P<name>\w+))?;")
_FIELD = re.compile(
    r"(?P<ctype>\w+) +(?P<name>\w+)(?:\[(?P<count>\d+)\])?; +/\* +(?P<offset>\d+)  (?P<since>[\d.]+) \*/"
)
_PADDING = "uint32_t :32;"

# What BPF_OBJ_GET_INFO_BY_FD fills, and what perf_event_open(2) is told.
_STRUCTS = ("bpf_map_info", "bpf_btf_info", "bpf_link_info", "perf_event_attr")


class Field(NamedTuple):
    """One field: `path` is how C reaches it (`batch.count`), offset and size are in bytes."""

    path: str
    ctype: str
    offset: int
    size: int
    since: str


def version(since: str) -> tuple[int, ...]:
    """A version as numbers that compare: (5, 10) for "5.10"."""
    return tuple(map(int, since.split(".")))


def load() -> dict[str, list[Field]]:
    """The layout in the bpf.h that rawbpf was built from."""
    return parse(Path(__file__).with_name("bpf.h").read_text())


def parse(text: str) -> dict[str, list[Field]]:
    """The fields of each command of union bpf_attr and of the other structs, in the order of the text.

    Keys are command names ("BPF_MAP_CREATE") and struct names ("bpf_map_info"). Raises ValueError on a line
    inside a type that is neither a field with its offset and version nor padding.
    """
    table: dict[str, list[Field]] = {}
    lines = (line.strip() for line in text.splitlines())
    for line in lines:
        if not (match := _TYPE.fullmatch(line)):
            continue
        if match["tag"] in _STRUCTS:
            table[match["tag"]] = _block(lines)
        elif match["tag"] == "bpf_attr":
            for member in iter(lambda: next(lines), "};"):
                if match := _OPEN.fullmatch(member):
                    table.update(dict.fromkeys(match["commands"].split(), _block(lines)))
    return table


def _block(lines: Iterator[str]) -> list[Field]:
    """The fields up to the closing brace, their paths beginning with the name behind that brace, if any."""
    fields: list[Field] = []
    for line in lines:
        if close := _CLOSE.fullmatch(line):
            name = close["name"]
            return [f._replace(path=f"{name}.{f.path}") for f in fields] if name else fields
        if _OPEN.fullmatch(line):
            fields += _block(lines)
        elif match := _FIELD.fullmatch(line):
            size = _SIZES[match["ctype"]] * int(match["count"] or 1)
            fields.append(Field(match["name"], match["ctype"], int(match["offset"]), size, match["since"]))
        elif line not in ("", _PADDING):
            raise ValueError(f"bpf.h: {line!r} states no offset and version")
    raise ValueError("bpf.h: a type has no end")
