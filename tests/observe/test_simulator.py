"""The simulated kernel: the same bytes in give the same answers as the real one, and it behaves like a kernel."""

import ctypes
import errno
import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

import rawbpf
from rawbpf import (
    BPF_EXIST,
    Empty,
    Full,
    MapFlag,
    MapType,
    NotPermitted,
    Queue,
    Stack,
    Unsupported,
    bpf,
    bpf_attr,
    syscall,
)
from rawbpf.abi import Cmd, door, layout
from rawbpf.abi.door import ffi, lib
from rawbpf.btf.writer import Builder
from rawbpf.maps import bpffs
from rawbpf.observe.simulated_kernel import SimulatedKernel
from rawbpf.observe.simulator import NEWEST
from rawbpf.syscall.proc import kernel_version
from tests.conftest import IS_ADMIN, IS_ROOT, SECONDS, SLOWNESS

# The running kernel against the simulated one

GUARD = b"\x5a" * 16
CREATE, PUSH, PEEK, POP = (
    Cmd.BPF_MAP_CREATE,
    Cmd.BPF_MAP_UPDATE_ELEM,
    Cmd.BPF_MAP_LOOKUP_ELEM,
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
)
MAKES_DESCRIPTOR = (CREATE, Cmd.BPF_OBJ_GET, Cmd.BPF_MAP_GET_FD_BY_ID)


class World:
    """One of the two kernels: a function that answers calls, and a folder that is a bpffs."""

    def __init__(self, call: Callable[..., int], folder: str) -> None:
        self.call = call
        self.folder = folder


class Both:
    """A map in both worlds."""

    def __init__(self, fds: tuple[int, int], ids: tuple[int, int], value_size: int) -> None:
        self.fds = fds
        self.ids = ids
        self.value_size = value_size


def mostly(good, *rare):
    """One time in nine something of the rare; many of these together must still leave calls that succeed."""
    return st.sampled_from([*[good] * (8 * len(rare)), *rare])


sizes = mostly(None, 0, 4, 8, 12, 15, 16, 20, 23, 24, 28, 31, 32, 40, 44, 64, 72, 92, 96, 168)
stray_bytes = mostly(None, *range(191))
element_flags = mostly(0, 1, 2, 3, 4, 5, 8, 16, 32, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1)
addresses = st.sampled_from(["buffer"] * 12 + ["null", "bad", "edge", "read-only", "kernel"])
keys = mostly(0, 1, "buffer")


element_arguments = {
    "key": keys,
    "place": addresses,
    "value": st.binary(min_size=8, max_size=8),
    "flags": element_flags,
    "size": sizes,
    "stray": stray_bytes,
}


class Memory:
    """Memory with an end: a page that can be written, one that can be read, and nothing."""

    PAGE = 4096

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        arguments = (ctypes.c_void_p(None), ctypes.c_size_t(3 * self.PAGE), 3, 0x22, -1, ctypes.c_long(0))
        self.address = self._libc.mmap(*arguments)
        self._libc.mprotect(ctypes.c_void_p(self.address + self.PAGE), self.PAGE, 1)
        self._libc.mprotect(ctypes.c_void_p(self.address + 2 * self.PAGE), self.PAGE, 0)

    def close(self) -> None:
        self._libc.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(3 * self.PAGE))


class BothKernels:
    """Makes each call in both kernels: same result, same errno, same bytes."""

    def start_both(self) -> None:
        self.stack = ExitStack()
        version = ".".join(map(str, min(kernel_version(), layout.version(NEWEST))))
        # Below the door: the suite itself may run on a simulated kernel.
        simulated = self.stack.enter_context(apart(version))
        real = self.stack.enter_context(bpffs.mounted()) if IS_ADMIN else ""
        self.worlds = (World(lib.bpf_syscall, real), World(simulated.bpf, simulated.bpffs))
        self.memory = Memory()
        self.stack.callback(self.memory.close)
        self.null = os.open(os.devnull, os.O_RDWR)
        self.stack.callback(os.close, self.null)
        self.open: list[Both] = []
        if kernel_version() < (5, 11):
            # Maps were charged to it then; the simulated kernel has no limit.
            limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self.stack.callback(resource.setrlimit, resource.RLIMIT_MEMLOCK, limits)

    def end_both(self) -> None:
        for both in self.open:
            for fd in both.fds:
                os.close(fd)
        self.stack.close()

    def both(
        self, cmd: int, attrs: tuple[bytes, bytes], size: int | None, stray: int | None = None
    ) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        answers = []
        for world, attr in zip(self.worlds, attrs, strict=True):
            data = bytearray(attr.ljust(200, b"\0"))
            if stray is not None:
                data[stray] |= 0x41
            length = len(attr) if size is None else size
            # As long as the kernel may write: it answers into the attr also behind the size.
            holder = ffi.from_buffer("char[]", data)
            result = world.call(cmd, holder, length)
            answers.append((result, bytes(data)))
        (real, _), (simulated, _) = answers
        if real >= 0 or simulated >= 0:
            assert real >= 0 and simulated >= 0, (cmd, size, answers)
            if cmd not in MAKES_DESCRIPTOR:
                assert real == simulated
        else:
            assert (errno.errorcode.get(-real, -real), cmd) == (errno.errorcode.get(-simulated, -simulated), cmd), attrs
        return answers[0], answers[1]

    def made(self, real: int, simulated: int) -> "Both | None":
        """The new map in both, if it was made; its descriptors have the same mode and flags."""
        if real < 0:
            return None
        for command in (fcntl.F_GETFL, fcntl.F_GETFD):
            mask = os.O_ACCMODE if command == fcntl.F_GETFL else fcntl.FD_CLOEXEC
            assert fcntl.fcntl(real, command) & mask == fcntl.fcntl(simulated, command) & mask
        infos = [self.info_of(world, fd) for world, fd in zip(self.worlds, (real, simulated), strict=True)]
        both = Both((real, simulated), (infos[0].id, infos[1].id), infos[0].value_size)
        self.open.append(both)
        return both

    def info_of(self, world: World, fd: int):
        info = ffi.new("struct bpf_map_info *")
        attr = bpf_attr(info={"bpf_fd": fd, "info_len": 80, "info": int(ffi.cast("uintptr_t", info))})
        assert world.call(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr, 16) == 0
        return info

    def created(self, attr: bytes, size: int | None, stray: int | None) -> "Both | None":
        (real, _), (simulated, _) = self.both(CREATE, (attr, attr), size, stray)
        return self.made(real, simulated)

    def element(self, cmd, which, key, place, value, flags, size, stray):
        if stray is not None and stray < 24:
            stray = None  # other descriptors and addresses have their own cases
        if size is not None and size % 8 and size < 24:
            size = None  # half an address
        buffers = [bytearray(GUARD + value + GUARD) for _ in range(2)]
        attrs = []
        for fd, buffer in zip(which.fds, buffers, strict=True):
            address = {
                "buffer": syscall.pointer(buffer) + len(GUARD),
                "null": 0,
                "bad": 1,
                "edge": self.memory.address + self.memory.PAGE - which.value_size + 1,
                "read-only": self.memory.address + self.memory.PAGE,
                "kernel": 2**63 + 4096,
            }[place]
            key_address = syscall.pointer(buffer) if key == "buffer" else key
            attr = bpf_attr(map_fd=fd, key=key_address, value=address, flags=flags)
            attrs.append(bytes(ffi.buffer(attr))[:32])
        self.both(cmd, (attrs[0], attrs[1]), size, stray)
        assert buffers[0] == buffers[1]


