"""Program: BPF instructions loaded into the kernel and run there.

Sources: bpf(2), kernel/bpf/syscall.c (bpf_prog_load), net/bpf/test_run.c, Documentation/bpf/bpf_prog_run.rst.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rawbpf import syscall
from rawbpf.abi import AttachType, ProgType
from rawbpf.abi.door import ffi
from rawbpf.btf.reader import Kind, vmlinux
from rawbpf.programs.asm import Item, assemble
from rawbpf.syscall.descriptor import Descriptor
from rawbpf.syscall.errors import VerifierError as VerifierError
from rawbpf.syscall.prog import RunResult as RunResult

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.abi._native import CData
    from rawbpf.programs.attach import Target
    from rawbpf.programs.link import Link

TEST_RUN_SIZE = ffi.sizeof("union bpf_attr")

ATTACHED_BY_BTF = (ProgType.BPF_PROG_TYPE_TRACING, ProgType.BPF_PROG_TYPE_LSM)
_RAW_TRACEPOINTS = (ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE)

# The kernel wants an Ethernet header of the packet that a socket filter is run over.
ETH_HLEN = 14


class FuncInfo(NamedTuple):
    """Which BTF function (id) begins at which instruction: the verifier asks for it where a function is a callback."""

    instruction: int
    type_id: int


class LineInfo(NamedTuple):
    """Which line of C an instruction comes from, for the verifier's log and bpftool: file name and text are offsets of
    BTF strings, `line_col` is line << 10 | column."""

    instruction: int
    file_name_off: int
    line_off: int
    line_col: int


class CoreRelocation(NamedTuple):
    """An instruction, `offset` bytes from the first, that the kernel changes to fit its own types (CO-RE): the BTF id
    of the program's type, the offset of a BTF string with the numbers of the members, and what is to be written there
    (enum bpf_core_relo_kind)."""

    offset: int
    type_id: int
    access_str_off: int
    kind: int


class Program(Descriptor):
    """A loaded BPF program. Holds one descriptor; close it or use `with`.

    >>> from rawbpf.programs.asm import R0, exit_, mov
    >>> with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 7), exit_()]) as program:
    ...     program.run(bytes(ETH_HLEN)).retval
    7
    """

    def __init__(
        self,
        prog_type: ProgType,
        instructions: "Iterable[Item] | bytes",
        *,
        name: str = "",
        license: str = "GPL",  # noqa: A002
        flags: int = 0,
        expected_attach_type: int = 0,
        btf_fd: int = 0,
        func_info: Sequence[FuncInfo] = (),
        line_info: Sequence[LineInfo] = (),
        core_relos: Sequence[CoreRelocation] = (),
        attach_to: str = "",
        attach_btf_id: int = 0,
        attach_btf_obj_fd: int = 0,
        attach_prog_fd: int = 0,
    ) -> None:
        """Loads the program (BPF_PROG_LOAD).

        Args:
            prog_type: What kind of program: decides its context, its helpers and where it may be attached.
            instructions: Instructions and labels (rawbpf.programs.asm), or the 8 bytes of each.
            name: At most 15 characters of [A-Za-z0-9_.].
            license: "GPL" gives access to all helpers; those of queue and stack maps need no particular one.
            flags: prog_flags, such as BPF_F_SLEEPABLE.
            expected_attach_type: For program types that want it.
            btf_fd, func_info, line_info: BTF of the functions, needed for callbacks, and of their lines; Linux 5.0.
            core_relos: Instructions that the kernel fits to its own types, by btf_fd and func_info; Linux 5.17.
            attach_to: The name of what attach() will attach to. Types TRACING and LSM must have it: a kernel function,
                a tracepoint, an LSM hook, a kind of object to iterate over ("do_nanosleep", "sys_enter", "file_open",
                "task"), looked up in the kernel's BTF; Linux 5.5. For a raw tracepoint it saves attach() the target.
            attach_btf_id: Instead of attach_to, the id of its BTF type.
            attach_btf_obj_fd: The BTF which that id is in, where it is not the kernel's but a module's; Linux 5.11.
            attach_prog_fd: The program which it is in, where it is a program's; Linux 5.5.

        Raises:
            LookupError: The kernel's BTF does not know `attach_to`; OSError if it was built without BTF.
            VerifierError: The kernel refused the program; the verifier's log is in the exception.
            NotPermitted: No CAP_BPF, or the type needs CAP_NET_ADMIN or CAP_PERFMON as well (EPERM).
        """
        code = instructions if isinstance(instructions, bytes) else assemble(instructions)
        if len(code) % 8:
            raise ValueError(f"{len(code)} bytes of instructions: each has 8")
        syscall.check_name(name)
        keep = [ffi.new("char[]", code), ffi.new("char[]", license.encode())]
        fields = {
            "prog_type": prog_type,
            "insn_cnt": len(code) // 8,
            "insns": _address(keep[0]),
            "license": _address(keep[1]),
            "prog_flags": flags,
            "prog_name": name.encode(),
            "expected_attach_type": expected_attach_type,
            "attach_btf_id": attach_btf_id,
        }
        tables: dict[str, Sequence[tuple[int, ...]]] = {
            "func_info": func_info,
            "line_info": line_info,
            "core_relo": core_relos,
        }
        for what, records in tables.items():
            if records:
                numbers = ffi.new("uint32_t[]", [number for record in records for number in record])
                keep.append(numbers)
                fields |= {
                    "prog_btf_fd": btf_fd,
                    f"{what}_rec_size": 4 * len(records[0]),
                    "core_relos" if what == "core_relo" else what: _address(numbers),
                    f"{what}_cnt": len(records),
                }
        if attach_to and prog_type in ATTACHED_BY_BTF:
            fields["attach_btf_id"] = _attach_btf_id(expected_attach_type, attach_to)
        # One field of two names: a BTF's descriptor, or a program's.
        if attach_btf_obj_fd or attach_prog_fd:
            fields["attach_prog_fd"] = syscall.check_fd(attach_btf_obj_fd or attach_prog_fd)
        attr = syscall.bpf_attr(**fields)
        self.name = name
        self.prog_type = ProgType(prog_type)
        self.expected_attach_type = AttachType(expected_attach_type)
        self.attach_to = attach_to
        self._fd = syscall.load(attr, f"program {name!r}")

    def run(self, data: "Buffer" = b"", *, ctx: "Buffer | None" = None, repeat: int = 1) -> RunResult:
        """Runs the program once, or `repeat` times, in the kernel (BPF_PROG_TEST_RUN). Linux 4.12; ctx 5.2.

        Args:
            data: The packet for a network program, at least 14 bytes.
            ctx: The context, as the program type has it; written back into the result.
            repeat: How many times; must be 1 for BPF_PROG_TYPE_SYSCALL.

        Raises BpfError: EINVAL for data or ctx that the program type does not take, ENOTSUPP (524) for types that
        can't be run this way; NotPermitted.
        """
        # A syscall program takes neither a packet nor a number of runs.
        packet = bytes(data)
        return syscall.prog_test_run(
            self.fileno(), data_in=packet, ctx_in=ctx or b"", repeat=repeat if packet else 0, subject=repr(self)
        )

    def attach(
        self, target: "Target" = None, *, attach_type: int | None = None, flags: int = 0, cookie: int = 0
    ) -> "Link":
        """Attaches the program, which runs from now on: at its tracepoint, for its cgroup's sockets, and so on.

        Args:
            target: Depends on the program's type; None if the program was told by `attach_to` when it was loaded.
                KPROBE: a probe, as section names have it ("kprobe/do_nanosleep+0x8", "kretprobe/vfs_read",
                "ksyscall/openat", "uprobe//bin/bash:readline", "uretprobe/libc.so.6:malloc", "kprobe.multi/vfs_*",
                "uprobe.multi/libc.so.6:mem*"), or one of Kprobe, Ksyscall, Uprobe, KprobeMulti and UprobeMulti of
                rawbpf.programs.targets.
                TRACEPOINT: category and name ("sched/sched_process_exec"). RAW_TRACEPOINT: the name alone.
                PERF_EVENT: a PerfEvent of rawbpf.programs.targets, or the descriptor of an open one.
                CGROUP_*, SOCK_OPS, and LSM for a cgroup: the folder of a cgroup (cgroup2), as path or descriptor.
                FLOW_DISSECTOR, SK_LOOKUP: a network namespace, as path (/proc/self/ns/net) or descriptor.
                XDP, SCHED_CLS: an interface, as name or index. NETFILTER: a NetfilterHook of rawbpf.programs.targets.
                SK_SKB, SK_MSG: a SOCKMAP or SOCKHASH. SOCKET_FILTER, SK_REUSEPORT: a socket. LIRC_MODE2: /dev/lirc0.
                TRACING, LSM, EXT: None, but for iterators over a map, which have that as target.
            attach_type: Where the program was not loaded for one: SCHED_CLS has BPF_TCX_INGRESS and BPF_TCX_EGRESS.
            flags: Of BPF_LINK_CREATE: AttachFlag bits, of XDP XDP_FLAGS_SKB_MODE (2) or XDP_FLAGS_DRV_MODE (4).
            cookie: A number that the program reads with bpf_get_attach_cookie(): probes, tracepoints and perf events
                (Linux 5.15), functions (5.19), raw tracepoints and tp_btf (6.10).

        Returns the link. The program is attached until the link's last descriptor is closed, and longer if it is
        pinned: `with program.attach("sched_process_exec"): ...`. Keep it: a link that nobody holds is closed, with a
        RuntimeWarning. What has no link on this kernel is detached by close() all the same.

        Raises:
            AlreadyExists: Something is attached there already, and there is room for one (EBUSY, EEXIST).
            NotFound: There is no such tracepoint or function (ENOENT), no such interface (ENODEV), no such process.
            NotPermitted: EPERM, EACCES.
            Unsupported: This kernel, this interface or this function does not take it.
            LookupError: The program or library of a uprobe has no such function.
            OSError: The target's path can't be opened.
            BpfError: The kernel is too old for it, or does not take this program there (EINVAL); E2BIG, EBADF.
            TypeError, ValueError: An argument that this type of program has not; a type that is attached in other ways
                (LWT_*, SCHED_ACT, STRUCT_OPS, SYSCALL).

        Linux 4.17 for raw tracepoints, probes and tracepoints, 4.10 for cgroups, 5.5 for TRACING, 5.7 for LSM, 5.8 for
        flow dissectors and iterators, 5.9 for SK_LOOKUP and XDP, 5.18 for kprobe.multi, 6.4 for NETFILTER, 6.6 for
        SCHED_CLS and uprobe.multi. Needs CAP_BPF, and CAP_PERFMON for what traces, CAP_NET_ADMIN for cgroups, flow
        dissectors, netfilter, maps of sockets and interfaces.
        """
        from rawbpf.programs.attach import attach

        return attach(self, target, attach_type, flags, cookie)

    def attach_raw_tracepoint(self, name: str, *, cookie: int = 0) -> "Link":
        """attach() for a program of type RAW_TRACEPOINT; TypeError for another."""
        if self.prog_type not in _RAW_TRACEPOINTS:
            raise TypeError(f"{self!r} is not attached to a raw tracepoint")
        return self.attach(name, cookie=cookie)

    def pin(self, path: syscall.StrPath) -> None:
        """Gives the program a path in a bpffs (BPF_OBJ_PIN), where it lives until os.unlink(path)."""
        syscall.obj_pin(self.fileno(), path)

    def __repr__(self) -> str:
        state = f"fd={self._fd}" if self._fd >= 0 else "closed"
        return f"<Program {self.name!r} {self.prog_type.name} {state}>"


# How the kernel's BTF names what a program can be attached to. Others are functions by their own names.
_IN_BTF = {
    AttachType.BPF_TRACE_RAW_TP: (Kind.TYPEDEF, "btf_trace_"),
    AttachType.BPF_TRACE_ITER: (Kind.FUNC, "bpf_iter_"),
    AttachType.BPF_LSM_MAC: (Kind.FUNC, "bpf_lsm_"),
    AttachType.BPF_LSM_CGROUP: (Kind.FUNC, "bpf_lsm_"),
}


def _attach_btf_id(attach_type: int, name: str) -> int:
    """The id of a function, tracepoint, hook or kind of object in the kernel's BTF."""
    kind, prefix = _IN_BTF.get(AttachType(attach_type), (Kind.FUNC, ""))
    try:
        return vmlinux().find(kind, prefix + name).id
    except KeyError:
        raise LookupError(f"this kernel's BTF has no {prefix + name!r} to attach to") from None


def _address(buffer: "CData") -> int:
    return int(ffi.cast("uintptr_t", buffer))
