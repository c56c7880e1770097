"""BPF_OBJ_GET_INFO_BY_FD: what the kernel says of a map, a link, type information."""

import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.abi import AttachType, Cmd, LinkType, MapFlag, MapType, PerfEventType, ProgType
from rawbpf.abi.door import ffi
from rawbpf.syscall.call import address_of, bpf_attr, call, pointer
from rawbpf.syscall.errors import BpfError, bpf_error
from rawbpf.syscall.proc import proc_fields
from rawbpf.syscall.rules import QUEUE_AND_STACK, check_fd

if TYPE_CHECKING:
    from rawbpf.abi._native import CData


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


class ProgInfo(NamedTuple):
    """struct bpf_prog_info: what BPF_OBJ_GET_INFO_BY_FD says of a program. `tag` is a hash of its instructions, lengths
    are in bytes, load_time and run_time_ns in nanoseconds (the first since the machine started). `map_ids` are those of
    the maps it uses. Fields that the running kernel does not know are 0. Linux 4.13.
    """

    type: ProgType
    id: int
    tag: bytes
    name: str
    jited_prog_len: int
    xlated_prog_len: int
    load_time: int
    created_by_uid: int
    map_ids: list[int]
    ifindex: int
    gpl_compatible: bool
    netns_dev: int
    netns_ino: int
    btf_id: int
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int
    attach_btf_obj_id: int
    attach_btf_id: int


class TokenInfo(NamedTuple):
    """struct bpf_token_info: what a token delegates, a bit for each command, type of map, type of program and attach
    type. Linux 6.18."""

    allowed_cmds: int
    allowed_maps: int
    allowed_progs: int
    allowed_attachs: int


class LinkInfo(NamedTuple):
    """struct bpf_link_info: what BPF_OBJ_GET_INFO_BY_FD says of a link. What its type does not have is None; fields
    that the running kernel does not know are 0.

    `prog_id` is the program's. Of tracepoints `tp_name` is the name; of iterators `target_name` what they go over.
    `target_obj_id` and `target_btf_id` say which function a tracing program hangs on: the BTF object, and the type in
    it. `cgroup_id` is the inode of the cgroup's folder, `netns_ino` that of the network namespace. `ifindex` is 0 once
    the interface is gone. Of probes `func_name`, `file_name`, `offset` and `addr` say where, of many at once `path` and
    `pid`, `probe_count` how many; `missed` is how many runs were left out. `pf`, `hooknum` and `priority` are
    netfilter's.
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
    perf_event_type: PerfEventType | None = None
    func_name: str | None = None
    file_name: str | None = None
    offset: int | None = None
    addr: int | None = None
    path: str | None = None
    pid: int | None = None
    probe_count: int | None = None
    flags: int | None = None
    missed: int | None = None
    pf: int | None = None
    hooknum: int | None = None
    priority: int | None = None


def obj_get_info_by_fd(fd: int) -> MapInfo:
    """BPF_OBJ_GET_INFO_BY_FD: what the kernel says of an object, read as a map's. prog_get_info_by_fd(),
    link_get_info_by_fd(), btf_get_info_by_fd() and token_get_info_by_fd() read it as theirs.

    The kernel answers for programs and links too, with other structs: check_queue_or_stack() tells a queue from a
    program of type 22.

    Raises BpfError (EBADFD: not open; EINVAL: no BPF object). Needs no capability. Linux 4.13. In the kernel:
    bpf_obj_get_info_by_fd().
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
            "info": address_of(info),
        }
    )
    result = call(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr)
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


