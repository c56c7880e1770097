"""The door: hooks see every call, and what a hook raises loses neither an element nor a descriptor."""

import errno
import threading

import pytest

from rawbpf import Cmd, Queue, door, syscall

pytestmark = pytest.mark.creates


class Interrupted(BaseException):
    """What a signal handler may raise, KeyboardInterrupt for one."""


@pytest.fixture
def hooked():
    """Puts a hook at the door and takes it away in the end."""
    yield door.set_hook
    door.set_hook(None)


def answers_then_raises(cmd, attr, size):
    door.ask_kernel(cmd, attr, size)
    raise Interrupted


def raises_first(cmd, attr, size):
    raise Interrupted


def test_a_hook_sees_and_answers(hooked, kind):
    """What the hook returns is the answer of the call."""
    with kind(4, 1) as m:
        seen = []
        hooked(lambda cmd, attr, size: seen.append((cmd, size)) or -errno.ENOENT)
        assert m.pop(default="none") == "none"
        hooked(None)
    assert seen == [(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, 32)]


def test_set_hook_returns_the_one_before(hooked):
    """Whoever puts a hook there can put the old one back."""
    assert hooked(raises_first) is None
    assert hooked(None) is raises_first


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


def test_a_descriptor_of_a_call_that_raised_is_closed(hooked, kind):
    """The kernel made the map before the hook raised: nobody knows its descriptor, so the door closes it."""
    hooked(answers_then_raises)
    with pytest.raises(Interrupted):
        kind(4, 1)
    with pytest.raises(Interrupted):
        syscall.bpf(Cmd.BPF_MAP_CREATE, syscall.bpf_attr(map_type=22, value_size=4, max_entries=1))


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
