"""A simulated kernel for queue and stack maps: rawbpf.simulate().

It stands at the door (door.py) and answers bpf(2) as Linux does: it reads the real attr, byte for byte, makes the
kernel's checks in the kernel's order, and gives its errnos, quirks included. Nothing above the door knows.

A map is a file, in a directory that is the whole simulated kernel:

    DIRECTORY/lock        held during each call; has the last id that was given out
    DIRECTORY/maps/7      the map with id 7: a header, then its slots
    DIRECTORY/bpf/        the bpffs; a pin in it is a hard link to the map's file

So descriptors are real: close, dup, fork, exec and a pin's mode bits are the system's own. Each descriptor of a map
holds a shared flock() of its file; a map that nobody has locked and nobody has pinned is gone, as in the kernel.

Left out: programs, BTF, tokens and all other map types. What makes them answers EPERM.
"""

import errno
import fcntl
import os
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading

# signal.pthread_sigmask is Python code around this: a handler could raise in it before the mask is back.
from _signal import pthread_sigmask  # type: ignore[import-not-found]
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.abi import (
    BPF_ATTR_MAX_SIZE,
    BPF_COMMON_ATTRS,
    ENOTSUPP,
    Cmd,
    ElemFlag,
    FileFlag,
    MapFlag,
    MapType,
    door,
    layout,
)
from rawbpf.abi.door import ffi, lib
from rawbpf.abi.kinds import number_in
from rawbpf.abi.layout import Field
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import map_info, struct_of
from rawbpf.observe.user_memory import Fault
from rawbpf.syscall.proc import Capability

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# The kernel that is simulated unless told otherwise.
NEWEST = "7.2"

_KMALLOC_MAX_SIZE = 4 << 20
_U32 = 0xFFFFFFFF


class _Error(Exception):
    """The call fails with this errno; `words` is what Linux 7.2 puts into its log, "" if nothing."""

    def __init__(self, error: int, words: str = "") -> None:
        self.errno = error
        self.words = words


def _refuse(condition: object, error: int, words: str = "") -> None:
    if condition:
        raise _Error(error, words)


# Starting and stopping


@contextmanager
def simulate(
    kernel: str = NEWEST, *, unprivileged: bool = False, directory: str | None = None
) -> "Iterator[SimulatedKernel]":
    """Answers every bpf(2) call of this process with a simulated kernel while the context lasts. Needs no privilege.

    >>> with simulate():
    ...     with Queue(4, 3) as q:
    ...         q.push(b"abcd")

    Args:
        kernel: Its version, "4.20" to "7.2": "5.10" answers as Linux 5.10 where that differs.
        unprivileged: It answers as to a process without CAP_BPF and CAP_SYS_ADMIN, where
            kernel.unprivileged_bpf_disabled is 2: no creation, and before 5.19 nothing at all.
        directory: Where it lives. Two processes that name the same one share its maps, and pins outlast the
            context. None is a new one that is removed at the end.

    Yields the kernel: pins go into its `bpffs`. Maps that are still open at the end are no maps afterwards.
    """
    version = _simulated_version(kernel)
    own = tempfile.mkdtemp(prefix="rawbpf-simulated-") if directory is None else None
    creator = os.getpid()
    simulated = SimulatedKernel(own or directory or "", version, unprivileged)
    _answering.append(simulated)
    door.set_simulated(simulated)
    try:
        yield simulated
    finally:
        # Contexts in several threads need not end in their order.
        _answering.remove(simulated)
        door.set_simulated(_answering[-1] if _answering else None)
        if own and os.getpid() == creator:
            shutil.rmtree(own)


def start(value: str) -> None:
    """RAWBPF_SIMULATE: simulates to the end of the process. `value` is the directory, or 1 for one per user."""
    directory = (
        value if os.path.isabs(value) else os.path.join(tempfile.gettempdir(), f"rawbpf-simulated-{os.getuid()}")
    )
    _answering.append(SimulatedKernel(directory, _simulated_version(NEWEST), unprivileged=False))
    door.set_simulated(_answering[-1])


# The kernels of start() and of all contexts that last; the newest stands at the door.
_answering: "list[SimulatedKernel]" = []


def _simulated_version(kernel: str) -> tuple[int, ...]:
    version = layout.version(kernel)
    if not (4, 20) <= version <= layout.version(NEWEST):
        raise ValueError(f"kernels from 4.20 to {NEWEST} are simulated, not {kernel}")
    return version


