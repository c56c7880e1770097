"""Map: what maps of all types have in common: they own a descriptor, are opened, pinned, frozen and closed."""

import fcntl
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rawbpf import syscall
from rawbpf.abi import Cmd, FileFlag, MapFlag, MapType
from rawbpf.abi.door import forget_calls, lib, new_map
from rawbpf.maps.listing import id_of_name
from rawbpf.maps.own_descriptor import own_descriptor
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import Descriptor, HasFileno, fileno_of
from rawbpf.syscall.info import check_is_map

if TYPE_CHECKING:
    from typing_extensions import Self

    from rawbpf.abi._native import CData

# For a forked child, which must not wait for its parent's calls, nor hand over what its parent took.
_all_maps: "weakref.WeakSet[Map]" = weakref.WeakSet()

_ACCESS = {"rw": FileFlag(0), "r": FileFlag.BPF_F_RDONLY, "w": FileFlag.BPF_F_WRONLY}


def open_flags(access: str) -> int:
    """The flags of BPF_OBJ_GET and BPF_MAP_GET_FD_BY_ID for access "rw", "r" or "w"."""
    try:
        return _ACCESS[access]
    except KeyError:
        raise ValueError(f'access is "rw", "r" or "w", not {access!r}') from None


def map_info_of(fd: int) -> MapInfo:
    """What the kernel says of a descriptor's map. Raises TypeError for one of something else."""
    info = syscall.obj_get_info_by_fd(syscall.check_fd(fd))
    check_is_map(fd, info)
    return info


