"""Every command of bpf(2): it has a function, a description and a test; each function is tried on the real kernel."""

import errno
import inspect
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rawbpf import (
    AlreadyExists,
    BpfError,
    Full,
    NotFound,
    NotPermitted,
    Program,
    Queue,
    Unsupported,
    VerifierError,
    explain,
    syscall,
)
from rawbpf.abi import ENOTSUPP, AttachType, Cmd, ElemFlag, LinkType, MapType, ProgFlag, ProgType, TaskFdType, door
from rawbpf.abi.door import ffi
from rawbpf.btf import reader
from rawbpf.programs.asm import R0, Item, assemble, exit_, mov
from rawbpf.syscall.errors import NoSuchIndex, NoSuchKey, bpf_error
from rawbpf.syscall.proc import kernel_version, possible_cpus

real = pytest.mark.real_kernel(reason="programs, links and maps with keys")
creates = pytest.mark.creates
admin = pytest.mark.admin


def function_of(cmd: Cmd) -> Callable[..., Any]:
    return getattr(syscall, cmd.name.removeprefix("BPF_").lower())


# All of them


@pytest.mark.skipif(not os.path.exists(reader.VMLINUX), reason="by design: this kernel has no BTF")
@real
def test_every_command_of_this_kernel_is_known():
    """Each enumerator of enum bpf_cmd in the kernel's BTF is a command here, and 39 are known in all."""
    types = reader.vmlinux()
    enumerators = types.enumerators(types.find(reader.Kind.ENUM, "bpf_cmd"))
    names = {name for name in enumerators if name not in ("BPF_PROG_RUN", "BPF_COMMON_ATTRS", "__MAX_BPF_CMD")}
    assert names <= set(Cmd.__members__)
    assert {Cmd[name].value for name in names} == {enumerators[name] for name in names}
    assert len(Cmd.__members__) == 39


@pytest.mark.parametrize("cmd", list(Cmd))
def test_every_command_is_described(cmd):
    """Its function says its name, since when it is there, what it needs, and which kernel function does it; and
    explain() has a page for it."""
    text = inspect.getdoc(function_of(cmd))
    assert text.startswith(f"{cmd.name}: ")
    assert re.search(rf"\bLinux\s+{re.escape(cmd.since)}\b", text) or f"Linux {cmd.since}" in " ".join(text.split())
    assert re.search(r"In\s+the\s+kernel:\s+\w+\(\)", text)
    assert re.search(r"CAP_|permission|capability|file's mode", text)
    assert "Raises" in text
    assert cmd.name in explain(cmd)


@pytest.mark.parametrize("cmd", list(Cmd))
def test_every_command_is_tried_here(cmd):
    """This file or a neighbour calls its function, and the program that strace looks on at makes it."""
    folder = Path(__file__).parent
    sources = "\n".join(path.read_text() for path in folder.glob("test_*.py"))
    name = function_of(cmd).__name__
    assert re.search(rf"syscall\.{name}\(", sources), name
    program = folder.parent.joinpath("observe", "every_command.py").read_text()
    assert cmd.name in program or name in program or cmd.name in ("BPF_OBJ_PIN", "BPF_OBJ_GET")


def test_a_command_that_is_not_there_yet(monkeypatch):
    """EINVAL of a kernel that is older than the command is Unsupported, and says since when there is one."""
    monkeypatch.setattr("rawbpf.syscall.errors.kernel_version", lambda: (5, 5))
    for error, kind in ((errno.EINVAL, Unsupported), (errno.EBADF, BpfError)):
        raised = bpf_error(Cmd.BPF_ENABLE_STATS, error, subject="it")
        assert type(raised) is kind
        assert ("BPF_ENABLE_STATS came with Linux 5.8, this is 5.5" in str(raised)) == (kind is Unsupported)


