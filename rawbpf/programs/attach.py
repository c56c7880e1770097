"""How each type of program is attached: what Program.attach() does.

The kernel has several ways. BPF_RAW_TRACEPOINT_OPEN takes raw tracepoints by name, and programs which know their
function since they were loaded (fentry and its like). BPF_LINK_CREATE takes a target as well: a cgroup, a network
namespace, an interface, a perf event, many functions at once. Perf events, which stand for kprobes, uprobes,
tracepoints and counters, are opened by perf_event_open(2). What has no links on this kernel is attached by
BPF_PROG_ATTACH, an ioctl or a socket's option.

Sources: kernel/bpf/syscall.c (bpf_raw_tp_link_attach, link_create), kernel/bpf/cgroup.c, kernel/bpf/net_namespace.c,
kernel/bpf/tcx.c, net/core/dev.c (bpf_xdp_link_attach), net/core/sock_map.c, kernel/trace/bpf_trace.c.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

from rawbpf import syscall
from rawbpf.abi import AttachFlag, AttachType, Cmd, ProgType
from rawbpf.abi.door import ffi
from rawbpf.programs.link import Link, PerfEventLink, ProgAttachLink, SocketLink, duplicate
from rawbpf.programs.targets import (
    NO_USDT,
    Kprobe,
    KprobeMulti,
    Ksyscall,
    NetfilterHook,
    PerfEvent,
    Probe,
    Uprobe,
    UprobeMulti,
    parse,
)
from rawbpf.syscall import StrPath
from rawbpf.syscall.descriptor import HasFileno, fileno_of
from rawbpf.syscall.errors import AlreadyExists, BpfError, Unsupported, bpf_error
from rawbpf.syscall.perf_event import perf_event_enable, perf_event_set_bpf
from rawbpf.syscall.proc import kernel_version

Target = StrPath | int | HasFileno | Probe | PerfEvent | NetfilterHook | None

_PROBES = (Kprobe, KprobeMulti, Ksyscall, Uprobe, UprobeMulti)

# Options of sockets (asm-generic/socket.h): to attach, to detach.
_SO_BPF, _SO_REUSEPORT_EBPF = (50, 27), (52, 68)


class Attachable(Protocol):
    """What attach() has to know of a program."""

    name: str
    prog_type: ProgType
    expected_attach_type: AttachType
    attach_to: str

    def fileno(self) -> int: ...


class _Request(NamedTuple):
    """What attach() was asked for."""

    program: Attachable
    target: Target
    attach_type: AttachType
    flags: int
    cookie: int


def attach(program: Attachable, target: Target, attach_type: int | None, flags: int, cookie: int) -> Link:
    """Program.attach()."""
    method = _method_of(program)
    if isinstance(method, str):
        raise TypeError(f"{_kind(program)} is not attached here: {method}")
    chosen = _attach_type_of(program, method, attach_type)
    for name, given, taken in (
        ("target", target is not None, bool(method.target)),
        ("flags", flags != 0, method.flags),
        ("cookie", cookie != 0, method.cookie),
    ):
        if given and not taken:
            raise ValueError(f"{program!r} is attached without {name} (EINVAL)")
    if not 0 <= cookie < 2**64:
        raise ValueError(f"cookie must be from 0 to 2**64 - 1, not {cookie}")
    if target is None and method.told_at_load:
        target = program.attach_to or None
    if target is None and method.target:
        raise TypeError(f"attach() has to be told the target of {program!r}: {method.target}")
    try:
        return method.attach(_Request(program, target, chosen, flags, cookie))
    except BpfError as error:
        if program.name:
            error.strerror = f"program {program.name!r}: {error.strerror}"
        raise


def why_not_attached(program: Attachable) -> str:
    """Why attach() without a target can't attach the program; "" if it can."""
    method = _method_of(program)
    if isinstance(method, str):
        return f"{_kind(program)} is not attached by attach(): {method}"
    if method.target and not (method.told_at_load and program.attach_to):
        return f"attach() has to be told the target: {method.target}"
    return NO_USDT if program.attach_to.startswith("usdt") and method.attach is _to_probe else ""


