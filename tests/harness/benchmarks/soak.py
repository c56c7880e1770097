"""A soak: millions of operations, single and bulk, while memory and descriptors are watched. Both must stay flat."""

import os
import time
from typing import NamedTuple

from rawbpf import Queue, Stack
from tests.harness.benchmarks.measure import Report, table

SAMPLES = 60

# Bytes that resident memory may grow by after the first tenth of the time.
SLACK = 512 << 10


class Sample(NamedTuple):
    """What a look showed: seconds since the start, elements moved, resident KiB, open descriptors."""

    seconds: float
    elements: int
    resident: int
    descriptors: int


def look(start: float, elements: int) -> Sample:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return Sample(
        time.monotonic() - start, elements, pages * os.sysconf("SC_PAGESIZE") >> 10, len(os.listdir("/proc/self/fd"))
    )


def one_turn(maps: "list[Queue[bytes] | Stack[bytes]]", data: bytes, buffer: bytearray) -> int:
    """Every way to move elements once; returns how many were moved."""
    moved = 0
    for m in maps:
        for _ in range(200):
            m.push(b"12345678")
            m.peek()
            m.pop()
            m.pop(None)
        m.push_many(data)
        moved += 200 + len(m.pop_many(1000)) + m.pop_into(buffer) + sum(1 for _ in m.drain())
    with Queue(8, 100) as short_lived:
        moved += short_lived.push_many(data[:800])
        short_lived.qsize()
        moved += len(short_lived.snapshot())
    return moved


def soak(seconds: float) -> list[Sample]:
    """Goes on for so long and looks SAMPLES times."""
    data, buffer = bytes(8 * 4000), bytearray(8 * 1000)
    with Queue(8, 5000) as q, Stack(8, 5000) as s:
        samples: list[Sample] = []
        elements, start = 0, time.monotonic()
        while len(samples) < SAMPLES:
            elements += one_turn([q, s], data, buffer)
            if time.monotonic() - start >= seconds * (len(samples) + 1) / SAMPLES:
                samples.append(look(start, elements))
    return samples


def run(rounds: int) -> Report:
    """Two seconds for each round. AssertionError if memory or descriptors grow."""
    samples = soak(2 * rounds)
    warm = samples[SAMPLES // 10 :]
    first, last = warm[0], warm[-1]
    growth = (last.resident - first.resident) << 10
    assert growth <= SLACK, f"resident memory grew by {growth} bytes"
    assert {sample.descriptors for sample in warm} == {first.descriptors}, "descriptors are left open"
    rows = [["soak", "seconds", "elements", "resident", "descriptors"]]
    for title, sample in (("after a tenth", first), ("at the end", last)):
        rows.append(
            [title, f"{sample.seconds:.0f}", f"{sample.elements:,}", f"{sample.resident} KiB", str(sample.descriptors)]
        )
    curves = {
        "resident KiB": {round(sample.seconds, 1): float(sample.resident) for sample in samples},
        "descriptors": {round(sample.seconds, 1): float(sample.descriptors) for sample in samples},
    }
    return Report(table(rows), curves)
