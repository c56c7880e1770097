"""The example open_watch: every file that this process opens is in the queue, typed, in order, and by its parent."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rawbpf.examples
from rawbpf.examples.open_watch import text, watch

pytestmark = [
    pytest.mark.admin,
    pytest.mark.linux("5.17"),
    pytest.mark.real_kernel(reason="programs run in the kernel alone"),
    pytest.mark.skipif(
        platform.libc_ver()[0] != "glibc" and os.uname().machine == "x86_64",
        reason="by design: musl opens by open(2) where a machine has it, and the example watches openat(2)",
    ),
]

SOURCE = Path(rawbpf.examples.__file__).parent / "open_watch.bpf.c"
OPENS = 500


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths are short then: the program keeps 100 bytes of one, and where temporary files are may be a long way."""
    monkeypatch.chdir(tmp_path)


def test_none_is_missed(compiled: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """500 files opened in turn for reading and for writing: each is there once, in order, with the flags; the parent is
    found where this kernel has it (CO-RE)."""
    paths = [f"opened{number}" for number in range(OPENS)]
    with watch(str(compiled(SOURCE)), os.getpid()) as queue:
        for number, path in enumerate(paths):
            os.close(os.open(path, (os.O_RDONLY, os.O_WRONLY)[number % 2] | os.O_CREAT))
        events = queue.pop_many(queue.max_entries)
    ours = [event for event in events if text(event.path).startswith("opened")]
    assert [text(event.path) for event in ours] == paths
    assert [event.flags & os.O_ACCMODE for event in ours] == [os.O_RDONLY, os.O_WRONLY] * (OPENS // 2)
    assert {(event.pid, event.parent) for event in ours} == {(os.getpid(), os.getppid())}
    # Nothing of other processes.
    assert {event.pid for event in events} == {os.getpid()}
    assert "on_open is attached to tracepoint 'syscalls/sys_enter_openat'" in capsys.readouterr().err


@pytest.mark.alike
def test_on_the_command_line(compiled: Callable[[Path], Path]) -> None:
    """The example prints a line for each file as it is opened, and ends with Ctrl-C."""
    path = Path("opened")
    command = [sys.executable, "-m", "rawbpf.examples.open_watch", str(compiled(SOURCE)), "--pid", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "on_open is attached to tracepoint 'syscalls/sys_enter_openat'\n"
        path.touch()
        expected = f"({os.getpid()}, child of {os.getppid()}) writes {path}\n"
        assert any(line.endswith(expected) for line in process.stdout)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
