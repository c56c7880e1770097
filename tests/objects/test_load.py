"""What a caller of ObjectFile.load() may want otherwise than the file says, and what the loader adds by itself."""

import errno
import gzip
import mmap
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rawbpf import BpfError, ProgType, Queue, Stack, Unsupported, syscall
from rawbpf.abi import AttachType
from rawbpf.objects import kconfig
from rawbpf.objects.declarations import read
from rawbpf.objects.object_file import ObjectFile, ObjectFileError
from rawbpf.programs.program import VerifierError
from tests.conftest import TOOLS_REQUIRED, compile_for_bpf, needs_clang

Compiled = Callable[[str], Path]

PACKET = bytes(60)

pytestmark = [pytest.mark.admin, pytest.mark.real_kernel(reason="programs run in the kernel alone")]


def load_text(folder: Path, text: str, **wishes: Any) -> ObjectFile:
    """Compiles and loads a program in C that needs no headers but libbpf's."""
    needs_clang()
    source = folder / "text.bpf.c"
    source.write_text(f"#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n{text}\n")
    compile_for_bpf(source, folder / "text.o")
    return ObjectFile.load(folder / "text.o", **wishes)


@pytest.mark.skipif(shutil.which("bpftool") is None and not TOOLS_REQUIRED, reason="bpftool is not installed")
def test_linked_by_bpftool(tmp_path: Path) -> None:
    """In an object of two, a __weak variable and function are the other file's, for the programs and for Python."""
    needs_clang()
    weak = (
        "__weak int limit = 1; extern int found; __weak int twice(int x) { return 1; }"
        'struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 4); __type(value, int); } queue SEC(".maps");'
        'SEC("socket") int fill(void *c) { int v = limit + twice(found); return bpf_map_push_elem(&queue, &v, 0); }'
    )
    strong = "int limit = 50; int found = 3; int twice(int x) { return 2 * x; }"
    for name, text in (("weak", weak), ("strong", strong)):
        (tmp_path / f"{name}.c").write_text(f"#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n{text}\n")
        compile_for_bpf(tmp_path / f"{name}.c", tmp_path / f"{name}.o")
    target = tmp_path / "both.o"
    command = ["bpftool", "gen", "object", target, tmp_path / "weak.o", tmp_path / "strong.o"]
    subprocess.run(command, check=True, capture_output=True)
    with ObjectFile.load(target) as loaded:
        assert loaded.variables["limit"] == 50
        loaded.variables["limit"] = 60
        loaded.programs["fill"].run(PACKET)
        assert loaded.maps["queue"].pop() == 66


def _filled(fd: int) -> list[bytes]:
    """The values of the first slots of an array of maps."""
    found = []
    for slot in range(2):
        with suppress(BpfError):
            found.append(syscall.map_lookup_elem(fd, struct.pack("=I", slot)))
    return found


class TestSource:
    def test_bytes(self, compiled: Compiled) -> None:
        """The bytes of a file load as the file does, whatever holds them."""
        data = compiled("everything").read_bytes()
        for source in (data, bytearray(data), memoryview(data)):
            with ObjectFile.load(source) as loaded:
                assert set(loaded.programs) == {"fill", "count", "on_exec", "on_sleep"}

    def test_paths(self, compiled: Compiled) -> None:
        """A path may be a string, a Path, or bytes."""
        path = compiled("pinned")
        for source in (path, str(path), os.fsencode(path)):
            with pytest.raises(ObjectFileError, match="pinned"):
                ObjectFile.load(source, sections={"socket": "no_such"})

    def test_bytes_that_are_no_object(self) -> None:
        """Other bytes are refused; the text names no file."""
        with pytest.raises(ObjectFileError, match=r"^not a well-formed ELF file"):
            ObjectFile.load(bytearray(b"\x7fELF"))


