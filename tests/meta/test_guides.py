"""The guides in rawbpf/docs: their sessions run as printed, and their tables are true."""

import ast
import errno
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rawbpf
from rawbpf.abi import Cmd, MapType
from rawbpf.syscall import errors
from tests.meta.markdown import GUIDES, ROOT, blocks, run_sessions, run_shell

pytestmark = pytest.mark.alike

FOLDER = Path(rawbpf.__file__).parent


def guide(name: str) -> str:
    return (FOLDER / "docs" / f"{name}.md").read_text()


@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs, BTF and maps with keys are the kernel's alone")
@pytest.mark.parametrize("page", [each for each in GUIDES if blocks(each, "pycon")], ids=lambda page: page.stem)
def test_sessions(page):
    """Every pycon block gives what the guide prints."""
    run_sessions(page)


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs")
@pytest.mark.parametrize("page", [each for each in GUIDES if blocks(each, "console")], ids=lambda page: page.stem)
def test_shell_sessions(page, bpf_folder):
    """Every command prints what the guide says, but for the id; the pins are elsewhere."""
    run_shell(page, bpf_folder)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_blocks_are_of_a_known_language(page):
    """A block is run, compiled or compared by a test, or it is text: no other language is in a guide."""
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"pycon", "console", "text", "c"}
    assert not any(fences[1::2])


def test_the_table_of_errors():
    """Each row's errno for its command is the exception that the library raises for it."""
    details = {"subject": "S", "path": "P", "max_entries": 1, "value_size": 1}
    command, checked = None, 0
    for row in re.findall(r"^\|(.*)\|$", guide("errors"), re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != 4:
            continue
        named = re.search(r"`(BPF_\w+)`", cells[1])
        command = Cmd[named[1]] if named else Cmd.BPF_MAP_LOOKUP_ELEM if "push`, `peek" in cells[0] else command
        exception = re.match(r"`(\w+)`", cells[3])
        for name in re.findall(r"\bE[A-Z0-9]+\b", cells[2].partition(":")[0]):
            about = {"about": MapType.BPF_MAP_TYPE_QUEUE} if command.name.startswith("BPF_MAP_") else {}
            error = errors.bpf_error(command, getattr(errno, name), **about, **details)
            assert type(error) is getattr(rawbpf, exception[1]), (command, name)
            checked += 1
    assert checked > 15


def test_every_error_is_in_its_guide():
    """The table of exceptions names every class of the family, and its bases."""
    for name in rawbpf.__all__:
        kind = getattr(rawbpf, name)
        if inspect.isclass(kind) and issubclass(kind, rawbpf.BpfError):
            assert f"`{name}`" in guide("errors"), name


def test_every_command_is_in_the_guide():
    """The table of commands misses none."""
    listed = subprocess.run([sys.executable, "-m", "rawbpf", "--help"], capture_output=True, text=True).stdout
    names = re.findall(r"^    (\w+) ", listed, re.MULTILINE)
    assert len(names) > 15
    for name in names:
        assert re.search(rf"`{name}\b", guide("shell")), name


def test_every_folder_is_in_the_source_tour():
    """The table of folders says of each what its own docstring says first, and names no other."""
    table = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", guide("source-tour"), re.MULTILINE))
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert set(table) == folders
    for name, text in table.items():
        docstring = inspect.getdoc(importlib.import_module(f"rawbpf.{name}"))
        assert docstring, name
        assert text == docstring.partition("\n\n")[0].replace("\n", " "), name


def test_every_file_of_the_source_tour_is_there():
    """What the tour through the source names as a file exists, and has the function that it names there."""
    named = re.findall(r"`(rawbpf/[\w/]+\.(?:py|c|h))`(?:, `(\w+)\(\)`)?", guide("source-tour"))
    assert len(named) > 5
    for file, function in named:
        text = (FOLDER.parent / file).read_text()
        assert not function or re.search(rf"\b{function}\(", text), (file, function)


@pytest.mark.skipif(not (ROOT / "tests" / "meta").exists(), reason="by design: the tests are not beside the source")
def test_every_claim_has_its_test():
    """What others lack: the test that holds each line is there, by its name."""
    table = re.findall(r"^\| (?!rawbpf|---)(.*) \|$", guide("comparison"), re.MULTILINE)
    named = [re.search(r"`(\w+/test_\w+\.py)((?:::\w+)*)`$", row) for row in table]
    assert len(named) > 10
    for row, test in zip(table, named, strict=True):
        assert test, row
        tree: list[ast.stmt] = ast.parse((ROOT / "tests" / test[1]).read_text()).body
        for name in test[2].split("::")[1:]:
            [found] = [n for n in tree if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
            tree = found.body
