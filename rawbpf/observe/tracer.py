"""What passes the door, one line per call, in strace's syntax: rawbpf.trace().

    bpf(BPF_MAP_UPDATE_ELEM, {map_fd=3, key=NULL, value=0x..., flags=BPF_ANY}, 32) = -1 E2BIG (Argument list too long)

As in strace the attr is shown as it was before the call, and `=>` shows what the kernel wrote into it. (The module has
not the function's name: `import rawbpf.trace` would hide the function.)
"""

import itertools
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rawbpf.abi import BPF_ATTR_MAX_SIZE, BPF_COMMON_ATTRS, AttachFlag, AttachType, Cmd, MapFlag, door
from rawbpf.abi.door import ffi, lib
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import Field, number_in, spell, struct_of, value_in
from rawbpf.observe.diagram import draw, draw_link_info, draw_map_info
from rawbpf.observe.perf_event_call import spelled as spelled_perf_event_open
from rawbpf.observe.user_memory import Fault
from rawbpf.syscall import MapInfo, bpf_attr, describe, map_info
from rawbpf.syscall.errors import bpf_error, errno_name
from rawbpf.syscall.permission import proc_fields

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# Where strace puts the result.
_RESULT_COLUMN = 40


class _Tracer:
    """One place where lines go. `file` None is sys.stderr, as it is when a line is printed."""

    def __init__(self, file: TextIO | None, attrs: bool, meaning: bool) -> None:
        self.file = file
        self.attrs = attrs
        self.meaning = meaning

    @property
    def out(self) -> TextIO:
        return sys.stderr if self.file is None else self.file


_tracers: list[_Tracer] = []
_hook_before: door.Hook | None = None
# Reentrant: a signal handler that makes a call while a line is being written gets its own line.
_lock = threading.RLock()


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


# In the child there is no thread that could release it.
os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def trace(file: TextIO | None = None, attrs: bool = False, meaning: bool = False) -> Iterator[None]:
    """Prints every bpf(2) call of this process, of all its threads, while the context lasts; and perf_event_open(2),
    which makes what probes and tracepoints are attached to.

    Args:
        file: Where to; None is sys.stderr. A file that is traced to already gets no line twice.
        attrs: Also a drawing of the attr: offset, size, field, value and bytes.
        meaning: After an error also what it means for this map.

    >>> import sys
    >>> with Queue(4, 8) as q, trace(sys.stdout):
    ...     q.pop(default=None)  # doctest: +ELLIPSIS
    bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, {map_fd=..., key=NULL, value=0x..., flags=BPF_ANY}, 32) = -1 ENOENT ...
    """
    tracer = start(file, attrs, meaning)
    try:
        yield
    finally:
        _stop(tracer)


def start(file: TextIO | None = None, attrs: bool = False, meaning: bool = False) -> _Tracer:
    """Traces from now on, to the end of the process: RAWBPF_TRACE=1."""
    global _hook_before
    if file is not None and not hasattr(file, "write"):
        raise TypeError(f"the trace goes to an open file, not to a {type(file).__name__}")
    tracer = _Tracer(file, attrs, meaning)
    with _lock:
        _tracers.append(tracer)
        if len(_tracers) == 1:
            _hook_before = door.set_hook(_traced)
            door.set_perf_event_hook(_traced_perf_event)
    return tracer


def _stop(tracer: _Tracer) -> None:
    with _lock:
        _tracers.remove(tracer)
        if not _tracers:
            door.set_hook(_hook_before)
            door.set_perf_event_hook(None)


def _traced(cmd: int, attr: "CData", size: int) -> int:
    """The hook: asks the kernel, then prints. What it raises is raised by the traced call (door.py)."""
    call = _Call(cmd, attr, size)
    result = (_hook_before or door.ask_kernel)(cmd, attr, size)
    texts: dict[tuple[bool, bool], str] = {}
    with _lock:
        for tracer in _distinct(_tracers):
            wanted = tracer.attrs, tracer.meaning
            if wanted not in texts:
                texts[wanted] = call.text(result, *wanted)
            tracer.out.write(texts[wanted])
            tracer.out.flush()
    return result


