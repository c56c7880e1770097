"""Values by BTF, against the C compiler: what clang makes of an initialised variable is what encode() must make."""

import copy
import enum
import itertools
import pickle
import struct
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawbpf.btf.reader import VMLINUX, Btf, BtfError, Kind, Member, vmlinux
from rawbpf.btf.writer import Builder
from rawbpf.objects.declarations import read
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.struct_value import StructValue
from tests.conftest import examples

TYPES = """
    typedef unsigned int u32;
    typedef unsigned long long u64;
    typedef unsigned char u8;
    enum color { RED, GREEN = 5, BLUE = 0x80000000 };
    struct inner { u32 a; char b; short array[3]; };
    typedef struct { int x, y; } point;
    struct event {
        u64 time;
        const volatile u32 from;
        char comm[16];
        u8 raw[5];
        struct inner in[2];
        enum color color;
        unsigned three : 3;
        int seven : 7;
        _Bool flag : 1;
        enum color four : 4;
        union { u32 word; u8 bytes[4]; struct { short low, high; }; };
        union choice { float number; u32 bits; } choice;
        point point;
        _Bool ok;
        double real;
        void *pointer;
        __int128 big;
        u32 _pad;
        short grid[2][3];
        signed char small[3];
        char names[2][4];
        u32 none[0];
        char tail[];
    };
    struct event value __attribute__((section(".data.value"))) = {
        .time = 1ULL << 63, .from = 7, .comm = "bash", .raw = {1, 2, 3, 4, 255},
        .in = {{.a = 1, .b = -1, .array = {1, -2, 3}}, {.a = 0xffffffff}},
        .color = BLUE, .three = 5, .seven = -64, .flag = 1, .four = GREEN,
        .low = -2, .high = 258, .choice = {.number = 1.5f}, .point = {-1, 2}, .ok = 1, .real = -0.25,
        .pointer = (void *)0x1234, .big = -1, ._pad = 9, .grid = {{1, 2, 3}, {4, 5, -6}}, .small = {-1, 0, 1},
        .names = {"ab", "cdef"},
    };
"""

EVENT = {
    "time": 1 << 63,
    "from": 7,
    "comm": b"bash" + bytes(12),
    "raw": b"\1\2\3\4\xff",
    "in": ((1, -1, (1, -2, 3)), (0xFFFFFFFF, 0, (0, 0, 0))),
    "color": 0x80000000,
    "three": 5,
    "seven": -64,
    "flag": True,
    "four": 5,
    "word": 0x0102FFFE,
    "bytes": b"\xfe\xff\2\1",
    "low": -2,
    "high": 258,
    "choice": (1.5, 0x3FC00000),
    "point": (-1, 2),
    "ok": True,
    "real": -0.25,
    "pointer": 0x1234,
    "big": -1,
    "_pad": 9,
    "grid": ((1, 2, 3), (4, 5, -6)),
    "small": (-1, 0, 1),
    "names": (b"ab\0\0", b"cdef"),
    "none": (),
    "tail": b"",
}

Compile = Callable[[str], dict[str, tuple[BtfCodec, bytes]]]


@pytest.fixture
def compile_values(compiled: Callable[[Path], Path], tmp_path: Path) -> Compile:
    """Compiles C; returns the codec and the bytes of each initialised variable."""
    numbers = itertools.count()

    def compile_c(source: str) -> dict[str, tuple[BtfCodec, bytes]]:
        # The fixture keeps objects by their names.
        path = tmp_path / f"{tmp_path.name}_{next(numbers)}.bpf.c"
        path.write_text(textwrap.dedent(source))
        declarations = read(compiled(path).read_bytes())
        found = {}
        for section in declarations.data.values():
            for name, variable in section.variables.items():
                data = section.section.data[variable.offset : variable.offset + variable.size]
                found[name] = BtfCodec(declarations.btf, variable.type_id), data
        return found

    return compile_c


@pytest.fixture
def event(compile_values: Compile) -> tuple[BtfCodec, bytes]:
    return compile_values(TYPES)["value"]


# What C says


def test_decoding_what_clang_wrote(event):
    """Each member of an initialised C variable has the value that C gave it, under its C name and in C's order."""
    codec, data = event
    assert codec.size == len(data)
    value = codec.decode(data)
    assert value._asdict() == EVENT
    assert type(value).__name__ == "event" and value._fields == tuple(EVENT)
    assert [type(each) for each in (value.ok, value.flag, value.real, value.time)] == [bool, bool, float, int]


