"""The commands about whole maps: list, show, create, freeze, pin, size, snapshot, watch. Each returns the exit code."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rawbpf.cli.errors import DONE, UsageError
from rawbpf.cli.output import redraw, say, say_json, write_lines
from rawbpf.cli.stop_signals import StopSignals
from rawbpf.cli.value_lines import line_format, notation_of, struct_notation
from rawbpf.maps.queue_stack import Map, Queue, Stack, maps, open_map
from rawbpf.syscall import check_name, describe
from rawbpf.syscall.errors import NotFound, NotPermitted, Unsupported
from rawbpf.syscall.permission import proc_fields


def run_list(options: argparse.Namespace) -> int:
    described = list(_all_described())
    if options.json:
        say_json(described)
        return DONE
    for each in described:
        say(
            f"{each['id']}: {each['type']}  {each.get('name', '')}  value {each['bytes_value']}B"
            f"  max_entries {each['max_entries']}  flags {each['flags']:#x}"
        )
    return DONE


def _all_described() -> Iterator[dict[str, Any]]:
    for info in maps():
        # It may have been freed since it was listed.
        with suppress(NotFound), open_map(f"id:{info.id}", access="r") as m:
            yield _as_bpftool(m)


def _as_bpftool(m: Map[Any]) -> dict[str, Any]:
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
        shown = _as_bpftool(m)
        # bpftool does not say this. Counting takes a BPF program, which may not be permitted.
        with suppress(NotPermitted, Unsupported):
            shown["size"] = m.qsize()
    if options.json:
        say_json(shown)
    else:
        for key, value in shown.items():
            say(f"{key:13}  {value:#x}" if key == "flags" else f"{key:13}  {value}")
    return DONE


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
        m.pin(options.path)
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
        m.pin(options.path)
        if options.json:
            say_json({"id": m.id, "pinned": [options.path]})
    return DONE


def run_size(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        size = m.qsize()
        if options.json:
            say_json({"size": size, "max_entries": m.max_entries})
        else:
            say(size)
    return DONE


def run_snapshot(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
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
    with open_map(options.map, access="r") as m, StopSignals() as stop:
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


def _show_size(m: Map[Any], as_json: bool, on_terminal: bool) -> None:
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
