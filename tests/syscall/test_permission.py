"""Who may do what, and why not: what /proc says, the kernel's answers to a process without capabilities, the hints."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rawbpf
from rawbpf import Cmd, Queue
from rawbpf.syscall import permission, proc
from rawbpf.syscall.proc import Capability, kernel_version

NEEDED = "CAP_BPF" if kernel_version() >= (5, 8) else "CAP_SYS_ADMIN"


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.3-arch1", (6, 18)),
        ("5.10.0-46-cloud-amd64", (5, 10)),
        ("7.2.13+deb14-cloud-amd64", (7, 2)),
        ("5.15.90.1-microsoft-standard-WSL2", (5, 15)),
        ("6.19-rc3", (6, 19)),
        ("7.0+", (7, 0)),
    ],
)
@pytest.mark.real_kernel(reason="privileges")
def test_kernel_version(monkeypatch, release, version):
    """The first two numbers of the release, whatever a distribution appends."""
    system = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*system[:2], release, *system[3:])))
    assert kernel_version() == version


def test_fields_of_proc():
    """A file of `name: value` lines is read as such, one that is not there as empty."""
    assert proc.proc_fields("/proc/self/status")["Pid"] == str(os.getpid())
    assert proc.proc_fields("/proc/self/no-such-file") == {}


def test_capabilities_are_those_of_proc(monkeypatch):
    """CapEff is a mask in hexadecimal; without /proc nothing is known."""
    monkeypatch.setattr(proc, "proc_fields", lambda path: {"CapEff": f"{1 << Capability.CAP_BPF:016x}"})
    assert proc.has_capability(Capability.CAP_BPF) is True
    assert proc.has_capability(Capability.CAP_SYS_ADMIN) is False
    monkeypatch.setattr(proc, "proc_fields", lambda path: {})
    assert proc.has_capability(Capability.CAP_BPF) is None


CREATE, IDS, PUSH = Cmd.BPF_MAP_CREATE, Cmd.BPF_MAP_GET_NEXT_ID, Cmd.BPF_MAP_UPDATE_ELEM
BPF, ADMIN = {Capability.CAP_BPF}, {Capability.CAP_SYS_ADMIN}


@pytest.mark.parametrize(
    ("kernel", "cmd", "capabilities", "enough"),
    [
        ((5, 7), CREATE, BPF, False),
        ((5, 7), CREATE, ADMIN, True),
        ((5, 8), CREATE, BPF, True),
        ((5, 8), CREATE, ADMIN, True),
        ((7, 2), CREATE, set(), False),
        ((7, 2), IDS, BPF, False),
        ((7, 2), IDS, ADMIN, True),
        ((7, 2), PUSH, BPF, True),
    ],
)
def test_which_capability_a_command_needs(monkeypatch, kernel, cmd, capabilities, enough):
    """CAP_BPF counts from 5.8 and not for ids; CAP_SYS_ADMIN always does."""
    monkeypatch.setattr(permission, "kernel_version", lambda: kernel)
    monkeypatch.setattr(permission, "has_capability", lambda capability: capability in capabilities)
    assert permission.is_capable(cmd) is enough


@pytest.mark.parametrize(
    ("capable", "initial", "filtered", "hint"),
    [
        (False, True, False, "this process has no CAP_BPF: run it as root"),
        (False, True, None, "this process has no CAP_BPF: run it as root"),
        (False, False, False, "CAP_BPF counts only outside user namespaces: use a BPF token"),
        (True, False, False, "CAP_BPF counts only outside user namespaces: use a BPF token"),
        (True, True, True, "a seccomp filter refuses bpf(2), though CAP_BPF is there: allow"),
        (False, True, True, "a seccomp filter refuses bpf(2) (and this process has no CAP_BPF): allow"),
        (True, True, False, "no cause is visible in /proc: a security module may"),
        (None, None, None, "no cause is visible"),
    ],
)
def test_the_reasons_in_their_order(monkeypatch, capable, initial, filtered, hint):
    """The first cause that the evidence shows is named, and that none shows is said."""
    monkeypatch.setattr(permission, "kernel_version", lambda: (6, 18))
    monkeypatch.setattr(permission, "has_capability", lambda capability: capable)
    monkeypatch.setattr(permission, "in_initial_user_namespace", lambda: initial)
    monkeypatch.setattr(permission, "seccomp_refuses", lambda cmd: filtered)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert hint in str(permission.why_not_permitted(CREATE))


def test_root_is_not_told_to_become_root(monkeypatch):
    """To root of a container "run it as root" says nothing: the hint is to grant the capability."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert permission.lacking(Capability.CAP_BPF).help.startswith("grant it (docker run --cap-add BPF")


def test_several_capabilities_are_named_at_once():
    """What needs two capabilities names both, in the text and in what grants them."""
    cause = permission.lacking(Capability.CAP_BPF, Capability.CAP_PERFMON)
    assert cause.text == "this process has no CAP_BPF and no CAP_PERFMON"
    assert "docker run --cap-add BPF --cap-add PERFMON" in cause.help
    assert cause.capability is Capability.CAP_BPF


@pytest.mark.parametrize("cmd", [IDS, Cmd.BPF_MAP_GET_FD_BY_ID, Cmd.BPF_PROG_LOAD])
def test_a_token_is_recommended_only_where_it_counts(monkeypatch, cmd):
    """In a user namespace no token permits ids, and rawbpf's programs take none: the hint names another way."""
    monkeypatch.setattr(permission, "in_initial_user_namespace", lambda: False)
    monkeypatch.setattr(permission, "seccomp_refuses", lambda cmd: False)
    cause = permission.why_not_permitted(cmd)
    assert cause.kind == "user-namespace"
    assert "token" not in str(cause)
    assert "helper outside" in cause.help


AS_NOBODY = """
import errno, os, rawbpf
from rawbpf import syscall
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def answer(call):
    try:
        call()
    except OSError as e:
        print(errno.errorcode[e.errno], getattr(e, "hint", ""))
    else:
        print("done")
"""


def run(code: str, **options) -> list[str]:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


# Whose a pin is


@pytest.fixture
def not_mine(bpf_folder):
    """A pin of this user's, which a process of nobody's is to open."""
    with Queue(4, 4) as m:
        m.pin(f"{bpf_folder}/mine")
        os.chmod(bpf_folder, 0o755)
        yield f"{bpf_folder}/mine"


OPEN = "answer(lambda: rawbpf.Queue.open({!r}))"


@pytest.mark.admin
@pytest.mark.linux("5.19")
@pytest.mark.real_kernel(reason="privileges")
@pytest.mark.parametrize(
    ("mode", "helps"),
    [
        (0o600, 'as root: chown 65534 {0}; or chmod o+r {0}, then access="r" can peek'),
        (0o644, 'access="r" is permitted, and can peek; to push and pop, as root: chown 65534 {0}'),
    ],
)
def test_a_pin_of_another_user(not_mine, mode, helps):
    """The hint says whose the pin is, which mode it has, who this process is, and what to do."""
    os.chmod(not_mine, mode)
    [line] = run(AS_NOBODY + OPEN.format(not_mine))
    whose = f"{not_mine!r} belongs to root (uid 0) and has mode {mode:04o}, and this process is nobody (uid 65534)"
    assert line == f"EACCES {whose}: {helps.format(not_mine)}"


@pytest.mark.admin
@pytest.mark.linux("5.19")
@pytest.mark.real_kernel(reason="privileges")
def test_a_folder_of_another_user(not_mine):
    """Where a folder above the pin can't be searched, it is that folder that the hint is about."""
    folder = os.path.dirname(not_mine)
    os.chmod(folder, 0o700)
    [line] = run(AS_NOBODY + OPEN.format(not_mine))
    assert line.startswith(f"EACCES {folder!r} belongs to root (uid 0) and has mode 0700")
    assert line.endswith(f"as its owner: chmod o+x {folder}")


@pytest.mark.admin
@pytest.mark.linux("5.19")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.real_kernel(reason="privileges")
def test_root_of_a_container_owns_no_pin(not_mine):
    """Root without CAP_DAC_OVERRIDE can't open another user's pin, and is not told to become root."""
    os.chown(not_mine, 65534, 65534)
    code = (
        f"import rawbpf\ntry: rawbpf.Queue.open({not_mine!r})\nexcept rawbpf.NotPermitted as error: print(error.hint)"
    )
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    result = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True)
    assert "belongs to nobody (uid 65534) and has mode 0600, and this process is root (uid 0)" in result.stdout
    assert f"with CAP_CHOWN: chown 0 {not_mine}" in result.stdout


