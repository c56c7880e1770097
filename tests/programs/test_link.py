"""Attaching: each kind of program is seen to run while it is attached and not afterwards; bpftool sees the same links.

What a program does here is to push into a queue: whether it ran is what the queue holds.
"""

import ctypes
import errno
import functools
import gc
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

import rawbpf
from rawbpf import AlreadyExists, BpfError, NotFound, NotPermitted, Queue, Unsupported, syscall
from rawbpf.abi import AttachType, Cmd, LinkType, ProgType, door
from rawbpf.btf import reader
from rawbpf.programs.asm import (
    R0,
    R1,
    R6,
    R7,
    R10,
    Helper,
    Item,
    add,
    alu,
    call,
    exit_,
    load,
    mov,
    store,
)
from rawbpf.programs.link import Link
from rawbpf.programs.program import Program
from rawbpf.programs.targets import KprobeMulti
from rawbpf.syscall.proc import kernel_version
from tests.conftest import skip_other_kernels, skip_without_jit
from tests.programs.attaching import (
    NETNS,
    OUT,
    execute,
    failure_of,
    in_cgroup,
    libc,
    only_here,
    pushes,
    pushing,
    ran,
    reading_its_cookie,
    send,
    send_frame,
)

pytestmark = [pytest.mark.creates, pytest.mark.admin, pytest.mark.real_kernel(reason="programs")]


needs_bpftool = pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")


# What the tests are about


class Kind(NamedTuple):
    """One kind of attaching: how the program is loaded, where it is attached, what makes it run, and what the link is.

    `result` is what the program must return so that things go on; `at` is given to attach(), `target` too, or is a
    fixture's name.
    """

    since: str
    prog_type: ProgType
    link_type: LinkType
    target: str | None
    act: Callable[[], None]
    result: int = 0
    expected: AttachType = AttachType.BPF_CGROUP_INET_INGRESS
    at: AttachType | None = None
    attach_to: str = ""
    trampoline: bool = False
    detaches: bool = True
    updates: bool = True


def load_as(kind: Kind, code: list[Item], name: str = "tested") -> Program:
    return Program(kind.prog_type, code, name=name, expected_attach_type=kind.expected, attach_to=kind.attach_to)


def run_test_functions() -> None:
    """BPF_PROG_TEST_RUN of a tracing program calls bpf_fentry_test1(1) and the like, which are there to be traced."""
    options = {"expected_attach_type": AttachType.BPF_TRACE_FENTRY, "attach_to": "bpf_fentry_test1"}
    with Program(TRACING, [mov(R0, 0), exit_()], **options) as program:
        program.run()


RAW, TRACING, LSM = (
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT,
    ProgType.BPF_PROG_TYPE_TRACING,
    ProgType.BPF_PROG_TYPE_LSM,
)
KPROBE = ProgType.BPF_PROG_TYPE_KPROBE
SKB, CLS = ProgType.BPF_PROG_TYPE_CGROUP_SKB, ProgType.BPF_PROG_TYPE_SCHED_CLS

KINDS = {
    "raw tracepoint": Kind(
        "5.8", RAW, LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT, "sched_process_exec",
        execute, detaches=False, updates=False,
    ),
    "tp_btf": Kind(
        "5.8", TRACING, LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT, None, execute, expected=AttachType.BPF_TRACE_RAW_TP,
        attach_to="sched_process_exec", detaches=False, updates=False,
    ),
    "fentry": Kind(
        "5.8", TRACING, LinkType.BPF_LINK_TYPE_TRACING, None, run_test_functions, trampoline=True,
        expected=AttachType.BPF_TRACE_FENTRY, attach_to="bpf_fentry_test1", detaches=False, updates=False,
    ),
    "fexit": Kind(
        "5.8", TRACING, LinkType.BPF_LINK_TYPE_TRACING, None, run_test_functions, trampoline=True,
        expected=AttachType.BPF_TRACE_FEXIT, attach_to="bpf_fentry_test2", detaches=False, updates=False,
    ),
    "lsm": Kind(
        "5.8", LSM, LinkType.BPF_LINK_TYPE_TRACING, None, send, trampoline=True, expected=AttachType.BPF_LSM_MAC,
        attach_to="socket_sendmsg", detaches=False, updates=False,
    ),
    "flow dissector": Kind(
        "5.8", ProgType.BPF_PROG_TYPE_FLOW_DISSECTOR, LinkType.BPF_LINK_TYPE_NETNS, NETNS, send_frame,
    ),
    "sk_lookup": Kind(
        "5.9", ProgType.BPF_PROG_TYPE_SK_LOOKUP, LinkType.BPF_LINK_TYPE_NETNS, NETNS, send, result=1,
        expected=AttachType.BPF_SK_LOOKUP,
    ),
    "xdp": Kind("5.9", ProgType.BPF_PROG_TYPE_XDP, LinkType.BPF_LINK_TYPE_XDP, "lo", send, result=2),
    "tcx ingress": Kind("6.6", CLS, LinkType.BPF_LINK_TYPE_TCX, "lo", send, at=AttachType.BPF_TCX_INGRESS),
    "tcx egress": Kind("6.6", CLS, LinkType.BPF_LINK_TYPE_TCX, "lo", send, at=AttachType.BPF_TCX_EGRESS),
}  # fmt: skip


