"""ELF as clang -target bpf writes it: the sections, symbols and relocations of one object file, as plain records.

pyelftools reads the format (the extra rawbpf[elf]). Nothing in the file is believed: what is no BPF object of this
machine's byte order, or does not fit together, is an ObjectFileError.

Source: Documentation/bpf/llvm_reloc.rst, the ELF specification.
"""

import io
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

_EM_BPF = "EM_BPF"
_SHF_ALLOC, _SHF_EXECINSTR, _SHF_COMPRESSED = 0x2, 0x4, 0x800
_SHN_COMMON = "SHN_COMMON"

# A .bss is a size and no bytes: what a map's value may have.
_BSS_MAX = 64 << 20

_NAME_MAX = 1024


class ObjectFileError(ValueError):
    """The file is no BPF object that can be loaded here. The text names the section and the symbol.

    >>> ObjectFile.load("/proc/version")
    Traceback (most recent call last):
        ...
    rawbpf.objects.elf.ObjectFileError: '/proc/version': not a well-formed ELF file: Magic number does not match
    """


class Section(NamedTuple):
    """A section: its bytes (none for .bss), its size in bytes, and whether it holds instructions."""

    number: int
    name: str
    data: bytes
    size: int
    executable: bool


class Symbol(NamedTuple):
    """A name for a place: `offset` bytes into a section; section None is defined nowhere in this file.

    `kind` is FUNC, OBJECT, SECTION, NOTYPE, or COMMON for a variable that only a linker would give a place (-fcommon);
    `binding` is LOCAL (static), GLOBAL or WEAK.
    """

    name: str
    kind: str
    binding: str
    hidden: bool
    section: "Section | None"
    offset: int
    size: int

    def __str__(self) -> str:
        return repr(self.name) if self.name else f"section {self.section.name!r}" if self.section else "no symbol"


class Relocation(NamedTuple):
    """A place, `offset` bytes into its section, that is to get the address of a symbol."""

    offset: int
    type: int
    symbol: Symbol


class Elf(NamedTuple):
    """One object file. Relocations are found by the number of the section that they change."""

    sections: list[Section]
    symbols: list[Symbol]
    relocations: dict[int, list[Relocation]]

    def section(self, name: str) -> "Section | None":
        """The section of this name, if there is one."""
        return next((section for section in self.sections if section.name == name), None)


_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def read(data: bytes) -> Elf:
    """The object file in `data`. Raises ObjectFileError; ImportError without pyelftools."""
    try:
        from elftools.common.exceptions import ELFError
        from elftools.construct import ConstructError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise ImportError("reading object files needs pyelftools: pip install 'rawbpf[elf]'") from None
    try:
        return _read(ELFFile(io.BytesIO(data)), len(data))
    except ObjectFileError:
        raise
    # Broken files make pyelftools raise all of these. What a signal handler raises is something else.
    except (ELFError, ConstructError, struct.error, *_ERRORS) as error:
        raise ObjectFileError(f"not a well-formed ELF file: {str(error) or type(error).__name__}") from error


def _read(file: Any, length: int) -> Elf:
    if file.elfclass != 64 or file["e_machine"] not in (_EM_BPF, 0) or file["e_type"] != "ET_REL":
        raise ObjectFileError(
            f"not an object file for BPF but {file.elfclass}-bit {file['e_machine']} {file['e_type']}: "
            "compile with clang -target bpf -c"
        )
    if file.little_endian != (sys.byteorder == "little"):
        order = "little" if file.little_endian else "big"
        raise ObjectFileError(f"the object file is {order}-endian, this machine is not: compile with -target bpf")
    # A section's header has 64 bytes: a count that can't be would be a loop of 2**64 turns.
    if file.num_sections() > length // 64:
        raise ObjectFileError(f"{file.num_sections()} sections do not fit the file's {length} bytes")
    raw = list(file.iter_sections())
    _check_room(raw, length)
    sections = [_section(number, section) for number, section in enumerate(raw)]
    tables = [section for section in raw if section["sh_type"] == "SHT_SYMTAB"]
    if len(tables) != 1:
        raise ObjectFileError("the file has no symbol table: was it stripped? (llvm-strip -g keeps what is needed)")
    symbols = list(_symbols(tables[0], sections, length))
    return Elf(sections, symbols, dict(_relocations(raw, sections, symbols, length)))


