"""What the name of a section says of the programs in it: SEC("raw_tp/sched_process_exec") holds raw tracepoints.

The names are libbpf's (Documentation/bpf/libbpf/program_types.rst), as far as their programs can be loaded through
bpf(2) alone. Behind the names of _WITH_TARGET stands, after a slash, where the program is to be attached.
"""

from typing import NamedTuple

from rawbpf.abi import AttachType, ProgFlag, ProgType


class SectionKind(NamedTuple):
    """What PROG_LOAD is told of a section's programs, and where they are to be attached ("" if the name says nothing).

    `attach_type` is None for types that have none.
    """

    prog_type: ProgType
    attach_type: AttachType | None
    prog_flags: int
    attach_to: str


# Section name: program type, attach type, flags.
_EXACT = {
    "socket": ("SOCKET_FILTER", "", 0),
    "syscall": ("SYSCALL", "", ProgFlag.BPF_F_SLEEPABLE),
    "tc": ("SCHED_CLS", "", 0),
    "classifier": ("SCHED_CLS", "", 0),
    "action": ("SCHED_ACT", "", 0),
    "tcx/ingress": ("SCHED_CLS", "TCX_INGRESS", 0),
    "tcx/egress": ("SCHED_CLS", "TCX_EGRESS", 0),
    "netkit/primary": ("SCHED_CLS", "NETKIT_PRIMARY", 0),
    "netkit/peer": ("SCHED_CLS", "NETKIT_PEER", 0),
    "xdp": ("XDP", "XDP", 0),
    "xdp.frags": ("XDP", "XDP", ProgFlag.BPF_F_XDP_HAS_FRAGS),
    "xdp/devmap": ("XDP", "XDP_DEVMAP", 0),
    "xdp/cpumap": ("XDP", "XDP_CPUMAP", 0),
    "perf_event": ("PERF_EVENT", "", 0),
    "lwt_in": ("LWT_IN", "", 0),
    "lwt_out": ("LWT_OUT", "", 0),
    "lwt_xmit": ("LWT_XMIT", "", 0),
    "lwt_seg6local": ("LWT_SEG6LOCAL", "", 0),
    "sockops": ("SOCK_OPS", "CGROUP_SOCK_OPS", 0),
    "sk_skb": ("SK_SKB", "", 0),
    "sk_skb/stream_parser": ("SK_SKB", "SK_SKB_STREAM_PARSER", 0),
    "sk_skb/stream_verdict": ("SK_SKB", "SK_SKB_STREAM_VERDICT", 0),
    "sk_msg": ("SK_MSG", "SK_MSG_VERDICT", 0),
    "sk_reuseport": ("SK_REUSEPORT", "SK_REUSEPORT_SELECT", 0),
    "sk_reuseport/migrate": ("SK_REUSEPORT", "SK_REUSEPORT_SELECT_OR_MIGRATE", 0),
    "sk_lookup": ("SK_LOOKUP", "SK_LOOKUP", 0),
    "flow_dissector": ("FLOW_DISSECTOR", "FLOW_DISSECTOR", 0),
    "netfilter": ("NETFILTER", "NETFILTER", 0),
    "cgroup/skb": ("CGROUP_SKB", "", 0),
    "cgroup_skb/ingress": ("CGROUP_SKB", "CGROUP_INET_INGRESS", 0),
    "cgroup_skb/egress": ("CGROUP_SKB", "CGROUP_INET_EGRESS", 0),
    "cgroup/sock": ("CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", 0),
    "cgroup/sock_create": ("CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", 0),
    "cgroup/sock_release": ("CGROUP_SOCK", "CGROUP_INET_SOCK_RELEASE", 0),
    "cgroup/post_bind4": ("CGROUP_SOCK", "CGROUP_INET4_POST_BIND", 0),
    "cgroup/post_bind6": ("CGROUP_SOCK", "CGROUP_INET6_POST_BIND", 0),
    "cgroup/bind4": ("CGROUP_SOCK_ADDR", "CGROUP_INET4_BIND", 0),
    "cgroup/bind6": ("CGROUP_SOCK_ADDR", "CGROUP_INET6_BIND", 0),
    "cgroup/connect4": ("CGROUP_SOCK_ADDR", "CGROUP_INET4_CONNECT", 0),
    "cgroup/connect6": ("CGROUP_SOCK_ADDR", "CGROUP_INET6_CONNECT", 0),
    "cgroup/sendmsg4": ("CGROUP_SOCK_ADDR", "CGROUP_UDP4_SENDMSG", 0),
    "cgroup/sendmsg6": ("CGROUP_SOCK_ADDR", "CGROUP_UDP6_SENDMSG", 0),
    "cgroup/recvmsg4": ("CGROUP_SOCK_ADDR", "CGROUP_UDP4_RECVMSG", 0),
    "cgroup/recvmsg6": ("CGROUP_SOCK_ADDR", "CGROUP_UDP6_RECVMSG", 0),
    "cgroup/dev": ("CGROUP_DEVICE", "CGROUP_DEVICE", 0),
    "cgroup/sysctl": ("CGROUP_SYSCTL", "CGROUP_SYSCTL", 0),
    "cgroup/getsockopt": ("CGROUP_SOCKOPT", "CGROUP_GETSOCKOPT", 0),
    "cgroup/setsockopt": ("CGROUP_SOCKOPT", "CGROUP_SETSOCKOPT", 0),
}