@pytest.mark.creates
def test_a_pin_where_no_bpffs_is(tmp_path):
    """Opening and pinning where no bpffs is mounted name the file system that is there, whatever the errno."""
    with pytest.raises(rawbpf.NotFound) as caught:
        Queue.open(tmp_path / "pin")
    assert caught.value.errno == errno.ENOENT
    assert "a pin lives in a bpffs" in caught.value.hint or "simulated kernel's bpffs" in caught.value.hint


@pytest.mark.creates
@pytest.mark.real_kernel(reason="sysfs")
@pytest.mark.skipif(proc.file_system_of("/sys/fs") != "sysfs", reason="needs sysfs at /sys")
def test_a_pin_in_sysfs():
    """sysfs answers ENOENT to a new file, in a folder that is there: the error does not say that it is missing."""
    with Queue(4, 4) as m, pytest.raises(rawbpf.BpfError) as caught:
        m.pin("/sys/fs/rawbpf_no_such_file")
    assert "does not exist" not in str(caught.value)
    assert "'/sys/fs' is on sysfs, and a pin lives in a bpffs" in caught.value.hint


# The kernel's answers, in processes that gave their privileges away

IN_A_USER_NAMESPACE = """
import rawbpf
from rawbpf.maps import bpffs
bpffs._libc("unshare", 0x10000000)
try:
    rawbpf.Queue(4, 4)
except rawbpf.NotPermitted as e:
    print(e.errno, e.hint)
"""


