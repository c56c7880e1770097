"""Compiled C files: what they declare is what the kernel gets, and what can't be loaded is refused as a whole."""

import ctypes
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

import rawbpf
from rawbpf import MapFlag, MapType, ProgType, Queue, Stack
from rawbpf.abi import Cmd
from rawbpf.btf.reader import Btf, Kind
from rawbpf.objects import elf
from rawbpf.objects.declarations import read
from rawbpf.objects.object_file import ObjectFile, ObjectFileError
from rawbpf.programs.program import ETH_HLEN, VerifierError
from rawbpf.syscall.proc import kernel_version
from tests.conftest import OBJECTS, TOOLS_REQUIRED, compile_for_bpf, needs_clang

Compiled = Callable[[str], Path]

# A socket filter sees a packet without its Ethernet header.
PACKET = bytes(60)
SEEN_LENGTH = len(PACKET) - ETH_HLEN

pytestmark = pytest.mark.real_kernel(reason="programs run in the kernel alone")


@pytest.fixture
def everything(compiled: Compiled) -> Iterator[ObjectFile]:
    with ObjectFile.load(compiled("everything")) as loaded:
        yield loaded


def bpftool(*arguments: str) -> Any:
    if shutil.which("bpftool") is None and not TOOLS_REQUIRED:
        pytest.skip("bpftool is not installed")
    done = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


def pins(folder: str) -> list[str]:
    """What is pinned in a bpffs; the kernel puts two iterators there itself."""
    return sorted(set(os.listdir(folder)) - {"maps.debug", "progs.debug"})


# What is declared


@pytest.mark.admin
class TestMaps:
    def test_queue_and_stack(self, everything: ObjectFile) -> None:
        """A map declared as a queue is a Queue, as a stack a Stack, with the sizes and flags of the C file."""
        events, raw = everything.maps["events"], everything.maps["bytes"]
        assert isinstance(events, Queue)
        assert isinstance(raw, Stack)
        assert (events.value_size, events.max_entries, events.map_flags) == (48, 16, 0)
        assert (raw.value_size, raw.max_entries, raw.map_flags) == (8, 4, 0x100)

    def test_other_maps(self, everything: ObjectFile) -> None:
        """A map of another type is of that type's class, its name cut to the 15 bytes that the kernel takes."""
        table = everything.maps["a_hash_with_a_long_name"]
        assert isinstance(table, rawbpf.Hash)
        info = table.info()
        assert (info.type, info.name) == (MapType.BPF_MAP_TYPE_HASH, "a_hash_with_a_l")
        assert (info.key_size, info.value_size, info.max_entries) == (4, 8, 8)

    def test_values_have_their_c_type(self, everything: ObjectFile) -> None:
        """A value is decoded by its C type: nested structs, arrays, enums, bit-fields, characters as bytes."""
        everything.programs["fill"].run(PACKET)
        event = everything.maps["events"].pop()
        assert event.pid == SEEN_LENGTH * 2 + 1
        assert event.command == b"hello".ljust(16, b"\0")
        assert [tuple(point) for point in event.points] == [(1, -1), (3, -4)]
        assert (event.colour, event.colour.name) == (6, "BLUE")
        assert (event.low, event.high) == (5, 17)

    def test_values_are_pushed_by_their_c_type(self, everything: ObjectFile) -> None:
        """A dict of some members is pushed with the others zero, and comes back with all."""
        events = everything.maps["events"]
        events.push({"pid": 3, "points": ((1, 2), (3, 4)), "colour": 5})
        event = events.pop()
        assert (event.time, event.pid, event.points[1].y, event.colour.name) == (0, 3, 4, "GREEN")

    def test_without_a_type_values_are_bytes(self, everything: ObjectFile) -> None:
        """A map declared by value_size alone gives bytes."""
        everything.programs["count"].run(PACKET)
        assert everything.maps["bytes"].pop() == struct.pack("=Q", 9)

    @pytest.mark.linux("5.11")
    def test_bpftool_shows_the_type(self, everything: ObjectFile) -> None:
        """The kernel has the values' BTF: bpftool names the members of an element. (libbpf gives queues no BTF, and on
        older kernels bpftool 7 dumps none by its id.)"""
        events = everything.maps["events"]
        assert events.info().btf_id != 0
        shown = bpftool("btf", "dump", "id", str(events.info().btf_id))
        [event] = [t for t in shown["types"] if t["id"] == events.info().btf_value_type_id]
        assert [member["name"] for member in event["members"]] == [
            "time",
            "pid",
            "command",
            "points",
            "colour",
            "low",
            "high",
        ]


