"""The commands for programs: loading, running, finding them, and what belongs to one.

Sources: kernel/bpf/syscall.c (bpf_prog_load and its neighbours), net/bpf/test_run.c, kernel/bpf/stream.c.
"""

import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.abi import Cmd, ProgFlag, ProgType, StatsType, TaskFdType
from rawbpf.abi.door import ffi
from rawbpf.syscall import memlock
from rawbpf.syscall.call import address_of, bpf_attr, call, fd_by_id, next_id, open_descriptor, pointer
from rawbpf.syscall.errors import VerifierError, bpf_error
from rawbpf.syscall.rules import check_fd, check_name, u32

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData

# PROG_LOAD is EAGAIN when a signal arrives while the verifier is at work.
_LOAD_TRIES = 10
_LOG_SIZES = (1 << 16, 1 << 20, 1 << 24)

# What makes a run's packet longer than it was: bpf_skb_adjust_room() and the like.
_ROOM_TO_GROW = 256


class RunResult(NamedTuple):
    """What a run gave: the program's return value, nanoseconds of one run, the packet and the context afterwards."""

    retval: int
    duration: int
    data: bytes
    ctx: bytes


class TaskFd(NamedTuple):
    """What a descriptor of a process is attached to: the program's id, and a tracepoint's or function's name; for a
    probe the offset in it, or its address."""

    prog_id: int
    fd_type: TaskFdType
    name: str
    probe_offset: int
    probe_addr: int


def prog_load(
    prog_type: int,
    prog_name: str,
    license: str,  # noqa: A002
    insns: "Buffer",
    *,
    token_fd: int | None = None,
    **more: "int | Buffer",
) -> int:
    """BPF_PROG_LOAD: loads a program, returns its descriptor (close-on-exec, never 0, 1 or 2).

    `insns` are the instructions, 8 bytes each. `more` is what the attr has besides, by its name in the union: numbers
    (expected_attach_type, prog_flags, attach_btf_id ...), and bytes for what it has an address of (func_info,
    core_relos, fd_array ...), beside which their count and size must be given. `token_fd` sets BPF_F_TOKEN_FD.

    Raises VerifierError (EACCES, EINVAL ...; its `log` says why), NotPermitted (EPERM), BpfError (E2BIG: more than a
    million instructions; ENOMEM, EMFILE). Needs CAP_BPF, and CAP_PERFMON or CAP_NET_ADMIN by the type of the program;
    before Linux 5.8 CAP_SYS_ADMIN. Linux 3.18. In the kernel: bpf_prog_load().
    """
    code = memoryview(insns).tobytes()
    if len(code) % 8:
        raise ValueError(f"{len(code)} bytes of instructions: each has 8")
    kept = {"insns": ffi.new("char[]", code), "license": ffi.new("char[]", license.encode())}
    numbers: dict[str, int] = {}
    for name, value in more.items():
        if isinstance(value, int):
            numbers[name] = value
        else:
            kept[name] = ffi.new("char[]", memoryview(value).tobytes())
    if token_fd is not None:
        numbers["prog_flags"] = numbers.get("prog_flags", 0) | ProgFlag.BPF_F_TOKEN_FD
        numbers["prog_token_fd"] = check_fd(token_fd)
    attr = bpf_attr(
        prog_type=u32("prog_type", prog_type),
        insn_cnt=len(code) // 8,
        prog_name=check_name(prog_name),
        **numbers,
        **{name: address_of(data) for name, data in kept.items()},
    )
    return load(attr, f"program {prog_name!r}" if prog_name else f"the program of type {ProgType(prog_type).name}")


def load(attr: "CData", subject: str) -> int:
    """BPF_PROG_LOAD with an attr that is filled already; `subject` names it in errors. If the kernel refuses, it is
    asked again with a log."""
    result = _load(attr)
    if result < 0:
        raise _why_not_loaded(attr, result, subject)
    return result


def _load(attr: "CData") -> int:
    """The call, made again when a signal disturbed the verifier."""
    result = 0
    for _ in range(_LOAD_TRIES):
        result = open_descriptor(Cmd.BPF_PROG_LOAD, attr)
        if result != -errno.EAGAIN:
            break
    if result == -errno.EPERM:
        result, _ = memlock.retry(result, lambda: open_descriptor(Cmd.BPF_PROG_LOAD, attr))
    return result


