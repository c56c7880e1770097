"""follow(): elements as they arrive, in order, with none lost however the loop ends."""

import asyncio
import os
import signal
import threading
import time

import pytest

from rawbpf import NotPermitted, Queue, Stack, open_map
from rawbpf.maps.waiting import Waiting
from tests.conftest import needs_3_11

pytestmark = pytest.mark.creates


def push_all(q, numbers, pause=0.0):
    for number in numbers:
        while q.push_many([number]) == 0:
            time.sleep(0.001)
        if pause:
            time.sleep(pause)


@pytest.mark.parametrize("pause", [0.0, 0.002], ids=["at once", "one by one"])
def test_in_order_as_they_arrive(pause):
    """What another thread pushes is yielded in order, none missing, none twice."""
    total = 3000 if not pause else 50
    with Queue("=I", 100) as q:
        producer = threading.Thread(target=push_all, args=(q, range(total), pause))
        producer.start()
        seen = []
        for number in q.follow():
            seen.append(number)
            if number == total - 1:
                break
        producer.join()
        assert seen == list(range(total))


def test_a_stack_gives_its_newest():
    """A stack is followed from its top."""
    with Stack("=I", 10) as s:
        s.push_many([1, 2, 3])
        follower = iter(s.follow())
        assert [next(follower) for _ in range(3)] == [3, 2, 1]


def test_what_was_taken_and_not_reached_comes_first():
    """Leaving the loop early gives the rest back, in order."""
    with Queue("=I", 100) as q:
        q.push_many(range(100))
        for number in q.follow():
            if number == 10:
                break
        assert q.pop() == 11
        assert q.pop_many(100) == list(range(12, 100))


def test_what_was_taken_by_async_for_comes_first():
    """The same with `async for`, as soon as the loop is left."""

    async def take(q):
        async for number in q.follow():
            if number == 10:
                break
        return q.pop_many(100)

    with Queue("=I", 100) as q:
        q.push_many(range(100))
        assert asyncio.run(take(q)) == list(range(11, 100))


def test_async_for_beside_other_tasks():
    """A producer task in the same loop gets its turn, and everything arrives in order."""

    async def produce(q):
        for number in range(500):
            while q.push_many([number]) == 0:
                await asyncio.sleep(0.001)
            if number % 7 == 0:
                await asyncio.sleep(0)

    async def consume(q):
        seen = []
        async for number in q.follow():
            seen.append(number)
            if number == 499:
                return seen
        raise AssertionError

    async def both(q):
        seen, _ = await asyncio.gather(consume(q), produce(q))
        return seen

    with Queue("=I", 20) as q:
        assert asyncio.run(both(q)) == list(range(500))


def test_other_tasks_run_though_elements_never_end():
    """A follower that always finds something does not starve its event loop."""

    async def feed_itself(q):
        async for number in q.follow():
            q.push(number + 1)

    async def run(q):
        task = asyncio.create_task(feed_itself(q))
        turns = 0
        for _ in range(10):
            await asyncio.sleep(0)
            turns += 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return turns

    with Queue("=I", 20) as q:
        q.push(0)
        assert asyncio.run(run(q)) == 10
        assert len(q.pop_many(20)) == 1


def test_cancelling_loses_nothing():
    """Cancelled at any await, what was yielded and what is in the map afterwards are all that was pushed."""

    async def follow(q, seen):
        async for number in q.follow(poll=0.0005):
            seen.append(number)
            if number % 5 == 0:
                await asyncio.sleep(0)

    async def run(q):
        seen = []
        pushed = 0
        for turn in range(50):
            task = asyncio.create_task(follow(q, seen))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            pushed += q.push_many(range(pushed, pushed + 30))
            for _ in range(turn % 11):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        return sorted(seen + q.pop_many(10000)), pushed

    with Queue("=I", 10000) as q:
        found, pushed = asyncio.run(run(q))
        assert found == list(range(pushed))


@needs_3_11
@pytest.mark.usefixtures("unraisable_ignored")
def test_a_signal_that_raises_loses_nothing():
    """A handler that raises wherever it lands: yielded and remaining are all that was pushed."""

    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Queue("=I", 20000) as q:
            seen = []
            pushed = 0
            for turn in range(150):
                pushed += q.push_many(range(pushed, pushed + 60))
                number = -1
                try:
                    # Again after 50 ms, for where nothing could be raised.
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 * (turn % 40) + 0.00001, 0.05)
                    for number in q.follow():
                        seen += (number,)
                except Interrupted:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    # Raised between the loop's store and the statement behind it.
                    if seen[-1:] != [number] and number >= 0:
                        seen += (number,)
            assert sorted(seen + q.pop_many(20000)) == list(range(pushed))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_an_idle_follower_sleeps(sent):
    """Waiting is asking ever less often, in `for` and in `async for`: in 2.5 seconds some 8 times while the pauses are
    shortest, 55 times while they grow to 50 ms, 42 times after that."""

    class Enough(Exception):
        pass

    def stop(number, frame):
        raise Enough

    async def wait(q):
        async for _ in q.follow():
            pass

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        with Queue("=I", 20) as q:
            for follow in (lambda: list(q.follow()), lambda: asyncio.run(asyncio.wait_for(wait(q), 2))):
                sent.clear()
                signal.setitimer(signal.ITIMER_REAL, 2.5)
                with pytest.raises((Enough, asyncio.TimeoutError)):
                    follow()
                assert len(sent) < 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_pauses(monkeypatch):
    """A pause is an eighth of the time that nothing came, from 50 microseconds to `poll`: 1 ms after 8 ms."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waiting = Waiting(0.02)
    pauses = []
    for waited in (0.0, 0.0004, 0.008, 0.16, 10.0):
        now = 100.0 + waited
        pauses.append(round(waiting.pause(), 7))
    assert pauses == [0.00005, 0.00005, 0.001, 0.02, 0.02]
    waiting.arrived()
    assert waiting.pause() == 0.00005


@pytest.mark.admin
def test_errors_reach_the_loop(kind):
    """A read-only descriptor is NotPermitted in the loop, a closed map ValueError, a poll of 0 ValueError at once."""
    with kind("=I", 20) as m, open_map_read_only(m) as reader, pytest.raises(NotPermitted):
        next(iter(reader.follow()))
    with pytest.raises(ValueError, match="closed"):
        next(iter(m.follow()))
    with pytest.raises(ValueError, match="poll"):
        m.follow(poll=0)


def open_map_read_only(m):
    from rawbpf.maps import bpffs

    with bpffs.mounted() as folder:
        path = os.path.join(folder, "pin")
        m.pin(path)
        return open_map(path, "=I", access="r")


def test_async_for_over_a_follower_with_a_name():
    """What was taken comes back when the loop is left, not when the follower goes: its name may live on."""

    async def take(q):
        events = q.follow()
        seen = []
        for _ in range(2):
            async for number in events:
                seen.append(number)
                break
            seen += q.pop_many(3)
        return events, seen

    with Queue("<I", 100) as q:
        q.push_many(range(100))
        events, seen = asyncio.run(take(q))
        assert seen == list(range(8))
        assert q.pop_many(100) == list(range(8, 100))
        assert events is not None
