"""RingBuffer: each record once, in order, however the consumer ends; and that the kernel wakes it."""

import asyncio
import contextlib
import errno
import gc
import mmap
import os
import queue
import random
import signal
import struct
import threading
import time
from itertools import chain, pairwise

import pytest

import rawbpf
from rawbpf import BTF, Empty, Hash, NotPermitted, RingBuffer
from rawbpf.maps import ring_buffer, ring_memory
from tests.conftest import FREE_THREADED, SECONDS, SLOWNESS, Interrupted, needs_3_11, rounds
from tests.maps.ring_producer import NO_WAKEUP, Producer

pytestmark = [
    pytest.mark.creates,
    pytest.mark.linux("5.8"),
    pytest.mark.real_kernel(reason="the simulated one has no ring buffers"),
]


@pytest.fixture
def ring():
    with RingBuffer(1 << 16, "=Q", name="ring") as made:
        yield made


@pytest.fixture
def producer(ring):
    with Producer(ring) as made:
        yield made


@pytest.fixture
def no_looking_again(monkeypatch):
    """Nobody looks by himself: what arrives arrives because the kernel woke the waiter."""
    monkeypatch.setattr(ring_buffer, "_LOOK_AGAIN", 3600.0)


def soon(do, *arguments):
    """Does something in a thread, once the main thread had time to fall asleep."""

    def later():
        time.sleep(0.05)
        do(*arguments)

    thread = threading.Thread(target=later)
    thread.start()
    return thread


# One by one


def test_pop_in_order(ring, producer):
    """Records come out in the order in which they were written, and then it is empty."""
    producer.produce(100)
    assert [ring.pop() for _ in range(100)] == list(range(100))
    assert ring.pop(default=None) is None and ring.pop(-1) == -1
    with pytest.raises(queue.Empty) as caught:
        ring.pop()
    assert type(caught.value) is Empty and caught.value.errno == errno.ENOENT and "'ring' is empty" in str(caught.value)


def test_pending(ring, producer):
    """It counts the bytes with their headers, and goes down with each record that is handed over."""
    assert ring.pending == 0 and ring.size == 1 << 16
    producer.produce(3)
    assert ring.pending == 3 * 16
    ring.pop()
    assert ring.pending == 2 * 16
    assert list(ring.drain()) == [1, 2] and ring.pending == 0


def test_records_of_any_length():
    """Without a specification a record is its bytes, of its own length, over many rounds of the memory."""
    with RingBuffer(mmap.PAGESIZE) as ring, Producer(ring, vary=True) as producer:
        number = 0
        for _ in range(200):
            producer.produce(40)
            for record in ring.drain():
                size = 8 + number % 32
                assert record == struct.pack("=Q", number) + bytes([number % 256]) * (size - 8)
                number += 1
        assert number == 8000 and producer.dropped == 0


def test_discarded_records_are_left_out():
    """What a program discards does not come, also where nothing else is there."""
    with RingBuffer(1 << 16, "=Q") as ring, Producer(ring, discard=True) as producer:
        producer.produce(32)
        assert list(ring.drain()) == [n for n in range(32) if n % 8 != 7]
        assert producer.discarded == 4 and ring.pending == 0
        producer.produce(7)
        assert len(list(ring.drain())) == 7
        producer.produce(1)
        assert ring.pop(default=None) is None and ring.pending == 0


def test_no_room():
    """Where there is no room the program knows it, and what is there stays as it is."""
    with RingBuffer(mmap.PAGESIZE, "=Q") as ring, Producer(ring) as producer:
        producer.produce(1000)
        there = list(ring.drain())
        assert there == list(range(len(there))) and len(there) + producer.dropped == 1000


def test_what_does_not_fit_the_codec():
    """A record of another size is a ValueError and stays; pop_bytes() takes it."""
    with RingBuffer(mmap.PAGESIZE, "=I") as ring, Producer(ring) as producer:
        producer.produce(2)
        for _ in range(2):
            for do in (ring.pop, lambda: next(ring.drain()), lambda: next(iter(ring.follow()))):
                with pytest.raises(ValueError, match="has 8 bytes, not 4"):
                    do()
        assert ring.pop_bytes() == struct.pack("=Q", 0) and ring.pop_bytes() == struct.pack("=Q", 1)
        assert ring.pop_bytes(None) is None