def _attach_type_of(program: Attachable, method: "_Method", given: int | None) -> AttachType:
    """What was given, or what the program was loaded for, or the only one there is."""
    expected = program.expected_attach_type
    if given is None and (expected in method.attach_types or not method.attach_types):
        return expected
    if given is None and len(method.attach_types) == 1:
        return method.attach_types[0]
    if given is not None and AttachType(given) in (method.attach_types or (expected,)):
        return AttachType(given)
    choice = ", ".join(each.name for each in method.attach_types) or expected.name
    asked = "nothing" if given is None else AttachType(given).name
    raise ValueError(f"attach_type of {program!r} must be one of {choice}; {asked} was given (EINVAL)")


def _link(request: _Request, target: int, where: str, **more: Any) -> Link:
    """BPF_LINK_CREATE."""
    link = Link.__new__(Link)
    link.target = where
    create = partial(
        syscall.link_create,
        request.program.fileno(),
        attach_type=request.attach_type,
        flags=request.flags,
        where=where,
        **more,
    )
    # The descriptor belongs to the link before any signal handler might raise. After a call with **options CPython
    # looks for signals before it assigns the result; where unpacking makes the call it does not.
    (link._fd,) = map(create, (target,))
    return link


def _raw_tracepoint(request: _Request, name: str | None, where: str) -> Link:
    """BPF_RAW_TRACEPOINT_OPEN."""
    link = Link.__new__(Link)
    link.target = where
    link._fd = syscall.raw_tracepoint_open(name, request.program.fileno(), request.cookie, where=where)
    return link


# To the kernel's own places


def _to_raw_tracepoint(request: _Request) -> Link:
    name = request.target
    if not isinstance(name, str) or not name:
        raise TypeError("a raw tracepoint is given by its name, such as 'sched_process_exec'")
    return _raw_tracepoint(request, name, f"raw tracepoint {name!r}")


def _to_what_it_was_loaded_for(request: _Request) -> Link:
    program = request.program
    kind = _LOADED_FOR.get(program.expected_attach_type, "function")
    where = f"{kind} {program.attach_to!r}" if program.attach_to else f"the {kind} that it was loaded for"
    # Both commands serve it. A function's cookie only LINK_CREATE takes (5.19); that of a tracepoint it forgot until
    # 6.10, when RAW_TRACEPOINT_OPEN, which refused it before, learned it as well.
    if not request.cookie or request.attach_type == AttachType.BPF_TRACE_RAW_TP:
        return _raw_tracepoint(request, None, where)
    return _link(request, 0, where, tracing={"cookie": request.cookie})


_LOADED_FOR = {AttachType.BPF_TRACE_RAW_TP: "tracepoint", AttachType.BPF_LSM_MAC: "LSM hook"}


def _to_iterator(request: _Request) -> Link:
    return _link(request, 0, f"the iterator over {request.program.attach_to or 'what it was loaded for'}")


def _to_iterator_over_a_map(request: _Request) -> Link:
    # union bpf_iter_link_info begins with the map's descriptor.
    info = ffi.new("uint32_t *", _descriptor_of(request.target))
    where = f"the iterator over {request.target!r}"
    return _link(request, 0, where, iter_info=_address(info), iter_info_len=ffi.sizeof("uint32_t"))


def _to_netfilter(request: _Request) -> Link:
    hook = request.target
    if not isinstance(hook, NetfilterHook):
        raise TypeError("the target is a NetfilterHook (rawbpf.programs.targets)")
    return _link(request, 0, str(hook), netfilter=hook._asdict())


# To what has a descriptor, a path or a name


def _to_cgroup(request: _Request) -> Link:
    with _opened(request.target, os.O_RDONLY | os.O_DIRECTORY, "cgroup") as (fd, where):
        if kernel_version() < (5, 7):
            # As a link does, it lets other programs be attached to the same cgroup.
            flags = request.flags or AttachFlag.BPF_F_ALLOW_MULTI
            return ProgAttachLink(request.program, fd, request.attach_type, flags, where)
        return _link(request, fd, where)


def _to_network_namespace(request: _Request) -> Link:
    with _opened(request.target, os.O_RDONLY, "network namespace") as (fd, where):
        return _link(request, fd, where)


def _to_infrared_receiver(request: _Request) -> Link:
    with _opened(request.target, os.O_RDONLY, "infrared receiver") as (fd, where):
        return ProgAttachLink(request.program, fd, request.attach_type, 0, where)


def _to_map_of_sockets(request: _Request) -> Link:
    fd = _descriptor_of(request.target)
    where = f"the sockets of {request.target!r}"
    if kernel_version() < (6, 10):
        return ProgAttachLink(request.program, fd, request.attach_type, 0, where)
    return _link(request, fd, where)


