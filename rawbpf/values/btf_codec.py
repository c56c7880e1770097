"""Values by BTF: a C type's bytes as a Python value, and back.

| C                         | Python                                                                           |
|---------------------------|----------------------------------------------------------------------------------|
| integers of 1 to 16 bytes | int                                                                              |
| _Bool                     | bool                                                                             |
| float, double             | float                                                                            |
| enum                      | a member of an IntEnum made for it; int where no enumerator has the value        |
| pointer                   | int, the address                                                                 |
| char[N], unsigned char[N] | bytes, all N of them, zero bytes at the end included                             |
| other arrays              | tuple                                                                            |
| struct                    | StructValue, a named tuple; an anonymous struct's or union's members are its own |
| union                     | StructValue with every reading of the same bytes                                 |

The way back takes a struct as a tuple of all members, or as a dict of some: like those that a C initialiser leaves out,
the rest is zero, and so is padding. So is the rest of a char array that is given fewer than N bytes; an array of
unsigned char must have all. Of a union a dict names the member that counts; in a tuple all readings must agree. (What
was read with loss does not: a _Bool whose byte is neither 0 nor 1, a signalling NaN.)

A codec is a plan, made once per type: what a struct has in whole bytes is read and written by one struct.Struct.
The plan's size is bounded, whatever the BTF says: types that contain themselves, or would make millions of Python
objects of a few bytes, are BtfError when the codec is made.
"""

import functools
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from operator import index, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.btf.reader import POINTER_SIZE, Btf, BtfError, Kind, Member, Type
from rawbpf.values.codecs import OwnCodec

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

# How large a type may be: bytes of a value; Python objects that one value becomes (16 bytes of text count as one), of
# which there may be some, and more only in proportion to the bytes; members of all structs in it; how deep structs and
# arrays may be nested.
_MOST_BYTES = 1 << 26
_MOST_OBJECTS = 1 << 23
_SOME_OBJECTS = 1 << 16
_MOST_MEMBERS = 1 << 14
_DEEPEST = 32

# An enum with more enumerators than any in use is read as int: making the class costs milliseconds per thousand.
_MOST_ENUMERATORS = 2048

_INT_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
_FLOAT_CODES = {2: "e", 4: "f", 8: "d"}


class StructValue(tuple[Any, ...]):
    """The members of a C struct or union, in its order: a named tuple whose type has the struct's name.

    A member is an attribute under its C name: value.pid, and getattr(value, "from") for a keyword of Python. `_fields`
    are all names, `_asdict()` names and values. By these two, and by position, is also what the attributes leave out:
    names that begin and end with two underscores, and `_fields`, `_asdict`, `_replace`.
    """

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def _asdict(self) -> dict[str, Any]:
        """The members by name."""
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **changes: Any) -> "Self":
        """The same with some members changed."""
        members = self._asdict()
        if unknown := changes.keys() - members.keys():
            raise ValueError(f"{type(self).__name__} has no member {', '.join(sorted(unknown))}")
        return tuple.__new__(type(self), (members | changes).values())

    def __repr__(self) -> str:
        members = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({members})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The class can't be found by its name: another process makes it anew.
        return _struct_value, (type(self).__name__, self._fields, tuple(self))


