"""What two looks at a map say of what came and went between them, against a model."""

import random

import pytest

from rawbpf import BPF_EXIST, Queue, RingBuffer, Stack
from rawbpf.maps.positions import look, moved, open_to_look
from tests.maps.ring_producer import Producer

pytestmark = [
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.linux("5.9"),
    pytest.mark.real_kernel(reason="programs look into the map"),
]


def test_at_least_so_many(kind):
    """Of a queue, fewer than go round its ring are counted exactly, overwritten ones as gone. Of a stack never more
    are counted than there were, and what came less what went is what it grew by."""
    rng = random.Random(3)
    with kind("I", 20) as m:
        before, size = look(m), 0
        assert before.size == 0
        for _ in range(300):
            came = went = 0
            for _ in range(rng.randint(0, 5)):
                if rng.random() < 0.6:
                    m.push(7, BPF_EXIST)
                    came, went, size = came + 1, went + (size == 20), min(size + 1, 20)
                elif m.pop(default=None) is not None:
                    went, size = went + 1, size - 1
            after = look(m)
            assert after.size == size == m.qsize()
            found = moved(m, before, after)
            if kind is Queue:
                assert found == (came, went)
            else:
                assert 0 <= found[0] <= came and 0 <= found[1] <= went
                assert found[0] - found[1] == came - went
            before = after


def test_ring_buffer_bytes():
    """Of a ring buffer every byte is counted, also when the ring went round many times."""
    with RingBuffer(4096, "=Q") as ring, Producer(ring) as producer:
        first, records = look(ring), 0
        for _ in range(20):
            producer.produce(200)
            records += len(list(ring.drain()))
        producer.produce(3)
        last = look(ring)
        assert records == 4000
        assert moved(ring, first, last) == ((records + 3) * 16, records * 16)
        assert last.size == 3 * 16 == ring.pending


def test_opening_to_look(bpf_folder):
    """A queue is opened for reading only; a ring buffer as its mapping needs it."""
    with Stack(4, 4) as m, RingBuffer(4096) as ring:
        m.pin(f"{bpf_folder}/m")
        ring.pin(f"{bpf_folder}/ring")
        with open_to_look(f"{bpf_folder}/m") as same, open_to_look(f"{bpf_folder}/ring") as too:
            assert look(same).size == look(too).size == 0
            with pytest.raises(PermissionError):
                same.push(b"1234")
