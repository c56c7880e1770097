"""What stands in a command's attr: which of the union's fields are the command's own, and how each is read.

bpf.h places the fields (layout.py); here stands what they mean. The spelling of a value is strace's.
"""

import functools
import sys
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import NamedTuple

from rawbpf.abi import (
    AttachFlag,
    AttachType,
    Cmd,
    ElemFlag,
    FileFlag,
    LinkType,
    MapFlag,
    MapType,
    ProgFlag,
    ProgType,
    RunFlag,
    layout,
)
from rawbpf.observe import user_memory
from rawbpf.observe.user_memory import Fault

# Each command's own fields in the order of the struct, as NAME:KIND, or NAME:KIND:SINCE where the command took the
# field up later than the union had it. Fields between two bars came together, and strace prints them together.
_FIELDS = {
    Cmd.BPF_MAP_CREATE: """
        map_type:map_type key_size:number value_size:number max_entries:number | map_flags:map_flags | inner_map_fd:fd
        | numa_node:numa_node | map_name:name | map_ifindex:number
        | btf_fd:fd btf_key_type_id:number btf_value_type_id:number | btf_vmlinux_value_type_id:number
        | map_extra:number | value_type_btf_obj_fd:fd | map_token_fd:fd | excl_prog_hash:pointer
        | excl_prog_hash_size:number""",
    Cmd.BPF_MAP_LOOKUP_ELEM: "map_fd:fd key:pointer value:pointer | flags:lookup_flags:5.1",
    Cmd.BPF_MAP_UPDATE_ELEM: "map_fd:fd key:pointer value:pointer flags:update_flags",
    Cmd.BPF_MAP_DELETE_ELEM: "map_fd:fd key:pointer",
    Cmd.BPF_MAP_GET_NEXT_KEY: "map_fd:fd key:pointer next_key:pointer",
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: "map_fd:fd key:pointer value:pointer | flags:lookup_flags:5.14",
    Cmd.BPF_MAP_FREEZE: "map_fd:fd",
    Cmd.BPF_PROG_LOAD: """
        prog_type:prog_type insn_cnt:number insns:pointer license:string
        | log_level:number log_size:number log_buf:log | kern_version:version | prog_flags:prog_flags
        | prog_name:name | prog_ifindex:number | expected_attach_type:attach_type
        | prog_btf_fd:fd func_info_rec_size:number func_info:pointer func_info_cnt:number
          line_info_rec_size:number line_info:pointer line_info_cnt:number
        | attach_btf_id:number | attach_prog_fd:fd | core_relo_cnt:number | fd_array:pointer | core_relos:pointer
        | core_relo_rec_size:number | log_true_size:number | prog_token_fd:fd | fd_array_cnt:number
        | signature:pointer | signature_size:number | keyring_id:fd""",
    Cmd.BPF_OBJ_PIN: "pathname:path bpf_fd:fd | file_flags:file_flags | path_fd:fd",
    Cmd.BPF_OBJ_GET: "pathname:path bpf_fd:fd | file_flags:file_flags | path_fd:fd",
    Cmd.BPF_PROG_TEST_RUN: """
        prog_fd:fd retval:number data_size_in:number data_size_out:number data_in:pointer data_out:pointer
        repeat:number duration:number | ctx_size_in:number ctx_size_out:number ctx_in:pointer ctx_out:pointer
        | flags:run_flags cpu:number | batch_size:number""",
    Cmd.BPF_OBJ_GET_INFO_BY_FD: "bpf_fd:fd info_len:number info:pointer",
    Cmd.BPF_RAW_TRACEPOINT_OPEN: "name:string prog_fd:fd | cookie:number",
    Cmd.BPF_BTF_LOAD: """
        btf:btf btf_log_buf:pointer btf_size:number btf_log_size:number btf_log_level:number
        | btf_log_true_size:number | btf_flags:map_flags | btf_token_fd:fd""",
    Cmd.BPF_TOKEN_CREATE: "flags:hex bpffs_fd:fd",
    Cmd.BPF_MAP_UPDATE_BATCH: ("keys:pointer values:pointer count:number map_fd:fd elem_flags:lookup_flags flags:hex"),
    Cmd.BPF_MAP_DELETE_BATCH: "keys:pointer count:number map_fd:fd elem_flags:lookup_flags flags:hex",
    **dict.fromkeys(
        (Cmd.BPF_MAP_LOOKUP_BATCH, Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH),
        "in_batch:pointer out_batch:pointer keys:pointer values:pointer count:number map_fd:fd"
        " elem_flags:lookup_flags flags:hex",
    ),
    **dict.fromkeys(
        (Cmd.BPF_PROG_GET_NEXT_ID, Cmd.BPF_MAP_GET_NEXT_ID, Cmd.BPF_BTF_GET_NEXT_ID, Cmd.BPF_LINK_GET_NEXT_ID),
        "start_id:number next_id:number | open_flags:file_flags",
    ),
    Cmd.BPF_PROG_GET_FD_BY_ID: "prog_id:number next_id:number | open_flags:file_flags",
    Cmd.BPF_MAP_GET_FD_BY_ID: "map_id:number next_id:number | open_flags:file_flags | fd_by_id_token_fd:fd",
    Cmd.BPF_BTF_GET_FD_BY_ID: "btf_id:number | fd_by_id_token_fd:fd",
    Cmd.BPF_LINK_GET_FD_BY_ID: "link_id:number",
    Cmd.BPF_LINK_CREATE: "prog_fd:fd target_fd:fd attach_type:attach_type flags:hex",
    Cmd.BPF_LINK_UPDATE: "link_fd:fd new_prog_fd:fd flags:attach_flags old_prog_fd:fd",
    Cmd.BPF_LINK_DETACH: "link_fd:fd",
    Cmd.BPF_ITER_CREATE: "link_fd:fd flags:hex",
}