@pytest.mark.admin
class TestVariables:
    def test_initial_values(self, everything: ObjectFile) -> None:
        """Global variables have the values of the C file; zero where it gives none."""
        assert {name: everything.variables[name] for name in ("factor", "runs", "calls", "text")} == {
            "factor": 2,
            "runs": 40,
            "calls": 0,
            "text": b"hello\0\0\0",
        }
        assert tuple(everything.variables["origin"]) == (1, -1)

    def test_programs_share_them(self, everything: ObjectFile) -> None:
        """What a program writes is read here, and what is written here a program reads."""
        everything.variables["text"] = b"goodbye"
        everything.programs["fill"].run(PACKET)
        assert (everything.variables["runs"], everything.variables["calls"]) == (41, 1)
        assert everything.maps["events"].pop().command[:8] == b"goodbye\0"

    def test_given_at_load(self, compiled: Compiled) -> None:
        """Values given to load() replace those of the C file, for constants as well."""
        with ObjectFile.load(compiled("everything"), variables={"factor": 10, "origin": (7, 8), "runs": 1}) as loaded:
            loaded.programs["fill"].run(PACKET)
            event = loaded.maps["events"].pop()
            assert (event.pid, tuple(event.points[0])) == (SEEN_LENGTH * 10 + 1, (7, 8))
            assert loaded.variables["runs"] == 2

    def test_constants_stay(self, everything: ObjectFile) -> None:
        """A constant is refused before anything happens, and is frozen and read-only for programs in the kernel too."""
        with pytest.raises(TypeError, match="'factor' is a constant: give its value to ObjectFile.load"):
            everything.variables["factor"] = 3
        [shown] = [m for m in bpftool("map", "show") if m.get("name") == "everythi.rodata"][-1:]
        assert (shown["frozen"], shown["flags"]) == (1, 0x480)

    def test_wrong_ones(self, compiled: Compiled, everything: ObjectFile) -> None:
        """A variable that there is not, and a value that does not fit, are named."""
        with pytest.raises(ValueError, match="no global variable 'nothing'"):
            ObjectFile.load(compiled("everything"), variables={"nothing": 1})
        with pytest.raises(ValueError, match="variable 'factor': "):
            ObjectFile.load(compiled("everything"), variables={"factor": 2**32})
        with pytest.raises(KeyError):
            everything.variables["nothing"]


@pytest.mark.admin
class TestPrograms:
    def test_types(self, everything: ObjectFile) -> None:
        """The section's name decides the program's type; of one section all global functions are programs."""
        assert {name: program.prog_type.name for name, program in everything.programs.items()} == {
            "fill": "BPF_PROG_TYPE_SOCKET_FILTER",
            "count": "BPF_PROG_TYPE_SOCKET_FILTER",
            "on_exec": "BPF_PROG_TYPE_RAW_TRACEPOINT",
            "on_sleep": "BPF_PROG_TYPE_KPROBE",
        }

    def test_calls(self, everything: ObjectFile) -> None:
        """Static functions that call each other, and a global one, are called: 9 + min(length, 7)."""
        assert everything.programs["count"].run(PACKET).retval == 16
        assert everything.variables["calls"] == 1

    @pytest.mark.jit
    @pytest.mark.linux("5.17")
    def test_callbacks(self, compiled: Compiled) -> None:
        """A static function whose address a helper gets is called for each number."""
        with ObjectFile.load(compiled("callback")) as loaded:
            assert loaded.programs["squares"].run(bytes(ETH_HLEN + 20)).retval == 20
            assert loaded.maps["numbers"].pop_many(30) == [n * n for n in range(20)]

    def test_names_and_lines(self, everything: ObjectFile) -> None:
        """The kernel has the functions' names and the lines of C: bpftool prints them between the instructions."""
        [shown] = [program for program in _shown_programs() if program["name"] == "fill"]
        dumped = bpftool("prog", "dump", "xlated", "id", str(shown["id"]))
        assert any("return x * factor;" in str(line.get("src", "")) for line in dumped)

    def test_the_log_has_the_lines(self, compiled: Compiled, bpf_folder: str) -> None:
        """When the verifier refuses a program, its log shows the line of C."""
        with pytest.raises(VerifierError) as caught:
            ObjectFile.load(compiled("refused"), pin_root=bpf_folder)
        assert caught.value.errno == errno.EACCES
        assert "return buffer[skb->len]; /* beyond the stack */" in caught.value.log


