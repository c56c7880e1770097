"""The kernel's constants, in the kernel's spelling. Each knows the Linux version that brought it: `.since`.

Source: include/uapi/linux/bpf.h. BPF_ANY, BPF_NOEXIST and BPF_EXIST also stand alone, as in C.
"""

from enum import IntEnum, IntFlag

# The kernel's own error number for "this map can't do that": internal, yet bpf(2) lets it out. Python's errno
# module does not know it, and it is neither ENOTSUP nor EOPNOTSUPP (95).
ENOTSUPP = 524

# A page of attr is the most the kernel reads (bpf_check_uarg_tail_zero).
BPF_ATTR_MAX_SIZE = 4096

# Length of a map's name in the attr, its closing NUL included.
BPF_OBJ_NAME_LEN = 16


class _Constant(IntEnum):
    """An enumerator that remembers its version: members are written `NAME = number, since`.

    A number that a newer kernel added is accepted as well, nameless: MapType(99).name is "MapType(99)".
    """

    since: str

    def __new__(cls, number: int, since: str = "") -> "_Constant":
        member = int.__new__(cls, number)
        member._value_ = number
        member.since = since
        return member

    @classmethod
    def _missing_(cls, value: object) -> "_Constant | None":
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"{cls.__name__}({value})"
        member._value_ = value
        member.since = ""
        return member


class _Flag(IntFlag):
    """A flag that remembers its version: members are written `NAME = bit, since`."""

    since: str

    def __new__(cls, number: int, since: str = "") -> "_Flag":
        member = int.__new__(cls, number)
        member._value_ = number
        member.since = since
        return member


class Cmd(_Constant):
    """enum bpf_cmd: the first argument of bpf(2). `since` is the Linux that brought it.

    >>> Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM.value, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM.since
    (21, '4.20')
    """

    BPF_MAP_CREATE = 0, "3.18"
    BPF_MAP_LOOKUP_ELEM = 1, "3.18"
    BPF_MAP_UPDATE_ELEM = 2, "3.18"
    BPF_MAP_DELETE_ELEM = 3, "3.18"
    BPF_MAP_GET_NEXT_KEY = 4, "3.18"
    BPF_PROG_LOAD = 5, "3.18"
    BPF_OBJ_PIN = 6, "4.4"
    BPF_OBJ_GET = 7, "4.4"
    BPF_PROG_ATTACH = 8, "4.10"
    BPF_PROG_DETACH = 9, "4.10"
    BPF_PROG_TEST_RUN = 10, "4.12"
    BPF_PROG_GET_NEXT_ID = 11, "4.13"
    BPF_MAP_GET_NEXT_ID = 12, "4.13"
    BPF_PROG_GET_FD_BY_ID = 13, "4.13"
    BPF_MAP_GET_FD_BY_ID = 14, "4.13"
    BPF_OBJ_GET_INFO_BY_FD = 15, "4.13"
    BPF_PROG_QUERY = 16, "4.15"
    BPF_RAW_TRACEPOINT_OPEN = 17, "4.17"
    BPF_BTF_LOAD = 18, "4.18"
    BPF_BTF_GET_FD_BY_ID = 19, "4.18"
    BPF_TASK_FD_QUERY = 20, "4.18"
    BPF_MAP_LOOKUP_AND_DELETE_ELEM = 21, "4.20"
    BPF_MAP_FREEZE = 22, "5.2"
    BPF_BTF_GET_NEXT_ID = 23, "5.4"
    BPF_MAP_LOOKUP_BATCH = 24, "5.6"
    BPF_MAP_LOOKUP_AND_DELETE_BATCH = 25, "5.6"
    BPF_MAP_UPDATE_BATCH = 26, "5.6"
    BPF_MAP_DELETE_BATCH = 27, "5.6"
    BPF_LINK_CREATE = 28, "5.7"
    BPF_LINK_UPDATE = 29, "5.7"
    BPF_LINK_GET_FD_BY_ID = 30, "5.8"
    BPF_LINK_GET_NEXT_ID = 31, "5.8"
    BPF_ENABLE_STATS = 32, "5.8"
    BPF_ITER_CREATE = 33, "5.8"
    BPF_LINK_DETACH = 34, "5.9"
    BPF_PROG_BIND_MAP = 35, "5.10"
    BPF_TOKEN_CREATE = 36, "6.9"
    BPF_PROG_STREAM_READ_BY_FD = 37, "6.17"
    BPF_PROG_ASSOC_STRUCT_OPS = 38, "7.0"


