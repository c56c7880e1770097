"""Many hands on one map, and signals at any moment: nothing lost, nothing twice, nothing left open.

RAWBPF_STRESS_SECONDS (default 2) says how long each goes on.
"""

import os
import signal
import struct
import threading
from itertools import chain

import pytest

from rawbpf import Empty, Full, Queue
from tests.conftest import SECONDS, Interrupted, needs_3_11, rounds

pytestmark = pytest.mark.creates

THREADS, PROCESSES = 8, 4


def hammer(m, worker: int, pushed: list[int], popped: list[int]) -> None:
    """Pushes numbers that are its own, and pops whatever comes, until it did some and the time is over."""
    number = worker << 40
    for _ in rounds(lambda: len(pushed) > 40):
        for _ in range(20):
            try:
                m.push(number)
                pushed.append(number)
                number += 1
            except Full:
                break
        for _ in range(20):
            try:
                popped.append(m.pop())
            except Empty:
                break


def hammer_in_threads(m, first_worker: int) -> tuple[list[int], list[int]]:
    pushed: list[list[int]] = [[] for _ in range(THREADS)]
    popped: list[list[int]] = [[] for _ in range(THREADS)]
    threads = [
        threading.Thread(target=hammer, args=(m, first_worker + i, pushed[i], popped[i])) for i in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(chain(*pushed)), list(chain(*popped))


def test_threads_and_processes_on_one_map(kind, tmp_path):
    """8 threads in each of 4 processes push and pop one map: pushes = pops + rest, nothing twice, none unknown."""
    with kind("<Q", 1000) as m:
        children = []
        for process in range(PROCESSES):
            child = os.fork()
            if child == 0:
                pushed, popped = hammer_in_threads(m, (process + 1) * THREADS)
                for name, numbers in (("pushed", pushed), ("popped", popped)):
                    (tmp_path / f"{name}{process}").write_bytes(struct.pack(f"<{len(numbers)}Q", *numbers))
                os._exit(0)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * PROCESSES
        rest = []
        while (value := m.pop(default=None)) is not None:
            rest.append(value)
    numbers = {"pushed": [], "popped": rest}
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        numbers[path.name[:6]] += struct.unpack(f"<{len(data) // 8}Q", data)
    assert len(numbers["pushed"]) > 40 * THREADS * PROCESSES
    assert len(set(numbers["popped"])) == len(numbers["popped"])
    assert sorted(numbers["pushed"]) == sorted(numbers["popped"])


@pytest.mark.usefixtures("unraisable_ignored")
@needs_3_11
@pytest.mark.parametrize("spec", [8, "<Q"])
def test_signals_lose_no_element(kind, spec):
    """A signal handler that raises every millisecond, anywhere in pop(): each element is handed over exactly once."""
    count = round(10_000 * min(SECONDS, 2))
    seen: list[int] = []
    interruptions = 0

    def interrupt(signum, frame):
        # Once for each time round, and only where it is caught: a slow machine is still handling the last one.
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    def number(value) -> int:
        return int.from_bytes(value, "little") if isinstance(value, bytes) else value

    with kind(spec, count) as m:

        def fill() -> None:
            for i in range(count):
                m.push(i if spec == "<Q" else i.to_bytes(8, "little"))

        fill()
        armed = done = False
        old = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while not done:
            try:
                armed = True
                # Handlers run after calls and at jumps backward: what pop() returns is in `seen` before the next one.
                while True:
                    value = m.pop(None)
                    if value is None:
                        break
                    seen += (value,)
                armed = False
                done = interruptions > 0
                if not done:
                    # No signal came in time: once more.
                    seen = []
                    fill()
            except Interrupted:
                interruptions += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        assert m.take_held() == []
    numbers = [number(value) for value in seen]
    assert sorted(numbers) == list(range(count))
    assert numbers == (list(range(count)) if isinstance(m, Queue) else list(range(count))[::-1])


@pytest.mark.real_kernel(reason="millions of calls")
def test_millions_of_calls_grow_nothing(kind):
    """Memory and descriptors do not grow with the number of calls."""

    def resident_pages() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    with kind(64, 10) as m:

        def use(times: int) -> None:
            for _ in range(times):
                m.push(bytes(64))
                m.peek()
                m.pop()
                m.pop(default=None)

        use(round(10_000 * min(SECONDS, 2)))
        before, files = resident_pages(), len(os.listdir("/proc/self/fd"))
        use(round(25_000 * min(SECONDS, 2)))
        assert len(os.listdir("/proc/self/fd")) == files
        assert resident_pages() - before < 256