def skip_without(kind: Kind) -> None:
    """Skips on older kernels, and says so where a kernel refuses what it should be able to."""
    skip_other_kernels(kind.since)
    if kind.prog_type == LSM and "bpf" not in security_modules():
        pytest.skip("by design: bpf is not among this kernel's security modules (lsm=)")
    if kind.trampoline:
        skip_without_jit()
    if kind.trampoline and trampolines_refused():
        pytest.skip("this kernel refuses to load programs for trampolines (fentry, LSM) to everyone: EPERM")


@functools.cache
def security_modules() -> list[str]:
    """The active ones. Nobody may have mounted the file system that tells."""
    with tempfile.TemporaryDirectory() as folder:
        assert libc.mount(b"securityfs", os.fsencode(folder), b"securityfs", ctypes.c_ulong(0), None) == 0
        try:
            with open(f"{folder}/lsm") as file:
                return file.read().split(",")
        finally:
            libc.umount2(os.fsencode(folder), 2)


def trampolines_refused() -> bool:
    """Whether loading fails with EPERM, although this process has all capabilities, even where it had to be EINVAL."""
    nothing = {"expected_attach_type": AttachType.BPF_TRACE_FENTRY, "attach_btf_id": 2**31 - 1}
    with pytest.raises(BpfError) as caught:
        Program(TRACING, [mov(R0, 0), exit_()], **nothing).close()
    return caught.value.errno == errno.EPERM


@pytest.fixture(params=KINDS)
def kind(request, network) -> Kind:
    """Each kind in turn, in a network of its own."""
    skip_without(KINDS[request.param])
    return KINDS[request.param]


def bpftool_link(link_id: int) -> dict:
    """What bpftool says of a link."""
    return json.loads(subprocess.run(["bpftool", "-j", "link", "show", "id", str(link_id)], capture_output=True).stdout)


# Each kind of program


def test_it_runs_from_attach_to_close(kind, q):
    """Attached it runs, closed it does not, and not before either."""
    with load_as(kind, pushing(q, 7, kind.result)) as program:
        assert not ran(q, kind.act)
        link = program.attach(kind.target, attach_type=kind.at)
        with link:
            assert ran(q, kind.act)
        assert link.closed
        assert not ran(q, kind.act)


def test_it_runs_without_the_programs_descriptor(kind, q):
    """The link holds the program: that may be closed."""
    with load_as(kind, pushing(q, 7, kind.result)) as program:
        link = program.attach(kind.target, attach_type=kind.at)
    with link:
        assert ran(q, kind.act)


@needs_bpftool
def test_info_is_what_bpftool_says(kind, q):
    """Type, ids and place are those that bpftool shows; it finds the link only while it is there."""
    with load_as(kind, pushing(q, 7, kind.result)) as program, program.attach(kind.target, attach_type=kind.at) as link:
        info = link.info()
        theirs = bpftool_link(info.id)
    assert info.type == kind.link_type
    assert theirs["prog_id"] == info.prog_id
    places = {"tp_name", "netns_ino", "ifindex", "target_name", "cgroup_id", "target_obj_id", "target_btf_id"}
    told = places & theirs.keys()
    assert {name: getattr(info, name) for name in told} == {name: theirs[name] for name in told}
    assert "No such file" in bpftool_link(info.id)["error"]


def test_info_says_where(kind, q):
    """The fields of the link's own type are filled in, and the others are None."""
    with load_as(kind, pushing(q, 7, kind.result)) as program, program.attach(kind.target, attach_type=kind.at) as link:
        info = link.info()
    attach_type = kind.at or kind.expected
    given = {name: value for name, value in info._asdict().items() if value is not None}
    del given["id"], given["prog_id"], given["type"]
    told = kind.trampoline and kernel_version() >= (5, 13)
    name = ("bpf_lsm_" if attach_type == AttachType.BPF_LSM_MAC else "") + kind.attach_to
    assert (
        given
        == {
            LinkType.BPF_LINK_TYPE_RAW_TRACEPOINT: {"tp_name": "sched_process_exec", "cookie": 0},
            LinkType.BPF_LINK_TYPE_TRACING: {
                "attach_type": attach_type,
                "target_obj_id": 1 if told else 0,
                "target_btf_id": reader.vmlinux().find(reader.Kind.FUNC, name).id if told else 0,
                "cookie": 0,
            },
            LinkType.BPF_LINK_TYPE_NETNS: {
                "netns_ino": os.stat(NETNS).st_ino,
                "attach_type": attach_type or AttachType.BPF_FLOW_DISSECTOR,
            },
            LinkType.BPF_LINK_TYPE_XDP: {"ifindex": 1},
            LinkType.BPF_LINK_TYPE_TCX: {"ifindex": 1, "attach_type": attach_type},
        }[info.type]
    )


def test_the_drawing_of_its_info(kind, q):
    """Traced with attrs=True, info() is followed by the struct's fields, those of the link's own type among them."""
    file = io.StringIO()
    with load_as(kind, pushing(q, 7, kind.result)) as program, ExitStack() as stack:
        link = stack.enter_context(program.attach(kind.target, attach_type=kind.at))
        stack.enter_context(rawbpf.trace(file=file, attrs=True))
        info = link.info()
    drawn = re.findall(
        r"^ +\d+ +\d+ (?:\w+\.)?(\w+) +[5-7]\.", file.getvalue().rpartition("struct bpf_link_info: ")[2], re.MULTILINE
    )
    given = [name for name, value in info._asdict().items() if value is not None]
    # Older kernels' struct ends before it.
    unknown = {"cookie"} if kernel_version() < (6, 17) else set()
    assert set(given) - unknown <= set(drawn)
    assert info.type.name in file.getvalue()


