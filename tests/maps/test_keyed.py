"""Maps with keys, as mappings: what each operation gives, what it refuses, and what it says then."""

import ctypes
import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, MutableMapping

import pytest

import rawbpf
from rawbpf import (
    BPF_ANY,
    BPF_EXIST,
    BPF_NOEXIST,
    BTF,
    AlreadyExists,
    Array,
    BpfError,
    Cmd,
    Full,
    Hash,
    LpmTrie,
    LruHash,
    LruPerCpuHash,
    MapFlag,
    NoSuchIndex,
    NoSuchKey,
    NotPermitted,
    PerCpuArray,
    PerCpuHash,
    open_map,
)
from rawbpf.abi import ENOTSUPP, MapType, door
from rawbpf.syscall.proc import kernel_version, possible_cpus
from rawbpf.values.codecs import codec_for

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the simulated one has no maps with keys")]

needs_bpftool = pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")

HASHES = (Hash, LruHash, PerCpuHash, LruPerCpuHash)
ARRAYS = (Array, PerCpuArray)


def value_for(kind, number):
    """A value of 8 bytes for a class: the number, or one for each CPU."""
    return [number + cpu for cpu in range(possible_cpus())] if "PerCpu" in kind.__name__ else number


@pytest.fixture(params=HASHES)
def hashed(request):
    """One of each kind of hash, with keys "<I" and values "<Q"."""
    with request.param("<I", "<Q", 64, name="hashed") as m:
        yield m


@pytest.fixture(params=ARRAYS)
def array(request):
    with request.param("<Q", 4, name="array") as m:
        yield m


def test_a_hash_is_a_mutable_mapping(hashed):
    """It does what a dict does, with the same results."""
    one, two, three = (value_for(type(hashed), n) for n in (1, 2, 3))
    assert isinstance(hashed, MutableMapping) and not hashed and len(hashed) == 0
    hashed[1] = one
    hashed.update({2: two})
    assert hashed and len(hashed) == 2 and sorted(hashed) == [1, 2]
    assert hashed[1] == one and hashed.get(2) == two and hashed.get(3) is None and hashed.get(3, three) == three
    assert 1 in hashed and 3 not in hashed
    assert dict(hashed) == dict(hashed.items()) == {1: one, 2: two}
    assert sorted(hashed.keys()) == [1, 2] and len(hashed.items()) == 2 and one in list(hashed.values())
    assert hashed.setdefault(1, three) == one and hashed.setdefault(3, three) == three
    del hashed[3]
    assert hashed.discard(2) is True and hashed.discard(2) is False
    assert hashed.pop(1) == one and hashed.pop(1, None) is None
    hashed[4] = three
    assert hashed.popitem() == (4, three)
    hashed.update_many([(1, one), (2, two)])
    hashed.clear()
    assert dict(hashed) == {}


# Before Linux 5.14 a hash's value is read, and the key then deleted.
POP = Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM if kernel_version() >= (5, 14) else Cmd.BPF_MAP_LOOKUP_ELEM


@pytest.mark.parametrize(
    ("do", "cmd"),
    [
        (lambda m: m[7], Cmd.BPF_MAP_LOOKUP_ELEM),
        (lambda m: m.pop(7), POP),
        (lambda m: m.__delitem__(7), Cmd.BPF_MAP_DELETE_ELEM),
        (lambda m: m.update(7, value_for(type(m), 1), BPF_EXIST), Cmd.BPF_MAP_UPDATE_ELEM),
    ],
)
def test_a_missing_key(hashed, do, cmd):
    """A key that is not there is a KeyError with the kernel's ENOENT, which names the map and the key."""
    with pytest.raises(KeyError) as caught:
        do(hashed)
    error = caught.value
    assert type(error) is NoSuchKey and isinstance(error, BpfError)
    assert error.errno == errno.ENOENT and error.cmd == cmd
    assert "'hashed' has no key 7" in str(error)


def test_popitem_of_an_empty_map(hashed):
    """As a dict's, it is a KeyError."""
    with pytest.raises(KeyError, match="is empty"):
        hashed.popitem()


def test_update_flags(hashed):
    """BPF_NOEXIST adds and BPF_EXIST replaces; the other way round the kernel says EEXIST and ENOENT."""
    one, two = value_for(type(hashed), 1), value_for(type(hashed), 2)
    hashed.update(1, one, BPF_NOEXIST)
    with pytest.raises(AlreadyExists) as caught:
        hashed.update(1, two, BPF_NOEXIST)
    assert caught.value.errno == errno.EEXIST and hashed[1] == one
    hashed.update(1, two, BPF_EXIST)
    hashed.update(1, one, BPF_ANY)
    hashed.update_many({1: two}, BPF_EXIST)
    assert hashed[1] == two
    with pytest.raises(AlreadyExists, match="the key 1 already"):
        hashed.update_many({3: one, 1: one, 4: one}, BPF_NOEXIST)
    assert sorted(hashed) == [1, 3]


