"""follow_pin(): the elements of whatever map is pinned at a path, each once, in order, through replacements."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rawbpf import BpfError, Cmd, NotPermitted, Queue, Stack, follow_pin
from rawbpf.maps import pinned as pinned_module
from rawbpf.maps.opening import open_queue_or_stack
from rawbpf.maps.pinned import Pinned
from rawbpf.maps.waiting import Waiting
from tests.conftest import IS_ROOT, SECONDS

pytestmark = [pytest.mark.creates, pytest.mark.admin]


def pinned(path: str, *numbers: int, spec: Any = "<I", kind: Any = Queue) -> Any:
    """A map that takes the place of what is pinned at the path, with these numbers in it."""
    m = kind(spec, 100)
    m.push_many(numbers)
    Path(path).unlink(missing_ok=True)
    m.pin(path)
    return m


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def test_a_pin_that_is_not_there_yet(bpf_folder):
    """What is pinned later is followed from then on."""
    path = f"{bpf_folder}/q"
    with follow_pin(path, "<I", timeout=20) as events:
        later = threading.Timer(0.1, lambda: pinned(path, 1, 2).close())
        later.start()
        arrived = iter(events)
        assert [next(arrived), next(arrived)] == [1, 2]
        later.join()
        assert events.map is not None
    assert events.map is None


def test_another_map_takes_its_place(bpf_folder):
    """What the old map still holds comes first, also what is pushed after the new one was pinned and before the old one
    was found empty; then the new one's elements, each once."""
    path = f"{bpf_folder}/q"
    with pinned(path, 1, 2) as old, follow_pin(path, "<I", timeout=0.3) as events:
        arrived = iter(events)
        assert next(arrived) == 1
        with pinned(path, 10, 11):
            old.push(3)
            assert list(arrived) == [2, 3, 10, 11]


def test_a_pin_that_is_gone(bpf_folder):
    """While nothing takes its place, the map that was pinned is followed: its producer may have it open."""
    path = f"{bpf_folder}/q"
    with pinned(path, 1) as q, follow_pin(path, "<I", timeout=0.2) as events:
        arrived = iter(events)
        assert next(arrived) == 1
        os.unlink(path)
        q.push(2)
        assert list(arrived) == [2]


def test_a_stack_after_a_queue(bpf_folder):
    """The new map may be of the other type."""
    path = f"{bpf_folder}/q"
    with pinned(path, 1), follow_pin(path, "<I", timeout=0.2) as events:
        arrived = iter(events)
        assert next(arrived) == 1
        with pinned(path, 10, 11, kind=Stack):
            assert list(arrived) == [11, 10]


def test_values_of_another_size(bpf_folder):
    """A new map whose values do not fit is an error that says so."""
    path = f"{bpf_folder}/q"
    with pinned(path, 1), follow_pin(path, "<I", timeout=20) as events:
        arrived = iter(events)
        assert next(arrived) == 1
        with pinned(path, 1, spec="<Q"), pytest.raises(ValueError, match="has 4 bytes, .* value_size 8"):
            next(arrived)


def test_what_was_not_reached_comes_first_in_the_next_loop(bpf_folder):
    """A loop that is left loses nothing of what it had taken."""
    path = f"{bpf_folder}/q"
    with pinned(path, *range(20)), follow_pin(path, "<I", timeout=0) as events:
        for number in events:
            if number == 9:
                break
        assert list(events) == list(range(10, 20))


def test_async_for_and_stop(bpf_folder):
    """`async for` follows the path too, and stop() ends it."""
    path = f"{bpf_folder}/q"

    async def run(events: Any) -> list[int]:
        found = []
        async for number in events:
            found.append(number)
            if number == 2:
                replaced.append(pinned(path, 10))
            if number == 10:
                events.stop()
        return found

    replaced: list[Any] = []
    with pinned(path, 1, 2), follow_pin(path, "<I", timeout=20) as events:
        assert asyncio.run(run(events)) == [1, 2, 10]
    replaced[0].close()


needs_setpriv = pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")


