"""What has no link, or has one only on newer kernels: sockets, maps of sockets, cgroups before 5.7; and netfilter.

Each program is seen to do its work while it is attached, and not afterwards.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from rawbpf import Queue, Unsupported, syscall
from rawbpf.abi import AttachType, Cmd, LinkType, MapType, ProgType, door
from rawbpf.programs import attach as attach_module
from rawbpf.programs.asm import R0, R1, exit_, load
from rawbpf.programs.link import Link
from rawbpf.programs.program import Program
from rawbpf.programs.targets import NetfilterHook
from tests.conftest import descriptors, skip_other_kernels
from tests.programs.attaching import failure_of, in_cgroup, pushing, ran, send

pytestmark = [pytest.mark.creates, pytest.mark.admin, pytest.mark.real_kernel(reason="programs")]

FILTER, REUSEPORT = ProgType.BPF_PROG_TYPE_SOCKET_FILTER, ProgType.BPF_PROG_TYPE_SK_REUSEPORT
SKB, SK_MSG, SK_SKB = (
    ProgType.BPF_PROG_TYPE_CGROUP_SKB,
    ProgType.BPF_PROG_TYPE_SK_MSG,
    ProgType.BPF_PROG_TYPE_SK_SKB,
)
VERDICT = AttachType.BPF_SK_SKB_STREAM_VERDICT
NETFILTER = ProgType.BPF_PROG_TYPE_NETFILTER
SK_PASS = 1


@pytest.fixture
def sockmap(network) -> Iterator[int]:
    """An empty SOCKMAP."""
    fd = syscall.map_create(MapType.BPF_MAP_TYPE_SOCKMAP, "sockets", 4, 4, 2)
    yield fd
    os.close(fd)


@contextmanager
def connection_in(sockmap: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a TCP connection, which are put into the map: they get the programs that it has by then."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        other, _ = server.accept()
        with other:
            for number, end in enumerate((client, other)):
                key, value = (bytearray(n.to_bytes(4, sys.byteorder)) for n in (number, end.fileno()))
                attr = syscall.bpf_attr(map_fd=sockmap, key=syscall.pointer(key), value=syscall.pointer(value))
                syscall.bpf(Cmd.BPF_MAP_UPDATE_ELEM, attr)
            yield client, other


class TestSockets:
    def test_a_socket_filter(self, network, q):
        """The filter sees each packet of its socket, and lets through as many bytes as it returns: none. After close()
        everything comes in again."""
        with ExitStack() as stack:
            s = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            s.bind(("127.0.0.1", 0))
            s.settimeout(10)
            program = stack.enter_context(Program(FILTER, pushing(q, 7, 0)))
            with program.attach(s) as link:
                assert ran(q, lambda: s.sendto(b"dropped", s.getsockname()))
                assert "to socket <socket.socket" in repr(link)
            assert not ran(q, lambda: s.sendto(b"seen", s.getsockname()))
            assert s.recv(10) == b"seen"

    def test_a_reuseport_group(self, network, q):
        """The program chooses for a group of sockets that share a port: it runs for each packet."""
        with ExitStack() as stack:
            first, second = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
            for s in (first, second):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                s.bind(("127.0.0.1", 0) if s is first else first.getsockname())
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            program = stack.enter_context(Program(REUSEPORT, pushing(q, 7, SK_PASS)))

            def act() -> None:
                client.sendto(b"x", first.getsockname())

            with program.attach(first):
                assert ran(q, act)
            skip_other_kernels("5.3")  # SO_DETACH_REUSEPORT_BPF
            assert not ran(q, act)

    def test_what_is_no_socket(self, q):
        """A descriptor of something else is ENOTSOCK, and leaves nothing open."""
        with Program(FILTER, pushing(q, 7, 0)) as program, open("/dev/null") as file:
            before = descriptors()
            with pytest.raises(OSError, match="socket") as caught:
                program.attach(file)
            assert caught.value.errno == errno.ENOTSOCK
            assert descriptors() == before

    def test_a_socket_that_is_gone(self, network, q):
        """close() detaches from the socket that was meant, also if its owner closed it and its number is another's."""
        with Program(FILTER, pushing(q, 7, 0)) as program:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            link = program.attach(s)
            s.close()
            link.close()
            link.close()