@pytest.mark.parametrize("flags", [3, 4, 8, 1 << 40, -1, "x"])
def test_other_flags_are_refused(no_library_call, hashed, flags):
    """A flag that these maps do not take is a ValueError, and the kernel is not asked."""
    with no_library_call(), pytest.raises(ValueError, match="update takes"):
        hashed.update(1, value_for(type(hashed), 1), flags)


@pytest.mark.parametrize("kind", [Hash, PerCpuHash])
def test_full(kind):
    """A key too many is Full, with E2BIG; replacing one that is there goes on."""
    with kind("<I", "<Q", 2, name="small", flags=MapFlag.BPF_F_NO_PREALLOC) as m:
        value = value_for(kind, 1)
        with pytest.raises(Full) as caught:
            m.update_many(dict.fromkeys(range(4), value))
        assert caught.value.errno == errno.E2BIG and "'small' is full (2 entries)" in str(caught.value)
        assert sorted(m) == [0, 1]
        m[1] = value_for(kind, 2)


def test_an_lru_hash_is_never_full():
    """It takes any number of keys, and keeps not more than max_entries."""
    with LruHash("<I", "<Q", 64) as m:
        m.update_many({n: n for n in range(1000)})
        assert 0 < len(m) <= 64
        assert all(key == value for key, value in m.items())


def test_an_array_is_a_mapping_of_its_indexes(array):
    """All indexes are there, always, and nothing can be deleted."""
    zero = [0] * possible_cpus() if type(array) is PerCpuArray else 0
    one = value_for(type(array), 1)
    assert isinstance(array, Mapping) and not isinstance(array, MutableMapping)
    assert array and len(array) == 4 and list(array) == [0, 1, 2, 3]
    array[2] = one
    array.update({3: one})
    assert dict(array) == {0: zero, 1: zero, 2: one, 3: one} == dict(array.items())
    assert list(array.values()) == [zero, zero, one, one]
    assert array.get(2) == one and array.get(4) is None and 3 in array and 4 not in array and -1 not in array
    assert not hasattr(array, "__delitem__") and not hasattr(array, "pop")


@pytest.mark.parametrize("index", [-1, 4, 1 << 32, 1 << 70])
def test_an_index_out_of_range(no_library_call, array, index):
    """It is an IndexError and a KeyError, said before the kernel is asked."""
    value = value_for(type(array), 1)
    with no_library_call():
        assert array.get(index) is None and index not in array
        for do in (lambda: array[index], lambda: array.update(index, value)):
            with pytest.raises(IndexError, match=r"they go from 0 to 3") as caught:
                do()
            assert type(caught.value) is NoSuchIndex and isinstance(caught.value, KeyError)


def test_no_index(array):
    """A key that is no number is a TypeError."""
    with pytest.raises(TypeError):
        array["0"]


def test_new_only_in_an_array_that_has_it_all(array):
    """BPF_NOEXIST can't be done in an array: EEXIST."""
    with pytest.raises(AlreadyExists):
        array.update(0, array[0], BPF_NOEXIST)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hash(0, 4, 1),
        lambda: Hash(4, 0, 1),
        lambda: Hash(4, 4, 0),
        lambda: Array(0, 1),
        lambda: Array(4, 0),
        lambda: LpmTrie(4, 4, 1),
        lambda: LpmTrie(8, 4, 1, flags=0),
        lambda: Hash(4, 4, 1, name="a name with spaces"),
        lambda: Hash(4, 4, 1 << 32),
    ],
)
def test_what_breaks_a_rule_is_not_sent(no_calls, make):
    """It is a ValueError, and no system call was made."""
    with pytest.raises(ValueError, match="EINVAL|4294967295|room|characters|only letters"):
        make()


def test_keys_and_values_that_do_not_fit(no_library_call, hashed):
    """They are refused before the kernel is asked, by reading and writing alike."""
    with no_library_call():
        for do in (lambda: hashed[1 << 32], lambda: hashed.pop("x"), lambda: hashed.update(1, "x")):
            with pytest.raises((TypeError, ValueError)):
                do()


