"""The public API as its users write it, for the type checkers: mypy --strict and pyright must find no fault.

assert_type() says which type a caller gets. Nothing here is run.
"""

import ctypes
import io
import struct
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import rawbpf
from rawbpf import BPF_EXIST, BTF, Codec, MapFlag, MapInfo, Queue, Stack, open_map
from rawbpf.abi import AttachType
from rawbpf.btf.reader import Btf
from rawbpf.objects.attached import Attached
from rawbpf.objects.object_file import ObjectFile
from rawbpf.programs.link import Link
from rawbpf.programs.program import Program
from rawbpf.syscall import LinkInfo
from rawbpf.values.btf_codec import BtfCodec


class Text:
    size = 8

    def encode(self, value: str) -> bytes:
        return value.encode().ljust(self.size)

    def decode(self, data: bytes) -> str:
        return data.decode()


def raw() -> None:
    with Queue(4, 10, name="sample_queue") as q:
        q.push(b"\x01\x00\x00\x00")
        q.push(b"\x01\x00\x00\x00", BPF_EXIST)
        assert_type(q.pop(), bytes)
        assert_type(q.peek(default=None), bytes | None)
        assert_type(q.pop(7), bytes | int)
        assert_type(q.info(), MapInfo)
        assert_type(q.map_flags, MapFlag)


def typed() -> None:
    stack = Stack("<IH", 128, flags=MapFlag.BPF_F_RDONLY_PROG, numa_node=0)
    assert_type(stack.pop(), Any)
    Queue(struct.Struct("<I"), 1).close()
    Queue(ctypes.c_uint32, 1).close()


def with_a_codec() -> None:
    codec: Codec[str] = Text()
    q = Queue(codec, 4)
    q.push("hello")
    assert_type(q.pop(), str)
    assert_type(Stack(Text(), 4).pop(default=None), str | None)


def opened() -> None:
    for m in (Queue.open("/sys/fs/bpf/q", access="r"), Queue.from_id(3), Queue.from_name("q"), Queue.from_fd(3)):
        m.push(b"abcd")
    either = open_map(Path("/sys/fs/bpf/q"), "<I")
    assert_type(either, Any)
    assert_type([info.max_entries for info in rawbpf.list_maps()], list[int])


def by_btf(btf: Btf) -> None:
    for m in (Queue.open("/sys/fs/bpf/q", BTF), Queue.from_id(3, BTF), open_map("name:q", BTF)):
        m.push({"pid": 7})
    made = Queue(BtfCodec(btf, 7), 4, btf=True)
    assert_type(made.pop(), Any)
    Stack("<IH", 4, btf=True).close()


def attached(program: Program) -> None:
    with program.attach("sys_enter", cookie=7) as link, program.attach_raw_tracepoint("sys_exit"):
        assert_type(link, Link)
        assert_type(link.info(), LinkInfo)
        assert_type(link.info().tp_name, str | None)
        assert_type(link.iterate(), io.FileIO)
    for target in (Path("/sys/fs/cgroup"), b"/sys/fs/cgroup", 3, link):
        program.attach(target, attach_type=AttachType.BPF_CGROUP_INET_EGRESS).update(program, old=program)
    assert_type(Link.open(Path("/sys/fs/bpf/link")), Link)


def failing(q: Queue[bytes]) -> int:
    try:
        q.pop()
    except rawbpf.Empty as error:
        return error.errno or 0
    except (rawbpf.NotPermitted, rawbpf.BpfError) as error:
        return len(error.hint)
    return 0


def compiled() -> None:
    with ObjectFile.load("events.bpf.o", variables={"limit": 5}) as file:
        assert_type(file.attach(), Attached)
        assert_type(file.maps["queue"], Any)
        for event in file.maps["queue"].follow():
            print(event.pid)
        file.programs["on_exec"].attach("sched_process_exec").close()
        file.variables["limit"] = file.variables["limit"] + 1
