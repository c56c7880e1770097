"""Probes: the perf event of a kprobe, uprobe, tracepoint or counter, and many probes at once.

Sources: kernel/trace/trace_event_perf.c, kernel/events/core.c (perf_kprobe, perf_uprobe), kernel/trace/bpf_trace.c
(bpf_kprobe_multi_link_attach, bpf_uprobe_multi_link_attach).
"""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rawbpf.abi import AttachType
from rawbpf.abi.door import ffi
from rawbpf.programs.targets import Kprobe, KprobeMulti, Ksyscall, PerfEvent, Uprobe, UprobeMulti
from rawbpf.syscall.errors import NotFound, Unsupported
from rawbpf.syscall.perf_event import PERF_EVENT_OPEN, PERF_TYPE_TRACEPOINT, perf_event_open

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# Where the kernel says which type of perf event its kprobes and uprobes are.
_DEVICES = "/sys/bus/event_source/devices"

# The number of a system call's function in the kernel's names: __x64_sys_openat. Linux 4.17.
_SYSCALL_PREFIXES = (
    ("x86_64", "x64"),
    ("i", "ia32"),
    ("aarch64", "arm64"),
    ("arm", "arm"),
    ("s390", "s390x"),
    ("riscv", "riscv"),
    ("ppc", "powerpc"),
    ("mips", "mips"),
    ("loongarch", "loongarch"),
)

# The same bit of both commands' flags: BPF_F_KPROBE_MULTI_RETURN, BPF_F_UPROBE_MULTI_RETURN.
_MULTI_RETURN = 1


def open_tracepoint(name: str) -> int:
    """The perf event of a tracepoint ("sched/sched_process_exec")."""
    from rawbpf.programs.tracefs import event_id

    return perf_event_open(f"tracepoint {name!r}", PERF_TYPE_TRACEPOINT, event_id(name))


def open_counter(event: PerfEvent) -> int:
    """The perf event of a counter."""
    return perf_event_open(
        str(event),
        event.event_type,
        event.config,
        sample_period=event.sample_period,
        sample_freq=event.sample_freq,
        pid=event.pid,
        cpu=event.cpu,
    )


def open_probe(probe: Kprobe | Ksyscall | Uprobe) -> int:
    """The perf event of a single probe."""
    if isinstance(probe, Uprobe):
        return _open_uprobe(probe)
    if isinstance(probe, Ksyscall):
        return _open_ksyscall(probe)
    return _open_kprobe(probe)


def _open_kprobe(probe: Kprobe) -> int:
    if isinstance(probe.function, int):
        return _open_by_device("kprobe", str(probe), probe.returns, None, probe.function + probe.offset, None)
    return _open_by_device("kprobe", str(probe), probe.returns, probe.function.encode(), probe.offset, None)


def _open_ksyscall(probe: Ksyscall) -> int:
    """Tries the names that the function may have: with the machine's prefix, or without."""
    machine = os.uname().machine
    prefix = next((prefix for begin, prefix in _SYSCALL_PREFIXES if machine.startswith(begin)), "")
    names = [f"__{prefix}_sys_{probe.name}", f"__se_sys_{probe.name}", f"sys_{probe.name}"]
    for name in names:
        try:
            return _open_kprobe(Kprobe(name, 0, probe.returns))
        except NotFound:
            continue
    what = f"{probe}: this kernel has no function {' or '.join(names)}"
    raise NotFound(errno.ENOENT, what, PERF_EVENT_OPEN, "the name is that of the system call's man page")


def _open_uprobe(probe: Uprobe) -> int:
    from rawbpf.programs.elf_functions import function_offset, resolve

    path = resolve(probe.path)
    offset = probe.offset + (function_offset(path, probe.function) if probe.function else 0)
    return _open_by_device("uprobe", str(probe), probe.returns, os.fsencode(path), offset, probe.pid)


def _open_by_device(device: str, subject: str, returns: bool, text: bytes | None, number: int, pid: int | None) -> int:
    """A probe of the kind that a device stands for: `text` is the function or the file, `number` the offset or the
    address."""
    name = None if text is None else ffi.new("char[]", text)
    return perf_event_open(
        subject,
        _device_type(device),
        1 << _return_bit(device) if returns else 0,
        config1=_address(name),
        config2=number,
        pid=-1 if pid is None else pid,
        cpu=0 if pid is None else -1,
    )