def test_a_codec_that_raises(ring, producer):
    """What it raises comes out, and the record stays."""

    class Fussy:
        size = 8
        broken = True

        def encode(self, value):
            raise NotImplementedError

        def decode(self, data):
            if self.broken:
                raise ZeroDivisionError
            return data

    codec = Fussy()
    with RingBuffer.from_id(ring.id, codec) as same:
        producer.produce(3)
        for do in (same.pop, lambda: list(same.drain()), lambda: asyncio.run(first_async(same))):
            with pytest.raises(ZeroDivisionError):
                do()
        codec.broken = False
        assert len(list(same.drain())) == 3
    # The exceptions' tracebacks have what was mapped.
    gc.collect()


async def first_async(ring):
    return await anext(aiter(ring.follow()))


# Waiting


def test_pop_waits(no_looking_again, ring, producer):
    """With a timeout it waits for a record, and is woken when one comes."""
    thread = soon(producer.produce, 1)
    assert ring.pop(timeout=60) == 0
    thread.join()
    with pytest.raises(Empty):
        ring.pop(timeout=0.01)
    assert ring.pop(7, timeout=0.01) == 7


def test_follow_is_woken(no_looking_again, ring, producer):
    """The loop sleeps until the kernel says that a record came, each time."""
    seen, threads = [], [soon(producer.produce, 1)]
    for number in ring.follow():
        seen.append(number)
        if number == 5:
            break
        threads.append(soon(producer.produce, 1))
    for thread in threads:
        thread.join()
    assert seen == list(range(6))


def test_follow_ends_with_its_timeout(ring, producer):
    """Without a record for so long the loop ends; what comes later is for the next one."""
    producer.produce(3)
    assert list(ring.follow(timeout=0.05)) == [0, 1, 2]
    producer.produce(1)
    assert list(ring.follow(timeout=0)) == [3]
    with pytest.raises(ValueError, match="negative"):
        ring.follow(timeout=-1)


def test_stop_from_another_thread(no_looking_again, ring, producer):
    """stop() ends a loop that sleeps, and one that has records at hand: no further one is handed over."""
    follow = ring.follow()
    thread = soon(follow.stop)
    assert list(follow) == []
    thread.join()
    producer.produce(5)
    follow = ring.follow()
    seen = []
    for number in follow:
        seen.append(number)
        if number == 2:
            follow.stop()
    assert seen == [0, 1, 2] and ring.pop() == 3


