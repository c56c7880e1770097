"""Where in an executable or a shared library its functions are: what a uprobe is given.

pyelftools reads the file's headers (the extra rawbpf[elf]); the symbols, of which there may be many thousands, are
unpacked here.

Source: the ELF specification, Documentation/trace/uprobetracer.rst.
"""

import os
import platform
import shutil
import struct
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import repeat
from typing import TYPE_CHECKING, Any

from rawbpf.syscall import StrPath

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

# struct Elf64_Sym and Elf32_Sym: name, info, section, value. The order of the fields differs.
_SYMBOLS = {64: ("IBxHQ8x", (0, 1, 2, 3)), 32: ("II4xBxH", (0, 2, 3, 1))}
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
    # Debian's folders are named after the machine.
    for root in ("/usr/lib", "/lib"):
        yield f"{root}/{platform.machine()}-linux-gnu"


def function_offset(path: str, name: str) -> int:
    """The offset in the file of the function with this name.

    Raises LookupError if there is none, or if several static ones have the name; ValueError if the file is no ELF file,
    ImportError without pyelftools.
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


def function_offsets(path: str, pattern: str) -> dict[int, str]:
    """The offsets in the file, and the names, of all functions whose names match the pattern. Of several names for one
    function, the first in the alphabet.

    Raises LookupError if there is none; else as function_offset().
    """
    found: dict[int, str] = {}
    for name, offsets in sorted(_functions(path).items()):
        if fnmatchcase(name, pattern):
            for offset in offsets:
                found.setdefault(offset, name)
    if not found:
        raise LookupError(f"{path!r} has no function that matches {pattern!r}")
    return dict(sorted(found.items()))


def _functions(path: str) -> dict[str, dict[int, bool]]:
    """The functions by name: where each is in the file, and whether its name is global."""
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        text = (
            f"to find functions in {path!r} pyelftools is needed (pip install pyelftools); or give offsets in the file"
        )
        raise ImportError(text) from None
    found: dict[str, dict[int, bool]] = {}
    with open(path, "rb") as file:
        try:
            elf = ELFFile(file)
            segments = [
                (segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"], segment["p_offset"])
                for segment in elf.iter_segments()
                if segment["p_type"] == "PT_LOAD"
            ]
            for name, info, address in _symbols(elf):
                place = next((s for s in segments if s[0] <= address < s[1]), None)
                if place is not None:
                    offsets = found.setdefault(name, {})
                    offset = address - place[0] + place[2]
                    offsets[offset] = offsets.get(offset, False) or info >> 4 == _STB_GLOBAL
        except (ELFError, struct.error, ValueError) as error:
            raise ValueError(f"{path!r} is no well-formed ELF file: {error}") from None
    return found


def _symbols(elf: "ELFFile") -> Iterator[tuple[str, int, int]]:
    """Name, info and address of each function that is defined in the file. Of versions only the default one."""
    fields, (name_at, info_at, section_at, value_at) = _SYMBOLS[elf.elfclass]
    layout = struct.Struct(("<" if elf.little_endian else ">") + fields)
    for section_name in (".symtab", ".dynsym"):
        section: Any = elf.get_section_by_name(section_name)
        if section is None:
            continue
        names = elf.get_section(section["sh_link"]).data()
        data = section.data()
        symbols = layout.iter_unpack(data[: len(data) // layout.size * layout.size])
        hiddens = _hidden(elf) if section_name == ".dynsym" else repeat(False)
        for symbol, hidden in zip(symbols, hiddens, strict=False):  # the second never ends
            if symbol[info_at] & 0xF == _STT_FUNC and symbol[section_at] and symbol[value_at] and not hidden:
                begin = symbol[name_at]
                yield names[begin : names.index(b"\0", begin)].decode(), symbol[info_at], symbol[value_at]


def _hidden(elf: "ELFFile") -> Iterator[bool]:
    """For each dynamic symbol whether it is an old version of the name, for programs linked long ago."""
    versions: Any = elf.get_section_by_name(".gnu.version")
    if versions is not None:
        data = versions.data()
        numbers = struct.iter_unpack("<H" if elf.little_endian else ">H", data[: len(data) // 2 * 2])
        yield from (bool(number & _VERSYM_HIDDEN) for (number,) in numbers)
    yield from repeat(False)
