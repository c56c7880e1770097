"""`rawbpf top`, in a terminal of 80 columns (tmux) and without one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rawbpf import BPF_EXIST, Queue, RingBuffer, Stack
from rawbpf.cli import top
from rawbpf.maps.listing import list_maps
from rawbpf.maps.positions import TYPES
from tests.cli.command import run
from tests.conftest import SLOWNESS, TOOLS_REQUIRED

pytestmark = [
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.linux("5.9"),
    pytest.mark.real_kernel(reason="programs look into the maps"),
]


PREFIX = f"top{os.getpid()}_"
NAMES = ("queue", "stack", "ring")


@pytest.fixture
def maps():
    """A queue that is three quarters full, a full stack, a ring buffer."""
    with (
        Queue(4, 200_000, name=f"{PREFIX}queue") as q,
        Stack(4, 10, name=f"{PREFIX}stack") as s,
        RingBuffer(4096, name=f"{PREFIX}ring"),
    ):
        q.push_many(bytes(4 * 150_000))
        s.push_many(bytes(40))
        yield q, s
    # The kernel frees a map some time after its last descriptor was closed.
    end = time.monotonic() + 10 * SLOWNESS
    while any(info.name.startswith(PREFIX) for info in list_maps(*TYPES)):
        assert time.monotonic() < end
        time.sleep(0.01)


class Terminal:
    """A tmux of our own with one window, in which a shell runs."""

    def __init__(self, folder: Path, columns: int = 80, lines: int = 24) -> None:
        self.socket = folder / "tmux"
        script = folder / "top.py"
        script.write_text(SCRIPT)
        self.top = f"{sys.executable} {script} {PREFIX}"
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), "env PS1='shell> ' sh")

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", os.devnull, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait_for(self, text: str) -> str:
        """The screen, as soon as the pattern is on it."""
        return self.wait_until(lambda shown: re.search(text, shown, re.MULTILINE) is not None)

    def wait_until(self, right: Callable[[str], bool]) -> str:
        """The screen, as soon as it is right."""
        end = time.monotonic() + 10 * SLOWNESS
        while not right(shown := self.screen()):
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return shown


@pytest.fixture
def terminal(tmp_path):
    if shutil.which("tmux") is None and not TOOLS_REQUIRED:
        pytest.skip("tmux is not installed")
    made = Terminal(tmp_path)
    try:
        made.wait_for("^shell>")
        yield made
    finally:
        made.tmux("kill-server")


# Only the maps of this process are shown: others come and go meanwhile.
SCRIPT = """
import sys
from rawbpf.cli import main, top
all_maps = top.list_maps
top.list_maps = lambda *types: (info for info in all_maps(*types) if info.name.startswith(sys.argv[1]))
sys.exit(main.main(["top", "--interval", "0.5"]))
"""
FOOTER = "^q quit"


def start(terminal):
    terminal.type(
        f"stty -a >{terminal.socket}.before; {terminal.top}; echo ended $?; stty -a >{terminal.socket}.after", "Enter"
    )
    return terminal.wait_for(FOOTER)


def assert_restored(terminal):
    """The shell's screen is back, and the terminal's settings are those of before."""
    shown = terminal.wait_for("^ended 0(?s:.*)^shell>")
    assert not re.search(FOOTER, shown, re.MULTILINE)
    terminal.type("echo visible", "Enter")
    terminal.wait_for("^visible")
    # The first line has the size.
    settings = [Path(f"{terminal.socket}.{when}").read_text().partition("\n")[2] for when in ("before", "after")]
    assert settings[0] == settings[1]
    assert terminal.tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}").split() == ["1", "0"]


def test_in_80_columns(maps, terminal):
    """Every map has one line of at most 80 columns, with its bar; the fullest come first; q ends it, and the terminal
    is as it was."""
    lines = start(terminal).splitlines()
    assert max(map(len, lines)) <= 80
    queue, stack, ring = (next(line for line in lines if f" {PREFIX}{name} " in line) for name in NAMES)
    assert re.search(rf"queue +{PREFIX}queue +\[\|+ +75%\] +150K/200K( +\d+ +\d+)?$", queue)
    assert re.search(rf"stack +{PREFIX}stack +\[\|+100%\] +10/10\b", stack)
    assert re.search(rf"ringbuf +{PREFIX}ring +\[ +0%\] +0/4096\b", ring)
    assert lines.index(stack) < lines.index(queue) < lines.index(ring)
    terminal.type("q")
    assert_restored(terminal)


def test_keys_sort(maps, terminal):
    """i, n, r and f sort by id, name, rate and fill, at once."""
    start(terminal)
    found = {}
    for key, order in (("i", "id"), ("n", "name"), ("r", "rate"), ("f", "fill")):
        terminal.type(key)
        shown = terminal.wait_for(f"sorted by {order}$")
        found[order] = re.findall(f" {PREFIX}(queue|ring|stack) ", shown)
    # The queue was made first, then the stack, then the ring buffer.
    assert found["id"] == ["queue", "stack", "ring"]
    assert found["name"] == ["queue", "ring", "stack"]
    assert found["fill"] == ["stack", "queue", "ring"]
    terminal.type("q")
    assert_restored(terminal)


@pytest.mark.parametrize(("columns", "lines"), [(60, 10), (132, 30), (30, 5)])
def test_another_size(maps, terminal, columns, lines):
    """When the terminal becomes larger or smaller, the lines fit it again; what there is no room for is counted."""
    start(terminal)
    terminal.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def fits(screen):
        shown = screen.splitlines()
        return (
            shown[0] == "rawbpf top   3 maps, 1 full, sorted by fill"[:columns].rstrip()
            and shown[1].split()[:3] == ["ID", "TYPE", "NAME"]
            and top._FOOTER[:columns].rstrip() in shown
            and max(map(len, shown)) <= columns
            and any("more" in line for line in shown) == (lines == 5)
            and any("|100%]" in line for line in shown) == (columns > 70)
        )

    terminal.wait_until(fits)
    terminal.type("q")
    assert_restored(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_restore_the_terminal(maps, terminal, number):
    """SIGTERM, SIGINT and SIGHUP end it as q does."""
    start(terminal)
    os.kill(process_in(terminal), number)
    assert_restored(terminal)


def process_in(terminal):
    """The process that the terminal's shell has started."""
    shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
    [pid] = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(pid)