# Section name before the slash: the same, and behind the slash the tracepoint or the kernel's function. Programs for
# kprobes and tracepoints load; attaching them would need perf_event_open(2).
_WITH_TARGET = {
    "raw_tp": ("RAW_TRACEPOINT", "", 0),
    "raw_tracepoint": ("RAW_TRACEPOINT", "", 0),
    "raw_tp.w": ("RAW_TRACEPOINT_WRITABLE", "", 0),
    "raw_tracepoint.w": ("RAW_TRACEPOINT_WRITABLE", "", 0),
    "tp": ("TRACEPOINT", "", 0),
    "tracepoint": ("TRACEPOINT", "", 0),
    "kprobe": ("KPROBE", "", 0),
    "kretprobe": ("KPROBE", "", 0),
    "tp_btf": ("TRACING", "TRACE_RAW_TP", 0),
    "fentry": ("TRACING", "TRACE_FENTRY", 0),
    "fentry.s": ("TRACING", "TRACE_FENTRY", ProgFlag.BPF_F_SLEEPABLE),
    "fexit": ("TRACING", "TRACE_FEXIT", 0),
    "fexit.s": ("TRACING", "TRACE_FEXIT", ProgFlag.BPF_F_SLEEPABLE),
    "fmod_ret": ("TRACING", "MODIFY_RETURN", 0),
    "fmod_ret.s": ("TRACING", "MODIFY_RETURN", ProgFlag.BPF_F_SLEEPABLE),
    "iter": ("TRACING", "TRACE_ITER", 0),
    "iter.s": ("TRACING", "TRACE_ITER", ProgFlag.BPF_F_SLEEPABLE),
    "lsm": ("LSM", "LSM_MAC", 0),
    "lsm.s": ("LSM", "LSM_MAC", ProgFlag.BPF_F_SLEEPABLE),
}


def kind_of_section(name: str) -> SectionKind | None:
    """The kind that a section's name stands for, None for a name that is not known."""
    before, _, target = name.partition("/")
    if name in _EXACT:
        prog_type, attach_type, flags = _EXACT[name]
        target = ""
    elif before in _WITH_TARGET:
        prog_type, attach_type, flags = _WITH_TARGET[before]
    else:
        return None
    return SectionKind(
        ProgType[f"BPF_PROG_TYPE_{prog_type}"], AttachType[f"BPF_{attach_type}"] if attach_type else None, flags, target
    )
