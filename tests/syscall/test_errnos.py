"""Each errno that `rawbpf explain` lists for a command, provoked on the running kernel by the bare call.

HOW says for every command and errno how it is provoked, or why it is not. The list of what must be there is made from
the tables that the exceptions and the pages use.
"""

import ctypes
import errno
import mmap
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rawbpf import bpf_attr, syscall
from rawbpf.abi import ENOTSUPP, AttachType, Cmd, MapFlag, MapType, layout
from rawbpf.abi.door import ffi, lib
from rawbpf.observe import pages
from rawbpf.observe.attr_fields import struct_of
from rawbpf.programs.asm import R0, Item, assemble, exit_, load, load_map, mov
from rawbpf.syscall.errors import errno_name
from rawbpf.syscall.proc import kernel_version
from tests.conftest import IS_ROOT, skip_other_kernels
from tests.programs.attaching import CLONE_NEWNET, NETNS, libc

UNION = ffi.sizeof("union bpf_attr")
NOT_OPEN = 1023
NO_ID = 2**31 - 2
NO_INTERFACE = 2**30
TCX = AttachType.BPF_TCX_INGRESS
UPROBES = AttachType.BPF_TRACE_UPROBE_MULTI
NETFILTER = AttachType.BPF_NETFILTER
IN_CGROUP = AttachType.BPF_CGROUP_INET_INGRESS

Fields = dict[str, Any]


class Lab:
    """What the calls are made with. Everything that it opens is closed at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = ExitStack()
        self.kept: list[bytearray] = []
        # There all that is made counts against this limit, and these calls are not those that raise it.
        if kernel_version() < (5, 11):
            before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self.stack.callback(resource.setrlimit, resource.RLIMIT_MEMLOCK, before)

    def at(self, data: bytes) -> int:
        """The address of these bytes, which stay where they are."""
        self.kept.append(bytearray(data))
        return syscall.pointer(self.kept[-1])

    def room(self, size: int = 64) -> int:
        return self.at(bytes(size))

    def opened(self, fd: int) -> int:
        assert fd >= 0, errno_name(-fd)
        self.stack.callback(os.close, fd)
        return fd

    def file(self, path: "str | Path") -> int:
        return self.opened(os.open(path, os.O_RDONLY))

    def map(self, kind: str, key: int = 4, value: int = 8, entries: int = 4, **more: int) -> int:
        attr = {"map_type": MapType[f"BPF_MAP_TYPE_{kind}"], "key_size": key, "value_size": value, **more}
        return self.opened(made(Cmd.BPF_MAP_CREATE, max_entries=entries, **attr))

    def queue(self, **more: int) -> int:
        return self.map("QUEUE", key=0, **more)

    def ring(self) -> int:
        return self.map("RINGBUF", key=0, value=0, entries=4096)

    def table(self, entries: int = 4, filled: int = 0) -> int:
        fd = self.map("HASH", entries=entries)
        for number in range(filled):
            key, value = self.at(struct.pack("=I", number)), self.room()
            assert answer(Cmd.BPF_MAP_UPDATE_ELEM, map_fd=fd, key=key, value=value) == 0
        return fd

    def program(self, prog_type: int = 1, code: "list[Item] | None" = None, **more: Any) -> int:
        return self.opened(made(Cmd.BPF_PROG_LOAD, **self.loading(prog_type, code or [mov(R0, 1), exit_()], **more)))

    def loading(self, prog_type: int, code: list[Item], **more: Any) -> Fields:
        instructions = assemble(code)
        given = {"insns": self.at(instructions), "insn_cnt": len(instructions) // 8, "license": self.at(b"GPL\0")}
        return {"prog_type": prog_type, **given, **more}

    def tracepoint(self) -> int:
        """The link of a raw tracepoint."""
        name = self.at(b"sched_process_exec\0")
        attr = {"name": name, "prog_fd": self.program(17)}
        return self.opened(made(Cmd.BPF_RAW_TRACEPOINT_OPEN, raw_tracepoint=attr))

    def cgroup(self, *names: str) -> int:
        """A cgroup of the test's own; with more names one within another."""
        root = os.fsencode(self.folder)
        if not (self.folder / "cgroup.procs").exists():
            assert libc.mount(b"cgroup2", root, b"cgroup2", ctypes.c_ulong(0), None) == 0
            self.stack.callback(libc.umount2, root, 2)
        path = self.folder / f"rawbpf-errnos-{os.getpid()}"
        for part in (".", *names):
            path /= part
            if not path.exists():
                path.mkdir()
                self.stack.callback(path.rmdir)
        return self.file(path)

    def filter(self) -> int:
        """A program for a cgroup."""
        return self.program(8)

    def linked(self, cgroup: int) -> int:
        attr = {"prog_fd": self.filter(), "target_fd": cgroup, "attach_type": IN_CGROUP}
        return self.opened(made(Cmd.BPF_LINK_CREATE, link_create=attr))

    def network(self) -> None:
        """A network namespace of the test's own: its loopback interface is number 1."""
        before = os.open(NETNS, os.O_RDONLY)
        self.stack.callback(os.close, before)
        assert libc.unshare(CLONE_NEWNET) == 0
        self.stack.callback(libc.setns, before, CLONE_NEWNET)

    def attached(self, fd: int, **more: Any) -> Fields:
        attr = {"attach_bpf_fd": fd, "attach_type": IN_CGROUP, **more}
        assert answer(Cmd.BPF_PROG_ATTACH, **attr) == 0
        return attr

    def tcx(self) -> int:
        """A program at the loopback interface of an own network."""
        self.network()
        fd = self.program(3)
        self.attached(fd, target_ifindex=1, attach_type=TCX)
        self.stack.callback(answer, Cmd.BPF_PROG_DETACH, target_ifindex=1, attach_bpf_fd=fd, attach_type=TCX)
        return fd

    def pins(self) -> str:
        return self.stack.enter_context(bpffs_in(self.folder))

    def path(self, text: str) -> int:
        return self.at(os.fsencode(text) + b"\0")


