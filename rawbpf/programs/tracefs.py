"""tracefs, the file system in which the kernel numbers its tracepoints and lists the functions that can be traced.

Where it is not mounted it is opened all the same, and mounted nowhere: fsmount(2) gives a descriptor of a file system
that nobody else sees (Linux 5.2, CAP_SYS_ADMIN).

Source: Documentation/trace/ftrace.rst, fs/namespace.c.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

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
    with _opened() as folder:
        try:
            return int(_read(folder, f"events/{name}/id"))
        except (FileNotFoundError, NotADirectoryError):
            hint = "tracepoints are named category/name, as tracefs has them in events/"
            raise NotFound(errno.ENOENT, f"there is no tracepoint {name!r}", PERF_EVENT_OPEN, hint) from None


def traceable_functions(pattern: str) -> list[str]:
    """The kernel's functions whose names match the pattern and that can be traced; of several with one name, one.

    Raises Unsupported if tracefs can't be opened, or the kernel lists none (CONFIG_DYNAMIC_FTRACE).
    """
    with _opened() as folder:
        try:
            lines = _read(folder, "available_filter_functions").splitlines()
        except FileNotFoundError:
            raise Unsupported(
                errno.EOPNOTSUPP, "this kernel can't trace functions (CONFIG_DYNAMIC_FTRACE)", PERF_EVENT_OPEN
            ) from None
    # A function of a module has "[module]" behind it. Addresses that have no name are not meant.
    names = (line.partition(" ")[0].partition("\t")[0] for line in lines)
    return sorted({name for name in names if fnmatchcase(name, pattern) and not name.startswith("__ftrace_invalid_")})


def is_traceable(function: str) -> bool | None:
    """Whether the kernel lists this function among those that can be traced; None if it does not tell."""
    with suppress(OSError):
        return bool(traceable_functions(function.replace("[", "[[]")))
    return None


@contextmanager
def _opened() -> Iterator[int]:
    """A descriptor of tracefs's root."""
    folder = -1
    try:
        for path in _MOUNTED_AT:
            with suppress(OSError):
                if os.path.isdir(f"{path}/events"):
                    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
                    break
        else:
            folder = _mounted_nowhere()
        yield folder
    finally:
        if folder >= 0:
            os.close(folder)


def _mounted_nowhere() -> int:
    # Python has no ctypes everywhere, and it takes its time to be imported.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: int | bytes | None) -> int:
        result: int = libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            error = ctypes.get_errno()
            help_ = "mount it (mount -t tracefs tracefs /sys/kernel/tracing); in a container, pass it in"
            raise Unsupported(error, f"tracefs is not mounted ({os.strerror(error)})", PERF_EVENT_OPEN, help_)
        return result

    context = call(_NR_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    try:
        call(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _read(folder: int, path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)) as file:
        return file.read()
