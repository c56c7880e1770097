"""RLIMIT_MEMLOCK: raised once, only before Linux 5.11, only when that may help, and never behind the user's back."""

import errno
import resource
import subprocess
import sys

import pytest

from rawbpf import Cmd, NotPermitted, Queue
from rawbpf.abi import door
from rawbpf.syscall import memlock
from rawbpf.syscall.proc import Capability, kernel_version

KIB = 1024
ALL = set(Capability)


class Process:
    """A process on an old kernel, as memlock.py sees it: its limits, and every change of them."""

    def __init__(self, soft: int, hard: int, may_raise_hard: bool) -> None:
        self.limits = soft, hard
        self.may_raise_hard = may_raise_hard
        self.changes: list[tuple[int, int]] = []
        self.creations = 0

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_MEMLOCK
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_MEMLOCK
        if limits[1] != self.limits[1] and not self.may_raise_hard:
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits
        self.changes.append(limits)

    def create(self) -> int:
        """MAP_CREATE of a map of 1 MiB: the kernel's answer."""
        self.creations += 1
        soft, _ = self.limits
        return 3 if soft == resource.RLIM_INFINITY or soft >= KIB * KIB else -errno.EPERM


@pytest.fixture
def start(monkeypatch):
    """Makes this process one on Linux 5.10 with the limits given."""

    def make(
        soft, hard=resource.RLIM_INFINITY, *, may_raise_hard=False, kernel=(5, 10), capabilities=ALL, initial=True
    ):
        process = Process(soft, hard, may_raise_hard)
        monkeypatch.setattr(resource, "getrlimit", process.getrlimit)
        monkeypatch.setattr(resource, "setrlimit", process.setrlimit)
        monkeypatch.setattr(memlock, "_raised", False)
        for module in ("memlock", "permission"):
            monkeypatch.setattr(f"rawbpf.syscall.{module}.kernel_version", lambda: kernel)
        monkeypatch.setattr("rawbpf.syscall.permission.has_capability", lambda capability: capability in capabilities)
        monkeypatch.setattr(memlock, "in_initial_user_namespace", lambda: initial)
        return process

    yield make
    memlock.set_memlock_rlimit(True)


def test_the_limit_is_raised_and_the_creation_repeated(start):
    """With CAP_SYS_RESOURCE both limits become infinite, and the second try gets through."""
    process = start(64 * KIB, 64 * KIB, may_raise_hard=True)
    assert memlock.retry(-errno.EPERM, process.create) == (3, "")
    assert process.changes == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]


def test_the_limit_is_raised_to_the_hard_one(start):
    """Without CAP_SYS_RESOURCE the soft limit goes as far as the hard one."""
    process = start(64 * KIB, 8 * KIB * KIB)
    assert memlock.retry(-errno.EPERM, process.create) == (
        3,
        "RLIMIT_MEMLOCK, raised to 8388608 bytes, is too low for this map: ulimit -l, or CAP_SYS_RESOURCE",
    )
    assert process.changes == [(8 * KIB * KIB, 8 * KIB * KIB)]


def test_a_hard_limit_too_low_is_said(start):
    """If the hard limit does not do, the hint names it and what would help."""
    process = start(64 * KIB, 128 * KIB)
    result, hint = memlock.retry(-errno.EPERM, process.create)
    assert result == -errno.EPERM
    assert hint.startswith("RLIMIT_MEMLOCK, raised to 131072 bytes, is too low")


def test_an_infinite_limit_is_not_the_reason(start):
    """Where the limit is infinite and the kernel still refuses, the hint is left to permission.py."""
    process = start(resource.RLIM_INFINITY)
    process.create = lambda: -errno.EPERM
    assert memlock.retry(-errno.EPERM, process.create) == (-errno.EPERM, "")


def test_it_is_raised_once(start):
    """What the process lowers afterwards stays lowered."""
    process = start(64 * KIB, may_raise_hard=True)
    memlock.retry(-errno.EPERM, process.create)
    process.limits = (64 * KIB, 64 * KIB)
    assert memlock.retry(-errno.EPERM, process.create)[0] == -errno.EPERM
    assert len(process.changes) == 1


def test_it_can_be_forbidden(start):
    """After set_memlock_rlimit(False) the limit stays, and the hint says who keeps it."""
    process = start(64 * KIB, may_raise_hard=True)
    memlock.set_memlock_rlimit(False)
    result, hint = memlock.retry(-errno.EPERM, process.create)
    assert (result, process.changes) == (-errno.EPERM, [])
    assert hint == "RLIMIT_MEMLOCK is 65536 bytes, and raising it is switched off (set_memlock_rlimit)"


@pytest.mark.parametrize(
    "where",
    [
        {"kernel": (5, 11)},
        {"kernel": (7, 2)},
        {"capabilities": set()},
        {"kernel": (5, 7), "capabilities": {Capability.CAP_BPF}},
        {"initial": False},
    ],
    ids=["5.11", "7.2", "no capability", "CAP_BPF before 5.8", "user namespace"],
)
def test_it_is_not_raised_where_that_can_not_help(start, where):
    """Since 5.11 the limit does not count, and without the capability it is not the reason: no change, no hint."""
    process = start(64 * KIB, may_raise_hard=True, **where)
    assert memlock.retry(-errno.EPERM, process.create) == (-errno.EPERM, "")
    assert process.changes == []