class SameAnswers(BothKernels, RuleBasedStateMachine):
    """Whatever is done to maps is answered alike by both kernels."""

    maps = Bundle("maps")

    @initialize(target=maps, max_entries=st.integers(1, 4), value_size=st.sampled_from([1, 4, 8]))
    def start(self, **fields):
        self.start_both()
        attrs = [bytes(ffi.buffer(bpf_attr(map_type=map_type, **fields)))[:16] for map_type in (22, 23)]
        return multiple(*(self.created(attr, None, None) for attr in attrs))

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.end_both()

    # Maps

    @rule(
        target=maps,
        map_type=st.sampled_from([22] * 9 + [23] * 9 + [0, 9999]),
        key_size=mostly(0, 4),
        value_size=st.sampled_from([1, 3, 4, 4, 8, 8] * 4 + [0, (4 << 20) + 1]),
        max_entries=st.sampled_from([1, 2, 3, 3] * 5 + [0]),
        map_flags=mostly(0, 4, 8, 0x10, 0x18, 0x80, 0x100, 0x180, *(1 << bit for bit in range(32) if bit != 16)),
        numa_node=mostly(0, 2**32 - 1, 4095),
        name=st.one_of(*[st.just(b"")] * 4, *[st.just(b"sample_queue")] * 4, st.binary(max_size=16)),
        other=mostly(
            {},
            {"map_ifindex": 1},
            {"inner_map_fd": 9},
            {"btf_vmlinux_value_type_id": 1},
            {"map_extra": 1},
            {"btf_key_type_id": 1},
            {"btf_value_type_id": 1, "btf_fd": 4095},
            {"btf_value_type_id": 1},
            {"map_token_fd": 4095},
            {"value_type_btf_obj_fd": 4095},
        ),
        size=sizes,
        stray=stray_bytes,
    )
    def create(self, other, size, stray, name, **fields):
        # The token flag is left out: what a bad token answers is tested elsewhere, a good one can't be simulated. And
        # a hash size without a hash leaks the map on some kernels.
        if stray is not None and 80 <= stray < 92:
            stray = None
        both = self.created(bytes(ffi.buffer(bpf_attr(**fields, **other, map_name=name)))[:92], size, stray)
        # Few maps, that much happens to each.
        return multiple() if both is None or len(self.open) > 5 else both

    @rule(
        target=maps, which=maps, open_flags=st.sampled_from([0, 0, 0, 8, 16, 24, 1, 4]), size=sizes, stray=stray_bytes
    )
    def by_id(self, which, open_flags, size, stray):
        if not IS_ADMIN:
            return multiple()
        attrs = [bytes(ffi.buffer(bpf_attr(map_id=number, open_flags=open_flags)))[:12] for number in which.ids]
        if (size is not None and size < 4) or (stray is not None and stray < 4):
            # Half an id is another one.
            return multiple()
        (real, _), (simulated, _) = self.both(Cmd.BPF_MAP_GET_FD_BY_ID, (attrs[0], attrs[1]), size, stray)
        both = self.made(real, simulated)
        return multiple() if both is None else both

    @rule(
        which=maps,
        before=st.booleans(),
        size=st.sampled_from([None, None, 4, 8, 16]),
        stray=mostly(None, *range(8, 191)),
    )
    def next_id(self, which, before, size, stray):
        if not IS_ADMIN:
            return
        starts = [number - 1 if before else 2**31 - 1 for number in which.ids]
        attrs = [bytes(ffi.buffer(bpf_attr(start_id=start)))[:8] for start in starts]
        (real, after), (_, simulated_after) = self.both(Cmd.BPF_MAP_GET_NEXT_ID, (attrs[0], attrs[1]), size, stray)
        if real == 0:
            # Written also behind an attr of 4 bytes.
            found = [int.from_bytes(data[4:8], sys.byteorder) for data in (after, simulated_after)]
            assert tuple(found) == which.ids

    # Elements

    @rule(which=maps, **element_arguments, replace=st.booleans())
    def push(self, flags, replace, **others):
        self.element(PUSH, flags=2 if flags == 0 and replace else flags, **others)

    @rule(which=maps, **element_arguments)
    def push_more(self, **others):
        self.element(PUSH, **others)

    @rule(which=maps, **element_arguments)
    def peek(self, **others):
        self.element(PEEK, **others)

    @rule(which=maps, **element_arguments)
    def pop(self, **others):
        self.element(POP, **others)

    @rule(which=maps, **element_arguments, cmd=st.sampled_from([Cmd.BPF_MAP_DELETE_ELEM, Cmd.BPF_MAP_GET_NEXT_KEY]))
    def with_keys(self, **others):
        self.element(**others)

    @rule(
        cmd=st.sampled_from([PUSH, PEEK, POP, 3, 4, 22, 24, 25, 26, 27, Cmd.BPF_OBJ_GET_INFO_BY_FD, Cmd.BPF_OBJ_PIN]),
        fd=st.sampled_from(["null", 4095, 2**31, 2**32 - 1]),
        flags=element_flags,
    )
    def not_a_map(self, cmd, fd, flags):
        number = self.null if fd == "null" else fd
        buffer = bytearray(b"/nowhere/at/all\0".ljust(64, b"\0"))
        address = syscall.pointer(buffer)
        if cmd == Cmd.BPF_OBJ_PIN:
            attr = bytes(ffi.buffer(bpf_attr(pathname=address, bpf_fd=number)))[:16]
        elif cmd == Cmd.BPF_OBJ_GET_INFO_BY_FD:
            attr = bytes(ffi.buffer(bpf_attr(info={"bpf_fd": number, "info_len": 64, "info": address})))[:16]
        elif cmd in (24, 25, 26, 27):
            attr = bytes(ffi.buffer(bpf_attr(batch={"map_fd": number, "count": 1, "elem_flags": flags})))[:56]
        elif cmd == 22:
            attr = bytes(ffi.buffer(bpf_attr(map_fd=number)))[:4]
        else:
            attr = bytes(ffi.buffer(bpf_attr(map_fd=number, value=address, flags=flags)))[:32]
        self.both(cmd, (attr, attr), None)

    @rule(
        which=maps,
        cmd=st.sampled_from([24, 25, 26, 27]),
        count=st.integers(0, 3),
        size=sizes,
        stray=mostly(None, *range(56, 191)),
    )
    def batch(self, which, cmd, count, size, stray):
        if size is not None and size < 40:
            size = None
        attrs = [bytes(ffi.buffer(bpf_attr(batch={"map_fd": fd, "count": count})))[:56] for fd in which.fds]
        (_, after), (_, simulated_after) = self.both(cmd, (attrs[0], attrs[1]), size, stray)
        assert after[32:36] == simulated_after[32:36]

    @rule(which=maps, size=st.sampled_from([None, None, None, 8, 32]), stray=stray_bytes, really=st.integers(0, 5))
    def freeze(self, which, size, stray, really):
        # Not often: it ends what can be done with a map.
        if stray is None and really:
            return
        stray = None if stray is not None and stray < 4 else stray
        attrs = [bytes(ffi.buffer(bpf_attr(map_fd=fd)))[:4] for fd in which.fds]
        self.both(Cmd.BPF_MAP_FREEZE, (attrs[0], attrs[1]), size, stray)

    @rule(
        which=maps,
        length=st.sampled_from([0, 1, 4, 16, 24, 31, 40, 64, 80, 88, 96, 104, 112, 200, 4096, 4097, 2**32 - 1]),
        hash_size=st.sampled_from([0, 0, 0, 0, 32, 1]),
        tail=st.sampled_from([0, 0, 0, 1]),
        address=mostly("buffer", "null", "bad"),
        stray=mostly(None, *range(16, 191)),
    )
    def info(self, which, length, hash_size, tail, address, stray):
        buffers = [bytearray(5000) for _ in range(2)]
        attrs = []
        for fd, buffer in zip(which.fds, buffers, strict=True):
            buffer[96] = hash_size
            buffer[150] = tail
            place = {"buffer": syscall.pointer(buffer), "null": 0, "bad": 1}[address]
            attr = bpf_attr(info={"bpf_fd": fd, "info_len": length, "info": place})
            attrs.append(bytes(ffi.buffer(attr))[:16])
        (result, after), (_, simulated_after) = self.both(Cmd.BPF_OBJ_GET_INFO_BY_FD, (attrs[0], attrs[1]), None, stray)
        if result == 0:
            assert after[4:8] == simulated_after[4:8]
            # Ids are each kernel's own. A real map has a BTF object of the kernel's (btf_vmlinux_id).
            for buffer in buffers:
                buffer[4:8] = buffer[76:80] = bytes(4)
            assert buffers[0] == buffers[1]

    # Pins

    @rule(
        which=maps,
        name=st.sampled_from(["a", "b", "c", "a.b", "no/folder", "", "a/", "..", ".", "x" * 300, "a/b"]),
        file_flags=st.sampled_from([0, 0, 0, 0, 8, 1, 1 << 14]),
        path_fd=st.sampled_from([0, 0, 0, 5000, -100]),
        size=st.sampled_from([None, None, None, 16, 12, 8, 24]),
        stray=mostly(None, *range(20, 191)),
    )
    def pin(self, which, name, size, stray, **fields):
        self.with_path(Cmd.BPF_OBJ_PIN, which.fds, name, size, stray, **fields)

    @rule(
        target=maps,
        name=st.sampled_from(["a", "b", "c", "a.b", "no/folder", "", ".", "a/b", "x" * 300]),
        file_flags=st.sampled_from([0, 0, 0, 8, 16, 24, 1, 1 << 14]),
        path_fd=st.sampled_from([0, 0, 0, 5000, -100]),
        size=st.sampled_from([None, None, None, 16, 12, 8, 24]),
        stray=mostly(None, *range(20, 191)),
    )
    def get(self, name, size, stray, **fields):
        answers = self.with_path(Cmd.BPF_OBJ_GET, (0, 0), name, size, stray, **fields)
        both = None if answers is None else self.made(*answers)
        return multiple() if both is None else both

    def with_path(self, cmd, fds, name, size, stray, **fields):
        if not IS_ADMIN:
            return None
        if kernel_version() < (6, 5):
            fields = {**fields, "path_fd": 0}
        paths = [bytearray(os.fsencode(f"{world.folder}/{name}") + b"\0") for world in self.worlds]
        attrs = [
            bytes(ffi.buffer(bpf_attr(pathname=syscall.pointer(path), bpf_fd=fd, **fields)))[:20]
            for path, fd in zip(paths, fds, strict=True)
        ]
        (real, _), (simulated, _) = self.both(cmd, (attrs[0], attrs[1]), size, stray)
        return real, simulated

    # Commands and attrs that are none

    @rule(cmd=st.sampled_from([39, 100, -1, 2**31 - 1, 1 << 20]), size=sizes, stray=stray_bytes)
    def unknown_command(self, cmd, size, stray):
        self.both(cmd, (bytes(32), bytes(32)), size, stray)

    @rule(
        cmd=st.sampled_from([CREATE, PUSH, PEEK, POP, 22]),
        size=st.sampled_from([1, 16, 32, 4096, 4097, 2**32 - 1]),
    )
    def no_attr(self, cmd, size):
        for address in (ffi.NULL, ffi.cast("void *", 1), ffi.cast("void *", self.memory.address + 2 * 4096 - 8)):
            results = [world.call(cmd, address, size) for world in self.worlds]
            assert results[0] == results[1], (cmd, address, size)


