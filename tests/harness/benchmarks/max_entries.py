"""How the cost of an element grows with the map: the same calls on small and large queues, which are full.

A ring that is larger than the processor's caches is read and written from memory.
"""

import ctypes

from rawbpf import Queue
from tests.harness.benchmarks.bulk import repeated
from tests.harness.benchmarks.measure import Contender, Report, floor, medians, table, timed

SIZES = [16, 1024, 1 << 16, 1 << 20, 1 << 23]
CALLS = 2048
BATCH = 1024


def contenders(q: "Queue[bytes]") -> dict[tuple[str, int], Contender]:
    """Each takes and pushes again, so that the queue moves on around its ring and stays full."""
    c, fd, value, buffer = floor(), q.fileno(), b"12345678", ctypes.create_string_buffer(8)
    many = bytearray(8 * min(BATCH, q.max_entries))
    count, rounds = len(many) // 8, max(1, CALLS // (len(many) // 8))

    def c_loop() -> None:
        c.pop(fd, buffer, count)
        c.push(fd, value, count)

    def singly() -> None:
        q.pop()
        q.push(value)

    def in_bulk() -> None:
        q.pop_into(many)
        q.push_many(many)

    return {
        ("C loop", q.max_entries): lambda: timed(repeated(rounds, c_loop), 2 * count * rounds),
        ("push and pop", q.max_entries): lambda: timed(repeated(CALLS, singly), 2 * CALLS),
        (f"push_many and pop_into, up to {BATCH}", q.max_entries): lambda: timed(
            repeated(rounds, in_bulk), 2 * count * rounds
        ),
    }


def run(rounds: int) -> Report:
    """The table of one run."""
    queues = [Queue(8, size) for size in SIZES]
    try:
        found: dict[tuple[str, int], Contender] = {}
        for q in queues:
            q.push_many(bytes(8 * q.max_entries))
            found |= contenders(q)
        results = medians(found, rounds)
    finally:
        for q in queues:
            q.close()
    rows = [["8-byte values, max_entries", *map(str, SIZES)]]
    for name in dict.fromkeys(name for name, _ in results):
        rows.append([name, *(f"{results[name, size]:.0f} ns" for size in SIZES)])
    return Report(table(rows))