def test_cap_bpf_is_capability_enough(start):
    """On 5.8 to 5.10 CAP_BPF may create maps, and the limit is raised for it as for root."""
    process = start(64 * KIB, capabilities={Capability.CAP_BPF})
    assert memlock.retry(-errno.EPERM, process.create)[0] == 3


def test_a_creation_that_works_asks_nothing(start, monkeypatch):
    """The limit is looked at after an EPERM, not before."""
    process = start(64 * KIB)
    monkeypatch.setattr(memlock, "retry", None)
    previous = door.set_hook(lambda cmd, attr, size: -errno.ENOMEM)
    try:
        with pytest.raises(OSError, match="no memory") as caught:
            Queue(4, 4)
    finally:
        door.set_hook(previous)
    assert (caught.value.errno, process.changes) == (errno.ENOMEM, [])


def test_the_error_carries_the_hint(start):
    """A creation refused twice is NotPermitted, EPERM, with the limit in its hint."""
    start(64 * KIB, 64 * KIB)
    calls = []
    previous = door.set_hook(lambda cmd, attr, size: calls.append(Cmd(cmd)) or -errno.EPERM)
    try:
        with pytest.raises(NotPermitted, match="raised to 65536 bytes, is too low") as caught:
            Queue(4, 4)
    finally:
        door.set_hook(previous)
    assert caught.value.errno == errno.EPERM
    assert calls == [Cmd.BPF_MAP_CREATE] * 2


# The real limit, in processes of its own

CREATE_1_MIB = """
import errno, rawbpf, resource
rawbpf.set_memlock_rlimit({allowed})
try:
    rawbpf.Queue(4096, 256).close()
    print("created", end=" ")
except rawbpf.NotPermitted as e:
    print(errno.errorcode[e.errno], e.hint, end=" ")
print(resource.getrlimit(resource.RLIMIT_MEMLOCK))
"""


def create_1_mib(soft: int, hard: int, *, allowed: bool = True, wrapper: tuple[str, ...] = ()) -> str:
    command = [*wrapper, sys.executable, "-c", CREATE_1_MIB.format(allowed=allowed)]

    def limit() -> None:
        # Before the wrapper takes CAP_SYS_RESOURCE away.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))

    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert result.stderr == ""
    return result.stdout.strip()


WITHOUT_SYS_RESOURCE = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")


@pytest.mark.creates
@pytest.mark.linux("5.11")
def test_since_5_11_the_limit_does_not_count():
    """A limit of 0 hinders nothing and stays 0: the memory cgroup is charged."""
    assert create_1_mib(0, 0) == "created (0, 0)"


@pytest.mark.admin
@pytest.mark.linux(before="5.11")
def test_before_5_11_the_limit_is_raised():
    """A map of 1 MiB under a limit of 64 KiB is EPERM to the kernel; rawbpf raises the limit, the map is there."""
    assert create_1_mib(65536, 65536) == "created (-1, -1)"


@pytest.mark.admin
@pytest.mark.linux(before="5.11")
def test_before_5_11_the_user_may_forbid_it():
    """Where raising is switched off the EPERM stays, and so does the limit."""
    output = create_1_mib(65536, 65536, allowed=False)
    assert output.startswith("EPERM RLIMIT_MEMLOCK is 65536 bytes, and raising it is switched off")
    assert output.endswith("(65536, 65536)")


@pytest.mark.admin
@pytest.mark.linux(before="5.11")
def test_before_5_11_the_hard_limit_bounds_it():
    """Without CAP_SYS_RESOURCE the hard limit decides: enough for the map, or an EPERM that names it."""
    assert create_1_mib(65536, 4 << 20, wrapper=WITHOUT_SYS_RESOURCE) == f"created ({4 << 20}, {4 << 20})"
    output = create_1_mib(65536, 131072, wrapper=WITHOUT_SYS_RESOURCE)
    assert output.startswith("EPERM RLIMIT_MEMLOCK, raised to 131072 bytes, is too low")


@pytest.mark.admin
@pytest.mark.linux("5.8", before="5.11")
def test_before_5_11_it_is_raised_for_cap_bpf_alone():
    """A process with CAP_BPF and nothing else gets its limit raised as root does."""
    only_bpf = ("setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf")
    assert create_1_mib(65536, 4 << 20, wrapper=only_bpf) == f"created ({4 << 20}, {4 << 20})"


@pytest.mark.creates
def test_since_5_11_a_refusal_is_one_call(sent):
    """Where the limit does not count, nothing is tried twice."""
    previous = door.set_hook(lambda cmd, attr, size: sent.append((Cmd(cmd), size)) or -errno.EPERM)
    try:
        if kernel_version() < (5, 11):
            pytest.skip("by design: needs Linux 5.11")
        with pytest.raises(NotPermitted):
            Queue(4, 4)
    finally:
        door.set_hook(previous)
    assert [cmd for cmd, _ in sent] == [Cmd.BPF_MAP_CREATE]
