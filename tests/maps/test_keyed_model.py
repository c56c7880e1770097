"""Maps with keys against a dict: whatever is done to both, by this object or by strangers, both say the same."""

import struct
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rawbpf import (
    BPF_EXIST,
    BPF_NOEXIST,
    AlreadyExists,
    Array,
    Cmd,
    Hash,
    LpmTrie,
    LruHash,
    LruPerCpuHash,
    NoSuchKey,
    PerCpuArray,
    PerCpuHash,
    bpf,
    bpf_attr,
    pointer,
)
from rawbpf.syscall.proc import possible_cpus
from tests.conftest import examples

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the simulated one has no maps with keys")]

CPUS = possible_cpus()
SETTINGS = settings(max_examples=examples(30), stateful_step_count=40, deadline=None)

numbers = st.integers(0, 2**64 - 1)
per_cpu = st.lists(numbers, min_size=CPUS, max_size=CPUS)
few = st.integers(0, 11)


class Model(RuleBasedStateMachine):
    """A map of values "<Q" and a dict. Strangers use the bare system call on a descriptor of their own."""

    kind: Any
    values: Any = numbers

    def make(self) -> Any:
        return self.kind("<I", "<Q", 1024)

    def __init__(self) -> None:
        super().__init__()
        self.m = self.make()
        self.other = type(self.m).from_id(self.m.id)
        self.model: dict[Any, Any] = {}

    def teardown(self) -> None:
        self.m.close()
        self.other.close()

    def key(self, number: int) -> Any:
        return number

    def covered(self, key: Any) -> Any:
        """What a lookup finds in the model: of a trie, the longest prefix."""
        return self.model.get(key)

    def stranger(self, cmd: Cmd, key: Any, value: Any = None) -> None:
        raw = bytearray(self.m._encode_key(key))
        data = bytearray(self.m._encode(value)) if value is not None else bytearray(1)
        attr = bpf_attr(map_fd=self.other.fileno(), key=pointer(raw), value=pointer(data) if value is not None else 0)
        bpf(cmd, attr, 32)

    # What both do

    @rule(data=st.data(), number=few)
    def set(self, data, number):
        key, value = self.key(number), data.draw(self.values)
        self.m[key] = value
        self.model[key] = value

    @rule(data=st.data(), number=few)
    def add(self, data, number):
        key, value = self.key(number), data.draw(self.values)
        try:
            self.m.update(key, value, BPF_NOEXIST)
        except AlreadyExists:
            assert key in self.model
        else:
            assert key not in self.model
            self.model[key] = value

    @rule(data=st.data(), number=few)
    def replace(self, data, number):
        key, value = self.key(number), data.draw(self.values)
        try:
            self.m.update(key, value, BPF_EXIST)
        except NoSuchKey:
            assert key not in self.model
        else:
            assert key in self.model
            self.model[key] = value

    @rule(data=st.data(), chosen=st.lists(few, unique=True))
    def set_many(self, data, chosen):
        items = {self.key(number): data.draw(self.values) for number in chosen}
        self.m.update_many(items)
        self.model.update(items)

    @rule(data=st.data(), number=few)
    def stranger_sets(self, data, number):
        key, value = self.key(number), data.draw(self.values)
        self.stranger(Cmd.BPF_MAP_UPDATE_ELEM, key, value)
        self.model[key] = value

    # What both say

    @rule(number=few)
    def look(self, number):
        key = self.key(number)
        expected = self.covered(key)
        assert self.m.get(key) == expected
        assert (key in self.m) == (expected is not None)

    @invariant()
    def alike(self):
        assert dict(self.m.items()) == self.model
        assert sorted(self.m) == sorted(self.model) and len(self.m) == len(self.model)

    @invariant()
    def alike_without_batches(self):
        self.m._has_batches = False
        assert sorted(self.m.items()) == sorted(self.model.items())
        self.m._has_batches = True


