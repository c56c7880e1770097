"""Link: a program attached to what makes it run, through bpf(2) alone; and what each type of program is attached to.

The kernel has two commands for it. BPF_RAW_TRACEPOINT_OPEN takes raw tracepoints by name, and programs which know their
function since they were loaded (fentry and its like). BPF_LINK_CREATE takes a target as well: a cgroup, a network
namespace, an interface. Both answer with a descriptor, the link. The program is attached as long as something refers to
the link: a descriptor, in any process, or a pin.

Sources: kernel/bpf/syscall.c (bpf_raw_tp_link_attach, link_create), kernel/bpf/cgroup.c, kernel/bpf/net_namespace.c,
kernel/bpf/tcx.c, net/core/dev.c (bpf_xdp_link_attach).
"""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rawbpf import syscall
from rawbpf.abi import AttachType, Cmd, ProgType
from rawbpf.programs.program import ATTACHED_BY_BTF
from rawbpf.syscall import LinkInfo, StrPath
from rawbpf.syscall.descriptor import Descriptor, HasFileno, fileno_of
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.proc import proc_fields

if TYPE_CHECKING:
    from typing_extensions import Self

    from rawbpf.programs.program import Program

Target = StrPath | int | HasFileno | None


class Link(Descriptor):
    """An attached program: Program.attach() makes it. Holds one descriptor; close it or use `with`. attach() says
    which Linux each type of program needs.

    >>> from rawbpf.programs.asm import R0, exit_, mov
    >>> with Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, [mov(R0, 0), exit_()]) as program:
    ...     with program.attach("sched_process_exec") as link:  # in here it runs
    ...         link.info().tp_name
    'sched_process_exec'
    """

    def __init__(self, fd: int) -> None:
        """Takes over a link's descriptor."""
        self._fd = syscall.check_fd(fd)

    @classmethod
    def open(cls, path: StrPath) -> "Self":
        """Opens the link that is pinned at `path` (BPF_OBJ_GET). Linux 5.7.

        Raises NotFound, NotPermitted, TypeError if the pin is of a map or a program.
        """
        # Not cls(fd): between making it and owning it no call is made, in which a signal handler might raise.
        self = cls.__new__(cls)
        self._fd = syscall.obj_get(path)
        # The kernel tells the type of a descriptor there, and "link_type" of links since 5.8.
        fields = proc_fields(f"/proc/self/fdinfo/{self._fd}")
        if {"map_type", "prog_type"} & fields.keys() and "link_type" not in fields:
            self.close()
            raise TypeError(f"what is pinned at {os.fsdecode(path)!r} is no link")
        return self

    @classmethod
    def from_id(cls, link_id: int) -> "Self":
        """Opens the link with this id (BPF_LINK_GET_FD_BY_ID); needs CAP_SYS_ADMIN. Linux 5.8.

        Raises NotFound, NotPermitted.
        """
        self = cls.__new__(cls)
        self._fd = syscall.link_get_fd_by_id(link_id)
        return self

    def info(self) -> LinkInfo:
        """What the kernel says of the link: its type, its id, the program's id, and what it hangs on. Linux 5.8."""
        return syscall.link_get_info_by_fd(self.fileno())

    def pin(self, path: StrPath) -> None:
        """Gives the link a path in a bpffs (BPF_OBJ_PIN): the program stays attached until os.unlink(path). Linux 5.7.

        The kernel lets go of what was pinned a moment after the unlink: the program may still run once or twice.

        Raises AlreadyExists, NotFound, NotPermitted.
        """
        syscall.obj_pin(self.fileno(), path)

    def update(self, program: "Program", *, old: "Program | None" = None) -> None:
        """Puts another program in the place of the attached one, without a gap (BPF_LINK_UPDATE). Linux 5.7.

        Cgroups, network namespaces, interfaces and iterators can do that, tracepoints and functions can't. With `old`
        only if that is the attached one.

        Raises BpfError (EINVAL: not this link, or not this program; ENOLINK: the target is gone), NotPermitted (EPERM:
        another program than `old` is attached).
        """
        old_fd = None if old is None else old.fileno()
        syscall.link_update(self.fileno(), program.fileno(), old_fd)

    def detach(self) -> None:
        """Detaches the program at once, whoever else has the link open or pinned (BPF_LINK_DETACH). Linux 5.9.

        Cgroups, network namespaces and interfaces can do that. Raises Unsupported (EOPNOTSUPP) for others: they detach
        with the last descriptor, by close().
        """
        syscall.link_detach(self.fileno())

    def iterate(self) -> io.FileIO:
        """Opens an iterator's output (BPF_ITER_CREATE): to read it runs the program over each object. Linux 5.8.

        Raises BpfError (EINVAL) for a link of another type.
        """
        return io.FileIO(syscall.iter_create(self.fileno()))

    def __repr__(self) -> str:
        return f"<Link fd={self._fd}>" if self._fd >= 0 else "<Link closed>"


