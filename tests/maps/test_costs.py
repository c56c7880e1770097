"""What an operation costs, counted and not timed: calls of functions, in Python and in C, and system calls.

The numbers are those of the code as it is, and the same on every machine: a hot path that makes one call more fails.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from rawbpf.abi import Cmd, door
from rawbpf.abi.door import lib
from rawbpf.maps import queue_stack

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the compiled extension's calls are counted")]

ONE, MANY = b"12345678", b"12345678" * 1000


def calls(work: Callable[[], object]) -> list[str]:
    """The functions that are called, by name, without those of this test."""
    names: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_name)
        elif event == "c_call":
            names.append(argument.__name__)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    assert (names[0], names[-1]) == ("<lambda>", "setprofile")
    return names[1:-1]


def system_calls(work: Callable[[], object]) -> int:
    """How often bpf(2) is called."""
    made = []

    def note(cmd: int, attr: Any, size: int) -> int:
        made.append(Cmd(cmd))
        return door.ask_kernel(cmd, attr, size)

    previous = door.set_hook(note)
    try:
        work()
    finally:
        door.set_hook(previous)
    return len(made)


@pytest.fixture
def queues(kind: Any) -> Any:
    """A map of bytes and one of numbers, of 2,000 elements each, 1,100 of them filled, whose programs are loaded."""
    with kind(8, 2000) as raw, kind("<Q", 2000) as typed:
        for m in (raw, typed):
            m.push_many(MANY)
            m.pop_many(1000)
            m.push_many(MANY + MANY[:800])
        yield raw, typed


# The calls in order, where they are few.
EXACTLY: dict[str, tuple[Callable[[Any, Any], object], list[str]]] = {
    "push": (lambda raw, typed: raw.push(ONE), ["push", "map_update_elem"]),
    "pop": (lambda raw, typed: raw.pop(), ["pop", "map_lookup_and_delete_elem", "tobytes"]),
    "push a number": (lambda raw, typed: typed.push(7), ["push", "encode", "pack", "map_update_elem"]),
}


@pytest.mark.skipif(door.FFI_MODE == "abi", reason="by design: the Python door makes its calls in Python")
@pytest.mark.parametrize("name", EXACTLY)
def test_one_element(queues, name):
    """An operation on one element makes these calls, and no other."""
    work, expected = EXACTLY[name]
    found = calls(partial(work, *queues))
    assert [call for call in found if call != "len"] == expected


# At most so many calls, and so many system calls. (drain() is a generator, which each element enters anew.)
AT_MOST: dict[str, tuple[Callable[[Any, Any], object], int, int]] = {
    "pop_many(1)": (lambda raw, typed: raw.pop_many(1), 8, 1),
    "push_many of 1": (lambda raw, typed: raw.push_many([ONE]), 5, 1),
    "pop_many(4)": (lambda raw, typed: raw.pop_many(4), 17, 4),
    "push_many from a buffer": (lambda raw, typed: raw.push_many(MANY[:6400]), 16, 2),
    "pop_many": (lambda raw, typed: raw.pop_many(1000), 47, 2),
    "pop_into": (lambda raw, typed: raw.pop_into(bytearray(8000)), 33, 2),
    "drain": (lambda raw, typed: list(raw.drain(1000)), 1061, 2),
    "pop_many, numbers": (lambda raw, typed: typed.pop_many(1000), 48, 2),
    "push_many, numbers": (lambda raw, typed: typed.push_many(range(800)), 25, 2),
}


@pytest.mark.linux("6.9")
@pytest.mark.skipif(door.FFI_MODE == "abi", reason="by design: the Python door makes its calls in Python")
@pytest.mark.parametrize("name", AT_MOST)
def test_many_elements(queues, name):
    """An operation on many elements makes about as many calls as one on few."""
    work, most, _ = AT_MOST[name]
    found = calls(partial(work, *queues))
    assert len(found) <= most, found


@pytest.mark.linux("6.9")
@pytest.mark.parametrize("name", AT_MOST)
def test_system_calls(queues, name):
    """How many system calls an operation makes: one for each of a few elements; for many two or three."""
    work, _, most = AT_MOST[name]
    assert system_calls(partial(work, *queues)) == most


@pytest.mark.skipif(door.FFI_MODE == "abi", reason="by design: the Python door makes its calls in Python")
def test_a_needless_call_is_seen(queues, monkeypatch):
    """The count has every call: one more on the way of a push is one more here."""
    raw, _ = queues
    update = lib.map_update_elem
    monkeypatch.setattr(queue_stack, "_push", lambda m, data, flags: update(m, data, int(flags)))
    assert calls(lambda: raw.push(ONE)) == ["push", "len", "<lambda>", "map_update_elem"]


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="by design: CPython 3.10 keeps the attributes of every object in a dict"
)
def test_attributes_are_found_fast(queues):
    """No call asks for the __dict__ of a map: in CPython 3.11 each pop takes 55 ns more from then on."""
    for m in queues:
        m.push_many(list(m.drain(100)))
        m.qsize(), m.peek(), m.snapshot(), m.info(), repr(m), m.bulk, m.take_held()
        m.pop_into(bytearray(8000))
        list(m.follow(timeout=0))
        assert m._map in gc.get_referents(m) and m._map in gc.get_referents(m._bulk)
