"""What the tests of attaching share: programs that push into a queue, what makes them run, and whether they did."""

import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from rawbpf import BpfError, Queue
from rawbpf.programs.asm import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R10,
    Helper,
    Item,
    Label,
    add,
    alu,
    call,
    exit_,
    jump_if,
    load_map,
    mov,
    store,
)
from rawbpf.programs.link import Link
from tests.conftest import descriptors

libc = ctypes.CDLL(None, use_errno=True)

NETNS = "/proc/thread-self/ns/net"
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP_AND_RUNNING = 0x8914, 0x41


def pushing(q: Queue, value: int = 7, result: int = 0) -> list[Item]:
    """A program that pushes one number, the oldest falling out, and returns `result`."""
    return [store("u64", R10, -8, value), *pushes(q), mov(R0, result), exit_()]


def pushes(q: Queue) -> list[Item]:
    """Pushes the 8 bytes below the stack's top."""
    push = [load_map(R1, q.fileno()), mov(R2, R10), add(R2, -8), mov(R3, 2)]
    return [*push, call(Helper.BPF_FUNC_map_push_elem)]


def only_here() -> list[Item]:
    """Leaves the program unless this process is the one that runs it: others enter the kernel as well."""
    return [call(Helper.BPF_FUNC_get_current_pid_tgid), alu(">>=", R0, 32), jump_if("!=", R0, os.getpid(), "out")]


OUT = [Label("out"), mov(R0, 0), exit_()]


def ran(q: Queue, act: Callable[[], None]) -> bool:
    """Whether the program runs when this is done."""
    q.pop_many(64)
    act()
    return q.pop(default=None) is not None


def in_cgroup(cgroup: str, act: Callable[[], None]) -> None:
    """A child in the cgroup does it."""
    child = os.fork()
    if child == 0:
        try:
            with open(f"{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
            act()
        finally:
            # Reached without an exception only.
            os._exit(int(sys.exc_info()[0] is not None))
    assert os.waitpid(child, 0)[1] == 0


def reading_its_cookie(q: Queue) -> list[Item]:
    cookie = [call(Helper.BPF_FUNC_get_attach_cookie), store("u64", R10, -8, R0)]
    return [mov(R6, R1), *only_here(), mov(R1, R6), *cookie, *pushes(q), *OUT]


def execute() -> None:
    """A process executes a program: sched_process_exec."""
    subprocess.run(["/bin/true"], check=True)


def send() -> None:
    """A packet over the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.sendto(b"x", s.getsockname())
        assert s.recv(1) == b"x"


def send_frame() -> None:
    """A frame given to the interface: the kernel has to dissect it, to find its transport header."""
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 1, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(("lo", 0x0800))
        s.send(bytes(12) + b"\x08\x00" + packet)


def failure_of(attach: Callable[[], Link]) -> BpfError:
    before = descriptors()
    with pytest.raises(BpfError) as caught:
        attach()
    assert descriptors() == before
    return caught.value