# A flag on top of the command (7.2): a fourth and fifth argument of bpf(2) point to a struct bpf_common_attr, through
# which the kernel says in words why BPF_MAP_CREATE failed. Older kernels answer EINVAL.
BPF_COMMON_ATTRS = 1 << 16


class MapType(_Constant):
    """enum bpf_map_type. rawbpf is about two of them: BPF_MAP_TYPE_QUEUE and BPF_MAP_TYPE_STACK.

    >>> MapType.BPF_MAP_TYPE_QUEUE.value, MapType.BPF_MAP_TYPE_STACK.value, MapType.BPF_MAP_TYPE_STACK.since
    (22, 23, '4.20')
    """

    BPF_MAP_TYPE_UNSPEC = 0, "3.18"
    BPF_MAP_TYPE_HASH = 1, "3.19"
    BPF_MAP_TYPE_ARRAY = 2, "3.19"
    BPF_MAP_TYPE_PROG_ARRAY = 3, "4.2"
    BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4, "4.3"
    BPF_MAP_TYPE_PERCPU_HASH = 5, "4.6"
    BPF_MAP_TYPE_PERCPU_ARRAY = 6, "4.6"
    BPF_MAP_TYPE_STACK_TRACE = 7, "4.6"
    BPF_MAP_TYPE_CGROUP_ARRAY = 8, "4.8"
    BPF_MAP_TYPE_LRU_HASH = 9, "4.10"
    BPF_MAP_TYPE_LRU_PERCPU_HASH = 10, "4.10"
    BPF_MAP_TYPE_LPM_TRIE = 11, "4.11"
    BPF_MAP_TYPE_ARRAY_OF_MAPS = 12, "4.12"
    BPF_MAP_TYPE_HASH_OF_MAPS = 13, "4.12"
    BPF_MAP_TYPE_DEVMAP = 14, "4.14"
    BPF_MAP_TYPE_SOCKMAP = 15, "4.14"
    BPF_MAP_TYPE_CPUMAP = 16, "4.15"
    BPF_MAP_TYPE_XSKMAP = 17, "4.18"
    BPF_MAP_TYPE_SOCKHASH = 18, "4.18"
    BPF_MAP_TYPE_CGROUP_STORAGE = 19, "4.19"
    BPF_MAP_TYPE_REUSEPORT_SOCKARRAY = 20, "4.19"
    BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE = 21, "4.20"
    BPF_MAP_TYPE_QUEUE = 22, "4.20"
    BPF_MAP_TYPE_STACK = 23, "4.20"
    BPF_MAP_TYPE_SK_STORAGE = 24, "5.2"
    BPF_MAP_TYPE_DEVMAP_HASH = 25, "5.4"
    BPF_MAP_TYPE_STRUCT_OPS = 26, "5.6"
    BPF_MAP_TYPE_RINGBUF = 27, "5.8"
    BPF_MAP_TYPE_INODE_STORAGE = 28, "5.10"
    BPF_MAP_TYPE_TASK_STORAGE = 29, "5.11"
    BPF_MAP_TYPE_BLOOM_FILTER = 30, "5.16"
    BPF_MAP_TYPE_USER_RINGBUF = 31, "6.1"
    BPF_MAP_TYPE_CGRP_STORAGE = 32, "6.2"
    BPF_MAP_TYPE_ARENA = 33, "6.9"
    BPF_MAP_TYPE_INSN_ARRAY = 34, "6.19"
    BPF_MAP_TYPE_RHASH = 35, "7.2"


