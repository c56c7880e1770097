"""Makes every command of bpf(2), well and badly, under rawbpf.trace(): every_command.py FOLDER TRACE.

A program of its own, so that strace can look on. It works in a mount namespace of its own, with a cgroup hierarchy in
FOLDER.
"""

import ctypes
import os
import struct
import sys
from typing import Any

import rawbpf
from rawbpf import BPF_EXIST, Cmd, Queue, Stack, bpf, bpf_attr, syscall
from rawbpf.abi import AttachType

folder, trace_file = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
kept: list[bytearray] = []


def attempt(function: Any, *arguments: Any, **options: Any) -> Any:
    """The function's result; None if it fails, as a part of these calls shall."""
    try:
        return function(*arguments, **options)
    except OSError:
        return None


def call(cmd: int, **fields: Any) -> Any:
    """The bare call with the whole union."""
    return attempt(bpf, cmd, bpf_attr(**fields))


def at(data: bytes) -> int:
    """The address of these bytes, which stay where they are."""
    kept.append(bytearray(data))
    return syscall.pointer(kept[-1])


def closed(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


MOV_1 = struct.pack("=BBhi", 0xB7, 0, 0, 1)
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
LICENSE = at(b"GPL\0")
INSTRUCTIONS = at(MOV_1 + EXIT)


def load(prog_type: int, size: int = 168, **more: Any) -> int | None:
    fields = {"prog_type": prog_type, "insn_cnt": 2, "insns": INSTRUCTIONS, "license": LICENSE, **more}
    return attempt(bpf, Cmd.BPF_PROG_LOAD, bpf_attr(**fields), size)


def queues() -> None:
    """What the library does with queues and stacks."""
    for options in ({}, {"flags": 0x80}, {"name": "sample"}, {"name": "x", "numa_node": 0}, {"numa_node": -1}):
        Queue(4, 3, **options).close()
    with Queue(4, 2, name="sample_queue") as q, Stack(8, 1) as s:
        for _ in range(2):
            q.push(b"abcd")
        attempt(q.push, b"efgh")
        q.push(b"efgh", BPF_EXIST)
        q.peek(), q.pop(), q.pop(), attempt(q.pop), attempt(q.peek), attempt(s.pop)
        attempt(s.pin, folder + "/no/folder")
        attempt(s.pin, folder + "/not_bpffs")
        attempt(Stack.open, folder + "/nothing")
        attempt(Stack.open, folder + "/nothing", access="r")
        attempt(Stack.open, folder + '/a"b\\c\n\xe4' + 99 * "long")
        attempt(lambda: Queue.from_id(q.id, access="w").close())
        attempt(syscall.map_get_fd_by_id, 2**32 - 1)
        attempt(syscall.map_get_next_id, 0)
        attempt(syscall.map_get_next_id, 2**31)
        q.freeze(), attempt(q.freeze), attempt(q.push, b"abcd")
    attempt(syscall.obj_get_info_by_fd, 99)


def elements() -> int:
    """A map with keys, by one and by many. Returns it."""
    fd = bpf(Cmd.BPF_MAP_CREATE, bpf_attr(map_type=1, key_size=4, value_size=8, max_entries=8, map_name=b"hash"))
    key, value, out, next_key = at(b"\1\0\0\0"), at(b"12345678"), at(bytes(8)), at(bytes(4))
    for flags in (1, 1, 8, 2**63):
        call(Cmd.BPF_MAP_UPDATE_ELEM, map_fd=fd, key=key, value=value, flags=flags)
    for flags in (0, 4, 5):
        call(Cmd.BPF_MAP_LOOKUP_ELEM, map_fd=fd, key=key, value=out, flags=flags)
    call(Cmd.BPF_MAP_GET_NEXT_KEY, map_fd=fd, next_key=next_key)
    call(Cmd.BPF_MAP_GET_NEXT_KEY, map_fd=fd, key=key, next_key=next_key)
    call(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, map_fd=fd, key=key, value=out)
    call(Cmd.BPF_MAP_DELETE_ELEM, map_fd=fd, key=key)
    keys, values = at(struct.pack("4I", 1, 2, 3, 4)), at(bytes(32))
    call(Cmd.BPF_MAP_UPDATE_BATCH, batch={"keys": keys, "values": values, "count": 4, "map_fd": fd})
    room = {"keys": at(bytes(64)), "values": at(bytes(128)), "out_batch": at(bytes(4)), "map_fd": fd}
    call(Cmd.BPF_MAP_LOOKUP_BATCH, batch={**room, "count": 16})
    call(Cmd.BPF_MAP_LOOKUP_BATCH, batch={**room, "count": 16, "elem_flags": 4})
    call(Cmd.BPF_MAP_DELETE_BATCH, batch={"keys": keys, "count": 2, "map_fd": fd})
    call(Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, batch={**room, "count": 16})
    for cmd in (24, 25, 26, 27):
        call(cmd, batch={"count": 3, "map_fd": 99, "elem_flags": 4})
    return fd


def programs(map_fd: int) -> None:
    """Programs: loaded, run, described, bound to a map, read from."""
    log, packet = at(bytes(4096)), at(bytes(64))
    logged = {"log_level": 1, "log_size": 4096, "log_buf": log}
    for more, size in (
        ({}, 24),
        ({"prog_flags": 16, "prog_name": b"sample_prog"}, 64),
        (logged, 48),
        ({**logged, "expected_attach_type": 3}, 72),
        ({"kern_version": 0x60C01}, 116),
        ({"prog_type": 31}, 120),
        ({"prog_type": 31, "insn_cnt": 0}, 168),
    ):
        closed(load(**{"prog_type": 1, "size": size, **more}))
    fd = load(1, prog_name=b"prog", kern_version=0x60C01, **logged)
    assert fd is not None
    for more, size in (({}, 40), ({"repeat": 2}, 40), ({"ctx_size_in": 8}, 64), ({"flags": 1}, 76), ({}, 168)):
        test = {"prog_fd": fd, "data_in": packet, "data_size_in": 14, **more}
        attempt(bpf, Cmd.BPF_PROG_TEST_RUN, bpf_attr(test=test), size)
    for start in (0, 2**31):
        call(Cmd.BPF_PROG_GET_NEXT_ID, start_id=start)
    closed(call(Cmd.BPF_PROG_GET_FD_BY_ID, prog_id=2**30))
    for before in ((0, 0, 0, 0), (100, 100, at(bytes(100)), at(bytes(100)))):
        info = at(struct.pack("II8sIIQQ", 0, 0, b"", *before) + bytes(192))
        call(Cmd.BPF_OBJ_GET_INFO_BY_FD, info={"bpf_fd": fd, "info_len": 232, "info": info})
    for map_of in (map_fd, 99):
        call(Cmd.BPF_PROG_BIND_MAP, prog_bind_map={"prog_fd": fd, "map_fd": map_of})
    call(Cmd.BPF_PROG_ASSOC_STRUCT_OPS, prog_assoc_struct_ops={"map_fd": map_fd, "prog_fd": fd})
    stream = {"stream_buf": at(bytes(16)), "stream_buf_len": 16, "stream_id": 1}
    call(Cmd.BPF_PROG_STREAM_READ_BY_FD, prog_stream_read={**stream, "prog_fd": fd})
    call(Cmd.BPF_PROG_STREAM_READ_BY_FD, prog_stream_read={**stream, "prog_fd": 99})
    for kind in (0, 7):
        closed(call(Cmd.BPF_ENABLE_STATS, enable_stats={"type": kind}))
    os.close(fd)


def types() -> None:
    """BTF."""
    records = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    btf = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(records), len(records), 5) + records + b"\0int\0"
    for length, size in ((len(btf), 28), (len(btf), 40), (3, 28), (len(btf), 168)):
        closed(attempt(bpf, Cmd.BPF_BTF_LOAD, bpf_attr(btf=at(btf), btf_size=length), size))
    call(Cmd.BPF_BTF_GET_NEXT_ID, start_id=0)
    fd = call(Cmd.BPF_BTF_GET_FD_BY_ID, btf_id=1)
    if fd is not None:
        info = at(bytes(32))
        call(Cmd.BPF_OBJ_GET_INFO_BY_FD, info={"bpf_fd": fd, "info_len": 32, "info": info})
        os.close(fd)
    closed(call(Cmd.BPF_BTF_GET_FD_BY_ID, btf_id=2**30))