def test_encoding_what_clang_wrote(event):
    """From a dict and from a tuple encode() makes the compiler's bytes, padding included."""
    codec, data = event
    assert codec.encode(EVENT) == data
    assert codec.encode(tuple(EVENT.values())) == data
    assert codec.encode(codec.decode(data)) == data


def test_what_a_dict_leaves_out_is_zero(event):
    """As in a C initialiser: of an event that names only its pid, all else is zero."""
    codec, _ = event
    assert codec.encode({}) == bytes(codec.size)
    data = codec.encode({"from": 7, "comm": b"sh", "in": ({}, {"array": (1, 2, 3)})})
    value = codec.decode(data)
    named = {"from": 7, "comm": b"sh".ljust(16, b"\0"), "in": ((0, 0, (0, 0, 0)), (0, 0, (1, 2, 3)))}
    assert value._asdict() == codec.decode(bytes(codec.size))._asdict() | named


def test_names_that_python_has_for_itself(event):
    """A member named as a keyword, or with an underscore in front, is an attribute under its C name."""
    codec, data = event
    value = codec.decode(data)
    assert getattr(value, "from") == 7
    assert value._pad == 9


def test_enums(event):
    """An enum's value is a member of an IntEnum with C's names; one without a name is an int; names are taken too."""
    codec, data = event
    value = codec.decode(data)
    assert isinstance(value.color, enum.IntEnum)
    assert (value.color.name, value.four.name) == ("BLUE", "GREEN")
    unknown = codec.decode(codec.encode({"color": 77, "four": 3}))
    assert (unknown.color, type(unknown.color), unknown.four) == (77, int, 3)
    assert codec.encode({"color": "GREEN"}) == codec.encode({"color": 5})


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"from": -1}, ValueError, "event.from: -1 does not fit"),
        ({"from": 1 << 32}, ValueError, "event.from: 4294967296 does not fit"),
        ({"comm": b"x" * 17}, ValueError, "event.comm: there are 17 bytes, and it takes 16"),
        ({"comm": "bash"}, TypeError, "event.comm: 'bash' is not bytes"),
        ({"raw": b"abc"}, ValueError, "event.raw: there are 3 bytes, and it takes 5"),
        ({"in": ({}, {"array": (1, 2, 99999)})}, ValueError, "event.in\\[1\\].array\\[2\\]: 99999 does not fit"),
        ({"in": ({},)}, ValueError, "event.in: there are 1 values, and it takes 2"),
        ({"in": 5}, TypeError, "event.in: 5 is neither a tuple nor a list"),
        ({"three": 8}, ValueError, "event.three: 8 does not fit unsigned 3 bits"),
        ({"seven": 64}, ValueError, "event.seven: 64 does not fit signed 7 bits"),
        ({"three": 1.5}, TypeError, "event.three: 1.5 is no integer"),
        ({"flag": 2}, ValueError, "event.flag: 2 is neither True nor False"),
        ({"ok": "no"}, TypeError, "event.ok: 'no' is neither True nor False"),
        ({"color": "PINK"}, ValueError, "event.color: color has no enumerator 'PINK'"),
        ({"choice": {"number": 1e300}}, ValueError, "event.choice.number: 1e\\+300 does not fit"),
        ({"big": 1 << 127}, ValueError, "event.big: .* does not fit signed 128 bits"),
        ({"colour": 1}, ValueError, "event: there is no member 'colour'"),
        ({"word": 1, "low": 7}, ValueError, "event.low: 7 contradicts another member"),
        ((1, 2), ValueError, "event: there are 2 values, and it takes 26"),
        (7, TypeError, "event: 7 is neither a tuple nor a list"),
    ],
)
def test_what_does_not_fit(event, given, error, text):
    """A value that the type does not take is refused with the path of the member."""
    codec, _ = event
    with pytest.raises(error, match=text):
        codec.encode(given)


def test_a_whole_struct_names_the_member_too(compile_values):
    """Also where one struct.Struct packs all members, the one that does not fit is named."""
    codec, _ = compile_values('struct pair { int a; unsigned char b; } pair __attribute__((section(".data.p")));')[
        "pair"
    ]
    assert codec.encode((-1, 255)) == struct.pack("=iB3x", -1, 255)
    with pytest.raises(ValueError, match="pair.b: 256 does not fit"):
        codec.encode((1, 256))
    with pytest.raises(ValueError, match="pair.a: 'x' does not fit"):
        codec.encode(("x", 1))


