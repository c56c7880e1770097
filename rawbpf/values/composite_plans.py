"""The plans of structs and unions, see plans.py: which members share bytes, and how all are read and written."""

import functools
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.values.plans import INLINE, INT_CODES, MOST_ITEMS, Bits, Decode, Misfit, Plan, Source, sequence
from rawbpf.values.struct_value import struct_class

if TYPE_CHECKING:
    from typing_extensions import Buffer


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

    def bits_from(self, start: int) -> Bits:
        """A bit-field's bits, counted from the byte `start`."""
        assert self.plan.bits is not None
        return self.plan.bits._replace(bit_offset=self.start_bit - start * 8)


class _Cluster(NamedTuple):
    """Members that share bytes, with their positions. Most members are a cluster of one."""

    start: int
    stop: int
    fields: list[tuple[int, Field]]

    def expressions(self, source: Source, room: int, inline: bool) -> tuple[int, dict[int, str]]:
        """Where what it unpacks ends, at most at `room`, and the expressions of the members by their positions."""
        position, first = self.fields[0]
        if first.whole_bytes and len(self.fields) == 1:
            return self.stop, {position: first.plan.expression(source, inline)}
        bits = {position: field.bits_from(self.start) for position, field in self.fields if not field.whole_bytes}
        # As many bytes as C would load, if those behind are padding.
        sizes = [size for size in INT_CODES if self.stop <= self.start + size <= room]
        if len(bits) == len(self.fields) and sizes:
            item = source.item(INT_CODES[sizes[0]].upper())
            return self.start + sizes[0], {at: each.expression(source, item, sizes[0]) for at, each in bits.items()}
        item = source.item(f"{self.stop - self.start}s")
        return self.stop, {
            at: f"{source.constant(field.plan.decode)}({item}[{field.start - self.start}:{field.stop - self.start}])"
            for at, field in self.fields
        }


def _clusters(fields: list[Field]) -> list[_Cluster]:
    """The members, grouped by which bytes they share, in the order of their bytes."""
    found: list[_Cluster] = []
    for position, field in sorted(enumerate(fields), key=lambda each: (each[1].start, each[1].stop)):
        if found and field.start < found[-1].stop:
            last = found.pop()
            found.append(_Cluster(last.start, max(last.stop, field.stop), [*last.fields, (position, field)]))
        else:
            found.append(_Cluster(field.start, field.stop, [(position, field)]))
    return found


def composite_plan(name: str, fields: list[Field], size: int) -> Plan:
    """A struct's or union's, of the members that are named."""
    after = 0
    for field in fields:
        if field.start < after or not field.whole_bytes:
            return _Bitwise(name, fields, size)
        after = field.stop
    return _Bytewise(name, fields, size)


class _Composite(Plan):
    """What both kinds have in common: how they are read; and members given by name or by position."""

    def __init__(self, name: str, fields: list[Field], size: int) -> None:
        objects = 1 + sum(field.plan.objects for field in fields)
        super().__init__(f"{size}s", None, self.encode, objects=objects, used=self._mask)
        self._fields = fields
        # Called with a tuple; tuple.__new__() behind a functools.partial would take half as long again.
        self._make = struct_class(name, tuple(field.name for field in fields))
        self._positions = {field.name: position for position, field in enumerate(fields)}
        self._clusters = _clusters(fields)
        self._items = sum(field.plan.items for field in fields)
        self._inline = self._items <= INLINE
        self.items = self._items if self._inline else 1

    def expression(self, source: Source, inline: bool = True) -> str:
        if self._inline and inline:
            return self._expression(source)
        return f"{source.constant(self.decode)}({source.item(self.code)})"

    def _expression(self, source: Source) -> str:
        expressions: dict[int, str] = {}
        after = 0
        ends = [cluster.start for cluster in self._clusters[1:]] + [self.size]
        for cluster, room in zip(self._clusters, ends, strict=False):
            source.skip(cluster.start - after)
            after, found = cluster.expressions(source, room, self._items <= MOST_ITEMS)
            expressions |= found
        source.skip(self.size - after)
        return f"{source.constant(self._make)}(({''.join(f'{expressions[i]}, ' for i in range(len(expressions)))}))"

    @functools.cached_property
    def _compiled(self) -> "tuple[struct.Struct, Callable[..., Any]]":
        source = Source()
        return source.compiled(self._expression(source))

    def _given(self, value: Any) -> "list[tuple[int, Any]]":
        """The positions and values of the members that a tuple or a dict gives."""
        if not isinstance(value, Mapping):
            return list(enumerate(sequence(value, len(self._fields))))
        if unknown := [name for name in value if name not in self._positions]:
            raise Misfit(f"there is no member {unknown[0]!r}")
        return [(self._positions[name], each) for name, each in value.items()]

    def _mask(self) -> bytes:
        mask = bytearray(self.size)
        for field in self._fields:
            _merge(mask, field, field.plan.used)
        return bytes(mask)


class _Bytewise(_Composite):
    """A struct of whole bytes, whose members follow each other: one struct.Struct writes all of them."""

    def __init__(self, name: str, fields: list[Field], size: int) -> None:
        super().__init__(name, fields, size)
        code, after = ["="], 0
        for field in fields:
            code += [f"{field.start - after}x", field.plan.code]
            after = field.stop
        self._members = struct.Struct("".join(code) + f"{size - after}x")
        self._folds = [(i, field.plan.fold) for i, field in enumerate(fields) if field.plan.fold is not None]
        # The members are what the struct.Struct unpacks.
        self._flat = all(field.plan.is_plain for field in fields)

    @functools.cached_property
    def decode(self) -> Decode:
        if not self._flat:
            return super().decode
        unpack, make = self._members.unpack, self._make
        return lambda data: make(unpack(data))

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        if self._flat:
            values += map(self._make, self._members.iter_unpack(data))
        else:
            super().decode_all(data, values)

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
            return list(sequence(value, len(self._fields)))
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
    """A struct with bit-fields, or with members that share bytes, as those of a union do: each is written by itself."""

    def __init__(self, name: str, fields: list[Field], size: int) -> None:
        super().__init__(name, fields, size)
        self._alone = {cluster.fields[0][0] for cluster in self._clusters if len(cluster.fields) == 1}

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


def _whole(data: "bytes | bytearray") -> int:
    return int.from_bytes(data, sys.byteorder)


def _bits(data: bytearray, field: Field) -> int:
    return _whole(data[field.start : field.stop])


def _merge(data: bytearray, field: Field, piece: bytes) -> None:
    """Sets the piece's bits in the field's place."""
    merged = _bits(data, field) | _whole(piece)
    data[field.start : field.stop] = merged.to_bytes(field.plan.size, sys.byteorder)
