"""The bpf(2) system call: one function per command, named after it. The layer to learn from.

Each function checks the rules of queue and stack maps, fills a zeroed union bpf_attr, sends exactly the bytes that
its command has, and turns a negative answer into an exception. Descriptors are plain integers here, values plain
bytes. bpf() is the bare call for everything else.

Sources: bpf(2), kernel/bpf/syscall.c, kernel/bpf/queue_stack_maps.c, Documentation/bpf/map_queue_stack.rst.
"""

import errno
import mmap
import operator
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, Union, cast

from rawbpf.abi import (
    BPF_ANY,
    BPF_COMMON_ATTRS,
    BPF_EXIST,
    BPF_OBJ_NAME_LEN,
    AttachFlag,
    AttachType,
    Cmd,
    ElemFlag,
    FileFlag,
    LinkType,
    MapFlag,
    MapType,
)
from rawbpf.abi.door import ffi, lib, new_batch, new_map
from rawbpf.syscall import memlock
from rawbpf.syscall.errors import BpfError, bpf_error
from rawbpf.syscall.permission import kernel_version

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData

StrPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

QUEUE_AND_STACK = (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK)

# Bytes of attr that each command is sent: enough for every field used here, and known to each kernel with the command.
ATTR_SIZE = {
    Cmd.BPF_MAP_LOOKUP_ELEM: 32,
    Cmd.BPF_MAP_UPDATE_ELEM: 32,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: 32,
    Cmd.BPF_MAP_FREEZE: 4,
    Cmd.BPF_OBJ_PIN: 20,
    Cmd.BPF_OBJ_GET: 20,
    Cmd.BPF_MAP_GET_NEXT_ID: 12,
    Cmd.BPF_MAP_GET_FD_BY_ID: 12,
    Cmd.BPF_OBJ_GET_INFO_BY_FD: 16,
    Cmd.BPF_BTF_LOAD: 28,
    Cmd.BPF_BTF_GET_FD_BY_ID: 4,
    Cmd.BPF_LINK_UPDATE: 16,
    Cmd.BPF_LINK_GET_FD_BY_ID: 4,
    Cmd.BPF_LINK_GET_NEXT_ID: 12,
    Cmd.BPF_ITER_CREATE: 8,
    Cmd.BPF_LINK_DETACH: 4,
    Cmd.BPF_TOKEN_CREATE: 8,
}

# With a token BPF_BTF_LOAD reads more. Older kernels know neither.
_BTF_LOAD_WITH_TOKEN = 40

# Bytes for the kernel's log on types that it does not take, a line for each.
_BTF_LOG_SIZE = 1 << 20

# Where the fields of BPF_MAP_CREATE end: an older kernel knows a shorter struct, so no more is sent than reaches the
# last field that is not zero. Queue and stack maps exist since 4.20, which reads 60 bytes; 16 are always sent.
_MAP_CREATE_ENDS = (16, 20, 24, 28, 44, 48, 52, 56, 60, 64, 72, 76, 80, 88, 92)

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


class MapInfo(NamedTuple):
    """struct bpf_map_info: what BPF_OBJ_GET_INFO_BY_FD says of a map. Sizes are in bytes.

    Fields that the running kernel does not know are 0. Linux 4.13.

    >>> with Queue(4, 8, name="events") as q:
    ...     info = q.info()
    ...     info.type.name, info.name, info.value_size, info.max_entries
    ('BPF_MAP_TYPE_QUEUE', 'events', 4, 8)
    """

    type: MapType
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: MapFlag
    name: str
    ifindex: int
    btf_vmlinux_value_type_id: int
    netns_dev: int
    netns_ino: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    btf_vmlinux_id: int
    map_extra: int


class BtfInfo(NamedTuple):
    """struct bpf_btf_info: what BPF_OBJ_GET_INFO_BY_FD says of type information. `data` is the blob itself.

    `kernel_btf` is whether it is the kernel's own (`name` "vmlinux") or a module's; before 5.11 that is not known.
    """

    data: bytes
    id: int
    name: str
    kernel_btf: bool


