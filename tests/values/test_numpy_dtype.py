"""numpy dtypes of a map's values, against the struct module, ctypes, numpy's own idea of ctypes, and BtfCodec."""

import ctypes
import math
import struct
import subprocess
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawbpf import BTF, Queue, RingBuffer
from rawbpf.btf.reader import Btf, Member
from rawbpf.btf.writer import Builder
from rawbpf.values.btf_codec import BtfCodec
from rawbpf.values.codecs import StructFormat, codec_for
from rawbpf.values.numpy_dtype import dtype_of
from tests.conftest import examples, needs_extra
from tests.maps.ring_producer import Producer
from tests.values.test_map_btf import described_types, random_composite

np = needs_extra("numpy", "numpy")


class Inner(ctypes.Structure):
    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_int32)]


class Event(ctypes.Structure):
    _fields_ = [
        ("time", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("comm", ctypes.c_char * 16),
        ("raw", ctypes.c_ubyte * 3),
        ("inner", Inner * 2),
        ("ok", ctypes.c_bool),
        ("real", ctypes.c_double),
    ]


def event(number: int) -> Event:
    inner = (Inner * 2)(Inner(number % 256, -number), Inner(1, 2))
    return Event(number, number + 1, b"bash", (ctypes.c_ubyte * 3)(1, 2, 255), inner, number % 2, number / 4)


# Maps


@pytest.mark.creates
@pytest.mark.parametrize("spec", ["<QI", "=I12s", ">Hd", "@bQ", "I", Event, ctypes.c_int16, ctypes.c_uint16 * 3, 24])
def test_records_through_a_map(kind, spec):
    """What is pushed as an array of q.dtype comes back as it was, byte for byte, by pop_into() and by pop_many()."""
    with kind(spec, 500) as q:
        given, data = np.empty(400, q.dtype), Random(7).randbytes(400 * q.value_size)
        rows = np.frombuffer(data, "u1").reshape(400, q.value_size)
        memoryview(given).cast("B")[:] = data
        assert q.dtype.itemsize == q.value_size
        assert q.push_many(given) == 400
        taken = np.empty(500, q.dtype)
        assert q.pop_into(taken) == 400
        assert taken[:400].tobytes() == (rows if kind is Queue else rows[::-1]).tobytes()
        assert q.push_many(taken[:0]) == 0 and q.pop_into(taken) == 0


@pytest.mark.creates
def test_named_members(kind):
    """The members of a ctypes structure are columns, numbers as numbers; a simple format's are f0, f1 ..."""
    with kind(Event, 64) as q:
        assert q.push_many([event(number) for number in range(50)]) == 50
        a = np.empty(64, q.dtype)
        n = q.pop_into(a)
        ordered = np.sort(a[:n], order="time")
        assert ordered["pid"].tolist() == list(range(1, 51))
        assert ordered["inner"]["b"][:, 0].tolist() == [-number for number in range(50)]
        assert set(ordered["comm"].tolist()) == {b"bash"} and ordered["raw"][3].tolist() == [1, 2, 255]
        assert ordered["real"].sum() == sum(range(50)) / 4 and ordered["ok"].sum() == 25
    assert dtype_of(codec_for("<IH")).names == ("f0", "f1")


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.13")  # floating-point numbers in BTF
@pytest.mark.real_kernel(reason="the simulated one has no BTF")
def test_the_types_that_a_map_carries(kind):
    """Opened with rawbpf.BTF, a map has the dtype of the C type it was made with."""
    with kind(Event, 8, btf=True) as q, kind.from_id(q.id, BTF) as typed:
        q.push(event(7))
        a = np.zeros(4, typed.dtype)
        assert typed.dtype == q.dtype
        assert typed.pop_into(a) == 1
        assert (a[0]["pid"], a[0]["comm"], a[0]["inner"]["b"].tolist()) == (8, b"bash", [-7, 2])


@pytest.mark.creates
@pytest.mark.linux("5.8")
@pytest.mark.real_kernel(reason="the simulated one has no ring buffers")
class TestRingBuffer:
    def test_records(self):
        """pop_into() takes as many records as the array holds, in order, none twice, and pop() goes on behind them."""
        with RingBuffer(1 << 16, "=Q") as ring, Producer(ring, discard=True) as producer:
            producer.produce(1000)
            kept = list(ring.drain())
            producer.produce(1000)
            a = np.zeros(300, ring.dtype)
            seen: list[int] = []
            while n := ring.pop_into(a):
                seen += a[:n].tolist()
                if (one := ring.pop(None)) is not None:
                    seen.append(one)
            assert seen == [each + 1000 for each in kept]
            assert ring.pending == 0 and ring.pop_into(a) == 0

    def test_a_record_of_another_size(self):
        """A record of another size ends the call before it, and is a ValueError where it is the first; it stays."""
        with RingBuffer(1 << 16, "=Q") as ring, Producer(ring, vary=True) as producer:
            producer.produce(3)
            a = np.zeros(8, ring.dtype)
            lengths = [len(data) for data in peeked(ring)]
            assert lengths[0] == 8 and lengths[1] != 8
            assert ring.pop_into(a) == 1
            for _ in range(2):
                with pytest.raises(ValueError, match=f"has {lengths[1]} bytes, not 8"):
                    ring.pop_into(a)
            assert len(ring.pop_bytes()) == lengths[1]

    def test_what_is_refused(self):
        """Records of any length have no dtype and go into no array; nor do records go into a buffer too small, or one
        that can't be written."""
        with RingBuffer(1 << 16) as ring:
            with pytest.raises(TypeError, match="any length"):
                _ = ring.dtype
            with pytest.raises(TypeError, match="any length"):
                ring.pop_into(bytearray(8))
        with RingBuffer(1 << 16, "=Q") as ring:
            with pytest.raises(ValueError, match="7 bytes, less than one record of 8"):
                ring.pop_into(bytearray(7))
            with pytest.raises(TypeError, match="read-only"):
                ring.pop_into(bytes(8))
            with pytest.raises(TypeError, match="holds addresses"):
                ring.pop_into(np.zeros(8, object))
        with pytest.raises(ValueError, match="closed"):
            ring.pop_into(bytearray(8))


def peeked(ring: "RingBuffer[Any]") -> "list[bytes]":
    records, _ = ring._mapped().scan(ring._info, 16)
    return [data for _, _, data in records]


# What has none


def btf_codec(make: Any) -> BtfCodec:
    builder = Builder()
    type_id = make(builder, builder.integer("unsigned int", 4))
    return BtfCodec(Btf(builder.encode()), type_id)


class Own:
    size = 4

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        return data


class Bits(ctypes.Structure):
    _fields_ = [("a", ctypes.c_uint, 3), ("b", ctypes.c_uint, 4)]


class Either(ctypes.Union):
    _fields_ = [("a", ctypes.c_uint), ("b", ctypes.c_float)]


class Anonymous(ctypes.Structure):
    _anonymous_ = ("either",)
    _fields_ = [("either", Either), ("c", ctypes.c_uint)]


class Pointing(ctypes.Structure):
    _fields_ = [("where", ctypes.POINTER(ctypes.c_int))]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("PI", "the code 'P'"),
        ("8pI", "the code 'p'"),
        (Own(), "nothing is known of the values of"),
        (Bits, "member 'a' of Bits is a bit-field"),
        (Either, "Either is a union"),
        (Anonymous, "Either is a union"),
        (Pointing, "is a pointer"),
        (ctypes.c_void_p, "c_void_p is a pointer"),
        (ctypes.c_wchar, "the code 'u'"),
        (ctypes.c_longdouble, "the code 'g'"),
        (btf_codec(lambda b, u32: b.struct("s", 4, [Member("a", u32, 0, 3)])), "member 'a' of 's' is a bit-field"),
        (btf_codec(lambda b, u32: b.union("either", 4, [("a", u32, 0)])), "'either' is a union"),
        (btf_codec(lambda b, u32: b.struct("s", 4, [("", b.union("", 4, [("a", u32, 0)]), 0)])), "'s' has a union"),
        (btf_codec(lambda b, u32: b.struct("s", 6, [("a", u32, 0), ("b", u32, 2)])), "'b' of 's' shares bytes"),
        (btf_codec(lambda b, u32: b.integer("__int128", 16, True)), "no number of 16 bytes like '__int128'"),
    ],
)
def test_what_has_no_dtype(spec, text):
    """What numpy has no dtype for is a TypeError that names it."""
    with pytest.raises(TypeError, match=f"no numpy.dtype: .*{text}"):
        dtype_of(codec_for(spec))


