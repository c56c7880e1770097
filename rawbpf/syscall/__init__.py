"""The bpf(2) system call: one function per command, named after it; what its errors mean, and who owns a descriptor."""

from rawbpf.syscall.btf import btf_get_fd_by_id, btf_load
from rawbpf.syscall.call import bpf, bpf_attr, open_descriptor, pointer
from rawbpf.syscall.element import (
    element_error,
    map_lookup_and_delete_elem,
    map_lookup_elem,
    map_update_elem,
    new_element,
    new_map,
)
from rawbpf.syscall.info import (
    BtfInfo,
    LinkInfo,
    MapInfo,
    btf_get_info_by_fd,
    check_queue_or_stack,
    describe,
    link_get_info_by_fd,
    map_info,
    obj_get_info_by_fd,
)
from rawbpf.syscall.link import (
    iter_create,
    link_create,
    link_detach,
    link_get_fd_by_id,
    link_get_next_id,
    link_update,
    raw_tracepoint_open,
)
from rawbpf.syscall.map import create, map_create, map_freeze, map_get_fd_by_id, map_get_next_id, map_ids
from rawbpf.syscall.obj import obj_get, obj_pin
from rawbpf.syscall.rules import (
    QUEUE_AND_STACK,
    StrPath,
    check_fd,
    check_key,
    check_name,
    check_push_flags,
    check_rules,
)
from rawbpf.syscall.token import token_create

__all__ = [
    "QUEUE_AND_STACK",
    "BtfInfo",
    "LinkInfo",
    "MapInfo",
    "StrPath",
    "bpf",
    "bpf_attr",
    "btf_get_fd_by_id",
    "btf_get_info_by_fd",
    "btf_load",
    "check_fd",
    "check_key",
    "check_name",
    "check_push_flags",
    "check_queue_or_stack",
    "check_rules",
    "create",
    "describe",
    "element_error",
    "iter_create",
    "link_create",
    "link_detach",
    "link_get_fd_by_id",
    "link_get_info_by_fd",
    "link_get_next_id",
    "link_update",
    "map_create",
    "map_freeze",
    "map_get_fd_by_id",
    "map_get_next_id",
    "map_ids",
    "map_info",
    "map_lookup_and_delete_elem",
    "map_lookup_elem",
    "map_update_elem",
    "new_element",
    "new_map",
    "obj_get",
    "obj_get_info_by_fd",
    "obj_pin",
    "open_descriptor",
    "pointer",
    "raw_tracepoint_open",
    "token_create",
]
