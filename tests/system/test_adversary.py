"""What comes from outside may be anything: pins and descriptors of others, names, values, environment, arguments.

SECURITY.md lists it all. Nothing reaches the kernel with a short buffer, no input is a crash or a SystemError, and a
refusal is a ValueError, a TypeError or the kernel's own errno.
"""

import array
import contextlib
import ctypes
import errno
import io
import os
import socket
import stat
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import rawbpf
from rawbpf import NotFound, NotPermitted, Queue, Stack, syscall
from rawbpf.abi import Cmd, MapType, ProgType
from rawbpf.btf.reader import Btf
from rawbpf.btf.writer import Builder
from rawbpf.cli.main import main
from rawbpf.programs.asm import R0, exit_, mov
from rawbpf.programs.program import Program
from tests.conftest import IS_ROOT, examples

pytestmark = pytest.mark.creates

# What a refusal may be. OverflowError is what cffi and struct say of an integer beyond all bounds.
REFUSED = (ValueError, TypeError, OSError, OverflowError)

GUARD = b"\x5a" * 64

fuzz = settings(deadline=None, max_examples=examples(60), suppress_health_check=list(HealthCheck))


# Pins and descriptors of others


def other_maps(folder: str) -> list[str]:
    """Pins maps that are no queue and no stack; returns their names."""
    names = []
    for name, map_type, key, value in (
        ("array", MapType.BPF_MAP_TYPE_ARRAY, 4, 8),
        ("hash", MapType.BPF_MAP_TYPE_HASH, 8, 8),
        ("bloom", 30, 0, 8),
    ):
        attr = syscall.bpf_attr(map_type=map_type, key_size=key, value_size=value, max_entries=4)
        with contextlib.suppress(rawbpf.BpfError):  # an old kernel has no bloom filter
            fd = syscall.bpf(Cmd.BPF_MAP_CREATE, attr, 72)
            syscall.obj_pin(fd, f"{folder}/{name}")
            os.close(fd)
            names.append(name)
    return names


@pytest.mark.admin
@pytest.mark.real_kernel(reason="other maps and programs")
def test_pins_of_other_things(bpf_folder):
    """A pin of a program or of another map is a TypeError, whatever its first bytes look like, and stays as it was."""
    names = other_maps(bpf_folder)
    with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 7), exit_()]) as program:
        program.pin(f"{bpf_folder}/program")
    # Its number is that of queues.
    with Program(ProgType(22), [mov(R0, 0), exit_()]) as program:
        program.pin(f"{bpf_folder}/program22")
    programs = ["program", "program22"]
    for opener, others in {
        Queue.open: names + programs,
        Stack.open: names + programs,
        rawbpf.open_map: programs,
    }.items():
        for name in others:
            with pytest.raises(TypeError):
                opener(f"{bpf_folder}/{name}")


@pytest.mark.admin
def test_a_pin_that_is_another_map_the_next_time(kind, bpf_folder):
    """A pin swapped for a map of larger values: an open map is not touched by it, and one that is opened by what is
    known of the old map is a ValueError, without it the kernel's own size."""
    path = f"{bpf_folder}/swapped"
    with kind("<I", 3) as small, kind(4096, 3) as large:
        small.pin(path)
        with kind.open(path, "<I") as m:
            os.unlink(path)
            large.pin(path)
            large.push(b"!" * 4096)
            small.push(7)
            assert m.pop() == 7
            assert m.value_size == m.info().value_size == 4
        with pytest.raises(ValueError, match="has 4 bytes, .* value_size 4096"):
            kind.open(path, "<I")
        with kind.open(path) as m:
            assert m.value_size == 4096
            assert m.pop() == b"!" * 4096


