"""What C structs, unions and enums are in Python: StructValue and EnumValue, classes made for each type by its BTF."""

import functools
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


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
def struct_class(name: str, fields: tuple[str, ...]) -> type[StructValue]:
    members = {
        field: property(itemgetter(position), doc=f"Member {position}.")
        for position, field in enumerate(fields)
        if field not in _RESERVED and not _is_dunder(field)
    }
    return type(name, (StructValue,), {"__slots__": (), "_fields": fields, "__match_args__": fields, **members})


@functools.lru_cache(256)
def enum_class(name: str, enumerators: tuple[tuple[str, int], ...]) -> type[IntEnum]:
    # The functional API of a subclass of EnumValue, which mypy takes for a call of a member.
    make: Any = EnumValue
    made: type[IntEnum] = make(name, enumerators)
    return made


def _struct_value(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> StructValue:
    return tuple.__new__(struct_class(name, fields), values)


def _enum_value(name: str, enumerators: tuple[tuple[str, int], ...], value: int) -> IntEnum:
    return enum_class(name, enumerators)(value)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


_ENUM_NAMES = frozenset(dir(EnumValue)) | {"mro", "name", "value"}


def is_usable(enumerator: str) -> bool:
    """Whether an Enum may have such a member: no name that it has for itself."""
    return enumerator.isidentifier() and enumerator[0] != "_" and enumerator not in _ENUM_NAMES
