"""Entering the kernel from Python, where nothing could be compiled: over cffi's ABI mode and libc's syscall(2).

An exception may come between any two steps of Python: from a signal handler, a trace function, a failing allocation.
What the kernel answered must be noted nevertheless. So the system call and the notes on its answer are one chain of
functions written in C, which any() runs: the interpreter does not get its turn in between.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from itertools import chain
from operator import setitem
from typing import TYPE_CHECKING, Any

from rawbpf.abi.constants import BPF_COMMON_ATTRS, Cmd
from rawbpf.abi.python_ffi import ffi
from rawbpf.abi.syscall_number import syscall_number

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_NR_BPF, _NR_PERF_EVENT_OPEN = (
    syscall_number(os.uname().machine, ffi.sizeof("void *"), name) for name in ("bpf", "perf_event_open")
)

# bpf.h declares it with the arguments of bpf(2): on no Linux does it matter that libc's takes any.
_syscall = ffi.dlopen(None).syscall
copy_descriptor: Callable[[int, int, int], int] = fcntl.fcntl
_perf_event_open: Any = ffi.cast("long (*)(long, struct perf_event_attr *, int, int, int, unsigned long)", _syscall)

BPF_LOG_SIZE: int = ffi.integer_const("BPF_LOG_SIZE")
STDERR = 2
HOOK_ELSEWHERE = -errno.EUNATCH
UNANSWERED = 1 << 31  # no errno, and no answer of bpf(2)

hooked = False
_hook: Callable[[int, "CData", int, list[int]], None]


class _Thread(threading.local):
    """Each thread's own: the answer to the call that its hook is busy with; and what the kernel says in words, with
    struct bpf_common_attr, which says where."""

    answer: "list[int] | None" = None

    def __init__(self) -> None:
        self.words = ffi.new("char[]", BPF_LOG_SIZE)
        self.common = ffi.new("uint32_t[]", 6)
        ffi.cast("uint64_t *", self.common)[0] = int(ffi.cast("uintptr_t", self.words))
        self.common[2], self.common[3] = BPF_LOG_SIZE, 1


_thread = _Thread()


def def_extern(**options: Any) -> Callable[[Any], Any]:
    """As in API mode, takes the Python function bpf_hook; but what it raises is raised by bpf() itself."""

    def take(function: Any) -> Any:
        global _hook
        _hook = function
        return function

    return take


def set_bpf_hooked(on: int) -> None:
    global hooked
    hooked = bool(on)


def entering(cmd: int, attr: "CData", size: int) -> "map[Any]":
    """The system call, made when the iterator is asked for its answer."""
    if _NR_BPF is None:
        raise _number_not_known("bpf(2)")
    # The kernel looks at the last two only if the command has BPF_COMMON_ATTRS.
    common, length = (_thread.common, 24) if cmd & BPF_COMMON_ATTRS else (ffi.NULL, 0)
    return map(_syscall, (_NR_BPF,), (cmd,), (attr,), (size,), (common,), (length,))


def _number_not_known(name: str) -> OSError:
    where = f"{os.uname().machine}, with pointers of {ffi.sizeof('void *')} bytes"
    help_ = "install it where there is a C compiler, which knows"
    return OSError(errno.ENOSYS, f"rawbpf does not know the number of {name} on {where}: {help_}")


def noting_errno(answer: list[int]) -> "map[None]":
    return map(setitem, (answer,), (1,), map(getattr, (ffi,), ("errno",)))


def result_of(answer: list[int]) -> int:
    """What the kernel said: libc has put its errno apart."""
    return answer[0] if answer[0] >= 0 else -answer[1]


def _enter_kernel(cmd: int, attr: "CData", size: int, answer: list[int]) -> int:
    any(chain(map(setitem, (answer,), (0,), entering(cmd, attr, size)), noting_errno(answer)))
    return result_of(answer)


def ask_hook(cmd: int, attr: "CData", size: int, answer: list[int]) -> int:
    outer, _thread.answer = _thread.answer, answer  # outer: of a call whose hook makes this one
    result = [HOOK_ELSEWHERE]
    try:
        _hook(cmd, ffi.cast("void *", attr), size, result)
    except BaseException:
        # Whatever bpf(2) answers above 0 is a descriptor, but for one command.
        made = result_of(answer)
        if made > 0 and answer[0] != UNANSWERED and cmd != Cmd.BPF_PROG_STREAM_READ_BY_FD:
            answer[0] = UNANSWERED
            os.close(made)
        raise
    finally:
        _thread.answer = outer
    return result[0]


def _bpf(cmd: int, attr: "CData", size: int, answer: list[int]) -> int:
    if cmd & BPF_COMMON_ATTRS:
        _thread.words[0] = b"\0"
    return ask_hook(cmd, attr, size, answer) if hooked else _enter_kernel(cmd, attr, size, answer)


def bpf(cmd: int, attr: "CData", size: int) -> int:
    return _bpf(cmd, attr, size, [UNANSWERED, 0])


def bpf_log() -> "CData":
    return _thread.words


def bpf_open(cmd: int, attr: "CData", size: int, made: "CData") -> int:
    answer = [UNANSWERED, 0]
    try:
        result = _bpf(cmd, attr, size, answer)
    finally:
        # No call here, in which a signal handler might run.
        if answer[0] != UNANSWERED:
            made[0] = answer[0] if answer[0] >= 0 else -answer[1]
    return _above_stderr(result, made)


def _above_stderr(result: int, made: "CData") -> int:
    """Leaves a new descriptor in made[0], moved above 2; or the errno, as it is."""
    made[0] = result
    if 0 <= result <= STDERR:
        moved = [-1]
        try:
            any(map(setitem, (moved,), (0,), map(copy_descriptor, (result,), (fcntl.F_DUPFD_CLOEXEC,), (STDERR + 1,))))
        except OSError as error:
            moved[0] = -(error.errno or errno.EMFILE)
        finally:
            made[0] = moved[0]
            os.close(result)
    return int(made[0])


def bpf_syscall(cmd: int, attr: "CData", size: int) -> int:
    answer = _thread.answer
    # Only the first answer is that of the call which the hook is asked about.
    if answer is None or answer[0] != UNANSWERED:
        answer = [UNANSWERED, 0]
    return _enter_kernel(cmd, attr, size, answer)


def bpf_answer(result: int) -> int:
    answer = _thread.answer
    if answer is not None and answer[0] == UNANSWERED:
        answer[:] = (result, 0) if result >= 0 else (-1, -result)
    return result


# The second door


def perf_event_open(attr: "CData", pid: int, cpu: int, group_fd: int, flags: int, made: "CData") -> int:
    if _NR_PERF_EVENT_OPEN is None:
        raise _number_not_known("perf_event_open(2)")
    answer = [UNANSWERED, 0]
    number = _NR_PERF_EVENT_OPEN
    entering = map(_perf_event_open, (number,), (attr,), (pid,), (cpu,), (group_fd,), (flags,))
    try:
        any(chain(map(setitem, (answer,), (0,), entering), noting_errno(answer)))
    finally:
        # No call here, in which a signal handler might run.
        if answer[0] != UNANSWERED:
            made[0] = answer[0] if answer[0] >= 0 else -answer[1]
    return _above_stderr(result_of(answer), made)