def _traced_perf_event(attr: "CData", pid: int, cpu: int, group_fd: int, flags: int, made: "CData") -> int:
    """The second door's hook: it prints one line for every tracer, as nothing more is to be said of the call."""
    result = lib.perf_event_open(attr, pid, cpu, group_fd, flags, made)
    call = spelled_perf_event_open(attr, pid, cpu, group_fd, flags)
    with _lock:
        for tracer in _distinct(_tracers):
            tracer.out.write(f"{call.ljust(_RESULT_COLUMN - 1)} = {_result(result)}\n")
            tracer.out.flush()
    return result


def _distinct(tracers: list[_Tracer]) -> list[_Tracer]:
    """One tracer per file, the innermost."""
    return list({id(tracer.out): tracer for tracer in tracers}.values())


class _Call:
    """A call as it is before it is made: what the kernel will overwrite is read now."""

    def __init__(self, cmd: int, attr: "CData", size: int) -> None:
        self.cmd, self.common = _split(cmd)
        self.address = int(ffi.cast("uintptr_t", attr))
        self.size = size
        self.before = self._read()
        self.struct = struct_of(self.cmd, self.before)
        self.reached = self._reached()
        self.words = self._spelled()

    def text(self, result: int, attrs: bool, meaning: bool) -> str:
        """The line, and what else is wanted, now that the kernel has answered."""
        line = f"bpf({_command(self.cmd)}{self.common}, {self._attr()}, {self.size})"
        lines = [f"{line.ljust(_RESULT_COLUMN - 1)} = {_result(result)}"]
        if meaning and result < 0:
            lines += textwrap.wrap(self._meaning(result), initial_indent="    ", subsequent_indent="    ")
        if attrs:
            lines += [textwrap.indent(drawing, "    ") for drawing in self._drawings(result)]
        return "\n".join(lines) + "\n"

    def _read(self) -> bytes | None:
        """The attr's bytes; None where strace too would show the address alone."""
        if not 0 < self.size <= BPF_ATTR_MAX_SIZE:
            return None
        try:
            return user_memory.read(self.address, self.size)
        except Fault:
            return None

    def _reached(self) -> list[Field]:
        """The fields that the attr is long enough for; of those that share their bytes, the first."""
        if self.struct is None or self.before is None:
            return []
        begins = {field.group: field.offset for field in reversed(self.struct.fields)}
        reached: list[Field] = []
        for field in self.struct.fields:
            if begins[field.group] < self.size and (not reached or field.offset >= reached[-1].end):
                reached.append(field)
        return reached

    def _spelled(self) -> list[tuple[Field, str]]:
        return [
            (field, spell(field, self.before, self.reached))
            for field in self.reached
            if self.before is not None and _is_meant(field, self.before, self.reached)
        ]

    def _attr(self) -> str:
        if self.struct is None or self.before is None:
            return hex(self.address) if self.address else "NULL"
        after = self._read() or self.before
        words = _nested([(field.name, word + _written(field, self.before, after)) for field, word in self.words])
        if self.struct.member:
            words = f"{self.struct.member}={{{words}}}"
        end = self.reached[-1].end
        return f"{{{words}, ...}}" if any(self.before[end:]) else f"{{{words}}}"

    def _drawings(self, result: int) -> Iterator[str]:
        if self.struct is None or self.before is None:
            return
        yield draw(self.cmd, self.before, self.size, self._read())
        if self.cmd == Cmd.BPF_OBJ_GET_INFO_BY_FD and result == 0:
            fd, length, address = (number_in(self._read() or self.before, field) for field in self.struct.fields)
            described = proc_fields(f"/proc/self/fdinfo/{fd}")
            for kind, drawing in (("map_type", draw_map_info), ("link_type", draw_link_info)):
                if kind in described:
                    yield drawing(user_memory.read(address, length))

    def _meaning(self, result: int) -> str:
        """What the error means in the terms of the map, the pin or the id."""
        details = self._details()
        fd = details.pop("fd", None)
        return str(bpf_error(self.cmd, -result, fd=fd, **details))

    def _details(self) -> dict[str, Any]:
        if self.struct is None or self.before is None:
            return {}
        values = {field.name: number_in(self.before, field) for field in self.struct.fields}
        if "pathname" in values:
            path = os.fsdecode(_string_at(values["pathname"]))
            return {"path": path, "subject": repr(path)}
        if self.cmd == Cmd.BPF_MAP_CREATE:
            return {"subject": "the map", **values}
        if self.cmd == Cmd.BPF_RAW_TRACEPOINT_OPEN:
            return {"subject": f"raw tracepoint {os.fsdecode(_string_at(values['name']))!r}"}
        if self.cmd == Cmd.BPF_LINK_CREATE:
            return {"subject": AttachType(values["attach_type"]).name}
        if "link_fd" in values:
            return {"subject": f"the link of descriptor {values['link_fd']}"}
        for name in ("map_id", "link_id"):
            if name in values:
                return {"subject": f"id {values[name]}"}
        if "map_fd" not in values:
            return {"subject": f"descriptor {values['bpf_fd']}"} if "bpf_fd" in values else {}
        info = _info_of(values["map_fd"])
        if info is None:
            return {"subject": f"descriptor {values['map_fd']}"}
        return {"subject": describe(info), "fd": values["map_fd"], "max_entries": info.max_entries}


