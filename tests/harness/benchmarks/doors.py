"""The compiled door against the one in Python, RAWBPF_FFI=api and =abi: what it costs not to have a compiler."""

import os
import subprocess
import sys
from types import TracebackType

from tests.harness.benchmarks.measure import Contender, Report, medians, table

CALLS = 5_000

# A process has one door. So each door has a process, which runs the line it is sent and prints nanoseconds per element.
_CODE = f"""
import sys
from rawbpf import Queue
from tests.harness.benchmarks.measure import timed

CALLS = {CALLS}
q = Queue(8, CALLS)
buffer = bytearray(8 * CALLS)

def push():
    for _ in range(CALLS):
        q.push(b"12345678")

def pop():
    for _ in range(CALLS):
        q.pop()

def push_many():
    q.push_many(buffer)

def pop_into():
    q.pop_into(buffer)

for line in sys.stdin:
    print(timed(globals()[line.strip()], CALLS), flush=True)
"""

WORK = ("push", "pop", "push_many", "pop_into")


class Door:
    """A process behind one of the doors."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            env={**os.environ, "RAWBPF_FFI": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def contender(self, work: str) -> Contender:
        return lambda: self.ask(work)

    def ask(self, work: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(work, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()


def run(rounds: int) -> Report:
    """The table of one run."""
    with Door("api") as api, Door("abi") as abi:
        sequence = {(work, name): door.contender(work) for work in WORK for name, door in (("api", api), ("abi", abi))}
        results = medians(sequence, rounds)
    rows = [["8-byte values, by door", *WORK]]
    for name in ("api", "abi"):
        ratios = {work: results[work, name] / results[work, "api"] for work in WORK}
        rows.append([name, *(f"{results[work, name]:.0f} ns, {ratios[work]:.1f} x api" for work in WORK)])
    return Report(table(rows))
