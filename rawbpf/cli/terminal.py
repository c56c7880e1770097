"""A terminal for a program that fills the screen: single keys, a screen of its own, and all as before at the end."""

import os
import select
import signal
import sys
import termios
import tty
from contextlib import suppress
from typing import Any

from rawbpf.cli.output import control
from rawbpf.cli.stop_signals import StopSignals

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"


class Screen:
    """While it is entered, the terminal is ours: at whatever exit it is restored, and while Ctrl-Z has us stopped.

    SIGINT, SIGTERM and SIGHUP end nothing by themselves, but are kept in `stop.received`.
    """

    def __init__(self) -> None:
        self.stop = StopSignals()
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] = []
        self._suspended = False

    def __enter__(self) -> "Screen":
        self.stop.__enter__()
        self._stopping = signal.signal(signal.SIGTSTP, self._suspend)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        # A terminal that is gone needs no restoring.
        with suppress(OSError, termios.error):
            self._give_back()
        signal.signal(signal.SIGTSTP, self._stopping)
        self.stop.__exit__()

    def _take(self) -> None:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        control(_ENTER)

    def _give_back(self) -> None:
        if self._keys is not None and self._before:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)
        control(_LEAVE)

    def _suspend(self, number: int, frame: object) -> None:
        self._suspended = True

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now. (shutil.get_terminal_size() would believe COLUMNS and LINES, which stay the same.)"""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            if columns and lines:
                return columns, lines
        return 80, 24

    def draw(self, lines: list[str]) -> None:
        """Shows lines, which must fit and be escaped, in the place of those before."""
        shown = "".join(f"{line}\x1b[K\r\n" for line in lines[:-1])
        control(f"\x1b[H{shown}{lines[-1]}\x1b[K\x1b[J")

    def key(self, seconds: float) -> str:
        """Waits for a key; "" if none came."""
        if self._suspended:
            self._suspended = False
            self._give_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._take()
        ready, _, _ = select.select([] if self._keys is None else [self._keys], [], [], seconds)
        if not ready or self._keys is None:
            return ""
        typed = os.read(self._keys, 64)
        if not typed:
            # The terminal hung up.
            self.stop.receive(signal.SIGHUP)
        return typed[:1].decode("ascii", "replace")