class EnumValue(IntEnum):
    """What the classes made for C enums have in common."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        kind = type(self)
        return _enum_value, (kind.__name__, tuple((n, int(v)) for n, v in kind.__members__.items()), int(self))


_RESERVED = frozenset(dir(StructValue)) - {"count", "index"}


@functools.lru_cache(256)
def _struct_class(name: str, fields: tuple[str, ...]) -> type[StructValue]:
    members = {
        field: property(itemgetter(position), doc=f"Member {position}.")
        for position, field in enumerate(fields)
        if field not in _RESERVED and not _is_dunder(field)
    }
    return type(name, (StructValue,), {"__slots__": (), "_fields": fields, "__match_args__": fields, **members})


@functools.lru_cache(256)
def _enum_class(name: str, enumerators: tuple[tuple[str, int], ...]) -> type[IntEnum]:
    # The functional API of a subclass of EnumValue, which mypy takes for a call of a member.
    make: Any = EnumValue
    made: type[IntEnum] = make(name, enumerators)
    return made


def _struct_value(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> StructValue:
    return tuple.__new__(_struct_class(name, fields), values)


def _enum_value(name: str, enumerators: tuple[tuple[str, int], ...], value: int) -> IntEnum:
    return _enum_class(name, enumerators)(value)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Misfit(Exception):
    """A value that the type does not take, and where in it: the path grows from the inside out."""

    def __init__(self, problem: str, kind: type[Exception] = ValueError) -> None:
        self.problem = problem
        self.kind = kind
        self.path = ""

    def inside(self, part: str) -> "_Misfit":
        self.path = part + self.path
        return self


class _Plan:
    """How values of one type are read and written.

    `code` is a struct format that makes one item of the type's bytes. `unfold` makes of that item the value, `fold` of
    the value the item, or raises _Misfit; None where the item is the value. `objects` is how many Python objects a
    value is at most, `used` a mask of the bits that are not padding.
    """

    def __init__(
        self,
        code: str,
        unfold: Callable[[Any], Any] | None = None,
        fold: Callable[[Any], Any] | None = None,
        *,
        objects: int = 1,
        used: "Callable[[], bytes] | None" = None,
    ) -> None:
        self.code = code
        self.unfold = unfold
        self.fold = fold
        self.objects = objects
        self.struct = struct.Struct("=" + code)
        self.size = self.struct.size
        self._used = used

    def decode(self, data: bytes) -> Any:
        (item,) = self.struct.unpack(data)
        return item if self.unfold is None else self.unfold(item)

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        items = map(itemgetter(0), self.struct.iter_unpack(data))
        values += items if self.unfold is None else map(self.unfold, items)

    def encode(self, value: Any) -> bytes:
        item = value if self.fold is None else self.fold(value)
        try:
            return self.struct.pack(item)
        except (struct.error, OverflowError, TypeError) as error:
            raise _Misfit(f"{value!r} does not fit: {error}") from None

    @functools.cached_property
    def used(self) -> bytes:
        return b"\xff" * self.size if self._used is None else self._used()


class BtfCodec(OwnCodec):
    """A codec for values of a C type that BTF describes; see the table above.

    Args:
        btf: The types.
        type_id: Which of them: a struct, union, integer, float, enum, pointer or array, also behind typedefs.

    Raises BtfError (ValueError) when made if the type is none of those, is malformed, or beyond all measure. encode()
    raises ValueError or TypeError with the path of the member that does not fit ("event.comm").
    """

    def __init__(self, btf: Btf, type_id: int) -> None:
        self.btf = btf
        self.type_id = type_id
        self._plan = _Planner(btf).plan(type_id)
        self.size = self._plan.size
        # A map calls it for each element: a method of this class around it would cost a fifth.
        self.decode = self._plan.decode
        self.name = _name_of(btf, type_id)

    def encode(self, value: Any) -> bytes:
        try:
            return self._plan.encode(value)
        except _Misfit as misfit:
            raise misfit.kind(f"{self.name or 'value'}{misfit.path}: {misfit.problem}") from None

    def encode_all(self, values: list[Any]) -> bytes:
        return b"".join(map(self.encode, values))

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        self._plan.decode_all(data, values)

    def __reduce__(self) -> tuple[Any, ...]:
        return BtfCodec, (self.btf, self.type_id)

    def __repr__(self) -> str:
        return f"BTF {self.name or f'type {self.type_id}'}"


def _name_of(btf: Btf, type_id: int) -> str:
    """The name of a type, or of what names it: a struct's tag, a typedef of one that has none."""
    resolved = btf.resolve(type_id)
    found = btf.type(type_id)
    named = resolved.name
    while not named and found.id != resolved.id:
        named, found = found.name if found.kind == Kind.TYPEDEF else "", btf.type(found.size)
    return named