def _to_socket(request: _Request) -> Link:
    return SocketLink(request.program, _descriptor_of(request.target), _SO_BPF, f"socket {request.target!r}")


def _to_reuseport_group(request: _Request) -> Link:
    where = f"the sockets that share a port with {request.target!r}"
    return SocketLink(request.program, _descriptor_of(request.target), _SO_REUSEPORT_EBPF, where)


def _to_interface(request: _Request) -> Link:
    index = _interface_index(request.target)
    return _link(request, index, f"interface {request.target!r}")


def _descriptor_of(target: Target) -> int:
    if target is None or isinstance(target, (str, bytes, os.PathLike, tuple)):
        raise TypeError(f"the target is an object with fileno(), or a descriptor, not {target!r}")
    return syscall.check_fd(fileno_of(target))


@contextmanager
def _opened(target: Target, flags: int, what: str) -> Iterator[tuple[int, str]]:
    """The target's descriptor, and what to call it in errors; what is given as a path is open for so long."""
    if isinstance(target, (str, bytes, os.PathLike)):
        fd = -1
        try:
            # Unpacking makes the call: no signal handler can raise between that and the assignment.
            (fd,) = map(os.open, (target,), (flags | os.O_CLOEXEC,))
            yield fd, f"{what} {os.fsdecode(target)!r}"
        finally:
            if fd >= 0:
                os.close(fd)
    else:
        fd = _descriptor_of(target)
        yield fd, f"{what} of descriptor {fd}"


def _interface_index(target: Target) -> int:
    if isinstance(target, int) and target > 0:
        return target
    if not isinstance(target, str):
        raise TypeError("the target is an interface's name or its index, from 1")
    # A module of some size, which other targets do not need.
    from socket import if_nametoindex

    try:
        return if_nametoindex(target)
    except OSError:
        raise bpf_error(Cmd.BPF_LINK_CREATE, errno.ENODEV, subject=f"interface {target!r}") from None


# To perf events, and to many functions at once


def _to_tracepoint(request: _Request) -> Link:
    from rawbpf.programs.probes import open_tracepoint

    name = request.target
    if not isinstance(name, str) or name.count("/") != 1:
        raise TypeError("a tracepoint is given as its category and name: 'sched/sched_process_exec'")
    return _to_perf_event(request, lambda: open_tracepoint(name), f"tracepoint {name!r}")


def _to_counter(request: _Request) -> Link:
    from rawbpf.programs.probes import open_counter

    event = request.target
    if isinstance(event, PerfEvent):
        return _to_perf_event(request, lambda: open_counter(event), str(event))
    fd = _descriptor_of(event)
    return _to_perf_event(request, lambda: duplicate(fd), f"the perf event of descriptor {fd}")


def _to_probe(request: _Request) -> Link:
    from rawbpf.programs.probes import MultiProbe, open_probe

    probe = parse(request.target) if isinstance(request.target, str) else request.target
    if not isinstance(probe, _PROBES):
        raise TypeError("a probe is given as in a section's name ('kprobe/do_nanosleep'), or as a Kprobe, Uprobe, ...")
    expected = request.program.expected_attach_type
    if isinstance(probe, (KprobeMulti, UprobeMulti)):
        multi = MultiProbe(probe, request.cookie)
        if expected not in multi.attach_types:
            names = " or ".join(each.name for each in multi.attach_types)
            raise ValueError(f"{probe}: the program has to be loaded with expected_attach_type {names} (EINVAL)")
        return _link(request, 0, str(probe), **multi.fields)
    if expected != _NONE:
        raise ValueError(f"{probe}: the program was loaded for {expected.name}, which is many probes at once (EINVAL)")
    return _to_perf_event(request, lambda: open_probe(probe), str(probe))


