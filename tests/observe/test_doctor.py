"""The doctor, and the hint of every NotPermitted: each line of the EPERM decision tree that can be produced here.

What needs a process of its own (dropped capabilities, a user namespace, a seccomp filter) runs in a child, which prints
what it found.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

import rawbpf
from rawbpf import NotPermitted, Queue
from rawbpf.abi import Cmd, door
from rawbpf.observe import doctor
from rawbpf.syscall import permission
from rawbpf.syscall.permission import Cause
from rawbpf.syscall.proc import Capability, kernel_version
from tests.conftest import EFFECTIVE, IS_ROOT, MAY_CREATE

needs_setpriv = pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
needs_unshare = pytest.mark.skipif(
    shutil.which("unshare") is None or (os.getuid() == 0 and not EFFECTIVE >> 7 & 1),
    reason="needs CAP_SETUID (root), and unshare installed",
)

NO_CAPABILITY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CAP_BPF_ALONE = ("setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf")

# Installs a filter that answers EPERM, or another errno, to bpf(2), to all its commands or to one.
SECCOMP = """
import ctypes, os, struct
from rawbpf.abi.syscall_number import syscall_number
def forbid_bpf(command=None, error=1):
    number = syscall_number(os.uname().machine, struct.calcsize("P"))
    load, equal, give = 0x20, 0x15, 0x06                        # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    code = [(load, 0, 0, 0), (equal, 0, 1 if command is None else 3, number)]
    if command is not None:
        low = 16 if os.sys.byteorder == "little" else 20        # args[0] of struct seccomp_data
        code += [(load, 0, 0, low), (equal, 0, 1, command)]
    code += [(give, 0, 0, 0x00050000 | error), (give, 0, 0, 0x7FFF0000)]  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
    text = b"".join(struct.pack("=HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(text)
    program = struct.pack("HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0                      # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0                # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""

DIAGNOSE = "import json, rawbpf; print(json.dumps(rawbpf.diagnose().as_dict()))"

CREATE = """
import rawbpf
try: rawbpf.Queue(4, 1).close()
except rawbpf.NotPermitted as error: print(error.errno, error.hint)
"""


def run(code: str, *prefix: str) -> str:
    result = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def diagnosed(*prefix: str, before: str = "") -> dict[str, Any]:
    """The checks by name, as the child sees them, and the facts."""
    found = json.loads(run(before + DIAGNOSE, *prefix))
    return {"facts": found["facts"]} | {check["name"]: check for check in found["checks"]}


# What works


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.17")
def test_all_works_for_root(bpf_folder):
    """With all privileges and a bpffs every check works, and says on what evidence."""
    diagnosis = rawbpf.diagnose()
    assert {check.name: check.works for check in diagnosis.checks} == dict.fromkeys(
        ("create", "elements", "bulk", "qsize", "ids", "pins"), True
    )
    assert bpf_folder in diagnosis.facts["bpffs"]
    assert diagnosis.check("elements").evidence == "pushed 7, peeked 7, popped 7"
    assert all(check.cause is None for check in diagnosis.checks)


@pytest.mark.creates
@pytest.mark.admin
def test_the_doctor_leaves_nothing_behind(bpf_folder):
    """After a diagnosis its map is gone, as soon as the kernel freed it, and there is no pin."""
    pins = os.listdir(bpf_folder)
    created = rawbpf.diagnose().check("create").evidence
    number = int(re.findall(r"id (\d+)", created)[0])
    deadline = time.monotonic() + 30
    while number in [info.id for info in rawbpf.list_maps()] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert number not in [info.id for info in rawbpf.list_maps()]
    assert os.listdir(bpf_folder) == pins


def test_a_diagnosis_needs_no_privilege():
    """diagnose() answers whoever asks, and its report has a line for each check."""
    report = str(rawbpf.diagnose())
    for name in doctor.CHECKS:
        assert f"  {name}: " in report


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("unprivileged", [False, True])
def test_a_report_fits(width, unprivileged):
    """No line of a report is wider than it may be, in whatever words: only one that has no blank to break at."""
    with rawbpf.simulate(unprivileged=unprivileged):
        report = rawbpf.diagnose().report(width)
    assert all(len(line) <= width or " " not in line.strip() for line in report.splitlines())


@pytest.mark.creates
@needs_setpriv
def test_no_remedy_is_said_twice():
    """Checks with the same cause refer to it by one number, and no remedy stands in the report twice."""
    report = run("import rawbpf; print(rawbpf.diagnose().report(1000))", *NOBODY)
    lines = [line for line in report.splitlines() if line.startswith("   ")]
    assert lines
    assert len(lines) == len(set(lines))
    assert report.count("run it as root") == 1
    numbers = re.findall(r"-> (\d+)$", report, re.MULTILINE)
    assert set(numbers) == set(re.findall(r"^(\d+)  ", report, re.MULTILINE))


# Capabilities


@needs_setpriv
@pytest.mark.creates
@pytest.mark.linux("5.8")
def test_no_capability():
    """Without capabilities creation wants CAP_BPF, for certain, and the grants name it for each surrounding."""
    create = diagnosed(*NO_CAPABILITY)["create"]
    assert create["works"] is False
    assert (create["cause"]["kind"], create["cause"]["certain"]) == ("capability", True)
    assert create["cause"]["text"] == "this process has no CAP_BPF"
    assert "docker run --cap-add BPF" in create["cause"]["grants"]["docker"]
    assert 'add: ["BPF"]' in create["cause"]["grants"]["kubernetes"]
    assert "AmbientCapabilities=CAP_BPF" in create["cause"]["grants"]["systemd"]
    assert "setcap cap_bpf+ep" in create["cause"]["grants"]["setcap"]
    assert "podman" in create["cause"]["grants"]


@needs_setpriv
@pytest.mark.creates
@pytest.mark.linux("5.8")
def test_cap_bpf_alone():
    """With CAP_BPF alone maps work; counting wants CAP_PERFMON, ids CAP_SYS_ADMIN."""
    found = diagnosed(*CAP_BPF_ALONE)
    assert found["create"]["works"] is found["elements"]["works"] is True
    assert found["qsize"]["cause"]["text"] == "this process has no CAP_PERFMON"
    assert found["ids"]["cause"]["text"] == "this process has no CAP_SYS_ADMIN"
    assert found["facts"]["capabilities"] == {
        "CAP_BPF": True,
        "CAP_PERFMON": False,
        "CAP_NET_ADMIN": False,
        "CAP_SYS_ADMIN": False,
    }


@needs_setpriv
@pytest.mark.creates
@pytest.mark.linux("5.8")
@pytest.mark.parametrize("prefix", [NO_CAPABILITY, CAP_BPF_ALONE, ("unshare", "-Ur")])
def test_an_error_and_the_doctor_say_the_same(prefix):
    """The hint of a NotPermitted is the doctor's cause in one line."""
    code = """
import rawbpf
checks = {check.name: check for check in rawbpf.diagnose().checks}
for name, call in (("create", lambda: rawbpf.Queue(4, 1).close()), ("ids", lambda: list(rawbpf.list_maps()))):
    try: call()
    except rawbpf.NotPermitted as error: assert error.hint == str(checks[name].cause), error; print(name)
    else: assert checks[name].works
"""
    assert "ids" in run(code, *prefix)


# Namespaces and filters


@pytest.mark.real_kernel(reason="what it permits")
@needs_unshare
@pytest.mark.creates
@pytest.mark.linux("5.8")
def test_a_user_namespace():
    """Root of a user namespace has every capability and no right: the doctor says a token is needed."""
    found = diagnosed("unshare", "-Ur")
    assert found["facts"]["capabilities"]["CAP_BPF"] is True
    assert found["facts"]["user_namespace"] == "nested"
    assert found["create"]["cause"]["kind"] == "user-namespace"
    assert found["create"]["cause"]["certain"] is True
    assert "token" in found["create"]["cause"]["help"]


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
@pytest.mark.parametrize("command", ["", "0"], ids=["all commands", "BPF_MAP_CREATE"])
def test_a_seccomp_filter(command):
    """Under a filter the kernel never sees the call: named for certain, whether it refuses bpf(2) or one command."""
    found = diagnosed(before=f"{SECCOMP}forbid_bpf({command})\n")
    assert found["create"]["cause"]["kind"] == "seccomp"
    assert found["create"]["cause"]["certain"] is True
    assert found["facts"]["seccomp"].startswith("a filter refuses")
    assert run(f"{SECCOMP}forbid_bpf({command})\n{CREATE}").startswith(f"{errno.EPERM} a seccomp filter refuses bpf(2)")


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
@pytest.mark.parametrize("error", ["ENOSYS", "EINVAL"])
def test_a_seccomp_filter_that_answers_as_an_old_kernel_would(error):
    """A filter that answers ENOSYS or EINVAL is found, because the kernel would answer E2BIG to an attr that is too
    long; it is called a guess."""
    before = f"{SECCOMP}forbid_bpf(error={getattr(errno, error)})\n"
    found = diagnosed(before=before)
    assert found["facts"]["seccomp"] == "a filter seems to answer bpf(2)"
    cause = found["create"]["cause"]
    assert (cause["kind"], cause["certain"]) == ("seccomp", False)
    assert cause["text"] == f"a seccomp filter seems to answer bpf(2) with {error}, though CAP_BPF is there"
    code = before + CREATE.replace("NotPermitted as error: print(", "BpfError as error: print(type(error).__name__, ")
    name = {"ENOSYS": "Unsupported", "EINVAL": "BpfError"}[error]
    assert run(code).startswith(f"{name} {getattr(errno, error)} a seccomp filter seems to answer")


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
def test_what_is_there_is_not_recommended():
    """With CAP_BPF under a filter the remedies are about the filter; none of them adds the capability again."""
    create = diagnosed(before=f"{SECCOMP}forbid_bpf()\n")["create"]
    assert create["cause"]["text"] == "a seccomp filter refuses bpf(2), though CAP_BPF is there"
    assert "--security-opt seccomp=" in create["cause"]["help"]
    for where in ("docker", "podman"):
        assert "--security-opt seccomp=seccomp.json" in create["cause"]["grants"][where]
    assert not any("cap-add" in grant or "CAP_BPF" in grant for grant in create["cause"]["grants"].values())


@pytest.mark.parametrize(
    ("error", "version", "kind", "certain"),
    [
        (errno.ENOSYS, "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n", "gvisor", False),
        (errno.ENOSYS, "Linux version 6.1.0 (gcc) #1 SMP\n", "kernel", True),
        (errno.EPERM, "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n", "gvisor", False),
    ],
)
def test_where_bpf_is_not_there(monkeypatch, error, version, kind, certain):
    """gVisor, and a kernel without bpf(2), are named; gVisor, which is known by its version alone, as a guess."""
    monkeypatch.setattr(permission, "read_proc", lambda path: version if path == "/proc/version" else None)
    monkeypatch.setattr(permission, "proc_fields", lambda path: {"Seccomp": "0", "CapEff": "0"})
    previous = door.set_hook(lambda cmd, attr, size: -error)
    try:
        create = rawbpf.diagnose().check("create")
    finally:
        door.set_hook(previous)
    assert create.works is False
    assert create.cause is not None
    assert (create.cause.kind, create.cause.certain) == (kind, certain)


@pytest.mark.creates
@pytest.mark.linux("6.5")
@needs_setpriv
def test_a_seccomp_filter_and_no_capability():
    """Both missing: the filter is named, and that a capability is missing as well."""
    found = diagnosed(*NO_CAPABILITY, before=f"{SECCOMP}forbid_bpf()\n")
    assert found["create"]["cause"]["text"] == "a seccomp filter refuses bpf(2) (and this process has no CAP_BPF)"


@pytest.mark.creates
@pytest.mark.linux("6.5")
@needs_setpriv
def test_a_filter_that_is_not_to_blame():
    """A filter for another command is there, and the missing capability is the cause: the probe tells them apart."""
    create = diagnosed(*NO_CAPABILITY, before=f"{SECCOMP}forbid_bpf(36)\n")["create"]
    assert (create["cause"]["kind"], create["cause"]["certain"]) == ("capability", True)


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
def test_a_filter_under_an_open_map():
    """A push that a filter refuses says so, though the map is open and writable."""
    code = f"""{SECCOMP}
import rawbpf
with rawbpf.Queue(4, 1) as q:
    forbid_bpf(2)
    try: q.push(b"abcd")
    except rawbpf.NotPermitted as error: print(error.errno, error.hint)
"""
    assert run(code).startswith(f"{errno.EPERM} a seccomp filter refuses bpf(2)")


# Maps and paths


def hint_of(call: Any) -> str:
    with pytest.raises(NotPermitted) as caught:
        call()
    assert caught.value.errno == errno.EPERM
    return caught.value.hint


@pytest.mark.creates
@pytest.mark.linux("5.2")
def test_a_frozen_map():
    """Push and pop on a frozen map: the cause is the freeze, for certain."""
    with Queue(4, 1) as q:
        q.freeze()
        for call in (lambda: q.push(b"abcd"), q.pop):
            assert hint_of(call).startswith("the map is frozen: ")
        cause = permission.why_not_permitted(Cmd.BPF_MAP_UPDATE_ELEM, q.fileno())
        assert (cause.kind, cause.certain) == ("frozen", True)


@pytest.mark.creates
@pytest.mark.parametrize(
    ("flag", "cmd", "word"),
    [
        (rawbpf.MapFlag.BPF_F_RDONLY, Cmd.BPF_MAP_UPDATE_ELEM, "read-only"),
        (rawbpf.MapFlag.BPF_F_WRONLY, Cmd.BPF_MAP_LOOKUP_ELEM, "write-only"),
        (rawbpf.MapFlag.BPF_F_RDONLY, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, "read-only"),
    ],
)
def test_a_descriptor_of_the_wrong_kind(flag, cmd, word):
    """A read-only or write-only descriptor is named as what it is."""
    with Queue(4, 1, flags=flag) as q:
        call = {
            Cmd.BPF_MAP_UPDATE_ELEM: lambda: q.push(b"abcd"),
            Cmd.BPF_MAP_LOOKUP_ELEM: q.peek,
            Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: q.pop,
        }[cmd]
        assert hint_of(call).startswith(f"the descriptor is {word}")
        cause = permission.why_not_permitted(cmd, q.fileno())
        assert (cause.kind, cause.certain) == ("descriptor", True)


@pytest.mark.creates
@pytest.mark.real_kernel(reason="the mounts")
def test_a_pin_outside_a_bpffs(tmp_path):
    """The file system that the path is on is named."""
    with Queue(4, 1) as q:
        hint = hint_of(lambda: q.pin(tmp_path / "pin"))
    file_system = permission.file_system_of(str(tmp_path))
    assert file_system != "bpf"
    assert hint.startswith(f"{str(tmp_path)!r} is on {file_system}, and a pin lives in a bpffs")


@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.creates
@pytest.mark.admin
def test_a_pin_with_a_dot(bpf_folder):
    """In a bpffs a '.' in the name is the cause."""
    with Queue(4, 1) as q:
        hint = hint_of(lambda: q.pin(f"{bpf_folder}/dotted.name"))
    assert hint.startswith("the name 'dotted.name' has a '.'")


# One map


def checks_of(spec: object) -> dict[str, Any]:
    return {check.name: check for check in rawbpf.diagnose(str(spec)).checks}


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.parametrize("kind", [Queue, rawbpf.Stack])
def test_a_map_is_tried_and_not_harmed(kind, bpf_folder):
    """Every check works, and after them the map holds what it held: full, empty, or in between."""
    for held in ([], [1, 2], [1, 2, 3]):
        with kind("<I", 3) as m:
            m.push_many(held)
            m.pin(f"{bpf_folder}/tried{len(held)}")
            before = m.snapshot()
            found = checks_of(f"{bpf_folder}/tried{len(held)}")
            assert {name: check.works for name, check in found.items()} == dict.fromkeys(doctor.CHECKS_OF_A_MAP, True)
            assert m.snapshot() == before
            assert found["qsize"].evidence == f"{len(held)} element{'s' * (len(held) != 1)}, room for 3"


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.linux("5.2")
def test_a_frozen_map_is_tried():
    """A frozen map can be peeked at and counted; push and pop are refused, for one cause."""
    with Queue("<I", 3) as q:
        q.push(1)
        q.freeze()
        found = checks_of(f"id:{q.id}")
        assert {name for name, check in found.items() if check.works} == {"open", "peek", "qsize"}
        assert found["push"].cause == found["pop"].cause
        assert found["push"].cause.kind == "frozen"
        assert q.qsize() == 1


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.linux("5.19")
@needs_setpriv
def test_a_map_that_may_only_be_read(bpf_folder):
    """Where the pin's mode lets this process read, it is opened so; push and pop say whose the pin is."""
    os.chmod(bpf_folder, 0o755)
    path = f"{bpf_folder}/read"
    with Queue("<I", 3) as q:
        q.pin(path)
        os.chmod(path, 0o644)
        code = f"import json, rawbpf; print(json.dumps(rawbpf.diagnose({path!r}).as_dict()))"
        found = {check["name"]: check for check in json.loads(run(code, *NOBODY))["checks"]}
    assert {name: check["works"] for name, check in found.items()} == {
        "open": True,
        "peek": True,
        "push": False,
        "pop": False,
        "qsize": False,
    }
    assert found["open"]["evidence"].endswith("for reading alone")
    for name in ("push", "pop"):
        assert found[name]["cause"]["kind"] == "owner"
        assert "chown 65534" in found[name]["cause"]["help"]
    assert found["qsize"]["cause"]["text"] == "this process has no CAP_BPF and no CAP_PERFMON"


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="maps of other types")
def test_a_map_of_another_type_is_opened():
    """Of a map that is neither queue nor stack the doctor says what it is."""
    with rawbpf.Array("<I", 3, name="counters") as m:
        assert list(checks_of(f"id:{m.id}")) == ["open"]
        assert checks_of(f"id:{m.id}")["open"].evidence.startswith("array 'counters'")


def test_a_map_that_is_not_there(tmp_path):
    """A map that can't be opened has the one check, which says why."""
    found = checks_of(tmp_path / "none")
    assert list(found) == ["open"]
    assert found["open"].works is False
    # Before 5.19 a process that may not create maps may not open any either, and learns no more.
    says_nothing = not MAY_CREATE and kernel_version() < (5, 19)
    assert ("not permitted" if says_nothing else "nothing is pinned") in found["open"].evidence


# What can't be produced here, from what /proc would say


@pytest.fixture
def old_kernel(monkeypatch):
    """Makes the decision tree believe in another kernel, and in a process with or without capabilities."""

    def pretend(version: tuple[int, int], capable: bool, sysctl: int = 0) -> None:
        monkeypatch.setattr(permission, "kernel_version", lambda: version)
        monkeypatch.setattr(permission, "has_capability", lambda capability: capable)
        monkeypatch.setattr(permission, "unprivileged_bpf_disabled", lambda: sysctl)
        monkeypatch.setattr(permission, "in_initial_user_namespace", lambda: True)
        monkeypatch.setattr(permission, "seccomp_refuses", lambda cmd: False)

    return pretend


def test_the_sysctl_before_5_19(old_kernel):
    """Up to 5.18 the sysctl closes all commands to the unprivileged; since 5.19 it is not to blame."""
    old_kernel((5, 18), capable=False, sysctl=2)
    cause = permission.why_not_permitted(Cmd.BPF_MAP_UPDATE_ELEM)
    assert (cause.kind, cause.certain) == ("sysctl", True)
    old_kernel((5, 19), capable=False, sysctl=2)
    assert permission.why_not_permitted(Cmd.BPF_MAP_UPDATE_ELEM).kind == "security-module"


def test_memlock_only_before_5_11(old_kernel):
    """RLIMIT_MEMLOCK is a guess before 5.11, and never named after."""
    old_kernel((5, 10), capable=True)
    cause = permission.why_not_permitted(Cmd.BPF_MAP_CREATE)
    assert (cause.kind, cause.certain) == ("memlock", False)
    old_kernel((5, 11), capable=True)
    assert permission.why_not_permitted(Cmd.BPF_MAP_CREATE).kind == "security-module"


def test_cap_sys_admin_before_5_8(old_kernel):
    """CAP_BPF does not exist before 5.8."""
    old_kernel((5, 7), capable=False)
    assert permission.why_not_permitted(Cmd.BPF_MAP_CREATE).capability is Capability.CAP_SYS_ADMIN


def test_a_guess_is_marked():
    """A guess says so in its line; a certain cause does not."""
    assert str(Cause("kind", "text", "help", False)) == "text: help (a guess)"
    assert str(Cause("kind", "text", "help")) == "text: help"


@pytest.mark.parametrize(
    ("sign", "first"),
    [({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"), ({"INVOCATION_ID": "1"}, "systemd")],
)
def test_the_own_surroundings_come_first(monkeypatch, sign, first):
    """In a Kubernetes pod the grant for Kubernetes is the first."""
    for name in ("KUBERNETES_SERVICE_HOST", "INVOCATION_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    for name, value in sign.items():
        monkeypatch.setenv(name, value)
    check = doctor.Check("create", False, "", permission.lacking(Capability.CAP_BPF))
    assert next(iter(check.grants)) == first


@pytest.mark.creates
@pytest.mark.real_kernel(reason="programs")
def test_bulk_that_is_not_permitted_has_a_cause():
    """Where the programs of bulk calls are EPERM, the check names who may be to blame."""
    previous = door.set_hook(
        lambda cmd, attr, size: -errno.EPERM if cmd == Cmd.BPF_PROG_LOAD else door.ask_kernel(cmd, attr, size)
    )
    try:
        [bulk] = [check for check in rawbpf.diagnose().checks if check.name == "bulk"]
    finally:
        door.set_hook(previous)
    assert bulk.works is False
    assert bulk.cause is not None


def test_the_simulated_kernel_says_its_version():
    """The doctor names the kernel that answers."""
    with rawbpf.simulate("5.10"):
        assert rawbpf.diagnose().facts["kernel"] == "5.10.0-simulated"