@contextmanager
def apart(version: str) -> Iterator[SimulatedKernel]:
    """A simulated kernel that does not stand at the door."""
    with tempfile.TemporaryDirectory(prefix="rawbpf-test-") as folder:
        yield SimulatedKernel(folder, layout.version(version), unprivileged=False)


TestSameAnswers = pytest.mark.admin(
    pytest.mark.real_kernel(reason="it is compared with the simulated one")(SameAnswers.TestCase)
)
TestSameAnswers.settings = settings(
    max_examples=round(40 * min(SECONDS, 2)),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.admin
@pytest.mark.real_kernel(reason="it is compared with the simulated one")
class TestEveryElementCall:
    """Each command with each flag, key and kind of address, on maps in each state: the same answers, whatever a random
    walk comes across."""

    FLAGS = (0, 1, 2, 3, 4, 8, 16, 32, 1 << 32, 9 << 32 | 8)
    PLACES = ("buffer", "null", "edge", "kernel")
    KEYS = (0, 1, "buffer")

    @pytest.fixture
    def kernels(self):
        both = BothKernels()
        both.start_both()
        yield both
        both.end_both()

    @pytest.mark.parametrize("state", ["empty", "full", "frozen", "read-only", "write-only"])
    @pytest.mark.parametrize("cmd", [PUSH, PEEK, POP, Cmd.BPF_MAP_DELETE_ELEM, Cmd.BPF_MAP_GET_NEXT_KEY])
    def test_alike(self, kernels, kind, cmd, state):
        """Both kernels answer alike, and leave the same bytes; then the map is brought back into its state."""
        access = {"read-only": MapFlag.BPF_F_RDONLY, "write-only": MapFlag.BPF_F_WRONLY}.get(state, 0)
        attr = bpf_attr(map_type=kind.map_types[0], value_size=8, max_entries=1, map_flags=access)
        m = kernels.created(bytes(ffi.buffer(attr))[:20], None, None)
        usual = {"which": m, "key": 0, "place": "buffer", "value": b"12345678", "flags": 0, "size": None, "stray": None}
        if state in ("full", "frozen"):
            kernels.element(PUSH, **usual)
        if state == "frozen":
            attrs = [bytes(ffi.buffer(bpf_attr(map_fd=fd)))[:4] for fd in m.fds]
            kernels.both(Cmd.BPF_MAP_FREEZE, (attrs[0], attrs[1]), None)
        for flags, place, key in itertools.product(self.FLAGS, self.PLACES, self.KEYS):
            kernels.element(cmd, **{**usual, "flags": flags, "place": place, "key": key})
            if state == "empty":
                kernels.element(POP, **usual)
            elif state == "full":
                kernels.element(PUSH, **usual)


# The simulated kernel as a kernel


@pytest.fixture
def simulated():
    """A simulated kernel at the door."""
    with rawbpf.simulate() as kernel:
        yield kernel


def test_it_needs_nothing():
    """As an ordinary user, without a capability: create, push, peek, pop, pin, ids."""
    code = (
        "import rawbpf\n"
        "with rawbpf.simulate() as kernel, rawbpf.Queue(4, 3, name='mine') as q:\n"
        "    q.push(b'abcd'); q.pin(kernel.bpffs + '/q')\n"
        "    with rawbpf.Queue.open(kernel.bpffs + '/q') as again:\n"
        "        print(again.pop(), [m.name for m in rawbpf.list_maps()])"
    )
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*(drop if IS_ROOT else []), sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": "/tmp"})
    if result.returncode == 127:
        pytest.skip("the ordinary user may not read this installation")
    assert result.stdout == "b'abcd' ['mine']\n", result.stderr


def test_nothing_is_left(simulated, kind):
    """Afterwards the door is as before, and the directory is gone; a map left open is no map any more."""
    before = door.simulated
    with rawbpf.simulate() as inner:
        m = kind(4, 3)
        assert door.simulated is inner
    assert door.simulated is before
    assert not os.path.exists(inner.directory)
    with pytest.raises(OSError, match="EINVAL"):
        m.push(b"abcd")
    m.close()


def test_an_exception_leaves_the_door_as_it_was():
    """Whatever the code raises, the kernel before is back."""
    before = door.simulated
    with pytest.raises(ZeroDivisionError), rawbpf.simulate():
        _ = 1 / 0
    assert door.simulated is before


def test_it_is_traced(simulated):
    """Tracing and simulating go together, whichever comes first."""
    import io

    for first, second in ((rawbpf.trace, rawbpf.simulate), (rawbpf.simulate, rawbpf.trace)):
        file = io.StringIO()
        options = {rawbpf.trace: {"file": file}, rawbpf.simulate: {}}
        with first(**options[first]), second(**options[second]), Queue(4, 3) as q:
            q.push(b"abcd")
        assert [line.partition("(")[2].partition(",")[0] for line in file.getvalue().splitlines()] == [
            "BPF_MAP_CREATE",
            "BPF_OBJ_GET_INFO_BY_FD",
            "BPF_MAP_UPDATE_ELEM",
        ]


def test_a_map_is_gone_with_its_last_reference(simulated, kind):
    """Descriptor, duplicate and pin each keep the map; its id is listed as long."""
    m = kind(4, 3)
    number, path = m.id, f"{simulated.bpffs}/m"
    duplicate = os.dup(m.fileno())
    m.close()
    assert number in syscall.map_ids()
    with kind.from_fd(duplicate) as again:
        again.push(b"abcd")
        again.pin(path)
    with kind.open(path) as again:
        assert again.id == number
        os.unlink(path)
        assert again.pop() == b"abcd"
    assert number not in syscall.map_ids()


def test_processes_share_a_map(simulated, kind):
    """After fork() parent and child are on the same map, and pins made by either are the other's too."""
    with kind(4, 3) as m:
        child = os.fork()
        if child == 0:
            m.push(b"abcd")
            m.pin(f"{simulated.bpffs}/by_child")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with kind.open(f"{simulated.bpffs}/by_child") as again:
            assert again.pop() == b"abcd"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_fork_while_another_thread_is_in_a_call(simulated):
    """A child forked in the middle of a thread's call can make calls of its own: the lock is not left in it."""
    stop = threading.Event()
    with Queue("=I", 1000) as q:

        def work():
            while not stop.is_set():
                q.push(1)
                q.pop()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(30):
                child = os.fork()
                if child == 0:
                    q.push(2)
                    os._exit(0)
                assert ended_well(child, 10 * SLOWNESS)
        finally:
            stop.set()
            thread.join()


def ended_well(child: int, seconds: float) -> bool:
    """Waits for a child, and kills it when that takes too long: one that hangs in a call has its signals blocked."""
    deadline = time.monotonic() + seconds
    while (waited := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    return waited[1] == 0


def test_a_child_does_not_take_the_directory_away(simulated):
    """A forked child that leaves the context leaves the parent's kernel alone."""
    with rawbpf.simulate() as kernel:
        child = os.fork()
        if child == 0:
            # As a child that returns from the with block.
            with pytest.raises(SystemExit), rawbpf.simulate(directory=kernel.directory):
                raise SystemExit
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.isdir(kernel.bpffs)


def test_programs_that_are_executed_share_a_directory(tmp_path, kind):
    """RAWBPF_SIMULATE=DIRECTORY: what one program pins the next one opens, and a passed descriptor works there."""
    folder = str(tmp_path / "kernel")
    environment = {**os.environ, "RAWBPF_SIMULATE": folder}
    name = kind.__name__

    def run(code: str, **options) -> str:
        command = [sys.executable, "-c", f"import rawbpf; from rawbpf import {name}\n{code}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, **options).stdout

    run(f"with {name}(4, 3, name='kept') as m: m.push(b'abcd'); m.pin('{folder}/bpf/kept')")
    assert run(f"with {name}.open('{folder}/bpf/kept') as m: print(m.name, m.pop())") == "kept b'abcd'\n"
    with rawbpf.simulate(directory=folder), kind(4, 3) as m:
        run(f"with {name}.from_fd({m.fileno()}) as m: m.push(b'efgh')", pass_fds=[m.fileno()])
        assert m.pop() == b"efgh"


def test_the_directory_must_be_ours(tmp_path):
    """A directory that others may write in is refused."""
    folder = tmp_path / "open_to_all"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="must be yours"), rawbpf.simulate(directory=str(folder)):
        pass


def test_threads_on_one_map(simulated, kind):
    """Eight threads push and pop: nothing is lost and nothing comes twice."""
    popped: list[int] = []
    with kind("<I", 1000) as m:

        def work(number: int) -> None:
            for index in range(50):
                m.push(number * 50 + index)
                popped.append(m.pop())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert m.pop(default=None) is None
    assert sorted(popped) == list(range(400))


def test_bulk_falls_back_to_singles(simulated, kind):
    """There are no programs: bulk calls go one by one, and say why."""
    with kind("<I", 100) as m:
        assert m.push_many(range(120)) == 100
        assert m.pop_many(50) == (list(range(50)) if kind is Queue else list(range(99, 49, -1)))
        assert m.bulk.in_kernel is False
        assert simulated.limits in m.bulk.why


def test_what_is_not_simulated(simulated):
    """Programs, links, tokens and other map types are Unsupported, with that reason; what no kernel knows is EINVAL."""
    for cmd in (Cmd.BPF_PROG_LOAD, Cmd.BPF_LINK_CREATE, Cmd.BPF_TOKEN_CREATE):
        with pytest.raises(Unsupported, match=simulated.limits):
            bpf(cmd, bpf_attr())
    with pytest.raises(Unsupported, match=simulated.limits):
        syscall.map_create(2, "", 4, 4, 4)
    with pytest.raises(OSError, match="EINVAL"):
        bpf(9999, bpf_attr())


def test_sizes_and_elements(kind):
    """The model tells what a BPF program would find: how many elements there are, and which, in pop order."""
    with apart(NEWEST) as simulated, rawbpf.simulate(directory=simulated.directory) as kernel, kind("<I", 3) as m:
        for number in range(7):
            if number == 5:
                m.pop()
            m.push(number, BPF_EXIST)
            values = [int.from_bytes(value, "little") for value in kernel.snapshot(m.fileno())]
            assert kernel.qsize(m.fileno()) == len(values)
        assert values == ([4, 5, 6] if kind is Queue else [6, 5, 3])
        assert m.pop_many(4) == values
        assert (kernel.qsize(m.fileno()), kernel.snapshot(m.fileno())) == (0, [])
        with pytest.raises(OSError, match="is not a simulated map's"):
            kernel.qsize(0)
    for version, unprivileged, error in (("5.8", False, Unsupported), (NEWEST, True, NotPermitted)):
        with rawbpf.simulate(version, unprivileged=unprivileged) as kernel, pytest.raises(error):
            kernel.qsize(0)


class Event(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_int), ("comm", ctypes.c_char * 8)]


def test_a_map_that_describes_its_values(simulated, kind):
    """btf=True works: the map is opened by its own types, and its type information lives as long as it does."""
    with kind(Event, 4, btf=True) as m:
        assert m.info().btf_id in btf_ids()
        m.push(Event(7, b"bash"))
        with kind.from_id(m.id, rawbpf.BTF) as same:
            value = same.pop()
            assert (value.pid, value.comm.rstrip(b"\0")) == (7, b"bash")
    assert btf_ids() == []


def btf_ids() -> list[int]:
    found = [0]
    while (answer := errno_of(Cmd.BPF_BTF_GET_NEXT_ID, attr := bpf_attr(start_id=found[-1]), 12)) == 0:
        found.append(attr.next_id)
    assert answer == errno.ENOENT
    return found[1:]


GOOD_BTF = Builder()
EMPTY_STRUCT = GOOD_BTF.struct("", 0, [])
UNSIGNED = GOOD_BTF.integer("unsigned int", 4, False)
BLOB = GOOD_BTF.encode()


@pytest.mark.real_kernel(reason="it is compared with the simulated one")
@pytest.mark.creates
@pytest.mark.admin
def test_type_information_is_answered_alike():
    """What is loaded, read and given to a map, right and wrong, has the same results in both kernels."""
    memory = bytearray(4096)
    address = syscall.pointer(memory)
    with apart(".".join(map(str, min(kernel_version(), layout.version(NEWEST))))) as simulated:
        for fields in (
            {"btf_size": len(BLOB)},
            {"btf_size": len(BLOB) - 1},
            {"btf_size": 0},
            {"btf_size": (16 << 20) + 1},
            {"btf_size": len(BLOB), "btf_flags": 1},
            {"btf_size": len(BLOB), "btf_log_size": 1},
            {"btf_size": len(BLOB), "btf_log_level": 16},
            {"btf_size": len(BLOB), "btf_log_buf": address},
            {"btf_size": len(BLOB), "btf": 1},
            {"btf_size": len(BLOB), "btf_flags": 0x10000, "btf_token_fd": 9999},
            {"btf_size": len(BLOB), "btf_flags": 0x10000},
        ):
            memory[: len(BLOB)] = BLOB
            attr = bpf_attr(**{"btf": address, **fields})
            alike([call(Cmd.BPF_BTF_LOAD, attr, 40) for call in both_calls(simulated)], fields)
        fds = [call(Cmd.BPF_BTF_LOAD, bpf_attr(btf=address, btf_size=len(BLOB)), 40) for call in both_calls(simulated)]
        try:
            for fields in (
                {},
                {"btf_key_type_id": 0},
                {"btf_value_type_id": 0},
                {"btf_key_type_id": UNSIGNED},
                {"btf_value_type_id": 99},
                {"value_size": 8},
                {"btf_fd": 0},
                {"btf_fd": 9999},
            ):
                given = {"map_type": 22, "value_size": 4, "max_entries": 1, "btf_key_type_id": EMPTY_STRUCT}
                given |= {"btf_value_type_id": UNSIGNED}
                results = []
                for call, fd in zip(both_calls(simulated), fds, strict=True):
                    results.append(call(Cmd.BPF_MAP_CREATE, bpf_attr(**{**given, "btf_fd": fd, **fields}), 72))
                alike(results, fields)
            for length in (0, 4, 16, 24, 32, 40):
                for name, name_len in ((0, 0), (address + 1024, 64), (0, 1), (address, 0)):
                    answers = []
                    for call, fd in zip(both_calls(simulated), fds, strict=True):
                        info = ffi.new("struct bpf_btf_info *", {"name": name, "name_len": name_len})
                        info.btf, info.btf_size = address + 512, 256
                        if length < 32:
                            info.name = info.name_len = 0
                        pointer = int(ffi.cast("uintptr_t", info))
                        attr = bpf_attr(info={"bpf_fd": fd, "info_len": length, "info": pointer})
                        result = call(Cmd.BPF_OBJ_GET_INFO_BY_FD, attr, 16)
                        answers.append((result, attr.info.info_len, info.btf_size, info.name_len, info.kernel_btf))
                    if length < 40:
                        assert answers[0] == answers[1], (length, name, name_len)
        finally:
            for fd in fds:
                os.close(fd)


def both_calls(simulated: SimulatedKernel) -> tuple[Callable[..., int], Callable[..., int]]:
    return lib.bpf_syscall, simulated.bpf


def alike(results: list[int], what: object) -> None:
    """Both made a descriptor, or both failed with the same errno."""
    for result in results:
        if result >= 0:
            os.close(result)
    real, simulated = (min(result, 0) for result in results)
    assert real == simulated, (what, results)


def errno_of(cmd: int, attr=None, size=None) -> int:
    try:
        result = bpf(cmd, attr, size)
    except OSError as error:
        assert error.errno is not None
        return error.errno
    if cmd in MAKES_DESCRIPTOR:
        os.close(result)
    return 0


GOOD = {"map_type": 22, "value_size": 4, "max_entries": 1}


@pytest.mark.parametrize(
    ("kernel", "fields", "size", "expected"),
    [
        ("5.1", {"map_flags": 0x80}, 20, errno.EINVAL),
        ("5.2", {"map_flags": 0x80}, 20, 0),
        ("5.15", {"map_extra": 1}, 72, errno.EINVAL),
        ("5.10", {"excl_prog_hash_size": 1}, 168, errno.EINVAL),
        ("4.20", {}, 60, 0),
        ("4.20", {}, 168, 0),
        ("6.8", {"map_flags": 1 << 16, "map_token_fd": 4095}, 80, errno.EINVAL),
        ("6.9", {"map_flags": 1 << 16, "map_token_fd": 4095}, 80, errno.EBADF),
    ],
)
def test_versions_of_creation(kernel, fields, size, expected):
    """A flag or field is known from its version on."""
    with rawbpf.simulate(kernel=kernel):
        assert errno_of(CREATE, bpf_attr(**GOOD, **fields), size) == expected


@pytest.mark.parametrize(
    ("kernel", "expected"), [("4.20", 0), ("5.6", 0), ("5.7", errno.EFAULT), ("6.18", errno.EFAULT)]
)
def test_versions_of_a_faulting_pop(kernel, expected):
    """The element is lost in any version; before 5.7 the answer was 0 nevertheless."""
    with rawbpf.simulate(kernel=kernel), Queue(4, 3) as q:
        q.push(b"abcd")
        q.push(b"efgh")
        assert errno_of(POP, bpf_attr(map_fd=q.fileno(), value=1), 24) == expected
        assert q.pop() == b"efgh"


@pytest.mark.parametrize(
    ("kernel", "access", "expected"),
    [("6.4", "r", 0), ("6.4", "w", 0), ("6.5", "r", errno.EPERM), ("6.5", "w", 0)],
)
def test_versions_of_freezing_by_access(kernel, access, expected):
    """Before 6.5 a descriptor's mode did not matter for freezing; since then it must permit writing."""
    with rawbpf.simulate(kernel=kernel) as simulated, Queue(4, 3) as q:
        q.pin(f"{simulated.bpffs}/q")
        with Queue.open(f"{simulated.bpffs}/q", access=access) as other:
            assert errno_of(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=other.fileno()), 4) == expected