def _to_perf_event(request: _Request, open_event: Callable[[], int], where: str) -> Link:
    """Attaches to the event that the function opens. A link holds the event, so its descriptor is closed again."""
    if request.cookie and kernel_version() < (5, 15):
        what = f"{where}: this kernel has no cookies for perf events"
        raise Unsupported(errno.EOPNOTSUPP, what, Cmd.BPF_LINK_CREATE, "they need Linux 5.15")
    event = PerfEventLink.__new__(PerfEventLink)
    event.target = where
    event._fd = open_event()
    try:
        if kernel_version() < (5, 15):
            perf_event_set_bpf(event.fileno(), request.program.fileno(), where)
            perf_event_enable(event.fileno(), where)
            return event
        to_event = request._replace(attach_type=AttachType.BPF_PERF_EVENT)
        try:
            link = _link(to_event, event.fileno(), where, perf_event={"bpf_cookie": request.cookie})
        except AlreadyExists as error:
            # Of all perf events of a tracepoint one may have this program.
            what = f"{where}: this program is attached there already"
            raise AlreadyExists(errno.EEXIST, what, error.cmd, "load the program again to attach it twice") from None
        try:
            perf_event_enable(event.fileno(), where)
            event.close()
        except BaseException:
            link.close()
            raise
        return link
    except BaseException:
        event.close()
        raise


def _address(data: Any) -> int:
    return int(ffi.cast("uintptr_t", data))


# Which type of program is attached how

# expected_attach_type of programs that have none.
_NONE = AttachType(0)


class _Method(NamedTuple):
    """How programs of a type are attached; what their target is, in words, "" for those that have none; as which attach
    types; whether they take flags and a cookie; and whether `attach_to` of the load can be the target."""

    attach: Callable[[_Request], Link]
    target: str = ""
    attach_types: tuple[AttachType, ...] = ()
    flags: bool = False
    cookie: bool = False
    told_at_load: bool = False


def _named(*patterns: str) -> tuple[AttachType, ...]:
    """The attach types whose names begin with one of these."""
    return tuple(each for each in AttachType if each.name.startswith(tuple(f"BPF_{name}" for name in patterns)))


def _cgroup(*patterns: str) -> _Method:
    return _Method(_to_cgroup, "a cgroup's folder, as a path or a descriptor", _named(*patterns), flags=True)


def _network_namespace(attach_type: AttachType) -> _Method:
    where = "a network namespace, as a path (/proc/self/ns/net) or a descriptor"
    return _Method(_to_network_namespace, where, (attach_type,), flags=True)


def _interface(*patterns: str) -> _Method:
    return _Method(_to_interface, "an interface, as a name or an index", _named(*patterns), flags=True)


def _map_of_sockets(*patterns: str) -> _Method:
    return _Method(_to_map_of_sockets, "a SOCKMAP or SOCKHASH, as an object or a descriptor", _named(*patterns))


def _by_name(attach: Callable[[_Request], Link], target: str) -> _Method:
    return _Method(attach, target, cookie=True, told_at_load=True)


_RAW_TRACEPOINT = _by_name(_to_raw_tracepoint, "a raw tracepoint's name ('sched_process_exec')")
_LOADED = _Method(_to_what_it_was_loaded_for, cookie=True)
_ROUTE = "ip-route(8) attaches it to a route"

