"""`python -m tests.harness.containers [--docker-profile FILE]`: the container lines and the privileges, in containers.

Builds rawbpf/examples/Dockerfile with podman and runs, in containers of that image:

- the lines of the Dockerfile and of the guide containers, as they are written, under several seccomp profiles: the one
  that podman's package installs, what that would be with the other of the two rules for bpf(2) that runtimes have had
  (for CAP_SYS_ADMIN alone, or for CAP_BPF too), Docker's, if a file with it is given, and rawbpf/examples/seccomp.json;
- the remedies that the doctor gives, one after the other, until nothing is missing;
- each row of the guide privileges, with what it needs and without.

Needs root and podman. All of it happens in a mount namespace of its own, with a bpffs of its own at /sys/fs/bpf. Where
no registry can be reached, the image is built on a fresh Debian root (needs debootstrap).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.roots import debian

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "rawbpf" / "examples"
OURS = EXAMPLES / "seccomp.json"
BPFFS = "/sys/fs/bpf"
# In the environment of the process inside the namespace: the folder with the images.
FOLDER = "RAWBPF_CONTAINERS_FOLDER"

# A plain cgroup2 hierarchy, because crun takes no mixed one; and a bpffs that is gone with the namespace.
ENTER = f"""
set -e
mount -t tmpfs none /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf -o mode=755 bpf {BPFFS}
exec "$@"
"""

# Limits that this process may set without CAP_SYS_RESOURCE; no network, because the image needs none.
CONTAINERS_CONF = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
seccomp_profile = "{profile}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
"""

STORAGE_CONF = """
[storage]
driver = "{driver}"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""

# The lines are written for docker, and for people who call sudo. `build` is told of the base image and of pip's index.
SHIMS = {
    "docker": '#!/bin/sh\n[ "$1" != build ] || { shift; exec podman build $BUILD_OPTIONS "$@"; }\nexec podman "$@"\n',
    "sudo": '#!/bin/sh\nexec "$@"\n',
}

BASE_PACKAGES = ("python3", "python3-dev", "python3-pip", "ca-certificates")


class Engine:
    """podman with its configuration and images in a folder. `profile`: which seccomp profile is its default."""

    def __init__(self, folder: Path, driver: str) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in SHIMS.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "storage.conf").write_text(STORAGE_CONF.format(folder=folder, driver=driver))
        self.environment = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
            # The steps of a build run in a chroot: a container would set limits.
            "BUILDAH_ISOLATION": "chroot",
        }

    def use(self, profile: Path) -> None:
        (self.folder / "containers.conf").write_text(CONTAINERS_CONF.format(profile=profile))

    def run(self, line: str, folder: Path = EXAMPLES, seconds: int = 60) -> "subprocess.CompletedProcess[str]":
        """Runs a line of shell, in the folder of the examples. One that would never end is told to stop soon."""
        until = ["timeout", "--foreground", "--preserve-status", "--kill-after", "5", "5"] if "--follow" in line else []
        shell = [*until, "sh", "-c", line if "|" in line else f"exec {line}"]
        return subprocess.run(
            shell, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def build(self, line: str) -> None:
        base = re.findall(r"^ARG BASE=(\S+)$", (EXAMPLES / "Dockerfile").read_text(), re.MULTILINE)[0]
        if self.run(f"podman pull --quiet docker.io/library/{base}").returncode:
            base = self._imported()
        options = ["--network", "host", "--build-arg", f"BASE={base}"]
        for path in ("/etc/pip.conf", os.environ.get("PIP_CERT")):
            if path and Path(path).is_file():
                options += ["-v", f"{path}:{path}:ro"]
        self.environment["BUILD_OPTIONS"] = shlex.join(options)
        built = self.run(line, ROOT, seconds=900)
        if built.returncode:
            raise RuntimeError(f"{line} failed:\n{(built.stdout + built.stderr)[-3000:]}")

    def _imported(self) -> str:
        """A base image made of a Debian root. pip may install into its Python, as it may in Docker's Python image."""
        with debian.fresh("bookworm", "amd64", BASE_PACKAGES) as root:
            shutil.rmtree(root / "project")
            change = "--change 'ENV PIP_BREAK_SYSTEM_PACKAGES=1'"
            line = f"tar -C {root} -c . | podman import --quiet {change} - localhost/debian-python:latest"
            imported = self.run(line, seconds=600)
        if imported.returncode:
            raise RuntimeError(imported.stderr)
        return "localhost/debian-python:latest"


# Profiles