class TestMaxEntries:
    def test_given(self, compiled: Compiled) -> None:
        """The number of entries is the caller's, for maps of any type; the others keep that of the file."""
        with ObjectFile.load(
            compiled("everything"), max_entries={"events": 3, "a_hash_with_a_long_name": 77}
        ) as loaded:
            assert loaded.maps["events"].max_entries == 3
            assert loaded.maps["bytes"].max_entries == 4
            info = syscall.obj_get_info_by_fd(loaded.maps["a_hash_with_a_long_name"].fileno())
            assert info.max_entries == 77

    def test_of_no_map(self, compiled: Compiled, no_calls: None) -> None:
        """A name that the file does not have is a ValueError that says which it has."""
        with pytest.raises(ValueError, match="max_entries: the object file has no map 'nothing': it has events, bytes"):
            ObjectFile.load(compiled("everything"), max_entries={"nothing": 1})

    def test_of_zero(self, compiled: Compiled, no_calls: None) -> None:
        """A number that breaks the map's rules is refused before the kernel is asked."""
        for number in (0, 1 << 32, -1):
            with pytest.raises(ObjectFileError, match="map 'events'"):
                ObjectFile.load(compiled("everything"), max_entries={"events": number})


class TestMaps:
    def test_reused(self, compiled: Compiled) -> None:
        """A map that is given is used in place of a new one: what the program pushes arrives in it."""
        with Queue(48, 1000) as mine, ObjectFile.load(compiled("everything"), maps={"events": mine}) as loaded:
            loaded.programs["fill"].run(PACKET)
            assert loaded.maps["events"].id == mine.id
            assert loaded.maps["events"].fileno() != mine.fileno()
            assert loaded.maps["events"].peek().command[:5] == b"hello"
            assert len(mine.pop()) == 48

    def test_stays_open(self, compiled: Compiled) -> None:
        """A map that is given, as its descriptor, is the caller's to close."""
        with Queue(48, 4) as mine:
            ObjectFile.load(compiled("everything"), maps={"events": mine.fileno()}).close()
            mine.push(bytes(48))

    @pytest.mark.parametrize(("kind", "size", "says"), [(Queue, 47, "value_size 47"), (Stack, 48, "type .*STACK")])
    def test_that_does_not_fit(self, compiled: Compiled, kind: Any, size: int, says: str) -> None:
        """A map of another type or with other values is refused, and says in what it differs."""
        with kind(size, 4) as mine, pytest.raises(ObjectFileError, match=f"map 'events': what is given has {says}"):
            ObjectFile.load(compiled("everything"), maps={"events": mine})

    def test_of_no_map(self, compiled: Compiled, no_calls: None) -> None:
        """A name that the file does not have is a ValueError."""
        with pytest.raises(ValueError, match="maps: the object file has no map 'nothing'"):
            ObjectFile.load(compiled("everything"), maps={"nothing": 3})

    @pytest.mark.linux(before="5.16")
    def test_of_a_type_that_this_kernel_has_not(self, compiled: Compiled) -> None:
        """A map of a type that is newer than the kernel is refused with the version that brought it."""
        with pytest.raises(Unsupported, match="map 'known': BPF_MAP_TYPE_BLOOM_FILTER came with Linux 5.16, this is"):
            ObjectFile.load(compiled("corpus/tables"))

    @pytest.mark.linux("5.16")  # a Bloom filter
    def test_with_keys(self, compiled: Compiled) -> None:
        """Maps with keys are mappings whose keys and values have their types in C."""
        with ObjectFile.load(compiled("corpus/tables")) as loaded:
            loaded.maps["settings"][0] = 10
            loaded.programs["count"].run(PACKET)
            assert loaded.maps["by_mark"][0].bytes == len(PACKET) - 14
            assert sum(each.packets for each in loaded.maps["total"][0]) == 1
            assert list(loaded.maps["recent"]) == [0]
            assert loaded.maps["large"].pop().packets == 1
            loaded.maps["routes"][32, 0] = 5
            assert loaded.programs["count"].run(PACKET).retval == 1

    @pytest.mark.linux("5.16")
    def test_all_by_name(self, compiled: Compiled) -> None:
        """`maps` has all maps of the file, of whatever type."""
        with ObjectFile.load(compiled("corpus/tables")) as loaded:
            assert sorted(loaded.maps) == sorted(
                [
                    *("settings", "by_mark", "total", "by_length", "recent", "recent_by_processor"),
                    *("routes", "known", "large"),
                ]
            )