# How a program is attached


class _Attachment(NamedTuple):
    """What attach() was asked for. Each way leaves the new descriptor in `link`, with no call in between in which a
    signal handler might raise."""

    link: Link
    program: "Program"
    target: Target
    attach_type: AttachType
    flags: int
    cookie: int


def _to_raw_tracepoint(wanted: _Attachment) -> None:
    name = wanted.program.attach_to if wanted.target is None else wanted.target
    if not isinstance(name, str) or not name:
        raise TypeError("a raw tracepoint is given by its name, such as 'sched_process_exec'")
    _check(wanted, cookie=True)
    wanted.link._fd = syscall.raw_tracepoint_open(name, wanted.program.fileno(), wanted.cookie)


def _to_what_it_was_loaded_for(wanted: _Attachment) -> None:
    _check(wanted, cookie=True, target=False)
    # Both commands serve it. A function's cookie only LINK_CREATE takes (5.19); that of a tracepoint it forgot until
    # 6.10, when RAW_TRACEPOINT_OPEN, which refused it before, learned it as well.
    if not wanted.cookie or wanted.attach_type == AttachType.BPF_TRACE_RAW_TP:
        wanted.link._fd = syscall.raw_tracepoint_open(None, wanted.program.fileno(), wanted.cookie)
    else:
        tracing = {"cookie": wanted.cookie}
        wanted.link._fd = syscall.link_create(
            wanted.program.fileno(), 0, wanted.attach_type, where="what it was loaded for", tracing=tracing
        )


def _to_iterator(wanted: _Attachment) -> None:
    _check(wanted, target=False)
    wanted.link._fd = syscall.link_create(wanted.program.fileno(), 0, wanted.attach_type, where="its kind of object")


def _to_cgroup(wanted: _Attachment) -> None:
    _to_file(wanted, os.O_RDONLY | os.O_DIRECTORY, "a cgroup's folder")


def _to_network_namespace(wanted: _Attachment) -> None:
    _to_file(wanted, os.O_RDONLY, "a network namespace's file")


def _to_file(wanted: _Attachment, flags: int, what: str) -> None:
    _check(wanted, flags=True)
    with _opened(wanted.target, flags, what) as fd:
        path = wanted.target if isinstance(wanted.target, (str, bytes, os.PathLike)) else None
        where = f"descriptor {fd}" if path is None else repr(os.fsdecode(path))
        wanted.link._fd = syscall.link_create(
            wanted.program.fileno(), fd, wanted.attach_type, wanted.flags, where=where
        )


def _to_interface(wanted: _Attachment) -> None:
    _check(wanted, flags=True)
    index, where = _interface_index(wanted.target), f"interface {wanted.target!r}"
    wanted.link._fd = syscall.link_create(wanted.program.fileno(), index, wanted.attach_type, wanted.flags, where=where)


def _check(wanted: _Attachment, *, target: bool = True, flags: bool = False, cookie: bool = False) -> None:
    """Refuses arguments that this way of attaching has not."""
    for name, given, taken in (
        ("target", wanted.target is not None, target),
        ("flags", wanted.flags != 0, flags),
        ("cookie", wanted.cookie != 0, cookie),
    ):
        if given and not taken:
            raise ValueError(f"{wanted.program!r} is attached without {name} (EINVAL)")
    if not 0 <= wanted.cookie < 2**64:
        raise ValueError(f"cookie must be from 0 to 2**64 - 1, not {wanted.cookie}")


