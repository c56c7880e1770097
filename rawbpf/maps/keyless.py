"""KeylessMap: how queues and stacks are made, opened, looked into and closed. Their elements are in queue_stack.py."""

import os
import sys
import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rawbpf import syscall
from rawbpf.abi import Cmd, MapType
from rawbpf.abi.door import new_map
from rawbpf.maps.bulk import Bulk, Status
from rawbpf.maps.map import Map
from rawbpf.syscall import MapInfo, StrPath
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.proc import access_of, is_frozen
from rawbpf.values.codecs import BTF, Codec, OpenSpec, RawBytes, ValueSpec, codec_for

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self
    from typing_extensions import TypeVar as DefaultTypeVar

    from rawbpf.maps.qsize import Inspector

    # A map opened without a value specification, and one with a struct format, gives Any.
    T = DefaultTypeVar("T", default=Any)
else:
    T = TypeVar("T")
M = TypeVar("M", bound="KeylessMap[Any]")


class KeylessMap(Map, Generic[T]):
    """What queues and stacks have in common with each other, but for their elements."""

    _codec: Codec[T]
    _bulk: Bulk

    def __init__(
        self,
        value: "ValueSpec",
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
        numa_node: int | None = None,
        token: "int | HasFileno | None" = None,
        btf: bool = False,
    ) -> None:
        """Creates the map (BPF_MAP_CREATE).

        Args:
            value: What an element is. An int is a size in bytes, 1 to 4194304: any buffer of that length in, bytes
                out. A struct format ("<IH"): a tuple, or a scalar if it has one field. A ctypes type. A codec: an
                object with `size`, `encode(value)` and `decode(data)`.
            max_entries: How many elements the map holds, 1 to 4294967294. Memory for one more is taken at once.
            name: Shown by info() and bpftool: at most 15 characters of [A-Za-z0-9_.].
            flags: MapFlag bits: BPF_F_RDONLY or BPF_F_WRONLY for this descriptor, BPF_F_RDONLY_PROG or
                BPF_F_WRONLY_PROG (Linux 5.2) for BPF programs.
            numa_node: Where the memory comes from (sets BPF_F_NUMA_NODE); -1 is anywhere.
            token: A BPF token, as descriptor or object with fileno() (Linux 6.9).
            btf: Describe the value to the kernel (BPF_BTF_LOAD): bpftool then shows fields, and the map can be opened
                with rawbpf.BTF. A struct format has fields f0, f1 ..., raw bytes are an array.

        Raises:
            ValueError, TypeError: An argument breaks a rule, or is nothing that BTF can describe; no map was asked for.
            NotPermitted: No CAP_BPF (before 5.8: CAP_SYS_ADMIN).
            BpfError: ENOMEM, EMFILE, ENFILE.

        Needs Linux 4.20. Source: Documentation/bpf/map_queue_stack.rst.
        """
        codec = codec_for(value)
        self._new_map(
            name,
            (0, codec.size),
            max_entries,
            (codec,),
            flags=flags,
            numa_node=numa_node,
            token=token,
            described=partial(_described, codec) if btf else None,
        )

    # Other ways to get one

    @classmethod
    def open(cls, path: StrPath, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map that is pinned at `path` (BPF_OBJ_GET).

        Args:
            path: A pin in a bpffs.
            value: As for creation; None is bytes of the map's own value_size. rawbpf.BTF: by the C type that the map
                carries, see rawbpf.values.btf_codec; that needs CAP_SYS_ADMIN.
            access: "rw", "r" (peek only) or "w" (push only).

        Raises:
            NotFound: Nothing is pinned there.
            NotPermitted: The file's mode does not allow the access, or the file is no pin (EACCES).
            TypeError: The pin is of something else: the other map type, a program.
            ValueError: `value` has another size than the map's values, or is BTF and the map carries none.
        """
        return cls._open(path, value, access=access)

    @classmethod
    def from_id(cls, map_id: int, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the map with this id (BPF_MAP_GET_FD_BY_ID); needs CAP_SYS_ADMIN, CAP_BPF is not enough.

        `value` and `access` as in open(). Raises NotFound, NotPermitted, TypeError, ValueError as open() does.
        """
        return cls._from_id(map_id, value, access=access)

    @classmethod
    def from_name(cls, name: str, value: "OpenSpec" = None, *, access: str = "rw") -> "Self":
        """Opens the one map of this name among all on the system; needs CAP_SYS_ADMIN.

        Raises NotFound if there is none, ValueError if there are several (it lists their ids: use from_id()),
        TypeError if the only one is of the other type; and what open() raises.
        """
        return cls._from_name(name, value, access=access)

    @classmethod
    def from_fd(cls, fd: int, value: "OpenSpec" = None) -> "Self":
        """Takes over a descriptor: inherited, received, or made by other code. From now on close() closes it.

        On an error (TypeError, ValueError, BpfError) the descriptor stays the caller's, open.
        """
        return cls._from_fd(fd, value)

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        (value,) = specs
        syscall.check_queue_or_stack(info)
        if info.type not in cls.map_types:
            other = "Queue" if info.type == MapType.BPF_MAP_TYPE_QUEUE else "Stack"
            raise TypeError(f"{syscall.describe(info)} is no {cls.__name__}: use {other}, or rawbpf.open_map()")
        codec = _codec_by_btf(info) if value is BTF else codec_for(info.value_size if value is None else value)
        if codec.size != info.value_size:
            raise ValueError(f"{codec!r} has {codec.size} bytes, {syscall.describe(info)} value_size {info.value_size}")
        return (codec,)

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        codec: Codec[Any] = codecs[0]
        self._codec = codec
        self._encode = codec.encode
        self._decode = codec.decode
        self._raw_size = info.value_size if type(codec) is RawBytes else None
        self._map = new_map(fd, info.value_size)
        self._bulk = Bulk(self._map, codec, info)
        # Under the key 0 what looks into the map, once it is made: of two threads, setdefault() takes one's. (Not in
        # the object's own __dict__: CPython 3.11 finds all attributes of an object more slowly once it was asked for
        # that.)
        self._inspector: dict[int, Inspector] = {}
        super()._adopt(fd, info)

    # What it is, and what it holds

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The numpy.dtype of an element: `a = np.empty(4096, q.dtype); n = q.pop_into(a)`, and q.push_many(a[:n]).

        Raises TypeError where numpy has none, see rawbpf.values.numpy_dtype; ImportError without numpy.
        """
        from rawbpf.values.numpy_dtype import dtype_of

        return dtype_of(self._codec)

    @property
    def bulk(self) -> Status:
        """How push_many() and the like work here: `in_kernel` True (a BPF program), False (a call for each element), or
        None (not tried yet, or there was no descriptor or memory: the next call tries again), and `why`."""
        if (access := access_of(self.fileno())) == "r":
            return Status(False, f'the descriptor has access="{access}"')
        if is_frozen(self._fd):
            return Status(False, "the map is frozen")
        return self._bulk.status

    def qsize(self) -> int:
        """How many elements the map holds, approximate while others push and pop.

        bpf(2) does not tell: a BPF program reads it from the map's struct in the kernel. What take_held() would return
        is no longer in the map, and not counted.

        Raises NotPermitted (EPERM) without CAP_BPF and CAP_PERFMON, Unsupported if the kernel is older than Linux 5.9
        or has no BTF, ValueError after close(). In the kernel: struct bpf_queue_stack, kernel/bpf/queue_stack_maps.c.
        """
        return self._inspected().qsize()

    def snapshot(self) -> list[T]:
        """The elements in pop order, left where they are; approximate while others push and pop.

        Copies the whole ring, max_entries + 1 values, 1 MiB at a time. Raises what qsize() raises.
        """
        return [self._decode(element) for element in self._inspected().snapshot()]

    def _inspected(self) -> "Inspector":
        self.fileno()
        if not self._inspector:
            from rawbpf.maps.qsize import Inspector

            self._inspector.setdefault(0, Inspector(self._map, self._info))
        return self._inspector[0]

    # The descriptor

    def fileno(self) -> int:
        """The descriptor. There is no readiness to wait for: poll() reports POLLERR at once, empty or not."""
        return super().fileno()

    def _release(self) -> None:
        """Closes what bulk calls and qsize() opened; warns if elements were taken and not handed over."""
        super()._release()
        for inspector in list(self._inspector.values()):
            inspector.close()
        if held := self._bulk.close():
            what = f"{held} elements of {self!r} were popped and never handed over"
            warnings.warn(what, RuntimeWarning, stacklevel=3)

    def _forget(self) -> None:
        super()._forget()
        self._bulk.forget()

    def __reduce__(self) -> "tuple[Any, ...]":
        # Only multiprocessing, while it starts a child, can give that child a descriptor.
        context = sys.modules.get("multiprocessing.context")
        if context is None or context.get_spawning_popen() is None:
            raise TypeError(f"a {type(self).__name__} is a descriptor of this process: pin it, or rawbpf.send_map() it")
        from multiprocessing.reduction import DupFd

        return _in_child, (type(self), DupFd(self.fileno()), self._codec)

    def _failure(self, cmd: Cmd, result: int) -> Exception:
        return self._bulk.error(cmd, result)


def _in_child(kind: "type[M]", duplicate: Any, codec: Codec[Any]) -> "M":
    """The map that a multiprocessing child was given with its arguments."""
    m = kind._from_new_fd(duplicate.detach, codec)
    os.set_inheritable(m.fileno(), False)
    return m


def _codec_by_btf(info: MapInfo) -> Codec[Any]:
    from rawbpf.values.map_btf import codec_of

    return codec_of(info)


def _described(codec: Codec[Any], token_fd: int | None) -> "AbstractContextManager[tuple[int, int, int]]":
    from rawbpf.values.map_btf import described

    return described(codec, token_fd)
