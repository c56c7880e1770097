"""The door: what a hook sees, what it answers, what it raises, and that it can be taken away."""

import ctypes
import errno
import struct
import threading
from array import array

import pytest

from rawbpf import BpfError, Busy, Queue, bpf, bpf_attr, syscall
from rawbpf.abi import Cmd, door


@pytest.fixture
def hooked():
    """Installs a hook for the test, takes it away afterwards."""
    previous = door.set_hook(None)
    yield door.set_hook
    door.set_hook(previous)


def test_a_hook_answers_instead_of_the_kernel(hooked):
    """What the hook returns is what bpf() answers; the attr is the caller's own memory."""
    seen = []

    def hook(cmd, attr, size):
        union = door.ffi.cast("union bpf_attr *", attr)
        seen.append((cmd, union.map_fd, size))
        union.next_id = 77
        return 5

    hooked(hook)
    attr = bpf_attr(map_fd=9)
    assert bpf(Cmd.BPF_MAP_GET_NEXT_ID, attr, 12) == 5
    assert seen == [(Cmd.BPF_MAP_GET_NEXT_ID, 9, 12)]
    assert attr.next_id == 77


def test_a_hook_answers_errors(hooked):
    """A negative answer is the errno."""
    hooked(lambda cmd, attr, size: -errno.EXDEV)
    with pytest.raises(BpfError, match="EXDEV") as caught:
        bpf(Cmd.BPF_MAP_CREATE)
    assert caught.value.errno == errno.EXDEV


def test_set_hook_returns_the_previous_one(hooked):
    """So that hooks can be stacked and put back."""

    def hook(cmd, attr, size):
        return 0

    assert hooked(hook) is None
    assert hooked(None) is hook
    # Without the capability some kernels look at that first.
    with pytest.raises(BpfError, match="EINVAL|EPERM"):
        bpf(Cmd.BPF_MAP_CREATE)


def test_what_a_hook_raises_reaches_the_caller(hooked):
    """C can't carry an exception; it is raised when the call has come back, once, and in its own thread."""

    def hook(cmd, attr, size):
        raise KeyboardInterrupt

    hooked(hook)
    with pytest.raises(KeyboardInterrupt):
        bpf(Cmd.BPF_MAP_CREATE)
    hooked(lambda cmd, attr, size: -errno.EINVAL)
    with pytest.raises(BpfError, match="EINVAL"):
        bpf(Cmd.BPF_MAP_CREATE)


def test_a_hook_is_asked_by_every_thread(hooked):
    """The hook stands at the door, not in a thread."""
    threads = []
    hooked(lambda cmd, attr, size: threads.append(threading.get_ident()) or 0)
    worker = threading.Thread(target=bpf, args=(Cmd.BPF_MAP_FREEZE,))
    worker.start()
    worker.join()
    assert threads == [worker.ident]


@pytest.mark.creates
@pytest.mark.parametrize("busy", [1, 9])
def test_ebusy_is_retried(hooked, busy):
    """Up to nine EBUSY in a row are retried: nothing had happened, and nothing is seen of it."""
    calls = []

    def hook(cmd, attr, size):
        calls.append(cmd)
        return -errno.EBUSY if len(calls) <= busy else door.ask_kernel(cmd, attr, size)

    with Queue(4, 2) as q:
        hooked(hook)
        q.push(b"abcd")
        hooked(None)
        assert len(calls) == busy + 1
        assert q.pop() == b"abcd"
        assert q.pop(default=None) is None


@pytest.mark.creates
@pytest.mark.parametrize("call", [lambda q: q.push(b"abcd"), lambda q: q.peek(), lambda q: q.pop()])
def test_ebusy_for_good_is_busy(hooked, call):
    """Ten EBUSY in a row are Busy: a BlockingIOError that says nothing was done."""
    calls = []
    with Queue(4, 2, name="contended") as q:
        hooked(lambda cmd, attr, size: calls.append(cmd) or -errno.EBUSY)
        with pytest.raises(Busy, match="'contended' stayed locked.*nothing was done") as caught:
            call(q)
        hooked(None)
    assert len(calls) == 10
    assert caught.value.errno == errno.EBUSY
    assert isinstance(caught.value, BlockingIOError)


def test_bpf_checks_the_size_of_its_attr(no_calls):
    """`size` may not reach beyond the attr's end: the kernel would read what is not ours."""
    for attr, size in ((bytearray(8), 9), (bpf_attr(), 169), (memoryview(bytearray(16)), 17)):
        with pytest.raises(ValueError, match=f"size is {size}, and attr has only"):
            bpf(Cmd.BPF_MAP_CREATE, attr, size)
    with pytest.raises((TypeError, BufferError, ValueError)):
        bpf(Cmd.BPF_MAP_CREATE, memoryview(b"read-only"))