@needs_setpriv
@pytest.mark.linux("5.19")
@pytest.mark.real_kernel(reason="modes decide")
def test_a_pin_that_is_given_away_a_moment_later(bpf_folder):
    """Who pins sets the mode afterwards: until then the pin is waited for; one that stays closed is NotPermitted."""
    path = f"{bpf_folder}/q"
    os.chmod(bpf_folder, 0o755)
    code = f"from rawbpf import follow_pin; print(next(iter(follow_pin({path!r}, '<I', timeout=20))))"
    command = [*UNPRIVILEGED, sys.executable, "-c", code]
    with pinned(path, 7):
        os.chmod(path, 0o600)
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)
        os.chown(path, 65534, 65534)
        assert worker.communicate()[0] == "7\n"
        os.chown(path, 0, 0)
        refused = subprocess.run(command, capture_output=True, text=True)
    assert NotPermitted.__name__ in refused.stderr


@needs_setpriv
@pytest.mark.linux("5.19")
@pytest.mark.real_kernel(reason="an unprivileged process")
def test_a_worker_that_outlives_its_producers(bpf_folder, tmp_path):
    """A worker without capabilities, as the systemd unit starts it, through restarts of its producer, each of which
    removes the pin and makes the map anew, and through its own, by SIGTERM: every element comes once, in order.

    50 restarts of the producer and 20 of the worker with RAWBPF_STRESS_SECONDS=20, and at least one of each.
    """
    path, restarts = f"{bpf_folder}/q", max(round(50 * min(SECONDS, 20) / 20), 2)
    os.chmod(bpf_folder, 0o755)
    command = [*UNPRIVILEGED, sys.executable, "-m", "rawbpf", "drain", path, "--format", "<I", "--follow"]
    output = (tmp_path / "output").open("ab")

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)

    def empty() -> bool:
        assert worker.poll() is None
        return producer.qsize() == 0

    worker, stopped, number = start(), 0, 0
    try:
        for restart in range(restarts):
            with Queue("<I", 1000) as producer:
                Path(path).unlink(missing_ok=True)
                producer.pin(path)
                os.chown(path, 65534, 65534)
                if restart % 5 in (1, 3):
                    producer.push_many(range(number, number + 20))
                    number += 20
                    worker.send_signal(signal.SIGTERM)
                    assert worker.wait() == 0
                    stopped += 1
                    worker = start()
                    until(empty)
                # A map that nobody has open goes with its pin: so the producer ends once the worker has come.
                producer.push(number)
                number += 1
                until(empty)
                producer.push_many(range(number, number + 20))
                number += 20
        until(lambda: len((tmp_path / "output").read_text().split()) >= number)
    finally:
        worker.terminate()
        worker.wait()
        output.close()
    assert list(map(int, (tmp_path / "output").read_text().split())) == list(range(number))
    assert stopped


def test_stop_before_the_old_map_is_empty(bpf_folder):
    """A map that is no longer pinned goes with its last descriptor: after stop() what it holds is still handed over,
    and the new map is left as it is."""
    path = f"{bpf_folder}/q"
    with follow_pin(path, "<I") as events:
        old = pinned(path, *range(50))
        arrived = iter(events)
        assert next(arrived) == 0
        with pinned(path, 100) as new:
            old.close()
            events.stop()
            assert list(arrived) == list(range(1, 50))
            assert events.map is None
            assert list(events) == []
            assert new.pop_many(10) == [100]


def test_async_stop_before_the_old_map_is_empty(bpf_folder):
    """So it is in `async for`."""
    path = f"{bpf_folder}/q"

    async def run(events: Any) -> list[int]:
        found = []
        async for number in events:
            found.append(number)
            if number == 0:
                os.unlink(path)
                events.stop()
        return found

    with pinned(path, *range(50)), follow_pin(path, "<I") as events:
        assert asyncio.run(run(events)) == list(range(50))