def test_keys_of_all_kinds():
    """Bytes, struct formats, ctypes types and codecs of one's own are keys and values."""

    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_uint16), ("b", ctypes.c_uint16)]

    class Text:
        size = 8

        def encode(self, value):
            return value.encode().ljust(8, b"\0")

        def decode(self, data):
            return data.rstrip(b"\0").decode()

    for key, sample in ((4, b"abcd"), ("<HH", (1, 2)), (ctypes.c_uint32, 7), (Text(), "héllo")):
        with Hash(key, key, 4) as m:
            m[sample] = sample
            assert dict(m) == {sample: sample} and m.pop(sample) == sample
    with Hash(Pair, Pair, 4) as m:
        m[Pair(1, 2)] = Pair(3, 4)
        ((key, value),) = m.items()
        assert (key.a, key.b, value.a, value.b) == (1, 2, 3, 4)


@pytest.mark.admin
@pytest.mark.parametrize("kind", [*HASHES, LpmTrie])
def test_with_btf(kind):
    """A map that describes itself is opened by its types, key and value, whatever the type of map."""
    key, sample = (8, (8, b"\x0a\0\0\0")) if kind is LpmTrie else ("=IH2x", (7, 80))
    with kind(key, "=IH", 4, btf=True) as m, kind.from_id(m.id, BTF, BTF) as same:
        value = [(1, 2)] * possible_cpus() if "PerCpu" in kind.__name__ else (1, 2)
        m[sample] = value
        ((found_key, found_value),) = same.items()
        assert list(found_value) == list(value) and found_key[0] == sample[0]
        same[found_key] = found_value
        assert len(m) == 1 and same.pop(found_key) == found_value


@pytest.mark.admin
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_with_btf(kind):
    """So is an array, whose keys are indexes in any case."""
    with kind("=IH", 2, btf=True) as m, open_map(f"id:{m.id}", BTF) as same:
        assert type(same) is kind
        value = [(1, 2)] * possible_cpus() if kind is PerCpuArray else (1, 2)
        m[1] = value
        assert list(same[1]) == list(value) if kind is PerCpuArray else same[1] == value


def test_opening_by_the_wrong_size_or_type(bpf_folder):
    """Specifications that do not fit are refused, as is another type of map, or a program, and nothing stays open."""
    with Hash("<I", "<Q", 4, name="opened") as m:
        m.pin(f"{bpf_folder}/m")
        with pytest.raises(ValueError, match="has 8 bytes, hash 'opened' key_size 4"):
            Hash.open(f"{bpf_folder}/m", 8)
        with pytest.raises(ValueError, match="has 4 bytes, hash 'opened' value_size 8"):
            Hash.open(f"{bpf_folder}/m", "<I", "<I")
        with pytest.raises(ValueError, match="carries no BTF"):
            Hash.open(f"{bpf_folder}/m", BTF)
        with pytest.raises(TypeError, match="is no Array"):
            Array.open(f"{bpf_folder}/m")
        with Hash.open(f"{bpf_folder}/m") as raw:
            raw[b"abcd"] = b"12345678"
            assert m == m and m != raw and len({m, raw}) == 2
        with Hash.open(f"{bpf_folder}/m", "<I", "<Q", access="r") as reader, pytest.raises(NotPermitted):
            reader[1] = 1


def test_a_programs_descriptor_is_no_map(bpf_folder):
    """A socket filter has the number of a hash: its descriptor and its pin are refused all the same."""
    from rawbpf.programs.asm import R0, exit_, mov

    with rawbpf.Program(rawbpf.ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 0), exit_()]) as program:
        program.pin(f"{bpf_folder}/p")
        with pytest.raises(TypeError, match="no map's"):
            Hash.open(f"{bpf_folder}/p")
        with pytest.raises(TypeError, match="no map's"):
            open_map(f"{bpf_folder}/p")
        with pytest.raises(TypeError, match="no map's"):
            Hash.from_fd(program.fileno())


def test_after_close(hashed):
    """Each operation is a ValueError that names the map."""
    hashed.close()
    value = value_for(type(hashed), 1)
    for do in (
        lambda: hashed[1],
        lambda: hashed.update(1, value),
        lambda: hashed.update_many({1: value}),
        lambda: hashed.pop(1),
        lambda: hashed.discard(1),
        lambda: list(hashed),
        lambda: len(hashed),
        lambda: bool(hashed),
        lambda: list(hashed.drain()),
        lambda: 1 in hashed,
    ):
        with pytest.raises(ValueError, match="hashed' is closed"):
            do()