@contextmanager
def bpffs_in(folder: Path) -> Iterator[str]:
    target = os.fsencode(folder)
    assert libc.mount(b"bpf", target, b"bpf", ctypes.c_ulong(0), None) == 0
    try:
        yield str(folder)
    finally:
        libc.umount2(target, 2)


def made(cmd: Cmd, **fields: Any) -> int:
    return lib.bpf(cmd, bpf_attr(**fields), UNION)


def answer(cmd: Cmd, **fields: Any) -> int:
    """The errno of the bare call, 0 for success; a descriptor that it makes is closed."""
    result = made(cmd, **fields)
    if result > 2 and cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD, Cmd.BPF_LINK_CREATE, Cmd.BPF_BTF_LOAD):
        os.close(result)
    return -min(result, 0)


# Ways that are the same for all commands


def no_attr(cmd: Cmd, lab: Lab) -> int:
    """EFAULT: the attr is nowhere."""
    return -lib.bpf(cmd, ffi.NULL, 16)


def too_long(cmd: Cmd, lab: Lab) -> int:
    """E2BIG: a byte behind what the kernel knows is not 0."""
    attr = bytearray(4096)
    attr[-1] = 1
    return -lib.bpf(cmd, ffi.from_buffer(attr), len(attr))


def rest_not_zero(cmd: Cmd, lab: Lab) -> int:
    """EINVAL: a byte behind the command's last field is not 0."""
    fields = struct_of(cmd)
    assert fields is not None
    known = [field for field in fields.fields if layout.version(field.since) <= kernel_version()]
    attr = bytearray(UNION)
    attr[max(field.end for field in known) + 4] = 1
    return -lib.bpf(cmd, ffi.from_buffer(attr), len(attr))


def as_nobody(cmd: Cmd, lab: Lab) -> int:
    """EPERM: a process without capabilities."""
    return in_a_child(lambda: answer(cmd))


