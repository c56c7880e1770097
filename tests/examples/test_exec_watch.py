"""The example exec_watch under load: no exec is missed, in order, with the right parent; and both programs agree.

RAWBPF_STRESS_SECONDS (default 2) scales how many execs there are: 2000 by default.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import rawbpf.examples
from rawbpf import Queue
from rawbpf.examples.exec_watch import EVENT, watch_by_instructions, watch_by_object
from tests.conftest import SECONDS

pytestmark = [
    pytest.mark.admin,
    pytest.mark.linux("5.8"),
    pytest.mark.real_kernel(reason="programs run in the kernel alone"),
]

EXECS = int(1000 * min(SECONDS, 2))
SOURCES = Path(rawbpf.examples.__file__).parent
Watch = Callable[..., AbstractContextManager["Queue[Any]"]]


@pytest.fixture(params=["instructions", "object"])
def watch(request: pytest.FixtureRequest, compiled: Callable[[Path], Path]) -> Watch:
    """The example's context manager, in both makes."""
    if request.param == "instructions":
        return watch_by_instructions
    path = compiled(SOURCES / "exec_watch.bpf.c")
    return lambda: watch_by_object(str(path))


def run_true(times: int) -> list[int]:
    """Executes `true` so many times, one after the other; the pids."""
    path, pids = shutil.which("true"), []
    assert path is not None
    for _ in range(times):
        pids.append(os.posix_spawn(path, ["true"], os.environ))
        os.waitpid(pids[-1], 0)
    return pids


def own(events: Iterator[Any]) -> list[tuple[int, bytes]]:
    """The pid and command of those whose parent is this process: others run programs too."""
    return [(pid, command.rstrip(b"\0")) for pid, parent, command in events if parent == os.getpid()]


def test_none_is_missed(watch: Watch) -> None:
    """2000 execs, drained in bulk: each once, in their order, with this process as the parent."""
    with watch() as queue:
        pids = run_true(EXECS)
        assert own(iter(queue.pop_many(queue.max_entries))) == [(pid, b"true") for pid in pids]


def test_the_newest_stay() -> None:
    """Of more execs than the queue has room for, the last ones are there, without a gap."""
    with watch_by_instructions(max_entries=16) as queue:
        pids = run_true(25)
        kept = Queue.from_fd(os.dup(queue.fileno()), EVENT)
    # Now that nothing is pushed any more: what others execute would drop the oldest in the midst.
    with kept:
        found = [pid for pid, _ in own(kept.drain())]
    assert 0 < len(found) <= 16
    assert found == pids[-len(found) :]


def test_detached_at_the_end(watch: Watch) -> None:
    """Outside of its context the program does not run any more."""
    with watch() as queue:
        keep = Queue.from_fd(os.dup(queue.fileno()))
    with keep:
        keep.pop_many(keep.max_entries)
        run_true(3)
        assert keep.pop_many(10) == []


@pytest.mark.alike
@pytest.mark.parametrize("by", ["instructions", "object"])
def test_on_the_command_line(compiled: Callable[[Path], Path], by: str) -> None:
    """`python -m rawbpf.examples.exec_watch` prints execs as they come, and ends with Ctrl-C."""
    arguments = [str(compiled(SOURCES / "exec_watch.bpf.c"))] if by == "object" else []
    command = [sys.executable, "-m", "rawbpf.examples.exec_watch", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["PID", "PARENT", "COMMAND"]
        [pid] = run_true(1)
        # Whatever else is executed meanwhile comes in between.
        assert any(line.split() == [str(pid), str(os.getpid()), "true"] for line in process.stdout)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("packets", "in the queue: [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]"),
        ("handoff", "strength 100: job(number=3, weight=300) is next"),
    ],
)
def test_the_others(compiled: Callable[[Path], Path], name: str, expected: str) -> None:
    """The documentation's queue holds what the filter pushed; the worker leaves the job that is too heavy."""
    path = compiled(SOURCES / f"{name}.bpf.c")
    command = [sys.executable, "-W", "error", "-m", f"rawbpf.examples.{name}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout.splitlines()
