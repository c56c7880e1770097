"""Plans: how the bytes of one type are read and written. BtfCodec makes them of BTF, once per type.

What a struct has in whole bytes is read and written by one struct.Struct; bit-fields, and members that share bytes, are
read one by one.
"""

import functools
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from operator import index, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.values.struct_value import StructValue, struct_class

if TYPE_CHECKING:
    from typing_extensions import Buffer

INT_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
FLOAT_CODES = {2: "e", 4: "f", 8: "d"}


class Misfit(Exception):
    """A value that the type does not take, and where in it: the path grows from the inside out."""

    def __init__(self, problem: str, kind: type[Exception] = ValueError) -> None:
        self.problem = problem
        self.kind = kind
        self.path = ""

    def inside(self, part: str) -> "Misfit":
        self.path = part + self.path
        return self


class Plan:
    """How values of one type are read and written.

    `code` is a struct format that makes one item of the type's bytes. `unfold` makes of that item the value, `fold` of
    the value the item, or raises Misfit; None where the item is the value. `objects` is how many Python objects a
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
            raise Misfit(f"{value!r} does not fit: {error}") from None

    @functools.cached_property
    def used(self) -> bytes:
        return b"\xff" * self.size if self._used is None else self._used()


# Scalars


def integer_plan(size: int, signed: bool, boolean: bool = False) -> Plan:
    if size in INT_CODES and not boolean:
        return Plan(INT_CODES[size] if signed else INT_CODES[size].upper())
    return bits_plan(size, Bits(0, size * 8, signed, boolean, None))


class Bits(NamedTuple):
    """Some bits of a few bytes. On a big-endian machine they are counted from the most significant one."""

    bit_offset: int
    bits: int
    signed: bool
    boolean: bool
    kind: type[IntEnum] | None


def bits_plan(size: int, said: Bits) -> Plan:
    """An integer, bool or enum that is some of the bits of `size` bytes."""
    bits, signed = said.bits, said.signed and not said.boolean
    shift = said.bit_offset if sys.byteorder == "little" else size * 8 - said.bit_offset - bits
    mask = (1 << bits) - 1
    sign = 1 << bits - 1 if signed else 0
    make: Callable[[int], Any] = bool if said.boolean else enum_reader(said.kind) if said.kind else int
    take: Callable[[Any], Any] = (
        checked_bool if said.boolean else enum_writer(said.kind) if said.kind else _checked_integer
    )

    def unfold(data: bytes) -> Any:
        number = int.from_bytes(data, sys.byteorder) >> shift & mask
        return make((number ^ sign) - sign)

    def fold(value: Any) -> bytes:
        number = int(take(value))
        if not -sign <= number <= mask - sign:
            raise Misfit(f"{value!r} does not fit {'signed' if signed else 'unsigned'} {bits} bits")
        return ((number & mask) << shift).to_bytes(size, sys.byteorder)

    def used() -> bytes:
        return (mask << shift).to_bytes(size, sys.byteorder)

    return Plan(f"{size}s", unfold, fold, used=used)


def _checked_integer(value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise Misfit(f"{value!r} is no integer", TypeError) from None


def checked_bool(value: Any) -> bool:
    if not isinstance(value, int):
        raise Misfit(f"{value!r} is neither True nor False", TypeError)
    if value not in (0, 1):
        raise Misfit(f"{value!r} is neither True nor False")
    return bool(value)


def enum_reader(kind: type[IntEnum]) -> Callable[[int], int]:
    members = {int(member): member for member in kind}
    get = members.get

    def unfold(number: int) -> int:
        return get(number, number)

    return unfold


def enum_writer(kind: type[IntEnum]) -> Callable[[Any], int]:
    def fold(value: Any) -> int:
        if not isinstance(value, str):
            return _checked_integer(value)
        try:
            return kind.__members__[value]
        except KeyError:
            raise Misfit(f"{kind.__name__} has no enumerator {value!r}") from None

    return fold


# Arrays


def bytes_writer(size: int, *, fill: bool) -> Callable[[Any], bytes]:
    def fold(value: Any) -> bytes:
        if type(value) is bytes and len(value) == size:
            return value
        try:
            data = memoryview(value).tobytes()
        except TypeError:
            raise Misfit(f"{value!r} is not bytes", TypeError) from None
        if len(data) > size or (len(data) < size and not fill):
            raise Misfit(f"there are {len(data)} bytes, and it takes {size}")
        return data.ljust(size, b"\0")

    return fold


def array_plan(element: Plan, count: int, size: int, objects: int) -> Plan:
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
            except Misfit as misfit:
                raise misfit.inside(f"[{position}]") from None
        return b"".join(parts)

    return Plan(f"{size}s", unfold, fold, objects=objects, used=lambda: element.used * count)


def _sequence(value: Any, count: int) -> "tuple[Any, ...] | list[Any]":
    if not isinstance(value, (tuple, list)):
        raise Misfit(f"{value!r} is neither a tuple nor a list", TypeError)
    if len(value) != count:
        raise Misfit(f"there are {len(value)} values, and it takes {count}")
    return value


# Structs and unions


class Field(NamedTuple):
    """A named member: its plan is of the bytes from the one with its first bit to the one with its last."""

    name: str
    plan: Plan
    start_bit: int
    stop_bit: int
    whole_bytes: bool

    @property
    def start(self) -> int:
        return self.start_bit // 8

    @property
    def stop(self) -> int:
        return self.start + self.plan.size


def _is_bytewise(fields: list[Field]) -> bool:
    """Whether the members follow each other and share no byte: then one struct.Struct reads them all."""
    after = 0
    for field in fields:
        if field.start < after or not field.whole_bytes:
            return False
        after = field.stop
    return True


_Make = Callable[[Iterable[Any]], StructValue]


def composite_plan(name: str, fields: list[Field], size: int) -> Plan:
    """A struct's or union's, of the members that are named."""
    make = functools.partial(tuple.__new__, struct_class(name, tuple(field.name for field in fields)))
    objects = 1 + sum(field.plan.objects for field in fields)
    return (_Bytewise if _is_bytewise(fields) else _Bitwise)(fields, size, make, objects)


class _Composite(Plan):
    """What both kinds have in common: members by name or by position. Within another type the item is the bytes."""

    def __init__(self, fields: list[Field], size: int, make: _Make, objects: int) -> None:
        super().__init__(f"{size}s", self.decode, self.encode, objects=objects, used=self._mask)
        self._fields = fields
        self._make = make
        self._positions = {field.name: position for position, field in enumerate(fields)}

    def _given(self, value: Any) -> "list[tuple[int, Any]]":
        """The positions and values of the members that a tuple or a dict gives."""
        if not isinstance(value, Mapping):
            return list(enumerate(_sequence(value, len(self._fields))))
        if unknown := [name for name in value if name not in self._positions]:
            raise Misfit(f"there is no member {unknown[0]!r}")
        return [(self._positions[name], each) for name, each in value.items()]

    def _mask(self) -> bytes:
        mask = bytearray(self.size)
        for field in self._fields:
            _merge(mask, field, field.plan.used)
        return bytes(mask)


class _Bytewise(_Composite):
    """A struct of whole bytes: one struct.Struct reads all members."""

    def __init__(self, fields: list[Field], size: int, make: _Make, objects: int) -> None:
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
        except Misfit as misfit:
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

    def _first_misfit(self, values: list[Any]) -> Misfit:
        for field, value in zip(self._fields, values, strict=True):
            try:
                field.plan.encode(value)
            except Misfit as misfit:
                return misfit.inside(f".{field.name}")
        raise AssertionError("each member fits, but not all")


class _Bitwise(_Composite):
    """A struct with bit-fields, or with members that share bytes, as those of a union do: each is read by itself."""

    def __init__(self, fields: list[Field], size: int, make: _Make, objects: int) -> None:
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
                    raise Misfit(
                        f"{each!r} contradicts another member that has the same bytes: give a dict of what to set"
                    )
            except Misfit as misfit:
                raise misfit.inside(f".{field.name}") from None
            _merge(data, field, piece)
            _merge(written, field, field.plan.used)
        return bytes(data)


def _alone(fields: list[Field]) -> set[int]:
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


def _bits(data: bytearray, field: Field) -> int:
    return _whole(data[field.start : field.stop])


def _merge(data: bytearray, field: Field, piece: bytes) -> None:
    """Sets the piece's bits in the field's place."""
    merged = _bits(data, field) | _whole(piece)
    data[field.start : field.stop] = merged.to_bytes(field.plan.size, sys.byteorder)