def _check_room(raw: list[Any], length: int) -> None:
    """Sections that overlap, and symbols that share one long name, would make much memory of a small file."""
    if sum(section["sh_size"] for section in raw if section["sh_type"] not in ("SHT_NOBITS", "SHT_NULL")) > length:
        raise ObjectFileError("the sections overlap, or are cut off")
    for section in raw:
        if section["sh_type"] == "SHT_STRTAB" and max(map(len, section.data().split(b"\0"))) > _NAME_MAX:
            raise ObjectFileError(f"a name in section {section.name!r} is longer than {_NAME_MAX} bytes")


def _section(number: int, section: Any) -> Section:
    flags, size = section["sh_flags"], section["sh_size"]
    if flags & _SHF_COMPRESSED and section.name.startswith(".debug"):
        # clang -gz compresses DWARF, which nothing here reads.
        size, data = 0, b""
    elif flags & _SHF_COMPRESSED:
        raise ObjectFileError(f"section {section.name!r} is compressed")
    elif section["sh_type"] == "SHT_NOBITS":
        if size > _BSS_MAX:
            raise ObjectFileError(f"section {section.name!r} has {size} bytes, more than {_BSS_MAX}")
        data = b""
    elif section["sh_type"] == "SHT_NULL":
        size, data = 0, b""
    else:
        data = section.data()
        if len(data) != size:
            raise ObjectFileError(f"section {section.name!r} is cut off: {len(data)} of {size} bytes")
    return Section(number, section.name, data, size, bool(flags & _SHF_EXECINSTR and flags & _SHF_ALLOC))


def _symbols(table: Any, sections: list[Section], length: int) -> Iterator[Symbol]:
    _check_count(table, length)
    if table.stringtable["sh_type"] != "SHT_STRTAB":
        raise ObjectFileError(f"section {table.name!r} has no string table")
    for symbol in table.iter_symbols():
        index = symbol["st_shndx"]
        section = None
        if isinstance(index, int):
            if index >= len(sections):
                raise ObjectFileError(f"symbol {symbol.name!r} is in section {index}, and there are {len(sections)}")
            section = sections[index]
            if symbol["st_value"] > section.size:
                raise ObjectFileError(f"symbol {symbol.name!r} is behind the end of section {section.name!r}")
        info = symbol["st_info"]
        yield Symbol(
            symbol.name,
            "COMMON" if index == _SHN_COMMON else str(info["type"]).removeprefix("STT_"),
            str(info["bind"]).removeprefix("STB_"),
            symbol["st_other"]["visibility"] == "STV_HIDDEN",
            section,
            symbol["st_value"],
            symbol["st_size"],
        )


def _relocations(
    raw: list[Any], sections: list[Section], symbols: list[Symbol], length: int
) -> Iterator[tuple[int, list[Relocation]]]:
    for table in raw:
        if table["sh_type"] != "SHT_REL":
            continue
        _check_count(table, length)
        if table["sh_info"] >= len(sections):
            raise ObjectFileError(f"section {table.name!r} relocates section {table['sh_info']}, which there is not")
        changed = sections[table["sh_info"]]
        if changed.name.startswith(".debug"):
            continue
        entries = []
        for entry in table.iter_relocations():
            number = entry["r_info_sym"]
            if number >= len(symbols):
                raise ObjectFileError(f"section {table.name!r} names symbol {number}, and there are {len(symbols)}")
            entries.append(Relocation(entry["r_offset"], entry["r_info_type"], symbols[number]))
        yield changed.number, entries


def _check_count(table: Any, length: int) -> None:
    """A table's entries must be of the size that they have, for a number of them comes of it."""
    expected = {"SHT_SYMTAB": 24, "SHT_REL": 16}[table["sh_type"]]
    if table["sh_entsize"] != expected or table["sh_size"] % expected or table["sh_size"] > length:
        raise ObjectFileError(f"section {table.name!r} has entries of {table['sh_entsize']} bytes, not {expected}")