class LinkInfo(NamedTuple):
    """struct bpf_link_info: what BPF_OBJ_GET_INFO_BY_FD says of a link. What its type does not have is None; fields
    that the running kernel does not know are 0.

    `prog_id` is the program's. Of raw tracepoints `tp_name` is the name; of iterators `target_name` what they go over.
    `target_obj_id` and `target_btf_id` say which function a tracing program hangs on: the BTF object, and the type in
    it. `cgroup_id` is the inode of the cgroup's folder, `netns_ino` that of the network namespace. `ifindex` is 0 once
    the interface is gone.
    """

    type: LinkType
    id: int
    prog_id: int
    attach_type: AttachType | None = None
    tp_name: str | None = None
    target_name: str | None = None
    target_obj_id: int | None = None
    target_btf_id: int | None = None
    cookie: int | None = None
    cgroup_id: int | None = None
    netns_ino: int | None = None
    ifindex: int | None = None
    map_id: int | None = None


# For each type of link the member of the struct's union, and which of its fields are told.
_LINK_FIELDS = {
    LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT: ("raw_tracepoint", ("tp_name", "cookie")),
    LinkType.BPF_LINK_TYPE_TRACING: ("tracing", ("attach_type", "target_obj_id", "target_btf_id", "cookie")),
    LinkType.BPF_LINK_TYPE_CGROUP: ("cgroup", ("cgroup_id", "attach_type")),
    LinkType.BPF_LINK_TYPE_ITER: ("iter", ("target_name",)),
    LinkType.BPF_LINK_TYPE_NETNS: ("netns", ("netns_ino", "attach_type")),
    LinkType.BPF_LINK_TYPE_XDP: ("xdp", ("ifindex",)),
    LinkType.BPF_LINK_TYPE_STRUCT_OPS: ("struct_ops", ("map_id",)),
    LinkType.BPF_LINK_TYPE_TCX: ("tcx", ("ifindex", "attach_type")),
    LinkType.BPF_LINK_TYPE_NETKIT: ("netkit", ("ifindex", "attach_type")),
    LinkType.BPF_LINK_TYPE_SOCKMAP: ("sockmap", ("map_id", "attach_type")),
}


# The bare call


def bpf_attr(**fields: Any) -> "CData":
    """A zeroed union bpf_attr with some fields set: bpf_attr(map_fd=3, flags=2), bpf_attr(batch={"count": 1}).

    Pointers are given as integers: see pointer(). A command's own struct goes by its name in the kernel's union.

    >>> attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_STACK, value_size=8, max_entries=4)
    >>> attr.map_type, attr.key_size
    (23, 0)
    """
    return ffi.new("union bpf_attr *", fields)


def pointer(buffer: "Buffer") -> int:
    """The address of a writable, contiguous buffer, for an attr's pointer fields.

    The caller keeps the buffer alive, unresized, and large enough: the kernel writes as many bytes as the map's
    value_size says, whatever the buffer's length.

    >>> value = bytearray(4)
    >>> bpf_attr(map_fd=3, value=pointer(value)).value == pointer(value)
    True
    """
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", buffer, require_writable=True)))


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
        pointer_to, length = attr, ffi.sizeof("union bpf_attr")
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


def _call(cmd: Cmd, attr: "CData") -> int:
    return lib.bpf(cmd, attr, ATTR_SIZE[cmd])


def open_descriptor(cmd: int, attr: "CData", size: int) -> int:
    """A call that answers a descriptor, above 2, or a negative errno.

    A signal handler that raises leaves no descriptor open that nobody knows. From here on each caller passes it on
    without a call in between, in which a handler might run, or closes it itself.
    """
    made = ffi.new("int32_t *", -1)
    try:
        return lib.bpf_open(cmd, attr, size, made)
    except BaseException:
        if made[0] >= 0:
            os.close(made[0])
        raise


def _try_again(cmd: int, attr: "CData", size: int) -> int:
    """Makes a refused call once more, for the kernel's words on it. Were it done now, the first answer holds: what it
    opened is closed."""
    result = open_descriptor(cmd, attr, size)
    if result >= 0:
        os.close(result)
    return result


# The commands


