"""What stands in a command's attr, and in what the kernel fills: which fields count, and how each is read.

bpf.h says where the fields stand, what kind of value each has, and when it counts (abi/layout.py); here each kind has
its spelling, which is strace's.
"""

import functools
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from rawbpf.abi import Cmd, layout
from rawbpf.abi.kinds import CONSTANTS, counting, fields_of, number_in, value_in
from rawbpf.abi.layout import Condition, Field
from rawbpf.observe import user_memory
from rawbpf.observe.user_memory import Fault


class Struct(NamedTuple):
    """A command's fields, or those of an info struct. `member` is the union's member they are in ("info", "batch"), ""
    if they stand in it directly; their paths begin within it."""

    member: str
    fields: list[Field]


def struct_of(cmd: int, attr: bytes | None = None) -> Struct | None:
    """The fields of a command; None if bpf.h does not know it.

    Without an attr also those that share their bytes; with one those that count there.
    """
    return _counting(_command(Cmd(cmd)), attr)


def info_struct(name: str, data: bytes | None = None) -> Struct:
    """The fields of struct bpf_map_info, bpf_link_info and the like; with data those that count there."""
    struct = _counting(Struct("", fields_of(name)), data)
    assert struct is not None
    return struct


def map_info() -> Struct:
    """The fields of struct bpf_map_info."""
    return info_struct("bpf_map_info")


@functools.cache
def _command(cmd: Cmd) -> Struct | None:
    """The fields of a command, with their paths from within the union's member; none is older than the command."""
    fields = fields_of(cmd.name)
    if not fields:
        return None
    member, dot, _ = fields[0].path.partition(".")
    prefix = member + dot if dot else ""
    return Struct(
        member if dot else "",
        [
            field._replace(
                path=field.path.removeprefix(prefix),
                since=max(field.since, cmd.since, key=layout.version),
                counted_by=field.counted_by.removeprefix(prefix),
                conditions=tuple(Condition(c.path.removeprefix(prefix), c.names) for c in field.conditions),
            )
            for field in fields
        ],
    )


def _counting(struct: Struct | None, data: bytes | None) -> Struct | None:
    return struct if struct is None or data is None else Struct(struct.member, counting(struct.fields, data))


# The spelling of values

# What strace writes behind a number whose constant it does not know.
_PREFIX = {
    "map_type": "BPF_MAP_TYPE_",
    "prog_type": "BPF_PROG_TYPE_",
    "link_type": "BPF_LINK_TYPE_",
    "stats_type": "BPF_STATS_",
    "fd_type": "BPF_FD_TYPE_",
    "attach_type": "BPF_",
    "update_flags": "BPF_",
    "lookup_flags": "BPF_",
    "query_flags": "BPF_F_QUERY_",
    "run_flags": "BPF_F_TEST_",
    "kprobe_multi_flags": "BPF_F_KPROBE_MULTI_",
    "uprobe_multi_flags": "BPF_F_UPROBE_MULTI_",
    "netfilter_flags": "BPF_F_NETFILTER_",
    "xdp_flags": "XDP_FLAGS_",
}


def spell(field: Field, attr: bytes, fields: list[Field]) -> str:
    """A field's value in strace's words: `BPF_MAP_TYPE_QUEUE`, `"sample_queue"`, `NULL`, `0x7f...`."""
    if field.counted_by and field.kind in _AT_ADDRESS:
        address, count = number_in(attr, field), value_in(attr, fields, field.counted_by)
        return _followed(address, lambda: _AT_ADDRESS[field.kind](address, count))
    if field.counted_by:
        return _list_of(field.kind)(field, attr, fields)
    return _SPELLINGS[field.kind](field, attr, fields)


def without_following(field: Field) -> Field:
    """The field as it is spelled without a look at the memory it points to."""
    return field._replace(kind="pointer", counted_by="") if field.counted_by or field.kind in _STRINGS else field


_Spelling = Callable[[Field, bytes, list[Field]], str]


def _of_number(function: Callable[[int], str]) -> _Spelling:
    return lambda field, attr, fields: function(number_in(attr, field))


def _pointer(address: int) -> str:
    return hex(address) if address else "NULL"


def _hex(number: int) -> str:
    return hex(number) if number else "0"


def _signed(number: int) -> str:
    return str(number - (1 << 32) if number >> 31 else number)


def _numa_node(number: int) -> str:
    return "4294967295 /* NUMA_NO_NODE */" if number == 0xFFFFFFFF else str(number)


def _version(number: int) -> str:
    return f"KERNEL_VERSION({number >> 16}, {number >> 8 & 0xFF}, {number & 0xFF})"


def _ifindex(number: int) -> str:
    """An interface's index as strace writes it, if there is such an interface."""
    if number == 0:
        return "0"
    from socket import if_indextoname

    try:
        return f'if_nametoindex("{if_indextoname(number)}")'
    except (OSError, OverflowError):
        return str(number)


def _device(number: int) -> str:
    return f"makedev({_hex(number >> 8 & 0xFFF)}, {_hex(number & 0xFF | number >> 12 & ~0xFF)})"


def _boottime(nanoseconds: int) -> str:
    """Nanoseconds since the start of the machine, and the time of day that was."""
    seconds = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + nanoseconds / 1e9
    return f"{nanoseconds} /* {time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(seconds))} */"


