"""When something goes wrong around a map: no descriptor, no memory, another's close, fork, signals, kills, no /proc.

After each there is a clear error or a right answer, no descriptor or pin is left, and no element is lost that the
kernel gave us. What Ctrl-C does to elements in the midst of a call stands in test_stress.py and test_bulk.py.
"""

import contextlib
import errno
import gc
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from itertools import count
from pathlib import Path

import pytest

import rawbpf
from rawbpf import BpfError, Hash, NotFound, NotPermitted, Queue, RingBuffer
from rawbpf.abi import Cmd, ProgType, door
from rawbpf.maps import bpffs, in_kernel
from rawbpf.maps import map as map_module
from rawbpf.programs.asm import R0, exit_, mov
from rawbpf.programs.link import Link
from rawbpf.programs.program import ETH_HLEN, Program
from rawbpf.syscall.errors import EXHAUSTED, errno_name
from rawbpf.syscall.proc import kernel_version
from tests.conftest import SECONDS, SLOWNESS, Interrupted, descriptors, interruptions, needs_3_11, rounds

pytestmark = pytest.mark.creates

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")


def python(code: str, *prefix: str, warn: str = "error") -> str:
    """Runs code in a process of its own, in which each warning is an error; returns what it printed."""
    command = [*prefix, sys.executable, "-X", "dev", "-W", warn, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120 * SLOWNESS)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


@contextlib.contextmanager
def forked():
    """Forks: the body runs in both. The child ends behind it, and the parent wants that it ended well."""
    child = os.fork()
    if child == 0:
        # Nothing of pytest's may run in the child.
        code = 1
        try:
            yield True
            code = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(code)
    yield False
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# No descriptor, no memory


def all_that_makes_descriptors(path: str):
    """Each public call that makes a descriptor, by its name: a function without arguments, and its right answer."""
    q = Queue("<I", 50, name="faults")
    q.pin(path)

    def opened(make):
        with make() as m:
            return m.id

    def bulk_of_a_new_map():
        with Queue("<I", 50) as m:
            return m.push_many(range(40)), m.pop_many(40)

    def program():
        with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 7), exit_()]) as p:
            return p.run(bytes(ETH_HLEN)).retval

    def attached():
        code = [mov(R0, 0), exit_()]
        with (
            Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, code) as p,
            p.attach("sched_process_exec") as link,
            Link.from_id(link.info().id) as again,
        ):
            return again.info().tp_name

    def attached_to(prog_type, place):
        with Program(prog_type, [mov(R0, 0), exit_()]) as p, p.attach(place) as link:
            return link.target

    calls = {
        "Queue()": (lambda: opened(lambda: Queue(4, 1)) > 0, True),
        "Queue.open": (lambda: opened(lambda: Queue.open(path)), q.id),
        "open_map": (lambda: opened(lambda: rawbpf.open_map(path)), q.id),
        "push_many, pop_many": (bulk_of_a_new_map, (40, list(range(40)))),
    }
    if door.simulated is None:
        calls |= {
            "from_id": (lambda: opened(lambda: Queue.from_id(q.id)), q.id),
            "maps()": (lambda: q.id in [info.id for info in rawbpf.list_maps()], True),
            "qsize": (q.qsize, 0),
            "snapshot": (q.snapshot, []),
            "Hash()": (lambda: opened(lambda: Hash(4, 4, 1)) > 0, True),
            "RingBuffer()": (lambda: opened(lambda: RingBuffer(4096)) > 0, True),
            "Program": (program, 7),
            "attach": (attached, "sched_process_exec"),
            "attach a uprobe": (
                lambda: attached_to(ProgType.BPF_PROG_TYPE_KPROBE, "uprobe/libc.so.6:getppid"),
                "uprobe libc.so.6:getppid",
            ),
            "attach to a tracepoint": (
                lambda: attached_to(ProgType.BPF_PROG_TYPE_TRACEPOINT, "sched/sched_process_exec"),
                "tracepoint 'sched/sched_process_exec'",
            ),
            "btf=True": (lambda: opened(lambda: Queue("=I", 1, btf=True)) > 0, True),
        }
    return q, calls