class ProgType(_Constant):
    """enum bpf_prog_type.

    >>> ProgType.BPF_PROG_TYPE_SYSCALL.value, ProgType.BPF_PROG_TYPE_SYSCALL.since
    (31, '5.14')
    """

    BPF_PROG_TYPE_UNSPEC = 0, "3.18"
    BPF_PROG_TYPE_SOCKET_FILTER = 1, "3.19"
    BPF_PROG_TYPE_KPROBE = 2, "4.1"
    BPF_PROG_TYPE_SCHED_CLS = 3, "4.1"
    BPF_PROG_TYPE_SCHED_ACT = 4, "4.1"
    BPF_PROG_TYPE_TRACEPOINT = 5, "4.7"
    BPF_PROG_TYPE_XDP = 6, "4.8"
    BPF_PROG_TYPE_PERF_EVENT = 7, "4.9"
    BPF_PROG_TYPE_CGROUP_SKB = 8, "4.10"
    BPF_PROG_TYPE_CGROUP_SOCK = 9, "4.10"
    BPF_PROG_TYPE_LWT_IN = 10, "4.10"
    BPF_PROG_TYPE_LWT_OUT = 11, "4.10"
    BPF_PROG_TYPE_LWT_XMIT = 12, "4.10"
    BPF_PROG_TYPE_SOCK_OPS = 13, "4.13"
    BPF_PROG_TYPE_SK_SKB = 14, "4.14"
    BPF_PROG_TYPE_CGROUP_DEVICE = 15, "4.15"
    BPF_PROG_TYPE_SK_MSG = 16, "4.17"
    BPF_PROG_TYPE_RAW_TRACEPOINT = 17, "4.17"
    BPF_PROG_TYPE_CGROUP_SOCK_ADDR = 18, "4.17"
    BPF_PROG_TYPE_LWT_SEG6LOCAL = 19, "4.18"
    BPF_PROG_TYPE_LIRC_MODE2 = 20, "4.18"
    BPF_PROG_TYPE_SK_REUSEPORT = 21, "4.19"
    BPF_PROG_TYPE_FLOW_DISSECTOR = 22, "4.20"
    BPF_PROG_TYPE_CGROUP_SYSCTL = 23, "5.2"
    BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE = 24, "5.2"
    BPF_PROG_TYPE_CGROUP_SOCKOPT = 25, "5.3"
    BPF_PROG_TYPE_TRACING = 26, "5.5"
    BPF_PROG_TYPE_STRUCT_OPS = 27, "5.6"
    BPF_PROG_TYPE_EXT = 28, "5.6"
    BPF_PROG_TYPE_LSM = 29, "5.7"
    BPF_PROG_TYPE_SK_LOOKUP = 30, "5.9"
    BPF_PROG_TYPE_SYSCALL = 31, "5.14"
    BPF_PROG_TYPE_NETFILTER = 32, "6.4"


