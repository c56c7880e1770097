"""The simulated kernel, as it stands at the door: it reads the real attr, byte for byte, and answers as Linux does."""

import errno
import signal

# signal.pthread_sigmask is Python code around this one, and a signal handler could raise in it before the mask is back.
from _signal import pthread_sigmask  # type: ignore[import-not-found]
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rawbpf.abi import BPF_ATTR_MAX_SIZE, BPF_COMMON_ATTRS, Cmd, door, layout
from rawbpf.abi.door import ffi, lib
from rawbpf.observe import user_memory
from rawbpf.observe.simulated_attr import Attr, Command
from rawbpf.observe.simulated_commands import COMMANDS, LIMITS, not_simulated
from rawbpf.observe.simulated_map import Refused, SimulatedMap, refuse_if
from rawbpf.observe.simulated_state import KernelState, Removed
from rawbpf.observe.user_memory import Fault
from rawbpf.syscall.errors import BpfError, NotPermitted, Unsupported
from rawbpf.syscall.proc import Capability

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# The signals that Python programs have handlers for.
_SIGNALS = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGIO,
}


class SimulatedKernel(KernelState):
    """A simulated kernel: what it answers to bpf(2), and what its /proc says."""

    limits = LIMITS

    def __init__(self, directory: str, version: tuple[int, ...], unprivileged: bool) -> None:
        super().__init__(directory, version, unprivileged)
        self._attr_size = self._size_of_union()

    def bpf(self, cmd: int, attr: "CData", size: int) -> int:
        """The answer to a call: 0, a descriptor, or a negative errno."""
        # Nothing interrupts a system call, so nothing interrupts this one: a signal waits until it is answered.
        mask = pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            answer = self._answer(cmd, int(ffi.cast("uintptr_t", attr)), size)
        except Removed:
            # Its context ended in another thread after this call had passed the door. Whoever stands there now answers.
            answer = -errno.ENODEV if door.simulated is self else door.ask_kernel(cmd, attr, size)
        finally:
            pthread_sigmask(signal.SIG_SETMASK, mask)
        return lib.bpf_answer(answer)

    # From the call to the command

    def _answer(self, cmd: int, address: int, size: int) -> int:
        with_log = cmd & BPF_COMMON_ATTRS if self.version >= (7, 2) else 0
        cmd &= ~with_log
        try:
            with self.locked():
                self._check_privilege(cmd)
                attr = self._copied(address, size)
                command = self._command(cmd)
                return command(self, Attr(self, Cmd(cmd), address, attr))
        except Refused as error:
            if with_log and error.log:
                text = f"{error.log}\n".encode() + b"\0"
                ffi.memmove(lib.bpf_log(), text, len(text))
            return -error.errno
        except Fault:
            return -errno.EFAULT
        except OSError as error:
            # What the system says of a path or of the descriptor table is what the kernel would say.
            return -(error.errno or errno.EIO)

    def _check_privilege(self, cmd: int) -> None:
        """What comes before everything else; map_create() has the rest."""
        if self.unprivileged:
            refuse_if(self.version < (5, 19), errno.EPERM)
            refuse_if(self.version < (6, 5) and cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD), errno.EPERM)

    def _copied(self, address: int, size: int) -> bytes:
        """bpf_check_uarg_tail_zero(), and the copy: the kernel's whole union, zero where nothing was sent."""
        refuse_if(size > BPF_ATTR_MAX_SIZE, errno.E2BIG)
        attr = user_memory.read(address, size)
        refuse_if(any(attr[self._attr_size :]), errno.E2BIG)
        return attr[: self._attr_size].ljust(self._attr_size, b"\0")

    def _command(self, cmd: int) -> Command:
        known = Cmd(cmd).name in Cmd.__members__ and layout.version(Cmd(cmd).since) <= self.version
        refuse_if(not known, errno.EINVAL)
        return COMMANDS.get(Cmd(cmd), not_simulated)

    def _size_of_union(self) -> int:
        fields = (field for fields in layout.load().values() for field in fields)
        ends = (field.offset + field.size for field in fields if layout.version(field.since) <= self.version)
        return (max(ends) + 7) // 8 * 8

    # What BPF programs would find out

    def qsize(self, fd: int) -> int:
        """How many elements a map has. On a real kernel a BPF program counts them; here the model knows."""
        with self._looked_into(fd) as found:
            return found.count

    def snapshot(self, fd: int) -> list[bytes]:
        """A map's elements in the order in which they would be popped."""
        with self._looked_into(fd) as found:
            return found.elements

    def ring(self, fd: int) -> tuple[int, int, bytes]:
        """A map's head and tail, and the bytes of all its slots."""
        with self._looked_into(fd) as found:
            return found.header.head, found.header.tail, found.slots

    @contextmanager
    def _looked_into(self, fd: int) -> Iterator[SimulatedMap]:
        program = "a BPF program that looks into a map"
        if self.unprivileged:
            raise NotPermitted(errno.EPERM, program, Cmd.BPF_PROG_LOAD, "it needs CAP_BPF and CAP_PERFMON")
        if self.version < (5, 9):
            raise Unsupported(errno.EOPNOTSUPP, program, Cmd.BPF_PROG_LOAD, "it needs Linux 5.9")
        if not self.owns(fd):
            raise BpfError(errno.EBADF, f"descriptor {fd} is not a simulated map's", Cmd.BPF_PROG_LOAD)
        with self.locked(), self.opened(fd) as found:
            yield found

    # /proc

    def proc(self, path: str) -> str | None:
        """What a file in /proc says where that differs from the machine's own."""
        if path == "/proc/sys/kernel/osrelease":
            return f"{'.'.join(map(str, self.version))}.0-simulated\n"
        if path == "/proc/self/status":
            return self._status()
        if path.startswith("/proc/self/fdinfo/"):
            return self._fdinfo(int(path.rpartition("/")[2]))
        return None

    def _status(self) -> str:
        held = 0 if self.unprivileged else sum(1 << capability for capability in Capability)
        ours = {"CapEff": f"{held:016x}", "Seccomp": "0"}
        with open("/proc/self/status") as file:
            lines = [line.partition(":") for line in file]
        return "".join(f"{name}:\t{ours.get(name, value.strip())}\n" for name, _, value in lines)

    def _fdinfo(self, fd: int) -> str | None:
        if not self.owns(fd):
            return None
        with self.opened(fd) as found:
            header = found.header
        fields = {
            "map_type": header.type,
            "key_size": 0,
            "value_size": header.value_size,
            "max_entries": header.max_entries,
            "map_flags": f"{header.map_flags:#x}",
            "map_extra": "0x0",
            "map_id": header.id,
            "frozen": header.frozen,
        }
        return "".join(f"{name}:\t{value}\n" for name, value in fields.items())