@contextlib.contextmanager
def free_descriptors(number: int):
    """Leaves this process with so many free descriptors."""
    used = set(map(int, descriptors()))
    free = (fd for fd in count() if fd not in used)
    limit = 0
    for _ in range(number):
        limit = next(free) + 1
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@pytest.mark.admin
def test_too_few_descriptors(bpf_folder):
    """With 0 to 8 descriptors free each call that makes one answers right or says EMFILE, leaves nothing open, and does
    answer right as soon as there are enough."""
    q, calls = all_that_makes_descriptors(f"{bpf_folder}/faults")
    with q:
        for call, right in calls.values():
            assert call() == right
        before = descriptors()
        refused = set()
        for number in range(9):
            for name, (call, right) in calls.items():
                with free_descriptors(number):
                    try:
                        assert call() == right, name
                    except OSError as error:
                        assert error.errno == errno.EMFILE, (name, error)
                        refused.add(name)
                assert descriptors() == before, (name, number)
                assert call() == right
        # qsize() has its program since the first round, and elements go one by one where a program can't be had.
        assert refused >= calls.keys() - {"qsize"}


class Refusing:
    """A hook that answers one call, the one with that number, with an errno in the kernel's place."""

    def __init__(self, number: int, error: int) -> None:
        self.left = number
        self.error = error

    def __call__(self, cmd: int, attr, size: int) -> int:
        self.left -= 1
        return -self.error if self.left == -1 else door.ask_kernel(cmd, attr, size)


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@pytest.mark.admin
@pytest.mark.parametrize("error", sorted(EXHAUSTED), ids=errno_name)
def test_each_system_call_refused_in_turn(bpf_folder, error):
    """Whichever of its bpf(2) calls is refused, each public call answers right or raises that errno, and leaves nothing
    open. (ENFILE can't be produced for real: root is exempt from fs.file-max.)"""
    q, calls = all_that_makes_descriptors(f"{bpf_folder}/faults")
    with q:
        for name, (call, right) in calls.items():
            assert call() == right
            before = descriptors()
            for number in count():
                hook = Refusing(number, error)
                previous = door.set_hook(hook)
                try:
                    assert call() == right or name == "push_many, pop_many"
                except OSError as raised:
                    assert raised.errno == error, (name, number, raised)
                finally:
                    door.set_hook(previous)
                assert descriptors() == before, (name, number)
                if hook.left >= 0:
                    break
            assert number > 0
            assert call() == right


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_no_descriptor_for_a_program_is_no_judgement():
    """Elements go one by one while no descriptor is free for a program, none twice; afterwards in the kernel again."""
    with Queue("<I", 100) as q:
        with free_descriptors(1):
            assert q.push_many(range(50)) == 50
            assert q.bulk.in_kernel is None and "no free descriptor" in q.bulk.why
        assert q.pop_many(50) == list(range(50))
        assert q.bulk.in_kernel is not None


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_no_descriptor_for_an_import():
    """bulk.py is imported when it is needed, and may then be no descriptor to read it: no element is pushed twice."""
    code = """
import os, resource, rawbpf
with rawbpf.Queue("<I", 100) as q:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (q.fileno() + 1, old[1]))
    pushed = q.push_many(range(50))
    resource.setrlimit(resource.RLIMIT_NOFILE, old)
    print(pushed, q.pop_many(100) == list(range(50)), len(os.listdir("/proc/self/fd")) <= q.fileno() + 5)
"""
    assert python(code) == "50 True True\n"


