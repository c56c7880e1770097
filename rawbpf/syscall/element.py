"""The commands for one element."""

from typing import TYPE_CHECKING

from rawbpf.abi import BPF_ANY, Cmd
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.info import MapInfo, check_queue_or_stack, describe, obj_get_info_by_fd
from rawbpf.syscall.rules import check_key, check_push_flags

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData


def map_update_elem(fd: int, key: None, value: "Buffer", flags: int = BPF_ANY) -> None:
    """BPF_MAP_UPDATE_ELEM: push. `key` must be None, `flags` BPF_ANY or BPF_EXIST (full: drop the oldest).

    Raises ValueError for a broken rule, a value that has not exactly the map's value_size included; TypeError for the
    descriptor of something else; Full (E2BIG), NotPermitted (EPERM: read-only descriptor or frozen map), Busy (EBUSY).
    Linux 4.20.
    """
    check_key(key)
    check_push_flags(flags)
    data = memoryview(value).tobytes()
    info = _checked_info(fd, len(data))
    result = lib.map_update_elem(new_map(fd), data, flags)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_UPDATE_ELEM, result, fd, info)


def map_lookup_elem(fd: int, key: None, value_size: int) -> bytes:
    """BPF_MAP_LOOKUP_ELEM: peek. Returns the `value_size` bytes of the element that the next pop would take.

    `key` must be None. Raises ValueError for a broken rule, a value_size that is not the map's included; Empty
    (ENOENT), NotPermitted (EPERM: write-only descriptor), Busy (EBUSY). Linux 4.20.
    """
    check_key(key)
    info = _checked_info(fd, value_size)
    m = new_map(fd)
    element, value = new_element(m, info.value_size)
    result = lib.map_lookup_elem(element)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_LOOKUP_ELEM, result, fd, info)
    return value.tobytes()


def map_lookup_and_delete_elem(fd: int, key: None, value_size: int) -> bytes:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM: pop. Returns the `value_size` bytes of the element, which leaves the map.

    `key` must be None. Raises ValueError for a broken rule, a value_size that is not the map's included; Empty
    (ENOENT), NotPermitted (EPERM: the descriptor is not read-write, or the map is frozen), Busy (EBUSY). Linux 4.20.
    """
    check_key(key)
    info = _checked_info(fd, value_size)
    m = new_map(fd)
    element, value = new_element(m, info.value_size)
    result = lib.map_lookup_and_delete_elem(element)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result, fd, info)
    return value.tobytes()


def element_error(cmd: Cmd, result: int, fd: int, info: MapInfo) -> Exception:
    """The exception for an element command that answered `result`; for a map that was closed (fd -1) a ValueError."""
    if fd < 0:
        return ValueError(f"{describe(info)} is closed")
    return bpf_error(cmd, -result, fd=fd, about=info.type, subject=describe(info), max_entries=info.max_entries)


def new_map(fd: int) -> "CData":
    """A struct map: the descriptor as the element calls take it. Who closes it calls lib.map_retire() first."""
    return ffi.new("struct map *", {"fd": fd})


def new_element(m: "CData", value_size: int) -> "tuple[CData, memoryview]":
    """Where a peek or a pop leaves its element: a struct element, and a view of its `value_size` bytes of value.

    Only the kernel's own value_size will do: it writes that many bytes. The caller keeps the struct map alive.
    """
    memory = bytearray(ffi.sizeof("struct element") + value_size)
    element = ffi.from_buffer("struct element *", memory)
    element.map = m
    return element, memoryview(memory)[ffi.sizeof("struct element") :]


def _checked_info(fd: int, value_size: int) -> MapInfo:
    """The map's info, if its values have `value_size` bytes: the kernel reads and writes as many as the map says,
    whatever the length of our buffer."""
    info = check_queue_or_stack(obj_get_info_by_fd(fd))
    if value_size != info.value_size:
        raise ValueError(f"the value has {value_size} bytes, and {describe(info)} has value_size {info.value_size}")
    return info
