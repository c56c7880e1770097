"""`rawbpf learn`: what a learner sees, progress that is kept, and the notebook with the same exercises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rawbpf.cli import learn
from rawbpf.observe.lessons import lessons
from tests.cli.command import COMMAND, run
from tests.conftest import IS_ROOT

pytestmark = pytest.mark.alike

NOTEBOOK = Path(learn.__file__).parents[1] / "docs" / "learn.ipynb"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of the learner's own: for the files, and for the progress."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RAWBPF_SIMULATE", str(tmp_path / "kernel"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list():
    """All exercises are listed with their numbers, and which is next."""
    listed = run("learn")
    assert listed.startswith("exercises, 0 of 10 done:")
    for lesson in lessons():
        assert re.search(rf"^ +{lesson.number}  {re.escape(lesson.title)}$", listed, re.MULTILINE)
    assert listed.endswith("next: rawbpf learn 1\n")


@pytest.mark.parametrize("number", range(1, 11))
def test_an_exercise_fits_the_screen(number):
    """What to do, and the four commands that go on from there, in 80 columns and on one screen."""
    shown = run("learn", number)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert len(shown.splitlines()) <= 35
    for option in ("--start", "--check", "--hint", "--solution"):
        assert f"rawbpf learn {number} {option}" in shown
    for text in (run("learn", number, "--hint"), run("learn", number, "--solution")):
        assert all(len(line) <= 90 for line in text.splitlines())


def test_from_the_start_to_the_solution(home):
    """The program is written once and not overwritten; it is not right as it is; the solution is, and that is kept."""
    assert "learn2.py is written" in run("learn", 2, "--start")
    file = home / "learn2.py"
    assert "rawbpf learn 2 --check" in file.read_text()
    before = file.read_text()
    assert "exists and is left as it is" in run("learn", 2, "--start", code=2)
    assert file.read_text() == before
    result = subprocess.run([*COMMAND, "learn", "2", "--check"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("Not yet, on the simulated kernel.\nNo push was answered E2BIG.")
    file.write_text(lessons()[1].solution)
    passed = run("learn", 2, "--check")
    assert "Right, on the simulated kernel." in passed and passed.endswith("next: rawbpf learn 1\n")
    assert re.search(r"^  done   2 ", run("learn"), re.MULTILINE)
    for lesson in lessons():
        file.write_text(lesson.solution)
        passed = run("learn", lesson.number, "--check", "learn2.py")
    assert "All are done." in passed
    assert "10 of 10 done" in run("learn")


def test_hints_come_one_by_one():
    """Each call shows one hint more, and after the last that there are no more; what was shown is kept."""
    hints = lessons()[3].hints
    for number in (1, 2, 3, 3):
        shown = run("learn", 4, "--hint")
        assert f"{number} of {len(hints)} hints" in shown
        assert shown.count("\n1. ") + shown.startswith("1. ") == 1
        assert (f"{number + 1}. " in shown) is False
    assert "there are no more" in shown


def test_what_is_asked_wrongly():
    """A number that there is not, no number, two ways at once, a file that is not there: usage errors that say so."""
    assert "there is no exercise 11: they go from 1 to 10" in run("learn", 11, code=2)
    assert "which exercise?" in run("learn", "--hint", code=2)
    assert "not allowed with" in run("learn", 1, "--hint", "--solution", code=2)
    assert "there is no learn1.py: rawbpf learn 1 --start writes it" in run("learn", 1, "--check", code=2)


def test_progress_that_can_not_be_kept(home, monkeypatch):
    """A folder that can't be made, and a file with something else in it, cost the progress and nothing more."""
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
    done = subprocess.run([*COMMAND, "learn", "1", "--hint"], capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 2 hints" in done.stdout
    assert "progress is not kept" in done.stderr
    for text in ("", "[]", '{"done": 3, "hints": []}', '{"done": [], "hints": {"by-hand": "x"}}', "\0"):
        monkeypatch.setenv("XDG_STATE_HOME", str(home))
        kept = home / "rawbpf" / "learn.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(text)
        assert run("learn").startswith("exercises, 0 of 10 done")


def test_a_program_that_crashes_or_prints(home):
    """What a program prints comes first; a crash ends the command with the signal, as in a shell."""
    (home / "p.py").write_text("print('printed')\n")
    done = subprocess.run([*COMMAND, "learn", "1", "--check", "p.py"], capture_output=True, text=True)
    assert done.stdout.startswith("printed\nNot yet")


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="it is asked, and says no")
@pytest.mark.skipif(not IS_ROOT, reason="needs CAP_SETPCAP (root)")
def test_without_privilege_it_is_simulated(home, monkeypatch):
    """Where the kernel refuses this process the check runs on the simulated one, and says so."""
    monkeypatch.delenv("RAWBPF_SIMULATE")
    (home / "p.py").write_text(lessons()[0].solution)
    assert "Right, on the running kernel." in run("learn", 1, "--check", "p.py")
    assert "Right, on the simulated kernel." in run("learn", 1, "--check", "p.py", "--simulate")
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert "Right, on the simulated kernel." in run("learn", 1, "--check", "p.py", prefix=without)


# The notebook


def test_the_notebook_has_the_same_exercises(home):
    """docs/learn.ipynb is what `rawbpf learn --notebook` writes: one text, not two."""
    run("learn", "--notebook", "n.ipynb")
    assert (home / "n.ipynb").read_text() == NOTEBOOK.read_text(), "rawbpf learn --notebook rawbpf/docs/learn.ipynb"
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert len(cells) == 2 + 2 * len(lessons())


def executed(home: Path, notebook: dict) -> list[str]:
    """What the cells with programs print."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it comes with rawbpf[test-all]")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with rawbpf[test-all]")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with rawbpf[test-all]")
    path = home / "given.ipynb"
    path.write_text(json.dumps(notebook))
    # A process of its own: nbclient brings threads and warnings that are not ours.
    code = (
        "import sys, nbformat; from nbclient import NotebookClient;"
        "book = nbformat.read(sys.argv[1], 4);"
        "NotebookClient(book, timeout=60, kernel_name='python3').execute(); nbformat.write(book, sys.argv[1])"
    )
    environment = os.environ | {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert nbclient and nbformat
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(output["output_type"] == "stream" for cell in cells for output in cell["outputs"])
    return ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells[1:]]


def test_the_notebook_runs(home):
    """Every cell of it runs as it is: each exercise says that it is not yet right."""
    printed = executed(home, json.loads(NOTEBOOK.read_text()))
    assert len(printed) == len(lessons())
    for text in printed:
        assert "Not yet, on the simulated kernel." in text


def test_the_notebook_with_the_solutions(home):
    """With the solutions in its cells each is right; the magic shows hints and solutions, and says when one crashes."""
    notebook = json.loads(NOTEBOOK.read_text())
    programs = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][1:]
    for cell, lesson in zip(programs, lessons(), strict=True):
        cell["source"] = f"%%exercise {lesson.number}\n{lesson.solution}"
    more = ["%%exercise 2 --hint\n\n", "%%exercise 2 --solution\n\n", "%%exercise 1\nimport os\nos.abort()\n"]
    for number, text in enumerate(more):
        notebook["cells"].append({**programs[0], "id": f"more-{number}", "source": text})
    printed = executed(home, notebook)
    assert all("Right, on the simulated kernel." in text for text in printed[:10])
    assert "1 of 2 hints" in printed[10]
    assert "BPF_EXIST" in printed[11]
    assert "The program crashed (signal 6)" in printed[12]