@pytest.mark.admin
@pytest.mark.linux("5.11")
@pytest.mark.real_kernel(reason="memory is charged to a cgroup")
def test_no_memory_for_a_bulk_call(memory_cgroup):
    """Where the memory cgroup has no room for a scratch, 1 MB, elements go one by one; with room again in the
    kernel. A map of nearly 4 GiB is ENOMEM."""
    code = f"""
import errno, os, rawbpf, rawbpf.maps.bulk, rawbpf.maps.in_kernel
data, out = bytes(15 * 500), bytearray(15 * 500)
q = rawbpf.Queue(15, 1 << 17)
with open({str(memory_cgroup / "cgroup.procs")!r}, "w") as file: file.write(str(os.getpid()))
try: rawbpf.Queue(4096, (1 << 20) - 2)
except rawbpf.BpfError as error: print(errno.errorcode[error.errno])
usage, limit = {("memory.usage_in_bytes", "memory.limit_in_bytes")}
if not os.path.exists({str(memory_cgroup)!r} + "/" + usage): usage, limit = "memory.current", "memory.max"
def allow(more):
    with open({str(memory_cgroup)!r} + "/" + usage) as file: now = int(file.read())
    with open({str(memory_cgroup)!r} + "/" + limit, "w") as file: file.write(str(now + more))
# The interpreter needs some memory too, or it is killed; each processor keeps up to 256 KiB of what is free in reserve.
allow(400 << 10)
fds = len(os.listdir("/proc/self/fd"))
print(q.push_many(data), q.bulk.in_kernel, "no memory for the buffer" in q.bulk.why)
print(len(os.listdir("/proc/self/fd")) == fds)
allow(16 << 20)
print(q.pop_into(out), q.bulk.in_kernel)
q.close()
"""
    in_kernel = str(kernel_version() >= (5, 17))
    assert python(code) == f"ENOMEM\n500 None True\nTrue\n500 {in_kernel}\n"


# Descriptors that others close


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_a_descriptor_that_somebody_else_closed(kind):
    """Whatever is called then is EBADF (EBADFD from info), or the ValueError after close(); close() says EBADF too,
    once, and what bulk calls opened is closed nevertheless."""
    m = kind("<I", 100)
    m.push_many(range(50))
    os.close(m.fileno())
    for call in (
        lambda: m.push(1),
        m.peek,
        m.pop,
        lambda: m.push_many([1]),
        lambda: m.pop_many(1),
        lambda: list(m.drain()),
    ):
        with pytest.raises(BpfError, match="somebody else closed it") as caught:
            call()
        assert caught.value.errno == errno.EBADF
    with pytest.raises(BpfError, match="is not open"):
        m.info()
    with pytest.raises(OSError, match="Bad file descriptor"):
        m.close()
    assert m.closed
    m.close()


CLOSE_DURING_A_CALL = """
import os, sys, threading, time
from rawbpf import Queue
large = Queue(1 << 16, 4)
for _ in range(4): large.push(b"!" * (1 << 16))
small = Queue(8, 4)
small.push_many([b"12345678", b"23456789"])
{prepare}
answers = []
def call():
    try: answers.append({call})
    except ValueError as error: answers.append(type(error).__name__)
thread = threading.Thread(target=call)
thread.start()
time.sleep(0.3)
number = small.fileno()
small.close()
os.dup2(large.fileno(), number)
thread.join()
print(answers, len(large.pop_many(9)))
os.close(number)
large.close()
"""


@needs_strace
@pytest.mark.real_kernel(reason="strace delays its system calls")
@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("small.pop()", [b"12345678"]),
        ("small.peek()", [b"12345678"]),
        ("small.push(b'34567890')", [None]),
        ("small.pop_many(3)", [[b"12345678"]]),
    ],
)
def test_close_while_another_thread_is_in_a_call(tmp_path, call, answer):
    """close() waits for a call that has not reached the kernel yet: its descriptor's number may be a map of larger
    values a moment later, and the kernel would write past the buffer.

    strace holds the first bpf(2) of each thread for 0.6 s; the number is reused after 0.3 s.
    """
    code = CLOSE_DURING_A_CALL.format(prepare="", call=call)
    delayed = ["strace", "-f", "-o", str(tmp_path / "log"), "-e", "trace=bpf"]
    delayed += ["-e", "inject=bpf:delay_enter=600000:when=1"]
    assert python(code, *delayed) == f"{answer} 4\n"


