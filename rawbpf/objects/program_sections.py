"""What the name of a section says of the programs in it: SEC("raw_tp/sched_process_exec") holds raw tracepoints.

The names are those of libbpf 1.x (Documentation/bpf/libbpf/program_types.rst). A few stand alone. Behind the others may
follow, after a slash, where the program is to be attached. A "?" in front means: load it only if asked to by name.
"""

from collections.abc import Mapping
from typing import NamedTuple

from rawbpf.abi import AttachType, ProgFlag, ProgType


class SectionKind(NamedTuple):
    """What PROG_LOAD is told of a section's programs, and where they are to be attached ("" if the name says nothing).

    `attach_type` is None for types that have none; `name` is the section's name without "?" and without the target;
    `autoload` is False for a name that begins with "?".
    """

    prog_type: ProgType
    attach_type: AttachType | None
    prog_flags: int
    attach_to: str
    name: str = ""
    autoload: bool = True

    @property
    def place(self) -> str:
        """Where the programs are to be attached, in the words of Program.attach(): of probes with their kind."""
        if self.prog_type == ProgType.BPF_PROG_TYPE_KPROBE and self.attach_to:
            return f"{self.name}/{self.attach_to}"
        return self.attach_to


_SLEEPABLE = ProgFlag.BPF_F_SLEEPABLE
_FRAGS = ProgFlag.BPF_F_XDP_HAS_FRAGS

# Section name: program type, attach type, flags.
_ALONE: dict[str, tuple[str, str, int]] = {
    "socket": ("SOCKET_FILTER", "", 0),
    "syscall": ("SYSCALL", "", _SLEEPABLE),
    "tc": ("SCHED_CLS", "", 0),
    "classifier": ("SCHED_CLS", "", 0),
    "action": ("SCHED_ACT", "", 0),
    "tc/ingress": ("SCHED_CLS", "TCX_INGRESS", 0),
    "tc/egress": ("SCHED_CLS", "TCX_EGRESS", 0),
    "tcx/ingress": ("SCHED_CLS", "TCX_INGRESS", 0),
    "tcx/egress": ("SCHED_CLS", "TCX_EGRESS", 0),
    "netkit/primary": ("SCHED_CLS", "NETKIT_PRIMARY", 0),
    "netkit/peer": ("SCHED_CLS", "NETKIT_PEER", 0),
    "xdp": ("XDP", "XDP", 0),
    "xdp.frags": ("XDP", "XDP", _FRAGS),
    "xdp/devmap": ("XDP", "XDP_DEVMAP", 0),
    "xdp.frags/devmap": ("XDP", "XDP_DEVMAP", _FRAGS),
    "xdp/cpumap": ("XDP", "XDP_CPUMAP", 0),
    "xdp.frags/cpumap": ("XDP", "XDP_CPUMAP", _FRAGS),
    "perf_event": ("PERF_EVENT", "", 0),
    "lwt_in": ("LWT_IN", "", 0),
    "lwt_out": ("LWT_OUT", "", 0),
    "lwt_xmit": ("LWT_XMIT", "", 0),
    "lwt_seg6local": ("LWT_SEG6LOCAL", "", 0),
    "lirc_mode2": ("LIRC_MODE2", "LIRC_MODE2", 0),
    "sockops": ("SOCK_OPS", "CGROUP_SOCK_OPS", 0),
    "sk_skb": ("SK_SKB", "", 0),
    "sk_skb/stream_parser": ("SK_SKB", "SK_SKB_STREAM_PARSER", 0),
    "sk_skb/stream_verdict": ("SK_SKB", "SK_SKB_STREAM_VERDICT", 0),
    "sk_skb/verdict": ("SK_SKB", "SK_SKB_VERDICT", 0),
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
    "cgroup/connect_unix": ("CGROUP_SOCK_ADDR", "CGROUP_UNIX_CONNECT", 0),
    "cgroup/sendmsg4": ("CGROUP_SOCK_ADDR", "CGROUP_UDP4_SENDMSG", 0),
    "cgroup/sendmsg6": ("CGROUP_SOCK_ADDR", "CGROUP_UDP6_SENDMSG", 0),
    "cgroup/sendmsg_unix": ("CGROUP_SOCK_ADDR", "CGROUP_UNIX_SENDMSG", 0),
    "cgroup/recvmsg4": ("CGROUP_SOCK_ADDR", "CGROUP_UDP4_RECVMSG", 0),
    "cgroup/recvmsg6": ("CGROUP_SOCK_ADDR", "CGROUP_UDP6_RECVMSG", 0),
    "cgroup/recvmsg_unix": ("CGROUP_SOCK_ADDR", "CGROUP_UNIX_RECVMSG", 0),
    "cgroup/getpeername4": ("CGROUP_SOCK_ADDR", "CGROUP_INET4_GETPEERNAME", 0),
    "cgroup/getpeername6": ("CGROUP_SOCK_ADDR", "CGROUP_INET6_GETPEERNAME", 0),
    "cgroup/getpeername_unix": ("CGROUP_SOCK_ADDR", "CGROUP_UNIX_GETPEERNAME", 0),
    "cgroup/getsockname4": ("CGROUP_SOCK_ADDR", "CGROUP_INET4_GETSOCKNAME", 0),
    "cgroup/getsockname6": ("CGROUP_SOCK_ADDR", "CGROUP_INET6_GETSOCKNAME", 0),
    "cgroup/getsockname_unix": ("CGROUP_SOCK_ADDR", "CGROUP_UNIX_GETSOCKNAME", 0),
    "cgroup/dev": ("CGROUP_DEVICE", "CGROUP_DEVICE", 0),
    "cgroup/sysctl": ("CGROUP_SYSCTL", "CGROUP_SYSCTL", 0),
    "cgroup/getsockopt": ("CGROUP_SOCKOPT", "CGROUP_GETSOCKOPT", 0),
    "cgroup/setsockopt": ("CGROUP_SOCKOPT", "CGROUP_SETSOCKOPT", 0),
}

