"""pop(timeout=...), push(..., timeout=...), follow(timeout=...) and stop(): on time, and nothing lost.

Time is simulated where it is measured: the clock moves when somebody sleeps, and by nothing else.
"""

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rawbpf import BPF_EXIST, Empty, Full, Queue
from rawbpf.maps import waiting
from tests.conftest import SECONDS, Interrupted, needs_3_11, rounds

pytestmark = pytest.mark.creates


class Clock:
    """A clock that moves when somebody sleeps. `at_sleep` is called in each sleep, with its number."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.at_sleep: Callable[[int], object] = lambda number: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.at_sleep(len(self.slept))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that waiting.py goes by, also in coroutines."""
    simulated, really = Clock(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            simulated.sleep(seconds)
        await really(0)

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=simulated.monotonic, sleep=simulated.sleep))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return simulated


# pop()


def test_pop_raises_empty_on_time(kind, clock, sent):
    """After exactly the timeout: it looks once before each pause and once at the end, some 70 times in a second."""
    with kind("=I", 4) as m:
        sent.clear()
        with pytest.raises(Empty, match="is empty"):
            m.pop(timeout=1.0)
    assert clock.now == pytest.approx(1001.0, abs=1e-6)
    assert len(sent) == len(clock.slept) + 1 < 90
    assert max(clock.slept) <= 0.05


def test_pop_takes_what_comes_meanwhile(kind, clock):
    """It returns as soon as it looks again, and does not wait for longer."""
    with kind("=I", 4) as m:
        clock.at_sleep = lambda number: m.push(7) if number == 30 else None
        assert m.pop(timeout=math.inf) == 7
        assert len(clock.slept) == 30


def test_pop_with_a_default(kind, clock):
    """The default is returned after the timeout, None is one too; an element that is there comes at once."""
    with kind("=I", 4) as m:
        assert m.pop(None, timeout=0.5) is None
        assert clock.now == pytest.approx(1000.5, abs=1e-6)
        m.push(7)
        assert m.pop(default=8, timeout=0.5) == 7
        assert clock.now == pytest.approx(1000.5, abs=1e-6)


def test_a_timeout_of_zero_is_one_try(kind, clock, sent):
    """pop, push and follow look once then, and don't wait."""
    with kind("=I", 1) as m:
        sent.clear()
        with pytest.raises(Empty):
            m.pop(timeout=0)
        assert len(sent) == 1
        assert list(m.follow(timeout=0)) == []
        assert len(sent) == 2
        m.push(7, timeout=0)
        with pytest.raises(Full):
            m.push(8, timeout=0)
        assert len(sent) == 4
        assert m.pop(timeout=0) == 7
    assert clock.slept == []


@pytest.mark.parametrize("timeout", [-1, -1e-9, math.nan])
def test_a_negative_timeout(kind, timeout):
    """It is a ValueError before anything is tried, also where there would be nothing to wait for."""
    with kind("=I", 4) as m:
        m.push(7)
        for call in (lambda: m.pop(timeout=timeout), lambda: m.pop(None, timeout=timeout)):
            with pytest.raises(ValueError, match="timeout must not be negative"):
                call()
        with pytest.raises(ValueError, match="timeout must not be negative"):
            m.push(8, timeout=timeout)
        with pytest.raises(ValueError, match="timeout must not be negative"):
            m.follow(timeout=timeout)
        assert m.pop_many(4) == [7]


# push()


def test_push_raises_full_on_time(kind, clock, sent):
    """After exactly the timeout, with what push() says of a full map."""
    with kind("=I", 1) as m:
        m.push(7)
        sent.clear()
        with pytest.raises(Full, match="is full"):
            m.push(8, timeout=1.0)
        assert clock.now == pytest.approx(1001.0, abs=1e-6)
        assert len(sent) == len(clock.slept) + 1 < 90
        assert m.pop_many(4) == [7]


def test_push_waits_for_room(kind, clock):
    """The element goes in once there is room; with BPF_EXIST there is always room."""
    with kind("=I", 1) as m:
        m.push(7)
        clock.at_sleep = lambda number: m.pop() if number == 30 else None
        m.push(8, timeout=60)
        assert len(clock.slept) == 30
        m.push(9, BPF_EXIST, timeout=60)
        assert len(clock.slept) == 30
        assert m.pop() == 9


# follow()


def numbers_of(follow: Any, way: str) -> list[int]:
    """What a loop over it yields."""

    async def collect() -> list[int]:
        return [number async for number in follow]

    return list(follow) if way == "for" else asyncio.run(collect())


ways = pytest.mark.parametrize("way", ["for", "async for"])


