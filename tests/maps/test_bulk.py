"""Many elements at once: exactly what single calls would do, in every way that the kernel allows, and nothing lost."""

import array
import contextlib
import ctypes
import errno
import gc
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rawbpf import BPF_ANY, BPF_EXIST, Empty, Full, MapFlag, NotPermitted, Queue, Stack
from rawbpf.abi import Cmd, door
from rawbpf.abi.door import lib
from rawbpf.maps import bulk, in_kernel
from rawbpf.programs.asm import exit_
from rawbpf.syscall.proc import Capability, has_capability, kernel_version
from tests.conftest import (
    IS_ROOT,
    SECONDS,
    SLOWNESS,
    Interrupted,
    examples,
    interruptions,
    needs_3_11,
    rounds,
    skip_without_jit,
)

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="programs")]

# Which ways a kernel must offer, so that none is skipped in silence.
SINCE = {"syscall program, bpf_loop": (6, 9), "socket filter, bpf_loop": (5, 17), "socket filter, bounded loop": (5, 5)}


@pytest.fixture(params=[*SINCE, "one by one"])
def way(request, monkeypatch):
    """Each way in turn, the others taken away."""
    name = request.param
    if name in SINCE and kernel_version() < SINCE[name]:
        pytest.skip(f"by design: needs Linux {'.'.join(map(str, SINCE[name]))}")
    if "bpf_loop" in name:
        skip_without_jit()
    if "bounded" in name and not has_capability(Capability.CAP_PERFMON) and kernel_version() >= (5, 8):
        pytest.skip("the bounded loop needs CAP_PERFMON")
    monkeypatch.setattr(in_kernel, "METHODS", tuple(w for w in in_kernel.METHODS if w.name == name))
    return name


def numbers(count: int, size: int = 8) -> list[bytes]:
    return [number.to_bytes(size, "little") for number in range(count)]


def order(m, pushed: list) -> list:
    return pushed if isinstance(m, Queue) else pushed[::-1]


# In every way


@pytest.mark.parametrize("value_size", [1, 2, 3, 7, 8, 13, 100, 4096])
def test_what_goes_in_comes_out(kind, way, value_size):
    """Elements of any size, many and few, in exact order, through push_many and pop_many."""
    for count in (1, bulk.BREAK_EVEN, 100):
        values = [os.urandom(value_size) for _ in range(count)]
        with kind(value_size, count) as m:
            assert m.push_many(values) == count
            assert m.pop_many(count + 5) == order(m, values)
            assert m.pop_many(5) == []
            if count > bulk.BREAK_EVEN:
                assert m.bulk.in_kernel == (way != "one by one"), m.bulk


def test_more_elements_than_the_scratch_holds(kind, way, monkeypatch):
    """Several runs follow each other; nothing is lost or doubled where they meet."""
    monkeypatch.setattr(in_kernel, "SCRATCH_MAX", 1024)
    values = numbers(1000)
    with kind(8, 1000) as m:
        assert m.push_many(values) == 1000
        assert m.pop_many(700) == order(m, values)[:700]
        assert m.pop_many(700) == order(m, values)[700:]


def test_a_full_map_gives_a_short_count(kind, way):
    """BPF_ANY takes as many as there is room for, in order; the rest is not pushed."""
    values = numbers(60)
    with kind(8, 40) as m:
        assert m.push_many(values[:10]) == 10
        assert m.push_many(values[10:], BPF_ANY) == 30
        assert m.push_many(values) == 0
        assert m.pop_many(100) == order(m, values[:40])


def test_exist_overwrites_the_oldest(kind, way):
    """BPF_EXIST takes all; the last max_entries remain."""
    values = numbers(100)
    with kind(8, 40) as m:
        assert m.push_many(values, BPF_EXIST) == 100
        assert m.pop_many(100) == order(m, values[60:])


def test_pop_into_a_buffer(kind, way):
    """The elements' bytes stand at the buffer's beginning, the rest is as it was."""
    values = numbers(50)
    with kind(8, 100) as m:
        m.push_many(values)
        buffer = bytearray(b"\xaa" * (8 * 60 + 3))
        assert m.pop_into(buffer) == 50
        assert buffer == b"".join(order(m, values)) + b"\xaa" * (8 * 10 + 3)
        assert m.pop_into(buffer) == 0
        m.push_many(values)
        assert m.pop_into(memoryview(buffer)[:160]) == 20
        assert m.pop_many(100) == order(m, values)[20:]


