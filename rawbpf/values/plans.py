"""Plans: how the bytes of one type are read and written. BtfCodec makes them of BTF, once per type.

A value is read by one struct.Struct, which unpacks the numbers and texts of its bytes, nested ones included, and one
function, which puts them together. That function is compiled from an expression, as collections.namedtuple() does it:

    struct point { int x, y; };
    struct shape { struct point at; unsigned red : 3, blue : 5; char name[8]; };

is read by struct.Struct("=iiB8s3x") and `lambda i0, i1, i2, i3: c1((c0((i0, i1)), i2 >> 0 & 7, i2 >> 3 & 31, i3))`,
where c0 and c1 make the StructValues. No name of a C member gets into an expression.

A struct of whole bytes is written by one struct.Struct; bit-fields, and members that share bytes, are written one by
one.
"""

import functools
import struct
import sys
from collections.abc import Callable
from enum import IntEnum
from itertools import starmap
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rawbpf.values.codecs import Scalars

if TYPE_CHECKING:
    from typing_extensions import Buffer

INT_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
FLOAT_CODES = {2: "e", 4: "f", 8: "d"}

# How many items an array or struct may have to be unpacked together with what it is in: CPython makes longer tuples of
# lists. And how many all that is unpacked together may have, so that it is compiled in milliseconds.
INLINE = 30
MOST_ITEMS = 1024


class Misfit(Exception):
    """A value that the type does not take, and where in it: the path grows from the inside out."""

    def __init__(self, problem: str, kind: type[Exception] = ValueError) -> None:
        self.problem = problem
        self.kind = kind
        self.path = ""

    def inside(self, part: str) -> "Misfit":
        self.path = part + self.path
        return self


class Decode(Protocol):
    """A function that reads one value of its bytes."""

    def __call__(self, data: bytes) -> Any: ...


class Source:
    """What a function that reads a value is compiled from: the codes that one struct.Struct unpacks, and the names of
    the items and of the constants that the function's expression has."""

    def __init__(self) -> None:
        self._codes = ["="]
        self._items: list[str] = []
        self._constants: dict[str, Any] = {}

    def item(self, code: str) -> str:
        """Unpacks one more item; returns its name."""
        self._codes.append(code)
        self._items.append(f"i{len(self._items)}")
        return self._items[-1]

    def skip(self, size: int) -> None:
        """Leaves bytes out."""
        self._codes.append(f"{size}x")

    def constant(self, value: Any) -> str:
        """The name for an object."""
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def compiled(self, expression: str) -> "tuple[struct.Struct, Callable[..., Any]]":
        function = eval(f"lambda {', '.join(self._items)}: {expression}", self._constants)
        return struct.Struct("".join(self._codes)), function


class Plan:
    """How values of one type are read and written.

    `code` is a struct format that makes one item of the type's bytes. `unfold` makes of that item the value, `fold` of
    the value the item, or raises Misfit; None where the item is the value. `objects` is how many Python objects a
    value is at most, `used` a mask of the bits that are not padding, `bits` what a bit-field's plan was made of.
    """

    # How many items of a Source it is.
    items = 1

    def __init__(
        self,
        code: str,
        unfold: Callable[[Any], Any] | None = None,
        fold: Callable[[Any], Any] | None = None,
        *,
        objects: int = 1,
        used: "Callable[[], bytes] | None" = None,
        bits: "Bits | None" = None,
    ) -> None:
        self.code = code
        self.unfold = unfold
        self.fold = fold
        self.objects = objects
        self.bits = bits
        self.struct = struct.Struct("=" + code)
        self.size = self.struct.size
        self._used = used

    def expression(self, source: Source, inline: bool = True) -> str:
        """The expression of a value, whose items are unpacked next. Without `inline` it must be a single item."""
        item = source.item(self.code)
        return item if self.unfold is None else f"{source.constant(self.unfold)}({item})"

    @functools.cached_property
    def _compiled(self) -> "tuple[struct.Struct, Callable[..., Any]]":
        source = Source()
        return source.compiled(self.expression(source))

    @property
    def is_plain(self) -> bool:
        """Whether the value is the only item, as it is unpacked."""
        return type(self) is Plan and self.unfold is None

    @functools.cached_property
    def decode(self) -> Decode:
        """The function that reads one value."""
        layout, make = self._compiled
        unpack = layout.unpack
        if self.is_plain:
            return lambda data: unpack(data)[0]
        return lambda data: make(*unpack(data))

    @functools.cached_property
    def _scalars(self) -> Scalars:
        return Scalars(self.struct)

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        """Appends the values of all bytes, of which there are some."""
        if self.is_plain:
            self._scalars.unpack(data, values)
        else:
            layout, make = self._compiled
            values += starmap(make, layout.iter_unpack(data))

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

    def expression(self, source: Source, item: str, size: int) -> str:
        """The value, of an item that is the integer of `size` bytes."""
        sign = 1 << self.bits - 1 if self.signed and not self.boolean else 0
        text = f"({item} >> {self.shift(size)} & {(1 << self.bits) - 1})"
        if sign:
            text = f"(({text} ^ {sign}) - {sign})"
        if self.boolean:
            return f"{text} != 0"
        return f"{source.constant(enum_reader(self.kind))}({text})" if self.kind else text

    def shift(self, size: int) -> int:
        """How far from the lowest bit of the integer of `size` bytes it ends."""
        return self.bit_offset if sys.byteorder == "little" else size * 8 - self.bit_offset - self.bits