class TestPrograms:
    @pytest.mark.linux(before="5.14")
    def test_of_a_type_that_this_kernel_has_not(self, compiled: Compiled) -> None:
        """A program of a type that is newer than the kernel is refused with the version that brought it."""
        with pytest.raises(Unsupported, match="program 'work': BPF_PROG_TYPE_SYSCALL came with Linux 5.14, this is"):
            ObjectFile.load(compiled("corpus/commands"))

    def test_chosen(self, compiled: Compiled) -> None:
        """Only the programs that are named load; all maps are made."""
        with ObjectFile.load(compiled("everything"), programs=["fill"]) as loaded:
            assert list(loaded.programs) == ["fill"]
            assert set(loaded.maps) == {"events", "bytes", "a_hash_with_a_long_name"}

    def test_left_out(self, compiled: Compiled, bpf_folder: str) -> None:
        """A program that the verifier refuses is not in the way of the others once it is left out."""
        with pytest.raises(VerifierError):
            ObjectFile.load(compiled("refused"), pin_root=bpf_folder)
        with ObjectFile.load(compiled("refused"), pin_root=bpf_folder, without={"outside"}) as loaded:
            assert "outside" not in loaded.programs
        os.unlink(f"{bpf_folder}/half")

    @pytest.mark.parametrize("wish", ["programs", "without"])
    def test_of_no_program(self, compiled: Compiled, no_calls: None, wish: str) -> None:
        """A name that the file does not have is a ValueError that says which it has."""
        with pytest.raises(ValueError, match="no program 'nothing': it has count, fill, on_exec, on_sleep"):
            ObjectFile.load(compiled("everything"), **{wish: ["nothing"]})  # type: ignore[arg-type]

    def test_optional(self, tmp_path: Path) -> None:
        """A program in SEC("?socket") is loaded if it is asked for by name, and not otherwise."""
        text = 'SEC("?socket") int may(void *c) { return 1; } SEC("socket") int must(void *c) { return 2; }'
        with load_text(tmp_path, text) as loaded:
            assert list(loaded.programs) == ["must"]
        with load_text(tmp_path, text, programs=["may"]) as loaded:
            assert loaded.programs["may"].run(PACKET).retval == 1


class TestSections:
    TEXT = 'SEC("incoming") int seen(struct __sk_buff *skb) { return 1; }'

    def test_like_another(self, tmp_path: Path) -> None:
        """A section with a name of one's own may be like one that is known, with attach type, flags and target."""
        with load_text(tmp_path, self.TEXT, sections={"incoming": "cgroup_skb/ingress"}) as loaded:
            assert loaded.programs["seen"].prog_type == ProgType.BPF_PROG_TYPE_CGROUP_SKB
            assert loaded.programs["seen"].expected_attach_type == AttachType.BPF_CGROUP_INET_INGRESS
        with load_text(tmp_path, self.TEXT, sections={"incoming": "raw_tp/sched_process_exec"}) as loaded:
            assert loaded.programs["seen"].attach_to == "sched_process_exec"

    def test_of_a_type(self, tmp_path: Path) -> None:
        """Or it is of a program type, without attach type."""
        with load_text(tmp_path, self.TEXT, sections={"incoming": ProgType.BPF_PROG_TYPE_SCHED_CLS}) as loaded:
            assert loaded.programs["seen"].run(PACKET).retval == 1

    def test_known_name(self, tmp_path: Path) -> None:
        """What is said of a name that libbpf knows counts as well."""
        text = 'SEC("socket") int seen(struct __sk_buff *skb) { return 1; }'
        with load_text(tmp_path, text, sections={"socket": "tc"}) as loaded:
            assert loaded.programs["seen"].prog_type == ProgType.BPF_PROG_TYPE_SCHED_CLS

    def test_wrong_ones(self, tmp_path: Path) -> None:
        """A section that the file does not have, and a name that is not known, are refused by name."""
        with pytest.raises(ValueError, match="no section 'outgoing' of programs"):
            load_text(tmp_path, self.TEXT, sections={"incoming": "tc", "outgoing": "tc"})
        with pytest.raises(ObjectFileError, match="section 'incoming'.*like 'no_such': no program type has this name"):
            load_text(tmp_path, self.TEXT, sections={"incoming": "no_such"})

    def test_the_way_out_is_named(self, tmp_path: Path) -> None:
        """A name that is not known is refused with what to write, after the name that it begins like."""
        text = 'SEC("xdp_fast") int fast(struct xdp_md *c) { return XDP_PASS; }'
        with pytest.raises(ObjectFileError, match=re.escape("ObjectFile.load(..., sections={'xdp_fast': 'xdp'})")):
            load_text(tmp_path, text)

    @pytest.mark.parametrize("section", ["fentry", "tp_btf", "lsm", "iter.s"])
    def test_without_a_target(self, tmp_path: Path, section: str) -> None:
        """A program that is checked against its target can't be without one."""
        with pytest.raises(ObjectFileError, match=rf"section '{section}'.* must say what it is attached to"):
            load_text(tmp_path, f'SEC("{section}") int any(void *c) {{ return 0; }}')


