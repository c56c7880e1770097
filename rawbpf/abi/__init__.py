"""The ABI of bpf(2), and the way into the kernel.

bpf.h is one text for the compiler, for cffi and for whatever explains an attr. door.c has the one C function through
which every call enters the kernel; python_door.py does the same where nothing could be compiled, and door.py chooses
between them and lets a tracer or a simulated kernel stand there. The constants can be imported from here:
`from rawbpf.abi import ProgType`.
"""

from rawbpf.abi.constants import (
    BPF_ANY,
    BPF_ATTR_MAX_SIZE,
    BPF_COMMON_ATTRS,
    BPF_EXIST,
    BPF_NOEXIST,
    BPF_OBJ_NAME_LEN,
    ENOTSUPP,
    AttachFlag,
    AttachType,
    Cmd,
    ElemFlag,
    FileFlag,
    IterOrder,
    KprobeMultiFlag,
    LinkType,
    MapFlag,
    MapType,
    NetfilterFlag,
    PerfEventType,
    ProgFlag,
    ProgType,
    QueryFlag,
    RunFlag,
    StatsType,
    TaskFdType,
    UprobeMultiFlag,
    XdpFlag,
)

__all__ = [
    "BPF_ANY",
    "BPF_ATTR_MAX_SIZE",
    "BPF_COMMON_ATTRS",
    "BPF_EXIST",
    "BPF_NOEXIST",
    "BPF_OBJ_NAME_LEN",
    "ENOTSUPP",
    "AttachFlag",
    "AttachType",
    "Cmd",
    "ElemFlag",
    "FileFlag",
    "IterOrder",
    "KprobeMultiFlag",
    "LinkType",
    "MapFlag",
    "MapType",
    "NetfilterFlag",
    "PerfEventType",
    "ProgFlag",
    "ProgType",
    "QueryFlag",
    "RunFlag",
    "StatsType",
    "TaskFdType",
    "UprobeMultiFlag",
    "XdpFlag",
]
