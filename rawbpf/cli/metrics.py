"""`rawbpf metrics`: what can be known of maps without touching them, in OpenMetrics text, once or over HTTP.

The text is also Prometheus's older format, which node_exporter's textfile collector reads.

The kernel counts neither pushes nor pops nor what was overwritten, so no counter of a queue or stack is here. Of a ring
buffer it keeps how many bytes were ever written and read.
"""

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from rawbpf.abi import MapType
from rawbpf.cli import pins
from rawbpf.cli.errors import DONE, UsageError
from rawbpf.cli.output import say
from rawbpf.maps.listing import list_maps
from rawbpf.maps.positions import TYPES, Look, look, open_to_look
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.maps.ring_buffer import RingBuffer
from rawbpf.syscall import MapInfo
from rawbpf.syscall.errors import NotFound
from rawbpf.syscall.proc import proc_fields


class Seen(NamedTuple):
    """What was seen of a map. `size` is None where it could not be found out, `ring` None but for ring buffers."""

    info: MapInfo
    pin: str
    memory: int | None
    size: int | None
    ring: Look | None


class Family(NamedTuple):
    """A metric, and its value for a map; None where the map has none."""

    name: str
    kind: str
    text: str
    value: Callable[[Seen], int | None]


def _of_queue(value: Callable[[Seen], int | None]) -> Callable[[Seen], int | None]:
    return lambda seen: None if seen.info.type == MapType.BPF_MAP_TYPE_RINGBUF else value(seen)


FAMILIES = (
    Family("rawbpf_map_elements", "gauge", "Elements in the queue or stack.", _of_queue(lambda seen: seen.size)),
    Family(
        "rawbpf_map_max_entries",
        "gauge",
        "Elements that the queue or stack holds at most.",
        _of_queue(lambda seen: seen.info.max_entries),
    ),
    Family("rawbpf_map_value_bytes", "gauge", "Size of an element.", _of_queue(lambda seen: seen.info.value_size)),
    Family("rawbpf_map_memory_bytes", "gauge", "Memory that the kernel took for the map.", lambda seen: seen.memory),
    Family(
        "rawbpf_ring_buffer_pending_bytes",
        "gauge",
        "Bytes in the ring buffer, with the records' headers and padding.",
        lambda seen: seen.ring and seen.ring.size,
    ),
    Family(
        "rawbpf_ring_buffer_size_bytes",
        "gauge",
        "Bytes that the ring buffer holds.",
        lambda seen: seen.info.max_entries if seen.info.type == MapType.BPF_MAP_TYPE_RINGBUF else None,
    ),
    Family(
        "rawbpf_ring_buffer_produced_bytes",
        "counter",
        "Bytes ever written to the ring buffer, with headers and padding.",
        lambda seen: seen.ring and seen.ring.head,
    ),
    Family(
        "rawbpf_ring_buffer_consumed_bytes",
        "counter",
        "Bytes ever read from the ring buffer, with headers and padding.",
        lambda seen: seen.ring and seen.ring.tail,
    ),
)
_ERRORS = Family("rawbpf_metrics_errors", "gauge", "Maps that could not be opened or looked into.", lambda seen: None)


def run(specs: list[str], output: str | None) -> int:
    """Prints the metrics, or replaces the file `output`."""
    if output is not None:
        _check_replaceable(output)
    text, errors = scrape(specs)
    if output is not None:
        _replace(output, text)
    else:
        say(text.removesuffix("\n"))
    if errors:
        raise errors[0]
    return DONE


def scrape(specs: list[str]) -> tuple[str, list[OSError]]:
    """The text for these maps, or for all queues, stacks and ring buffers of the system; and what went wrong.

    Raises NotPermitted without CAP_SYS_ADMIN if all are asked for.
    """
    errors: list[OSError] = []
    seen = list(_all(errors) if not specs else _these(specs, errors))
    return "".join(_lines(seen, len(errors))), errors


def _all(errors: list[OSError]) -> Iterator[Seen]:
    pinned = pins.paths_by_map_id()
    for info in list_maps(*TYPES):
        # It may have been freed since it was listed.
        with suppress(NotFound), open_to_look(f"id:{info.id}") as m:
            yield _look_at(m, pinned.get(info.id, []), errors)


def _these(specs: list[str], errors: list[OSError]) -> Iterator[Seen]:
    pinned = pins.paths_by_map_id()
    # The same map may be named twice.
    found: set[int] = set()
    for spec in specs:
        try:
            with open_to_look(spec) as m:
                if not isinstance(m, (QueueOrStack, RingBuffer)):
                    raise TypeError(f"{m!r} is neither a queue nor a stack nor a ring buffer")
                if m.id not in found:
                    found.add(m.id)
                    yield _look_at(m, pinned.get(m.id, []), errors)
        except OSError as error:
            errors.append(error)


def _look_at(m: "QueueOrStack[Any] | RingBuffer[Any]", paths: list[str], errors: list[OSError]) -> Seen:
    memory = proc_fields(f"/proc/self/fdinfo/{m.fileno()}").get("memlock")
    size, ring = None, None
    try:
        if isinstance(m, RingBuffer):
            ring = look(m)
        else:
            size = m.qsize()
    except OSError as error:
        errors.append(error)
    return Seen(m.info(), min(paths, default=""), None if memory is None else int(memory), size, ring)


# The text


def _lines(seen: list[Seen], errors: int) -> Iterator[str]:
    for family in FAMILIES:
        suffix = "_total" if family.kind == "counter" else ""
        values = [(each, family.value(each)) for each in seen]
        yield from _family(
            family,
            [f"{family.name}{suffix}{_labels(each)} {value}\n" for each, value in values if value is not None],
        )
    yield from _family(_ERRORS, [f"{_ERRORS.name} {errors}\n"])
    yield "# EOF\n"


def _family(family: Family, samples: list[str]) -> Iterable[str]:
    if not samples:
        return []
    unit = f"# UNIT {family.name} bytes\n" if family.name.endswith("_bytes") else ""
    return [f"# TYPE {family.name} {family.kind}\n", unit, f"# HELP {family.name} {family.text}\n", *samples]


def _labels(seen: Seen) -> str:
    labels = {
        "id": str(seen.info.id),
        "name": seen.info.name,
        "type": seen.info.type.name.removeprefix("BPF_MAP_TYPE_").lower(),
        "pin": seen.pin,
    }
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    """A label's value; a byte of a path that is no UTF-8 is written as \\xff."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r'[\\"\n]', lambda found: {"\\": r"\\", '"': r"\"", "\n": r"\n"}[found[0]], text)


def _check_replaceable(path: str) -> None:
    """Raises UsageError for what is there and no regular file: a file in the place of /dev/null would take that from
    everybody, and one in the place of a symbolic link would part it from what it leads to."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise UsageError(f"--output replaces a regular file, and {path} is something else")


def _replace(path: str, text: str) -> None:
    """Writes a file, mode 0644, whose readers see the old text or the new one, and never a part."""
    folder, name = os.path.split(path)
    # node_exporter reads *.prom only.
    fd, new = tempfile.mkstemp(".new", f".{name}.", folder or ".")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(fd, 0o644)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