@pytest.mark.real_kernel(reason="many hands and no hook at the door")
def test_close_and_use_in_many_threads(kind):
    """Threads use a map while it is closed and others take its number: each call gets an element of its own map or
    ValueError."""
    sizes, wrong = [], []

    def use(m, own):
        try:
            while True:
                value = m.pop(None)
                if value is not None and value != own:
                    wrong.append(value)
                m.push(own)
        except (ValueError, rawbpf.Full):
            pass

    for number in rounds(lambda: len(sizes) > 1, min(SECONDS, 2)):
        size = 8 << number % 8
        sizes.append(size)
        own = bytes([number % 256]) * size
        with kind(size, 8) as m:
            threads = [threading.Thread(target=use, args=(m, own)) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.001)
        with kind(16 << (number + 1) % 8, 8):
            for thread in threads:
                thread.join()
        assert wrong == []
    assert len(sizes) > 1


# fork()


@pytest.mark.real_kernel(reason="many hands and no hook at the door")
def test_fork_while_a_thread_is_in_a_bulk_call(kind):
    """A child that is forked in the midst of other threads' calls can use the map, in bulk too, and close it."""
    with kind("<Q", 10_000) as m:
        stop = threading.Event()

        def work():
            while not stop.is_set():
                m.push_many(range(500))
                m.pop_many(500)
                m.push(1)
                m.pop(None)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            with warnings.catch_warnings():
                # From 3.12 on: forking with threads. That is the point.
                warnings.simplefilter("ignore", DeprecationWarning)
                for _ in rounds(seconds=min(SECONDS, 2)):
                    with forked() as in_child:
                        if in_child:
                            signal.alarm(round(20 * SLOWNESS))
                            assert m.take_held() == []
                            assert m.push_many([7] * 30) == 30
                            m.pop_many(30)
                            m.close()
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_fork_with_an_inspector(kind):
    """qsize() and snapshot() go on in both, and closing in the child leaves the parent's alone."""
    with kind("<I", 10) as m:
        m.push_many([1, 2, 3])
        try:
            assert m.qsize() == 3
        except BpfError as error:
            pytest.skip(f"by design: needs Linux 5.9, or needs CAP_PERFMON: {error}")
        with forked() as in_child:
            assert m.qsize() == 3
            assert sorted(m.snapshot()) == [1, 2, 3]
            if in_child:
                m.close()
        assert m.qsize() == 3


