"""The exercises of `rawbpf learn`, on the running and on the simulated kernel: what is right passes, what is wrong gets
the hint that was written for it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rawbpf import Queue
from rawbpf import docs as guides
from rawbpf.observe.lesson_checks import CHECKS
from rawbpf.observe.lesson_program import Pushed, Refused, Unknown, interpret
from rawbpf.observe.lessons import lessons
from rawbpf.programs.asm import R0, R1, R2, R3, R10, Helper, Item, add, call, exit_, load, load_map, mov, store
from rawbpf.programs.program import ETH_HLEN, Program, ProgType, VerifierError
from tests.conftest import IS_ROOT
from tests.observe.lesson_answers import WRONG

LESSONS = {lesson.name: lesson for lesson in lessons()}

# Judges the programs of stdin, [[exercise, program], ...], in a process of its own: they leave descriptors behind.
JUDGE = """
import io, json, sys
from contextlib import redirect_stdout
from rawbpf.observe.lessons import attempt, lessons
by_name = {lesson.name: lesson for lesson in lessons()}
verdicts = []
for name, source in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()):
        verdicts.append(attempt(by_name[name], source, simulated=sys.argv[1] == "simulated"))
json.dump(verdicts, sys.stdout)
"""


def wrong_answer(name: str, number: int) -> str:
    solution, wrong = LESSONS[name].solution, WRONG[name][number]
    assert wrong.old in solution
    return "import rawbpf\n" + solution.replace(wrong.old, wrong.new, 1)


RIGHT = [(name, lesson.solution) for name, lesson in LESSONS.items()]
UNTOUCHED = [(name, lesson.start) for name, lesson in LESSONS.items()]
WRONGS = [(name, wrong_answer(name, number)) for name in LESSONS for number in range(len(WRONG[name]))]
HINTS = [wrong.hint for name in LESSONS for wrong in WRONG[name]]

KERNELS = [
    pytest.param(
        "running",
        marks=[
            pytest.mark.creates,
            pytest.mark.admin,
            pytest.mark.linux("5.19"),
            pytest.mark.real_kernel(reason="the other parameter is simulated"),
            pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SETUID (root), to become another user"),
        ],
    ),
    "simulated",
]


@pytest.fixture(scope="module")
def judged() -> Any:
    """The verdicts on all programs: judged(kernel) is {(exercise, program): (kernel, said, ended)}."""
    found: dict[str, dict[tuple[str, str], list[str]]] = {}

    def on(kernel: str) -> dict[tuple[str, str], list[str]]:
        if kernel not in found:
            cases = [*RIGHT, *UNTOUCHED, *WRONGS, *OTHERWISE]
            command = [sys.executable, "-c", JUDGE, kernel]
            done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            found[kernel] = dict(zip(cases, json.loads(done.stdout), strict=True))
        return found[kernel]

    return on


def test_each_has_a_check_and_enough_wrong_answers():
    """There are ten exercises, numbered as they come; each has a check, two hints or more, and three wrong answers."""
    assert [lesson.number for lesson in LESSONS.values()] == list(range(1, 11))
    assert set(LESSONS) == set(CHECKS) == set(WRONG)
    for name, lesson in LESSONS.items():
        assert len(lesson.hints) >= 2, name
        assert len({wrong.hint for wrong in WRONG[name]}) >= 3, name
        assert lesson.text and lesson.afterword and lesson.title, name
        assert lesson.start != lesson.solution, name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", RIGHT, ids=[name for name, _ in RIGHT])
def test_the_solution_is_right(judged, case, kernel):
    """Each exercise's solution passes, and is judged on the kernel that was asked for."""
    where, said, ended = judged(kernel)[case]
    assert (said, ended) == ("", "")
    simulated = kernel == "simulated" or LESSONS[case[0]].always_simulated
    assert where == ("the simulated kernel" if simulated else "the running kernel")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", UNTOUCHED, ids=[name for name, _ in UNTOUCHED])
def test_the_untouched_program_is_not(judged, case, kernel):
    """As the learner gets it, no exercise passes, and there is something to be said of it."""
    assert len(judged(kernel)[case][1]) > 20


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("case", "hint"),
    list(zip(WRONGS, HINTS, strict=True)),
    ids=[f"{name}-{hint[:20]}" for (name, _), hint in zip(WRONGS, HINTS, strict=True)],
)
def test_a_wrong_answer_gets_its_hint(judged, case, hint, kernel):
    """Plausible wrong answers do not pass, and what is said of each is the hint that was written for it."""
    assert hint in judged(kernel)[case][1]


