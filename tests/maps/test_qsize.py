"""qsize() and snapshot(): what they say is true, whatever was done to the map, and what they need is named."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rawbpf import BPF_EXIST, Full, Queue, Unsupported
from rawbpf.btf import reader
from rawbpf.maps import qsize
from rawbpf.syscall.proc import Capability, has_capability
from tests.conftest import IS_ROOT, examples, rounds

pytestmark = [
    pytest.mark.real_kernel(reason="programs"),
    pytest.mark.creates,
    pytest.mark.linux("5.9"),
    pytest.mark.skipif(not os.path.exists(reader.VMLINUX), reason="by design: this kernel has no BTF"),
]
needs_perfmon = pytest.mark.skipif(not has_capability(Capability.CAP_PERFMON), reason="needs CAP_PERFMON")


@needs_perfmon
def test_through_push_evict_wrap_and_pop(kind):
    """qsize and snapshot follow every change, round the ring several times, and change nothing."""
    model: list[int] = []
    with kind("<I", 7) as m:
        for number in range(examples(200)):
            if number % 3 == 2 and model:
                model.remove(m.pop())
            elif number % 5 == 0:
                m.push(number, BPF_EXIST)
                model = [*model[-6:], number]
            else:
                try:
                    m.push(number)
                except Full:
                    assert len(model) == 7
                else:
                    model.append(number)
            assert m.qsize() == len(model)
            assert m.snapshot() == (model if isinstance(m, Queue) else model[::-1])


@needs_perfmon
@pytest.mark.parametrize("value_size", [1, 3, 8, 4096])
def test_value_sizes(kind, value_size):
    """Any value size is read whole, also where the ring is larger than one copy (1 MiB)."""
    values = [os.urandom(value_size) for _ in range(600)]
    with kind(value_size, 600) as m:
        m.push_many(values)
        assert m.qsize() == 600
        assert m.snapshot() == (values if isinstance(m, Queue) else values[::-1])


@needs_perfmon
def test_read_only_and_frozen_maps_can_be_looked_into(kind):
    """Looking takes nothing: it works where pop does not."""
    with kind(4, 3) as m:
        m.push(b"abcd")
        m.freeze()
        assert m.qsize() == 1
        assert m.snapshot() == [b"abcd"]


@needs_perfmon
def test_held_elements_are_not_counted(kind):
    """What was taken out of the kernel is no longer in the map."""
    with kind(4, 10) as m:
        m.push_many(b"abcd" * 5)
        next(drain := m.drain())
        drain.close()
        assert m.qsize() == 0
        assert len(m.take_held()) == 4


@needs_perfmon
def test_nothing_is_left_behind(kind):
    """The program goes with the map; a snapshot's scratch and program at once (the fixture sees descriptors)."""
    with kind(4, 10) as m:
        before = len(os.listdir("/proc/self/fd"))
        m.snapshot()
        assert len(os.listdir("/proc/self/fd")) == before
        m.qsize()
        m.qsize()
        assert len(os.listdir("/proc/self/fd")) == before + 1


@pytest.mark.linux("5.8")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_without_cap_perfmon(kind):
    """CAP_BPF alone is NotPermitted, and the text names CAP_PERFMON; with it qsize works."""
    code = (
        f"import rawbpf\nwith rawbpf.{kind.__name__}(4, 3) as m:\n"
        "    m.push(b'abcd')\n"
        "    try: print(m.qsize(), m.snapshot())\n"
        "    except rawbpf.NotPermitted as e: print(e.errno, e)"
    )

    def run(capabilities: str) -> str:
        command = ["setpriv", f"--bounding-set=-all{capabilities}", f"--inh-caps=-all{capabilities}"]
        return subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert run(",+bpf").startswith(f"{errno.EPERM} ")
    assert "CAP_PERFMON" in run(",+bpf")
    assert run(",+bpf,+perfmon") == "1 [b'abcd']\n"