def links(cgroup: int) -> None:
    """Attached programs."""
    tracing, filtering = load(17), load(8, expected_attach_type=1)
    assert tracing is not None and filtering is not None
    name = at(b"sched_process_exec\0")
    link = call(Cmd.BPF_RAW_TRACEPOINT_OPEN, raw_tracepoint={"name": name, "prog_fd": tracing})
    query = {"pid": os.getpid(), "fd": link, "buf": at(bytes(64)), "buf_len": 64}
    call(Cmd.BPF_TASK_FD_QUERY, task_fd_query=query)
    call(Cmd.BPF_TASK_FD_QUERY, task_fd_query={**query, "fd": 99})
    info = at(bytes(64))
    call(Cmd.BPF_OBJ_GET_INFO_BY_FD, info={"bpf_fd": link, "info_len": 64, "info": info})
    call(Cmd.BPF_LINK_GET_NEXT_ID, start_id=0)
    closed(call(Cmd.BPF_LINK_GET_FD_BY_ID, link_id=2**30))
    call(Cmd.BPF_ITER_CREATE, iter_create={"link_fd": link})
    closed(link)
    here = {"target_fd": cgroup, "attach_bpf_fd": filtering, "attach_type": 1}
    call(Cmd.BPF_PROG_ATTACH, **here, attach_flags=2)
    for more in ({}, {"query_flags": 1}, {"prog_cnt": 0}, {"prog_attach_flags": at(bytes(64))}, {"target_fd": 99}):
        query = {"target_fd": cgroup, "attach_type": 1, "prog_ids": at(bytes(64)), "prog_cnt": 16}
        call(Cmd.BPF_PROG_QUERY, query={**query, **more})
    call(Cmd.BPF_PROG_DETACH, **here)
    call(Cmd.BPF_PROG_DETACH, **here)
    call(Cmd.BPF_PROG_ATTACH, target_ifindex=1, attach_bpf_fd=filtering, attach_type=46, attach_flags=32, relative_id=3)
    for attach_type in AttachType:
        more = {"prog_fd": 99, "target_fd": 1, "attach_type": attach_type}
        call(Cmd.BPF_LINK_CREATE, link_create=more)
        attempt(bpf, Cmd.BPF_LINK_CREATE, bpf_attr(link_create=more), 16)
    link = call(Cmd.BPF_LINK_CREATE, link_create={"prog_fd": filtering, "target_fd": cgroup, "attach_type": 1})
    more = {"prog_fd": filtering, "target_fd": cgroup, "attach_type": 1, "flags": 0x28, "cgroup": {"relative_id": 3}}
    call(Cmd.BPF_LINK_CREATE, link_create=more)
    call(Cmd.BPF_LINK_UPDATE, link_update={"link_fd": link, "new_prog_fd": filtering})
    call(
        Cmd.BPF_LINK_UPDATE,
        link_update={"link_fd": link, "new_prog_fd": filtering, "flags": 4, "old_prog_fd": filtering},
    )
    call(Cmd.BPF_LINK_DETACH, link_detach={"link_fd": link})
    closed(link)
    symbols = at(struct.pack("=Q", at(b"do_nanosleep\0")))
    multi = {"flags": 1, "cnt": 1, "syms": symbols, "cookies": at(struct.pack("=Q", 7))}
    call(Cmd.BPF_LINK_CREATE, link_create={"prog_fd": tracing, "attach_type": 42, "kprobe_multi": multi})
    multi = {"path": at(b"/bin/true\0"), "flags": 1, "cnt": 2, "offsets": at(struct.pack("=2Q", 1, 2)), "pid": 1}
    call(Cmd.BPF_LINK_CREATE, link_create={"prog_fd": tracing, "attach_type": 48, "uprobe_multi": multi})
    call(
        Cmd.BPF_LINK_CREATE,
        link_create={"prog_fd": 99, "attach_type": 28, "iter_info": at(bytes(16)), "iter_info_len": 4},
    )
    call(Cmd.BPF_LINK_CREATE, link_create={"prog_fd": tracing, "attach_type": 41, "perf_event": {"bpf_cookie": 7}})
    os.close(tracing), os.close(filtering)


