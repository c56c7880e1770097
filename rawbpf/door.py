"""The door: the one function, lib.bpf, through which every call enters the kernel, and the hook that may stand there.

Nothing above the door knows whether the kernel answers, or a tracer that looks on, or a simulated kernel.
"""

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rawbpf._native import ffi, lib

if TYPE_CHECKING:
    from rawbpf._native import CData

__all__ = ["Hook", "ffi", "lib", "raise_hook_failure", "set_hook"]

# Called as hook(cmd, attr, size) instead of the system call; answers as the kernel does, 0 or more or a negative
# errno. lib.bpf_syscall is the system call itself.
Hook = Callable[[int, "CData", int], int]

_hook: Hook | None = None
_failure = threading.local()


def set_hook(hook: Hook | None) -> Hook | None:
    """Puts `hook` at the door, for all threads; None takes it away. Returns the one that stood there."""
    global _hook
    previous, _hook = _hook, hook
    lib.bpf_hooked = hook is not None
    return previous


def _remember(exception_type: type[BaseException], exception: BaseException, traceback: object) -> None:
    """C can't carry a hook's exception: keep it for raise_hook_failure."""
    _failure.exception = exception


# bpf(2) never answers EINTR, so it can stand for "the hook raised".
@ffi.def_extern(error=-errno.EINTR, onerror=_remember)
def bpf_hook(cmd: int, attr: "CData", size: int) -> int:
    """What bpf() calls while bpf_hooked is set. Another thread may just have taken the hook away."""
    return (_hook or lib.bpf_syscall)(cmd, attr, size)


def raise_hook_failure() -> None:
    """Raises what this thread's hook raised during the last call, if it did; called on every failed call."""
    exception = getattr(_failure, "exception", None)
    if exception is not None:
        _failure.exception = None
        raise exception
