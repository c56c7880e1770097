""".BTF.ext: which BTF function begins at which instruction, which line of C an instruction comes from.

The section has three parts of one shape: the size of a record, then for each section of instructions its name, the
number of records, the records. Offsets are in bytes from the section's beginning.

Source: Documentation/bpf/btf.rst, ".BTF.ext section".
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from rawbpf.btf.reader import Btf, BtfError

_HEADER = struct.Struct("=HBBI")
_PARTS = struct.Struct("=IIIIII")
_U32 = struct.Struct("=I")
_PAIR = struct.Struct("=II")
_QUAD = struct.Struct("=IIII")

_MAGIC = 0xEB9F


class FuncRecord(NamedTuple):
    """The BTF function (its id) that begins `offset` bytes into the section."""

    offset: int
    type_id: int


class LineRecord(NamedTuple):
    """The line of C that the instruction `offset` bytes into the section comes from: file and text as BTF strings."""

    offset: int
    file_name_off: int
    line_off: int
    line_col: int


class CoreRecord(NamedTuple):
    """An instruction that a CO-RE loader would change to fit the running kernel's type."""

    offset: int
    type_id: int
    access_str_off: int
    kind: int


class BtfExt(NamedTuple):
    """The records of each section by its name, in ascending order."""

    functions: dict[str, list[FuncRecord]]
    lines: dict[str, list[LineRecord]]
    core_relocations: dict[str, list[CoreRecord]]


def read(data: bytes, btf: Btf) -> BtfExt:
    """Raises BtfError where it is malformed. `btf` has the strings."""
    try:
        magic, version, _, header = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise BtfError(f".BTF.ext: magic {magic:#x}, version {version}")
        # Before LLVM 9 the header ended behind the lines.
        parts = _PARTS.unpack(data[_HEADER.size : header][: _PARTS.size].ljust(_PARTS.size, b"\0"))
        functions, lines, relocations = (
            data[header + start :][:length] for start, length in zip(parts[::2], parts[1::2], strict=True)
        )
        return BtfExt(
            {name: [FuncRecord(*r) for r in found] for name, found in _part(functions, _PAIR, btf)},
            {name: [LineRecord(*r) for r in found] for name, found in _part(lines, _QUAD, btf)},
            {name: [CoreRecord(*r) for r in found] for name, found in _part(relocations, _QUAD, btf)},
        )
    except struct.error:
        raise BtfError(".BTF.ext is cut off") from None


def _part(data: bytes, record: struct.Struct, btf: Btf) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The section names of a part, each with its records."""
    if not data:
        return
    (size,) = _U32.unpack_from(data)
    if size < record.size:
        raise BtfError(f".BTF.ext has records of {size} bytes, and {record.size} are needed")
    at = _U32.size
    while at < len(data):
        name, count = _PAIR.unpack_from(data, at)
        at += _PAIR.size
        if count * size > len(data) - at:
            raise BtfError(".BTF.ext is cut off")
        yield btf.string(name), sorted(record.unpack_from(data, at + size * i) for i in range(count))
        at += size * count