@pytest.mark.parametrize(("kernel", "flags", "expected"), [("6.19", 8, errno.EFAULT), ("7.0", 8, errno.EINVAL)])
def test_versions_of_a_push_with_bad_flags_and_address(kernel, flags, expected):
    """Since 7.0 the flags of maps with a value per processor are refused before the value is read."""
    with rawbpf.simulate(kernel=kernel), Queue(4, 3) as q:
        assert errno_of(PUSH, bpf_attr(map_fd=q.fileno(), value=1, flags=flags), 32) == expected


@pytest.mark.parametrize(("kernel", "expected"), [("6.19", errno.EINVAL), ("7.0", errno.EBADF)])
def test_versions_of_a_peek_with_bad_flags_and_descriptor(kernel, expected):
    """Since 7.0 a peek looks at the descriptor before the flags."""
    with rawbpf.simulate(kernel=kernel):
        assert errno_of(PEEK, bpf_attr(map_fd=4095, flags=1), 32) == expected


def test_versions_of_commands():
    """FREEZE came with 5.2, batches with 5.6; a second freeze was EBUSY before 6.5."""
    for kernel, freeze, again in (
        ("5.1", errno.EINVAL, errno.EINVAL),
        ("5.2", 0, errno.EBUSY),
        ("6.4", 0, errno.EBUSY),
        ("6.5", 0, errno.EPERM),
    ):
        with rawbpf.simulate(kernel=kernel), Queue(4, 3) as q:
            assert errno_of(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=q.fileno()), 4) == freeze
            assert errno_of(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=q.fileno()), 4) == again
    for kernel, expected in (("5.5", errno.EINVAL), ("5.6", 524)):
        with rawbpf.simulate(kernel=kernel), Queue(4, 3) as q:
            attr = bpf_attr(batch={"map_fd": q.fileno(), "count": 1})
            assert errno_of(Cmd.BPF_MAP_LOOKUP_BATCH, attr, 56) == expected


