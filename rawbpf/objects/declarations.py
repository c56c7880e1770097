"""What a compiled C file declares: maps, global variables and programs. Nothing is asked of the kernel here."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from rawbpf.abi import BPF_OBJ_NAME_LEN, MapType, ProgType
from rawbpf.btf import ext
from rawbpf.btf.reader import Btf, BtfError, Kind
from rawbpf.objects import elf
from rawbpf.objects.elf import Elf, ObjectFileError, Section
from rawbpf.objects.functions import Function, Linked, Linker, Reference
from rawbpf.objects.map_definitions import MapDeclaration, definitions, read_maps
from rawbpf.objects.object_btf import KCONFIG, Extern, ObjectBtf, prepare
from rawbpf.objects.program_sections import SectionKind, kind_of_section
from rawbpf.syscall import check_name
from rawbpf.values.btf_codec import BtfCodec

_DATA_SECTIONS = (".rodata", ".data", ".bss")

# Sections whose meaning is not that of mere data, and what of it can't be loaded.
_UNSUPPORTED = {
    "maps": "maps are no longer defined so (libbpf 1.0 does not take it either); write instead: struct { "
    "__uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 16); __type(value, struct event); } "
    'queue SEC(".maps"); with __type(key, __u32); for a map that has keys',
    **dict.fromkeys(
        (".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link"),
        "tables of operations (struct_ops) are not supported",
    ),
    ".addr_space.1": "arenas are not supported",
    ".jumptables": "tables of jumps are not supported: compile with -fno-jump-tables",
}

_STATIC = 0


class Variable(NamedTuple):
    """A global variable: its type and its place, `offset` and `size` in bytes."""

    type_id: int
    offset: int
    size: int


class DataSection(NamedTuple):
    """Global variables, an array map of one value: .rodata and .kconfig (both frozen), .data, .bss.

    `shared` says that the file shares one of them with others: only then can the map be mapped into memory, as with
    libbpf. The others are static.
    """

    section: Section
    type_id: int
    variables: dict[str, Variable]
    shared: bool

    @property
    def read_only(self) -> bool:
        """Whether programs may only read it: C's const, and the kernel's configuration."""
        return self.section.name.startswith((".rodata", KCONFIG))


class MapReference(NamedTuple):
    """The 64-bit load at `slot` is to get a map, or (offset not None) an address in a section's value."""

    slot: int
    name: str
    offset: int | None


class ProgramDeclaration(NamedTuple):
    """A program with all functions it calls, ready but for what the kernel knows: the descriptors of the maps, its own
    symbols (`linked.symbols`) and types (`linked.core_relocations`). `section` is the section's name."""

    name: str
    section: str
    kind: SectionKind
    linked: Linked
    references: list[MapReference]


class Declarations(NamedTuple):
    """One object file. `btf_data` is the blob for the kernel, in which `empty_struct` is the key of what has none."""

    license: str
    btf: Btf
    btf_data: bytes
    empty_struct: int
    externs: dict[str, Extern]
    maps: dict[str, MapDeclaration]
    data: dict[str, DataSection]
    programs: dict[str, ProgramDeclaration]


class Selection(NamedTuple):
    """Which programs are wanted: `only` these, or (None) all but those of sections whose names begin with "?"; and not
    those of `without`. `sections` says what programs in sections with names of one's own are."""

    only: Collection[str] | None = None
    without: Collection[str] = ()
    sections: Mapping[str, "str | ProgType"] = {}


ALL = Selection()


def read(data: bytes, selection: Selection = ALL) -> Declarations:
    """Reads an object file. Raises ObjectFileError with the section and the symbol that are wrong, ValueError for a
    selection of programs that the file does not have."""
    file = elf.read(data)
    try:
        return _read(file, selection)
    except BtfError as error:
        raise ObjectFileError(f"section '.BTF': {error}") from error


def _read(file: Elf, selection: Selection) -> Declarations:
    _check_sections(file)
    prepared = prepare(file)
    btf = prepared.btf
    section = file.section(".BTF.ext") if file.section(".BTF") else None
    records = ext.read(section.data, btf) if section else ext.BtfExt({}, {}, {})
    maps = read_maps(file, btf)
    _check_values(maps, btf)
    data = {data.section.name: data for data in _data_sections(file, prepared)}
    programs = {
        program.name: program
        for program in _programs(Linker(file, records, prepared.externs), maps, data, prepared.externs, selection)
    }
    license_section = file.section("license")
    text = license_section.data.split(b"\0")[0].decode("ascii", "replace") if license_section else ""
    return Declarations(text, btf, prepared.data, prepared.empty_struct, prepared.externs, maps, data, programs)


