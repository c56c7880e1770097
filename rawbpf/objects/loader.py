"""From declarations to maps and programs in the kernel, one after the other; what was made goes again if one fails."""

import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rawbpf import syscall
from rawbpf.abi import BPF_OBJ_NAME_LEN, MapFlag, MapType
from rawbpf.btf.reader import VMLINUX, Btf, BtfError
from rawbpf.maps.map import Map
from rawbpf.maps.opening import class_for, map_from_new_fd
from rawbpf.objects.core_relocations import MINIMUM, explain, target_of
from rawbpf.objects.declarations import DataSection, Declarations, MapReference, ProgramDeclaration, Variable
from rawbpf.objects.elf import ObjectFileError
from rawbpf.objects.functions import with_src
from rawbpf.objects.kconfig import kconfig_values
from rawbpf.objects.kernel_symbols import refer_to_symbol, resolve_symbols
from rawbpf.objects.map_definitions import LIBBPF_PIN_BY_NAME, MAPS_OF_MAPS, MapDeclaration
from rawbpf.programs.asm import Pseudo
from rawbpf.programs.program import CoreRelocation, FuncInfo, LineInfo, Program, VerifierError
from rawbpf.syscall.descriptor import Descriptor, HasFileno, fileno_of
from rawbpf.syscall.errors import BpfError, NotFound
from rawbpf.syscall.proc import kernel_version, possible_cpus
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import Codec

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

_RING_BUFFERS = (MapType.BPF_MAP_TYPE_RINGBUF, MapType.BPF_MAP_TYPE_USER_RINGBUF)

# Types of maps whose keys and values the kernel does not let be described, whatever they are.
_NOT_DESCRIBED = MAPS_OF_MAPS | {
    MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
    MapType.BPF_MAP_TYPE_CGROUP_ARRAY,
    MapType.BPF_MAP_TYPE_STACK_TRACE,
    MapType.BPF_MAP_TYPE_DEVMAP,
    MapType.BPF_MAP_TYPE_DEVMAP_HASH,
    MapType.BPF_MAP_TYPE_CPUMAP,
    MapType.BPF_MAP_TYPE_XSKMAP,
    MapType.BPF_MAP_TYPE_SOCKMAP,
    MapType.BPF_MAP_TYPE_SOCKHASH,
}


class Wishes(NamedTuple):
    """What the caller of ObjectFile.load() wants to be otherwise than the file says."""

    variables: Mapping[str, Any]
    max_entries: Mapping[str, int]
    maps: Mapping[str, "int | HasFileno"]
    pin_root: syscall.StrPath


class Plan(NamedTuple):
    """What is to be made, checked as far as that can be done before."""

    maps: dict[str, MapDeclaration]
    contents: dict[str, bytearray]
    symbols: dict[str, int]


def plan(declarations: Declarations, wishes: Wishes) -> Plan:
    """Checks all that can be known before something is made. Raises ObjectFileError, ValueError, TypeError."""
    _check_core(declarations)
    for what, names in (("max_entries", wishes.max_entries), ("maps", wishes.maps)):
        for name in names:
            if name not in declarations.maps:
                there = ", ".join(declarations.maps) or "none"
                raise ValueError(f"{what}: the object file has no map {name!r}: it has {there}")
    maps = {
        name: _with_defaults(each._replace(max_entries=wishes.max_entries.get(name, each.max_entries)))
        for name, each in declarations.maps.items()
    }
    for each in maps.values():
        _map_attr(each)
    contents = _contents(declarations, wishes.variables)
    uses = [use for program in declarations.programs.values() for use in program.linked.symbols]
    return Plan(maps, contents, resolve_symbols(declarations.btf, declarations.externs, uses))


def _check_core(declarations: Declarations) -> None:
    """That the kernel can fit programs to its types, if there is something to fit."""
    for name, program in declarations.programs.items():
        if not program.linked.core_relocations:
            continue
        try:
            owner, member = target_of(declarations.btf, program.linked.core_relocations[0])
        except BtfError as error:
            raise ObjectFileError(f"section {program.section!r}, program {name!r}: {error}") from None
        where = f"section {program.section!r}, program {name!r} has CO-RE relocations, first that of {owner}"
        where += f", {member!r}" if member else ""
        if kernel_version() < MINIMUM:
            raise ObjectFileError(
                f"{where}, which the kernel makes since Linux 5.17: for an older one compile with"
                " -DBPF_NO_PRESERVE_ACCESS_INDEX, where the structs come from a vmlinux.h of that very kernel,"
                " or without __attribute__((preserve_access_index))"
            )
        if not os.path.exists(VMLINUX):
            raise ObjectFileError(f"{where}, and this kernel was built without BTF (CONFIG_DEBUG_INFO_BTF)")


