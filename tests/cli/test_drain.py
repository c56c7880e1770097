"""drain and pop: what leaves the map is written or goes back, whatever happens to the reader, the disk, the process."""

import os
import pty
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rawbpf import Queue, Stack, open_map
from rawbpf.cli.drain import Drained, LineFormat, drain
from rawbpf.cli.stop_signals import StopSignals
from tests.cli.command import COMMAND, run
from tests.conftest import SECONDS, SLOWNESS, rounds

pytestmark = [pytest.mark.alike, pytest.mark.creates, pytest.mark.admin]

real_file_sizes = pytest.mark.real_kernel(reason="the simulated kernel keeps maps in files, which it limits too")

# Of the test that kills a follower again and again: 200 in 10 seconds on a fast machine.
TURNS = round(20 * SECONDS)


def test_drain_is_bounded(pinned):
    """Without --follow it takes what is there; --limit takes less."""
    path = pinned(Queue, 4, 1000)
    with open_map(path, "=I") as q:
        q.push_many(range(1000))
    assert run("drain", path, "--limit", "3") == "0\n1\n2\n"
    assert run("drain", path, "--json").splitlines()[0] == '{"value": 3}'
    assert run("drain", path) == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(pinned, number):
    """The exit code is 0, and all that came before is written."""
    path = pinned(Queue, 4, 10)
    with subprocess.Popen([*COMMAND, "drain", path, "--follow"], stdout=subprocess.PIPE, text=True) as follower:
        run("push", path, "1", "2")
        assert [follower.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
        follower.send_signal(number)
        assert follower.wait() == 0
        assert follower.stdout.read() == ""


def test_a_reader_that_goes_away(pinned):
    """It ends though nothing comes any more, and what comes afterwards stays in the queue."""
    path = pinned(Queue, 4, 10)
    with subprocess.Popen([*COMMAND, "drain", path, "--follow"], stdout=subprocess.PIPE, text=True) as follower:
        run("push", path, "1")
        assert follower.stdout.readline() == "1\n"
        follower.stdout.close()
        assert follower.wait() == 0
    run("push", path, "2")
    assert run("drain", path) == "2\n"


def written_while_stopped(process, reader):
    """Reads what is in the pipe while its writer is stopped, and closes it; the writer goes on then."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    os.set_blocking(reader, False)
    text = b""
    with suppress(BlockingIOError):
        while data := os.read(reader, 1 << 16):
            text += data
    os.close(reader)
    process.send_signal(signal.SIGCONT)
    return text


def until_it_waits(process):
    """Returns when the process waits for its reader: it is asleep and has used no time for a while."""
    last = None
    while True:
        with open(f"/proc/{process.pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        used = fields[10:12]
        if state == "S" and used == last and int(used[0]) + int(used[1]) > 0:
            return
        last = used
        time.sleep(0.3)


@pytest.mark.parametrize("options", [("--hex",), ("--hex", "--follow"), ("--raw",)])
def test_a_reader_that_goes_away_when_there_is_no_room(kind, pinned, options):
    """stdout and stderr are one pipe, its reader leaves, and a producer has filled the room: everything is in the pipe
    or in the map. Unless it follows the exit code is SIGPIPE's, for the map is not empty."""
    path = pinned(kind, 64, 4096)
    with open_map(path) as m:
        m.push_many([number.to_bytes(2, "big") * 32 for number in range(4096)])
        reader, writer = os.pipe()
        drain = subprocess.Popen([*COMMAND, "drain", path, *options], stdout=writer, stderr=writer)
        os.close(writer)
        until_it_waits(drain)
        pushed = 4096 + m.push_many([number.to_bytes(2, "big") * 32 for number in range(4096, 8192)])
        text = written_while_stopped(drain, reader)
        assert drain.wait() == (0 if "--follow" in options else 128 + signal.SIGPIPE)
        rest = m.pop_many(4096)
    assert rest
    if "--raw" in options:
        written = [text[start : start + 64] for start in range(0, len(text), 64)]
    else:
        written = [bytes.fromhex(line[2:]) for line in text.decode().splitlines()]
    assert sorted(written + rest) == [number.to_bytes(2, "big") * 32 for number in range(pushed)]


@pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
def test_a_reader_that_does_not_read(kind, pinned):
    """SIGTERM ends it though the pipe is full: what was not written is back in the map, nothing lost or torn."""
    path = pinned(kind, 4, 50_000)
    with open_map(path, "=I") as m:
        m.push_many(range(50_000))
        with subprocess.Popen([*COMMAND, "drain", path, "--follow"], stdout=subprocess.PIPE, text=True) as follower:
            while m.qsize() > 45_000:
                time.sleep(0.01)
            time.sleep(0.1)
            follower.terminate()
            assert follower.wait() == 0
            written = follower.stdout.read()
        assert written.endswith("\n")
        rest = m.pop_many(50_000)
    assert len(rest) > 10_000
    assert sorted([int(line) for line in written.splitlines()] + rest) == list(range(50_000))
    if kind is Stack:
        assert [int(line) for line in written.splitlines()] + rest == list(range(50_000))[::-1]


@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_a_socket_that_nobody_reads(pinned, end):
    """With a socket as stdout, as systemd gives one, it ends when the other end is gone; nothing is lost."""
    path = pinned(Queue, 4, 600)
    with open_map(path, "=I") as q:
        q.push_many(range(600))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.close() if end == "close" else theirs.shutdown(socket.SHUT_RD)
            follower = subprocess.run([*COMMAND, "drain", path, "--follow"], stdout=ours, timeout=60 * SLOWNESS)
        assert follower.returncode == 0
        assert sorted(q.pop_many(600)) == list(range(600))


def test_a_signal_that_is_ignored(pinned):
    """What the starter ignores, as nohup does SIGHUP, stays ignored."""
    path = pinned(Queue, 4, 10)
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    with subprocess.Popen([*ignoring, *COMMAND, "drain", path, "--follow"], stdout=subprocess.PIPE) as follower:
        run("push", path, "1")
        assert follower.stdout.readline() == b"1\n"
        follower.send_signal(signal.SIGHUP)
        run("push", path, "2")
        assert follower.stdout.readline() == b"2\n"
        follower.terminate()
        assert follower.wait() == 0


def test_a_map_that_is_frozen_within_a_line(pinned, tmp_path):
    """A value whose reader leaves in the middle of its long line, and that the map refuses, appears on stderr."""
    path = pinned(Queue, 100_000, 4)
    with open_map(path) as q, open(tmp_path / "err", "w+b") as errors:
        values = [bytes([number]) * 100_000 for number in range(3)]
        q.push_many(values)
        stuck = subprocess.Popen([*COMMAND, "drain", path, "--hex"], stdout=subprocess.PIPE, stderr=errors)
        assert stuck.stdout.read(1000) == b"0x" + b"0" * 998
        q.freeze()
        stuck.stdout.close()
        assert stuck.wait() == 1
        errors.seek(0)
        line, message = errors.read().splitlines()
        assert line == b"0x" + values[0].hex().encode()
        assert message.startswith(b"rawbpf: 1 value could neither be written nor pushed back: ")
        assert q.peek() == values[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_values_are_saved(pinned, number):
    """Signals don't end a drain that writes to stderr what it can neither write to stdout nor give back."""
    path = pinned(Queue, 100_000, 4)
    with open_map(path) as q:
        values = [bytes([number]) * 100_000 for number in range(3)]
        q.push_many(values)
        drain = subprocess.Popen(
            [*COMMAND, "drain", path, "--hex"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        with drain:
            assert drain.stdout.read(1000)
            q.freeze()
            drain.stdout.close()
            until_it_waits(drain)
            drain.send_signal(number)
            time.sleep(0.1)
            drain.send_signal(number)
            lines = drain.stderr.read().splitlines()
        assert drain.returncode == 1
        saved = [bytes.fromhex(line[2:].decode()) for line in lines if line.startswith(b"0x")]
        assert saved + q.snapshot() == values


def test_pop_gives_back_what_it_can_not_write(pinned):
    """pop -n, too: a full disk is exit code 1, a reader that went away SIGPIPE's, and the values are in the map."""
    path = pinned(Queue, 4, 300)
    with open_map(path, "=I") as q:
        q.push_many(range(300))
        with open("/dev/full", "wb") as full:
            assert subprocess.run([*COMMAND, "pop", path, "-n", "100"], stdout=full).returncode == 1
        reader, writer = os.pipe()
        os.close(reader)
        assert subprocess.run([*COMMAND, "pop", path, "-n", "100"], stdout=writer).returncode == 141
        os.close(writer)
        assert sorted(q.pop_many(300)) == list(range(300))


def test_a_trace_that_nobody_reads(pinned):
    """--trace to a stderr whose reader is gone ends the drain; what was taken just then is in the map again."""
    path = pinned(Queue, 4, 600)
    with open_map(path, "=I") as q:
        q.push_many(range(600))
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([*COMMAND, "drain", path, "--trace"], stdout=subprocess.PIPE, stderr=writer)
        os.close(writer)
        written = [int(line) for line in done.stdout.splitlines()]
        assert sorted(written + q.pop_many(600)) == list(range(600))


def test_a_disk_that_is_full(pinned):
    """A write error is exit code 1, and the values are back in the queue."""
    path = pinned(Queue, 4, 100)
    with open_map(path, "=I") as q:
        q.push_many(range(100))
        with open("/dev/full", "wb") as full:
            result = subprocess.run([*COMMAND, "drain", path], stdout=full, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 1
        assert "No space left" in result.stderr
        assert q.pop_many(100) == list(range(100))


def test_killed_at_random_moments(pinned, tmp_path):
    """SIGTERM at a random moment, many times, under a producer that counts up: the file has every number that is no
    longer in the queue, none twice, none torn. 40 times, and more with a longer RAWBPF_STRESS_SECONDS."""
    path, out = pinned(Queue, 8, 4096), tmp_path / "out"
    chance = random.Random(2)
    pushed, stop = 0, threading.Event()

    def produce(q):
        nonlocal pushed
        while not stop.is_set():
            pushed += q.push_many(range(pushed, pushed + chance.choice((1, 7, 40))))
            time.sleep(0.0005)

    with open_map(path, "=Q") as q, open(out, "wb") as file:
        producer = threading.Thread(target=produce, args=(q,))
        producer.start()
        try:
            for turn in range(TURNS):
                before = os.fstat(file.fileno()).st_size
                follower = subprocess.Popen([*COMMAND, "drain", path, "--follow"], stdout=file)
                # It has begun, but for every tenth time, which may be killed before it took anything.
                while turn % 10 and os.fstat(file.fileno()).st_size == before:
                    time.sleep(0.001)
                time.sleep(chance.random() * 0.01)
                follower.terminate()
                assert follower.wait() == 0 or (turn % 10 == 0 and follower.returncode == -signal.SIGTERM)
        finally:
            stop.set()
            producer.join()
        rest = q.pop_many(4096)
    text = out.read_text()
    assert text.endswith("\n")
    written = [int(line) for line in text.splitlines()]
    assert len(written) > 4 * TURNS
    assert sorted(written + rest) == list(range(pushed))


def test_the_rate_on_a_terminal(pinned):
    """On a terminal stderr shows count and rate; elsewhere nothing (run() wants it empty)."""
    path = pinned(Queue, 4, 10)
    run("push", path, "1", "2", "3")
    ours, theirs = pty.openpty()
    try:
        subprocess.run([*COMMAND, "drain", path], stdout=subprocess.DEVNULL, stderr=theirs, check=True)
        assert b"3 values, " in os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_progress_of_a_push(pinned, tmp_path):
    """push - from a file shows a bar on a terminal."""
    path, source = pinned(Queue, 4, 1000), tmp_path / "numbers"
    source.write_text("7\n" * 1000)
    ours, theirs = pty.openpty()
    try:
        with source.open() as file:
            subprocess.run([*COMMAND, "push", path, "-"], stdin=file, stderr=theirs, check=True)
        assert f"[{'#' * 30}] 1000 values, ".encode() in os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_drain_that_a_signal_cuts_short(pinned, number):
    """Without --follow the exit code is 128 + signal: `drain MAP >file && rm MAP` must not remove the rest."""
    path = pinned(Queue, 8, 100_000)
    with open_map(path, "=Q") as q:
        q.push_many(range(100_000))
        with subprocess.Popen([*COMMAND, "drain", path], stdout=subprocess.PIPE) as drain:
            assert drain.stdout.read(2) == b"0\n"
            drain.send_signal(number)
            text = b"0\n" + drain.stdout.read()
        assert drain.returncode == 128 + number
        assert [int(line) for line in text.split()] + q.pop_many(100_000) == list(range(100_000))


def test_a_pop_that_a_signal_cuts_short(pinned):
    """The same for pop."""
    path = pinned(Queue, 8, 100_000)
    with open_map(path, "=Q") as q:
        q.push_many(range(100_000))
        with subprocess.Popen([*COMMAND, "pop", path, "-n", "100000"], stdout=subprocess.PIPE) as pop:
            assert pop.stdout.read(2) == b"0\n"
            pop.terminate()
            text = b"0\n" + pop.stdout.read()
        assert pop.returncode == 128 + signal.SIGTERM
        assert [int(line) for line in text.split()] + q.pop_many(100_000) == list(range(100_000))


def test_many_signals(kind, pinned):
    """Signals that come one upon the other, at any moment, lose nothing."""
    path = pinned(kind, 64, 768)
    values = [number.to_bytes(2, "big") * 32 for number in range(768)]
    chance = random.Random(3)
    with open_map(path) as m:
        for _ in rounds():
            m.push_many(values)
            with subprocess.Popen([*COMMAND, "drain", path, "--hex", "--follow"], stdout=subprocess.PIPE) as drain:
                text = drain.stdout.read(131)
                for _ in range(20):
                    drain.send_signal(chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
                    time.sleep(chance.random() * 0.001)
                text += drain.stdout.read()
            assert drain.returncode == 0 or drain.returncode < 0
            written = [bytes.fromhex(line[2:]) for line in text.decode().splitlines()]
            assert sorted(written + m.pop_many(768)) == values


@real_file_sizes
def test_a_file_that_is_opened_for_update(pinned, tmp_path):
    """A write that fails in a file's middle leaves the end of the file, which is somebody else's, as it was."""
    path, file = pinned(Queue, 8, 2000), tmp_path / "file"
    file.write_bytes(b"x" * 9999 + b"\n")
    with open_map(path, "=Q") as q, open(file, "r+b") as out:
        q.push_many(range(10**9, 10**9 + 2000))
        done = drained_into(out, path, 5003)
        assert done.returncode == 1
        assert b"File too large" in done.stderr
        rest = q.pop_many(2000)
    data = file.read_bytes()
    assert data[5003:] == b"x" * (9999 - 5003) + b"\n"
    written = [int(line) for line in data[: 5003 // 11 * 11].split()]
    assert sorted(written + rest) == list(range(10**9, 10**9 + 2000))


@real_file_sizes
@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_file_that_may_not_grow(pinned, tmp_path, mode):
    """A write that fails within a line takes the beginning of that line off the file again."""
    path, file = pinned(Queue, 8, 2000), tmp_path / "file"
    with open_map(path, "=Q") as q, open(file, mode) as out:
        q.push_many(range(10**9, 10**9 + 2000))
        assert drained_into(out, path, 5003).returncode == 1
        assert os.fstat(out.fileno()).st_size == os.lseek(out.fileno(), 0, os.SEEK_CUR) == 5003 // 11 * 11
        written = [int(line) for line in file.read_bytes().split()]
        assert sorted(written + q.pop_many(2000)) == list(range(10**9, 10**9 + 2000))


def drained_into(out, path, limit):
    """Drains into a file that can't be written beyond `limit` bytes."""
    command = ["prlimit", f"--fsize={limit}", *COMMAND, "drain", path]
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE)


@pytest.mark.creates
@pytest.mark.admin
def test_following_says_what_it_waits_for(bpf_folder):
    """`drain PATH --follow` waits for a pin that is not there, goes on when it is replaced, and says both on stderr."""
    path = f"{bpf_folder}/later"
    command = [*COMMAND, "drain", path, "--format", "<I", "--follow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == f"waiting for {path}\n"
    for number in (1, 2):
        with Queue("<I", 4) as q:
            q.push(number)
            Path(path).unlink(missing_ok=True)
            q.pin(path)
            assert process.stdout.readline() == f"{number}\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate() == ("", f"another map is pinned at {path} now\n")
    assert process.returncode == 0


@pytest.mark.parametrize("gone", ["replaced", "removed"])
def test_a_signal_while_the_old_map_holds_values(pinned, gone):
    """A map that is no longer pinned goes with the worker: what it holds is written before a signal ends that. Values
    of a map that is still pinned stay there."""
    path = pinned(Queue, 4, 5000)
    command = [*COMMAND, "drain", path, "--follow"]
    with open_map(path, "=I") as old, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        old.push(0)
        assert worker.stdout.readline() == "0\n"
        worker.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
        old.push_many(range(1, 5000))
        os.unlink(path)
        if gone == "replaced":
            with Queue("=I", 10) as new:
                new.push(7)
                new.pin(path)
        worker.terminate()
        worker.send_signal(signal.SIGCONT)
        assert [int(line) for line in worker.stdout] == list(range(1, 5000))
        assert worker.wait() == 0
    if gone == "replaced":
        assert run("drain", path) == "7\n"


def test_a_signal_in_the_last_look_into_an_old_map(tmp_path):
    """A signal that comes when another map is pinned already, and the old one is found empty, is not forgotten: the
    caller, who would go on with the new map, sees it."""

    def is_over() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    lines = LineFormat(lambda value: value + b"\n", 5)
    with Queue(4, 10) as m, (tmp_path / "output").open("wb") as out, StopSignals() as stop:
        drained = drain(m, lines, out.fileno(), limit=None, follow=True, is_over=is_over, stop=stop, progress=False)
        assert drained == Drained(0, 0)
        assert stop.received == signal.SIGTERM


def test_a_reader_that_does_not_read_from_an_old_map(pinned):
    """Where nobody reads, a signal ends it all the same, within about a second."""
    path = pinned(Queue, 4, 50_000)
    with open_map(path, "=I") as old:
        old.push_many(range(50_000))
        with subprocess.Popen([*COMMAND, "drain", path, "--follow"], stdout=subprocess.PIPE) as worker:
            until_it_waits(worker)
            os.unlink(path)
            worker.terminate()
            assert worker.wait() == 0
            written = [int(line) for line in worker.stdout]
        assert written + old.pop_many(50_000) == list(range(50_000))


def test_a_reader_that_goes_away_while_it_waits_for_a_pin(bpf_folder):
    """It ends then, though there is nothing to write."""
    command = [*COMMAND, "drain", f"{bpf_folder}/later", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr.readline().endswith(f"waiting for {bpf_folder}/later\n")
        worker.stdout.close()
        assert worker.wait() == 0