def test_unions_agree_with_themselves(event):
    """A decoded union can be encoded again; two readings that contradict each other can't; a dict takes one."""
    codec, data = event
    value = codec.decode(data)
    choice = value.choice._replace(bits=0)
    with pytest.raises(ValueError, match="event.choice.bits: 0 contradicts another member"):
        codec.encode(value._replace(choice=choice))
    assert codec.decode(codec.encode({"choice": {"bits": 0x40000000}})).choice.number == 2.0


def test_values_and_codecs_travel(event):
    """Values and codecs can be pickled and copied: maps are arguments of multiprocessing."""
    codec, data = event
    value = codec.decode(data)
    for there in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert there == value and type(there) is type(value) and there.color.name == "BLUE"
    again = pickle.loads(pickle.dumps(codec))
    assert again.decode(data) == value and repr(again) == repr(codec) == "BTF event"


def test_many_at_once(event):
    """decode_all() and encode_all() do what one by one does."""
    codec, data = event
    values: list[Any] = []
    codec.decode_all(data * 3, values)
    assert values == [codec.decode(data)] * 3
    assert codec.encode_all(values) == data * 3


def test_scalars_and_arrays_by_themselves(compile_values):
    """The value may be no struct: an integer, a float, a pointer, an enum, arrays, behind typedefs."""
    found = compile_values("""
        #define HERE __attribute__((section(".data.here")))
        typedef long long s64;
        typedef volatile s64 ticks;
        ticks number HERE = -5;
        double real HERE = 0.5;
        char text[4] HERE = "abc";
        unsigned short row[3] HERE = {1, 2, 65535};
        struct { int a; } nameless HERE = {3};
        typedef struct { int a; } named_by_typedef;
        named_by_typedef typed HERE = {4};
        _Bool yes HERE = 1;
    """)
    values = {name: codec.decode(data) for name, (codec, data) in found.items()}
    expected = {"number": -5, "real": 0.5, "text": b"abc\0", "row": (1, 2, 65535), "nameless": (3,), "typed": (4,)}
    assert values == expected | {"yes": True}
    assert (type(values["nameless"]).__name__, type(values["typed"]).__name__) == ("struct", "named_by_typedef")
    for codec, data in found.values():
        assert codec.encode(codec.decode(data)) == data


# Random declarations


class Declared:
    """A random C type: how it is declared, and for a random value the initialiser and what decode() must give."""

    def __init__(self, declare: Callable[[str], str], value: Callable[[], tuple[str, Any]]) -> None:
        self.declare = declare
        self.value = value


INTEGERS = {
    "signed char": (8, True),
    "unsigned char": (8, False),
    "short": (16, True),
    "unsigned short": (16, False),
    "int": (32, True),
    "unsigned int": (32, False),
    "long long": (64, True),
    "unsigned long long": (64, False),
}