def test_fork_in_a_drain(kind):
    """What a drain has taken and not yielded is the parent's: the child's drain ends, and holds nothing."""
    with kind("<I", 100) as m:
        m.push_many(range(100))
        seen = []
        for value in m.drain():
            seen.append(value)
            if len(seen) == 10:
                child = os.fork()
                if child == 0:
                    seen.clear()
        if child == 0:
            os._exit(0 if (seen, m.take_held(), m.pop(None)) == ([], [], None) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sorted(seen) == list(range(100))


def test_fork_with_a_closed_map(kind):
    """A closed map is closed in the child as well."""
    m = kind(4, 1)
    m.close()
    with forked(), pytest.raises(ValueError, match="closed"):
        m.push(b"abcd")


# Signals


@contextlib.contextmanager
def interruptions_of_owners(seconds: float):
    """The same where descriptors are made: they may be left to the collector, which closes them and says so."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), interruptions(seconds) as run:
        # Python swallows what is raised in __del__() and in the callbacks of weak references.
        patch.setattr(sys, "unraisablehook", lambda unraisable: None)
        # An object that is dropped before `with` has it is closed with a warning.
        warnings.simplefilter("ignore")
        yield run


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@needs_3_11
@pytest.mark.admin
@pytest.mark.parametrize("seconds", [0.0001, 0.0007])
def test_signals_leave_no_descriptor(bpf_folder, seconds):
    """A signal handler that raises anywhere in a call that makes a descriptor: none is left open, none closed twice."""
    q, calls = all_that_makes_descriptors(f"{bpf_folder}/faults")
    interrupted = dict.fromkeys(calls, 0)
    with q:
        if "qsize" in calls:
            q.qsize()
        before = descriptors()
        with interruptions_of_owners(seconds) as run:
            for _ in rounds(lambda: sum(interrupted.values()) > 10, min(SECONDS, 2)):
                for name, (call, _) in calls.items():
                    interrupted[name] += run(call)
        # What was mapped stays so as long as a traceback refers to it.
        gc.collect()
        assert descriptors() == before
    assert sum(interrupted.values()) > 10
    assert q.closed


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@needs_3_11
@pytest.mark.admin
@pytest.mark.parametrize("seconds", [0.0007, 0.004])
def test_signals_leave_nothing_of_an_object_file(bpf_folder, compiled, seconds):
    """The same for a file of maps, variables and programs, at any moment of loading, pinning and closing."""
    path, interrupted = compiled("pinned"), []

    def load():
        try:
            rawbpf.ObjectFile.load(path, pin_root=bpf_folder).close()
        except rawbpf.ObjectFileError:
            raise Interrupted from None  # pyelftools makes an error of its own of whatever comes while it parses
        except rawbpf.BpfError as error:
            if error.errno != errno.EAGAIN:
                raise
            raise Interrupted from None  # a signal came in each attempt to load a program

    load()  # and so does the import of an enum
    Path(bpf_folder, "shared").unlink()
    before = descriptors()
    with interruptions_of_owners(seconds) as run:
        for _ in rounds(lambda: any(interrupted), min(SECONDS, 2)):
            interrupted.append(run(load))
            Path(bpf_folder, "shared").unlink(missing_ok=True)
    gc.collect()
    assert descriptors() == before
    assert any(interrupted)


def test_a_signal_while_a_descriptor_is_taken_over(kind, monkeypatch):
    """What is raised before from_fd() has returned leaves the descriptor to the caller, open: the map that was begun
    does not close it."""

    class Interrupting:
        def add(self, m):
            raise Interrupted

    with kind(4, 1) as m:
        fd = os.dup(m.fileno())
        try:
            with monkeypatch.context() as patch:
                patch.setattr(map_module, "_all_maps", Interrupting())
                with pytest.raises(Interrupted):
                    kind.from_fd(fd)
            gc.collect()
            assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf-map" or door.simulated is not None
        finally:
            os.close(fd)


@pytest.mark.real_kernel(reason="programs")
def test_a_signal_where_closing_begins(kind, monkeypatch):
    """The kernel refuses the first program of a bulk call, and a signal handler raises where what was made is to be
    closed, before the first line of close(): no descriptor is left open."""
    refused, close = iter([-errno.EINVAL]), in_kernel.InKernel.close

    def interrupted(self):
        monkeypatch.setattr(in_kernel.InKernel, "close", close)
        raise Interrupted

    def refuse(cmd, attr, size):
        answer = next(refused, None) if cmd == Cmd.BPF_PROG_LOAD else None
        return door.ask_kernel(cmd, attr, size) if answer is None else answer

    with kind("<I", 100) as m:
        before = descriptors()
        monkeypatch.setattr(in_kernel.InKernel, "close", interrupted)
        previous = door.set_hook(refuse)
        try:
            with pytest.raises(Interrupted):
                m.push_many(range(50))
        finally:
            door.set_hook(previous)
        assert descriptors() == before


@pytest.mark.real_kernel(reason="many hands and no hook at the door")
@needs_3_11
def test_signals_in_push_many(kind):
    """push_many() that a signal handler cuts off has pushed a beginning of its values, in order, nothing twice."""
    cut_off = []
    with kind("<I", 2000) as m, interruptions_of_owners(0.0003) as run:
        for _ in rounds(lambda: any(cut_off), min(SECONDS, 1)):
            cut_off.append(run(lambda: m.push_many(range(2000))))
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            values = m.pop_many(2000)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            assert sorted(values) == list(range(len(values)))
    assert any(cut_off)
    # The scratch of a call that was cut off stays mapped as long as a traceback refers to it.
    gc.collect()


@pytest.mark.real_kernel(reason="many hands and no hook at the door")
@needs_3_11
def test_keyboard_interrupt():
    """SIGINT at a random moment in each kind of call ends in KeyboardInterrupt, and what was popped is seen or held."""
    code = """
import os, random, signal, sys, threading, time
from rawbpf import Queue
chance, seen, pushed = random.Random(3), [], 0
# Python reports, and swallows, what is raised in a __del__() or in a callback of the import system.
sys.unraisablehook = lambda unraisable: None
def interrupt(over, after):
    time.sleep(after)
    # Again, if the first one came there.
    while not over.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(10)
with Queue("<I", 5000) as q:
    for turn in range(40):
        pushed += q.push_many(range(pushed, pushed + 3000))
        over = threading.Event()
        thread = threading.Thread(target=interrupt, args=(over, chance.random() * 0.002))
        try:
            thread.start()
            while True:
                if turn % 4 == 0:
                    seen += (q.pop(),) if q.qsize() else ()
                elif turn % 4 == 1:
                    seen += q.pop_many(20)
                elif turn % 4 == 2:
                    for value in q.drain(): seen += (value,)
                else:
                    for value in q.follow(0.001): seen += (value,)
        except KeyboardInterrupt:
            pass
        over.set()
        thread.join()
        seen += q.pop_many(5000)
    print(seen == list(range(pushed)))
"""
    # An open() that is cut off leaves a file to Python's own warning.
    assert python(code, warn="ignore") == "True\n"


# Processes that are killed


@pytest.mark.admin
@pytest.mark.real_kernel(reason="many hands and no hook at the door")
def test_killed_producers_and_consumers(kind, bpf_folder, tmp_path):
    """Producers and consumers on one pin are killed at any moment: the map goes on; each producer's values are there
    from its first on, without a gap; a consumer takes with it no more than what it had not written down."""
    path, chance = f"{bpf_folder}/shared", random.Random(4)
    with kind("<II", 4096) as m:
        m.pin(path)

    def produce(worker: int, m) -> None:
        for number in count(step=3):
            while m.push_many([(worker, number), (worker, number + 1)]) < 2:
                m.pop(None)
            m.push((worker, number + 2), rawbpf.BPF_EXIST)

    def produce_in_order(worker: int, m) -> None:
        number = 0
        while True:
            number += m.push_many([(worker, n) for n in range(number, number + 1 + number % 40)])

    def consume(worker: int, m) -> None:
        with open(tmp_path / str(worker), "ab", buffering=0) as file:
            while True:
                for values in ([m.pop(None)], m.pop_many(30)):
                    file.write(b"".join(struct.pack("<II", *value) for value in values if value))

    def start(work, worker: int) -> int:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                work(worker, kind.open(path, "<II"))
            os._exit(1)
        return child

    for turns in rounds(lambda: sum(file.stat().st_size for file in tmp_path.iterdir()) > 8 * 100):
        workers = [start(produce_in_order, 100 * turns + n) for n in range(2)]
        workers += [start(consume, 100 * turns + 50 + n) for n in range(2)]
        time.sleep((0.02 + chance.random() * 0.05) * SLOWNESS)
        for child in chance.sample(workers, len(workers)):
            os.kill(child, signal.SIGKILL)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in workers] == [-signal.SIGKILL] * 4
    with kind.open(path, "<II") as m:
        rest = m.pop_many(4096)
        assert m.pop(None) is None
        m.push((1, 1))
        assert m.pop() == (1, 1)
    os.unlink(path)

    seen = list(rest)
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        seen += struct.iter_unpack("<II", data[: len(data) // 8 * 8])
    assert len(set(seen)) == len(seen) > 100
    by_worker: dict[int, list[int]] = {}
    for worker, number in seen:
        by_worker.setdefault(worker, []).append(number)
    # A consumer had at most one value and one batch in its hands.
    missing = sum(max(numbers) + 1 - len(numbers) for numbers in by_worker.values())
    assert missing <= turns * 2 * (1 + 30)


# The file systems around


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@pytest.mark.admin
def test_a_bpffs_that_is_unmounted(kind):
    """Maps go on though their bpffs is gone; a new pin or opening there is an error that says why."""
    with bpffs.mounted() as folder:
        m = kind("<I", 50)
        m.pin(f"{folder}/m")
        again = kind.open(f"{folder}/m", "<I")
        os.stat(folder)
    assert not os.path.exists(folder)
    with m, again:
        assert m.push_many(range(40)) == 40
        assert sorted(again.pop_many(40)) == list(range(40))
        with pytest.raises(NotFound, match="nothing is pinned") as caught:
            kind.open(f"{folder}/m")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(NotFound, match="directory does not exist") as caught:
            m.pin(f"{folder}/m")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(NotPermitted, match="can't hold a pin") as caught:
            m.pin("/tmp/rawbpf-no-bpffs")
        assert caught.value.errno == errno.EPERM


WITHOUT = """
import rawbpf
from rawbpf import Queue
def tell(call):
    try: print(call())
    except rawbpf.BpfError as error: print(type(error).__name__, error)
with Queue("<I", 100, name="alone") as q:
    print(q.push_many(range(50)), q.bulk.in_kernel is not None, q.pop_many(20) == list(range(20)))
    tell(q.qsize)
    tell(lambda: q.pin("/tmp/no-bpffs"))
    tell(lambda: list(q.drain()) == list(range(20, 50)))
    tell(lambda: [info.name for info in rawbpf.list_maps() if info.id == q.id])
    try: q.freeze()
    except rawbpf.BpfError: pass
    else: tell(lambda: q.push(1))
print(all(check.works is not None for check in rawbpf.diagnose().checks))
"""


def hiding(script: str) -> list[str]:
    """A mount namespace of its own, in which the shell script hides something, and then what is appended runs."""
    return ["unshare", "--mount", "sh", "-ec", script + '\nexec "$@"', "sh"]


@needs_unshare
@pytest.mark.admin
@pytest.mark.linux("5.11")
@pytest.mark.real_kernel(reason="what is hidden is the kernel's")
def test_no_proc():
    """Without /proc maps work as ever, in bulk too, and a refusal says that its cause can't be seen."""
    lines = python(WITHOUT, *hiding("mount -t tmpfs none /proc")).splitlines()
    assert lines[0] == "50 True True"
    assert lines[1] == "30" or lines[1].startswith(("NotPermitted", "Unsupported"))
    assert lines[2].startswith("NotPermitted '/tmp/no-bpffs' can't hold a pin [BPF_OBJ_PIN: EPERM]")
    assert "/proc" in lines[2]
    assert lines[3:5] == ["True", "['alone']"]
    assert lines[5].startswith("NotPermitted queue 'alone': not permitted [BPF_MAP_UPDATE_ELEM: EPERM]")
    assert lines[6:] == ["True"]


@needs_unshare
@pytest.mark.admin
@pytest.mark.linux("5.11")
@pytest.mark.real_kernel(reason="what is hidden is the kernel's")
@pytest.mark.parametrize("script", ["mount -t tmpfs none /sys", "mount -o remount,bind,ro /sys"])
def test_no_sys(script):
    """Without /sys, or with one that is read-only, maps work as ever; qsize() needs the kernel's BTF and says so."""
    lines = python(WITHOUT, *hiding(script)).splitlines()
    assert lines[0] == "50 True True"
    if "tmpfs" in script:
        assert lines[1].startswith("Unsupported this kernel does not say where a queue keeps its length")
        assert "/sys/kernel/btf/vmlinux" in lines[1]
    assert lines[3:5] == ["True", "['alone']"]
    assert "the map is frozen" in lines[5]


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2)])
def test_without_standard_streams(tmp_path, closed):
    """With stdin, stdout and stderr closed everything works, and no descriptor of ours is 0, 1 or 2."""
    out = tmp_path / "out"
    code = f"""
import os, socket
for fd in {closed}: os.close(fd)
import rawbpf
from rawbpf import Queue
with Queue("<I", 100) as q:
    print_to = []
    print_to.append(q.push_many(range(50)) == 50 and q.pop_many(20) == list(range(20)))
    print_to.append(q.bulk.in_kernel is not None)
    try: print_to.append(q.qsize() == 30 and len(q.snapshot()) == 30)
    except rawbpf.BpfError as error: print_to.append(type(error) in (rawbpf.NotPermitted, rawbpf.Unsupported))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rawbpf.send_map(ours, q)
        with rawbpf.recv_map(theirs, "<I") as received:
            print_to.append(received.fileno() > 2 and received.pop() == 20)
    print_to.append(q.fileno() > 2)
with open({str(out)!r}, "w") as file: file.write(str(print_to))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60 * SLOWNESS)
    assert out.read_text() == str([True] * 5)


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_no_descriptor_to_move_to(kind):
    """from_fd(0) when no descriptor above 2 is free: EMFILE, and 0 is still the caller's and open."""
    code = f"""
import errno, os, resource, rawbpf
with rawbpf.{kind.__name__}(4, 1) as m:
    os.dup2(m.fileno(), 0)
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (m.fileno() + 1, old[1]))
    for fd in range(3, m.fileno()):
        try: os.dup2(2, fd)
        except OSError: pass
    try: rawbpf.{kind.__name__}.from_fd(0)
    except OSError as error: print(errno.errorcode[error.errno], rawbpf.syscall.obj_get_info_by_fd(0).id == m.id)
"""
    assert python(code) == "EMFILE True\n"


