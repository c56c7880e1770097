"""Fixtures of the tests of attaching: a queue, a network and a cgroup of the test's own."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rawbpf import Queue
from tests.programs.attaching import CLONE_NEWNET, IFF_UP_AND_RUNNING, NETNS, SIOCSIFFLAGS, libc


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace of the test's own, of which only the loopback interface is up."""
    before = os.open(NETNS, os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP_AND_RUNNING))
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def cgroup(tmp_path) -> Iterator[str]:
    """A cgroup of the test's own; in_cgroup() puts a child into it."""
    root = os.fsencode(tmp_path)
    assert libc.mount(b"cgroup2", root, b"cgroup2", ctypes.c_ulong(0), None) == 0
    folder = tmp_path / f"rawbpf-{os.getpid()}"
    try:
        folder.mkdir()
        yield str(folder)
        with suppress(FileNotFoundError):
            folder.rmdir()
    finally:
        libc.umount2(root, 2)


@pytest.fixture
def q() -> Iterator[Queue]:
    with Queue("=Q", 64, name="attached") as q:
        yield q
