"""What a value is: raw bytes, a struct format, a ctypes type, or any codec of your own.

A map stores `value_size` bytes and knows nothing of what they mean. A codec does: `size` is the value's length in
bytes, encode() makes exactly that many bytes of a Python value, decode() the value of the bytes.
"""

import math
import operator
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import starmap
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    import ctypes

    from typing_extensions import Buffer

T = TypeVar("T")


class Codec(Protocol[T]):
    """What `Queue(codec, ...)` takes.

    `size` is the length of the encoded value in bytes, the map's value_size. encode() returns exactly that many bytes,
    and decode() makes the value of them again.

    >>> class Address:  # an IPv4 address as text
    ...     size = 4
    ...     def encode(self, value):
    ...         return bytes(map(int, value.split(".")))
    ...     def decode(self, data):
    ...         return ".".join(map(str, data))
    >>> with Queue(Address(), 8) as q:
    ...     q.push("127.0.0.1")
    ...     q.pop()
    '127.0.0.1'
    """

    @property
    def size(self) -> int: ...

    def encode(self, value: T) -> bytes: ...

    def decode(self, data: bytes) -> T: ...


class ByBtf:
    """The type of rawbpf.BTF: "by the types that the map itself carries", in place of a value specification.

    >>> with Queue("<IH", 8, btf=True) as q, Queue.from_id(q.id, BTF) as same:
    ...     q.push((7, 80))
    ...     same.pop()
    struct(f0=7, f1=80)
    """

    def __repr__(self) -> str:
        return "rawbpf.BTF"

    def __reduce__(self) -> str:
        return "BTF"


# In place of a value specification, for a map that is opened: its values are what the map itself says.
BTF = ByBtf()

# A number of bytes, a struct format, a ctypes type, a codec.
ValueSpec: TypeAlias = "int | str | struct.Struct | type[ctypes._CData] | Codec[Any]"

# To open an existing map it may also be BTF, or None for bytes of the map's value_size.
OpenSpec: TypeAlias = "ValueSpec | ByBtf | None"


class OwnCodec:
    """rawbpf's own codecs, whose encode() makes `size` bytes or raises: they need no CheckedCodec around them.

    A codec that can encode and decode many values faster than one by one has encode_all() and decode_all().
    """


