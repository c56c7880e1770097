"""The arguments that commands take: functions that add them to a command's parser, and what their text becomes."""

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from rawbpf.cli.completion import SCRIPTS
from rawbpf.cli.notation import integer

_OFFSETOF = re.compile(r"offsetof\((?:struct )?(\w+), ?([\w.]+)\)")


# What the text of an argument becomes


def count(text: str) -> int:
    """A number above 0."""
    try:
        number = integer(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def half_a_second(text: str) -> float:
    """A number of seconds, at least a half."""
    number = seconds(text)
    if number < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 0.5: maps would be kept alive by being looked at")
    return number


def file_mode(text: str) -> int:
    """A file's mode in octal digits."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode such as 0640")
    return int(text, 8)


def owner(text: str) -> tuple[int, int]:
    """The numbers of USER, USER:GROUP or :GROUP; -1 for what is left out."""
    import grp
    import pwd

    user, _, group = text.partition(":")
    return (
        _number_of(user, "user", lambda name: pwd.getpwnam(name).pw_uid),
        _number_of(group, "group", lambda name: grp.getgrnam(name).gr_gid),
    )


def _number_of(name: str, kind: str, look_up: Callable[[str], int]) -> int:
    if not name or name.isdecimal():
        return int(name or "-1")
    try:
        return look_up(name)
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no {kind} {name!r}") from None


def address(text: str) -> tuple[str, int]:
    """Address and port of PORT, ADDR:PORT or [ADDR]:PORT; this machine alone if no address is given."""
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PORT or ADDR:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", number


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def variable(text: str) -> tuple[str, Any]:
    """A global variable and its value: a number, offsetof(task_struct, tgid) in this kernel, or text for characters."""
    name, value = assignment(text)
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


# Arguments of several commands


def add_trace_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trace", action="store_true", help="print each bpf(2) call on stderr")


def add_json_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, errors too")


def add_map_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("map", metavar="MAP", help="a pin's path, id:294, or name:events")


def add_notation_arguments(command: argparse.ArgumentParser) -> None:
    notations = command.add_argument_group(
        "values",
        "Unless told otherwise, structs that the map describes (BTF) are JSON, values of 1, 2, 4 and 8 bytes unsigned "
        "integers, others text, or 0x and hexadecimal digits.",
    ).add_mutually_exclusive_group()
    notations.add_argument("--format", metavar="F", help="a struct format such as '<IH': fields with commas between")
    notations.add_argument("--hex", action="store_true", help="hexadecimal digits")
    notations.add_argument("--text", action="store_true", help="text, filled up with zero bytes")
    notations.add_argument("--btf", action="store_true", help="JSON, by the C type that the map carries (BTF)")
    notations.add_argument("--raw", action="store_true", help="the bytes themselves, on stdin and stdout")


# Arguments of one command


def add_create_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("type", metavar="TYPE", choices=["queue", "stack"], help="queue or stack")
    add_pin_arguments(command)
    command.add_argument("--value-size", type=count, metavar="N", help="bytes of a value")
    command.add_argument("--format", metavar="F", help="a struct format instead: its size is the value's")
    command.add_argument("--entries", type=count, required=True, metavar="N", help="how many elements the map holds")
    command.add_argument("--btf", action="store_true", help="describe the value to the kernel, for --btf and bpftool")
    command.add_argument("--name", help="the map's name; by default the pin's, if a map may have it")


def add_pin_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", metavar="PATH", help="where in a bpffs")
    command.add_argument("--mode", type=file_mode, help="who may open the pin, such as 0640 (0600)")
    command.add_argument(
        "--owner", type=owner, metavar="USER[:GROUP]", help="whom the pin belongs to, by name or number"
    )


def add_unpin_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", metavar="PIN", help="a map's pin")


def add_push_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("values", metavar="VALUE", nargs="+", help="a value; - alone: lines (or bytes) from stdin")
    full = command.add_mutually_exclusive_group()
    full.add_argument("--exist", action="store_true", help="when full, overwrite the oldest (BPF_EXIST)")
    full.add_argument("--wait", action="store_true", help="when full, wait until there is room")


def add_pop_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--count", type=count, default=1, metavar="N", help="at most so many (1)")


def add_drain_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--follow",
        action="store_true",
        help="wait for more until the reader is gone or a signal comes; exit code 0 then. Waits for a pin that is not"
        " there, and goes on with the map that replaces it",
    )
    command.add_argument("--limit", type=count, metavar="N", help="at most so many (max_entries, unless --follow)")


def add_watch_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--interval", type=seconds, default=1.0, metavar="S", help="seconds between two looks (1)")
    command.add_argument("--count", type=count, metavar="N", help="end after so many looks")


def add_metrics_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "maps", metavar="MAP", nargs="*", help="a pin's path, id:294, or name:events; all, unless named"
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--listen", type=address, metavar="[ADDR:]PORT", help="answer Prometheus at /metrics (127.0.0.1)"
    )
    where.add_argument("--output", metavar="FILE", help="replace this file, for node_exporter's textfile collector")


def add_top_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--interval", type=half_a_second, default=1.0, metavar="S", help="seconds between two looks, at least 0.5 (1)"
    )


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("object", metavar="FILE", help="what clang -target bpf -g -c wrote")
    command.add_argument("--print", metavar="QUEUE", help="whose values to print, if the file has several")
    command.add_argument(
        "--set",
        type=variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a global variable's value: a number, text, or offsetof(task_struct,tgid) in this kernel",
    )
    command.add_argument(
        "--attach",
        type=assignment,
        action="append",
        default=[],
        metavar="PROGRAM=TARGET",
        help="where to: the folder of a cgroup, an interface, a network namespace's file, a tracepoint",
    )
    command.add_argument("--limit", type=count, metavar="N", help="end after so many values")
    command.add_argument("--pin-root", default="/sys/fs/bpf", metavar="DIR", help="for maps pinned by name")


def add_completion_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", nargs="?", choices=sorted(SCRIPTS), help="the shell that the script is for")
    # What the scripts call: the words that may follow these.
    command.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def add_doctor_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "map",
        metavar="MAP",
        nargs="?",
        help="one map to try, which is not changed: a pin's path, id:294, or name:events",
    )
    command.add_argument(
        "--require",
        type=lambda text: text.split(","),
        default=[],
        metavar="CHECK,...",
        help="what must work for exit code 0: of create, elements, bulk, qsize, ids, pins (create); of a MAP's open,"
        " peek, push, pop, qsize (open)",
    )


def add_explain_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("command", metavar="CMD", help="map_create or its number, push or pop, E2BIG")
    command.add_argument("attr", metavar="HEX", nargs="?", help="the attr's bytes in hexadecimal digits")


def add_tour_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--simulate", action="store_true", help="on the simulated kernel, which needs no privilege")
    command.add_argument("--step", action="store_true", help="wait for a key after each step")


def add_learn_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("number", nargs="?", type=int, metavar="NUMBER", help="an exercise; all are listed without it")
    ways = command.add_mutually_exclusive_group()
    # "" is the exercise's own file.
    file: dict[str, Any] = {"nargs": "?", "const": "", "metavar": "FILE"}
    ways.add_argument("--start", **file, help="write the program to change into FILE, by default learnNUMBER.py")
    ways.add_argument("--check", **file, help="run the program in FILE, by default learnNUMBER.py, and judge it")
    ways.add_argument("--hint", action="store_true", help="show a hint, each time one more")
    ways.add_argument("--solution", action="store_true", help="show a program that is right")
    ways.add_argument("--notebook", metavar="FILE", help="write all exercises as a Jupyter notebook")
    command.add_argument("--simulate", action="store_true", help="check on the simulated kernel in any case")