def test_a_type_that_is_not_there_yet(monkeypatch):
    """EINVAL for a type of map, or of attachment, that is newer than the kernel is Unsupported, and says so."""
    monkeypatch.setattr("rawbpf.syscall.errors.kernel_version", lambda: (5, 10))
    for cmd, about in (
        (Cmd.BPF_MAP_CREATE, MapType.BPF_MAP_TYPE_BLOOM_FILTER),
        (Cmd.BPF_LINK_CREATE, AttachType.BPF_TCX_INGRESS),
    ):
        raised = bpf_error(cmd, errno.EINVAL, subject="it", about=about)
        assert type(raised) is Unsupported
        assert f"it: {about.name} came with Linux {about.since}, this is 5.10" in str(raised)
    needs = (ProgType.BPF_PROG_TYPE_XDP, ProgFlag.BPF_F_XDP_HAS_FRAGS)
    raised = bpf_error(Cmd.BPF_PROG_LOAD, errno.EINVAL, subject="it", needs=needs)
    assert type(raised) is Unsupported and "it: BPF_F_XDP_HAS_FRAGS came with Linux 5.18" in str(raised)
    raised = bpf_error(Cmd.BPF_MAP_CREATE, errno.EINVAL, subject="it", about=MapType.BPF_MAP_TYPE_RINGBUF)
    assert type(raised) is BpfError and "came with" not in str(raised)


@real
@creates
def test_zeros_behind_an_attr_are_accepted(raw_errno):
    """For every command a page of attr whose tail is zero is as good as the union; a byte there is E2BIG."""
    for cmd in Cmd:
        if kernel_version() < tuple(map(int, cmd.since.split("."))):
            continue
        short, long = bytearray(ffi.sizeof("union bpf_attr")), bytearray(4096)
        answer = raw_errno(cmd, short)
        assert raw_errno(cmd, long) == answer, cmd.name
        # No instructions are E2BIG, too, for kernels that do not ask for the license first.
        assert answer != errno.E2BIG or cmd == Cmd.BPF_PROG_LOAD, cmd.name
        long[1000] = 1
        assert raw_errno(cmd, long) == errno.E2BIG, cmd.name


# Maps with keys


@pytest.fixture
def table() -> Iterator[int]:
    """A hash table of two entries: 4 bytes of key, 8 of value."""
    fd = syscall.map_create(MapType.BPF_MAP_TYPE_HASH, "table", 4, 8, 2)
    yield fd
    os.close(fd)


