"""The door where nothing could be compiled: door.c in Python, over cffi's ABI mode and libc's syscall(2).

door.py takes it if the extension is not there, or RAWBPF_DOOR=abi asks for it. The functions are those at the end of
bpf.h, and say there what they do; `ffi` reads the same text. Nothing checks the layout here when it is compiled, so the
tests do. It is slower, as filling an attr from Python costs more than the call.

What C does between two instructions takes many steps of Python here, and a signal handler may raise between any two
of them (see many.py for where). So an answer is noted, in a list that the caller gives, before a handler can run.
"""

import errno
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rawbpf._abi import ffi
from rawbpf.abi import Cmd

if TYPE_CHECKING:
    from rawbpf._native import CData

__all__ = [
    "bpf",
    "bpf_answer",
    "bpf_hooked",
    "bpf_syscall",
    "def_extern",
    "ffi",
    "map_lookup_and_delete_elem",
    "map_lookup_elem",
    "map_update_elem",
    "syscall_number",
]

# The number of bpf(2) on each family of machines, by the size of a pointer in bytes: a 32-bit Python on an x86-64 is an
# i386. The two 32-bit ABIs of a mips64 have two numbers, and nothing here tells which of them it is.
_NUMBERS = (
    (r"x86_64|i[3-6]86", {8: 321, 4: 357}),
    (r"aarch64.*|arm.*", {8: 280, 4: 386}),
    (r"riscv.*|loongarch.*", {8: 280, 4: 280}),
    (r"ppc.*", {8: 361, 4: 361}),
    (r"s390.*", {8: 351, 4: 351}),
    (r"sparc.*", {8: 349, 4: 349}),
    (r"mips64", {8: 5315}),
    (r"mips", {4: 4355}),
)


def syscall_number(machine: str, pointer_size: int) -> int | None:
    """The number of bpf(2) on a machine, as uname(2) names it, for programs with pointers of so many bytes; or None."""
    for pattern, numbers in _NUMBERS:
        if re.fullmatch(pattern, machine):
            return numbers.get(pointer_size)
    return None


_NR_BPF = syscall_number(os.uname().machine, ffi.sizeof("void *"))

# bpf.h declares it with the arguments of bpf(2): on no Linux does it matter that libc's takes any.
_syscall = ffi.dlopen(None).syscall
_errno: "partial[int]" = partial(getattr, ffi, "errno")
_called: Callable[["partial[int]"], int] = partial.__call__

_BUSY_TRIES = 10
_ATTR_SIZE = 32

# Plain ints, for the calls that are made most.
_LOOKUP, _UPDATE = int(Cmd.BPF_MAP_LOOKUP_ELEM), int(Cmd.BPF_MAP_UPDATE_ELEM)
_LOOKUP_AND_DELETE = int(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)

bpf_hooked: int = False
_hook: Callable[[int, "CData", int], int]


class _Thread(threading.local):
    """The answers to the call that a hook of this thread is busy with; the first one counts."""

    answers: list[int] | None = None


_thread = _Thread()


def def_extern(**_: object) -> Callable[[Any], Any]:
    """As in API mode, takes the Python function bpf_hook; but what it raises is raised by bpf() itself."""

    def take(function: Any) -> Any:
        global _hook
        _hook = function
        return function

    return take


def _enter_kernel(cmd: int, attr: "CData", size: int, answers: list[int]) -> int:
    if _NR_BPF is None:
        where = f"{os.uname().machine}, with pointers of {ffi.sizeof('void *')} bytes"
        help_ = "install it where there is a C compiler, which knows"
        raise OSError(errno.ENOSYS, f"rawbpf does not know the number of bpf(2) on {where}: {help_}")
    # The unpacking makes both calls: no handler comes between them, and none before `answers` is changed.
    result, error = map(_called, (partial(_syscall, _NR_BPF, cmd, attr, size), _errno))
    if result < 0:
        result = -error
    answers += (result,)
    return result


def _ask_hook(cmd: int, attr: "CData", size: int, answers: list[int]) -> int:
    mine: list[int] = []
    outer, _thread.answers = _thread.answers, mine  # outer: of a call whose hook makes this one
    try:
        result = _hook(cmd, ffi.cast("void *", attr), size)
        mine[:] = (result,)
        return result
    except BaseException:
        # Whatever bpf(2) answers above 0 is a descriptor, but for one command.
        if mine and mine[0] > 0 and cmd != Cmd.BPF_PROG_STREAM_READ_BY_FD:
            os.close(mine[0])
        raise
    finally:
        _thread.answers = outer
        answers += mine[:1]


def _bpf(cmd: int, attr: "CData", size: int, answers: list[int]) -> int:
    return _ask_hook(cmd, attr, size, answers) if bpf_hooked else _enter_kernel(cmd, attr, size, answers)


def bpf(cmd: int, attr: "CData", size: int) -> int:
    return _bpf(cmd, attr, size, [])


def bpf_syscall(cmd: int, attr: "CData", size: int) -> int:
    answers = _thread.answers
    return _enter_kernel(cmd, attr, size, [] if answers is None else answers)


def bpf_answer(result: int) -> int:
    answers = _thread.answers
    if answers is not None:
        answers += (result,)
    return result


def _element_command(cmd: int, fd: int, value: "CData", flags: int, answers: list[int]) -> int:
    attr = ffi.new("union bpf_attr *")
    attr.map_fd = fd & 0xFFFFFFFF
    attr.value = int(ffi.cast("uintptr_t", value))
    attr.flags = flags
    result = -errno.EBUSY
    for _ in range(_BUSY_TRIES):
        result = _bpf(cmd, attr, _ATTR_SIZE, answers)
        if result != -errno.EBUSY:
            break
    return result


def map_update_elem(fd: int, value: "bytes | CData", flags: int) -> int:
    data = ffi.from_buffer("char[]", value) if isinstance(value, bytes) else value
    return _element_command(_UPDATE, fd, data, flags, [])


def map_lookup_elem(element: "CData") -> int:
    return _element_command(_LOOKUP, element.map_fd, element.value, 0, [])


def map_lookup_and_delete_elem(element: "CData") -> int:
    answers: list[int] = []
    try:
        return _element_command(_LOOKUP_AND_DELETE, element.map_fd, element.value, 0, answers)
    finally:
        element.taken = 0 in answers