# Section name before the slash: the same. Behind the slash stands a function, a tracepoint, a hook, or for uprobes a
# file and a place in it.
_WITH_TARGET: dict[str, tuple[str, str, int]] = {
    "kprobe": ("KPROBE", "", 0),
    "kretprobe": ("KPROBE", "", 0),
    "kprobe.multi": ("KPROBE", "TRACE_KPROBE_MULTI", 0),
    "kretprobe.multi": ("KPROBE", "TRACE_KPROBE_MULTI", 0),
    "kprobe.session": ("KPROBE", "TRACE_KPROBE_SESSION", 0),
    "ksyscall": ("KPROBE", "", 0),
    "kretsyscall": ("KPROBE", "", 0),
    "uprobe": ("KPROBE", "", 0),
    "uprobe.s": ("KPROBE", "", _SLEEPABLE),
    "uretprobe": ("KPROBE", "", 0),
    "uretprobe.s": ("KPROBE", "", _SLEEPABLE),
    "uprobe.multi": ("KPROBE", "TRACE_UPROBE_MULTI", 0),
    "uprobe.multi.s": ("KPROBE", "TRACE_UPROBE_MULTI", _SLEEPABLE),
    "uretprobe.multi": ("KPROBE", "TRACE_UPROBE_MULTI", 0),
    "uretprobe.multi.s": ("KPROBE", "TRACE_UPROBE_MULTI", _SLEEPABLE),
    "uprobe.session": ("KPROBE", "TRACE_UPROBE_SESSION", 0),
    "uprobe.session.s": ("KPROBE", "TRACE_UPROBE_SESSION", _SLEEPABLE),
    "usdt": ("KPROBE", "", 0),
    "usdt.s": ("KPROBE", "", _SLEEPABLE),
    "tp": ("TRACEPOINT", "", 0),
    "tp.s": ("TRACEPOINT", "", _SLEEPABLE),
    "tracepoint": ("TRACEPOINT", "", 0),
    "tracepoint.s": ("TRACEPOINT", "", _SLEEPABLE),
    "raw_tp": ("RAW_TRACEPOINT", "", 0),
    "raw_tp.s": ("RAW_TRACEPOINT", "", _SLEEPABLE),
    "raw_tp.w": ("RAW_TRACEPOINT_WRITABLE", "", 0),
    "raw_tracepoint": ("RAW_TRACEPOINT", "", 0),
    "raw_tracepoint.s": ("RAW_TRACEPOINT", "", _SLEEPABLE),
    "raw_tracepoint.w": ("RAW_TRACEPOINT_WRITABLE", "", 0),
    "tp_btf": ("TRACING", "TRACE_RAW_TP", 0),
    "tp_btf.s": ("TRACING", "TRACE_RAW_TP", _SLEEPABLE),
    "fentry": ("TRACING", "TRACE_FENTRY", 0),
    "fentry.s": ("TRACING", "TRACE_FENTRY", _SLEEPABLE),
    "fentry.multi": ("TRACING", "TRACE_FENTRY_MULTI", 0),
    "fentry.multi.s": ("TRACING", "TRACE_FENTRY_MULTI", _SLEEPABLE),
    "fexit": ("TRACING", "TRACE_FEXIT", 0),
    "fexit.s": ("TRACING", "TRACE_FEXIT", _SLEEPABLE),
    "fexit.multi": ("TRACING", "TRACE_FEXIT_MULTI", 0),
    "fexit.multi.s": ("TRACING", "TRACE_FEXIT_MULTI", _SLEEPABLE),
    "fsession": ("TRACING", "TRACE_FSESSION", 0),
    "fsession.s": ("TRACING", "TRACE_FSESSION", _SLEEPABLE),
    "fsession.multi": ("TRACING", "TRACE_FSESSION_MULTI", 0),
    "fsession.multi.s": ("TRACING", "TRACE_FSESSION_MULTI", _SLEEPABLE),
    "fmod_ret": ("TRACING", "MODIFY_RETURN", 0),
    "fmod_ret.s": ("TRACING", "MODIFY_RETURN", _SLEEPABLE),
    "iter": ("TRACING", "TRACE_ITER", 0),
    "iter.s": ("TRACING", "TRACE_ITER", _SLEEPABLE),
    "lsm": ("LSM", "LSM_MAC", 0),
    "lsm.s": ("LSM", "LSM_MAC", _SLEEPABLE),
    "lsm_cgroup": ("LSM", "LSM_CGROUP", 0),
    "freplace": ("EXT", "", 0),
}

