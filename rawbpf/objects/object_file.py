"""ObjectFile: maps and programs declared in C, compiled with clang -target bpf -g, loaded without libbpf.

    clang -O2 -g -target bpf -c events.bpf.c -o events.bpf.o

    with ObjectFile.load("events.bpf.o") as events, events.programs["on_exec"].attach():
        for event in events.maps["queue"].follow():
            print(event.pid, event.comm)

The file is read and checked as a whole before the kernel hears of it. Then come the BTF, the maps, the programs; if one
of them is refused, all that was made goes again. Needs pyelftools (the extra rawbpf[elf]) and Linux 5.2, with global
variables 5.5.
"""

import errno
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rawbpf import syscall
from rawbpf.abi import BPF_OBJ_NAME_LEN, ENOTSUPP, Cmd, MapFlag, MapType
from rawbpf.btf.reader import Btf
from rawbpf.maps.opening import map_from_fd
from rawbpf.maps.queue_stack import Queue, Stack
from rawbpf.objects.declarations import (
    LIBBPF_PIN_BY_NAME,
    DataSection,
    Declarations,
    MapDeclaration,
    MapReference,
    ProgramDeclaration,
    Variable,
    read,
)
from rawbpf.objects.elf import ObjectFileError
from rawbpf.objects.functions import with_src
from rawbpf.programs.asm import Pseudo
from rawbpf.programs.link import Link, knows_its_target
from rawbpf.programs.program import FuncInfo, LineInfo, Program
from rawbpf.syscall.descriptor import Descriptor
from rawbpf.syscall.errors import BpfError, NotFound
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import RawBytes

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from rawbpf.abi._native import CData

__all__ = ["ObjectFile", "ObjectFileError", "OtherMap"]

# Where maps with LIBBPF_PIN_BY_NAME are pinned, by libbpf's convention.
PIN_ROOT = "/sys/fs/bpf"


class OtherMap(Descriptor):
    """A map that is neither queue nor stack: its descriptor, for rawbpf.bpf(), and what the kernel says of it."""

    def __init__(self, fd: int, info: syscall.MapInfo) -> None:
        self._fd = fd
        self.info = info

    def __repr__(self) -> str:
        state = f"fd={self._fd}" if self._fd >= 0 else "closed"
        return f"<OtherMap {self.info.name!r} {self.info.type.name} {state}>"