@pytest.mark.admin
@pytest.mark.real_kernel(reason="privileges")
def test_creation_without_the_capability():
    """Without CAP_BPF (before 5.8: CAP_SYS_ADMIN) creation is EPERM, and the hint names the capability."""
    [line] = run(AS_NOBODY + "answer(lambda: rawbpf.Queue(4, 4))")
    assert line.startswith(f"EPERM this process has no {NEEDED}: run it as root")


@pytest.mark.admin
@pytest.mark.real_kernel(reason="privileges")
def test_ids_without_the_capability():
    """The ids of maps need CAP_SYS_ADMIN, and the hint says so."""
    [line] = run(AS_NOBODY + "answer(lambda: list(rawbpf.list_maps()))")
    assert line.startswith("EPERM this process has no CAP_SYS_ADMIN")


@pytest.mark.admin
@pytest.mark.real_kernel(reason="privileges")
def test_what_the_kernel_checks_first():
    """Until 6.5 an unprivileged caller of MAP_CREATE hears EPERM whatever the parameters; since then of those first."""
    calls = """
def create(**fields):
    return lambda: syscall.bpf(0, syscall.bpf_attr(map_type=22, value_size=4, **fields))
answer(create(max_entries=4))
answer(create(max_entries=0))
answer(create(max_entries=4, map_flags=1))
answer(create(max_entries=4, key_size=4))
"""
    answers = [line.split()[0] for line in run(AS_NOBODY + calls)]
    wrong = "EINVAL" if kernel_version() >= (6, 5) else "EPERM"
    assert answers == ["EPERM", wrong, wrong, wrong]


@pytest.mark.admin
@pytest.mark.real_kernel(reason="privileges")
def test_a_descriptor_in_unprivileged_hands(kind):
    """Whoever has a map's descriptor may push, peek, pop and ask for info; up to 5.18 only while
    kernel.unprivileged_bpf_disabled is 0."""
    disabled = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() != "0"
    refused = disabled and kernel_version() < (5, 19)
    with kind(4, 4) as m:
        m.push(b"abcd")
        calls = f"""
fd = {m.fileno()}
# The attr has its address alone: it must live as long as the calls.
value = bytearray(4)
answer(lambda: syscall.obj_get_info_by_fd(fd))
answer(lambda: rawbpf.bpf(2, rawbpf.bpf_attr(map_fd=fd, value=rawbpf.pointer(value)), 32))
answer(lambda: rawbpf.bpf(1, rawbpf.bpf_attr(map_fd=fd, value=rawbpf.pointer(value)), 32))
answer(lambda: rawbpf.bpf(21, rawbpf.bpf_attr(map_fd=fd, value=rawbpf.pointer(value)), 32))
"""
        lines = run(AS_NOBODY + calls, pass_fds=[m.fileno()])
        for line in lines:
            assert line.startswith("EPERM kernel.unprivileged_bpf_disabled is") if refused else line == "done"
        assert len(lines) == 4
        assert m.pop(default=None) == b"abcd" if refused else m.pop(default=None) is not None


@pytest.mark.admin
@pytest.mark.real_kernel(reason="privileges")
def test_a_user_namespace_is_not_privilege():
    """Every capability inside a user namespace is none for bpf(2): EPERM, and the hint names the namespace."""
    [line] = run(IN_A_USER_NAMESPACE)
    assert line.startswith(f"{errno.EPERM} {NEEDED} counts only outside user namespaces: use a BPF token")


@pytest.mark.admin
def test_access_and_freezing_are_read_from_the_kernel(bpf_folder):
    """How a descriptor was opened stands in its flags, whether the map is frozen in its fdinfo."""
    with Queue(4, 4) as m:
        m.pin(f"{bpf_folder}/m")
        for access in ("rw", "r", "w"):
            with Queue.open(f"{bpf_folder}/m", access=access) as again:
                assert proc.access_of(again.fileno()) == access
        assert proc.is_frozen(m.fileno()) is False
        m.freeze()
        assert proc.is_frozen(m.fileno()) is True


@pytest.mark.parametrize("kernel", [(5, 10), (6, 4)])
def test_freezing_before_6_5_does_not_blame_the_descriptor(monkeypatch, kernel):
    """There EPERM on BPF_MAP_FREEZE means a missing capability, also through a read-only descriptor."""
    monkeypatch.setattr(permission, "kernel_version", lambda: kernel)
    monkeypatch.setattr(permission, "has_capability", lambda capability: False)
    monkeypatch.setattr(permission, "in_initial_user_namespace", lambda: True)
    with open(os.devnull) as file:
        assert "no CAP_BPF" in str(permission.why_not_permitted(Cmd.BPF_MAP_FREEZE, file.fileno()))
