"""Maps of maps, programs, sockets and interfaces: put in by descriptors, read back as ids, taken along by the map."""

import errno
import socket
import struct

import pytest

from rawbpf import (
    ArrayOfMaps,
    BpfError,
    CpuMap,
    DevMap,
    DevMapHash,
    Hash,
    HashOfMaps,
    NoSuchKey,
    PerfEventArray,
    ProgArray,
    Program,
    ProgType,
    Queue,
    ReuseportSockArray,
    SockHash,
    SockMap,
    XskMap,
    open_map,
)
from rawbpf.abi import ENOTSUPP
from rawbpf.programs.asm import R0, exit_, mov

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the simulated one has no maps with keys")]


def outer_map(kind, inner):
    return ArrayOfMaps(inner, 8) if kind is ArrayOfMaps else HashOfMaps("<I", inner, 8)


@pytest.mark.admin
@pytest.mark.parametrize("kind", [ArrayOfMaps, HashOfMaps])
def test_maps_of_maps(kind):
    """A map that is put in is read back by its id, opened by inner(), and lives while it is in."""
    with Hash("<I", "<Q", 4) as first, Hash("<I", "<Q", 4) as second, outer_map(kind, first) as outer:
        outer[2] = first
        outer.update_many({3: second.fileno(), 4: second})
        assert dict(outer.items()) == {2: first.id, 3: second.id, 4: second.id}
        assert list(outer) == sorted(outer) or kind is HashOfMaps
        first[7] = 70
        first.close()
        with outer.inner(2, "<I", "<Q") as same:
            assert type(same) is Hash and dict(same.items()) == {7: 70}
        with open_map(f"id:{outer.id}", key="<I") if kind is HashOfMaps else open_map(f"id:{outer.id}") as again:
            assert type(again) is kind and dict(again.items()) == dict(outer.items())
        del outer[2]
        assert outer.pop(3) == second.id and sorted(outer) == [4] and 2 not in outer
        with pytest.raises(NoSuchKey):
            outer.inner(2)
        assert dict(outer.drain()) == {4: second.id} and dict(outer.items()) == {}


@pytest.mark.parametrize("kind", [ArrayOfMaps, HashOfMaps])
def test_an_inner_map_of_another_kind(kind):
    """It must be as the one that was given at creation: EINVAL."""
    with Hash("<I", "<Q", 4) as inner, Queue("<Q", 4) as other, outer_map(kind, inner) as outer:
        with pytest.raises(BpfError) as caught:
            outer[1] = other
        assert caught.value.errno == errno.EINVAL
        assert dict(outer.items()) == {}


def test_queues_in_a_map():
    """Queues and stacks may be in a map of maps."""
    with Queue("<I", 4) as q, HashOfMaps(4, q, 2) as outer:
        outer[b"abcd"] = q
        assert dict(outer.items()) == {b"abcd": q.id}


def test_programs():
    """A program array has the ids of programs, at the places that are taken."""
    with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 0), exit_()]) as program, ProgArray(4) as stages:
        assert list(stages) == [] and len(stages) == 0 and not dict(stages.items())
        stages[1] = program
        stages[3] = program.fileno()
        assert list(stages) == [1, 3] and stages[1] == stages[3] > 0
        with pytest.raises(IndexError):
            stages[4] = program
        with pytest.raises(NoSuchKey):
            stages[0]
        stages.clear()
        assert list(stages) == []


@pytest.mark.parametrize("wrong", [None, "7", 1.5])
def test_what_is_no_descriptor(no_library_call, wrong):
    """It is a TypeError, and the kernel is not asked."""
    with ProgArray(4) as stages, no_library_call(), pytest.raises(TypeError):
        stages[0] = wrong


def cookie(sock):
    """SO_COOKIE (57): what the kernel calls this socket."""
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, 57, 8))[0]


def test_sockets():
    """Sockets are read back as their cookies, and leave the map when they are closed."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted, SockMap(4) as by_index, SockHash("<I", 4) as by_key:
            by_index[2] = client
            by_key[70] = accepted
            assert dict(by_index.items()) == {2: cookie(client)}
            assert dict(by_key.items()) == {70: cookie(accepted)}
            client.close()
            assert list(by_index) == []
            del by_key[70]
            assert list(by_key) == []


def test_sockets_of_a_group():
    """An array for SO_REUSEPORT takes such sockets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, ReuseportSockArray(2) as group:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        group[1] = one
        assert dict(group.items()) == {1: cookie(one)}


def test_interfaces():
    """Maps for redirection have the indexes of interfaces."""
    lo = socket.if_nametoindex("lo")
    with DevMap("=I", 4) as by_index, DevMapHash("=I", "=I", 4) as by_number:
        by_index[3] = by_number[4711] = lo
        assert dict(by_index.items()) == {3: lo} and dict(by_number.items()) == {4711: lo}
        del by_index[3], by_number[4711]
        assert not dict(by_index.items()) and not dict(by_number.items())
        with pytest.raises(BpfError):
            by_index[0] = 1 << 30


def test_cpus():
    """A CPU map has the length of each CPU's queue."""
    with CpuMap("=I", 1) as cpus:
        cpus[0] = 64
        assert dict(cpus.items()) == {0: 64}


@pytest.mark.parametrize(("kind", "error"), [(PerfEventArray, ENOTSUPP), (XskMap, errno.EOPNOTSUPP)])
def test_what_can_not_be_read_back(kind, error):
    """The kernel's answer is the error's errno."""
    with kind(2) as m:
        with pytest.raises(BpfError) as caught:
            m[0]
        assert caught.value.errno == error
        with pytest.raises(BpfError):
            m[0] = m