class AttachType(_Constant):
    """enum bpf_attach_type: expected_attach_type of BPF_PROG_LOAD, attach_type of BPF_LINK_CREATE."""

    BPF_CGROUP_INET_INGRESS = 0, "4.10"
    BPF_CGROUP_INET_EGRESS = 1, "4.10"
    BPF_CGROUP_INET_SOCK_CREATE = 2, "4.10"
    BPF_CGROUP_SOCK_OPS = 3, "4.13"
    BPF_SK_SKB_STREAM_PARSER = 4, "4.14"
    BPF_SK_SKB_STREAM_VERDICT = 5, "4.14"
    BPF_CGROUP_DEVICE = 6, "4.15"
    BPF_SK_MSG_VERDICT = 7, "4.17"
    BPF_CGROUP_INET4_BIND = 8, "4.17"
    BPF_CGROUP_INET6_BIND = 9, "4.17"
    BPF_CGROUP_INET4_CONNECT = 10, "4.17"
    BPF_CGROUP_INET6_CONNECT = 11, "4.17"
    BPF_CGROUP_INET4_POST_BIND = 12, "4.17"
    BPF_CGROUP_INET6_POST_BIND = 13, "4.17"
    BPF_CGROUP_UDP4_SENDMSG = 14, "4.18"
    BPF_CGROUP_UDP6_SENDMSG = 15, "4.18"
    BPF_LIRC_MODE2 = 16, "4.18"
    BPF_FLOW_DISSECTOR = 17, "4.20"
    BPF_CGROUP_SYSCTL = 18, "5.2"
    BPF_CGROUP_UDP4_RECVMSG = 19, "5.2"
    BPF_CGROUP_UDP6_RECVMSG = 20, "5.2"
    BPF_CGROUP_GETSOCKOPT = 21, "5.3"
    BPF_CGROUP_SETSOCKOPT = 22, "5.3"
    BPF_TRACE_RAW_TP = 23, "5.5"
    BPF_TRACE_FENTRY = 24, "5.5"
    BPF_TRACE_FEXIT = 25, "5.5"
    BPF_MODIFY_RETURN = 26, "5.7"
    BPF_LSM_MAC = 27, "5.7"
    BPF_TRACE_ITER = 28, "5.8"
    BPF_CGROUP_INET4_GETPEERNAME = 29, "5.8"
    BPF_CGROUP_INET6_GETPEERNAME = 30, "5.8"
    BPF_CGROUP_INET4_GETSOCKNAME = 31, "5.8"
    BPF_CGROUP_INET6_GETSOCKNAME = 32, "5.8"
    BPF_XDP_DEVMAP = 33, "5.8"
    BPF_CGROUP_INET_SOCK_RELEASE = 34, "5.9"
    BPF_XDP_CPUMAP = 35, "5.9"
    BPF_SK_LOOKUP = 36, "5.9"
    BPF_XDP = 37, "5.9"
    BPF_SK_SKB_VERDICT = 38, "5.13"
    BPF_SK_REUSEPORT_SELECT = 39, "5.14"
    BPF_SK_REUSEPORT_SELECT_OR_MIGRATE = 40, "5.14"
    BPF_PERF_EVENT = 41, "5.15"
    BPF_TRACE_KPROBE_MULTI = 42, "5.18"
    BPF_LSM_CGROUP = 43, "6.0"
    BPF_STRUCT_OPS = 44, "6.4"
    BPF_NETFILTER = 45, "6.4"
    BPF_TCX_INGRESS = 46, "6.6"
    BPF_TCX_EGRESS = 47, "6.6"
    BPF_TRACE_UPROBE_MULTI = 48, "6.6"
    BPF_CGROUP_UNIX_CONNECT = 49, "6.7"
    BPF_CGROUP_UNIX_SENDMSG = 50, "6.7"
    BPF_CGROUP_UNIX_RECVMSG = 51, "6.7"
    BPF_CGROUP_UNIX_GETPEERNAME = 52, "6.7"
    BPF_CGROUP_UNIX_GETSOCKNAME = 53, "6.7"
    BPF_NETKIT_PRIMARY = 54, "6.7"
    BPF_NETKIT_PEER = 55, "6.7"
    BPF_TRACE_KPROBE_SESSION = 56, "6.10"
    BPF_TRACE_UPROBE_SESSION = 57, "6.13"
    BPF_TRACE_FSESSION = 58, "7.0"
    BPF_TRACE_FENTRY_MULTI = 59, "7.2"
    BPF_TRACE_FEXIT_MULTI = 60, "7.2"
    BPF_TRACE_FSESSION_MULTI = 61, "7.2"


class LinkType(_Constant):
    """enum bpf_link_type: what an attached program hangs on."""

    BPF_LINK_TYPE_UNSPEC = 0, "5.8"
    BPF_LINK_TYPE_RAW_TRACEPOINT = 1, "5.8"
    BPF_LINK_TYPE_TRACING = 2, "5.8"
    BPF_LINK_TYPE_CGROUP = 3, "5.8"
    BPF_LINK_TYPE_ITER = 4, "5.8"
    BPF_LINK_TYPE_NETNS = 5, "5.8"
    BPF_LINK_TYPE_XDP = 6, "5.9"
    BPF_LINK_TYPE_PERF_EVENT = 7, "5.15"
    BPF_LINK_TYPE_KPROBE_MULTI = 8, "5.18"
    BPF_LINK_TYPE_STRUCT_OPS = 9, "5.18"
    BPF_LINK_TYPE_NETFILTER = 10, "6.4"
    BPF_LINK_TYPE_TCX = 11, "6.6"
    BPF_LINK_TYPE_UPROBE_MULTI = 12, "6.6"
    BPF_LINK_TYPE_NETKIT = 13, "6.7"
    BPF_LINK_TYPE_SOCKMAP = 14, "6.10"
    BPF_LINK_TYPE_TRACING_MULTI = 15, "7.2"


