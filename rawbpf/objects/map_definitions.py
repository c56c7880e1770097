"""Maps as a C file defines them: variables in SEC(".maps") whose type says everything.

By the conventions of libbpf's bpf_helpers.h, __uint(max_entries, 16) is a pointer to an array of 16 ints,
__type(value, struct event) a pointer to a struct event, __array(values, struct inner) an array of pointers.

    struct {
            __uint(type, BPF_MAP_TYPE_QUEUE);
            __uint(max_entries, 16);
            __type(value, struct event);
    } queue SEC(".maps");

Source: Documentation/bpf/btf.rst, tools/lib/bpf/libbpf.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from rawbpf.abi import BPF_OBJ_NAME_LEN, MapType
from rawbpf.btf.reader import POINTER_SIZE, Btf, BtfError, Kind, Member, Type
from rawbpf.objects.elf import Elf, ObjectFileError, Relocation, Section
from rawbpf.syscall import check_name

LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME = 0, 1

MAPS_OF_MAPS = frozenset({MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, MapType.BPF_MAP_TYPE_HASH_OF_MAPS})


class MapDeclaration(NamedTuple):
    """A map as the C file wants it, by its whole name there. The type ids are those of the file's BTF, 0 where only a
    size is given. `inner` is what the maps in a map of maps are like; `slots` says which map or program (by its name)
    is in the map from the start, by index."""

    name: str
    offset: int
    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    numa_node: int
    map_extra: int
    pinning: int
    key_type_id: int
    value_type_id: int
    inner: "MapDeclaration | None"
    slots: dict[int, str]


def read_maps(file: Elf, btf: Btf) -> dict[str, MapDeclaration]:
    """The maps of the file by name. Raises ObjectFileError, BtfError."""
    section = file.section(".maps")
    if section is None or not section.size:
        return {}
    try:
        described = btf.find(Kind.DATASEC, ".maps")
    except KeyError:
        raise ObjectFileError("section '.maps' is not described in section '.BTF'") from None
    maps: dict[str, MapDeclaration] = {}
    values: dict[str, tuple[int, int]] = {}
    for entry in btf.variables(described):
        variable = btf.type(entry.type_id)
        if variable.kind != Kind.VAR or not variable.name:
            raise ObjectFileError(f"section '.maps': type {variable.id} is no variable")
        definition = btf.resolve(variable.size)
        with_name = f"section '.maps', map {variable.name!r}"
        try:
            check_name(variable.name[: BPF_OBJ_NAME_LEN - 1])
            maps[variable.name] = _map(btf, variable.name, entry.offset, definition)
        except ValueError as error:
            raise ObjectFileError(f"{with_name}: {error}") from error
        for member in btf.members(definition):
            if member.name == "values":
                values[variable.name] = entry.offset + member.bit_offset // 8, entry.offset + entry.size
    for relocation in file.relocations.get(section.number, []):
        _fill_slot(file, section, relocation, maps, values)
    return maps


# Members made by __uint(), of which map_extra may be made by __ulong().
_NUMBERS: tuple[str, ...] = (
    "type",
    "key_size",
    "value_size",
    "max_entries",
    "map_flags",
    "numa_node",
    "map_extra",
    "pinning",
)


def _map(btf: Btf, name: str, offset: int, definition: Type, is_inner: bool = False) -> MapDeclaration:
    if definition.kind != Kind.STRUCT:
        raise ObjectFileError(f"its type is no struct but {definition.kind.name}")
    numbers = dict.fromkeys(_NUMBERS, 0)
    types = {"key": 0, "value": 0}
    values: Member | None = None
    for member in btf.members(definition):
        if member.name in numbers:
            numbers[member.name] = _number(btf, member.name, member.type_id)
        elif member.name in types:
            types[member.name] = _pointed_to(btf, member.name, member.type_id)
        elif member.name == "values":
            values = member
        else:
            raise ObjectFileError(f"the member {member.name!r} is not known")
    for what, type_id in types.items():
        if type_id:
            _set_size(numbers, f"{what}_size", btf.size_of(type_id))
    if not numbers["type"]:
        raise ObjectFileError("it has no type")
    if numbers["pinning"] not in (LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME):
        raise ObjectFileError(f"pinning {numbers['pinning']} is not LIBBPF_PIN_BY_NAME")
    inner = None
    if is_inner and (values or numbers["pinning"]):
        raise ObjectFileError("a map in a map can neither be pinned nor hold maps or programs itself")
    if values:
        inner = _inner(btf, f"{name}.inner", MapType(numbers["type"]), values)
        _set_size(numbers, "value_size", 4)
    return MapDeclaration(
        name,
        offset,
        MapType(numbers.pop("type")),
        **numbers,
        key_type_id=types["key"],
        value_type_id=types["value"],
        inner=inner,
        slots={},
    )


def _inner(btf: Btf, name: str, map_type: MapType, values: Member) -> MapDeclaration | None:
    """What the maps in a map of maps are like; None for a table of programs."""
    found = btf.resolve(values.type_id)
    if found.kind != Kind.ARRAY:
        raise ObjectFileError("the member 'values' is not made by __array()")
    element = btf.resolve(_pointed_to(btf, "values", btf.array(found)[0]))
    if map_type == MapType.BPF_MAP_TYPE_PROG_ARRAY:
        if element.kind != Kind.FUNC_PROTO:
            raise ObjectFileError("the 'values' of a table of programs are functions")
        return None
    if map_type not in MAPS_OF_MAPS:
        raise ObjectFileError(f"a map of type {map_type.name} has no 'values'")
    return _map(btf, name, 0, element, is_inner=True)


def _number(btf: Btf, name: str, type_id: int) -> int:
    """__uint(name, number): a pointer to an array of that many ints; __ulong(name, number): an enum of one member."""
    found = btf.resolve(type_id)
    if name == "map_extra" and found.kind in (Kind.ENUM, Kind.ENUM64) and found.vlen == 1:
        return next(iter(btf.enumerators(found).values())) & 0xFFFFFFFFFFFFFFFF
    target = btf.resolve(_pointed_to(btf, name, type_id))
    if target.kind != Kind.ARRAY:
        raise ObjectFileError(f"the member {name!r} is not made by __uint()")
    return btf.array(target)[1]


def _pointed_to(btf: Btf, name: str, type_id: int) -> int:
    pointer = btf.resolve(type_id)
    if pointer.kind != Kind.PTR:
        raise ObjectFileError(f"the member {name!r} is not made by __uint(), __type() or __array()")
    return pointer.size


def _set_size(numbers: dict[str, int], field: str, size: int) -> None:
    """A type also says the size; said twice, it must be the same."""
    if numbers[field] not in (0, size) or size >> 32:
        raise ObjectFileError(f"{field} is {numbers[field]}, and the type has {size} bytes")
    numbers[field] = size


# What is in a map from the start


def _fill_slot(
    file: Elf,
    section: Section,
    relocation: Relocation,
    maps: dict[str, MapDeclaration],
    values: dict[str, tuple[int, int]],
) -> None:
    """A relocation within .maps puts a map or a program into the slot of `values` that it points to."""
    at = relocation.offset
    name = next((name for name, (begin, end) in values.items() if begin <= at < end), None)
    if name is None or (at - values[name][0]) % POINTER_SIZE or at + POINTER_SIZE > values[name][1]:
        raise ObjectFileError(f"section '.maps': {relocation.symbol} is an initial value of no map's 'values'")
    declaration = maps[name]
    if declaration.type == MapType.BPF_MAP_TYPE_HASH_OF_MAPS and declaration.key_size != 4:
        raise ObjectFileError(f"section '.maps', map {name!r}: with initial 'values' its key has 4 bytes")
    index = (at - values[name][0]) // POINTER_SIZE
    declaration.slots[index] = _target(file, section, relocation, maps, declaration)


def _target(
    file: Elf, section: Section, relocation: Relocation, maps: dict[str, MapDeclaration], holder: MapDeclaration
) -> str:
    symbol = relocation.symbol
    (addend,) = struct.unpack_from("=Q", section.data, relocation.offset)
    where = f"section '.maps', map {holder.name!r}: the initial value {symbol}"
    if symbol.section is None:
        raise ObjectFileError(f"{where} is not in this file")
    place = symbol.section.number, symbol.offset + addend
    if holder.type in MAPS_OF_MAPS:
        found = [each.name for each in maps.values() if (section.number, each.offset) == place]
    else:
        found = [
            each.name
            for each in file.symbols
            if each.kind == "FUNC" and each.section and (each.section.number, each.offset) == place
        ]
    if not found:
        raise ObjectFileError(f"{where} is no {'map' if holder.type in MAPS_OF_MAPS else 'program'} of this file")
    return found[0]


def definitions(maps: dict[str, MapDeclaration]) -> Iterator[MapDeclaration]:
    """All definitions, those of maps in maps included."""
    for declaration in maps.values():
        yield declaration
        if declaration.inner:
            yield declaration.inner


__all__ = ["LIBBPF_PIN_BY_NAME", "MAPS_OF_MAPS", "BtfError", "MapDeclaration", "definitions", "read_maps"]