def with_rule(profile: dict[str, Any], capabilities: list[str]) -> dict[str, Any]:
    """The profile with another rule for bpf(2): allowed to a process with one of the capabilities, else EPERM."""
    rest = [{**rule, "names": [name for name in rule["names"] if name != "bpf"]} for rule in profile["syscalls"]]
    allowed = [
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": [each]}, "args": []}
        for each in capabilities
    ]
    refused = {
        "names": ["bpf"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 1,
        "args": [],
        "excludes": {"caps": capabilities},
    }
    return {**profile, "syscalls": [*(rule for rule in rest if rule["names"]), *allowed, refused]}


class Profile(NamedTuple):
    """A seccomp profile, and which capabilities open bpf(2) in it: None if it is open to everybody."""

    name: str
    path: Path
    opened_by: tuple[str, ...] | None


def profiles(folder: Path, docker: Path | None) -> list[Profile]:
    installed = Path("/usr/share/containers/seccomp.json")
    text = json.loads(installed.read_text())
    by_bpf = any(
        "bpf" in rule["names"] and "CAP_BPF" in rule.get("includes", {}).get("caps", ()) for rule in text["syscalls"]
    )
    both, admin = ("CAP_SYS_ADMIN", "CAP_BPF"), ("CAP_SYS_ADMIN",)
    found = [Profile("podman, as installed", installed, both if by_bpf else admin)]
    other = admin if by_bpf else both
    path = folder / "other.json"
    path.write_text(json.dumps(with_rule(text, list(other))))
    found.append(Profile(f"podman, with the rule of {'before' if by_bpf else 'since'} 5.2", path, other))
    if docker is not None:
        found.append(Profile("Docker's", docker.resolve(), both))
    return [*found, Profile("rawbpf/examples/seccomp.json", OURS, None)]


# The lines


def lines_of_the_dockerfile() -> list[str]:
    """Its comments that are calls of docker, without what explains them."""
    text = re.sub(r" \\\n# +", " ", (EXAMPLES / "Dockerfile").read_text())
    return [re.split(r" {4,}", line)[0] for line in re.findall(r"^# (docker .*)$", text, re.MULTILINE)]


def lines_of_the_guide() -> list[str]:
    return re.findall(r"^    (docker run .*)$", (ROOT / "rawbpf" / "docs" / "containers.md").read_text(), re.MULTILINE)


def expected_code(line: str, profile: Profile) -> int:
    """0 if what the line adds opens bpf(2) in the profile, else 4, "not permitted"."""
    if line.endswith("rawbpf doctor"):
        return 4
    made = profile.opened_by is None or "CAP_BPF" in profile.opened_by
    if "--security-opt" in line:
        # Where the lines before it were refused, there is no pin.
        return 0 if made else 1
    if profile.opened_by is None:
        return 0
    added = {f"CAP_{name}" for name in re.findall(r"--cap-add (\S+)", line)}
    return 0 if added & set(profile.opened_by) else 4


def try_lines(engine: Engine, profile: Profile) -> Iterator[str]:
    """Runs the lines in their order; yields what is wrong."""
    for line in [*lines_of_the_dockerfile()[1:], *lines_of_the_guide()]:
        done, code = engine.run(line, ROOT), expected_code(line, profile)
        said = " ".join((done.stdout + done.stderr).split())
        # An example in Python has no exit code of its own.
        wanted = {1} if code == 4 and "--entrypoint" in line else {code}
        if done.returncode not in wanted:
            yield f"{line}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
        if code == 4 and "--cap-add BPF" in line and "though CAP_BPF is there" not in said:
            yield f"{line}: it does not say that CAP_BPF is there\n{said}"
    # maps.debug and progs.debug are the kernel's own.
    for pin in Path(BPFFS).iterdir():
        if "." not in pin.name:
            pin.unlink()


# The remedies


def try_remedies(engine: Engine, profile: Profile, where: str) -> Iterator[str]:
    """Does what the doctor says, until nothing is missing; yields what is wrong. Each first remedy must get further."""
    options: list[str] = []
    for _ in range(6):
        done = engine.run(f"docker run --rm {' '.join(options)} rawbpf doctor --json")
        checks = json.loads(done.stdout)["checks"]
        failed = [check for check in checks if check["works"] is False]
        if not failed:
            return
        grant = (failed[0]["cause"] or {}).get("grants", {}).get(where, "")
        added = re.findall(r"run (.*) \.\.\.", grant)
        if not added or added[0] in options:
            yield f"{where}: with {options or 'no options'} {failed[0]['name']} does not work; said was {grant!r}"
            return
        options.append(added[0])
    yield f"{where}: {options} are not enough"


# The privileges

PIN = f"{BPFFS}/tried"
MOUNTED = f"-v {BPFFS}:{BPFFS}"
IN_ONE_CALL = (
    f"import rawbpf; q = rawbpf.Queue.open('{PIN}', '<I'); q.pop_many(q.push_many(range(24)));"
    " raise SystemExit(not q.bulk.in_kernel)"
)
BY_TYPE = f"import rawbpf; rawbpf.Queue.open('{PIN}', rawbpf.BTF)"


class Row(NamedTuple):
    """A row of the guide's table: what is run, the options that suffice, and those that don't."""

    command: str
    enough: str
    too_little: str | None


def python(code: str) -> str:
    return f"--entrypoint python3 rawbpf -c {shlex.quote(code)}"


ROWS = {
    "create a map": Row("rawbpf doctor --require create", "--cap-add BPF", ""),
    "push, peek, pop, info on a map that is open": Row(f"rawbpf doctor {PIN} --require open,push,peek,pop", "", None),
    "`push_many`, `pop_many`, `pop_into`, `drain` in one call": Row(python(IN_ONE_CALL), "--cap-add BPF", ""),
    "`qsize`, `snapshot`": Row(
        f"rawbpf doctor {PIN} --require qsize", "--cap-add BPF --cap-add PERFMON", "--cap-add BPF"
    ),
    "open by id or name, list, open with `rawbpf.BTF`": Row(python(BY_TYPE), "--cap-add SYS_ADMIN", "--cap-add BPF"),
    "pin": Row(f"rawbpf pin {PIN} {BPFFS}/again", "", "--user 65534"),
}


def rows_of_the_guide() -> list[str]:
    text = (ROOT / "rawbpf" / "docs" / "privileges.md").read_text()
    table = text.partition("| to | needs |\n|---|---|\n")[2].partition("\n\n")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]


