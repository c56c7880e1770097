"""The README: its sessions run as printed, its table of errors is true, its commands are the ones CI runs."""

import ast
import doctest
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rawbpf
from rawbpf.abi import Cmd, MapType
from rawbpf.syscall import errors
from tests.conftest import TOOLS_REQUIRED

README = Path(__file__).parents[2] / "README.md"
pytestmark = [pytest.mark.alike, pytest.mark.skipif(not README.exists(), reason="the README is not here")]


@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs and BTF are the kernel's alone")
def test_sessions():
    """Every pycon block gives what the README prints."""
    blocks = re.findall(r"```pycon\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    source = "\n".join(blocks)
    test = doctest.DocTestParser().get_doctest(source, {}, "README.md", str(README), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs run in the kernel alone")
def test_from_a_program_to_python(tmp_path):
    """The C program, compiled by the README's command, and the README's Python print an exec as it happens."""
    text = README.read_text()
    [program] = re.findall(r"```c\n(.*?)```", text, re.DOTALL)
    [compile_it] = re.findall(r"^    (clang .*)$", text, re.MULTILINE)
    [script] = re.findall(r"```python\n(from rawbpf import ObjectFile.*?)```", text, re.DOTALL)
    assert len(program.splitlines()) + len(script.splitlines()) <= 30
    (tmp_path / "events.bpf.c").write_text(program)
    if shutil.which("clang") or TOOLS_REQUIRED:
        subprocess.run(compile_it, shell=True, check=True, cwd=tmp_path)
    else:
        pytest.skip("clang is not installed")
    pids, over = [], threading.Event()

    def execute() -> None:
        # Again and again: until the program is attached, execs go unseen.
        while not over.wait(0.1):
            pids.append(os.posix_spawn("/bin/true", ["true"], os.environ))
            os.waitpid(pids[-1], 0)

    executing = threading.Thread(target=execute)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        executing.start()
        try:
            # Others on this machine execute programs as well.
            assert any(line.split() in ([str(pid), "true"] for pid in pids) for line in process.stdout)
        finally:
            over.set()
            executing.join()
            process.kill()


def test_the_table_of_errors():
    """Each row's errno for its command is the exception that the library raises for it."""
    details = {"subject": "S", "path": "P", "max_entries": 1, "value_size": 1, "about": MapType.BPF_MAP_TYPE_QUEUE}
    command, checked = None, 0
    for row in re.findall(r"^\|(.*)\|$", README.read_text(), re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != 4:
            continue
        named = re.search(r"`(BPF_\w+)`", cells[1])
        command = Cmd[named[1]] if named else Cmd.BPF_MAP_LOOKUP_ELEM if "push`, `peek" in cells[0] else command
        exception = re.match(r"`(\w+)`", cells[3])
        for name in re.findall(r"\bE[A-Z0-9]+\b", cells[2].partition(":")[0]):
            error = errors.bpf_error(command, getattr(errno, name), **details)
            assert type(error) is getattr(rawbpf, exception[1]), (command, name)
            checked += 1
    assert checked > 15


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs")
def test_the_shell_session(bpf_folder, monkeypatch):
    """Every command prints what the README says, but for the id; the pins are elsewhere."""
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
    [block] = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    assert len(steps) > 6
    for command, printed in steps:
        here = ["bash", "-c", command.replace("/sys/fs/bpf", bpf_folder)]
        result = subprocess.run(here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = re.sub(r"id \d+", "id 294", result.stdout.replace(bpf_folder, "/sys/fs/bpf"))
        assert output == printed, command


def test_every_command_is_in_the_readme():
    """The table of commands misses none."""
    listed = subprocess.run([sys.executable, "-m", "rawbpf", "--help"], capture_output=True, text=True).stdout
    for name in re.findall(r"^    (\w+) ", listed, re.MULTILINE):
        assert re.search(rf"`(rawbpf )?{name}\b|rawbpf {name}\b", README.read_text()), name


def test_every_claim_has_its_test():
    """What others have not: the test that holds each line is there, by its name."""
    [chapter] = re.findall(r"## What others have not\n(.*?)\n## ", README.read_text(), re.DOTALL)
    named = re.findall(r"`(\w+/test_\w+\.py)((?:::\w+)*)` \|$", chapter, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\| (?!rawbpf|---)", chapter, re.MULTILINE)) > 10
    for file, names in named:
        tree: list[ast.stmt] = ast.parse((README.parent / "tests" / file).read_text()).body
        for name in names.split("::")[1:]:
            [found] = [n for n in tree if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
            tree = found.body
