"""How values are written on the command line: a notation makes a value's bytes of text, and text or JSON of bytes.

Unless told otherwise, values of 1, 2, 4 and 8 bytes are unsigned integers of this machine. Others are text if all of it
can be printed, where zero bytes at the end don't count, and hexadecimal digits if not. So what a number looks like
depends on the map alone: a counter does not turn into a letter when it reaches 65.
"""

import json
import math
import re
import struct
import sys
from functools import cached_property
from itertools import zip_longest
from typing import Any, Protocol

from rawbpf.observe.wording import counted
from rawbpf.values.codecs import Codec, StructFormat, codec_for
from rawbpf.values.struct_value import EnumValue, StructValue


class Notation(Protocol):
    """encode() raises ValueError for text that is no value. text() is one line. json() is what json.dumps() takes.

    `longest`: neither text() nor json.dumps(json()) has more bytes than this; None if that is not known.
    """

    @property
    def longest(self) -> int | None: ...
    def encode(self, text: str) -> bytes: ...
    def text(self, data: bytes) -> str: ...
    def json(self, data: bytes) -> Any: ...


class HexNotation:
    """Bytes as hexadecimal digits: "01ff", "0x01ff", "01 ff", "01:ff"."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.longest = len('"0x"') + 2 * size

    def encode(self, text: str) -> bytes:
        digits = re.sub(r"\b0x|[:,]", "", text.lower())
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"{text!r} is not made of hexadecimal digits") from None
        if len(data) != self._size:
            raise ValueError(f"{text!r} is {counted(len(data), 'byte')}, and a value has {self._size}")
        return data

    def text(self, data: bytes) -> str:
        return "0x" + data.hex()

    json = text


class NumberNotation:
    """An unsigned integer of this machine: decimal, 0x, 0o or 0b, with or without underscores."""

    longest = len(str(2**64))

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, text: str) -> bytes:
        number = integer(text)
        if number < 0:
            signed = {1: "=b", 2: "=h", 4: "=i", 8: "=q"}[self._size]
            raise ValueError(f"{text} is negative, and values are unsigned here: --format '{signed}' makes them signed")
        if number >= 1 << 8 * self._size:
            raise ValueError(f"{text} does not fit a value of {counted(self._size, 'byte')}")
        return number.to_bytes(self._size, sys.byteorder)

    def text(self, data: bytes) -> str:
        return str(self.json(data))

    def json(self, data: bytes) -> Any:
        return int.from_bytes(data, sys.byteorder)


class TextNotation:
    """UTF-8, filled up with zero bytes; what can't be printed is shown with a backslash."""

    def __init__(self, size: int) -> None:
        self._size = size
        # In JSON a control character of one byte is \u0001.
        self.longest = len('""') + 6 * size

    def encode(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        if len(data) > self._size:
            raise ValueError(f"{text!r} has {counted(len(data), 'byte')}, and a value has {self._size}")
        return data.ljust(self._size, b"\0")

    def text(self, data: bytes) -> str:
        text = data.rstrip(b"\0").decode("utf-8", "backslashreplace")
        return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)

    def json(self, data: bytes) -> Any:
        return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


class TextOrHexNotation:
    """Text if all of it can be printed, else hexadecimal digits. "0x..." is hexadecimal in both directions.

    Text that is shorter than a value is refused: somebody who forgot --hex or --format would push what they don't mean.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._text, self._hex = TextNotation(size), HexNotation(size)
        self.longest = self._text.longest

    def encode(self, text: str) -> bytes:
        if text.startswith("0x"):
            return self._hex.encode(text)
        data = self._text.encode(text)
        if len(text.encode("utf-8", "surrogateescape")) < self._size:
            raise ValueError(f"{text!r} is shorter than a value of {self._size} bytes: --text fills up with zero bytes")
        return data

    def text(self, data: bytes) -> str:
        text = printable(data)
        return self._hex.text(data) if text is None or text.startswith("0x") else text

    json = text


class StructNotation:
    """A struct format's fields, with commas between them; one field stands alone."""

    def __init__(self, struct_format: str) -> None:
        codec = codec_for(struct_format)
        assert isinstance(codec, StructFormat)
        self._codec = codec
        self.size = codec.size

    @cached_property
    def _fields(self) -> list[type]:
        # Only after the size was compared with the map's: a format may ask for any number of bytes.
        return [type(zero) for zero in struct.unpack(self._codec.format, bytes(self.size))]

    @property
    def longest(self) -> int:
        # A number has at most 24 characters (-2.2250738585072014e-308), and a byte of text at most 6.
        return len("[]") + len(", ") * len(self._fields) + 26 * len(self._fields) + 6 * self.size

    def encode(self, text: str) -> bytes:
        if len(self._fields) == 1:
            return self._codec.encode(_field(self._fields[0], text))
        parts = text.split(",")
        if len(parts) != len(self._fields):
            raise ValueError(f"{text!r} has {counted(len(parts), 'field')}, and a value has {len(self._fields)}")
        return self._codec.encode(tuple(map(_field, self._fields, map(str.strip, parts))))

    def text(self, data: bytes) -> str:
        return ",".join(str(_plain(field)) for field in self._values(data))

    def json(self, data: bytes) -> Any:
        plain = [_plain(field) for field in self._values(data)]
        return plain if len(plain) > 1 else plain[0]

    def _values(self, data: bytes) -> tuple[Any, ...]:
        value = self._codec.decode(data)
        return value if isinstance(value, tuple) else (value,)


class BtfNotation:
    """A C type's value as JSON on one line: structs as objects, arrays as lists, enums by name. Bytes are text where it
    can be printed (zero bytes at the end aside), else "0x" and hexadecimal digits.

    On the way in text is filled up with zero bytes, and what an object leaves out is zero.
    """

    longest = None

    def __init__(self, codec: Codec[Any]) -> None:
        self._codec = codec
        self._zero = codec.decode(bytes(codec.size))

    @property
    def has_members(self) -> bool:
        """Whether the type is a struct, a union or an array of anything but bytes."""
        return isinstance(self._zero, (StructValue, tuple))

    def encode(self, text: str) -> bytes:
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{text[:100]!r} is not JSON: {error}") from None
        try:
            return self._codec.encode(_shaped(given, self._zero))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def text(self, data: bytes) -> str:
        return json.dumps(self.json(data))

    def json(self, data: bytes) -> Any:
        return _named(self._codec.decode(data))


def notation_for(
    size: int, *, struct_format: str | None = None, as_hex: bool = False, as_text: bool = False
) -> Notation:
    """The notation for values of `size` bytes. Raises ValueError if the struct format has another size."""
    if struct_format is not None:
        fields = StructNotation(struct_format)
        if fields.size != size:
            raise ValueError(
                f"the struct format {struct_format!r} has {counted(fields.size, 'byte')}, and a value has {size}"
            )
        return fields
    if as_hex:
        return HexNotation(size)
    if as_text:
        return TextNotation(size)
    return NumberNotation(size) if size in (1, 2, 4, 8) else TextOrHexNotation(size)


def integer(text: str) -> int:
    """A number as people write it: 10, 010, 0x0a, 1_000, -1."""
    for base in (0, 10):
        try:
            return int(text, base)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not a number (--text and --hex take other values)")


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
            raise ValueError(f"{text!r} is not one of {', '.join(_BOOLEANS)}")
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
    return HexNotation(len(value)).text(value) if text is None and any(value) else text or ""