def test_frozen(hashed):
    """A frozen map is read and not written: EPERM."""
    value = value_for(type(hashed), 1)
    hashed[1] = value
    hashed.freeze()
    assert dict(hashed) == {1: value}
    for do in (
        lambda: hashed.update(1, value),
        lambda: hashed.update_many({1: value}),
        lambda: hashed.pop(1),
        lambda: hashed.__delitem__(1),
        lambda: list(hashed.drain()),
    ):
        with pytest.raises(NotPermitted) as caught:
            do()
        assert caught.value.errno == errno.EPERM


# Batches


def batches_answer(monkeypatch_errno):
    """A hook that refuses batch commands as a kernel without them does."""

    def hook(cmd, attr, size):
        if Cmd(cmd).name.endswith("_BATCH"):
            return -monkeypatch_errno
        return door.ask_kernel(cmd, attr, size)

    return hook


@pytest.mark.parametrize("refusal", [errno.EINVAL, ENOTSUPP])
@pytest.mark.parametrize("kind", [*HASHES, Array, PerCpuArray])
def test_batches_and_single_calls_give_the_same(kind, refusal):
    """What is set, listed and drained with batches is what single calls set, list and drain."""
    items = {n: value_for(kind, n * n) for n in range(50)}
    results = []
    for hook in (None, batches_answer(refusal)):
        with kind("<Q", 50) if kind in ARRAYS else kind("<I", "<Q", 128) as m:
            previous = door.set_hook(hook)
            try:
                m.update_many(items)
                listed = dict(m.items())
                drained = dict(m.drain()) if kind in HASHES else None
                results.append((listed, drained, len(m)))
            finally:
                door.set_hook(previous)
    assert results[0] == results[1]
    assert results[0][0] == items


@pytest.mark.linux("5.6")
def test_batches_are_used(sent):
    """A thousand elements need a few calls, and not a thousand."""
    with Hash("<I", "<Q", 1000) as m:
        before = len(sent)
        m.update_many({n: n for n in range(1000)})
        assert len(m) == 1000 and len(dict(m.items())) == 1000 and len(list(m.drain())) == 1000
        assert len(sent) - before < 20


def test_a_bucket_that_is_larger_than_the_batch(monkeypatch):
    """ENOSPC, where a whole bucket has no room in the buffers, means larger buffers, for a listing and for a drain."""
    monkeypatch.setattr(Hash, "_elements_of_batch", lambda self: 1)
    answers = []

    def hook(cmd, attr, size):
        answers.append(door.ask_kernel(cmd, attr, size))
        return answers[-1]

    items = {n: n for n in range(500)}
    with Hash("<I", "<Q", 512) as m:
        m.update_many(items)
        previous = door.set_hook(hook)
        try:
            assert dict(m) == items
            assert -errno.ENOSPC in answers
            answers.clear()
            assert dict(m.drain()) == items
            assert -errno.ENOSPC in answers
        finally:
            door.set_hook(previous)


def test_the_key_that_can_not_be_set_is_named(sent):
    """Where a batch stops, the error is about the key that it stopped at, and those before it are set, once. (Before
    Linux 5.13, which has no batches for tries, each is set with a call of its own, up to the bad one.)"""
    with LpmTrie(codec_for(8), "<I", 8) as m:
        good, bad = struct.pack("=I4s", 8, b"\x0a"), struct.pack("=I4s", 99, b"\x0a")
        with pytest.raises(BpfError) as caught:
            m.update_many([(good, 1), (bad, 2), (struct.pack("=I4s", 9, b"\x0a"), 3)])
        assert caught.value.errno == errno.EINVAL and caught.value.cmd == Cmd.BPF_MAP_UPDATE_ELEM
        assert [cmd for cmd, _ in sent].count(Cmd.BPF_MAP_UPDATE_ELEM) == (1 if kernel_version() >= (5, 13) else 2)
        assert dict(m) == {good: 1}


# bpftool


def dumped(m):
    output = subprocess.run(
        ["bpftool", "-j", "map", "dump", "id", str(m.id)], capture_output=True, text=True, check=True
    ).stdout
    return json.loads(output)


def as_bytes(digits):
    return bytes(int(each, 16) for each in digits)