class TestDefaults:
    @pytest.mark.jit
    @pytest.mark.linux("6.1")  # a ring buffer that user space writes to
    def test_sizes(self, compiled: Compiled) -> None:
        """A ring buffer's size becomes a power of two of pages, a perf event array's that of possible processors."""
        with ObjectFile.load(compiled("corpus/rings")) as loaded:
            sizes = {name: syscall.obj_get_info_by_fd(each.fileno()).max_entries for name, each in loaded.maps.items()}
        assert sizes["ring"] == -(-5000 // mmap.PAGESIZE) * mmap.PAGESIZE
        assert sizes["from_user"] == max(16384, mmap.PAGESIZE)
        assert sizes["perf"] == int(Path("/sys/devices/system/cpu/possible").read_text().split("-")[-1]) + 1

    def test_static_variables(self, compiled: Compiled) -> None:
        """A section of static variables alone is not mapped: it is read by a copy, and can't be written."""
        with ObjectFile.load(compiled("everything")) as loaded:
            loaded.programs["count"].run(PACKET)
            assert loaded.variables["calls"] == 1
            with pytest.raises(TypeError, match="'calls' is static, and so is all of section '.bss'"):
                loaded.variables["calls"] = 0
        declared = read(compiled("corpus/variables").read_bytes()).data
        assert {name for name, section in declared.items() if section.shared} >= {".bss", ".data", ".data.aside"}
        assert not declared[".data.apart"].shared

    @pytest.mark.linux("5.17")
    def test_variables_everywhere(self, compiled: Compiled) -> None:
        """Variables in sections of their own, weak and hidden ones, are found; what is common and unused is ignored."""
        with ObjectFile.load(compiled("corpus/variables"), variables={"aside": 100, "level": 5}) as loaded:
            loaded.programs["everything"].run(PACKET)
            assert loaded.variables["aside"] == 100 + len(PACKET) - 14
            assert loaded.variables["secret"] == loaded.variables["shared_zero"] == 1
            assert loaded.variables["table"] == (5, 6, 7)
            assert len(loaded.maps["values"].pop_many(9)) == 1

    def test_legacy_maps_by_name(self, tmp_path: Path) -> None:
        """A definition in SEC("maps/...") is refused with what to write instead where a program uses it, and only then,
        as with libbpf."""
        text = 'struct { int type; } old SEC("maps/old") = { 1 }; SEC("socket") int any(void *c) { return %s; }'
        load_text(tmp_path, text % "3").close()
        with pytest.raises(ObjectFileError, match=r"refers to section 'maps/old': .* write instead: struct"):
            load_text(tmp_path, text % "bpf_map_lookup_elem(&old, c) != 0")

    def test_without_types(self, tmp_path: Path) -> None:
        """A file without BTF loads if it has no maps, as with libbpf."""
        needs_clang()
        source, target = tmp_path / "a.bpf.c", tmp_path / "a.o"
        source.write_text('__attribute__((section("socket"))) int program(void *context) { return 5; }')
        subprocess.run(["clang", "-O2", "-target", "bpf", "-c", source, "-o", target], check=True)
        with ObjectFile.load(target) as loaded:
            assert loaded.programs["program"].run(PACKET).retval == 5


class TestMapsInMaps:
    def test_filled_from_the_start(self, compiled: Compiled) -> None:
        """The maps that the file puts into a map of maps are there: programs push into them."""
        with ObjectFile.load(compiled("corpus/map_in_map")) as loaded:
            outer = loaded.maps["by_processor"].fileno()
            ids = [struct.unpack("=I", syscall.map_lookup_elem(outer, struct.pack("=I", slot)))[0] for slot in (0, 2)]
            assert ids == [loaded.maps["first"].id, loaded.maps["second"].id]
            with pytest.raises(BpfError, match="ENOENT"):
                syscall.map_lookup_elem(outer, struct.pack("=I", 1))
            for _ in range(4):
                loaded.programs["count"].run(PACKET)
            elements = loaded.maps["first"].pop_many(9) + loaded.maps["second"].pop_many(9)
            assert elements == [len(PACKET) - 14] * 4

    def test_each_its_own(self, tmp_path: Path) -> None:
        """What the file puts into one map of maps is not in the next."""
        text = """
            struct queue { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 1); __type(value, int); }
                one SEC(".maps"), two SEC(".maps");
            struct outer { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 2); __type(key, int);
                __array(values, struct queue); };
            struct outer first SEC(".maps") = { .values = { &one } };
            struct outer second SEC(".maps") = { .values = { &two, &one } };
        """
        with load_text(tmp_path, text) as loaded:
            ids = {
                outer: [struct.unpack("=I", lookup)[0] for lookup in _filled(loaded.maps[outer].fileno())]
                for outer in ("first", "second")
            }
            assert ids == {
                "first": [loaded.maps["one"].id],
                "second": [loaded.maps["two"].id, loaded.maps["one"].id],
            }

    def test_what_goes_in(self, compiled: Compiled) -> None:
        """Into a map of maps go maps like the one that the file describes, and no others."""
        with ObjectFile.load(compiled("corpus/map_in_map")) as loaded, Queue(4, 8) as like, Queue(8, 8) as other:
            outer, key = loaded.maps["by_user"].fileno(), bytearray(4)
            for m, result in ((like, 0), (other, errno.EINVAL)):
                try:
                    syscall.map_update_elem(outer, key, struct.pack("=I", m.fileno()))
                    assert result == 0
                except OSError as error:
                    assert error.errno == result
            loaded.programs["count"].run(PACKET)
            assert like.pop() == bytes(4)

    def test_table_of_programs(self, compiled: Compiled) -> None:
        """The programs that the file puts into a table call each other."""
        with ObjectFile.load(compiled("corpus/tail_calls")) as loaded:
            assert loaded.programs["first"].run(PACKET).retval == len(PACKET) - 14
            assert loaded.maps["trail"].pop_many(9) == [1, 2, 3]

    def test_table_without_its_programs(self, compiled: Compiled) -> None:
        """A table whose program is left out is refused by name, and nothing stays."""
        with pytest.raises(ObjectFileError, match="map 'steps' holds program 'third', which is not loaded"):
            ObjectFile.load(compiled("corpus/tail_calls"), without=["third"])

    @pytest.mark.parametrize(
        ("definition", "says"),
        [
            (
                "BPF_MAP_TYPE_HASH); __array(values, struct { __uint(type, 1); }",
                "of type BPF_MAP_TYPE_HASH has no 'values'",
            ),
            ("BPF_MAP_TYPE_PROG_ARRAY); __array(values, int", "the 'values' of a table of programs are functions"),
            (
                "BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(value_size, 8); __array(values, struct { __uint(type, 1); }",
                "is 8, ",
            ),
            (
                "BPF_MAP_TYPE_ARRAY_OF_MAPS); __array(values, struct { __uint(type, 12); __array(values, struct { "
                "__uint(type, 1); }); }",
                "a map in a map can neither be pinned nor hold maps",
            ),
        ],
    )
    def test_wrong_definitions(self, tmp_path: Path, definition: str, says: str) -> None:
        """What can't hold maps or programs, or not these, is refused by name."""
        text = f'struct {{ __uint(max_entries, 1); __uint(type, {definition}); }} outer SEC(".maps");'
        with pytest.raises(ObjectFileError, match=rf"section '.maps', map 'outer': .*{says}"):
            load_text(tmp_path, f'{text} SEC("socket") int any(void *c) {{ return !bpf_map_lookup_elem(&outer, c); }}')


@pytest.fixture
def configuration() -> dict[str, str]:
    """This kernel's configuration, as its text has it. A guest of tests.harness.kernels has none."""
    installed, kept = Path(f"/boot/config-{os.uname().release}"), Path("/proc/config.gz")
    if installed.exists():
        text = installed.read_text()
    elif kept.exists():
        text = gzip.decompress(kept.read_bytes()).decode()
    else:
        pytest.skip("the kernel keeps no /proc/config.gz, and no configuration is installed in /boot")
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


class TestKconfig:
    def test_values(self, compiled: Compiled, configuration: dict[str, str]) -> None:
        """The values are those of the kernel's configuration, by their types in C; what is weak and not set is 0."""
        with ObjectFile.load(compiled("corpus/kconfig")) as loaded:
            values = {name: loaded.variables[name] for name in loaded.variables}
            loaded.programs["configured"].run(PACKET)
            facts = loaded.maps["facts"].pop_many(99)
        major, minor = map(int, os.uname().release.split(".")[:2])
        assert values["LINUX_KERNEL_VERSION"] >> 8 == major << 8 | minor
        assert values["CONFIG_HZ"] == int(configuration["CONFIG_HZ"])
        assert (values["CONFIG_BPF_SYSCALL"], values["CONFIG_BPF"], values["CONFIG_NET"].name) == (
            True,
            ord("y"),
            "TRI_YES",
        )
        name = configuration["CONFIG_DEFAULT_HOSTNAME"].strip('"').encode()
        assert values["CONFIG_DEFAULT_HOSTNAME"] == name[:7].ljust(8, b"\0")
        assert (values["CONFIG_NO_SUCH_NUMBER"], values["CONFIG_NO_SUCH_SWITCH"], values["LINUX_NO_SUCH_THING"]) == (
            0,
            0,
            0,
        )
        assert facts[0] == values["LINUX_KERNEL_VERSION"]
        assert 0xDEAD not in facts

    @pytest.mark.usefixtures("configuration")
    def test_given(self, compiled: Compiled) -> None:
        """A value that is given takes the place of the kernel's."""
        given = {"CONFIG_HZ": 12345, "CONFIG_NO_SUCH_SWITCH": True}
        with ObjectFile.load(compiled("corpus/kconfig"), variables=given) as loaded:
            loaded.programs["configured"].run(PACKET)
            facts = loaded.maps["facts"].pop_many(99)
            with pytest.raises(TypeError, match="'CONFIG_HZ' is a constant"):
                loaded.variables["CONFIG_HZ"] = 1
        assert 12345 in facts
        assert facts[-1] == 0xDEAD

    @pytest.mark.parametrize(
        ("declaration", "says"),
        [
            ("int CONFIG_NO_SUCH_NUMBER", "'CONFIG_NO_SUCH_NUMBER' .* configuration does not set it; declared __weak"),
            ("__u8 CONFIG_HZ[1]", "'CONFIG_HZ' .* is [0-9]+: its type in C can't hold that"),
            (
                "signed char CONFIG_HZ",
                "CONFIG_HZ.* is [0-9]+: its type in C can't hold that",
            ),
            ("int CONFIG_BPF_SYSCALL", "CONFIG_BPF_SYSCALL.* is y: its type in C can't hold that"),
            ("int CONFIG_DEFAULT_HOSTNAME", "CONFIG_DEFAULT_HOSTNAME.* its type in C can't hold that"),
            ("struct bpf_sock CONFIG_HZ", "__kconfig 'CONFIG_HZ' is no number, no text and no enum libbpf_tristate"),
        ],
    )
    def test_wrong_ones(self, tmp_path: Path, no_calls: None, declaration: str, says: str) -> None:
        """What is not set, and what its type can't hold, is refused by name before the kernel is asked."""
        name = re.findall(r"CONFIG_\w+", declaration)[0]
        text = f'extern {declaration} __kconfig; SEC("socket") int any(void *c) {{ return *(volatile char *)&{name}; }}'
        with pytest.raises(ObjectFileError, match=says):
            load_text(tmp_path, text)

    def test_64_bits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A number of 64 bits fits a 64-bit type with and without sign; one of more bits, or octal, is refused."""
        there = {"CONFIG_HIGH": "0xdead000000000000", "CONFIG_LESS": "-2", "CONFIG_MORE": "0x10000000000000000"}
        monkeypatch.setattr(kconfig, "_configuration", lambda: {**there, "CONFIG_OCTAL": "010"})
        text = (
            "extern __s64 CONFIG_HIGH __kconfig; extern __u64 CONFIG_LESS __kconfig; extern __u64 {0} __kconfig;"
            'SEC("socket") int any(void *c) {{ return CONFIG_HIGH + CONFIG_LESS + {0}; }}'
        )
        with load_text(tmp_path, text.format("CONFIG_LESS")) as loaded:
            assert loaded.variables["CONFIG_HIGH"] == (0xDEAD << 48) - 2**64
            assert loaded.variables["CONFIG_LESS"] == 2**64 - 2
        for name in ("CONFIG_MORE", "CONFIG_OCTAL"):
            with pytest.raises(ObjectFileError, match=f"{name}.*can't hold that"):
                load_text(tmp_path, text.format(name))

    def test_no_configuration(self, compiled: Compiled, no_calls: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the configuration is in no file, the error names both."""

        def missing(path: Path) -> bytes:
            raise FileNotFoundError(path)

        data = compiled("corpus/kconfig").read_bytes()
        monkeypatch.setattr(kconfig.Path, "read_bytes", missing)
        with pytest.raises(ObjectFileError, match="neither in /boot nor in /proc/config.gz"):
            ObjectFile.load(data, variables={"LINUX_HAS_BPF_COOKIE": True})


class TestKernelSymbols:
    @pytest.mark.jit
    @pytest.mark.linux("6.2")
    def test_functions(self, compiled: Compiled) -> None:
        """Functions of the kernel are called; a weak one that does not exist is NULL."""
        with ObjectFile.load(compiled("corpus/kernel_functions"), max_entries={"pids": 4096}) as loaded:
            loaded.attach()
            subprocess.run(["true"], check=True)
            pids = loaded.maps["pids"].pop_many(4096)
        # The parent of what was executed, and once more what bpf_task_from_pid() has found.
        assert os.getpid() * 2 in pids

    def test_addresses(self, compiled: Compiled) -> None:
        """A symbol that is declared as void has the address of /proc/kallsyms, one that does not exist is 0."""
        with ObjectFile.load(compiled("corpus/kernel_addresses")) as loaded:
            loaded.attach()
            subprocess.run(["true"], check=True)
            numbers = loaded.maps["numbers"].pop_many(3)
        [line] = [line for line in Path("/proc/kallsyms").read_text().splitlines() if line.endswith(" _stext")]
        assert numbers[:2] == [0, int(line.split()[0], 16)]

    @pytest.mark.parametrize(
        ("declaration", "use", "says"),
        [
            ("int no_such_function(int x) __ksym", "no_such_function(1)", "no such function"),
            ("const int no_such_variable __ksym", "*(int *)bpf_this_cpu_ptr(&no_such_variable)", "no such variable"),
            ("const void no_such_symbol __ksym", "(long)&no_such_symbol", "no such symbol"),
            ("int bpf_rcu_read_lock(void) __ksym", "bpf_rcu_read_lock()", "has another type"),
            ("void bpf_rcu_read_lock(int x) __ksym", "(bpf_rcu_read_lock(1), 0)", "has another type"),
        ],
    )
    def test_missing(self, tmp_path: Path, no_calls: None, declaration: str, use: str, says: str) -> None:
        """What the kernel does not have, or has otherwise, is refused with the function that refers to it."""
        text = f'extern {declaration}; SEC("tc") int any(void *c) {{ return {use}; }}'
        with pytest.raises(ObjectFileError, match=rf"section 'tc', function 'any' refers to '.*': .*{says}"):
            load_text(tmp_path, text)

    def test_hidden_addresses(
        self, compiled: Compiled, no_calls: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the kernel hides its addresses, the error says so."""
        (tmp_path / "kallsyms").write_text("0000000000000000 T _stext\n")
        monkeypatch.setattr("rawbpf.objects.kernel_symbols._KALLSYMS", str(tmp_path / "kallsyms"))
        with pytest.raises(ObjectFileError, match="hides the address of '_stext': see sysctl kernel.kptr_restrict"):
            ObjectFile.load(compiled("corpus/kernel_addresses"))
