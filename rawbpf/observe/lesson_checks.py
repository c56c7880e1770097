"""What the exercises check: each function says of a run what is wrong with it, "" if nothing is.

They look at the calls that were made and at what the kernel answered, not at how the program is written; so any program
that does it is right.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from rawbpf.abi import BPF_ATTR_MAX_SIZE, Cmd, ElemFlag, MapType, ProgType, door
from rawbpf.abi.door import ffi
from rawbpf.maps.queue_stack import Queue, QueueOrStack
from rawbpf.observe.lesson_program import Pushed, Refused, Unknown, interpret
from rawbpf.observe.lesson_run import Run
from rawbpf.observe.simulated_map import SimulatedMap
from rawbpf.programs.program import ETH_HLEN, Program, VerifierError
from rawbpf.syscall import bpf, bpf_attr, pointer
from rawbpf.syscall.errors import BpfError, Empty

Check = Callable[[Run], str]

_NOBODY = 65534
_4_GIB = 1 << 32
_EXIST = ElemFlag.BPF_EXIST


def first_queue(run: Run) -> str:
    if not run.created:
        return 'No queue was made. Replace the dots behind `q =` by Queue("<Q", 3, name="first").'
    fields = run.created[0].fields
    if fields["map_type"] == MapType.BPF_MAP_TYPE_STACK:
        return "That is a stack: last in, first out. A queue gives back first what was pushed first."
    if fields["value_size"] != 8:
        return f"Its values have {fields['value_size']} bytes, and 8 are asked for: the struct format Q."
    if fields["max_entries"] != 3:
        return f"It has room for {fields['max_entries']} values, and 3 are asked for."
    pushed = [struct.unpack("<Q", call.value)[0] for call in run.pushes if not call.errno]
    if pushed != [1, 2, 3]:
        return f"Pushed were {pushed or 'no values'}, and 1, 2 and 3 are asked for, in that order."
    if run.peeks and not run.pops:
        return "peek() looks at the element and leaves it in the queue; pop() takes it out."
    if len(run.pops) != 1:
        return f"There were {len(run.pops)} pops, and one is asked for: popped = q.pop()."
    return "" if run.names.get("popped") == 1 else "`popped` is not what the pop returned: popped = q.pop()."


def full_and_not(run: Run) -> str:
    refused = [number for number, call in enumerate(run.calls) if call in run.failed(Cmd.BPF_MAP_UPDATE_ELEM, 7)]
    if any(not call.errno for call in run.pops):
        return (
            "You made room with a pop. The kernel takes a push into a full queue, too: with other flags than BPF_ANY."
        )
    if not refused and run.failed(Cmd.BPF_MAP_CREATE, errno.E2BIG):
        return "E2BIG came from BPF_MAP_CREATE, for which it means that a value is too large. A push is to answer it."
    if not refused and any(call.fields.get("flags") == _EXIST for call in run.pushes):
        return "With BPF_EXIST a push is never answered E2BIG. First push without it, into the full queue."
    if not refused:
        return "No push was answered E2BIG. The queue has room for 2 values: push a third."
    if run.error is not None:
        return "The kernel answered E2BIG, and the exception ended your program. Catch it: try: ... except Full: ..."
    later = [call for call in run.calls[refused[0] :] if call.cmd == Cmd.BPF_MAP_UPDATE_ELEM and not call.errno]
    if not later:
        return "E2BIG was answered; now push the value so that the kernel takes it. See `rawbpf explain push`, flags."
    return "" if later[-1].value == b"3333" else 'The value that the kernel took is another one: push b"3333".'


def predict(run: Run) -> str:
    s, prediction = run.names.get("s"), run.names.get("prediction")
    flags = [(struct.unpack("<I", call.value)[0], call.fields["flags"]) for call in run.pushes]
    if flags != [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (6, 0)] or not isinstance(s, QueueOrStack):
        return "The program below the prediction is to stay as it was: write it again, with --start."
    if len(run.pops) != 1:
        return "Your program popped the stack itself. Write down a prediction before the stack is asked."
    if not prediction or not isinstance(prediction, list):
        return "`prediction` is to be a list of numbers: what is left at the end, first what would be popped first."
    left = []
    with suppress(Empty):
        while True:
            left.append(s.pop())
    if prediction == left[::-1]:
        return "These are the right numbers in a queue's order. A stack gives back first what was pushed last."
    if {1, 2} & set(prediction):
        return "With BPF_EXIST a full stack drops its oldest element, the one at the bottom, not the newest."
    if 5 in prediction:
        return "5 was popped before 6 was pushed."
    return "" if prediction == left else "Draw the ring: 4 slots, head, tail, and each push. `rawbpf tour` shows how."


def by_hand(run: Run) -> str:
    if run.calls_method("push", "push_many"):
        return "q.push() does it for you. By hand is: bpf(Cmd.BPF_MAP_UPDATE_ELEM, bpf_attr(...))."
    if not run.pushes:
        return "No BPF_MAP_UPDATE_ELEM was made: bpf(Cmd.BPF_MAP_UPDATE_ELEM, bpf_attr(map_fd=..., value=...))."
    if any(not call.errno and call.value == b"abcd" for call in run.pushes):
        return ""
    call = run.pushes[-1]
    if call.map is None or call.map.type != MapType.BPF_MAP_TYPE_QUEUE:
        return "map_fd is not the queue's descriptor. That is q.fileno()."
    if call.fields["key"]:
        return "key must be NULL: a queue has no keys. Leave it out, a field that is left out is 0."
    if call.error == "EFAULT":
        return "value is to be the address of the 4 bytes, not the bytes themselves: pointer(value)."
    if call.fields["flags"]:
        return "A push takes the flags 0, which is BPF_ANY, or BPF_EXIST. Here leave them out."
    return f"{call.error or 'The bytes at the address were others.'} Compare with `rawbpf explain push`."


_ATTR_SIZES = {
    4: "4 bytes are map_fd alone: key, value and flags are missing, and count as 0.",
    28: "28 bytes: the padding is missing. Behind map_fd 4 bytes are left out, so that key begins at byte 8: 4x.",
    20: "Pointers have 8 bytes in the attr on every machine: Q, not I.",
    16: "Pointers have 8 bytes in the attr on every machine, and flags as well: Q, not I.",
}


def padded(run: Run) -> str:
    if run.calls_method("push", "push_many"):
        return "q.push() packs the attr for you. Here it is to be packed with struct.pack()."
    if not any(not call.errno and call.value == b"abcd" for call in run.pushes):
        size = run.pushes[-1].size if run.pushes else 0
        said = _ATTR_SIZES.get(size, f"The attr has {size} bytes, and 32 are asked for.")
        if size == 32:
            said = (
                "The attr has 32 bytes, and something stands in the wrong place: map_fd 0, key 8, value 16, flags 24."
            )
        return said
    why = run.names.get("why")
    if why == "a":
        return (
            "The push is right; why is not. The kernel compares no addresses here: it reads from the process's memory,"
            " at an address that has 32 bits if the process's addresses have."
        )
    if why == "c":
        return "The push is right; why is not. 24 bytes would be a multiple of 8 as well; nothing asks for 16."
    return "" if why == "b" else 'The push is right. Now set why to "a", "b" or "c".'


def from_the_future(run: Run) -> str:
    tried = run.of(Cmd.BPF_MAP_CREATE)
    answers = [call.error for call in tried]
    if any(call.size > BPF_ATTR_MAX_SIZE for call in tried):
        return "An attr longer than a page, 4096 bytes, is E2BIG whatever is in it. Keep the 4096."
    if any(call.error == "E2BIG" and not any(call.attr[_union() :]) for call in tried):
        return "That E2BIG is about value_size. Leave the fields as they are, and set a byte at the attr's end."
    if "E2BIG" not in answers:
        inside = (
            " A byte that the kernel knows, but BPF_MAP_CREATE does not read, is EINVAL." if "EINVAL" in answers else ""
        )
        return f"No call was answered E2BIG. The kernel does not know the last of the 4096 bytes.{inside}"
    if answers[-1] == "E2BIG" and answers.count("E2BIG") > 1:
        return "Both calls were answered E2BIG: the byte of the first is still set. Set it back to 0."
    if "EINVAL" not in answers:
        return "E2BIG was answered. Now the second: a byte between those that the command reads and the union's end."
    return "" if "" in answers else "The attr is to be accepted first, as it was at the beginning."


def _union() -> int:
    """The bytes that rawbpf knows of union bpf_attr."""
    return ffi.sizeof("union bpf_attr")


def forgotten_sizes(run: Run) -> str:
    for name, judge in (("full_and_empty", _is_full_and_empty), ("overlapping", _is_overlapping)):
        sizes = run.names.get(name)
        if not (isinstance(sizes, tuple) and len(sizes) == 2 and all(isinstance(each, int) for each in sizes)):
            return f"{name} is to be a tuple: (value_size, max_entries)."
        attr = {"map_type": MapType.BPF_MAP_TYPE_QUEUE, "value_size": sizes[0], "max_entries": sizes[1]}
        try:
            fd = bpf(Cmd.BPF_MAP_CREATE, bpf_attr(**attr), 16)
        except OverflowError:
            return f"{name}: the fields have 32 bits."
        except BpfError as error:
            return _REFUSED_SIZES.get(error.errno or 0, str(error)).format(name=name)
        try:
            said = judge(fd, *sizes)
        finally:
            os.close(fd)
        if said:
            return f"{name}: {said}"
    return ""


_REFUSED_SIZES = {
    errno.EINVAL: "{name}: EINVAL, so this the kernel does check. Sizes of 0 are not forgotten; look at the largest.",
    errno.E2BIG: "{name}: E2BIG, so this the kernel does check: a value has at most 4 MiB.",
    errno.ENOMEM: "{name}: the kernel has no memory for so large a map. Take smaller values.",
}


def _is_full_and_empty(fd: int, value_size: int, max_entries: int) -> str:
    value = bytearray(value_size)
    attr = bpf_attr(map_fd=fd, value=pointer(value))
    answers = []
    for cmd in (Cmd.BPF_MAP_UPDATE_ELEM, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM):
        try:
            bpf(cmd, attr)
        except BpfError as error:
            answers.append(error.errno)
    if answers == [errno.E2BIG, errno.ENOENT]:
        return ""
    return "a push into it succeeds. The ring has max_entries + 1 slots, counted with 32 bits: when is that 0?"


def _is_overlapping(fd: int, value_size: int, max_entries: int) -> str:
    """Pushes an element into the first slot beyond 4 GiB, to which the ring is wound on, and another into slot 0; then
    looks at the first again."""
    if max_entries == _4_GIB - 1:
        return "this one is full and empty at once. Overlapping slots take another map."
    reached = -(-_4_GIB // value_size)
    if reached > max_entries:
        return f"the last slot begins at byte {max_entries * value_size}, below 2**32: no offset of a slot wraps."
    value = bytearray(b"\xaa" * value_size)
    attr = bpf_attr(map_fd=fd, value=pointer(value))
    SimulatedMap(fd).save(head=reached, tail=reached)
    bpf(Cmd.BPF_MAP_UPDATE_ELEM, attr)
    SimulatedMap(fd).save(head=0)
    value[:] = bytes(value_size)
    bpf(Cmd.BPF_MAP_UPDATE_ELEM, attr)
    return "" if SimulatedMap(fd).peek() != b"\xaa" * value_size else "the first element was not overwritten."


def not_permitted(run: Run) -> str:
    refused = run.failed(Cmd.BPF_MAP_UPDATE_ELEM, errno.EPERM)
    if not refused:
        if any(call.fields["map_flags"] & 0x180 for call in run.of(Cmd.BPF_MAP_CREATE)):
            return "The flags that end with _PROG bind BPF programs, not processes. See `rawbpf explain create`."
        if run.failed(Cmd.BPF_MAP_FREEZE, errno.EPERM) or run.failed(Cmd.BPF_MAP_FREEZE, errno.EBUSY):
            return "The EPERM came from BPF_MAP_FREEZE. It is a push that is to be answered EPERM."
        if isinstance(run.error, ValueError):
            return "rawbpf itself refused that, and the kernel was not asked. The map must be open, and the push right."
        return "No push was answered EPERM. `rawbpf explain push` says at map_fd what it takes."
    # A map is known by its id: rawbpf freezes it through a descriptor of its own. What was refused before was not
    # refused because of that.
    frozen: set[int] = set()
    ways = set()
    for call in run.calls:
        if call.cmd == Cmd.BPF_MAP_FREEZE and call.map and not call.errno:
            frozen.add(call.map.id)
        elif call in refused and call.map:
            ways.add("map" if call.map.id in frozen else "descriptor")
    if ways == {"map"}:
        return "One way is done: the map is frozen. In the other the descriptor does not allow it: made or opened so."
    if ways == {"descriptor"} and run.error is None:
        return "One way is done: the descriptor is read-only. In the other the map itself is closed to pushes for ever."
    return "Catch the first NotPermitted, and go on with the other way." if len(ways) == 1 else ""


def anothers_pop(run: Run) -> str:
    path = run.names["path"]
    if not run.of(Cmd.BPF_OBJ_PIN):
        return "Nothing is pinned at `path` yet: q.pin(path)."
    if not os.path.exists(path):
        return "`path` has no pin. Pin the queue there, and leave the pin."
    if any(not call.errno for call in run.pops):
        return "You popped it yourself; the user nobody finds the queue empty. Leave the element in it."
    mode = os.stat(path).st_mode
    answered = _pop_as_nobody(path) if run.kernel == _REAL and os.getuid() == 0 else _judged_by_mode(mode)
    if answered == "EACCES":
        rights = {0: "neither read nor write", 4: "read, but not write", 2: "write, but not read"}.get(
            mode & 6, "do both, but not enter the folder"
        )
        return (
            f"BPF_OBJ_GET was answered EACCES. The pin's mode is {mode & 0o777:04o}: others may {rights}. A pop reads"
            " and takes away, so it takes both rights: the last octal digit is their sum."
        )
    if answered:
        return f"The user nobody was answered {answered}."
    if mode & 0o001:
        return "It works; but nothing is executed here: leave out the x of the mode."
    return ""


_REAL = "the running kernel"


def _judged_by_mode(mode: int) -> str:
    """Where nobody can become another user: what the kernel would answer by the file's mode."""
    return "" if mode & 0o006 == 0o006 else "EACCES"


