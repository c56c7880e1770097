"""A map's values to a descriptor. What was taken out of the map is written, or goes back, or is shown on stderr.

A reader may leave and a signal may come at any time, and a map that a producer has filled takes nothing back. So as
little as possible is in flight. Before values are taken the descriptor must be ready for a write: a pipe that poll(2)
calls writable takes PIPE_BUF bytes at once, without waiting. And no more values are taken than lines fit into PIPE_BUF.
Signals only set a flag, which is looked at while nothing is in flight.
"""

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import NamedTuple, NoReturn

from rawbpf.abi import door
from rawbpf.cli.errors import NotReturned
from rawbpf.cli.progress import Progress
from rawbpf.cli.stop_signals import StopSignals
from rawbpf.maps.queue_stack import QueueOrStack, Stack
from rawbpf.maps.waiting import Waiting, never
from rawbpf.observe.wording import counted


class LineFormat(NamedTuple):
    """How a value is written: `line` makes its line; `longest` is the most bytes that a line has, None if unknown."""

    line: Callable[[bytes], bytes]
    longest: int | None

    @property
    def values_at_once(self) -> int:
        """How many values fit into PIPE_BUF bytes; at least one."""
        return 1 if self.longest is None else max(select.PIPE_BUF // self.longest, 1)


class Drained(NamedTuple):
    """How many values were written, and what ended it early: a signal, SIGPIPE if the reader left, 0 for nothing."""

    written: int
    ended_by: int


def drain(
    m: QueueOrStack[bytes],
    lines: LineFormat,
    out: int,
    *,
    limit: int | None,
    follow: bool = False,
    is_over: Callable[[], bool] = never,
    is_orphaned: Callable[[], bool] = never,
    stop: StopSignals | None = None,
    progress: bool = True,
) -> Drained:
    """Takes values out of a map and writes a line of each to the descriptor `out`.

    Ends when the map is empty (`follow`: waits for more, unless is_over() says that none come), when `limit` values are
    written, when the reader has closed its end, or at a SIGINT, SIGTERM or SIGHUP. Every value that left the map is
    then written completely. After a signal the rest of a map that is_orphaned(), which nobody else would find, is
    written too, as far as the reader takes it. `stop`: the caller's own StopSignals, if it has entered one.

    A write can fail though the descriptor was ready: a disk is full, or the reader leaves in that very moment or within
    a line of more than PIPE_BUF bytes. Then the values go back into the map, and those that it refuses, because it is
    full or frozen, are written to stderr.

    Raises OSError if a write fails but for want of a reader, and NotReturned.
    """
    output, waiting, shown = _Output(m, lines, out), Waiting(), Progress(wanted=progress)
    ended = 0
    with nullcontext(stop) if stop else StopSignals() as stopping:
        try:
            while limit is None or output.count < limit:
                if ended := output.wait(stopping):
                    break
                # Before it is found empty: what was pushed until then is seen.
                over = is_over()
                moved = output.move(limit)
                shown.show(output.count)
                if moved:
                    waiting.arrived()
                elif not follow or over or not waiting.wait():
                    break
            if ended and is_orphaned():
                output.move_rest(limit)
        except BrokenPipeError:
            # Nobody reads what --trace prints.
            ended = signal.SIGPIPE
        shown.show(output.count, last=True)
    return Drained(output.count, ended)


class _Output:
    """Where the values go. `count`: how many were written completely."""

    def __init__(self, m: QueueOrStack[bytes], lines: LineFormat, out: int) -> None:
        self.count = 0
        self._map = m
        self._line = lines.line
        self._at_once = lines.values_at_once
        self._out = out
        self._reader_left = False

    def wait(self, stop: StopSignals) -> int:
        """Waits until PIPE_BUF bytes can be written, and returns 0. Returns the signal if one came, or SIGPIPE if the
        reader has left."""
        while not stop.received and not self._reader_left:
            ready = is_ready(self._out, 50)
            if ready is not None:
                return 0 if ready else signal.SIGPIPE
        return stop.received or signal.SIGPIPE

    def move(self, limit: int | None) -> bool:
        """Takes values out of the map and writes them, so that `limit` is kept. Whether there were any."""
        before = self.count
        try:
            self.write(self._map.pop_many(self._at_once if limit is None else min(self._at_once, limit - before)))
        finally:
            # What pop_many() had taken when something was raised in it.
            self.write(self._map.take_held())
        return self.count > before

    def move_rest(self, limit: int | None) -> None:
        """Moves what the map holds, as long as the reader takes it within a second."""
        end = self.count + self._map.max_entries
        end = end if limit is None else min(end, limit)
        while self.count < end and is_ready(self._out, 1000) and self.move(end):
            pass

    def write(self, values: list[bytes]) -> None:
        """Writes a line of each. Whatever is raised, those that were not written go back into the map."""
        before = self.count
        try:
            self._write_lines([self._line(value) for value in values])
        finally:
            self._give_back(values[self.count - before :])

    def _write_lines(self, lines: list[bytes]) -> None:
        data, done = b"".join(lines), 0
        try:
            while done < len(data):
                done += _write_some(self._out, data[done:])
        except BrokenPipeError:
            self._reader_left = True
        finally:
            done -= self._count_whole(lines, done)
            if done:
                _cut_off(self._out, done)

    def _count_whole(self, lines: list[bytes], done: int) -> int:
        """Counts the lines that are within the first `done` bytes; returns how many bytes those are."""
        end = 0
        for line in lines:
            if end + len(line) > done:
                break
            end += len(line)
            self.count += 1
        return end

    def _give_back(self, values: list[bytes]) -> None:
        """Pushes what was not written: a stack is then as it was, and in a queue these values are the youngest."""
        if not values:
            return
        again = values[::-1] if isinstance(self._map, Stack) else values
        # A tracer whose reader is gone would raise after the push, and how many were pushed would not be known.
        tracer = door.set_hook(None)
        try:
            returned, why = self._map.push_many(again), "the map is full"
        except OSError as error:
            returned, why = 0, str(error)
        finally:
            door.set_hook(tracer)
        if again[returned:]:
            self._show(again[returned:], why)

    def _show(self, values: list[bytes], why: str) -> NoReturn:
        """The last resort."""
        text = f"{counted(len(values), 'value')} could neither be written nor pushed back: {why}"
        try:
            sys.stderr.flush()
            data, done = b"".join(map(self._line_or_digits, values)), 0
            while done < len(data):
                done += _write_some(sys.stderr.fileno(), data[done:])
        except OSError as error:
            raise NotReturned(f"{text}; nor could they be shown here: {error.strerror}") from error
        raise NotReturned(f"{text}; they are shown above")

    def _line_or_digits(self, value: bytes) -> bytes:
        try:
            return self._line(value)
        except Exception:
            # It may be why the value could not be written.
            return f"0x{value.hex()}\n".encode()


def is_ready(out: int, milliseconds: int) -> bool | None:
    """Whether a descriptor has room for PIPE_BUF bytes. False if its reader has left, of a pipe (POLLERR) or of a
    socket (POLLHUP). None if neither was so for that long."""
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    for _, event in poll.poll(milliseconds):
        return not event & (select.POLLERR | select.POLLHUP)
    return None


def _write_some(fd: int, data: bytes) -> int:
    """Writes; returns how many bytes were written."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        # Another process has used the room, and the descriptor is set not to wait.
        select.select([], [fd], [])
        return 0


def _cut_off(out: int, length: int) -> None:
    """Takes the beginning of a line off a file again: the disk became full within the line.

    Only if it is the end of the file: behind our offset may stand what others wrote, or what was there before.
    """
    with suppress(OSError):
        end = os.lseek(out, 0, os.SEEK_CUR)
        if end == os.fstat(out).st_size:
            os.ftruncate(out, end - length)
            os.lseek(out, end - length, os.SEEK_SET)
