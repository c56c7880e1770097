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
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from rawbpf.abi import BPF_ATTR_MAX_SIZE, BPF_COMMON_ATTRS, AttachType, Cmd, MapType, door
from rawbpf.abi.door import ffi, lib
from rawbpf.abi.kinds import counts, number_in, value_in
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import Struct, info_struct, spell, struct_of, without_following
from rawbpf.observe.diagram import draw, draw_info
from rawbpf.observe.perf_event_call import spelled as spelled_perf_event_open
from rawbpf.observe.user_memory import Fault
from rawbpf.observe.wording import counted
from rawbpf.syscall import MapInfo, bpf_attr, describe, map_info, value_bytes
from rawbpf.syscall.errors import bpf_error, errno_name
from rawbpf.syscall.proc import proc_fields

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# Where strace puts the result.
_RESULT_COLUMN = 40

_ELEMENT_COMMANDS = frozenset(
    {Cmd.BPF_MAP_UPDATE_ELEM, Cmd.BPF_MAP_LOOKUP_ELEM, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, Cmd.BPF_MAP_DELETE_ELEM}
)
# Of longer keys and values the beginning is shown, which fits a line.
_POINTED_MAX = 24


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
        attrs: Also a drawing of the attr: offset, size, field, value and bytes; and the bytes of the key and the value
            that it points to.
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
        self.fields = _Fields(self.struct, self.before or b"")
        self.info = _Info(self.before) if self.cmd == Cmd.BPF_OBJ_GET_INFO_BY_FD and self.before else None

    def text(self, result: int, attrs: bool, meaning: bool) -> str:
        """The line, and what else is wanted, now that the kernel has answered."""
        line = f"bpf({_command(self.cmd)}{self.common}, {self._attr(result)}, {self.size})"
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

    def _attr(self, result: int) -> str:
        if self.struct is None or self.before is None:
            return hex(self.address) if self.address else "NULL"
        after = self._read() or self.before
        shown = dict(self.fields.spelled(after, failed=result < 0))
        if self.info is not None and result == 0:
            shown["info"] = self.info.text(after) or shown["info"]
        # As strace has it: the commands for many elements say behind the struct how many it were.
        counted = ""
        if self.struct.member == "batch" and " => " in shown.get("count", ""):
            shown["count"], _, count = shown["count"].partition(" => ")
            counted = f" => {{batch={{count={count}}}}}"
        text = _nested(list(shown.items()))
        if self.struct.member:
            text = f"{self.struct.member}={{{text}}}"
        more = ", ..." if any(self.before[self.fields.end :]) else ""
        return f"{{{text}{more}}}{counted}"

    def _drawings(self, result: int) -> Iterator[str]:
        if self.struct is None or self.before is None:
            return
        after = self._read() or self.before
        yield draw(self.cmd, self.before, self.size, after)
        yield from self._pointed_at(result)
        if self.info is not None and result == 0 and self.info.name:
            yield draw_info(self.info.name, self.info.data(after))

    def _pointed_at(self, result: int) -> Iterator[str]:
        """The bytes behind key and value: what the kernel read, and, if it succeeded, what it wrote."""
        values = {field.name: number_in(self.before or b"", field) for field in self.fields.reached}
        info = info_of(values["map_fd"]) if self.cmd in _ELEMENT_COMMANDS and "map_fd" in values else None
        if info is None:
            return
        written = self.cmd != Cmd.BPF_MAP_UPDATE_ELEM
        for name, size in (("key", info.key_size), ("value", value_bytes(info, values.get("flags", 0)))):
            address = values.get(name, 0)
            if not address or (name == "value" and written and result < 0):
                continue
            with suppress(Fault):
                shown = user_memory.read(address, min(size, _POINTED_MAX)).hex() + (".." if size > _POINTED_MAX else "")
                yield f"{name} -> {shown} ({counted(size, 'byte')})"

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
            return {"subject": "the map", "about": MapType(values["map_type"]), **values}
        if self.cmd == Cmd.BPF_RAW_TRACEPOINT_OPEN:
            return {"subject": f"raw tracepoint {os.fsdecode(_string_at(values['name']))!r}"}
        if self.cmd == Cmd.BPF_LINK_CREATE:
            about = AttachType(values["attach_type"])
            return {"subject": about.name, "about": about}
        if "link_fd" in values:
            return {"subject": f"the link of descriptor {values['link_fd']}"}
        for name in ("map_id", "link_id"):
            if name in values:
                return {"subject": f"id {values[name]}"}
        if "map_fd" not in values:
            return {"subject": f"descriptor {values['bpf_fd']}"} if "bpf_fd" in values else {}
        info = info_of(values["map_fd"])
        if info is None:
            return {"subject": f"descriptor {values['map_fd']}"}
        details = {"subject": describe(info), "fd": values["map_fd"], "about": info.type}
        return {**details, "max_entries": info.max_entries}


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