@pytest.mark.linux("5.9")
def test_detach(kind, q):
    """detach() ends it while the link is open and held by others; where the kernel can't, that is Unsupported."""
    with load_as(kind, pushing(q, 7, kind.result)) as program, program.attach(kind.target, attach_type=kind.at) as link:
        if not kind.detaches:
            with pytest.raises(Unsupported, match="can't be detached") as caught:
                link.detach()
            assert caught.value.errno == errno.EOPNOTSUPP
            assert ran(q, kind.act)
            return
        other = os.dup(link.fileno())
        link.detach()
        assert not ran(q, kind.act)
        link.detach()  # may be repeated
        os.close(other)
        with pytest.raises(BpfError, match="is gone") as caught:
            link.update(program)
        assert caught.value.errno == errno.ENOLINK


def test_update(kind, q):
    """update() puts another program in the place; with the wrong `old` it is EPERM; other links answer EINVAL."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(load_as(kind, pushing(q, number, kind.result))) for number in (1, 2))
        link = stack.enter_context(first.attach(kind.target, attach_type=kind.at))
        if not kind.updates:
            with pytest.raises(BpfError, match="does not take this program") as caught:
                link.update(second)
            assert caught.value.errno == errno.EINVAL
            return
        with pytest.raises(NotPermitted, match="another program than `old` is attached") as caught:
            link.update(second, old=second)
        assert caught.value.errno == errno.EPERM
        for program, old, number in ((second, first, 2), (first, None, 1)):
            link.update(program, old=old)
            q.pop_many(64)
            kind.act()
            assert set(q.pop_many(64)) == {number}


# Cgroups


def talk(family: int, host: str) -> None:
    """Everything that programs of a cgroup are asked about, on the sockets of one family."""
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.bind((host, 0))
        s.sendto(b"x", s.getsockname())
        assert s.recvfrom(1)[0] == b"x"
    with socket.socket(family) as server, socket.socket(family) as client:
        server.bind((host, 0))
        server.listen()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        client.connect(server.getsockname())
        client.getpeername()


def talk_over_unix() -> None:
    kind = socket.AF_UNIX, socket.SOCK_DGRAM
    with socket.socket(*kind) as s, socket.socket(*kind) as other:
        s.bind(b"\0rawbpf-%d" % os.getpid())
        other.bind(b"\0rawbpf-%d-other" % os.getpid())
        other.connect(s.getsockname())
        other.getpeername()
        other.send(b"x")
        assert s.recvfrom(1)[0] == b"x"
        s.sendto(b"x", other.getsockname())


def everything() -> None:
    talk(socket.AF_INET, "127.0.0.1")
    with suppress(OSError):
        talk(socket.AF_INET6, "::1")
    talk_over_unix()
    with open("/dev/null"), open("/proc/sys/kernel/ostype") as file:
        file.read()


CGROUP_KINDS = [
    (prog_type, AttachType[f"BPF_CGROUP_{name}"])
    for prog_type, names in (
        (ProgType.BPF_PROG_TYPE_CGROUP_SKB, "INET_INGRESS INET_EGRESS"),
        (
            ProgType.BPF_PROG_TYPE_CGROUP_SOCK,
            "INET_SOCK_CREATE INET_SOCK_RELEASE INET4_POST_BIND INET6_POST_BIND",
        ),
        (
            ProgType.BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            "INET4_BIND INET6_BIND INET4_CONNECT INET6_CONNECT UDP4_SENDMSG UDP6_SENDMSG UDP4_RECVMSG UDP6_RECVMSG"
            " INET4_GETPEERNAME INET6_GETPEERNAME INET4_GETSOCKNAME INET6_GETSOCKNAME"
            " UNIX_CONNECT UNIX_SENDMSG UNIX_RECVMSG UNIX_GETPEERNAME UNIX_GETSOCKNAME",
        ),
        (ProgType.BPF_PROG_TYPE_CGROUP_SOCKOPT, "GETSOCKOPT SETSOCKOPT"),
        (ProgType.BPF_PROG_TYPE_CGROUP_DEVICE, "DEVICE"),
        (ProgType.BPF_PROG_TYPE_CGROUP_SYSCTL, "SYSCTL"),
        (ProgType.BPF_PROG_TYPE_SOCK_OPS, "SOCK_OPS"),
    )
    for name in names.split()
]


@pytest.mark.linux("5.7")
@pytest.mark.parametrize(("prog_type", "attach_type"), CGROUP_KINDS, ids=lambda value: value.name[4:])
def test_cgroups(prog_type, attach_type, network, cgroup, q):
    """A program runs for the processes of its cgroup from attach to close, and for no others."""
    if "6_" in attach_type.name and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("by design: this kernel has no IPv6")
    if prog_type is ProgType.BPF_PROG_TYPE_CGROUP_SOCKOPT and sys.maxsize < 2**32 and os.uname().machine == "i686":
        pytest.skip("by design: a 64-bit kernel runs no sockopt programs for compat system calls")
    skip_other_kernels(attach_type.since)

    def here() -> None:
        in_cgroup(cgroup, everything)

    # expected_attach_type is 0 for types that exist only once.
    expected = attach_type if prog_type not in ONLY_ONE else 0
    with Program(prog_type, pushing(q, 7, 1), expected_attach_type=expected) as program:
        assert not ran(q, here)
        with program.attach(cgroup, attach_type=None if expected or prog_type in ONLY_ONE else attach_type) as link:
            assert ran(q, here)
            assert not ran(q, everything)
            if kernel_version() >= (5, 8):
                info = link.info()
                assert (info.type, info.attach_type) == (LinkType.BPF_LINK_TYPE_CGROUP, attach_type)
                assert info.cgroup_id == os.stat(cgroup).st_ino
        assert not ran(q, here)


ONLY_ONE = (
    ProgType.BPF_PROG_TYPE_CGROUP_DEVICE,
    ProgType.BPF_PROG_TYPE_CGROUP_SYSCTL,
    ProgType.BPF_PROG_TYPE_SOCK_OPS,
)


@pytest.mark.linux("5.9")
def test_a_cgroup_is_a_path_or_a_descriptor(network, cgroup, q, tmp_path):
    """The folder as str, bytes, PathLike, descriptor or object with fileno(); update() and detach() work as well."""
    folder = os.open(cgroup, os.O_RDONLY)
    with Program(SKB, pushing(q, 1, 1)) as program, Program(SKB, pushing(q, 2, 1)) as second:
        for target in (cgroup, os.fsencode(cgroup), tmp_path / os.path.basename(cgroup), folder, Folder(folder)):
            with program.attach(target, attach_type=AttachType.BPF_CGROUP_INET_EGRESS) as link:
                assert ran(q, lambda: in_cgroup(cgroup, send))
                link.update(second, old=program)
                q.pop_many(64)
                in_cgroup(cgroup, send)
                assert set(q.pop_many(64)) == {2}
                link.detach()
                assert not ran(q, lambda: in_cgroup(cgroup, send))
    os.close(folder)


class Folder:
    def __init__(self, fd: int) -> None:
        self.fileno = lambda: fd


@pytest.mark.linux("6.0")
def test_lsm_of_a_cgroup(cgroup, network, q):
    """An LSM hook for the processes of one cgroup; here the program returns 1 to go on."""
    skip_without(KINDS["lsm"])
    options = {"expected_attach_type": AttachType.BPF_LSM_CGROUP, "attach_to": "socket_bind"}
    with Program(LSM, pushing(q, 7, 1), **options) as program, program.attach(cgroup) as link:
        assert ran(q, lambda: in_cgroup(cgroup, send))
        assert not ran(q, send)
        assert link.info().attach_type == AttachType.BPF_LSM_CGROUP


# Programs that are attached to functions and tracepoints of the kernel


def test_a_raw_tracepoint_by_its_name(q):
    """attach_raw_tracepoint() is attach() for this type; other types are a TypeError, before any call."""
    with Program(RAW, pushing(q), name="by_name") as program, program.attach_raw_tracepoint("sched_process_exec"):
        assert ran(q, execute)
    wrong = pytest.raises(TypeError, match="'packets' .* is not attached to a raw tracepoint")
    with Program(SKB, pushing(q, 1, 1), name="packets") as program, wrong:
        program.attach_raw_tracepoint("sched_process_exec")


def test_the_arguments_of_a_tracepoint(q):
    """The context of a raw tracepoint is its arguments: the system call's number is the second of sys_enter."""
    code = [load("u64", R6, R1, 8), *only_here(), store("u64", R10, -8, R6), *pushes(q), *OUT]
    with Program(RAW, code) as program, program.attach("sys_enter"):
        os.getppid()
        numbers = set(q.pop_many(64))
    getppid = {"x86_64": 110, "aarch64": 173}.get(os.uname().machine)
    assert getppid in numbers or getppid is None
    assert numbers