@creates
@real
class TestMapsWithKeys:
    def test_an_element(self, table):
        """Stored, found, found and taken, deleted; each absence is NoSuchKey, which is a KeyError."""
        syscall.map_update_elem(table, b"key1", b"value..1")
        assert syscall.map_lookup_elem(table, b"key1") == b"value..1"
        if kernel_version() >= (5, 14):
            assert syscall.map_lookup_and_delete_elem(table, b"key1") == b"value..1"
        else:
            syscall.map_delete_elem(table, b"key1")
        for call in (syscall.map_lookup_elem, syscall.map_delete_elem):
            with pytest.raises(NoSuchKey, match="hash 'table' has no such key") as caught:
                call(table, b"key1")
            assert caught.value.errno == errno.ENOENT
            assert isinstance(caught.value, KeyError)

    def test_flags_and_a_full_table(self, table):
        """BPF_NOEXIST wants a new key (EEXIST), BPF_EXIST an old one (ENOENT); the third of two is Full (E2BIG)."""
        syscall.map_update_elem(table, b"key1", bytes(8), ElemFlag.BPF_NOEXIST)
        with pytest.raises(AlreadyExists, match="has an element with this key"):
            syscall.map_update_elem(table, b"key1", bytes(8), ElemFlag.BPF_NOEXIST)
        with pytest.raises(NoSuchKey):
            syscall.map_update_elem(table, b"key2", bytes(8), ElemFlag.BPF_EXIST)
        syscall.map_update_elem(table, b"key2", bytes(8))
        with pytest.raises(Full, match=r"hash 'table' is full \(2 entries\).*delete an element first") as caught:
            syscall.map_update_elem(table, b"key3", bytes(8))
        assert caught.value.errno == errno.E2BIG

    def test_sizes_are_the_maps(self, table):
        """Keys and values of other sizes are refused: the kernel would read past them."""
        for key, value in ((b"key", bytes(8)), (b"key10", bytes(8)), (b"key1", bytes(7)), (b"key1", bytes(9))):
            with pytest.raises(ValueError, match="bytes, and hash 'table' wants"):
                syscall.map_update_elem(table, key, value)
        with pytest.raises(ValueError, match="has keys of 4 bytes"):
            syscall.map_lookup_elem(table, None)

    def test_all_keys(self, table):
        """From None to None, each key once."""
        keys = {b"key1", b"key2"}
        for key in keys:
            syscall.map_update_elem(table, key, bytes(8))
        found, key = [], syscall.map_get_next_key(table, None)
        while key is not None:
            found.append(key)
            key = syscall.map_get_next_key(table, key)
        assert sorted(found) == sorted(keys)

    def test_an_array(self):
        """An index beyond its end is NoSuchIndex, which is an IndexError; its elements can't be deleted."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "numbers", 4, 4, 2)
        try:
            syscall.map_update_elem(fd, struct.pack("=I", 1), b"abcd")
            for call in (lambda: syscall.map_lookup_elem(fd, b"\2\0\0\0"), lambda: _update(fd, b"\2\0\0\0")):
                with pytest.raises(IndexError, match="array 'numbers' has no such index"):
                    call()
            with pytest.raises(Unsupported, match="elements of an array can't be deleted"):
                syscall.map_delete_elem(fd, bytes(4))
            with pytest.raises(Unsupported, match="this type of map can't do that"):
                syscall.map_lookup_and_delete_elem(fd, bytes(4))
        finally:
            os.close(fd)

    def test_a_value_for_each_cpu(self):
        """The kernel reads and writes value_size rounded up to 8, for each possible CPU: no other size is taken."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_PERCPU_ARRAY, "percpu", 4, 5, 1)
        size = 8 * possible_cpus()
        try:
            assert syscall.value_bytes(syscall.obj_get_info_by_fd(fd)) == size
            values = b"".join(bytes([cpu + 1]) * 5 + bytes(3) for cpu in range(possible_cpus()))
            syscall.map_update_elem(fd, bytes(4), values)
            assert syscall.map_lookup_elem(fd, bytes(4)) == values
            for wrong in (5, size - 1, size + 8):
                with pytest.raises(ValueError, match=f"array 'percpu' wants {size}"):
                    syscall.map_update_elem(fd, bytes(4), bytes(wrong))
        finally:
            os.close(fd)

    @pytest.mark.linux("5.6")
    def test_batches(self):
        """Many at once: stored, looked up in parts, taken, deleted; what fails says how many were done."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_HASH, "many", 4, 8, 100)
        keys = struct.pack("=64I", *range(64))
        values = struct.pack("=64Q", *range(64))
        try:
            assert syscall.map_update_batch(fd, keys, values) == 64
            found: dict[int, int] = {}
            batch = syscall.map_lookup_batch(fd, None, 40)
            while True:
                pairs = zip(struct.iter_unpack("=I", batch.keys), struct.iter_unpack("=Q", batch.values), strict=True)
                found |= {key: value for (key,), (value,) in pairs}
                if batch.out_batch is None:
                    break
                batch = syscall.map_lookup_batch(fd, batch.out_batch, 40)
            assert found == {number: number for number in range(64)}
            assert syscall.map_delete_batch(fd, keys[:40]) == 10
            with pytest.raises(NoSuchKey, match="2 of 3 were done"):
                syscall.map_delete_batch(fd, struct.pack("=3I", 10, 11, 999))
            taken = syscall.map_lookup_and_delete_batch(fd, None, 100)
            assert (taken.number, taken.out_batch) == (52, None)
            assert syscall.map_get_next_key(fd, None) is None
            for wrong in (
                lambda: syscall.map_update_batch(fd, keys, values[1:]),
                lambda: syscall.map_delete_batch(fd, b"a"),
            ):
                with pytest.raises(ValueError, match="bytes of"):
                    wrong()
        finally:
            os.close(fd)

    @pytest.mark.linux("5.6")
    @pytest.mark.parametrize("flag", [ElemFlag.BPF_NOEXIST, ElemFlag.BPF_EXIST])
    def test_a_batch_takes_no_flag_of_one_element(self, flag):
        """BPF_NOEXIST and BPF_EXIST are EINVAL in a batch, and nothing is stored."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_HASH, "many", 4, 4, 4)
        try:
            with pytest.raises(BpfError) as caught:
                syscall.map_update_batch(fd, b"key1", bytes(4), elem_flags=flag)
            assert caught.value.errno == errno.EINVAL
            assert syscall.map_get_next_key(fd, None) is None
        finally:
            os.close(fd)

    @pytest.mark.linux("5.6")
    def test_a_batch_outside_an_array(self):
        """An index outside is NoSuchIndex (E2BIG), not Full; a command that arrays lack counts nothing as done."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "few", 4, 4, 2)
        try:
            with pytest.raises(NoSuchIndex, match="1 of 2 were done") as caught:
                syscall.map_update_batch(fd, struct.pack("=2I", 1, 2), bytes(8))
            assert caught.value.errno == errno.E2BIG
            with pytest.raises(Unsupported) as refused:
                syscall.map_delete_batch(fd, bytes(4))
            assert "were done" not in str(refused.value)
        finally:
            os.close(fd)

    @pytest.mark.linux("5.6")
    def test_batches_of_values_for_each_cpu(self):
        """The values of a per-CPU map's batch have the bytes of all CPUs."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_PERCPU_HASH, "percpu", 4, 8, 4)
        size = 8 * possible_cpus()
        try:
            syscall.map_update_batch(fd, b"key1key2", bytes(range(size)) * 2)
            batch = syscall.map_lookup_batch(fd, None, 4)
            assert (sorted((batch.keys[:4], batch.keys[4:])), batch.values) == (
                [b"key1", b"key2"],
                bytes(range(size)) * 2,
            )
            with pytest.raises(ValueError, match=f"are {size} each"):
                syscall.map_update_batch(fd, b"key1", bytes(8))
        finally:
            os.close(fd)


