"""Many elements a call: push_many, pop_many, pop_into and drain against loops of single calls, by batch and value size.

Each contender finds the queue empty and leaves it empty, and must have moved what it says: filling and clearing are not
timed.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from rawbpf import Queue
from tests.harness.benchmarks.measure import Contender, Report, floor, libbpf, libbpf_loops, medians, table, timed

BATCHES = [4**exponent for exponent in range(9)]
VALUE_SIZES = [4, 8, 64, 512, 4096]

# Elements that a contender moves in a round, one batch if that is more: little enough that most rounds see no other
# process between. And the bytes that a queue may hold.
MOVED = 1024
ROOM = 4 << 20

# The goals at the largest batch: how many times faster than the C loop.
BUDGETS = {("push", "push_many, buffer"): 15, ("pop", "pop_into"): 15, ("pop", "pop_many"): 5}

SINGLE = {
    "push": ["C loop", "libbpf's C loop", "rawbpf push", "ctypes over libbpf"],
    "pop": ["C loop", "libbpf's C loop", "rawbpf pop", "ctypes over libbpf"],
}
BULK = {"push": ["push_many, buffer", "push_many, list"], "pop": ["pop_into", "pop_many", "drain"]}

# ("push" or "pop", the contender, elements a call); None for the loops of single calls.
Key = tuple[str, str, "int | None"]


class Stage:
    """A queue, as many values as it holds, and a buffer with room for them."""

    def __init__(self, q: "Queue[bytes]") -> None:
        self.q = q
        self.size = q.value_size
        self.value = b"r" * self.size
        self.data = self.value * q.max_entries
        self.buffer = memoryview(bytearray(len(self.data)))

    def pushes(self, elements: int, work: Callable[[], object]) -> Contender:
        """A contender whose work pushes so many elements."""

        def contender() -> float:
            nanoseconds = timed(work, elements)
            assert self.q.pop_into(self.buffer) == elements
            return nanoseconds

        return contender

    def pops(self, elements: int, work: Callable[[], object]) -> Contender:
        """A contender whose work pops so many elements."""

        def contender() -> float:
            assert self.q.push_many(self.data[: elements * self.size]) == elements
            nanoseconds = timed(work, elements)
            assert self.q.pop(default=None) is None
            return nanoseconds

        return contender


def repeated(calls: int, function: Callable[..., object], *arguments: Any) -> Callable[[], None]:
    """Work that calls the function so many times."""

    def work() -> None:
        for _ in range(calls):
            function(*arguments)

    return work


def single_calls(stage: Stage, elements: int) -> dict[Key, Contender]:
    """The ways that move one element a call."""
    fd, value, buffer = stage.q.fileno(), stage.value, ctypes.create_string_buffer(stage.size)
    c, loops, library = floor(), libbpf_loops(), libbpf()
    found: dict[Key, Contender] = {
        ("push", "C loop", None): stage.pushes(elements, lambda: c.push(fd, value, elements)),
        ("pop", "C loop", None): stage.pops(elements, lambda: c.pop(fd, buffer, elements)),
        ("push", "rawbpf push", None): stage.pushes(elements, repeated(elements, stage.q.push, value)),
        ("pop", "rawbpf pop", None): stage.pops(elements, repeated(elements, stage.q.pop)),
    }
    if loops and library:
        update, lookup_and_delete = library.bpf_map_update_elem, library.bpf_map_lookup_and_delete_elem
        flags = ctypes.c_uint64(0)

        def pop() -> bytes:
            buffer = ctypes.create_string_buffer(stage.size)
            lookup_and_delete(fd, None, buffer)
            return buffer.raw

        found |= {
            ("push", "libbpf's C loop", None): stage.pushes(elements, lambda: loops.push(fd, value, elements)),
            ("pop", "libbpf's C loop", None): stage.pops(elements, lambda: loops.pop(fd, buffer, elements)),
            ("push", "ctypes over libbpf", None): stage.pushes(
                elements, repeated(elements, update, fd, None, value, flags)
            ),
            ("pop", "ctypes over libbpf", None): stage.pops(elements, repeated(elements, pop)),
        }
    return found


def bulk_calls(stage: Stage, batch: int, moved: int) -> dict[Key, Contender]:
    """The ways that move many elements a call."""
    q, calls = stage.q, max(1, moved // batch)
    elements, length = calls * batch, batch * stage.size
    data, buffer, values = stage.data[:length], stage.buffer[:length], [stage.value] * batch
    return {
        ("push", "push_many, buffer", batch): stage.pushes(elements, repeated(calls, q.push_many, data)),
        ("push", "push_many, list", batch): stage.pushes(elements, repeated(calls, q.push_many, values)),
        ("pop", "pop_into", batch): stage.pops(elements, repeated(calls, q.pop_into, buffer)),
        ("pop", "pop_many", batch): stage.pops(elements, repeated(calls, q.pop_many, batch)),
        ("pop", "drain", batch): stage.pops(elements, repeated(calls, lambda: list(q.drain(batch)))),
    }


def measured(value_size: int, rounds: int) -> dict[Key, float]:
    """Medians of ns per element of all contenders, single and bulk, for one value size."""
    room = ROOM // value_size
    moved = min(MOVED, room)
    batches = [batch for batch in BATCHES if batch <= room]
    with Queue(value_size, max(moved, batches[-1])) as q:
        stage = Stage(q)
        contenders = single_calls(stage, moved)
        for batch in batches:
            contenders |= bulk_calls(stage, batch, moved)
        return medians(contenders, rounds)


def cell(results: dict[Key, float], verb: str, name: str, batch: int | None) -> str:
    """ns per element, and how many times faster than the C loop that is."""
    nanoseconds = results.get((verb, name, batch))
    if nanoseconds is None:
        return "-"
    return f"{nanoseconds:.0f} ns, {results[verb, 'C loop', None] / nanoseconds:.1f} x"


def singles_table(results: dict[Key, float]) -> str:
    rows = [["8-byte values, one a call", "push", "pop"]]
    for push, pop in zip(SINGLE["push"], SINGLE["pop"], strict=True):
        label = "rawbpf push, pop" if push != pop else push
        rows.append([label, cell(results, "push", push, None), cell(results, "pop", pop, None)])
    return table(rows)


def batches_table(results: dict[Key, float]) -> str:
    columns = [(verb, name) for verb, names in BULK.items() for name in names]
    rows = [["8-byte values, elements a call", *(name for _, name in columns)]]
    for batch in BATCHES:
        rows.append([str(batch), *(cell(results, verb, name, batch) for verb, name in columns)])
    return table(rows)


def sizes_table(by_size: dict[int, dict[Key, float]], verb: str, name: str) -> str:
    rows = [[f"{name}, elements a call", *(f"{size} B" for size in by_size)]]
    rows.append(["C loop", *(cell(results, verb, "C loop", None) for results in by_size.values())])
    for batch in BATCHES:
        rows.append([str(batch), *(cell(results, verb, name, batch) for results in by_size.values())])
    return table(rows)


def budgets_table(results: dict[Key, float]) -> str:
    rows = [[f"8-byte values, {BATCHES[-1]} a call", "times faster than the C loop", "budget"]]
    for (verb, name), budget in BUDGETS.items():
        times = results[verb, "C loop", None] / results[verb, name, BATCHES[-1]]
        rows.append([name, f"{times:.1f}", f"{budget}"])
    return table(rows)


def curves(results: dict[Key, float]) -> dict[str, dict[int, float]]:
    """ns per element over elements a call; a loop of single calls is a flat line."""
    found: dict[str, dict[int, float]] = {}
    for (verb, name, batch), nanoseconds in results.items():
        label = f"{name}, {verb}" if name in SINGLE["push"] and name in SINGLE["pop"] else name
        found.setdefault(label, {}).update(dict.fromkeys([batch] if batch else BATCHES, nanoseconds))
    return found


def run(rounds: int) -> Report:
    """The tables and curves of one run. "x" is how many times faster than the C loop of single calls."""
    by_size = {size: measured(size, rounds) for size in VALUE_SIZES}
    eight = by_size[8]
    tables = [
        singles_table(eight),
        batches_table(eight),
        budgets_table(eight),
        *(sizes_table(by_size, verb, name) for verb, name in BUDGETS),
    ]
    return Report("\n\n".join(tables), curves(eight))