@pytest.mark.linux("6.10")
def test_the_cookie_of_a_raw_tracepoint(q):
    """One program, attached twice, reads the number that each attachment was given."""
    with ExitStack() as stack:
        program = stack.enter_context(Program(RAW, reading_its_cookie(q)))
        links = [stack.enter_context(program.attach("sys_enter", cookie=number)) for number in (2**63 + 5, 6)]
        os.getppid()
        assert {2**63 + 5, 6} == set(q.pop_many(64))
        if kernel_version() >= (6, 17):
            assert [link.info().cookie for link in links] == [2**63 + 5, 6]


def test_the_cookie_of_tp_btf(q):
    """A tracing program of a tracepoint reads its cookie; before 6.10 it is refused (EINVAL), and not forgotten."""
    skip_other_kernels("5.19")
    options = {"expected_attach_type": AttachType.BPF_TRACE_RAW_TP, "attach_to": "sys_enter"}
    if kernel_version() < (6, 10):
        with Program(TRACING, pushing(q), **options) as program:
            assert failure_of(lambda: program.attach(cookie=8)).errno == errno.EINVAL
        return
    with Program(TRACING, reading_its_cookie(q), **options) as program, program.attach(cookie=8):
        os.getppid()
        assert set(q.pop_many(64)) == {8}


@pytest.mark.linux("5.5")
@pytest.mark.jit
def test_what_fexit_sees():
    """fexit has the function's arguments and its result: bpf_fentry_test1(1) returns 2."""
    skip_without(KINDS["fexit"])
    options = {"expected_attach_type": AttachType.BPF_TRACE_FEXIT, "attach_to": "bpf_fentry_test1"}
    with Queue("=Q", 64) as q:
        code = [load("u64", R6, R1, 0), load("u64", R7, R1, 8), *only_here()]
        code += [alu("<<=", R6, 32), add(R6, R7), store("u64", R10, -8, R6), *pushes(q), *OUT]
        with Program(TRACING, code, **options) as program, program.attach():
            program.run()
        assert q.pop_many(64) == [1 << 32 | 2]