@contextmanager
def _opened(target: Target, flags: int, what: str) -> Iterator[int]:
    """The target's descriptor; what is given as a path is open for so long."""
    if target is None:
        raise TypeError(f"the target is {what}, as a path or a descriptor")
    if not isinstance(target, (str, bytes, os.PathLike)):
        yield syscall.check_fd(fileno_of(target))
        return
    fd = os.open(target, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


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


class _Way(NamedTuple):
    """How programs of a type are attached, and as which attach types."""

    attach: Callable[[_Attachment], None]
    attach_types: tuple[AttachType, ...] = ()


def _named(*patterns: str) -> tuple[AttachType, ...]:
    """The attach types whose names begin with one of these."""
    return tuple(each for each in AttachType if each.name.startswith(tuple(f"BPF_{name}" for name in patterns)))


_BY_PROG_TYPE = {
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT: _Way(_to_raw_tracepoint),
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE: _Way(_to_raw_tracepoint),
    ProgType.BPF_PROG_TYPE_CGROUP_SKB: _Way(
        _to_cgroup, (AttachType.BPF_CGROUP_INET_INGRESS, AttachType.BPF_CGROUP_INET_EGRESS)
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCK: _Way(
        _to_cgroup, _named("CGROUP_INET_SOCK_", "CGROUP_INET4_POST_BIND", "CGROUP_INET6_POST_BIND")
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: _Way(
        _to_cgroup,
        _named(
            *(f"CGROUP_INET{family}_{call}" for family in "46" for call in ("BIND", "CONNECT", "GETPEER", "GETSOCK")),
            "CGROUP_UDP",
            "CGROUP_UNIX",
        ),
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_SOCKOPT: _Way(
        _to_cgroup, (AttachType.BPF_CGROUP_GETSOCKOPT, AttachType.BPF_CGROUP_SETSOCKOPT)
    ),
    ProgType.BPF_PROG_TYPE_CGROUP_DEVICE: _Way(_to_cgroup, (AttachType.BPF_CGROUP_DEVICE,)),
    ProgType.BPF_PROG_TYPE_CGROUP_SYSCTL: _Way(_to_cgroup, (AttachType.BPF_CGROUP_SYSCTL,)),
    ProgType.BPF_PROG_TYPE_SOCK_OPS: _Way(_to_cgroup, (AttachType.BPF_CGROUP_SOCK_OPS,)),
    ProgType.BPF_PROG_TYPE_FLOW_DISSECTOR: _Way(_to_network_namespace, (AttachType.BPF_FLOW_DISSECTOR,)),
    ProgType.BPF_PROG_TYPE_SK_LOOKUP: _Way(_to_network_namespace, (AttachType.BPF_SK_LOOKUP,)),
    ProgType.BPF_PROG_TYPE_XDP: _Way(_to_interface, (AttachType.BPF_XDP,)),
    ProgType.BPF_PROG_TYPE_SCHED_CLS: _Way(_to_interface, _named("TCX_", "NETKIT_")),
}

# Programs of ATTACHED_BY_BTF have their attach type since they were loaded.
_BY_ATTACH_TYPE = {
    AttachType.BPF_TRACE_RAW_TP: _Way(_to_what_it_was_loaded_for),
    AttachType.BPF_TRACE_FENTRY: _Way(_to_what_it_was_loaded_for),
    AttachType.BPF_TRACE_FEXIT: _Way(_to_what_it_was_loaded_for),
    AttachType.BPF_MODIFY_RETURN: _Way(_to_what_it_was_loaded_for),
    AttachType.BPF_LSM_MAC: _Way(_to_what_it_was_loaded_for),
    AttachType.BPF_TRACE_ITER: _Way(_to_iterator),
    AttachType.BPF_LSM_CGROUP: _Way(_to_cgroup),
}

_PERF = "needs perf_event_open(2), and rawbpf has bpf(2) alone: use a raw tracepoint, or fentry (BPF_PROG_TYPE_TRACING)"
_NOT_ATTACHED = {
    ProgType.BPF_PROG_TYPE_KPROBE: _PERF,
    ProgType.BPF_PROG_TYPE_TRACEPOINT: _PERF,
    ProgType.BPF_PROG_TYPE_PERF_EVENT: _PERF,
    ProgType.BPF_PROG_TYPE_SOCKET_FILTER: "a socket takes it: setsockopt(SO_ATTACH_BPF)",
    ProgType.BPF_PROG_TYPE_SYSCALL: "it is run by run()",
}


def attach(program: "Program", target: Target, attach_type: int | None, flags: int, cookie: int) -> Link:
    """Program.attach()."""
    way = _way_of(program)
    chosen = _attach_type_of(program, way, attach_type)
    link = Link.__new__(Link)
    way.attach(_Attachment(link, program, target, chosen, flags, cookie))
    return link


def knows_its_target(program: "Program") -> bool:
    """Whether attach() needs no target: the program was told at load, and it is of a type that can be attached here."""
    return bool(program.attach_to) and program.prog_type not in _NOT_ATTACHED


def _way_of(program: "Program") -> _Way:
    if program.prog_type in ATTACHED_BY_BTF:
        way, kind = _BY_ATTACH_TYPE.get(program.expected_attach_type), program.expected_attach_type.name
    else:
        way, kind = _BY_PROG_TYPE.get(program.prog_type), program.prog_type.name
    if way is None:
        why = _NOT_ATTACHED.get(program.prog_type, "none of the ways in rawbpf/link.py is for it")
        raise TypeError(f"{kind} is not attached here: {why}")
    return way


def _attach_type_of(program: "Program", way: _Way, given: int | None) -> AttachType:
    """What was given, or what the program was loaded for, or the only one there is."""
    expected = program.expected_attach_type
    if given is None and (expected in way.attach_types or not way.attach_types):
        return expected
    if given is None and len(way.attach_types) == 1:
        return way.attach_types[0]
    if given is not None and AttachType(given) in (way.attach_types or (expected,)):
        return AttachType(given)
    choice = ", ".join(each.name for each in way.attach_types) or expected.name
    asked = "nothing" if given is None else AttachType(given).name
    raise ValueError(f"attach_type of {program!r} must be one of {choice}; {asked} was given (EINVAL)")