class ObjectFile:
    """The maps, global variables and programs of a compiled C file, loaded into the kernel.

    `maps` (queues and stacks), `other_maps`, `programs` and `variables` are found by their names in C. A Queue or Stack
    decodes its values by their type in C (see rawbpf.values.btf_codec); one that is declared by value_size alone gives
    bytes.

    >>> with ObjectFile.load("events.bpf.o") as events:  # doctest: +SKIP
    ...     events.attach()
    ...     for event in events.maps["queue"].follow():
    ...         print(event.pid, event.comm)

    close(), or the end of `with`, closes all of them. What was taken out of `maps` or `programs` goes with it; to keep
    something in the kernel, pin it.
    """

    maps: "Mapping[str, Queue[Any] | Stack[Any]]"
    other_maps: Mapping[str, OtherMap]
    programs: Mapping[str, Program]
    variables: "Variables"

    @classmethod
    def load(
        cls,
        path: syscall.StrPath,
        *,
        variables: "Mapping[str, Any] | None" = None,
        pin_root: syscall.StrPath = PIN_ROOT,
    ) -> "Self":
        """Reads the file, makes its maps and loads its programs.

        Args:
            path: What clang -target bpf -g -c wrote.
            variables: Initial values of global variables, in place of those in C. The verifier takes one that is
                `const volatile` for a constant: a branch that it rules out is not even looked at.
            pin_root: A folder in a bpffs for maps with __uint(pinning, LIBBPF_PIN_BY_NAME): what is pinned there under
                the map's name is used, else the new map is pinned.

        Raises:
            OSError: The file can't be read.
            ObjectFileError: The file can't be loaded here; the text names section and symbol. Nothing was loaded.
            ValueError, TypeError: A map breaks a rule, a variable does not exist or has another type.
            VerifierError: The kernel refused a program; the log has the lines of C.
            NotPermitted: CAP_BPF is missing, or CAP_PERFMON or CAP_NET_ADMIN, as the program types want it.
            BpfError: Another of the calls failed.
            ImportError: pyelftools is not installed.
        """
        name = os.fsdecode(path)
        try:
            declarations = read(Path(name).read_bytes())
            return cls(declarations, os.path.basename(name).partition(".")[0], variables or {}, pin_root)
        except ObjectFileError as error:
            raise ObjectFileError(f"{name!r}: {error}") from error

    def __init__(
        self, declarations: Declarations, name: str, variables: Mapping[str, Any], pin_root: syscall.StrPath
    ) -> None:
        """Use load()."""
        self.name = name
        attrs = {name: _map_attr(declaration) for name, declaration in declarations.maps.items()}
        contents = _contents(declarations, variables)
        with ExitStack() as undo:
            loader = _Loader(declarations, name, undo)
            opened = {
                name: loader.map(declaration, attrs[name], pin_root) for name, declaration in declarations.maps.items()
            }
            data = {section: loader.data(declarations.data[section], content) for section, content in contents.items()}
            self.variables = Variables(declarations, data)
            self.programs = {
                name: loader.program(declaration, {**opened, **data})
                for name, declaration in declarations.programs.items()
            }
            self.maps = {name: m for name, m in opened.items() if not isinstance(m, OtherMap)}
            self.other_maps = {name: m for name, m in opened.items() if isinstance(m, OtherMap)}
            self._opened: list[Descriptor] = [*self.programs.values(), *opened.values(), *data.values()]
            loader.done()
            undo.pop_all()

    def attach(self) -> dict[str, Link]:
        """Attaches every program whose section says where (SEC("raw_tp/sched_process_exec")), until close().

        Others, such as those of sockets, cgroups and interfaces, are attached one by one: `programs[name].attach(...)`.
        Returns the links by the programs' names. Raises what Program.attach() raises; then none of them is attached.
        """
        with ExitStack() as undo:
            links = {
                name: undo.enter_context(program.attach())
                for name, program in self.programs.items()
                if knows_its_target(program)
            }
            undo.pop_all()
        self._opened[:0] = links.values()
        return links

    def close(self) -> None:
        """Closes all maps, programs and links of attach(). What is pinned stays in the kernel. May be repeated."""
        for descriptor in self._opened:
            descriptor.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        exception_type: "type[BaseException] | None",
        exception: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ObjectFile {self.name!r} maps={[*self.maps, *self.other_maps]} programs={list(self.programs)}>"