# Outside referee


@pytest.mark.admin
class TestAgainstLibbpf:
    """What bpftool, through libbpf, makes of the same file."""

    @pytest.fixture
    def theirs(self, compiled: Compiled, bpf_folder: str) -> dict[str, dict[str, Any]]:
        """The programs that bpftool loads, by name."""
        os.mkdir(f"{bpf_folder}/programs")
        bpftool("prog", "loadall", str(compiled("everything")), f"{bpf_folder}/programs")
        shown = [
            bpftool("prog", "show", "pinned", f"{bpf_folder}/programs/{n}")
            for n in os.listdir(f"{bpf_folder}/programs")
        ]
        return {program["name"]: program for program in shown}

    def test_same_maps(self, everything: ObjectFile, theirs: dict[str, dict[str, Any]]) -> None:
        """libbpf makes maps of the same types, names, sizes and flags. (BPF_F_MMAPABLE apart, which libbpf before 1.5
        gives to a section of static variables alone.)"""
        ids = {map_id for program in theirs.values() for map_id in program.get("map_ids", [])}
        expected = {_essence(bpftool("map", "show", "id", str(map_id))) for map_id in ids}
        mine = {_essence(found) for found in _shown_maps()}
        assert mine == expected

    def test_same_types(self, everything: ObjectFile, theirs: dict[str, dict[str, Any]]) -> None:
        """libbpf reads the same program types in the names of the sections."""
        mine = {found["name"]: found["type"] for found in _shown_programs()}
        assert mine == {name: program["type"] for name, program in theirs.items()}

    def test_same_instructions(self, everything: ObjectFile, theirs: dict[str, dict[str, Any]]) -> None:
        """After relocation the kernel has the same instructions from both, but for the maps' numbers."""
        for found in _shown_programs():
            assert _instructions(found) == _instructions(theirs[found["name"]]), found["name"]


def _essence(shown: dict[str, Any]) -> tuple[Any, ...]:
    flags = shown["flags"] & ~MapFlag.BPF_F_MMAPABLE if shown["name"].endswith(".bss") else shown["flags"]
    return (flags, *(shown[field] for field in ("type", "name", "bytes_key", "bytes_value", "max_entries")))


def _own_programs() -> list[int]:
    """The ids of the programs that this process has a descriptor of."""
    ids = []
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
        except FileNotFoundError:
            continue
        ids += [int(line.split()[1]) for line in text.splitlines() if line.startswith("prog_id:")]
    return ids


def _shown_programs() -> list[dict[str, Any]]:
    return [bpftool("prog", "show", "id", str(prog_id)) for prog_id in _own_programs()]


def _shown_maps() -> list[dict[str, Any]]:
    ids = {map_id for program in _shown_programs() for map_id in program.get("map_ids", [])}
    return [bpftool("map", "show", "id", str(map_id)) for map_id in ids]


