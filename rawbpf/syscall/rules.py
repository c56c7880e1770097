"""The rules of queue and stack maps, and of descriptors, names, numbers and paths: checked before a call is made.

Sources: kernel/bpf/queue_stack_maps.c, kernel/bpf/syscall.c.
"""

import mmap
import operator
import os
import re
from typing import TYPE_CHECKING, SupportsIndex, Union

from rawbpf.abi import BPF_ANY, BPF_EXIST, BPF_OBJ_NAME_LEN, ElemFlag, FileFlag, MapFlag, MapType
from rawbpf.abi.door import ffi

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


QUEUE_AND_STACK = (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK)


# The flags queue_stack_map_alloc_check() lets pass, and the token flag, which the syscall takes off before.
_CREATE_FLAGS = (
    MapFlag.BPF_F_NUMA_NODE
    | MapFlag.BPF_F_RDONLY
    | MapFlag.BPF_F_WRONLY
    | MapFlag.BPF_F_RDONLY_PROG
    | MapFlag.BPF_F_WRONLY_PROG
    | MapFlag.BPF_F_TOKEN_FD
)

_U32_MAX = 2**32 - 1

# KMALLOC_MAX_SIZE where pages have 4 KiB. With larger pages it is larger, and the kernel's to check (E2BIG).
_VALUE_SIZE_MAX = 4 << 20 if mmap.PAGESIZE == 4096 else _U32_MAX

# The kernel asks isalnum(), whose table is Latin-1: it lets letters past ASCII in, we don't.
_NAME = re.compile(r"[A-Za-z0-9_.]*")


def check_key(key: object) -> None:
    """A queue and a stack have no key: the attr's key is NULL, also for a pointer to nothing."""
    if key is not None:
        raise ValueError("key must be None: queue and stack maps have no key, and the kernel wants NULL (EINVAL)")


def check_push_flags(flags: int) -> None:
    """A push takes BPF_ANY and BPF_EXIST."""
    if flags not in (BPF_ANY, BPF_EXIST):
        try:
            name = ElemFlag(flags).name or hex(flags)
        except (ValueError, TypeError):
            name = repr(flags)
        raise ValueError(f"push takes BPF_ANY or BPF_EXIST, not {name} (EINVAL)")


def check_fd(fd: int) -> int:
    """A descriptor is an integer from 0."""
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"a descriptor is an int, not {type(fd).__name__}")
    if not 0 <= fd < 2**31:
        raise ValueError(f"{fd} is not a descriptor (EBADF)")
    return fd


def check_name(name: str) -> bytes:
    """A map's or program's name has at most 15 characters from [A-Za-z0-9_.]; the empty string is no name. Returns it
    as the attr has it."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name!r}: only letters, digits, '_' and '.' of ASCII may stand in it (EINVAL)")
    if len(name) >= BPF_OBJ_NAME_LEN:
        raise ValueError(f"the name {name!r} has {len(name)} characters: the kernel takes 15 (EINVAL)")
    return name.encode()


def check_rules(attr: "CData") -> None:
    """The rules of queue_stack_map_alloc_check(), and two that the kernel forgets to check."""
    if attr.key_size != 0:
        raise ValueError(f"key_size must be 0, not {attr.key_size}: queue and stack maps have no key (EINVAL)")
    if attr.value_size == 0:
        raise ValueError("value_size must not be 0 (EINVAL)")
    if attr.value_size > _VALUE_SIZE_MAX:
        raise ValueError(f"value_size {attr.value_size} is above {_VALUE_SIZE_MAX}, KMALLOC_MAX_SIZE (E2BIG)")
    if attr.max_entries == 0:
        raise ValueError("max_entries must not be 0 (EINVAL)")
    if attr.max_entries == _U32_MAX:
        raise ValueError(
            "max_entries 4294967295 makes a broken map: the kernel's ring has one slot more, a u32 that wraps to 0"
        )
    if attr.max_entries * attr.value_size > _U32_MAX:
        raise ValueError(
            f"max_entries * value_size is {attr.max_entries * attr.value_size}, and must stay below 2**32: "
            "the kernel addresses slots with 32 bits, beyond them elements would overwrite each other"
        )
    _check_create_flags(MapFlag(attr.map_flags))


def _check_create_flags(flags: MapFlag) -> None:
    if flags & MapFlag.BPF_F_NO_PREALLOC:
        raise ValueError("BPF_F_NO_PREALLOC: queue and stack maps are always allocated at creation (EINVAL)")
    # As integers: the complement of an IntFlag has only the bits that the class knows.
    if refused := int(flags) & ~int(_CREATE_FLAGS):
        names = [flag.name for flag in MapFlag if flag & refused]
        raise ValueError(f"queue and stack maps take no {'|'.join(map(str, names)) or hex(refused)} (EINVAL)")
    for one, other in (
        (MapFlag.BPF_F_RDONLY, MapFlag.BPF_F_WRONLY),
        (MapFlag.BPF_F_RDONLY_PROG, MapFlag.BPF_F_WRONLY_PROG),
    ):
        if flags & one and flags & other:
            raise ValueError(f"{one.name} and {other.name} exclude each other (EINVAL)")


def u32(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {type(value).__name__}") from None
    if not 0 <= number <= _U32_MAX:
        raise ValueError(f"{name} must be from 0 to {_U32_MAX}, not {number}")
    return number


def check_numa_node(node: int | None) -> int:
    """-1 is NUMA_NO_NODE, the kernel's word for "any"."""
    return _U32_MAX if node == -1 else u32("numa_node", node or 0)


def check_open_flags(flags: int) -> int:
    if flags not in (0, FileFlag.BPF_F_RDONLY, FileFlag.BPF_F_WRONLY):
        raise ValueError(f"a map is opened with 0, BPF_F_RDONLY or BPF_F_WRONLY, not {flags!r} (EINVAL)")
    return flags


def c_path(path: StrPath) -> "CData":
    name = os.fsencode(path)
    if not name or b"\0" in name:
        raise ValueError(f"{path!r} is not a path")
    return ffi.new("char[]", name)
