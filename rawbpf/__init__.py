"""Queues and stacks in the Linux kernel through the bpf(2) system call, with nothing in between.

    from rawbpf import Queue, Stack, BPF_EXIST

    with Queue(4, 10, name="sample_queue") as q:    # value: 4 raw bytes; max_entries: 10
        q.push(b"\\x01\\x00\\x00\\x00")
        q.peek(), q.pop()

    with Stack("<IH", 128) as s:                    # value: a struct format; tuples in, tuples out
        s.push((7, 80), BPF_EXIST)                  # full: the oldest goes
        s.pop(default=None)                         # no exception on empty

Queue, Stack, open_map() and maps() are what most programs need. rawbpf.syscall has one function per bpf(2) command;
bpf() is the bare call. trace() prints every call, explain() draws what it sends, simulate() answers without a kernel.
"""

import os
from typing import TYPE_CHECKING, Any

from rawbpf.abi import BPF_ANY, BPF_EXIST, BPF_NOEXIST, Cmd, ElemFlag, FileFlag, MapFlag, MapType, ProgType
from rawbpf.errors import AlreadyExists, BpfError, Busy, Empty, Full, NotFound, NotPermitted, Unsupported
from rawbpf.maps import Map, Queue, Stack, maps, open_map
from rawbpf.memlock import set_memlock_rlimit
from rawbpf.syscall import MapInfo, bpf, bpf_attr, pointer
from rawbpf.values import BTF, Codec
from rawbpf.version import __version__

if TYPE_CHECKING:
    from rawbpf.diagram import explain
    from rawbpf.doctor import diagnose
    from rawbpf.elf import ObjectFileError
    from rawbpf.link import Link
    from rawbpf.objectfile import ObjectFile
    from rawbpf.program import Program, VerifierError
    from rawbpf.sharing import recv_map, send_map
    from rawbpf.simulator import simulate
    from rawbpf.tokens import Token
    from rawbpf.tracer import trace

__all__ = [
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_NOEXIST",
    "BTF",
    "AlreadyExists",
    "BpfError",
    "Busy",
    "Cmd",
    "Codec",
    "ElemFlag",
    "Empty",
    "FileFlag",
    "Full",
    "Link",
    "Map",
    "MapFlag",
    "MapInfo",
    "MapType",
    "NotFound",
    "NotPermitted",
    "ObjectFile",
    "ObjectFileError",
    "ProgType",
    "Program",
    "Queue",
    "Stack",
    "Token",
    "Unsupported",
    "VerifierError",
    "__version__",
    "bpf",
    "bpf_attr",
    "diagnose",
    "explain",
    "maps",
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
    "Link": "link",
    "ObjectFile": "objectfile",
    "ObjectFileError": "elf",
    "Program": "program",
    "Token": "tokens",
    "VerifierError": "program",
    "diagnose": "doctor",
    "explain": "diagram",
    "recv_map": "sharing",
    "send_map": "sharing",
    "simulate": "simulator",
    "trace": "tracer",
}


def __getattr__(name: str) -> Any:
    if name not in _TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rawbpf.{_TOOLS[name]}"), name)


# RAWBPF_SIMULATE=1 and RAWBPF_TRACE=1 do for the whole process what simulate() and trace() do for a while.
if os.environ.get("RAWBPF_SIMULATE", "0") not in ("", "0"):
    from rawbpf import simulator

    simulator.start(os.environ["RAWBPF_SIMULATE"])
if os.environ.get("RAWBPF_TRACE", "0") not in ("", "0"):
    from rawbpf import tracer

    tracer.start()