# Sections whose programs can't be loaded, and why.
_REFUSED = {
    "struct_ops": "tables of operations (struct_ops) are not supported",
    "struct_ops.s": "tables of operations (struct_ops) are not supported",
    "freplace": "it replaces a function of another program, which a section's name can't give: "
    "load it with Program(attach_prog_fd=..., attach_btf_id=...)",
}

# Programs of these types are checked against what they will be attached to: they can't be loaded without a target.
_TARGET_NEEDED = {"tp_btf", "fentry", "fexit", "fsession", "fmod_ret", "iter", "lsm", "lsm_cgroup"}


def kind_of_section(name: str, sections: "Mapping[str, str | ProgType] | None" = None) -> SectionKind:
    """The kind that a section's name stands for. `sections` says it for names of one's own: as a program type, or as a
    name that is known. ValueError with the reason for a section whose programs can't be loaded."""
    plain = name.removeprefix("?")
    sections = sections or {}
    known = sections.get(name, sections.get(plain, plain))
    if isinstance(known, ProgType):
        return SectionKind(known, None, 0, "", plain, plain == name)
    before, _, target = known.partition("/")
    if before in _REFUSED:
        raise ValueError(_REFUSED[before])
    if known in _ALONE:
        prog_type, attach_type, flags = _ALONE[known]
        before, target = known, ""
    elif before in _WITH_TARGET:
        prog_type, attach_type, flags = _WITH_TARGET[before]
    elif known != plain:
        raise ValueError(f"sections= says it is like {known!r}: no program type has this name")
    else:
        like = max((each for each in (*_ALONE, *_WITH_TARGET) if plain.startswith(each)), key=len, default="xdp")
        raise ValueError(
            f"no program type has this name; to say that it is like {like!r}, for example: "
            f"ObjectFile.load(..., sections={{{plain!r}: {like!r}}})"
        )
    if before.removesuffix(".s") in _TARGET_NEEDED and not target:
        raise ValueError(f'it must say what it is attached to, as in SEC("{before}/...")')
    return SectionKind(
        ProgType[f"BPF_PROG_TYPE_{prog_type}"],
        AttachType[f"BPF_{attach_type}"] if attach_type else None,
        flags,
        target,
        before,
        plain == name,
    )
