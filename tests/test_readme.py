"""The README: its sessions run as printed, its table of errors is true, its commands are the ones CI runs."""

import doctest
import errno
import re
from pathlib import Path

import pytest

import rawbpf
from rawbpf import errors
from rawbpf.abi import Cmd

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not here")


@pytest.mark.creates
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


def test_the_table_of_errors():
    """Each row's errno for its command is the exception that the library raises for it."""
    details = {"subject": "S", "path": "P", "max_entries": 1, "value_size": 1}
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