def _update(fd: int, key: bytes) -> None:
    syscall.map_update_elem(fd, key, bytes(4))


# Programs

RETURNS_1: "list[Item]" = [mov(R0, 1), exit_()]


def loaded(prog_type: int = ProgType.BPF_PROG_TYPE_SOCKET_FILTER, **more: Any) -> int:
    return syscall.prog_load(prog_type, "sample", "GPL", assemble(RETURNS_1), **more)


@pytest.fixture
def program() -> Iterator[int]:
    fd = loaded()
    yield fd
    os.close(fd)


@creates
@real
class TestPrograms:
    def test_loaded_and_run(self, program):
        """The return value is the program's, twice over a packet; without a packet it is EINVAL."""
        ran = syscall.prog_test_run(program, data_in=bytes(14), repeat=2)
        assert ran.retval == 1
        assert len(ran.data) == 14
        with pytest.raises(BpfError) as caught:
            syscall.prog_test_run(program)
        assert caught.value.errno == errno.EINVAL

    def test_refused(self):
        """What the verifier says is in the exception."""
        with pytest.raises(VerifierError, match="the verifier refused program 'wrong'") as caught:
            syscall.prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, "wrong", "GPL", assemble([exit_()]))
        assert "R0 !read_ok" in caught.value.log
        with pytest.raises(ValueError, match="each has 8"):
            syscall.prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, "", "GPL", b"1234567")

    def test_what_this_kernel_can_not_run(self):
        """Errno 524 of a load, as of a kernel without a JIT, is the kernel's lack and not a map's."""
        previous = door.set_hook(lambda cmd, attr, size: -ENOTSUPP)
        try:
            with pytest.raises(BpfError, match="program 'calls': this kernel can't run it .*ENOTSUPP") as caught:
                syscall.prog_load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, "calls", "GPL", assemble([exit_()]))
        finally:
            door.set_hook(previous)
        assert caught.value.errno == ENOTSUPP

    def test_a_type_that_can_not_be_run(self):
        """bpf(2) runs no tracepoint's program: errno 524."""
        fd = loaded(ProgType.BPF_PROG_TYPE_KPROBE)
        try:
            with pytest.raises(Unsupported, match="can't be run by bpf") as caught:
                syscall.prog_test_run(fd, data_in=bytes(14))
            assert caught.value.errno == 524
        finally:
            os.close(fd)

    @admin
    def test_ids_and_info(self, program):
        """A program is found among the ids and opened by its own; its info has its name, type and size."""
        info = syscall.prog_get_info_by_fd(program)
        assert (info.name, info.type, info.xlated_prog_len) == ("sample", ProgType.BPF_PROG_TYPE_SOCKET_FILTER, 16)
        assert info.gpl_compatible and info.created_by_uid == os.getuid() and len(info.tag) == 8
        ids, number = [], syscall.prog_get_next_id(0)
        while number is not None:
            ids.append(number)
            number = syscall.prog_get_next_id(number)
        assert info.id in ids
        again = syscall.prog_get_fd_by_id(info.id)
        assert syscall.prog_get_info_by_fd(again).tag == info.tag
        os.close(again)
        with pytest.raises(NotFound, match="no program has id"):
            syscall.prog_get_fd_by_id(2**31 - 2)

    @pytest.mark.linux("5.10")
    def test_bound_to_a_map(self, program):
        """The map's id is among the program's, twice bound is once; what is no map is refused."""
        with Queue(4, 1) as q:
            for _ in range(2):
                syscall.prog_bind_map(program, q.fileno())
            assert syscall.prog_get_info_by_fd(program).map_ids == [q.id]
        with pytest.raises(BpfError) as caught:
            syscall.prog_bind_map(program, program)
        assert caught.value.errno == errno.EINVAL

    @admin
    @pytest.mark.linux("5.8")
    def test_runs_are_counted(self, program):
        """While the descriptor of enable_stats() is open runs are counted and timed."""
        before = syscall.prog_get_info_by_fd(program).run_cnt
        stats = syscall.enable_stats()
        try:
            syscall.prog_test_run(program, data_in=bytes(14), repeat=10)
        finally:
            os.close(stats)
        info = syscall.prog_get_info_by_fd(program)
        assert info.run_cnt - before == 10
        assert info.run_time_ns > 0
        with pytest.raises(BpfError) as caught:
            syscall.enable_stats(7)
        assert caught.value.errno == errno.EINVAL

    def test_streams(self, program):
        """A program that wrote nothing has nothing to read; a third stream there is not."""
        if kernel_version() < (6, 17):
            with pytest.raises(Unsupported, match="came with Linux 6.17"):
                syscall.prog_stream_read_by_fd(program, 1)
            return
        assert syscall.prog_stream_read_by_fd(program, 1) == b""
        with pytest.raises(NotFound, match="no such stream") as caught:
            syscall.prog_stream_read_by_fd(program, 3)
        assert caught.value.errno == errno.ENOENT

    def test_struct_ops(self, program):
        """Only a struct_ops map can be told; before 7.0 there is no such command."""
        with Queue(4, 1) as q, pytest.raises(BpfError) as caught:
            syscall.prog_assoc_struct_ops(program, q.fileno())
        assert caught.value.errno == errno.EINVAL
        if kernel_version() < (7, 0):
            assert type(caught.value) is Unsupported
            assert "came with Linux 7.0" in str(caught.value)

    @admin
    def test_what_a_descriptor_is_attached_to(self):
        """A raw tracepoint's descriptor is found with its name and its program."""
        fd = loaded(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT)
        link = syscall.raw_tracepoint_open("sched_process_exec", fd)
        try:
            found = syscall.task_fd_query(os.getpid(), link)
            assert (found.name, found.fd_type) == ("sched_process_exec", TaskFdType.BPF_FD_TYPE_RAW_TRACEPOINT)
            assert found.prog_id == syscall.prog_get_info_by_fd(fd).id
            with pytest.raises(NotFound, match="no such process"):
                syscall.task_fd_query(2**22 + 1, link)
            with pytest.raises(Unsupported, match="no program is attached"):
                syscall.task_fd_query(os.getpid(), fd)
        finally:
            os.close(link), os.close(fd)


