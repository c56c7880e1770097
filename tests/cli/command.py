"""The installed command, run as a user runs it: in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).parent / "rawbpf"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "rawbpf"]

real_kernel = pytest.mark.real_kernel(reason="the simulated one has no BTF")


def run(*arguments, code=0, stdin=b"", prefix=()):
    """Runs `rawbpf arguments`, wants that exit code, returns its stdout; for code != 0 its stderr."""
    result = subprocess.run([*prefix, *COMMAND, *map(str, arguments)], input=stdin, capture_output=True)
    assert result.returncode == code, result
    if code == 0:
        assert result.stderr == b""
        return result.stdout.decode()
    return result.stderr.decode()