def _instructions(program: dict[str, Any]) -> list[Any]:
    """The program as the kernel has it, each load of a map with the map's name in place of its number."""
    names = {str(i): bpftool("map", "show", "id", str(i))["name"] for i in program.get("map_ids", [])}
    lines = []
    for entry in bpftool("prog", "dump", "xlated", "id", str(program["id"])):
        text = entry.get("disasm", "")
        for map_id, name in names.items():
            text = text.replace(f"map[id:{map_id}]", f"map[{name}]")
        lines.append(text)
    assert len(lines) >= program["bytes_xlated"] // 16
    return lines


# Pins


@pytest.mark.admin
class TestPinning:
    def test_shared_by_name(self, compiled: Compiled, bpf_folder: str) -> None:
        """LIBBPF_PIN_BY_NAME: the first load pins the map, the second one uses it."""
        path = compiled("pinned")
        with ObjectFile.load(path, pin_root=bpf_folder) as one, ObjectFile.load(path, pin_root=bpf_folder) as two:
            one.programs["push"].run(PACKET)
            assert two.maps["shared"].pop() == SEEN_LENGTH
        assert pins(bpf_folder) == ["shared"]

    @pytest.mark.parametrize(
        ("make", "difference"),
        [
            (lambda: Queue(8, 4), "value_size 8, and the file says 4"),
            (lambda: Queue(4, 5), "max_entries 5, and the file says 4"),
            (lambda: Queue(4, 4, flags=MapFlag.BPF_F_RDONLY_PROG), "map_flags <MapFlag.BPF_F_RDONLY_PROG: 128>, and"),
            (lambda: Stack(4, 4), "type <MapType.BPF_MAP_TYPE_STACK: 23>, and the file says"),
        ],
        ids=["value_size", "max_entries", "map_flags", "type"],
    )
    def test_another_map_is_there(self, compiled: Compiled, bpf_folder: str, make: Any, difference: str) -> None:
        """A pin of that name whose map differs is an error that says in what, and stays."""
        with make() as other:
            other.pin(f"{bpf_folder}/shared")
        with pytest.raises(ObjectFileError, match=f"map 'shared': what is pinned has {difference}"):
            ObjectFile.load(compiled("pinned"), pin_root=bpf_folder)
        assert pins(bpf_folder) == ["shared"]

    def test_nothing_half_loaded(self, compiled: Compiled, bpf_folder: str) -> None:
        """If the last program is refused, the maps, their pins and the other programs go again."""
        with pytest.raises(VerifierError):
            ObjectFile.load(compiled("refused"), pin_root=bpf_folder)
        assert pins(bpf_folder) == []
        assert _own_programs() == []

    def test_what_was_pinned_before_stays(self, compiled: Compiled, bpf_folder: str) -> None:
        """A pin that was there before a load that fails is there afterwards."""
        with Queue("I", 4, name="half") as earlier:
            earlier.pin(f"{bpf_folder}/half")
        with pytest.raises(VerifierError):
            ObjectFile.load(compiled("refused"), pin_root=bpf_folder)
        assert pins(bpf_folder) == ["half"]


# Helpers


