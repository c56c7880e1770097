"""The global variables of a loaded object file."""

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

from rawbpf import syscall
from rawbpf.objects.declarations import DataSection, Declarations
from rawbpf.syscall.descriptor import Descriptor
from rawbpf.values.btf_codec import BtfCodec


class Variables:
    """The global variables of a loaded file by their names in C: variables["seen"], variables["limit"] = 5.

    A read or write is a copy from or to the memory that the programs use, for a scalar in one piece. Constants, and
    values of the kernel's configuration (__kconfig), are frozen once loaded. A static variable can be written if a
    variable that is not static is in the same section. KeyError for a name that does not exist, TypeError for writing
    what can't be written.
    """

    def __init__(self, declarations: Declarations, maps: Mapping[str, Descriptor]) -> None:
        self._maps = maps
        self._btf = declarations.btf
        self._places = {
            name: (section, variable)
            for section in declarations.data.values()
            for name, variable in section.variables.items()
        }

    def __getitem__(self, name: str) -> Any:
        section, variable = self._places[name]
        place = slice(variable.offset, variable.offset + variable.size)
        if section.shared:
            with self._memory(section, mmap.PROT_READ) as memory:
                data = memory[place]
        else:
            data = self._copy(section)[place]
        return BtfCodec(self._btf, variable.type_id).decode(data)

    def __setitem__(self, name: str, value: Any) -> None:
        section, variable = self._places[name]
        if section.read_only:
            raise TypeError(f"{name!r} is a constant: give its value to ObjectFile.load(variables=...)")
        if not section.shared:
            # The kernel would take all of the section at once, over what programs have written meanwhile.
            raise TypeError(
                f"{name!r} is static, and so is all of section {section.section.name!r}: "
                "without static it can be written while programs run"
            )
        data = BtfCodec(self._btf, variable.type_id).encode(value)
        with self._memory(section, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[variable.offset : variable.offset + variable.size] = data

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _memory(self, section: DataSection, protection: int) -> mmap.mmap:
        return mmap.mmap(self._maps[section.section.name].fileno(), section.section.size, prot=protection)

    def _copy(self, section: DataSection) -> bytes:
        return syscall.map_lookup_elem(self._maps[section.section.name].fileno(), bytes(4))
