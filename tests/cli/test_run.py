"""`rawbpf run`: a compiled C file, loaded, attached and followed, on the command line."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rawbpf.examples
from rawbpf.btf import reader
from rawbpf.btf.reader import vmlinux

pytestmark = [
    pytest.mark.admin,
    pytest.mark.linux("5.8"),
    pytest.mark.real_kernel(reason="programs run in the kernel alone"),
]

EXEC_WATCH = Path(rawbpf.examples.__file__).parent / "exec_watch.bpf.c"
OFFSETS = [
    "--set",
    "real_parent_offset=offsetof(task_struct,real_parent)",
    "--set",
    "tgid_offset=offsetof(struct task_struct, tgid)",
]
Compiled = Callable[["str | Path"], Path]


def command(*arguments: "str | Path") -> list[str]:
    return [sys.executable, "-W", "error", "-m", "rawbpf", "run", *map(str, arguments)]


def run(*arguments: "str | Path") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), capture_output=True, text=True)


def test_prints_what_is_pushed(compiled: Compiled) -> None:
    """Every exec is a line of JSON, by the C type, as it happens; SIGTERM ends it with exit code 0."""
    with subprocess.Popen(
        command(compiled(EXEC_WATCH), *OFFSETS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "rawbpf: on_exec is attached to raw tracepoint 'sched_process_exec'\n"
        pid = os.posix_spawn("/bin/true", ["true"], os.environ)
        os.waitpid(pid, 0)
        # Others run programs too.
        found = next(each for line in process.stdout if (each := json.loads(line))["pid"] == pid)
        assert found == {"pid": pid, "parent": os.getpid(), "command": "true"}
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 0


@pytest.mark.alike
def test_limit_and_json(compiled: Compiled) -> None:
    """--limit ends it, --json makes an object of each value, --print names the queue."""
    with subprocess.Popen(
        command(compiled(EXEC_WATCH), *OFFSETS, "--print", "queue", "--limit", "2", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.readline()
        for _ in range(2):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert [set(json.loads(line)["value"]) for line in lines] == [{"pid", "parent", "command"}] * 2


def test_attach(compiled: Compiled) -> None:
    """--attach takes a program to another place than its section says; where that can't be, the text says why."""
    result = run(compiled("everything"), "--print", "events", "--attach", "on_sleep=kprobe/no_such_function")
    assert result.returncode == 1
    assert result.stderr.startswith("rawbpf: program 'on_sleep': ")
    assert "no_such_function" in result.stderr or "no kprobes" in result.stderr
    assert result.stdout == ""


@pytest.mark.alike
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--print wants the queue or stack to print: the file has events, bytes"),
        (["--print", "nothing"], "there is no queue or stack 'nothing': the file has events, bytes"),
        (["--print", "a_hash_with_a_long_name"], "there is no queue or stack 'a_hash_with_a_long_name'"),
        (["--print", "events", "--attach", "x=y"], "there is no program 'x': the file has"),
        (["--attach", "on_exec"], "'on_exec' is not of the form NAME=VALUE"),
        (["--set", "factor=offsetof(task_struct,nothing)"], "this kernel's BTF has no 'nothing'"),
    ],
)
def test_usage(compiled: Compiled, arguments: list[str], says: str) -> None:
    """What makes no sense is exit code 2, and the text names what there is."""
    result = run(compiled("everything"), *arguments)
    assert result.returncode == 2
    assert says in result.stderr


@pytest.mark.alike
def test_what_is_not_supported(compiled: Compiled) -> None:
    """A file that can't be loaded is exit code 1 and one line with the section."""
    result = run(compiled("not_struct_ops"))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "section '.struct_ops': tables of operations (struct_ops) are not supported" in result.stderr


@pytest.mark.alike
def test_without_pyelftools(compiled: Compiled) -> None:
    """Without the extra the text says what to install, with exit code 2."""
    code = "import sys; sys.modules['elftools.elf.elffile'] = None; from rawbpf.__main__ import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "run", str(compiled("pinned"))], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "rawbpf: reading object files needs pyelftools: pip install 'rawbpf[elf]'\n"


def test_offsets_are_the_kernels() -> None:
    """offsetof() on the command line is what the kernel's BTF says."""
    from rawbpf.cli.arguments import variable

    assert variable(OFFSETS[1]) == ("real_parent_offset", vmlinux().offset_of("task_struct", "real_parent"))


def test_offsets_without_btf(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel without BTF offsetof() is a usage error, not a traceback."""
    from rawbpf.cli.arguments import variable

    monkeypatch.setattr(reader, "vmlinux", lambda: os.stat("/nowhere"))
    with pytest.raises(argparse.ArgumentTypeError, match="this kernel's BTF can't be read"):
        variable(OFFSETS[1])