class Variables:
    """The global variables of a loaded file by their names in C: variables["seen"], variables["limit"] = 5.

    A read or write is a copy from or to the memory that the programs use, for a scalar in one piece. Constants are
    frozen once loaded. KeyError for a name that there is not, TypeError for writing a constant.
    """

    def __init__(self, declarations: Declarations, maps: "dict[str, OtherMap]") -> None:
        self._maps = maps
        self._btf = declarations.btf
        self._places = {
            name: (section, variable)
            for section in declarations.data.values()
            for name, variable in section.variables.items()
        }

    def __getitem__(self, name: str) -> Any:
        section, variable = self._places[name]
        with self._memory(section, mmap.PROT_READ) as memory:
            data = memory[variable.offset : variable.offset + variable.size]
        return BtfCodec(self._btf, variable.type_id).decode(data)

    def __setitem__(self, name: str, value: Any) -> None:
        section, variable = self._places[name]
        if section.read_only:
            raise TypeError(f"{name!r} is a constant: give its value to ObjectFile.load(variables=...)")
        data = BtfCodec(self._btf, variable.type_id).encode(value)
        with self._memory(section, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[variable.offset : variable.offset + variable.size] = data

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _memory(self, section: DataSection, protection: int) -> mmap.mmap:
        return mmap.mmap(self._maps[section.section.name].fileno(), section.section.size, prot=protection)


# What is known before the kernel is asked


def _map_attr(declaration: MapDeclaration) -> "CData":
    """The attr of MAP_CREATE, for a queue or stack with all rules checked. The BTF's descriptor is still missing."""
    fields = {
        "map_type": declaration.type,
        "map_name": declaration.name[: BPF_OBJ_NAME_LEN - 1].encode(),
        "key_size": declaration.key_size,
        "value_size": declaration.value_size,
        "max_entries": declaration.max_entries,
        "map_flags": declaration.map_flags,
        "numa_node": declaration.numa_node,
        "map_extra": declaration.map_extra,
    }
    attr = syscall.bpf_attr(**fields)
    if declaration.type in syscall.QUEUE_AND_STACK:
        try:
            syscall.check_rules(attr)
        except ValueError as error:
            raise ObjectFileError(f"section '.maps', map {declaration.name!r}: {error}") from None
    return attr


def _contents(declarations: Declarations, variables: Mapping[str, Any]) -> dict[str, bytearray]:
    """The first contents of each data section: what the file says, and the caller's values."""
    contents = {
        name: bytearray(data.section.data.ljust(data.section.size, b"\0")) for name, data in declarations.data.items()
    }
    for name, value in variables.items():
        places = [(s, data.variables[name]) for s, data in declarations.data.items() if name in data.variables]
        if not places:
            raise ValueError(f"the object file has no global variable {name!r}")
        section, variable = places[0]
        _put(declarations.btf, contents[section], variable, name, value)
    return contents


def _put(btf: Btf, content: bytearray, variable: Variable, name: str, value: Any) -> None:
    codec = BtfCodec(btf, variable.type_id)
    try:
        content[variable.offset : variable.offset + codec.size] = codec.encode(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"variable {name!r}: {error}") from None


class _Loader:
    """Makes one thing after the other, and remembers on `undo` how it goes again."""

    def __init__(self, declarations: Declarations, name: str, undo: ExitStack) -> None:
        self._declarations = declarations
        self._name = name
        self._undo = undo
        self._btf_fd = -1
        undo.callback(self.done)
        self._btf_fd = syscall.btf_load(declarations.btf_data)

    def done(self) -> None:
        """Closes the descriptor of the BTF: maps and programs keep what they need of it."""
        fd, self._btf_fd = self._btf_fd, -1
        if fd >= 0:
            os.close(fd)

    # Maps

    def map(
        self, declaration: MapDeclaration, attr: "CData", pin_root: syscall.StrPath
    ) -> "Queue[Any] | Stack[Any] | OtherMap":
        """The map, new or from its pin."""
        if declaration.pinning != LIBBPF_PIN_BY_NAME:
            return self._adopt(lambda: self._create(declaration, attr), declaration)
        # Under the whole name, as libbpf does: the kernel's, of 15 bytes, may be that of two.
        pin = Path(os.fsdecode(pin_root), declaration.name)
        try:
            opened = self._adopt(lambda: syscall.obj_get(pin), declaration, is_pinned=True)
        except NotFound:
            opened = self._adopt(lambda: self._create(declaration, attr), declaration)
            syscall.obj_pin(opened.fileno(), pin)
            self._undo.callback(pin.unlink, missing_ok=True)
        return opened

    def _create(self, declaration: MapDeclaration, attr: "CData") -> int:
        subject = f"map {declaration.name!r}"
        if declaration.value_type_id:
            attr.btf_fd = self._btf_fd
            attr.btf_key_type_id = declaration.key_type_id or self._declarations.empty_struct
            attr.btf_value_type_id = declaration.value_type_id
        try:
            return syscall.create(attr, subject)
        except BpfError as error:
            # Some map types take no BTF, and others none that has no key.
            if error.errno not in (errno.EINVAL, ENOTSUPP) or not attr.btf_fd:
                raise
            attr.btf_fd = attr.btf_key_type_id = attr.btf_value_type_id = 0
            return syscall.create(attr, subject)

    def _adopt(
        self, make: Callable[[], int], declaration: MapDeclaration, is_pinned: bool = False
    ) -> "Queue[Any] | Stack[Any] | OtherMap":
        """The map object of a new descriptor. (Not the descriptor as argument: at the beginning of a call a signal
        handler may raise.)"""
        opened: Queue[Any] | Stack[Any] | OtherMap
        fd = make()
        try:
            info = syscall.obj_get_info_by_fd(fd)
            if is_pinned:
                _check_info(declaration, info)
            if declaration.type in syscall.QUEUE_AND_STACK:
                value = declaration.value_type_id
                codec = BtfCodec(self._declarations.btf, value) if value else RawBytes(declaration.value_size)
                opened = map_from_fd(fd, codec)
            else:
                opened = OtherMap(fd, info)
        except BaseException:
            os.close(fd)
            raise
        self._undo.callback(opened.close)
        return opened

    def data(self, data: DataSection, content: bytearray) -> OtherMap:
        """The array map of a data section, filled, and frozen if it is constant. BPF_F_MMAPABLE: Linux 5.5."""
        flags = MapFlag.BPF_F_MMAPABLE | (MapFlag.BPF_F_RDONLY_PROG if data.read_only else 0)
        attr = syscall.bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            map_name=_data_name(self._name, data.section.name).encode(),
            key_size=4,
            value_size=len(content),
            max_entries=1,
            map_flags=flags,
            btf_fd=self._btf_fd if data.type_id else 0,
            btf_value_type_id=data.type_id,
        )
        fd = syscall.create(attr, f"the variables of section {data.section.name!r}")
        try:
            opened = OtherMap(fd, syscall.obj_get_info_by_fd(fd))
        except BaseException:
            os.close(fd)
            raise
        self._undo.callback(opened.close)
        # Not through mmap: what programs may only read is not mapped to be written.
        key = bytearray(4)
        update = syscall.bpf_attr(map_fd=fd, key=syscall.pointer(key), value=syscall.pointer(content))
        syscall.bpf(Cmd.BPF_MAP_UPDATE_ELEM, update)
        if data.read_only:
            syscall.map_freeze(fd)
        return opened

    # Programs

    def program(self, declaration: ProgramDeclaration, maps: Mapping[str, Descriptor]) -> Program:
        """The program, with the descriptors of its maps in their places."""
        linked, kind = declaration.linked, declaration.kind
        code = bytearray(linked.code)
        for reference in declaration.references:
            _refer(code, reference, maps[reference.name].fileno())
        program = Program(
            kind.prog_type,
            bytes(code),
            name=declaration.name[: BPF_OBJ_NAME_LEN - 1],
            license=self._declarations.license,
            flags=kind.prog_flags,
            expected_attach_type=kind.attach_type or 0,
            attach_to=kind.attach_to,
            btf_fd=self._btf_fd,
            func_info=[FuncInfo(*record) for record in linked.func_info],
            line_info=[LineInfo(*record) for record in linked.line_info],
        )
        self._undo.callback(program.close)
        return program