@pytest.mark.parametrize("kernel", ["4.19", "7.3", "8.0"])
def test_kernels_that_are_not_simulated(kernel):
    """Before 4.20 there are no queues; what comes after the newest is not known."""
    with pytest.raises(ValueError, match=f"from 4.20 to {NEWEST}"), rawbpf.simulate(kernel=kernel):
        pass


def test_the_version_is_known_above_the_door():
    """What decides by version or capability sees the simulated ones."""
    from rawbpf.syscall.proc import Capability, has_capability

    with rawbpf.simulate(kernel="5.10"):
        assert kernel_version() == (5, 10)
        assert has_capability(Capability.CAP_BPF) is True
    with rawbpf.simulate(unprivileged=True):
        assert has_capability(Capability.CAP_SYS_ADMIN) is False


@pytest.mark.parametrize(
    ("kernel", "bad_parameter", "on_a_descriptor"),
    [("5.18", errno.EPERM, errno.EPERM), ("5.19", errno.EPERM, 0), ("6.5", errno.EINVAL, 0)],
)
def test_unprivileged(tmp_path, kernel, bad_parameter, on_a_descriptor):
    """No creation; parameters are checked first since 6.5; before 5.19 a descriptor was of no use either."""
    folder = str(tmp_path / "kernel")
    with rawbpf.simulate(directory=folder):
        q = Queue(4, 3)
    with rawbpf.simulate(kernel=kernel, unprivileged=True, directory=folder):
        with pytest.raises(NotPermitted, match="this process has no CAP_BPF"):
            Queue(4, 3)
        assert errno_of(CREATE, bpf_attr(), 16) == bad_parameter
        value = bytearray(4)
        attr = bpf_attr(map_fd=q.fileno(), value=syscall.pointer(value))
        assert errno_of(PUSH, attr, 32) == on_a_descriptor
        assert errno_of(Cmd.BPF_MAP_GET_NEXT_ID, bpf_attr(), 12) == errno.EPERM
    os.close(q.detach())