class TestMapsOfSockets:
    @pytest.fixture(params=["link", "BPF_PROG_ATTACH"])
    def way(self, request, monkeypatch) -> str:
        """Both ways: by a link, and as before Linux 6.10."""
        if request.param == "link":
            skip_other_kernels("6.10")
        monkeypatch.setattr(attach_module, "kernel_version", lambda: (6, 18) if request.param == "link" else (6, 9))
        return request.param

    def test_sk_msg(self, way, sockmap, q):
        """The program sees what is sent by sockets that are put into the map while it is attached."""
        with Program(SK_MSG, pushing(q, 7, SK_PASS), expected_attach_type=AttachType.BPF_SK_MSG_VERDICT) as program:
            with program.attach(sockmap) as link, connection_in(sockmap) as (client, other):
                assert ran(q, lambda: client.send(b"one"))
                assert other.recv(3) == b"one"
                self.check_link(way, link, AttachType.BPF_SK_MSG_VERDICT)
            with connection_in(sockmap) as (client, other):
                assert not ran(q, lambda: client.send(b"two"))
                assert other.recv(3) == b"two"

    @pytest.mark.parametrize(
        "attach_type", [AttachType.BPF_SK_SKB_STREAM_VERDICT, AttachType.BPF_SK_SKB_VERDICT], ids=lambda t: t.name
    )
    def test_sk_skb(self, way, sockmap, q, attach_type):
        """The program sees what arrives at the map's sockets. It is attached as what it was loaded for."""
        skip_other_kernels(attach_type.since)
        with (
            Program(SK_SKB, pushing(q, 7, SK_PASS), expected_attach_type=attach_type) as program,
            program.attach(sockmap) as link,
            connection_in(sockmap) as (client, other),
        ):
            client.send(b"one")
            assert other.recv(3) == b"one"
            assert q.pop_many(64)
            self.check_link(way, link, attach_type)

    def test_a_parser(self, way, sockmap, q):
        """A program of section sk_skb, which was loaded for nothing, is told at attach() what it is: the parser, that
        says how long a message is."""
        parser_type = AttachType.BPF_SK_SKB_STREAM_PARSER
        with (
            Program(SK_SKB, [load("u32", R0, R1, 0), exit_()]) as parser,
            Program(SK_SKB, pushing(q, 7, SK_PASS), expected_attach_type=VERDICT) as verdict,
        ):
            with pytest.raises(ValueError, match="must be one of BPF_SK_SKB_STREAM_PARSER, .*; nothing was given"):
                parser.attach(sockmap)
            with (
                parser.attach(sockmap, attach_type=parser_type) as link,
                verdict.attach(sockmap),
                connection_in(sockmap) as (client, other),
            ):
                client.send(b"one")
                assert other.recv(3) == b"one"
                assert q.pop_many(64)
                self.check_link(way, link, parser_type)

    def check_link(self, way: str, link: Link, attach_type: AttachType) -> None:
        if way == "link":
            assert (link.info().type, link.info().attach_type) == (LinkType.BPF_LINK_TYPE_SOCKMAP, attach_type)
        else:
            with pytest.raises(Unsupported, match="is no link of the kernel's.*since 6.10"):
                link.info()

    def test_what_is_no_map_of_sockets(self, way, q):
        """Another map is EINVAL, and leaves nothing open."""
        with Program(SK_MSG, pushing(q, 7, 1), expected_attach_type=AttachType.BPF_SK_MSG_VERDICT) as program:
            error = failure_of(lambda: program.attach(q))
        assert error.errno in (errno.EINVAL, errno.EOPNOTSUPP)
        assert "the sockets of <Queue 'attached'" in str(error)


class TestCgroupsWithoutLinks:
    def test_before_5_7(self, network, cgroup, q, monkeypatch):
        """Where cgroups have no links BPF_PROG_ATTACH attaches, beside others, and close() detaches."""
        monkeypatch.setattr(attach_module, "kernel_version", lambda: (5, 4))
        egress = AttachType.BPF_CGROUP_INET_EGRESS

        def act() -> None:
            in_cgroup(cgroup, send)

        with Program(SKB, pushing(q, 1, 1)) as first, Program(SKB, pushing(q, 2, 1)) as second:
            with first.attach(cgroup, attach_type=egress) as link, second.attach(cgroup, attach_type=egress):
                assert ran(q, act)
                q.pop_many(64)
                act()
                assert set(q.pop_many(64)) == {1, 2}
                link.close()
                act()
                assert set(q.pop_many(64)) == {2}
            assert not ran(q, act)

    def test_it_is_detached_when_forgotten(self, network, cgroup, q, monkeypatch):
        """A program without a link would stay attached for ever: one that is forgotten is detached, with a warning."""
        monkeypatch.setattr(attach_module, "kernel_version", lambda: (5, 4))
        with Program(SKB, pushing(q, 1, 1)) as program:
            with pytest.warns(RuntimeWarning, match="nothing holds <ProgAttachLink to cgroup"):
                program.attach(cgroup, attach_type=AttachType.BPF_CGROUP_INET_EGRESS)
            assert not ran(q, lambda: in_cgroup(cgroup, send))

    def test_detached_by_another(self, network, cgroup, q, monkeypatch):
        """close() finds the program detached already, and that is no error."""
        monkeypatch.setattr(attach_module, "kernel_version", lambda: (5, 4))
        egress = AttachType.BPF_CGROUP_INET_EGRESS
        with Program(SKB, pushing(q, 1, 1)) as program:
            link = program.attach(cgroup, attach_type=egress)
            folder = os.open(cgroup, os.O_RDONLY)
            syscall.bpf(
                Cmd.BPF_PROG_DETACH,
                syscall.bpf_attr(target_fd=folder, attach_bpf_fd=program.fileno(), attach_type=egress),
            )
            os.close(folder)
            link.close()