def in_a_child(act: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def without_descriptors(cmd: Cmd, lab: Lab) -> int:
    """EMFILE: no more descriptors may be opened. 0, 1 and 2 stay free of ours."""
    fields = {
        Cmd.BPF_MAP_CREATE: {"map_type": MapType.BPF_MAP_TYPE_QUEUE, "value_size": 4, "max_entries": 1},
        Cmd.BPF_PROG_LOAD: lab.loading(1, [mov(R0, 1), exit_()]),
    }[cmd]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        return answer(cmd, **fields)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Ways that take more than one call


def full_table(cmd: Cmd, lab: Lab) -> int:
    fd = lab.table(2)
    keys, values = lab.at(struct.pack("=3I", 1, 2, 3)), lab.room()
    return answer(cmd, batch={"map_fd": fd, "keys": keys, "values": values, "count": 3})


def crowded_bucket(cmd: Cmd, lab: Lab) -> int:
    """One key at a time, until a bucket has two."""
    fd = lab.table(64, filled=64)
    place = lab.room()
    batch = {"map_fd": fd, "keys": lab.room(), "values": lab.room(), "out_batch": place}
    for number in range(65):
        found = answer(cmd, batch={**batch, "in_batch": place if number else 0, "count": 1})
        if found:
            return found
    return 0


def many_programs(cmd: Cmd, lab: Lab) -> int:
    """One program more than a cgroup takes."""
    cgroup = lab.cgroup()
    for _ in range(64):
        lab.attached(lab.filter(), target_fd=cgroup, attach_flags=2)
    if cmd == Cmd.BPF_PROG_ATTACH:
        return answer(cmd, target_fd=cgroup, attach_bpf_fd=lab.filter(), attach_type=IN_CGROUP, attach_flags=2)
    return answer(cmd, link_create={"prog_fd": lab.filter(), "target_fd": cgroup, "attach_type": IN_CGROUP})


def forbidden_below(cmd: Cmd, lab: Lab) -> int:
    """A cgroup whose program allows none below it."""
    inner = lab.cgroup("inner")
    lab.attached(lab.filter(), target_fd=lab.cgroup())
    return answer(cmd, target_fd=inner, attach_bpf_fd=lab.filter(), attach_type=IN_CGROUP)


def more_than_room(cmd: Cmd, lab: Lab) -> int:
    cgroup = lab.cgroup()
    for _ in range(2):
        lab.attached(lab.filter(), target_fd=cgroup, attach_flags=2)
    query = {"target_fd": cgroup, "attach_type": IN_CGROUP, "prog_ids": lab.room(), "prog_cnt": 1}
    return answer(cmd, query=query)


def link_at_loopback(attach_type: AttachType, lab: Lab, **more: Any) -> int:
    attr = {"prog_fd": lab.program(6), "target_ifindex": 1, "attach_type": attach_type, **more}
    return answer(Cmd.BPF_LINK_CREATE, link_create=attr)


def second_xdp(cmd: Cmd, lab: Lab) -> int:
    lab.network()
    attr = {"prog_fd": lab.program(6), "target_ifindex": 1, "attach_type": AttachType.BPF_XDP}
    lab.opened(made(cmd, link_create=attr))
    return link_at_loopback(AttachType.BPF_XDP, lab)


def xdp_of_a_driver(cmd: Cmd, lab: Lab) -> int:
    lab.network()
    return link_at_loopback(AttachType.BPF_XDP, lab, flags=4)


def tcx_twice(cmd: Cmd, lab: Lab) -> int:
    return answer(cmd, target_ifindex=1, attach_bpf_fd=lab.tcx(), attach_type=TCX)


def tcx_link_twice(cmd: Cmd, lab: Lab) -> int:
    return answer(cmd, link_create={"prog_fd": lab.tcx(), "target_ifindex": 1, "attach_type": TCX})


def stale(cmd: Cmd, lab: Lab) -> int:
    fd = lab.tcx()
    if cmd == Cmd.BPF_LINK_CREATE:
        attr = {"prog_fd": lab.program(3), "target_ifindex": 1, "attach_type": TCX, "tcx": {"expected_revision": 99}}
        return answer(cmd, link_create=attr)
    attached = fd if cmd == Cmd.BPF_PROG_DETACH else lab.program(3)
    return answer(cmd, target_ifindex=1, attach_bpf_fd=attached, attach_type=TCX, expected_revision=99)


def nothing_to_replace(cmd: Cmd, lab: Lab) -> int:
    cgroup, other = lab.cgroup(), lab.filter()
    lab.attached(lab.filter(), target_fd=cgroup, attach_flags=2)
    return answer(
        cmd, target_fd=cgroup, attach_bpf_fd=lab.filter(), attach_type=IN_CGROUP, attach_flags=6, replace_bpf_fd=other
    )


def update_after_detach(cmd: Cmd, lab: Lab) -> int:
    link = lab.linked(lab.cgroup())
    assert answer(Cmd.BPF_LINK_DETACH, link_detach={"link_fd": link}) == 0
    return answer(cmd, link_update={"link_fd": link, "new_prog_fd": lab.filter()})


def other_program_attached(cmd: Cmd, lab: Lab) -> int:
    link = lab.linked(lab.cgroup())
    attr = {"link_fd": link, "new_prog_fd": lab.filter(), "flags": 4, "old_prog_fd": lab.filter()}
    return answer(cmd, link_update=attr)


def freeze_without_leave(cmd: Cmd, lab: Lab) -> int:
    """Since 6.5 that takes a descriptor that may write, before it took CAP_BPF."""
    if kernel_version() >= (6, 5):
        return answer(cmd, map_fd=read_only(lab))
    fd = lab.map("HASH")
    return in_a_child(lambda: answer(cmd, map_fd=fd))


def mapped(cmd: Cmd, lab: Lab) -> int:
    fd = lab.map("ARRAY", map_flags=MapFlag.BPF_F_MMAPABLE)
    with mmap.mmap(fd, 4096):
        return answer(cmd, map_fd=fd)


def pin_in_a_strangers_folder(cmd: Cmd, lab: Lab) -> int:
    fd, folder = lab.queue(), lab.pins()
    os.chmod(folder, 0o755)
    os.chmod(lab.folder.parent, 0o755)
    name = lab.path(f"{folder}/stranger")
    return in_a_child(lambda: answer(cmd, pathname=name, bpf_fd=fd))


def pinned_already(cmd: Cmd, lab: Lab) -> int:
    attr = {"pathname": lab.path(f"{lab.pins()}/twice"), "bpf_fd": lab.queue()}
    assert answer(cmd, **attr) == 0
    return answer(cmd, **attr)


# The smallest log that kernels before 6.4 take; what is written to it is longer.
LOG_SIZE = 128


def small_log(cmd: Cmd, lab: Lab) -> int:
    more = {"log_level": 2, "log_size": LOG_SIZE, "log_buf": lab.room(LOG_SIZE)}
    return answer(cmd, **lab.loading(1, [mov(R0, 1), exit_()], **more))


def disturbed(cmd: Cmd, lab: Lab) -> int:
    """A program of as many instructions as anybody may load, and a signal: a little later each time, until it comes
    while the verifier is at work."""
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    loading = lab.loading(1, [*[mov(R0, 1)] * 4095, exit_()])
    try:
        for number in range(1, 1000):
            signal.setitimer(signal.ITIMER_REAL, number * 2e-5)
            result = answer(cmd, **loading)
            if result == errno.EAGAIN:
                break
        return result
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def small_btf_log(cmd: Cmd, lab: Lab) -> int:
    records = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    data = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(records), len(records), 5) + records + b"\0int\0"
    log = {"btf_log_level": 2, "btf_log_size": LOG_SIZE, "btf_log_buf": lab.room(LOG_SIZE)}
    return answer(cmd, btf=lab.at(data), btf_size=len(data), **log)


