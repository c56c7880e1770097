"""Maps that carry BTF: made with btf=True, opened with rawbpf.BTF, read by bpftool."""

import ctypes
import errno
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rawbpf
from rawbpf import BTF, NotFound, Queue, Stack, open_map, syscall
from rawbpf.abi import Cmd, constants, door
from rawbpf.btf.reader import VMLINUX, Btf, Kind
from rawbpf.syscall.proc import kernel_version
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import codec_for
from rawbpf.values.map_btf import codec_of, described
from tests.conftest import examples

real_kernel = pytest.mark.real_kernel(reason="the simulated one has no BTF")
needs_kernel = [real_kernel, pytest.mark.creates, pytest.mark.admin]
needs_bpftool = pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")


class Inner(ctypes.Structure):
    _fields_ = [("x", ctypes.c_short), ("y", ctypes.c_longlong)]


class Word(ctypes.Union):
    _fields_ = [("word", ctypes.c_uint32), ("bytes", ctypes.c_uint8 * 4)]


class Event(ctypes.Structure):
    _anonymous_ = ("either",)
    _fields_ = [
        ("time", ctypes.c_uint64),
        ("pid", ctypes.c_int),
        ("comm", ctypes.c_char * 16),
        ("three", ctypes.c_uint, 3),
        ("seven", ctypes.c_int, 7),
        ("inner", Inner * 2),
        ("either", Word),
        ("ok", ctypes.c_bool),
        ("next", ctypes.POINTER(Inner)),
    ]


EVENT = {
    "time": 1 << 40,
    "pid": -2,
    "comm": b"bash" + bytes(12),
    "three": 5,
    "seven": -3,
    "inner": ((1, 2), (-3, 4)),
    "word": 0x04030201,
    "bytes": (0x04030201).to_bytes(4, sys.byteorder),
    "ok": True,
    "next": 0,
}


def an_event() -> Event:
    return Event(1 << 40, -2, b"bash", 5, -3, (Inner * 2)(Inner(1, 2), Inner(-3, 4)), Word(0x04030201), True)


def described_types(spec: Any) -> tuple[Btf, int]:
    """The types that btf=True makes of a value specification, and which of them is the value's."""
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscall, "btf_load", lambda blob, token_fd=None: loaded.append(blob) or os.open(os.devnull, 0))
        with described(codec_for(spec)) as (_, _, value_type_id):
            pass
    return Btf(loaded[0]), value_type_id


def bpftool(*arguments: str) -> Any:
    result = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


# With the kernel


