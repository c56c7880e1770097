"""`rawbpf top`: all queues, stacks and ring buffers live: how full each is, and what comes and goes.

The maps are looked at twenty times a second, and listed anew after each interval. No longer than that they are held
open: a map that nobody else has any more is freed then, as it would be without us.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from rawbpf.cli.errors import DONE
from rawbpf.cli.output import BOLD, DIM, PLAIN, fills_screens, has_colour, say, say_table
from rawbpf.cli.terminal import Screen
from rawbpf.maps.listing import list_maps
from rawbpf.maps.positions import TYPES, Look, look, moved, open_to_look
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.maps.ring_buffer import RingBuffer
from rawbpf.observe.wording import counted, escaped
from rawbpf.syscall.errors import NotFound

# Seconds between two looks at a map: what goes round its ring in that time is not seen.
_LOOK_EVERY = 0.05

_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"

_HEADER = ["ID", "TYPE", "NAME", "", "ELEMENTS", "IN/S", "OUT/S"]
_WIDTHS = [6, 7, 15, 0, 13, 7, 7]
_RIGHT = {"ID", "ELEMENTS", "IN/S", "OUT/S"}
_BAR_MAX = 60


class Row(NamedTuple):
    """A map: elements in it and at most, and how many came and went in a second (of a ring buffer, bytes). None where
    that could not be found out."""

    id: int
    type: str
    name: str
    size: int | None
    room: int
    came: float | None
    went: float | None

    @property
    def full(self) -> float:
        return (self.size or 0) / self.room

    @property
    def rate(self) -> float:
        return (self.came or 0) + (self.went or 0)


# What a key sorts by.
_ORDERS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "f": ("fill", lambda row: (-row.full, row.id)),
    "r": ("rate", lambda row: (-row.rate, row.id)),
    "n": ("name", lambda row: (row.name, row.id)),
    "i": ("id", lambda row: row.id),
}
_FOOTER = "q quit | sort by f fill, r rate, n name, i id | IN and OUT: at least so many"


class _Watched:
    """A map that is looked at again and again."""

    def __init__(self, m: "QueueOrStack[Any] | RingBuffer[Any]") -> None:
        self._map = m
        self._info = m.info()
        self._last: Look | None = None
        self._came = self._went = 0
        self._hidden = False

    def look(self) -> None:
        if self._hidden:
            return
        try:
            now = look(self._map)
        except OSError:
            # It takes CAP_PERFMON, and a kernel with BTF.
            self._hidden = True
            return
        if self._last is not None:
            came, went = moved(self._map, self._last, now)
            self._came += came
            self._went += went
        self._last = now

    def row(self, seconds: float) -> Row:
        size = None if self._last is None else self._last.size
        known = size is not None and seconds > 0
        return Row(
            self._info.id,
            self._info.type.name.removeprefix("BPF_MAP_TYPE_").lower(),
            self._info.name,
            size,
            self._info.max_entries,
            self._came / seconds if known else None,
            self._went / seconds if known else None,
        )


def _rows(seconds: float, wait: Callable[[float], bool]) -> list[Row]:
    """The maps there are, looked at for so long; wait() pauses, and says whether to go on."""
    with ExitStack() as stack:
        watched = [_Watched(stack.enter_context(m)) for m in _maps()]
        began = time.monotonic()
        passed = 0.0
        while True:
            for each in watched:
                each.look()
            if passed >= seconds or not wait(min(_LOOK_EVERY, seconds - passed)):
                return [each.row(passed) for each in watched]
            passed = time.monotonic() - began


def _maps() -> Iterator[Any]:
    for info in list_maps(*TYPES):
        # It may have been freed since it was listed.
        with suppress(NotFound):
            yield open_to_look(f"id:{info.id}")


def run(interval: float) -> int:
    """The screen, until q or a signal; where stdout is no terminal, one table."""
    if not fills_screens(sys.stdout):
        _say_table(_rows(interval, _sleep))
        return DONE
    # What is refused is said before the screen is ours.
    view = _View(_rows(0, _sleep))
    with Screen() as screen:
        view.show(screen)
        while not (screen.stop.received or view.left):
            view.rows = _rows(interval, lambda seconds: view.wait(screen, seconds))
            view.show(screen)
    return DONE


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


class _View:
    """What is on the screen, and how it is sorted."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.left = False
        self._order = "f"
        self._size = (0, 0)

    def wait(self, screen: Screen, seconds: float) -> bool:
        """Waits for a key, and does what it says; False if that is the end."""
        key = screen.key(seconds).lower()
        self.left = self.left or key == "q"
        if key in _ORDERS:
            self._order = key
        if key or screen.size != self._size:
            self.show(screen)
        return not (self.left or screen.stop.received)

    def show(self, screen: Screen) -> None:
        self._size = width, height = screen.size
        rows = sorted(self.rows, key=_ORDERS[self._order][1])
        room = max(height - 3, 1)
        more = len(rows) - room + 1 if len(rows) > room else 0
        colour = has_colour(sys.stdout)
        order = f"sorted by {_ORDERS[self._order][0]}"
        maps = counted(len(rows), "map")
        full = sum(row.full >= 1 for row in rows)
        screen.draw(
            [
                _styled(f"rawbpf top   {maps}, {full} full, {order}"[:width], BOLD, colour),
                _styled(_line(_HEADER, width), BOLD, colour),
                *(_row_line(row, width, colour) for row in rows[: room - 1 if more else room]),
                *([f"... and {more} more"[:width]] if more else []),
                _styled(_FOOTER[:width], DIM, colour),
            ]
        )