@pytest.mark.linux("5.19")
@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SETPCAP (root)")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize("look", ["qsize", "snapshot"])
def test_without_any_capability(kind, look):
    """The error is about the map, names both capabilities, and has no name of the programs and arrays that look."""
    with kind(4, 3, name="jobs") as m:
        code = (
            f"import rawbpf\nm = rawbpf.{kind.__name__}.from_fd({m.fileno()})\n"
            f"try: m.{look}()\n"
            "except rawbpf.NotPermitted as e: print(e); print(e.subject, *[each.name for each in e.cause.capabilities])"
        )
        result = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code],
            capture_output=True,
            text=True,
            pass_fds=[m.fileno()],
        )
    error, cause = result.stdout.splitlines()
    subject = f"{kind.__name__.lower()} 'jobs'"
    assert error.startswith(
        f"looking into {subject} is not permitted [BPF_PROG_LOAD: EPERM]; this process has no CAP_BPF"
    )
    assert cause == f"{subject} CAP_BPF CAP_PERFMON"
    assert "rawbpf_" not in error
    assert "program" not in error


def test_without_btf(kind, monkeypatch):
    """A kernel without BTF is Unsupported, and the text says so."""
    monkeypatch.setattr(reader, "VMLINUX", "/nowhere")
    reader.vmlinux.cache_clear()
    try:
        with kind(4, 3) as m, pytest.raises(Unsupported, match="needs BTF") as caught:
            m.qsize()
        assert caught.value.errno == errno.EOPNOTSUPP
    finally:
        reader.vmlinux.cache_clear()


def test_the_offsets_are_the_kernels():
    """The ring's fields are where BTF says, in the order the kernel's source has them."""
    ring = qsize._ring()
    assert ring.head < ring.tail < ring.size < ring.elements


@needs_perfmon
def test_threads_that_ask_first(kind):
    """Several threads whose first call is qsize() share one program: none is left to be collected."""
    for _ in range(10):
        with kind("<I", 10) as m, ThreadPoolExecutor(3) as pool:
            m.push_many([1, 2, 3])
            assert list(pool.map(lambda _: m.qsize(), range(3))) == [3, 3, 3]


@needs_perfmon
def test_a_map_closed_by_another_thread(kind):
    """snapshot() beside a close(): the map's own elements or ValueError, never another's with its number."""
    wrong = []

    def look(m):
        try:
            while True:
                wrong.extend(each for each in m.snapshot() if each != 1)
        except ValueError:
            pass

    for _ in range(20):
        m = kind("<I", 10)
        m.push_many([1] * 5)
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look, m)
            time.sleep(0.002)
            m.close()
            with kind("<I", 10) as other, kind("<I", 10) as another:
                other.push_many([2] * 5)
                another.push_many([2] * 5)
                looking.result()
    assert wrong == []


@needs_perfmon
def test_the_length_while_another_process_pushes_and_pops(kind):
    """A map that never has more than one element never has another length, though its two ends are read one after the
    other."""
    with kind(8, 1000) as m:
        child = os.fork()
        if child == 0:
            while os.getppid() != 1:
                for _ in range(1000):
                    m.push(bytes(8))
                    m.pop()
        try:
            lengths = {m.qsize() for _ in rounds() for _ in range(1000)}
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert lengths <= {0, 1}


@needs_perfmon
def test_a_snapshot_of_a_ring_that_moves_is_made_again(kind, monkeypatch):
    """A ring that was copied while others pushed and popped is copied again; what stood still is given."""
    copied, copies = qsize.Inspector._copied, []

    def moving(self, length):
        copies.append(length)
        if len(copies) == 1:
            m.pop()
            before, ring, _ = copied(self, length)
            m.push_many([7, 7])
            return before, ring, copied(self, length)[2]
        return copied(self, length)

    with kind("<I", 10) as m:
        m.push_many([1, 2, 3])
        monkeypatch.setattr(qsize.Inspector, "_copied", moving)
        elements = m.snapshot()
        assert elements == list(m.drain())
    assert len(copies) == 2