class RawBytes(OwnCodec):
    """Bytes as they are: any contiguous buffer of the right length in, bytes out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, value: "Buffer") -> bytes:
        if type(value) is bytes and len(value) == self.size:
            return value
        return _bytes_of(value, self.size, addresses=False)

    def decode(self, data: bytes) -> bytes:
        return data

    def encode_all(self, values: list[Any]) -> bytes:
        # Bytes of the right length need no encode().
        if set(map(type, values)) <= {bytes} and set(map(len, values)) <= {self.size}:
            return b"".join(values)
        return b"".join(map(self.encode, values))

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        self._scalars.unpack(data, values)

    @cached_property
    def _scalars(self) -> "Scalars":
        return Scalars(struct.Struct(f"{self.size}s"))

    def __reduce__(self) -> tuple[Any, ...]:
        # struct.Struct, which decode_all() keeps, can't be pickled.
        return RawBytes, (self.size,)

    def __repr__(self) -> str:
        return f"{self.size} bytes"


def _bytes_of(value: "Buffer", size: int, *, addresses: bool = True) -> bytes:
    # bytes(5) would be five zero bytes: only objects with a buffer are accepted.
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(f"a value is bytes or another buffer, not {type(value).__name__}") from None
    if not addresses:
        _no_addresses(view)
    data = view.tobytes()
    if len(data) != size:
        raise ValueError(f"the value has {len(data)} bytes, and value_size is {size}")
    return data


class StructFormat(OwnCodec):
    """A struct format: one field gives scalars, several give tuples.

    Native formats ("IH") align as C does but, as the struct module says, add no padding at the end: close with
    "0Q" or the like where the C struct has some.
    """

    def __init__(self, compiled: struct.Struct) -> None:
        self._struct = compiled
        self.format = compiled.format
        self.size = compiled.size
        fields, self._texts = _fields(compiled.format)
        if fields == 0:
            raise ValueError(f"the struct format {compiled.format!r} has no field")
        self._scalar = fields == 1

    def encode(self, value: Any) -> bytes:
        if not self._scalar and not isinstance(value, (tuple, list)):
            raise TypeError(f"a value of several fields is a tuple, not {type(value).__name__}")
        fields = (value,) if self._scalar else value
        try:
            data = self._struct.pack(*fields)
            # The struct module silently cuts bytes to their size.
            for index, longest in self._texts:
                if len(fields[index]) > longest:
                    raise ValueError(f"{fields[index]!r} has more than {longest} bytes: struct format {self.format!r}")
            return data
        except (struct.error, OverflowError) as error:
            raise ValueError(f"{value!r} does not fit the struct format {self.format!r}: {error}") from None

    def decode(self, data: bytes) -> Any:
        values = self._struct.unpack(data)
        return values[0] if self._scalar else values

    def encode_all(self, values: list[Any]) -> bytes:
        # Formats with bytes in them go through encode(), value by value: it finds the one that does not fit.
        if not self._texts:
            with suppress(struct.error, OverflowError):
                if self._scalar:
                    return b"".join(map(self._struct.pack, values))
                if set(map(type, values)) <= {tuple, list}:
                    return b"".join(starmap(self._struct.pack, values))
        return b"".join(map(self.encode, values))

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        if self._scalar:
            self._scalars.unpack(data, values)
        else:
            values += self._struct.iter_unpack(data)

    @cached_property
    def _scalars(self) -> "Scalars":
        return Scalars(self._struct)

    def __reduce__(self) -> tuple[Any, ...]:
        # struct.Struct itself can't be pickled.
        return codec_for, (self.format,)

    def __repr__(self) -> str:
        return f"struct {self.format!r}"


# The items of a struct format: how many, or how long, and the code.
_FORMAT_ITEM = re.compile(r"(\d*)([a-zA-Z?])")


def format_fields(form: str) -> Iterator[tuple[str, int, int]]:
    """The fields of a struct format one by one: code, size and offset in bytes."""
    order = form[0] if form[0] in "@=<>!" else "@"
    end = 0
    for item in _items(form):
        end = struct.calcsize(f"{order}{end}x{item}")
        size = struct.calcsize(order + item)
        if not item.endswith("x") and (size or item == "0s"):
            yield item[-1], size, end - size


def _items(form: str) -> Iterator[str]:
    """A struct format's items one by one: "2I4s0Q" is "I", "I", "4s", "0Q" (which only aligns)."""
    for count, code in _FORMAT_ITEM.findall(form):
        alone = code in "spx" or count == "0" * len(count) != ""
        yield from [count + code] if alone else [code] * int(count or 1)


def _fields(form: str) -> tuple[int, list[tuple[int, int]]]:
    """How many fields a format has, and of those that are bytes of a fixed size the index and the size."""
    texts, index = [], 0
    for count, code in _FORMAT_ITEM.findall(form):
        number = int(count or 1)
        if code in "sp":
            # A Pascal string begins with its length.
            texts.append((index, number if code == "s" else max(number - 1, 0)))
        index += code in "sp" or (0 if code == "x" else number)
    return index, texts


class Scalars:
    """Many values of a format with one field: several of them in one format are unpacked three times as fast."""

    def __init__(self, one: struct.Struct) -> None:
        order = one.format[:1] if one.format[:1] in "@=<>!" else "@"
        blocks = {n: struct.Struct(order + one.format.removeprefix(order) * n) for n in (256, 16)}
        # Native alignment can put padding between two of a format: then each is unpacked alone.
        self._structs = [block for n, block in blocks.items() if block.size == n * one.size] + [one]

    def unpack(self, data: "Buffer", values: list[Any]) -> None:
        """Appends them to `values`."""
        view = memoryview(data).cast("B")
        for several in self._structs:
            whole = len(view) - len(view) % several.size
            for some in several.iter_unpack(view[:whole]):
                values += some
            view = view[whole:]


