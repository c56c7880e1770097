"""The bare call, and what every command's function is made of.

Sources: bpf(2), kernel/bpf/syscall.c.
"""

import errno
import operator
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from rawbpf.abi import Cmd
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.rules import u32

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData

# Every call sends the whole union. A kernel that knows a shorter one takes it as long as what it does not know is zero
# (bpf_check_uarg_tail_zero, up to a page; else E2BIG), and what a command does not read must be zero anyway (EINVAL).
_ATTR_SIZE = ffi.sizeof("union bpf_attr")


def bpf_attr(**fields: Any) -> "CData":
    """A zeroed union bpf_attr with some fields set: bpf_attr(map_fd=3, flags=2), bpf_attr(batch={"count": 1}).

    Pointers are given as integers: see pointer(). A command's own struct goes by its name in the kernel's union.

    Raises TypeError for a field that does not exist, OverflowError for a number that does not fit its field.

    >>> attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_STACK, value_size=8, max_entries=4)
    >>> attr.map_type, attr.key_size
    (23, 0)
    >>> bpf_attr(mapfd=3)
    Traceback (most recent call last):
        ...
    TypeError: union bpf_attr has no field 'mapfd': did you mean 'map_fd'?
    """
    try:
        return ffi.new("union bpf_attr *", fields)
    except KeyError:
        _check_fields("union bpf_attr", ffi.typeof("union bpf_attr"), fields)
        raise


def _check_fields(where: str, ctype: Any, given: Mapping[str, Any]) -> None:
    """Raises TypeError for the first name that is no field of the C type, or of a struct in it."""
    # A module of some size, for errors alone.
    import difflib

    known = {name: field.type for name, field in ctype.fields}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"{where} has no field {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))
        if isinstance(value, Mapping):
            _check_fields(f"{where}, {name},", known[name], value)


def pointer(buffer: "Buffer") -> int:
    """The address of a writable, contiguous buffer, for an attr's pointer fields.

    The caller keeps the buffer alive, unresized, and large enough: the kernel writes as many bytes as the map's
    value_size says, whatever the buffer's length.

    >>> value = bytearray(4)
    >>> bpf_attr(map_fd=3, value=pointer(value)).value == pointer(value)
    True
    """
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", buffer, require_writable=True)))


def address_of(data: "CData") -> int:
    """The address of memory that ffi.new() made, for an attr's pointer fields. The caller keeps the memory alive."""
    return int(ffi.cast("uintptr_t", data))


def bpf(cmd: int, attr: "CData | Buffer | None" = None, size: int | None = None) -> int:
    """The bare system call: syscall(__NR_bpf, cmd, attr, size), with no rule checked.

    `attr` is what bpf_attr() makes, or any writable buffer of bytes, or None for NULL; the kernel may write to it.
    `size` defaults to all of it. Returns what the kernel does: a descriptor or 0. Raises BpfError with the kernel's
    errno, ValueError if `size` is beyond the end of `attr`, TypeError or BufferError if `attr` can't be written to.

    >>> attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=8, max_entries=4)
    >>> fd = bpf(Cmd.BPF_MAP_CREATE, attr, 16)  # 16 bytes reach max_entries
    >>> Queue.from_fd(fd).close()
    """
    number = operator.index(cmd)
    if attr is None:
        pointer_to, length = ffi.NULL, 0
    elif isinstance(attr, ffi.CData):
        pointer_to, length = attr, _ATTR_SIZE
    else:
        pointer_to = ffi.from_buffer("char[]", cast("Buffer", attr), require_writable=True)
        length = len(pointer_to)
    if size is None:
        size = length
    if attr is not None and size > length:
        raise ValueError(f"size is {size}, and attr has only {length} bytes")
    result = lib.bpf(number, pointer_to, size)
    if result < 0:
        raise bpf_error(Cmd(number), -result)
    return result


def call(cmd: Cmd, attr: "CData") -> int:
    """A call with the whole union: what the kernel answers, 0 or more, or a negative errno."""
    return lib.bpf(cmd, attr, _ATTR_SIZE)


def open_descriptor(cmd: int, attr: "CData") -> int:
    """A call that answers a descriptor, above 2, or a negative errno.

    A signal handler that raises leaves no descriptor open that nobody knows. From here on each caller passes it on
    without a call in between, in which a handler might run, or closes it itself.
    """
    made = ffi.new("int32_t *", -1)
    try:
        return lib.bpf_open(cmd, attr, _ATTR_SIZE, made)
    except BaseException:
        if made[0] >= 0:
            os.close(made[0])
        raise


def try_again(cmd: int, attr: "CData") -> int:
    """Makes a refused call once more, for the kernel's words on it. Were it done now, the first answer holds: what it
    opened is closed."""
    result = open_descriptor(cmd, attr)
    if result >= 0:
        os.close(result)
    return result


def next_id(cmd: Cmd, start_id: int, subject: str) -> int | None:
    """The next id after `start_id` by a command that ends with _GET_NEXT_ID; None after the last."""
    attr = bpf_attr(start_id=u32("start_id", start_id))
    result = call(cmd, attr)
    if result == -errno.ENOENT:
        return None
    if result < 0:
        raise bpf_error(cmd, -result, subject=subject)
    next_id: int = attr.next_id
    return next_id


def fd_by_id(cmd: Cmd, field: str, number: int, open_flags: int = 0) -> int:
    """The descriptor that a command which ends with _GET_FD_BY_ID gives for an id."""
    result = open_descriptor(cmd, bpf_attr(**{field: u32("id", number)}, open_flags=open_flags))
    if result < 0:
        raise bpf_error(cmd, -result, subject=f"id {number}")
    return result
