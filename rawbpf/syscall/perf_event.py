"""perf_event_open(2), and the two things done with its descriptor here: a program is set on it, and it is enabled.

Kprobes, uprobes, tracepoints and counters are perf events. bpf(2) attaches a program to one (BPF_LINK_CREATE with
BPF_PERF_EVENT) since Linux 5.15; before that an ioctl(2) does.

Sources: perf_event_open(2), kernel/events/core.c, kernel/trace/trace_event_perf.c.
"""

import errno
import fcntl
import os
import re
import sys

from rawbpf.abi import Cmd, door
from rawbpf.abi.door import ffi
from rawbpf.syscall.errors import AlreadyExists, BpfError, NotFound, NotPermitted, Unsupported, strerror
from rawbpf.syscall.permission import is_privileged, lacking
from rawbpf.syscall.proc import Capability

PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 8

# The bit-field `freq` of struct perf_event_attr is the eleventh of 64 bits.
_FREQ = 1 << (10 if sys.byteorder == "little" else 63 - 10)

# These machines number ioctls in their own way (asm/ioctl.h).
_OWN_IOCTLS = re.match(r"mips|ppc|sparc|alpha", os.uname().machine) is not None
_IOC_SET_BPF, _IOC_ENABLE = (0x80042408, 0x20002400) if _OWN_IOCTLS else (0x40042408, 0x2400)


def _beside_bpf(name: str) -> Cmd:
    """What stands in BpfError.cmd for a system call that is no command of bpf(2)."""
    call = Cmd(-1)
    call._name_ = name
    return call


PERF_EVENT_OPEN = _beside_bpf("perf_event_open")
_SET_BPF = _beside_bpf("ioctl(PERF_EVENT_IOC_SET_BPF)")
_ENABLE = _beside_bpf("ioctl(PERF_EVENT_IOC_ENABLE)")

# What an errno means here: the class to raise, and what would help.
_MEANINGS: dict[int, tuple[type[BpfError], str]] = {
    errno.ENOENT: (NotFound, "there is no such event, function or file"),
    errno.ESRCH: (NotFound, "there is no such process"),
    errno.EADDRNOTAVAIL: (
        BpfError,
        "several functions have this name: give an address, or 'module:name'",
    ),
    errno.EILSEQ: (BpfError, "no instruction begins at this offset"),
    errno.EINVAL: (BpfError, "an offset is wrong, or the kernel keeps this function free of probes"),
    errno.ENOSYS: (Unsupported, "this kernel was built without perf events (CONFIG_PERF_EVENTS)"),
    errno.EOPNOTSUPP: (Unsupported, "this kernel or machine has no such event"),
    errno.ENODEV: (Unsupported, "this kernel or machine has no such event"),
    errno.EEXIST: (AlreadyExists, "a program is set on it already, or this one on the same tracepoint"),
    errno.E2BIG: (BpfError, "an event takes at most 64 programs"),
}


def perf_event_open(
    subject: str,
    event_type: int,
    config: int,
    *,
    config1: int = 0,
    config2: int = 0,
    sample_period: int = 0,
    sample_freq: int = 0,
    pid: int = -1,
    cpu: int = 0,
) -> int:
    """perf_event_open(2): opens a perf event, returns its descriptor (close-on-exec, never 0, 1 or 2).

    The arguments are those of struct perf_event_attr. `pid` -1 stands for all processes, `cpu` -1 for all processors,
    one of which must be named. `subject` names the event in errors.

    Raises NotFound (ENOENT, ESRCH), Unsupported (ENOSYS, EOPNOTSUPP, ENODEV), NotPermitted (EPERM, EACCES: CAP_PERFMON
    is missing; of uprobes, and before Linux 5.8, CAP_SYS_ADMIN), BpfError (EINVAL, EILSEQ, EADDRNOTAVAIL, EMFILE).
    """
    attr = ffi.new(
        "struct perf_event_attr *",
        {
            "type": event_type,
            "size": ffi.sizeof("struct perf_event_attr"),
            "config": config,
            "sample_period": sample_freq or sample_period,
            "bits": _FREQ if sample_freq else 0,
            "config1": config1,
            "config2": config2,
        },
    )
    # A signal handler that raises leaves no descriptor open that nobody knows.
    made = ffi.new("int32_t *", -1)
    try:
        result = door.perf_event_open(attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC, made)
    except BaseException:
        if made[0] >= 0:
            os.close(made[0])
        raise
    if result < 0:
        raise perf_event_error(PERF_EVENT_OPEN, -result, subject)
    return result


def perf_event_set_bpf(fd: int, prog_fd: int, subject: str) -> None:
    """ioctl(PERF_EVENT_IOC_SET_BPF): attaches a program to a perf event, until that is closed. Linux 4.1."""
    _ioctl(_SET_BPF, fd, _IOC_SET_BPF, prog_fd, subject)


def perf_event_enable(fd: int, subject: str) -> None:
    """ioctl(PERF_EVENT_IOC_ENABLE): lets a perf event happen that was opened disabled."""
    _ioctl(_ENABLE, fd, _IOC_ENABLE, 0, subject)


def _ioctl(call: Cmd, fd: int, request: int, argument: int, subject: str) -> None:
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise perf_event_error(call, error.errno or 0, subject) from None


def perf_event_error(call: Cmd, error: int, subject: str) -> BpfError:
    """The exception for a failed call: `error` is the positive errno."""
    if error in (errno.EPERM, errno.EACCES):
        return NotPermitted(error, f"{subject}: not permitted", call, _why_not_permitted())
    kind, hint = _MEANINGS.get(error, (BpfError, ""))
    return kind(error, f"{subject}: {strerror(error)}", call, hint)


def _why_not_permitted() -> str:
    # Of uprobes too, perf_uprobe_event_init() asks for CAP_SYS_ADMIN.
    for capability in (Capability.CAP_PERFMON, Capability.CAP_SYS_ADMIN):
        if is_privileged(capability) is False:
            return str(lacking(capability))
    return "a seccomp filter or a security module may refuse perf_event_open(2): containers mostly do (a guess)"