class TestTypedMaps:
    pytestmark = needs_kernel

    def test_another_process_reads_what_was_described(self, kind, bpf_folder):
        """A map of a ctypes structure with btf=True: who opens its pin with rawbpf.BTF gets named members."""
        path = f"{bpf_folder}/events"
        with kind(Event, 4, name="events", btf=True) as m:
            m.pin(path)
            m.push(an_event())
            code = f"import rawbpf; m = rawbpf.open_map({path!r}, rawbpf.BTF); print(m.pop()._asdict()); m.close()"
            output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        expected = str(EVENT).replace("((1, 2), (-3, 4))", "(Inner(x=1, y=2), Inner(x=-3, y=4))")
        assert output.strip() == expected

    def test_each_way_to_open_one(self, kind, bpf_folder):
        """open, from_id, from_name, from_fd and open_map take rawbpf.BTF; bytes stay the default."""
        path = f"{bpf_folder}/typed"
        with kind("IH", 4, name="typed_test", btf=True) as m:
            m.pin(path)
            m.push((7, 80))
            for opened in (
                kind.open(path, BTF),
                kind.from_id(m.id, BTF),
                kind.from_name("typed_test", BTF),
                kind.from_fd(os.dup(m.fileno()), BTF),
                open_map(path, BTF),
                open_map(f"id:{m.id}", BTF, access="r"),
            ):
                with opened:
                    assert opened.peek()._asdict() == {"f0": 7, "f1": 80}
            with kind.open(path) as raw:
                assert raw.peek() == struct.pack("=IH", 7, 80)

    def test_elements_in_both_directions(self, kind):
        """push, push_many, pop_many, drain and snapshot work with the values of BTF."""
        with kind(Event, 100, btf=True) as made, kind.from_id(made.id, BTF) as m:
            assert m.push_many([EVENT] * 60) == 60
            m.push(tuple(EVENT.values()))
            assert {value.pid for value in m.snapshot()} == {-2}
            values = m.pop_many(40) + list(m.drain())
            assert [value._asdict() for value in values] == [EVENT] * 61
            with pytest.raises(ValueError, match="Event.three: 8 does not fit"):
                m.push({"three": 8})

    @needs_bpftool
    def test_bpftool_shows_the_fields(self, kind):
        """bpftool prints a described map's value with names."""
        with kind(Event, 4, name="events", btf=True) as m:
            m.push(an_event())
            assert bpftool("map", "show", "id", str(m.id))["btf_id"] == m.info().btf_id
            shown = bpftool("map", "peek", "id", str(m.id))["formatted"]
        assert shown["key"] == {}
        # bpftool does not extend the sign of a bit-field: 0x7d are the 7 bits of -3.
        theirs = {"time": 1 << 40, "pid": -2, "comm": "bash", "three": "0x5", "seven": "0x7d"}
        theirs |= {"inner": [{"x": 1, "y": 2}, {"x": -3, "y": 4}], "ok": True}
        assert {name: shown["value"][name] for name in theirs} == theirs

    @needs_bpftool
    @pytest.mark.linux("5.11")
    def test_bpftool_dumps_the_types(self, kind):
        """A described map's types are the structure's. (On older kernels bpftool 7 dumps no BTF by its id.)"""
        with kind(Event, 4, btf=True) as m:
            types = bpftool("btf", "dump", "id", str(m.info().btf_id))["types"]
        (event,) = [each for each in types if each.get("name") == "Event"]
        members = [(m["name"], m["bits_offset"], m.get("bitfield_size", 0)) for m in event["members"]]
        assert (event["kind"], event["size"]) == ("STRUCT", ctypes.sizeof(Event))
        assert members[:5] == [("time", 0, 0), ("pid", 64, 0), ("comm", 96, 0), ("three", 224, 3), ("seven", 227, 7)]

    @pytest.mark.parametrize(
        ("spec", "given", "decoded"),
        [
            (5, b"abcde", b"abcde"),
            ("I", 7, 7),
            ("@IcHxx3s?hIP0Q", (7, b"x", 80, b"abc", True, -5, 9, 99), (7, b"x", 80, b"abc", True, -5, 9, 99)),
            ("=2Hb5x", (1, 2, -3), (1, 2, -3)),
            ("B0I", 7, (7,)),
            ("=I4x", 7, (7,)),
            (ctypes.c_int64, -7, -7),
            (ctypes.c_uint16 * 3, (ctypes.c_uint16 * 3)(1, 2, 3), (1, 2, 3)),
            (Inner, Inner(1, -2), (1, -2)),
        ],
    )
    def test_other_specifications(self, kind, spec, given, decoded):
        """Raw bytes, struct formats with any padding, ctypes scalars and arrays are described as well."""
        with kind(spec, 2, btf=True) as m, kind.from_id(m.id, BTF) as typed:
            m.push(given)
            assert typed.peek() == decoded
            typed.push(decoded)
            assert bytes(m._codec.encode(m.peek())) == bytes(m._codec.encode(given))

    @pytest.mark.linux("5.13")
    def test_floating_point(self, kind):
        """Floats and doubles, since the kernel knows their kind."""
        with kind("df", 2, btf=True) as m, kind.from_id(m.id, BTF) as typed:
            m.push((0.5, -0.25))
            assert typed.pop() == (0.5, -0.25)

    def test_a_type_from_one_map_describes_another(self, kind):
        """A BtfCodec, here that of an opened map, is described by a copy of its type."""
        with (
            kind(Event, 4, btf=True) as first,
            kind.from_id(first.id, BTF) as typed,
            kind(typed._codec, 4, btf=True) as second,
            kind.from_id(second.id, BTF) as again,
        ):
            second.push(EVENT)
            assert again.pop()._asdict() == EVENT
            assert repr(again._codec) == "BTF Event"

    def test_creation_is_one_call_unless_asked(self, kind, sent):
        """btf=False does not load anything; btf=True loads BTF and closes its descriptor."""
        with kind(Event, 4):
            assert [cmd for cmd, _ in sent] == [Cmd.BPF_MAP_CREATE, Cmd.BPF_OBJ_GET_INFO_BY_FD]
        del sent[:]
        fds = os.listdir("/proc/self/fd")
        with kind(Event, 4, btf=True):
            assert sent[:2] == [(Cmd.BPF_BTF_LOAD, 168), (Cmd.BPF_MAP_CREATE, 168)]
            assert len(os.listdir("/proc/self/fd")) == len(fds) + 1

    def test_a_creation_that_fails_leaves_nothing(self, kind):
        """If the map can't be made the BTF's descriptor is closed all the same (see nothing_left_open)."""
        with pytest.raises(ValueError, match="max_entries must not be 0"):
            kind(Event, 0, btf=True)

    def test_a_map_without_btf(self, kind):
        """A map that carries none is a ValueError which says so, and stays closed."""
        with kind(4, 2, name="plain") as m, pytest.raises(ValueError, match="'plain' carries no BTF"):
            kind.from_id(m.id, BTF)

    @pytest.mark.linux("5.11")
    def test_the_kernels_own_types_are_not_read(self, kind):
        """A value type in the kernel's own BTF, which has an id since 5.11, is refused and not misread."""
        if not os.path.exists(VMLINUX):
            pytest.skip("by design: this kernel has no BTF")
        with kind(4, 2) as m:
            info = m.info()
        vmlinux = next(btf_id for btf_id in range(1, 1000) if is_kernels(btf_id))
        for fields in ({"btf_id": vmlinux, "btf_value_type_id": 1}, {"btf_vmlinux_value_type_id": 1}):
            with kind(4, 2, btf=True) as m, pytest.raises(ValueError, match="a type of the kernel's own"):
                codec_of(m.info()._replace(**fields))
        with pytest.raises(ValueError, match="carries no BTF"):
            codec_of(info)

    def test_a_type_of_another_size(self, kind):
        """A codec of another size than value_size is refused, as for any specification."""
        with kind(4, 2, btf=True) as m, kind("Q", 2, btf=True) as other:
            codec = codec_of(other.info())
            with pytest.raises(ValueError, match="BTF unsigned long long has 8 bytes, .* value_size 4"):
                kind.from_id(m.id, codec)

    def test_types_by_id(self):
        """Btf.from_id() reads what was loaded; an id that there is not is NotFound (ENOENT)."""
        with Queue(Event, 2, btf=True) as m:
            types = Btf.from_id(m.info().btf_id)
            assert types.type(m.info().btf_value_type_id).name == "Event"
        with pytest.raises(NotFound, match="no BTF has id 4294967295") as caught:
            Btf.from_id(2**32 - 1)
        assert caught.value.errno == errno.ENOENT

    def test_without_cap_sys_admin(self, bpf_folder):
        """Whoever may open the pin and no more gets bytes; for rawbpf.BTF the error names what is missing."""
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        path = f"{bpf_folder}/typed"
        with Queue("IH", 4, btf=True) as m:
            m.pin(path)
        code = f"""
import rawbpf
with rawbpf.open_map({path!r}) as m:
    print(m.value_size)
try:
    rawbpf.open_map({path!r}, rawbpf.BTF)
except rawbpf.NotPermitted as error:
    print(error.cmd.name, error.errno, error)
"""
        command = ["setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf", sys.executable, "-W", "error", "-c"]
        result = subprocess.run([*command, code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        first, second = result.stdout.splitlines()
        assert first == "6"
        assert second.startswith(f"BPF_BTF_GET_FD_BY_ID {errno.EPERM} ")
        assert "this process has no CAP_SYS_ADMIN" in second

    def test_btf_that_the_kernel_does_not_take(self):
        """Refused BTF is EINVAL; the hint is what the kernel says, and speaks of newer kinds only where that may be."""
        too_wide = struct.pack("=IIII", 1, Kind.INT << 24, 4, 40)
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(too_wide), len(too_wide), 3)
        with pytest.raises(rawbpf.BpfError, match="this kernel does not take it") as caught:
            syscall.btf_load(header + too_wide + b"\0i\0")
        assert caught.value.errno == errno.EINVAL
        assert caught.value.hint.startswith("the kernel says: [1] INT i size=4 bits_offset=0 nr_bits=40 ")
        assert ("Linux 5.13" in caught.value.hint) == (kernel_version() < (6, 0))

    def test_a_second_try_that_works_leaves_nothing(self):
        """The kernel is asked again for its words; if it takes the BTF then, the first answer holds."""
        answers = iter((-errno.EINVAL, os.dup(0)))
        previous = door.set_hook(lambda cmd, attr, size: next(answers))
        try:
            with pytest.raises(rawbpf.BpfError, match="this kernel does not take it") as caught:
                syscall.btf_load(b"anything")
        finally:
            door.set_hook(previous)
        assert "the kernel says" not in caught.value.hint


def is_kernels(btf_id: int) -> bool:
    try:
        fd = syscall.btf_get_fd_by_id(btf_id)
    except NotFound:
        return False
    try:
        info = syscall.btf_get_info_by_fd(fd)
    finally:
        os.close(fd)
    return info.kernel_btf and info.name == "vmlinux"


# Without


def test_btf_is_for_maps_that_are_there(no_calls):
    """A new map can't be given rawbpf.BTF as its value."""
    with pytest.raises(TypeError, match="is for existing maps"):
        Queue(BTF, 4)
    assert repr(BTF) == "rawbpf.BTF"


Foreign: Any = ctypes.BigEndianStructure if sys.byteorder == "little" else ctypes.LittleEndianStructure
Swapped = type("Swapped", (Foreign,), {"_fields_": [("a", ctypes.c_uint32)]})


class Named(ctypes.Structure):
    _fields_ = [("größe", ctypes.c_uint32)]


class Packed(ctypes.Structure):
    _layout_ = "ms"  # what _pack_ means, and must be said since CPython 3.14
    _pack_ = 1
    _fields_ = [("a", ctypes.c_uint8), ("ratio", ctypes.c_float)]


class Own:
    size = 4

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        return data


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (">I" if sys.byteorder == "little" else "<I", ValueError, "the other byte order"),
        (Swapped, ValueError, "Swapped has the other byte order"),
        (Named, ValueError, "'größe' is no name in C"),
        (ctypes.c_longdouble, ValueError, "no type for the code 'g'"),
        (Own(), TypeError, "nothing is known of the values of"),
        ("70000b", ValueError, "more than 65535 fields"),
        ("99999999999999b", ValueError, "value_size must be from 1 to 4294967295, not 99999999999999"),
        ("99999999999999s", ValueError, "value_size must be from 1 to 4294967295, not 99999999999999"),
        (2**32, ValueError, "value_size must be from 1 to 4294967295, not 4294967296"),
        (2**64, ValueError, "value_size must be from 1 to 4294967295, not 18446744073709551616"),
        ("=Id", ValueError, "member 'f1' of 'the values', a double, is at byte 4, and BTF wants it aligned"),
        (Packed, ValueError, "member 'ratio' of 'Packed', a float, is at byte 1"),
    ],
)
def test_what_can_not_be_described(no_calls, spec, error, text):
    """What BTF has no type for is refused by name, before the kernel is asked."""
    if str(spec).startswith("99999999999999") and sys.maxsize < 2**32:
        pytest.skip("by design: Python of 32 bits has no format of such a size")
    with pytest.raises(error, match=text):
        Stack(spec, 4, btf=True)


