"""Maps in other processes: over a socket, as a multiprocessing argument, in a worker without any capability."""

import array
import ctypes
import fcntl
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import rawbpf
from rawbpf import MapFlag, NotPermitted, Queue, Stack
from rawbpf.values import codecs
from tests.conftest import IS_ROOT

pytestmark = pytest.mark.creates


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_map_over_a_socket(kind, pair):
    """What is received is the same map, of the kernel's type, with a descriptor of its own that exec() closes."""
    with kind("<IH", 5, name="sent") as m:
        rawbpf.send_map(pair[0], m)
        with rawbpf.recv_map(pair[1], "<IH") as received:
            assert type(received) is kind
            assert received.id == m.id
            assert received.fileno() != m.fileno()
            assert fcntl.fcntl(received.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            m.push((7, 80))
            assert received.pop() == (7, 80)


def test_several_maps_in_a_row(pair):
    """Each recv_map() takes one map, in order."""
    with Queue(4, 1) as q, Stack(8, 1) as s:
        rawbpf.send_map(pair[0], q)
        rawbpf.send_map(pair[0], s)
        with rawbpf.recv_map(pair[1]) as first, rawbpf.recv_map(pair[1]) as second:
            assert [type(first), type(second)] == [Queue, Stack]
            assert [first.id, second.id] == [q.id, s.id]


def test_a_read_only_descriptor_stays_so(pair):
    """The receiver may do what the sender's descriptor may."""
    with Queue(4, 1, flags=MapFlag.BPF_F_RDONLY) as q:
        rawbpf.send_map(pair[0], q)
        with rawbpf.recv_map(pair[1]) as received, pytest.raises(NotPermitted, match="read-only"):
            received.push(b"abcd")


def test_what_is_no_map(pair):
    """A closed end, bytes without a descriptor, another descriptor, a wrong size: an error, and nothing stays open."""
    ours, theirs = pair
    ours.send(b"x")
    with pytest.raises(ValueError, match="without a descriptor"):
        rawbpf.recv_map(theirs)
    socket.send_fds(ours, [b"m"], [theirs.fileno()])
    with pytest.raises(rawbpf.BpfError):
        rawbpf.recv_map(theirs)
    with Queue(4, 1) as q:
        rawbpf.send_map(ours, q)
        with pytest.raises(ValueError, match="value_size 4"):
            rawbpf.recv_map(theirs, "<Q")
    ours.close()
    with pytest.raises(EOFError):
        rawbpf.recv_map(theirs)


def test_more_descriptors_than_one(pair):
    """A message with two descriptors is refused as a whole, and leaves none open."""
    with Queue(4, 1) as q:
        fds = array.array("i", [q.fileno(), q.fileno()])
        pair[0].sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        with pytest.raises(ValueError, match="more descriptors came over the socket than one"):
            rawbpf.recv_map(pair[1])


@pytest.mark.linux("5.19")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_a_worker_without_any_capability():
    """A process with no capability pushes, peeks and pops on a map that it received, and can't make one."""
    code = """
import os, socket, sys, rawbpf
with socket.socket(fileno=int(sys.argv[1])) as sock, rawbpf.recv_map(sock, "=I") as q:
    print(q.pop(), q.peek())
    q.push(4)
    try: rawbpf.Queue(4, 1)
    except rawbpf.NotPermitted as error: print(error.hint)
"""
    ours, theirs = socket.socketpair()
    with ours, theirs, Queue("=I", 5) as q:
        q.push_many([1, 2, 3])
        rawbpf.send_map(ours, q)
        result = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert lines[0] == "1 2"
        assert lines[1].startswith("this process has no CAP_BPF")
        assert q.pop_many(5) == [2, 3, 4]


# multiprocessing


def work(m, report):
    """In the child: pops two values, pushes one, and tells what kind of descriptor it has."""
    with m:
        taken = [m.pop(), m.pop()]
        m.push((9, 9))
        report.put((taken, type(m).__name__, fcntl.fcntl(m.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC))


@pytest.mark.alike
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_map_as_an_argument(kind, method, tmp_path):
    """However the child is started, it has the map, its codec too, and the parent keeps its own."""
    script = f"""
import multiprocessing
from rawbpf import {kind.__name__}
from tests.maps.test_sharing import work
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    report = context.SimpleQueue()
    with {kind.__name__}("<IH", 5) as m:
        m.push_many([(1, 1), (2, 2)])
        child = context.Process(target=work, args=(m, report))
        child.start()
        print(report.get())
        child.join()
        print(child.exitcode, m.pop())
"""
    # spawn and forkserver import the main module again: it has to be a file.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    main = tmp_path / "main_script.py"
    main.write_text(script)
    result = subprocess.run(
        [sys.executable, "-W", "error", main], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert result.returncode == 0, result.stderr
    taken = [(1, 1), (2, 2)] if kind is Queue else [(2, 2), (1, 1)]
    assert result.stdout == f"{(taken, kind.__name__, 1)}\n0 (9, 9)\n"


@pytest.mark.parametrize("spec", [4, "<IH", ctypes.c_uint32])
def test_codecs_survive_a_pickle(spec):
    """The codecs that a map may have are the same in the child; a codec is its own specification."""
    codec = codecs.codec_for(spec)
    copied = pickle.loads(pickle.dumps(codec))
    assert type(copied) is type(codec)
    assert copied.size == codec.size
    assert codecs.codec_for(codec) is codec
    data = struct.pack("<IH", 1, 2)[: codec.size]
    assert copied.decode(data) == codec.decode(data)


def test_no_pickle_otherwise():
    """A map goes to no file and through no pipe: outside the start of a child a pickle is a TypeError."""
    with Queue(4, 1) as q, pytest.raises(TypeError, match="send_map"):
        pickle.dumps(q)


def test_other_sockets_carry_no_descriptors():
    """Over TCP the kernel would drop it without a word."""
    with Queue(4, 1) as q, socket.socket(socket.AF_INET) as sock, pytest.raises(ValueError, match="Unix sockets only"):
        rawbpf.send_map(sock, q)


def test_a_map_that_moved_elements_can_be_an_argument():
    """Whatever its codec has prepared for bulk calls, it can be pickled."""
    codec = rawbpf.values.codecs.RawBytes(4)
    values = []
    codec.decode_all(bytes(80), values)
    assert pickle.loads(pickle.dumps(codec)).size == 4
