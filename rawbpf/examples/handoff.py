"""Two programs in the kernel hand work to each other: one pushes jobs, the other peeks at the next and pops it.

    clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c handoff.bpf.c -o handoff.bpf.o
    python -m rawbpf.examples.handoff handoff.bpf.o

Python only runs the two programs, and looks at what is left. Needs CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN).
"""

import argparse
import sys

from rawbpf.objects.object_file import ObjectFile
from rawbpf.programs.program import ETH_HLEN

WEIGHTS = (40, 60, 300, 50)


def main(arguments: list[str]) -> int:
    """Makes jobs of several weights, lets the worker go on until it stops, and makes it stronger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("object_file", help="handoff.bpf.c, compiled")
    with ObjectFile.load(parser.parse_args(arguments).object_file) as file:
        jobs, done = file.maps["jobs"], file.maps["done"]
        producer, worker = file.programs["producer"], file.programs["worker"]
        for weight in WEIGHTS:
            producer.run(bytes(ETH_HLEN + weight))
        for strength in (100, 500):
            file.variables["strength"] = strength
            while number := worker.run(bytes(ETH_HLEN + 1)).retval:
                print(f"strength {strength}: the worker did job {number}")
            print(f"strength {strength}: {jobs.peek(default='nothing')} is next")
        print("done, the latest first:", *done.pop_many(done.max_entries))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