def test_the_broken_queue(simulated):
    """max_entries 0xFFFFFFFF wraps: BPF_ANY is E2BIG on the empty map, BPF_EXIST is 0 and stores nothing."""
    fd = bpf(CREATE, bpf_attr(map_type=22, value_size=1, max_entries=2**32 - 1), 16)
    value = bytearray(1)
    attr = bpf_attr(map_fd=fd, value=syscall.pointer(value))
    assert errno_of(PUSH, attr, 32) == errno.E2BIG
    attr.flags = 2
    assert errno_of(PUSH, attr, 32) == 0
    attr.flags = 0
    assert errno_of(PEEK, attr, 32) == errno.ENOENT
    os.close(fd)


def test_a_unit_test_of_ones_own(simulated):
    """What a user's test looks like: full, evicting, empty, frozen, as the kernel has them."""
    with Stack("<I", 2, name="levels") as s:
        s.push(1)
        s.push(2)
        with pytest.raises(Full, match="'levels' is full"):
            s.push(3)
        s.push(3, BPF_EXIST)
        assert [s.pop(), s.pop()] == [3, 2]
        with pytest.raises(Empty):
            s.pop()
        s.freeze()
        with pytest.raises(NotPermitted, match="the map is frozen"):
            s.push(4)


def test_contexts_that_overlap():
    """Of contexts in several threads each may end first: calls go to one that lasts, at the end to the real one."""
    before = door.simulated
    first, second = rawbpf.simulate(), rawbpf.simulate()
    kernel = first.__enter__()
    other = second.__enter__()
    first.__exit__(None, None, None)
    assert door.simulated is other
    with Queue(4, 1) as q:
        q.push(b"abcd")
    second.__exit__(None, None, None)
    assert door.simulated is before
    assert kernel is not other


