"""Maps that say what their values are: the BTF a map was created with, read and made.

A map may carry BTF: a blob of types and, in it, the id of its value's type. Maps of compiled C files do, and those
created with btf=True. bpftool then shows values as the C type has them, and whoever opens the map with rawbpf.BTF gets
the values that BtfCodec makes.

The kernel takes no value type without a key type. A queue's key has size 0, and so does an empty struct.
"""

import os
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rawbpf import syscall
from rawbpf.btf.reader import POINTER_SIZE, Btf, Kind, Member, Type
from rawbpf.btf.writer import Builder
from rawbpf.syscall import MapInfo
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import Codec, CtypesType, RawBytes, StructFormat, format_fields

_U32_MAX = 2**32 - 1
# The members of a struct are counted in 16 bits.
_MEMBERS_MAX = 2**16 - 1

_NATIVE = "<" if sys.byteorder == "little" else ">"


# Reading


def codec_of(info: MapInfo, part: str = "value") -> BtfCodec:
    """The codec for the values of a map, or for its keys (part "key"), by the BTF that it carries.

    Raises ValueError if it carries none or the part has no type there, BtfError (a ValueError) if the type is nothing
    that has values, NotPermitted without CAP_SYS_ADMIN: the kernel hands BTF out by its id only.
    """
    type_id = {"key": info.btf_key_type_id, "value": info.btf_value_type_id}[part]
    if not info.btf_id or not type_id:
        raise ValueError(f"{syscall.describe(info)} carries no BTF: say what its {part}s are, or open it as bytes")
    fd = syscall.btf_get_fd_by_id(info.btf_id)
    try:
        btf = syscall.btf_get_info_by_fd(fd)
    finally:
        os.close(fd)
    # Of a module's BTF the blob holds only what the kernel's own does not have.
    if btf.kernel_btf or info.btf_vmlinux_value_type_id:
        raise ValueError(f"the {part}s of {syscall.describe(info)} have a type of the kernel's own, which is not read")
    return BtfCodec(Btf(btf.data), type_id)


# Making


@contextmanager
def described(
    value: Codec[Any], token_fd: int | None = None, *, key: Codec[Any] | None = None
) -> Iterator[tuple[int, int, int]]:
    """btf_fd, btf_key_type_id and btf_value_type_id of map_create() for a map with these values, and with these keys or
    with none, good while the context lasts.

    Raises ValueError or TypeError for what BTF can't describe, and what btf_load() raises.
    """
    # In BTF a size has 32 bits.
    for name, codec in (("value_size", value), ("key_size", key)):
        if codec is not None and codec.size > _U32_MAX:
            raise ValueError(f"{name} must be from 1 to {_U32_MAX}, not {codec.size}")
    writer = _Writer()
    value_type = writer.codec(value)
    key_type = writer.codec(key) if key is not None else writer.builder.struct("", 0, [])
    blob = writer.builder.encode()
    _check_floats(Btf(blob))
    fd = syscall.btf_load(blob, token_fd)
    try:
        yield fd, key_type, value_type
    finally:
        os.close(fd)


def _check_floats(btf: Btf) -> None:
    """btf_float_check_member(): the kernel takes no misaligned floating-point number as a member."""
    for composite in (btf.type(type_id) for type_id in range(1, len(btf))):
        if composite.kind not in (Kind.STRUCT, Kind.UNION):
            continue
        for member in btf.members(composite):
            found = btf.resolve(member.type_id)
            offset = member.bit_offset // 8
            if found.kind == Kind.FLOAT and offset % min(found.size, POINTER_SIZE):
                where = f"member {member.name!r} of {composite.name or 'the values'!r}"
                raise ValueError(f"btf=True: {where}, a {found.name}, is at byte {offset}, and BTF wants it aligned")


# C's names for integers, by size and whether they are signed.
_INTEGERS = {
    (1, True): "signed char",
    (1, False): "unsigned char",
    (2, True): "short",
    (2, False): "unsigned short",
    (4, True): "int",
    (4, False): "unsigned int",
    (8, True): "long long",
    (8, False): "unsigned long long",
}
_FLOATS = {2: "_Float16", 4: "float", 8: "double"}