def test_drain(kind, way):
    """drain() yields everything once, up to its limit."""
    values = numbers(3000)
    with kind(8, 3000) as m:
        m.push_many(values)
        assert list(m.drain(10)) == order(m, values)[:10]
        assert list(m.drain()) == order(m, values)[10:]
        assert list(m.drain()) == []


def test_a_drain_that_is_left_gives_back_the_rest(kind, way):
    """What was taken and not yielded comes first in whatever is called next."""
    values = numbers(100)
    with kind(8, 100) as m:
        m.push_many(values)
        expected = order(m, values)
        for value in m.drain():
            if value == expected[4]:
                break
        assert m.peek() == expected[5]
        assert m.pop() == expected[5]
        assert m.pop_many(3) == expected[6:9]
        drain = m.drain(10)
        assert next(drain) == expected[9]
        drain.close()
        buffer = bytearray(16)
        assert m.pop_into(buffer) == 2
        assert bytes(buffer) == b"".join(expected[10:12])
        assert list(m.drain()) == expected[12:]


# Arguments


@pytest.mark.parametrize(
    "values",
    [
        [b"12345678", b"1234567"],
        [b"12345678", b"123456789"],
        b"1234567",
        b"123456789",
        array.array("I", [1, 2]),
        memoryview(b"1234"),
    ],
)
def test_values_of_a_wrong_size_move_nothing(kind, no_library_call, values):
    """All values are checked before the first is pushed."""
    with kind(8, 4) as m:
        with no_library_call(), pytest.raises(ValueError, match="value_size is 8|whole number of values of 8"):
            m.push_many(values)
        assert m.pop(default=None) is None


@pytest.mark.parametrize("values", ["12345678", [1, 2], None, 5, [b"12345678", "12345678"]])
def test_values_that_are_none(kind, no_library_call, values):
    """What is no value is a TypeError before the first push."""
    with kind(8, 4) as m, no_library_call(), pytest.raises(TypeError):
        m.push_many(values)


def test_flags_are_checked(kind, no_library_call):
    """As for push(): BPF_ANY and BPF_EXIST."""
    with kind(8, 4) as m, no_library_call(), pytest.raises(ValueError, match="push takes BPF_ANY or BPF_EXIST"):
        m.push_many([], 1)


def test_limits_are_checked(kind, no_library_call):
    """A limit is a number from 0."""
    with kind(8, 4) as m, no_library_call():
        for call in (m.pop_many, m.drain):
            with pytest.raises(ValueError, match="must not be negative"):
                call(-1)
            with pytest.raises(TypeError):
                call(1.5)
        assert m.pop_many(0) == list(m.drain(0)) == []
        assert m.push_many([]) == m.push_many(b"") == 0


@pytest.mark.parametrize(
    ("buffer", "error"),
    [(b"12345678", TypeError), (bytearray(7), ValueError), (memoryview(bytearray(32))[::2], TypeError), (8, TypeError)],
)
def test_buffers_that_can_not_be_filled(kind, no_library_call, buffer, error):
    """Read-only, too small, not contiguous: refused before anything is taken."""
    with kind(8, 4) as m:
        m.push(b"12345678")
        with no_library_call(), pytest.raises(error):
            m.pop_into(buffer)
        assert m.pop() == b"12345678"


def test_iterables_and_buffers_of_values(kind):
    """Lists, generators, bytes, arrays, ctypes arrays: all are many values."""
    values = [3, 1, 2]
    with kind("Q", 100) as m:
        for given in (
            values,
            tuple(values),
            (value for value in values),
            struct.pack("3Q", *values),
            array.array("Q", values),
            (ctypes.c_uint64 * 3)(*values),
        ):
            assert m.push_many(given) == 3
            assert m.pop_many(10) == order(m, values)


class Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint16))


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("<I", list(range(700))),
        ("I", list(range(700))),
        ("<IH", [(i, i % 7) for i in range(700)]),
        ("3s", [bytes([i % 256, 0, 1]) for i in range(700)]),
        ("=Bx", [i % 256 for i in range(700)]),
        ("Bxxxxx", [i % 256 for i in range(700)]),
        (ctypes.c_uint16, list(range(700))),
    ],
)
def test_typed_values(kind, spec, values):
    """Values are decoded in one go, exactly as one by one."""
    with kind(spec, 700) as m:
        m.push_many(values)
        some = [m.pop() for _ in range(5)]
        assert some + m.pop_many(700) == order(m, values)