def the_rest(map_fd: int, cgroup: int) -> None:
    """Pins, tokens, and what is no command or no attr."""
    call(Cmd.BPF_OBJ_PIN, pathname=at(b"/nothing\0"), bpf_fd=map_fd)
    call(Cmd.BPF_OBJ_GET, pathname=at(b"/nothing\0"), file_flags=0x4008, path_fd=-100)
    call(Cmd.BPF_TOKEN_CREATE, token_create={"bpffs_fd": cgroup})
    call(Cmd.BPF_MAP_FREEZE, map_fd=map_fd)
    attempt(bpf, 99, bpf_attr(map_fd=1), 8)
    attempt(bpf, Cmd.BPF_MAP_CREATE, None, 16)
    attempt(bpf, Cmd.BPF_MAP_FREEZE, bytearray(5000))
    attempt(bpf, Cmd.BPF_MAP_FREEZE, bytearray(range(1, 21)))


def main() -> None:
    # CLONE_NEWNS; MS_REC | MS_PRIVATE.
    libc.unshare(0x20000)
    libc.mount(None, b"/", None, ctypes.c_ulong(0x44000), None)
    libc.mount(b"cgroup2", os.fsencode(folder), b"cgroup2", ctypes.c_ulong(0), None)
    cgroup = os.open(folder, os.O_RDONLY)
    map_fd = elements()
    programs(map_fd)
    types()
    links(cgroup)
    the_rest(map_fd, cgroup)
    queues()


with open(trace_file, "w") as file, rawbpf.trace(file=file):
    main()
