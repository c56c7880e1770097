"""door.c in several threads under ThreadSanitizer, without Python: its lock would order what the door has to order."""

import shutil
import subprocess
from pathlib import Path

import pytest

import rawbpf
from tests.conftest import SECONDS

ABI = Path(rawbpf.__file__).with_name("abi")
FLAGS = ("-O1", "-g", "-Wall", "-Wno-tsan", "-fsanitize=thread", f"-I{ABI}")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """threads.c, compiled."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    path = tmp_path_factory.mktemp("threads") / "threads"
    result = subprocess.run(["gcc", *FLAGS, Path(__file__).with_name("threads.c"), "-o", path], capture_output=True)
    if b"cannot find" in result.stderr:
        pytest.skip("gcc's ThreadSanitizer is not installed")
    assert (result.returncode, result.stderr) == (0, b"")
    return path


@pytest.mark.creates
@pytest.mark.real_kernel(reason="it is a program of its own")
def test_threads_that_share_a_map(program):
    """Each number that was pushed is handed over once, and ThreadSanitizer sees no race."""
    # -R: gcc 12's knows no address space that is as random as later kernels make it.
    command = ["setarch", "-R", program, str(SECONDS)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) > 100
