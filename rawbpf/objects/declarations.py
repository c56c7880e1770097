"""What a compiled C file declares: maps, global variables and programs. Nothing is asked of the kernel here.

A map is a variable in SEC(".maps") whose type says everything, by the conventions of libbpf's bpf_helpers.h:
__uint(max_entries, 16) is a pointer to an array of 16 ints, __type(value, struct event) a pointer to a struct event.

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
from rawbpf.btf import ext
from rawbpf.btf.reader import Btf, BtfError, Kind, Type
from rawbpf.objects import elf
from rawbpf.objects.elf import Elf, ObjectFileError, Section
from rawbpf.objects.functions import Linked, Linker, Reference
from rawbpf.objects.program_sections import SectionKind, kind_of_section
from rawbpf.syscall import check_name

LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME = 0, 1

_DATA_SECTIONS = (".rodata", ".data", ".bss")

# Sections whose meaning is not that of mere data, by what they are.
_UNSUPPORTED = {
    "maps": 'definitions of maps that are not in SEC(".maps")',
    ".kconfig": "values of the kernel's configuration (__kconfig)",
    ".ksyms": "kernel symbols (__ksym)",
    ".struct_ops": "tables of operations (struct_ops)",
    ".struct_ops.link": "tables of operations (struct_ops)",
    ".addr_space.1": "arenas",
}


class MapDeclaration(NamedTuple):
    """A map as the C file wants it, by its whole name there. The type ids are those of the file's BTF, 0 where only a
    size is given."""

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


class Variable(NamedTuple):
    """A global variable: its type and its place, `offset` and `size` in bytes."""

    type_id: int
    offset: int
    size: int


class DataSection(NamedTuple):
    """Global variables, an array map of one value: .rodata (frozen), .data, .bss."""

    section: Section
    type_id: int
    variables: dict[str, Variable]

    @property
    def read_only(self) -> bool:
        """Whether programs may only read it: C's const."""
        return self.section.name.startswith(".rodata")


class MapReference(NamedTuple):
    """The 64-bit load at `slot` is to get a map, or (offset not None) an address in a section's value."""

    slot: int
    name: str
    offset: int | None


class ProgramDeclaration(NamedTuple):
    """A program with all functions it calls, ready but for the descriptors of the maps."""

    name: str
    kind: SectionKind
    linked: Linked
    references: list[MapReference]


class Declarations(NamedTuple):
    """One object file. `btf_data` is the blob for the kernel, in which `empty_struct` is the key of what has none."""

    license: str
    btf: Btf
    btf_data: bytes
    empty_struct: int
    maps: dict[str, MapDeclaration]
    data: dict[str, DataSection]
    programs: dict[str, ProgramDeclaration]


def read(data: bytes) -> Declarations:
    """Reads an object file. Raises ObjectFileError with the section and the symbol that are the matter."""
    file = elf.read(data)
    try:
        return _read(file)
    except BtfError as error:
        raise ObjectFileError(f"section '.BTF': {error}") from error


def _read(file: Elf) -> Declarations:
    _check_sections(file)
    blob, empty_struct = _btf_for_the_kernel(file)
    btf = Btf(blob)
    section = file.section(".BTF.ext")
    records = ext.read(section.data, btf) if section else ext.BtfExt({}, {}, {})
    maps = dict(_maps(file, btf))
    data = {data.section.name: data for data in _data_sections(file, btf)}
    _check_relocations(records, btf)
    programs = {program.name: program for program in _programs(Linker(file, records), maps, data)}
    license_section = file.section("license")
    text = license_section.data.split(b"\0")[0].decode("ascii", "replace") if license_section else ""
    return Declarations(text, btf, blob, empty_struct, maps, data, programs)


def _check_sections(file: Elf) -> None:
    seen = set()
    for section in file.sections:
        if not section.size:
            continue
        if section.name in _UNSUPPORTED:
            raise ObjectFileError(f"section {section.name!r}: not supported are {_UNSUPPORTED[section.name]}")
        if section.executable or _is_data(section) or section.name in (".maps", ".BTF", ".BTF.ext"):
            if section.name in seen:
                raise ObjectFileError(f"two sections are named {section.name!r}")
            seen.add(section.name)
        if (section.name == ".maps" or _is_data(section)) and file.relocations.get(section.number):
            symbol = file.relocations[section.number][0].symbol
            raise ObjectFileError(f"section {section.name!r} holds the address of {symbol}: only programs may hold one")


