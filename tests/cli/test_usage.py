"""What the command says of itself and of a call that makes no sense, and how Ctrl-C ends it, whenever it comes."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rawbpf
from rawbpf import Queue
from rawbpf.observe.wording import escaped
from tests.cli.command import COMMAND, run
from tests.conftest import rounds

pytestmark = pytest.mark.alike

HOSTILE = "a\x1b[2J\x9bb\u202ec\x07"
SHOWN = "a\\x1b[2J\\x9bb\\u202ec\\x07"


def test_without_a_command():
    """`rawbpf` alone prints the commands and examples, with exit code 2."""
    text = run(code=2)
    assert "  drain " in text
    assert "examples:\n  rawbpf tour " in text
    assert text.endswith("rawbpf: a command is needed\n")


@pytest.mark.parametrize(("typed", "meant"), [("dran", "drain"), ("lst", "list"), ("qqqq", None)])
def test_a_mistyped_command(typed, meant):
    """The nearest command is suggested, and else the help."""
    hint = f"did you mean {meant!r}?" if meant else "see rawbpf --help"
    assert run(typed, code=2) == f"rawbpf: there is no command {typed!r}: {hint}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pop", "/nowhere", "--cuont", "3"], "there is no option '--cuont': did you mean '--count'?"),
        (["doctor", "--requir3=create"], "there is no option '--requir3': did you mean '--require'?"),
        (["--versoin"], "there is no option '--versoin': did you mean '--version'?"),
        (["pop", "/nowhere", "--qqqq"], "there is no option '--qqqq': see rawbpf pop --help"),
        (["pop", "/nowhere", "/again"], "unrecognized arguments: /again"),
    ],
)
def test_a_mistyped_option(arguments, says):
    """The nearest option of the command is suggested, and else its help; the usage is that of the command."""
    text = run(*arguments, code=2)
    assert text.endswith(f"rawbpf: {says}\n")
    assert text.startswith("usage: rawbpf" if arguments[0].startswith("-") else f"usage: rawbpf {arguments[0]} ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["push", "/nowhere"], "the following arguments are required: VALUE"),
        (["pop", "/nowhere", "--count", "0"], "argument -n/--count: '0' is not a number above 0"),
        (["peek", "/nowhere", "--hex", "--raw"], "not allowed with argument"),
        (["create", "queue", "/nowhere", "--entries", "1"], "create wants one of --value-size and --format"),
        (["dran"], "did you mean 'drain'?"),
    ],
)
def test_usage_errors_are_json_too(arguments, says):
    """With --json an error of usage is one JSON object on stderr, and nothing else; without it there is text."""
    assert says in json.loads(run(*arguments, "--json", code=2))["error"]
    assert f"rawbpf: {says}"[:8] in run(*arguments, code=2)


def test_usage_shows_how_the_command_is_called():
    """An error of usage shows the usage of the command that was meant."""
    assert run("push", "/nowhere", code=2).startswith("usage: rawbpf push [-h]")


# Text that comes from outside


def test_escaped():
    """Everything that is no printable character is shown as Python writes it; newline and tab stay."""
    assert escaped(HOSTILE) == SHOWN
    assert escaped("größe 龍\n\tx\udcff\r\x7f") == "größe 龍\n\tx\\xff\\r\\x7f"
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character not in "\n\t":
            assert escaped(character).isprintable()
            assert (escaped(character) == character) == character.isprintable()


@pytest.mark.creates
@pytest.mark.admin
def test_names_with_escape_sequences(bpf_folder, tmp_path):
    """Paths and names that come from outside are shown escaped, in output and in errors."""
    path = f"{bpf_folder}/{HOSTILE}"
    outputs = [
        run("create", "queue", path, "--value-size", "4", "--entries", "1"),
        run("create", "queue", path, "--value-size", "4", "--entries", "1", code=1),
        run("show", f"{bpf_folder}/{HOSTILE}x", code=1),
        run("show", f"name:{HOSTILE}", code=1),
        run("run", tmp_path / HOSTILE, code=1),
        run(HOSTILE, code=2),
        run("explain", HOSTILE, code=1),
        run("push", path, HOSTILE, code=2),
        run("push", path, "--format", HOSTILE, "1", code=2),
        run("show", path, "--interval", HOSTILE, code=2),
        run("peek", path, "--trace", code=3),
        run("list"),
    ]
    for text in outputs:
        assert not re.search("[^\n\t -~]", text), text
    assert SHOWN in outputs[0]


def test_all_text_leaves_at_one_place():
    """No module of the command line but output.py prints, or writes to stdout or stderr as text."""
    folder = Path(rawbpf.__file__).parent / "cli"
    prints = re.compile(r"(?<![\w.])print\(|std(out|err)\.write\(")
    assert {path.name for path in folder.glob("*.py") if prints.search(path.read_text())} == {"output.py"}


# Signals at any moment


def test_ctrl_c_at_any_moment():
    """SIGINT ends a command without a traceback, also while it still imports the modules of the command line. What
    happens before main(), while Python starts and imports `rawbpf` itself, is Python's to report."""
    chance = random.Random(1)
    codes = set()
    began = time.monotonic()
    subprocess.run([*COMMAND, "explain", "map_create"], capture_output=True)
    whole = time.monotonic() - began
    for _ in rounds(lambda: 130 in codes):
        process = subprocess.Popen([*COMMAND, "explain", "map_create"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(chance.random() * whole)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert b"__main__.py" not in errors
        codes.add(process.returncode)
    assert codes <= {0, 130, -signal.SIGINT, 1}


@pytest.mark.creates
@pytest.mark.admin
def test_ctrl_c_while_it_waits(bpf_folder):
    """A push that waits for room ends with 130 and without a word."""
    with Queue(4, 1) as q:
        q.pin(f"{bpf_folder}/q")
        q.push(bytes(4))
        command = [*COMMAND, "push", f"{bpf_folder}/q", "1", "--wait"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while "sleep" not in Path(f"/proc/{process.pid}/wchan").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert (*process.communicate(), process.returncode) == (b"", b"", 130)
