"""The documentation's queue, declared in C and filled by a socket filter that is run over packets.

    clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c packets.bpf.c -o packets.bpf.o
    python -m rawbpf.examples.packets packets.bpf.o

Source: Documentation/bpf/map_queue_stack.rst. Needs CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN).
"""

import argparse
import sys

from rawbpf.objects.object_file import ObjectFile
from rawbpf.programs.program import ETH_HLEN


def main(arguments: list[str]) -> int:
    """Runs the filter over a dozen packets and prints which lengths the queue holds: there is room for ten."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("object_file", help="packets.bpf.c, compiled")
    with ObjectFile.load(parser.parse_args(arguments).object_file) as file:
        queue, program = file.maps["queue"], file.programs["push_length"]
        for length in range(100, 112):
            # The filter sees the packet without its Ethernet header.
            answer = program.run(bytes(ETH_HLEN + length)).retval
            print(f"{length} bytes: {'pushed' if answer == 0 else 'the queue is full'}")
        print(f"in the queue: {queue.pop_many(queue.max_entries)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
