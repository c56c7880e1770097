"""One element per call, 8-byte values: rawbpf against a C loop, the bare cffi call, ctypes over libbpf, and Go."""

import ctypes
from collections.abc import Callable
from functools import partial

from rawbpf import Queue
from rawbpf.abi.door import lib, new_batch, new_map
from tests.harness.benchmarks.measure import Contender, Report, cilium, floor, libbpf, medians, table, timed

CALLS = 10_000
VALUE = b"12345678"

# The goals, as multiples of the C loop and of the cffi call with bytes.
OF_C, OF_CFFI = 2.0, 1.25
BYTES = "cffi call, bytes in and out"


def contenders(q: "Queue[bytes]", go: "Callable[[str, int], float] | None") -> dict[str, dict[str, Contender]]:
    """For push and pop, each way to do it CALLS times. A push fills the queue, a pop empties it."""
    c, fd, buffer = floor(), q.fileno(), ctypes.create_string_buffer(8)
    m = new_map(fd, 8)
    batch, memory, view = new_batch(m, 1)
    found: dict[str, dict[str, Contender]] = {
        "push": {
            "C loop": _timed(c.push, fd, VALUE, CALLS),
            "cffi call alone": _timed(_bare_push, lib.map_update_elem, m),
            BYTES: _timed(_bare_push, lib.map_update_elem, m),  # the same: it takes bytes as they are
            "rawbpf": _timed(_push, q.push),
        },
        "pop": {
            "C loop": _timed(c.pop, fd, buffer, CALLS),
            "cffi call alone": _timed(_bare_pop, lib.map_lookup_and_delete_elem, batch, memory),
            BYTES: _timed(_bare_pop_bytes, lib.map_lookup_and_delete_elem, batch, memory, view),
            "rawbpf": _timed(_pop, q.pop),
        },
    }
    if library := libbpf():
        found["push"]["ctypes over libbpf"] = _timed(_libbpf_push, library.bpf_map_update_elem, fd)
        found["pop"]["ctypes over libbpf"] = _timed(_libbpf_pop, library.bpf_map_lookup_and_delete_elem, fd)
    if go is not None:
        for verb, ways in found.items():
            ways["Go, cilium/ebpf"] = partial(go, verb, CALLS)
    return found


def _timed(work: Callable[..., object], *arguments: object) -> Contender:
    return lambda: timed(lambda: work(*arguments), CALLS)


def _push(push):
    for _ in range(CALLS):
        push(VALUE)


def _pop(pop):
    for _ in range(CALLS):
        pop()


def _bare_push(push, fd):
    for _ in range(CALLS):
        push(fd, VALUE, 0)


def _bare_pop(pop, batch, memory):
    for _ in range(CALLS):
        pop(batch)
        memory[0] = 0


def _bare_pop_bytes(pop, batch, memory, view):
    for _ in range(CALLS):
        pop(batch)
        view.tobytes()
        memory[0] = 0


def _libbpf_push(update, fd):
    flags = ctypes.c_uint64(0)
    for _ in range(CALLS):
        if update(fd, None, VALUE, flags) < 0:
            raise OSError(ctypes.get_errno())


def _libbpf_pop(lookup_and_delete, fd):
    for _ in range(CALLS):
        buffer = ctypes.create_string_buffer(8)
        if lookup_and_delete(fd, None, buffer) < 0:
            raise OSError(ctypes.get_errno())
        _ = buffer.raw


def run(rounds: int) -> Report:
    """The table of one run."""
    with Queue(8, CALLS) as q, cilium(q.fileno()) as go:
        both = contenders(q, go)
        # Each push must find the queue empty and each pop full: their rounds are one sequence.
        sequence = {
            (verb, name): contender
            for pair in zip(both["push"], both["pop"], strict=True)
            for verb, name in zip(("push", "pop"), pair, strict=True)
            for contender in [both[verb][name]]
        }
        results = medians(sequence, rounds)
    rows = [["8-byte values, one per call", "push", "pop"]]
    for name in both["push"]:
        cells = []
        for verb in ("push", "pop"):
            nanoseconds, c = results[verb, name], results[verb, "C loop"]
            cells.append(f"{nanoseconds:.0f} ns, {nanoseconds / c:.2f} x C")
        rows.append([name, *cells])
    rows.append(["budget for rawbpf", *(f"{OF_C} x C" for _ in both)])
    ratios = [f"{results[verb, 'rawbpf'] / results[verb, BYTES]:.2f}, budget {OF_CFFI}" for verb in both]
    rows.append([f"rawbpf / {BYTES}", *ratios])
    return Report(table(rows))