def map_create(
    map_type: int,
    map_name: str,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    map_flags: int = 0,
    numa_node: int | None = None,
    token_fd: int | None = None,
    btf_fd: int = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
    **more: int,
) -> int:
    """BPF_MAP_CREATE: makes a map, returns its descriptor (close-on-exec, never 0, 1 or 2).

    For queue and stack maps every rule is checked first: key_size 0, value_size from 1 byte to 4 MiB, max_entries
    not 0, names of at most 15 characters from [A-Za-z0-9_.], and the flags these maps know. The kernel allocates
    max_entries + 1 values at once. `numa_node` sets BPF_F_NUMA_NODE, `token_fd` BPF_F_TOKEN_FD. `btf_fd` is what
    btf_load() returned; for these maps, which have no key, btf_key_type_id is that of an empty struct. `more` is what
    other types of maps have of their own, by its name in the union: inner_map_fd, map_extra.

    Raises ValueError for a broken rule; NotPermitted without CAP_BPF (CAP_SYS_ADMIN before 5.8); BpfError with
    ENOMEM, EMFILE or ENFILE. Linux 4.20 for queue and stack maps.
    """
    flags = _u32("map_flags", map_flags)
    if numa_node is not None:
        flags |= MapFlag.BPF_F_NUMA_NODE
    elif flags & MapFlag.BPF_F_NUMA_NODE:
        raise ValueError("BPF_F_NUMA_NODE needs numa_node")
    if token_fd is not None:
        flags |= MapFlag.BPF_F_TOKEN_FD
    elif flags & MapFlag.BPF_F_TOKEN_FD:
        raise ValueError("BPF_F_TOKEN_FD needs the token's descriptor")
    attr = bpf_attr(
        map_type=_u32("map_type", map_type),
        key_size=_u32("key_size", key_size),
        value_size=_u32("value_size", value_size),
        max_entries=_u32("max_entries", max_entries),
        map_flags=flags,
        numa_node=_numa_node(numa_node),
        map_name=_map_name(map_name),
        map_token_fd=0 if token_fd is None else check_fd(token_fd),
        btf_fd=check_fd(btf_fd),
        btf_key_type_id=_u32("btf_key_type_id", btf_key_type_id),
        btf_value_type_id=_u32("btf_value_type_id", btf_value_type_id),
        **more,
    )
    if attr.map_type in QUEUE_AND_STACK:
        check_rules(attr)
    kind = MapType(map_type).name.removeprefix("BPF_MAP_TYPE_").lower()
    return create(attr, f"{kind} {map_name!r}" if map_name else f"the {kind}")


def create(attr: "CData", subject: str) -> int:
    """BPF_MAP_CREATE with an attr that is filled already, as short as it may be; `subject` names it in errors."""
    used = len(bytes(ffi.buffer(attr)).rstrip(b"\0"))
    size = next(end for end in _MAP_CREATE_ENDS if end >= used)
    result = open_descriptor(Cmd.BPF_MAP_CREATE, attr, size)
    hint = ""
    if result == -errno.EPERM:
        result, hint = memlock.retry(result, lambda: open_descriptor(Cmd.BPF_MAP_CREATE, attr, size))
    if result in (-errno.EINVAL, -errno.EBADF):
        hint = _kernels_words(attr, size)
    if result < 0:
        raise bpf_error(
            Cmd.BPF_MAP_CREATE,
            -result,
            subject=subject,
            hint=hint,
            token_fd=attr.map_token_fd if attr.map_flags & MapFlag.BPF_F_TOKEN_FD else None,
            map_type=MapType(attr.map_type),
            max_entries=attr.max_entries,
            value_size=attr.value_size,
        )
    return result


def _kernels_words(attr: "CData", size: int) -> str:
    """Asks the kernel again, for its own words on why it does not create the map: a hint, "" where it has none (before
    Linux 7.2, and for some reasons)."""
    if kernel_version() < (7, 2):
        return ""
    _try_again(Cmd.BPF_MAP_CREATE | BPF_COMMON_ATTRS, attr, size)
    words = ffi.string(lib.bpf_log()).decode(errors="replace").strip()
    return f"the kernel says: {words}" if words else ""


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
    result = lib.map_update_elem(new_map(fd, info.value_size), data, flags)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_UPDATE_ELEM, result, fd, info)


def map_lookup_elem(fd: int, key: None, value_size: int) -> bytes:
    """BPF_MAP_LOOKUP_ELEM: peek. Returns the `value_size` bytes of the element that the next pop would take.

    `key` must be None. Raises ValueError for a broken rule, a value_size that is not the map's included; Empty
    (ENOENT), NotPermitted (EPERM: write-only descriptor), Busy (EBUSY). Linux 4.20.
    """
    check_key(key)
    info = _checked_info(fd, value_size)
    value = ffi.new("char[]", info.value_size)
    result = lib.map_lookup_elem(new_map(fd, info.value_size), value)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_LOOKUP_ELEM, result, fd, info)
    data: bytes = ffi.unpack(value, info.value_size)
    return data