@pytest.mark.linux("6.2")
@pytest.mark.jit
def test_a_changed_result(q):
    """MODIFY_RETURN: what the program returns takes the place of the function's result, which is then not called."""
    skip_without(KINDS["fentry"])
    options = {"expected_attach_type": AttachType.BPF_MODIFY_RETURN, "attach_to": "bpf_modify_return_test"}
    with Program(TRACING, pushing(q, 7, 21), **options) as program:
        before = program.run().retval
        with program.attach():
            changed = program.run().retval
        assert q.pop_many(64) == [7]
        # The low half sums up the results of the test functions, of which this one gave 4; the high half counts calls.
        assert (changed & 0xFFFF) - (before & 0xFFFF) == 21 - 4
        assert (before >> 16) - (changed >> 16) == 1
        assert program.run().retval == before


@pytest.mark.linux("5.19")
@pytest.mark.jit
def test_the_cookie_of_a_function(q):
    """With a cookie LINK_CREATE attaches a tracing program, which reads it."""
    skip_without(KINDS["fentry"])
    options = {"expected_attach_type": AttachType.BPF_TRACE_FENTRY, "attach_to": "bpf_fentry_test1"}
    code = [call(Helper.BPF_FUNC_get_attach_cookie), store("u64", R10, -8, R0), *pushes(q), mov(R0, 0), exit_()]
    with Program(TRACING, code, **options) as program, program.attach(cookie=9):
        run_test_functions()
        assert set(q.pop_many(64)) == {9}


@pytest.mark.linux("5.8")
@pytest.mark.jit
def test_twice_to_one_function(q):
    """A tracing program is attached once at a time: the second is AlreadyExists (EBUSY). Before 5.13 it is attached
    once in its life, and the second is ENOENT."""
    skip_without(KINDS["fentry"])
    again = kernel_version() >= (5, 13)
    with load_as(KINDS["fentry"], pushing(q)) as program:
        with program.attach():
            error = failure_of(program.attach)
        assert (type(error), error.errno) == ((AlreadyExists, errno.EBUSY) if again else (NotFound, errno.ENOENT))
        if again:
            with program.attach():
                assert ran(q, run_test_functions)


@pytest.mark.linux("5.9")
def test_an_iterator(q):
    """Reading what iterate() opens runs the program for every task; update() is served, detach() is not."""
    options = {"expected_attach_type": AttachType.BPF_TRACE_ITER, "attach_to": "task"}
    with ExitStack() as stack:
        first, second = (stack.enter_context(Program(TRACING, pushing(q, n), **options)) for n in (1, 2))
        link = stack.enter_context(first.attach())
        for number in (1, 2):
            assert not q.pop_many(64)
            with link.iterate() as file:
                assert file.read() == b""
            assert set(q.pop_many(64)) == {number}
            link.update(second)
        info = link.info()
        assert (info.type, info.target_name) == (LinkType.BPF_LINK_TYPE_ITER, "task")
        with pytest.raises(Unsupported) as caught:
            link.detach()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_only_iterators_iterate(q):
    """BPF_ITER_CREATE with another link is EINVAL."""
    skip_other_kernels("5.8")
    with Program(RAW, pushing(q)) as program, program.attach("sched_process_exec") as link:
        with pytest.raises(BpfError, match="not one of an iterator") as caught:
            link.iterate()
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("attach_type", "attach_to", "missing"),
    [
        (AttachType.BPF_TRACE_FENTRY, "no_such_function", "'no_such_function'"),
        (AttachType.BPF_TRACE_RAW_TP, "no_such_event", "'btf_trace_no_such_event'"),
        (AttachType.BPF_TRACE_ITER, "nothing", "'bpf_iter_nothing'"),
        (AttachType.BPF_LSM_MAC, "no_hook", "'bpf_lsm_no_hook'"),
    ],
)
@pytest.mark.skipif(not os.path.exists(reader.VMLINUX), reason="by design: this kernel has no BTF")
def test_what_the_kernel_does_not_have(attach_type, attach_to, missing, no_calls):
    """A name that is not in the kernel's BTF is a LookupError that says what was looked for, before any call."""
    prog_type = LSM if attach_type == AttachType.BPF_LSM_MAC else TRACING
    with pytest.raises(LookupError, match=missing):
        Program(prog_type, [mov(R0, 0), exit_()], expected_attach_type=attach_type, attach_to=attach_to)


# Pins, ids, the descriptor's life

PINS_A_LINK = """
    import sys
    from rawbpf import Queue
    from rawbpf.abi import ProgType
    from rawbpf.programs.asm import R0, R1, R2, R3, R10, Helper, add, call, exit_, load_map, mov, store
    from rawbpf.programs.program import Program

    folder = sys.argv[1]
    with Queue.open(folder + "/queue") as q:
        push = [load_map(R1, q.fileno()), mov(R2, R10), add(R2, -8), mov(R3, 2), call(Helper.BPF_FUNC_map_push_elem)]
        code = [store("u64", R10, -8, 7), *push, mov(R0, 0), exit_()]
        program = Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, code)
    with program, program.attach("sched_process_exec") as link:
        link.pin(folder + "/link")
"""


@pytest.mark.linux("5.7")
def test_a_pinned_link_outlives_its_process(bpf_folder, q):
    """The process that attached is gone, and the program runs on; it ends with the pin and the last descriptor."""
    q.pin(f"{bpf_folder}/queue")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PINS_A_LINK), bpf_folder], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert ran(q, execute)
    with Link.open(f"{bpf_folder}/link") as link:
        assert ran(q, execute)
        with pytest.raises(AlreadyExists) as caught:
            link.pin(f"{bpf_folder}/link")
        assert caught.value.errno == errno.EEXIST
        os.unlink(f"{bpf_folder}/link")
        assert ran(q, execute)
    # The kernel frees a pin's inode, and what it held, after a while.
    assert any(not ran(q, execute) or time.sleep(0.01) for _ in range(1000))
    with pytest.raises(NotFound) as caught:
        Link.open(f"{bpf_folder}/link")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.linux("5.8")