@pytest.mark.admin
@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 4096])
def test_a_value_size_that_is_not_what_is_expected(kind, bpf_folder, size):
    """However a map is opened and whatever size is expected: the kernel's is used, or it is a ValueError."""
    path = f"{bpf_folder}/m"
    with kind(4, 3) as m:
        m.pin(path)
        m.push(b"abcd")
        ways = [lambda: kind.open(path, size), lambda: rawbpf.open_map(path, size)]
        ways += [lambda: kind.from_fd(os.dup(m.fileno()), size)] if size == 4 else []
        for way in ways:
            if size == 4:
                with way() as again:
                    assert again.peek() == b"abcd"
            else:
                with pytest.raises(ValueError, match=f"{size} bytes"):
                    way()
        if size != 4:
            with pytest.raises(ValueError, match=f"the value has {size} bytes, and .* wants 4"):
                syscall.map_update_elem(m.fileno(), None, bytes(size))
        assert m.pop() == b"abcd"


@pytest.mark.real_kernel(reason="names that only the kernel can make")
def test_names_with_odd_bytes(kind):
    """A map whose name has bytes past ASCII, as the kernel takes them, can be opened, shown and closed; no name of
    ours has such bytes."""
    attr = syscall.bpf_attr(map_type=kind.map_types[0], value_size=4, max_entries=1, map_name=b"caf\xe9_\xff")
    try:
        fd = syscall.bpf(Cmd.BPF_MAP_CREATE, attr, 44)
    except rawbpf.BpfError as error:
        assert error.errno == errno.EINVAL  # the kernel's isalnum() may be stricter one day
        return
    with kind.from_fd(fd) as m:
        assert os.fsencode(m.name) == b"caf\xe9_\xff"
        assert "caf" in repr(m)
        with pytest.raises(rawbpf.Empty) as caught:
            m.pop()
        str(caught.value).encode("utf-8", "surrogateescape")
        with pytest.raises(ValueError, match="of ASCII may stand in it"):
            kind(4, 1, name=m.name)


@pytest.mark.linux("5.19")
@pytest.mark.admin
@pytest.mark.real_kernel(reason="file modes are the kernel's")
@pytest.mark.skipif(not IS_ROOT, reason="needs root to become another user")
def test_a_bpffs_of_somebody_else(kind, bpf_folder):
    """A pin in a bpffs that belongs to somebody else: opened as far as its mode allows, and only what the kernel says
    it is. Their folder does not let us pin, and says so. (Before 5.19 a sysctl may close all of bpf(2) to them.)"""
    path = f"{bpf_folder}/theirs"
    with kind("<I", 3) as m:
        m.pin(path)
        m.push(7)
        os.chown(path, 1234, 1234)
        os.chown(bpf_folder, 1234, 1234)
        os.chmod(bpf_folder, 0o755)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgid(4321)
                os.setuid(4321)
                for access in ("rw", "r", "w"):
                    with pytest.raises(NotPermitted) as caught:
                        kind.open(path, access=access)
                    assert caught.value.errno == errno.EACCES
                with pytest.raises(NotPermitted) as caught:
                    m.pin(f"{bpf_folder}/ours")
                assert caught.value.errno == errno.EACCES
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert m.pop() == 7


@pytest.mark.admin
def test_a_link_to_a_pin(kind, bpf_folder, tmp_path):
    """A symbolic link is followed, as by open(2); one that leads nowhere, or round in a circle, says so."""
    with kind(4, 1) as m:
        m.pin(f"{bpf_folder}/m")
        for name, target in (("good", f"{bpf_folder}/m"), ("gone", f"{bpf_folder}/x"), ("loop", f"{tmp_path}/loop")):
            os.symlink(target, tmp_path / name)
        with kind.open(tmp_path / "good") as again:
            assert again.id == m.id
        with pytest.raises(NotFound) as caught:
            kind.open(tmp_path / "gone")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)) as caught:
            kind.open(tmp_path / "loop")
        assert caught.value.errno == errno.ELOOP