# The end of the interpreter


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
@pytest.mark.parametrize("how", ["the main thread ends", "sys.exit", "an exception"])
def test_interpreter_shutdown(how):
    """Open maps and threads in the midst of their calls do not disturb the end of the interpreter."""
    end = {"the main thread ends": "", "sys.exit": "sys.exit(0)", "an exception": "raise SystemExit(0)"}[how]
    code = f"""
import sys, threading, time
from rawbpf import Queue, Stack
q, s, f = Queue("<Q", 1000), Stack("<Q", 1000), Queue("<Q", 1000)
def single():
    while True:
        s.push(1); s.pop(None)
def bulk():
    while True:
        q.push_many(range(100)); q.pop_many(100)
def follow():
    for value in f.follow(0.001): pass
def feed():
    while True:
        f.push(1, 2)
def peek():
    while True:
        try: q.peek(None), q.qsize()
        except OSError: pass
for work in (single, bulk, bulk, follow, feed, peek):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
{end}
"""
    # Maps that are open at the end are a ResourceWarning in -X dev, as open files are: not here.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * SLOWNESS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_a_map_open_at_the_end_warns_once():
    """With -X dev a map that is open at the end of the interpreter is a ResourceWarning, and no error."""
    code = "from rawbpf import Queue; q = Queue(4, 100); q.push_many(bytes(200)); q.pop_many(20)"
    result = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stderr.count("ResourceWarning: unclosed <Queue") == 1
    assert "Error" not in result.stderr


# Sockets


def test_no_descriptor_to_receive_with():
    """A map that arrives when no descriptor is free is lost to the kernel: an error, and nothing stays open."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Queue(4, 1) as q:
        rawbpf.send_map(ours, q)
        with free_descriptors(0), pytest.raises((ValueError, OSError)):
            rawbpf.recv_map(theirs)


@pytest.mark.real_kernel(reason="descriptors, programs and mounts are its own")
def test_commands_that_make_descriptors_are_known():
    """Every command that answers a descriptor to this library goes through open_descriptor()."""
    seen = set()

    def hook(cmd: int, attr, size: int) -> int:
        result = door.ask_kernel(cmd, attr, size)
        if result > 2:
            seen.add(Cmd(cmd))
        return result

    previous = door.set_hook(hook)
    try:
        with Queue("<I", 50) as q:
            q.push_many(range(40))
            with contextlib.suppress(BpfError):
                q.qsize()
    finally:
        door.set_hook(previous)
    assert seen <= {Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD, Cmd.BPF_BTF_LOAD}
