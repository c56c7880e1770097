"""The numpy.dtype of a map's values: the same bytes in the same places, padding included.

| value                                     | dtype                                                             |
|-------------------------------------------|-------------------------------------------------------------------|
| raw bytes                                 | void of that size ("V8")                                          |
| integers of 1, 2, 4, 8 bytes, bool, float | the number of that size, sign and byte order                      |
| char[N], a format's "Ns" and "c"          | bytes ("S16"): numpy shows them without the zero bytes at the end |
| other arrays                              | a subarray                                                        |
| struct, or a format of several fields     | a structured dtype; a format's fields are f0, f1 ...              |
| enum, and a pointer that BTF describes    | the integer of its size                                           |

The rest is a TypeError: bit-fields; unions, whose members numpy would write over each other; integers and floats of
other sizes; the struct module's "P" and "p"; pointers in ctypes; codecs of a user's own. numpy is imported when a dtype
is asked for, and not before.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rawbpf.btf.reader import POINTER_SIZE, Btf, Kind, Type
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import Codec, CtypesType, RawBytes, StructFormat, format_fields

if TYPE_CHECKING:
    import numpy as np

# A name, what numpy.dtype() takes, and an offset in bytes.
_Member = tuple[str, Any, int]

# numpy's kinds of numbers, by the codes of the struct module and of ctypes' simple types.
_KINDS = {"?": "b", **dict.fromkeys("bhilqn", "i"), **dict.fromkeys("BHILQN", "u"), **dict.fromkeys("efd", "f")}
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


def dtype_of(codec: Codec[Any]) -> "np.dtype[Any]":
    """The numpy.dtype of a codec's values, see above.

    Raises TypeError where there is none, ImportError where numpy is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(f"a dtype needs numpy: pip install 'rawbpf[numpy]' ({error})") from error
    for kind, describe in _DESCRIBE.items():
        if isinstance(codec, kind):
            found: np.dtype[Any] = np.dtype(describe(codec))
            return found
    raise TypeError(f"no numpy.dtype: nothing is known of the values of {codec!r}")


def _no_dtype(what: str) -> TypeError:
    return TypeError(f"no numpy.dtype: {what}")


def _number(kind: str, size: int, order: str, what: str) -> str:
    if size not in _SIZES[kind]:
        raise _no_dtype(f"numpy has no number of {size} bytes like {what}")
    return f"{order}{kind}{size}"


def _array(element: Any, count: int) -> Any:
    import numpy as np

    # numpy has no array of elements without a size.
    kind = np.dtype(element)
    return (kind if kind.itemsize else "V1", (count if kind.itemsize else 0,))


def _characters(size: int) -> Any:
    return f"S{size}" if size else ("S1", (0,))


def _struct(size: int, members: Iterable[_Member], what: str) -> Any:
    import numpy as np

    names, formats, offsets, end = [], [], [], 0
    for name, given, offset in members:
        if offset < end:
            raise _no_dtype(f"member {name!r} of {what} shares bytes with another")
        names.append(name)
        formats.append(np.dtype(given))
        offsets.append(offset)
        end = offset + formats[-1].itemsize
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}


# Struct formats


def _of_format(codec: StructFormat) -> Any:
    order = {"<": "<", ">": ">", "!": ">"}.get(codec.format[0], "=")
    fields = list(format_fields(codec.format))
    found = [_of_item(code, size, order, repr(codec)) for code, size, _ in fields]
    if len(fields) == 1 and fields[0][1] == codec.size:
        return found[0]
    members = ((f"f{i}", given, fields[i][2]) for i, given in enumerate(found))
    return _struct(codec.size, members, repr(codec))


def _of_item(code: str, size: int, order: str, what: str) -> Any:
    if code in "sc":
        return _characters(size)
    if code not in _KINDS:
        raise _no_dtype(f"numpy has nothing like the code {code!r} of {what}")
    return _number(_KINDS[code], size, order, what)


# ctypes