def _why_not_loaded(attr: "CData", result: int, subject: str) -> Exception:
    """Loads again with a log, a larger one while it does not fit (ENOSPC)."""
    log = b""
    again = result
    if result not in (-errno.EPERM, -errno.EAGAIN, -errno.EMFILE, -errno.ENFILE):
        attr.log_level = 1
        for size in _LOG_SIZES:
            buffer = ffi.new("char[]", size)
            attr.log_buf, attr.log_size = address_of(buffer), size
            again = _load(attr)
            log = ffi.string(buffer)
            if again != -errno.ENOSPC:
                break
        if again >= 0:
            os.close(again)
    flags = (flag for flag in ProgFlag if flag & attr.prog_flags)
    error = bpf_error(Cmd.BPF_PROG_LOAD, -result, subject=subject, needs=(ProgType(attr.prog_type), *flags))
    if type(error).__name__ != "BpfError" or not log:
        return error
    refused = VerifierError(-result, f"the verifier refused {subject}", Cmd.BPF_PROG_LOAD, subject=subject)
    refused.log = log.decode("utf-8", "replace").rstrip("\n")
    return refused


def prog_test_run(
    prog_fd: int,
    *,
    data_in: "Buffer" = b"",
    ctx_in: "Buffer" = b"",
    repeat: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch_size: int = 0,
    subject: str = "",
) -> RunResult:
    """BPF_PROG_TEST_RUN: runs a program in the kernel, once or `repeat` times, over a packet and a context.

    Which of the two a program takes depends on its type: socket filters and other network programs a packet of at least
    14 bytes, programs of type SYSCALL a context, which they may change. `subject` names the program in errors.

    Raises BpfError (EINVAL: not this packet, context or flag), Unsupported (ENOTSUPP: not this type of program),
    NotPermitted (EPERM). Needs no capability, but for programs of type SYSCALL and RAW_TRACEPOINT. Linux 4.12; contexts
    5.2, `flags` and `cpu` 5.10, `batch_size` 5.18. In the kernel: bpf_prog_test_run().
    """
    packet, context, out = bytearray(data_in), bytearray(ctx_in), bytearray()
    attr = bpf_attr(
        test={"prog_fd": check_fd(prog_fd), "repeat": repeat, "flags": flags, "cpu": cpu, "batch_size": batch_size}
    )
    test = attr.test
    if packet:
        out = bytearray(len(packet) + _ROOM_TO_GROW)
        test.data_in, test.data_size_in = pointer(packet), len(packet)
        test.data_out, test.data_size_out = pointer(out), len(out)
    if context:
        test.ctx_in, test.ctx_size_in = pointer(context), len(context)
        # A program without a packet, of type SYSCALL, changes its context in place.
        if packet:
            test.ctx_out, test.ctx_size_out = pointer(context), len(context)
    result = call(Cmd.BPF_PROG_TEST_RUN, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_PROG_TEST_RUN, -result, subject=subject or f"the program of descriptor {prog_fd}")
    return RunResult(test.retval, test.duration, bytes(out[: test.data_size_out]) if packet else b"", bytes(context))


def prog_get_next_id(start_id: int) -> int | None:
    """BPF_PROG_GET_NEXT_ID: the smallest program id above `start_id`, None after the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 4.13. In the kernel: bpf_obj_get_next_id().
    """
    return next_id(Cmd.BPF_PROG_GET_NEXT_ID, start_id, "the ids of programs")


def prog_get_fd_by_id(prog_id: int) -> int:
    """BPF_PROG_GET_FD_BY_ID: opens the program with this id, returns a descriptor.

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 4.13. In the kernel:
    bpf_prog_get_fd_by_id().
    """
    return fd_by_id(Cmd.BPF_PROG_GET_FD_BY_ID, "prog_id", prog_id)