class Declarer:
    """Makes random structs. All names differ: members of anonymous structs are the outer one's."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.numbers = itertools.count()
        self.enums: list[str] = []

    def name(self) -> str:
        return f"n{next(self.numbers)}"

    def integer(self, bits: int, signed: bool) -> tuple[str, int]:
        low = -(1 << bits - 1) if signed else 0
        high = low + (1 << bits) - 1
        value = self.rng.choice([low, high, 0, self.rng.randint(low, high)])
        # C has no negative constants: the lowest has no absolute value.
        return (f"({value + 1}LL - 1)" if value < 0 else f"{value}ULL"), value

    def scalar(self, plain: bool) -> Declared:
        kind = self.rng.choice([*INTEGERS, "float", "double", "_Bool", "void *", "enum"])
        if plain and kind in ("float", "_Bool"):
            kind = "int"
        if kind in INTEGERS:
            return Declared(lambda name: f"{kind} {name}", lambda: self.integer(*INTEGERS[kind]))
        if kind == "enum":
            return self.enum()
        values: dict[str, Callable[[], tuple[str, Any]]] = {
            "float": lambda: self.real(self.rng.randint(-1000, 1000) / 8),
            "double": lambda: self.real(self.rng.uniform(-1e9, 1e9)),
            "_Bool": lambda: self.rng.choice([("1", True), ("0", False)]),
            "void *": lambda: self.rng.choice([("(void *)0", 0), ("(void *)0x123456789abc", 0x123456789ABC)]),
        }
        return Declared(lambda name: f"{kind} {name}", values[kind])

    def real(self, value: float) -> tuple[str, float]:
        return value.hex(), value

    def enum(self) -> Declared:
        tag = f"e{next(self.numbers)}"
        values = {f"{tag}_{i}": self.rng.choice([i, 100 + i, 0x7FFFFFFF - i]) for i in range(3)}
        self.enums.append(f"enum {tag} {{ {', '.join(f'{n} = {v}' for n, v in values.items())} }};")
        return Declared(lambda name: f"enum {tag} {name}", lambda: self.rng.choice(list(values.items())))

    def text(self) -> Declared:
        kind, size = self.rng.choice(["char", "unsigned char"]), self.rng.randint(0, 9)

        def value() -> tuple[str, bytes]:
            data = self.rng.randbytes(size)
            shown = [byte - 256 if kind == "char" and byte > 127 else byte for byte in data]
            return "{" + ", ".join(map(str, shown)) + "}", data

        return Declared(lambda name: f"{kind} {name}[{size}]", value)

    def array(self, element: Declared) -> Declared:
        count = self.rng.randint(1, 3)

        def value() -> tuple[str, tuple[Any, ...]]:
            parts = [element.value() for _ in range(count)]
            values = tuple(value for _, value in parts)
            is_bytes = element.declare("") == "unsigned char "
            return "{" + ", ".join(text for text, _ in parts) + "}", bytes(values) if is_bytes else values

        return Declared(lambda name: element.declare(f"{name}[{count}]"), value)

    def bit_field(self) -> Declared:
        kind = self.rng.choice([*INTEGERS, "_Bool"])
        bits, signed = (1, False) if kind == "_Bool" else INTEGERS[kind]
        width = self.rng.randint(1, bits)
        return Declared(lambda name: f"{kind} {name} : {width}", lambda: self.integer(width, signed))

    def member(self, depth: int, plain: bool) -> Declared:
        kinds: list[Callable[[], Declared]] = [lambda: self.scalar(plain), self.text]
        if depth:
            kinds += [lambda: self.array(self.member(depth - 1, plain))]
            kinds += [lambda: self.composite(depth - 1, plain, union=self.rng.random() < 0.3)]
        return self.rng.choice(kinds)()

    def composite(self, depth: int, plain: bool = False, union: bool = False) -> Declared:
        """A struct or union. Readings of a union must be without loss: no _Bool of 7, no signalling NaN (`plain`)."""
        names, members = [], []
        for _ in range(self.rng.randint(1, 5)):
            chance = self.rng.random()
            if chance < 0.25 and not (union or plain):
                members.append(self.bit_field())
                names.append(self.name())
            elif chance < 0.35 and depth:
                members.append(self.composite(depth - 1, plain or union, self.rng.random() < 0.5))
                names.append("")
            else:
                members.append(self.member(depth, plain or union))
                names.append(self.name())
        packed = self.rng.choice(["", "", " __attribute__((packed))"])
        body = " ".join(f"{member.declare(name)};" for name, member in zip(names, members, strict=True))
        declaration = f"{'union' if union else 'struct'} {{ {body} }}{packed}"

        def value() -> tuple[str, dict[str, Any]]:
            texts, expected = [], {}
            for name, member in list(zip(names, members, strict=True))[: 1 if union else None]:
                text, inner = member.value()
                texts.append(text)
                expected.update({name: inner} if name else inner)
            return "{" + ", ".join(texts) + "}", expected

        return Declared(lambda name: f"{declaration} {name}", value)


def assert_matches(value: Any, expected: Any) -> None:
    """`value` has all that `expected`, in which dicts stand for structs, says."""
    if isinstance(expected, dict):
        assert isinstance(value, StructValue)
        for name, inner in expected.items():
            assert_matches(getattr(value, name), inner)
    elif isinstance(expected, tuple):
        assert isinstance(value, tuple) and len(value) == len(expected)
        for each, inner in zip(value, expected, strict=True):
            assert_matches(each, inner)
    else:
        assert value == expected and isinstance(value, type(expected))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(rng=st.randoms(use_true_random=False))
def test_random_structs(compile_values, rng):
    """For 25 random structs a file, nested, packed, with bit-fields and unions: decode() gives what C was given,
    encode() makes clang's bytes of it, and of what was decoded again."""
    declarer = Declarer(rng)
    composites = [declarer.composite(3) for _ in range(25)]
    values = [each.value() for each in composites]
    lines = [
        f'{each.declare(f"v{i}")} __attribute__((section(".data.v"))) = {text};'
        for i, (each, (text, _)) in enumerate(zip(composites, values, strict=True))
    ]
    pragmas = '#pragma clang diagnostic ignored "-Wall"\n#pragma clang diagnostic ignored "-Wextra"\n'
    found = compile_values(pragmas + "\n".join(declarer.enums + lines))
    for i, (_, expected) in enumerate(values):
        codec, data = found.get(f"v{i}", (None, b""))
        if codec is None:
            continue  # a variable of no bytes has no place
        assert codec.size == len(data)
        decoded = codec.decode(data)
        assert_matches(decoded, expected)
        assert codec.encode(expected) == data
        assert codec.encode(decoded) == data