class Deleting(Model):
    """The same, with deletion."""

    @rule(number=few)
    def delete(self, number):
        key = self.key(number)
        try:
            del self.m[key]
        except NoSuchKey:
            assert key not in self.model
        else:
            del self.model[key]

    @rule(number=few)
    def discard(self, number):
        key = self.key(number)
        assert self.m.discard(key) == (self.model.pop(key, None) is not None)

    @rule(number=few)
    def pop(self, number):
        key = self.key(number)
        assert self.m.pop(key, None) == self.model.pop(key, None)

    @rule()
    def popitem(self):
        try:
            key, value = self.m.popitem()
        except NoSuchKey:
            assert not self.model
        else:
            assert self.model.pop(key) == value

    @rule(data=st.data(), number=few)
    def setdefault(self, data, number):
        key, value = self.key(number), data.draw(self.values)
        assert self.m.setdefault(key, value) == self.model.setdefault(key, value)

    @rule()
    def clear(self):
        self.m.clear()
        self.model.clear()

    @rule(batches=st.booleans())
    def drain(self, batches):
        kept, self.m._drains_in_batches = self.m._drains_in_batches, batches and self.m._drains_in_batches
        assert dict(self.m.drain()) == self.model
        self.m._drains_in_batches = kept
        self.model.clear()

    @rule()
    def drain_some(self):
        """Leaving a drain keeps what was taken, for the next one."""
        drain = self.m.drain()
        for _, (key, value) in zip(range(2), drain, strict=False):
            assert self.model.pop(key) == value
        drain.close()
        rest = dict(self.m.drain())
        assert rest == self.model
        self.model.clear()

    @rule(number=few)
    def stranger_deletes(self, number):
        key = self.key(number)
        if self.model.pop(key, None) is not None:
            self.stranger(Cmd.BPF_MAP_DELETE_ELEM, key)

    @rule(data=st.data(), number=few)
    def stranger_deletes_in_a_loop(self, data, number):
        """A loop in which a stranger deletes some key sees each of the others once."""
        gone, seen = self.key(number), []
        self.m._has_batches = data.draw(st.booleans())
        for position, key in enumerate(self.m):
            if position == 0 and self.model.pop(gone, None) is not None:
                self.stranger(Cmd.BPF_MAP_DELETE_ELEM, gone)
            seen.append(key)
        self.m._has_batches = True
        assert len(set(seen)) == len(seen)
        assert set(self.model) <= set(seen) <= set(self.model) | {gone}


class Indexed(Model):
    """An array has all its indexes from the beginning."""

    zero: Any = 0

    def make(self) -> Any:
        return self.kind("<Q", 12)

    def __init__(self) -> None:
        super().__init__()
        self.model = dict.fromkeys(range(12), self.zero)


# Some of them prefixes of each other, as (bits, bytes).
PREFIXES = [
    (bits, struct.pack(">I", address >> 32 - bits << 32 - bits if bits else 0))
    for address in (0x0A010203, 0x0A01FF00, 0xC0000000)
    for bits in (0, 9, 16, 32)
]


class Trie(Deleting):
    """A trie's lookup finds the longest prefix; everything else is about the key itself."""

    def make(self) -> Any:
        return self.kind(8, "<Q", 1024)

    def key(self, number: int) -> Any:
        return PREFIXES[number]

    def covered(self, key: Any) -> Any:
        length, address = key
        (wanted,) = struct.unpack(">I", address)
        found = {}
        for bits, data in self.model:
            (prefix,) = struct.unpack(">I", data)
            if bits <= length and (bits == 0 or prefix >> 32 - bits == wanted >> 32 - bits):
                found[bits] = self.model[bits, data]
        return found[max(found)] if found else None


def machine(base: type[Model], map_class: Any, **more: Any) -> Any:
    if "PerCpu" in map_class.__name__:
        more = {"values": per_cpu, "zero": [0] * CPUS, **more}
    case = type(map_class.__name__, (base,), {"kind": map_class, **more}).TestCase
    case.settings = SETTINGS
    return case


TestHash = machine(Deleting, Hash)
TestLruHash = machine(Deleting, LruHash)
TestPerCpuHash = machine(Deleting, PerCpuHash)
TestLruPerCpuHash = machine(Deleting, LruPerCpuHash)
TestArray = machine(Indexed, Array)
TestPerCpuArray = machine(Indexed, PerCpuArray)
TestLpmTrie = machine(Trie, LpmTrie)
