"""The ring of a queue or stack as text: its slots with their bytes, and where head and tail are.

    slot      0          1          2          3
         +----------+----------+----------+----------+
         |(01000000)| 02000000 | 03000000 | 04000000 |
         +----------+----------+----------+----------+
            head       tail

What stands in parentheses is free. Its bytes are those of an element that was popped or overwritten, or the zeros that
the map began with; the next push that comes there replaces them.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from rawbpf.abi import MapType
from rawbpf.maps.qsize import RingState
from rawbpf.maps.queue_stack import Queue, Stack
from rawbpf.observe.wording import counted

_WIDTH = 80
_MARGIN = 9
# Of longer values the first bytes are shown. In a cell there is room for both marks, too.
_BYTES_MAX = 8
_CELL = len("head tail ")


def draw_ring(m: "Queue[Any] | Stack[Any]") -> str:
    """Draws a map's ring, in lines of at most 80 characters, and says in a sentence what comes next.

    Needs what qsize() needs, and raises what it raises; on the simulated kernel nothing.

    >>> with Queue(4, 3) as q:
    ...     q.push(b"abcd")
    ...     print(draw_ring(q))
        slot      0          1          2          3
             +----------+----------+----------+----------+
             | 61626364 |(00000000)|(00000000)|(00000000)|
             +----------+----------+----------+----------+
                 tail       head
        1 element; the next push writes slot 1. The next pop takes slot 0.
    """
    info = m.info()
    return "\n".join(_lines(m._inspected().ring(), info.value_size, info.type == MapType.BPF_MAP_TYPE_QUEUE))


def _lines(ring: RingState, value_size: int, is_queue: bool) -> Iterator[str]:
    if not ring.data:
        yield "    The ring has no slot: max_entries + 1 is 0 in the kernel's 32 bits."
        return
    slots = [ring.data[at : at + value_size] for at in range(0, len(ring.data), value_size)]
    held = (ring.head - ring.tail) % len(slots)
    filled = {(ring.tail + number) % len(slots) for number in range(held)}
    cells = [_cell(slot, number in filled) for number, slot in enumerate(slots)]
    width = len(cells[0])
    in_a_row = max(1, (_WIDTH - _MARGIN - 1) // (width + 1))
    for first in range(0, len(cells), in_a_row):
        numbers = range(first, min(first + in_a_row, len(cells)))
        border = " " * _MARGIN + "+" + ("-" * width + "+") * len(numbers)
        yield f"{'    slot':{_MARGIN}} {' '.join(str(number).center(width) for number in numbers)}".rstrip()
        yield border
        yield " " * _MARGIN + "|" + "".join(f"{cells[number]}|" for number in numbers)
        yield border
        if marks := f"{' ' * _MARGIN} {' '.join(_mark(number, ring).center(width) for number in numbers)}".rstrip():
            yield marks
    out = ring.tail if is_queue else (ring.head - 1) % len(slots)
    yield from textwrap.wrap(
        _sentence(ring, held, len(slots) - 1, out), _WIDTH, initial_indent="    ", subsequent_indent="    "
    )


def _sentence(ring: RingState, held: int, max_entries: int, out: int) -> str:
    if not held:
        return f"No element: head and tail are the same. The next push writes slot {ring.head}."
    push = f"the next push writes slot {ring.head}"
    if held == max_entries:
        push = f"full: a push with BPF_EXIST writes slot {ring.head}, and tail moves on"
    return f"{counted(held, 'element')}; {push}. The next pop takes slot {out}."


def _cell(slot: bytes, is_filled: bool) -> str:
    text = slot[:_BYTES_MAX].hex() + (".." if len(slot) > _BYTES_MAX else "")
    return (f" {text} " if is_filled else f"({text})").center(_CELL)


def _mark(number: int, ring: RingState) -> str:
    return " ".join(name for name, place in (("head", ring.head), ("tail", ring.tail)) if place == number)
