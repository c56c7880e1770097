"""draw_ring(): a map's ring as text, on the running and on the simulated kernel."""

import random
import re
from collections import deque
from contextlib import nullcontext

import pytest

from rawbpf import BPF_EXIST, Empty, Full, NotPermitted, Queue, Stack, simulate
from rawbpf.maps.qsize import RingState
from rawbpf.observe import ring_drawing
from rawbpf.observe.ring_drawing import draw_ring


def drawn_slots(text: str) -> tuple[list[str], list[bool], list[str]]:
    """The bytes of the slots, whether each is filled, and the marks below each."""
    cells = re.findall(r"(?<=\|)([ (])([0-9a-f.]+)[ )](?=\|)", text.replace("||", "|"))
    lines = text.splitlines()
    numbers, marks = lines[0], lines[4]
    places = [match.end() for match in re.finditer(r"\d+", numbers)]
    below = [marks[place - 5 : place + 5].strip() for place in places]
    return [data for _, data in cells], [bracket == " " for bracket, _ in cells], below


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.9")
@pytest.mark.parametrize("where", ["here", "simulated"])
def test_the_ring_is_the_kernels(kind, where):
    """After each of many pushes and pops the filled slots from tail to head are the elements, the oldest first; what is
    no element any more still stands in its slot, where nothing was written since."""
    with simulate() if where == "simulated" else nullcontext(), kind(4, 3) as m:
        model: deque[str] = deque(maxlen=3)
        written: dict[int, str] = {}
        head = 0
        for number in range(60):
            if random.Random(number).random() < 0.6:
                flags = BPF_EXIST if number % 2 else 0
                try:
                    m.push(number.to_bytes(4, "little"), flags)
                except Full:
                    assert len(model) == 3
                else:
                    model.append(number.to_bytes(4, "little").hex())
                    written[head] = model[-1]
                    head = (head + 1) % 4
            else:
                try:
                    m.pop()
                except Empty:
                    assert not model
                else:
                    if kind is Queue:
                        model.popleft()
                    else:
                        model.pop()
                        head = (head - 1) % 4
            slots, filled, marks = drawn_slots(draw_ring(m))
            tail = next(place for place, mark in enumerate(marks) if "tail" in mark)
            assert "head" in marks[head]
            assert [slots[(tail + each) % 4] for each in range(len(model))] == list(model)
            assert filled == [(place - tail) % 4 < len(model) for place in range(4)]
            assert slots == [written.get(place, "00000000") for place in range(4)]


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.9")
@pytest.mark.real_kernel(reason="it is compared with the simulated one")
def test_both_kernels_draw_the_same(kind):
    """Without privilege the simulated kernel draws what the running one would."""
    drawings = []
    for kernel in (nullcontext(), simulate()):
        with kernel, kind("<IH", 2) as m:
            drawings.append([])
            for number in range(5):
                m.push((number, number), BPF_EXIST)
                drawings[-1].append(draw_ring(m))
            m.pop()
            drawings[-1].append(draw_ring(m))
    assert drawings[0] == drawings[1]


@pytest.mark.parametrize("value_size", [1, 4, 8, 9, 4096])
@pytest.mark.parametrize("slots", [2, 3, 7, 8, 30])
def test_a_wide_ring_takes_more_rows(slots, value_size):
    """Whatever the sizes, 80 columns are enough, and each slot is there once."""
    for head, tail in ((0, 0), (slots - 1, 0), (0, 1)):
        ring = RingState(head, tail, bytes(slots * value_size))
        lines = list(ring_drawing._lines(ring, value_size, is_queue=True))
        assert max(map(len, lines)) <= 80
        numbers = [int(n) for line in lines if line.startswith("    slot") for n in re.findall(r"\d+", line)]
        assert numbers == list(range(slots))
        assert sum(line.count("head") for line in lines if "." not in line) == 1


def test_a_ring_without_slots():
    """max_entries 2**32 - 1 makes a ring of no slot, as the kernel counts in 32 bits: that is said."""
    with simulate() as kernel:
        from rawbpf import Cmd, bpf, bpf_attr

        fd = bpf(Cmd.BPF_MAP_CREATE, bpf_attr(map_type=22, value_size=1, max_entries=2**32 - 1))
        assert kernel.owns(fd)
        with Queue.from_fd(fd) as q:
            assert "has no slot" in draw_ring(q)


def test_looking_takes_the_privilege_of_qsize():
    """Where qsize() is not permitted, drawing is not: with the same exception."""
    with simulate(kernel="5.20"), Stack(4, 1) as s:
        assert draw_ring(s)
    with simulate() as kernel, Queue(4, 1) as q:
        kernel.unprivileged = True
        with pytest.raises(NotPermitted):
            draw_ring(q)
