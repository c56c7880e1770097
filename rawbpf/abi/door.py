"""The door: the one function, lib.bpf, through which every call enters the kernel, and who may stand there.

Nothing above the door knows whether the kernel answers or a simulated one, and whether a tracer looks on.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rawbpf.abi._native import FFI, CData, Lib

__all__ = [
    "FFI_MODE",
    "FFI_MODE_REASON",
    "HOOK_RAISED",
    "Hook",
    "Simulated",
    "ask_kernel",
    "batch_holding",
    "ffi",
    "forget_batches",
    "forget_calls",
    "lib",
    "new_batch",
    "new_map",
    "new_scratch",
    "perf_event_open",
    "raise_hook_failure",
    "set_hook",
    "set_perf_event_hook",
    "set_simulated",
]

if TYPE_CHECKING:
    DefExtern = Callable[..., Callable[[Callable[[int, CData, int, CData], None]], Any]]


def _choose(wanted: str) -> "tuple[str, str, FFI, Lib, DefExtern, Any]":
    """cffi's mode and why it is that; its ffi and lib; what makes a Python function the hook; and the module with
    new_map() and its like.

    "api" is the extension, compiled from bpf.h and door.c; "abi" does the same in Python, where it is not to be had.
    """
    if wanted not in ("", "api", "abi"):
        raise ImportError(f"RAWBPF_FFI is api or abi, not {wanted!r}")
    why = "RAWBPF_FFI asks for it"
    if wanted != "abi":
        try:
            from rawbpf.abi._native import ffi, lib
        except ImportError as error:
            if wanted == "api":
                raise
            why = str(error)
        else:
            from rawbpf.abi import batches

            return "api", why if wanted else "it is installed", ffi, lib, ffi.def_extern, batches
    from rawbpf.abi import python_door

    twin: Any = python_door
    return "abi", why, python_door.ffi, twin, python_door.def_extern, twin


FFI_MODE, FFI_MODE_REASON, ffi, lib, _def_extern, _made = _choose(os.environ.get("RAWBPF_FFI", ""))
new_map: "Callable[[int, int], CData]" = _made.new_map
new_batch: "Callable[[CData, int], tuple[CData, bytearray, memoryview]]" = _made.new_batch
batch_holding: "Callable[[CData], Iterator[object]]" = _made.batch_holding
new_scratch: "Callable[..., CData]" = _made.new_scratch
forget_batches: "Callable[[list[CData], list[CData]], None]" = _made.forget_batches
forget_calls: "Callable[[CData], None]" = _made.forget_calls

# What bpf(2) itself never answers, and so can have another meaning: the hook raised; the hook is a function of another
# interpreter in this process, which can't be called from here; the map was closed; another call has the batch.
HOOK_RAISED = -errno.EINTR
HOOK_ELSEWHERE = -errno.EUNATCH
MAP_CLOSED = -errno.ESHUTDOWN
BATCH_IN_USE = -errno.EALREADY

# Called as hook(cmd, attr, size) instead of the system call; answers as the kernel does, 0 or more or a negative
# errno. It gets the kernel's answer from ask_kernel(), or from the hook that it took the place of.
Hook = Callable[[int, "CData", int], int]


class Simulated(Protocol):
    """A kernel that is not there: what it answers to bpf(2), what its /proc says, where its bpffs is mounted.

    It runs no programs. What the library finds out with one it asks here: how many elements the map of a descriptor
    has, and which, in pop order. `limits` says what it does not do, for the errors of that.
    """

    limits: str

    def bpf(self, cmd: int, attr: "CData", size: int) -> int: ...
    def proc(self, path: str) -> str | None: ...
    def qsize(self, fd: int) -> int: ...
    def snapshot(self, fd: int) -> list[bytes]: ...
    def ring(self, fd: int) -> tuple[int, int, bytes]: ...
    @property
    def bpffs(self) -> str: ...


simulated: Simulated | None = None
_hook: Hook | None = None
_failure = threading.local()


def set_hook(hook: Hook | None) -> Hook | None:
    """Puts `hook` at the door, for all threads; None takes it away. Returns the one that stood there."""
    global _hook
    previous, _hook = _hook, hook
    _open_or_guard()
    return previous


def set_simulated(kernel: Simulated | None) -> Simulated | None:
    """Puts `kernel` in the place of the real one, for all threads; None brings that back. Returns the one before."""
    global simulated
    previous, simulated = simulated, kernel
    _open_or_guard()
    return previous


def _open_or_guard() -> None:
    lib.set_bpf_hooked(_hook is not None or simulated is not None)


def ask_kernel(cmd: int, attr: "CData", size: int) -> int:
    """The answer of the kernel behind the door, the real or the simulated one; no hook sees this call."""
    kernel = simulated
    return lib.bpf_syscall(cmd, attr, size) if kernel is None else kernel.bpf(cmd, attr, size)


def _remember(exception_type: type[BaseException], exception: BaseException, traceback: object) -> None:
    """C can't carry a hook's exception: keep it for raise_hook_failure."""
    _failure.exception = exception


@_def_extern(onerror=_remember)
def bpf_hook(cmd: int, attr: "CData", size: int, result: "CData") -> None:
    """What bpf() calls while calls are hooked. Another thread may just have taken the hook away."""
    result[0] = HOOK_RAISED
    result[0] = (_hook or ask_kernel)(cmd, attr, size)


def raise_hook_failure(result: int = 0) -> None:
    """Raises what this thread's hook raised during the last call, if that is what its negative `result` means; called
    on every failed call.

    As with any exception from a signal handler, the call may have been made nevertheless.
    """
    exception = getattr(_failure, "exception", None)
    if exception is not None:
        _failure.exception = None
        raise exception
    if result == HOOK_ELSEWHERE:
        raise RuntimeError(
            "trace() or simulate() is at work in another interpreter of this process, and can't be asked from this one"
        )


# The second door: perf_event_open(2)

# Called as hook(attr, pid, cpu, group_fd, flags, made) instead of the system call, which it makes itself by
# lib.perf_event_open(). A simulated kernel has no perf events.
PerfEventHook = Callable[["CData", int, int, int, int, "CData"], int]

_perf_event_hook: PerfEventHook | None = None


def set_perf_event_hook(hook: PerfEventHook | None) -> PerfEventHook | None:
    """Puts `hook` at the second door, for all threads; None takes it away. Returns the one that stood there."""
    global _perf_event_hook
    previous, _perf_event_hook = _perf_event_hook, hook
    return previous


def perf_event_open(attr: "CData", pid: int, cpu: int, group_fd: int, flags: int, made: "CData") -> int:
    """Opens a perf event: a descriptor above 2, which is in made[0] as soon as there is one, or a negative errno."""
    if simulated is not None:
        return -errno.ENOSYS
    return (_perf_event_hook or lib.perf_event_open)(attr, pid, cpu, group_fd, flags, made)
