"""What a listing and a drain of a map with keys keep to while others change the map, and when they are interrupted."""

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from rawbpf import BpfError, Cmd, Hash, LpmTrie, LruHash, PerCpuHash
from rawbpf.abi import ENOTSUPP, door
from rawbpf.abi.door import ffi
from rawbpf.maps.keyed import KeyedMap
from rawbpf.maps.per_cpu import PerCpuValues, buffer_size, padded
from rawbpf.syscall.proc import kernel_version, possible_cpus
from rawbpf.values.codecs import codec_for
from tests.conftest import SECONDS, SLOWNESS, Interrupted, needs_3_11, rounds

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the simulated one has no maps with keys")]


@contextmanager
def at_the_door(hook):
    previous = door.set_hook(hook)
    try:
        yield
    finally:
        door.set_hook(previous)


def trie_key(number):
    return 32, struct.pack(">I", number)


def make(kind, max_entries):
    """A map and what makes a key of a number."""
    return (kind(8, "<Q", max_entries), trie_key) if kind is LpmTrie else (kind("<I", "<Q", max_entries), int)


# Listing while others change the map


@pytest.mark.parametrize("batches", [True, False], ids=["in batches", "one by one"])
@pytest.mark.parametrize("kind", [Hash, LpmTrie])
def test_a_listing_while_others_add_and_delete(kind, batches):
    """No key comes twice, none that was never there, and the listing ends; of a hash each that stays comes. (In a trie
    the kernel's step to the next key can skip some.)"""
    m, key = make(kind, 4096)
    stays, stop = {key(n): n for n in range(0, 300, 3)}, threading.Event()

    def change(first):
        number = first
        while not stop.is_set():
            number = number + 3 if number < 300 else first
            m[key(number)] = number
            m.discard(key((number + 150) % 300 // 3 * 3 + first))

    with m:
        m._has_batches = batches
        m.update_many(stays)
        threads = [threading.Thread(target=change, args=(first,)) for first in (1, 2)]
        for thread in threads:
            thread.start()
        try:
            for _ in rounds(seconds=SECONDS / 2):
                listed = list(m.items())
                assert len({each for each, _ in listed}) == len(listed)
                assert {each for each, _ in listed} <= {key(n) for n in range(304)}
                if kind is Hash and batches:
                    assert stays.items() <= set(listed)
                    assert set(stays) <= set(m)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("kind", [Hash, LpmTrie])
def test_the_loop_may_delete_what_it_sees(kind):
    """Deleting each key in the loop over them sees all of them, each once; one by one and in batches."""
    for batches in (True, False):
        m, key = make(kind, 64)
        with m:
            m._has_batches = batches
            m.update_many({key(n): n for n in range(50)})
            seen = []
            for each in m:
                del m[each]
                seen.append(each)
            assert sorted(seen) == [key(n) for n in range(50)] and not m


def test_deleting_some_in_a_loop_is_one_walk(sent):
    """The next key is fetched before the loop can delete the one at hand: the kernel is not sent back to the first."""
    with LpmTrie(8, "<Q", 1024) as m:
        m._has_batches = False
        m.update_many({trie_key(n): n for n in range(1000)})
        for number, each in enumerate(m):
            if number % 2:
                del m[each]
        assert len(m) == 500
        assert [cmd for cmd, _ in sent].count(Cmd.BPF_MAP_GET_NEXT_KEY) < 2000


def test_the_key_at_hand_vanishes():
    """The kernel begins again with the first key then: nothing that came comes again, and all the rest comes."""
    with Hash("<I", "<Q", 64) as m:
        m._has_batches = False
        m.update_many({n: n for n in range(40)})
        deleted = []

        def hook(cmd, attr, size):
            # Each tenth key is deleted just before the kernel is asked for the one behind it.
            attr_fields = ffi.cast("union bpf_attr *", attr)
            if cmd == Cmd.BPF_MAP_GET_NEXT_KEY and attr_fields.key:
                (number,) = struct.unpack("<I", bytes(ffi.buffer(ffi.cast("char *", attr_fields.key), 4)))
                if number % 10 == 0 and number not in deleted:
                    deleted.append(number)
                    with at_the_door(None):
                        del m[number]
            return door.ask_kernel(cmd, attr, size)

        with at_the_door(hook):
            keys = list(m._raw_keys())
        assert len(deleted) == 4
        assert sorted(struct.unpack("<I", key)[0] for key in keys) == list(range(40))


def test_a_listing_that_is_always_sent_back():
    """Where each key vanishes as soon as it was seen and another comes, the listing is given up, as a dict's is."""
    with Hash("<I", "<Q", 4) as m:
        m._has_batches = False
        m[0] = 0

        def hook(cmd, attr, size):
            answer = door.ask_kernel(cmd, attr, size)
            if cmd == Cmd.BPF_MAP_GET_NEXT_KEY:
                with at_the_door(None):
                    (number,) = m
                    m[number + 1] = 0
                    del m[number]
            return answer

        m._has_batches = True
        with at_the_door(hook), pytest.raises(RuntimeError, match="faster than they can be listed"):
            list(m._raw_keys())


def test_eintr_from_a_batch():
    """A batch that the kernel ended because a key vanished (EINTR) is taken, and the listing goes on behind it."""
    calls = []

    def hook(cmd, attr, size):
        calls.append(cmd)
        if cmd == Cmd.BPF_MAP_LOOKUP_BATCH and len(calls) % 2:
            batch = ffi.cast("union bpf_attr *", attr).batch
            batch.count = min(batch.count, 3)
            answer = door.ask_kernel(cmd, attr, size)
            return -errno.EINTR if answer == 0 else answer
        return door.ask_kernel(cmd, attr, size)

    with LpmTrie(8, "<Q", 64) as m:
        items = {trie_key(n): n for n in range(20)}
        m.update_many(items)
        with at_the_door(hook):
            assert dict(m.items()) == items


# Buffers


SIZES = (1, 3, 4, 8, 12, 100)


@pytest.mark.parametrize("kind", ["hash", "array"])
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_stays_within_the_buffer(kind, size):
    """What the kernel reads and writes for a key is as long as the buffers are: to the last byte, and not beyond."""
    from rawbpf import PerCpuArray

    guard = 64
    with PerCpuHash("<I", size, 8) if kind == "hash" else PerCpuArray(size, 8) as m:
        whole = buffer_size(m.info())
        assert whole == possible_cpus() * -(-size // 8) * 8
        assert len(m._encode([bytes(size)] * possible_cpus())) == whole
        seen = []

        def hook(cmd, attr, length):
            fields = ffi.cast("union bpf_attr *", attr)
            if cmd == Cmd.BPF_MAP_LOOKUP_ELEM:
                place, count = fields, 1
            elif cmd == Cmd.BPF_MAP_LOOKUP_BATCH:
                place, count = fields.batch, fields.batch.count
            else:
                return door.ask_kernel(cmd, attr, length)
            name = "value" if count == 1 and cmd == Cmd.BPF_MAP_LOOKUP_ELEM else "values"
            ours = getattr(place, name)
            guarded = ffi.new("char[]", b"\xa5" * (whole * count + guard))
            setattr(place, name, int(ffi.cast("uintptr_t", guarded)))
            answer = door.ask_kernel(cmd, attr, length)
            done = 0 if answer == -ENOTSUPP else count if cmd == Cmd.BPF_MAP_LOOKUP_ELEM else fields.batch.count
            data = bytes(ffi.buffer(guarded))[: whole * count + guard]
            assert data[whole * done :] == b"\xa5" * (whole * (count - done) + guard)
            if done:
                last = data[whole * done - padded(size) : whole * done]
                assert last[:size] == b"\x5a" * size and b"\xa5" not in last
                seen.append(cmd)
            ffi.memmove(ffi.cast("char *", ours), data, whole * done)
            setattr(place, name, ours)
            return answer

        value = [b"\x5a" * size] * possible_cpus()
        for key in range(8):
            m[key] = value
        with at_the_door(hook):
            assert m[3] == value
            assert dict(m.items()) == dict.fromkeys(range(8), value)
        # Arrays per CPU have batches since Linux 5.13.
        in_batches = {Cmd.BPF_MAP_LOOKUP_BATCH} if kind == "hash" or kernel_version() >= (5, 13) else set()
        assert set(seen) == {Cmd.BPF_MAP_LOOKUP_ELEM, *in_batches}


def test_a_list_of_the_wrong_length(no_library_call):
    """A value for fewer or for more CPUs than are possible is refused, and so is a single one."""
    with PerCpuHash("<I", "<Q", 4) as m, no_library_call():
        for value, kind in (([1] * (possible_cpus() + 1), ValueError), ([], ValueError), (7, TypeError)):
            with pytest.raises(kind):
                m[1] = value


def test_each_cpu_has_its_place():
    """The values stand one behind the other, each padded to 8 bytes."""
    values = PerCpuValues(codec_for(3))
    data = values.encode([bytes([cpu + 1] * 3) for cpu in range(possible_cpus())])
    assert data == b"".join(bytes([cpu + 1] * 3 + [0] * 5) for cpu in range(possible_cpus()))


def test_possible_cpus():
    """It is the number that the C library says, too."""
    assert possible_cpus() == os.sysconf("SC_NPROCESSORS_CONF")


# What is taken is not lost


class Fussy:
    """Values that can't be decoded if they are odd."""

    size = 8

    def encode(self, value):
        return struct.pack("<Q", value)

    def decode(self, data):
        (value,) = struct.unpack("<Q", data)
        if value % 2:
            raise ZeroDivisionError(value)
        return value


@pytest.mark.linux("5.14")
def test_pop_of_what_can_not_be_decoded():
    """The element was taken, and take_held() has it."""
    with Hash("<I", Fussy(), 8) as m:
        m[1] = 1
        with pytest.raises(ZeroDivisionError):
            m.pop(1)
        assert 1 not in m and m.take_held() == [(struct.pack("<I", 1), struct.pack("<Q", 1))]
        assert m.take_held() == []


def test_drain_of_what_can_not_be_decoded():
    """What the drain can't decode it offers again, and the rest behind it; take_held() is the way past."""
    with Hash("<I", Fussy(), 64) as m:
        m.update_many({n: n for n in range(20)})
        found = {}
        for _ in range(30):
            try:
                found.update(m.drain())
                break
            except ZeroDivisionError:
                held = [(struct.unpack("<I", key)[0], struct.unpack("<Q", value)[0]) for key, value in m.take_held()]
                found.update(held)
        assert found == {n: n for n in range(20)}


def test_closing_with_what_was_taken_warns():
    """Elements that nobody got are worth a RuntimeWarning."""
    m = Hash("<I", Fussy(), 8)
    m.update_many({1: 1, 3: 3})
    with pytest.raises(ZeroDivisionError):
        list(m.drain())
    with pytest.warns(RuntimeWarning, match="2 elements of .* were taken"):
        m.close()


def test_a_forked_child_has_nothing_of_it():
    """What was taken before a fork is the parent's."""
    with Hash("<I", "<Q", 8) as m:
        m.update_many({n: n for n in range(4)})
        drain = m.drain()
        next(drain)
        drain.close()
        child = os.fork()
        if child == 0:
            os._exit(0 if m.take_held() == [] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list(m.drain())) == 3


def test_pop_where_the_kernel_has_no_command_for_it():
    """Before 5.14, and of a trie, the value is read and the key deleted; what can't be decoded stays."""

    def hook(cmd, attr, size):
        return -ENOTSUPP if cmd == Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM else door.ask_kernel(cmd, attr, size)

    with Hash("<I", Fussy(), 8) as m, at_the_door(hook):
        m.update_many({1: 1, 2: 2})
        assert m.pop(2) == 2 and m.pop(2, None) is None
        with pytest.raises(KeyError):
            m.pop(2)
        with pytest.raises(ZeroDivisionError):
            m.pop(1)
        assert 1 in m and m.take_held() == []


def test_what_pop_says_was_refused_where_it_takes_two_calls():
    """Before 5.14 the error is that of the call that was refused: of the lookup, or of the deletion."""
    refused = Cmd.BPF_MAP_LOOKUP_ELEM

    def hook(cmd, attr, size):
        if cmd == Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM:
            return -ENOTSUPP
        return -errno.EPERM if cmd == refused else door.ask_kernel(cmd, attr, size)

    with Hash("<I", "<Q", 8) as m, at_the_door(hook):
        m[1] = 1
        for refused in (Cmd.BPF_MAP_LOOKUP_ELEM, Cmd.BPF_MAP_DELETE_ELEM):
            with pytest.raises(BpfError) as caught:
                m.pop(1)
            assert caught.value.cmd == refused


@pytest.mark.parametrize(
    "cmd",
    [
        pytest.param(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, marks=pytest.mark.linux("5.14")),
        Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH,
    ],
)
@pytest.mark.parametrize("asked", [True, False], ids=["after the call", "before the call"])
def test_a_hook_that_raises(cmd, asked):
    """Whether it raises before the kernel took an element or after it: the element is in the map, or held."""

    def hook(command, attr, size):
        if command != cmd:
            return door.ask_kernel(command, attr, size)
        if asked:
            door.ask_kernel(command, attr, size)
        raise ZeroDivisionError

    with Hash("<I", "<Q", 8) as m:
        m.update_many({1: 10, 2: 20})
        with at_the_door(hook), pytest.raises(ZeroDivisionError):
            m.pop(1) if cmd == Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM else list(m.drain())
        rest = {struct.unpack("<I", key)[0]: struct.unpack("<Q", value)[0] for key, value in m.take_held()}
        assert bool(rest) == asked
        assert rest | dict(m.items()) == {1: 10, 2: 20}


def interrupt(signal_number, frame):
    """Raises if the signal came while rawbpf is at work, so that the test itself stays whole."""
    while frame is not None:
        if f"{os.sep}rawbpf{os.sep}maps{os.sep}" in frame.f_code.co_filename:
            raise Interrupted
        frame = frame.f_back


def emptied(m, way, got):
    """Empties the map until it is done; returns how often that was interrupted."""
    interruptions = 0
    while True:
        try:
            if way == "drain":
                for pair in m.drain():
                    got += (pair,)
            else:
                while (key := next(iter(m), None)) is not None:
                    value = m.pop(key)
                    got += ((key, value),)
            return interruptions
        except Interrupted:
            interruptions += 1


@needs_3_11
@pytest.mark.usefixtures("unraisable_ignored")
@pytest.mark.parametrize("way", ["drain", "pop"])
def test_signals_at_any_moment(way):
    """A signal handler that raises at any moment loses no element and hands none out twice."""
    previous = signal.signal(signal.SIGALRM, interrupt)
    interruptions = [0]
    try:
        with Hash("<I", "<Q", 512) as m:
            for round_ in rounds(lambda: sum(interruptions) > 20, seconds=SECONDS / 2):
                m.update_many({n: n * round_ for n in range(300)})
                got = []
                signal.setitimer(signal.ITIMER_REAL, 0.0002 * (round_ % 7 + 1), 0.0003 * SLOWNESS)
                interruptions.append(emptied(m, way, got))
                signal.setitimer(signal.ITIMER_REAL, 0)
                got += [(struct.unpack("<I", k)[0], struct.unpack("<Q", v)[0]) for k, v in m.take_held()]
                assert not m
                assert len(got) == 300 and dict(got) == {n: n * round_ for n in range(300)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_two_threads_drain_one_map():
    """Each element comes to one of them, however they meet."""
    with Hash("<I", "<Q", 8192) as m:
        for _ in rounds(seconds=SECONDS / 2):
            items = {n: n for n in range(5000)}
            m.update_many(items)
            got = [[], []]
            threads = [threading.Thread(target=lambda mine: mine.extend(m.drain()), args=(each,)) for each in got]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            both = got[0] + got[1]
            assert len(both) == 5000 and dict(both) == items


def test_closing_while_others_read():
    """A thread that reads while another closes the map gets ValueError, and no other map's value."""
    for _ in rounds(seconds=SECONDS / 2):
        m = Hash("<I", "<Q", 64)
        m[1] = 7
        found = []

        def read(m=m, found=found):
            try:
                while True:
                    found.append(m[1])
            except ValueError:
                pass

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        while not found:
            pass
        m.close()
        for thread in threads:
            thread.join()
        assert set(found) == {7}


# What is not there costs nothing


def test_what_is_not_used_is_not_imported():
    """`import rawbpf` loads none of these modules, and a hash loads not the ring buffer."""
    code = (
        "import sys, rawbpf; a = set(sys.modules); rawbpf.Hash; b = set(sys.modules);"
        "print(*(m for m in a if m.startswith('rawbpf.maps')), '|', *b)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = output.split("|")
    assert not {f"rawbpf.maps.{name}" for name in ("keyed", "hash", "array", "ring_buffer")} & set(before.split())
    assert "rawbpf.maps.hash" in after
    assert "rawbpf.maps.ring_buffer" not in after


def test_a_class_for_all():
    """LruHash and PerCpuHash are KeyedMaps too: one base for all that have keys."""
    assert issubclass(LruHash, KeyedMap) and issubclass(PerCpuHash, KeyedMap)
    with pytest.raises(BpfError):
        LruHash.from_id(0)