# BPF_LINK_CREATE ends with a union: which of its members is meant the attach type says.
_LINK_CREATE_ENDS = {
    "iter_info:pointer iter_info_len:number": ("BPF_TRACE_ITER",),
    "perf_event.bpf_cookie:hex": ("BPF_PERF_EVENT",),
    """kprobe_multi.flags:hex kprobe_multi.cnt:number kprobe_multi.syms:pointer kprobe_multi.addrs:pointer
        kprobe_multi.cookies:pointer""": ("BPF_TRACE_KPROBE_",),
    """uprobe_multi.path:path uprobe_multi.offsets:pointer uprobe_multi.ref_ctr_offsets:pointer
        uprobe_multi.cookies:pointer uprobe_multi.cnt:number uprobe_multi.flags:hex uprobe_multi.pid:number
        | uprobe_multi.path_fd:fd""": ("BPF_TRACE_UPROBE_",),
    "tracing_multi.ids:pointer tracing_multi.cookies:pointer tracing_multi.cnt:number": (
        "BPF_TRACE_FENTRY_MULTI",
        "BPF_TRACE_FEXIT_MULTI",
        "BPF_TRACE_FSESSION_MULTI",
    ),
    "tracing.target_btf_id:number tracing.cookie:hex": (
        "BPF_TRACE_RAW_TP",
        "BPF_TRACE_FENTRY",
        "BPF_TRACE_FEXIT",
        "BPF_TRACE_FSESSION",
        "BPF_MODIFY_RETURN",
        "BPF_LSM_MAC",
    ),
    "netfilter.pf:number netfilter.hooknum:number netfilter.priority:signed netfilter.flags:hex": ("BPF_NETFILTER",),
    "tcx.relative_fd:fd tcx.expected_revision:number": ("BPF_TCX_",),
    "netkit.relative_fd:fd netkit.expected_revision:number": ("BPF_NETKIT_",),
    "cgroup.relative_fd:fd cgroup.expected_revision:number": ("BPF_CGROUP_", "BPF_LSM_CGROUP"),
}

_MAP_INFO = """
    type:map_type id:number key_size:number value_size:number max_entries:number map_flags:map_flags name:name
    ifindex:number btf_vmlinux_value_type_id:number netns_dev:number netns_ino:number btf_id:number
    btf_key_type_id:number btf_value_type_id:number btf_vmlinux_id:number map_extra:number hash:pointer
    hash_size:number"""

# For each type of link the member of the union, and its fields.
_LINK_INFO = "type:link_type id:number prog_id:number"
_LINK_INFO_ENDS = {
    LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT: ("raw_tracepoint", "tp_name:pointer tp_name_len:number | cookie:hex"),
    LinkType.BPF_LINK_TYPE_TRACING: (
        "tracing",
        "attach_type:attach_type | target_obj_id:number target_btf_id:number | cookie:hex",
    ),
    LinkType.BPF_LINK_TYPE_CGROUP: ("cgroup", "cgroup_id:number attach_type:attach_type"),
    LinkType.BPF_LINK_TYPE_ITER: ("iter", "target_name:pointer target_name_len:number"),
    LinkType.BPF_LINK_TYPE_NETNS: ("netns", "netns_ino:number attach_type:attach_type"),
    LinkType.BPF_LINK_TYPE_XDP: ("xdp", "ifindex:number"),
    LinkType.BPF_LINK_TYPE_TCX: ("tcx", "ifindex:number attach_type:attach_type"),
    LinkType.BPF_LINK_TYPE_NETKIT: ("netkit", "ifindex:number attach_type:attach_type"),
}