# A map in its file


class _Header(NamedTuple):
    """What stands at the beginning of a map's file. head and tail are those of struct bpf_queue_stack."""

    magic: bytes
    id: int
    type: int
    value_size: int
    max_entries: int
    map_flags: int
    frozen: int
    head: int
    tail: int
    name: bytes


_HEADER = struct.Struct("=8s8I16s")
_SLOTS = 64  # bytes before the first slot
_MAGIC = b"rawbpf 1"


class _Map:
    """The ring of kernel/bpf/queue_stack_maps.c, through a descriptor of its file that may be read and written.

    The ring has one slot more than max_entries: head == tail is empty. All sums are the kernel's 32 bits: with
    max_entries 0xFFFFFFFF the size wraps to 0, and beyond 4 GiB slots share their bytes.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.header = _Header(*_HEADER.unpack(os.pread(file, _HEADER.size, 0)))
        self.size = (self.header.max_entries + 1) & _U32

    def save(self, **changes: Any) -> None:
        self.header = self.header._replace(**changes)
        os.pwrite(self.file, _HEADER.pack(*self.header), 0)

    @property
    def empty(self) -> bool:
        return self.header.head == self.header.tail

    def push(self, value: bytes, replace: bool) -> None:
        head, tail = self.header.head, self.header.tail
        if self._after(head) == tail:
            _refuse(not replace, errno.E2BIG)
            # A stack as well drops its oldest element, the one at the bottom.
            tail = self._after(tail)
        os.pwrite(self.file, value, self._offset(head))
        self.save(head=self._after(head), tail=tail)

    def peek(self) -> bytes:
        return os.pread(self.file, self.header.value_size, self._offset(self._next_out()))

    def remove(self) -> None:
        """Forgets the element that peek() gave; its bytes stay where they are."""
        if self.header.type == MapType.BPF_MAP_TYPE_QUEUE:
            self.save(tail=self._after(self.header.tail))
        else:
            self.save(head=self._next_out())

    def _next_out(self) -> int:
        if self.header.type == MapType.BPF_MAP_TYPE_QUEUE:
            return self.header.tail
        # `index = head - 1; if (index >= size) index = size - 1`, unsigned.
        before = (self.header.head - 1) & _U32
        return before if before < self.size else (self.size - 1) & _U32

    def _after(self, index: int) -> int:
        return index + 1 if index + 1 < self.size else 0

    def _offset(self, index: int) -> int:
        return _SLOTS + (index * self.header.value_size & _U32)


# The kernel

# What Python programs have handlers for.
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

# No thread or process sees a call half done.
_thread_lock = threading.RLock()


def _hold_lock() -> None:
    _thread_lock.acquire()


def _release_lock() -> None:
    _thread_lock.release()


def _new_lock() -> None:
    global _thread_lock
    _thread_lock = threading.RLock()


# A child that is forked while another thread is in a call would inherit that call's descriptors, and hold their flock()
# for ever. So fork() waits for the call.
os.register_at_fork(before=_hold_lock, after_in_parent=_release_lock, after_in_child=_new_lock)


class SimulatedKernel:
    """A simulated kernel. `version` is (6, 18), `directory` where its maps are, `bpffs` where pins go."""

    def __init__(self, directory: str, version: tuple[int, ...], unprivileged: bool) -> None:
        self.version = version
        self.unprivileged = unprivileged
        self.directory = _private_directory(directory)
        self.bpffs = os.path.join(self.directory, "bpf")
        self._maps = os.path.join(self.directory, "maps")
        for folder in (self.bpffs, self._maps):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._attr_size = self._size_of_union()

    def bpf(self, cmd: int, attr: "CData", size: int) -> int:
        """The answer to a call: 0, a descriptor, or a negative errno."""
        # Nothing interrupts a system call, so nothing interrupts this one: a signal waits until it is answered.
        mask = pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            return lib.bpf_answer(self._answer(cmd, int(ffi.cast("uintptr_t", attr)), size))
        finally:
            pthread_sigmask(signal.SIG_SETMASK, mask)

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

    # From the call to the command

    def _answer(self, cmd: int, address: int, size: int) -> int:
        in_words = cmd & BPF_COMMON_ATTRS if self.version >= (7, 2) else 0
        cmd &= ~in_words
        try:
            with self._locked():
                self._check_privilege(cmd)
                attr = self._copied(address, size)
                command = self._command(cmd)
                return command(self, _Attr(self, Cmd(cmd), address, attr))
        except _Error as error:
            if in_words and error.words:
                said = f"{error.words}\n".encode() + b"\0"
                ffi.memmove(lib.bpf_log(), said, len(said))
            return -error.errno
        except Fault:
            return -errno.EFAULT
        except OSError as error:
            # The system's own word on a path or on the descriptor table: the kernel says the same.
            return -(error.errno or errno.EIO)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _thread_lock:
            lock = _out_of_the_way(os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def _check_privilege(self, cmd: int) -> None:
        """What comes before everything else; map_create() has the rest."""
        if self.unprivileged:
            _refuse(self.version < (5, 19), errno.EPERM)
            _refuse(self.version < (6, 5) and cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD), errno.EPERM)

    def _copied(self, address: int, size: int) -> bytes:
        """bpf_check_uarg_tail_zero(), and the copy: the kernel's whole union, zero where nothing was sent."""
        _refuse(size > BPF_ATTR_MAX_SIZE, errno.E2BIG)
        attr = user_memory.read(address, size)
        _refuse(any(attr[self._attr_size :]), errno.E2BIG)
        return attr[: self._attr_size].ljust(self._attr_size, b"\0")

    def _command(self, cmd: int) -> "_Command":
        known = Cmd(cmd).name in Cmd.__members__ and layout.version(Cmd(cmd).since) <= self.version
        _refuse(not known, errno.EINVAL)
        return _COMMANDS.get(Cmd(cmd), _not_simulated)

    def _size_of_union(self) -> int:
        fields = (field for fields in layout.load().values() for field in fields)
        ends = (field.offset + field.size for field in fields if layout.version(field.since) <= self.version)
        return (max(ends) + 7) // 8 * 8

    def _path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    # Descriptors

    def owns(self, fd: int) -> bool:
        """Whether a descriptor is a map's."""
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            return target.startswith((f"{self._maps}/", f"{self.bpffs}/")) and stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            return False

    def checked(self, fd: int, closed: int = errno.EBADF) -> int:
        """The descriptor, if it is a map's: else EINVAL, or `closed` if it is none at all."""
        try:
            _refuse(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH, closed)
        except (OSError, OverflowError):
            raise _Error(closed) from None
        _refuse(not self.owns(fd), errno.EINVAL)
        return fd

    @contextmanager
    def opened(self, fd: int, to_freeze: bool = False) -> Iterator[_Map]:
        """The map of a descriptor that has been checked."""
        # The header can't be read through a write-only descriptor, nor be written through a read-only one.
        if _access(fd) == os.O_RDWR or (_access(fd) == os.O_RDONLY and not to_freeze):
            yield _Map(fd)
            return
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            yield _Map(file)
        finally:
            os.close(file)

    def permitted(self, fd: int) -> int:
        """FMODE_CAN_READ and FMODE_CAN_WRITE as access bits: a frozen map can't be written any more."""
        with self.opened(fd) as found:
            access = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(_access(fd), os.R_OK | os.W_OK)
            return access & ~os.W_OK if found.header.frozen else access

    def open_file(self, path: str, flags: int) -> int:
        """A new descriptor of a map's file, opened as BPF_F_RDONLY and BPF_F_WRONLY say."""
        fd = os.open(path, _open_mode(flags) | os.O_CLOEXEC)
        # Waits while sweep() looks whether anybody has the map open.
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd

    # Maps

    def make(self, header: _Header, access: int) -> int:
        """Makes the file of a new map, returns its descriptor."""
        number = self._next_number()
        path = os.path.join(self._maps, str(number))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            try:
                os.ftruncate(fd, _SLOTS + (header.max_entries + 1) * header.value_size)
            except OSError:
                raise _Error(errno.ENOMEM) from None
            os.pwrite(fd, _HEADER.pack(*header._replace(id=number)), 0)
            if access:
                # The same number, in the mode that was asked for.
                again = self.open_file(path, access)
                os.dup2(again, fd, inheritable=False)
                os.close(again)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise
        return fd

    def _next_number(self) -> int:
        with open(self._path("lock"), "r+") as file:
            number = int(file.read() or "0") + 1
            file.seek(0)
            file.write(str(number))
        if number % 64 == 0:
            self.sweep()
        return number

    def numbers(self) -> list[int]:
        """The ids of all maps, ascending."""
        self.sweep()
        return sorted(int(name) for name in os.listdir(self._maps))

    def map_path(self, number: int) -> str:
        return os.path.join(self._maps, str(number))

    def sweep(self) -> None:
        """Frees the maps that no descriptor and no pin refers to."""
        for name in os.listdir(self._maps):
            path = os.path.join(self._maps, name)
            try:
                fd = os.open(path, os.O_RDONLY)
            except PermissionError:
                continue  # pinned, and its mode changed
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink == 1:
                    os.unlink(path)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)

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