# Attached programs


@pytest.fixture
def cgroup(tmp_path) -> Iterator[int]:
    """A cgroup of the test's own, as a descriptor."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"cgroup2", os.fsencode(tmp_path), b"cgroup2", ctypes.c_ulong(0), None) == 0
    folder = tmp_path / f"rawbpf-commands-{os.getpid()}"
    try:
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY)
        yield fd
        os.close(fd)
        folder.rmdir()
    finally:
        libc.umount2(os.fsencode(tmp_path), 2)


EGRESS = AttachType.BPF_CGROUP_INET_EGRESS


@admin
@real
class TestAttachedPrograms:
    def test_without_a_link(self, cgroup):
        """Attached, queried, detached; detached twice is NotFound (ENOENT)."""
        fd = loaded(ProgType.BPF_PROG_TYPE_CGROUP_SKB, expected_attach_type=EGRESS)
        try:
            assert syscall.prog_query(cgroup, EGRESS).prog_ids == []
            syscall.prog_attach(fd, cgroup, EGRESS)
            found = syscall.prog_query(cgroup, EGRESS)
            assert found.prog_ids == [syscall.prog_get_info_by_fd(fd).id]
            syscall.prog_detach(fd, cgroup, EGRESS)
            with pytest.raises(NotFound, match="this program is not attached there"):
                syscall.prog_detach(fd, cgroup, EGRESS)
        finally:
            os.close(fd)

    @pytest.mark.linux("5.9")
    def test_with_a_link(self, cgroup):
        """Made, found by id, described, updated, detached."""
        one, two = (loaded(ProgType.BPF_PROG_TYPE_CGROUP_SKB, expected_attach_type=EGRESS) for _ in range(2))
        link = syscall.link_create(one, cgroup, EGRESS, where="the test's cgroup")
        try:
            info = syscall.link_get_info_by_fd(link)
            assert (info.type, info.attach_type) == (LinkType.BPF_LINK_TYPE_CGROUP, EGRESS)
            assert syscall.link_get_next_id(info.id - 1) == info.id
            os.close(syscall.link_get_fd_by_id(info.id))
            with pytest.raises(NotPermitted, match="another program than `old` is attached"):
                syscall.link_update(link, two, two)
            syscall.link_update(link, two, one)
            assert syscall.link_get_info_by_fd(link).prog_id == syscall.prog_get_info_by_fd(two).id
            with pytest.raises(BpfError, match="is not one of an iterator"):
                syscall.iter_create(link)
            syscall.link_detach(link)
            assert syscall.prog_query(cgroup, EGRESS).prog_ids == []
            with pytest.raises(BpfError, match="what it was attached to is gone") as caught:
                syscall.link_update(link, one)
            assert caught.value.errno == errno.ENOLINK
        finally:
            for fd in (link, one, two):
                os.close(fd)

    def test_a_place_that_is_none(self):
        """A descriptor of no cgroup is EBADF, with the hint for cgroups."""
        fd = loaded(ProgType.BPF_PROG_TYPE_CGROUP_SKB, expected_attach_type=EGRESS)
        try:
            with pytest.raises(BpfError, match="the target is none.*cgroup2") as caught:
                syscall.link_create(fd, fd, EGRESS)
            assert caught.value.errno == errno.EBADF
        finally:
            os.close(fd)

    @pytest.mark.linux("6.6")
    def test_what_an_interface_has(self):
        """TCX tells programs, links and the revision; without the interface it is NotFound (ENODEV)."""
        found = syscall.prog_query(1, AttachType.BPF_TCX_INGRESS)
        assert found.prog_ids == found.link_ids == []
        assert found.revision >= 1
        with pytest.raises(NotFound, match="no such interface") as caught:
            syscall.prog_query(2**20, AttachType.BPF_TCX_INGRESS)
        assert caught.value.errno == errno.ENODEV


# BTF and tokens


@admin
@real
@pytest.mark.linux("5.11")
def test_btf_ids():
    """The kernel's own type information is among the ids, and is opened by its id."""
    number = syscall.btf_get_next_id(0)
    while number is not None:
        fd = syscall.btf_get_fd_by_id(number)
        info = syscall.btf_get_info_by_fd(fd)
        os.close(fd)
        if info.name == "vmlinux":
            break
        number = syscall.btf_get_next_id(number)
    assert info.name == "vmlinux" and info.kernel_btf