class MapFlag(_Flag):
    """Flags of BPF_MAP_CREATE (map_flags).

    >>> with Queue(4, 1, flags=MapFlag.BPF_F_RDONLY_PROG) as q:  # programs may only peek
    ...     q.map_flags.name, q.map_flags.since
    ('BPF_F_RDONLY_PROG', '5.2')
    """

    BPF_F_NO_PREALLOC = 1 << 0, "4.6"
    BPF_F_NO_COMMON_LRU = 1 << 1, "4.10"
    BPF_F_NUMA_NODE = 1 << 2, "4.14"
    BPF_F_RDONLY = 1 << 3, "4.15"
    BPF_F_WRONLY = 1 << 4, "4.15"
    BPF_F_STACK_BUILD_ID = 1 << 5, "4.17"
    BPF_F_ZERO_SEED = 1 << 6, "5.0"
    BPF_F_RDONLY_PROG = 1 << 7, "5.2"
    BPF_F_WRONLY_PROG = 1 << 8, "5.2"
    BPF_F_CLONE = 1 << 9, "5.4"
    BPF_F_MMAPABLE = 1 << 10, "5.5"
    BPF_F_PRESERVE_ELEMS = 1 << 11, "5.10"
    BPF_F_INNER_MAP = 1 << 12, "5.10"
    BPF_F_LINK = 1 << 13, "6.4"
    BPF_F_VTYPE_BTF_OBJ_FD = 1 << 15, "6.9"
    BPF_F_TOKEN_FD = 1 << 16, "6.9"
    BPF_F_SEGV_ON_FAULT = 1 << 17, "6.9"
    BPF_F_NO_USER_CONV = 1 << 18, "6.9"
    BPF_F_RB_OVERWRITE = 1 << 19, "6.19"


class ElemFlag(_Flag):
    """Flags of the element commands. A push takes BPF_ANY and BPF_EXIST, a peek and a pop none.

    >>> with Queue("B", 1) as q:
    ...     q.push(1)
    ...     q.push(2, BPF_EXIST)  # full: the oldest goes
    ...     q.pop()
    2
    """

    BPF_ANY = 0, "3.18"
    BPF_NOEXIST = 1 << 0, "3.18"
    BPF_EXIST = 1 << 1, "3.18"
    BPF_F_LOCK = 1 << 2, "5.1"
    BPF_F_CPU = 1 << 3, "7.0"
    BPF_F_ALL_CPUS = 1 << 4, "7.0"


class FileFlag(_Flag):
    """Flags of BPF_OBJ_GET, BPF_OBJ_PIN (file_flags) and BPF_MAP_GET_FD_BY_ID (open_flags).

    >>> FileFlag.BPF_F_RDONLY.value, FileFlag.BPF_F_RDONLY.since
    (8, '4.15')
    """

    BPF_F_RDONLY = 1 << 3, "4.15"
    BPF_F_WRONLY = 1 << 4, "4.15"
    BPF_F_PATH_FD = 1 << 14, "6.5"


class ProgFlag(_Flag):
    """Flags of BPF_PROG_LOAD (prog_flags)."""

    BPF_F_STRICT_ALIGNMENT = 1 << 0, "4.12"
    BPF_F_ANY_ALIGNMENT = 1 << 1, "5.0"
    BPF_F_TEST_RND_HI32 = 1 << 2, "5.3"
    BPF_F_TEST_STATE_FREQ = 1 << 3, "5.4"
    BPF_F_SLEEPABLE = 1 << 4, "5.10"
    BPF_F_XDP_HAS_FRAGS = 1 << 5, "5.18"
    BPF_F_XDP_DEV_BOUND_ONLY = 1 << 6, "6.3"
    BPF_F_TEST_REG_INVARIANTS = 1 << 7, "6.8"
    BPF_F_TOKEN_FD = 1 << 16, "6.9"


