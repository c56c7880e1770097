"""BTF broken at random: whatever the bytes are, only BtfError (KeyError for a name) comes out, soon and cheaply."""

import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rawbpf.btf.reader import VMLINUX, Btf, BtfError, Kind, Member, vmlinux
from rawbpf.btf.writer import Builder
from rawbpf.objects.declarations import read
from rawbpf.values.btf_codec import BtfCodec

pytestmark = pytest.mark.alike

# Types tried of each blob: a blob may have more than time allows.
TYPES = 60

SOURCE = """
    enum color { RED, GREEN = 5 };
    struct inner { unsigned a; char b; short array[3]; };
    struct event {
        unsigned long long time;
        char comm[16];
        struct inner in[2];
        enum color color;
        unsigned three : 3;
        int seven : 7;
        union { unsigned word; unsigned char bytes[4]; struct { short low, high; }; };
        void *pointer;
        char tail[];
    };
    typedef const struct event event;
    event value = {};
    long long counter = 1;
    int (*callback)(event *, ...);
    __attribute__((section("socket"))) int run(void *context) { return counter++; }
"""


def built() -> bytes:
    """Every kind that Builder knows."""
    builder = Builder()
    number = builder.integer("int", 4, signed=True)
    char = builder.integer("char", 1, signed=True)
    enum = builder.enum("color", {"RED": 0, "BLUE": -1})
    wide = builder.enum("wide", {"FAR": 1 << 40}, 8)
    real = builder.float("double", 8)
    pair = builder.struct("pair", 8, [("a", number, 0), ("b", number, 4)])
    flags = builder.struct("flags", 4, [Member("a", number, 0, 3), Member("b", enum, 3, 5)])
    either = builder.union("", 8, [("pair", pair, 0), ("real", real, 0), ("wide", wide, 0)])
    text = builder.array(char, 16)
    rows = builder.array(builder.array(builder.typedef("pair_t", builder.const(pair)), 2), 3)
    members = [
        ("", either, 0),
        ("flags", flags, 8),
        ("text", text, 12),
        ("rows", rows, 28),
        ("next", builder.pointer(), 80),
    ]
    builder.struct("all", 88, members)
    builder.function("run", number, [("context", builder.pointer())])
    return builder.encode()


def of_the_kernel() -> bytes:
    """A slice of the running kernel's own: its first types, with the names they have."""
    whole, data = vmlinux(), Path(VMLINUX).read_bytes()
    types, strings, number = bytearray(), bytearray(b"\0"), 1
    offsets: dict[int, int] = {}

    def renamed(offset: int) -> int:
        if offset not in offsets:
            offsets[offset] = len(strings)
            strings.extend(whole.string(offset).encode() + b"\0")
        return offsets[offset]

    while len(types) < 6000:
        start, end = whole.place(number), whole.place(number + 1)
        record = bytearray(data[start:end])
        struct.pack_into("=I", record, 0, renamed(struct.unpack_from("=I", record)[0]))
        types += record
        number += 1
    return blob(bytes(types), bytes(strings))


def blob(types: bytes, strings: bytes) -> bytes:
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def everything(data: bytes) -> int:
    """Calls all there is to call; returns how many answers were no error."""
    answers = 0

    def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal answers
        try:
            result = call(*arguments)
        except BtfError:
            return None
        answers += 1
        return result

    types = attempt(Btf, data)
    if types is None:
        return answers
    for type_id in [*range(min(len(types), TYPES)), len(types), -1, 2**32 - 1]:
        for method in (types.resolve, types.size_of, types.place):
            attempt(method, type_id)
        codec = attempt(BtfCodec, types, type_id)
        if codec is not None and codec.size < 5000:
            zeros = bytes(codec.size)
            assert codec.encode(codec.decode(zeros)) == zeros
        found = attempt(types.type, type_id)
        if found is not None:
            for reader in (types.members, types.fields, types.enumerators, types.array, types.integer):
                attempt(reader, found)
            for reader in (types.variables, types.parameters, types.linkage, types.component):
                attempt(reader, found)
    for offset in (0, 1, 7, len(data), 2**32 - 1):
        attempt(types.string, offset)
    for name in ("event", "pair", "", "no such name"):
        for call, arguments in ((types.find, (Kind.STRUCT, name)), (types.offset_of, (name, "a.b"))):
            try:
                attempt(call, *arguments)
            except KeyError:
                continue
    return answers


