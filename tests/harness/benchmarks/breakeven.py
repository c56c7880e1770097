"""From which batch size, and up to which value size, one run of a program beats a system call for each element.

The two constants of rawbpf that decide it, bulk.BREAK_EVEN and in_kernel.VALUE_SIZE_MAX, are set aside here, so that
both ways are measured on both sides of them.
"""

import ctypes
from collections.abc import Callable
from unittest import mock

from rawbpf import Queue
from rawbpf.maps import bulk, in_kernel
from tests.harness.benchmarks.bulk import Stage, repeated
from tests.harness.benchmarks.measure import Contender, Report, floor, medians, table

COUNTS = [2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32]
COUNTED_SIZES = [8, 1024]
CALLS = 64

# Value sizes, and about as many bytes as are moved for each.
SIZES = [1 << exponent for exponent in (3, 9, 11, 12, 13, 14, 16)]
BYTES = 1 << 20

NEVER = 1 << 32

# The smallest batch goes into the kernel, the largest goes one by one.
IN_KERNEL, ONE_BY_ONE = "in the kernel", "one by one"
THRESHOLDS = {IN_KERNEL: 1, ONE_BY_ONE: NEVER}


def with_break_even(threshold: int, contender: Contender) -> Contender:
    def patched() -> float:
        with mock.patch.object(bulk, "BREAK_EVEN", threshold):
            return contender()

    return patched


def calls_of(stage: Stage, batch: int, calls: int) -> dict[str, Contender]:
    q, elements, length = stage.q, batch * calls, batch * stage.size
    data, buffer = stage.data[:length], stage.buffer[:length]
    return {
        "push_many, buffer": stage.pushes(elements, repeated(calls, q.push_many, data)),
        "pop_into": stage.pops(elements, repeated(calls, q.pop_into, buffer)),
        "pop_many": stage.pops(elements, repeated(calls, q.pop_many, batch)),
    }


def both_ways(stage: Stage, batch: int, calls: int) -> dict[tuple[str, str], Contender]:
    """(call, way): contender, for each call and both ways."""
    return {
        (name, way): with_break_even(threshold, contender)
        for name, contender in calls_of(stage, batch, calls).items()
        for way, threshold in THRESHOLDS.items()
    }


def by_batch(value_size: int, rounds: int) -> str:
    """How many times faster in the kernel than one by one, by batch size; and from where on it is faster."""
    with Queue(value_size, CALLS * COUNTS[-1]) as q:
        stage = Stage(q)
        contenders = {
            (*key, batch): contender for batch in COUNTS for key, contender in both_ways(stage, batch, CALLS).items()
        }
        results = medians(contenders, rounds)
    names = list(dict.fromkeys(name for name, _, _ in contenders))
    times = {
        name: {batch: results[name, ONE_BY_ONE, batch] / results[name, IN_KERNEL, batch] for batch in COUNTS}
        for name in names
    }
    rows = [[f"{value_size}-byte values: in the kernel, elements a call", *names]]
    rows += [[str(batch), *(f"{times[name][batch]:.2f} x" for name in names)] for batch in COUNTS]
    rows.append(["faster from", *(first_faster(times[name]) for name in names)])
    rows.append(["bulk.BREAK_EVEN", *[str(bulk.BREAK_EVEN)] * len(names)])
    return table(rows)


def first_faster(times: dict[int, float]) -> str:
    """The smallest batch from which on all are faster in the kernel."""
    slower = [batch for batch, factor in times.items() if factor < 1]
    faster = [batch for batch in times if batch > max(slower, default=0)]
    return str(min(faster)) if faster else f"above {max(times)}"


def by_value_size(rounds: int) -> str:
    """How many times faster in the kernel than one by one, by value size."""
    rows: list[list[str]] = []
    for value_size in SIZES:
        batch = min(1024, BYTES // value_size)
        with mock.patch.object(in_kernel, "VALUE_SIZE_MAX", NEVER), Queue(value_size, batch) as q:
            stage = Stage(q)
            c, fd, buffer = floor(), q.fileno(), ctypes.create_string_buffer(value_size)
            contenders = both_ways(stage, batch, 1)
            contenders["C loop", "push"] = stage.pushes(batch, bound(c.push, fd, stage.value, batch))
            contenders["C loop", "pop"] = stage.pops(batch, bound(c.pop, fd, buffer, batch))
            results = medians(contenders, rounds)
        names = list(dict.fromkeys(name for name, _ in contenders if name != "C loop"))
        if not rows:
            rows.append(["value size, elements a call", "C push, pop", *names])
        c_cell = f"{results['C loop', 'push']:.0f}, {results['C loop', 'pop']:.0f} ns"
        cells = [
            f"{results[name, IN_KERNEL]:.0f} ns, {results[name, ONE_BY_ONE] / results[name, IN_KERNEL]:.2f} x"
            for name in names
        ]
        rows.append([f"{value_size} B, {batch}", c_cell, *cells])
    rows.append([f"in_kernel.VALUE_SIZE_MAX is {in_kernel.VALUE_SIZE_MAX} B", *[""] * (len(rows[0]) - 1)])
    return table(rows)


def bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def run(rounds: int) -> Report:
    """The tables of one run. "x" is how many times faster in the kernel than one by one."""
    return Report("\n\n".join([*(by_batch(size, rounds) for size in COUNTED_SIZES), by_value_size(rounds)]))
