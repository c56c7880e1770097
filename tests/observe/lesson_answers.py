"""Wrong answers to the exercises of `rawbpf learn`, as learners would give them, and what the hint for each says.

Each answer is the exercise's solution with one part replaced, or a program of its own.
"""

import sys
from typing import NamedTuple

# The byte of value_size that makes it larger than any map's.
HIGHEST = 11 if sys.byteorder == "little" else 8


class Wrong(NamedTuple):
    """An answer: in the solution `old` is replaced by `new`. `hint` is a part of what is to be said of it."""

    old: str
    new: str
    hint: str


_PROGRAM_PUSHES = """\
    store("u64", R10, -8, 42),
    load_map(R1, q.fileno()),
    mov(R2, R10),
    add(R2, -8),
    mov(R3, 0),
    call(Helper.BPF_FUNC_map_push_elem),
"""

_CATCHES = """\
try:
    q.push(b"3333")
except Full as error:
    print(error)
"""

_READER = """\
reader = Queue(4, 3, flags=MapFlag.BPF_F_RDONLY)
try:
    reader.push(b"abcd")
except NotPermitted as error:
    print(error)
"""

_FROZEN = """\
q.freeze()
try:
    q.push(b"abcd")
except NotPermitted as error:
    print(error)
"""

_TWO_TRIES = """\
attr[4095] = 1
try:
    bpf(Cmd.BPF_MAP_CREATE, attr)
except BpfError as error:
    print(error)

attr[4095] = 0
"""

WRONG: dict[str, tuple[Wrong, ...]] = {
    "first-queue": (
        Wrong("Queue(", "rawbpf.Stack(", "That is a stack"),
        Wrong('"<Q"', '"<I"', "values have 4 bytes, and 8 are asked for"),
        Wrong("q.pop()", "q.peek()", "pop() takes it out"),
        Wrong("q.push(3)", "", "Pushed were [1, 2], and 1, 2 and 3 are asked for"),
        Wrong("popped =", "taken =", "`popped` is not what the pop returned"),
    ),
    "full-and-not": (
        Wrong('q.push(b"3333", BPF_EXIST)', 'q.pop()\nq.push(b"3333")', "You made room with a pop"),
        Wrong(_CATCHES, "", "With BPF_EXIST a push is never answered E2BIG"),
        Wrong(_CATCHES, 'q.push(b"3333")', "the exception ended your program. Catch it"),
        Wrong('q.push(b"3333", BPF_EXIST)', "", "now push the value so that the kernel takes it"),
        Wrong(_CATCHES, "try: Queue(4 << 20, 2**20)\nexcept ValueError: pass", "BPF_EXIST a push is never answered"),
    ),
    "predict": (
        Wrong("[6, 4, 3]", "[3, 4, 6]", "in a queue's order"),
        Wrong("[6, 4, 3]", "[6, 2, 1]", "drops its oldest element, the one at the bottom"),
        Wrong("[6, 4, 3]", "[6, 5, 4]", "5 was popped before 6 was pushed"),
        Wrong("s.push(6)", "s.push(6)\nprediction = [s.pop(), s.pop(), s.pop()]", "before the stack is asked"),
        Wrong("(1, 2, 3, 4, 5)", "(3, 4, 5)", "is to stay as it was"),
    ),
    "by-hand": (
        Wrong("pointer(value)", 'int.from_bytes(value, "little")', "the address of the 4 bytes, not the bytes"),
        Wrong("value=pointer", "key=pointer(value), value=pointer", "key must be NULL"),
        Wrong("map_fd=q.fileno(), ", "", "map_fd is not the queue's descriptor"),
        Wrong("value=pointer(value)", "value=pointer(value), flags=1", "takes the flags 0"),
        Wrong("bpf(Cmd.BPF_MAP_UPDATE_ELEM", "q.push(value) or dict(a", "q.push() does it for you"),
    ),
    "padded": (
        Wrong("=I4xQQQ", "=IQQQ", "the padding is missing"),
        Wrong(
            '"=I4xQQQ", q.fileno(), 0, pointer(value), 0', '"=IIIQ", q.fileno(), 0, 99, 0', "have 8 bytes in the attr"
        ),
        Wrong('why = "b"', 'why = "a"', "The kernel compares no addresses"),
        Wrong('why = "b"', 'why = "c"', "nothing asks for 16"),
        Wrong("0, pointer(value), 0", "pointer(value), 0, 0", "something stands in the wrong place"),
    ),
    "from-the-future": (
        Wrong("attr[4095] = 1", "attr[100] = 1", "The kernel does not know the last"),
        Wrong("attr[4095] = 0\n", "", "the byte of the first is still set"),
        Wrong("attr[4095] = 1", "attr += bytes(1000)", "longer than a page"),
        Wrong("attr[4095] = 1", f"attr[{HIGHEST}] = 1", "That E2BIG is about value_size"),
        Wrong("attr[100] = 1", "", "Now the second"),
    ),
    "forgotten-sizes": (
        Wrong("(1, 2**32 - 1)", "(0, 3)", "Sizes of 0 are not forgotten"),
        Wrong("(1, 2**32 - 1)", "(2**23, 1)", "a value has at most 4 MiB"),
        Wrong("(1, 2**32 - 1)", "(1, 2**32 - 2)", "when is that 0?"),
        Wrong("(2**22, 2**10)", "(2**22, 2**10 - 1)", "below 2**32: no offset of a slot wraps"),
        Wrong("(2**22, 2**10)", "(1, 2**32 - 1)", "this one is full and empty at once"),
    ),
    "not-permitted": (
        Wrong(_READER, "", "One way is done: the map is frozen"),
        Wrong(_FROZEN, "", "One way is done: the descriptor is read-only"),
        Wrong(
            f"{_READER}\n{_FROZEN}",
            'Queue(4, 3, flags=MapFlag.BPF_F_RDONLY_PROG).push(b"abcd")',
            "bind BPF programs, not processes",
        ),
        Wrong(f"{_READER}\n{_FROZEN}", 'q.close()\nq.push(b"abcd")', "the kernel was not asked"),
        Wrong(f"{_READER}\n{_FROZEN}", "q.freeze()\nq.freeze()", "came from BPF_MAP_FREEZE"),
    ),
    "anothers-pop": (
        Wrong("os.chmod(path, 0o606)", "", "others may neither read nor write"),
        Wrong("0o606", "0o604", "others may read, but not write"),
        Wrong("0o606", "0o660", "others may neither read nor write"),
        Wrong("q.pin(path)\nos.chmod(path, 0o606)", "", "Nothing is pinned"),
        Wrong("os.chmod(path, 0o606)", "os.chmod(path, 0o606)\nq.pop()", "You popped it yourself"),
        Wrong("0o606", "0o777", "leave out the x"),
    ),
    "program": (
        Wrong("mov(R2, R10),\n    add(R2, -8)", "mov(R2, 42)", "r2 is to be the address of the value"),
        Wrong("    mov(R3, 0),\n", "", "r3 was not set"),
        Wrong("R10, -8, 42", "R10, 8, 42", "grows downwards"),
        Wrong('store("u64", R10, -8, 42)', 'store("u64", R10, -8, 7)', "42 is asked for"),
        Wrong(_PROGRAM_PUSHES, "", "pushed nothing"),
        Wrong("    mov(R0, 0),\n    exit_(),\n", "", "A program ends with exit_()"),
        Wrong("load_map(R1, q.fileno()),", "mov(R1, q.fileno()),", "r1 is to be the map"),
        Wrong("]\n", "]\nq.push(42)\n", "The push came from Python"),
    ),
}