@needs_bpftool
@pytest.mark.admin
@pytest.mark.parametrize("kind", [*HASHES, LpmTrie, *ARRAYS])
def test_bpftool_sees_the_same(kind):
    """bpftool map dump has the same keys and values, and what bpftool map update writes is read."""
    with (
        kind(6, 3) if kind in ARRAYS else kind(8, 6, 16, flags=MapFlag.BPF_F_NO_PREALLOC if kind is LpmTrie else 0) as m
    ):
        ours = {}
        for number in range(3):
            key = (8, bytes([number, 0, 0, 0])) if kind is LpmTrie else bytes([number] * 8)
            value = bytes([number + 1] * 6)
            key = number if kind in ARRAYS else key
            if "PerCpu" in kind.__name__:
                value = [bytes([cpu + 1] * 6) for cpu in range(possible_cpus())]
            m[key] = ours[key] = value
        theirs = {}
        for entry in dumped(m):
            key = as_bytes(entry["key"])
            if kind is LpmTrie:
                key = struct.unpack("=I4s", key)
            elif kind in ARRAYS:
                (key,) = struct.unpack("=I", key)
            if "values" in entry:
                assert [each["cpu"] for each in entry["values"]] == list(range(possible_cpus()))
                theirs[key] = [as_bytes(each["value"]) for each in entry["values"]]
            else:
                theirs[key] = as_bytes(entry["value"])
        assert theirs == ours == dict(m)


@needs_bpftool
@pytest.mark.admin
def test_what_bpftool_writes_is_read():
    """An element that bpftool sets or deletes is there, or is not."""
    with Hash("<I", "<Q", 16) as m:
        command = ["bpftool", "map", "update", "id", str(m.id), "key", "7", "0", "0", "0", "value", *"10000000"]
        subprocess.run(command, check=True)
        assert dict(m) == {7: 1}
        subprocess.run(["bpftool", "map", "delete", "id", str(m.id), "key", "7", "0", "0", "0"], check=True)
        assert dict(m) == {}


# Opening whatever it is


def test_every_type_has_a_class():
    """The classes that open_map() names are there, and each is for the type that leads to it."""
    from rawbpf.maps.opening import class_for

    for map_type in MapType:
        kind = class_for(map_type)
        types = getattr(kind, "map_types", ()) or (getattr(kind, "map_type", None),)
        assert map_type in types or kind is rawbpf.OtherMap


@pytest.mark.admin
def test_open_map_finds_the_class(bpf_folder):
    """By pin, id and name it gives the class for the type that the kernel says."""
    for kind, make in (
        (Hash, lambda name: Hash("<I", "<Q", 4, name=name)),
        (PerCpuArray, lambda name: PerCpuArray("<Q", 4, name=name)),
        (LpmTrie, lambda name: LpmTrie(8, "<Q", 4, name=name)),
        (rawbpf.RingBuffer, lambda name: rawbpf.RingBuffer(4096, name=name)),
        (rawbpf.Stack, lambda name: rawbpf.Stack("<Q", 4, name=name)),
    ):
        # Each has a name of its own: a map that was pinned is there a little longer than its pin.
        name = f"by_{kind.__name__}"
        with make(name) as m:
            m.pin(f"{bpf_folder}/m")
            for spec in (f"id:{m.id}", f"name:{name}", f"{bpf_folder}/m"):
                with open_map(spec) as same:
                    assert type(same) is kind and same.id == m.id
            os.unlink(f"{bpf_folder}/m")


@pytest.mark.admin
def test_specifications_for_open_map():
    """The value's is the second argument, the key's has a name, and where there is no key it is refused."""
    with Hash("<I", "<Q", 4) as m:
        m[1] = 2
        with open_map(f"id:{m.id}", "<Q", key="<I") as same:
            assert dict(same) == {1: 2}
    with Array("<Q", 4) as m, pytest.raises(TypeError, match="no specification of keys"):
        open_map(f"id:{m.id}", "<Q", key="<I")


def test_other_maps():
    """A map of a type without a class is opened as OtherMap: its facts, and its elements as bytes."""
    attr = rawbpf.bpf_attr(map_type=MapType.BPF_MAP_TYPE_STACK_TRACE, key_size=4, value_size=80, max_entries=8)
    with rawbpf.OtherMap.from_fd(rawbpf.bpf(Cmd.BPF_MAP_CREATE, attr)) as m:
        assert m.info().max_entries == 8 and list(m) == [] and m.get(b"\0\0\0\0") is None
        with pytest.raises(KeyError):
            del m[b"\0\0\0\0"]


@pytest.mark.linux("5.16")
def test_other_maps_without_keys():
    """A map that has no keys, and no class, says so."""
    attr = rawbpf.bpf_attr(map_type=MapType.BPF_MAP_TYPE_BLOOM_FILTER, value_size=4, max_entries=8)
    with rawbpf.OtherMap.from_fd(rawbpf.bpf(Cmd.BPF_MAP_CREATE, attr)) as m, pytest.raises(TypeError, match="no keys"):
        m[b""]
