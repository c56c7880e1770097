"""Values as people write and read them, for the command line: a Form turns text into a value's bytes and back.

Without a choice, values of 1, 2, 4 and 8 bytes are unsigned integers of this machine, and others are text where it
can be printed (zero bytes at the end aside) and hexadecimal where not. So a form depends on the map, and not on what
happens to be in it: a counter does not become a letter at 65.
"""

import json
import math
import re
import struct
import sys
from functools import cached_property
from itertools import zip_longest
from typing import Any, Protocol

from rawbpf.values.codecs import Codec, StructFormat, codec_for
from rawbpf.values.struct_value import EnumValue, StructValue


class Form(Protocol):
    """encode() raises ValueError for text that is no value; text() is one line; json() is what json.dumps takes."""

    def encode(self, text: str) -> bytes: ...

    def text(self, data: bytes) -> str: ...

    def json(self, data: bytes) -> Any: ...


class Hex:
    """Bytes as hexadecimal digits: "01ff", "0x01ff", "01 ff", "01:ff"."""

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, text: str) -> bytes:
        digits = re.sub(r"\b0x|[:,]", "", text.lower())
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"{text!r} are no hexadecimal digits") from None
        if len(data) != self._size:
            raise ValueError(f"{text!r} are {len(data)} bytes, and a value has {self._size}")
        return data

    def text(self, data: bytes) -> str:
        return "0x" + data.hex()

    json = text


class Number:
    """An unsigned integer of this machine; decimal, 0x, 0o, 0b, with underscores; negative ones wrap as in C."""

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, text: str) -> bytes:
        number = integer(text)
        if not -(1 << 8 * self._size - 1) <= number < 1 << 8 * self._size:
            raise ValueError(f"{text} does not fit a value of {self._size} bytes")
        return (number % (1 << 8 * self._size)).to_bytes(self._size, sys.byteorder)

    def text(self, data: bytes) -> str:
        return str(self.json(data))

    def json(self, data: bytes) -> Any:
        return int.from_bytes(data, sys.byteorder)


class Text:
    """UTF-8, filled up with zero bytes; what can't be printed is shown with a backslash."""

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        if len(data) > self._size:
            raise ValueError(f"{text!r} has {len(data)} bytes, and a value has {self._size}")
        return data.ljust(self._size, b"\0")

    def text(self, data: bytes) -> str:
        text = data.rstrip(b"\0").decode("utf-8", "backslashreplace")
        return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)

    def json(self, data: bytes) -> Any:
        return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


class TextOrHex:
    """Text where it can be printed, else hexadecimal; "0x..." is hexadecimal in both directions."""

    def __init__(self, size: int) -> None:
        self._text, self._hex = Text(size), Hex(size)

    def encode(self, text: str) -> bytes:
        return (self._hex if text.startswith("0x") else self._text).encode(text)

    def text(self, data: bytes) -> str:
        text = printable(data)
        return self._hex.text(data) if text is None or text.startswith("0x") else text

    json = text


class Struct:
    """A struct format's fields, with commas between them; one field stands alone."""

    def __init__(self, form: str) -> None:
        codec = codec_for(form)
        assert isinstance(codec, StructFormat)
        self._codec = codec
        self.size = codec.size

    @cached_property
    def _fields(self) -> list[type]:
        # Not before the size was compared with a map's: it may be any number.
        return [type(zero) for zero in struct.unpack(self._codec.format, bytes(self.size))]

    def encode(self, text: str) -> bytes:
        if len(self._fields) == 1:
            return self._codec.encode(_field(self._fields[0], text))
        parts = text.split(",")
        if len(parts) != len(self._fields):
            raise ValueError(f"{text!r} has {len(parts)} fields, and a value has {len(self._fields)}")
        return self._codec.encode(tuple(map(_field, self._fields, map(str.strip, parts))))

    def text(self, data: bytes) -> str:
        return ",".join(str(_plain(field)) for field in self._values(data))

    def json(self, data: bytes) -> Any:
        plain = [_plain(field) for field in self._values(data)]
        return plain if len(plain) > 1 else plain[0]

    def _values(self, data: bytes) -> tuple[Any, ...]:
        value = self._codec.decode(data)
        return value if isinstance(value, tuple) else (value,)


class ByType:
    """A C type's value as JSON on one line: structs as objects, arrays as lists, enums by name. Bytes are text where it
    can be printed (zero bytes at the end aside), else "0x" and hexadecimal digits.

    On the way in text is filled up with zero bytes, and what an object leaves out is zero.
    """

    def __init__(self, codec: Codec[Any]) -> None:
        self._codec = codec

    def encode(self, text: str) -> bytes:
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{text[:100]!r} is no JSON: {error}") from None
        try:
            return self._codec.encode(_shaped(given, self._codec.decode(bytes(self._codec.size))))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def text(self, data: bytes) -> str:
        return json.dumps(self.json(data))

    def json(self, data: bytes) -> Any:
        return _named(self._codec.decode(data))


def form_for(size: int, *, form: str | None = None, as_hex: bool = False, as_text: bool = False) -> Form:
    """The form of a map's values of `size` bytes: `form` is a struct format. ValueError if its size is another."""
    if form is not None:
        fields = Struct(form)
        if fields.size != size:
            raise ValueError(f"the struct format {form!r} has {fields.size} bytes, and a value has {size}")
        return fields
    if as_hex:
        return Hex(size)
    if as_text:
        return Text(size)
    return Number(size) if size in (1, 2, 4, 8) else TextOrHex(size)


def integer(text: str) -> int:
    """A number as people write it: 10, 010, 0x0a, 1_000, -1."""
    for base in (0, 10):
        try:
            return int(text, base)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no number (--text and --hex take other values)")


def printable(data: bytes) -> str | None:
    """The text in the bytes, zero bytes at the end aside; None if there is none or some of it can't be printed."""
    try:
        text = data.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None


_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _field(kind: type, text: str) -> Any:
    if kind is bytes:
        return text.encode("utf-8", "surrogateescape")
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"{text!r} is none of {', '.join(_BOOLEANS)}")
        return _BOOLEANS[text.lower()]
    return float(text) if kind is float else integer(text)


def _named(value: Any) -> Any:
    """A decoded value as json.dumps takes it."""
    if isinstance(value, EnumValue):
        return value.name
    if isinstance(value, StructValue):
        return {name: _named(each) for name, each in value._asdict().items()}
    return [_named(each) for each in value] if isinstance(value, tuple) else _plain(value)


def _shaped(given: Any, like: Any) -> Any:
    """What JSON says, with bytes where the type has bytes: JSON has only text."""
    if isinstance(like, bytes) and isinstance(given, str):
        data = bytes.fromhex(given[2:]) if given.startswith("0x") else given.encode("utf-8", "surrogateescape")
        return data.ljust(len(like), b"\0")
    if isinstance(like, float) and isinstance(given, str):
        return _NOT_FINITE.get(given, given)
    if isinstance(like, StructValue) and isinstance(given, dict):
        members = like._asdict()
        return {name: _shaped(each, members.get(name)) for name, each in given.items()}
    if isinstance(like, tuple) and isinstance(given, list):
        return [_shaped(each, element) for each, element in zip_longest(given, like[: len(given)])]
    return given


# JSON has no such numbers. Protocol buffers' JSON has these names.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if not isinstance(value, bytes):
        return value
    text = printable(value)
    return Hex(len(value)).text(value) if text is None and any(value) else text or ""
