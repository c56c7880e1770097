"""What the kinds of values in bpf.h are in Python, and which fields count in given bytes."""

import functools
import sys
from enum import IntEnum, IntFlag
from fnmatch import fnmatchcase

from rawbpf.abi import layout
from rawbpf.abi.constants import (
    AttachFlag,
    AttachType,
    ElemFlag,
    FileFlag,
    IterOrder,
    KprobeMultiFlag,
    LinkType,
    MapFlag,
    MapType,
    NetfilterFlag,
    PerfEventType,
    ProgFlag,
    ProgType,
    QueryFlag,
    RunFlag,
    StatsType,
    TaskFdType,
    UprobeMultiFlag,
    XdpFlag,
)
from rawbpf.abi.layout import Condition, Field

# The kinds whose values are constants.
CONSTANTS: dict[str, type[IntEnum] | type[IntFlag]] = {
    "map_type": MapType,
    "prog_type": ProgType,
    "link_type": LinkType,
    "attach_type": AttachType,
    "stats_type": StatsType,
    "fd_type": TaskFdType,
    "perf_event_type": PerfEventType,
    "iter_order": IterOrder,
    "update_flags": ElemFlag,
    "lookup_flags": ElemFlag,
    "map_flags": MapFlag,
    "file_flags": FileFlag,
    "prog_flags": ProgFlag,
    "run_flags": RunFlag,
    "query_flags": QueryFlag,
    "attach_flags": AttachFlag,
    "xdp_flags": XdpFlag,
    "kprobe_multi_flags": KprobeMultiFlag,
    "uprobe_multi_flags": UprobeMultiFlag,
    "netfilter_flags": NetfilterFlag,
}


@functools.cache
def fields_of(owner: str) -> list[Field]:
    """The fields of a command ("BPF_MAP_CREATE") or of a struct ("bpf_map_info"); empty if bpf.h does not know it."""
    return _layout().get(owner, [])


@functools.cache
def _layout() -> dict[str, list[Field]]:
    return layout.load()


def number_in(attr: bytes, field: Field) -> int:
    """A field's unsigned value in an attr of any length: bytes that are not there are 0, as for the kernel."""
    number = int.from_bytes(attr[field.offset : field.end].ljust(field.size, b"\0"), sys.byteorder)
    # The only bit-field, gpl_compatible, is the first bit: the lowest of a little-endian number, the highest of others.
    return number >> (0 if sys.byteorder == "little" else 31) & 1 if field.is_bits else number


def value_in(attr: bytes, fields: list[Field], path: str) -> int:
    """The value of the field of this path; 0 if it is not among the fields."""
    return next((number_in(attr, field) for field in fields if field.path == path), 0)


def counting(fields: list[Field], data: bytes) -> list[Field]:
    """Of fields that share their bytes the one that counts in this data: that with most conditions, else the first."""
    found = [field for field in fields if counts(field, data, fields)]
    # A flag that is not set leaves its field without use, but no other field has the place.
    unused = [field for field in fields if field not in found and all(_is_flag(c, fields) for c in field.conditions)]
    taken: set[int] = set()
    meant: list[Field] = []
    for field in [*sorted(found, key=lambda field: -len(field.conditions)), *unused]:
        place = range(field.offset, field.end)
        if taken.isdisjoint(place):
            taken.update(place)
            meant.append(field)
    return sorted(meant, key=lambda field: field.offset)


def _is_flag(condition: Condition, fields: list[Field]) -> bool:
    field = next(field for field in fields if field.path == condition.path)
    return issubclass(CONSTANTS.get(field.kind, IntEnum), IntFlag)


def counts(field: Field, data: bytes, fields: list[Field]) -> bool:
    """Whether the field's conditions hold in this data."""
    return all(_holds(condition, data, fields) for condition in field.conditions)


def _holds(condition: Condition, data: bytes, fields: list[Field]) -> bool:
    field = next(field for field in fields if field.path == condition.path)
    value = number_in(data, field)
    if not condition.names:
        return value != 0
    constants = CONSTANTS[field.kind]
    if issubclass(constants, IntFlag):
        return any(constants.__members__.get(name, 0) & value for name in condition.names)
    return any(fnmatchcase(constants(value).name, pattern) for pattern in condition.names)