def bits_plan(size: int, said: Bits) -> Plan:
    """An integer, bool or enum that is some of the bits of `size` bytes."""
    bits, shift, signed = said.bits, said.shift(size), said.signed and not said.boolean
    mask = (1 << bits) - 1
    sign = 1 << bits - 1 if signed else 0
    take: Callable[[Any], Any] = (
        checked_bool if said.boolean else enum_writer(said.kind) if said.kind else _checked_integer
    )

    def fold(value: Any) -> bytes:
        number = int(take(value))
        if not -sign <= number <= mask - sign:
            raise Misfit(f"{value!r} does not fit {'signed' if signed else 'unsigned'} {bits} bits")
        return ((number & mask) << shift).to_bytes(size, sys.byteorder)

    def used() -> bytes:
        return (mask << shift).to_bytes(size, sys.byteorder)

    return _BitsPlan(f"{size}s", None, fold, used=used, bits=said)


class _BitsPlan(Plan):
    """The reading of a bit-field that has its bytes for itself, and of integers that no code unpacks."""

    def expression(self, source: Source, inline: bool = True) -> str:
        assert self.bits is not None
        if self.size in INT_CODES:
            return self.bits.expression(source, source.item(INT_CODES[self.size].upper()), self.size)
        item = source.item(self.code)
        return self.bits.expression(source, f"{source.constant(_from_bytes)}({item})", self.size)


def _from_bytes(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


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


class _Enumerators(dict[int, int]):
    """The members of an enum by their values; a value that has none is itself."""

    def __missing__(self, number: int) -> int:
        return number


def enum_reader(kind: type[IntEnum]) -> Callable[[int], int]:
    return _Enumerators({int(member): member for member in kind}).__getitem__


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


class ArrayPlan(Plan):
    """A tuple. A long one is an item of its own, read when the function is called."""

    def __init__(self, element: Plan, count: int, size: int, objects: int) -> None:
        super().__init__(f"{size}s", None, self._fold, objects=objects, used=lambda: element.used * count)
        self._element = element
        self._count = count
        self._inline = count * element.items <= INLINE
        self.items = count * element.items if self._inline else 1

    def expression(self, source: Source, inline: bool = True) -> str:
        if self._inline and inline:
            return f"({''.join(f'{self._element.expression(source)}, ' for _ in range(self._count))})"
        return f"{source.constant(self._long)}({source.item(self.code)})"

    @functools.cached_property
    def _long(self) -> Callable[[bytes], tuple[Any, ...]]:
        element, count = self._element, self._count
        # One format for all reads faster than one for each; "16s" is a code that can't be repeated.
        if element.is_plain and len(element.code) == 1:
            return struct.Struct(f"={count}{element.code}").unpack
        if not element.size:
            return lambda data: (element.decode(b""),) * count

        def unfold(data: bytes) -> tuple[Any, ...]:
            values: list[Any] = []
            element.decode_all(data, values)
            return tuple(values)

        return unfold

    def _fold(self, value: Any) -> bytes:
        parts = []
        for position, each in enumerate(sequence(value, self._count)):
            try:
                parts.append(self._element.encode(each))
            except Misfit as misfit:
                raise misfit.inside(f"[{position}]") from None
        return b"".join(parts)


def sequence(value: Any, count: int) -> "tuple[Any, ...] | list[Any]":
    if not isinstance(value, (tuple, list)):
        raise Misfit(f"{value!r} is neither a tuple nor a list", TypeError)
    if len(value) != count:
        raise Misfit(f"there are {len(value)} values, and it takes {count}")
    return value
