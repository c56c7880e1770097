"""Several threads at one queue: each pushes a batch and pops one, in turn. Nanoseconds of wall time per element.

No pop finds the queue empty: whoever pops has pushed as many before, and nobody takes more than that.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from rawbpf import Queue
from tests.harness.benchmarks.measure import Report, floor, medians, table, timed, wall_clock

THREADS = [1, 2, 4]
BATCH = 1024

# Elements that one thread pushes and pops in a round.
SINGLY = BATCH
IN_BULK = 16 * BATCH

Work = Callable[[], object]


def c_loop(q: "Queue[bytes]") -> Work:
    c, fd, buffer = floor(), q.fileno(), ctypes.create_string_buffer(8)

    def work() -> None:
        assert c.push(fd, b"12345678", SINGLY) == 0
        assert c.pop(fd, buffer, SINGLY) == 0

    return work


def one_by_one(q: "Queue[bytes]") -> Work:
    def work() -> None:
        for _ in range(SINGLY):
            q.push(b"12345678")
        for _ in range(SINGLY):
            q.pop()

    return work


def in_bulk(q: "Queue[bytes]") -> Work:
    data, buffer = b"12345678" * BATCH, bytearray(8 * BATCH)

    def work() -> None:
        for _ in range(IN_BULK // BATCH):
            assert q.push_many(data) == BATCH
            assert q.pop_into(buffer) == BATCH

    return work


WAYS: dict[str, tuple[Callable[["Queue[bytes]"], Work], int]] = {
    "C loop": (c_loop, SINGLY),
    "rawbpf push, pop": (one_by_one, SINGLY),
    f"push_many, pop_into, {BATCH} a call": (in_bulk, IN_BULK),
}


def run(rounds: int) -> Report:
    """The table of one run."""
    with ExitStack() as stack:
        q = stack.enter_context(Queue(8, max(THREADS) * IN_BULK))
        # The same map through a Queue of its own for each thread: then they share no scratch, and no lock of Python's.
        own = [stack.enter_context(Queue.from_fd(os.dup(q.fileno()))) for _ in range(max(THREADS))]
        contenders = {}
        for count in THREADS:
            pool = stack.enter_context(ThreadPoolExecutor(count))
            for name, (way, elements) in WAYS.items():
                for label, queues in ((name, [q] * count), (f"{name}, a Queue each", own[:count])):
                    works = [way(each) for each in queues]
                    contenders[label, count] = together(pool, works, 2 * elements * count)
        results = medians(contenders, rounds)
    rows = [["8-byte values, threads", *map(str, THREADS)]]
    for label in dict.fromkeys(label for label, _ in contenders):
        rows.append([label, *(f"{results[label, count]:.0f} ns" for count in THREADS)])
    return Report(table(rows))


def together(pool: ThreadPoolExecutor, works: list[Work], elements: int) -> Callable[[], float]:
    """A contender that does all the works at once."""

    def all_of_them() -> None:
        for done in [pool.submit(work) for work in works]:
            done.result()

    return lambda: timed(all_of_them, elements, wall_clock)
