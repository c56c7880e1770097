"""The commands of the simulated kernel: each makes the kernel's checks in the kernel's order."""

import errno
import os
import sys

from rawbpf.abi import BPF_ATTR_MAX_SIZE, ENOTSUPP, Cmd, ElemFlag, MapFlag, MapType, layout
from rawbpf.abi.kinds import number_in
from rawbpf.abi.layout import Field
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import map_info
from rawbpf.observe.simulated_attr import Attr, Command
from rawbpf.observe.simulated_btf import btf_get_fd_by_id, btf_info, btf_load, map_btf
from rawbpf.observe.simulated_map import MAGIC, U32, Header, Refused, refuse_if
from rawbpf.observe.simulated_pins import obj_get, obj_pin
from rawbpf.observe.simulated_state import OPEN_FLAGS, KernelState, open_mode
from rawbpf.observe.user_memory import Fault

# What errors say of a command or map type that is left out.
LIMITS = "the simulated kernel has queues, stacks and their BTF, and nothing else"

_KMALLOC_MAX_SIZE = 4 << 20

# Plain integers: the complement of an IntFlag has only the bits that the class knows.
_NUMA_NODE = int(MapFlag.BPF_F_NUMA_NODE)
_TOKEN_FD = int(MapFlag.BPF_F_TOKEN_FD)
_PROGRAM_FLAGS = int(MapFlag.BPF_F_RDONLY_PROG | MapFlag.BPF_F_WRONLY_PROG)
_NOEXIST, _EXIST, _LOCK = int(ElemFlag.BPF_NOEXIST), int(ElemFlag.BPF_EXIST), int(ElemFlag.BPF_F_LOCK)
_CPU, _ALL_CPUS = int(ElemFlag.BPF_F_CPU), int(ElemFlag.BPF_F_ALL_CPUS)


def _map_create(kernel: KernelState, attr: Attr) -> int:
    """map_create() and queue_stack_map_alloc_check()."""
    attr.check()
    flags = attr["map_flags"]
    token = flags & _TOKEN_FD if kernel.version >= (6, 9) else 0
    flags &= ~token
    only_others = "btf_vmlinux_value_type_id can only be used with struct_ops maps."
    refuse_if(attr["btf_vmlinux_value_type_id"], errno.EINVAL, only_others)
    refuse_if(attr["btf_key_type_id"] and not attr["btf_value_type_id"], errno.EINVAL, "Invalid btf_value_type_id.")
    refuse_if(attr["map_extra"], errno.EINVAL, "Invalid map_extra.")
    access = flags & OPEN_FLAGS
    open_mode(access)
    # The machine has one NUMA node.
    node = attr["numa_node"]
    refuse_if(flags & _NUMA_NODE and node not in (0, U32), errno.EINVAL, "Invalid numa_node.")
    kind = MapType(attr["map_type"])
    known = kind.name in MapType.__members__ and layout.version(kind.since) <= kernel.version
    refuse_if(not known, errno.EINVAL, "Invalid map_type.")
    refuse_if(kind == MapType.BPF_MAP_TYPE_UNSPEC, errno.EINVAL)
    if kind not in (MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK):
        not_simulated(kernel, attr)
    _check_sizes(kernel, attr, flags)
    refuse_if(attr["map_ifindex"], errno.EINVAL)
    if token:
        raise Refused(_none_of_its_kind(attr["map_token_fd"]), "Invalid map_token_fd.")
    refuse_if(kernel.unprivileged, errno.EPERM)
    name = _checked_name(attr.bytes_of("map_name"))
    described = map_btf(kernel, attr) if attr["btf_value_type_id"] else (0, 0, 0)
    if attr["excl_prog_hash"] or attr["excl_prog_hash_size"]:
        right = attr["excl_prog_hash"] and attr["excl_prog_hash_size"] == 32
        refuse_if(not right, errno.EINVAL, "Invalid excl_prog_hash_size.")
        user_memory.read(attr["excl_prog_hash"], 32)
    # RDONLY and WRONLY belong to the descriptor, the other flags to the map.
    kept = flags & ~OPEN_FLAGS
    header = Header(MAGIC, 0, kind, attr["value_size"], attr["max_entries"], kept, 0, 0, 0, name, *described)
    return kernel.make(header, access)