def test_other_pins_are_no_links(bpf_folder, q):
    """Link.open() of a map's or a program's pin is a TypeError, and leaves no descriptor."""
    q.pin(f"{bpf_folder}/map")
    with Program(RAW, pushing(q)) as program:
        program.pin(f"{bpf_folder}/program")
    for name in ("map", "program"):
        with pytest.raises(TypeError, match="is no link"):
            Link.open(f"{bpf_folder}/{name}")


@pytest.mark.linux("5.8")
def test_ids(q):
    """The link is among all ids of the system, opened by id it is the same, and afterwards NotFound (ENOENT)."""
    with Program(RAW, pushing(q)) as program, program.attach("sched_process_exec") as link:
        link_id = link.info().id
        assert syscall.link_get_next_id(link_id - 1) == link_id
        with Link.from_id(link_id) as same:
            assert same.info() == link.info()
            assert same.fileno() != link.fileno()
    with pytest.raises(NotFound, match=f"no link has id {link_id}") as caught:
        Link.from_id(link_id)
    assert caught.value.errno == errno.ENOENT
    assert syscall.link_get_next_id(2**31 - 2) is None


def test_life_and_death(q):
    """repr, closed, ValueError after close(), RuntimeWarning when collected open."""
    with Program(RAW, pushing(q)) as program:
        link = program.attach("sched_process_exec")
        assert repr(link) == f"<Link to raw tracepoint 'sched_process_exec' fd={link.fileno()}>"
        link.close()
        link.close()
        for call_ in (link.fileno, link.info, link.detach, link.iterate, lambda: link.pin("/x"), link.__enter__):
            with pytest.raises(ValueError, match="Link to raw tracepoint 'sched_process_exec' closed"):
                call_()
        with pytest.raises(ValueError, match="Link to raw tracepoint 'sched_process_exec' closed"):
            link.update(program)
        forgotten = [program.attach("sched_process_exec")]
        with pytest.warns(RuntimeWarning, match="nothing holds <Link to raw tracepoint"):  # noqa: PT031
            forgotten.clear()
            gc.collect()
    with pytest.raises(ValueError, match="closed"):
        program.attach("sched_process_exec")


FORGETS = """
from rawbpf import Program, ProgType, asm
program = Program(ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, [asm.mov(asm.R0, 0), asm.exit_()])
{}program.attach("sched_process_exec")
print("running")
"""