def bad_map_in_a_program(cmd: Cmd, lab: Lab) -> int:
    code: list[Item] = [load_map(R0, NOT_OPEN), mov(R0, 0), exit_()]
    return answer(cmd, **lab.loading(1, code))


def uprobe(cmd: Cmd, lab: Lab, **more: Any) -> int:
    """A program at the first place of a file."""
    place = {"path": lab.path("/bin/true"), "offsets": lab.room(), "cnt": 1, **more}
    attr = {"prog_fd": lab.program(2, expected_attach_type=UPROBES), "attach_type": UPROBES, "uprobe_multi": place}
    return answer(cmd, link_create=attr)


def small_name(cmd: Cmd, lab: Lab) -> int:
    query = {"pid": os.getpid(), "fd": lab.tracepoint(), "buf": lab.room(), "buf_len": 2}
    return answer(cmd, task_fd_query=query)


def token_for_nobody(cmd: Cmd, lab: Lab) -> int:
    folder = lab.file(lab.pins())
    return in_a_child(lambda: answer(cmd, token_create={"bpffs_fd": folder}))


def netfilter(**place: int) -> Callable[[Cmd, Lab], int]:
    def provoke(cmd: Cmd, lab: Lab) -> int:
        program = lab.program(32, expected_attach_type=NETFILTER)
        lab.network()
        attr = {"prog_fd": program, "attach_type": NETFILTER, "netfilter": {"pf": 2, **place}}
        return answer(cmd, link_create=attr)

    return since(NETFILTER.since, provoke)


def since(release: str, provoke: Callable[[Cmd, Lab], int]) -> Callable[[Cmd, Lab], int]:
    """What no kernel before that release answers."""

    def provoke_there(cmd: Cmd, lab: Lab) -> int:
        skip_other_kernels(release)
        return provoke(cmd, lab)

    return provoke_there


def by(fields: Callable[[Lab], Fields]) -> Callable[[Cmd, Lab], int]:
    """One call with these fields."""
    return lambda cmd, lab: answer(cmd, **fields(lab))


def in_element_call(fd: Callable[[Lab], int], key: bytes | None = b"key1", **more: int) -> Callable[[Cmd, Lab], int]:
    """An element command with a key and, if it has one, with room for a value."""

    def provoke(cmd: Cmd, lab: Lab) -> int:
        value = {} if cmd == Cmd.BPF_MAP_DELETE_ELEM else {"value": lab.room()}
        return answer(cmd, map_fd=fd(lab), key=lab.at(key) if key else 0, **value, **more)

    return provoke


def in_batch(fd: Callable[[Lab], int], **more: int) -> Callable[[Cmd, Lab], int]:
    def fields(lab: Lab) -> Fields:
        return {"batch": {"map_fd": fd(lab), "keys": lab.room(), "values": lab.room(), "count": 1, **more}}

    return by(fields)


def closed(lab: Lab) -> int:
    return NOT_OPEN


def read_only(lab: Lab) -> int:
    return lab.map("HASH", map_flags=MapFlag.BPF_F_RDONLY)


def write_only(lab: Lab) -> int:
    return lab.map("HASH", map_flags=MapFlag.BPF_F_WRONLY)


C = Cmd
LOCKED = "no process can hold a map's lock while another asks for it"
NO_FUNCTIONS = "programs of type TRACING can't be attached to functions everywhere: tests/programs/test_link.py does it"
OLD_UNPRIVILEGED = "without capabilities it is refused before Linux 5.19, or by a security module"

READERS = (C.BPF_MAP_LOOKUP_ELEM, C.BPF_MAP_GET_NEXT_KEY)
WRITERS = (C.BPF_MAP_UPDATE_ELEM, C.BPF_MAP_DELETE_ELEM, C.BPF_MAP_LOOKUP_AND_DELETE_ELEM)
BATCHES = tuple(cmd for cmd in Cmd if cmd.name.endswith("_BATCH"))
NEXT_IDS = tuple(cmd for cmd in Cmd if cmd.name.endswith("_GET_NEXT_ID"))