class _Planner:
    """Makes the plans of a type and of all within it, each once, and adds up what they cost."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._plans: dict[int, _Plan] = {}
        self._entered: list[int] = []
        self._members = 0
        self._enums: dict[int, type[IntEnum] | None] = {}

    def plan(self, type_id: int) -> _Plan:
        found = self._btf.resolve(type_id)
        if found.id in self._plans:
            return self._plans[found.id]
        if found.id in self._entered:
            raise BtfError(f"type {found.id} contains itself")
        if len(self._entered) == _DEEPEST:
            raise BtfError(f"type {self._entered[0]} is nested deeper than {_DEEPEST} types")
        if found.kind not in _KINDS:
            raise BtfError(f"type {type_id} ({found.kind.name}) has no values")
        self._entered.append(found.id)
        plan: _Plan = _KINDS[found.kind](self, found, _name_of(self._btf, type_id))
        self._entered.pop()
        if plan.objects > min(_MOST_OBJECTS, _SOME_OBJECTS + 4 * plan.size):
            raise BtfError(f"a value of type {found.id} would be {plan.objects} Python objects")
        self._plans[found.id] = plan
        return plan

    # Scalars

    def _integer(self, found: Type, name: str) -> _Plan:
        said = self._btf.integer(found)
        if not 1 <= found.size <= 16 or not 1 <= said.bits <= found.size * 8 - said.bit_offset:
            raise BtfError(f"type {found.id} is an integer of {said.bits} bits in {found.size} bytes")
        if said.bits != found.size * 8:
            return _bits_plan(found.size, _Bits(said.bit_offset, said.bits, said.signed, said.boolean, None))
        if said.boolean and found.size == 1:
            return _Plan("?", None, _checked_bool)
        return _integer_plan(found.size, said.signed, said.boolean)

    def _pointer(self, found: Type, name: str) -> _Plan:
        return _integer_plan(POINTER_SIZE, False)

    def _float(self, found: Type, name: str) -> _Plan:
        if found.size not in _FLOAT_CODES:
            raise BtfError(f"type {found.id} is a float of {found.size} bytes, which Python does not have")
        return _Plan(_FLOAT_CODES[found.size])

    def _enum(self, found: Type, name: str) -> _Plan:
        if found.size not in _INT_CODES:
            raise BtfError(f"type {found.id} is an enum of {found.size} bytes")
        plan = _integer_plan(found.size, found.kflag)
        kind = self.enum_class(found, name)
        return plan if kind is None else _Plan(plan.code, _enum_reader(kind), _enum_writer(kind))

    def enum_class(self, found: Type, name: str) -> type[IntEnum] | None:
        """The class for an enum's values; None for one whose values stay int."""
        if found.id not in self._enums:
            few = found.vlen <= _MOST_ENUMERATORS
            values = self._btf.enumerators(found).items() if few else ()
            usable = tuple((each, value) for each, value in values if _is_usable(each))
            self._enums[found.id] = _enum_class(name or "enum", usable) if usable else None
        return self._enums[found.id]

    # What contains others

    def _array(self, found: Type, name: str) -> _Plan:
        element_id, count = self._btf.array(found)
        element = self.plan(element_id)
        size = self._checked_size(found, element.size * count)
        if self._is_text(element_id):
            kind = self._btf.resolve(element_id)
            return _Plan(f"{size}s", None, _bytes_writer(size, fill=self._is_char(kind)), objects=1 + size // 16)
        return _array_plan(element, count, size, 1 + count * element.objects)

    def _is_text(self, element_id: int) -> bool:
        """Whether an array of these is bytes: of char, and of unsigned char under any name, but not of _Bool."""
        found = self._btf.resolve(element_id)
        if found.kind != Kind.INT or found.size != 1:
            return False
        said = self._btf.integer(found)
        return said.bits == 8 and (self._is_char(found) or not (said.signed or said.boolean))

    def _is_char(self, found: Type) -> bool:
        return found.name == "char" or self._btf.integer(found).char

    def _composite(self, found: Type, name: str) -> _Plan:
        size = self._checked_size(found, found.size)
        fields: list[_Field] = []
        self._collect(found, 0, fields)
        names = tuple(field.name for field in fields)
        if len(set(names)) < len(names):
            raise BtfError(f"type {found.id} has two members of one name")
        for field in fields:
            if field.stop_bit > size * 8:
                raise BtfError(f"member {field.name!r} of type {found.id} lies outside of it")
        make = functools.partial(tuple.__new__, _struct_class(name or found.kind.name.lower(), names))
        objects = 1 + sum(field.plan.objects for field in fields)
        return (_Bytewise if _is_bytewise(fields) else _Bitwise)(fields, size, make, objects)

    def _collect(self, found: Type, base: int, fields: "list[_Field]") -> None:
        """The members as fields, those of anonymous structs and unions within included; `base` in bits."""
        self._members += found.vlen
        if self._members > _MOST_MEMBERS:
            raise BtfError(f"type {self._entered[0]} has more than {_MOST_MEMBERS} members")
        for member in self._btf.members(found):
            inner = self._btf.resolve(member.type_id)
            if member.name:
                fields.append(self._field(found, member, inner, base))
            elif inner.kind in (Kind.STRUCT, Kind.UNION):
                # Planned as well: that finds circles, and sizes and offsets that are wrong in themselves.
                if self._bits_of(member, inner) is not None:
                    raise BtfError(f"type {found.id} has a bit-field of type {inner.id}, which is no integer")
                size = self.plan(inner.id).size * 8
                if member.bit_offset + size > found.size * 8:
                    raise BtfError(f"an anonymous member of type {found.id} lies outside of it")
                self._collect(inner, base + member.bit_offset, fields)

    def _field(self, owner: Type, member: Member, inner: Type, base: int) -> "_Field":
        start = base + member.bit_offset
        bits = self._bits_of(member, inner)
        if bits is None:
            plan = self.plan(member.type_id)
            if start % 8:
                raise BtfError(f"member {member.name!r} of type {owner.id} does not begin at a byte")
            return _Field(member.name, plan, start, start + plan.size * 8, True)
        if inner.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64) or bits.bits > inner.size * 8:
            raise BtfError(f"member {member.name!r} of type {owner.id} can't have {bits.bits} bits")
        start += bits.bit_offset
        stop = start + bits.bits
        covered = (stop + 7) // 8 - start // 8
        return _Field(member.name, _bits_plan(covered, bits._replace(bit_offset=start % 8)), start, stop, False)

    def _bits_of(self, member: Member, inner: Type) -> "_Bits | None":
        """What makes a member a bit-field: its own width, or (old compilers) that of its INT. None if it is none."""
        width, offset = member.bitfield_size, 0
        if inner.kind == Kind.INT:
            said = self._btf.integer(inner)
            if not width and said.bits != inner.size * 8:
                width, offset = said.bits, said.bit_offset
            return _Bits(offset, width, said.signed, said.boolean, None) if width else None
        if not width:
            return None
        is_enum = inner.kind in (Kind.ENUM, Kind.ENUM64)
        kind = self.enum_class(inner, _name_of(self._btf, member.type_id)) if is_enum else None
        return _Bits(0, width, inner.kflag, False, kind)

    def _checked_size(self, found: Type, size: int) -> int:
        if size > _MOST_BYTES:
            raise BtfError(f"type {found.id} has {size} bytes: no map's value is so large")
        return size