@pytest.mark.linux("6.4")
class TestNetfilter:
    def load(self, q: Queue) -> Program:
        return Program(NETFILTER, pushing(q, 7, 1), expected_attach_type=AttachType.BPF_NETFILTER)

    def test_it_runs_from_attach_to_close(self, network, q):
        """The program runs for the packets of its hook: IPv4's LOCAL_IN."""
        with self.load(q) as program:
            with program.attach(NetfilterHook(2, 1, priority=-100)) as link:
                assert ran(q, send)
                assert link.info().type == LinkType.BPF_LINK_TYPE_NETFILTER
                assert link.target == "netfilter hook 1 of protocol family 2 at priority -100"
            assert not ran(q, send)

    def test_one_of_a_priority(self, network, q):
        """Two programs of one hook can't have one priority: AlreadyExists (EBUSY), and the text names the hook."""
        with self.load(q) as program, program.attach(NetfilterHook(2, 1)):
            error = failure_of(lambda: program.attach(NetfilterHook(2, 1)))
        assert error.errno == errno.EBUSY
        assert "netfilter hook 1 of protocol family 2 at priority 0" in str(error)

    def test_what_is_no_hook(self, q):
        """A hook is a NetfilterHook."""
        with self.load(q) as program, pytest.raises(TypeError, match="the target is a NetfilterHook"):
            program.attach("input")


@pytest.mark.linux("5.9")
def test_an_iterator_over_a_map(q):
    """An iterator over a map's elements is told the map, and runs once for each element."""
    with Program(
        ProgType.BPF_PROG_TYPE_TRACING,
        pushing(q),
        expected_attach_type=AttachType.BPF_TRACE_ITER,
        attach_to="bpf_map_elem",
    ) as program:
        with pytest.raises(TypeError, match="has to be told the target"):
            program.attach()
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "numbers", 4, 8, 5)
        with program.attach(fd) as link, link.iterate() as file:
            file.read()
        os.close(fd)
    # One run more at the end, without an element.
    assert len(q.pop_many(64)) == 5 + 1


class FakeProgram:
    """What attach() has to know of a program, without one: this kernel may not have the type."""

    def __init__(self, prog_type: ProgType, expected: AttachType, fd: int) -> None:
        self.name, self.prog_type, self.expected_attach_type, self.attach_to = "", prog_type, expected, ""
        self.fileno = lambda: fd


@pytest.mark.parametrize(
    ("prog_type", "expected", "target", "asked", "commands"),
    [
        ("LIRC_MODE2", "LIRC_MODE2", "/dev/null", None, ["BPF_PROG_ATTACH", "BPF_PROG_DETACH"]),
        ("SCHED_CLS", "NETKIT_PRIMARY", "lo", None, ["BPF_LINK_CREATE"]),
        ("SCHED_CLS", "CGROUP_INET_INGRESS", "lo", "NETKIT_PEER", ["BPF_LINK_CREATE"]),
        ("EXT", "CGROUP_INET_INGRESS", None, None, ["BPF_RAW_TRACEPOINT_OPEN"]),
    ],
)
def test_what_is_sent_for_what_is_not_here(prog_type, expected, target, asked, commands):
    """Infrared receivers, netkit devices and replaced functions are attached by these commands, as these types."""
    calls = []

    def hook(cmd: int, attr: Any, size: int) -> int:
        attr = door.ffi.cast("union bpf_attr *", attr)
        attach_type = attr.attach_type if "PROG" in Cmd(cmd).name else attr.link_create.attach_type
        calls.append((Cmd(cmd).name, attach_type))
        return 0 if "PROG" in Cmd(cmd).name else os.dup(null)

    null = os.open("/dev/null", os.O_RDONLY)
    program = FakeProgram(ProgType[f"BPF_PROG_TYPE_{prog_type}"], AttachType[f"BPF_{expected}"], null)
    asked_type = AttachType[f"BPF_{asked}"] if asked else None
    previous = door.set_hook(hook)
    try:
        attach_module.attach(program, target, asked_type, 0, 0).close()
    finally:
        door.set_hook(previous)
        os.close(null)
    assert [name for name, _ in calls] == commands
    wanted = asked_type or AttachType[f"BPF_{expected}"]
    assert all(attach_type == wanted for name, attach_type in calls if name != "BPF_RAW_TRACEPOINT_OPEN")