class Map(Descriptor):
    """What all maps share; make one of its subclasses, such as Queue.

    An open map holds one descriptor. Close it, or use `with`: a map that is collected while open is a
    ResourceWarning. All methods but close() raise ValueError afterwards. Objects may be shared between threads, and
    after fork() parent and child share the map in the kernel.

    For authors of subclasses: `_adopt(fd, info, *codecs)` makes the object of an open descriptor and sets `_fd` last;
    `_codecs_of(info, *specs)` checks the caller's specifications of keys and values against what the kernel says and
    returns their codecs.
    """

    map_types: ClassVar[tuple[MapType, ...]] = ()

    _info: MapInfo
    _map: "CData"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        kind = type(self).__name__
        raise TypeError(f"a {kind} can't be made: call Queue(), Stack() or another subclass; open_map() opens a map")

    def _new_map(
        self,
        name: str,
        sizes: tuple[int, int],
        max_entries: int,
        codecs: tuple[Any, ...],
        *,
        flags: int,
        numa_node: int | None,
        token: int | HasFileno | None,
        described: "Callable[[int | None], AbstractContextManager[tuple[int, int, int]]] | None" = None,
        **more: int,
    ) -> None:
        """Creates a map (BPF_MAP_CREATE) whose keys and values have these sizes in bytes, and makes this the object of
        it. `described(token_fd)` gives the types that the kernel is told; `more` is what the type has of its own."""
        token_fd = None if token is None else fileno_of(token)
        with described(token_fd) if described else nullcontext((0, 0, 0)) as (btf_fd, key_type_id, value_type_id):
            create = partial(
                syscall.map_create,
                self.map_types[0],
                name,
                *sizes,
                map_flags=flags,
                numa_node=numa_node,
                token_fd=token_fd,
                btf_fd=btf_fd,
                btf_key_type_id=key_type_id,
                btf_value_type_id=value_type_id,
                **more,
            )
            # After a call with **options CPython looks for signals before it assigns the result; where unpacking makes
            # the call it does not.
            (fd,) = map(create, (max_entries,))
            # Within the other context, whose end is a call in which a signal handler may raise.
            try:
                self._adopt(fd, syscall.obj_get_info_by_fd(fd), *codecs)
            except BaseException:
                if self._fd < 0:
                    os.close(fd)
                raise

    # Ways to get one that is there already

    @classmethod
    def _open(cls, path: StrPath, *specs: Any, access: str) -> "Self":
        return cls._from_new_fd(lambda: syscall.obj_get(path, open_flags(access)), *specs)

    @classmethod
    def _from_id(cls, map_id: int, *specs: Any, access: str) -> "Self":
        return cls._from_new_fd(lambda: syscall.map_get_fd_by_id(map_id, open_flags(access)), *specs)

    @classmethod
    def _from_name(cls, name: str, *specs: Any, access: str) -> "Self":
        return cls._from_id(id_of_name(name, cls.map_types, cls.__name__), *specs, access=access)

    @classmethod
    def _from_fd(cls, fd: int | Callable[[], int], *specs: Any) -> "Self":
        if callable(fd):
            return cls._from_new_fd(fd, *specs)
        self = cls.__new__(cls)
        self._take_over(fd, *specs)
        return self

    @classmethod
    def _from_new_fd(cls, make: Callable[[], int], *specs: Any) -> "Self":
        self = cls.__new__(cls)
        # Not a descriptor as argument: at the beginning of a call a signal handler may raise.
        fd = make()
        try:
            self._take_over(fd, *specs)
            return self
        except BaseException:
            if self._fd < 0:
                os.close(fd)
            raise

    def _take_over(self, fd: int, *specs: Any) -> None:
        """Makes the object of a descriptor, which is the caller's as long as `_fd` is negative."""
        info = map_info_of(fd)
        codecs = self._codecs_of(info, *specs)
        if fd > 2:
            self._adopt(fd, info, *codecs)
            return
        # 0 means "none" in many attr fields.
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._adopt(moved, info, *codecs)
        except BaseException:
            if self._fd < 0:
                os.close(moved)
            raise
        os.close(fd)

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        """Makes the object of an open map; the descriptor belongs to it as soon as this returns, and not before."""
        self._info = info
        if not hasattr(self, "_map"):
            self._map = new_map(fd, info.value_size)
        _all_maps.add(self)
        # Last: no call follows in which a signal handler might raise.
        self._fd = fd

    # What the kernel says of it

    def info(self) -> MapInfo:
        """What the kernel says of the map now (BPF_OBJ_GET_INFO_BY_FD)."""
        with self._own_descriptor(Cmd.BPF_OBJ_GET_INFO_BY_FD) as fd:
            return syscall.obj_get_info_by_fd(fd)

    @property
    def id(self) -> int:
        """The map's number, system-wide, until it is freed."""
        return self._info.id

    @property
    def name(self) -> str:
        """The map's name, "" if it has none."""
        return self._info.name

    @property
    def value_size(self) -> int:
        """Length of a value in bytes."""
        return self._info.value_size

    @property
    def max_entries(self) -> int:
        """How many elements the map holds at most."""
        return self._info.max_entries

    @property
    def map_flags(self) -> MapFlag:
        """The flags it was created with, without BPF_F_RDONLY and BPF_F_WRONLY, which belong to a descriptor."""
        return self._info.map_flags

    # What can be done to it as a whole

    def pin(self, path: StrPath) -> None:
        """Gives the map a path in a bpffs (BPF_OBJ_PIN), mode 0600, where it lives until os.unlink(path).

        Raises AlreadyExists, NotFound (no such directory), NotPermitted (not in a bpffs, or a '.' in the last part).
        """
        with self._own_descriptor(Cmd.BPF_OBJ_PIN) as fd:
            syscall.obj_pin(fd, path)

    def freeze(self) -> None:
        """Ends writing from user space for good (BPF_MAP_FREEZE): push, pop, update and delete; reading and BPF
        programs go on. Linux 5.2.

        Raises NotPermitted if the descriptor is read-only (before 6.5: without CAP_BPF) or the map is frozen already.
        """
        with self._own_descriptor(Cmd.BPF_MAP_FREEZE) as fd:
            syscall.map_freeze(fd)

    def detach(self) -> int:
        """Gives the descriptor away: the caller closes it, this object counts as closed."""
        fd = self.fileno()
        self._fd = -1
        try:
            self._release()
        except BaseException:
            os.close(fd)  # nobody would know its number
            raise
        return fd

    def close(self) -> None:
        """Closes the descriptor; may be repeated. The kernel frees a map with its last descriptor, pin and program."""
        fd, self._fd = self._fd, -1
        # Where the interpreter ends, it may have emptied this module: the kernel closes the descriptor then.
        if fd >= 0 and os is not None:
            try:
                self._release()
            finally:
                os.close(fd)

    def _own_descriptor(self, cmd: Cmd) -> AbstractContextManager[int]:
        """A copy of the descriptor for one call, see own_descriptor(). ValueError after close()."""
        self.fileno()
        return own_descriptor(self._map, cmd, syscall.describe(self._info))

    def _release(self) -> None:
        """Ends the use of the descriptor in other threads, before its number is given back."""
        lib.map_retire(self._map)

    def _forget(self) -> None:
        """In a forked child: what is under way in the parent is the parent's."""
        forget_calls(self._map)

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self._fd < 0:
            return f"<{kind} {self.name!r} closed>" if hasattr(self, "_info") else f"<{kind} closed>"
        sizes = f"value_size={self.value_size} max_entries={self.max_entries}"
        return f"<{kind} {self.name!r} fd={self._fd} id={self.id} {sizes}>"


def _after_fork_in_child() -> None:
    for each in _all_maps:
        each._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
