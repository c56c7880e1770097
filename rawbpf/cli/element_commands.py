"""The commands that move elements: push, peek, pop, drain. Each is a function that returns the exit code."""

import argparse
import errno
import sys
from contextlib import ExitStack

from rawbpf.abi import BPF_ANY, BPF_EXIST, Cmd
from rawbpf.cli.drain import Drained, drain, is_ready
from rawbpf.cli.errors import DONE, SIGNALLED, UsageError
from rawbpf.cli.feed import Feed
from rawbpf.cli.output import complain, say_json, write_lines
from rawbpf.cli.stop_signals import StopSignals
from rawbpf.cli.value_lines import encoded, line_format, notation_of
from rawbpf.maps.opening import open_queue_or_stack
from rawbpf.maps.pinned import Pinned
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.maps.waiting import Waiting
from rawbpf.observe.wording import counted
from rawbpf.syscall import describe
from rawbpf.syscall.errors import Empty, Full


def run_push(options: argparse.Namespace) -> int:
    flags = BPF_EXIST if options.exist else BPF_ANY
    with open_queue_or_stack(options.map, access="w") as m:
        feed = Feed(m, flags, options.wait)
        if options.values == ["-"]:
            feed.read(sys.stdin.fileno(), None if options.raw else notation_of(options, m).encode)
        elif options.raw:
            raise UsageError("--raw takes bytes from stdin: push MAP -")
        else:
            notation = notation_of(options, m)
            feed.push(b"".join(encoded(notation, text) for text in options.values))
        if options.json:
            say_json({"pushed": feed.pushed})
        if feed.full:
            hint = "pop first, or --exist to overwrite the oldest, or --wait"
            size = counted(m.max_entries, "entry", "entries")
            what = f"{describe(m.info())} is full ({size}): {feed.pushed} pushed"
            raise Full(errno.E2BIG, what, Cmd.BPF_MAP_UPDATE_ELEM, hint)
    return DONE


def run_peek(options: argparse.Namespace) -> int:
    with open_queue_or_stack(options.map, access="r") as m:
        lines = line_format(options, notation_of(options, m), m.value_size)
        write_lines([lines.line(m.peek())])
    return DONE


def run_pop(options: argparse.Namespace) -> int:
    with open_queue_or_stack(options.map) as m:
        lines = line_format(options, notation_of(options, m), m.value_size)
        drained = drain(m, lines, sys.stdout.fileno(), limit=options.count, progress=False)
        if not drained.written and not drained.ended_by and m.peek(None) is None:
            raise Empty(errno.ENOENT, f"{describe(m.info())} is empty", Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)
    return _exit_code(drained)


def run_drain(options: argparse.Namespace) -> int:
    if options.follow and options.map.partition(":")[0] not in ("id", "name"):
        _follow_pin(options)
        return DONE
    with open_queue_or_stack(options.map) as m:
        limit = options.limit
        if limit is None and not options.follow:
            # A producer that is as fast as this would make it endless.
            limit = m.max_entries
        lines = line_format(options, notation_of(options, m), m.value_size)
        drained = drain(m, lines, sys.stdout.fileno(), limit=limit, follow=options.follow)
    # To be told to stop is the only way in which following ends.
    return DONE if options.follow else _exit_code(drained)


def _follow_pin(options: argparse.Namespace) -> None:
    """Drains whatever map is pinned at a path, one after the other, until it is told to stop."""
    pinned: Pinned[bytes] = Pinned(options.map)
    left = options.limit
    with StopSignals() as stop, ExitStack() as stack:
        stack.callback(pinned.leave)
        while (left is None or left > 0) and (m := _wait_for_pin(pinned, stop)) is not None:
            lines = line_format(options, notation_of(options, m), m.value_size)
            out = sys.stdout.fileno()
            drained = drain(
                m,
                lines,
                out,
                limit=left,
                follow=True,
                is_over=pinned.is_replaced,
                is_orphaned=pinned.is_orphaned,
                stop=stop,
            )
            if left is not None:
                left -= drained.written
            if drained.ended_by:
                break
            if left != 0:
                complain(f"another map is pinned at {pinned.path} now")
            pinned.leave()


def _wait_for_pin(pinned: Pinned[bytes], stop: StopSignals) -> QueueOrStack[bytes] | None:
    """The map, as soon as it is pinned there; None if a signal came or the reader of the output has left."""
    waiting, said = Waiting(stopped=lambda: bool(stop.received)), False
    while not stop.received and is_ready(sys.stdout.fileno(), 0) is not False:
        if (m := pinned.opened()) is not None:
            return m
        if not said:
            complain(f"waiting for {pinned.path}")
            said = True
        waiting.wait()
    return None


def _exit_code(drained: Drained) -> int:
    """Not 0 for a drain that ended early: in `drain MAP >file && rm MAP` the rest is still in the map."""
    return SIGNALLED + drained.ended_by if drained.ended_by else DONE