def test_ctypes_structures_are_separate(kind):
    """Each popped structure is one of its own."""
    with kind(Pair, 100) as m:
        m.push_many([Pair(i, 2) for i in range(50)])
        popped = m.pop_many(50)
        popped[0].a = 999
        assert sorted(p.a for p in popped[1:]) == sorted(p.a for p in order(m, [Pair(i) for i in range(50)])[1:])


def test_numpy_arrays(kind):
    """Structured and plain numpy arrays are pushed and filled as they are."""
    numpy = pytest.importorskip("numpy")
    with kind("<IH", 100) as m:
        given = numpy.array([(i, i * 2) for i in range(50)], dtype=[("a", "<u4"), ("b", "<u2")])
        assert m.push_many(given) == 50
        taken = numpy.zeros(50, dtype=given.dtype)
        assert m.pop_into(taken) == 50
        assert taken.tolist() == order(m, given.tolist())


# Where the kernel or the descriptor does not allow it


def test_nothing_is_probed_before_the_first_bulk_call(kind, sent):
    """Making a map and single calls load no program; few elements neither."""
    with kind(8, 100) as m:
        assert m.bulk == (None, "nothing was moved in bulk yet")
        m.push_many(numbers(3))
        m.pop_many(3)
        assert Cmd.BPF_PROG_LOAD not in [cmd for cmd, _ in sent]
        m.push_many(numbers(50))
        assert Cmd.BPF_PROG_LOAD in [cmd for cmd, _ in sent]


def test_many_elements_are_few_calls(kind, sent):
    """1000 elements in and out are a handful of system calls once the programs are there."""
    if kernel_version() < (5, 17):
        pytest.skip("by design: needs Linux 5.17")
    with kind(8, 1000) as m:
        m.push_many(numbers(100))
        m.pop_many(100)
        sent.clear()
        m.push_many(numbers(1000))
        m.pop_many(1000)
        assert len(sent) <= 4


@pytest.mark.parametrize(
    ("flag", "access", "allowed"),
    [(MapFlag.BPF_F_RDONLY, "r", set()), (MapFlag.BPF_F_WRONLY, "w", {"push"})],
    ids=["read-only", "write-only"],
)
def test_access_is_respected(kind, flag, access, allowed):
    """A program could push through a read-only descriptor; push_many does not: EPERM, as push()."""
    with kind(8, 100, flags=flag) as m:
        for name, call in (
            ("push", lambda: m.push_many(numbers(50))),
            ("pop", lambda: m.pop_many(50)),
            ("pop", lambda: m.pop_into(bytearray(400))),
            ("pop", lambda: list(m.drain())),
        ):
            if name in allowed:
                assert call() == 50
                continue
            with pytest.raises(NotPermitted) as caught:
                call()
            assert caught.value.errno == errno.EPERM
        assert m.take_held() == []
        if access == "r":
            assert m.bulk == (False, 'the descriptor has access="r"')


@pytest.mark.linux("5.2")
def test_a_frozen_map_stays_as_it_is(kind):
    """A program could still pop from a frozen map; pop_many does not."""
    with kind(8, 100) as m:
        m.push_many(numbers(50))
        m.freeze()
        for call in (lambda: m.push_many(numbers(50)), lambda: m.pop_many(50), lambda: m.pop_into(bytearray(400))):
            with pytest.raises(NotPermitted, match="frozen") as caught:
                call()
            assert caught.value.errno == errno.EPERM
        assert m.bulk == (False, "the map is frozen")
        assert m.peek() == order(m, numbers(50))[0]


def in_a_process_with(capabilities: str, code: str, m=None) -> str:
    """Runs code with only these capabilities; `fd` is the map's inherited descriptor there."""
    command = ["setpriv", f"--bounding-set=-all{capabilities}", f"--inh-caps=-all{capabilities}", sys.executable, "-c"]
    passed = [] if m is None else [m.fileno()]
    prefix = f"import rawbpf\nfd = {passed[0] if passed else None}\n"
    result = subprocess.run([*command, prefix + code], capture_output=True, text=True, pass_fds=passed)
    assert result.returncode == 0, result.stderr
    return result.stdout


needs_setpriv = pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
USE = "assert m.push_many(bytes(8 * 100)) == 100; assert len(m.pop_many(200)) == 100; print(m.bulk); m.close()"


@pytest.mark.jit
@needs_setpriv
@pytest.mark.linux("5.17")
def test_cap_bpf_alone_is_enough(kind):
    """A process with CAP_BPF and nothing else moves many elements in the kernel."""
    output = in_a_process_with(",+bpf", f"m = rawbpf.{kind.__name__}(8, 100); {USE}")
    assert output.startswith("Status(in_kernel=True")


