"""`python -m tests.harness.privileges [--only NAME] [pytest arguments]`: the suite as each kind of user there is.

As root it runs the tests as root, as root with CAP_BPF alone, as an ordinary user, as root of a new user
namespace, and as an ordinary user on the simulated kernel; prints a table, and every reason for a skip. Ends with 1 if
a test fails, or if one is skipped that the privilege there would permit.

Other users can't read a home folder: the tests run from a copy, in a virtual environment made with the system's Python.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NOBODY = "65534"
PYTHON = "/usr/bin/python3"


class User(NamedTuple):
    """How to become somebody, with what in the environment, and what reasons for skips are all right there."""

    prefix: tuple[str, ...]
    environment: dict[str, str]
    reasons: str


_DESIGN = r"by design|this kernel refuses|not installed|could not import|source tree|README is not here|no C compiler"
_ORDINARY = rf"{_DESIGN}|needs (root|CAP_)|CAP_PERFMON|CAP_BPF"

_NO_GROUPS = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")

USERS = {
    "root": User((), {"RAWBPF_REQUIRE_KERNEL": "1"}, _DESIGN),
    "root with CAP_BPF alone": User(("setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf"), {}, _ORDINARY),
    "ordinary user": User(_NO_GROUPS, {}, _ORDINARY),
    "user namespace": User((*_NO_GROUPS, "unshare", "--user", "--map-root-user"), {}, _ORDINARY),
    "ordinary user, simulated": User(_NO_GROUPS, {"RAWBPF_SIMULATE": "1"}, _ORDINARY),
}

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")
_SKIP = re.compile(r"^SKIPPED \[(\d+)\] \S+: (.*)$", re.MULTILINE)


def installed(folder: Path) -> Path:
    """A copy of the project in `folder`, with a virtual environment that everybody may use; returns its Python."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(tracked).split("\0")):
        if (ROOT / name).is_file():
            target = folder / "project" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    subprocess.run([PYTHON, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--editable", f"{folder}/project[test]"]
    subprocess.run(command, check=True)
    return python


def run(user: User, python: Path, folder: Path, arguments: list[str]) -> tuple[dict[str, int], list[str], str]:
    """Runs the suite: how many tests passed and so on, the skips that should not be, and what pytest printed."""
    home = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
    home.chmod(0o777)
    environment = {
        name: os.environ[name] for name in ("PATH", "LANG", "RAWBPF_STRESS_SECONDS") if name in os.environ
    } | {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{home}/hypothesis"
    result = subprocess.run(
        [*user.prefix, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *arguments],
        cwd=folder / "project",
        env=environment | user.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    output = result.stdout + result.stderr
    counts = {
        what.rstrip("s") if what == "errors" else what: int(n) for n, what in _COUNT.findall(output.splitlines()[-1])
    }
    if result.returncode not in (0, 1):
        counts["error"] = counts.get("error", 0) + 1
    wrong = [reason for _, reason in _SKIP.findall(output) if not re.search(user.reasons, reason)]
    return counts, wrong, output


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.privileges")
    parser.add_argument("--only", choices=USERS, action="append", help="this one; may be repeated")
    options, arguments = parser.parse_known_args()
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        sys.exit("python -m tests.harness.privileges needs root, and setpriv (util-linux)")
    rows, bad = [], False
    with tempfile.TemporaryDirectory(prefix="rawbpf-privileges-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        python = installed(folder)
        for title in options.only or USERS:
            counts, wrong, output = run(USERS[title], python, folder, arguments)
            failed = counts.get("failed", 0) + counts.get("error", 0)
            bad |= bool(failed or wrong)
            print(f"\n== {title}")
            if failed:
                print(output)
            for number, reason in _SKIP.findall(output):
                print(f"{number:>5} skipped: {reason}{'  <- should not be' if reason in wrong else ''}")
            rows.append([title, *(str(counts.get(what, 0)) for what in ("passed", "failed", "error", "skipped"))])
    print("\n| as | passed | failed | errors | skipped |\n|---|--:|--:|--:|--:|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
