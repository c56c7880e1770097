"""The BTF of an object file, made ready for the kernel: clang leaves to the loader what it can't know.

Places of variables come from the ELF file. Externs, which are elsewhere, become variables of a kind that the kernel
accepts: those of __kconfig get a place in a map that the loader fills, those of __ksym stand for nothing any more.

Source: Documentation/bpf/btf.rst, tools/lib/bpf/libbpf.c (bpf_object__collect_externs).
"""

import struct
from typing import NamedTuple

from rawbpf.btf.reader import HEADER, MAGIC, Btf, BtfError, Kind, SectionVariable, Type
from rawbpf.btf.writer import Builder
from rawbpf.objects.elf import Elf, ObjectFileError, Section

KCONFIG, KSYMS = ".kconfig", ".ksyms"

_WORD = struct.Struct("=I")
_TRIPLE = struct.Struct("=III")
_TYPE_SIZE = 12

# Linkage of a VAR and of a FUNC.
_STATIC, _GLOBAL = 0, 1

# More than all of a kernel's configuration.
_KCONFIG_MAX = 1 << 20


class Extern(NamedTuple):
    """A symbol that the kernel has: `type_id` is of its type, for a function of its prototype; 0 is void, whose address
    alone is wanted. `offset` is that of a __kconfig value in its map, None for __ksym."""

    name: str
    type_id: int
    is_function: bool
    is_weak: bool
    offset: int | None


class ObjectBtf(NamedTuple):
    """`data` is the blob for the kernel, `btf` the same, read. `empty_struct` is the id of a type that stands for the
    key of what has none."""

    data: bytes
    btf: Btf
    empty_struct: int
    externs: dict[str, Extern]
    kconfig_size: int


def prepare(file: Elf) -> ObjectBtf:
    """Makes the file's BTF ready. Raises ObjectFileError, BtfError."""
    section = file.section(".BTF")
    if section is None:
        if file.section(".maps"):
            raise ObjectFileError("there is no section '.BTF': compile with clang -g")
        section = Section(0, ".BTF", Builder().encode(), 0, False)
    return _Preparation(file, section).result()