_KINDS: dict[Kind, Callable[[_Planner, Type, str], _Plan]] = {
    Kind.INT: _Planner._integer,
    Kind.PTR: _Planner._pointer,
    Kind.FLOAT: _Planner._float,
    Kind.ENUM: _Planner._enum,
    Kind.ENUM64: _Planner._enum,
    Kind.ARRAY: _Planner._array,
    Kind.STRUCT: _Planner._composite,
    Kind.UNION: _Planner._composite,
}

_ENUM_NAMES = frozenset(dir(EnumValue)) | {"mro", "name", "value"}


def _is_usable(enumerator: str) -> bool:
    """Whether an Enum may have such a member: no name that it has for itself."""
    return enumerator.isidentifier() and enumerator[0] != "_" and enumerator not in _ENUM_NAMES


# Scalars


def _integer_plan(size: int, signed: bool, boolean: bool = False) -> _Plan:
    if size in _INT_CODES and not boolean:
        return _Plan(_INT_CODES[size] if signed else _INT_CODES[size].upper())
    return _bits_plan(size, _Bits(0, size * 8, signed, boolean, None))


class _Bits(NamedTuple):
    """Some bits of a few bytes. On a big-endian machine they are counted from the most significant one."""

    bit_offset: int
    bits: int
    signed: bool
    boolean: bool
    kind: type[IntEnum] | None


def _bits_plan(size: int, said: _Bits) -> _Plan:
    """An integer, bool or enum that is some of the bits of `size` bytes."""
    bits, signed = said.bits, said.signed and not said.boolean
    shift = said.bit_offset if sys.byteorder == "little" else size * 8 - said.bit_offset - bits
    mask = (1 << bits) - 1
    sign = 1 << bits - 1 if signed else 0
    make: Callable[[int], Any] = bool if said.boolean else _enum_reader(said.kind) if said.kind else int
    take: Callable[[Any], Any] = (
        _checked_bool if said.boolean else _enum_writer(said.kind) if said.kind else _checked_integer
    )

    def unfold(data: bytes) -> Any:
        number = int.from_bytes(data, sys.byteorder) >> shift & mask
        return make((number ^ sign) - sign)

    def fold(value: Any) -> bytes:
        number = int(take(value))
        if not -sign <= number <= mask - sign:
            raise _Misfit(f"{value!r} does not fit {'signed' if signed else 'unsigned'} {bits} bits")
        return ((number & mask) << shift).to_bytes(size, sys.byteorder)

    def used() -> bytes:
        return (mask << shift).to_bytes(size, sys.byteorder)

    return _Plan(f"{size}s", unfold, fold, used=used)