# The method, or why there is none.
_BY_PROG_TYPE: dict[ProgType, _Method | str] = {
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT: _RAW_TRACEPOINT,
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE: _RAW_TRACEPOINT,
    ProgType.BPF_PROG_TYPE_KPROBE: _by_name(
        _to_probe, "a probe, as in a section's name ('kprobe/do_nanosleep', 'uprobe//bin/bash:readline')"
    ),
    ProgType.BPF_PROG_TYPE_TRACEPOINT: _by_name(_to_tracepoint, "a tracepoint ('sched/sched_process_exec')"),
    ProgType.BPF_PROG_TYPE_PERF_EVENT: _Method(
        _to_counter, "a perf event, as a PerfEvent or a descriptor", cookie=True
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SKB: _cgroup("CGROUP_INET_INGRESS", "CGROUP_INET_EGRESS"),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCK: _cgroup(
        "CGROUP_INET_SOCK_", "CGROUP_INET4_POST_BIND", "CGROUP_INET6_POST_BIND"
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: _cgroup(
        *(f"CGROUP_INET{family}_{call}" for family in "46" for call in ("BIND", "CONNECT", "GETPEER", "GETSOCK")),
        "CGROUP_UDP",
        "CGROUP_UNIX",
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCKOPT: _cgroup("CGROUP_GETSOCKOPT", "CGROUP_SETSOCKOPT"),
    ProgType.BPF_PROG_TYPE_CGROUP_DEVICE: _cgroup("CGROUP_DEVICE"),
    ProgType.BPF_PROG_TYPE_CGROUP_SYSCTL: _cgroup("CGROUP_SYSCTL"),
    ProgType.BPF_PROG_TYPE_SOCK_OPS: _cgroup("CGROUP_SOCK_OPS"),
    ProgType.BPF_PROG_TYPE_FLOW_DISSECTOR: _network_namespace(AttachType.BPF_FLOW_DISSECTOR),
    ProgType.BPF_PROG_TYPE_SK_LOOKUP: _network_namespace(AttachType.BPF_SK_LOOKUP),
    ProgType.BPF_PROG_TYPE_XDP: _Method(
        _to_interface, "an interface, as a name or an index", (AttachType.BPF_XDP,), flags=True
    ),
    ProgType.BPF_PROG_TYPE_SCHED_CLS: _interface("TCX_", "NETKIT_"),
    ProgType.BPF_PROG_TYPE_SK_SKB: _map_of_sockets("SK_SKB_"),
    ProgType.BPF_PROG_TYPE_SK_MSG: _map_of_sockets("SK_MSG_VERDICT"),
    ProgType.BPF_PROG_TYPE_SOCKET_FILTER: _Method(_to_socket, "a socket, as an object or a descriptor"),
    ProgType.BPF_PROG_TYPE_SK_REUSEPORT: _Method(_to_reuseport_group, "a socket with SO_REUSEPORT"),
    ProgType.BPF_PROG_TYPE_NETFILTER: _Method(_to_netfilter, "a NetfilterHook", (AttachType.BPF_NETFILTER,)),
    ProgType.BPF_PROG_TYPE_LIRC_MODE2: _Method(
        _to_infrared_receiver, "an infrared receiver, as a path (/dev/lirc0)", (AttachType.BPF_LIRC_MODE2,)
    ),
    ProgType.BPF_PROG_TYPE_EXT: _LOADED,
    ProgType.BPF_PROG_TYPE_SYSCALL: "run() runs it",
    ProgType.BPF_PROG_TYPE_STRUCT_OPS: "a struct_ops map registers it, which rawbpf does not do",
    ProgType.BPF_PROG_TYPE_SCHED_ACT: "tc(8) attaches it to a queueing discipline",
    ProgType.BPF_PROG_TYPE_LWT_IN: _ROUTE,
    ProgType.BPF_PROG_TYPE_LWT_OUT: _ROUTE,
    ProgType.BPF_PROG_TYPE_LWT_XMIT: _ROUTE,
    ProgType.BPF_PROG_TYPE_LWT_SEG6LOCAL: _ROUTE,
}

# Programs of type TRACING and LSM know what they are for since they were loaded.
_BY_ATTACH_TYPE: dict[AttachType, _Method] = {
    AttachType.BPF_TRACE_RAW_TP: _LOADED,
    AttachType.BPF_TRACE_FENTRY: _LOADED,
    AttachType.BPF_TRACE_FEXIT: _LOADED,
    AttachType.BPF_TRACE_FSESSION: _LOADED,
    AttachType.BPF_MODIFY_RETURN: _LOADED,
    AttachType.BPF_LSM_MAC: _LOADED,
    AttachType.BPF_TRACE_ITER: _Method(_to_iterator),
    AttachType.BPF_LSM_CGROUP: _cgroup("LSM_CGROUP"),
}

# These XDP programs are not attached to an interface.
_IN_A_MAP = (AttachType.BPF_XDP_DEVMAP, AttachType.BPF_XDP_CPUMAP)

# Iterators over the elements of one map.
_OVER_A_MAP = ("bpf_map_elem", "bpf_sk_storage_map")


def _method_of(program: Attachable) -> _Method | str:
    if program.prog_type == ProgType.BPF_PROG_TYPE_XDP and program.expected_attach_type in _IN_A_MAP:
        return "it is put into a DEVMAP or CPUMAP"
    if program.expected_attach_type == AttachType.BPF_TRACE_ITER and program.attach_to in _OVER_A_MAP:
        return _Method(_to_iterator_over_a_map, "a map, as an object or a descriptor")
    method = _BY_PROG_TYPE.get(program.prog_type) or _BY_ATTACH_TYPE.get(program.expected_attach_type)
    return method or "rawbpf knows no way to attach it"


def _kind(program: Attachable) -> str:
    """The type of the program, for errors."""
    known = program.prog_type in _BY_PROG_TYPE
    return program.prog_type.name if known else program.expected_attach_type.name