def _of_ctype(ctype: Any) -> Any:
    import ctypes

    size, bases, name = ctypes.sizeof(ctype), ctype.__mro__, ctype.__name__
    if ctypes.Union in bases:
        raise _no_dtype(f"{name} is a union, whose members share bytes")
    if ctypes.Structure in bases:
        return _struct(size, _members_of_ctype(ctype), name)
    if ctypes.Array in bases:
        if ctype._type_ is ctypes.c_char:
            return _characters(size)
        return _array(_of_ctype(ctype._type_), ctype._length_)
    if ctypes._SimpleCData not in bases or ctype._type_ in "PzZO":
        raise _no_dtype(f"{name} is a pointer")
    swapped = getattr(ctype, f"__ctype_{sys.byteorder[0]}e__", ctype) is not ctype
    order = {"little": "<>", "big": "><"}[sys.byteorder][swapped]
    return _of_item(ctype._type_, size, order, name)


def _members_of_ctype(ctype: Any) -> Iterator[_Member]:
    for owner in reversed(ctype.__mro__):
        anonymous = owner.__dict__.get("_anonymous_", ())
        for name, kind, *width in owner.__dict__.get("_fields_", ()):
            if width:
                raise _no_dtype(f"member {name!r} of {ctype.__name__} is a bit-field")
            offset = owner.__dict__[name].offset
            if name in anonymous:
                given = _of_ctype(kind)
                yield from _moved(zip(given["names"], given["formats"], given["offsets"], strict=True), offset)
            else:
                yield name, _of_ctype(kind), offset


def _moved(members: Iterable[_Member], offset: int) -> Iterator[_Member]:
    return ((name, given, offset + at) for name, given, at in members)


# BTF. That the types are sound was seen when the codec was made.


def _of_btf(btf: Btf, type_id: int) -> Any:
    found = btf.resolve(type_id)
    if found.kind not in _OF_KIND:
        raise _no_dtype(f"{found.name or 'a value'!r} is a {found.kind.name.lower()}, whose members share bytes")
    return _OF_KIND[found.kind](btf, found)


def _of_integer(btf: Btf, found: Type) -> str:
    said = btf.integer(found)
    if said.bits != found.size * 8:
        raise _no_dtype(f"{found.name!r} is a bit-field")
    return _number("b" if said.boolean else "i" if said.signed else "u", found.size, "=", repr(found.name))


def _of_array(btf: Btf, found: Type) -> Any:
    element_id, count = btf.array(found)
    element = btf.resolve(element_id)
    if element.kind == Kind.INT and (element.name == "char" or btf.integer(element).char):
        return _characters(count)
    return _array(_of_btf(btf, element_id), count)


def _members_of_btf(btf: Btf, composite: Type) -> Iterator[_Member]:
    for member in btf.members(composite):
        if member.bitfield_size:
            raise _no_dtype(f"member {member.name!r} of {composite.name!r} is a bit-field")
        inner, offset = btf.resolve(member.type_id), member.bit_offset // 8
        if member.name:
            yield member.name, _of_btf(btf, member.type_id), offset
        elif inner.kind == Kind.STRUCT:
            yield from _moved(_members_of_btf(btf, inner), offset)
        elif inner.kind == Kind.UNION:
            raise _no_dtype(f"{composite.name!r} has a union, whose members share bytes")


_OF_KIND: dict[Kind, Callable[[Btf, Type], Any]] = {
    Kind.INT: _of_integer,
    Kind.PTR: lambda btf, found: f"u{POINTER_SIZE}",
    Kind.FLOAT: lambda btf, found: _number("f", found.size, "=", repr(found.name)),
    Kind.ENUM: lambda btf, found: _number("i" if found.kflag else "u", found.size, "=", repr(found.name)),
    Kind.ENUM64: lambda btf, found: _number("i" if found.kflag else "u", found.size, "=", repr(found.name)),
    Kind.ARRAY: _of_array,
    Kind.STRUCT: lambda btf, found: _struct(found.size, _members_of_btf(btf, found), repr(found.name)),
}

_DESCRIBE: dict[type, Callable[[Any], Any]] = {
    RawBytes: lambda codec: f"V{codec.size}",
    StructFormat: _of_format,
    CtypesType: lambda codec: _of_ctype(codec.ctype),
    BtfCodec: lambda codec: _of_btf(codec.btf, codec.type_id),
}
