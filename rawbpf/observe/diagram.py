"""An attr as a table: offset, size, field, the Linux that brought it, bytes and value: rawbpf.explain().

What is not a field is shown as well: the padding that aligns the 64-bit fields, the fields that a short attr leaves
out, and bytes that no field covers. At most 80 columns.
"""

import operator
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, cast

from rawbpf.abi import Cmd, MapType
from rawbpf.abi.door import ffi
from rawbpf.abi.layout import Field
from rawbpf.observe import pages
from rawbpf.observe.attr_fields import Struct, info_struct, spell, struct_of, without_following

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData

_WIDTH = 80
_ROW = "{:>6} {:>4} {:<25} {:<5} {:<16} {}"
_BYTES_IN_A_ROW = 8


def explain(cmd: SupportsIndex | str, attr: "CData | Buffer | None" = None, size: int | None = None) -> str:
    """Draws the attr of a command: each field's offset, size and first Linux, and with `attr` also its value.

    Without an attr it goes on to say what the command means: its fields' rules, what it does and needs, its errors.

    Args:
        cmd: A command: Cmd.BPF_MAP_CREATE, 0, "BPF_MAP_CREATE", "map_create", or what one does to a queue: "create",
            "push", "peek", "pop". Also an errno: "E2BIG" says what it means for which command.
        attr: What bpf_attr() makes, or the bytes; None explains the command.
        size: How many bytes of it are sent; None is all of them.

    Addresses in what bpf_attr() made are followed: a path is shown as text. In mere bytes they may be any process's.

    Returns the drawing, of several lines. Raises ValueError for a command that does not exist.

    >>> print(explain("map_freeze", bytes([3, 0, 0, 0])))
    BPF_MAP_FREEZE (22), Linux 5.2: 4 bytes, 4 sent
    offset size field                     since bytes            value
         0    4 map_fd                    5.2   03000000         3
    """
    if isinstance(cmd, str) and attr is None and pages.is_errno(cmd.upper()):
        return "\n".join(pages.describe_errno(cmd.upper()))
    command = command_of(cmd)
    if attr is None:
        about = MapType.BPF_MAP_TYPE_QUEUE if cmd in pages.OF_QUEUES else None
        return "\n".join([draw(command, None, None), *pages.describe(command, about)])
    foreign = isinstance(attr, (bytes, bytearray, memoryview))
    data = _bytes_of(attr)[:size]
    return draw(command, data, len(data), foreign=foreign)


def command_of(cmd: SupportsIndex | str) -> Cmd:
    """The command of a number or name; ValueError if there is none."""
    if isinstance(cmd, str) and cmd in pages.WORDS:
        return pages.WORDS[cmd]
    if isinstance(cmd, str):
        name = "BPF_" + cmd.upper().replace("-", "_").removeprefix("BPF_")
    else:
        name = Cmd(operator.index(cmd)).name
    if name not in Cmd.__members__:
        raise ValueError(f"there is no bpf command {cmd!r}")
    return Cmd[name]


def _bytes_of(attr: "CData | Buffer") -> bytes:
    return bytes(ffi.buffer(attr)) if isinstance(attr, ffi.CData) else memoryview(cast("Buffer", attr)).tobytes()


def draw(cmd: Cmd, data: bytes | None, size: int | None, written: bytes | None = None, *, foreign: bool = False) -> str:
    """The drawing of explain(); `written` are the attr's bytes after the call, if the kernel may have changed them."""
    struct = struct_of(cmd, data)
    assert struct is not None
    if foreign:
        struct = struct._replace(fields=[without_following(field) for field in struct.fields])
    length = max(field.end for field in struct.fields)
    sent = "" if size is None else f", {size} sent"
    title = f"{cmd.name} ({int(cmd)}), Linux {cmd.since}: {length} bytes{sent}"
    return "\n".join([title, *_table(struct, data, written)])


def draw_info(name: str, data: bytes) -> str:
    """The drawing of an info struct ("bpf_map_info") of which the kernel filled in `data`."""
    return "\n".join([f"struct {name}: {len(data)} bytes", *_table(info_struct(name, data), data, None)])


class _Part(NamedTuple):
    """A stretch of the attr: a field, or what lies between two."""

    offset: int
    end: int
    field: Field | None
    label: str


def _table(struct: Struct, data: bytes | None, written: bytes | None) -> Iterator[str]:
    heads = ("", "") if data is None else ("bytes", "value")
    yield _ROW.format("offset", "size", f"attr.{struct.member}" if struct.member else "field", "since", *heads).rstrip()
    parts = list(_parts(struct, len(data or b"")))
    for part in parts:
        if data is None:
            yield _row(part, "", "")
        elif part.offset < len(data):
            yield from _rows_of_bytes(part, data, written or data, struct)
    if data is not None:
        yield from _not_sent([part for part in parts if part.offset >= len(data)])


def _parts(struct: Struct, size: int) -> Iterator[_Part]:
    end = 0
    for field in struct.fields:
        if field.offset > end:
            yield _Part(end, field.offset, None, _gap(end))
        yield _Part(field.offset, field.end, field, field.name)
        end = max(end, field.end)
    if size > end:
        yield _Part(end, size, None, "(no field)")


def _gap(offset: int) -> str:
    """What is between a command's fields: padding, or fields of other commands in the same struct."""
    return "(padding)" if offset % 8 else "(not used)"


def _row(part: _Part, data: str, value: str) -> str:
    since = part.field.since if part.field else ""
    return _ROW.format(part.offset, part.end - part.offset, part.label, since, data, value).rstrip()


def _rows_of_bytes(part: _Part, before: bytes, after: bytes, struct: Struct) -> Iterator[str]:
    shown = after[part.offset : part.end]
    if part.field is None and len(shown) > _BYTES_IN_A_ROW and not any(shown):
        yield _row(part, "zero", "")
        return
    value = _value(part.field, before, after, struct) if part.field else ""
    lines = [shown[at : at + _BYTES_IN_A_ROW].hex() for at in range(0, len(shown), _BYTES_IN_A_ROW)]
    lines[-1] += ".." * max(0, part.end - max(part.offset, len(after)))
    row = _row(part, lines[0], value)
    on_its_own = len(row) > _WIDTH
    yield _row(part, lines[0], "") if on_its_own else row
    for line in lines[1:]:
        yield _ROW.format("", "", "", "", line, "").rstrip()
    if on_its_own:
        yield from textwrap.wrap(value, _WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 12)


def _value(field: Field, before: bytes, after: bytes, struct: Struct) -> str:
    old, new = spell(field, before, struct.fields), spell(field, after, struct.fields)
    return new if old == new else f"{old} => {new}"


def _not_sent(parts: list[_Part]) -> Iterator[str]:
    """One row for all that a short attr leaves out."""
    if parts:
        names = [part.label for part in parts if part.field]
        words = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        yield _ROW.format(
            parts[0].offset, parts[-1].end - parts[0].offset, "not sent, hence 0:", "", words, ""
        ).rstrip()
