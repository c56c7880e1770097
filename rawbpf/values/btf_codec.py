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

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from rawbpf.btf.reader import POINTER_SIZE, Btf, BtfError, Kind, Member, Type
from rawbpf.values.codecs import OwnCodec
from rawbpf.values.composite_plans import Field, composite_plan
from rawbpf.values.plans import (
    FLOAT_CODES,
    INT_CODES,
    ArrayPlan,
    Bits,
    Misfit,
    Plan,
    bits_plan,
    bytes_writer,
    checked_bool,
    enum_reader,
    enum_writer,
    integer_plan,
)
from rawbpf.values.struct_value import enum_class, is_usable

if TYPE_CHECKING:
    from typing_extensions import Buffer

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
        except Misfit as misfit:
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
        self._plans: dict[int, Plan] = {}
        self._entered: list[int] = []
        self._members = 0
        self._enums: dict[int, type[IntEnum] | None] = {}

    def plan(self, type_id: int) -> Plan:
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
        plan: Plan = _KINDS[found.kind](self, found, _name_of(self._btf, type_id))
        self._entered.pop()
        if plan.objects > min(_MOST_OBJECTS, _SOME_OBJECTS + 4 * plan.size):
            raise BtfError(f"a value of type {found.id} would be {plan.objects} Python objects")
        self._plans[found.id] = plan
        return plan

    # Scalars

    def _integer(self, found: Type, name: str) -> Plan:
        said = self._btf.integer(found)
        if not 1 <= found.size <= 16 or not 1 <= said.bits <= found.size * 8 - said.bit_offset:
            raise BtfError(f"type {found.id} is an integer of {said.bits} bits in {found.size} bytes")
        if said.bits != found.size * 8:
            return bits_plan(found.size, Bits(said.bit_offset, said.bits, said.signed, said.boolean, None))
        if said.boolean and found.size == 1:
            return Plan("?", None, checked_bool)
        return integer_plan(found.size, said.signed, said.boolean)

    def _pointer(self, found: Type, name: str) -> Plan:
        return integer_plan(POINTER_SIZE, False)

    def _float(self, found: Type, name: str) -> Plan:
        if found.size not in FLOAT_CODES:
            raise BtfError(f"type {found.id} is a float of {found.size} bytes, which Python does not have")
        return Plan(FLOAT_CODES[found.size])

    def _enum(self, found: Type, name: str) -> Plan:
        if found.size not in INT_CODES:
            raise BtfError(f"type {found.id} is an enum of {found.size} bytes")
        plan = integer_plan(found.size, found.kflag)
        kind = self.enum_class(found, name)
        return plan if kind is None else Plan(plan.code, enum_reader(kind), enum_writer(kind))

    def enum_class(self, found: Type, name: str) -> type[IntEnum] | None:
        """The class for an enum's values; None for one whose values stay int."""
        if found.id not in self._enums:
            few = found.vlen <= _MOST_ENUMERATORS
            values = self._btf.enumerators(found).items() if few else ()
            usable = tuple((each, value) for each, value in values if is_usable(each))
            self._enums[found.id] = enum_class(name or "enum", usable) if usable else None
        return self._enums[found.id]

    # What contains others

    def _array(self, found: Type, name: str) -> Plan:
        element_id, count = self._btf.array(found)
        element = self.plan(element_id)
        size = self._checked_size(found, element.size * count)
        if self._is_text(element_id):
            kind = self._btf.resolve(element_id)
            return Plan(f"{size}s", None, bytes_writer(size, fill=self._is_char(kind)), objects=1 + size // 16)
        return ArrayPlan(element, count, size, 1 + count * element.objects)

    def _is_text(self, element_id: int) -> bool:
        """Whether an array of these is bytes: of char, and of unsigned char under any name, but not of _Bool."""
        found = self._btf.resolve(element_id)
        if found.kind != Kind.INT or found.size != 1:
            return False
        said = self._btf.integer(found)
        return said.bits == 8 and (self._is_char(found) or not (said.signed or said.boolean))

    def _is_char(self, found: Type) -> bool:
        return found.name == "char" or self._btf.integer(found).char

    def _composite(self, found: Type, name: str) -> Plan:
        size = self._checked_size(found, found.size)
        fields: list[Field] = []
        self._collect(found, 0, fields)
        names = tuple(field.name for field in fields)
        if len(set(names)) < len(names):
            raise BtfError(f"type {found.id} has two members of one name")
        for field in fields:
            if field.stop_bit > size * 8:
                raise BtfError(f"member {field.name!r} of type {found.id} lies outside of it")
        return composite_plan(name or found.kind.name.lower(), fields, size)

    def _collect(self, found: Type, base: int, fields: "list[Field]") -> None:
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

    def _field(self, owner: Type, member: Member, inner: Type, base: int) -> "Field":
        start = base + member.bit_offset
        bits = self._bits_of(member, inner)
        if bits is None:
            plan = self.plan(member.type_id)
            if start % 8:
                raise BtfError(f"member {member.name!r} of type {owner.id} does not begin at a byte")
            return Field(member.name, plan, start, start + plan.size * 8, True)
        if inner.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64) or bits.bits > inner.size * 8:
            raise BtfError(f"member {member.name!r} of type {owner.id} can't have {bits.bits} bits")
        start += bits.bit_offset
        stop = start + bits.bits
        covered = (stop + 7) // 8 - start // 8
        return Field(member.name, bits_plan(covered, bits._replace(bit_offset=start % 8)), start, stop, False)

    def _bits_of(self, member: Member, inner: Type) -> "Bits | None":
        """What makes a member a bit-field: its own width, or (old compilers) that of its INT. None if it is none."""
        width, offset = member.bitfield_size, 0
        if inner.kind == Kind.INT:
            said = self._btf.integer(inner)
            if not width and said.bits != inner.size * 8:
                width, offset = said.bits, said.bit_offset
            return Bits(offset, width, said.signed, said.boolean, None) if width else None
        if not width:
            return None
        is_enum = inner.kind in (Kind.ENUM, Kind.ENUM64)
        kind = self.enum_class(inner, _name_of(self._btf, member.type_id)) if is_enum else None
        return Bits(0, width, inner.kflag, False, kind)

    def _checked_size(self, found: Type, size: int) -> int:
        if size > _MOST_BYTES:
            raise BtfError(f"type {found.id} has {size} bytes: no map's value is so large")
        return size


_KINDS: dict[Kind, Callable[[_Planner, Type, str], Plan]] = {
    Kind.INT: _Planner._integer,
    Kind.PTR: _Planner._pointer,
    Kind.FLOAT: _Planner._float,
    Kind.ENUM: _Planner._enum,
    Kind.ENUM64: _Planner._enum,
    Kind.ARRAY: _Planner._array,
    Kind.STRUCT: _Planner._composite,
    Kind.UNION: _Planner._composite,
}
