"""Where in an executable or a shared library its functions are: what a uprobe is given.

Source: elf(5), Documentation/trace/uprobetracer.rst.
"""

import os
import platform
import shutil
import struct
import sysconfig
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain, repeat
from typing import Any, BinaryIO, NamedTuple

from rawbpf.syscall import StrPath


class _Layout(NamedTuple):
    """The structs of a class of ELF files, and which fields of each are read here, by their places in it."""

    header: str  # Ehdr: where segments and sections are described, how many there are
    header_fields: tuple[int, ...]
    segment: str  # Phdr: type, offset, address, size in memory
    segment_fields: tuple[int, ...]
    section: str  # Shdr: type, offset, size, linked section
    section_fields: tuple[int, ...]
    symbol: str  # Sym: name, info, section, value
    symbol_fields: tuple[int, ...]


# By the fifth byte of the file: 32 and 64 bits.
_LAYOUTS = {
    1: _Layout(
        "16s2H5I6H", (5, 6, 10, 12), "8I", (0, 1, 2, 5), "10I", (1, 4, 5, 6), "3I2BH", (0, 3, 5, 1),
    ),
    2: _Layout(
        "16s2HI3QI6H", (5, 6, 10, 12), "2I6Q", (0, 2, 3, 6), "2I4Q2I2Q", (1, 4, 5, 6), "I2BH2Q", (0, 1, 3, 4),
    ),
}  # fmt: skip
# By the sixth.
_BYTE_ORDERS = {1: "<", 2: ">"}

_PT_LOAD, _SHT_SYMTAB, _SHT_DYNSYM, _SHT_GNU_VERSYM = 1, 2, 11, 0x6FFFFFFF
_STT_FUNC, _STB_GLOBAL, _VERSYM_HIDDEN = 2, 1, 0x8000


def resolve(path: StrPath) -> str:
    """The file that a name stands for: a path as it is; "libc.so.6" and "bash" where the system looks for libraries and
    programs. FileNotFoundError if there is none."""
    name = os.fsdecode(path)
    if "/" in name:
        return os.path.abspath(name)
    if ".so" not in name:
        found = shutil.which(name)
    else:
        folders = [*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), *_library_folders()]
        found = next(
            (path for path in (os.path.join(folder, name) for folder in folders) if os.path.isfile(path)), None
        )
    if found is None:
        raise FileNotFoundError(2, "no such program or library in the system's folders", name)
    return found


def _library_folders() -> Iterator[str]:
    yield from ("/usr/lib64", "/lib64", "/usr/lib", "/lib")
    # Debian's folders are named after what programs are compiled for. For a 32-bit process that is not the machine.
    for machine in (sysconfig.get_config_var("MULTIARCH") or "", f"{platform.machine()}-linux-gnu"):
        for root in ("/usr/lib", "/lib"):
            yield f"{root}/{machine}"


def function_offset(path: str, name: str) -> int:
    """The offset in the file of the function with this name.

    Raises LookupError if there is none, or if several static ones have the name; ValueError if the file is no ELF file.
    """
    offsets = _functions(path).get(name, {})
    strongest = {offset for offset, is_global in offsets.items() if is_global} or set(offsets)
    if not strongest:
        hint = "its symbols may be stripped: give the offset in the file, as in 'path:0x1234'"
        raise LookupError(f"{path!r} has no function {name!r}; {hint}")
    if len(strongest) > 1:
        where = ", ".join(map(hex, sorted(strongest)))
        raise LookupError(f"{path!r} has several functions {name!r}, at {where}: give one of these offsets")
    return strongest.pop()


def function_offsets(path: str, pattern: str) -> list[int]:
    """The offsets in the file of all functions whose names match the pattern.

    Raises LookupError if there is none; ValueError as function_offset().
    """
    offsets = {offset for name, offsets in _functions(path).items() if fnmatchcase(name, pattern) for offset in offsets}
    if not offsets:
        raise LookupError(f"{path!r} has no function that matches {pattern!r}")
    return sorted(offsets)


def _functions(path: str) -> dict[str, dict[int, bool]]:
    """The functions by name: where each is in the file, and whether its name is global."""
    found: dict[str, dict[int, bool]] = {}
    try:
        with open(path, "rb") as file:
            elf = _Elf(file)
            for name, info, address in elf.symbols():
                offset = elf.offset_of(address)
                if offset is not None:
                    offsets = found.setdefault(name, {})
                    offsets[offset] = offsets.get(offset, False) or info >> 4 == _STB_GLOBAL
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise ValueError(f"{path!r} is no well-formed ELF file: {error}") from None
    return found


class _Elf:
    """What is read here of an ELF file. What it says of itself may be wrong: that is a ValueError, KeyError, IndexError
    or struct.error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        ident = self._read(0, 16)
        if ident[:4] != b"\x7fELF":
            raise ValueError("it does not begin as one")
        self._layout = _LAYOUTS[ident[4]]
        self._order = _BYTE_ORDERS[ident[5]]
        layout = struct.Struct(self._order + self._layout.header)
        header = layout.unpack(self._read(0, layout.size))
        segments, sections, segment_count, section_count = (header[field] for field in self._layout.header_fields)
        self._segments = list(self._table(self._layout.segment, self._layout.segment_fields, segments, segment_count))
        self._sections = list(self._table(self._layout.section, self._layout.section_fields, sections, section_count))

    def _read(self, offset: int, length: int) -> bytes:
        if offset >= self._size:
            return b""
        self._file.seek(offset)
        return self._file.read(min(length, self._size))

    def _table(self, layout: str, fields: tuple[int, ...], offset: int, count: int) -> Iterator[tuple[Any, ...]]:
        """Some fields of each of so many structs that lie one behind the other."""
        struct_ = struct.Struct(self._order + layout)
        content = self._read(offset, count * struct_.size)
        rows = struct_.iter_unpack(content[: len(content) // struct_.size * struct_.size])
        return (tuple(row[field] for field in fields) for row in rows)

    def offset_of(self, address: int) -> int | None:
        """Where in the file that is which a process has at the address."""
        for kind, offset, begin, size in self._segments:
            if kind == _PT_LOAD and begin <= address < begin + size:
                return int(address - begin + offset)
        return None

    def symbols(self) -> Iterator[tuple[str, int, int]]:
        """Name, info and address of each function that is defined in the file; of several versions the default one."""
        size = struct.calcsize(self._order + self._layout.symbol)
        for number, (kind, offset, length, names) in enumerate(self._sections):
            if kind not in (_SHT_SYMTAB, _SHT_DYNSYM):
                continue
            texts = self._content(names)
            rows = self._table(self._layout.symbol, self._layout.symbol_fields, offset, length // size)
            for (name, info, section, value), version in zip(rows, self._versions(number), strict=False):
                if info & 0xF == _STT_FUNC and section and value and not version & _VERSYM_HIDDEN:
                    yield texts[name : texts.index(b"\0", name)].decode(errors="replace"), info, value

    def _versions(self, symbols: int) -> Iterator[int]:
        """The version of each symbol of a section; the section of versions says which it belongs to."""
        for number, (kind, _, _, belongs_to) in enumerate(self._sections):
            if kind == _SHT_GNU_VERSYM and belongs_to == symbols:
                content = self._content(number)
                return chain(
                    struct.unpack(f"{self._order}{len(content) // 2}H", content[: len(content) & ~1]), repeat(0)
                )
        return repeat(0)

    def _content(self, section: int) -> bytes:
        _, offset, length, _ = self._sections[section]
        return self._read(offset, length)
