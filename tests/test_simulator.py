"""The simulated kernel: the same bytes in give the same answers as the real one, and it behaves like a kernel."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule

import rawbpf
from rawbpf import BPF_EXIST, Empty, Full, NotPermitted, Queue, Stack, bpf, bpf_attr, bpffs, door, syscall
from rawbpf.abi import Cmd
from rawbpf.door import ffi, lib
from rawbpf.privileges import kernel_version
from rawbpf.simulator import NEWEST, SimulatedKernel
from tests.conftest import IS_ADMIN

# The running kernel against the simulated one

SECONDS = float(os.environ.get("RAWBPF_STRESS_SECONDS", "2"))
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


class SameAnswers(RuleBasedStateMachine):
    """Every step is made in both kernels: same result, same errno, same bytes."""

    maps = Bundle("maps")

    @initialize(target=maps, max_entries=st.integers(1, 4), value_size=st.sampled_from([1, 4, 8]))
    def start(self, **fields):
        self.stack = __import__("contextlib").ExitStack()
        version = ".".join(map(str, min(kernel_version(), (6, 18))))
        # Below the door: the suite itself may run on a simulated kernel.
        simulated = self.stack.enter_context(_kernel(version))
        real = self.stack.enter_context(bpffs.mounted()) if IS_ADMIN else ""
        self.worlds = (World(lib.bpf_syscall, real), World(simulated.bpf, simulated.bpffs))
        self.memory = Memory()
        self.stack.callback(self.memory.close)
        self.null = os.open(os.devnull, os.O_RDWR)
        self.stack.callback(os.close, self.null)
        self.open: list[Both] = []
        attrs = [bytes(ffi.buffer(bpf_attr(map_type=map_type, **fields)))[:16] for map_type in (22, 23)]
        return multiple(*(self.created(attr, None, None) for attr in attrs))

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        for both in self.open:
            for fd in both.fds:
                os.close(fd)
        self.stack.close()

    # One call in both

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

    def created(self, attr: bytes, size: int | None, stray: int | None) -> "Both | None":
        (real, _), (simulated, _) = self.both(CREATE, (attr, attr), size, stray)
        return self.made(real, simulated)

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

    arguments = {
        "which": maps,
        "key": keys,
        "place": addresses,
        "value": st.binary(min_size=8, max_size=8),
        "flags": element_flags,
        "size": sizes,
        "stray": stray_bytes,
    }

    @rule(**arguments, replace=st.booleans())
    def push(self, flags, replace, **others):
        self.element(PUSH, flags=2 if flags == 0 and replace else flags, **others)

    @rule(**arguments)
    def push_more(self, **others):
        self.element(PUSH, **others)

    @rule(**arguments)
    def peek(self, **others):
        self.element(PEEK, **others)

    @rule(**arguments)
    def pop(self, **others):
        self.element(POP, **others)

    @rule(**arguments, cmd=st.sampled_from([Cmd.BPF_MAP_DELETE_ELEM, Cmd.BPF_MAP_GET_NEXT_KEY]))
    def with_keys(self, **others):
        self.element(**others)

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


def _kernel(version: str, **options):
    """A simulated kernel that does not stand at the door."""
    return _Apart(version, **options)


class _Apart:
    def __init__(self, version: str, **options) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="rawbpf-test-")
        self.kernel = SimulatedKernel(self.folder.name, version, unprivileged=False, **options)

    def __enter__(self) -> SimulatedKernel:
        return self.kernel

    def __exit__(self, *exception: object) -> None:
        self.folder.cleanup()


TestSameAnswers = pytest.mark.creates(
    pytest.mark.real_kernel(reason="it is compared with the simulated one")(SameAnswers.TestCase)
)
TestSameAnswers.settings = settings(
    max_examples=round(50 * min(SECONDS, 2)),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