def btf_get_info_by_fd(fd: int) -> BtfInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as type information's: asked once for the size, and once for the blob. Linux 4.18.

    The descriptor must be one of btf_load() or btf_get_fd_by_id(): the kernel answers others with other structs.
    """
    info, name = ffi.new("struct bpf_btf_info *"), ffi.new("char[64]")
    _fill_info(fd, info)
    data = bytearray(info.btf_size)
    info.btf = pointer(data)
    info.name, info.name_len = address_of(name), ffi.sizeof(name)
    try:
        _fill_info(fd, info)
    except BpfError as error:
        # Before 5.11 the struct ends with `id`, and what lies beyond must be 0.
        if error.errno != errno.E2BIG:
            raise
        info.name = info.name_len = 0
        _fill_info(fd, info)
    return BtfInfo(bytes(data), info.id, os.fsdecode(ffi.string(name)), bool(info.kernel_btf))


def prog_get_info_by_fd(fd: int) -> ProgInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as a program's: asked once for the number of its maps, and once for their ids.

    The descriptor must be a program's: the kernel answers others with other structs. Linux 4.13; map_ids 4.15.
    """
    info = ffi.new("struct bpf_prog_info *")
    _fill_info(fd, info)
    count = info.nr_map_ids
    ids = ffi.new("uint32_t[]", max(count, 1))
    again = ffi.new("struct bpf_prog_info *", {"nr_map_ids": count, "map_ids": address_of(ids) if count else 0})
    _fill_info(fd, again)
    return ProgInfo(
        ProgType(again.type),
        again.id,
        bytes(ffi.buffer(again.tag)),
        os.fsdecode(ffi.string(again.name)),
        again.jited_prog_len,
        again.xlated_prog_len,
        again.load_time,
        again.created_by_uid,
        list(ffi.unpack(ids, min(count, again.nr_map_ids))),
        again.ifindex,
        bool(again.gpl_compatible),
        *(getattr(again, field) for field in ProgInfo._fields[11:]),
    )


def token_get_info_by_fd(fd: int) -> TokenInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as a token's. Raises BpfError (EINVAL) before Linux 6.18."""
    info = ffi.new("struct bpf_token_info *")
    _fill_info(fd, info)
    return TokenInfo(*(getattr(info, field) for field in TokenInfo._fields))


def link_get_info_by_fd(fd: int) -> LinkInfo:
    """BPF_OBJ_GET_INFO_BY_FD, read as a link's. Raises BpfError (EINVAL) before Linux 5.8."""
    # It reads bpf.h, which takes longer than the import of all that queues need.
    from rawbpf.abi.kinds import CONSTANTS, counting, fields_of, number_in

    info = ffi.new("struct bpf_link_info *")
    _fill_info(fd, info)
    data = bytes(ffi.buffer(info))
    fields = counting(fields_of("bpf_link_info"), data)
    texts = {field.path: ffi.new("char[]", _NAME_SIZE) for field in fields if field.kind == "text"}
    if texts:
        # Asked again, with room for the names. Only now: in other types of links the same bytes count other things.
        info = ffi.new("struct bpf_link_info *")
        for field in fields:
            if field.path in texts:
                _set(info, field.path, address_of(texts[field.path]))
                _set(info, field.counted_by, _NAME_SIZE)
        _fill_info(fd, info)
        data = bytes(ffi.buffer(info))
    found: dict[str, Any] = {}
    for field in fields:
        name = _LINK_NAMES.get(field.path, field.path.rpartition(".")[2])
        if name not in LinkInfo._fields:
            continue
        number = number_in(data, field)
        if field.path in texts:
            found[name] = os.fsdecode(ffi.string(texts[field.path]))
        elif field.kind == "signed":
            found[name] = number - (number >> 31 << 32)
        else:
            found[name] = CONSTANTS[field.kind](number) if field.kind in CONSTANTS else number
    return LinkInfo(**found)


_NAME_SIZE = 4096
# Names that would mean something else in a tuple, or beside `type`.
_LINK_NAMES = {
    "perf_event.type": "perf_event_type",
    "perf_event.event.type": "",
    "kprobe_multi.count": "probe_count",
    "uprobe_multi.count": "probe_count",
}


def _set(info: "CData", path: str, number: int) -> None:
    """Sets a field that stands within others."""
    *parts, name = path.split(".")
    for part in parts:
        info = getattr(info, part)
    setattr(info, name, number)


def check_is_map(fd: int, info: MapInfo) -> None:
    """Raises TypeError if the descriptor is a program's, a link's or of BTF: the kernel answers for those as well, and
    /proc says what it is."""
    described = proc_fields(f"/proc/self/fdinfo/{fd}")
    if described and "map_type" not in described and {"prog_type", "link_type", "btf_id"} & described.keys():
        raise TypeError(f"descriptor {fd} is no map's")


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