class CtypesType(OwnCodec):
    """A ctypes type: structures and arrays as instances of it, simple types (c_uint32) as Python values."""

    def __init__(self, ctype: "type[ctypes._CData]") -> None:
        import ctypes

        _refuse_addresses(ctype)
        self.ctype: Any = ctype
        self.size = ctypes.sizeof(ctype)
        self._simple = issubclass(ctype, ctypes._SimpleCData)

    def encode(self, value: Any) -> bytes:
        if self._simple and not isinstance(value, self.ctype):
            value = self._wrap(value)
        if not isinstance(value, self.ctype):
            raise TypeError(f"the value is a {type(value).__name__}, not a {self.ctype.__name__}")
        # Not bytes(value): a structure's class may have a __bytes__() of its own.
        return _bytes_of(value, self.size)

    def _wrap(self, value: Any) -> Any:
        # ctypes silently cuts an integer to its size.
        wrapped = self.ctype(value)
        # A pointer of 0 has the value None.
        if isinstance(value, int) and (wrapped.value or 0) != value:
            raise ValueError(f"{value!r} does not fit {self.ctype.__name__}")
        return wrapped

    def decode(self, data: bytes) -> Any:
        instance = self.ctype.from_buffer_copy(data)
        return instance.value if self._simple else instance

    def decode_all(self, data: "Buffer", values: list[Any]) -> None:
        found = (self.ctype * (memoryview(data).nbytes // self.size)).from_buffer_copy(data)
        # An array of a class derived from a simple type has instances, not values.
        values += [each.value if self._simple and isinstance(each, self.ctype) else each for each in found]

    def __repr__(self) -> str:
        return f"ctypes {self.ctype.__name__}"


def _refuse_addresses(ctype: Any) -> None:
    """Refuses strings and objects: in ctypes they are addresses, valid only in the process that pushed them."""
    import ctypes

    if issubclass(ctype, (ctypes.c_char_p, ctypes.c_wchar_p, ctypes.py_object)):
        raise TypeError(f"{ctype.__name__} is an address, which means nothing in other processes: use c_char * n")
    if issubclass(ctype, ctypes.Array):
        _refuse_addresses(ctype._type_)
    for owner in ctype.__mro__:
        for _, kind, *_ in owner.__dict__.get("_fields_", ()):
            _refuse_addresses(kind)


class CheckedCodec(OwnCodec):
    """A user's own codec, with a check that encode() returns exactly `size` bytes."""

    def __init__(self, codec: Codec[Any]) -> None:
        self._codec = codec
        self.size = operator.index(codec.size)
        self.decode = codec.decode

    def encode(self, value: Any) -> bytes:
        return _bytes_of(self._codec.encode(value), self.size)

    def __repr__(self) -> str:
        return repr(self._codec)


def codec_for(spec: "ValueSpec | ByBtf") -> Codec[Any]:
    """The codec that a value specification stands for.

    Raises TypeError for anything that is no value specification, ValueError for a size or struct format that no value
    can have.
    """
    if isinstance(spec, ByBtf):
        raise TypeError("rawbpf.BTF is for existing maps: a new one has no BTF yet (see btf=True)")
    # Not isinstance(): what a subclass encodes is checked, as a user's own codec is.
    if OwnCodec in type(spec).__bases__:
        return cast("Codec[Any]", spec)
    if isinstance(spec, int) and not isinstance(spec, bool):
        return RawBytes(int(spec))
    if isinstance(spec, str):
        try:
            spec = struct.Struct(spec)
        except struct.error as error:
            raise ValueError(f"{spec!r} is not a struct format: {error}") from None
    if isinstance(spec, struct.Struct):
        # A Struct of our own: __init__() of the caller's, called again, would change the size of a map's values.
        return StructFormat(struct.Struct(spec.format))
    if isinstance(spec, type) and hasattr(spec, "from_buffer_copy"):
        return CtypesType(spec)
    if not isinstance(spec, (type, bool)) and all(hasattr(spec, name) for name in ("size", "encode", "decode")):
        return CheckedCodec(spec)
    raise TypeError(f"a value is a size in bytes, a struct format, a ctypes type or a codec, not {spec!r}")


# Many values at once

# Formats of buffer items that are addresses in this process and no data: numpy's O; ctypes' P (void *), z and Z
# (strings), & (pointers) and X (functions). Names of members stand between colons.
_NAMES = re.compile(r":[^:]*:")
_ADDRESSES = re.compile("[OPzZ&X]")


def bytes_view(buffer: "Buffer") -> memoryview:
    """The bytes of a contiguous buffer. Raises TypeError for one whose items are addresses: no other process could
    follow them, and writing over them would crash this one."""
    view = memoryview(buffer)
    _no_addresses(view)
    if not view.c_contiguous:
        raise TypeError("the buffer is not contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"").cast("B") if view.readonly else memoryview(bytearray())


def _no_addresses(view: memoryview) -> None:
    if view.format != "B" and (found := _ADDRESSES.search(_NAMES.sub("", view.format))):
        raise TypeError(f"the buffer holds addresses (format {view.format!r} has {found[0]!r}), no values")


def decode_many(codec: Codec[Any], chunks: "Iterable[bytes | memoryview]") -> list[Any]:
    """The values in chunks of raw elements. A codec may have decode_all(data, values), which is faster than one by
    one. It appends to a list, because copying a list of values costs a quarter of the time that decoding takes."""
    decode_all = getattr(codec, "decode_all", None)
    values: list[Any] = []
    for chunk in chunks:
        # For a single value decode() is faster.
        if decode_all is not None and len(chunk) > codec.size:
            decode_all(chunk, values)
        else:
            data, size = bytes(chunk), codec.size
            for at in range(0, len(data), size):
                values.append(codec.decode(data[at : at + size]))
    return values


def encode_many(codec: Codec[Any], values: "Iterable[Any] | Buffer") -> bytes | memoryview:
    """The raw bytes of many values: an iterable's values are encoded, a contiguous buffer is taken as it is. A codec
    may have encode_all(), which is faster than one by one.

    Raises ValueError for a buffer that is not a whole number of values, and what encode() raises.
    """
    if type(values) is bytes and len(values) % codec.size == 0:
        return values
    if type(values) is list and len(values) < 4:
        # For so few, what follows costs more than it saves, and so does join().
        data = b""
        for value in values:
            data += codec.encode(value)
        return data
    try:
        # To ask a list costs more than to push two values.
        view = memoryview(cast("Buffer", values)) if type(values) is not list else None
    except TypeError:
        view = None
    if view is None:
        if isinstance(values, str):
            raise TypeError("values are an iterable of values, or a buffer, not a str") from None
        encode_all = getattr(codec, "encode_all", None)
        if encode_all is not None:
            return cast(bytes, encode_all(list(cast("Iterable[Any]", values))))
        return b"".join([codec.encode(value) for value in cast("Iterable[Any]", values)])
    # Values of a ctypes type may have pointers as fields: those are the caller's own choice.
    if not isinstance(codec, CtypesType):
        _no_addresses(view)
    # Of an array with several dimensions a value may be a row: numpy makes such arrays for a dtype that is an array.
    row = view.itemsize * math.prod(view.shape[1:] if view.shape else ())
    if codec.size not in (view.itemsize, row) and view.itemsize != 1:
        raise ValueError(f"the buffer's items have {view.itemsize} bytes, and value_size is {codec.size}")
    if view.nbytes % codec.size:
        raise ValueError(f"the buffer has {view.nbytes} bytes, no whole number of values of {codec.size}")
    return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