class Field(NamedTuple):
    """One field of a command. `offset` and `size` are in bytes, `since` is the Linux that brought it, `kind` a key of
    _SPELLINGS, and fields of one `group` came together."""

    name: str
    offset: int
    size: int
    since: str
    kind: str
    group: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class Struct(NamedTuple):
    """A command's fields. `member` is the union's member they are in ("info", "batch"), "" if they stand in it
    directly. A field that is in a struct within has its name before its own: "tracing.cookie"."""

    member: str
    fields: list[Field]


def struct_of(cmd: int, attr: bytes | None = None) -> Struct | None:
    """The fields of a command; None if bpf.h does not know it.

    Without an attr all the members of BPF_LINK_CREATE's union, which share their bytes; with one those that are meant.
    """
    if cmd != Cmd.BPF_LINK_CREATE:
        return _struct(cmd, _FIELDS.get(Cmd(cmd)))
    if attr is None:
        return _struct(cmd, None)
    base = _struct(cmd, _FIELDS[Cmd.BPF_LINK_CREATE])
    assert base is not None
    return _struct(
        cmd, f"{_FIELDS[Cmd.BPF_LINK_CREATE]} | {_link_create_end(value_in(attr, base.fields, 'attach_type'))}"
    )


def _link_create_end(attach_type: int) -> str:
    """The row for an attach type: that with its name, else that with the beginning of its name."""
    name = AttachType(attach_type).name
    rows = _LINK_CREATE_ENDS.items()
    exact = (row for row, names in rows if name in names)
    return next(exact, next((row for row, names in rows if name.startswith(names)), ""))


@functools.cache
def _struct(cmd: int, text: str | None) -> Struct | None:
    places = _places().get(Cmd(cmd).name)
    if places is None:
        return None
    member, _, _ = places[0].path.rpartition(".")
    by_name = {place.path.removeprefix(member + "."): place for place in places}
    if text is not None:
        return Struct(member, _parse(text, by_name, Cmd(cmd).since))
    # No more is known of the others than the layout says. Some of their fields are unions.
    text = " | ".join(f"{name}:{_KIND_BY_SIZE[place.size]}" for name, place in by_name.items())
    return Struct(member, _parse(text, by_name, "3.18"))


_KIND_BY_SIZE = {4: "number", 8: "hex"}


@functools.cache
def map_info() -> Struct:
    """The fields of struct bpf_map_info."""
    return Struct("", _parse(_MAP_INFO, {place.path: place for place in _places()["bpf_map_info"]}, "4.13"))


@functools.cache
def link_info(link_type: int) -> Struct:
    """The fields of struct bpf_link_info for a type of link."""
    member, text = _LINK_INFO_ENDS.get(LinkType(link_type), ("", ""))
    by_name = {place.path.removeprefix(f"{member}."): place for place in _places()["bpf_link_info"]}
    return Struct("", _parse(f"{_LINK_INFO} | {text}", by_name, "5.8"))


@functools.cache
def _places() -> dict[str, list[layout.Field]]:
    return layout.load()


def _parse(text: str, places: dict[str, layout.Field], oldest: str) -> list[Field]:
    """The fields of a table's row; none is older than what they belong to."""
    fields = []
    for group, part in enumerate(text.split("|")):
        for word in part.split():
            name, kind, *later = word.split(":")
            place = places[name]
            since = max(oldest, place.since, *later, key=layout.version)
            fields.append(Field(name, place.offset, place.size, since, kind, group))
    return fields


# The spelling of values


def number_in(attr: bytes, field: Field) -> int:
    """A field's unsigned value in an attr of any length: bytes that are not there are 0, as for the kernel."""
    return int.from_bytes(attr[field.offset : field.end].ljust(field.size, b"\0"), sys.byteorder)


def value_in(attr: bytes, fields: list[Field], name: str) -> int:
    """The value of the field of this name."""
    return number_in(attr, next(field for field in fields if field.name == name))


def spell(field: Field, attr: bytes, fields: list[Field]) -> str:
    """A field's value in strace's words: `BPF_MAP_TYPE_QUEUE`, `"sample_queue"`, `NULL`, `0x7f...`."""
    return _SPELLINGS[field.kind](field, attr, fields)


def without_following(field: Field) -> Field:
    """The field as it is spelled without a look at the memory it points to."""
    return field._replace(kind="pointer") if field.kind in _FOLLOWED else field


_FOLLOWED = ("path", "string", "log", "btf")

_Spelling = Callable[[Field, bytes, list[Field]], str]


def _of_number(function: Callable[[int], str]) -> _Spelling:
    return lambda field, attr, fields: function(number_in(attr, field))


