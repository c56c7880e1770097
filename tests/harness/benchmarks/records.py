"""Typed records: what it costs to have elements as Python objects of their types, and as numpy arrays.

The same bytes are taken out of a queue by each contender, as tuples by a struct format, as named tuples by BTF, as
ctypes instances, and into an array of the map's own dtype. Beside them stands what bounds them: pop_into() into bytes,
and map(Record._make, struct.iter_unpack(...)) over the same bytes without a queue.
"""

import collections
import ctypes
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rawbpf import BTF, Queue
from tests.harness.benchmarks.measure import Contender, Report, medians, table, timed

RECORDS = 4096


class Flat(ctypes.Structure):
    _fields_ = [
        ("time", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("load", ctypes.c_double),
    ]


class Text(ctypes.Structure):
    _fields_ = [("time", ctypes.c_uint64), ("pid", ctypes.c_uint32), ("comm", ctypes.c_char * 20)]


class Endpoint(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint32), ("port", ctypes.c_uint16), ("family", ctypes.c_uint16)]


class Nested(ctypes.Structure):
    _fields_ = [("time", ctypes.c_uint64), ("source", Endpoint), ("target", Endpoint), ("counts", ctypes.c_uint32 * 4)]


class Bits(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32, 4),
        ("kind", ctypes.c_uint32, 6),
        ("length", ctypes.c_int32, 12),
        ("sequence", ctypes.c_uint32),
        ("time", ctypes.c_uint64),
    ]


# The types, and their members as a struct format without names. None of a bit-field's.
TYPES: dict[str, tuple[Any, str]] = {
    "4 numbers": (Flat, "=QIId"),
    "text": (Text, "=QI20s"),
    "nested, array": (Nested, "=QIHHIHHIIII"),
    "bit-fields": (Bits, "=IIQ"),
}


def contenders(stack: ExitStack, ctype: Any, form: str) -> dict[str, Contender]:
    """Each takes RECORDS elements and returns nanoseconds an element; that they are pushed before is not timed."""
    size = ctypes.sizeof(ctype)
    made = stack.enter_context(Queue(ctype, RECORDS, btf=True))
    # Each has its own memory to take elements into; that of who pushes would be warm.
    feeder, raw, tuples, named = (stack.enter_context(Queue.from_id(made.id, spec)) for spec in (size, size, form, BTF))
    data = bytes(size * RECORDS)
    buffer, one = bytearray(size * RECORDS), struct.Struct(form)
    record = collections.namedtuple("record", [f"f{i}" for i in range(len(one.unpack(bytes(size))))])

    def pops(work: Callable[[], object]) -> Contender:
        def contender() -> float:
            # Twice, because the first time finds the caches as the contender before it left them.
            for _ in range(2):
                assert feeder.push_many(data) == RECORDS
                nanoseconds = timed(work, RECORDS)
                assert feeder.pop(default=None) is None
            return nanoseconds

        return contender

    found = {"pop_into, bytes": pops(lambda: made.pop_into(buffer))}
    if (array := _array(made)) is not None:
        found["pop_into, an array of q.dtype"] = pops(lambda: made.pop_into(array))
    return found | {
        "pop_many, bytes": pops(lambda: raw.pop_many(RECORDS)),
        "pop_many, struct format": pops(lambda: tuples.pop_many(RECORDS)),
        "pop_many, BTF": pops(lambda: named.pop_many(RECORDS)),
        "pop_many, ctypes": pops(lambda: made.pop_many(RECORDS)),
        "iter_unpack alone": lambda: timed(lambda: list(one.iter_unpack(data)), RECORDS),
        "map(Record._make, iter_unpack) alone": lambda: timed(
            lambda: list(map(record._make, one.iter_unpack(data))), RECORDS
        ),
    }


def _array(q: "Queue[Any]") -> Any:
    """An array of the queue's own dtype; None if numpy is not installed, or there are bit-fields."""
    try:
        import numpy as np

        return np.empty(RECORDS, q.dtype)
    except (ImportError, TypeError):
        return None


def run(rounds: int) -> Report:
    """The table of one run: nanoseconds a record, and how many times as many as pop_into() takes into bytes."""
    with ExitStack() as stack:
        everything = {
            (kind, name): contender
            for kind, (ctype, form) in TYPES.items()
            for name, contender in contenders(stack, ctype, form).items()
        }
        results = medians(everything, rounds)
    rows = [[f"records, {RECORDS} a call", *TYPES]]
    for name in dict.fromkeys(name for _, name in everything):
        rows.append([name, *(_cell(results, kind, name) for kind in TYPES)])
    return Report(table(rows))


def _cell(results: dict[tuple[str, str], float], kind: str, name: str) -> str:
    if (kind, name) not in results:
        return "-"
    return f"{results[kind, name]:.0f} ns, {results[kind, name] / results[kind, 'pop_into, bytes']:.1f} x"