@pytest.mark.admin
class TestHelpers:
    """What bpf_map_push_elem() and its siblings answer to a program (Documentation/bpf/map_queue_stack.rst)."""

    @pytest.fixture
    def call(self, compiled: Compiled, kind: type) -> Iterator[Callable[..., tuple[int, int]]]:
        """call("push", 7, flags) runs the helper on a map of two elements: its result, and the value afterwards.

        The result has 32 bits before Linux 6.4 (d7ba4cc900bf, "bpf: return long from bpf_map_ops funcs"): a program
        that takes it for a long, as this one does, sees its upper half zero.
        """
        suffix = "queue" if kind is Queue else "stack"
        with ObjectFile.load(compiled("helpers")) as loaded:

            def call(helper: str, value: int = 0, flags: int = 0) -> tuple[int, int]:
                loaded.variables["value"], loaded.variables["flags"] = value, flags
                loaded.programs[f"{helper}_{suffix}"].run(PACKET)
                result = loaded.variables["result"]
                if kernel_version() < (6, 4):
                    assert 0 <= result < 1 << 32
                    result = ctypes.c_int32(result).value
                return result, loaded.variables["value"]

            yield call

    def test_push(self, call: Callable[..., tuple[int, int]]) -> None:
        """Push is 0 while there is room, with BPF_ANY -E2BIG when full, with BPF_EXIST 0."""
        assert [call("push", value)[0] for value in (1, 2, 3)] == [0, 0, -errno.E2BIG]
        assert call("push", 4, 2)[0] == 0

    def test_exist_drops_the_oldest(self, call: Callable[..., tuple[int, int]], kind: type) -> None:
        """BPF_EXIST on a full map of 1, 2 drops the 1."""
        for value in (1, 2, 3):
            assert call("push", value, 2)[0] == 0
        assert [call("pop") for _ in range(2)] == [(0, 2), (0, 3)] if kind is Queue else [(0, 3), (0, 2)]

    @pytest.mark.parametrize("flags", [1, 3, 4, 1 << 32, 2**64 - 1])
    def test_flags(self, call: Callable[..., tuple[int, int]], flags: int) -> None:
        """Other flags are -EINVAL, and nothing is pushed."""
        assert call("push", 1, flags)[0] == -errno.EINVAL
        assert call("peek")[0] == -errno.ENOENT

    def test_peek_and_pop(self, call: Callable[..., tuple[int, int]], kind: type) -> None:
        """Peek leaves the element, pop takes it, both are 0; of an empty map both are -ENOENT, the value zeroed."""
        for value in (1, 2):
            call("push", value)
        first, second = (1, 2) if kind is Queue else (2, 1)
        assert [call("peek"), call("pop"), call("peek"), call("pop")] == [(0, first)] * 2 + [(0, second)] * 2
        assert [call("peek"), call("pop")] == [(-errno.ENOENT, 0)] * 2


# What is refused


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("not_extern_function", "section 'socket', function 'program' refers to 'elsewhere', an extern"),
        ("not_extern_variable", "'LINUX_NO_SUCH_THING' .__kconfig.: it is not known; declared __weak it would be zero"),
        ("not_kernel_function", "'bpf_no_such_function': this kernel has no such function"),
        ("not_unknown_section", "section 'no_such_type/at_all', function 'program': no program type has this name"),
        ("not_legacy_map", r"section 'maps': maps are no longer defined so .*write instead: struct"),
        ("not_queue_with_key", r"section '.maps', map 'queue': key_size must be 0, not 4"),
        ("not_struct_ops", r"section '.struct_ops': tables of operations \(struct_ops\) are not supported"),
        (
            "not_replacement",
            r"section 'freplace/some', function 'replacement': it replaces a function of another",
        ),
    ],
)
def test_not_supported(compiled: Compiled, no_calls: None, name: str, says: str) -> None:
    """What is not supported is named with section and symbol, and the kernel hears nothing of the file."""
    path = compiled(name)
    with pytest.raises(ObjectFileError, match=says) as caught:
        ObjectFile.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.admin
def test_address_in_data(compiled: Compiled) -> None:
    """Data that holds an address loads with a warning, for the kernel does not get it: a program that uses it is
    refused there."""
    with (
        pytest.warns(RuntimeWarning, match=r"section '.rodata' holds the address of .*: the kernel does not get it"),
        pytest.raises(VerifierError, match="invalid mem access '(scalar|inv)'"),
    ):
        ObjectFile.load(compiled("not_address_in_data"))
    with pytest.warns(RuntimeWarning, match=r"section '.data' holds the address of "):
        loaded = ObjectFile.load(compiled("corpus/pointer_table"))
    with loaded:
        assert loaded.programs["numbers"].run(PACKET).retval in (1, 2)