# The old way of bit-fields


def test_bit_fields_of_an_integer_with_fewer_bits():
    """Without the kflag an INT of its own says how many bits count, and from where on."""
    builder = Builder()
    # INTs of 4 bytes: 3 bits; 5 signed bits from bit 2 on.
    three = builder._add("three", Kind.INT, 0, 4, struct.pack("=I", 3))
    five = builder._add("five", Kind.INT, 0, 4, struct.pack("=I", 1 << 24 | 2 << 16 | 5))
    at = [Member("a", three, 0, 0), Member("b", three, 3, 0), Member("c", five, 6, 0)]
    made = builder.struct("old", 4, at)
    codec = BtfCodec(Btf(builder.encode()), made)
    # Where they begin is counted from the lowest bit on a little-endian machine, and from the highest on another.
    little, big = 0b101 | 0b010 << 3 | 0b10000 << 8, 0b101 << 29 | 0b010 << 26 | 0b10000 << 19
    data = (little if sys.byteorder == "little" else big).to_bytes(4, sys.byteorder)
    value = codec.decode(data)
    assert value == (0b101, 0b010, -16)
    assert codec.encode(value) == data


def test_signed_and_large_enums():
    """The kflag makes an enum signed; ENUM64 has 64 bits."""
    builder = Builder()
    made = [builder.enum("s", {"MINUS": -1}), builder.enum("l", {"FAR": 1 << 40, "DEEP": -(1 << 40)}, 8)]
    signed, large = (BtfCodec(Btf(builder.encode()), each) for each in made)
    assert (signed.decode(b"\xff" * 4), signed.decode(b"\xff" * 4).name) == (-1, "MINUS")
    assert [large.decode(large.encode(name)) for name in ("FAR", "DEEP")] == [1 << 40, -(1 << 40)]


def test_names_an_enum_or_a_tuple_can_not_have():
    """Names that Python's classes have for themselves break nothing: members are found by position and _asdict()."""
    builder = Builder()
    number = builder.integer("int", 4)
    names = ["__class__", "_fields", "_asdict", "__eq__", "count", "index", "self", "__del__"]
    made = builder.struct("odd", 4 * len(names), [(name, number, 4 * i) for i, name in enumerate(names)])
    odd = builder.enum("odd", {"mro": 1, "name": 2, "__hash__": 3, "_sunder_": 4, "value": 5, "GOOD": 6})
    types = Btf(builder.encode())
    codec = BtfCodec(types, made)
    value = codec.decode(struct.pack("=8I", *range(8)))
    assert value == tuple(range(8)) and value._asdict() == dict(zip(names, range(8), strict=True))
    assert (value.count, value.index, value.self) == (4, 5, 6)
    assert codec.encode(value._asdict()) == codec.encode(value)
    codec = BtfCodec(types, odd)
    assert [codec.decode(struct.pack("=I", n)) for n in range(7)] == list(range(7))
    assert codec.decode(struct.pack("=I", 6)).name == "GOOD"


# Hostile types