def _is_data(section: Section) -> bool:
    return any(section.name == name or section.name.startswith(f"{name}.") for name in _DATA_SECTIONS)


# BTF


def _btf_for_the_kernel(file: Elf) -> tuple[bytes, int]:
    """The file's BTF with what the compiler leaves to the loader, and an empty struct at its end (its id).

    clang does not know where the linker puts a variable: a section's size is 0, and its variables' offsets come from
    relocations. The kernel wants both, and the variables in the order of their offsets.
    """
    section = file.section(".BTF")
    if section is None:
        raise ObjectFileError("there is no section '.BTF': compile with clang -g")
    data = bytearray(section.data)
    for relocation in file.relocations.get(section.number, []):
        if relocation.offset + 4 > len(data):
            raise ObjectFileError(f"section '.BTF': a relocation to {relocation.symbol} is behind its end")
        if relocation.symbol.section is None:
            raise ObjectFileError(f"section '.BTF' refers to {relocation.symbol}, an extern: not supported")
        (offset,) = struct.unpack_from("=I", data, relocation.offset)
        struct.pack_into("=I", data, relocation.offset, offset + relocation.symbol.offset & 0xFFFFFFFF)
    btf = Btf(bytes(data))
    hidden = {symbol.name for symbol in file.symbols if symbol.hidden}
    for type_id in range(1, len(btf)):
        found = btf.type(type_id)
        if found.kind == Kind.DATASEC:
            _complete_section(data, btf, found, file.section(found.name))
        elif found.kind == Kind.FUNC and found.name in hidden:
            # A hidden function is the file's own, and the verifier need not look at it by itself.
            data[btf.place(type_id) + 4] = 0
    return _with_empty_struct(data), len(btf)


def _complete_section(data: bytearray, btf: Btf, found: Type, section: Section | None) -> None:
    if section is None:
        raise ObjectFileError(f"section '.BTF' describes a section {found.name!r}, which there is not")
    place = btf.place(found.id)
    struct.pack_into("=I", data, place + 8, section.size)
    entries = sorted(btf.variables(found), key=lambda entry: entry.offset)
    for index, entry in enumerate(entries):
        struct.pack_into("=III", data, place + 12 + 12 * index, *entry)


def _with_empty_struct(data: bytearray) -> bytes:
    """The blob with one type more: the key of maps that have none. (The kernel takes no value type without a key type.)

    Its header: 8 bytes, then type_off, type_len, str_off, str_len.
    """
    (header,) = struct.unpack_from("=I", data, 4)
    type_off, type_len, str_off, str_len = struct.unpack_from("=IIII", data, 8)
    types = data[header + type_off :][:type_len] + struct.pack("=III", 0, Kind.STRUCT << 24, 0)
    strings = data[header + str_off :][:str_len]
    places = struct.pack("=IIIII", 24, 0, len(types), len(types), len(strings))
    return bytes(data[:4] + places + types + strings)


# Maps


def _maps(file: Elf, btf: Btf) -> Iterator[tuple[str, MapDeclaration]]:
    section = file.section(".maps")
    if section is None or not section.size:
        return
    try:
        described = btf.find(Kind.DATASEC, ".maps")
    except KeyError:
        raise ObjectFileError("section '.maps' is not described in section '.BTF'") from None
    for entry in btf.variables(described):
        variable = btf.type(entry.type_id)
        if variable.kind != Kind.VAR or not variable.name:
            raise ObjectFileError(f"section '.maps': type {variable.id} is no variable")
        try:
            check_name(variable.name[: BPF_OBJ_NAME_LEN - 1])
            yield variable.name, _map(btf, variable.name, entry.offset, btf.resolve(variable.size))
        except ValueError as error:
            raise ObjectFileError(f"section '.maps', map {variable.name!r}: {error}") from error


# Members made by __uint().
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


