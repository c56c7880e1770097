"""The command line: `rawbpf COMMAND`, also `python -m rawbpf COMMAND`.

One function per command, `_name(options)`, which returns the exit code; _parser() says what each takes. Exit codes:
0 done, 1 error, 2 usage, 3 empty or full, 4 not permitted.
"""

import argparse
import errno
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from importlib import import_module
from typing import Any

from rawbpf.abi import BPF_ANY, BPF_EXIST, Cmd
from rawbpf.abi.door import FFI_MODE
from rawbpf.cli.streams import Feed, NotReturned, Stop, drain
from rawbpf.cli.value_text import ByType, Form, Struct, form_for, integer
from rawbpf.maps.listing import list_maps
from rawbpf.maps.queue_stack import Queue, QueueOrStack, Stack, map_from_fd, open_map
from rawbpf.syscall import check_name, describe
from rawbpf.syscall.errors import BpfError, Empty, Full, NotFound, NotPermitted, Unsupported, errno_name
from rawbpf.syscall.proc import proc_fields
from rawbpf.values.codecs import RawBytes
from rawbpf.version import __version__

DONE, ERROR, USAGE, EMPTY_OR_FULL, NOT_PERMITTED = range(5)

_EXIT_CODES = "exit codes: 0 done, 1 error, 2 usage, 3 empty or full, 4 not permitted"
_MAP_HELP = "a pin's path, id:294, or name:events"


class UsageError(Exception):
    """What was asked for makes no sense: exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 1 error, 2 usage, 3 empty or full, 4 not permitted."""
    # Python has None for one that is closed. Without stdout there is no place for what comes out of a map.
    if sys.stdin is None or sys.stderr is None or sys.stdout is None:
        return _report(UsageError("stdin, stdout and stderr must be open"), as_json=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of maps and pins may be any bytes.
        sys.stdout.reconfigure(errors="surrogateescape")
    options = _parser().parse_args(arguments)
    try:
        with _traced(options.trace):
            result: int = options.run(options)
        sys.stdout.flush()
        return result
    except BrokenPipeError:
        # Nobody reads any more. Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, TypeError, LookupError, MemoryError, UsageError, NotReturned) as error:
        return _report(error, getattr(options, "json", False))


def _traced(wanted: bool) -> AbstractContextManager[None]:
    if not wanted:
        return nullcontext()
    from rawbpf.observe.tracer import trace

    return trace()


_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, USAGE),
    (Empty, EMPTY_OR_FULL),
    (Full, EMPTY_OR_FULL),
    (NotPermitted, NOT_PERMITTED),
)


def _report(error: Exception, as_json: bool) -> int:
    """Says on stderr what went wrong; returns the exit code."""
    text = str(error) or type(error).__name__  # a MemoryError says nothing
    if as_json:
        said: dict[str, Any] = {"error": text}
        if isinstance(error, BpfError):
            said["error"] = error.strerror
            said |= {"errno": errno_name(error.errno or 0), "command": error.cmd.name, "hint": error.hint}
        print(json.dumps(said), file=sys.stderr)
    else:
        print(f"rawbpf: {text}", file=sys.stderr)
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


# Maps


def _list(options: argparse.Namespace) -> int:
    shown = list(_all_shown())
    if options.json:
        print(json.dumps(shown))
        return DONE
    for each in shown:
        name = each.get("name", "")
        print(
            f"{each['id']}: {each['type']}  {name}  value {each['bytes_value']}B  max_entries {each['max_entries']}"
            f"  flags {each['flags']:#x}"
        )
    return DONE


def _all_shown() -> Iterator[dict[str, Any]]:
    for info in list_maps():
        # Freed since it was listed: it is not there.
        with suppress(NotFound), open_map(f"id:{info.id}", access="r") as m:
            yield _as_bpftool(m)


def _as_bpftool(m: QueueOrStack[Any]) -> dict[str, Any]:
    """What `bpftool -j map show` says of the map, under bpftool's keys."""
    info = m.info()
    kernel_says = proc_fields(f"/proc/self/fdinfo/{m.fileno()}")
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
        if field in kernel_says:
            shown[key] = int(kernel_says[field])
    return shown