def _with_defaults(declaration: MapDeclaration) -> MapDeclaration:
    """The number of entries that libbpf gives where the file leaves it to the loader."""
    inner = declaration.inner and _with_defaults(declaration.inner)
    entries = declaration.max_entries
    if declaration.type == MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY and not entries:
        entries = possible_cpus()
    elif declaration.type in _RING_BUFFERS and entries:
        entries = mmap.PAGESIZE << (-(-entries // mmap.PAGESIZE) - 1).bit_length()
        # A number that has no such multiple is left for the kernel to refuse.
        entries = entries if entries >> 32 == 0 else declaration.max_entries
    return declaration._replace(max_entries=entries, inner=inner)


def _map_attr(declaration: MapDeclaration) -> "CData":
    """The attr of MAP_CREATE, for a queue or stack with all rules checked. Descriptors are still missing."""
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
    try:
        attr = syscall.bpf_attr(**fields)
        if declaration.type in syscall.QUEUE_AND_STACK:
            syscall.check_rules(attr)
    except (ValueError, OverflowError) as error:
        raise ObjectFileError(f"section '.maps', map {declaration.name!r}: {error}") from None
    return attr


# The first contents of data sections


def _contents(declarations: Declarations, variables: Mapping[str, Any]) -> dict[str, bytearray]:
    """What the file says, what the kernel's configuration says, and the caller's values in place of both."""
    contents = {
        name: bytearray(data.section.data.ljust(data.section.size, b"\0")) for name, data in declarations.data.items()
    }
    for name, encoded in kconfig_values(declarations.btf, declarations.externs, variables).items():
        section, variable = _find(declarations, name)
        contents[section][variable.offset : variable.offset + len(encoded)] = encoded
    for name, value in variables.items():
        section, variable = _find(declarations, name)
        try:
            codec = BtfCodec(declarations.btf, variable.type_id)
            encoded = codec.encode(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"variable {name!r}: {error}") from None
        contents[section][variable.offset : variable.offset + codec.size] = encoded
    return contents


def _find(declarations: Declarations, name: str) -> tuple[str, Variable]:
    for section, data in declarations.data.items():
        if name in data.variables:
            return section, data.variables[name]
    raise ValueError(f"the object file has no global variable {name!r}")


class Loader:
    """Makes one thing after the other, and remembers on `undo` how it goes again."""

    def __init__(self, declarations: Declarations, name: str, wishes: Wishes, undo: ExitStack) -> None:
        self._declarations = declarations
        self._name = name
        self._wishes = wishes
        self._undo = undo
        self._btf_fd = -1
        undo.callback(self.done)
        try:
            self._btf_fd = syscall.btf_load(declarations.btf_data)
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ObjectFileError(f"section '.BTF': the kernel does not take it; {error.hint}") from error

    def done(self) -> None:
        """Closes the descriptor of the BTF: maps and programs keep what they need of it."""
        fd, self._btf_fd = self._btf_fd, -1
        if fd >= 0:
            os.close(fd)

    # Maps

    def maps(self, declarations: Mapping[str, MapDeclaration]) -> dict[str, Descriptor]:
        """All maps by name, maps of maps filled."""
        opened = {name: self._map(declaration) for name, declaration in declarations.items()}
        self._fill(opened, [each for each in declarations.values() if each.type in MAPS_OF_MAPS], opened)
        return opened

    def _map(self, declaration: MapDeclaration) -> Descriptor:
        """The map: the caller's, that of its pin, or a new one."""
        if declaration.name in self._wishes.maps:
            given = self._wishes.maps[declaration.name]
            return self._adopt(
                lambda: fcntl.fcntl(fileno_of(given), fcntl.F_DUPFD_CLOEXEC, 3), declaration, _SHAPE, "given"
            )
        if declaration.pinning != LIBBPF_PIN_BY_NAME:
            return self._adopt(lambda: self._create(declaration), declaration)
        # Under the whole name, as libbpf does: the kernel's, of 15 bytes, may be that of two.
        pin = Path(os.fsdecode(self._wishes.pin_root), declaration.name)
        try:
            return self._adopt(lambda: syscall.obj_get(pin), declaration, _ALL, "pinned")
        except NotFound:
            opened = self._adopt(lambda: self._create(declaration), declaration)
            syscall.obj_pin(opened.fileno(), pin)
            self._undo.callback(pin.unlink, missing_ok=True)
        return opened

    def _create(self, declaration: MapDeclaration) -> int:
        if declaration.inner is None:
            return self._create_with(declaration)
        # The kernel looks at one map for what all maps in this one are like.
        inner = self._create(declaration.inner)
        try:
            return self._create_with(declaration, inner)
        finally:
            os.close(inner)

    def _create_with(self, declaration: MapDeclaration, inner_fd: int = 0) -> int:
        attr = _map_attr(declaration)
        attr.inner_map_fd = inner_fd
        subject = f"map {declaration.name!r}"
        if declaration.value_type_id and declaration.type not in _NOT_DESCRIBED:
            attr.btf_fd = self._btf_fd
            attr.btf_key_type_id = declaration.key_type_id or self._declarations.empty_struct
            attr.btf_value_type_id = declaration.value_type_id
        try:
            return syscall.create(attr, subject)
        except BpfError:
            # Some map types take no BTF, some none that has no key, and others no locks or timers in their values.
            if not attr.btf_fd:
                raise
            attr.btf_fd = attr.btf_key_type_id = attr.btf_value_type_id = 0
            return syscall.create(attr, subject)

    def _adopt(
        self, make: Callable[[], int], declaration: MapDeclaration, checked: Iterable[str] = (), origin: str = ""
    ) -> Descriptor:
        """The map object of a new descriptor. (Not the descriptor as argument: at the beginning of a call a signal
        handler may raise.) `checked` are fields of a map that was there before, which `origin` tells where from."""

        def made() -> int:
            fd = make()
            try:
                _check_info(declaration, syscall.obj_get_info_by_fd(fd), checked, origin)
                return fd
            except BaseException:
                os.close(fd)
                raise

        codecs = codecs_of(self._declarations.btf, declaration)
        opened: Descriptor = map_from_new_fd(made, declaration.type, **codecs)
        self._undo.callback(opened.close)
        return opened

    def _fill(
        self, opened: Mapping[str, Descriptor], holders: list[MapDeclaration], held: Mapping[str, Descriptor]
    ) -> None:
        """Puts maps or programs into the slots that the file gives them."""
        for holder in holders:
            for index, name in holder.slots.items():
                if name not in held:
                    raise ObjectFileError(f"map {holder.name!r} holds program {name!r}, which is not loaded")
                key, value = struct.pack("=I", index), struct.pack("=I", held[name].fileno())
                syscall.map_update_elem(opened[holder.name].fileno(), key, value)

    def data(self, data: DataSection, content: bytearray) -> Map:
        """The array map of a data section, filled, and frozen if it is constant. BPF_F_MMAPABLE: Linux 5.5."""
        flags = MapFlag.BPF_F_MMAPABLE if data.shared else MapFlag(0)
        attr = syscall.bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            map_name=_data_name(self._name, data.section.name).encode(),
            key_size=4,
            value_size=len(content),
            max_entries=1,
            map_flags=flags | (MapFlag.BPF_F_RDONLY_PROG if data.read_only else 0),
            btf_fd=self._btf_fd if data.type_id else 0,
            btf_value_type_id=data.type_id,
        )
        what = f"the variables of section {data.section.name!r}"
        opened: Map = map_from_new_fd(lambda: syscall.create(attr, what), MapType.BPF_MAP_TYPE_ARRAY)
        fd = opened.fileno()
        self._undo.callback(opened.close)
        # Not through mmap: what programs may only read is not mapped to be written.
        syscall.map_update_elem(fd, bytes(4), content)
        if data.read_only:
            syscall.map_freeze(fd)
        return opened

    # Programs

    def programs(self, maps: Mapping[str, Descriptor], plan: Plan) -> dict[str, Program]:
        """All programs by name, and tables of programs filled with them."""
        loaded = {
            name: self._program(declaration, maps, plan.symbols)
            for name, declaration in self._declarations.programs.items()
        }
        tables = [each for each in plan.maps.values() if each.type == MapType.BPF_MAP_TYPE_PROG_ARRAY]
        self._fill(maps, tables, loaded)
        return loaded

    def _program(
        self, declaration: ProgramDeclaration, maps: Mapping[str, Descriptor], symbols: Mapping[str, int]
    ) -> Program:
        """The program, with the descriptors of its maps and the kernel's symbols in their places."""
        linked, kind = declaration.linked, declaration.kind
        code = bytearray(linked.code)
        for reference in declaration.references:
            _refer(code, reference, maps[reference.name].fileno())
        for number, use in enumerate(linked.symbols):
            if use.name in symbols:
                refer_to_symbol(code, use, self._declarations.externs[use.name], symbols[use.name], number)
        try:
            program = Program(
                kind.prog_type,
                bytes(code),
                name=declaration.name[: BPF_OBJ_NAME_LEN - 1],
                license=self._declarations.license,
                flags=kind.prog_flags,
                expected_attach_type=kind.attach_type or 0,
                attach_to=kind.place,
                btf_fd=self._btf_fd,
                func_info=[FuncInfo(*record) for record in linked.func_info],
                line_info=[LineInfo(*record) for record in linked.line_info],
                core_relos=[CoreRelocation(*record) for record in linked.core_relocations],
            )
        except VerifierError as error:
            why = explain(error.log, linked, self._declarations.btf)
            if not why:
                raise
            raise _core_error(error, declaration, why) from error
        except LookupError as error:
            raise ObjectFileError(f"section {declaration.section!r}, program {declaration.name!r}: {error}") from error
        self._undo.callback(program.close)
        return program


def codecs_of(btf: Btf, declaration: MapDeclaration) -> dict[str, Codec[Any] | None]:
    """The codecs of a map's keys and values by their types in C, as open_map() takes them for its type; None for
    bytes."""
    types = {"key": declaration.key_type_id, "value": declaration.value_type_id}
    wanted = getattr(class_for(declaration.type), "spec_names", ("value",))
    return {what: _codec_of(btf, types[what]) for what in wanted}


def _codec_of(btf: Btf, type_id: int) -> Codec[Any] | None:
    try:
        return BtfCodec(btf, type_id) if type_id else None
    except BtfError:
        # Such as a struct with more members than BtfCodec takes.
        return None


def _core_error(error: VerifierError, declaration: ProgramDeclaration, why: str) -> VerifierError:
    hint = "bpf_core_field_exists(), bpf_core_type_exists() and bpf_core_enum_value_exists() ask before"
    text = f"section {declaration.section!r}, program {declaration.name!r}: {why}"
    explained = VerifierError(error.errno or 0, text, error.cmd, hint)
    explained.log = error.log
    return explained


# The fields in which a map that was there before must be what the file says: the caller may have made one of another
# size, with other flags.
_SHAPE = ("type", "key_size", "value_size")
_ALL = (*_SHAPE, "max_entries", "map_flags")


def _check_info(declaration: MapDeclaration, info: syscall.MapInfo, checked: Iterable[str], origin: str) -> None:
    """That a map which was there before is such a map."""
    # RDONLY and WRONLY belong to a descriptor, not to the map. (Until Python 3.11.3 a flag's complement loses members.)
    flags = declaration.map_flags & ~int(MapFlag.BPF_F_RDONLY | MapFlag.BPF_F_WRONLY)
    if declaration.type in (MapType.BPF_MAP_TYPE_DEVMAP, MapType.BPF_MAP_TYPE_DEVMAP_HASH):
        flags |= MapFlag.BPF_F_RDONLY_PROG  # dev_map_init_map() adds it
    for field in checked:
        there, wanted = getattr(info, field), getattr(declaration._replace(map_flags=flags), field)
        if there != wanted:
            raise ObjectFileError(
                f"map {declaration.name!r}: what is {origin} has {field} {there!r}, and the file says {wanted!r}"
            )


def _refer(code: bytearray, reference: MapReference, fd: int) -> None:
    """Writes a map's descriptor into a 64-bit load, and with it the offset of an address in its value."""
    at = reference.slot * 8
    pseudo = Pseudo.MAP_FD if reference.offset is None else Pseudo.MAP_VALUE
    code[at + 1] = with_src(code[at + 1], pseudo)
    struct.pack_into("=i", code, at + 4, fd)
    struct.pack_into("=i", code, at + 12, reference.offset or 0)


def _data_name(name: str, section: str) -> str:
    """The name of a data section's map as libbpf forms it: "events.rodata", and ".rodata.custom" as it is. Of 15 bytes
    the section's come first."""
    section = section[: BPF_OBJ_NAME_LEN - 1]
    room = 0 if "." in section[1:] else BPF_OBJ_NAME_LEN - 1 - max(len(section), len(".rodata"))
    return re.sub(r"[^A-Za-z0-9_.]", "_", name[:room] + section)