# How each errno is provoked, or why it is not.
HOW: dict[tuple[Cmd, int], Callable[[Cmd, Lab], int] | str] = {
    # What is the same for many commands
    **{(cmd, errno.EFAULT): no_attr for cmd in Cmd},
    **{(cmd, errno.E2BIG): too_long for cmd in Cmd},
    **{(cmd, errno.EINVAL): rest_not_zero for cmd in Cmd},
    **{(cmd, errno.EPERM): as_nobody for cmd in Cmd},
    **{(cmd, errno.EBUSY): LOCKED for cmd in Cmd},
    **{(cmd, errno.ENFILE): "the limit is the whole machine's, and root's processes may go beyond it" for cmd in Cmd},
    **{(cmd, errno.EMFILE): without_descriptors for cmd in (C.BPF_MAP_CREATE, C.BPF_PROG_LOAD)},
    **{(cmd, errno.EBADF): in_element_call(closed) for cmd in (*READERS, *WRITERS)},
    **{(cmd, errno.EBADF): in_batch(closed) for cmd in BATCHES},
    **{(cmd, ENOTSUPP): in_element_call(Lab.ring, key=None) for cmd in (*READERS, *WRITERS)},
    **{(cmd, ENOTSUPP): in_batch(Lab.queue) for cmd in BATCHES},
    **{(cmd, errno.EPERM): in_element_call(read_only) for cmd in WRITERS},
    **{(cmd, errno.EPERM): in_element_call(write_only) for cmd in READERS},
    **{(cmd, errno.EPERM): in_batch(read_only) for cmd in BATCHES},
    (C.BPF_MAP_LOOKUP_BATCH, errno.EPERM): in_batch(write_only),
    **{(cmd, errno.ENOENT): by(lambda lab: {"start_id": NO_ID}) for cmd in NEXT_IDS},
    (C.BPF_PROG_GET_FD_BY_ID, errno.ENOENT): by(lambda lab: {"prog_id": NO_ID}),
    (C.BPF_MAP_GET_FD_BY_ID, errno.ENOENT): by(lambda lab: {"map_id": NO_ID}),
    (C.BPF_BTF_GET_FD_BY_ID, errno.ENOENT): by(lambda lab: {"btf_id": NO_ID}),
    (C.BPF_LINK_GET_FD_BY_ID, errno.ENOENT): by(lambda lab: {"link_id": NO_ID}),
    # Maps
    # Before 5.11 a map of more than 4 GiB was E2BIG, as a queue is on some later kernels.
    (C.BPF_MAP_CREATE, errno.ENOMEM): since(
        "5.11",
        by(
            lambda lab: {
                "map_type": MapType.BPF_MAP_TYPE_ARRAY,
                "key_size": 4,
                "value_size": 2**20,
                "max_entries": 2**30,
            }
        ),
    ),
    (C.BPF_MAP_CREATE, errno.E2BIG): by(
        lambda lab: {"map_type": MapType.BPF_MAP_TYPE_QUEUE, "value_size": 2**30, "max_entries": 1}
    ),
    (C.BPF_MAP_CREATE, errno.EINVAL): by(
        lambda lab: {"map_type": MapType.BPF_MAP_TYPE_QUEUE, "key_size": 4, "value_size": 4, "max_entries": 1}
    ),
    (C.BPF_MAP_CREATE, errno.EBADF): by(
        lambda lab: {
            "map_type": MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS,
            "key_size": 4,
            "value_size": 4,
            "max_entries": 1,
            "inner_map_fd": NOT_OPEN,
        }
    ),
    (C.BPF_MAP_CREATE, errno.EPERM): lambda cmd, lab: in_a_child(
        lambda: answer(cmd, map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=4, max_entries=1)
    ),
    (C.BPF_MAP_LOOKUP_ELEM, errno.ENOENT): in_element_call(Lab.queue, key=None),
    (C.BPF_MAP_LOOKUP_AND_DELETE_ELEM, errno.ENOENT): in_element_call(Lab.queue, key=None),
    (C.BPF_MAP_LOOKUP_AND_DELETE_ELEM, ENOTSUPP): in_element_call(lambda lab: lab.map("ARRAY")),
    (C.BPF_MAP_DELETE_ELEM, errno.ENOENT): in_element_call(Lab.table),
    (C.BPF_MAP_DELETE_ELEM, errno.EINVAL): in_element_call(lambda lab: lab.map("ARRAY")),
    (C.BPF_MAP_GET_NEXT_KEY, errno.ENOENT): in_element_call(Lab.table),
    (C.BPF_MAP_UPDATE_ELEM, errno.E2BIG): in_element_call(lambda lab: lab.table(2, filled=2)),
    (C.BPF_MAP_UPDATE_ELEM, errno.ENOSPC): by(
        lambda lab: {"map_fd": full_trie(lab), "key": lab.at(struct.pack("=II", 32, 7)), "value": lab.room()}
    ),
    (C.BPF_MAP_UPDATE_ELEM, errno.ENOENT): in_element_call(Lab.table, flags=2),
    (C.BPF_MAP_UPDATE_ELEM, errno.EEXIST): in_element_call(lambda lab: lab.table(2, filled=1), key=bytes(4), flags=1),
    (C.BPF_MAP_UPDATE_ELEM, errno.ENOMEM): "it takes a memory cgroup that is used up, where processes are killed first",
    (C.BPF_MAP_LOOKUP_BATCH, errno.ENOSPC): crowded_bucket,
    (C.BPF_MAP_LOOKUP_AND_DELETE_BATCH, errno.ENOSPC): crowded_bucket,
    (C.BPF_MAP_UPDATE_BATCH, errno.E2BIG): full_table,
    (C.BPF_MAP_DELETE_BATCH, errno.ENOENT): in_batch(Lab.table),
    (C.BPF_MAP_FREEZE, errno.EBADF): by(lambda lab: {"map_fd": NOT_OPEN}),
    (C.BPF_MAP_FREEZE, errno.EBUSY): mapped,
    (C.BPF_MAP_FREEZE, errno.EPERM): freeze_without_leave,
    (C.BPF_MAP_FREEZE, ENOTSUPP): "it takes a map of type STRUCT_OPS, or one whose values have a lock or a timer",
    # Pins and infos
    (C.BPF_OBJ_PIN, errno.EEXIST): pinned_already,
    (C.BPF_OBJ_PIN, errno.ENOENT): by(lambda lab: {"pathname": lab.path("/nothing/there"), "bpf_fd": lab.queue()}),
    (C.BPF_OBJ_PIN, errno.EPERM): by(lambda lab: {"pathname": lab.path(f"{lab.folder}/pin"), "bpf_fd": lab.queue()}),
    (C.BPF_OBJ_PIN, errno.EACCES): since("5.19", pin_in_a_strangers_folder),
    (C.BPF_OBJ_GET, errno.ENOENT): by(lambda lab: {"pathname": lab.path("/nothing/there")}),
    (C.BPF_OBJ_GET, errno.EACCES): by(lambda lab: {"pathname": lab.path("/bin/true")}),
    (C.BPF_OBJ_GET, errno.EPERM): OLD_UNPRIVILEGED,
    (C.BPF_OBJ_GET_INFO_BY_FD, errno.EINVAL): by(lambda lab: {"info": {"bpf_fd": lab.file("/dev/null")}}),
    (C.BPF_OBJ_GET_INFO_BY_FD, errno.EBADFD): by(lambda lab: {"info": {"bpf_fd": NOT_OPEN}}),
    # Programs
    (C.BPF_PROG_LOAD, errno.EACCES): by(lambda lab: lab.loading(1, [load("u64", R0, R0), exit_()])),
    (C.BPF_PROG_LOAD, errno.EBADF): bad_map_in_a_program,
    (C.BPF_PROG_LOAD, errno.EINVAL): by(lambda lab: lab.loading(999, [mov(R0, 1), exit_()])),
    (C.BPF_PROG_LOAD, errno.EPERM): lambda cmd, lab: in_a_child(
        lambda: answer(cmd, **lab.loading(1, [mov(R0, 1), exit_()]))
    ),
    (C.BPF_PROG_LOAD, errno.EAGAIN): disturbed,
    (C.BPF_PROG_LOAD, errno.ENOSPC): small_log,
    (C.BPF_PROG_LOAD, errno.ENOMEM): "it takes a memory cgroup that is used up, where processes are killed first",
    (C.BPF_PROG_LOAD, ENOTSUPP): "it takes a kernel without a JIT, and a program that calls the kernel's functions",
    (C.BPF_PROG_TEST_RUN, ENOTSUPP): by(lambda lab: {"test": {"prog_fd": lab.program(2)}}),
    (C.BPF_PROG_TEST_RUN, errno.ENOSPC): by(
        lambda lab: {
            "test": {
                "prog_fd": lab.program(),
                "data_in": lab.room(),
                "data_size_in": 32,
                "data_out": lab.room(),
                "data_size_out": 4,
            }
        }
    ),
    (C.BPF_PROG_TEST_RUN, errno.EBADF): by(lambda lab: {"test": {"prog_fd": NOT_OPEN}}),
    (C.BPF_PROG_TEST_RUN, errno.EPERM): OLD_UNPRIVILEGED,
    (C.BPF_PROG_BIND_MAP, errno.EBADF): by(lambda lab: {"prog_bind_map": {"prog_fd": NOT_OPEN}}),
    (C.BPF_PROG_STREAM_READ_BY_FD, errno.ENOENT): by(
        lambda lab: {"prog_stream_read": {"prog_fd": lab.program(), "stream_id": 9}}
    ),
    (C.BPF_PROG_STREAM_READ_BY_FD, errno.EBADF): by(lambda lab: {"prog_stream_read": {"prog_fd": NOT_OPEN}}),
    (C.BPF_PROG_ASSOC_STRUCT_OPS, errno.EBADF): by(lambda lab: {"prog_assoc_struct_ops": {"prog_fd": NOT_OPEN}}),
    (C.BPF_PROG_ASSOC_STRUCT_OPS, errno.EBUSY): "it takes two maps of type STRUCT_OPS",
    # Type information
    (C.BPF_BTF_LOAD, errno.EINVAL): by(lambda lab: {"btf": lab.at(b"no type information"), "btf_size": 19}),
    (C.BPF_BTF_LOAD, errno.E2BIG): by(lambda lab: {"btf": lab.at(b"x"), "btf_size": 2**31}),
    (C.BPF_BTF_LOAD, errno.ENOSPC): small_btf_log,
    (C.BPF_BTF_LOAD, errno.EBADF): since(
        "6.9",
        by(
            lambda lab: {
                "btf_flags": MapFlag.BPF_F_TOKEN_FD,
                "btf_token_fd": NOT_OPEN,
                "btf": lab.room(),
                "btf_size": 8,
            }
        ),
    ),
    (C.BPF_BTF_GET_FD_BY_ID, errno.EBADF): since(
        "6.15", by(lambda lab: {"btf_id": 1, "open_flags": MapFlag.BPF_F_TOKEN_FD, "fd_by_id_token_fd": NOT_OPEN})
    ),
    # What is attached
    (C.BPF_RAW_TRACEPOINT_OPEN, errno.ENOENT): by(
        lambda lab: {"raw_tracepoint": {"name": lab.at(b"nothing\0"), "prog_fd": lab.program(17)}}
    ),
    (C.BPF_RAW_TRACEPOINT_OPEN, errno.EINVAL): by(
        lambda lab: {"raw_tracepoint": {"name": lab.at(b"sched_process_exec\0"), "prog_fd": lab.program(1)}}
    ),
    (C.BPF_RAW_TRACEPOINT_OPEN, errno.EBADF): by(lambda lab: {"raw_tracepoint": {"prog_fd": NOT_OPEN}}),
    (C.BPF_RAW_TRACEPOINT_OPEN, errno.EBUSY): NO_FUNCTIONS,
    (C.BPF_RAW_TRACEPOINT_OPEN, ENOTSUPP): NO_FUNCTIONS,
    (C.BPF_TASK_FD_QUERY, errno.ENOENT): by(lambda lab: {"task_fd_query": {"pid": NO_ID}}),
    (C.BPF_TASK_FD_QUERY, errno.EBADF): by(lambda lab: {"task_fd_query": {"pid": os.getpid(), "fd": NOT_OPEN}}),
    (C.BPF_TASK_FD_QUERY, ENOTSUPP): by(
        lambda lab: {"task_fd_query": {"pid": os.getpid(), "fd": lab.file("/dev/null")}}
    ),
    (C.BPF_TASK_FD_QUERY, errno.ENOSPC): small_name,
    (C.BPF_PROG_ATTACH, errno.EEXIST): since(TCX.since, tcx_twice),
    (C.BPF_PROG_ATTACH, errno.ENOENT): nothing_to_replace,
    (C.BPF_PROG_ATTACH, errno.ESTALE): since(TCX.since, stale),
    (C.BPF_PROG_ATTACH, errno.EPERM): forbidden_below,
    (C.BPF_PROG_ATTACH, errno.E2BIG): many_programs,
    (C.BPF_PROG_ATTACH, errno.ENODEV): since(
        TCX.since,
        by(lambda lab: {"target_ifindex": NO_INTERFACE, "attach_bpf_fd": lab.program(3), "attach_type": TCX}),
    ),
    (C.BPF_PROG_ATTACH, errno.EBADF): by(
        lambda lab: {"target_fd": NOT_OPEN, "attach_bpf_fd": lab.filter(), "attach_type": IN_CGROUP}
    ),
    (C.BPF_PROG_DETACH, errno.ENOENT): by(lambda lab: {"target_fd": lab.cgroup(), "attach_type": IN_CGROUP}),
    (
        C.BPF_PROG_DETACH,
        errno.EPERM,
    ): "it took a capability only before Linux 5.8: test_to_detach_takes_no_capability",
    (C.BPF_PROG_DETACH, errno.ENODEV): since(
        TCX.since,
        by(lambda lab: {"target_ifindex": NO_INTERFACE, "attach_bpf_fd": lab.program(3), "attach_type": TCX}),
    ),
    (C.BPF_PROG_DETACH, errno.ESTALE): since(TCX.since, stale),
    (C.BPF_PROG_DETACH, errno.EBADF): by(lambda lab: {"target_fd": NOT_OPEN, "attach_type": IN_CGROUP}),
    (C.BPF_PROG_QUERY, errno.ENOSPC): more_than_room,
    (C.BPF_PROG_QUERY, errno.ENODEV): since(
        TCX.since, by(lambda lab: {"query": {"target_ifindex": NO_INTERFACE, "attach_type": TCX}})
    ),
    (C.BPF_PROG_QUERY, errno.EBADF): by(lambda lab: {"query": {"target_fd": NOT_OPEN, "attach_type": IN_CGROUP}}),
    (C.BPF_LINK_CREATE, errno.EEXIST): since(TCX.since, tcx_link_twice),
    (C.BPF_LINK_CREATE, errno.EBUSY): second_xdp,
    (C.BPF_LINK_CREATE, errno.E2BIG): many_programs,
    (C.BPF_LINK_CREATE, errno.ENODEV): since(
        TCX.since,
        by(
            lambda lab: {
                "link_create": {"prog_fd": lab.program(3), "target_ifindex": NO_INTERFACE, "attach_type": TCX},
            }
        ),
    ),
    (C.BPF_LINK_CREATE, errno.ENOENT): since(
        UPROBES.since, lambda cmd, lab: uprobe(cmd, lab, path=lab.path("/nothing/there"))
    ),
    (C.BPF_LINK_CREATE, errno.ESRCH): since(UPROBES.since, lambda cmd, lab: uprobe(cmd, lab, pid=NO_ID)),
    (C.BPF_LINK_CREATE, errno.EBADF): by(
        lambda lab: {"link_create": {"prog_fd": lab.filter(), "target_fd": NOT_OPEN, "attach_type": IN_CGROUP}}
    ),
    (C.BPF_LINK_CREATE, errno.EOPNOTSUPP): xdp_of_a_driver,
    (C.BPF_LINK_CREATE, ENOTSUPP): NO_FUNCTIONS,
    (C.BPF_LINK_CREATE, errno.ESTALE): since(TCX.since, stale),
    (C.BPF_LINK_CREATE, errno.EAFNOSUPPORT): netfilter(pf=99),
    (C.BPF_LINK_CREATE, errno.EPROTO): netfilter(hooknum=5),
    (C.BPF_LINK_CREATE, errno.ERANGE): netfilter(priority=-(2**31)),
    (C.BPF_LINK_UPDATE, errno.EINVAL): by(
        lambda lab: {"link_update": {"link_fd": lab.tracepoint(), "new_prog_fd": lab.program(17)}}
    ),
    (C.BPF_LINK_UPDATE, errno.ENOLINK): update_after_detach,
    (C.BPF_LINK_UPDATE, errno.EPERM): other_program_attached,
    (C.BPF_LINK_UPDATE, errno.EBADF): by(lambda lab: {"link_update": {"link_fd": NOT_OPEN}}),
    (C.BPF_LINK_DETACH, errno.EOPNOTSUPP): by(lambda lab: {"link_detach": {"link_fd": lab.tracepoint()}}),
    (C.BPF_LINK_DETACH, errno.EBADF): by(lambda lab: {"link_detach": {"link_fd": NOT_OPEN}}),
    (C.BPF_ITER_CREATE, errno.EINVAL): by(lambda lab: {"iter_create": {"link_fd": lab.tracepoint()}}),
    (C.BPF_ITER_CREATE, errno.EBADF): by(lambda lab: {"iter_create": {"link_fd": NOT_OPEN}}),
    (C.BPF_TOKEN_CREATE, errno.EOPNOTSUPP): by(lambda lab: {"token_create": {"bpffs_fd": lab.file(lab.pins())}}),
    (C.BPF_TOKEN_CREATE, errno.EINVAL): by(lambda lab: {"token_create": {"bpffs_fd": lab.file("/")}}),
    (C.BPF_TOKEN_CREATE, errno.EBADF): by(lambda lab: {"token_create": {"bpffs_fd": NOT_OPEN}}),
    (C.BPF_TOKEN_CREATE, errno.EPERM): token_for_nobody,
    (C.BPF_TOKEN_CREATE, errno.ENOENT): "tests/maps/test_token.py does it, in a user namespace",
}


