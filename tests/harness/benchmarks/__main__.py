"""`python -m tests.harness.benchmarks [single ...] [--rounds N | --quick] [--plot FILE]`: prints medians and ratios."""

import argparse
from pathlib import Path

from tests.harness.benchmarks import (
    bounds,
    breakeven,
    bulk,
    doors,
    max_entries,
    measure,
    plot,
    processes,
    records,
    single,
    soak,
    start,
    threads,
)

BENCHMARKS = {
    "single": single.run,
    "doors": doors.run,
    "bulk": bulk.run,
    "bounds": bounds.run,
    "max_entries": max_entries.run,
    "records": records.run,
    "start": start.run,
    "breakeven": breakeven.run,
    "threads": threads.run,
    "processes": processes.run,
    "soak": soak.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.benchmarks")
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], help="all, unless named")
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds (default 21)")
    parser.add_argument("--quick", action="store_const", dest="rounds", const=2, help="2 rounds: do they run at all?")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a PNG of bulk, processes and soak; needs rawbpf[bench]"
    )
    options = parser.parse_args()
    print(measure.machine(), end="\n\n")
    panels = {}
    for name in options.which or BENCHMARKS:
        report = BENCHMARKS[name](options.rounds)
        print(report.text, end="\n\n", flush=True)
        if report.curves:
            panels[name] = report.curves
    if options.plot:
        plot.draw(options.plot, panels)


main()