def _private_directory(path: str) -> str:
    """Makes the directory if it is not there. Whoever may write in it can forge maps: it must be ours alone."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "a simulated kernel's directory must be yours, with mode 0700", path)
    return os.path.realpath(path)


def _out_of_the_way(fd: int) -> int:
    """Moves a descriptor up, so that a new map gets the number that the kernel would have given it."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 256)
    except OSError:
        return fd
    os.close(fd)
    return moved


def _access(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def _open_mode(flags: int) -> int:
    """bpf_get_file_flag()."""
    mode = {0: os.O_RDWR, _RDONLY: os.O_RDONLY, _WRONLY: os.O_WRONLY}.get(flags & _OPEN_FLAGS)
    if mode is None:
        raise _Error(errno.EINVAL)
    return mode


_RDONLY, _WRONLY = int(FileFlag.BPF_F_RDONLY), int(FileFlag.BPF_F_WRONLY)
_OPEN_FLAGS = _RDONLY | _WRONLY


# The commands, each in the order of the kernel's checks


class _Attr:
    """A call's attr: its fields by name, and where it is, for the commands that write into it."""

    def __init__(self, kernel: SimulatedKernel, cmd: Cmd, address: int, data: bytes) -> None:
        struct = struct_of(cmd)
        assert struct is not None
        self.cmd = cmd
        self.address = address
        self.data = data
        self._fields = {field.name: field for field in struct.fields if layout.version(field.since) <= kernel.version}

    def __getitem__(self, name: str) -> int:
        """A field's value; 0 if this kernel does not know it."""
        field = self._fields.get(name)
        return 0 if field is None else number_in(self.data, field)

    def check(self, last: str | None = None) -> None:
        """CHECK_ATTR(): bytes behind the command's last field are EINVAL."""
        end = self._fields[last].end if last else max(field.end for field in self._fields.values())
        _refuse(any(self.data[end:]), errno.EINVAL)

    def bytes_of(self, name: str) -> bytes:
        field = self._fields[name]
        return self.data[field.offset : field.end]

    def write(self, name: str, value: int) -> None:
        """put_user(): into the caller's attr, also where that is shorter."""
        field = self._fields[name]
        user_memory.write(self.address + field.offset, value.to_bytes(field.size, sys.byteorder))


_Command = Callable[[SimulatedKernel, _Attr], int]

# Plain integers: the complement of an IntFlag has only the bits that the class knows.
_NUMA_NODE = int(MapFlag.BPF_F_NUMA_NODE)
_TOKEN_FD = int(MapFlag.BPF_F_TOKEN_FD)
_PATH_FD = int(FileFlag.BPF_F_PATH_FD)
_PROGRAM_FLAGS = int(MapFlag.BPF_F_RDONLY_PROG | MapFlag.BPF_F_WRONLY_PROG)
_NOEXIST, _EXIST, _LOCK = int(ElemFlag.BPF_NOEXIST), int(ElemFlag.BPF_EXIST), int(ElemFlag.BPF_F_LOCK)
_CPU, _ALL_CPUS = int(ElemFlag.BPF_F_CPU), int(ElemFlag.BPF_F_ALL_CPUS)


def _map_create(kernel: SimulatedKernel, attr: _Attr) -> int:
    """map_create() and queue_stack_map_alloc_check()."""
    attr.check()
    flags = attr["map_flags"]
    token = flags & _TOKEN_FD if kernel.version >= (6, 9) else 0
    flags &= ~token
    only_others = "btf_vmlinux_value_type_id can only be used with struct_ops maps."
    _refuse(attr["btf_vmlinux_value_type_id"], errno.EINVAL, only_others)
    _refuse(attr["btf_key_type_id"] and not attr["btf_value_type_id"], errno.EINVAL, "Invalid btf_value_type_id.")
    _refuse(attr["map_extra"], errno.EINVAL, "Invalid map_extra.")
    access = flags & _OPEN_FLAGS
    _open_mode(access)
    # The machine has one NUMA node.
    node = attr["numa_node"]
    _refuse(flags & _NUMA_NODE and node not in (0, _U32), errno.EINVAL, "Invalid numa_node.")
    kind = MapType(attr["map_type"])
    known = kind.name in MapType.__members__ and layout.version(kind.since) <= kernel.version
    _refuse(not known, errno.EINVAL, "Invalid map_type.")
    _refuse(kind == MapType.BPF_MAP_TYPE_UNSPEC, errno.EINVAL)
    _refuse(kind not in (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK), errno.EPERM)
    _check_sizes(kernel, attr, flags)
    _refuse(attr["map_ifindex"], errno.EINVAL)
    if token:
        raise _Error(_none_of_its_kind(attr["map_token_fd"]), "Invalid map_token_fd.")
    _refuse(kernel.unprivileged, errno.EPERM)
    name = _checked_name(attr.bytes_of("map_name"))
    if attr["btf_value_type_id"]:
        raise _Error(_none_of_its_kind(attr["btf_fd"]), "Invalid btf_fd.")
    if attr["excl_prog_hash"] or attr["excl_prog_hash_size"]:
        right = attr["excl_prog_hash"] and attr["excl_prog_hash_size"] == 32
        _refuse(not right, errno.EINVAL, "Invalid excl_prog_hash_size.")
        user_memory.read(attr["excl_prog_hash"], 32)
    # RDONLY and WRONLY belong to the descriptor, the other flags to the map.
    kept = flags & ~_OPEN_FLAGS
    header = _Header(_MAGIC, 0, kind, attr["value_size"], attr["max_entries"], kept, 0, 0, 0, name)
    return kernel.make(header, access)


def _check_sizes(kernel: SimulatedKernel, attr: _Attr, flags: int) -> None:
    allowed = _NUMA_NODE | _OPEN_FLAGS | (_PROGRAM_FLAGS if kernel.version >= (5, 2) else 0)
    _refuse(attr["max_entries"] == 0 or attr["key_size"] != 0 or attr["value_size"] == 0, errno.EINVAL)
    _refuse(flags & ~allowed or flags & _PROGRAM_FLAGS == _PROGRAM_FLAGS, errno.EINVAL)
    _refuse(attr["value_size"] > _KMALLOC_MAX_SIZE, errno.E2BIG)


def _checked_name(data: bytes) -> bytes:
    """bpf_obj_name_cpy(): what stands behind the NUL does not matter."""
    name, nul, _ = data.partition(b"\0")
    _refuse(any(byte not in _NAME_BYTES for byte in name) or not nul, errno.EINVAL, "Invalid map_name.")
    return name


# The kernel's isalnum() is Latin-1's.
_NAME_BYTES = frozenset(
    byte for byte in range(256) if chr(byte) in "_." or (chr(byte).isascii() and chr(byte).isalnum()) or byte >= 0xC0
) - {0xD7, 0xF7}


def _none_of_its_kind(fd: int) -> int:
    """The errno for a descriptor in the place of a token or a BTF object: there are none."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return errno.EBADF
    return errno.EINVAL


def _update_elem(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    _refuse(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    flags = attr["flags"]
    _refuse(flags & _LOCK, errno.EINVAL)
    if kernel.version >= (7, 0):
        # bpf_map_check_op_flags(): these are for maps with a value per processor. Its number is in the upper half.
        _refuse(flags & (_CPU | _ALL_CPUS) or flags >> 32, errno.EINVAL)
    _refuse(attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        value = user_memory.read(attr["value"], found.header.value_size)
        _refuse(flags & _NOEXIST or flags > _EXIST, errno.EINVAL)
        found.push(value, replace=flags == _EXIST)
    return 0


def _lookup_elem(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    if kernel.version < (7, 0):
        _refuse(attr["flags"] & ~_LOCK, errno.EINVAL)
    fd = kernel.checked(attr["map_fd"])
    _refuse(not kernel.permitted(fd) & os.R_OK, errno.EPERM)
    _refuse(attr["flags"] or attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        _refuse(found.empty, errno.ENOENT)
        user_memory.write(attr["value"], found.peek())
    return 0


def _lookup_and_delete_elem(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    _refuse(attr["flags"] & ~_LOCK, errno.EINVAL)
    fd = kernel.checked(attr["map_fd"])
    _refuse(kernel.permitted(fd) != os.R_OK | os.W_OK, errno.EPERM)
    _refuse(attr["flags"] or attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        _refuse(found.empty, errno.ENOENT)
        value = found.peek()
        # Removed before it is copied: a destination that faults loses it.
        found.remove()
    try:
        user_memory.write(attr["value"], value)
    except Fault:
        # Kernels before 5.7 did not even say so.
        _refuse(kernel.version >= (5, 7), errno.EFAULT)
    return 0


def _delete_elem(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    _refuse(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    raise _Error(errno.EINVAL)


def _get_next_key(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    _refuse(not kernel.permitted(fd) & os.R_OK, errno.EPERM)
    raise _Error(errno.EINVAL)


def _batch(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    needed = {Cmd.BPF_MAP_LOOKUP_BATCH: os.R_OK, Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH: os.R_OK | os.W_OK}
    wanted = needed.get(attr.cmd, os.W_OK)
    _refuse(kernel.permitted(fd) & wanted != wanted, errno.EPERM)
    raise _Error(ENOTSUPP)


def _map_freeze(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    if kernel.version >= (6, 5):
        _refuse(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    with kernel.opened(fd, to_freeze=True) as found:
        if kernel.version < (6, 5):
            # Then it asked for the capability, whatever the descriptor's mode.
            _refuse(found.header.frozen, errno.EBUSY)
            _refuse(kernel.unprivileged, errno.EPERM)
        found.save(frozen=1)
    return 0


def _get_next_id(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check("next_id")
    _refuse(attr["start_id"] >= 0x7FFFFFFF, errno.EINVAL)
    _refuse(kernel.unprivileged, errno.EPERM)
    numbers = kernel.numbers() if attr.cmd == Cmd.BPF_MAP_GET_NEXT_ID else []
    later = [number for number in numbers if number > attr["start_id"]]
    _refuse(not later, errno.ENOENT)
    attr.write("next_id", later[0])
    return 0


def _get_fd_by_id(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    _refuse(attr["open_flags"] & ~_OPEN_FLAGS, errno.EINVAL)
    _refuse(kernel.unprivileged, errno.EPERM)
    _open_mode(attr["open_flags"])
    _refuse(attr["map_id"] not in kernel.numbers(), errno.ENOENT)
    return kernel.open_file(kernel.map_path(attr["map_id"]), attr["open_flags"])


def _get_info_by_fd(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["bpf_fd"], closed=errno.EBADFD)
    fields = [field for field in map_info().fields if layout.version(field.since) <= kernel.version]
    size = (max(field.end for field in fields) + 7) // 8 * 8
    length, address = attr["info_len"], attr["info"]
    _refuse(length > BPF_ATTR_MAX_SIZE, errno.E2BIG)
    _refuse(any(user_memory.read(address + size, length - size)) if length > size else False, errno.E2BIG)
    length = min(length, size)
    asked = user_memory.read(address, length)
    by_name = {field.name: field for field in fields}
    if "hash" in by_name:
        # Inputs, for maps that programs are signed with: these are none.
        _refuse(number_in(asked, by_name["hash"]) or number_in(asked, by_name["hash_size"]), errno.EINVAL)
    with kernel.opened(fd) as found:
        info = _info(found.header, fields, size)
    user_memory.write(address, info[:length])
    attr.write("info_len", length)
    return 0


def _info(header: _Header, fields: list[Field], size: int) -> bytes:
    values = header._asdict()
    data = bytearray(size)
    for field in fields:
        value = values.get(field.name, 0)
        encoded = value if isinstance(value, bytes) else value.to_bytes(field.size, sys.byteorder)
        data[field.offset : field.end] = encoded.ljust(field.size, b"\0")
    return bytes(data)


# Pins


def _obj_pin(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    _refuse(attr["file_flags"] & ~_path_flag(kernel), errno.EINVAL)
    folder_fd = _folder_fd(attr)
    try:
        fd = kernel.checked(attr["bpf_fd"])
    except _Error:
        raise _Error(errno.EINVAL) from None
    path = _path_at(attr["pathname"])
    folder, name = os.path.split(path.rstrip("/"))
    with _opened_folder(folder, folder_fd) as parent:
        inside = _is_within(parent, kernel.bpffs)
        _refuse(inside and "." in name and name not in (".", ".."), errno.EPERM)
        _refuse(name in ("", ".", "..") or _exists(name, parent), errno.EEXIST)
        _refuse(path.endswith("/"), errno.ENOENT)
        _refuse(not inside, errno.EPERM)
        with kernel.opened(fd) as found:
            os.link(kernel.map_path(found.header.id), name, dst_dir_fd=parent)
    return 0


def _obj_get(kernel: SimulatedKernel, attr: _Attr) -> int:
    attr.check()
    _refuse(attr["file_flags"] & ~(_OPEN_FLAGS | _path_flag(kernel)), errno.EINVAL)
    folder_fd = _folder_fd(attr)
    _open_mode(attr["file_flags"])
    path = _path_at(attr["pathname"])
    folder, name = os.path.split(path)
    with _opened_folder(folder, folder_fd) as parent:
        inside = _is_within(parent, kernel.bpffs)
        _refuse(inside and "." in name and name not in (".", ".."), errno.EPERM)
    with _opened_path(path, folder_fd) as found:
        target = f"/proc/self/fd/{found}"
        wanted = {0: os.R_OK | os.W_OK, _RDONLY: os.R_OK, _WRONLY: os.W_OK}
        may = os.access(target, wanted[attr["file_flags"] & _OPEN_FLAGS], effective_ids=True)
        _refuse(not may or not kernel.owns(found), errno.EACCES)
        return kernel.open_file(target, attr["file_flags"])


def _path_flag(kernel: SimulatedKernel) -> int:
    return _PATH_FD if kernel.version >= (6, 5) else 0


def _folder_fd(attr: _Attr) -> int | None:
    """path_fd, which is allowed only with its flag; None is the working directory."""
    if not attr["file_flags"] & _PATH_FD:
        _refuse(attr["path_fd"], errno.EINVAL)
        return None
    fd = attr["path_fd"]
    return None if fd == _AT_FDCWD else fd


_AT_FDCWD = -100 & _U32


def _path_at(address: int) -> str:
    path = user_memory.read_string(address, 4096)
    if path is None:
        raise _Error(errno.ENAMETOOLONG)
    _refuse(not path, errno.ENOENT)
    return os.fsdecode(path)


@contextmanager
def _opened_path(path: str, folder_fd: int | None, flags: int = 0) -> Iterator[int]:
    try:
        fd = _out_of_the_way(os.open(path, os.O_PATH | flags, dir_fd=folder_fd))
    except OverflowError:
        raise _Error(errno.EBADF) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _opened_folder(folder: str, folder_fd: int | None) -> AbstractContextManager[int]:
    return _opened_path(folder or ".", folder_fd, os.O_DIRECTORY)


def _is_within(folder: int, bpffs: str) -> bool:
    target = os.readlink(f"/proc/self/fd/{folder}")
    return target == bpffs or target.startswith(f"{bpffs}/")


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _not_simulated(kernel: SimulatedKernel, attr: _Attr) -> int:
    raise _Error(errno.EPERM)


_COMMANDS: dict[Cmd, _Command] = {
    Cmd.BPF_MAP_CREATE: _map_create,
    Cmd.BPF_MAP_LOOKUP_ELEM: _lookup_elem,
    Cmd.BPF_MAP_UPDATE_ELEM: _update_elem,
    Cmd.BPF_MAP_DELETE_ELEM: _delete_elem,
    Cmd.BPF_MAP_GET_NEXT_KEY: _get_next_key,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: _lookup_and_delete_elem,
    Cmd.BPF_MAP_FREEZE: _map_freeze,
    Cmd.BPF_MAP_LOOKUP_BATCH: _batch,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH: _batch,
    Cmd.BPF_MAP_UPDATE_BATCH: _batch,
    Cmd.BPF_MAP_DELETE_BATCH: _batch,
    Cmd.BPF_OBJ_PIN: _obj_pin,
    Cmd.BPF_OBJ_GET: _obj_get,
    Cmd.BPF_OBJ_GET_INFO_BY_FD: _get_info_by_fd,
    Cmd.BPF_MAP_GET_FD_BY_ID: _get_fd_by_id,
    Cmd.BPF_MAP_GET_NEXT_ID: _get_next_id,
    # There are none of these.
    Cmd.BPF_PROG_GET_NEXT_ID: _get_next_id,
    Cmd.BPF_BTF_GET_NEXT_ID: _get_next_id,
    Cmd.BPF_LINK_GET_NEXT_ID: _get_next_id,
}
