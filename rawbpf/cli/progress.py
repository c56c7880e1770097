"""How far a long command is."""

import sys
import time

from rawbpf.cli.output import redraw
from rawbpf.observe.wording import counted


class Progress:
    """A line on stderr, printed anew twice a second; only if stderr is a terminal."""

    def __init__(self, total_bytes: int = 0, wanted: bool = True) -> None:
        self._shown = wanted and sys.stderr.isatty()
        self._total = total_bytes
        self._began = self._last = time.monotonic()

    def show(self, count: int, bytes_done: int = 0, last: bool = False) -> None:
        """`count` values are done, and of the `total_bytes` of the input `bytes_done` are read."""
        now = time.monotonic()
        if not self._shown or (now - self._last < 0.5 and not last):
            return
        self._last = now
        rate = count / max(now - self._began, 0.001)
        bar = f"[{'#' * (30 * bytes_done // self._total):30}] " if self._total else ""
        redraw(f"{bar}{counted(count, 'value')}, {rate:.0f}/s", sys.stderr, end="\n" if last else "")