@ways
def test_follow_ends_with_its_timeout(clock, way):
    """So long after the last element, not after the loop's beginning."""
    with Queue("=I", 10) as q:
        q.push(0)
        clock.at_sleep = lambda number: (
            q.push(1) if clock.now > 1000.7 and len(came) == 0 and not came.append(1) else None
        )
        came: list[int] = []
        assert numbers_of(q.follow(timeout=1.0), way) == [0, 1]
    assert 1001.7 < clock.now < 1001.9


@ways
def test_stop_is_noticed_at_the_next_look(clock, sent, way):
    """However long the pauses are, a loop that waits sleeps for 0.05 seconds at most, does not look again after
    stop(), and does not begin anew."""
    with Queue("=I", 10) as q:
        follow = q.follow(poll=10)
        clock.at_sleep = lambda number: (calls.append(len(sent)), follow.stop()) if clock.now > 1100 else None
        calls: list[int] = []
        assert numbers_of(follow, way) == []
        assert calls == [len(sent)]
        assert max(clock.slept) <= 0.05
        assert follow.stopped
        q.push(7)
        assert numbers_of(follow, way) == []
        assert q.pop() == 7


@ways
def test_stop_hands_over_what_was_taken(way):
    """After stop() in the loop nothing more is taken out of the map, and what was taken comes still, in order."""

    def stop_at(number: int) -> int:
        if number == 100:
            follow.stop()
        return number

    async def collect() -> list[int]:
        return [stop_at(number) async for number in follow]

    with Queue("=I", 5000) as q:
        q.push_many(range(5000))
        follow = q.follow()
        seen = [stop_at(number) for number in follow] if way == "for" else asyncio.run(collect())
        assert seen == list(range(len(seen)))
        assert 101 <= len(seen) <= 2 * 101 + waiting._MOST // 2
        assert q.take_held() == []
        assert q.pop_many(5000) == list(range(len(seen), 5000))


@ways
def test_a_slow_loop_takes_one_at_a_time(clock, way):
    """What would be lost with the process, or hold up a stop(), is no more than is handled in some 10 ms."""

    def handle_slowly(number: int) -> None:
        clock.now += 0.1
        if number == 20:
            follow.stop()

    async def collect() -> None:
        async for number in follow:
            handle_slowly(number)

    with Queue("=I", 100) as q:
        q.push_many(range(100))
        follow = q.follow()
        if way == "for":
            for number in follow:
                handle_slowly(number)
        else:
            asyncio.run(collect())
        assert q.take_held() == []
        assert q.pop() == 21


def test_stop_from_a_signal_handler(kind):
    """A handler that calls stop() ends a loop that waits in the main thread."""
    with kind("=I", 10) as m:
        follow = m.follow()
        previous = signal.signal(signal.SIGALRM, lambda *_: follow.stop())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert list(follow) == []
        finally:
            signal.signal(signal.SIGALRM, previous)


def test_stop_from_another_thread(kind):
    """It ends all loops over the follower, in whatever thread they are."""
    with kind("=I", 10) as m:
        follow, ended = m.follow(), []
        threads = [threading.Thread(target=lambda: ended.append(list(follow))) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        follow.stop()
        for thread in threads:
            thread.join()
        assert ended == [[], [], []]


def test_stop_from_an_event_loop(kind):
    """It may be the callback of a timer and of a signal (add_signal_handler)."""

    async def collect(follow: Any, when: Callable[..., object]) -> list[int]:
        when(follow.stop)
        return [number async for number in follow]

    def later(stop: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(0.02, stop)

    def at_signal(stop: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGALRM, stop)
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGALRM)

    with kind("=I", 10) as m:
        for when in (later, at_signal):
            assert asyncio.run(collect(m.follow(), when)) == []


# Signals


@needs_3_11
@pytest.mark.real_kernel(reason="what is interrupted is the library")
@pytest.mark.usefixtures("unraisable_ignored")
def test_signals_while_waiting_lose_no_element(kind):
    """A handler that raises at any moment in pop(timeout=...), which waits again and again for a producer: each element
    is handed over once, in order for a queue."""
    seen: list[int] = []
    armed = False
    over = threading.Event()
    pushed = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    def produce() -> None:
        nonlocal pushed
        while not over.wait(0.0003):
            m.push(pushed, timeout=10)
            pushed += 1

    def enough() -> bool:
        return interruptions > 20 and len(seen) > 100

    interruptions = 0
    with kind("=I", 1000) as m:
        producer = threading.Thread(target=produce)
        producer.start()
        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0011)
            for _ in rounds(enough, seconds=SECONDS / 2):
                try:
                    armed = True
                    # What pop() returns is in `seen` before the next jump backward, where a handler may run.
                    while True:
                        seen += (m.pop(timeout=10),)
                except Interrupted:
                    interruptions += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            over.set()
            producer.join()
        seen += m.pop_many(1000)
        assert m.take_held() == []
    assert sorted(seen) == list(range(pushed))
    assert kind is not Queue or seen == list(range(pushed))
