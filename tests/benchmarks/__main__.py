"""`python -m tests.benchmarks [single ...] [--rounds N]`: prints tables of medians and ratios."""

import argparse

from tests.benchmarks import measure, single

BENCHMARKS = {"single": single.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], help="all, unless named")
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds (default 21)")
    options = parser.parse_args()
    print(measure.machine(), end="\n\n")
    for name in options.which or BENCHMARKS:
        print(BENCHMARKS[name](options.rounds), end="\n\n")


main()
