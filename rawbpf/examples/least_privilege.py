"""Least privilege: a helper with CAP_BPF makes a queue and passes it to a worker that has no privilege at all.

    python -m rawbpf.examples.least_privilege

The helper needs CAP_BPF. The worker runs without any capability, and as user nobody if the helper may change users
(CAP_SETUID, CAP_SETGID). It can't make a map, but push and pop on the one it received are no privilege since Linux 5.19
(before that with kernel.unprivileged_bpf_disabled=0).
"""

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress

from rawbpf import NotPermitted, Queue, recv_map, send_map

NOBODY = 65534


def main() -> int:
    """The helper: makes the queue, passes it on, and gets the worker's answers from it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Queue("=I", 16, name="answers") as q:
        child = os.fork()
        if child == 0:
            os._exit(worker(theirs))
        send_map(ours, q)
        _, status = os.waitpid(child, 0)
        print(f"helper: {sum(1 for _ in q.drain())} numbers came back")
        return os.waitstatus_to_exitcode(status)


def worker(sock: socket.socket) -> int:
    """The worker: gives up what it has, receives the queue and works with it."""
    give_up_privileges()
    with recv_map(sock, "=I") as q:
        q.push_many([number * number for number in range(10)])
        print(f"worker: user {os.getuid()}, pushed 10 numbers into {q.name!r}")
    try:
        Queue("=I", 16).close()
    except NotPermitted as error:
        print(f"worker: a queue of my own? {error.hint}")
    sys.stdout.flush()
    return 0


def give_up_privileges() -> None:
    """Becomes nobody, where this process may, and drops all capabilities, which every process may."""
    with suppress(PermissionError):  # a container with --cap-drop ALL --cap-add BPF
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    # struct __user_cap_header_struct: version 3, this process; three sets of 64 bits, in halves.
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    sets = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    sys.exit(main())
