"""What a simulated kernel consists of: a directory with a file for each map, and the descriptors of those files.

    DIRECTORY/lock        locked during each call; holds the highest id that was given out
    DIRECTORY/maps/7      the map with id 7: a header, then its slots
    DIRECTORY/btf/8       the type information with id 8
    DIRECTORY/map_btf/7   a hard link to the type information of the map with id 7, if it has some
    DIRECTORY/bpf/        the bpffs; a pin in it is a hard link to the map's file

So descriptors are real ones: close, dup, fork, exec and a pin's mode bits are the system's own. Each descriptor holds a
shared flock() of its file. A map that nobody has locked and nobody has pinned is freed, as in the kernel, and so is
type information that nobody has locked and no map has.
"""

import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rawbpf.abi import FileFlag
from rawbpf.observe.simulated_map import HEADER, SLOTS, Header, Refused, SimulatedMap, refuse_if

RDONLY, WRONLY = int(FileFlag.BPF_F_RDONLY), int(FileFlag.BPF_F_WRONLY)
OPEN_FLAGS = RDONLY | WRONLY


class Removed(Exception):
    """The directory is no longer there: the simulated kernel has ended."""


# Held during each call by its thread, as the directory's lock is by its process.
_thread_lock = threading.RLock()


def _hold_lock() -> None:
    _thread_lock.acquire()


def _release_lock() -> None:
    _thread_lock.release()


def _new_lock() -> None:
    global _thread_lock
    _thread_lock = threading.RLock()


# A child that is forked while another thread is in a call would inherit that call's descriptors and hold their flock()
# for ever. So fork() waits until the call has ended.
os.register_at_fork(before=_hold_lock, after_in_parent=_release_lock, after_in_child=_new_lock)


