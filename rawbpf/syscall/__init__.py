"""The bpf(2) system call: one function per command, named after it; what its errors mean, and who owns a descriptor.

What only programs, links and batches need is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from rawbpf.syscall.btf import btf_get_fd_by_id, btf_get_next_id, btf_load
from rawbpf.syscall.call import bpf, bpf_attr, open_descriptor, pointer
from rawbpf.syscall.element import (
    element_error,
    map_delete_elem,
    map_get_next_key,
    map_lookup_and_delete_elem,
    map_lookup_elem,
    map_update_elem,
    value_bytes,
)
from rawbpf.syscall.info import (
    BtfInfo,
    LinkInfo,
    MapInfo,
    ProgInfo,
    TokenInfo,
    btf_get_info_by_fd,
    check_queue_or_stack,
    describe,
    link_get_info_by_fd,
    map_info,
    obj_get_info_by_fd,
    prog_get_info_by_fd,
    token_get_info_by_fd,
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

if TYPE_CHECKING:
    from rawbpf.syscall.batch import (
        Batch,
        map_delete_batch,
        map_lookup_and_delete_batch,
        map_lookup_batch,
        map_update_batch,
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
    from rawbpf.syscall.prog import (
        RunResult,
        TaskFd,
        enable_stats,
        load,
        prog_assoc_struct_ops,
        prog_bind_map,
        prog_get_fd_by_id,
        prog_get_next_id,
        prog_load,
        prog_stream_read_by_fd,
        prog_test_run,
        task_fd_query,
    )
    from rawbpf.syscall.prog_attach import ProgQuery, prog_attach, prog_detach, prog_query
    from rawbpf.syscall.token import token_create

__all__ = [
    "QUEUE_AND_STACK",
    "Batch",
    "BtfInfo",
    "LinkInfo",
    "MapInfo",
    "ProgInfo",
    "ProgQuery",
    "RunResult",
    "StrPath",
    "TaskFd",
    "TokenInfo",
    "bpf",
    "bpf_attr",
    "btf_get_fd_by_id",
    "btf_get_info_by_fd",
    "btf_get_next_id",
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
    "enable_stats",
    "iter_create",
    "link_create",
    "link_detach",
    "link_get_fd_by_id",
    "link_get_info_by_fd",
    "link_get_next_id",
    "link_update",
    "load",
    "map_create",
    "map_delete_batch",
    "map_delete_elem",
    "map_freeze",
    "map_get_fd_by_id",
    "map_get_next_id",
    "map_get_next_key",
    "map_ids",
    "map_info",
    "map_lookup_and_delete_batch",
    "map_lookup_and_delete_elem",
    "map_lookup_batch",
    "map_lookup_elem",
    "map_update_batch",
    "map_update_elem",
    "obj_get",
    "obj_get_info_by_fd",
    "obj_pin",
    "open_descriptor",
    "pointer",
    "prog_assoc_struct_ops",
    "prog_attach",
    "prog_bind_map",
    "prog_detach",
    "prog_get_fd_by_id",
    "prog_get_info_by_fd",
    "prog_get_next_id",
    "prog_load",
    "prog_query",
    "prog_stream_read_by_fd",
    "prog_test_run",
    "raw_tracepoint_open",
    "task_fd_query",
    "token_create",
    "token_get_info_by_fd",
    "value_bytes",
]

_LATER = {
    "Batch": "batch",
    "ProgQuery": "prog_attach",
    "RunResult": "prog",
    "TaskFd": "prog",
    "enable_stats": "prog",
    "iter_create": "link",
    "link_create": "link",
    "link_detach": "link",
    "link_get_fd_by_id": "link",
    "link_get_next_id": "link",
    "link_update": "link",
    "load": "prog",
    "map_delete_batch": "batch",
    "map_lookup_and_delete_batch": "batch",
    "map_lookup_batch": "batch",
    "map_update_batch": "batch",
    "prog_assoc_struct_ops": "prog",
    "prog_attach": "prog_attach",
    "prog_bind_map": "prog",
    "prog_detach": "prog_attach",
    "prog_get_fd_by_id": "prog",
    "prog_get_next_id": "prog",
    "prog_load": "prog",
    "prog_query": "prog_attach",
    "prog_stream_read_by_fd": "prog",
    "prog_test_run": "prog",
    "raw_tracepoint_open": "link",
    "task_fd_query": "prog",
    "token_create": "token",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"rawbpf.syscall.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
