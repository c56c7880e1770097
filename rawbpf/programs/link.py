"""Link: a program that is attached, until the link's last descriptor is closed.

The kernel has links since Linux 5.7, for perf events since 5.15. What has none is a link here all the same, whose
close() detaches the program: PerfEventLink, ProgAttachLink, SocketLink. programs/attach.py makes them.

Sources: kernel/bpf/syscall.c (link_create, link_update, link_detach), net/core/sock.c (SO_ATTACH_BPF).
"""

import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from rawbpf import syscall
from rawbpf.abi import AttachType, Cmd
from rawbpf.syscall import LinkInfo, StrPath
from rawbpf.syscall.attach import prog_attach, prog_detach
from rawbpf.syscall.descriptor import Descriptor, HasFileno
from rawbpf.syscall.errors import NotFound, Unsupported
from rawbpf.syscall.proc import proc_fields

if TYPE_CHECKING:
    from typing_extensions import Self


class Link(Descriptor):
    """An attached program: Program.attach() makes it. Holds one descriptor; close it or use `with`. attach() says
    which Linux each type of program needs. `target` says in words what the program is attached to; it is "" for a link
    that was opened by its pin or id.

    A program whose link nobody holds is detached. So a link that is collected before it was closed is a RuntimeWarning,
    which Python shows by default: keep what attach() returns, or pin it.

    >>> from rawbpf.programs.asm import R0, exit_, mov
    >>> with Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, [mov(R0, 0), exit_()]) as program:
    ...     with program.attach("sched_process_exec") as link:  # in here it runs
    ...         link.info().tp_name, link.target
    ('sched_process_exec', "raw tracepoint 'sched_process_exec'")
    """

    target = ""

    def __init__(self, fd: int, target: str = "") -> None:
        """Takes over a link's descriptor."""
        self._fd = syscall.check_fd(fd)
        self.target = target

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

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
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
        to = f" to {self.target}" if self.target else ""
        return f"<{type(self).__name__}{to} {f'fd={self._fd}' if self._fd >= 0 else 'closed'}>"

    def __del__(self) -> None:
        if self._fd < 0:
            return
        # At the end of the process everything goes, and nobody is to be warned of that.
        category = ResourceWarning if sys.is_finalizing() else RuntimeWarning
        text = f"the program is detached: nothing holds {self!r} any more; keep what attach() returns, or pin it"
        try:
            warnings.warn(text, category, stacklevel=2)
        finally:
            # Also if a signal handler raised just now.
            self.close()


def duplicate(fd: int) -> int:
    """Another descriptor of the same. Unpacking makes the call: no signal handler can raise between that and the
    assignment, and who calls this assigns it without a call in between."""
    (copy,) = map(os.dup, (fd,))
    return copy


class _NoKernelLink(Link):
    """An attachment that the kernel has no link for: it has no id, no pin, and no other program can take its place."""

    _since = ""

    def info(self) -> LinkInfo:
        """Unsupported."""
        self._refuse(Cmd.BPF_OBJ_GET_INFO_BY_FD)

    def pin(self, path: StrPath) -> None:
        """Unsupported."""
        self._refuse(Cmd.BPF_OBJ_PIN)

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
        """Unsupported."""
        self._refuse(Cmd.BPF_LINK_UPDATE)

    def detach(self) -> None:
        """Unsupported: close() it."""
        self._refuse(Cmd.BPF_LINK_DETACH)

    def iterate(self) -> io.FileIO:
        """Unsupported."""
        self._refuse(Cmd.BPF_ITER_CREATE)

    def _refuse(self, cmd: Cmd) -> NoReturn:
        self.fileno()
        what = f"the attachment to {self.target} is no link of the kernel's"
        raise Unsupported(errno.EOPNOTSUPP, what, cmd, f"close() detaches it; {self._since}")


class PerfEventLink(_NoKernelLink):
    """A program that is set on a perf event (ioctl PERF_EVENT_IOC_SET_BPF): attached until the event is closed. That is
    how kprobes, uprobes, tracepoints and counters are attached before Linux 5.15."""

    _since = "perf events have links since Linux 5.15"


class ProgAttachLink(_NoKernelLink):
    """A program that BPF_PROG_ATTACH attached: close() detaches it. Should the process end without close(), it stays
    attached until its target is gone."""

    _since = "cgroups have links since Linux 5.7, maps of sockets since 6.10, infrared receivers have none"

    def __init__(self, program: HasFileno, target_fd: int, attach_type: AttachType, flags: int, target: str) -> None:
        """Attaches the program, with descriptors of its own for it and for the target."""
        self.target = target
        self._attach_type = attach_type
        self._attached = False
        self._program_fd = -1
        try:
            self._program_fd = duplicate(program.fileno())
            self._fd = duplicate(target_fd)
            prog_attach(self._program_fd, self._fd, attach_type, flags, where=target)
            self._attached = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Detaches the program. May be repeated."""
        attached, self._attached = self._attached, False
        try:
            if attached:
                # ENOENT: it was detached, or another took its place.
                with suppress(NotFound):
                    prog_detach(self._program_fd, self._fd, self._attach_type, where=self.target)
        finally:
            program_fd, self._program_fd = self._program_fd, -1
            if program_fd >= 0:
                os.close(program_fd)
            super().close()


class SocketLink(_NoKernelLink):
    """A program that a socket has (setsockopt SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_EBPF): close() takes it away."""

    _since = "programs of sockets have no links"

    def __init__(self, program: HasFileno, socket_fd: int, options: tuple[int, int], target: str) -> None:
        """Attaches the program by the first of the options; close() uses the second."""
        self.target = target
        self._detach = options[1]
        try:
            self._fd = duplicate(socket_fd)
            self._set(options[0], program.fileno())
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Detaches the program. May be repeated."""
        try:
            if self._fd >= 0:
                # ENOENT: another took its place, or it was taken away.
                with suppress(FileNotFoundError):
                    self._set(self._detach, 0)
        finally:
            super().close()

    def _set(self, option: int, value: int) -> None:
        # A module of some size, which other targets do not need.
        import socket

        fd = duplicate(self._fd)
        try:
            own = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
        with own:
            own.setsockopt(socket.SOL_SOCKET, option, value)
