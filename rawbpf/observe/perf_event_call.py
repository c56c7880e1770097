"""A call of perf_event_open(2) in strace's words: it makes what probes, tracepoints and counters are attached to.

As strace does, it shows the beginning of struct perf_event_attr, and "..." for the rest. Of its fields, rawbpf sets no
others than those that differ here (syscall/perf_event.py).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rawbpf.syscall.perf_event import PERF_TYPE_TRACEPOINT

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_TYPES = ["HARDWARE", "SOFTWARE", "TRACEPOINT", "HW_CACHE", "RAW", "BREAKPOINT"]
_HARDWARE, _SOFTWARE, _CACHE = (_TYPES.index(name) for name in ("HARDWARE", "SOFTWARE", "HW_CACHE"))
_COUNTERS = {
    _HARDWARE: (
        "PERF_COUNT_HW_",
        [
            "CPU_CYCLES",
            "INSTRUCTIONS",
            "CACHE_REFERENCES",
            "CACHE_MISSES",
            "BRANCH_INSTRUCTIONS",
            "BRANCH_MISSES",
            "BUS_CYCLES",
            "STALLED_CYCLES_FRONTEND",
            "STALLED_CYCLES_BACKEND",
            "REF_CPU_CYCLES",
        ],
    ),
    _SOFTWARE: (
        "PERF_COUNT_SW_",
        [
            "CPU_CLOCK",
            "TASK_CLOCK",
            "PAGE_FAULTS",
            "CONTEXT_SWITCHES",
            "CPU_MIGRATIONS",
            "PAGE_FAULTS_MIN",
            "PAGE_FAULTS_MAJ",
            "ALIGNMENT_FAULTS",
            "EMULATION_FAULTS",
            "DUMMY",
            "BPF_OUTPUT",
            "CGROUP_SWITCHES",
        ],
    ),
}
# A cache's counter has three parts: the result in the third byte, the operation in the second, the cache in the first.
_CACHE_PARTS = (
    (16, "PERF_COUNT_HW_CACHE_RESULT_", ["ACCESS", "MISS"]),
    (8, "PERF_COUNT_HW_CACHE_OP_", ["READ", "WRITE", "PREFETCH"]),
    (0, "PERF_COUNT_HW_CACHE_", ["L1D", "L1I", "LL", "DTLB", "ITLB", "BPU", "NODE"]),
)

# The bit-field `freq`, the eleventh: it decides which of two names a field has.
_FREQ = 1 << (10 if sys.byteorder == "little" else 53)

_FLAGS = ["PERF_FLAG_FD_NO_GROUP", "PERF_FLAG_FD_OUTPUT", "PERF_FLAG_PID_CGROUP", "PERF_FLAG_FD_CLOEXEC"]


def spelled(attr: "CData", pid: int, cpu: int, group_fd: int, flags: int) -> str:
    """The call, as strace writes it, up to the closing bracket."""
    by_freq = bool(attr.bits & _FREQ)
    fields = [
        f"type={_enumerator('PERF_TYPE_', _TYPES, attr.type)}",
        f"size=PERF_ATTR_SIZE_VER{(attr.size - 64) // 8}",
        f"config={_config(attr.type, attr.config)}",
        f"{'sample_freq' if by_freq else 'sample_period'}={attr.sample_period}",
        "sample_type=0",
        "read_format=0",
        *(["freq=1"] if by_freq else []),
        "precise_ip=0 /* arbitrary skid */",
        "...",
    ]
    names = "|".join(name for bit, name in enumerate(_FLAGS) if flags >> bit & 1)
    return f"perf_event_open({{{', '.join(fields)}}}, {pid}, {cpu}, {group_fd}, {names or '0'})"


def _config(event_type: int, config: int) -> str:
    # The upper half says whose counter is meant, on processors of several kinds.
    if event_type in (_HARDWARE, _CACHE) and config >> 32:
        return f"{config >> 32:#x}<<32|{_config(event_type, config & 0xFFFFFFFF)}"
    if event_type in _COUNTERS:
        return _enumerator(*_COUNTERS[event_type], config)
    if event_type == PERF_TYPE_TRACEPOINT:
        return str(config)
    if event_type == _CACHE:
        parts = ((shift, _enumerator(prefix, names, config >> shift & 0xFF)) for shift, prefix, names in _CACHE_PARTS)
        words = [f"{name}<<{shift}" if shift else name for shift, name in parts]
        return "|".join([f"{config >> 24:#x}<<24", *words] if config >> 24 else words)
    return hex(config) if config else "0"


def _enumerator(prefix: str, names: Sequence[str], number: int) -> str:
    return prefix + names[number] if number < len(names) else f"{number:#x} /* {prefix}??? */"
