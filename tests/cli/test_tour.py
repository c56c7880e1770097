"""`rawbpf tour`: the README's main command, run as a user runs it, on the running and on the simulated kernel."""

import os
import pty
import re
import shutil
import subprocess
import sys
import threading

import pytest

from rawbpf.cli import tour
from rawbpf.maps import bpffs
from tests.conftest import IS_ROOT

COMMAND = [sys.executable, "-m", "rawbpf", "tour"]

# What every tour shows, whoever answers.
SHOWN = (
    '>>> q = Queue(4, 3, name="tour_queue")',
    'map_name="tour_queue",',
    f"     0    4 map_type                  3.18  {(22).to_bytes(4, sys.byteorder).hex()}         BPF_MAP_TYPE_QUEUE",
    "flags=BPF_ANY}, 32) = -1 E2BIG (Argument list too long)",
    "Full: queue 'tour_queue' is full (3 entries)",
    "flags=BPF_EXIST}, 32) = 0",
    ">>> q.peek()\nb'\\x02\\x00\\x00\\x00'",
    ">>> q.pop(), q.pop()\n(b'\\x03\\x00\\x00\\x00', b'\\x04\\x00\\x00\\x00')",
    "flags=BPF_ANY}, 32) = -1 ENOENT (No such file or directory)",
    ">>> s.pop(), s.pop(), s.pop()\n(4, 3, 2)",
    # The bytes behind each value, and the ring: empty, full, and after the oldest element was overwritten.
    "      value -> 03000000 (4 bytes)",
    "|(00000000)|(00000000)|(00000000)|(00000000)|",
    "| 01000000 | 02000000 | 03000000 |(00000000)|",
    "|(01000000)| 02000000 | 03000000 | 04000000 |\n         +----------+----------+----------+----------+\n"
    "             head       tail\n",
)
SHARED = ("BPF_OBJ_PIN", "in process ", "BPF_OBJ_GET", ">>> q.pop()\n42\n")


def run(*arguments: str, before: "tuple[str, ...]" = (), **environment: str) -> str:
    """The tour's output; it must end well and print nothing on stderr."""
    command = [*before, *COMMAND, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert (result.returncode, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= tour.WIDTH
    assert "\x1b" not in result.stdout
    return result.stdout


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="it says which kernel it runs on")
def test_on_the_running_kernel():
    """Each step is there with its result and its system calls, and nothing stays mounted."""
    output = run(TMPDIR="/tmp")  # the path of a longer one takes two lines
    assert f"on the running kernel, Linux {os.uname().release}" in output
    for text in SHOWN + SHARED:
        assert text in output
    [folder] = re.findall(r'pathname="(.*)/tour_queue"', output)[:1]
    assert not os.path.exists(folder)
    assert folder not in bpffs.mounts()


def test_on_the_simulated_kernel():
    """--simulate shows the same on any machine, and says that it is simulated."""
    output = run("--simulate")
    assert "runs on a simulated kernel" in output
    assert "as you asked" in output
    for text in SHOWN + SHARED:
        assert text in output


@pytest.mark.real_kernel(reason="the simulated kernel refuses nobody")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_without_the_privilege():
    """Where the kernel refuses, the tour says what is missing and what would grant it, and is simulated."""
    output = run(before=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    said = " ".join(output.split())
    assert "runs on a simulated kernel" in said
    assert "this process has no CAP_" in said
    assert "docker run --cap-add" in said
    for text in SHOWN + SHARED:
        assert text in output


@pytest.mark.creates
@pytest.mark.linux("5.8")
@pytest.mark.real_kernel(reason="capabilities are the real kernel's")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_with_cap_bpf_alone():
    """CAP_BPF is enough for all but mounting a bpffs and drawing rings, which is said."""
    output = run(before=("setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf"))
    assert "on the running kernel" in output
    assert "mounting a bpffs needs CAP_SYS_ADMIN" in output
    assert output.count("(The ring is not drawn: ") == 1
    assert "CAP_PERFMON" in output
    for text in SHOWN:
        assert text in output or "|" in text


def on_a_terminal(*arguments: str, keys: bytes = b"", **environment: str) -> str:
    """The output on a terminal on which `keys` are typed."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--simulate", *arguments],
        stdin=child,
        stdout=child,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(child)
    killer = threading.Timer(60, process.kill)
    killer.start()
    os.write(parent, keys)
    output = b""
    while True:
        try:
            output += os.read(parent, 4096)
        except OSError:
            break
    os.close(parent)
    assert process.wait() == 0
    killer.cancel()
    return output.decode()


def test_colour_is_for_terminals():
    """On a terminal there is colour, unless NO_COLOR is set or the terminal is dumb."""
    assert "\x1b[1m>>> " in on_a_terminal()
    assert "\x1b" not in on_a_terminal(NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(TERM="dumb")


def test_step_waits_for_a_key():
    """--step shows a prompt and goes on when a key is pressed, after each step; where nobody can press one it does not
    wait. No line is wider than 80 columns."""
    output = on_a_terminal("--step", keys=b" " * 100)
    assert "(4, 3, 2)" in output
    steps = len(tour._QUEUE + tour._STACK + tour._SHARING)
    assert output.count("-- any key goes on, q quits --") == steps
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[\d*[a-zA-Z]", "", output))
    assert max(len(line.strip()) for line in lines) <= 80  # what is typed early is echoed
    assert "(4, 3, 2)" in run("--simulate", "--step")


def test_q_quits():
    """The key q ends the tour after the step that is on the screen; what it had open is closed."""
    output = on_a_terminal("--step", keys=b"  q")
    assert 'q.push(b"\\x03' in output
    assert "BPF_EXIST)" not in output
    assert output.rstrip().endswith("nothing is left behind.")


def test_a_child_that_fails_ends():
    """What is raised in the other process ends it: what comes behind happens in one process only."""
    code = """
import os
from rawbpf.cli import tour
def work(path): raise OSError("no")
try: tour.in_another_process(work, "")
except OSError: pass
os.write(1, b"behind\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "behind\n"
