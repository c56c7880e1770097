"""What the tests of README.md and of the guides share: finding the blocks in a page, and running them."""

import doctest
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HAS_NUMPY = find_spec("numpy") is not None
GUIDES = sorted((ROOT / "rawbpf" / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The text between the fences of one language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def run_sessions(page: Path) -> None:
    """Runs the pycon blocks as one session: each expression must print what the page says."""
    # Some machines of tests.harness have no numpy.
    found = [each for each in blocks(page, "pycon") if HAS_NUMPY or "import numpy" not in each]
    source = "\n".join(found)
    test = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def run_shell(page: Path, bpf_folder: str) -> None:
    """Runs the commands of the console blocks: each must print what the page says, but for ids. Pins are made in
    `bpf_folder`."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in blocks(page, "console"):
        steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
        assert steps
        for command, printed in steps:
            here = ["bash", "-c", command.replace("/sys/fs/bpf", bpf_folder)]
            result = subprocess.run(
                here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
            )
            output = re.sub(r"id \d+", "id 294", result.stdout.replace(bpf_folder, "/sys/fs/bpf"))
            assert output == printed, command
