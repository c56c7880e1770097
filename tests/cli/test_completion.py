"""Completion, as the shells do it."""

import os
import shutil
import subprocess

import pytest

from rawbpf import Queue
from tests.cli.command import COMMAND, run

pytestmark = pytest.mark.alike


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["dr"], ["drain"]),
        (["pi"], ["pin"]),
        (["create", ""], ["queue", "stack"]),
        (["create", "st"], ["stack"]),
        (["create", "queue", "/"], []),
        (["drain", "id:1", "--fo"], ["--follow", "--format"]),
        (["drain", "--limit", "3", "/nowhere"], []),
        (["explain", "map_fr"], ["map_freeze"]),
        (["explain", "pee"], ["peek"]),
        (["explain", "E2"], ["E2BIG"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["nonsense", ""], []),
    ],
)
def test_words(words, found):
    """The words that may come next: commands, options, choices."""
    assert run("completion", "--words", *words).split() == found


@pytest.mark.creates
@pytest.mark.admin
def test_maps(bpf_folder):
    """A map is completed by its pins, its id and its name."""
    with Queue(4, 1, name="completed") as q:
        q.pin(f"{bpf_folder}/completed")
        assert run("completion", "--words", "drain", f"{bpf_folder}/") == f"{bpf_folder}/completed\n"
        assert run("completion", "--words", "unpin", f"{bpf_folder}/") == f"{bpf_folder}/completed\n"
        assert f"id:{q.id}" in run("completion", "--words", "drain", "--limit", "3", "id:").split()
        assert run("completion", "--words", "push", "name:compl") == "name:completed\n"


# Each prints what the shell completes the line in $LINE to.
SHELLS = {
    "bash": r"""
        eval "$(rawbpf completion bash)"
        COMP_LINE=$LINE COMP_POINT=${#LINE}
        _rawbpf
        printf '%s\n' "${COMPREPLY[@]}"
    """,
    "zsh": r"""
        compdef() { :; }
        compadd() { print -l -- "${(@)found}"; }
        eval "$(rawbpf completion zsh)"
        words=("${(@s: :)LINE}") CURRENT=${#${(@s: :)LINE}}
        _rawbpf
    """,
    "fish": r"""
        rawbpf completion fish | source
        complete -C $LINE
    """,
}


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.parametrize("shell", SHELLS)
def test_in_the_shell(shell, bpf_folder):
    """The script makes the shell ask, and offer what was answered."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")

    def completed(line: str) -> list[str]:
        path = f"{os.path.dirname(os.path.abspath(COMMAND[0]))}:{os.environ['PATH']}"
        environment = {**os.environ, "LINE": line, "PATH": path}
        result = subprocess.run([shell, "-c", SHELLS[shell]], env=environment, capture_output=True, text=True)
        return [line.partition("\t")[0] for line in result.stdout.splitlines()]

    with Queue(4, 1, name="completed") as q:
        q.pin(f"{bpf_folder}/completed")
        assert completed("rawbpf dr") == ["drain"]
        assert completed(f"rawbpf drain {bpf_folder}/c") == [f"{bpf_folder}/completed"]
        # bash takes what follows the colon as a word of its own.
        assert completed("rawbpf drain name:compl") == ["completed" if shell == "bash" else "name:completed"]