def map_lookup_and_delete_elem(fd: int, key: None, value_size: int) -> bytes:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM: pop. Returns the `value_size` bytes of the element, which leaves the map.

    `key` must be None. Raises ValueError for a broken rule, a value_size that is not the map's included; Empty
    (ENOENT), NotPermitted (EPERM: the descriptor is not read-write, or the map is frozen), Busy (EBUSY). Linux 4.20.
    """
    check_key(key)
    info = _checked_info(fd, value_size)
    m = new_map(fd, info.value_size)
    batch, value = new_batch(m, 1)
    result = lib.map_lookup_and_delete_elem(batch)
    if result < 0:
        raise element_error(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, result, fd, info)
    return value.tobytes()


def element_error(cmd: Cmd, result: int, fd: int, info: MapInfo) -> BpfError:
    """The exception for an element command that answered `result`."""
    return bpf_error(cmd, -result, fd=fd, subject=describe(info), max_entries=info.max_entries)


def map_freeze(fd: int) -> None:
    """BPF_MAP_FREEZE: no more push and pop from user space, ever; programs go on, and so does peek.

    Raises NotPermitted (EPERM) if the descriptor is read-only or the map is frozen already. Before Linux 6.5 the kernel
    asks for CAP_BPF instead of a writable descriptor, and a second freeze is EBUSY. Linux 5.2.
    """
    result = _call(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=check_fd(fd)))
    if result < 0:
        raise bpf_error(Cmd.BPF_MAP_FREEZE, -result, fd=fd, subject=_map_of(fd))


def _map_of(fd: int) -> str:
    """A descriptor's map in an error's words, by its name if it is a queue or a stack."""
    try:
        return describe(check_queue_or_stack(obj_get_info_by_fd(fd)))
    except (BpfError, TypeError):
        return f"the map of descriptor {fd}"


def obj_pin(fd: int, path: StrPath) -> None:
    """BPF_OBJ_PIN: gives a map, program or link a name in a bpffs, mode 0600, where it outlives its descriptors until
    unlinked.

    Raises AlreadyExists (EEXIST), NotFound (ENOENT: no such directory), NotPermitted (EPERM: the path is not in a
    bpffs, or its last part has a '.' in it). Linux 4.4.
    """
    name = _c_path(path)
    attr = bpf_attr(pathname=int(ffi.cast("uintptr_t", name)), bpf_fd=check_fd(fd))
    result = _call(Cmd.BPF_OBJ_PIN, attr)
    if result < 0:
        text = os.fsdecode(path)
        raise bpf_error(Cmd.BPF_OBJ_PIN, -result, path=text, subject=repr(text))


def obj_get(path: StrPath, file_flags: int = 0) -> int:
    """BPF_OBJ_GET: opens what is pinned at `path`, returns a descriptor. It may be a program or a link.

    `file_flags`: 0 for read and write, BPF_F_RDONLY or BPF_F_WRONLY. Raises NotFound (ENOENT), NotPermitted (EACCES:
    the file's mode, or no BPF object; EPERM). Linux 4.4.
    """
    name = _c_path(path)
    attr = bpf_attr(pathname=int(ffi.cast("uintptr_t", name)), file_flags=_open_flags(file_flags))
    result = open_descriptor(Cmd.BPF_OBJ_GET, attr, ATTR_SIZE[Cmd.BPF_OBJ_GET])
    if result < 0:
        text = os.fsdecode(path)
        raise bpf_error(Cmd.BPF_OBJ_GET, -result, path=text, subject=repr(text))
    return result


def obj_get_info_by_fd(fd: int) -> MapInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as a map's. Linux 4.13.

    The kernel answers for programs and links too, with other structs: check_queue_or_stack() tells a queue from a
    program of type 22.
    """
    # The kernel reads `hash` and `hash_size`: the struct must be zeroed, as ffi.new does.
    info = ffi.new("struct bpf_map_info *")
    _fill_info(fd, info)
    return map_info(info)


def _fill_info(fd: int, info: "CData") -> None:
    """Lets the kernel fill an info struct; what it reads of it must be set."""
    attr = bpf_attr(
        info={
            "bpf_fd": check_fd(fd),
            "info_len": ffi.sizeof(info[0]),
            "info": int(ffi.cast("uintptr_t", info)),
        }
    )
    result = _call(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_OBJ_GET_INFO_BY_FD, -result, subject=f"descriptor {fd}")


def map_info(info: "CData") -> MapInfo:
    """A struct bpf_map_info that the kernel has filled in, as a MapInfo."""
    return MapInfo(
        MapType(info.type),
        info.id,
        info.key_size,
        info.value_size,
        info.max_entries,
        MapFlag(info.map_flags),
        os.fsdecode(ffi.string(info.name)),
        *(getattr(info, field) for field in MapInfo._fields[7:]),
    )


def map_get_next_id(start_id: int) -> int | None:
    """BPF_MAP_GET_NEXT_ID: the smallest map id above `start_id`, None behind the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN; CAP_BPF is not enough. Linux 4.13.
    """
    return _get_next_id(Cmd.BPF_MAP_GET_NEXT_ID, start_id, "the ids of maps")


def _get_next_id(cmd: Cmd, start_id: int, subject: str) -> int | None:
    attr = bpf_attr(start_id=_u32("start_id", start_id))
    result = _call(cmd, attr)
    if result == -errno.ENOENT:
        return None
    if result < 0:
        raise bpf_error(cmd, -result, subject=subject)
    next_id: int = attr.next_id
    return next_id


def map_ids() -> Iterator[int]:
    """All map ids of the system in ascending order, of maps of any type; see map_get_next_id()."""
    map_id = map_get_next_id(0)
    while map_id is not None:
        yield map_id
        map_id = map_get_next_id(map_id)


def map_get_fd_by_id(map_id: int, open_flags: int = 0) -> int:
    """BPF_MAP_GET_FD_BY_ID: opens the map with this id, returns a descriptor. `open_flags` as in obj_get().

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 4.13.
    """
    attr = bpf_attr(map_id=_u32("id", map_id), open_flags=_open_flags(open_flags))
    result = open_descriptor(Cmd.BPF_MAP_GET_FD_BY_ID, attr, ATTR_SIZE[Cmd.BPF_MAP_GET_FD_BY_ID])
    if result < 0:
        raise bpf_error(Cmd.BPF_MAP_GET_FD_BY_ID, -result, subject=f"id {map_id}")
    return result


def btf_load(blob: bytes, token_fd: int | None = None) -> int:
    """BPF_BTF_LOAD: gives type information to the kernel, returns its descriptor.

    Raises BpfError (EINVAL; the hint is the kernel's own words) for what is not BTF, NotPermitted without CAP_BPF.
    Linux 4.18; with a token 6.9.
    """
    data = ffi.new("char[]", blob)
    attr = bpf_attr(btf=int(ffi.cast("uintptr_t", data)), btf_size=len(blob))
    size = ATTR_SIZE[Cmd.BPF_BTF_LOAD]
    if token_fd is not None:
        attr.btf_flags, attr.btf_token_fd = MapFlag.BPF_F_TOKEN_FD, check_fd(token_fd)
        size = _BTF_LOAD_WITH_TOKEN
    result = open_descriptor(Cmd.BPF_BTF_LOAD, attr, size)
    if result < 0:
        hint = _why_no_btf(attr, size) if result == -errno.EINVAL else ""
        raise bpf_error(Cmd.BPF_BTF_LOAD, -result, subject="the BTF", token_fd=token_fd, hint=hint)
    return result


def _why_no_btf(attr: "CData", size: int) -> str:
    """Asks the kernel again, with a log: its last line is on the type that it stumbled over."""
    log = ffi.new("char[]", _BTF_LOG_SIZE)
    attr.btf_log_buf, attr.btf_log_size = int(ffi.cast("uintptr_t", log)), _BTF_LOG_SIZE
    attr.btf_log_level = 1
    result = _try_again(Cmd.BPF_BTF_LOAD, attr, size)
    hints = []
    # ENOSPC: kernels before 6.4 keep the beginning of a log that is too long.
    if result == -errno.EINVAL and (words := ffi.string(log).decode(errors="replace").strip()):
        hints.append(f"the kernel says: {words.splitlines()[-1].strip()}")
    if kernel_version() < (6, 0):
        hints.append("floating-point numbers need Linux 5.13, enums of 8 bytes or with negative values 6.0")
    return "; ".join(hints)


def btf_get_fd_by_id(btf_id: int) -> int:
    """BPF_BTF_GET_FD_BY_ID: opens the type information with this id, returns a descriptor.

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN; CAP_BPF is not enough. Linux 4.18.
    """
    attr = bpf_attr(btf_id=_u32("id", btf_id))
    result = open_descriptor(Cmd.BPF_BTF_GET_FD_BY_ID, attr, ATTR_SIZE[Cmd.BPF_BTF_GET_FD_BY_ID])
    if result < 0:
        raise bpf_error(Cmd.BPF_BTF_GET_FD_BY_ID, -result, subject=f"id {btf_id}")
    return result


def btf_get_info_by_fd(fd: int) -> BtfInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as type information's: asked once for the size, and once for the blob. Linux 4.18.

    The descriptor must be one of btf_load() or btf_get_fd_by_id(): the kernel answers others with other structs.
    """
    info, name = ffi.new("struct bpf_btf_info *"), ffi.new("char[64]")
    _fill_info(fd, info)
    data = bytearray(info.btf_size)
    info.btf = pointer(data)
    info.name, info.name_len = int(ffi.cast("uintptr_t", name)), ffi.sizeof(name)
    try:
        _fill_info(fd, info)
    except BpfError as error:
        # Before 5.11 the struct ends with `id`, and what lies beyond must be 0.
        if error.errno != errno.E2BIG:
            raise
        info.name = info.name_len = 0
        _fill_info(fd, info)
    return BtfInfo(bytes(data), info.id, os.fsdecode(ffi.string(name)), bool(info.kernel_btf))


def raw_tracepoint_open(name: str | None, prog_fd: int, cookie: int = 0) -> int:
    """BPF_RAW_TRACEPOINT_OPEN: attaches a program, returns the link's descriptor (before 5.7 one that is no link).

    `name` is the tracepoint's without its category ("sched_process_exec"); None for a program of type TRACING or LSM,
    which knows its place since it was loaded. The program reads `cookie` with bpf_get_attach_cookie() (Linux 6.10).

    Raises NotFound (ENOENT: no such tracepoint; before 5.13 also for a TRACING program that was attached before),
    AlreadyExists (EBUSY: this TRACING program is attached), NotPermitted,
    BpfError (EINVAL: another type of program, or one that reads more arguments than the tracepoint has). Linux 4.17.
    """
    if name is not None and (not name or "\0" in name):
        raise ValueError(f"{name!r} is no tracepoint's name")
    text = None if name is None else ffi.new("char[]", name.encode())
    attr = bpf_attr(
        raw_tracepoint={
            "name": 0 if text is None else int(ffi.cast("uintptr_t", text)),
            "prog_fd": check_fd(prog_fd),
            "cookie": cookie,
        }
    )
    result = open_descriptor(Cmd.BPF_RAW_TRACEPOINT_OPEN, attr, 24 if cookie else 16)
    if result < 0:
        place = "the function that the program was loaded for" if name is None else f"raw tracepoint {name!r}"
        raise bpf_error(Cmd.BPF_RAW_TRACEPOINT_OPEN, -result, subject=place)
    return result


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0, *, where: str = "", **more: Any) -> int:
    """BPF_LINK_CREATE: attaches a program, returns the link's descriptor.

    `target` is a descriptor (of a cgroup's folder, of a network namespace) or the index of an interface, 0 if the
    attach type has none. `more` is what the attach type has of its own, as in the union: tracing={"cookie": 7}.
    `where` names the target in errors.

    Raises AlreadyExists (EBUSY, EEXIST: something is attached there), NotFound (ENODEV: no such interface), Unsupported
    (EOPNOTSUPP), NotPermitted, BpfError (EINVAL: the kernel does not serve this attach type or flag, or the program is
    for another; EBADF: the target is none; E2BIG). Linux 5.7; each attach type has its own version.
    """
    kind = AttachType(attach_type)
    attr = bpf_attr(
        link_create={
            "prog_fd": check_fd(prog_fd),
            "target_fd": _u32("target", target),
            "attach_type": kind,
            "flags": _u32("flags", flags),
            **more,
        }
    )
    # The first four fields, and no more than reaches the last that is not zero: older kernels have a shorter union.
    used = len(bytes(ffi.buffer(attr)).rstrip(b"\0"))
    result = open_descriptor(Cmd.BPF_LINK_CREATE, attr, max(16, -used % 8 + used))
    if result < 0:
        subject = f"{kind.name} of {where or f'target {target}'}"
        raise bpf_error(Cmd.BPF_LINK_CREATE, -result, subject=subject)
    return result


def link_update(link_fd: int, new_prog_fd: int, old_prog_fd: int | None = None) -> None:
    """BPF_LINK_UPDATE: puts another program in the place of the attached one; no event is missed in between.

    With `old_prog_fd` only if that is the one which is attached (BPF_F_REPLACE).

    Raises NotPermitted (EPERM: another program is attached than `old_prog_fd`), BpfError (EINVAL: this type of link
    can't do that, or not with this type of program; ENOLINK: what it was attached to is gone). Linux 5.7.
    """
    fields = {"link_fd": check_fd(link_fd), "new_prog_fd": check_fd(new_prog_fd)}
    if old_prog_fd is not None:
        fields |= {"flags": AttachFlag.BPF_F_REPLACE, "old_prog_fd": check_fd(old_prog_fd)}
    result = _call(Cmd.BPF_LINK_UPDATE, bpf_attr(link_update=fields))
    if result < 0:
        # The kernel asks for no capability here: this is what it answers for the wrong old program.
        hint = "another program than `old` is attached" if result == -errno.EPERM and old_prog_fd is not None else ""
        raise bpf_error(Cmd.BPF_LINK_UPDATE, -result, subject=f"the link of descriptor {link_fd}", hint=hint)


def link_detach(link_fd: int) -> None:
    """BPF_LINK_DETACH: ends the attachment, whoever else has the link; the link itself stays, attached to nothing.

    Raises Unsupported (EOPNOTSUPP: links of raw tracepoints and of TRACING programs detach when the last descriptor or
    pin goes, and not before). Linux 5.9.
    """
    result = _call(Cmd.BPF_LINK_DETACH, bpf_attr(link_detach={"link_fd": check_fd(link_fd)}))
    if result < 0:
        raise bpf_error(Cmd.BPF_LINK_DETACH, -result, subject=f"the link of descriptor {link_fd}")


def link_get_info_by_fd(fd: int) -> LinkInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as a link's. Raises BpfError (EINVAL) before Linux 5.8."""
    info = ffi.new("struct bpf_link_info *")
    _fill_info(fd, info)
    member, names = _LINK_FIELDS.get(LinkType(info.type), ("", ()))
    part = getattr(info, member) if member else None
    fields = {name: getattr(part, name) for name in names}
    for name in {"tp_name", "target_name"} & fields.keys():
        fields[name] = _name_in_info(fd, member, name, getattr(part, f"{name}_len"))
    if "attach_type" in fields:
        fields["attach_type"] = AttachType(fields["attach_type"])
    return LinkInfo(LinkType(info.type), info.id, info.prog_id, **fields)


def _name_in_info(fd: int, member: str, name: str, length: int) -> str:
    """Asks again, with a buffer for the name. Only now: in other types of links the same bytes count other things."""
    buffer = ffi.new("char[]", length)
    part = {name: int(ffi.cast("uintptr_t", buffer)), f"{name}_len": length}
    _fill_info(fd, ffi.new("struct bpf_link_info *", {member: part}))
    return os.fsdecode(ffi.string(buffer))


def link_get_next_id(start_id: int) -> int | None:
    """BPF_LINK_GET_NEXT_ID: the smallest link id above `start_id`, None behind the last.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 5.8.
    """
    return _get_next_id(Cmd.BPF_LINK_GET_NEXT_ID, start_id, "the ids of links")


def link_get_fd_by_id(link_id: int) -> int:
    """BPF_LINK_GET_FD_BY_ID: opens the link with this id, returns a descriptor.

    Raises NotFound (ENOENT), NotPermitted (EPERM) without CAP_SYS_ADMIN. Linux 5.8.
    """
    attr = bpf_attr(link_id=_u32("id", link_id))
    result = open_descriptor(Cmd.BPF_LINK_GET_FD_BY_ID, attr, ATTR_SIZE[Cmd.BPF_LINK_GET_FD_BY_ID])
    if result < 0:
        raise bpf_error(Cmd.BPF_LINK_GET_FD_BY_ID, -result, subject=f"id {link_id}")
    return result


def iter_create(link_fd: int) -> int:
    """BPF_ITER_CREATE: returns a file whose reading runs the iterator program of this link.

    Raises BpfError (EINVAL) for links of other types. Linux 5.8.
    """
    attr = bpf_attr(iter_create={"link_fd": check_fd(link_fd)})
    result = open_descriptor(Cmd.BPF_ITER_CREATE, attr, ATTR_SIZE[Cmd.BPF_ITER_CREATE])
    if result < 0:
        raise bpf_error(Cmd.BPF_ITER_CREATE, -result, subject=f"the link of descriptor {link_fd}")
    return result


def token_create(bpffs_fd: int) -> int:
    """BPF_TOKEN_CREATE: makes a token of what a bpffs delegates, returns its descriptor.

    `bpffs_fd` is an open folder: the root of a bpffs that was mounted for this process's user namespace with delegate_*
    options. Raises NotPermitted (EPERM: the bpffs is of another user namespace, or CAP_BPF is missing in this one),
    NotFound (ENOENT: nothing is delegated), Unsupported (EOPNOTSUPP: in the initial user namespace, or a kernel
    without tokens), BpfError (EINVAL: not a bpffs's root). Linux 6.9.
    """
    attr = bpf_attr(token_create={"bpffs_fd": check_fd(bpffs_fd)})
    result = open_descriptor(Cmd.BPF_TOKEN_CREATE, attr, ATTR_SIZE[Cmd.BPF_TOKEN_CREATE])
    if result < 0:
        raise bpf_error(Cmd.BPF_TOKEN_CREATE, -result, subject=f"the bpffs of descriptor {bpffs_fd}")
    return result


# The rules


def check_key(key: None) -> None:
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


def check_name(name: str) -> None:
    """A map's or program's name has at most 15 characters from [A-Za-z0-9_.]; the empty string is no name."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name!r}: only letters, digits, '_' and '.' of ASCII may stand in it (EINVAL)")
    if len(name) >= BPF_OBJ_NAME_LEN:
        raise ValueError(f"the name {name!r} has {len(name)} characters: the kernel takes 15 (EINVAL)")


def _map_name(name: str) -> bytes:
    check_name(name)
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


def _checked_info(fd: int, value_size: int) -> MapInfo:
    """The map's info, if its values have `value_size` bytes: the kernel reads and writes as many as the map says,
    whatever the length of our buffer."""
    info = check_queue_or_stack(obj_get_info_by_fd(fd))
    if value_size != info.value_size:
        raise ValueError(f"the value has {value_size} bytes, and {describe(info)} has value_size {info.value_size}")
    return info


def check_queue_or_stack(info: MapInfo) -> MapInfo:
    """Returns the info if it is a queue's or a stack's, else raises TypeError.

    A program's struct stands where a map's is expected if the descriptor is a program's: where these maps have
    key_size 0 it has the first bytes of a hash.
    """
    if info.type not in QUEUE_AND_STACK or info.key_size != 0:
        raise TypeError("this is neither a queue nor a stack map")
    return info


def describe(info: MapInfo) -> str:
    """A map in an error's words: "queue 'events'", "stack with id 7"."""
    kind = info.type.name.removeprefix("BPF_MAP_TYPE_").lower()
    return f"{kind} {info.name!r}" if info.name else f"{kind} with id {info.id}"


def _u32(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {type(value).__name__}") from None
    if not 0 <= number <= _U32_MAX:
        raise ValueError(f"{name} must be from 0 to {_U32_MAX}, not {number}")
    return number


def _numa_node(node: int | None) -> int:
    """-1 is NUMA_NO_NODE, the kernel's word for "any"."""
    return _U32_MAX if node == -1 else _u32("numa_node", node or 0)


def _open_flags(flags: int) -> int:
    if flags not in (0, FileFlag.BPF_F_RDONLY, FileFlag.BPF_F_WRONLY):
        raise ValueError(f"a map is opened with 0, BPF_F_RDONLY or BPF_F_WRONLY, not {flags!r} (EINVAL)")
    return flags


def _c_path(path: StrPath) -> "CData":
    name = os.fsencode(path)
    if not name or b"\0" in name:
        raise ValueError(f"{path!r} is not a path")
    return ffi.new("char[]", name)