def _constant(kind: str) -> Callable[[int], str]:
    """An enumerator's name, or those of flags."""
    constants, unknown = CONSTANTS[kind], f"/* {_PREFIX.get(kind, 'BPF_F_')}??? */"
    names = {int(member): name for name, member in constants.__members__.items()}
    if kind == "lookup_flags":
        names = {0: "BPF_ANY", **{bit: name for bit, name in names.items() if bit & ~3}}
    # The flags of a push, as those of strace, are alternatives.
    if issubclass(constants, IntEnum) or kind == "update_flags":
        return lambda number: names.get(number) or f"{number:#x} {unknown}"

    def spelled(number: int) -> str:
        found = [name for bit, name in names.items() if bit & number]
        rest = number & ~sum(names)
        if number == 0:
            return names.get(0, "0")
        return "|".join([*found, hex(rest)] if rest else found) if found else f"{number:#x} {unknown}"

    return spelled


def quoted(data: bytes, limit: int | None = None) -> str:
    """Bytes as a C string. Longer than `limit`: cut there, with dots behind."""
    shown = data[:limit]
    text = ""
    for index, byte in enumerate(shown):
        if chr(byte) in _ESCAPES:
            text += _ESCAPES[chr(byte)]
        elif 0x20 <= byte < 0x7F:
            text += chr(byte)
        else:
            # A digit behind a short octal escape would become part of it.
            digit_follows = shown[index + 1 : index + 2].isdigit()
            text += f"\\{byte:03o}" if digit_follows else f"\\{byte:o}"
    return f'"{text}"' + ("..." if len(shown) < len(data) else "")


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\v": "\\v", "\f": "\\f"}

_PATH_MAX = 4096
_STRING_MAX = 32  # of strace, unless told otherwise


def _hex_quoted(data: bytes, limit: int | None = None) -> str:
    """Bytes as a C string in which each is escaped."""
    text = "".join(f"\\x{byte:02x}" for byte in data[:limit])
    return f'"{text}"' + ("..." if limit is not None and len(data) > limit else "")


def _name(field: Field, attr: bytes, fields: list[Field]) -> str:
    data = attr[field.offset : field.end].ljust(field.size, b"\0")
    return quoted(data.partition(b"\0")[0], field.size - 1)


def _followed(address: int, spelled: Callable[[], str]) -> str:
    """What stands at an address; the address itself where it can't be read."""
    if address == 0:
        return "NULL"
    try:
        return spelled()
    except Fault:
        return _pointer(address)


def _string(limit: int | None) -> _Spelling:
    def spelled(field: Field, attr: bytes, fields: list[Field]) -> str:
        address = number_in(attr, field)
        return _followed(address, lambda: _text(address, _PATH_MAX, limit))

    return spelled


def _text(address: int, most: int, limit: int | None = _STRING_MAX) -> str:
    """Text up to its NUL, of at most so many bytes."""
    if most == 0:
        return _pointer(address)
    data = user_memory.read_string(address, most)
    if data is not None:
        return quoted(data, limit)
    return quoted(user_memory.read(address, most), limit).removesuffix("...") + "..."


def _bytes(address: int, size: int) -> str:
    return quoted(user_memory.read(address, min(size, _STRING_MAX + 1)), _STRING_MAX)


def _hex_bytes(address: int, size: int) -> str:
    return _hex_quoted(user_memory.read(address, min(size, _STRING_MAX + 1)), _STRING_MAX)


def _strings(address: int, count: int) -> str:
    """An array of addresses of strings."""
    size = 8
    addresses = user_memory.read(address, size * count)
    parts = (int.from_bytes(addresses[at : at + size], sys.byteorder) for at in range(0, len(addresses), size))
    return f"[{', '.join(_followed(part, functools.partial(_text, part, _PATH_MAX)) for part in parts)}]"


def _numbers(spelled: Callable[[int], str], size: int) -> Callable[[int, int], str]:
    def array(address: int, count: int) -> str:
        data = user_memory.read(address, size * count)
        parts = (int.from_bytes(data[at : at + size], sys.byteorder) for at in range(0, len(data), size))
        return f"[{', '.join(map(spelled, parts))}]"

    return array


def _list_of(kind: str) -> _Spelling:
    """An array of flags at the field's address."""
    array = _numbers(_constant(kind), 4)

    def spelled(field: Field, attr: bytes, fields: list[Field]) -> str:
        address, count = number_in(attr, field), value_in(attr, fields, field.counted_by)
        return _followed(address, lambda: array(address, count))

    return spelled


# What stands at an address, in as many bytes or elements as another field says.
_AT_ADDRESS: dict[str, Callable[[int, int], str]] = {
    "text": _text,
    "bytes": _bytes,
    "hex bytes": _hex_bytes,
    "instructions": lambda address, size: _pointer(address),
    "numbers": _numbers(str, 4),
    "hexes": _numbers(_hex, 8),
    "strings": _strings,
}

_STRINGS = ("path", "string")

_SPELLINGS: dict[str, _Spelling] = {
    **{kind: _of_number(_constant(kind)) for kind in CONSTANTS},
    "number": _of_number(str),
    "hex": _of_number(_hex),
    "fd": _of_number(_signed),
    "signed": _of_number(_signed),
    "pointer": _of_number(_pointer),
    "numa_node": _of_number(_numa_node),
    "version": _of_number(_version),
    "ifindex": _of_number(_ifindex),
    "device": _of_number(_device),
    "boottime": _of_number(_boottime),
    "byte array": lambda field, attr, fields: _hex_quoted(attr[field.offset : field.end].ljust(field.size, b"\0")),
    "name": _name,
    "path": _string(None),
    "string": _string(_STRING_MAX),
}