# The codes of the struct module and of ctypes' simple types; what they have in common means the same.
_INTEGER_CODES = frozenset("bBhHiIlLqQnN")
_FLOAT_CODES = frozenset("efd")
_POINTER_CODES = frozenset("PzZ")

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")


class _Writer:
    """Describes values in BTF. Each method returns a type's id; a type that was described already is not repeated."""

    def __init__(self) -> None:
        self.builder = Builder()
        self._known: dict[Any, int] = {}

    def codec(self, codec: Codec[Any]) -> int:
        """The type of a codec's values."""
        if isinstance(codec, RawBytes):
            return self.builder.array(self._scalar("B", 1), codec.size)
        if isinstance(codec, StructFormat):
            return self._struct_format(codec.format)
        if isinstance(codec, CtypesType):
            return self._ctype(codec.ctype)
        if isinstance(codec, BtfCodec):
            return self._copy(codec.btf, codec.type_id)
        raise TypeError(f"btf=True: nothing is known of the values of {codec!r}; a BtfCodec, a ctypes type or a struct")

    def _scalar(self, code: str, size: int) -> int:
        """A simple type by its code in the struct module and in ctypes."""
        if (code, size) in self._known:
            return self._known[code, size]
        if code in _INTEGER_CODES:
            signed = code.islower()
            made = self.builder.integer(_INTEGERS[size, signed], size, signed)
        elif code in _FLOAT_CODES:
            made = self.builder.float(_FLOATS[size], size)
        elif code in _POINTER_CODES:
            # The pointer of a 32-bit process is no pointer to a 64-bit kernel.
            made = self.builder.pointer() if size == POINTER_SIZE else self._scalar("I", size)
        elif code == "?":
            made = self.builder.integer("_Bool", size, boolean=True)
        elif code == "c":
            made = self.builder.integer("char", size, signed=True)
        elif code == "u":
            made = self.builder.integer("wchar_t", size, signed=True)
        else:
            raise ValueError(f"BTF has no type for the code {code!r}")
        self._known[code, size] = made
        return made

    # Struct formats

    def _struct_format(self, form: str) -> int:
        order = form[0] if form[0] in "@=<>!" else "@"
        if order not in ("@", "=", _NATIVE):
            raise ValueError(f"the struct format {form!r} has the other byte order: BTF has only this machine's")
        members: list[tuple[str, int, int]] = []
        last = 0
        for code, last, offset in format_fields(form):
            members.append((f"f{len(members)}", self._item(code, last), offset))
            if len(members) > _MEMBERS_MAX:
                raise ValueError(f"the struct format {form!r} has more than {_MEMBERS_MAX} fields, the most in BTF")
        if len(members) == 1 and last == struct.calcsize(form):
            return members[0][1]
        return self.builder.struct("", struct.calcsize(form), members)

    def _item(self, code: str, size: int) -> int:
        if code in "spc":
            return self.builder.array(self._scalar("c", 1), size)
        return self._scalar(code, size)

    # ctypes, which a small system may not have: it is imported only here

    def _ctype(self, ctype: Any) -> int:
        if ctype not in self._known:
            self._known[ctype] = self._new_ctype(ctype)
        return self._known[ctype]

    def _new_ctype(self, ctype: Any) -> int:
        import ctypes

        size, bases = ctypes.sizeof(ctype), ctype.__mro__
        if ctypes.Structure in bases or ctypes.Union in bases:
            return self._composite(ctype, size)
        if ctypes.Array in bases:
            return self.builder.array(self._ctype(ctype._type_), ctype._length_)
        if ctypes._SimpleCData in bases:
            if getattr(ctype, f"__ctype_{sys.byteorder[0]}e__", ctype) is not ctype:
                raise ValueError(f"{ctype.__name__} has the other byte order: BTF has only this machine's")
            return self._scalar(ctype._type_, size)
        return self._scalar("P", size)

    def _composite(self, ctype: Any, size: int) -> int:
        if hasattr(ctype, "_swappedbytes_"):
            raise ValueError(f"{ctype.__name__} has the other byte order: BTF has only this machine's")
        import ctypes

        make = self.builder.struct if issubclass(ctype, ctypes.Structure) else self.builder.union
        return make(_identifier(ctype.__name__), size, list(self._members(ctype)))

    def _members(self, ctype: Any) -> Iterator[Member]:
        import ctypes

        for owner in reversed(ctype.__mro__):
            anonymous = owner.__dict__.get("_anonymous_", ())
            for name, kind, *width in owner.__dict__.get("_fields_", ()):
                place = owner.__dict__[name]
                yield Member(
                    "" if name in anonymous else _identifier(name),
                    self._ctype(kind),
                    place.offset * 8 + (_first_bit(name, place.size, ctypes.sizeof(kind) * 8) if width else 0),
                    width[0] if width else 0,
                )

    # BTF

    def _copy(self, btf: Btf, type_id: int) -> int:
        """A type of another blob, with what it is made of; pointers lead to void."""
        if type_id not in self._known:
            found = btf.type(type_id)
            self._known[type_id] = _COPIES[found.kind](self, btf, found)
        return self._known[type_id]

    def _copy_integer(self, btf: Btf, found: Type) -> int:
        said = btf.integer(found)
        if said.bits != found.size * 8:
            raise ValueError(f"btf=True: {found.name!r} is a bit-field of an old compiler, which is not described")
        return self.builder.integer(found.name, found.size, said.signed, said.boolean)

    def _copy_array(self, btf: Btf, found: Type) -> int:
        element, count = btf.array(found)
        return self.builder.array(self._copy(btf, element), count)

    def _copy_composite(self, btf: Btf, found: Type) -> int:
        make = self.builder.struct if found.kind == Kind.STRUCT else self.builder.union
        members = [each._replace(type_id=self._copy(btf, each.type_id)) for each in btf.members(found)]
        return make(found.name, found.size, members)


