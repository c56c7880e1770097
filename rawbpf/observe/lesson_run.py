"""A learner's program, run and looked on at: which bpf(2) calls it makes, what it leaves in its variables, and how it
ends.
"""

import ast
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf.abi import BPF_ATTR_MAX_SIZE, Cmd, MapType, door
from rawbpf.abi.door import ffi
from rawbpf.abi.kinds import number_in
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import struct_of
from rawbpf.observe.tracer import info_of
from rawbpf.observe.user_memory import Fault
from rawbpf.syscall import QUEUE_AND_STACK, MapInfo
from rawbpf.syscall.errors import errno_name

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_ELEMENTS = frozenset({Cmd.BPF_MAP_UPDATE_ELEM, Cmd.BPF_MAP_LOOKUP_ELEM, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM})


class Call(NamedTuple):
    """A call: its attr as it was sent, the fields in it by name, and what came of it. `map` is the map that it was made
    on, `value` the element that it read or wrote, b"" if there was none."""

    cmd: Cmd
    attr: bytes
    size: int
    fields: dict[str, int]
    result: int
    map: MapInfo | None
    value: bytes

    @property
    def errno(self) -> int:
        """0 for success."""
        return -min(self.result, 0)

    @property
    def error(self) -> str:
        """The errno's name."""
        return errno_name(self.errno) if self.errno else ""


@dataclass
class Run:
    """What a program did. `kernel` is "the running kernel" or "the simulated kernel"."""

    source: str
    kernel: str
    names: dict[str, Any]
    calls: list[Call] = field(default_factory=list)
    error: BaseException | None = None

    def of(self, *commands: Cmd) -> list[Call]:
        """Its calls of these commands."""
        return [call for call in self.calls if call.cmd in commands]

    @property
    def created(self) -> list[Call]:
        """The calls that made a queue or a stack."""
        made = [call for call in self.of(Cmd.BPF_MAP_CREATE) if not call.errno]
        return [call for call in made if MapType(call.fields["map_type"]) in QUEUE_AND_STACK]

    @property
    def pushes(self) -> list[Call]:
        return self.of(Cmd.BPF_MAP_UPDATE_ELEM)

    @property
    def pops(self) -> list[Call]:
        return self.of(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)

    @property
    def peeks(self) -> list[Call]:
        return self.of(Cmd.BPF_MAP_LOOKUP_ELEM)

    def failed(self, cmd: Cmd, number: int) -> list[Call]:
        """Its calls of this command that were answered with this errno."""
        return [call for call in self.of(cmd) if call.errno == number]

    def calls_method(self, *names: str) -> bool:
        """Whether a method with one of these names is called anywhere in it."""
        called = (node.func for node in ast.walk(ast.parse(self.source)) if isinstance(node, ast.Call))
        return any(isinstance(each, ast.Attribute) and each.attr in names for each in called)

    def what_ended_it(self) -> str:
        """The exception that ended the program, with its line; "" if it went through."""
        if self.error is None:
            return ""
        frames = traceback.extract_tb(self.error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == FILENAME]
        if isinstance(self.error, SyntaxError):
            lines = [self.error.lineno or 1]
        where = f"line {lines[-1]}: " if lines else ""
        return f"{where}{type(self.error).__name__}: {self.error}"


FILENAME = "<exercise>"


def run(source: str, names: dict[str, Any], kernel: str) -> Run:
    """Runs a program to its end, whatever that is; only Ctrl-C goes through."""
    seen = Run(source, kernel, names)
    try:
        code = compile(source, FILENAME, "exec")
        with _recorded(seen.calls):
            exec(code, names)
    except (Exception, SystemExit) as error:
        seen.error = error
    return seen


@contextmanager
def _recorded(calls: list[Call]) -> Iterator[None]:
    def hook(cmd: int, attr: "CData", size: int) -> int:
        return _call(cmd, attr, size, before or door.ask_kernel, calls)

    before = door.set_hook(hook)
    try:
        yield
    finally:
        door.set_hook(before)


def _call(cmd: int, attr: "CData", size: int, ask: door.Hook, calls: list[Call]) -> int:
    command = Cmd(cmd)
    data = b""
    if 0 < size <= BPF_ATTR_MAX_SIZE:
        with suppress(Fault):
            data = user_memory.read(int(ffi.cast("uintptr_t", attr)), size)
    struct = struct_of(command, data) if command.name in Cmd.__members__ else None
    fields = {each.name: number_in(data, each) for each in (struct.fields if struct else ())}
    about = info_of(fields["map_fd"]) if "map_fd" in fields else None
    value = _value(command, fields, about) if command == Cmd.BPF_MAP_UPDATE_ELEM else b""
    result = ask(cmd, attr, size)
    if result == 0 and command in _ELEMENTS and not value:
        value = _value(command, fields, about)
    calls.append(Call(command, data, size, fields, result, about, value))
    return result


def _value(cmd: Cmd, fields: dict[str, int], about: MapInfo | None) -> bytes:
    if about is None or not fields.get("value"):
        return b""
    try:
        return user_memory.read(fields["value"], about.value_size)
    except Fault:
        return b""