def test_bpf_of_an_unknown_command():
    """A number that no kernel knows is EINVAL (EPERM where bpf(2) is closed to us), and is printed as a number."""
    with pytest.raises(BpfError, match=r"Cmd\(9999\)") as caught:
        bpf(9999)
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)


def test_bpf_of_null():
    """No attr at all is EFAULT once the kernel wants to read one."""
    with pytest.raises(BpfError) as caught:
        bpf(Cmd.BPF_MAP_CREATE, None, 16)
    assert caught.value.errno in (errno.EFAULT, errno.EPERM)


# What a hook raises after the kernel has answered


class Interrupted(BaseException):
    """What a signal handler may raise, KeyboardInterrupt for one."""


def answers_then_raises(cmd, attr, size):
    door.ask_kernel(cmd, attr, size)
    raise Interrupted


def raises_first(cmd, attr, size):
    raise Interrupted


@pytest.mark.creates
def test_a_pop_that_the_kernel_answered_is_kept(hooked, kind):
    """The hook raises after the kernel gave the element: pop() raises that, and the next one hands it over."""
    with kind(4, 1) as m:
        m.push(b"abcd")
        hooked(answers_then_raises)
        with pytest.raises(Interrupted):
            m.pop()
        hooked(None)
        assert m.pop() == b"abcd"
        assert m.pop(default=None) is None


@pytest.mark.creates
def test_a_pop_that_the_kernel_was_not_asked_is_not_made_up(hooked, kind):
    """The hook raises before the call: the element is still in the map, once."""
    with kind(4, 1) as m:
        m.push(b"abcd")
        hooked(raises_first)
        with pytest.raises(Interrupted):
            m.pop()
        hooked(None)
        assert m.take_held() == []
        assert m.pop() == b"abcd"


@pytest.mark.creates
def test_a_pop_of_nothing_is_not_made_up(hooked, kind):
    """The kernel answered ENOENT before the hook raised: nothing was taken, after a pop that did take as well."""
    with kind(4, 1) as m:
        m.push(b"abcd")
        m.pop()
        hooked(answers_then_raises)
        with pytest.raises(Interrupted):
            m.pop()
        hooked(None)
        assert m.take_held() == []


@pytest.mark.creates
def test_a_call_within_the_hook_does_not_mix_in(hooked, kind):
    """What the hook calls for itself does not change what is known of the call it is busy with."""
    with kind(4, 1) as m, kind(4, 1) as log:

        def hook(cmd, attr, size):
            result = door.ask_kernel(cmd, attr, size)
            hooked(None)
            log.push(b"seen")
            raise Interrupted(result)

        hooked(hook)
        with pytest.raises(Interrupted):
            m.pop()
        assert m.take_held() == []
        assert log.pop() == b"seen"


@pytest.mark.creates
def test_a_descriptor_of_a_call_that_raised_is_closed(hooked, kind):
    """The kernel made the map before the hook raised: nobody knows its descriptor, so the door closes it."""
    hooked(answers_then_raises)
    with pytest.raises(Interrupted):
        kind(4, 1)
    with pytest.raises(Interrupted):
        syscall.bpf(Cmd.BPF_MAP_CREATE, syscall.bpf_attr(map_type=22, value_size=4, max_entries=1))


@pytest.mark.creates
def test_the_failure_is_the_threads_own(hooked):
    """An exception from a hook reaches the thread that called, and no other."""
    caught = []

    def hook(cmd, attr, size):
        if threading.current_thread() is not threading.main_thread():
            raise Interrupted
        return door.ask_kernel(cmd, attr, size)

    def other():
        try:
            q.pop(default=None)
        except Interrupted as error:
            caught.append(error)

    with Queue(4, 1) as q:
        hooked(hook)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert q.pop(default=None) is None
    assert len(caught) == 1


@pytest.mark.creates
def test_the_bare_call_takes_any_writable_buffer():
    """Arrays and ctypes buffers as well as bytearrays; what can't be written to, the kernel does not see."""
    for attr in (bytearray(16), array("B", bytes(16)), ctypes.create_string_buffer(16)):
        memoryview(attr).cast("B")[:16] = struct.pack("=IIII", 22, 0, 4, 1)
        Queue.from_fd(bpf(Cmd.BPF_MAP_CREATE, attr)).close()
    with pytest.raises(BufferError, match="not writable"):
        bpf(Cmd.BPF_MAP_CREATE, struct.pack("=IIII", 22, 0, 4, 1))
