"""The examples in the package run, and the files for containers and systemd promise what holds."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rawbpf
from rawbpf import Queue
from rawbpf.cli.parser import parse
from tests.conftest import IS_ROOT

EXAMPLES = Path(rawbpf.__file__).parent / "examples"
LEAST_PRIVILEGE = (sys.executable, "-W", "error", "-m", "rawbpf.examples.least_privilege")
FILES = ("Dockerfile", "sidecar.yaml", "rawbpf-drain.service")


@pytest.mark.real_kernel(reason="processes that share it")
@pytest.mark.admin
@pytest.mark.linux("5.19")
def test_least_privilege():
    """The worker works on a map that it could not make."""
    result = subprocess.run(LEAST_PRIVILEGE, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "worker: user 65534, pushed 10 numbers into 'answers'" in result.stdout
    assert "worker: a queue of my own? this process has no CAP_BPF" in result.stdout
    assert "helper: 10 numbers came back" in result.stdout


@pytest.mark.real_kernel(reason="processes that share it")
@pytest.mark.creates
@pytest.mark.linux("5.19")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_least_privilege_with_cap_bpf_alone():
    """The helper needs no other capability than CAP_BPF, which a container may be given; the worker drops that too."""
    result = subprocess.run(
        ["setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf", "--no-new-privs", *LEAST_PRIVILEGE],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "worker: user 0, pushed 10 numbers into 'answers'" in result.stdout
    assert "worker: a queue of my own? this process has no CAP_BPF" in result.stdout
    assert "helper: 10 numbers came back" in result.stdout


@pytest.mark.parametrize("name", ["handoff", "packets", "open_watch"])
def test_an_example_without_arguments_says_how_it_is_used(name):
    """Without the object file that it needs an example prints its usage, and no traceback; --help says how to compile
    the file."""
    command = [sys.executable, "-W", "error", "-m", f"rawbpf.examples.{name}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert "required: object_file" in result.stderr
    described = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert f"clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c {name}.bpf.c" in described.stdout


@pytest.mark.parametrize("name", FILES)
def test_the_commands_in_the_files(name):
    """Every rawbpf command that a file runs is one that the command line takes."""
    text = (EXAMPLES / name).read_text()
    lines = {
        "Dockerfile": re.findall(r"^# docker run .* rawbpf \\\n# +(.*)$", text, re.MULTILINE),
        "sidecar.yaml": [
            " ".join(words.strip(' "') for words in line.split(",")) for line in re.findall(r"args: \[(.*)\]", text)
        ],
        "rawbpf-drain.service": re.findall(r"^ExecStart=/usr/local/bin/rawbpf (.*)$", text, re.MULTILINE),
    }[name]
    assert lines
    for line in lines:
        options = parse(line.replace("'", "").split())
        assert options.format == "<IH"


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.19")
@pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
@pytest.mark.parametrize("capabilities", ["-all", "-all,+bpf"], ids=["systemd", "sidecar"])
def test_the_capabilities_in_the_files(bpf_folder, capabilities):
    """The owner of a pin drains it with the capabilities that the unit and the sidecar leave it."""
    path = f"{bpf_folder}/events"
    with Queue("<IH", 8, name="events") as q:
        q.pin(path)
        q.push_many([(7, 80), (8, 443)])
    command = [sys.executable, "-m", "rawbpf", "drain", path, "--format", "<IH", "--json"]
    result = subprocess.run(
        ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", "--no-new-privs", *command],
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    assert result.stdout == '{"value": [7, 80]}\n{"value": [8, 443]}\n'


def profile() -> dict[str, Any]:
    return json.loads((EXAMPLES / "seccomp.json").read_text())


def test_the_seccomp_profile_is_one():
    """The profile refuses what it does not name, with ENOSYS, names each system call once, and bpf(2) among them."""
    found = profile()
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.ENOSYS)
    assert {rule["action"] for rule in found["syscalls"]} == {"SCMP_ACT_ALLOW"}
    names = [name for rule in found["syscalls"] for name in rule["names"]]
    assert len(names) == len(set(names))
    assert {"bpf", "perf_event_open"} <= set(names)
    # What would let a container out, or let it change the system.
    assert not {"mount", "unshare", "setns", "ptrace", "init_module", "keyctl", "reboot", "open_by_handle_at"} & set(
        names
    )


@pytest.mark.real_kernel(reason="strace")
@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["push", "{0}", "1", "2"], ["snapshot", "{0}"], ["drain", "{0}", "--json"], ["list"], ["tour"]],
    ids=lambda arguments: arguments[0],
)
def test_the_seccomp_profile_allows_what_rawbpf_calls(arguments, bpf_folder, tmp_path):
    """Each system call that strace sees of a command is in the profile, but those that mount the tour's bpffs."""
    path = f"{bpf_folder}/jobs"
    with Queue("<I", 8, name="jobs") as q:
        q.pin(path)
    log = tmp_path / "strace"
    command = [sys.executable, "-m", "rawbpf", *(each.format(path) for each in arguments)]
    subprocess.run(["strace", "-f", "-qq", "-o", log, *command], check=True, stdout=subprocess.DEVNULL)
    called = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    assert "bpf" in called
    allowed = {name for rule in profile()["syscalls"] for name in rule["names"]}
    assert called - allowed - {"mount", "umount2"} == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit(tmp_path):
    """systemd finds nothing wrong with the unit but that the command is not installed there."""
    unit = tmp_path / "rawbpf-drain.service"
    text = (EXAMPLES / "rawbpf-drain.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/rawbpf", sys.executable))
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, env=os.environ)
    assert "rawbpf-drain.service" not in result.stderr, result.stderr