class TestBroken:
    """Files that are no object, or not for here. What is changed stands at its place by the ELF specification."""

    @pytest.fixture
    def data(self, compiled: Compiled) -> bytearray:
        return bytearray(compiled("pinned").read_bytes())

    def test_no_elf(self) -> None:
        """Text, and nothing at all, are no ELF files."""
        for data in (b"", b"int main(void) {}", b"\x7fELF"):
            with pytest.raises(ObjectFileError, match="not a well-formed ELF file"):
                read(data)

    def test_byte_order(self, data: bytearray) -> None:
        """An object that says it is of the other byte order (EI_DATA) is refused: no field of its header fits then."""
        data[5] = 3 - data[5]
        with pytest.raises(ObjectFileError, match="not an object file for BPF"):
            read(bytes(data))

    def test_other_byte_order(self, tmp_path: Path) -> None:
        """clang -target bpfeb on a little-endian machine: the error names the byte order."""
        needs_clang()
        target, order = ("bpfeb", "big") if sys.byteorder == "little" else ("bpfel", "little")
        source = tmp_path / "a.c"
        source.write_text('__attribute__((section("socket"))) int program(void *context) { return 0; }')
        subprocess.run(["clang", "-g", "-target", target, "-c", source, "-o", tmp_path / "a.o"], check=True)
        with pytest.raises(ObjectFileError, match=f"the object file is {order}-endian"):
            read((tmp_path / "a.o").read_bytes())

    def test_other_machine(self, data: bytearray) -> None:
        """An object for x86-64 is refused by its machine (e_machine 62)."""
        data[18:20] = struct.pack("=H", 62)
        with pytest.raises(ObjectFileError, match="EM_X86_64 ET_REL: compile with clang -target bpf"):
            read(bytes(data))

    def test_without_btf(self, compiled: Compiled, tmp_path: Path) -> None:
        """Compiled without -g there is no BTF, and the text says what to do."""
        needs_clang()
        include = next(Path("/usr/include").glob("*-linux-gnu"))
        command = [
            "clang",
            "-O2",
            "-target",
            "bpf",
            f"-I{include}",
            "-c",
            OBJECTS / "pinned.bpf.c",
            "-o",
            tmp_path / "a.o",
        ]
        subprocess.run(command, check=True)
        with pytest.raises(ObjectFileError, match="no section '.BTF': compile with clang -g"):
            read((tmp_path / "a.o").read_bytes())

    @pytest.mark.parametrize("word", [0, 0x01000000, 0x01000021, 0x00010020])
    def test_integers(self, compiled: Compiled, no_calls: None, word: int) -> None:
        """An integer of no bits, of more bits than it has room for, or beyond its end, is refused before the kernel
        hears of the file: of no bits the kernel would take it."""
        data = bytearray(compiled("everything").read_bytes())
        section = elf.read(bytes(data)).section(".BTF")
        assert section
        btf, begin = Btf(section.data), data.index(section.data)
        place = begin + btf.place(btf.find(Kind.INT, "unsigned int").id)
        assert struct.unpack_from("=II", data, place + 8) == (4, 32)
        struct.pack_into("=I", data, place + 12, word)
        with pytest.raises(ObjectFileError, match=r"section '.BTF': type \d+ is an integer of \d+ bits in 4 bytes"):
            ObjectFile.load(data)

    @pytest.mark.admin
    def test_types_that_the_kernel_refuses(self, compiled: Compiled, sent: list[tuple[Cmd, int]]) -> None:
        """Types that only the kernel finds wrong are an ObjectFileError with its words, before a map is made."""
        data = compiled("everything").read_bytes()
        section = elf.read(data).section(".BTF")
        assert section
        broken = data.replace(section.data, section.data.replace(b"\0chain\0", b"\0ch-in\0"))
        says = "section '.BTF': the kernel does not take it; the kernel says: .*Invalid name"
        with pytest.raises(ObjectFileError, match=says):
            ObjectFile.load(broken)
        assert {cmd for cmd, _ in sent} == {Cmd.BPF_BTF_LOAD}

    def test_compressed(self, tmp_path: Path) -> None:
        """clang -gz compresses DWARF, which is not read."""
        needs_clang()
        compile_for_bpf(OBJECTS / "callback.bpf.c", tmp_path / "gz.o", "-gz")
        with open(tmp_path / "gz.o", "rb") as file:
            sections = list(ELFFile(file).iter_sections())
        if not any(section["sh_flags"] & 0x800 for section in sections):
            pytest.skip("by design: this clang was built without zlib")
        assert read((tmp_path / "gz.o").read_bytes()).programs

    def test_stripped(self, compiled: Compiled, tmp_path: Path) -> None:
        """llvm-strip -g leaves all that is needed; a full strip takes the symbols, and the text says so."""
        strip = shutil.which("llvm-strip") or shutil.which("llvm-strip-14")
        if strip is None and not TOOLS_REQUIRED:
            pytest.skip("llvm-strip is not installed")
        assert strip is not None
        target = tmp_path / "a.o"
        subprocess.run([strip, "-g", "-o", target, compiled("everything")], check=True)
        assert set(read(target.read_bytes()).programs) == {"on_exec", "fill", "count", "on_sleep"}
        subprocess.run([strip, "-s", "-o", target, compiled("everything")], check=True)
        with pytest.raises(ObjectFileError):
            read(target.read_bytes())

    def test_more_instructions_than_any_kernel_takes(self, tmp_path: Path) -> None:
        """Fifty programs that share a function of 100,000 instructions, a small file, do not take 40 MB and more."""
        needs_clang()
        source = tmp_path / "a.c"
        programs = "".join(
            f'__attribute__((section("socket"))) int p{i}(void *c) {{ return large(); }}\n' for i in range(50)
        )
        large = r"""static __attribute__((noinline)) int large(void) {
            int result; asm volatile(".rept 100000\n %0 = 0\n .endr" : "=r"(result)); return result; }
        """
        source.write_text(large + programs)
        subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", source, "-o", tmp_path / "a.o"], check=True)
        with pytest.raises(ObjectFileError, match="the programs have over 4,000,000 instructions"):
            read((tmp_path / "a.o").read_bytes())

    def test_cut_off(self, data: bytearray) -> None:
        """A file that ends early, wherever that is, is refused."""
        for end in range(0, len(data), 97):
            with pytest.raises(ObjectFileError):
                read(bytes(data[:end]))