class _Fields:
    """The fields of a struct before the kernel writes into it, for the line that shows them afterwards."""

    def __init__(self, struct: Struct | None, before: bytes) -> None:
        fields = [] if struct is None else struct.fields
        self.before = before
        self.reached = [f for f in fields if f.offset < len(before) and counts(f, before, fields)]
        self.end = max((field.end for field in self.reached), default=0)
        self.words = {field.path: spell(field, before, self.reached) for field in self.reached}

    def spelled(self, after: bytes, failed: bool) -> Iterator[tuple[str, str]]:
        """Each field with its value before the call; what the kernel wrote with the value after it."""
        for field in self.reached:
            word = self.words[field.path]
            if field.writes:
                # Arrays that the kernel did not fill are not shown, text that stands there is: strace has it so.
                shown = without_following(field) if failed and field.kind != "text" else field
                written = spell(shown, after, self.reached)
                changed = field.reads and number_in(after, field) != number_in(self.before, field)
                word = f"{word} => {written}" if changed else written
            yield field.path, word


# Which struct BPF_OBJ_GET_INFO_BY_FD fills, by what /proc says of the descriptor. Of a link it says the program, too.
_INFO_STRUCTS = {
    "link_type": "bpf_link_info",
    "map_type": "bpf_map_info",
    "prog_type": "bpf_prog_info",
    "btf_id": "bpf_btf_info",
    "allowed_cmds": "bpf_token_info",
}


class _Info:
    """The struct that BPF_OBJ_GET_INFO_BY_FD is to fill: `name` is "" for what is no BPF object."""

    def __init__(self, attr: bytes) -> None:
        struct = struct_of(Cmd.BPF_OBJ_GET_INFO_BY_FD)
        assert struct is not None
        self.attr_fields = struct.fields
        described = proc_fields(f"/proc/self/fdinfo/{value_in(attr, struct.fields, 'bpf_fd')}")
        self.name = next((name for word, name in _INFO_STRUCTS.items() if word in described), "")
        self.before = self.data(attr) if self.name else b""

    def data(self, attr: bytes) -> bytes:
        """The struct's bytes, as many as the attr says; none if they can't be read."""
        length, address = (value_in(attr, self.attr_fields, name) for name in ("info_len", "info"))
        try:
            return user_memory.read(address, length) if length <= BPF_ATTR_MAX_SIZE else b""
        except Fault:
            return b""

    def text(self, attr: bytes) -> str:
        """What the kernel filled in; "" if that can't be shown."""
        after = self.data(attr) if self.name else b""
        if not after:
            return ""
        struct = info_struct(self.name, after)
        # The kernel writes all of it.
        filled = [field._replace(reads=field.writes and field.reads, writes=True) for field in struct.fields]
        fields = _Fields(Struct("", filled), self.before.ljust(len(after), b"\0")[: len(after)])
        return f"{{{_nested(list(fields.spelled(after, failed=False)))}}}"


def _result(result: int) -> str:
    return str(result) if result >= 0 else f"-1 {errno_name(-result)} ({os.strerror(-result)})"


def _string_at(address: int) -> bytes:
    try:
        return user_memory.read_string(address, 4096) or b""
    except Fault:
        return b""


def info_of(fd: int) -> MapInfo | None:
    """The map behind a descriptor, asked past the tracer."""
    info = ffi.new("struct bpf_map_info *")
    address = int(ffi.cast("uintptr_t", info))
    attr = bpf_attr(info={"bpf_fd": fd, "info_len": ffi.sizeof("struct bpf_map_info"), "info": address})
    return map_info(info) if door.ask_kernel(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr, 16) == 0 else None