def hostile() -> dict[str, tuple[Btf, int]]:
    """Types that no compiler makes, each a good blob by itself."""
    found = {}

    def add(name: str, make: Callable[[Builder], int]) -> None:
        builder = Builder()
        made = make(builder)
        found[name] = Btf(builder.encode()), made

    def integer(builder: Builder) -> int:
        return builder.integer("int", 4)

    def doubled(builder: Builder) -> int:
        """Each struct has the one before twice: 2**30 members."""
        made = integer(builder)
        for depth in range(30):
            made = builder.struct(f"s{depth}", 4, [("a", made, 0), ("b", made, 0)])
        return made

    def doubled_anonymously(builder: Builder) -> int:
        made = builder.struct("s", 4, [("x", integer(builder), 0)])
        for _ in range(30):
            made = builder.struct("", 4, [("", made, 0), ("", made, 0)])
        return made

    add("a struct in itself", lambda b: b.struct("s", 4, [("a", 1, 0)]))
    add("anonymously in itself", lambda b: b.struct("s", 4, [("", 1, 0)]))
    add("an array of itself", lambda b: b.array(2, 3))
    add("a typedef of itself", lambda b: b.typedef("t", 1))
    add("a member outside", lambda b: b.struct("s", 4, [("a", integer(b), 4)]))
    add("a bit outside", lambda b: b.struct("s", 4, [Member("a", integer(b), 20, 13)]))
    add("more bits than the type has", lambda b: b.struct("s", 8, [Member("a", integer(b), 0, 33)]))
    add("bits of a pointer", lambda b: b.struct("s", 8, [Member("a", b.pointer(), 0, 3)]))
    add("bits without a name", lambda b: b.struct("s", 8, [Member("", b.struct("t", 4, []), 0, 3)]))
    add("beside the byte", lambda b: b.struct("s", 8, [Member("a", b.pointer(), 3, 0)]))
    add("anonymous and outside", lambda b: b.struct("s", 4, [("", b.struct("t", 8, []), 0)]))
    add("two of one name", lambda b: b.struct("s", 8, [("a", 1, 0), ("a", integer(b), 4)]))
    add("2**32 - 1 empty structs", lambda b: b.array(b.struct("s", 0, []), 2**32 - 1))
    add("4 GiB", lambda b: b.array(integer(b), 2**30))
    add("a struct of 4 GiB", lambda b: b.struct("s", 2**32 - 1, []))
    add("2**24 bytes that are objects", lambda b: b.array(b.integer("signed char", 1, signed=True), 2**24))
    add(
        "a thousand readings of 4 MiB",
        lambda b: b.union("u", 4 << 20, [(f"m{i}", b.array(b.integer("char", 1), 4 << 20), 0) for i in range(1000)]),
    )
    add("2**30 members", doubled)
    add("2**30 anonymous members", doubled_anonymously)
    add("an integer of 17 bytes", lambda b: b.integer("int", 17))
    add("an integer of no bytes", lambda b: b.integer("int", 0))
    add("a float of 16 bytes", lambda b: b.float("long double", 16))
    add("an enum of 3 bytes", lambda b: b.enum("e", {"A": 1}, 3))
    add("void", lambda b: 0 * integer(b))
    add("a function", lambda b: b.function("f", 0, []))
    add("no such type", lambda b: 99 + integer(b))
    return found


@pytest.mark.parametrize("name", hostile())
def test_hostile_types(name):
    """What no compiler makes is a BtfError when the codec is made."""
    types, type_id = hostile()[name]
    with pytest.raises(BtfError):
        BtfCodec(types, type_id)


def test_large_types_that_are_all_right():
    """The limits leave room for what a map's value can be: 4 MiB of bytes, and of integers; an enum with many names."""
    builder = Builder()
    text = builder.array(builder.integer("char", 1, signed=True), 4 << 20)
    numbers = builder.array(builder.integer("int", 4), 1 << 20)
    many = builder.enum("many", {f"E{i}": i for i in range(5000)})
    types = Btf(builder.encode())
    assert BtfCodec(types, text).decode(bytes(4 << 20)) == bytes(4 << 20)
    assert sum(BtfCodec(types, numbers).decode((1).to_bytes(4, sys.byteorder) * (1 << 20))) == 1 << 20
    assert BtfCodec(types, many).decode((7).to_bytes(4, sys.byteorder)) == 7


@pytest.mark.skipif(not Path(VMLINUX).exists(), reason="by design: this kernel has no BTF")
def test_the_kernels_own_structs():
    """Every 50th struct of the kernel has a codec of its size, and zero bytes of it can be read and written."""
    types = vmlinux()
    tried = 0
    for type_id in range(1, len(types), 50):
        found = types.type(type_id)
        if found.kind in (Kind.STRUCT, Kind.UNION) and found.size < 100_000:
            codec = BtfCodec(types, type_id)
            assert codec.size == found.size
            assert codec.encode(codec.decode(bytes(codec.size))) == bytes(codec.size)
            tried += 1
    assert tried > 50
