"""README.md: short, its sessions run as printed, its commands are the ones CI runs, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from tests.conftest import TOOLS_REQUIRED
from tests.meta.markdown import GUIDES, README, ROOT, blocks, run_sessions, run_shell

pytestmark = [pytest.mark.alike, pytest.mark.skipif(not README.exists(), reason="the README is not here")]

# Other pages that a reader is sent to, which stand beside what they are about.
PAGES = (README, *GUIDES, ROOT / "SECURITY.md", ROOT / "tests/README.md", ROOT / "tests/harness/benchmarks/README.md")


def test_it_is_short():
    """The README has at most 250 lines."""
    assert len(README.read_text().splitlines()) <= 250


@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs and BTF are the kernel's alone")
def test_sessions():
    """Every pycon block gives what the README prints."""
    assert len(blocks(README, "pycon")) >= 3
    run_sessions(README)


@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs run in the kernel alone")
def test_from_a_program_to_python(tmp_path):
    """The C program, compiled by the README's command, and the README's Python print an exec as it happens."""
    [program] = blocks(README, "c")
    [compile_it] = re.findall(r"^    (clang .*)$", README.read_text(), re.MULTILINE)
    [script] = [block for block in blocks(README, "python") if "ObjectFile" in block]
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


def test_the_users_own_tests(tmp_path):
    """The README's test file passes as it stands, for any user."""
    [example] = [block for block in blocks(README, "python") if "def test_" in block]
    (tmp_path / "test_own.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="programs")
def test_the_shell_session(bpf_folder):
    """Every command prints what the README says, but for the id; the pins are elsewhere."""
    run_shell(README, bpf_folder)


def test_the_two_commands():
    """The README has two commands to set up, for the tour and for the tests: CI and tests.harness.roots run both.

    The first installs in place: python in the project's own folder finds the folder rawbpf first.
    """
    tour, tests = re.findall(r"^    (python3 -m venv .*)$", README.read_text(), re.MULTILINE)
    assert "pip install -e ." in tour
    assert tour.endswith("rawbpf tour")
    assert tests.endswith("pytest")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Each link of a page is a web address, or a file that is there."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_leads_to_every_guide():
    """No guide is left out."""
    for guide in GUIDES:
        assert f"(rawbpf/docs/{guide.name})" in README.read_text(), guide.name


def test_security_names_tests_that_are_there():
    """Each test that SECURITY.md names exists."""
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 20
    for file, name in named:
        source = (ROOT / "tests" / file).read_text()
        assert not name or f"def {name}(" in source, (file, name)