def _device_type(device: str) -> int:
    try:
        return int(_read(f"{_DEVICES}/{device}/type"))
    except FileNotFoundError:
        what = f"this kernel has no {device}s for perf_event_open(2)"
        hint = f"they need Linux 4.17, CONFIG_{device.upper()}_EVENTS, and sysfs mounted at /sys"
        raise Unsupported(errno.EOPNOTSUPP, what, PERF_EVENT_OPEN, hint) from None


def _return_bit(device: str) -> int:
    """The bit of `config` that stands for the function's return; the file says "config:0"."""
    return int(_read(f"{_DEVICES}/{device}/format/retprobe").removeprefix("config:"))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


# Many at once


class MultiProbe:
    """What BPF_LINK_CREATE is told of many probes. The arrays live as long as this does."""

    def __init__(self, probe: KprobeMulti | UprobeMulti, cookie: int) -> None:
        """`cookie` is that of all functions; ones of their own stand in the probe."""
        kprobes = isinstance(probe, KprobeMulti)
        self.attach_types = _KPROBE_TYPES if kprobes else _UPROBE_TYPES
        self._keep: list[CData] = []
        self._flags = _MULTI_RETURN if probe.returns else 0
        fields = self._kprobes(probe) if isinstance(probe, KprobeMulti) else self._uprobes(probe)
        self.fields: dict[str, Any] = {"kprobe_multi" if kprobes else "uprobe_multi": fields}
        if cookie and probe.cookies:
            raise ValueError(f"{probe}: cookie is that of all functions, and the target has one for each")
        cookies = probe.cookies or ([cookie] * fields["cnt"] if cookie else [])
        if cookies:
            if len(cookies) != fields["cnt"] or (probe.cookies and isinstance(probe.functions, str)):
                raise ValueError(f"{probe}: {len(cookies)} cookies, which is not one for each function given by itself")
            fields["cookies"] = self._array(cookies)

    def _kprobes(self, probe: KprobeMulti) -> dict[str, int]:
        functions = _matching(probe.functions) if isinstance(probe.functions, str) else probe.functions
        fields = {"flags": self._flags, "cnt": len(functions)}
        names = [name.encode() for name in functions if isinstance(name, str)]
        if not functions or len(names) not in (0, len(functions)):
            raise ValueError(f"{probe}: the functions are either names or addresses, at least one")
        if not names:
            return {**fields, "addrs": self._array(functions)}
        texts = [ffi.new("char[]", name) for name in names]
        self._keep += texts
        return {**fields, "syms": self._array([*map(_address, texts)])}

    def _uprobes(self, probe: UprobeMulti) -> dict[str, int]:
        from rawbpf.programs.elf_functions import function_offset, function_offsets, resolve

        path = resolve(probe.path)
        if isinstance(probe.functions, str):
            offsets = function_offsets(path, probe.functions)
        else:
            offsets = [each if isinstance(each, int) else function_offset(path, each) for each in probe.functions]
        if not offsets:
            raise ValueError(f"{probe}: names no function")
        name = ffi.new("char[]", os.fsencode(path))
        self._keep.append(name)
        return {
            "path": _address(name),
            "offsets": self._array(offsets),
            "cnt": len(offsets),
            "flags": self._flags,
            "pid": probe.pid or 0,
        }

    def _array(self, items: Sequence[Any]) -> int:
        """The address of an array. The kernel's longs and addresses have 64 bits, also where this process has 32: where
        its own have 32 it refuses to attach to many."""
        array = ffi.new("uint64_t[]", items)
        self._keep.append(array)
        return _address(array)


_KPROBE_TYPES = (AttachType.BPF_TRACE_KPROBE_MULTI, AttachType.BPF_TRACE_KPROBE_SESSION)
_UPROBE_TYPES = (AttachType.BPF_TRACE_UPROBE_MULTI, AttachType.BPF_TRACE_UPROBE_SESSION)


def _matching(pattern: str) -> list[str]:
    if not set(pattern) & set("*?["):
        return [pattern]
    from rawbpf.programs.tracefs import traceable_functions

    names = traceable_functions(pattern)
    if not names:
        raise LookupError(f"no function of this kernel that can be traced matches {pattern!r}")
    return names


def _address(data: "CData | None") -> int:
    return 0 if data is None else int(ffi.cast("uintptr_t", data))