def _check_sections(file: Elf) -> None:
    seen = set()
    for section in file.sections:
        if not section.size:
            continue
        if section.name in _UNSUPPORTED:
            raise ObjectFileError(f"section {section.name!r}: {_UNSUPPORTED[section.name]}")
        if section.executable or _is_data(section) or section.name in (".maps", ".BTF", ".BTF.ext"):
            if section.name in seen:
                raise ObjectFileError(f"two sections are named {section.name!r}")
            seen.add(section.name)
        if _is_data(section) and file.relocations.get(section.number):
            symbol = file.relocations[section.number][0].symbol
            warnings.warn(
                f"section {section.name!r} holds the address of {symbol}: the kernel does not get it, as with libbpf",
                RuntimeWarning,
                stacklevel=2,
            )


def _is_data(section: Section) -> bool:
    return any(section.name == name or section.name.startswith(f"{name}.") for name in _DATA_SECTIONS)


def _check_values(maps: dict[str, MapDeclaration], btf: Btf) -> None:
    """That a queue's or a stack's elements have a type which can be read: the kernel alone can't say that."""
    for declaration in definitions(maps):
        if declaration.value_type_id and declaration.type in (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK):
            BtfCodec(btf, declaration.value_type_id)


# Global variables


def _data_sections(file: Elf, prepared: ObjectBtf) -> Iterator[DataSection]:
    for section in file.sections:
        if section.size and _is_data(section):
            yield _described(section, prepared.btf)
    if prepared.kconfig_size:
        yield _described(Section(-1, KCONFIG, b"", prepared.kconfig_size, False), prepared.btf)


def _described(section: Section, btf: Btf) -> DataSection:
    """The section with its variables; constants that only the compiler knows of have no description."""
    try:
        described = btf.find(Kind.DATASEC, section.name)
    except KeyError:
        return DataSection(section, 0, {}, False)
    variables, shared = {}, False
    for entry in btf.variables(described):
        variable = btf.type(entry.type_id)
        if variable.kind != Kind.VAR:
            raise BtfError(f"type {variable.id} in section {section.name!r} is no variable")
        if entry.offset + entry.size > section.size:
            raise ObjectFileError(f"section {section.name!r}: {variable.name!r} is behind its end")
        variables[variable.name] = Variable(variable.size, entry.offset, entry.size)
        shared |= btf.linkage(variable) != _STATIC
    return DataSection(section, described.id, variables, shared)


# Programs


def _programs(
    linker: Linker,
    maps: dict[str, MapDeclaration],
    data: dict[str, DataSection],
    externs: dict[str, Extern],
    selection: Selection,
) -> Iterator[ProgramDeclaration]:
    by_offset = {declaration.offset: name for name, declaration in maps.items()}
    functions = linker.programs()
    _check_selection(selection, functions)
    for function in functions:
        if function.name in selection.without or (selection.only is not None and function.name not in selection.only):
            continue
        where = f"section {function.section.name!r}, function {function.name!r}"
        try:
            kind = kind_of_section(function.section.name, selection.sections)
            check_name(function.name[: BPF_OBJ_NAME_LEN - 1])
        except ValueError as error:
            raise ObjectFileError(f"{where}: {error}") from None
        if selection.only is None and not kind.autoload:
            continue
        linked = linker.link(function)
        if linked.core_relocations and not linked.func_info:
            raise ObjectFileError(f"{where}: section '.BTF.ext' does not describe all its functions: compile with -g")
        references = [_map_reference(reference, by_offset, data) for reference in linked.references]
        references += [
            MapReference(use.slot, KCONFIG, offset)
            for use in linked.symbols
            if (offset := externs[use.name].offset) is not None
        ]
        yield ProgramDeclaration(function.name, function.section.name, kind, linked, references)


def _check_selection(selection: Selection, functions: list[Function]) -> None:
    names = {function.name for function in functions}
    for name in [*(selection.only or ()), *selection.without]:
        if name not in names:
            raise ValueError(f"the object file has no program {name!r}: it has {', '.join(sorted(names)) or 'none'}")
    sections = {function.section.name.removeprefix("?") for function in functions}
    for section in selection.sections:
        if section.removeprefix("?") not in sections:
            raise ValueError(f"the object file has no section {section!r} of programs")


def _map_reference(reference: Reference, maps: dict[int, str], data: dict[str, DataSection]) -> MapReference:
    section, offset = reference.section, reference.offset
    if section.name == ".maps":
        if offset in maps:
            return MapReference(reference.slot, maps[offset], None)
        raise ObjectFileError(f"{reference.where} refers to byte {offset} of section '.maps': no map begins there")
    if section.name.startswith("maps/"):
        raise ObjectFileError(f"{reference.where} refers to section {section.name!r}: {_UNSUPPORTED['maps']}")
    if section.name not in data:
        raise ObjectFileError(f"{reference.where} refers to section {section.name!r}, which holds no variables")
    if not 0 <= offset < section.size:
        raise ObjectFileError(f"{reference.where} refers to byte {offset} of section {section.name!r}: behind its end")
    return MapReference(reference.slot, section.name, offset)
