"""The commands and what each takes."""

import argparse
import os
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from rawbpf.abi.door import FFI_MODE
from rawbpf.cli import arguments, element_commands, map_commands, object_commands, tool_commands
from rawbpf.cli.completion import subparsers
from rawbpf.cli.errors import EXIT_CODES, UsageError, did_you_mean
from rawbpf.cli.help import add_help_arguments, run_help
from rawbpf.version import __version__


class Command(NamedTuple):
    """A command: the function that runs it, what it does, a call of it, and the functions that add its arguments."""

    run: Callable[[argparse.Namespace], int]
    text: str
    example: str
    add_arguments: tuple[Callable[[argparse.ArgumentParser], None], ...]


_MAP, _JSON, _NOTATION = arguments.add_map_argument, arguments.add_json_argument, arguments.add_notation_arguments

COMMANDS = {
    "list": Command(map_commands.run_list, "list all queues and stacks of the system", "rawbpf list --json", (_JSON,)),
    "show": Command(
        map_commands.run_show,
        "show what the kernel says of a map",
        "rawbpf show /sys/fs/bpf/events",
        (_MAP, _JSON),
    ),
    "create": Command(
        map_commands.run_create,
        "create a map and pin it",
        "rawbpf create queue /sys/fs/bpf/events --format '<IH' --entries 128",
        (arguments.add_create_arguments, _JSON),
    ),
    "push": Command(
        element_commands.run_push,
        "add values",
        "rawbpf push /sys/fs/bpf/numbers 1 2 0x10",
        (_MAP, arguments.add_push_arguments, _NOTATION, _JSON),
    ),
    "peek": Command(
        element_commands.run_peek,
        "show the value that pop would take",
        "rawbpf peek name:events --format '<IH'",
        (_MAP, _NOTATION, _JSON),
    ),
    "pop": Command(
        element_commands.run_pop,
        "take values",
        "rawbpf pop /sys/fs/bpf/events --count 3",
        (_MAP, arguments.add_pop_arguments, _NOTATION, _JSON),
    ),
    "drain": Command(
        element_commands.run_drain,
        "take all values, one a line, and with --follow also those to come",
        "rawbpf drain /sys/fs/bpf/events --follow --json | your-log-shipper",
        (_MAP, arguments.add_drain_arguments, _NOTATION, _JSON),
    ),
    "size": Command(map_commands.run_size, "count the elements", "rawbpf size id:294", (_MAP, _JSON)),
    "snapshot": Command(
        map_commands.run_snapshot,
        "show all elements and leave them in the map",
        "rawbpf snapshot id:294 --hex",
        (_MAP, _NOTATION, _JSON),
    ),
    "watch": Command(
        map_commands.run_watch,
        "show how full a map is, again and again",
        "rawbpf watch name:events",
        (_MAP, arguments.add_watch_arguments, _JSON),
    ),
    "top": Command(
        tool_commands.run_top,
        "show all maps live: how full they are, and what comes and goes",
        "rawbpf top --interval 0.5",
        (arguments.add_top_arguments,),
    ),
    "metrics": Command(
        tool_commands.run_metrics,
        "print metrics for Prometheus, or serve them",
        "rawbpf metrics --listen 9435",
        (arguments.add_metrics_arguments,),
    ),
    "freeze": Command(
        map_commands.run_freeze,
        "end push and pop from user space for good",
        "rawbpf freeze id:294",
        (_MAP, _JSON),
    ),
    "pin": Command(
        map_commands.run_pin,
        "give a map a path in a bpffs",
        "rawbpf pin id:294 /sys/fs/bpf/events --mode 0640 --owner root:adm",
        (_MAP, arguments.add_pin_arguments, _JSON),
    ),
    "unpin": Command(
        map_commands.run_unpin,
        "remove a map's pin; the map lives on while a program or a process has it",
        "rawbpf unpin /sys/fs/bpf/events",
        (arguments.add_unpin_arguments, _JSON),
    ),
    "run": Command(
        object_commands.run_run,
        "load a compiled C file, attach its programs, and print what they push",
        "rawbpf run events.bpf.o --print queue --set limit=5",
        (arguments.add_run_arguments, _NOTATION, _JSON),
    ),
    "doctor": Command(
        tool_commands.run_doctor,
        "find out what works here and why the rest does not",
        "rawbpf doctor --require create,pins",
        (arguments.add_doctor_arguments, _JSON),
    ),
    "explain": Command(
        tool_commands.run_explain,
        "say what a bpf(2) command or an errno means: layout, rules, privileges, errors",
        "rawbpf explain push; rawbpf explain E2BIG",
        (arguments.add_explain_arguments,),
    ),
    "tour": Command(
        tool_commands.run_tour,
        "see queues and stacks at work: each call, as strace prints it",
        "rawbpf tour --step",
        (arguments.add_tour_arguments,),
    ),
    "learn": Command(
        tool_commands.run_learn,
        "exercises that check themselves, on the kernel or without root on a simulated one",
        "rawbpf learn 2",
        (arguments.add_learn_arguments,),
    ),
    "help": Command(
        run_help,
        "show a guide: values, errors, containers and others",
        "rawbpf help errors",
        (add_help_arguments,),
    ),
    "completion": Command(
        tool_commands.run_completion,
        "print a completion script for bash, fish or zsh",
        'eval "$(rawbpf completion bash)"',
        (arguments.add_completion_arguments,),
    ),
}

_EXAMPLES = """\
examples:
  rawbpf tour                                              see it work, with or without privileges
  rawbpf learn                                             ten exercises, with hints and solutions
  rawbpf doctor                                            what works here, and what would permit the rest
  rawbpf create queue /sys/fs/bpf/numbers --value-size 8 --entries 128
  rawbpf push /sys/fs/bpf/numbers 1 2 3
  rawbpf drain /sys/fs/bpf/numbers --follow --json
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())


def new_parser() -> Parser:
    parser = Parser(
        prog="rawbpf",
        description="Queues and stacks in the Linux kernel through the bpf(2) system call.",
        epilog=f"{_EXAMPLES}\nrawbpf COMMAND --help says more about a command.\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"rawbpf {__version__}, Linux {os.uname().release}, cffi mode {FFI_MODE}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command_name")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.text,
            description=f"{command.text[0].upper()}{command.text[1:]}.",
            epilog=f"example: {command.example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for add_arguments in (*command.add_arguments, arguments.add_trace_argument):
            add_arguments(added)
        added.set_defaults(run=command.run, parser=parser)
    return parser


def parse(given: list[str]) -> argparse.Namespace:
    """The options of a call. Raises UsageError; raises SystemExit after --help and --version have printed theirs."""
    parser = new_parser()
    name = next((each for each in given if not each.startswith("-")), "")
    if name and name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}: {did_you_mean(name, COMMANDS, 'see rawbpf --help')}")
    options, unknown = parser.parse_known_args(given)
    if unknown:
        raise UsageError(*_about_unknown(parser, name, unknown))
    if options.command_name is None:
        raise UsageError("a command is needed", f"{parser.format_help()}\n")
    return options


def _about_unknown(parser: Parser, name: str, unknown: list[str]) -> tuple[str, str]:
    """What to say of arguments that the command does not take, and how it is called."""
    command = subparsers(parser)[name] if name else parser
    option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
    if not option:
        return f"unrecognized arguments: {' '.join(unknown)}", command.format_usage()
    known = [each for action in command._actions for each in action.option_strings]
    hint = did_you_mean(option, known, f"see rawbpf {name} --help".replace("  ", " "))
    return f"there is no option {option!r}: {hint}", command.format_usage()