@pytest.mark.creates
def test_objects_stay_refused(kind):
    """An array with Python objects in it is refused, whatever its size: its bytes are addresses."""
    with kind(8, 4) as q:
        for dtype in (object, [("a", object)]):
            array = np.zeros(2, dtype)
            with pytest.raises(TypeError, match="holds addresses"):
                q.push_many(array)
            with pytest.raises(TypeError, match="holds addresses"):
                q.pop_into(array)


@pytest.mark.creates
def test_rows_of_another_size(kind):
    """Rows of an array count as values only where they have a value's size."""
    with kind(ctypes.c_uint16 * 3, 8) as q:
        assert q.push_many(np.zeros((2, 3), "u2")) == 2
        with pytest.raises(ValueError, match="items have 2 bytes, and value_size is 6"):
            q.push_many(np.zeros((3, 2), "u2"))


def test_without_numpy():
    """numpy is imported when a dtype is asked for and not before; without it the error says what to install."""
    code = """
import sys
import rawbpf.values.numpy_dtype as under_test
from rawbpf.values.codecs import codec_for
assert "numpy" not in sys.modules
sys.modules["numpy"] = None
try:
    under_test.dtype_of(codec_for("I"))
except ImportError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'rawbpf[numpy]'" in printed


# Random layouts

ITEMS = st.tuples(st.sampled_from(["", "2", "3"]), st.sampled_from("xcbB?hHiIlLqQefds"))


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(
    order=st.sampled_from(["", "@", "=", "<", ">", "!"]),
    items=st.lists(ITEMS, min_size=1, max_size=8),
    rng=st.randoms(use_true_random=False),
)
def test_random_struct_formats(order, items, rng):
    """numpy reads of random bytes what the struct module does, with every byte order, alignment and padding."""
    form = order + "".join(count + code for count, code in items) + rng.choice(["", "0Q"] if order in "@" else [""])
    if set(form) <= set("@=<>!x0123456789Q") and "Q" not in form.replace("0Q", ""):
        return
    codec = StructFormat(struct.Struct(form))
    dtype = dtype_of(codec)
    assert dtype.itemsize == codec.size
    # A _Bool of 2 is undefined in C, and is read as it was found.
    data = bytes(each & 1 for each in rng.randbytes(codec.size)) if "?" in form else rng.randbytes(codec.size)
    theirs = codec.decode(data)
    ours = np.frombuffer(data, dtype)[0].item()
    for their, our in zip(*((v if isinstance(v, tuple) else (v,)) for v in (theirs, ours)), strict=True):
        if isinstance(their, bytes):
            assert their.rstrip(b"\0") == our.rstrip(b"\0")
        else:
            assert their == our or (math.isnan(their) and math.isnan(our))


def offsets(dtype: Any) -> Any:
    """What a dtype says of its layout, whatever its members are of."""
    if dtype.subdtype:
        return dtype.itemsize
    if not dtype.names:
        return dtype.itemsize, dtype.kind, dtype.byteorder
    return dtype.itemsize, [(name, offset, offsets(kind)) for name, (kind, offset, *_) in dtype.fields.items()]


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(rng=st.randoms(use_true_random=False))
def test_random_ctypes_structures(rng):
    """For random ctypes structures the dtype has the members' names, places and kinds that numpy itself finds, and the
    BTF that describes them has the same dtype; or there is none, where there is a union, a bit-field or a pointer."""
    kind = random_composite(rng, 2, ctypes.Structure)
    try:
        dtype = dtype_of(codec_for(kind))
    except TypeError as error:
        assert any(word in str(error) for word in ("union", "bit-field", "pointer"))
        return
    if ctypes.sizeof(kind) == 0:
        return
    try:
        theirs = np.dtype(kind)
    except ValueError:
        return  # numpy itself takes no array of structures that have no size
    assert dtype.itemsize == theirs.itemsize == ctypes.sizeof(kind)
    assert [(name, at) for name, (_, at, *_) in dtype.fields.items()] == [
        (name, at) for name, (_, at, *_) in theirs.fields.items()
    ]
    for name in dtype.names:
        if not theirs[name].subdtype:
            assert offsets(dtype[name]) == offsets(theirs[name])
    try:
        types, type_id = described_types(kind)
    except ValueError:
        return
    for name, (described, at, *_) in dtype_of(BtfCodec(types, type_id)).fields.items():
        assert (described.itemsize, at) == (dtype[name].itemsize, dtype.fields[name][1])
