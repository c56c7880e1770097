"""Whatever is raised inside a call, and wherever: no element is lost, none is handed out twice, their order is kept.

RecursionError at every depth, MemoryError at every allocation, and trace and profile functions that raise at every
event, in each call that takes elements out of the kernel, with and without elements that are held already. (Signals
stand in test_bulk.py.)
"""

import dis
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rawbpf
from rawbpf import Queue
from rawbpf.abi import door
from rawbpf.maps.bulk import Bulk
from rawbpf.maps.queue_stack import QueueOrStack
from tests.conftest import FREE_THREADED, needs_3_11

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="programs, and what is interrupted is the library")]

PACKAGE = str(Path(rawbpf.__file__).parent)

# All below 257: CPython has these integers already, so that noting one allocates nothing.
COUNT = 60


class Boom(Exception):
    """What the trace functions raise."""


class Taken:
    """Where the calls put what they took: places that are there already, so that noting an answer allocates nothing."""

    def __init__(self) -> None:
        self.answers: list[Any] = [None] * (2 * COUNT)
        self.count = 0
        self.buffer = bytearray(4 * 40)

    def values(self) -> list[int]:
        """The numbers that were taken, in order."""
        found: list[int] = []
        for answer in self.answers[: self.count]:
            found += answer if isinstance(answer, list) else [answer]
        return [int.from_bytes(each, sys.byteorder) if isinstance(each, bytes) else each for each in found]