# Programs that are right in another way than the solution.
OTHERWISE = [
    (
        "full-and-not",
        "import queue\nfrom rawbpf import BPF_EXIST, Queue\nwith Queue(4, 2) as q:\n"
        "    q.push(b'1111'); q.push(b'2222')\n    try: q.push(b'3333')\n    except queue.Full: pass\n"
        "    q.push(b'3333', BPF_EXIST)\n",
    ),
    (
        "by-hand",
        "from rawbpf import Queue, bpf, bpf_attr, pointer\nq, value = Queue(4, 3), bytearray(b'abcd')\n"
        "bpf(2, bpf_attr(map_fd=q.fileno(), value=pointer(value), flags=2), 32)\n",
    ),
    ("forgotten-sizes", "full_and_empty = (2, 0xFFFFFFFF)\noverlapping = (3_000_000, 1500)\n"),
    # One map for both ways: a second descriptor of it, and the freeze after that was refused.
    (
        "not-permitted",
        "import errno\nfrom rawbpf import Queue\nq = Queue(4, 3)\nr = Queue.from_id(q.id, access='r')\n"
        "try: r.push(b'abcd')\nexcept PermissionError: pass\nq.freeze()\nq.push(b'abcd')\n",
    ),
    (
        "program",
        LESSONS["program"].solution.replace('store("u64", R10, -8, 42)', 'mov(R0, 42),\n    store("u64", R10, -8, R0)'),
    ),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", OTHERWISE, ids=[name for name, _ in OTHERWISE])
def test_what_is_right_in_another_way(judged, case, kernel):
    """The check looks at what the kernel was asked and answered, so other ways to the same are right, too."""
    assert judged(kernel)[case][1] == ""


def test_what_python_cannot_read(judged):
    """A syntax error is said with its line; a program that exits early, or raises, is judged by what it did."""
    programs = [("first-queue", "q = (\n"), ("first-queue", "raise SystemExit"), ("first-queue", "1 / 0")]
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, "simulated"], input=json.dumps(programs), capture_output=True, text=True
    )
    syntax, left, raised = json.loads(done.stdout)
    assert syntax[1] == "Python can't read the program." and syntax[2].startswith("line 1: SyntaxError")
    assert "No queue was made" in left[1]
    assert raised[2] == "line 1: ZeroDivisionError: division by zero"


# The interpreter of the last exercise

PUSH = [mov(R3, 0), call(Helper.BPF_FUNC_map_push_elem), mov(R0, 0), exit_()]


def programs(fd: int) -> dict[str, list[Item]]:
    """Programs that the verifier takes or refuses."""
    at = [load_map(R1, fd), mov(R2, R10), add(R2, -8)]
    return {
        "right": [store("u64", R10, -8, 42), *at, *PUSH],
        "in two halves": [store("u32", R10, -8, 7), store("u32", R10, -4, -1), *at, *PUSH],
        "from a register": [mov(R0, 3), add(R0, 4), store("u64", R10, -8, R0), *at, *PUSH],
        "twice": [store("u64", R10, -8, 1), *at, *PUSH[:2], *at, *PUSH],
        "above the stack": [store("u64", R10, 8, 42), *at, *PUSH],
        "not aligned": [store("u64", R10, -9, 42), *at, *PUSH],
        "value in r2": [load_map(R1, fd), mov(R2, 42), *PUSH],
        "no map": [store("u64", R10, -8, 42), mov(R2, R10), add(R2, -8), *PUSH],
        "no flags": [store("u64", R10, -8, 42), *at, *PUSH[1:]],
        "no result": [exit_()],
        "no exit": [mov(R0, 0)],
        "r10 moved": [add(R10, -8), mov(R0, 0), exit_()],
        "r1 lost in the call": [store("u64", R10, -8, 1), *at, *PUSH[:2], *PUSH],
    }


@pytest.mark.creates
@pytest.mark.real_kernel(reason="it is compared with the interpreter")
@pytest.mark.parametrize("name", list(programs(0)))
def test_the_interpreter_is_as_strict_as_the_verifier(name):
    """What the kernel refuses the interpreter refuses; what both take pushes the same."""
    with Queue(8, 4) as q:
        program = programs(q.fileno())[name]
        try:
            pushed: list[Pushed] | None = interpret(program, {q.fileno(): 8})
        except Refused:
            pushed = None
        try:
            with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, program) as loaded:
                loaded.run(bytes(ETH_HLEN))
        except VerifierError:
            assert pushed is None
        else:
            assert pushed is not None
            assert [push.value for push in pushed] == q.pop_many(4)


def test_what_was_not_stored_is_not_read():
    """The interpreter refuses to push what was not written, as the verifier does unless the process has CAP_PERFMON."""
    for stored in ([], [store("u32", R10, -8, 7)]):
        with pytest.raises(Refused, match="invalid read from stack R2 off -8 size 8"):
            interpret([*stored, load_map(R1, 3), mov(R2, R10), add(R2, -8), *PUSH], {3: 8})


def test_what_the_interpreter_does_not_know():
    """An instruction that it does not know is not refused as wrong: a kernel may take it."""
    with pytest.raises(Unknown, match="opcode 0x79"):
        interpret([load("u64", R0, R1), exit_()], {})


def test_the_guide_lists_them():
    """The guide's table has each exercise's number and title."""
    guide = Path(guides.__file__).with_name("learn.md").read_text()
    assert re.findall(r"^\| (\d+) \| (.*) \|$", guide, re.MULTILINE) == [
        (str(lesson.number), lesson.title) for lesson in LESSONS.values()
    ]