def _check_sizes(kernel: KernelState, attr: Attr, flags: int) -> None:
    allowed = _NUMA_NODE | OPEN_FLAGS | (_PROGRAM_FLAGS if kernel.version >= (5, 2) else 0)
    refuse_if(attr["max_entries"] == 0 or attr["key_size"] != 0 or attr["value_size"] == 0, errno.EINVAL)
    refuse_if(flags & ~allowed or flags & _PROGRAM_FLAGS == _PROGRAM_FLAGS, errno.EINVAL)
    refuse_if(attr["value_size"] > _KMALLOC_MAX_SIZE, errno.E2BIG)


def _checked_name(data: bytes) -> bytes:
    """bpf_obj_name_cpy(): what stands behind the NUL does not matter."""
    name, nul, _ = data.partition(b"\0")
    refuse_if(any(byte not in _NAME_BYTES for byte in name) or not nul, errno.EINVAL, "Invalid map_name.")
    return name


# The kernel's isalnum() is Latin-1's.
_NAME_BYTES = frozenset(
    byte for byte in range(256) if chr(byte) in "_." or (chr(byte).isascii() and chr(byte).isalnum()) or byte >= 0xC0
) - {0xD7, 0xF7}


def _none_of_its_kind(fd: int) -> int:
    """The errno for a descriptor in the place of a token: there are none."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return errno.EBADF
    return errno.EINVAL


def _update_elem(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    refuse_if(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    flags = attr["flags"]
    refuse_if(flags & _LOCK, errno.EINVAL)
    if kernel.version >= (7, 0):
        # bpf_map_check_op_flags(): these are for maps with a value per processor. Its number is in the upper half.
        refuse_if(flags & (_CPU | _ALL_CPUS) or flags >> 32, errno.EINVAL)
    refuse_if(attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        value = user_memory.read(attr["value"], found.header.value_size)
        refuse_if(flags & _NOEXIST or flags > _EXIST, errno.EINVAL)
        found.push(value, replace=flags == _EXIST)
    return 0


def _lookup_elem(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    if kernel.version < (7, 0):
        refuse_if(attr["flags"] & ~_LOCK, errno.EINVAL)
    fd = kernel.checked(attr["map_fd"])
    refuse_if(not kernel.permitted(fd) & os.R_OK, errno.EPERM)
    refuse_if(attr["flags"] or attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        refuse_if(found.empty, errno.ENOENT)
        user_memory.write(attr["value"], found.peek())
    return 0


def _lookup_and_delete_elem(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    refuse_if(attr["flags"] & ~_LOCK, errno.EINVAL)
    fd = kernel.checked(attr["map_fd"])
    refuse_if(kernel.permitted(fd) != os.R_OK | os.W_OK, errno.EPERM)
    refuse_if(attr["flags"] or attr["key"], errno.EINVAL)
    with kernel.opened(fd) as found:
        refuse_if(found.empty, errno.ENOENT)
        value = found.peek()
        # Removed before it is copied: a destination that faults loses it.
        found.remove()
    try:
        user_memory.write(attr["value"], value)
    except Fault:
        # Kernels before 5.7 did not even say so.
        refuse_if(kernel.version >= (5, 7), errno.EFAULT)
    return 0


def _delete_elem(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    refuse_if(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    raise Refused(errno.EINVAL)


def _get_next_key(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    refuse_if(not kernel.permitted(fd) & os.R_OK, errno.EPERM)
    raise Refused(errno.EINVAL)


def _batch(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    needed = {Cmd.BPF_MAP_LOOKUP_BATCH: os.R_OK, Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH: os.R_OK | os.W_OK}
    wanted = needed.get(attr.cmd, os.W_OK)
    refuse_if(kernel.permitted(fd) & wanted != wanted, errno.EPERM)
    raise Refused(ENOTSUPP)


def _map_freeze(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    fd = kernel.checked(attr["map_fd"])
    if kernel.version >= (6, 5):
        refuse_if(not kernel.permitted(fd) & os.W_OK, errno.EPERM)
    with kernel.opened(fd, to_freeze=True) as found:
        if kernel.version < (6, 5):
            # Then it asked for the capability, whatever the descriptor's mode.
            refuse_if(found.header.frozen, errno.EBUSY)
            refuse_if(kernel.unprivileged, errno.EPERM)
        found.save(frozen=1)
    return 0


def _get_next_id(kernel: KernelState, attr: Attr) -> int:
    attr.check("next_id")
    refuse_if(attr["start_id"] >= 0x7FFFFFFF, errno.EINVAL)
    refuse_if(kernel.unprivileged, errno.EPERM)
    ids = {Cmd.BPF_MAP_GET_NEXT_ID: kernel.map_ids, Cmd.BPF_BTF_GET_NEXT_ID: kernel.btf_ids}.get(attr.cmd, list)
    later = [number for number in ids() if number > attr["start_id"]]
    refuse_if(not later, errno.ENOENT)
    attr.write("next_id", later[0])
    return 0


def _get_fd_by_id(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    refuse_if(attr["open_flags"] & ~OPEN_FLAGS, errno.EINVAL)
    refuse_if(kernel.unprivileged, errno.EPERM)
    open_mode(attr["open_flags"])
    refuse_if(attr["map_id"] not in kernel.map_ids(), errno.ENOENT)
    return kernel.open_file(kernel.map_path(attr["map_id"]), attr["open_flags"])


def _get_info_by_fd(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    if kernel.is_btf(attr["bpf_fd"]):
        return btf_info(kernel, attr)
    fd = kernel.checked(attr["bpf_fd"], closed=errno.EBADFD)
    fields = [field for field in map_info().fields if layout.version(field.since) <= kernel.version]
    size = (max(field.end for field in fields) + 7) // 8 * 8
    length, address = attr["info_len"], attr["info"]
    refuse_if(length > BPF_ATTR_MAX_SIZE, errno.E2BIG)
    refuse_if(any(user_memory.read(address + size, length - size)) if length > size else False, errno.E2BIG)
    length = min(length, size)
    asked = user_memory.read(address, length)
    by_name = {field.name: field for field in fields}
    if "hash" in by_name:
        # Inputs, for maps that programs are signed with: these are none.
        refuse_if(number_in(asked, by_name["hash"]) or number_in(asked, by_name["hash_size"]), errno.EINVAL)
    with kernel.opened(fd) as found:
        info = _info(found.header, fields, size)
    user_memory.write(address, info[:length])
    attr.write("info_len", length)
    return 0


def _info(header: Header, fields: list[Field], size: int) -> bytes:
    values = header._asdict()
    data = bytearray(size)
    for field in fields:
        value = values.get(field.name, 0)
        encoded = value if isinstance(value, bytes) else value.to_bytes(field.size, sys.byteorder)
        data[field.offset : field.end] = encoded.ljust(field.size, b"\0")
    return bytes(data)


def not_simulated(kernel: KernelState, attr: Attr) -> int:
    """What LIMITS says. A process without capabilities would be refused before that."""
    raise Refused(errno.EPERM if kernel.unprivileged else errno.EOPNOTSUPP)


COMMANDS: dict[Cmd, Command] = {
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
    Cmd.BPF_OBJ_PIN: obj_pin,
    Cmd.BPF_OBJ_GET: obj_get,
    Cmd.BPF_OBJ_GET_INFO_BY_FD: _get_info_by_fd,
    Cmd.BPF_MAP_GET_FD_BY_ID: _get_fd_by_id,
    Cmd.BPF_MAP_GET_NEXT_ID: _get_next_id,
    Cmd.BPF_BTF_LOAD: btf_load,
    Cmd.BPF_BTF_GET_FD_BY_ID: btf_get_fd_by_id,
    Cmd.BPF_BTF_GET_NEXT_ID: _get_next_id,
    # There are none of these.
    Cmd.BPF_PROG_GET_NEXT_ID: _get_next_id,
    Cmd.BPF_LINK_GET_NEXT_ID: _get_next_id,
}