@given(data=st.binary(max_size=3), kinds=st.lists(st.sampled_from(["map", "hash", "file", "socket"]), max_size=4))
@settings(deadline=None, max_examples=examples(40), suppress_health_check=list(HealthCheck))
def test_descriptors_over_a_socket(data, kinds):
    """Whatever arrives over a socket, recv_map() returns a map or refuses, and leaves nothing open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, Queue(4, 1) as q, open(os.devnull) as file:
        attr = syscall.bpf_attr(map_type=MapType.BPF_MAP_TYPE_STACK, value_size=4, max_entries=4)
        other = syscall.bpf(Cmd.BPF_MAP_CREATE, attr, 16)
        fds = {"map": q.fileno(), "hash": other, "file": file.fileno(), "socket": ours.fileno()}
        try:
            rights = array.array("i", [fds[each] for each in kinds])
            ours.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if kinds else [])
            before = set(os.listdir("/proc/self/fd"))
            try:
                rawbpf.recv_map(theirs).close()
                assert kinds[:1] == ["map"] or kinds[:1] == ["hash"]
            except (*REFUSED, EOFError):
                pass
            assert set(os.listdir("/proc/self/fd")) <= before
        finally:
            os.close(other)


# Codecs and buffers


class Short(ctypes.Structure):
    """A structure that has a short __bytes__() of its own."""

    _fields_ = (("a", ctypes.c_uint64), ("b", ctypes.c_uint64))

    def __bytes__(self) -> bytes:
        return b"x"


class ShortStruct(struct.Struct):
    """A struct format that packs less than it says."""

    def pack(self, *values):
        return b"x"


class ShortFormat(rawbpf.values.codecs.StructFormat):
    """A codec of ours, made worse."""

    def encode(self, value):
        return b"x"


class Liar:
    """A codec whose size and encoding have nothing to do with each other."""

    def __init__(self, size: int, encoded: object) -> None:
        self.size = size
        self.encoded = encoded

    def encode(self, value):
        return self.encoded

    def decode(self, data):
        return data


def test_no_codec_makes_a_short_buffer(kind):
    """What a subclass of a ctypes type, of struct.Struct or of our codecs encodes is whole, or refused."""
    with kind(Short, 2) as m:
        m.push(Short(1, 2))
        assert memoryview(m.pop()).tobytes() == struct.pack("=QQ", 1, 2)
    with kind(ShortStruct("=QQ"), 2) as m:
        m.push((1, 2))
        assert m.pop() == (1, 2)
    with kind(ShortFormat(struct.Struct("=QQ")), 2) as m:
        for push in (m.push, lambda value: m.push_many([value] * 20)):
            with pytest.raises(ValueError, match="the value has 1 bytes, and value_size is 16"):
                push((1, 2))
        assert m.pop(None) is None


# From few characters: of all there are, hypothesis first makes a table, which takes a guest half a minute.
text = st.text("ab9_. /:%+-\0\n\x7fé€\U0001f600\udcff", max_size=20)
anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), text, st.binary(max_size=80),
    st.lists(st.integers(), max_size=4), st.tuples(st.integers(), st.integers()), st.just(object()),
    st.binary(max_size=40).map(bytearray), st.binary(min_size=2, max_size=40).map(lambda data: memoryview(data)[::2]),
    st.lists(st.integers(0, 255), max_size=9).map(lambda numbers: array.array("H", numbers)),
)  # fmt: skip
specs = st.one_of(
    anything,
    st.integers(-1, 70),
    st.sampled_from(["<I", "IH", "", "x", "0s", "4s", "<Q3s", "P", "9999999s", "é", Short, ctypes.c_uint8]),
    st.builds(Liar, st.integers(-2, 70), anything),
)
numbers = st.one_of(st.integers(-2, 9), st.integers(), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**64]), anything)


@fuzz
@given(
    spec=specs, entries=st.one_of(st.integers(1, 5), numbers), name=anything, flags=numbers, node=numbers, token=numbers
)
def test_creation_with_anything(spec, entries, name, flags, node, token):
    """Queue() with any arguments makes a map that works or refuses; no other exception, nothing open."""
    options = {"name": name, "flags": flags, "numa_node": node, "token": token}
    for chosen in ({}, options):
        try:
            # As much as 2 MiB: this is no test of memory. Structures and formats have up to 16 bytes, or too many.
            if isinstance(entries, int) and abs((spec if isinstance(spec, int) else 16) * entries) > 2 << 20:
                entries = 1
            with Queue(spec, entries, **chosen) as q:
                q.info()
        except REFUSED:
            pass


@fuzz
@given(value=st.one_of(anything, st.binary(min_size=8, max_size=8)), flags=numbers, spec=specs)
def test_elements_with_anything(value, flags, spec):
    """push(), push_many(), pop_many() and pop_into() with any value, and maps of any kind of value: done or refused."""
    for chosen in (8, spec):
        with contextlib.suppress(*REFUSED), Queue(chosen, 40) as q:
            calls = (
                lambda: q.push(value),
                lambda: q.push(value, flags),
                lambda: q.push_many(value),
                lambda: q.push_many([value] * 15, flags),
                lambda: q.push_many(value, flags),
                lambda: q.pop_many(flags if isinstance(flags, int) and abs(flags) < 100 else value),
                lambda: q.pop_into(value),
                lambda: q.pop(value),
                lambda: list(q.drain(value)),
            )
            for call in calls:
                with contextlib.suppress(*REFUSED):
                    call()
            q.take_held()


@fuzz
@given(cmd=st.one_of(st.integers(38, 60), numbers), data=st.binary(max_size=200), size=st.one_of(st.none(), numbers))
def test_the_bare_call_with_anything(cmd, data, size):
    """bpf() with a command that no kernel has, any attr and any size: an errno or a refusal, and no byte is written
    around the attr."""
    if not isinstance(cmd, int) or isinstance(cmd, bool) or 0 <= cmd < 60 or (1 << 16) <= cmd < (1 << 16) + 60:
        cmd = 99
    memory = bytearray(GUARD + data + GUARD)
    view = memoryview(memory)[len(GUARD) : len(GUARD) + len(data)]
    with pytest.raises(REFUSED):
        rawbpf.bpf(cmd, view, size)
    assert bytes(memory) == GUARD + data + GUARD


class AnyOrder(RuleBasedStateMachine):
    """Any calls in any order on one map, closed or not, with guard bytes around each buffer that is filled."""

    @initialize(kind=st.sampled_from([Queue, Stack]), size=st.sampled_from([1, 3, 8, 17, 4096]))
    def make(self, kind, size):
        self.m = kind(size, 50)
        self.size = size
        self.value = bytes(range(256))[:size] * (1 + size // 256)

    @rule(count=st.integers(0, 60), flags=st.sampled_from([0, 2]))
    def push(self, count, flags):
        with contextlib.suppress(ValueError, rawbpf.Full):
            self.m.push_many([self.value[: self.size]] * count, flags)
            self.m.push(self.value[: self.size], flags)

    @rule(room=st.integers(0, 60), more=st.integers(0, 20), offset=st.integers(0, 70))
    def pop_into_a_slice(self, room, more, offset):
        length = room * self.size + more % self.size
        memory = bytearray(b"\x5a" * (offset + length) + GUARD)
        taken = 0
        with contextlib.suppress(ValueError):
            taken = self.m.pop_into(memoryview(memory)[offset : offset + length])
        end = offset + taken * self.size
        assert memory[:offset] == b"\x5a" * offset
        assert memory[offset:end] == self.value[: self.size] * taken
        assert memory[end:] == b"\x5a" * (offset + length - end) + GUARD

    @rule(count=st.integers(0, 60))
    def pop(self, count):
        with contextlib.suppress(ValueError):
            assert set(self.m.pop_many(count)) <= {self.value[: self.size]}
            assert self.m.peek(b"") in (b"", self.value[: self.size])
            assert self.m.pop(b"") in (b"", self.value[: self.size])

    @rule(count=st.integers(0, 60))
    def leave_a_drain(self, count):
        with contextlib.suppress(ValueError):
            for value in self.m.drain():
                assert value == self.value[: self.size]
                count -= 1
                if count < 0:
                    break

    @rule()
    def ask(self):
        with contextlib.suppress(ValueError, OSError):
            assert self.m.info().value_size == self.size
            repr(self.m), self.m.bulk, self.m.take_held()
            self.m.qsize()

    @rule(really=st.integers(0, 9))
    def close(self, really):
        if really == 0:
            self.m.take_held() if not self.m.closed else None
            self.m.close()

    def teardown(self):
        if hasattr(self, "m") and not self.m.closed:
            self.m.take_held()
            self.m.close()


AnyOrder.TestCase.settings = settings(deadline=None, max_examples=examples(40), stateful_step_count=25)
test_any_order = AnyOrder.TestCase


# Paths, ids, names, arguments, environment


@fuzz
@given(spec=st.one_of(anything, text.map("id:".__add__), text.map("name:".__add__)))
def test_specifications_of_maps(spec):
    """open_map(), open(), from_id(), from_name() with anything open a map or refuse."""
    for call in (rawbpf.open_map, Queue.open, Stack.from_id, Queue.from_name):
        with contextlib.suppress(*REFUSED, AttributeError):
            call(spec).close()


words = st.one_of(
    text,
    st.sampled_from(
        ["push", "pop", "peek", "show", "pin", "freeze", "explain", "size", "snapshot", "create", "queue", "-",
         "--json", "--hex", "--text", "--format", "<IH", "-n", "1", "0", "-1", "9" * 30, "id:0", "id:99999999",
         "name:x", "/dev/null", "/no/such", "map_create", "link_create", "00ff", "--value-size", "--entries", "--raw"]
    ),
)  # fmt: skip


@fuzz
@given(arguments=st.lists(words, min_size=1, max_size=6))
def test_command_lines(arguments, tmp_path_factory):
    """Any words on the command line are done or refused with an exit code of those in the README, never a traceback."""
    if "create" in arguments:
        # No pins in the machine's own folders.
        arguments = [word for word in arguments if not word.startswith("/")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        stdin, sys.stdin = sys.stdin, io.StringIO("")
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        finally:
            sys.stdin = stdin
    assert code in (None, 0, 1, 2, 3, 4)
    assert "Traceback" not in err.getvalue()


@pytest.mark.parametrize("name", ["RAWBPF_TRACE", "RAWBPF_SIMULATE"])
@pytest.mark.parametrize("value", ["", "0", "1", "yes", "../x", "\x7f\n"])
def test_environment(name, value, tmp_path):
    """The variables are read at import only; any value means on or off, and an import does not fail."""
    result = subprocess.run(
        [sys.executable, "-c", "import rawbpf; print(rawbpf.Queue)"],
        env=os.environ | {name: value, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "<class 'rawbpf.maps.queue_stack.Queue'>\n"), result.stderr


# BTF of others


def good_btf() -> bytes:
    builder = Builder()
    number = builder.integer("int", 4, signed=True)
    pointer = builder.pointer(number)
    builder.struct("pair", 16, [("a", number, 0), ("b", pointer, 8)])
    builder.function("f", number, [("x", pointer)])
    return builder.encode()


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, len(good_btf()) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
)
def test_btf_of_others(changes, cut):
    """BTF with any bytes changed or missing is read or is a ValueError or KeyError, and it ends."""
    data = bytearray(good_btf())
    for at, byte in changes:
        data[at] = byte
    with contextlib.suppress(ValueError, KeyError, IndexError, struct.error):
        btf = Btf(bytes(data[: len(data) - cut]))
        for type_id in range(len(btf)):
            with contextlib.suppress(ValueError, KeyError, IndexError, struct.error):
                found = btf.type(type_id)
                btf.size_of(type_id)
                btf.fields(found)
                btf.enumerators(found)


def test_a_map_that_vanishes_while_maps_lists(monkeypatch):
    """An id that was freed since it was listed is passed over."""
    monkeypatch.setattr(syscall, "map_ids", lambda: iter([1 << 30]))
    with contextlib.suppress(NotPermitted):
        assert list(rawbpf.list_maps()) == []