def test_stopped_and_continued(maps, terminal):
    """Ctrl-Z gives the terminal back to the shell, and fg takes it again."""
    terminal.type(f"stty -a >{terminal.socket}.before", "Enter")
    terminal.type(terminal.top, "Enter")
    terminal.wait_for(FOOTER)
    terminal.type("C-z")
    terminal.wait_for("Stopped")
    terminal.type("echo visible", "Enter")
    terminal.wait_for("^visible")
    terminal.type("clear; fg; echo ended $?; echo stty -a; stty -a >" + f"{terminal.socket}.after", "Enter")
    terminal.wait_for(FOOTER)
    terminal.type("q")
    assert_restored(terminal)


def test_an_error_restores_the_terminal(maps, terminal):
    """Whatever is raised while the screen is ours, the terminal is restored, and the error is on the shell's screen."""
    script = Path(f"{terminal.socket}.py")
    script.write_text(
        "import sys\n"
        "from rawbpf.cli import top\n"
        "looked = []\n"
        "def maps(found=top.list_maps):\n"
        "    looked.append(1)\n"
        "    if len(looked) == 3: raise MemoryError('no more')\n"
        "    return found(*top.TYPES)\n"
        "top.list_maps = lambda *types: maps()\n"
        "try: top.run(0.5)\n"
        "except MemoryError as error: print('ended 0', error)\n"
    )
    terminal.type(
        f"stty -a >{terminal.socket}.before; {sys.executable} {script}; stty -a >{terminal.socket}.after", "Enter"
    )
    terminal.wait_for("^ended 0 no more")
    assert_restored(terminal)


# Without a terminal


def test_one_plain_table(maps):
    """Where stdout is no terminal there is one table, without an escape sequence."""
    q, _ = maps
    printed = run("top", "--interval", "0.5")
    assert "\x1b" not in printed
    assert re.search(rf"^ *{q.id}  queue +{PREFIX}queue +75% +150K/200K +0 +0$", printed, re.MULTILINE)


def test_rates(maps):
    """What came and went while it looked is shown, as so many in a second: of a queue pops and overwritten elements."""
    q, _ = maps
    _, looks = top._rows({})
    q.pop_many(30)
    q.push_many(bytes(4 * 20))
    q.push(bytes(4), BPF_EXIST)
    time.sleep(0.1)
    [row] = [row for row in top._rows(looks)[0] if row.id == q.id]
    assert row.size == 150_000 - 30 + 21
    assert row.came / row.went == pytest.approx(21 / 30)
    assert 0 < row.came <= 21 / 0.1


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (99_999, "99999"), (99_999.6, "100K"), (123_456, "123K"), (1 << 30, "1074M"), (1.5e13, "15000G")],
)
def test_numbers_are_short(number, shown):
    """Numbers have at most five digits."""
    assert top._short(number) == shown


def test_maps_are_not_kept_alive(maps, terminal):
    """A map that its owner closes is freed while top goes on looking."""
    with Queue(4, 4, name=f"{PREFIX}short"):
        start(terminal)
        terminal.wait_for(f" {PREFIX}short .* 0/4 +0 +0$")
    terminal.wait_until(lambda shown: f"{PREFIX}short" not in shown)


def test_too_often(maps):
    """Looks that follow too soon would keep maps alive, and are refused."""
    assert "less than 0.5" in run("top", "--interval", "0.4", code=2)
