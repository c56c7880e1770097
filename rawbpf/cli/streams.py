"""The two long commands of the command line: a map's elements to a descriptor, and a descriptor's to a map.

Draining must not lose what it took. Signals set a flag and raise nothing; before each write the descriptor is asked
whether it takes one, and what is written at once are whole lines of at most PIPE_BUF bytes, which a pipe takes whole or
not at all. So the drain can stop between any two lines, and what it took and did not write goes back into the map.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

from rawbpf.abi import BPF_ANY
from rawbpf.maps.queue_stack import QueueOrStack, Stack
from rawbpf.maps.waiting import BackOff
from rawbpf.syscall.errors import BpfError

# Taken at once, and so the most that has to go back.
CHUNK = 256

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While it is entered, SIGINT, SIGTERM and SIGHUP set `asked` and do nothing else."""

    asked = False

    def __enter__(self) -> "Stop":
        # What whoever started this process ignores (nohup) stays ignored.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._ask) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True


class Progress:
    """A line on stderr that says how far it is, twice a second; only if stderr is a terminal."""

    def __init__(self, total_bytes: int = 0, wanted: bool = True) -> None:
        self._shown = wanted and sys.stderr.isatty()
        self._total = total_bytes
        self._began = self._last = time.monotonic()

    def show(self, count: int, bytes_done: int = 0, last: bool = False) -> None:
        """`count` values are done; of `total_bytes`, `bytes_done`."""
        now = time.monotonic()
        if not self._shown or (now - self._last < 0.5 and not last):
            return
        self._last = now
        rate = count / max(now - self._began, 0.001)
        bar = f"[{'#' * (30 * bytes_done // self._total):30}] " if self._total else ""
        print(f"\r{bar}{count} values, {rate:.0f}/s\x1b[K", end="\n" if last else "", file=sys.stderr, flush=True)


class NotReturned(Exception):
    """Values were taken, could not be written, and could not go back into the map. `values`: raw."""

    def __init__(self, values: list[bytes], why: str) -> None:
        super().__init__(f"{len(values)} values could neither be written nor pushed back: {why}")
        self.values = values


def drain(
    m: QueueOrStack[bytes],
    line: Callable[[bytes], bytes],
    out: int,
    *,
    limit: int | None,
    follow: bool = False,
    progress: bool = True,
) -> int:
    """Takes values out of a map and writes line(value) of each to the descriptor `out`.

    Ends when the map is empty (`follow`: never), `limit` values were written, the reader closed its end, or a signal
    came. Every value that left the map is then written completely, or back in it. Returns how many were written.

    Raises OSError if writing fails otherwise, and NotReturned.
    """
    back_off, shown, count = BackOff(), Progress(wanted=progress), 0
    with Stop() as stop:
        try:
            while not stop.asked and not _is_broken(out) and (limit is None or count < limit):
                values = m.pop_many(CHUNK if limit is None else min(CHUNK, limit - count))
                if values:
                    back_off.arrived()
                    written = _write_values(m, values, line, out, stop)
                    count += written
                    if written < len(values):
                        break
                elif follow:
                    time.sleep(back_off.pause())
                else:
                    break
                shown.show(count)
        finally:
            # What pop_many() has taken and not returned, for something was raised in it.
            _give_back(m, m.take_held())
        shown.show(count, last=True)
    return count


def _write_values(
    m: QueueOrStack[bytes], values: list[bytes], line: Callable[[bytes], bytes], out: int, stop: Stop
) -> int:
    """Writes them until a signal comes or the reader is gone; the rest goes back. Returns how many were written."""
    written = 0
    try:
        for some, size in _groups(list(map(line, values))):
            if not _write(out, some, stop):
                break
            written += size
    finally:
        _give_back(m, values[written:])
    return written