def _row_line(row: Row, width: int, colour: bool) -> str:
    inner, text = max(_bar_width(width) - 2, 0), _percent(row)
    bar = f"{'|' * int(inner * row.full):{inner}}"[: inner - len(text)] + text
    style = _GREEN if row.full < 0.6 else _YELLOW if row.full < 0.85 else _RED
    line = _line(_cells(row, f"[{bar}]"), width)
    return line.replace(f"[{bar}]", f"[{style}{bar}{PLAIN}]") if colour else line


def _cells(row: Row, bar: str) -> list[str]:
    elements = f"{'?' if row.size is None else _short(row.size)}/{_short(row.room)}"
    rates = ["?" if rate is None else _short(rate) for rate in (row.came, row.went)]
    return [str(row.id), row.type, escaped(row.name), bar, elements, *rates]


def _percent(row: Row) -> str:
    # Rounded down: 100% is full.
    return "?" if row.size is None else f"{int(100 * row.full)}%"


def _line(cells: list[str], width: int) -> str:
    """Cells in columns; the bar's gets what the others leave."""
    widths = _WIDTHS.copy()
    widths[3] = _bar_width(width)
    put = [str.rjust if name in _RIGHT else str.ljust for name in _HEADER]
    shown = [each(cell, size) for each, cell, size in zip(put, cells, widths, strict=True) if size]
    return " ".join(shown)[:width]


def _bar_width(width: int) -> int:
    """What the other columns leave; nothing if that is too little for a bar."""
    left = width - sum(_WIDTHS) - len(_WIDTHS) + 1
    return min(left, _BAR_MAX) if left >= 8 else 0


def _short(number: float) -> str:
    """A number of at most five digits, with a K, M or G for what it leaves out."""
    unit = 0
    while number >= 99_999.5:
        number /= 1000
        unit += 1
    return f"{number:.0f}{' KMGTPE'[unit].strip()}"


def _styled(text: str, style: str, colour: bool) -> str:
    return f"{style}{text}{PLAIN}" if colour else text


def _say_table(rows: list[Row]) -> None:
    header = [name or "FULL" for name in _HEADER]
    lines = [_cells(row, _percent(row)) for row in sorted(rows)]
    if lines:
        say_table(header, lines, right=[*_RIGHT, "FULL"])
    else:
        say("there are no queues, stacks or ring buffers")