class KernelState:
    """A simulated kernel's version, and its maps.

    `version`: (6, 18), for example. `directory`: where the maps are. `bpffs`: where pins go. `unprivileged`: whether it
    answers as to a process without capabilities.
    """

    def __init__(self, directory: str, version: tuple[int, ...], unprivileged: bool) -> None:
        self.version = version
        self.unprivileged = unprivileged
        self.directory = _private_directory(directory)
        self.bpffs = os.path.join(self.directory, "bpf")
        self._maps, self._btf, self._btf_of_maps = map(self._path, ("maps", "btf", "map_btf"))
        for folder in (self.bpffs, self._maps, self._btf, self._btf_of_maps):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other thread or process is in a call meanwhile. Raises Removed."""
        with _thread_lock:
            try:
                lock = out_of_the_way(os.open(self._path("lock"), os.O_RDWR | os.O_CLOEXEC))
            except FileNotFoundError:
                raise Removed from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def remove(self) -> None:
        """Removes the directory while no call is under way. A later call finds no lock and makes nothing in it."""
        with self.locked():
            shutil.rmtree(self.directory)

    def _path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    # Descriptors

    def owns(self, fd: int) -> bool:
        """Whether a descriptor is a map's."""
        return self._is_in(fd, self._maps, self.bpffs)

    def is_btf(self, fd: int) -> bool:
        """Whether a descriptor is one of type information."""
        return self._is_in(fd, self._btf)

    def _is_in(self, fd: int, *folders: str) -> bool:
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            return target.startswith(tuple(f"{folder}/" for folder in folders)) and stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            return False

    def checked(self, fd: int, closed: int = errno.EBADF) -> int:
        """The descriptor, if it is a map's: else EINVAL, or `closed` if it is none at all."""
        check_open(fd, closed)
        refuse_if(not self.owns(fd), errno.EINVAL)
        return fd

    def checked_btf(self, fd: int) -> int:
        """The descriptor, if it is one of type information: else EINVAL, or EBADF if it is none at all."""
        check_open(fd)
        refuse_if(not self.is_btf(fd), errno.EINVAL)
        return fd

    @contextmanager
    def opened(self, fd: int, to_freeze: bool = False) -> Iterator[SimulatedMap]:
        """The map of a descriptor that has been checked."""
        # The header can't be read through a write-only descriptor, nor be written through a read-only one.
        if _access(fd) == os.O_RDWR or (_access(fd) == os.O_RDONLY and not to_freeze):
            yield SimulatedMap(fd)
            return
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            yield SimulatedMap(file)
        finally:
            os.close(file)

    def permitted(self, fd: int) -> int:
        """FMODE_CAN_READ and FMODE_CAN_WRITE as access bits: a frozen map can't be written any more."""
        with self.opened(fd) as found:
            access = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(_access(fd), os.R_OK | os.W_OK)
            return access & ~os.W_OK if found.header.frozen else access

    def open_file(self, path: str, flags: int) -> int:
        """A new descriptor of a map's file, opened as BPF_F_RDONLY and BPF_F_WRONLY say."""
        fd = os.open(path, open_mode(flags) | os.O_CLOEXEC)
        # Waits while sweep() looks whether anybody has the map open.
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd

    # Maps

    def make(self, header: Header, access: int) -> int:
        """Makes the file of a new map, returns its descriptor."""
        number = self._next_number()
        path = os.path.join(self._maps, str(number))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            try:
                os.ftruncate(fd, SLOTS + (header.max_entries + 1) * header.value_size)
            except OSError:
                raise Refused(errno.ENOMEM) from None
            os.pwrite(fd, HEADER.pack(*header._replace(id=number)), 0)
            if header.btf_id:
                os.link(self.btf_path(header.btf_id), os.path.join(self._btf_of_maps, str(number)))
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

    def map_ids(self) -> list[int]:
        """The ids of all maps, ascending."""
        self.sweep()
        return sorted(map(int, os.listdir(self._maps)))

    def map_path(self, number: int) -> str:
        return os.path.join(self._maps, str(number))

    # Type information

    def make_btf(self, data: bytes) -> int:
        """Keeps type information, returns its descriptor."""
        path = self.btf_path(self._next_number())
        with open(path, "xb") as file:
            file.write(data)
        return self.open_file(path, RDONLY)

    def btf_ids(self) -> list[int]:
        """The ids of all type information, ascending."""
        self.sweep()
        return sorted(map(int, os.listdir(self._btf)))

    def btf_path(self, number: int) -> str:
        return os.path.join(self._btf, str(number))

    # What nothing refers to any more

    def sweep(self) -> None:
        """Frees what nothing refers to any more: no descriptor, no pin and, for type information, no map."""
        for number in _free(self._maps):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._btf_of_maps, number))
        _free(self._btf)


def _free(folder: str) -> list[str]:
    """Removes the files that nobody has locked and that have no other name; returns their names here."""
    freed = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_RDONLY)
        except PermissionError:
            continue  # pinned, and its mode changed
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 1:
                os.unlink(path)
                freed.append(name)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    return freed


def _private_directory(path: str) -> str:
    """Makes the directory if it is not there. Whoever may write in it can forge maps: it must be ours alone."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "a simulated kernel's directory must be yours, with mode 0700", path)
    return os.path.realpath(path)


def check_open(fd: int, closed: int = errno.EBADF) -> None:
    """Refuses a descriptor that is not open, or only of a path."""
    try:
        refuse_if(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH, closed)
    except (OSError, OverflowError):
        raise Refused(closed) from None


def out_of_the_way(fd: int) -> int:
    """Moves a descriptor up, so that a new map gets the number that the kernel would have given it."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 256)
    except OSError:
        return fd
    os.close(fd)
    return moved


def _access(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def open_mode(flags: int) -> int:
    """bpf_get_file_flag()."""
    mode = {0: os.O_RDWR, RDONLY: os.O_RDONLY, WRONLY: os.O_WRONLY}.get(flags & OPEN_FLAGS)
    if mode is None:
        raise Refused(errno.EINVAL)
    return mode