def _checked_integer(value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise _Misfit(f"{value!r} is no integer", TypeError) from None


def _checked_bool(value: Any) -> bool:
    if not isinstance(value, int):
        raise _Misfit(f"{value!r} is neither True nor False", TypeError)
    if value not in (0, 1):
        raise _Misfit(f"{value!r} is neither True nor False")
    return bool(value)


def _enum_reader(kind: type[IntEnum]) -> Callable[[int], int]:
    members = {int(member): member for member in kind}
    get = members.get

    def unfold(number: int) -> int:
        return get(number, number)

    return unfold


def _enum_writer(kind: type[IntEnum]) -> Callable[[Any], int]:
    def fold(value: Any) -> int:
        if not isinstance(value, str):
            return _checked_integer(value)
        try:
            return kind.__members__[value]
        except KeyError:
            raise _Misfit(f"{kind.__name__} has no enumerator {value!r}") from None

    return fold


# Arrays


def _bytes_writer(size: int, *, fill: bool) -> Callable[[Any], bytes]:
    def fold(value: Any) -> bytes:
        if type(value) is bytes and len(value) == size:
            return value
        try:
            data = memoryview(value).tobytes()
        except TypeError:
            raise _Misfit(f"{value!r} is not bytes", TypeError) from None
        if len(data) > size or (len(data) < size and not fill):
            raise _Misfit(f"there are {len(data)} bytes, and it takes {size}")
        return data.ljust(size, b"\0")

    return fold


def _array_plan(element: _Plan, count: int, size: int, objects: int) -> _Plan:
    unfold_one, encode_one = element.unfold, element.encode
    # One format for all reads faster than one for each; "16s" is a code that can't be repeated.
    flat = struct.Struct(f"={count}{element.code}") if len(element.code) == 1 else None

    def items(data: bytes) -> Iterable[Any]:
        if flat is not None:
            return flat.unpack(data)
        if element.size == 0:
            return (b"",) * count
        return map(itemgetter(0), element.struct.iter_unpack(data))

    def unfold(data: bytes) -> tuple[Any, ...]:
        values = items(data)
        return tuple(values if unfold_one is None else map(unfold_one, values))

    def fold(value: Any) -> bytes:
        values = _sequence(value, count)
        parts = []
        for position, each in enumerate(values):
            try:
                parts.append(encode_one(each))
            except _Misfit as misfit:
                raise misfit.inside(f"[{position}]") from None
        return b"".join(parts)

    return _Plan(f"{size}s", unfold, fold, objects=objects, used=lambda: element.used * count)


def _sequence(value: Any, count: int) -> "tuple[Any, ...] | list[Any]":
    if not isinstance(value, (tuple, list)):
        raise _Misfit(f"{value!r} is neither a tuple nor a list", TypeError)
    if len(value) != count:
        raise _Misfit(f"there are {len(value)} values, and it takes {count}")
    return value


# Structs and unions


class _Field(NamedTuple):
    """A named member: its plan is of the bytes from the one with its first bit to the one with its last."""

    name: str
    plan: _Plan
    start_bit: int
    stop_bit: int
    whole_bytes: bool

    @property
    def start(self) -> int:
        return self.start_bit // 8

    @property
    def stop(self) -> int:
        return self.start + self.plan.size


def _is_bytewise(fields: list[_Field]) -> bool:
    """Whether the members follow each other and share no byte: then one struct.Struct reads them all."""
    after = 0
    for field in fields:
        if field.start < after or not field.whole_bytes:
            return False
        after = field.stop
    return True


_Make = Callable[[Iterable[Any]], StructValue]


class _Composite(_Plan):
    """What both kinds have in common: members by name or by position. Within another type the item is the bytes."""

    def __init__(self, fields: list[_Field], size: int, make: _Make, objects: int) -> None:
        super().__init__(f"{size}s", self.decode, self.encode, objects=objects, used=self._mask)
        self._fields = fields
        self._make = make
        self._positions = {field.name: position for position, field in enumerate(fields)}

    def _given(self, value: Any) -> "list[tuple[int, Any]]":
        """The positions and values of the members that a tuple or a dict gives."""
        if not isinstance(value, Mapping):
            return list(enumerate(_sequence(value, len(self._fields))))
        if unknown := [name for name in value if name not in self._positions]:
            raise _Misfit(f"there is no member {unknown[0]!r}")
        return [(self._positions[name], each) for name, each in value.items()]

    def _mask(self) -> bytes:
        mask = bytearray(self.size)
        for field in self._fields:
            _merge(mask, field, field.plan.used)
        return bytes(mask)


class _Bytewise(_Composite):
    """A struct of whole bytes: one struct.Struct reads all members."""

    def __init__(self, fields: list[_Field], size: int, make: _Make, objects: int) -> None:
        super().__init__(fields, size, make, objects)
        code, after = ["="], 0
        for field in fields:
            code += [f"{field.start - after}x", field.plan.code]
            after = field.stop
        self._members = struct.Struct("".join(code) + f"{size - after}x")
        self._unfolds = [(i, field.plan.unfold) for i, field in enumerate(fields) if field.plan.unfold is not None]
        self._folds = [(i, field.plan.fold) for i, field in enumerate(fields) if field.plan.fold is not None]

    def decode(self, data: bytes) -> StructValue:
        if not self._unfolds:
            return self._make(self._members.unpack(data))
        items = list(self._members.unpack(data))
        for position, unfold in self._unfolds:
            items[position] = unfold(items[position])
        return self._make(items)

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        if self._unfolds or not self.size:
            super().decode_all(data, values)
        else:
            values += map(self._make, self._members.iter_unpack(data))

    def encode(self, value: Any) -> bytes:
        values = self._all(value)
        items = values.copy()
        position = 0
        try:
            for position, fold in self._folds:
                items[position] = fold(values[position])
            return self._members.pack(*items)
        except _Misfit as misfit:
            raise misfit.inside(f".{self._fields[position].name}") from None
        except (struct.error, OverflowError, TypeError):
            raise self._first_misfit(values) from None

    def _all(self, value: Any) -> list[Any]:
        if not isinstance(value, Mapping):
            return list(_sequence(value, len(self._fields)))
        values = self._zeros.copy()
        for position, each in self._given(value):
            values[position] = each
        return values

    @functools.cached_property
    def _zeros(self) -> list[Any]:
        return list(self.decode(bytes(self.size)))

    def _first_misfit(self, values: list[Any]) -> _Misfit:
        for field, value in zip(self._fields, values, strict=True):
            try:
                field.plan.encode(value)
            except _Misfit as misfit:
                return misfit.inside(f".{field.name}")
        raise AssertionError("each member fits, but not all")


class _Bitwise(_Composite):
    """A struct with bit-fields, or with members that share bytes, as those of a union do: each is read by itself."""

    def __init__(self, fields: list[_Field], size: int, make: _Make, objects: int) -> None:
        super().__init__(fields, size, make, objects)
        self._alone = _alone(fields)

    def decode(self, data: bytes) -> StructValue:
        return self._make([field.plan.decode(data[field.start : field.stop]) for field in self._fields])

    def encode(self, value: Any) -> bytes:
        data, written = bytearray(self.size), bytearray(self.size)
        for position, each in self._given(value):
            field = self._fields[position]
            try:
                piece = field.plan.encode(each)
                if position in self._alone:
                    data[field.start : field.stop] = piece
                    continue
                if _bits(written, field) & (_bits(data, field) ^ _whole(piece)) & _whole(field.plan.used):
                    raise _Misfit(
                        f"{each!r} contradicts another member that has the same bytes: give a dict of what to set"
                    )
            except _Misfit as misfit:
                raise misfit.inside(f".{field.name}") from None
            _merge(data, field, piece)
            _merge(written, field, field.plan.used)
        return bytes(data)


def _alone(fields: list[_Field]) -> set[int]:
    """The positions of the members that share no byte with another."""
    found: set[int] = set()
    after, last = 0, -1
    for position in sorted(range(len(fields)), key=lambda position: fields[position].start):
        field = fields[position]
        if field.start >= after:
            found.add(position)
        else:
            found.discard(last)
        if field.stop > after:
            after, last = field.stop, position
    return found


def _whole(data: "bytes | bytearray") -> int:
    return int.from_bytes(data, sys.byteorder)


def _bits(data: bytearray, field: _Field) -> int:
    return _whole(data[field.start : field.stop])


def _merge(data: bytearray, field: _Field, piece: bytes) -> None:
    """Sets the piece's bits in the field's place."""
    merged = _bits(data, field) | _whole(piece)
    data[field.start : field.stop] = merged.to_bytes(field.plan.size, sys.byteorder)