_COPIES: dict[Kind, Any] = {
    Kind.INT: _Writer._copy_integer,
    Kind.FLOAT: lambda self, btf, found: self.builder.float(found.name, found.size),
    Kind.PTR: lambda self, btf, found: self._scalar("P", POINTER_SIZE),
    Kind.ARRAY: _Writer._copy_array,
    Kind.STRUCT: _Writer._copy_composite,
    Kind.UNION: _Writer._copy_composite,
    Kind.ENUM: lambda self, btf, found: self.builder.enum(found.name, btf.enumerators(found), found.size),
    Kind.ENUM64: lambda self, btf, found: self.builder.enum(found.name, btf.enumerators(found), found.size),
    Kind.TYPEDEF: lambda self, btf, found: self.builder.typedef(found.name, self._copy(btf, found.size)),
    Kind.CONST: lambda self, btf, found: self.builder.const(self._copy(btf, found.size)),
    Kind.VOLATILE: lambda self, btf, found: self._copy(btf, found.size),
    Kind.RESTRICT: lambda self, btf, found: self._copy(btf, found.size),
    Kind.TYPE_TAG: lambda self, btf, found: self._copy(btf, found.size),
}


def _first_bit(name: str, place: int, storage: int) -> int:
    """Where a ctypes bit-field begins within its `storage` bits, counted as BTF does. Its `size` is two numbers in one:
    the width, and the shift from the least significant bit."""
    width, shift = place >> 16, place & 0xFFFF
    if shift + width > storage:
        # Python before 3.14, after a bit-field of a larger type: ctypes itself reads such a member wrong.
        raise ValueError(f"ctypes puts the bit-field {name!r} past the end of its storage: give all of them one type")
    return shift if sys.byteorder == "little" else storage - shift - width


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r} is no name in C: up to 127 letters, digits and '_' of ASCII")
    return name