def prog_bind_map(prog_fd: int, map_fd: int) -> None:
    """BPF_PROG_BIND_MAP: the program keeps this map as well, which no instruction of it names. It may have it already.

    Raises BpfError (EBADF, EINVAL: not a program, not a map), NotPermitted. Needs no capability. Linux 5.10. In the
    kernel: bpf_prog_bind_map().
    """
    fields = {"prog_fd": check_fd(prog_fd), "map_fd": check_fd(map_fd)}
    _checked(Cmd.BPF_PROG_BIND_MAP, bpf_attr(prog_bind_map=fields), f"the program of descriptor {prog_fd}")


def prog_assoc_struct_ops(prog_fd: int, map_fd: int) -> None:
    """BPF_PROG_ASSOC_STRUCT_OPS: tells a program which struct_ops map it belongs to.

    Raises BpfError (EINVAL: not a struct_ops map, or a program of that type; EBUSY: it belongs to another),
    Unsupported before Linux 7.0. Needs no capability. In the kernel: prog_assoc_struct_ops().
    """
    fields = {"map_fd": check_fd(map_fd), "prog_fd": check_fd(prog_fd)}
    attr = bpf_attr(prog_assoc_struct_ops=fields)
    _checked(Cmd.BPF_PROG_ASSOC_STRUCT_OPS, attr, f"the program of descriptor {prog_fd}")


def prog_stream_read_by_fd(prog_fd: int, stream_id: int, buf_len: int = 4096) -> bytes:
    """BPF_PROG_STREAM_READ_BY_FD: what a program wrote with bpf_stream_printk(): at most `buf_len` bytes; b"" if none.

    `stream_id` 1 is the program's stdout, 2 its stderr, where the kernel reports a program that it had to stop. What
    was read is gone.

    Raises NotFound (ENOENT: no such stream), BpfError (EBADF, EINVAL), Unsupported before Linux 6.17. Needs no
    capability. In the kernel: prog_stream_read().
    """
    buffer = ffi.new("char[]", u32("buf_len", buf_len))
    stream = {"stream_buf": address_of(buffer), "stream_buf_len": buf_len, "stream_id": stream_id}
    attr = bpf_attr(prog_stream_read={**stream, "prog_fd": check_fd(prog_fd)})
    read = _checked(Cmd.BPF_PROG_STREAM_READ_BY_FD, attr, f"the program of descriptor {prog_fd}")
    return bytes(ffi.buffer(buffer)[:read])


def task_fd_query(pid: int, fd: int, flags: int = 0) -> TaskFd:
    """BPF_TASK_FD_QUERY: what program a process has attached by its descriptor `fd`, a perf event's or a raw
    tracepoint's, and to what.

    Raises NotFound (ENOENT: no such process), BpfError (EBADF, EINVAL), Unsupported (ENOTSUPP: nothing is attached by
    that descriptor), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 4.18. In the kernel: bpf_task_fd_query().
    """
    name = ffi.new("char[]", 4096)
    query = {"pid": u32("pid", pid), "fd": check_fd(fd), "flags": flags, "buf_len": 4096, "buf": address_of(name)}
    attr = bpf_attr(task_fd_query=query)
    _checked(Cmd.BPF_TASK_FD_QUERY, attr, f"descriptor {fd} of process {pid}")
    found = attr.task_fd_query
    text = os.fsdecode(ffi.string(name))
    return TaskFd(found.prog_id, TaskFdType(found.fd_type), text, found.probe_offset, found.probe_addr)


def enable_stats(kind: int = StatsType.BPF_STATS_RUN_TIME) -> int:
    """BPF_ENABLE_STATS: programs' runs are counted and timed (run_cnt, run_time_ns of their infos) until the returned
    descriptor is closed.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN, BpfError (EINVAL: not this kind). Linux 5.8. In the kernel:
    bpf_enable_stats().
    """
    result = open_descriptor(Cmd.BPF_ENABLE_STATS, bpf_attr(enable_stats={"type": u32("kind", kind)}))
    if result < 0:
        raise bpf_error(Cmd.BPF_ENABLE_STATS, -result, subject=StatsType(kind).name)
    return result


def _checked(cmd: Cmd, attr: Any, subject: str) -> int:
    result = call(cmd, attr)
    if result < 0:
        raise bpf_error(cmd, -result, subject=subject)
    return result