def _pointer(address: int) -> str:
    return hex(address) if address else "NULL"


def _signed(number: int) -> str:
    return str(number - (1 << 32) if number >> 31 else number)


def _numa_node(number: int) -> str:
    return "4294967295 /* NUMA_NO_NODE */" if number == 0xFFFFFFFF else str(number)


def _version(number: int) -> str:
    return f"KERNEL_VERSION({number >> 16}, {number >> 8 & 0xFF}, {number & 0xFF})"


def _enumerator(constants: type[IntEnum] | type[IntFlag], prefix: str) -> _Spelling:
    names = {int(member): name for name, member in constants.__members__.items()}
    return _of_number(lambda number: names.get(number) or f"{number:#x} /* {prefix}??? */")


def _flags(constants: type[IntFlag], prefix: str, zero: str = "0", known: int = ~0) -> _Spelling:
    bits = {int(member): name for name, member in constants.__members__.items() if int(member) & known}

    def spelled(number: int) -> str:
        if number == 0:
            return zero
        names = [name for bit, name in bits.items() if bit & number]
        rest = number & ~sum(bits)
        if not names:
            return f"{number:#x} /* {prefix}??? */"
        return "|".join([*names, hex(rest)] if rest else names)

    return _of_number(spelled)


def quoted(data: bytes, limit: int | None = None) -> str:
    """Bytes as a C string. Longer than `limit`: cut there, with dots behind."""
    shown = data[:limit]
    text = ""
    for index, byte in enumerate(shown):
        if chr(byte) in _ESCAPES:
            text += _ESCAPES[chr(byte)]
        elif 0x20 <= byte < 0x7F:
            text += chr(byte)
        else:
            # A digit behind a short octal escape would become part of it.
            digit_follows = shown[index + 1 : index + 2].isdigit()
            text += f"\\{byte:03o}" if digit_follows else f"\\{byte:o}"
    return f'"{text}"' + ("..." if len(shown) < len(data) else "")


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\v": "\\v", "\f": "\\f"}

_PATH_MAX = 4096
_STRING_MAX = 32  # of strace, unless told otherwise


def _name(field: Field, attr: bytes, fields: list[Field]) -> str:
    data = attr[field.offset : field.end].ljust(field.size, b"\0")
    return quoted(data.partition(b"\0")[0], field.size - 1)


def _string(most: int, limit: int | None) -> _Spelling:
    def spelled(field: Field, attr: bytes, fields: list[Field]) -> str:
        address = number_in(attr, field)
        try:
            data = user_memory.read_string(address, most)
        except Fault:
            return _pointer(address)
        return quoted(user_memory.read(address, most) if data is None else data, limit)

    return spelled


def _log(field: Field, attr: bytes, fields: list[Field]) -> str:
    size = value_in(attr, fields, "log_size")
    return _string(size, _STRING_MAX)(field, attr, fields) if size else _pointer(number_in(attr, field))


def _btf(field: Field, attr: bytes, fields: list[Field]) -> str:
    address, size = number_in(attr, field), value_in(attr, fields, "btf_size")
    if address == 0:
        return "NULL"
    try:
        data = user_memory.read(address, min(size, _STRING_MAX + 1))
    except Fault:
        return _pointer(address)
    return quoted(data, _STRING_MAX)


_SPELLINGS: dict[str, _Spelling] = {
    "number": _of_number(str),
    "hex": _of_number(lambda number: hex(number) if number else "0"),
    "fd": _of_number(_signed),
    "signed": _of_number(_signed),
    "pointer": _of_number(_pointer),
    "numa_node": _of_number(_numa_node),
    "version": _of_number(_version),
    "map_type": _enumerator(MapType, "BPF_MAP_TYPE_"),
    "link_type": _enumerator(LinkType, "BPF_LINK_TYPE_"),
    "prog_type": _enumerator(ProgType, "BPF_PROG_TYPE_"),
    "attach_type": _enumerator(AttachType, "BPF_"),
    "attach_flags": _flags(AttachFlag, "BPF_F_"),
    "update_flags": _enumerator(ElemFlag, "BPF_"),
    "lookup_flags": _flags(ElemFlag, "BPF_", zero="BPF_ANY", known=~3),
    "map_flags": _flags(MapFlag, "BPF_F_"),
    "file_flags": _flags(FileFlag, "BPF_F_"),
    "prog_flags": _flags(ProgFlag, "BPF_F_"),
    "run_flags": _flags(RunFlag, "BPF_F_"),
    "name": _name,
    "path": _string(_PATH_MAX, None),
    "string": _string(_PATH_MAX, _STRING_MAX),
    "log": _log,
    "btf": _btf,
}