@pytest.mark.parametrize("is_async", [False, True])
def test_stop_while_it_waits(bpf_folder, monkeypatch, is_async):
    """What is pushed into a map that is no longer pinned, before stop(), is handed over also when stop() comes in a
    pause."""
    path = f"{bpf_folder}/q"

    def meanwhile(_: float) -> None:
        monkeypatch.undo()
        os.unlink(path)
        old.push(7)
        events.stop()

    async def meanwhile_async(seconds: float) -> None:
        meanwhile(seconds)

    async def listed() -> list[int]:
        return [number async for number in events]

    with pinned(path) as old, follow_pin(path, "<I") as events:
        if is_async:
            monkeypatch.setattr(Waiting, "_sleep_async", lambda self, seconds: meanwhile_async(seconds))
        else:
            monkeypatch.setattr(Waiting, "_sleep", lambda self, seconds: meanwhile(seconds))
        assert (asyncio.run(listed()) if is_async else list(events)) == [7]
        assert events.map is None


def test_stop_while_somebody_pushes(bpf_folder):
    """After stop() a map that is no longer pinned hands over no more than it can hold, whoever goes on pushing."""
    path = f"{bpf_folder}/q"
    with pinned(path, 0) as old, follow_pin(path, "<I") as events:
        for number in events:
            old.push(number + 1)
            if number == 0:
                os.unlink(path)
                events.stop()
        assert number <= old.max_entries + 1


def test_stop_leaves_what_is_pinned(bpf_folder):
    """What is pinned stays in the map after stop(), but for the one element that was at hand."""
    path = f"{bpf_folder}/q"
    with pinned(path, *range(50)) as q, follow_pin(path, "<I") as events:
        arrived = iter(events)
        assert next(arrived) == 0
        events.stop()
        assert list(arrived) == []
        assert q.pop_many(100) == list(range(1, 50))


def test_each_pin_has_its_time_to_settle(bpf_folder, monkeypatch):
    """A pin that could not be opened and was removed does not count against the next one."""
    path, now = f"{bpf_folder}/q", 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    refused = Pinned(path, "<I")
    monkeypatch.setattr(pinned_module, "open_queue_or_stack", refuse)
    for _ in range(2):
        with pinned(path, 1):
            assert refused.opened() is None
            now += 0.9
            assert refused.opened() is None
    now += 0.2
    with pytest.raises(NotPermitted):
        refused.opened()


def refuse(*_: object) -> None:
    raise NotPermitted(errno.EACCES, "refused", Cmd.BPF_OBJ_GET)


def test_a_refusal_where_nothing_is_pinned(bpf_folder, monkeypatch):
    """It is raised at once: no pin that comes later could be opened. One that came just now still has its time."""
    path = f"{bpf_folder}/q"
    monkeypatch.setattr(pinned_module, "open_queue_or_stack", refuse)
    with pytest.raises(NotPermitted) as caught:
        Pinned(path, "<I").opened()
    assert caught.value.errno == errno.EACCES

    def pinned_meanwhile(*_: object) -> None:
        made.append(pinned(path, 1))
        refuse()

    made: list[Any] = []
    monkeypatch.setattr(pinned_module, "open_queue_or_stack", pinned_meanwhile)
    assert Pinned(path, "<I").opened() is None
    made.pop().close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pin_that_is_replaced_while_it_is_opened(bpf_folder, monkeypatch, when):
    """Whichever map was opened, the one that is pinned now is followed, and is not taken for one that was replaced."""
    path, made = f"{bpf_folder}/q", []

    def replaced_meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        found = open_queue_or_stack(*arguments) if when == "after" else None
        made.append(pinned(path, 2))
        return found or open_queue_or_stack(*arguments)

    with pinned(path, 1):
        monkeypatch.setattr(pinned_module, "open_queue_or_stack", replaced_meanwhile)
        following = Pinned(path, "<I")
        with following.opened() as opened, made.pop():
            assert opened.pop() == 2
            assert not following.is_replaced()
            assert not following.is_orphaned()


def test_a_path_that_leads_nowhere_is_an_error(bpf_folder):
    """A path below something that is no folder is not waited for."""
    with pinned(f"{bpf_folder}/q"), follow_pin(f"{bpf_folder}/q/below", timeout=20) as events:
        with pytest.raises(BpfError) as caught:
            list(events)
        assert caught.value.errno == errno.ENOTDIR
