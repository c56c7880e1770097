"""The tour: a queue and a stack at work in the running kernel, with the bpf(2) call behind each step.

The calls are not told from memory: a hook at the door (door.py) sees what passes.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rawbpf import bpffs
from rawbpf.abi import BPF_EXIST, Cmd
from rawbpf.door import ask_kernel, set_hook
from rawbpf.errors import BpfError, Empty, Full, NotPermitted, errno_name
from rawbpf.maps import Queue, Stack


def main() -> int:
    """Runs the tour on stdout. Returns 0; 4 if it is not permitted, 1 if this kernel can't, and stderr says why."""
    try:
        with _narrated():
            _queue()
            _stack()
            _sharing()
    except NotPermitted as error:
        print(f"rawbpf: {error}", file=sys.stderr)
        return 4
    except BpfError as error:
        print(f"rawbpf: this kernel can't run the tour: {error}", file=sys.stderr)
        return 1
    print("\nThe maps are gone with their last descriptor; nothing is left behind.")
    return 0


_passed: list[str] = []


@contextmanager
def _narrated() -> Iterator[None]:
    """Notes each call that passes the door, for _show()."""
    calls = _passed

    def hook(cmd: int, attr: object, size: int) -> int:
        result: int = ask_kernel(cmd, attr, size)  # type: ignore[arg-type]
        answer = str(result) if result >= 0 else f"-1 {errno_name(-result)}"
        calls.append(f"{Cmd(cmd).name} = {answer}")
        return result

    previous = set_hook(hook)
    try:
        yield
    finally:
        set_hook(previous)


def _show(code: str, outcome: object = None) -> None:
    """Prints a line of Python, what it returned, and the system calls it made."""
    print(f"  >>> {code}")
    if outcome is not None:
        print(f"      {outcome}")
    for call in _passed:
        print(f"        bpf: {call}")
    _passed.clear()


def _queue() -> None:
    print("A queue: first in, first out. Room for 3 values of 4 bytes.\n")
    with Queue("<I", 3, name="tour_queue") as q:
        _show('q = Queue("<I", 3, name="tour_queue")', q)
        for number in (1, 2, 3):
            q.push(number)
            _show(f"q.push({number})")
        try:
            q.push(4)
        except Full as full:
            _show("q.push(4)", f"{type(full).__name__}: {full.strerror}")
        q.push(4, BPF_EXIST)
        _show("q.push(4, BPF_EXIST)", "the oldest, 1, is overwritten")
        _show("q.peek()", q.peek())
        for _ in range(3):
            _show("q.pop()", q.pop())
        try:
            q.pop()
        except Empty as empty:
            _show("q.pop()", f"{type(empty).__name__}: {empty.strerror}")


def _stack() -> None:
    print("\nA stack: last in, first out.\n")
    with Stack("<I", 3, name="tour_stack") as s:
        _show('s = Stack("<I", 3, name="tour_stack")', s)
        for number in (1, 2, 3):
            s.push(number)
            _show(f"s.push({number})")
        s.push(4, BPF_EXIST)
        _show("s.push(4, BPF_EXIST)", "the oldest, 1, at the bottom, is overwritten")
        _show("s.peek()", s.peek())
        for _ in range(3):
            _show("s.pop()", s.pop())
        _show("s.pop(default=None)", repr(s.pop(default=None)))


def _sharing() -> None:
    print("\nA queue shared with another process through its pin in a bpffs.\n")
    try:
        with bpffs.mounted() as folder:
            _share(os.path.join(folder, "tour_queue"))
    except NotPermitted:
        raise
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        print("  Skipped: mounting a bpffs needs CAP_SYS_ADMIN, which this process does not have.")


def _share(path: str) -> None:
    with Queue("<I", 3, name="tour_shared") as q:
        _passed.clear()
        q.pin(path)
        _show(f"q.pin({path!r})")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os._exit(_child(path))
        os.waitpid(child, 0)
        _show("q.pop()", f"{q.pop()}, pushed by process {child}")
        os.unlink(path)
        print("  >>> os.unlink(path)")


def _child(path: str) -> int:
    print(f"  in process {os.getpid()}:")
    with Queue.open(path, "<I") as q:
        _show("q = Queue.open(path, '<I')", q)
        q.push(42)
        _show("q.push(42)")
    sys.stdout.flush()
    return 0