def test_stop_from_a_signal_handler(no_looking_again, ring):
    """So does a signal handler."""
    follow = ring.follow()
    previous = signal.signal(signal.SIGALRM, lambda *_: follow.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert list(follow) == []
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_close_while_another_thread_waits(no_looking_again):
    """It is woken, and gets ValueError."""
    ring = RingBuffer(1 << 16, name="closing")
    thread = soon(ring.close)
    with pytest.raises(ValueError, match="'closing' closed"):
        list(ring.follow())
    thread.join()
    for do in (ring.pop, ring.drain, lambda: iter(ring.follow()), lambda: ring.pending):
        with pytest.raises(ValueError, match="closed"):
            do()


def test_close_in_the_loop(ring, producer):
    """What was handed over is consumed, the rest is for whoever opens it next."""
    producer.produce(10)
    with RingBuffer.from_id(ring.id, "=Q") as same:
        seen = []

        def close_at_three():
            for number in ring.follow():
                seen.append(number)
                if number == 3:
                    ring.close()

        with pytest.raises(ValueError, match="closed"):
            close_at_three()
        assert seen == [0, 1, 2, 3]
        assert list(same.drain()) == [4, 5, 6, 7, 8, 9]


def test_a_producer_that_wakes_nobody(monkeypatch):
    """With BPF_RB_NO_WAKEUP the record comes when the waiter looks by itself."""
    monkeypatch.setattr(ring_buffer, "_LOOK_AGAIN", 0.1)
    with RingBuffer(1 << 16, "=Q") as ring, Producer(ring, flags=NO_WAKEUP) as producer:
        thread = soon(producer.produce, 1)
        assert next(iter(ring.follow())) == 0
        thread.join()


def test_async_for(no_looking_again, ring, producer):
    """Records arrive in order beside other tasks, and the waiter is woken."""

    async def main():
        seen = []

        async def produce():
            for _ in range(50):
                producer.produce(3)
                await asyncio.sleep(0.001)

        task = asyncio.create_task(produce())
        async for number in ring.follow():
            seen.append(number)
            if number == 149:
                break
        await task
        return seen

    assert asyncio.run(main()) == list(range(150))


def test_async_stop_and_timeout(no_looking_again, ring, producer):
    """stop() and the timeout end `async for` as they end `for`; closing is a ValueError there too."""

    async def collect(follow):
        return [number async for number in follow]

    async def main():
        producer.produce(2)
        assert await collect(ring.follow(timeout=0.05)) == [0, 1]
        follow = ring.follow()
        asyncio.get_running_loop().call_later(0.05, follow.stop)
        assert await collect(follow) == []
        asyncio.get_running_loop().call_later(0.05, ring.close)
        with pytest.raises(ValueError, match="closed"):
            await collect(ring.follow())

    asyncio.run(main())


def test_cancelling_loses_nothing(ring, producer):
    """A task that is cancelled while it waits, or between two records, leaves the next record to the next one."""

    async def take(seen):
        async for number in ring.follow():
            seen.append(number)
            await asyncio.sleep(0)

    async def main():
        seen = []
        for _ in rounds(lambda: producer.counters[0] > 10, SECONDS / 2):
            task = asyncio.create_task(take(seen))
            producer.produce(random.randrange(4))
            for _ in range(random.randrange(20)):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return seen

    seen = asyncio.run(main())
    seen += ring.drain()
    assert seen == list(range(producer.counters[0])) and len(seen) > 10


# Nothing lost, nothing twice


def test_leaving_the_loop(ring, producer):
    """Leaving it by break or by an exception takes the record at hand along, and no other."""
    producer.produce(10)
    for number in ring.follow():
        if number == 2:
            break
    with RingBuffer.from_id(ring.id, "=Q") as same:
        assert next(same.drain()) == 3
    assert next(ring.drain()) == 4

    def fail_at_five():
        for number in ring.follow():
            if number == 5:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_at_five()
    assert ring.pop() == 6
    for number in ring.drain():
        assert number in (7, 8, 9)
        if number == 7:
            # In the loop the next record is the one behind that which the loop has.
            assert ring.pop() == 8
    assert ring.pop(None) is None


def test_two_loops_over_one_object(ring, producer):
    """Each record comes to one of them, in order."""
    seen = []
    producer.produce(100)
    one, two = iter(ring.follow(timeout=0)), iter(ring.follow(timeout=0))
    for _ in range(50):
        seen += (next(one), next(two))
    assert seen == list(range(100))
    one.close(), two.close()
    assert ring.pending == 0


def test_another_ring_buffer_with_its_number(monkeypatch):
    """If another thread closes a ring buffer just before its memory is mapped, and its number becomes another one's,
    that one's records stay where they are."""
    ring = RingBuffer(mmap.PAGESIZE)
    with contextlib.ExitStack() as stack:
        others = []

        def late(fd, size):
            number = ring.fileno()
            ring.close()
            others.append(stack.enter_context(RingBuffer(mmap.PAGESIZE)))
            assert others[0].fileno() == number
            stack.enter_context(Producer(others[0])).produce(3)
            return ring_memory.RingMemory(fd, size)

        monkeypatch.setattr(ring_buffer, "RingMemory", late)
        with pytest.raises(ValueError, match="closed"):
            ring.pop(None)
        monkeypatch.undo()
        assert len(list(others[0].drain())) == 3


@pytest.mark.skipif(FREE_THREADED, reason="by design: without the GIL one thread reads a ring buffer")
def test_threads_on_one_object(ring):
    """Each record comes to one of the threads that pop, whoever is first."""
    with Producer(ring) as producer:
        got = [[] for _ in range(4)]
        stop = threading.Event()

        def take(mine):
            while not stop.is_set() or ring.pending:
                record = ring.pop(None)
                if record is not None:
                    mine.append(record)

        threads = [threading.Thread(target=take, args=(mine,)) for mine in got]
        for thread in threads:
            thread.start()
        for _ in rounds(seconds=SECONDS / 2):
            if ring.pending < ring.size // 2:
                producer.produce(50)
        stop.set()
        for thread in threads:
            thread.join()
        assert all(mine == sorted(mine) for mine in got)
        assert sorted(chain(*got)) == list(range(producer.counters[0])) and producer.dropped == 0


def test_a_thread_that_is_slower(monkeypatch):
    """While one thread looks for a record others take it, and their room is written anew: it looks once more."""
    with RingBuffer(mmap.PAGESIZE) as ring, Producer(ring, vary=True) as producer:
        seen = []

        class Slow:
            ring_fence = staticmethod(ring_memory.lib.ring_fence)

            @staticmethod
            def ring_scan(*arguments):
                with monkeypatch.context() as undone:
                    undone.setattr(ring_memory, "lib", real)
                    for _ in range(random.randrange(4)):
                        record = ring.pop(None)
                        if record is not None:
                            seen.append(record)
                    producer.produce(random.randrange(30))
                return real.ring_scan(*arguments)

        real = ring_memory.lib
        monkeypatch.setattr(ring_memory, "lib", Slow)
        for _ in rounds(seconds=SECONDS / 2):
            record = ring.pop(None)
            if record is not None:
                seen.append(record)
        monkeypatch.undo()
        seen += ring.drain()
        numbers = [struct.unpack("=Q", record[:8])[0] for record in seen]
        assert all(len(record) == 8 + number % 32 for record, number in zip(seen, numbers, strict=True))
        assert numbers == sorted(set(numbers)) and len(numbers) + producer.dropped == producer.counters[0]


def interrupt(signal_number, frame):
    """Raises if the signal came while rawbpf is at work, so that the test itself stays whole."""
    while frame is not None:
        if frame.f_code.co_filename == ring_buffer.__file__:
            raise Interrupted
        frame = frame.f_back


@needs_3_11
@pytest.mark.usefixtures("unraisable_ignored")
@pytest.mark.parametrize("way", ["follow", "pop"])
def test_signals_at_any_moment(ring, producer, way):
    """A signal handler that raises at any moment loses no record and hands none out twice."""
    previous = signal.signal(signal.SIGALRM, interrupt)
    seen, interruptions = [], [0]
    try:
        for round_ in rounds(lambda: sum(interruptions) > 20, seconds=SECONDS / 2):
            producer.produce(500)
            signal.setitimer(signal.ITIMER_REAL, 0.0001 * (round_ % 7 + 1), 0.0002 * SLOWNESS)
            interruptions.append(taken(ring, way, seen))
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert seen == list(range(producer.counters[0])) and producer.dropped == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def taken(ring, way, seen):
    """Takes all records; returns how often that was interrupted."""
    interruptions = 0
    while True:
        try:
            if way == "follow":
                for record in ring.follow(timeout=0):
                    seen += (record,)
            else:
                while (record := ring.pop(None)) is not None:
                    seen += (record,)
            return interruptions
        except Interrupted:
            interruptions += 1


def test_a_consumer_that_is_killed(bpf_folder):
    """SIGKILL at any moment: who opens the pin goes on where the loop was, at the latest with the record at hand."""
    path = f"{bpf_folder}/ring"
    with RingBuffer(1 << 16, "=Q") as ring, Producer(ring) as producer:
        ring.pin(path)
        ring.close()
        seen: list[int] = []
        for number in rounds(seconds=SECONDS / 2):
            producer.produce(200)
            seen += killed_consumer(path, 0.001 * (number % 5))
        with RingBuffer.open(path, "=Q") as last:
            seen += last.drain()
        assert producer.dropped == 0 and seen[0] == 0 and seen[-1] == producer.counters[0] - 1
    # None is left out, and one comes twice only if a consumer was killed with it at hand.
    assert all(later in (earlier, earlier + 1) for earlier, later in pairwise(seen))


def killed_consumer(path, seconds):
    """What a process read that follows the ring buffer, and writes each number into a pipe, before it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with RingBuffer.open(path, "=Q") as ring:
            for number in ring.follow():
                os.write(writing, struct.pack("=Q", number))
        os._exit(1)
    os.close(writing)
    first = os.read(reading, 8)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        data = first + file.read()
    return [number for (number,) in struct.iter_unpack("=Q", data)]


def test_ten_million_records():
    """Each comes once, in order, over many rounds of the memory. 10 million with RAWBPF_STRESS_SECONDS=60."""
    total = round(10_000_000 * min(SECONDS, 60) / 60)

    def produce():
        while producer.counters[0] < total:
            if ring.pending < ring.size // 2:
                producer.produce(min(4000, total - producer.counters[0]))
            else:
                time.sleep(0.0005)

    with RingBuffer(1 << 18, "=Q") as ring, Producer(ring) as producer:
        thread = threading.Thread(target=produce)
        thread.start()
        expected = 0
        for number in ring.follow(timeout=30):
            if number != expected:
                break
            expected += 1
            if expected == total:
                break
        thread.join()
        assert expected == total and producer.dropped == 0 and ring.pending == 0


def test_a_producer_that_is_faster():
    """What there is no room for is counted by the producer, and everything else comes, in order."""
    with RingBuffer(1 << 14, "=Q") as ring, Producer(ring, discard=True) as producer:
        stop = threading.Event()

        def produce():
            while not stop.is_set():
                producer.produce(5000)

        def kept():
            return producer.counters[0] - producer.dropped - producer.discarded

        thread = threading.Thread(target=produce)
        thread.start()
        count, last = 0, -1
        for _ in rounds(lambda: producer.dropped > 0 and kept() > 2000, SECONDS / 2):
            for number in ring.drain():
                assert number > last
                count, last = count + 1, number
        stop.set()
        thread.join()
        count += len(list(ring.drain()))
        assert producer.dropped > 0 and count > 1000
        assert count == kept()


# What is refused


@pytest.mark.parametrize("size", [0, 100, mmap.PAGESIZE // 2, mmap.PAGESIZE * 3, -1])
def test_sizes_that_are_none(no_calls, size):
    """A size that is no power of two of at least a page is a ValueError, and the kernel is not asked."""
    with pytest.raises(ValueError, match="power of two"):
        RingBuffer(size)


def test_its_own_types(no_calls):
    """A ring buffer can't say what its records are: rawbpf.BTF is refused."""
    with pytest.raises(ValueError, match="carries no BTF"):
        RingBuffer(mmap.PAGESIZE, BTF)


def test_other_maps_and_descriptors(ring):
    """A hash is no ring buffer, and a ring buffer no hash."""
    with Hash(4, 4, 4) as m, pytest.raises(TypeError, match="is no RingBuffer"):
        RingBuffer.from_id(m.id)
    with pytest.raises(TypeError, match="is no Hash"):
        Hash.from_id(ring.id)


def test_a_frozen_ring_buffer(ring):
    """Its memory can't be mapped for writing: EPERM."""
    ring.freeze()
    with pytest.raises(PermissionError) as caught:
        ring.pop()
    assert caught.value.errno == errno.EPERM
    with pytest.raises(NotPermitted):
        ring.freeze()


@pytest.mark.parametrize("position", [4, 1 << 40])
def test_a_position_that_somebody_else_has_moved(ring, producer, position):
    """A consumer's position that makes no sense is a RuntimeError, and nothing outside of the memory is read."""
    producer.produce(3)
    with mmap.mmap(ring.fileno(), mmap.PAGESIZE) as memory:
        memory[:8] = struct.pack("=Q", position)
        for do in (ring.pop, lambda: list(ring.drain())):
            with pytest.raises(RuntimeError, match="moved the consumer's position"):
                do()


def test_open_map_gives_a_ring_buffer():
    """So does from_name()."""
    with RingBuffer(1 << 16, "=Q", name="by_its_name") as ring, Producer(ring) as producer:
        producer.produce(2)
        with rawbpf.open_map(f"id:{ring.id}", "=Q") as same:
            assert type(same) is RingBuffer and same.pop() == 0
        with RingBuffer.from_name("by_its_name", "=Q") as same:
            assert list(same.drain()) == [1]
