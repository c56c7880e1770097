"""The door where nothing could be compiled: door.c in Python, over cffi's ABI mode and libc's syscall(2).

door.py takes it if the extension is not there, or RAWBPF_FFI=abi asks for it. The functions are those at the end of
bpf.h, and say there what they do; `ffi` reads the same text. Nothing checks the layout here when it is compiled, so the
tests do. It is slower, as filling an attr from Python costs more than the call.

What C does between two instructions takes many steps of Python here, and a signal handler may raise between any two
of them (see many.py for where). So an answer is noted, in a list that the caller gives, before a handler can run.
"""

import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from rawbpf.abi import BPF_COMMON_ATTRS, Cmd
from rawbpf.abi._cdef import ffi

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

__all__ = [
    "BPF_LOG_SIZE",
    "bpf",
    "bpf_answer",
    "bpf_hooked",
    "bpf_log",
    "bpf_open",
    "bpf_syscall",
    "def_extern",
    "ffi",
    "map_lookup_and_delete_elem",
    "map_lookup_elem",
    "map_retire",
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
_called: Callable[["partial[Any]"], Any] = partial.__call__

BPF_LOG_SIZE: int = ffi.integer_const("BPF_LOG_SIZE")

_BUSY_TRIES = 10
_ATTR_SIZE = 32
_U32 = 0xFFFFFFFF
_STDERR = 2

# Plain ints, for the calls that are made most.
_LOOKUP, _UPDATE = int(Cmd.BPF_MAP_LOOKUP_ELEM), int(Cmd.BPF_MAP_UPDATE_ELEM)
_LOOKUP_AND_DELETE = int(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)

bpf_hooked: int = False
_hook: Callable[[int, "CData", int], int]


class _Thread(threading.local):
    """Each thread's own: the answers to the call that its hook is busy with, of which the first one counts; and what
    the kernel says in words, with struct bpf_common_attr, which says where."""

    answers: list[int] | None = None

    def __init__(self) -> None:
        self.words = ffi.new("char[]", BPF_LOG_SIZE)
        self.common = ffi.new("uint32_t[]", 6)
        ffi.cast("uint64_t *", self.common)[0] = int(ffi.cast("uintptr_t", self.words))
        self.common[2], self.common[3] = BPF_LOG_SIZE, 1


_thread = _Thread()


def def_extern(**_: object) -> Callable[[Any], Any]:
    """As in API mode, takes the Python function bpf_hook; but what it raises is raised by bpf() itself."""

    def take(function: Any) -> Any:
        global _hook
        _hook = function
        return function

    return take


def _entering(cmd: int, attr: "CData", size: int) -> Iterator[int]:
    """The system call and then its errno, made when they are unpacked: no handler can run in between."""
    if _NR_BPF is None:
        where = f"{os.uname().machine}, with pointers of {ffi.sizeof('void *')} bytes"
        help_ = "install it where there is a C compiler, which knows"
        raise OSError(errno.ENOSYS, f"rawbpf does not know the number of bpf(2) on {where}: {help_}")
    # The kernel looks at the last two only if the command has BPF_COMMON_ATTRS.
    common, length = (_thread.common, 24) if cmd & BPF_COMMON_ATTRS else (ffi.NULL, 0)
    return map(_called, (partial(_syscall, _NR_BPF, cmd, attr, size, common, length), _errno))


def _enter_kernel(cmd: int, attr: "CData", size: int, answers: list[int]) -> int:
    # From the unpacking to the change of `answers` there is no call, so no handler runs.
    result, error = _entering(cmd, attr, size)
    if result < 0:
        result = -error
    answers += (result,)
    return result


def _enter_with_map(cmd: int, m: "CData", attr: "CData", answers: list[int]) -> int:
    """As _enter_kernel(), counted. A handler that closes the map waits for calls to end: none may run meanwhile."""
    entering = _entering(cmd, attr, _ATTR_SIZE)
    m.calls += 1
    attr.map_fd = m.fd & _U32
    result, error = entering
    m.calls -= 1
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
            made, mine[0] = mine[0], -errno.EINTR
            os.close(made)
        raise
    finally:
        _thread.answers = outer
        answers += mine[:1]


def _bpf(cmd: int, attr: "CData", size: int, answers: list[int]) -> int:
    if cmd & BPF_COMMON_ATTRS:
        _thread.words[0] = b"\0"
    return _ask_hook(cmd, attr, size, answers) if bpf_hooked else _enter_kernel(cmd, attr, size, answers)


def bpf(cmd: int, attr: "CData", size: int) -> int:
    return _bpf(cmd, attr, size, [])


def bpf_log() -> "CData":
    return _thread.words


def bpf_open(cmd: int, attr: "CData", size: int, made: "CData") -> int:
    answers: list[int] = []
    try:
        result = _bpf(cmd, attr, size, answers)
    finally:
        if answers:
            made[0] = answers[-1]
    if 0 <= result <= _STDERR:
        moving: partial[Any] = partial(fcntl.fcntl, result, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
        try:
            result, _ = map(_called, (moving, partial(os.close, result)))
        except OSError as error:
            os.close(result)
            result = -(error.errno or errno.EMFILE)
        made[0] = result
    return result


def bpf_syscall(cmd: int, attr: "CData", size: int) -> int:
    answers = _thread.answers
    return _enter_kernel(cmd, attr, size, [] if answers is None else answers)


def bpf_answer(result: int) -> int:
    answers = _thread.answers
    if answers is not None:
        answers += (result,)
    return result


def map_retire(m: "CData") -> None:
    m.fd = -1
    while m.calls:
        time.sleep(0.00005)


def _element_command(cmd: int, m: "CData", value: "CData", flags: int, answers: list[int]) -> int:
    attr = ffi.new("union bpf_attr *")
    attr.value = int(ffi.cast("uintptr_t", value))
    attr.flags = flags
    result = -errno.EBUSY
    for _ in range(_BUSY_TRIES):
        if bpf_hooked:
            attr.map_fd = m.fd & _U32
            result = _ask_hook(cmd, attr, _ATTR_SIZE, answers)
        else:
            result = _enter_with_map(cmd, m, attr, answers)
        if result != -errno.EBUSY:
            break
    return result


def map_update_elem(m: "CData", value: "bytes | CData", flags: int) -> int:
    data = ffi.from_buffer("char[]", value) if isinstance(value, bytes) else value
    return _element_command(_UPDATE, m, data, flags, [])


def map_lookup_elem(element: "CData") -> int:
    return _element_command(_LOOKUP, element.map, element.value, 0, [])


def map_lookup_and_delete_elem(element: "CData") -> int:
    answers: list[int] = []
    try:
        return _element_command(_LOOKUP_AND_DELETE, element.map, element.value, 0, answers)
    finally:
        element.taken = 0 in answers
