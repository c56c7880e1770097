"""BTF, the kernel's type information: which struct has which member at which offset.

Reads what is asked for and no more: the kernel's own BTF has some 150,000 types, and one pass over their headers
(one tenth of a second) finds them all. What is malformed is found when it is read, and always a BtfError: no circle of
types is an endless loop, and no name or number in the data decides how much memory an answer takes.

Source: Documentation/bpf/btf.rst.
"""

import functools
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from rawbpf import syscall

VMLINUX = "/sys/kernel/btf/vmlinux"


class Kind(IntEnum):
    """BTF_KIND_*: what a type is."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Bytes behind the 12 bytes of struct btf_type: fixed ones, and ones for each of its vlen entries.
_TAIL = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}

# Kinds whose `size` is a size.
_SIZED = (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC)

# Types that only lead to another type.
_MODIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})

HEADER = struct.Struct("=HBBIIIII")
TYPE = struct.Struct("=III")
TRIPLE = struct.Struct("=III")
PAIR = struct.Struct("=II")
WORD = struct.Struct("=I")

MAGIC = 0xEB9F
# clang -target bpf and 64-bit kernels have such pointers, also when a process has smaller ones.
POINTER_SIZE = 8

# How much a type may ask for: modifiers in a row and arrays in arrays (the kernel's limit too, MAX_RESOLVE_DEPTH),
# bytes of a name (the kernel's is 512), members listed by fields().
_MOST_STEPS = 32
_LONGEST_NAME = 1024
_MOST_FIELDS = 1 << 16


class BtfError(ValueError):
    """The data is not well-formed BTF."""


class Type(NamedTuple):
    """struct btf_type: `size` is in bytes where the kind has a size, else the id of the type it refers to."""

    id: int
    kind: Kind
    name: str
    size: int
    vlen: int
    kflag: bool


class Member(NamedTuple):
    """A member of a struct or union: its offset is in bits, bitfield_size 0 for whole bytes."""

    name: str
    type_id: int
    bit_offset: int
    bitfield_size: int


class SectionVariable(NamedTuple):
    """A variable of a section (BTF_KIND_DATASEC): the id of its VAR, its offset and size in bytes."""

    type_id: int
    offset: int
    size: int


class Integer(NamedTuple):
    """What an INT says beyond its size: which of its bits count, from which bit on, and how they are read."""

    bits: int
    bit_offset: int
    signed: bool
    char: bool
    boolean: bool


class Btf:
    """The types of one BTF blob. Raises BtfError where it is malformed."""

    def __init__(self, data: bytes) -> None:
        if len(data) < HEADER.size:
            raise BtfError(f"BTF has a header of {HEADER.size} bytes, here are {len(data)}")
        magic, version, _, header, type_off, type_len, str_off, str_len = HEADER.unpack_from(data)
        if magic != MAGIC or version != 1:
            raise BtfError(f"not BTF of this machine's byte order: magic {magic:#x}, version {version}")
        if header < HEADER.size:
            raise BtfError(f"BTF has a header of {HEADER.size} bytes, this one says {header}")
        if header + max(type_off + type_len, str_off + str_len) > len(data):
            raise BtfError("the BTF is cut off")
        self._start: int = header + type_off
        self._types = data[self._start :][:type_len]
        self._strings = data[header + str_off :][:str_len]
        if not self._strings or self._strings[0] or self._strings[-1]:
            raise BtfError("BTF strings begin and end with NUL")
        self._offsets = self._index()

    @classmethod
    def from_id(cls, btf_id: int) -> "Btf":
        """The types that a map or program has loaded with it: MapInfo.btf_id says which.

        Raises NotPermitted (EPERM) without CAP_SYS_ADMIN; CAP_BPF is not enough. NotFound (ENOENT). Linux 4.18.
        """
        fd = syscall.btf_get_fd_by_id(btf_id)
        try:
            return cls(syscall.btf_get_info_by_fd(fd).data)
        finally:
            os.close(fd)

    def _index(self) -> "array[int]":
        """Where each type begins, by id; id 0 is void and has no record."""
        tails = [_TAIL.get(kind, (0, 0)) for kind in Kind]
        offsets = array("I", [0])
        data, offset, end = self._types, 0, len(self._types)
        unpack = TYPE.unpack_from
        try:
            while offset < end:
                offsets.append(offset)
                info = unpack(data, offset)[1]
                fixed, each = tails[info >> 24 & 0x1F]
                offset += 12 + fixed + each * (info & 0xFFFF)
        except (struct.error, IndexError):
            raise BtfError(f"type {len(offsets) - 1} is malformed") from None
        if offset != end:
            raise BtfError("the last type is cut off")
        return offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def string(self, offset: int) -> str:
        """The name at an offset of the string section; "" for no name."""
        if offset >= len(self._strings):
            raise BtfError(f"there is no string at {offset}")
        end = self._strings.find(0, offset, offset + _LONGEST_NAME + 1)
        if end < 0:
            raise BtfError(f"the string at {offset} has more than {_LONGEST_NAME} bytes")
        return self._strings[offset:end].decode("utf-8", "replace")

    def type(self, type_id: int) -> Type:
        """The type with this id."""
        if not 0 <= type_id < len(self._offsets):
            raise BtfError(f"there is no type {type_id}")
        if type_id == 0:
            return Type(0, Kind.VOID, "", 0, 0, False)
        name, info, size = TYPE.unpack_from(self._types, self._offsets[type_id])
        return Type(type_id, Kind(info >> 24 & 0x1F), self.string(name), size, info & 0xFFFF, bool(info >> 31))

    def place(self, type_id: int) -> int:
        """Where the type's record begins in the blob, in bytes."""
        return self._start + self._offsets[self.type(type_id).id]

    def find(self, kind: Kind, name: str) -> Type:
        """The first type of this kind and name; KeyError if there is none."""
        wanted = self._string_offsets(name)
        for type_id in range(1, len(self._offsets)):
            name_off, info, _ = TYPE.unpack_from(self._types, self._offsets[type_id])
            if name_off in wanted and info >> 24 & 0x1F == kind:
                return self.type(type_id)
        raise KeyError(f"{kind.name.lower()} {name}")

    def find_all(self, kind: Kind, names: Iterable[str]) -> dict[str, Type]:
        """The first type of this kind for each of the names, in one pass; those that there are none of are left out."""
        wanted = {offset: name for name in names for offset in self._string_offsets(name)}
        found: dict[str, Type] = {}
        for type_id in range(1, len(self._offsets) if wanted else 0):
            name_off, info, _ = TYPE.unpack_from(self._types, self._offsets[type_id])
            if name_off in wanted and info >> 24 & 0x1F == kind:
                found.setdefault(wanted[name_off], self.type(type_id))
        return found

    def _string_offsets(self, name: str) -> set[int]:
        """All offsets at which this string starts; the kernel's strings are unique, others need not be."""
        needle, found, offset = name.encode() + b"\0", set(), -1
        while (offset := self._strings.find(needle, offset + 1)) >= 0:
            if offset == 0 or self._strings[offset - 1] == 0:
                found.add(offset)
        return found

    def members(self, composite: Type) -> list[Member]:
        """The members of a struct or union, in its order."""
        result = []
        for name, type_id, offset in self._entries(composite, TRIPLE, Kind.STRUCT, Kind.UNION):
            size = offset >> 24 if composite.kflag else 0
            result.append(Member(self.string(name), type_id, offset & 0xFFFFFF if composite.kflag else offset, size))
        return result

    def variables(self, section: Type) -> list[SectionVariable]:
        """The variables of a section, in its order: in what clang writes, offsets are still to be relocated."""
        return [SectionVariable(*entry) for entry in self._entries(section, TRIPLE, Kind.DATASEC)]

    def integer(self, found: Type) -> Integer:
        """The encoding of an INT."""
        word = self._word(found, Kind.INT)
        return Integer(word & 0xFF, word >> 16 & 0xFF, bool(word & 1 << 24), bool(word & 1 << 25), bool(word & 1 << 26))

    def parameters(self, prototype: Type) -> list[tuple[str, int]]:
        """The names and type ids of a FUNC_PROTO's parameters; ("", 0) at the end stands for "..."."""
        return [(self.string(name), type_id) for name, type_id in self._entries(prototype, PAIR, Kind.FUNC_PROTO)]

    def linkage(self, variable: Type) -> int:
        """A VAR's linkage: 0 static, 1 global, 2 extern."""
        return self._word(variable, Kind.VAR)

    def component(self, tag: Type) -> int:
        """Which member or parameter of its type a DECL_TAG is about; -1 for the whole type."""
        index = self._word(tag, Kind.DECL_TAG)
        return index - (1 << 32) if index >> 31 else index

    def enumerators(self, enum: Type) -> dict[str, int]:
        """The names and values of an enum.

        They are signed if the type's kflag says so. clang before 15 does not set it: there -1 is 4294967295.
        """
        if enum.kind == Kind.ENUM64:
            wide = self._entries(enum, TRIPLE, Kind.ENUM64)
            bits, values = 64, {self.string(name): low | high << 32 for name, low, high in wide}
        else:
            bits, values = 32, {self.string(name): value for name, value in self._entries(enum, PAIR, Kind.ENUM)}
        if not enum.kflag:
            return values
        return {name: value - (1 << bits) if value >> bits - 1 else value for name, value in values.items()}

    def resolve(self, type_id: int) -> Type:
        """The type behind typedefs, const and the like."""
        here = type_id
        for _ in range(_MOST_STEPS):
            if not 0 < here < len(self._offsets):
                return self.type(here)
            _, info, size = TYPE.unpack_from(self._types, self._offsets[here])
            if info >> 24 & 0x1F not in _MODIFIERS:
                return self.type(here)
            here = size
        raise BtfError(f"type {type_id} refers to itself, or through more than {_MOST_STEPS} types to another")

    def array(self, found: Type) -> tuple[int, int]:
        """The element type's id and the number of elements of an array."""
        self._check_kind(found, Kind.ARRAY)
        element, _, count = TRIPLE.unpack_from(self._types, self._offsets[found.id] + 12)
        return element, count

    def size_of(self, type_id: int) -> int:
        """Length of a value of this type in bytes, C's sizeof(). BtfError for what has none, as functions."""
        count, found = 1, self.resolve(type_id)
        for _ in range(_MOST_STEPS):
            if found.kind == Kind.PTR:
                return count * POINTER_SIZE
            if found.kind != Kind.ARRAY:
                self._check_kind(found, *_SIZED)
                return count * found.size
            element, elements = self.array(found)
            count, found = count * elements, self.resolve(element)
        raise BtfError(f"array type {type_id} contains itself, or more than {_MOST_STEPS} arrays in one another")

    def offset_of(self, struct_name: str, path: str) -> int:
        """Byte offset of a member, C's offsetof(): `path` may lead through members ("map.max_entries").

        Members of anonymous structs and unions count as the outer type's own. KeyError if there is none.
        """
        return self.fields(self.find(Kind.STRUCT, struct_name))[path][0]

    def fields(self, composite: Type, depth: int = 8) -> dict[str, tuple[int, int]]:
        """Byte offset and size of every named member, by path; structs within are followed `depth` deep."""
        result: dict[str, tuple[int, int]] = {}
        for count, (path, offset, size) in enumerate(self._walk(composite, "", 0, depth)):
            if count == _MOST_FIELDS:
                raise BtfError(f"type {composite.id} has more than {_MOST_FIELDS} members")
            if path:
                result.setdefault(path, (offset, size))
        return result

    def _walk(self, composite: Type, prefix: str, base: int, depth: int) -> Iterator[tuple[str, int, int]]:
        """Path, offset and size of each member; one without a name has no path, and size 0."""
        for member in self.members(composite):
            inner = self.resolve(member.type_id)
            path, offset = prefix + member.name, base + member.bit_offset // 8
            yield (path, offset, self.size_of(member.type_id)) if member.name else ("", offset, 0)
            if inner.kind in (Kind.STRUCT, Kind.UNION) and depth:
                yield from self._walk(inner, f"{path}." if member.name else prefix, offset, depth - 1)

    def _entries(self, found: Type, layout: struct.Struct, *kinds: Kind) -> Iterator[tuple[int, ...]]:
        """What stands behind struct btf_type, vlen times."""
        self._check_kind(found, *kinds)
        start = self._offsets[found.id] + 12
        return layout.iter_unpack(self._types[start : start + layout.size * found.vlen])

    def _word(self, found: Type, kind: Kind) -> int:
        """The one number behind struct btf_type."""
        self._check_kind(found, kind)
        (word,) = WORD.unpack_from(self._types, self._offsets[found.id] + 12)
        return int(word)

    def _check_kind(self, found: Type, *kinds: Kind) -> None:
        if found.kind not in kinds:
            wanted = " or ".join(kind.name for kind in kinds)
            raise BtfError(f"type {found.id} is {found.kind.name}, not {wanted}")


@functools.cache
def vmlinux() -> Btf:
    """The running kernel's own types. OSError (FileNotFoundError) if the kernel was built without BTF."""
    with open(VMLINUX, "rb") as file:
        return Btf(file.read())