def _split(cmd: int) -> tuple[Cmd, str]:
    """The command without BPF_COMMON_ATTRS, and the flag in words."""
    bare = Cmd(cmd & ~BPF_COMMON_ATTRS)
    if cmd == bare or bare.name not in Cmd.__members__:
        return Cmd(cmd), ""
    return bare, "|BPF_COMMON_ATTRS"


def _command(cmd: Cmd) -> str:
    return cmd.name if cmd.name in Cmd.__members__ else f"{cmd & 0xFFFFFFFF:#x} /* BPF_??? */"


def _nested(words: list[tuple[str, str]]) -> str:
    """The fields with their values; those of a struct within together: `tracing={target_btf_id=0, cookie=0x7}`."""
    parts = []
    for member, group in itertools.groupby(words, lambda word: word[0].rpartition(".")[0]):
        text = ", ".join(f"{name.rpartition('.')[2]}={word}" for name, word in group)
        parts.append(f"{member}={{{text}}}" if member else text)
    return ", ".join(parts)


# Fields that are read only if a flag says so.
_BY_FLAG = {
    "numa_node": ("map_flags", MapFlag.BPF_F_NUMA_NODE),
    "old_prog_fd": ("flags", AttachFlag.BPF_F_REPLACE),
}


def _is_meant(field: Field, attr: bytes, fields: list[Field]) -> bool:
    if field.name not in _BY_FLAG:
        return True
    flags, bit = _BY_FLAG[field.name]
    return bool(value_in(attr, fields, flags) & bit)


# What strace shows as written by the kernel.
_OUTPUTS = ("next_id", "info_len")


def _written(field: Field, before: bytes, after: bytes) -> str:
    new = number_in(after, field)
    return f" => {new}" if field.name in _OUTPUTS and new != number_in(before, field) else ""


def _result(result: int) -> str:
    return str(result) if result >= 0 else f"-1 {errno_name(-result)} ({os.strerror(-result)})"


def _string_at(address: int) -> bytes:
    try:
        return user_memory.read_string(address, 4096) or b""
    except Fault:
        return b""


def _info_of(fd: int) -> MapInfo | None:
    """The map behind a descriptor, asked past the tracer."""
    info = ffi.new("struct bpf_map_info *")
    address = int(ffi.cast("uintptr_t", info))
    attr = bpf_attr(info={"bpf_fd": fd, "info_len": ffi.sizeof("struct bpf_map_info"), "info": address})
    return map_info(info) if door.ask_kernel(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr, 16) == 0 else None
