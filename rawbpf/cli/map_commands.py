"""The commands about whole maps: list, show, create, freeze, pin, unpin, size, snapshot, watch.

Each is a function that returns the exit code.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from rawbpf.cli import pins
from rawbpf.cli.errors import DONE, UsageError
from rawbpf.cli.output import redraw, say, say_json, say_table, write_lines
from rawbpf.cli.stop_signals import StopSignals
from rawbpf.cli.value_lines import line_format, notation_of, struct_notation
from rawbpf.maps.listing import list_maps
from rawbpf.maps.map import Map
from rawbpf.maps.opening import open_map, open_queue_or_stack
from rawbpf.maps.queue_stack import Queue, QueueOrStack, Stack
from rawbpf.syscall import check_name, describe
from rawbpf.syscall.errors import BpfError, NotFound
from rawbpf.syscall.proc import proc_fields


def run_list(options: argparse.Namespace) -> int:
    described = list(_all_described())
    if options.json:
        say_json(described)
        return DONE
    rows = [[str(column(each)) for column in _COLUMNS.values()] for each in described]
    say_table(list(_COLUMNS), rows, right=["ID", "VALUE", "ENTRIES", "SIZE"])
    return DONE


# What `list` shows of a map, from _described().
_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ID": lambda shown: shown["id"],
    "TYPE": lambda shown: shown["type"],
    "NAME": lambda shown: shown.get("name", ""),
    "VALUE": lambda shown: f"{shown['bytes_value']} B",
    "SIZE": lambda shown: shown.get("size", "?"),
    "ENTRIES": lambda shown: shown["max_entries"],
    "FLAGS": lambda shown: f"{shown['flags']:#x}",
    "PINS": lambda shown: " ".join(shown.get("pinned", ())),
}


def _all_described() -> Iterator[dict[str, Any]]:
    pinned = pins.paths_by_map_id()
    for info in list_maps():
        # It may have been freed since it was listed.
        with suppress(NotFound), open_map(f"id:{info.id}", access="r") as m:
            yield _described(m, pinned)


def _described(m: Map, pinned: Mapping[int, list[str]]) -> dict[str, Any]:
    """What bpftool says of the map, where it is pinned, and, which bpftool does not say, how many elements it has."""
    shown = _as_bpftool(m)
    if paths := pinned.get(m.id):
        shown["pinned"] = paths
    if isinstance(m, QueueOrStack):
        # Counting takes a BPF program, which may not be permitted.
        with suppress(BpfError):
            shown["size"] = m.qsize()
    return shown


def _as_bpftool(m: Map) -> dict[str, Any]:
    """What `bpftool -j map show` says of the map, under bpftool's keys."""
    info = m.info()
    fdinfo = proc_fields(f"/proc/self/fdinfo/{m.fileno()}")
    shown: dict[str, Any] = {"id": info.id, "type": info.type.name.removeprefix("BPF_MAP_TYPE_").lower()}
    if info.name:
        shown["name"] = info.name
    shown |= {
        "flags": int(info.map_flags),
        "bytes_key": info.key_size,
        "bytes_value": info.value_size,
        "max_entries": info.max_entries,
    }
    if info.btf_id:
        shown["btf_id"] = info.btf_id
    for key, field in (("bytes_memlock", "memlock"), ("frozen", "frozen")):
        if field in fdinfo:
            shown[key] = int(fdinfo[field])
    return shown


def run_show(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        shown = _described(m, pins.paths_by_map_id())
    if options.json:
        say_json(shown)
    else:
        for key, value in shown.items():
            say(f"{key:13}  {_shown(key, value)}")
    return DONE


def _shown(key: str, value: Any) -> str:
    return f"{value:#x}" if key == "flags" else " ".join(value) if key == "pinned" else str(value)


def run_create(options: argparse.Namespace) -> int:
    kind = {"queue": Queue, "stack": Stack}[options.type]
    if (options.value_size is None) == (options.format is None):
        raise UsageError("create wants one of --value-size and --format")
    value = options.value_size
    if value is None:
        struct_notation(options.format)
        value = options.format
    name = options.name if options.name is not None else _name_of(options.path)
    with kind(value, options.entries, name=name, btf=options.btf) as m:
        _pin(m, options)
        if options.json:
            say_json(_as_bpftool(m) | {"pinned": [options.path]})
        else:
            say(f"{describe(m.info())}, id {m.id}, pinned at {options.path}")
    return DONE


def _name_of(path: str) -> str:
    """The pin's own name, if a map may have it."""
    name = os.path.basename(path)[:15]
    try:
        check_name(name)
    except ValueError:
        return ""
    return name


def run_freeze(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        m.freeze()
        if options.json:
            say_json({"id": m.id, "frozen": 1})
    return DONE


def run_pin(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        _pin(m, options)
        if options.json:
            say_json({"id": m.id, "pinned": [options.path]})
    return DONE


def _pin(m: Map, options: argparse.Namespace) -> None:
    """Pins with --owner and --mode; if one of them is refused, there is no pin."""
    m.pin(options.path)
    try:
        if options.owner is not None:
            os.chown(options.path, *options.owner)
        if options.mode is not None:
            os.chmod(options.path, options.mode)
    except BaseException:
        os.unlink(options.path)
        raise


def run_unpin(options: argparse.Namespace) -> int:
    # An absolute path: "id:7" is a file's name here. And no other file than a map's pin is removed.
    path = os.path.abspath(options.path)
    with open_map(path, access="r") as m:
        os.unlink(path)
        if options.json:
            say_json({"id": m.id, "unpinned": options.path})
    return DONE


def run_size(options: argparse.Namespace) -> int:
    with open_queue_or_stack(options.map, access="r") as m:
        size = m.qsize()
        if options.json:
            say_json({"size": size, "max_entries": m.max_entries})
        else:
            say(size)
    return DONE


def run_snapshot(options: argparse.Namespace) -> int:
    with open_queue_or_stack(options.map, access="r") as m:
        notation = notation_of(options, m)
        values = m.snapshot()
        if options.json:
            say_json([notation.json(value) for value in values])
        else:
            write_lines(map(line_format(options, notation, m.value_size).line, values))
    return DONE


def run_watch(options: argparse.Namespace) -> int:
    """A line for each look; on a terminal one line that changes."""
    on_terminal = sys.stdout.isatty() and not options.json
    with open_queue_or_stack(options.map, access="r") as m, StopSignals() as stop:
        looks = 0
        while not stop.received:
            _show_size(m, options.json, on_terminal)
            looks += 1
            if looks == options.count:
                break
            end = time.monotonic() + options.interval
            while not stop.received and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
        if on_terminal:
            say()
    return DONE


def _show_size(m: QueueOrStack[Any], as_json: bool, on_terminal: bool) -> None:
    size = m.qsize()
    if as_json:
        say_json({"time": time.time(), "size": size, "max_entries": m.max_entries})
        return
    bar = "#" * (30 * size // m.max_entries)
    text = f"{describe(m.info())}  [{bar:30}]  {size} of {m.max_entries}"
    if on_terminal:
        redraw(text, sys.stdout)
    else:
        say(text)
