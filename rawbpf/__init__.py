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
from typing import TYPE_CHECKING, Any

from rawbpf.abi import BPF_ANY, BPF_EXIST, BPF_NOEXIST, Cmd, ElemFlag, FileFlag, MapFlag, MapType, ProgType
from rawbpf.maps.listing import list_maps
from rawbpf.maps.map import Map
from rawbpf.maps.queue_stack import Queue, Stack, open_map
from rawbpf.syscall import MapInfo, bpf, bpf_attr, pointer
from rawbpf.syscall.errors import AlreadyExists, BpfError, Busy, Empty, Full, NotFound, NotPermitted, Unsupported
from rawbpf.syscall.memlock import set_memlock_rlimit
from rawbpf.values.codecs import BTF, Codec
from rawbpf.version import __version__

if TYPE_CHECKING:
    from rawbpf.maps.sharing import recv_map, send_map
    from rawbpf.maps.token import Token
    from rawbpf.objects.elf import ObjectFileError
    from rawbpf.objects.object_file import ObjectFile
    from rawbpf.observe.diagram import explain
    from rawbpf.observe.doctor import diagnose
    from rawbpf.observe.simulator import simulate
    from rawbpf.observe.tracer import trace
    from rawbpf.programs.link import Link
    from rawbpf.programs.program import Program, VerifierError

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
    "Link": "programs.link",
    "ObjectFile": "objects.object_file",
    "ObjectFileError": "objects.elf",
    "Program": "programs.program",
    "Token": "maps.token",
    "VerifierError": "programs.program",
    "diagnose": "observe.doctor",
    "explain": "observe.diagram",
    "recv_map": "maps.sharing",
    "send_map": "maps.sharing",
    "simulate": "observe.simulator",
    "trace": "observe.tracer",
}


def __getattr__(name: str) -> Any:
    if name not in _TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rawbpf.{_TOOLS[name]}"), name)


# RAWBPF_SIMULATE=1 and RAWBPF_TRACE=1 do for the whole process what simulate() and trace() do for a while.
if os.environ.get("RAWBPF_SIMULATE", "0") not in ("", "0"):
    from rawbpf.observe import simulator

    simulator.start(os.environ["RAWBPF_SIMULATE"])
if os.environ.get("RAWBPF_TRACE", "0") not in ("", "0"):
    from rawbpf.observe import tracer

    tracer.start()
