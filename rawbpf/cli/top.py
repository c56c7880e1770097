"""`rawbpf top`: all queues, stacks and ring buffers live: how full each is, and what comes and goes.

A map is opened for the moment of a look, because whoever holds it keeps it alive. So does the program that looks, for
as long as the kernel takes to free it: some tenths of a second, which two looks must be apart.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from rawbpf.cli.errors import DONE
from rawbpf.cli.output import BOLD, DIM, PLAIN, fills_screens, has_colour, say, say_table
from rawbpf.cli.terminal import Screen
from rawbpf.maps.listing import list_maps
from rawbpf.maps.positions import TYPES, Look, look, moved, open_to_look
from rawbpf.observe.wording import counted, escaped
from rawbpf.syscall.errors import NotFound

_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"

_HEADER = ["ID", "TYPE", "NAME", "", "ELEMENTS", "IN/S", "OUT/S"]
# An id has up to 10 digits: on a machine that makes maps all day it passes a million.
_WIDTHS = [10, 7, 15, 0, 13, 7, 7]
_RIGHT = {"ID", "ELEMENTS", "IN/S", "OUT/S"}
_BAR_MAX = 60

# How often it is looked whether a signal came, or the terminal has another size, in seconds.
_KEYS_EVERY = 0.1


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


# When a map was looked at, and what was seen, by its id.
_Looks = dict[int, tuple[float, Look]]


def _rows(before: _Looks) -> tuple[list[Row], _Looks]:
    """The maps there are, and the looks at them, from which the next call takes what came and went since."""
    rows: list[Row] = []
    looks: _Looks = {}
    for info in list_maps(*TYPES):
        seen = came = went = None
        # It may have been freed since it was listed.
        with suppress(NotFound), open_to_look(f"id:{info.id}") as m:
            # Looking into a queue or stack takes CAP_BPF and CAP_PERFMON, and a kernel with BTF.
            with suppress(OSError):
                seen, now = look(m), time.monotonic()
                looks[info.id] = now, seen
                if (last := before.get(info.id)) is not None:
                    came, went = (number / (now - last[0]) for number in moved(m, last[1], seen))
            kind = info.type.name.removeprefix("BPF_MAP_TYPE_").lower()
            size = None if seen is None else seen.size
            rows.append(Row(info.id, kind, info.name, size, info.max_entries, came, went))
    return rows, looks


def run(interval: float) -> int:
    """The screen, until q or a signal; where stdout is no terminal, one table."""
    if not fills_screens(sys.stdout):
        _, looks = _rows({})
        time.sleep(interval)
        _say_table(_rows(looks)[0])
        return DONE
    # What is refused is said before the screen is ours.
    rows, looks = _rows({})
    with Screen() as screen:
        view = _View(screen, rows)
        while view.wait(interval):
            view.rows, looks = _rows(looks)
            view.show()
    return DONE


class _View:
    """What is on the screen, and how it is sorted."""

    def __init__(self, screen: Screen, rows: list[Row]) -> None:
        self.rows = rows
        self._screen = screen
        self._order = "f"
        self.show()

    def wait(self, seconds: float) -> bool:
        """Does what keys say for so long; False if that is to end it."""
        end = time.monotonic() + seconds
        while not self._screen.stop.received and (left := end - time.monotonic()) > 0:
            key = self._screen.key(min(left, _KEYS_EVERY)).lower()
            if key == "q":
                return False
            if key in _ORDERS:
                self._order = key
            if key or self._screen.size != self._size:
                self.show()
        return not self._screen.stop.received

    def show(self) -> None:
        self._size = width, height = self._screen.size
        rows = sorted(self.rows, key=_ORDERS[self._order][1])
        room = max(height - 3, 1)
        more = len(rows) - room + 1 if len(rows) > room else 0
        colour = has_colour(sys.stdout)
        order = f"sorted by {_ORDERS[self._order][0]}"
        maps = counted(len(rows), "map")
        full = sum(row.full >= 1 for row in rows)
        self._screen.draw(
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
    # At the first look there is no rate yet.
    unknown = "?" if row.size is None else ""
    rates = [unknown if rate is None else _short(rate) for rate in (row.came, row.went)]
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