class _Preparation:
    """The types while they are changed: `_data` is the blob, `_btf` what stood there at first; ids and places stay."""

    def __init__(self, file: Elf, section: Section) -> None:
        self._file = file
        self._data = bytearray(section.data)
        self._relocate(section)
        self._btf = Btf(bytes(self._data))
        self._weak = {symbol.name: symbol.binding == "WEAK" for symbol in file.symbols if symbol.section is None}
        self._externs: dict[str, Extern] = {}
        self._kconfig_size = 0
        # The types that come behind the file's own: an empty struct, an integer, a variable.
        self._empty_struct = len(self._btf)
        self._integer, self._variable = self._empty_struct + 1, self._empty_struct + 2

    def result(self) -> ObjectBtf:
        hidden = {symbol.name for symbol in self._file.symbols if symbol.hidden}
        for type_id in range(1, len(self._btf)):
            found = self._btf.type(type_id)
            if found.kind == Kind.DATASEC:
                self._section(found)
            elif found.kind in (Kind.FUNC, Kind.VAR) and found.name in hidden:
                # A hidden symbol is the file's own: the verifier need not look at such a function by itself.
                self._set_linkage(found, _STATIC)
            elif found.kind == Kind.INT:
                self._check_integer(found)
        data = self._with_own_types()
        return ObjectBtf(data, Btf(data), self._empty_struct, self._externs, self._kconfig_size)

    def _relocate(self, section: Section) -> None:
        """Adds the places of static variables, which are those of symbols."""
        for relocation in self._file.relocations.get(section.number, []):
            if relocation.offset + 4 > len(self._data):
                raise ObjectFileError(f"section '.BTF': a relocation to {relocation.symbol} is behind its end")
            if relocation.symbol.section is not None:
                (offset,) = _WORD.unpack_from(self._data, relocation.offset)
                self._put(relocation.offset, offset + relocation.symbol.offset)

    def _check_integer(self, found: Type) -> None:
        said = self._btf.integer(found)
        if not (1 <= found.size <= 16 and 1 <= said.bits <= found.size * 8 - said.bit_offset):
            raise BtfError(f"type {found.id} is an integer of {said.bits} bits in {found.size} bytes")

    def _section(self, found: Type) -> None:
        entries = self._btf.variables(found)
        if found.name == KCONFIG:
            placed = self._kconfig(entries)
            self._complete(found, self._kconfig_size, placed)
        elif found.name == KSYMS:
            self._complete(found, 4 * len(entries), [self._kernel_symbol(*entry) for entry in enumerate(entries)])
        else:
            section = self._file.section(found.name)
            if section is not None:
                self._complete(found, section.size, self._in_place(section, entries))
            elif not any(symbol.kind == "COMMON" for symbol in self._file.symbols):
                raise ObjectFileError(f"section '.BTF' describes a section {found.name!r}, which there is not")
            else:
                self._complete(found, *self._of_common_symbols(entries))

    def _in_place(self, section: Section, entries: list[SectionVariable]) -> list[SectionVariable]:
        """The variables where their symbols are: bpftool gen object leaves the offset of a __weak one as it is, when
        another file's takes its place."""
        places = {s.name: s.offset for s in self._file.symbols if s.section is section and s.binding != "LOCAL"}
        placed = []
        for entry in entries:
            variable = self._btf.type(entry.type_id)
            is_shared = variable.kind == Kind.VAR and self._btf.linkage(variable) != _STATIC
            placed.append(entry._replace(offset=places.get(variable.name, entry.offset)) if is_shared else entry)
        return placed

    def _complete(self, found: Type, size: int, entries: list[SectionVariable]) -> None:
        """Writes the section's size and its variables, which the kernel wants in the order of their offsets."""
        place = self._btf.place(found.id)
        self._put(place + 8, size)
        for index, entry in enumerate(sorted(entries, key=lambda entry: entry.offset)):
            _TRIPLE.pack_into(self._data, place + _TYPE_SIZE * (index + 1), *entry)

    def _of_common_symbols(self, entries: list[SectionVariable]) -> tuple[int, list[SectionVariable]]:
        """No linker gave them a place: any will do for what nothing uses."""
        at, placed = 0, []
        for entry in entries:
            placed.append(entry._replace(offset=at))
            at += entry.size
        return at, placed

    # Externs

    def _kconfig(self, entries: list[SectionVariable]) -> list[SectionVariable]:
        """The places of the variables in their map: in libbpf's order, the most aligned first."""
        ordered = []
        for entry in entries:
            variable = self._var(entry, KCONFIG)
            size, alignment = self._btf.size_of(variable.size), self._alignment(variable)
            ordered.append((-alignment, size, variable.name, variable, entry))
        placed, at = [], 0
        for negative, size, name, variable, entry in sorted(ordered, key=lambda each: each[:3]):
            at = (at - negative - 1) // -negative * -negative
            placed.append(entry._replace(offset=at, size=size))
            self._add(Extern(name, variable.size, False, self._weak.get(name, True), at))
            self._set_linkage(variable, _GLOBAL)
            at += size
        if at > _KCONFIG_MAX:
            raise ObjectFileError(f"the __kconfig values have more than {_KCONFIG_MAX} bytes")
        self._kconfig_size = at
        return placed

    def _alignment(self, variable: Type) -> int:
        found = self._btf.resolve(variable.size)
        if found.kind == Kind.ARRAY:
            found = self._btf.resolve(self._btf.array(found)[0])
        if found.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64) or found.size not in (1, 2, 4, 8):
            raise ObjectFileError(f"__kconfig {variable.name!r} is no number, no text and no enum libbpf_tristate")
        return found.size

    def _kernel_symbol(self, index: int, entry: SectionVariable) -> SectionVariable:
        found = self._btf.type(entry.type_id)
        if found.kind == Kind.FUNC:
            self._name_parameters(self._btf.type(found.size))
            type_id, stand_in = found.size, self._variable
        else:
            self._var(entry, KSYMS)
            type_id, stand_in = self._btf.resolve(found.size).id, found.id
            self._put(self._btf.place(found.id) + 8, self._integer)
        self._set_linkage(found, _GLOBAL)
        self._add(Extern(found.name, type_id, found.kind == Kind.FUNC, self._weak.get(found.name, True), None))
        return SectionVariable(stand_in, 4 * index, 4)

    def _name_parameters(self, prototype: Type) -> None:
        """A function that is not extern must name its parameters, and this one counts as such from now on."""
        for index, (name, type_id) in enumerate(self._btf.parameters(prototype)):
            if type_id and not name:
                self._put(self._btf.place(prototype.id) + _TYPE_SIZE + 8 * index, self._own_name)

    def _var(self, entry: SectionVariable, section: str) -> Type:
        found = self._btf.type(entry.type_id)
        if found.kind != Kind.VAR or not found.name:
            raise BtfError(f"type {found.id} in section {section!r} is no variable")
        return found

    def _add(self, extern: Extern) -> None:
        if extern.name in self._externs:
            raise BtfError(f"two externs are named {extern.name!r}")
        self._externs[extern.name] = extern

    # What is written

    @property
    def _own_name(self) -> int:
        """The offset of the name of what is added, the first string behind the file's own."""
        return int(_WORD.unpack_from(self._data, 20)[0])

    def _set_linkage(self, found: Type, linkage: int) -> None:
        place = self._btf.place(found.id)
        if found.kind == Kind.VAR:
            self._put(place + _TYPE_SIZE, linkage)
        else:
            # A function's is where other types count their members.
            self._put(place + 4, Kind.FUNC << 24 | linkage)

    def _put(self, place: int, number: int) -> None:
        _WORD.pack_into(self._data, place, number & 0xFFFFFFFF)

    def _with_own_types(self) -> bytes:
        """The blob with three types more. (The kernel takes no value type without a key type, hence an empty struct.)

        Its header: 8 bytes, then type_off, type_len, str_off, str_len.
        """
        (header,) = _WORD.unpack_from(self._data, 4)
        type_off, type_len, str_off, str_len = struct.unpack_from("=IIII", self._data, 8)
        types = self._data[header + type_off :][:type_len] + b"".join(
            (
                _TRIPLE.pack(0, Kind.STRUCT << 24, 0),
                _TRIPLE.pack(str_len, Kind.INT << 24, 4) + _WORD.pack(32),
                _TRIPLE.pack(str_len, Kind.VAR << 24, self._integer) + _WORD.pack(_GLOBAL),
            )
        )
        strings = self._data[header + str_off :][:str_len] + b"kernel_symbol\0"
        return HEADER.pack(MAGIC, 1, 0, HEADER.size, 0, len(types), len(types), len(strings)) + types + strings
