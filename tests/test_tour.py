"""`rawbpf tour`: the README's main command, run as a user runs it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from rawbpf import bpffs

COMMAND = [sys.executable, "-m", "rawbpf", "tour"]


def tour(*before: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*before, *COMMAND], capture_output=True, text=True)


def popped(part: str) -> list[int]:
    return [int(number) for number in re.findall(r">>> \w\.pop\(\)\n +(\d+)\n", part)]


@pytest.mark.creates
@pytest.mark.admin
def test_tour():
    """Each step is there with its result and the bpf command behind it, and nothing stays mounted."""
    result = tour()
    assert result.returncode == 0, result.stderr
    for step in (
        "BPF_MAP_CREATE = 3",
        "Full: queue 'tour_queue' is full (3 entries)",
        "BPF_MAP_UPDATE_ELEM = -1 E2BIG",
        "the oldest, 1, is overwritten",
        "BPF_MAP_LOOKUP_ELEM = 0",
        "BPF_MAP_LOOKUP_AND_DELETE_ELEM = -1 ENOENT",
        "BPF_OBJ_PIN = 0",
        "BPF_OBJ_GET = 4",
        "42, pushed by process",
    ):
        assert step in result.stdout
    queue, stack, _ = result.stdout.split("\nA ")
    assert popped(queue) == [2, 3, 4]
    assert popped(stack) == [4, 3, 2]
    [folder] = re.findall(r"q.pin\('(.*)/tour_queue'\)", result.stdout)
    assert not os.path.exists(folder)
    assert folder not in bpffs.mounts()


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_tour_without_the_privilege():
    """Without CAP_BPF: exit code 4, what is missing, and what would grant it."""
    result = tour("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert result.returncode == 4
    assert "BPF_MAP_CREATE: EPERM" in result.stderr
    assert "this process has no CAP_" in result.stderr
    assert "docker run --cap-add" in result.stderr


@pytest.mark.creates
@pytest.mark.linux("5.8")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_tour_with_cap_bpf_alone():
    """CAP_BPF is enough for all but mounting a bpffs, which is said."""
    result = tour("setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf")
    assert result.returncode == 0, result.stderr
    assert "Skipped: mounting a bpffs needs CAP_SYS_ADMIN" in result.stdout
