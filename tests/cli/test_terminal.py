"""What is made to be looked at, looked at in a terminal of 80 columns: tmux is the terminal."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time

import pytest

from tests.cli.command import COMMAND

pytestmark = [
    pytest.mark.alike,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

COLUMNS = 80
DONE = "the command is done"


@pytest.fixture
def terminal():
    """A function that runs a command in a terminal, presses a key again and again until the command is done, and
    returns the lines as they were printed: one that is wider than the terminal is one line here."""
    folder = tempfile.mkdtemp(prefix="rawbpf-tmux-")
    tmux = ["tmux", "-S", f"{folder}/socket", "-f", "/dev/null"]

    def shown(command: list[str]) -> list[str]:
        # The keys are not to be seen.
        line = f"stty -echo; {shlex.join(command)}; echo {DONE}; sleep 60"
        # The user's own shell may be one that lets nobody in.
        setup = ["start", ";", "set", "-g", "history-limit", "5000", ";", "set", "-g", "default-shell", "/bin/sh"]
        subprocess.run([*tmux, *setup, ";", "new", "-d", "-x", str(COLUMNS), "-y", "50", line], check=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            captured = subprocess.run([*tmux, "capture-pane", "-p", "-J", "-S", "-"], capture_output=True, text=True)
            lines = captured.stdout.rstrip().splitlines()
            if DONE in lines:
                return [each.rstrip() for each in lines]
            if lines:  # it has begun, and so the terminal does not show the keys any more
                subprocess.run([*tmux, "send-keys", "Space"], check=True)
            time.sleep(0.05)
        raise TimeoutError(lines[-5:])

    yield shown
    subprocess.run([*tmux, "kill-server"], capture_output=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["doctor", "/nowhere/none"], ["tour", "--step"], ["tour", "--step", "--simulate"]]
)
@pytest.mark.parametrize(
    "prefix", [(), ("setpriv", "--bounding-set=-all", "--inh-caps=-all")], ids=["", "no capability"]
)
def test_nothing_is_wider_than_the_terminal(terminal, arguments, prefix):
    """No line of a report or of the tour is wrapped by the terminal, with capabilities and without."""
    if prefix and (os.getuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("needs CAP_SETPCAP (root), and setpriv installed")
    lines = terminal([*prefix, *COMMAND, *arguments])
    assert len(lines) > 10
    assert [line for line in lines if len(line) > COLUMNS] == []
