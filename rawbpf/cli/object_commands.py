"""The command `run`: a compiled C file is loaded and attached, and what its programs push is printed."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from rawbpf.cli.drain import drain
from rawbpf.cli.errors import DONE, UsageError
from rawbpf.cli.notation import BtfNotation
from rawbpf.cli.output import complain
from rawbpf.cli.value_lines import line_format, notation_of
from rawbpf.maps.opening import map_from_held
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.values.codecs import RawBytes


def run_run(options: argparse.Namespace) -> int:
    from rawbpf.objects.object_file import ObjectFile

    try:
        file = ObjectFile.load(options.object, variables=dict(options.set), pin_root=options.pin_root)
    except ImportError as error:
        raise UsageError(str(error)) from None
    with file:
        queues = {name: m for name, m in file.maps.items() if isinstance(m, QueueOrStack)}
        typed = _queue_to_print(options.print, queues)
        for name, _ in options.attach:
            if name not in file.programs:
                raise UsageError(f"there is no program {name!r}: the file has {', '.join(file.programs)}")
        for line in str(file.attach(dict(options.attach))).splitlines():
            complain(f"rawbpf: {line}")
        asked = options.format or options.hex or options.text
        by_type = not asked and type(typed._codec) is not RawBytes
        notation = BtfNotation(typed._codec) if by_type else notation_of(options, typed)
        # The same map, with values as bytes: what can't be written goes back as it came.
        with map_from_held([os.dup(typed.fileno())]) as m:
            lines = line_format(options, notation, m.value_size)
            drain(m, lines, sys.stdout.fileno(), limit=options.limit, follow=True)
    return DONE


def _queue_to_print(name: str | None, queues: Mapping[str, QueueOrStack[Any]]) -> QueueOrStack[Any]:
    if name is None and len(queues) == 1:
        return next(iter(queues.values()))
    if name is None or name not in queues:
        wanted = "--print wants the queue or stack to print" if name is None else f"there is no queue or stack {name!r}"
        raise UsageError(f"{wanted}: the file has {', '.join(queues) or 'none'}")
    return queues[name]