def _show(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        shown = _as_bpftool(m)
        # Not bpftool's, and only where a program may count.
        with suppress(NotPermitted, Unsupported):
            shown["size"] = m.qsize()
    if options.json:
        print(json.dumps(shown))
    else:
        for key, value in shown.items():
            print(f"{key:13}  {value:#x}" if key == "flags" else f"{key:13}  {value}")
    return DONE


def _create(options: argparse.Namespace) -> int:
    kind = {"queue": Queue, "stack": Stack}[options.type]
    if (options.value_size is None) == (options.format is None):
        raise UsageError("create wants one of --value-size and --format")
    value = options.value_size
    if value is None:
        _struct(options.format)
        value = options.format
    name = options.name if options.name is not None else _name_of(options.path)
    with kind(value, options.entries, name=name, btf=options.btf) as m:
        m.pin(options.path)
        shown = _as_bpftool(m) | {"pinned": [options.path]}
    print(json.dumps(shown) if options.json else f"{describe(m._info)}, id {m.id}, pinned at {options.path}")
    return DONE


def _name_of(path: str) -> str:
    """The pin's own name, if a map may have it."""
    name = os.path.basename(path)[:15]
    try:
        check_name(name)
    except ValueError:
        return ""
    return name


def _freeze(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        m.freeze()
        return _said(options, {"id": m.id, "frozen": 1})


def _pin(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        m.pin(options.path)
        return _said(options, {"id": m.id, "pinned": [options.path]})


def _said(options: argparse.Namespace, result: dict[str, Any]) -> int:
    """Prints a result that only scripts want to see."""
    if options.json:
        print(json.dumps(result))
    return DONE


# Elements


def _push(options: argparse.Namespace) -> int:
    flags = BPF_EXIST if options.exist else BPF_ANY
    with open_map(options.map, access="w") as m:
        feed = Feed(m, flags, options.wait)
        if options.values == ["-"]:
            feed.run(sys.stdin.fileno(), None if options.raw else _form(options, m).encode)
        elif options.raw:
            raise UsageError("--raw takes bytes from stdin: push MAP -")
        else:
            form = _form(options, m)
            feed.push(b"".join(_encoded(form, text) for text in options.values))
        result = _said(options, {"pushed": feed.pushed})
        if not feed.full:
            return result
        hint = "pop first, or --exist to overwrite the oldest, or --wait"
        what = f"{describe(m.info())} is full ({m.max_entries} entries): {feed.pushed} pushed"
        return _report(Full(errno.E2BIG, what, Cmd.BPF_MAP_UPDATE_ELEM, hint), options.json)


def _encoded(form: Form, text: str) -> bytes:
    try:
        return form.encode(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _peek(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        line = _line(options, _form(options, m))
        _write([line(m.peek())])
    return DONE


def _pop(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        line = _line(options, _form(options, m))
        if not _written(m, line, options.count, progress=False) and m.peek(None) is None:
            raise Empty(errno.ENOENT, f"{describe(m.info())} is empty", Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM)
    return DONE


def _drain(options: argparse.Namespace) -> int:
    with open_map(options.map) as m:
        limit = options.limit
        if limit is None and not options.follow:
            # Or a live producer makes it endless.
            limit = m.max_entries
        _written(m, _line(options, _form(options, m)), limit, follow=options.follow)
    return DONE


def _written(m: QueueOrStack[bytes], line: Callable[[bytes], bytes], limit: int | None, **options: bool) -> int:
    """Drains to stdout; returns how many values. What can neither be written nor go back appears on stderr."""
    try:
        return drain(m, line, sys.stdout.fileno(), limit=limit, **options)
    except NotReturned as error:
        sys.stderr.buffer.writelines(map(line, error.values))
        raise


def _size(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        size = m.qsize()
        print(json.dumps({"size": size, "max_entries": m.max_entries}) if options.json else size)
    return DONE


def _snapshot(options: argparse.Namespace) -> int:
    with open_map(options.map, access="r") as m:
        if options.json:
            form = _form(options, m)
            print(json.dumps([form.json(value) for value in m.snapshot()]))
        else:
            _write(map(_line(options, _form(options, m)), m.snapshot()))
    return DONE


def _watch(options: argparse.Namespace) -> int:
    """A line per interval; on a terminal one line that changes."""
    redraw = sys.stdout.isatty() and not options.json
    with open_map(options.map, access="r") as m, Stop() as stop:
        turn = 0
        while not stop.asked:
            size = m.qsize()
            if options.json:
                print(json.dumps({"time": time.time(), "size": size, "max_entries": m.max_entries}), flush=True)
            else:
                bar = "#" * (30 * size // m.max_entries)
                text = f"{describe(m.info())}  [{bar:30}]  {size} of {m.max_entries}"
                print(f"\r{text}\x1b[K" if redraw else text, end="" if redraw else "\n", flush=True)
            turn += 1
            if turn == options.count:
                break
            end = time.monotonic() + options.interval
            while not stop.asked and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
        if redraw:
            print()
    return DONE


def _form(options: argparse.Namespace, m: QueueOrStack[Any]) -> Form:
    try:
        if options.btf:
            from rawbpf.values.map_btf import codec_of

            return ByType(codec_of(m.info()))
        return form_for(m.value_size, form=options.format, as_hex=options.hex, as_text=options.text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _struct(form: str) -> Struct:
    try:
        return Struct(form)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _line(options: argparse.Namespace, form: Form) -> Callable[[bytes], bytes]:
    """How a value is printed: a line of text, an object of JSON, or as it is (--raw)."""
    if options.raw:
        return bytes
    if options.json:
        return lambda data: json.dumps({"value": form.json(data)}).encode() + b"\n"
    return lambda data: form.text(data).encode("utf-8", "surrogateescape") + b"\n"


def _write(lines: Any) -> None:
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()


# Programs


def _run(options: argparse.Namespace) -> int:
    """Loads, attaches, and writes what arrives until a signal ends it."""
    from rawbpf.objects.object_file import ObjectFile

    try:
        file = ObjectFile.load(options.object, variables=dict(options.set), pin_root=options.pin_root)
    except ImportError as error:
        raise UsageError(str(error)) from None
    with file, ExitStack() as links:
        typed = _queue_to_print(options.print, file.maps)
        attached = {name: file.programs[name].attach_to for name in file.attach()}
        for name, target in options.attach:
            if name not in file.programs:
                raise UsageError(f"there is no program {name!r}: the file has {', '.join(file.programs)}")
            links.enter_context(file.programs[name].attach(target))
            attached[name] = target
        for name in file.programs:
            said = f"is attached to {attached[name]}" if name in attached else "is loaded, and attached nowhere"
            print(f"rawbpf: {name} {said}", file=sys.stderr)
        asked = options.format or options.hex or options.text
        form = _form(options, typed) if asked or type(typed._codec) is RawBytes else ByType(typed._codec)
        # The same map, with values as bytes: what can't be written goes back as it came.
        with map_from_fd(os.dup(typed.fileno())) as m:
            _written(m, _line(options, form), options.limit, follow=True)
    return DONE


def _queue_to_print(name: str | None, queues: Mapping[str, QueueOrStack[Any]]) -> QueueOrStack[Any]:
    if name is None and len(queues) == 1:
        return next(iter(queues.values()))
    if name is None or name not in queues:
        asked = "--print wants the queue or stack to print" if name is None else f"there is no queue or stack {name!r}"
        raise UsageError(f"{asked}: the file has {', '.join(queues) or 'none'}")
    return queues[name]


_OFFSETOF = re.compile(r"offsetof\((?:struct )?(\w+), ?([\w.]+)\)")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _variable(text: str) -> tuple[str, Any]:
    """A global variable's value: a number, offsetof(task_struct, tgid) in this kernel, or text for characters."""
    name, value = _assignment(text)
    if offset := _OFFSETOF.fullmatch(value):
        from rawbpf.btf.reader import vmlinux

        try:
            return name, vmlinux().offset_of(*offset.groups())
        except KeyError as error:
            raise argparse.ArgumentTypeError(f"{value}: this kernel's BTF has no {error}") from None
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{value}: this kernel's BTF can't be read: {error}") from None
    try:
        return name, integer(value)
    except ValueError:
        return name, value.encode("utf-8", "surrogateescape")


# The system


def _doctor(options: argparse.Namespace) -> int:
    from rawbpf.observe.doctor import diagnose

    diagnosis = diagnose()
    print(json.dumps(diagnosis.as_dict()) if options.json else diagnosis)
    create = diagnosis.check("create")
    if create.works:
        return DONE
    return NOT_PERMITTED if create.cause else ERROR


def _completion(options: argparse.Namespace) -> int:
    try:
        shtab = import_module("shtab")
    except ImportError:
        raise UsageError("shell completion needs the package shtab: pip install 'rawbpf[completion]'") from None
    print(shtab.complete(_parser(), options.shell))
    return DONE


# What each command takes


def _explain(options: argparse.Namespace) -> int:
    from rawbpf.observe.diagram import explain

    command: Any = int(options.command, 0) if options.command[:1].isdigit() else options.command
    print(explain(command, None if options.attr is None else bytes.fromhex(options.attr.removeprefix("0x"))))
    return DONE


def _tour(options: argparse.Namespace) -> int:
    from rawbpf.cli import tour

    return tour.main(options.simulate, options.step)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawbpf",
        description="Queues and stacks in the Linux kernel through the bpf(2) system call.",
        epilog=_EXIT_CODES,
    )
    version = f"rawbpf {__version__}, Linux {os.uname().release}, cffi mode {FFI_MODE}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, example: str, *groups: Any) -> None:
        """A command: `text` says what it does, `example` is a call of it; `groups` add its arguments."""
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: {example}\n\n{_EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for group in (*groups, _tracing):
            group(command)
        command.set_defaults(run=run)

    add("list", _list, "list all queues and stacks of the system", "rawbpf list --json", _json)
    add("show", _show, "show what the kernel says of a map", "rawbpf show /sys/fs/bpf/events", _map, _json)
    add(
        "create",
        _create,
        "create a map and pin it",
        "rawbpf create queue /sys/fs/bpf/events --format '<IH' --entries 128",
        _creation,
        _json,
    )
    add("push", _push, "add values", "rawbpf push /sys/fs/bpf/numbers 1 2 0x10", _map, _pushing, _values, _json)
    add("peek", _peek, "show what pop would take", "rawbpf peek name:events --format '<IH'", _map, _values, _json)
    add("pop", _pop, "take values", "rawbpf pop /sys/fs/bpf/events --count 3", _map, _popping, _values, _json)
    add(
        "drain",
        _drain,
        "take all values, one a line; with --follow also those to come. What is taken is written or goes back",
        "rawbpf drain /sys/fs/bpf/events --follow --json | your-log-shipper",
        _map,
        _draining,
        _values,
        _json,
    )
    add("size", _size, "count the elements", "rawbpf size id:294", _map, _json)
    add("snapshot", _snapshot, "show all elements and leave them", "rawbpf snapshot id:294 --hex", _map, _values, _json)
    add("watch", _watch, "show how full a map is, again and again", "rawbpf watch name:events", _map, _watching, _json)
    add("freeze", _freeze, "end push and pop from user space for good", "rawbpf freeze id:294", _map, _json)
    add("pin", _pin, "give a map a path in a bpffs", "rawbpf pin id:294 /sys/fs/bpf/events", _map, _path, _json)
    add(
        "run",
        _run,
        "load a compiled C file, attach its programs, and print what they push",
        "rawbpf run events.bpf.o --print queue --set limit=5",
        _running,
        _values,
        _json,
    )
    add("doctor", _doctor, "find out what works here and why not all does", "rawbpf doctor --json", _json)
    add("completion", _completion, "print a completion script", "rawbpf completion bash > rawbpf.bash", _shell)
    add("explain", _explain, "draw a bpf(2) command's attr, byte by byte", "rawbpf explain map_update_elem", _attr)
    add("tour", _tour, "see queues and stacks at work: each call, as strace prints it", "rawbpf tour --step", _touring)
    return parser


def _tracing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trace", action="store_true", help="print each bpf(2) call on stderr")


def _attr(command: argparse.ArgumentParser) -> None:
    command.add_argument("command", metavar="CMD", help="map_create, BPF_MAP_CREATE or its number")
    command.add_argument("attr", metavar="HEX", nargs="?", help="the attr's bytes in hexadecimal digits")


def _touring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--simulate", action="store_true", help="on the simulated kernel, which needs no privilege")
    command.add_argument("--step", action="store_true", help="wait for a key after each step")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, errors too")


def _map(command: argparse.ArgumentParser) -> None:
    command.add_argument("map", metavar="MAP", help=_MAP_HELP)


def _path(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", metavar="PATH", help="where in a bpffs")


def _shell(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def _values(command: argparse.ArgumentParser) -> None:
    forms = command.add_argument_group(
        "values",
        "Unless told otherwise, values of 1, 2, 4 and 8 bytes are unsigned integers, others text or 0x and hex digits.",
    ).add_mutually_exclusive_group()
    forms.add_argument("--format", metavar="F", help="a struct format such as '<IH': fields with commas between them")
    forms.add_argument("--hex", action="store_true", help="hexadecimal digits")
    forms.add_argument("--text", action="store_true", help="text, filled up with zero bytes")
    forms.add_argument("--btf", action="store_true", help="JSON, by the C type that the map carries (BTF)")
    forms.add_argument("--raw", action="store_true", help="the bytes themselves, on stdin and stdout")


def _creation(command: argparse.ArgumentParser) -> None:
    command.add_argument("type", metavar="TYPE", choices=["queue", "stack"], help="queue or stack")
    _path(command)
    command.add_argument("--value-size", type=_count, metavar="N", help="bytes of a value")
    command.add_argument("--format", metavar="F", help="a struct format instead: its size is the value's")
    command.add_argument("--entries", type=_count, required=True, metavar="N", help="how many elements it holds")
    command.add_argument("--btf", action="store_true", help="describe the value to the kernel, for --btf and bpftool")
    command.add_argument("--name", help="the map's name; by default the pin's, if a map may have it")


def _pushing(command: argparse.ArgumentParser) -> None:
    command.add_argument("values", metavar="VALUE", nargs="+", help="a value; - alone: lines (or bytes) from stdin")
    full = command.add_mutually_exclusive_group()
    full.add_argument("--exist", action="store_true", help="when full, overwrite the oldest (BPF_EXIST)")
    full.add_argument("--wait", action="store_true", help="when full, wait until there is room")


def _popping(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--count", type=_count, default=1, metavar="N", help="at most so many (1)")


def _draining(command: argparse.ArgumentParser) -> None:
    command.add_argument("--follow", action="store_true", help="go on until SIGINT, SIGTERM or the reader is gone")
    command.add_argument("--limit", type=_count, metavar="N", help="at most so many (max_entries, unless --follow)")


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument("object", metavar="FILE", help="what clang -target bpf -g -c wrote")
    command.add_argument("--print", metavar="QUEUE", help="whose values to print, if the file has several")
    command.add_argument(
        "--set",
        type=_variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a global variable's value: a number, text, or offsetof(task_struct,tgid) in this kernel",
    )
    command.add_argument(
        "--attach",
        type=_assignment,
        action="append",
        default=[],
        metavar="PROGRAM=TARGET",
        help="where to: the folder of a cgroup, an interface, a network namespace's file, a tracepoint",
    )
    command.add_argument("--limit", type=_count, metavar="N", help="end after so many values")
    command.add_argument("--pin-root", default="/sys/fs/bpf", metavar="DIR", help="for maps pinned by name")


def _watching(command: argparse.ArgumentParser) -> None:
    command.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two looks (1)")
    command.add_argument("--count", type=_count, metavar="N", help="end after so many")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    try:
        number = integer(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