def _check_info(declaration: MapDeclaration, info: syscall.MapInfo) -> None:
    """What is pinned under a map's name must be such a map."""
    # RDONLY and WRONLY belong to a descriptor, not to the map. (Until Python 3.11.3 a flag's complement loses members.)
    flags = declaration.map_flags & ~int(MapFlag.BPF_F_RDONLY | MapFlag.BPF_F_WRONLY)
    if declaration.type in (MapType.BPF_MAP_TYPE_DEVMAP, MapType.BPF_MAP_TYPE_DEVMAP_HASH):
        flags |= MapFlag.BPF_F_RDONLY_PROG  # dev_map_init_map() adds it
    for field in ("type", "key_size", "value_size", "max_entries", "map_flags"):
        there, wanted = getattr(info, field), getattr(declaration._replace(map_flags=flags), field)
        if there != wanted:
            raise ObjectFileError(
                f"map {declaration.name!r}: what is pinned has {field} {there!r}, and the file says {wanted!r}"
            )


def _refer(code: bytearray, reference: MapReference, fd: int) -> None:
    """Writes a map's descriptor into a 64-bit load, and with it the offset of an address in its value."""
    at = reference.slot * 8
    pseudo = Pseudo.MAP_FD if reference.offset is None else Pseudo.MAP_VALUE
    code[at + 1] = with_src(code[at + 1], pseudo)
    struct.pack_into("=i", code, at + 4, fd)
    struct.pack_into("=i", code, at + 12, reference.offset or 0)


def _data_name(name: str, section: str) -> str:
    """The name of a data section's map as libbpf forms it: "events.rodata". Of 15 bytes the section's come first."""
    section = section[: BPF_OBJ_NAME_LEN - 1]
    room = BPF_OBJ_NAME_LEN - 1 - max(len(section), len(".rodata"))
    return re.sub(r"[^A-Za-z0-9_.]", "_", name[:room] + section)
