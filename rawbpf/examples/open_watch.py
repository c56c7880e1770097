"""Every file that is opened, as it happens: a program at a tracepoint pushes structs into a queue, Python prints them.

    clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c open_watch.bpf.c -o open_watch.bpf.o
    python -m rawbpf.examples.open_watch open_watch.bpf.o
    python -m rawbpf.examples.open_watch open_watch.bpf.o --pid 4711

The C file does not know where the kernel keeps a process's parent: the kernel itself fills that in (CO-RE). Needs Linux
5.17, CAP_BPF and CAP_PERFMON, and tracefs mounted, or CAP_SYS_ADMIN.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rawbpf import ObjectFile, Queue

HOW = {os.O_RDONLY: "reads", os.O_WRONLY: "writes", os.O_RDWR: "reads and writes"}


@contextmanager
def watch(object_file: str, pid: int = 0) -> "Iterator[Queue[Any]]":
    """The queue of struct event, filled as long as this lasts: of one process, or of all."""
    with ObjectFile.load(object_file, variables={"only": pid}) as file:
        print(file.attach(), file=sys.stderr)
        yield file.maps["queue"]


def text(characters: bytes) -> str:
    """A char array up to its NUL."""
    return characters.partition(b"\0")[0].decode(errors="replace")


def main(arguments: list[str]) -> int:
    """Prints a line for each file that is opened, until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("object_file", help="open_watch.bpf.c, compiled")
    parser.add_argument("--pid", type=int, default=0, help="watch this process alone")
    options = parser.parse_args(arguments)
    with watch(options.object_file, options.pid) as queue:
        try:
            for event in queue.follow():
                how = HOW.get(event.flags & os.O_ACCMODE, "opens")
                who = f"{text(event.command)} ({event.pid}, child of {event.parent})"
                print(who, how, text(event.path), flush=True)
        except KeyboardInterrupt:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
