"""The layout of the bpf(2) ABI, read from bpf.h: where each field stands, since when, and what kind of value it has.

bpf.h says all of it in the comment behind each field, and explains there how to read it; parse() turns that text into a
table. build_ffi.py runs this file on its own, before the package can be imported, to turn the table into compile-time
assertions.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

_SIZES = {"char": 1, "uint8_t": 1, "int32_t": 4, "uint32_t": 4, "uint64_t": 8}

_TYPE = re.compile(r"(?:union|struct) (?P<tag>(?:bpf|perf_event)_\w+) \{")
_OPEN = re.compile(r"(?:union|struct)(?: \w+)? \{ *(?:/\* (?P<comment>.+) \*/)?")
_CLOSE = re.compile(r"\}(?: (?P<name>\w+))?;")
_COMMENT = r"/\* +(?P<offset>\d+)? +(?P<since>\d+\.[\d.]+)(?: +(?P<meaning>.+))? \*/"
_FIELD = re.compile(rf"(?P<ctype>\w+) +(?P<name>\w+)(?:\[(?P<count>\d+)\]|(?P<bits>:\d+))?; +{_COMMENT}")
_MORE = re.compile(_COMMENT)
_PADDING = "uint32_t :32;"


class Condition(NamedTuple):
    """The field counts only if the field `path` has one of these values or flags; without names, if it is not 0. A
    name may end with *."""

    path: str
    names: tuple[str, ...]


class Field(NamedTuple):
    """One field: `path` is how C reaches it (`batch.count`), offset and size are in bytes.

    `kind` is the kind of its value, a word that attr_fields.py explains; `counted_by` the field that says how many of
    them there are at the address; `reads` and `writes` whether the kernel does. `commands` are those that the field is
    for, if not all that read its struct. Of bit-fields C gives no offset.
    """

    path: str
    ctype: str
    offset: int
    size: int
    since: str
    kind: str
    counted_by: str = ""
    reads: bool = True
    writes: bool = False
    conditions: tuple[Condition, ...] = ()
    commands: tuple[str, ...] = ()
    is_bits: bool = False

    @property
    def name(self) -> str:
        """What it is called where only its own struct is looked at."""
        return self.path

    @property
    def end(self) -> int:
        return self.offset + self.size


def version(since: str) -> tuple[int, ...]:
    """A version as numbers that compare: (5, 10) for "5.10"."""
    return tuple(map(int, since.split(".")))


def load() -> dict[str, list[Field]]:
    """The layout in the bpf.h that rawbpf was built from."""
    return parse(Path(__file__).with_name("bpf.h").read_text())


def parse(text: str) -> dict[str, list[Field]]:
    """The fields of each command of union bpf_attr and of the other types, in the order of the text.

    Keys are command names ("BPF_MAP_CREATE") and the names of types ("bpf_map_info"). Raises ValueError on a line
    inside a type that is neither a field with its comment nor padding.
    """
    table: dict[str, list[Field]] = {}
    lines = (line.strip() for line in text.splitlines())
    for line in lines:
        if not (match := _TYPE.fullmatch(line)):
            continue
        if match["tag"] != "bpf_attr":
            table[match["tag"]] = _block(lines)
            continue
        for member in iter(lambda: next(lines), "};"):
            if match := _OPEN.fullmatch(member):
                fields = _block(lines)
                for command in match["comment"].split():
                    table[command] = [field for field in fields if _is_for(field, command)]
    return table


def c_type(owner: str) -> str:
    """The C type that a key of parse()'s table is about: "union bpf_attr" for a command."""
    if owner.startswith("BPF_"):
        return "union bpf_attr"
    return f"union {owner}" if owner == "bpf_iter_link_info" else f"struct {owner}"


def _is_for(field: Field, command: str) -> bool:
    return not field.commands or any(fnmatchcase(command, pattern) for pattern in field.commands)


def _block(lines: Iterator[str]) -> list[Field]:
    """The fields up to the closing brace, their paths beginning with the name behind that brace, if any."""
    fields: list[Field] = []
    for line in lines:
        if close := _CLOSE.fullmatch(line):
            return _named(fields, close["name"])
        if opened := _OPEN.fullmatch(line):
            conditions = _conditions((opened["comment"] or "").split(", "))
            fields += [field._replace(conditions=(*field.conditions, *conditions)) for field in _block(lines)]
        elif match := _FIELD.fullmatch(line):
            fields.append(_field(match))
        elif match := _MORE.fullmatch(line):
            last = fields[-1]
            fields.append(
                _with_meaning(last._replace(since=match["since"], conditions=(), commands=()), match["meaning"])
            )
        elif line not in ("", _PADDING) and not line.startswith("/* "):
            raise ValueError(f"bpf.h: {line!r} states no offset, version and kind")
    raise ValueError("bpf.h: a type has no end")


def _field(match: "re.Match[str]") -> Field:
    size = _SIZES[match["ctype"]] * int(match["count"] or 1)
    field = Field(match["name"], match["ctype"], int(match["offset"]), size, match["since"], "")
    return _with_meaning(field._replace(is_bits=bool(match["bits"])), match["meaning"] or "number")


def _with_meaning(field: Field, text: str) -> Field:
    """What the comment says beside the place: the kind, who reads and writes it, when it counts, for which commands."""
    text, _, commands = text.partition("; ")
    kind, *rest = text.split(", ")
    kind, _, counted_by = kind.partition(" of ")
    return field._replace(
        kind=kind,
        counted_by=counted_by and f"?{counted_by}",
        reads="out" not in rest,
        writes="out" in rest or "in out" in rest,
        conditions=_conditions(rest),
        commands=tuple(commands.split()),
    )


def _conditions(parts: list[str]) -> tuple[Condition, ...]:
    words = [part.split() for part in parts if part.startswith("if ")]
    return tuple(Condition(f"?{path}", tuple(names)) for _, path, *names in words)


def _named(fields: list[Field], name: str | None) -> list[Field]:
    """The fields of a block that ends here. "?cnt" is a field that is not found yet: it stands in this block, or in one
    around it."""
    here = {field.path for field in fields}
    prefix = f"{name}." if name else ""

    def found(path: str) -> str:
        if path.startswith("?"):
            return prefix + path[1:] if path[1:] in here else path
        return path and prefix + path

    return [
        field._replace(
            path=prefix + field.path,
            counted_by=found(field.counted_by),
            conditions=tuple(Condition(found(each.path), each.names) for each in field.conditions),
        )
        for field in fields
    ]