def try_privileges(engine: Engine) -> Iterator[str]:
    """Yields what is wrong: a row that is not tried, that its privileges don't permit, or that less permits."""
    rows = rows_of_the_guide()
    if set(rows) != set(ROWS):
        yield f"rows of the guide that are not tried, or the other way round: {set(rows) ^ set(ROWS)}"
    made = f"docker run --rm --cap-add BPF {MOUNTED} rawbpf create queue {PIN} --format '<I' --entries 64 --btf"
    if (done := engine.run(made)).returncode:
        yield f"{made}: {done.stderr}"
    Path(PIN).chmod(0o666)
    for name, row in ROWS.items():
        for options, works in ((row.enough, True), (row.too_little, False)):
            if options is None:
                continue
            done = engine.run(f"docker run --rm --cap-drop ALL {options} {MOUNTED} {row.command}")
            print(f"| {name} | `{options or 'no capability'}` | {'works' if done.returncode == 0 else 'refused'} |")
            if (done.returncode == 0) is not works:
                yield f"{name} with {options!r}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.containers")
    parser.add_argument("--docker-profile", type=Path, metavar="FILE", help="Docker's own profile, to be tried as well")
    parser.add_argument(
        "--storage-driver", default="overlay", help="podman's (overlay); vfs works everywhere and is slow"
    )
    options = parser.parse_args()
    if os.getuid() != 0 or shutil.which("podman") is None:
        print("python -m tests.harness.containers needs root, and podman (apt-get install podman)", file=sys.stderr)
        return 3
    if folder := os.environ.get(FOLDER):
        return tried(Path(folder), options.docker_profile, options.storage_driver)
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]
    command = [*enter, sys.executable, "-m", "tests.harness.containers", *sys.argv[1:]]
    # Removed outside, where nothing is mounted in it.
    with tempfile.TemporaryDirectory(prefix="rawbpf-containers-", dir="/var/tmp") as name:
        return subprocess.run(command, env=os.environ | {FOLDER: name}, check=False).returncode


def tried(folder: Path, docker_profile: Path | None, driver: str) -> int:
    engine = Engine(folder, driver)
    engine.use(OURS)
    try:
        return tried_with(engine, docker_profile)
    finally:
        engine.run("podman rm --all --force --time 1")


def tried_with(engine: Engine, docker_profile: Path | None) -> int:
    wrong = []
    engine.build(lines_of_the_dockerfile()[0])
    version = engine.run("docker run --rm rawbpf --version").stdout.strip()
    print(f"{subprocess.check_output(['podman', '--version'], text=True).strip()}: {version}\n")
    print("| seccomp profile | the lines | the doctor's remedies |\n|---|---|---|")
    for profile in profiles(engine.folder, docker_profile):
        engine.use(profile.path)
        lines = list(try_lines(engine, profile))
        remedies = [problem for where in ("podman", "docker") for problem in try_remedies(engine, profile, where)]
        print(
            f"| {profile.name} | {'WRONG' if lines else 'as expected'} | {'WRONG' if remedies else 'work'} |",
            flush=True,
        )
        wrong += [f"{profile.name}: {problem}" for problem in (*lines, *remedies)]
    print("\n| to | with | |\n|---|---|---|")
    engine.use(OURS)
    wrong += try_privileges(engine)
    for problem in wrong:
        print(f"\n!!! {problem}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
