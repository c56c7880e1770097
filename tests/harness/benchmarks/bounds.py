"""What bounds the calls for many elements: the helper called in a straight line, the program alone, and memcpy.

In a straight line there is no loop, no counting and no limit: no program that moves elements can be faster. What the
program alone takes is that and its loop; what push_many() and pop_into() take is that, two system calls, and the copy
between the scratch and the caller's buffer.
"""

from rawbpf import Program, ProgType, Queue
from rawbpf.abi import ProgFlag
from rawbpf.abi.door import lib
from rawbpf.maps.mapped_array import MappedArray
from rawbpf.programs.asm import R0, R1, R2, R3, Helper, Item, call, exit_, load_map, load_map_value, mov
from tests.harness.benchmarks.bulk import Stage
from tests.harness.benchmarks.measure import Contender, Report, medians, table, timed

ELEMENTS = 16384

# Calls in a straight line, as often as that makes ELEMENTS.
LINE = 8192


def straight_line(helper: Helper, q: "Queue[bytes]", memory: MappedArray) -> Program:
    """A program that calls the helper LINE times."""
    once: list[Item] = [
        load_map(R1, q.fileno()),
        load_map_value(R2, memory.fileno(), 0),
        mov(R3, 0),
        call(helper),
    ]
    return Program(ProgType.BPF_PROG_TYPE_SYSCALL, [*once * LINE, mov(R0, 0), exit_()], flags=ProgFlag.BPF_F_SLEEPABLE)


def contenders(stage: Stage, lines: dict[str, Program]) -> dict[tuple[str, str], Contender]:
    """("push" or "pop", what moves the elements): each moves ELEMENTS."""
    q, bulk = stage.q, stage.q._bulk
    assert bulk._in_kernel
    scratch, batch = bulk._in_kernel[0].scratch, bulk._batches[0]

    def in_lines(program: Program) -> None:
        for _ in range(ELEMENTS // LINE):
            program.run()

    def pop_alone() -> None:
        lib.batch_begin(batch.struct)
        lib.batch_pop_many(batch.struct, scratch, ELEMENTS)
        batch.memory[0] = lib.BATCH_FREE

    def copy() -> None:
        stage.buffer[:] = stage.data

    return {
        ("push", "memcpy"): lambda: timed(copy, ELEMENTS),
        ("pop", "memcpy"): lambda: timed(copy, ELEMENTS),
        ("push", "the helper in a straight line"): stage.pushes(ELEMENTS, lambda: in_lines(lines["push"])),
        ("pop", "the helper in a straight line"): stage.pops(ELEMENTS, lambda: in_lines(lines["pop"])),
        ("push", "the program alone"): stage.pushes(
            ELEMENTS, lambda: lib.map_push_many(scratch, stage.data, ELEMENTS, 0)
        ),
        ("pop", "the program alone"): stage.pops(ELEMENTS, pop_alone),
        ("push", "push_many, pop_into"): stage.pushes(ELEMENTS, lambda: q.push_many(stage.data)),
        ("pop", "push_many, pop_into"): stage.pops(ELEMENTS, lambda: q.pop_into(stage.buffer)),
    }


def run(rounds: int) -> Report:
    """The table of one run. x says how many times the straight line's time."""
    with Queue(8, ELEMENTS) as q, MappedArray(8, "bench_value", "the value that is pushed") as memory:
        stage = Stage(q)
        q.push_many(stage.data)
        q.pop_into(stage.buffer)
        helpers = {"push": Helper.BPF_FUNC_map_push_elem, "pop": Helper.BPF_FUNC_map_pop_elem}
        lines = {verb: straight_line(helper, q, memory) for verb, helper in helpers.items()}
        results = medians(contenders(stage, lines), rounds)
        for program in lines.values():
            program.close()
    rows = [[f"8-byte values, {ELEMENTS} a call", "push", "pop"]]
    for name in dict.fromkeys(name for _, name in results):
        cells = []
        for verb in ("push", "pop"):
            nanoseconds, bound = results[verb, name], results[verb, "the helper in a straight line"]
            cells.append(f"{nanoseconds:.1f} ns, {nanoseconds / bound:.2f} x")
        rows.append([name, *cells])
    return Report(table(rows))