@pytest.mark.creates
def test_not_permitted(compiled: Compiled, no_calls: None) -> None:
    """Types of programs are known without the kernel: reading alone makes no call."""
    declared = read(compiled("everything").read_bytes())
    assert declared.programs["on_exec"].kind.prog_type == ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT
    assert declared.programs["on_exec"].kind.attach_to == "sched_process_exec"


LONG_NAMES = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define EVENTS(name) struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 4); __type(value, __u32); \\
    __uint(pinning, LIBBPF_PIN_BY_NAME); } name SEC(".maps")
EVENTS(connection_events_in);
EVENTS(connection_events_out);
struct { __uint(type, BPF_MAP_TYPE_DEVMAP); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); }
devices SEC(".maps");
SEC("socket") int push(struct __sk_buff *skb)
{
    __u32 one = 1;
    bpf_map_push_elem(&connection_events_in, &one, 0);
    return bpf_map_push_elem(&connection_events_out, &one, 0);
}
"""


@pytest.mark.admin
@pytest.mark.alike
def test_maps_by_their_whole_names(tmp_path: Path, bpf_folder: str) -> None:
    """Pins go by the whole name in C, of which the kernel keeps 15 bytes; a map that the kernel gives a flag of its own
    loads as well."""
    needs_clang()
    source, target = tmp_path / "long.bpf.c", tmp_path / "long.bpf.o"
    source.write_text(LONG_NAMES)
    compile_for_bpf(source, target)
    for _ in range(2):
        with ObjectFile.load(target, pin_root=bpf_folder) as loaded:
            first, second = loaded.maps["connection_events_in"], loaded.maps["connection_events_out"]
            assert first.id != second.id
            assert {"connection_events_in", "connection_events_out"} <= set(os.listdir(bpf_folder))
            assert isinstance(loaded.maps["devices"], rawbpf.DevMap)