def test_a_version_that_is_refused_leaves_no_folder(monkeypatch, tmp_path):
    """The version is looked at first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="are simulated"), rawbpf.simulate(kernel="99.9"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_makes_maps_until_after_the_end(monkeypatch, tmp_path):
    """The context ends without an error and leaves no folder, though another thread goes on making maps and pins."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = threading.Event()

    def make_maps() -> None:
        while not ended.is_set():
            # Its map and the pin's path may belong to kernels that answer no more.
            with suppress(OSError), Queue(4, 1) as q:
                q.pin(f"{kernel.bpffs}/{q.id}")

    for _ in range(10):
        ended.clear()
        with rawbpf.simulate():  # what comes after the inner one's end goes here
            thread = threading.Thread(target=make_maps)
            with rawbpf.simulate() as kernel:
                thread.start()
                while not list(syscall.map_ids()):
                    pass
            ended.set()
            thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_comes_after_the_end(monkeypatch, tmp_path):
    """A call that passed the door just before the end is answered by who stands there afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with rawbpf.simulate() as outer:
        with rawbpf.simulate() as inner:
            pass
        attr = syscall.bpf_attr(map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=4, max_entries=1)
        fd = inner.bpf(Cmd.BPF_MAP_CREATE, attr, 44)
        assert outer.owns(fd)
        os.close(fd)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "kind", "hint"),
    [
        (
            lambda q: q.pin("/tmp/pin"),
            rawbpf.NotPermitted,
            "'/tmp' is not in the simulated kernel's bpffs: that is '{0}'",
        ),
        (lambda q: Queue.open("/tmp/no/no"), rawbpf.NotFound, "'/tmp/no' is not in the simulated kernel's bpffs"),
        (lambda q: Queue.open("/etc/passwd"), rawbpf.NotPermitted, "'/etc' is not in the simulated kernel's bpffs"),
        (lambda q: rawbpf.Hash(4, 4, 4), rawbpf.Unsupported, "the simulated kernel has queues, stacks and their BTF"),
        (
            lambda q: rawbpf.Program(1, b"\x95" + bytes(7)),
            rawbpf.Unsupported,
            "the simulated kernel has queues, stacks",
        ),
        (lambda q: rawbpf.Token.open("/tmp"), rawbpf.Unsupported, "the simulated kernel has queues, stacks"),
    ],
)
def test_what_the_simulated_kernel_refuses_it_explains(call, kind, hint):
    """A path outside its bpffs is answered with where that is, and what it does not do with what it does."""
    with rawbpf.simulate() as kernel, Queue(4, 4) as q:
        with pytest.raises(kind) as caught:
            call(q)
        assert hint.format(kernel.bpffs) in caught.value.hint


def test_a_dot_in_a_name_of_the_simulated_bpffs():
    """As in a bpffs: refused, and the hint says that it is the dot."""
    with (
        rawbpf.simulate() as kernel,
        Queue(4, 4) as q,
        pytest.raises(rawbpf.NotPermitted, match=r"has a '\.', which a bpffs"),
    ):
        q.pin(f"{kernel.bpffs}/dotted.name")
