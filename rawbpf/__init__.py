"""Queues and stacks in the Linux kernel through the bpf(2) system call, with nothing in between.

    from rawbpf import Queue, Stack, BPF_EXIST

    with Queue(4, 10, name="sample_queue") as q:    # value: 4 raw bytes; max_entries: 10
        q.push(b"\\x01\\x00\\x00\\x00")
        q.peek(), q.pop()

    with Stack("<IH", 128) as s:                    # value: a struct format; tuples in, tuples out
        s.push((7, 80), BPF_EXIST)                  # full: the oldest goes
        s.pop(default=None)                         # no exception on empty

Queue, Stack, open_map() and list_maps() are what most programs need. rawbpf.syscall has one function per bpf(2)
command; bpf() is the bare call. trace() prints every call, explain() draws what it sends, simulate() answers without a
kernel.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

from rawbpf.abi import BPF_ANY, BPF_EXIST, BPF_NOEXIST, Cmd, ElemFlag, FileFlag, MapFlag, MapType, ProgType
from rawbpf.maps.listing import list_maps
from rawbpf.maps.map import Map
from rawbpf.maps.queue_stack import Queue, Stack
from rawbpf.syscall import MapInfo, bpf, bpf_attr, pointer
from rawbpf.syscall.errors import (
    AlreadyExists,
    BpfError,
    Busy,
    Empty,
    Full,
    NoSuchIndex,
    NoSuchKey,
    NotFound,
    NotPermitted,
    Unsupported,
)
from rawbpf.syscall.memlock import set_memlock_rlimit
from rawbpf.values.codecs import BTF, Codec
from rawbpf.version import __version__

if TYPE_CHECKING:
    from rawbpf.maps.array import Array, PerCpuArray
    from rawbpf.maps.hash import Hash, LruHash, LruPerCpuHash, PerCpuHash
    from rawbpf.maps.lpm_trie import LpmTrie
    from rawbpf.maps.of_descriptors import (
        ArrayOfMaps,
        CgroupArray,
        CpuMap,
        DevMap,
        DevMapHash,
        HashOfMaps,
        PerfEventArray,
        ProgArray,
        ReuseportSockArray,
        SockHash,
        SockMap,
        XskMap,
    )
    from rawbpf.maps.other import OtherMap
    from rawbpf.maps.pinned import follow_pin
    from rawbpf.maps.ring_buffer import RingBuffer
    from rawbpf.maps.sharing import recv_map, send_map
    from rawbpf.maps.token import Token
    from rawbpf.objects.elf import ObjectFileError
    from rawbpf.objects.object_file import ObjectFile
    from rawbpf.objects.opening import open_map
    from rawbpf.observe.diagram import explain
    from rawbpf.observe.doctor import diagnose
    from rawbpf.observe.simulator import simulate
    from rawbpf.observe.tracer import trace
    from rawbpf.programs import asm
    from rawbpf.programs.link import Link
    from rawbpf.programs.program import Program, VerifierError

__all__ = [
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_NOEXIST",
    "BTF",
    "AlreadyExists",
    "Array",
    "ArrayOfMaps",
    "BpfError",
    "Busy",
    "CgroupArray",
    "Cmd",
    "Codec",
    "CpuMap",
    "DevMap",
    "DevMapHash",
    "ElemFlag",
    "Empty",
    "FileFlag",
    "Full",
    "Hash",
    "HashOfMaps",
    "Link",
    "LpmTrie",
    "LruHash",
    "LruPerCpuHash",
    "Map",
    "MapFlag",
    "MapInfo",
    "MapType",
    "NoSuchIndex",
    "NoSuchKey",
    "NotFound",
    "NotPermitted",
    "ObjectFile",
    "ObjectFileError",
    "OtherMap",
    "PerCpuArray",
    "PerCpuHash",
    "PerfEventArray",
    "ProgArray",
    "ProgType",
    "Program",
    "Queue",
    "ReuseportSockArray",
    "RingBuffer",
    "SockHash",
    "SockMap",
    "Stack",
    "Token",
    "Unsupported",
    "VerifierError",
    "XskMap",
    "__version__",
    "asm",
    "bpf",
    "bpf_attr",
    "diagnose",
    "explain",
    "follow_pin",
    "list_maps",
    "open_map",
    "pointer",
    "recv_map",
    "send_map",
    "set_memlock_rlimit",
    "simulate",
    "trace",
]

# What costs an import only when it is asked for.
_TOOLS = {
    "Array": "maps.array",
    "ArrayOfMaps": "maps.of_descriptors",
    "CgroupArray": "maps.of_descriptors",
    "CpuMap": "maps.of_descriptors",
    "DevMap": "maps.of_descriptors",
    "DevMapHash": "maps.of_descriptors",
    "Hash": "maps.hash",
    "HashOfMaps": "maps.of_descriptors",
    "Link": "programs.link",
    "LpmTrie": "maps.lpm_trie",
    "LruHash": "maps.hash",
    "LruPerCpuHash": "maps.hash",
    "ObjectFile": "objects.object_file",
    "ObjectFileError": "objects.elf",
    "OtherMap": "maps.other",
    "PerCpuArray": "maps.array",
    "PerCpuHash": "maps.hash",
    "PerfEventArray": "maps.of_descriptors",
    "ProgArray": "maps.of_descriptors",
    "Program": "programs.program",
    "ReuseportSockArray": "maps.of_descriptors",
    "RingBuffer": "maps.ring_buffer",
    "SockHash": "maps.of_descriptors",
    "SockMap": "maps.of_descriptors",
    "Token": "maps.token",
    "VerifierError": "programs.program",
    "XskMap": "maps.of_descriptors",
    "asm": "programs.asm",
    "diagnose": "observe.doctor",
    "explain": "observe.diagram",
    "follow_pin": "maps.pinned",
    "open_map": "objects.opening",
    "recv_map": "maps.sharing",
    "send_map": "maps.sharing",
    "simulate": "observe.simulator",
    "trace": "observe.tracer",
}


def __getattr__(name: str) -> Any:
    if name not in _TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"rawbpf.{_TOOLS[name]}")
    # asm is a module itself.
    return module if _TOOLS[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    # For completion and help(): what is imported only when it is asked for as well.
    return sorted({*globals(), *__all__})


if not getattr(sys, "_is_gil_enabled", lambda: True)():
    # The first bulk call and the first qsize() import these, which makes classes. If a daemon thread makes one while
    # the interpreter ends, CPython 3.13 without the GIL may hang: so here they are imported at once.
    from importlib import import_module

    import_module("rawbpf.maps.in_kernel")
    import_module("rawbpf.maps.qsize")

# RAWBPF_SIMULATE=1 and RAWBPF_TRACE=1 do for the whole process what simulate() and trace() do for a while.
if os.environ.get("RAWBPF_SIMULATE", "0") not in ("", "0"):
    from rawbpf.observe import simulator

    simulator.start(os.environ["RAWBPF_SIMULATE"])
if os.environ.get("RAWBPF_TRACE", "0") not in ("", "0"):
    from rawbpf.observe import tracer

    tracer.start()