class AttachFlag(_Flag):
    """Flags of BPF_LINK_CREATE and BPF_LINK_UPDATE (flags), and of BPF_PROG_ATTACH (attach_flags)."""

    BPF_F_ALLOW_OVERRIDE = 1 << 0, "4.10"
    BPF_F_ALLOW_MULTI = 1 << 1, "4.15"
    BPF_F_REPLACE = 1 << 2, "5.6"
    BPF_F_BEFORE = 1 << 3, "6.6"
    BPF_F_AFTER = 1 << 4, "6.6"
    BPF_F_ID = 1 << 5, "6.6"
    BPF_F_PREORDER = 1 << 6, "6.15"


class RunFlag(_Flag):
    """Flags of BPF_PROG_TEST_RUN (flags)."""

    BPF_F_TEST_RUN_ON_CPU = 1 << 0, "5.10"
    BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1, "5.18"
    BPF_F_TEST_SKB_CHECKSUM_COMPLETE = 1 << 2, "6.15"


class QueryFlag(_Flag):
    """Flags of BPF_PROG_QUERY (query_flags)."""

    BPF_F_QUERY_EFFECTIVE = 1 << 0, "4.15"


class KprobeMultiFlag(_Flag):
    """Flags of a kprobe.multi link (kprobe_multi.flags)."""

    BPF_F_KPROBE_MULTI_RETURN = 1 << 0, "5.18"


class UprobeMultiFlag(_Flag):
    """Flags of a uprobe.multi link (uprobe_multi.flags)."""

    BPF_F_UPROBE_MULTI_RETURN = 1 << 0, "6.6"


class NetfilterFlag(_Flag):
    """Flags of a netfilter link (netfilter.flags)."""

    BPF_F_NETFILTER_IP_DEFRAG = 1 << 0, "6.6"


class XdpFlag(_Flag):
    """Flags of a link to XDP (link_create.flags). Source: include/uapi/linux/if_link.h."""

    XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0, "4.12"
    XDP_FLAGS_SKB_MODE = 1 << 1, "4.12"
    XDP_FLAGS_DRV_MODE = 1 << 2, "4.12"
    XDP_FLAGS_HW_MODE = 1 << 3, "4.13"
    XDP_FLAGS_REPLACE = 1 << 4, "5.7"


class StatsType(_Constant):
    """enum bpf_stats_type: what BPF_ENABLE_STATS counts."""

    BPF_STATS_RUN_TIME = 0, "5.8"


class TaskFdType(_Constant):
    """enum bpf_task_fd_type: what BPF_TASK_FD_QUERY found a descriptor to be."""

    BPF_FD_TYPE_RAW_TRACEPOINT = 0, "4.18"
    BPF_FD_TYPE_TRACEPOINT = 1, "4.18"
    BPF_FD_TYPE_KPROBE = 2, "4.18"
    BPF_FD_TYPE_KRETPROBE = 3, "4.18"
    BPF_FD_TYPE_UPROBE = 4, "4.18"
    BPF_FD_TYPE_URETPROBE = 5, "4.18"


class PerfEventType(_Constant):
    """enum bpf_perf_event_type: what a perf_event link hangs on."""

    BPF_PERF_EVENT_UNSPEC = 0, "6.6"
    BPF_PERF_EVENT_UPROBE = 1, "6.6"
    BPF_PERF_EVENT_URETPROBE = 2, "6.6"
    BPF_PERF_EVENT_KPROBE = 3, "6.6"
    BPF_PERF_EVENT_KRETPROBE = 4, "6.6"
    BPF_PERF_EVENT_TRACEPOINT = 5, "6.6"
    BPF_PERF_EVENT_EVENT = 6, "6.6"


class IterOrder(_Constant):
    """enum bpf_cgroup_iter_order: over which cgroups an iterator goes, and in which order."""

    BPF_CGROUP_ITER_ORDER_UNSPEC = 0, "6.1"
    BPF_CGROUP_ITER_SELF_ONLY = 1, "6.1"
    BPF_CGROUP_ITER_DESCENDANTS_PRE = 2, "6.1"
    BPF_CGROUP_ITER_DESCENDANTS_POST = 3, "6.1"
    BPF_CGROUP_ITER_ANCESTORS_UP = 4, "6.1"
    BPF_CGROUP_ITER_CHILDREN = 5, "7.0"


BPF_ANY = ElemFlag.BPF_ANY
BPF_NOEXIST = ElemFlag.BPF_NOEXIST
BPF_EXIST = ElemFlag.BPF_EXIST