def _pop_as_nobody(path: str) -> str:
    """Pops in a process of the user nobody; returns the errno's name, or "" if it worked."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answered = b"?"
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            with Queue.open(path, 4) as q:
                answered = b"" if q.pop() == b"abcd" else b"another element"
        except OSError as error:
            answered = errno.errorcode.get(error.errno or 0, "?").encode()
        finally:
            os.write(writer, answered)
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answered_there = pipe.read()
    os.waitpid(child, 0)
    return answered_there


# What the verifier says, and what to do about it.
_VERIFIER_HINTS = (
    ("R2 type=scalar", "r2 is to be the address of the value, which stands on the stack: mov(R2, R10), add(R2, -8)."),
    ("R2 !read_ok", "r2 was not set: the address of the value, mov(R2, R10), add(R2, -8)."),
    ("R1 ", "r1 is to be the map: load_map(R1, q.fileno()). At the beginning it is the program's context."),
    ("R3 !read_ok", "r3 was not set: the flags, mov(R3, 0). A helper's arguments are r1, r2, r3 ..."),
    ("R0 !read_ok", "r0 was not set: what the program returns, mov(R0, 0)."),
    ("invalid write to stack", "The stack ends at r10 and grows downwards: 8 bytes are from r10 - 8 on."),
    ("invalid read from stack", "The helper reads 8 bytes from where r2 points to: they must have been stored there."),
    ("not an exit", "A program ends with exit_()."),
    ("pointer arithmetic", "r10 can't be moved itself: copy it to r2, and add to that."),
    ("read only", "r10 can't be changed: copy it to r2, and add to that."),
)


def program(run: Run) -> str:
    q, code = run.names.get("q"), run.names.get("program")
    if not isinstance(q, QueueOrStack) or not isinstance(code, list):
        return "`q` is to be the queue, and `program` a list of instructions."
    if run.pushes:
        return "The push came from Python. It is the BPF program that is to push: call(Helper.BPF_FUNC_map_push_elem)."
    try:
        pushed = _run_program(code, q)
    except Refused as error:
        hint = next((hint for words, hint in _VERIFIER_HINTS if any(words in each for each in error.args)), "")
        return f'The verifier refuses the program: "{error.args[0]}". {hint}'
    except (ValueError, AttributeError) as error:
        return f"These are no instructions: {error}"
    if not pushed:
        return "The program ran and pushed nothing: call(Helper.BPF_FUNC_map_push_elem), before exit_()."
    if pushed == [42]:
        return ""
    return f"The program pushed {', '.join(map(str, pushed))}, and 42 is asked for, once, of 8 bytes (u64)."


def _run_program(code: list[Any], q: "QueueOrStack[Any]") -> list[Any]:
    """What the program pushed: on the running kernel there, else here."""
    if door.simulated is None:
        _run_in_kernel(code, q)
    else:
        try:
            pushed = interpret(code, {q.fileno(): q.value_size})
        except Unknown as error:
            raise Refused(f"the simulated kernel runs only what this exercise takes, and not {error}") from None
        _push_for_it(pushed)
    return list(_drained(q))


def _run_in_kernel(code: list[Any], q: "QueueOrStack[Any]") -> None:
    """Raises Refused with what the verifier says, and what the interpreter says: its words are the same on every
    kernel."""
    try:
        with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, code, name="exercise") as loaded:
            loaded.run(bytes(ETH_HLEN))
    except VerifierError as error:
        reasons = [_reason(error.log)]
        try:
            interpret(code, {q.fileno(): q.value_size})
        except (Refused, Unknown) as same:
            reasons.append(str(same))
        raise Refused(*reasons) from None


def _reason(log: str) -> str:
    """The line of the verifier's log that says why."""
    lines = [line for line in log.strip().splitlines() if line and not line.startswith(("processed", "verification"))]
    return lines[-1] if lines else "no reason given"


def _push_for_it(pushed: list[Pushed]) -> None:
    for push in pushed:
        value = bytearray(push.value)
        bpf(Cmd.BPF_MAP_UPDATE_ELEM, bpf_attr(map_fd=push.map_fd, value=pointer(value), flags=push.flags))


def _drained(q: "QueueOrStack[Any]") -> Iterator[Any]:
    with suppress(Empty):
        while True:
            yield q.pop()


# By the name of the exercise's file in docs/lessons.
CHECKS: dict[str, Check] = {
    "first-queue": first_queue,
    "full-and-not": full_and_not,
    "predict": predict,
    "by-hand": by_hand,
    "padded": padded,
    "from-the-future": from_the_future,
    "forgotten-sizes": forgotten_sizes,
    "not-permitted": not_permitted,
    "anothers-pop": anothers_pop,
    "program": program,
}
