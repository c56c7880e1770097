"""The command line: `rawbpf COMMAND`, also `python -m rawbpf COMMAND`."""

import argparse
from collections.abc import Sequence

from rawbpf import tour
from rawbpf.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 1 error, 2 usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    result: int = options.run(options)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawbpf", description="Queues and stacks in the Linux kernel through the bpf(2) system call."
    )
    parser.add_argument("--version", action="version", version=f"rawbpf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "tour",
        help="see a queue and a stack at work in the kernel",
        description="Creates a queue and a stack in the kernel, uses them, and prints each step with the bpf(2) "
        "command behind it. Leaves nothing behind.",
    )
    command.set_defaults(run=lambda options: tour.main())
    return parser
