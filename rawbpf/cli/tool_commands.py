"""The commands whose code is imported only when they run: doctor, explain, tour, metrics, top; and completion."""

import argparse
import shutil
from typing import Any

from rawbpf.cli.completion import SCRIPTS, words_after
from rawbpf.cli.errors import DONE, ERROR, NOT_PERMITTED, UsageError, did_you_mean
from rawbpf.cli.output import BOLD, say, say_json


def run_doctor(options: argparse.Namespace) -> int:
    from rawbpf.observe.doctor import CHECKS, CHECKS_OF_A_MAP, diagnose

    possible = CHECKS if options.map is None else CHECKS_OF_A_MAP
    for name in options.require:
        if name not in possible:
            raise UsageError(f"there is no check {name!r}: {did_you_mean(name, possible)}")
    diagnosis = diagnose(options.map)
    if options.json:
        say_json(diagnosis.as_dict())
    else:
        for line in diagnosis.report(max(40, shutil.get_terminal_size().columns)).splitlines():
            say(line, BOLD if line.startswith("NO ") else "")
    # Of a map that could not be opened there is no other check.
    checks = {check.name: check for check in diagnosis.checks}
    failed = [checks.get(name, diagnosis.checks[0]) for name in options.require or possible[:1]]
    failed = [check for check in failed if not check.works]
    if not failed:
        return DONE
    kinds = {check.cause.kind for check in diagnosis.checks if check.works is False and check.cause is not None}
    return NOT_PERMITTED if kinds - _NOT_THERE else ERROR


# Kinds of causes that are no matter of permission.
_NOT_THERE = {"kernel", "gvisor"}


def run_explain(options: argparse.Namespace) -> int:
    from rawbpf.observe.diagram import explain

    command: Any = int(options.command, 0) if options.command[:1].isdigit() else options.command
    say(explain(command, None if options.attr is None else bytes.fromhex(options.attr.removeprefix("0x"))))
    return DONE


def run_tour(options: argparse.Namespace) -> int:
    from rawbpf.cli import tour

    return tour.main(options.simulate, options.step)


def run_learn(options: argparse.Namespace) -> int:
    from rawbpf.cli import learn

    return learn.main(options)


def run_metrics(options: argparse.Namespace) -> int:
    if options.listen is not None:
        from rawbpf.cli import metrics_server

        return metrics_server.serve(options.maps, *options.listen)
    from rawbpf.cli import metrics

    return metrics.run(options.maps, options.output)


def run_top(options: argparse.Namespace) -> int:
    from rawbpf.cli import top

    return top.run(options.interval)


def run_completion(options: argparse.Namespace) -> int:
    if options.words is not None:
        for word in words_after(options.parser, options.words):
            say(word)
    elif options.shell is None:
        raise UsageError(f"completion wants one of {', '.join(sorted(SCRIPTS))}")
    else:
        say(SCRIPTS[options.shell])
    return DONE
