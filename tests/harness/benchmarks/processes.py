"""From one process to another: a queue in the kernel against what Python has for it.

A producer process waits for orders; the time counts from the order to the last record in the consumer's hands. An empty
queue in the kernel can't be waited for: its consumer asks again at once, having yielded the processor.
"""

import ctypes
import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rawbpf import Queue
from tests.harness.benchmarks.measure import Report, medians, table, timed, wall_clock

VALUE = b"12345678"
SIZE = len(VALUE)
BATCHES = [1, 16, 256, 4096]

# Records in a round. All of them fit into the queue: its producer never finds it full.
RECORDS = 8192

ORDER = struct.Struct("=II")


class Way(NamedTuple):
    """A way to pass RECORDS records: the producer's half, the consumer's half, and the batch sizes they make sense for.

    Both are called with the batch size.
    """

    produce: Callable[[int], None]
    consume: Callable[[int], None]
    batches: list[int]


def queue_singly(q: "Queue[bytes]") -> Way:
    def produce(_: int) -> None:
        for _ in range(RECORDS):
            q.push(VALUE)

    def consume(_: int) -> None:
        left = RECORDS
        while left:
            if q.pop(default=None) is None:
                os.sched_yield()
            else:
                left -= 1

    return Way(produce, consume, [1])


def queue_buffers(q: "Queue[bytes]") -> Way:
    def produce(batch: int) -> None:
        data = VALUE * batch
        for _ in range(RECORDS // batch):
            q.push_many(data)

    def consume(batch: int) -> None:
        buffer, left = bytearray(SIZE * batch), RECORDS
        while left:
            taken = q.pop_into(buffer)
            left -= taken
            if not taken:
                os.sched_yield()

    return Way(produce, consume, BATCHES)


def queue_lists(q: "Queue[bytes]") -> Way:
    def produce(batch: int) -> None:
        values = [VALUE] * batch
        for _ in range(RECORDS // batch):
            q.push_many(values)

    def consume(batch: int) -> None:
        left = RECORDS
        while left:
            taken = len(q.pop_many(batch))
            left -= taken
            if not taken:
                os.sched_yield()

    return Way(produce, consume, BATCHES)


def pipe(reader: int, writer: int) -> Way:
    """One write and one read a batch, as raw bytes: the records of a batch are not taken apart."""

    def produce(batch: int) -> None:
        data = VALUE * batch
        for _ in range(RECORDS // batch):
            written = os.write(writer, data)
            while written < len(data):
                written += os.write(writer, data[written:])

    def consume(batch: int) -> None:
        left = RECORDS * SIZE
        while left:
            left -= len(os.read(reader, min(batch * SIZE, left)))

    return Way(produce, consume, BATCHES)


class MessageQueueAttributes(ctypes.Structure):
    """struct mq_attr of <mqueue.h>."""

    _fields_ = [
        ("flags", ctypes.c_long),
        ("maxmsg", ctypes.c_long),
        ("msgsize", ctypes.c_long),
        ("more", ctypes.c_long * 5),
    ]


@contextmanager
def message_queue() -> Iterator[Way]:
    """A POSIX message queue, by ctypes. It holds ten messages, the most that everybody may have."""
    libc, name = ctypes.CDLL(None, use_errno=True), f"/rawbpf-{os.getpid()}".encode()
    attributes = MessageQueueAttributes(maxmsg=10, msgsize=SIZE)
    queue = libc.mq_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, ctypes.byref(attributes))
    if queue < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    libc.mq_unlink(name)

    def produce(_: int) -> None:
        for _ in range(RECORDS):
            libc.mq_send(queue, VALUE, SIZE, 0)

    def consume(_: int) -> None:
        for _ in range(RECORDS):
            buffer = ctypes.create_string_buffer(SIZE)
            libc.mq_receive(queue, buffer, SIZE, None)
            _ = buffer.raw

    try:
        yield Way(produce, consume, [1])
    finally:
        libc.mq_close(queue)


def pickled(put: Callable[[object], None], get: Callable[[], object]) -> Way:
    """A record a time."""

    def produce(_: int) -> None:
        for _ in range(RECORDS):
            put(VALUE)

    def consume(_: int) -> None:
        for _ in range(RECORDS):
            get()

    return Way(produce, consume, [1])


def pickled_lists(put: Callable[[object], None], get: Callable[[], object]) -> Way:
    """A list of records a time: objects of their own each, for pickle writes an object that it has seen as a number."""

    def produce(batch: int) -> None:
        values = [bytes(bytearray(VALUE)) for _ in range(batch)]
        for _ in range(RECORDS // batch):
            put(values)

    def consume(batch: int) -> None:
        for _ in range(RECORDS // batch):
            get()

    return Way(produce, consume, BATCHES)


@contextmanager
def ways() -> Iterator[dict[str, Way]]:
    """All ways, made before the producer is forked so that it has them too."""
    reader, writer = os.pipe()
    simple, with_thread = multiprocessing.SimpleQueue(), multiprocessing.Queue()
    try:
        with Queue(SIZE, RECORDS) as q, message_queue() as posix:
            yield {
                "rawbpf push, pop": queue_singly(q),
                "rawbpf push_many, pop_into": queue_buffers(q),
                "rawbpf push_many, pop_many, lists": queue_lists(q),
                "os.pipe, write and read": pipe(reader, writer),
                "POSIX message queue, ctypes": posix,
                "SimpleQueue, a record": pickled(simple.put, simple.get),
                "SimpleQueue, lists": pickled_lists(simple.put, simple.get),
                "multiprocessing.Queue, a record": pickled(with_thread.put, with_thread.get),
                "multiprocessing.Queue, lists": pickled_lists(with_thread.put, with_thread.get),
            }
    finally:
        os.close(reader)
        os.close(writer)
        simple.close()
        with_thread.close()


@contextmanager
def producer(ways: list[Way]) -> Iterator[Callable[[int, int], None]]:
    """A child process; yields order(number of the way, batch size)."""
    orders, ordering = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ordering)
            while order := os.read(orders, ORDER.size):
                number, batch = ORDER.unpack(order)
                ways[number].produce(batch)
        finally:
            os._exit(0)
    os.close(orders)
    try:
        yield lambda number, batch: (os.write(ordering, ORDER.pack(number, batch)), None)[1]
    finally:
        os.close(ordering)
        os.waitpid(pid, 0)


def run(rounds: int) -> Report:
    """The table and curves of one run."""
    with ways() as all_ways, producer(list(all_ways.values())) as order:

        def passing(number: int, way: Way, batch: int) -> Callable[[], float]:
            def work() -> None:
                order(number, batch)
                way.consume(batch)

            return lambda: timed(work, RECORDS, wall_clock)

        results = medians(
            {
                (name, batch): passing(number, way, batch)
                for number, (name, way) in enumerate(all_ways.items())
                for batch in way.batches
            },
            rounds,
        )
    rows = [["8-byte records to another process, records a call", *map(str, BATCHES)]]
    curves: dict[str, dict[int, float]] = {}
    for name, way in all_ways.items():
        rows.append([name, *(f"{results[name, batch]:.0f} ns" if batch in way.batches else "-" for batch in BATCHES)])
        curves[name] = {batch: results[name, batch if batch in way.batches else 1] for batch in BATCHES}
    return Report(table(rows), curves)