@creates
@real
def test_a_blob_of_btf():
    """What is loaded is what the info gives back."""
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    blob = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), 5) + types + b"\0int\0"
    fd = syscall.btf_load(blob)
    assert syscall.btf_get_info_by_fd(fd).data == blob
    os.close(fd)


@admin
@real
@pytest.mark.linux("6.9")
def test_no_token_in_the_initial_user_namespace(bpf_folder):
    """The root of a bpffs of the initial user namespace gives none (EOPNOTSUPP), another folder is EINVAL."""
    for folder, words in ((bpf_folder, "initial user namespace"), ("/", "not the root of a bpffs")):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with pytest.raises(BpfError, match=words):
                syscall.token_create(fd)
        finally:
            os.close(fd)


@admin
@real
def test_pins_freezing_and_map_ids(bpf_folder):
    """The rest of the commands: a pin is opened, a map frozen, and found by its id."""
    fd = syscall.map_create(MapType.BPF_MAP_TYPE_QUEUE, "pinned", 0, 4, 1)
    syscall.obj_pin(fd, f"{bpf_folder}/pinned")
    again = syscall.obj_get(f"{bpf_folder}/pinned")
    number = syscall.obj_get_info_by_fd(again).id
    assert syscall.map_get_next_id(number - 1) == number
    os.close(syscall.map_get_fd_by_id(number))
    if kernel_version() >= (5, 2):
        syscall.map_freeze(fd)
    for each in (fd, again):
        os.close(each)


def test_program_runs_through_the_same_functions(sent):
    """Program loads and runs by prog_load's and prog_test_run's calls: the whole union, one call each."""
    try:
        with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, RETURNS_1) as program:
            program.run(bytes(14))
    except (NotPermitted, Unsupported, VerifierError):
        pytest.skip("by design: the simulated kernel loads no programs: needs CAP_BPF")
    assert sent == [(Cmd.BPF_PROG_LOAD, 168), (Cmd.BPF_PROG_TEST_RUN, 168)]