SIMPLE = [
    *(ctypes.c_byte, ctypes.c_ubyte, ctypes.c_short, ctypes.c_ushort, ctypes.c_int, ctypes.c_uint),
    *(ctypes.c_longlong, ctypes.c_ulonglong, ctypes.c_long, ctypes.c_bool, ctypes.c_float, ctypes.c_double),
    *(ctypes.c_void_p, ctypes.c_char, ctypes.c_size_t),
]
BIT_FIELDS = [ctypes.c_uint, ctypes.c_int, ctypes.c_ulonglong, ctypes.c_longlong, ctypes.c_ushort, ctypes.c_byte]


def random_type(rng: Random, depth: int) -> Any:
    choice = rng.random()
    if depth and choice < 0.25:
        return random_type(rng, depth - 1) * rng.randint(0, 3)
    if depth and choice < 0.5:
        return random_composite(rng, depth - 1, ctypes.Union if rng.random() < 0.3 else ctypes.Structure)
    return rng.choice(SIMPLE)


def random_composite(rng: Random, depth: int, base: Any) -> Any:
    """A structure or union of random members, in a structure also bit-fields: all of one type, see the test below."""
    storage = rng.choice(BIT_FIELDS)
    fields: list[Any] = []
    for i in range(rng.randint(1, 6)):
        is_bit_field = base is ctypes.Structure and rng.random() < 0.3
        bits = rng.randint(1, 8 * ctypes.sizeof(storage))
        fields.append((f"m{i}", storage, bits) if is_bit_field else (f"m{i}", random_type(rng, depth)))
    return type(
        "Random", (base,), {"_fields_": fields} | ({"_pack_": 1, "_layout_": "ms"} if rng.random() < 0.3 else {})
    )