@pytest.mark.parametrize(
    ("keeps", "warning"), [("", "RuntimeWarning: the program is detached: nothing holds <Link to raw"), ("link = ", "")]
)
def test_a_forgotten_link_is_seen(keeps, warning):
    """Without any option Python prints a warning for a link that nobody keeps; what lives until the end of the process
    ends with it, and needs no warning."""
    result = subprocess.run([sys.executable, "-c", FORGETS.format(keeps)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "running\n")
    assert warning in result.stderr
    assert bool(result.stderr) == bool(warning)


# What goes wrong


def test_no_such_tracepoint(q):
    """An unknown name is NotFound (ENOENT) and names it."""
    with Program(RAW, pushing(q)) as program:
        error = failure_of(lambda: program.attach("sched/sched_process_exec"))
    assert (type(error), error.errno) == (NotFound, errno.ENOENT)
    assert (
        "raw tracepoint 'sched/sched_process_exec': there is none to attach to [BPF_RAW_TRACEPOINT_OPEN: ENOENT]"
        in str(error)
    )
    assert "without their category" in error.hint


def test_what_was_to_be_attached_to_what(q):
    """An error names the program, if it has a name, and the target."""
    with Program(RAW, pushing(q), name="watcher") as program:
        error = failure_of(lambda: program.attach("nothing"))
    assert str(error).startswith("program 'watcher': raw tracepoint 'nothing': there is none to attach to [BPF_RAW_TR")


def test_more_arguments_than_there_are(q):
    """A program that reads beyond a tracepoint's arguments is EINVAL."""
    with Program(RAW, [load("u64", R0, R1, 88), mov(R0, 0), exit_()]) as program:
        error = failure_of(lambda: program.attach("sched_process_exec"))
    assert (type(error), error.errno) == (BpfError, errno.EINVAL)
    assert "may read more arguments" in error.hint


@pytest.mark.linux("5.9")
def test_no_room_at_an_interface(network, q):
    """An interface takes one XDP program of a mode: the second is AlreadyExists (EBUSY)."""
    with load_as(KINDS["xdp"], pushing(q, 7, 2)) as program, program.attach("lo"):
        error = failure_of(lambda: program.attach(1))
    assert (type(error), error.errno) == (AlreadyExists, errno.EBUSY)
    assert "BPF_XDP of interface 1: something is attached there already" in str(error)


@pytest.mark.linux("5.8")
def test_no_room_in_a_namespace(network, q):
    """A network namespace takes one flow dissector: the second is E2BIG."""
    with load_as(KINDS["flow dissector"], pushing(q)) as program, program.attach(NETNS):
        error = failure_of(lambda: program.attach(NETNS))
    assert (type(error), error.errno) == (BpfError, errno.E2BIG)


@pytest.mark.linux("5.9")
def test_no_such_interface(network, q):
    """An unknown name is NotFound (ENODEV) without a call; an unknown index is what the kernel says."""
    with load_as(KINDS["xdp"], pushing(q, 7, 2)) as program:
        error = failure_of(lambda: program.attach("nothing0"))
        assert (type(error), error.errno) == (NotFound, errno.ENODEV)
        assert failure_of(lambda: program.attach(12345)).errno == errno.EINVAL
    skip_other_kernels("6.6")
    with load_as(KINDS["tcx ingress"], pushing(q)) as program:
        error = failure_of(lambda: program.attach(12345, attach_type=AttachType.BPF_TCX_INGRESS))
    assert (type(error), error.errno) == (NotFound, errno.ENODEV)


@pytest.mark.linux("5.9")
def test_an_interface_without_xdp_of_its_own(network, q):
    """The loopback driver has no XDP: XDP_FLAGS_DRV_MODE is Unsupported (EOPNOTSUPP), XDP_FLAGS_SKB_MODE attaches."""
    with load_as(KINDS["xdp"], pushing(q, 7, 2)) as program:
        error = failure_of(lambda: program.attach("lo", flags=4))
        assert (type(error), error.errno) == (Unsupported, errno.EOPNOTSUPP)
        with program.attach("lo", flags=2):
            assert ran(q, send)


@pytest.mark.linux("5.8")
def test_targets_of_another_kind(tmp_path, q):
    """A folder that is no cgroup is EBADF, a file that is no namespace EINVAL, a path that is not there OSError."""
    with Program(SKB, pushing(q, 1, 1)) as program:
        error = failure_of(lambda: program.attach(tmp_path))
        assert (error.errno, error.cmd) == (errno.EBADF, Cmd.BPF_LINK_CREATE)
        assert str(tmp_path) in str(error)
        with pytest.raises(FileNotFoundError):
            program.attach(tmp_path / "nothing")
        with pytest.raises(NotADirectoryError):
            program.attach("/proc/self/ns/net")
    with load_as(KINDS["flow dissector"], pushing(q)) as program:
        assert failure_of(lambda: program.attach("/proc/version")).errno == errno.EINVAL


def test_a_kernel_that_has_no_links(q, sent):
    """LINK_CREATE is EINVAL before 5.7 and for later attach types: the text says that the kernel may be too old."""
    with Program(SKB, pushing(q, 1, 1)) as program:
        previous = door.set_hook(lambda cmd, attr, size: -errno.EINVAL)
        try:
            error = failure_of(lambda: program.attach(0))
        finally:
            door.set_hook(previous)
    assert (error.errno, error.cmd) == (errno.EINVAL, Cmd.BPF_LINK_CREATE)
    assert "too old" in error.hint


def test_eperm_is_explained(q):
    """NotPermitted with the cause that can be seen."""
    with Program(RAW, pushing(q)) as program:
        previous = door.set_hook(lambda cmd, attr, size: -errno.EPERM)
        try:
            error = failure_of(lambda: program.attach("sched_process_exec"))
        finally:
            door.set_hook(previous)
    assert (type(error), error.errno) == (NotPermitted, errno.EPERM)
    assert error.hint


WRONG = {
    "kprobe": (KPROBE, (), {}, TypeError, "has to be told the target .* as in a section's name"),
    "no kind of probe": (KPROBE, ("do_nanosleep",), {}, ValueError, "a probe begins with its kind and '/'"),
    "usdt": (KPROBE, ("usdt/libc.so.6:libc:setjmp",), {}, ValueError, "does not attach to USDT probes"),
    "no function": (KPROBE, ("kprobe/+8",), {}, ValueError, "names no function"),
    "no place": (KPROBE, ("kprobe",), {}, ValueError, "names no place behind the '/'"),
    "no number": (KPROBE, ("kprobe/do_nanosleep+x",), {}, ValueError, "the offset 'x' is no number"),
    "return with an offset": (KPROBE, ("kretprobe/a+1",), {}, ValueError, "a function's return has no offset"),
    "no file": (KPROBE, ("uprobe/malloc",), {}, ValueError, "a uprobe is PATH:FUNCTION or PATH:OFFSET"),
    "no probe": (KPROBE, (7,), {}, TypeError, "a probe is given as in a section's name"),
    "not loaded for many": (
        KPROBE,
        ("kprobe.multi/a",),
        {},
        ValueError,
        "with expected_attach_type BPF_TRACE_KPROBE_M",
    ),
    "names and addresses": (KPROBE, (KprobeMulti(["a", 1]),), {}, ValueError, "either names or addresses"),
    "no functions": (KPROBE, (KprobeMulti([]),), {}, ValueError, "at least one"),
    "cookies for fewer": (KPROBE, (KprobeMulti(["a", "b"], cookies=[1]),), {}, ValueError, "1 cookies, which is not"),
    "two cookies": (KPROBE, (KprobeMulti(["a"], cookies=[1]),), {"cookie": 2}, ValueError, "cookie is that of all"),
    "tracepoint": (ProgType.BPF_PROG_TYPE_TRACEPOINT, (), {}, TypeError, "has to be told the target"),
    "no category": (ProgType.BPF_PROG_TYPE_TRACEPOINT, ("sched_switch",), {}, TypeError, "as its category and name"),
    "perf event": (ProgType.BPF_PROG_TYPE_PERF_EVENT, (), {}, TypeError, "a perf event, as a PerfEvent or a desc"),
    "a name of a perf event": (ProgType.BPF_PROG_TYPE_PERF_EVENT, ("cpu",), {}, TypeError, "an object with fileno"),
    "socket": (ProgType.BPF_PROG_TYPE_SOCKET_FILTER, (), {}, TypeError, "a socket, as an object or a descriptor"),
    "action": (ProgType.BPF_PROG_TYPE_SCHED_ACT, (), {}, TypeError, "BPF_PROG_TYPE_SCHED_ACT is not attached here"),
    "no name": (RAW, (), {}, TypeError, "a raw tracepoint's name"),
    "a number": (RAW, (3,), {}, TypeError, "given by its name"),
    "NUL in a name": (RAW, ("sys_enter\0",), {}, ValueError, "is no tracepoint's name"),
    "cookie too large": (RAW, ("sys_enter",), {"cookie": 2**64}, ValueError, "cookie must be from 0"),
    "flags too large": (SKB, (3,), {"flags": 2**32}, ValueError, "flags must be from 0"),
    "no flags": (RAW, ("sys_enter",), {"flags": 1}, ValueError, "attached without flags"),
    "no cgroup": (SKB, (), {}, TypeError, "a cgroup's folder, as a path or a descriptor"),
    "no cookie": (SKB, ("/",), {"cookie": 1}, ValueError, "attached without cookie"),
    "bad descriptor": (SKB, (-1,), {}, ValueError, "-1 is not a descriptor"),
    "other type": (SKB, ("/",), {"attach_type": 46}, ValueError, "BPF_CGROUP_INET_EGRESS; BPF_TCX_INGRESS was given"),
    "no interface": (ProgType.BPF_PROG_TYPE_XDP, (), {}, TypeError, "an interface, as a name or an index"),
    "index 0": (ProgType.BPF_PROG_TYPE_XDP, (0,), {}, TypeError, "its index, from 1"),
    "which way": (CLS, ("lo",), {}, ValueError, "must be one of BPF_TCX_INGRESS, BPF_TCX_EGRESS"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_are_checked_first(case, q, no_library_call):
    """What can't be is refused before the kernel is asked, and the text says what would be right."""
    prog_type, arguments, options, error, text = WRONG[case]
    with Program(prog_type, [mov(R0, 0), exit_()]) as program, no_library_call(), pytest.raises(error, match=text):
        program.attach(*arguments, **options)


@pytest.mark.linux("5.8")
def test_tracing_programs_take_no_target(q, no_library_call):
    """What they are attached to was said when they were loaded."""
    options = {"expected_attach_type": AttachType.BPF_TRACE_ITER, "attach_to": "task"}
    with Program(TRACING, pushing(q), **options) as program, no_library_call():
        with pytest.raises(ValueError, match="attached without target"):
            program.attach("task")
        with pytest.raises(ValueError, match="must be one of BPF_TRACE_ITER; BPF_TRACE_FEXIT was given"):
            program.attach(attach_type=AttachType.BPF_TRACE_FEXIT)


# Privileges

ATTACHES = """
    import sys
    from rawbpf.abi import AttachType, ProgType
    from rawbpf.programs.asm import R0, exit_, mov
    from rawbpf.programs.program import Program

    prog_type, expected, result, attach_to, target, attach_type = eval(sys.argv[1])
    code = [mov(R0, result), exit_()]
    try:
        with Program(ProgType(prog_type), code, expected_attach_type=expected, attach_to=attach_to) as program:
            program.attach(target, attach_type=attach_type).close()
    except OSError as error:
        print(type(error).__name__, error)
    else:
        print("attached")
"""


def attach_with(capabilities: str, kind: Kind) -> str:
    """What becomes of attaching in a process with only these capabilities."""
    arguments = kind.prog_type, kind.expected, kind.result, kind.attach_to, kind.target, kind.at
    numbers = tuple(int(each) if isinstance(each, int) else each for each in arguments)
    sets = f"--bounding-set=-all{capabilities}", f"--inh-caps=-all{capabilities}"
    command = ["setpriv", *sets, sys.executable, "-c", textwrap.dedent(ATTACHES), repr(numbers)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


needs_setpriv = pytest.mark.skipif(
    shutil.which("setpriv") is None or os.getuid() != 0, reason="needs CAP_SETPCAP (root), and setpriv installed"
)


@needs_setpriv
@pytest.mark.linux("5.8")
@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("raw tracepoint", "+perfmon"),
        ("tp_btf", "+perfmon"),
        ("flow dissector", "+net_admin"),
        ("xdp", "+net_admin"),
        ("tcx ingress", "+net_admin"),
    ],
)
def test_two_capabilities_are_enough(name, capability, network):
    """CAP_BPF with CAP_PERFMON or CAP_NET_ADMIN loads and attaches a program; CAP_BPF alone does not."""
    skip_other_kernels(KINDS[name].since)
    assert attach_with(f",+bpf,{capability}", KINDS[name]) == "attached\n"
    assert attach_with(",+bpf", KINDS[name]).startswith("NotPermitted program ''")


@needs_setpriv
@pytest.mark.linux("5.8")
def test_what_a_cgroup_lacks(cgroup):
    """A cgroup_skb program is loaded with CAP_BPF alone; to attach it needs CAP_NET_ADMIN, and the hint says so."""
    kind = Kind("5.8", SKB, LinkType.BPF_LINK_TYPE_CGROUP, cgroup, send, result=1)
    assert attach_with(",+bpf,+net_admin", kind) == "attached\n"
    refused = attach_with(",+bpf", kind)
    assert refused.startswith("NotPermitted BPF_CGROUP_INET_INGRESS of cgroup '")
    assert "this process has no CAP_NET_ADMIN" in refused
