"""tracefs, the file system in which the kernel numbers its tracepoints and lists the functions that can be traced.

Where it is not mounted it is opened all the same, and mounted nowhere: fsmount(2) gives a descriptor of a file system
that nobody else sees (Linux 5.2, CAP_SYS_ADMIN).

Sources: Documentation/trace/ftrace.rst, fs/namespace.c, fs/fsopen.c.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

from rawbpf.syscall.errors import NotFound, Unsupported
from rawbpf.syscall.perf_event import PERF_EVENT_OPEN

# The second is mounted when it is looked at, if debugfs is mounted.
_MOUNTED_AT = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# These numbers are the same on all machines that python_door.py knows, but for mips, where they are no system calls.
_NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1


def event_id(name: str) -> int:
    """The number of a tracepoint ("sched/sched_process_exec"), which perf_event_open(2) takes.

    Raises NotFound if there is none of this name, Unsupported if tracefs can't be opened.
    """
    with _root() as root:
        try:
            return int(_read(f"{root}/events/{name}/id"))
        except (FileNotFoundError, NotADirectoryError):
            hint = "tracepoints are named category/name, as tracefs has them in events/"
            raise NotFound(errno.ENOENT, f"there is no tracepoint {name!r}", PERF_EVENT_OPEN, hint) from None


def traceable_functions(pattern: str) -> list[str]:
    """The kernel's functions whose names match the pattern and that can be traced; of several with one name, one.

    Raises Unsupported if tracefs can't be opened, or the kernel lists none (CONFIG_DYNAMIC_FTRACE).
    """
    with _root() as root:
        try:
            lines = _read(f"{root}/available_filter_functions").splitlines()
        except FileNotFoundError:
            raise Unsupported(
                errno.EOPNOTSUPP, "this kernel can't trace functions (CONFIG_DYNAMIC_FTRACE)", PERF_EVENT_OPEN
            ) from None
    # A function of a module has "[module]" behind it. Addresses that have no name are not meant.
    names = (line.split(maxsplit=1)[0] for line in lines)
    return sorted({name for name in names if fnmatchcase(name, pattern) and not name.startswith("__ftrace_invalid_")})


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


@contextmanager
def _root() -> Iterator[str]:
    """The path of tracefs's root: where it is mounted, or else of a descriptor that is open for so long."""
    mounted = next((path for path in _MOUNTED_AT if os.path.isdir(f"{path}/events")), None)
    if mounted is not None:
        yield mounted
        return
    # Not every Python has ctypes, and it takes its time to be imported.
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    context = root = -1
    try:
        # Unpacking makes the call: no signal handler can raise between that and the assignment.
        (context,) = map(partial.__call__, (partial(syscall, _NR_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC),))
        _check(context, ctypes.get_errno())
        result = syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        _check(result, ctypes.get_errno())
        try:
            (root,) = map(partial.__call__, (partial(syscall, _NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0),))
            _check(root, ctypes.get_errno())
            yield f"/proc/self/fd/{root}"
        finally:
            if root >= 0:
                os.close(root)
    finally:
        if context >= 0:
            os.close(context)


def _check(result: int, error: int) -> None:
    if result < 0:
        what = f"tracefs is not mounted where this process can read it, nor may it be opened: {os.strerror(error)}"
        help_ = "mount -t tracefs tracefs /sys/kernel/tracing; a container is given it as a volume"
        raise Unsupported(error, what, PERF_EVENT_OPEN, help_)