def full_trie(lab: Lab) -> int:
    fd = lab.map("LPM_TRIE", key=8, entries=1, map_flags=MapFlag.BPF_F_NO_PREALLOC)
    key = lab.at(struct.pack("=II", 32, 1))
    assert answer(Cmd.BPF_MAP_UPDATE_ELEM, map_fd=fd, key=key, value=lab.room()) == 0
    return fd


LISTED = [(cmd, number) for cmd in Cmd for number in pages.errors_of(cmd)]


@pytest.fixture
def lab(tmp_path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    with made.stack:
        yield made


@pytest.mark.real_kernel(reason="programs, links and maps with keys")
@pytest.mark.creates
@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SYS_ADMIN, and CAP_SETUID (root)")
@pytest.mark.parametrize(
    ("cmd", "number"),
    [each for each in LISTED if not isinstance(HOW.get(each), str)],
    ids=lambda value: value.name[4:] if isinstance(value, Cmd) else errno_name(value),
)
def test_the_kernel_answers_it(cmd, number, lab):
    """The errno that the page lists for the command is what the running kernel answers to such a call."""
    if kernel_version() < layout.version(cmd.since):
        pytest.skip(f"by design: needs Linux {cmd.since}")
    how = HOW[cmd, number]
    assert not isinstance(how, str)
    assert errno_name(how(cmd, lab)) == errno_name(number)


@pytest.mark.real_kernel(reason="programs in cgroups and at interfaces")
@pytest.mark.creates
@pytest.mark.linux("6.6")
@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SYS_ADMIN, and CAP_SETUID (root)")
def test_to_detach_takes_no_capability(lab):
    """Whoever has a descriptor of the program, and of the cgroup if that is the target, may detach it."""
    attr = lab.attached(lab.filter(), target_fd=lab.cgroup())
    assert in_a_child(lambda: answer(Cmd.BPF_PROG_DETACH, **attr)) == 0
    at_interface = {"target_ifindex": 1, "attach_bpf_fd": lab.tcx(), "attach_type": TCX}
    assert in_a_child(lambda: answer(Cmd.BPF_PROG_DETACH, **at_interface)) == 0


def test_those_that_are_not_provoked_say_why():
    """Each is listed on a page, and its reason is a sentence that says more than that it does not work."""
    reasons = {each: how for each, how in HOW.items() if isinstance(how, str) and each in LISTED}
    assert len(reasons) < len(LISTED) / 8
    for reason in reasons.values():
        assert len(reason.split()) > 6