def _groups(lines: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Lines put together as long as they fit into PIPE_BUF, and how many they are."""
    group: list[bytes] = []
    length = 0
    for line in lines:
        if group and length + len(line) > select.PIPE_BUF:
            yield b"".join(group), len(group)
            group, length = [], 0
        group.append(line)
        length += len(line)
    yield b"".join(group), len(group)


def _write(out: int, data: bytes, stop: Stop) -> bool:
    """Writes all of it; False if nothing was written, for a signal came first or the reader is gone.

    Data of more than PIPE_BUF, which is a single long line, may have to wait for its reader once it has begun.
    """
    done = 0
    while done < len(data):
        if not done and not _is_writable(out, stop):
            return False
        try:
            done += os.write(out, data[done:])
        except BlockingIOError:
            select.select([], [out], [])
        except BrokenPipeError:
            return False
        except OSError:
            _cut(out, done)
            raise
    return True


def _cut(out: int, length: int) -> None:
    """Takes the beginning of a line off a file again: the disk became full within it."""
    try:
        os.ftruncate(out, os.fstat(out).st_size - length)
        os.lseek(out, 0, os.SEEK_END)
    except OSError:
        pass


def _is_writable(out: int, stop: Stop) -> bool:
    """Waits until a write would not block. False if a signal comes first; after it, the answer of the moment."""
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    while True:
        asked = stop.asked
        for _, event in poll.poll(0 if asked else 50):
            return bool(event & select.POLLOUT)
        if asked:
            return False


def _is_broken(out: int) -> bool:
    """Whether the reader has closed its end: of a pipe (POLLERR) or of a socket (POLLHUP)."""
    poll = select.poll()
    poll.register(out, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _give_back(m: QueueOrStack[bytes], values: list[bytes]) -> None:
    """Pushes what was not written: a stack is as it was, in a queue they are the youngest now."""
    if not values:
        return
    again = values[::-1] if isinstance(m, Stack) else values
    try:
        returned = m.push_many(again)
    except BpfError as error:
        raise NotReturned(again, str(error)) from error
    if returned < len(again):
        raise NotReturned(again[returned:], "the map is full")


class Feed:
    """Values from a descriptor into a map. `pushed`: how many so far; `full`: whether it ended for want of room."""

    def __init__(self, m: QueueOrStack[bytes], flags: int = BPF_ANY, wait: bool = False) -> None:
        self._map = m
        self._flags = flags
        self._wait = wait
        self.pushed = 0
        self.full = False

    def run(self, source: int, encode: "Callable[[str], bytes] | None") -> None:
        """Reads to the end: lines, each made a value by `encode`, or without it the values' bytes themselves.

        Raises ValueError for a line that is no value (all before it are pushed), or bytes that are not whole values.
        """
        status = os.fstat(source)
        progress, done, rest = Progress(status.st_size), 0, b""
        while not self.full:
            data = os.read(source, 1 << 18)
            done += len(data)
            rest = self._take(rest + data, encode, last=not data)
            progress.show(self.pushed, done)
            if not data:
                break
        progress.show(self.pushed, done, last=True)

    def _take(self, data: bytes, encode: "Callable[[str], bytes] | None", last: bool) -> bytes:
        """Pushes the whole values in `data`; returns what comes behind them."""
        if encode is None:
            whole = len(data) - len(data) % self._map.value_size
            self.push(data[:whole])
            if last and data[whole:]:
                raise ValueError(f"{len(data) - whole} bytes are left over: a value has {self._map.value_size}")
            return data[whole:]
        lines, newline, rest = data.rpartition(b"\n")
        if last:
            lines, newline, rest = data, b"\n" if data else b"", b""
        values = []
        try:
            for line in lines.split(b"\n") if newline else ():
                values.append(encode(os.fsdecode(line)))
        finally:
            self.push(b"".join(values))
        return rest

    def push(self, data: bytes) -> None:
        """Pushes whole values; waits for room, or ends as full."""
        back_off = BackOff()
        while data:
            pushed = self._map.push_many(data, self._flags)
            self.pushed += pushed
            data = data[pushed * self._map.value_size :]
            if data and not self._wait:
                self.full = True
                return
            if data:
                time.sleep(back_off.pause())