def _map(btf: Btf, name: str, offset: int, definition: Type) -> MapDeclaration:
    if definition.kind != Kind.STRUCT:
        raise ObjectFileError(f"its type is no struct but {definition.kind.name}")
    numbers = dict.fromkeys(_NUMBERS, 0)
    types = {"key": 0, "value": 0}
    for member in btf.members(definition):
        if member.name in numbers:
            numbers[member.name] = _number(btf, member.name, member.type_id)
        elif member.name in types:
            types[member.name] = _pointed_to(btf, member.name, member.type_id)
        elif member.name == "values":
            raise ObjectFileError("maps of maps and tables of programs ('values') are not supported")
        else:
            raise ObjectFileError(f"the member {member.name!r} is not known")
    for what, type_id in types.items():
        if type_id:
            _set_size(numbers, f"{what}_size", btf.size_of(type_id))
    if not numbers["type"]:
        raise ObjectFileError("it has no type")
    if numbers["pinning"] not in (LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME):
        raise ObjectFileError(f"pinning {numbers['pinning']} is not LIBBPF_PIN_BY_NAME")
    return MapDeclaration(
        name,
        offset,
        MapType(numbers.pop("type")),
        **numbers,
        key_type_id=types["key"],
        value_type_id=types["value"],
    )


def _number(btf: Btf, name: str, type_id: int) -> int:
    """__uint(name, number): a pointer to an array of that many ints."""
    target = btf.resolve(_pointed_to(btf, name, type_id))
    if target.kind != Kind.ARRAY:
        raise ObjectFileError(f"the member {name!r} is not made by __uint()")
    return btf.array(target)[1]


def _pointed_to(btf: Btf, name: str, type_id: int) -> int:
    pointer = btf.resolve(type_id)
    if pointer.kind != Kind.PTR:
        raise ObjectFileError(f"the member {name!r} is not made by __uint() or __type()")
    return pointer.size


def _set_size(numbers: dict[str, int], field: str, size: int) -> None:
    """A type also says the size; said twice, it must be the same."""
    if numbers[field] not in (0, size) or size >> 32:
        raise ObjectFileError(f"{field} is {numbers[field]}, and the type has {size} bytes")
    numbers[field] = size


# Global variables


def _data_sections(file: Elf, btf: Btf) -> Iterator[DataSection]:
    for section in file.sections:
        if section.size and _is_data(section):
            yield DataSection(section, *_described(section, btf))


def _described(section: Section, btf: Btf) -> tuple[int, dict[str, Variable]]:
    """The id of the section's type and its variables; constants that only the compiler knows of have none."""
    try:
        described = btf.find(Kind.DATASEC, section.name)
    except KeyError:
        return 0, {}
    variables = {}
    for entry in btf.variables(described):
        variable = btf.type(entry.type_id)
        if variable.kind != Kind.VAR:
            raise BtfError(f"type {variable.id} in section {section.name!r} is no variable")
        if entry.offset + entry.size > section.size:
            raise ObjectFileError(f"section {section.name!r}: {variable.name!r} is behind its end")
        variables[variable.name] = Variable(variable.size, entry.offset, entry.size)
    return described.id, variables


# Programs


def _check_relocations(records: ext.BtfExt, btf: Btf) -> None:
    for section, relocations in records.core_relocations.items():
        for relocation in relocations:
            raise ObjectFileError(
                f"section {section!r}, instruction {relocation.offset // 8}: a CO-RE relocation of "
                f"{btf.type(relocation.type_id).name!r} is not supported; "
                "compile without preserve_access_index, or give the offset in a constant"
            )


def _programs(
    linker: Linker, maps: dict[str, MapDeclaration], data: dict[str, DataSection]
) -> Iterator[ProgramDeclaration]:
    by_offset = {declaration.offset: name for name, declaration in maps.items()}
    for function in linker.programs():
        section = function.section.name
        kind = kind_of_section(section)
        try:
            check_name(function.name[: BPF_OBJ_NAME_LEN - 1])
        except ValueError as error:
            raise ObjectFileError(f"section {section!r}, function {function.name!r}: {error}") from None
        if kind is None:
            raise ObjectFileError(f"section {section!r}, function {function.name!r}: no program type has this name")
        linked = linker.link(function)
        references = [_map_reference(reference, by_offset, data) for reference in linked.references]
        yield ProgramDeclaration(function.name, kind, linked, references)


def _map_reference(reference: Reference, maps: dict[int, str], data: dict[str, DataSection]) -> MapReference:
    section, offset = reference.section, reference.offset
    if section.name == ".maps":
        if offset in maps:
            return MapReference(reference.slot, maps[offset], None)
        raise ObjectFileError(f"{reference.where} refers to byte {offset} of section '.maps': no map begins there")
    if section.name not in data:
        raise ObjectFileError(f"{reference.where} refers to section {section.name!r}, which holds no variables")
    if not 0 <= offset < section.size:
        raise ObjectFileError(f"{reference.where} refers to byte {offset} of section {section.name!r}: behind its end")
    return MapReference(reference.slot, section.name, offset)