def members_of(instance: Any) -> Iterator[tuple[Any, Any, Any]]:
    for name, kind, *_ in instance._fields_:
        yield name, kind, getattr(instance, name)


def assert_equal(kind: Any, theirs: Any, ours: Any) -> None:
    """`theirs` is what ctypes reads of a type, `ours` what BtfCodec does."""
    if isinstance(theirs, (ctypes.Structure, ctypes.Union)):
        assert ours._fields == tuple(name for name, _, _ in members_of(theirs))
        for (_, inner, value), our in zip(members_of(theirs), ours, strict=True):
            assert_equal(inner, value, our)
    elif issubclass(kind, ctypes.Array):
        if kind._type_ in (ctypes.c_char, ctypes.c_ubyte):
            assert isinstance(ours, bytes) and len(ours) == kind._length_
            if kind._type_ is ctypes.c_ubyte:
                assert ours == bytes(theirs)
            else:
                # ctypes hands a char array over as far as the first NUL; one of length 0 sometimes as the array it is.
                assert ours.partition(b"\0")[0] == getattr(theirs, "value", theirs)
            return
        assert len(ours) == kind._length_
        for their, our in zip(theirs, ours, strict=True):
            assert_equal(kind._type_, their, our)
    elif kind is ctypes.c_char:
        assert ours == int.from_bytes(theirs, "little", signed=True)
    elif kind is ctypes.c_void_p:
        assert ours == (theirs or 0)
    else:
        assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(rng=st.randoms(use_true_random=False))
