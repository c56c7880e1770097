"""From a command's options to the notation of its values and to the lines that it prints."""

import argparse
import json
from contextlib import suppress
from typing import Any

from rawbpf.cli.drain import LineFormat
from rawbpf.cli.errors import UsageError
from rawbpf.cli.notation import BtfNotation, Notation, StructNotation, notation_for
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.syscall.errors import NotPermitted


def notation_of(options: argparse.Namespace, m: QueueOrStack[Any]) -> Notation:
    """The notation that the options ask for. Raises UsageError if it does not fit the map's values."""
    chosen = options.format or options.hex or options.text or options.raw
    try:
        if options.btf:
            return _btf_notation(m)
        if not chosen and m.info().btf_value_type_id:
            # Without CAP_SYS_ADMIN the kernel does not hand BTF out, and not all types are read.
            with suppress(NotPermitted, ValueError):
                notation = _btf_notation(m)
                if notation.has_members:
                    return notation
        return notation_for(m.value_size, struct_format=options.format, as_hex=options.hex, as_text=options.text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _btf_notation(m: QueueOrStack[Any]) -> BtfNotation:
    from rawbpf.values.map_btf import codec_of

    return BtfNotation(codec_of(m.info()))


def struct_notation(struct_format: str) -> StructNotation:
    """The notation of a struct format. Raises UsageError if it is none."""
    try:
        return StructNotation(struct_format)
    except ValueError as error:
        raise UsageError(str(error)) from None


def encoded(notation: Notation, text: str) -> bytes:
    """A value's bytes. Raises UsageError for text that is no value."""
    try:
        return notation.encode(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def line_format(options: argparse.Namespace, notation: Notation, size: int) -> LineFormat:
    """How a value of `size` bytes is printed: a line of text, with --json an object, with --raw as it is."""
    if options.raw:
        return LineFormat(bytes, size)
    longest = None if notation.longest is None else notation.longest + len('{"value": }\n')
    if options.json:
        return LineFormat(lambda data: json.dumps({"value": notation.json(data)}).encode() + b"\n", longest)
    return LineFormat(lambda data: notation.text(data).encode("utf-8", "surrogateescape") + b"\n", longest)