@needs_setpriv
@pytest.mark.linux("5.19")
def test_without_any_capability_it_goes_one_by_one(kind):
    """A process with an inherited descriptor and no capability gets the same results singly, and is told why."""
    with kind(8, 100) as m:
        output = in_a_process_with("", f"m = rawbpf.{kind.__name__}.from_fd(fd); {USE}", m)
    assert output.startswith("Status(in_kernel=False")
    assert "no CAP_BPF" in output


def test_what_the_verifier_says_is_the_reason(kind, monkeypatch):
    """Where the verifier takes none of the programs, `why` has its reason, and not the statistics that its log ends
    with."""
    refused = [method._replace(program=lambda *arguments: ([exit_()], [], b"")) for method in in_kernel.METHODS]
    monkeypatch.setattr(in_kernel, "METHODS", refused)
    with kind(8, 100) as m:
        assert m.push_many(numbers(100)) == 100
        assert m.bulk == (False, f"this kernel refuses the programs ({refused[-1].name}: R0 !read_ok)")


def test_large_values_go_one_by_one(kind):
    """Where copying is what costs, single calls are used."""
    size = in_kernel.VALUE_SIZE_MAX + 1
    values = [os.urandom(size) for _ in range(20)]
    with kind(size, 20) as m:
        assert m.push_many(values) == 20
        assert m.pop_many(20) == order(m, values)
        assert m.bulk.in_kernel is False
        assert f"values of {size} bytes" in m.bulk.why


def test_a_value_of_4_mib(kind):
    """The largest value there is goes through the bulk calls as well."""
    value = os.urandom(4 << 20)
    with kind(4 << 20, 2) as m:
        assert m.push_many([value, value]) == 2
        assert m.pop_many(2) == [value, value]


@pytest.mark.linux("5.17")
def test_ebusy_inside_the_kernel_is_tried_again(kind):
    """A lock that the program can't have ends a run early: the next run goes on, and order is kept."""
    values = numbers(100)
    with kind(8, 100) as m:
        m.push_many(values)
        runs = []

        def hook(cmd, attr, size):
            if cmd == Cmd.BPF_PROG_TEST_RUN:
                words = m._bulk._in_kernel[0].scratch.words
                runs.append(cmd)
                if len(runs) == 1:
                    words[lib.SCRATCH_LIMIT] = 30
                    result = door.ask_kernel(cmd, attr, size)
                    words[lib.SCRATCH_WHY] = -errno.EBUSY & 0xFFFFFFFF
                    return result
            return door.ask_kernel(cmd, attr, size)

        previous = door.set_hook(hook)
        try:
            assert m.pop_many(100) == order(m, values)
        finally:
            door.set_hook(previous)
        assert len(runs) == 2


@pytest.mark.linux("5.17")
def test_a_run_that_fails_falls_back(kind):
    """If the kernel will not run the program any more (ENOMEM), the rest goes singly."""
    values = numbers(100)
    with kind(8, 100) as m:
        m.push_many(values[:50])
        m.pop_many(50)
        fail = lambda cmd, attr, size: (  # noqa: E731
            -errno.ENOMEM if cmd == Cmd.BPF_PROG_TEST_RUN else door.ask_kernel(cmd, attr, size)
        )
        previous = door.set_hook(fail)
        try:
            assert m.push_many(values) == 100
            assert m.pop_many(100) == order(m, values)
        finally:
            door.set_hook(previous)


# Life


def test_close_gives_everything_back(kind):
    """Programs, scratch and mapping go with the map: the fixture would see a descriptor, this a mapping."""
    with kind(8, 1000) as m:
        m.push_many(numbers(100))
        m.pop_many(50)
        with contextlib.suppress(NotPermitted):
            m.qsize()
    with open("/proc/self/maps") as file:
        assert "bpf-map" not in file.read()
    for call in (lambda: m.pop_many(5), lambda: m.pop_many(50), lambda: m.push_many(numbers(50)), m.qsize):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.linux("6.9")
def test_the_batch_that_borrowed_the_scratch_stays(kind):
    """The scratch asks the batch that borrowed it last: that is not forgotten for being small, nor when the map is
    closed while another thread may still ask."""
    with kind(8, 1000) as m:
        for limit in (100, 200, 300):
            m.push_many(bytes(8 * 100))
            m.pop_many(100)
            list(m.drain(limit))
            kernel = m._bulk._in_kernel[0]
            assert kernel.scratch.borrower in [batch.struct for batch in m._bulk._batches]
        [memory] = [weakref.ref(each.struct) for each in m._bulk._batches if each.struct == kernel.scratch.borrower]
    del m
    gc.collect()
    assert memory() is not None
    del kernel
    gc.collect()
    assert memory() is None


