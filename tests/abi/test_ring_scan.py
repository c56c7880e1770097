"""ring_scan(), in C and in Python: which records it finds in a ring buffer's memory, and what it refuses."""

import errno
import struct

import pytest

from rawbpf.abi import python_door
from rawbpf.abi._cdef import ffi as python_ffi
from rawbpf.abi.door import FFI_MODE, ffi, lib

pytestmark = pytest.mark.alike

SIZE = 256
BUSY, DISCARD = 1 << 31, 1 << 30

DOORS = [("abi", python_ffi, python_door)]
if FFI_MODE == "api":
    DOORS.append(("api", ffi, lib))


@pytest.fixture(params=DOORS, ids=lambda each: each[0])
def scan(request):
    """scan(headers, position, producer, most) puts headers at their offsets, and returns what is found."""
    _, its_ffi, door = request.param

    def call(headers, position, producer, most=16):
        memory = bytearray(2 * SIZE)
        for offset, header in headers.items():
            for place in (offset, offset + SIZE):
                if place + 8 <= len(memory):
                    struct.pack_into("=II", memory, place, header, 0)
        page = bytearray(struct.pack("=Q", producer))
        records, end = its_ffi.new("struct ring_record[]", 16), its_ffi.new("uint64_t *", 12345)
        count = door.ring_scan(
            its_ffi.from_buffer("char[]", page),
            its_ffi.from_buffer("char[]", memory),
            SIZE,
            position,
            records,
            most,
            end,
        )
        found = [(record.after, record.offset, record.length) for record in records[0 : max(count, 0)]]
        return (count, None) if count < 0 else (found, end[0])

    return call


def test_records_follow_each_other(scan):
    """Each begins behind the other's bytes, padded to 8; their number can be limited."""
    headers = {0: 4, 16: 8, 32: 0, 40: 9}
    found = [(16, 8, 4), (32, 24, 8), (40, 40, 0), (64, 48, 9)]
    assert scan(headers, 0, 64) == (found, 64)
    assert scan(headers, 0, 64, most=2) == (found[:2], 32)
    assert scan(headers, 16, 64) == (found[1:], 64)
    assert scan(headers, 64, 64) == ([], 64)


def test_nothing_behind_a_record_that_is_still_written(scan):
    """The busy bit ends the scan, also if records behind it are complete; so does the producers' position."""
    assert scan({0: 4, 16: 8 | BUSY, 32: 4}, 0, 48) == ([(16, 8, 4)], 16)
    assert scan({0: 4 | BUSY}, 0, 16) == ([], 0)
    assert scan({0: 4 | BUSY | DISCARD}, 0, 16) == ([], 0)
    assert scan({0: 4, 16: 8}, 0, 16) == ([(16, 8, 4)], 16)


def test_discarded_records(scan):
    """They are left out, and the end is behind them."""
    assert scan({0: 4 | DISCARD, 16: 8, 32: 16 | DISCARD}, 0, 56) == ([(32, 24, 8)], 56)
    assert scan({0: 4 | DISCARD, 16: 8 | DISCARD}, 0, 32) == ([], 32)


def test_a_record_over_the_end_of_the_memory(scan):
    """It is in one piece, as the data is mapped twice; positions go on growing."""
    base = SIZE * 1000
    assert scan({SIZE - 16: 40, 32: 4}, base - 16, base + 48) == (
        [(base + 32, SIZE - 8, 40), (base + 48, 40, 4)],
        base + 48,
    )


def test_positions_beyond_32_bits(scan):
    """A position is a number of 64 bits."""
    base = 1 << 40
    assert scan({0: 8}, base, base + 16) == ([(base + 16, 8, 8)], base + 16)


@pytest.mark.parametrize(
    ("headers", "position", "producer"),
    [
        ({}, 4, 64),
        ({}, 72, 64),
        ({}, 0, SIZE + 8),
        ({0: 100}, 0, 64),
        ({0: DISCARD - 1}, 0, SIZE),
        ({0: 4, 16: SIZE}, 0, SIZE),
    ],
    ids=["no multiple of 8", "ahead", "too far behind", "too long", "much too long", "the second"],
)
def test_what_can_not_be(scan, headers, position, producer):
    """Positions and lengths that contradict each other are EINVAL: nothing outside of the memory is ever named."""
    assert scan(headers, position, producer) == (-errno.EINVAL, None)