def pop(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.pop()
    taken.count += 1


def within(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.pop(timeout=60)
    taken.count += 1


def one(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.pop_many(1)
    taken.count += 1


def few(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.pop_many(5)
    taken.count += 1


def many(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.pop_many(40)
    taken.count += 1


def into(m: Any, taken: Taken) -> None:
    number = m.pop_into(taken.buffer)
    taken.answers[0] = number
    taken.count = 1


def drain(m: Any, taken: Taken) -> None:
    for value in m.drain(40):
        taken.answers[taken.count] = value
        taken.count += 1


def take_held(m: Any, taken: Taken) -> None:
    taken.answers[taken.count] = m.take_held()
    taken.count += 1


CALLS = [pop, within, one, few, many, into, drain, take_held]


@pytest.fixture
def m(kind: Any) -> Iterator[Any]:
    """A map whose programs are loaded. It is closed without a warning: nothing is held, and nothing is locked."""
    m = kind("=I", COUNT, name="interrupted")
    m.push_many(range(COUNT))
    m.pop_many(COUNT)
    yield m
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.close()
    gc.collect()


def fill(m: Any, held: bool) -> Taken:
    """Pushes COUNT numbers, of which some are held if so wanted."""
    m.push_many(range(COUNT) if isinstance(m, Queue) else range(COUNT)[::-1])
    if held:
        elements = m.drain(20)
        next(elements), next(elements)
        elements.close()
    return Taken()


def expected(held: bool) -> list[int]:
    """What is to be popped of it, in order."""
    return list(range(2 if held else 0, COUNT))


def check(m: Any, taken: Taken, held: bool, lost: int = 0, what: object = None) -> int:
    """What was taken, and what is still there, is everything, once, in order; returns how many are missing, at most
    `lost`. The map is empty then, and can be used."""
    got = taken.values()
    if taken.count == 1 and any(taken.buffer):
        got = memoryview(taken.buffer).cast("I")[: got[0]].tolist()
    rest = m.pop_many(2 * COUNT)
    missing = [number for number in expected(held) if number not in set(got + rest)]
    assert len(missing) <= lost, (what, missing, got, rest)
    assert got + rest == [number for number in expected(held) if number not in missing], what
    assert m.take_held() == []
    return len(missing)


def at_depth(room: int, call: Callable[[], None]) -> None:
    """Calls with room for so many frames more."""

    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        else:
            call()

    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    deeper(sys.getrecursionlimit() - depth - 1 - room)


@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "held"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_recursion_at_every_depth(m, call, held):
    """RecursionError loses and doubles nothing, however deep in the library it comes."""
    raised = 0
    for room in range(1, 40):
        taken = fill(m, held)
        try:
            at_depth(room, lambda taken=taken: call(m, taken))  # type: ignore[misc]
        except RecursionError:
            raised += 1
        check(m, taken, held, what=room)
    assert 1 <= raised < 39


def fails(testcapi: Any, start: int, stop: int, call: Any, m: Any, taken: Taken) -> bool:
    """Whether a call raises MemoryError if the allocations from `start` to `stop` fail.

    A function of few instructions: where no memory is to be had at all, CPython 3.11 turns for ever on the way to an
    exception handler behind the 128th, for whose number it has no integer.
    """
    try:
        testcapi.set_nomemory(start, stop)
        call(m, taken)
        testcapi.remove_mem_hooks()
        return False
    except MemoryError:
        testcapi.remove_mem_hooks()
        return True


@needs_3_11
@pytest.mark.parametrize("function", [QueueOrStack.pop, Bulk.drain, Bulk._take, Bulk._take_few])
def test_handlers_stand_early(function):
    """No exception handler of a function that takes elements stands behind its 256th instruction: CPython 3.11 to 3.13
    would need memory for its number."""
    handlers = [entry for entry in dis.Bytecode(function).exception_entries if entry.lasti]
    assert max(entry.end for entry in handlers) <= 2 * 256


@pytest.mark.parametrize("forever", [False, True], ids=["one", "all from there on"])
@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "held"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_allocation_fails(m, call, held, forever):
    """MemoryError at any allocation, once or from then on, loses and doubles nothing."""
    testcapi = pytest.importorskip("_testcapi", reason="by design: this CPython was built without its test modules")
    if FREE_THREADED:
        pytest.skip("by design: a free-threaded CPython crashes where its allocator fails on purpose")
    if forever and sys.version_info < (3, 11) and door.FFI_MODE == "abi":
        pytest.skip("by design: CPython 3.10 gives up where there is no memory for as many exceptions as frames")
    raised = number = 0
    while True:
        taken = fill(m, held)
        failed = fails(testcapi, number, 0 if forever else number + 1, call, m, taken)
        check(m, taken, held, what=number)
        raised += failed
        number += 1
        # One that fails where CPython makes do without it is none.
        if not failed and number > 5:
            break
    assert raised


@contextmanager
def raising(install: Callable[[Any], None], number: int, opcodes: bool) -> Iterator[list[tuple[str, str, int]]]:
    """A trace or profile function that raises at the numbered event in the library, and notes which that was."""
    events: list[tuple[str, str, int]] = []
    left = number

    def function(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if opcodes:
            frame.f_trace_opcodes = True
        left -= 1
        if left == -1:
            events.append((frame.f_code.co_name, event, frame.f_lineno))
            raise Boom
        return function

    install(function)
    try:
        yield events
    finally:
        install(None)


# What a call was returning when the trace function raised in its last step, behind the store that hands over.
ANSWERS = {"pop": 1, "within": 1, "one": 1, "few": 5, "many": 40, "into": 40, "drain": 1, "take_held": 18}


@needs_3_11
@pytest.mark.parametrize(
    ("install", "opcodes"),
    [(sys.settrace, False), (sys.settrace, True), (sys.setprofile, False)],
    ids=["lines", "opcodes", "profile"],
)
@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "held"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_trace_event_raises(m, call, held, install, opcodes):
    """A trace or profile function that raises loses nothing and locks nothing; only on the way back to the caller,
    once the elements are handed over, what the call was returning. (As a drain() yields, such a function ends the
    generator without its finally.)"""
    number = interrupted = lost = 0
    while True:
        taken = fill(m, held)
        with raising(install, number, opcodes) as events:
            try:
                call(m, taken)
            except Boom:
                interrupted += 1
        missing = check(m, taken, held, ANSWERS[call.__name__], events)
        if not events:
            break
        [(_, event, _)] = events
        if missing:
            lost += 1
            assert missing == ANSWERS[call.__name__]
            assert event in ("line", "return", "opcode")
        number += 1
    assert interrupted > 5
    # A few events in the frames that the answer passes through.
    assert lost <= (40 if opcodes else 12), lost


@needs_3_11
def test_a_pop_within_a_drain(kind):
    """What is raised in a pop() does not touch what a drain, of the same thread and maybe of the same batch, is handing
    over."""
    number = interrupted = 0
    while True:
        with kind("=I", COUNT) as m:
            taken = fill(m, held=False)
            drain = m.drain(5)
            got = [next(drain), next(drain)]
            with raising(sys.settrace, number, opcodes=False) as events, suppress(Boom):
                pop(m, taken)
            got += drain
            rest = taken.values() + m.pop_many(2 * COUNT)
        assert got == expected(held=False)[:5], events
        lost = [each for each in expected(held=False)[5:] if each not in rest]
        # At most what pop() was returning.
        assert lost in ([], [5])
        assert rest == expected(held=False)[5 + len(lost) :]
        if not events:
            break
        interrupted += 1
        number += 1
    assert interrupted > 5