INTERESTING = (0, 1, 2, 3, 0x7F, 0xFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(rng: Random, data: bytes) -> bytes:
    """One to four changes: bits, words, kinds, pieces cut out, doubled or moved."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if len(broken) < 28:
            break
        at = rng.randrange(len(broken))
        word = rng.randrange(len(broken) // 4) * 4
        piece = bytes(broken[at : at + rng.randint(1, 40)])
        change = rng.randrange(7)
        if change == 0:
            broken[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            struct.pack_into("=I", broken, min(word, len(broken) - 4), rng.choice(INTERESTING))
        elif change == 2:
            struct.pack_into("=I", broken, min(word, len(broken) - 4), rng.randrange(64))
        elif change == 3:
            # Another kind, the same length.
            struct.pack_into("=I", broken, min(word, len(broken) - 4), rng.randrange(32) << 24 | rng.randrange(4))
        elif change == 4:
            del broken[at : at + len(piece)]
        elif change == 5:
            broken[at:at] = piece
        else:
            target = rng.randrange(len(broken))
            broken[target : target + len(piece)] = piece
    return bytes(broken)


def with_good_header(rng: Random, data: bytes) -> bytes:
    """Half of the time lengths are put right again, so that what lies behind them is reached."""
    if len(data) < 28 or rng.random() < 0.5:
        return data
    types_length = struct.unpack_from("=I", data, 12)[0] % (len(data) - 24)
    body = data[24:]
    return blob(body[:types_length], b"\0" + body[types_length:].strip(b"\0") + b"\0")


@pytest.fixture
def compiled_btf(compiled: Callable[[Path], Path], tmp_path: Path) -> bytes:
    """The .BTF section that clang writes."""
    source = tmp_path / "fuzzed.bpf.c"
    source.write_text(SOURCE)
    return read(compiled(source).read_bytes()).btf_data


@pytest.fixture
def bounded() -> Iterator[None]:
    """What the test does may take neither long nor much memory: an endless loop or a 4 GiB answer must show."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limit[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert time.process_time() - start < 120


def fuzz(original: bytes, seed: int, count: int) -> int:
    """Tries `count` mutations; returns how many were still BTF. Fails with the mutation's number."""
    rng, still = Random(seed), 0
    assert everything(original) > 100
    for number in range(count):
        data = with_good_header(rng, mutated(rng, original))
        try:
            still += everything(data) > 1
        except Exception as error:
            error.add_note(f"mutation {number} of seed {seed}: {data.hex()}") if hasattr(error, "add_note") else None
            raise
    return still


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("seed", range(4))
def test_mutations_of_what_builder_writes(seed):
    """1000 mutations of a blob with every kind: only BtfError and KeyError; a good part of them is BTF to the end."""
    assert fuzz(built(), seed, 1000) > 100


@pytest.mark.usefixtures("bounded")
def test_mutations_of_what_clang_writes(compiled_btf):
    """1000 mutations of a compiled file's .BTF section."""
    assert fuzz(compiled_btf, 1, 1000) > 100


@pytest.mark.usefixtures("bounded")
@pytest.mark.skipif(not Path(VMLINUX).exists(), reason="by design: this kernel has no BTF")
def test_mutations_of_the_kernels_own():
    """1000 mutations of the first types of the running kernel."""
    assert fuzz(of_the_kernel(), 2, 1000) > 100


@pytest.mark.usefixtures("bounded")
def test_bytes_that_are_no_btf_at_all():
    """Random bytes behind a good header, and without one."""
    rng = Random(3)
    for _ in range(500):
        types, strings = rng.randbytes(rng.randrange(200)), rng.randbytes(rng.randrange(60))
        everything(blob(types, b"\0" + strings + b"\0"))
        everything(types)


# Blobs that would take an unbounded reader hours or gigabytes


def chain(kind: int, length: int, last: int) -> bytes:
    """Types 1 to `length`, each of which refers to the next, the last to `last`."""
    references = [*range(2, length + 1), last]
    return blob(b"".join(struct.pack("=III", 0, kind << 24, each) for each in references), b"\0")


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "data",
    [
        chain(Kind.TYPEDEF, 50_000, 1),
        chain(Kind.CONST, 50_000, 0),
        # Arrays in a circle, with a long row of typedefs in it.
        blob(
            struct.pack("=IIIIII", 0, Kind.ARRAY << 24, 0, 2, 1, 2**32 - 1) + chain(Kind.TYPEDEF, 50_000, 0)[24:-1],
            b"\0",
        ),
        # Each array has the next as its element: (2**32 - 1) ** 20000 elements.
        blob(
            b"".join(struct.pack("=IIIIII", 0, Kind.ARRAY << 24, 0, i + 2, 1, 2**32 - 1) for i in range(20_000)),
            b"\0",
        ),
        # 65535 members whose one name has 2 MB.
        blob(
            struct.pack("=III", 0, Kind.STRUCT << 24 | 65535, 4) + struct.pack("=III", 1, 1, 0) * 65535,
            b"\0" + b"x" * (2 << 20) + b"\0",
        ),
        # 65535 unnamed members of the struct's own type.
        blob(struct.pack("=III", 0, Kind.STRUCT << 24 | 65535, 4) + struct.pack("=III", 0, 1, 0) * 65535, b"\0"),
        # 65535 members, each behind 30 typedefs.
        blob(
            struct.pack("=III", 0, Kind.UNION << 24 | 65535, 4)
            + b"".join(struct.pack("=III", 1, 2, 0) for _ in range(65535))
            + b"".join(struct.pack("=III", 0, Kind.TYPEDEF << 24, i + 3) for i in range(30))
            + struct.pack("=IIII", 1, Kind.INT << 24, 4, 32),
            b"\0x\0",
        ),
    ],
    ids=["circle", "chain", "arrays", "product", "name", "self", "typedefs"],
)
def test_blobs_that_cost(data):
    """Long chains, circles, products and names cost no more than the blob's own size."""
    types = Btf(data)
    for type_id in {1, len(types) // 2, len(types) - 1}:
        for call in (types.resolve, types.size_of, lambda i: types.fields(types.type(i)), lambda i: BtfCodec(types, i)):
            try:
                call(type_id)
            except BtfError:
                continue