def test_random_ctypes_structures(rng):
    """For random ctypes structures, nested, packed, with unions and bit-fields: the type that btf=True makes of it has
    its size, and BtfCodec reads of random bytes what ctypes does; or it has a float where BTF takes none."""
    kind = random_composite(rng, 3, ctypes.Structure)
    if ctypes.sizeof(kind) == 0:
        return
    try:
        types, type_id = described_types(kind)
    except ValueError as error:
        assert "BTF wants it aligned" in str(error)
        return
    codec = BtfCodec(types, type_id)
    assert codec.size == ctypes.sizeof(kind)
    data = rng.randbytes(codec.size)
    assert_equal(kind, kind.from_buffer_copy(data), codec.decode(data))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="by design: ctypes places them right since Python 3.14")
def test_a_bit_field_that_ctypes_itself_misplaces():
    """A bit-field after one of a larger type may lie past its storage, where ctypes reads it wrong: that is refused."""
    fields = [("a", ctypes.c_int, 7), ("b", ctypes.c_byte, 2)]
    wrong = type("Wrong", (ctypes.Structure,), {"_fields_": fields})
    with pytest.raises(ValueError, match="ctypes puts the bit-field 'b' past the end of its storage"):
        described_types(wrong)


def test_struct_formats_have_the_modules_offsets():
    """Each item of a struct format is a member where the struct module has it, padding and alignment included."""
    types, type_id = described_types("@b2xiqbh3s0i")
    found = types.type(type_id)
    assert (found.kind, found.size) == (Kind.STRUCT, struct.calcsize("@b2xiqbh3s0i"))
    assert [(m.name, m.bit_offset // 8) for m in types.members(found)] == [
        ("f0", 0),
        ("f1", 4),
        ("f2", 8),
        ("f3", 16),
        ("f4", 18),
        ("f5", 20),
    ]


def test_the_flag_of_tokens_is_the_maps():
    """BTF_LOAD says with the same bit as MAP_CREATE that a token comes with it."""
    assert constants.MapFlag.BPF_F_TOKEN_FD == 1 << 16