def test_a_child_has_its_own_scratch(kind):
    """After fork() parent and child move elements at the same time through scratches of their own."""
    with kind(8, 10_000) as m:
        m.push_many(numbers(100))
        m.pop_many(50)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for _ in range(50):
                m.push_many([b"child..."] * 100, BPF_EXIST)
            os.write(writer, str(m.bulk.in_kernel).encode())
            os._exit(0)
        for _ in range(50):
            m.push_many([b"parent.."] * 100, BPF_EXIST)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.read(reader, 9) == str(m.bulk.in_kernel).encode()
        os.close(reader)
        os.close(writer)
        everything = m.pop_many(20_000)
        assert everything.count(b"child...") == everything.count(b"parent..") == 5000
        assert len(everything) == 10_000


def test_a_parents_held_elements_are_not_the_childs(kind):
    """What the parent took before fork() only the parent hands over."""
    with kind(8, 100) as m:
        m.push_many(numbers(100))
        next(drain := m.drain())
        drain.close()
        child = os.fork()
        if child == 0:
            os._exit(len(m.take_held()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(m.take_held()) == 99


def test_a_codec_that_uses_its_map(kind):
    """A codec may call the map in whose bulk call it runs: it gets the elements that come next."""
    inner = []

    class Nosy:
        size = 8

        def encode(self, value: bytes) -> bytes:
            return value

        def decode(self, data: bytes) -> bytes:
            if not inner:
                inner.append(b"")
                inner[:] = [m.pop(), *m.pop_many(20)]
            return data

    with kind(Nosy(), 100) as m:
        m.push_many(numbers(100))
        outer = m.pop_many(50)
        assert [*outer, *inner, *m.pop_many(100)] == order(m, numbers(100))


def test_close_counts_what_is_left(kind):
    """Elements that were taken and not handed over are warned of."""
    m = kind(8, 100)
    m.push_many(numbers(100))
    next(drain := m.drain())
    drain.close()
    with pytest.warns(RuntimeWarning, match="99 elements of .* were popped and never handed over"):
        m.close()
    assert len(m.take_held()) == 99


class Fragile:
    """A codec that breaks at one value."""

    size = 8

    def encode(self, value: int) -> bytes:
        return value.to_bytes(8, "little")

    def decode(self, data: bytes) -> int:
        number = int.from_bytes(data, "little")
        if number == 33:
            raise OverflowError("33")
        return number


def test_a_codec_that_raises_loses_nothing(kind):
    """The whole batch stays, in order, and take_held() hands it over raw."""
    with kind(Fragile(), 100) as m:
        m.push_many(range(100))
        for call in (lambda: m.pop_many(100), lambda: list(m.drain())):
            with pytest.raises(OverflowError):
                call()
        held = [int.from_bytes(raw, "little") for raw in m.take_held()]
        assert held == order(m, list(range(100)))
        assert m.pop(default=None) is None


def test_what_is_given_back_twice_keeps_its_order(kind):
    """A pop that fails within a drain, which is then left: what the drain had taken comes before what the pop took."""
    with kind(Fragile(), 100) as m:
        m.push_many(order(m, [0, 1, 2, 33, 4]))
        for value in m.drain(3):
            assert value == 0
            with pytest.raises(OverflowError):
                m.pop()
            break
        assert [int.from_bytes(raw, "little") for raw in m.take_held()] == [1, 2, 33]
        assert m.pop() == 4


# Together: a model, threads and processes, signals


class Model(RuleBasedStateMachine):
    """Queue or stack against a list, with single and bulk operations mixed."""

    @initialize(
        queue=st.booleans(), size=st.sampled_from([1, 3, 8, 40]), room=st.sampled_from([1, 2, 5, 16, 33, 100, 300])
    )
    def create(self, queue: bool, size: int, room: int) -> None:
        self.size, self.room, self.queue = size, room, queue
        self.map = (Queue if queue else Stack)(size, room)
        self.model: list[bytes] = []
        self.number = 0

    def values(self, count: int) -> list[bytes]:
        made = [((self.number + i) % 251).to_bytes(1, "little") * self.size for i in range(count)]
        self.number += count
        return made

    def expect_popped(self, count: int) -> list[bytes]:
        count = min(count, len(self.model))
        if self.queue:
            popped, self.model = self.model[:count], self.model[count:]
        else:
            popped, self.model = self.model[::-1][:count], self.model[: len(self.model) - count]
        return popped

    @rule(exist=st.booleans())
    def push(self, exist: bool) -> None:
        [value] = self.values(1)
        full = len(self.model) == self.room
        if full and not exist:
            with pytest.raises(Full):
                self.map.push(value)
            return
        self.map.push(value, BPF_EXIST if exist else BPF_ANY)
        self.model = [*self.model[1 if full else 0 :], value]

    @rule(count=st.sampled_from([0, 1, 2, 15, 16, 17, 40, 120, 400]), exist=st.booleans(), buffer=st.booleans())
    def push_many(self, count: int, exist: bool, buffer: bool) -> None:
        values = self.values(count)
        given = b"".join(values) if buffer else values
        pushed = self.map.push_many(given, BPF_EXIST if exist else BPF_ANY)
        assert pushed == (count if exist else min(count, self.room - len(self.model)))
        self.model = [*self.model, *values[:pushed]][-self.room :]

    @rule()
    def pop(self) -> None:
        expected = self.expect_popped(1)
        if expected:
            assert self.map.pop() == expected[0]
        else:
            with pytest.raises(Empty):
                self.map.pop()

    @rule()
    def peek(self) -> None:
        expected = (self.model[0] if self.queue else self.model[-1]) if self.model else None
        assert self.map.peek(default=None) == expected

    @rule(count=st.sampled_from([0, 1, 2, 15, 16, 17, 40, 120, 400]))
    def pop_many(self, count: int) -> None:
        assert self.map.pop_many(count) == self.expect_popped(count)

    @rule(count=st.sampled_from([1, 2, 17, 40, 400]))
    def pop_into(self, count: int) -> None:
        buffer = bytearray(count * self.size)
        expected = self.expect_popped(count)
        assert self.map.pop_into(buffer) == len(expected)
        assert buffer[: len(expected) * self.size] == b"".join(expected)

    @rule(count=st.sampled_from([1, 3, 20, 200]))
    def drain_some(self, count: int) -> None:
        seen = []
        for value in self.map.drain():
            seen.append(value)
            if len(seen) == count:
                break
        assert seen == self.expect_popped(count)
        # What the drain took and did not yield is no longer in the kernel's map: model it by taking it all.
        held = self.map.take_held()
        assert held == self.expect_popped(len(held))

    @precondition(lambda self: has_capability(Capability.CAP_PERFMON) and os.path.exists("/sys/kernel/btf/vmlinux"))
    @rule()
    def look(self) -> None:
        if kernel_version() >= (5, 9):
            assert self.map.qsize() == len(self.model)
            assert self.map.snapshot() == (self.model if self.queue else self.model[::-1])

    def teardown(self) -> None:
        if hasattr(self, "map"):
            self.map.close()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=examples(60),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_producers_and_consumers(kind):
    """3 threads push singly, 2 drain in bulk, for some seconds: everything arrives once."""
    with kind("<Q", 5000) as m:
        pushed: list[list[int]] = [[] for _ in range(3)]
        popped: list[list[int]] = [[] for _ in range(2)]
        done = threading.Event()

        def produce(worker: int) -> None:
            number = worker << 40
            for _ in rounds(lambda: len(pushed[worker]) > 500):
                try:
                    m.push(number)
                except Full:
                    time.sleep(0)
                    continue
                pushed[worker].append(number)
                number += 1

        def consume(worker: int) -> None:
            while True:
                last = done.is_set()
                got = m.pop_many(1000) if worker else list(m.drain(500))
                popped[worker] += got
                if last and not got:
                    return

        producers = [threading.Thread(target=produce, args=(i,)) for i in range(3)]
        consumers = [threading.Thread(target=consume, args=(i,)) for i in range(2)]
        for thread in producers + consumers:
            thread.start()
        for thread in producers:
            thread.join()
        done.set()
        for thread in consumers:
            thread.join()
    assert sum(map(len, pushed)) > 1500
    assert sorted(popped[0] + popped[1]) == sorted(pushed[0] + pushed[1] + pushed[2])


@pytest.mark.usefixtures("unraisable_ignored")
@needs_3_11
@pytest.mark.parametrize("how", ["pop_many", "pop_into", "drain", "few"])
@pytest.mark.parametrize("on_kernel_side", [True, False])
def test_signals_lose_no_element(kind, how, on_kernel_side, monkeypatch):
    """A signal handler that raises every millisecond, anywhere: each element is handed over exactly once, in order."""
    if not on_kernel_side:
        monkeypatch.setattr(in_kernel, "METHODS", ())
    count = round(30_000 * min(SECONDS, 2))
    seen: list[bytes] = []
    interruptions = 0
    armed = False

    def interrupt(signum, frame):
        # Only where it is caught, and not twice in a row before something was taken: a slow machine must get on.
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    # Handlers run after calls and at jumps backward: what was handed over is in `seen` before the next.
    def take_some() -> bool:
        nonlocal seen
        if how == "pop_into":
            taken = m.pop_into(buffer)
            seen += [buffer[: taken * 8]] if taken else []
            return taken > 0
        if how == "drain":
            before = len(seen)
            for value in m.drain():
                seen += (value,)
            return len(seen) > before
        values = m.pop_many(5 if how == "few" else 300)
        seen += values
        return values != []

    with kind(8, count) as m:
        m.push_many(numbers(count))
        expected = order(m, numbers(count))
        buffer = bytearray(8 * 300)
        old = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        done = False
        while not done:
            try:
                armed = interruptions % 2 == 0
                # CPython 3.13 leaves the jump back of a `while` out of the try that is around it, of a `for` not.
                for _ in iter(take_some, False):
                    armed = True
                armed = False
                done = interruptions > 0
                if not done:
                    # No signal came in time: once more.
                    seen = []
                    m.push_many(numbers(count))
            except Interrupted:
                interruptions += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        assert m.take_held() == []
        assert m.pop(default=None) is None
    assert b"".join(seen) == b"".join(expected)


@pytest.mark.usefixtures("unraisable_ignored")
@needs_3_11
def test_signals_while_a_drain_is_left(kind):
    """A handler that raises while a drain is begun, left and closed: what it had and did not hand over comes next."""

    def leave(drain, seen):
        for number in drain:
            seen[number] = number
            if number == 5:
                break
        drain.close()

    elements = range(20) if kind is Queue else range(19, -1, -1)
    with kind("=I", 20) as m, interruptions(0.00007 * SLOWNESS) as run:
        for _ in rounds():
            m.push_many(elements)
            seen = dict.fromkeys(range(20))
            run(lambda seen=seen: leave(m.drain(), seen))
            assert [n for n in seen.values() if n is not None] + m.pop_many(20) == list(range(20))


def test_a_closed_drain_has_ended(kind):
    """What a drain gave back when it was closed, it does not hand over as well."""
    with kind("<I", 100) as m:
        m.push_many(range(10))
        drain = m.drain()
        seen = [next(drain)]
        drain.close()
        assert list(drain) == []
        assert sorted(seen + m.pop_many(100)) == list(range(10))


def test_a_drain_that_outlives_its_map(kind):
    """What a suspended drain holds when its map is closed is warned of, and take_held() has it."""
    m = kind("<I", 100)
    m.push_many(range(100))
    drain = m.drain()
    next(drain)
    m.close()
    with pytest.warns(RuntimeWarning, match=r"99 elements of .* were popped and never handed over"):
        drain.close()
    assert len(m.take_held()) == 99


def test_detach_warns_of_what_is_held(kind):
    """As close() does."""
    with kind("<I", 100) as m:
        m.push_many(range(100))
        for _ in m.drain():
            break
        with pytest.warns(RuntimeWarning, match="99 elements of .* were popped and never handed over"):
            fd = m.detach()
    os.close(fd)


def test_detach_that_fails(kind):
    """If that warning is an error detach() gives nothing away: the descriptor is closed."""
    with kind("<I", 100) as m, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        m.push_many(range(100))
        next(m.drain())
        fd = m.fileno()
        with pytest.raises(RuntimeWarning, match="99 elements"):
            m.detach()
        assert m.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


class Nested:
    """A codec of 1,024 bytes that can be told to do something else in its next decode()."""

    size = 1024
    do = None

    def encode(self, value):
        return value.to_bytes(1024, "little")

    def decode(self, data):
        do, self.do = self.do, None
        if do:
            do()
        return int.from_bytes(data, "little")


def test_a_batch_that_was_too_small_is_free(kind):
    """A call that has moved on to a larger batch, and fails, does not hold what another has in the smaller one."""
    codec = Nested()
    with kind(codec, 4096) as m:
        drains = []

        def drain_and_fail():
            m.push_many(range(10_000, 10_012))
            drains.append(m.drain(4))
            got.append(next(drains[0]))
            raise Interrupted

        got = []
        m.push_many(range(1500))
        codec.do = drain_and_fail
        with pytest.raises(Interrupted):
            m.pop_many(1500)
        assert sorted([*got, *m.pop_many(5000), *drains[0]]) == [*range(1500), *range(10_000, 10_012)]


def test_fork_within_a_call(kind):
    """A child that is forked within a call goes on with it, and then loses nothing of its own."""
    codec, children = Nested(), []
    with kind(codec, 100) as m:
        m.push_many(range(10))
        codec.do = lambda: children.append(os.fork())
        taken = m.pop()
        if children == [0]:
            code = 1
            with contextlib.suppress(BaseException):
                codec.do = [].pop
                with contextlib.suppress(IndexError):
                    m.pop()
                code = 0 if sorted([taken, *m.pop_many(100)]) == list(range(10)) and not m._map.held else 1
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_value_that_drains_as_it_goes(kind):
    """A value that takes from a drain as it is freed at that drain's end gets nothing that is held."""
    got, drains = [], []

    class Value:
        def __init__(self, data):
            self.number = int.from_bytes(data, "little")

        def __del__(self):
            for drain in drains:
                with contextlib.suppress(ValueError, StopIteration):  # it is just being closed
                    got.append(next(drain))

    class OfValues(Nested):
        decode = staticmethod(Value)

    with kind(OfValues(), 2000) as m:
        m.push_many(range(600) if kind is Queue else range(599, -1, -1))
        drain = m.drain()
        for _ in range(300):
            next(drain)
        drains.append(drain)
        drain.close()
        drains.clear()
        assert got == []
        assert [each.number for each in m.pop_many(1000)] == list(range(300, 600))


@pytest.mark.parametrize("size", [8, 20_000], ids=["in the kernel", "one by one"])
def test_a_limit_of_any_size(kind, size):
    """A limit may be larger than any number of the kernel's, also where elements are held."""
    with kind(size, 100) as m:
        for limit in (2**32 + 5, 2**70):
            m.push_many(bytes(size * 30))
            next(m.drain())
            assert len(m.pop_many(limit)) == 29
            m.push_many(bytes(size * 30))
            assert len(list(m.drain(limit))) == 30


class Closing:
    """A codec that closes its map."""

    size = 4

    def encode(self, value):
        return value

    def decode(self, data):
        self.map.close()
        return data


def test_a_codec_that_closes_its_map(kind):
    """The call in which a codec closes the map returns what it took; the next is a ValueError."""
    codec = Closing()
    with kind(codec, 100) as m:
        codec.map = m
        m.push_many([b"abcd"] * 100)
        assert m.pop_many(50) == [b"abcd"] * 50
        with pytest.raises(ValueError, match="closed"):
            m.pop_many(50)
        del codec.map


def test_two_drains_are_given_back_in_order(kind):
    """Drains left in the order in which they were begun: the rest comes in the order in which it was taken."""
    with kind("<I", 5000) as m:
        m.push_many(range(3000) if kind is Queue else range(3000)[::-1])
        first, second = m.drain(), m.drain()
        assert (next(first), next(second)) == (0, 1024)
        first.close()
        second.close()
        assert m.pop_many(5000) == [*range(1, 1024), *range(1025, 3000)]


@pytest.mark.parametrize("spec", [ctypes.c_void_p, ctypes.c_char_p])
def test_buffers_of_addresses(kind, spec):
    """A buffer whose items are addresses is a TypeError before anything is pushed, popped or written over."""
    buffer = (spec * 2)()
    with kind(8, 4) as m:
        with pytest.raises(TypeError, match="addresses"):
            m.push_many(buffer)
        with pytest.raises(TypeError, match="addresses"):
            m.push(memoryview((spec * 1)()))
        m.push(b"12345678")
        with pytest.raises(TypeError, match="addresses"):
            m.pop_into(buffer)
        assert m.pop_many(4) == [b"12345678"]


@pytest.mark.filterwarnings("ignore:Re-initialization of Struct:FutureWarning")  # CPython 3.15
def test_a_struct_that_is_made_again(kind):
    """A caller's Struct that is initialised again does not change what its map pushes."""
    spec = struct.Struct("<I")
    with kind(spec, 4) as m:
        spec.__init__("<512s")  # type: ignore[misc]
        m.push(7)
        assert m.pop_many(4) == [7]
