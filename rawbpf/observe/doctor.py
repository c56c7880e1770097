"""The doctor: what bpf(2) does for this process here, and, where it is not permitted, why and what would permit it.

It looks, and it tries: a map that lives for a moment, without a pin. It changes nothing and leaves nothing behind. What
it says of a refusal is what a NotPermitted says in its hint: syscall/permission.py finds the cause for both.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from rawbpf.abi import Cmd, door
from rawbpf.abi.door import FFI_MODE, FFI_MODE_REASON
from rawbpf.btf import reader
from rawbpf.maps import bpffs
from rawbpf.maps.bulk import BREAK_EVEN
from rawbpf.maps.listing import list_maps
from rawbpf.maps.queue_stack import Queue
from rawbpf.observe.wording import counted
from rawbpf.syscall.errors import BpfError, NotPermitted
from rawbpf.syscall.permission import (
    Cause,
    is_privileged,
    lacking,
    seccomp_refuses,
    why_not_permitted,
)
from rawbpf.syscall.proc import (
    Capability,
    has_capability,
    in_initial_user_namespace,
    kernel_version,
    proc_fields,
    security_modules,
    unprivileged_bpf_disabled,
)

LOCKDOWN = "/sys/kernel/security/lockdown"


class Check(NamedTuple):
    """One thing that was tried. `works`: True, False, or None if it could not be tried; `evidence`: what happened;
    `cause`: why it is not permitted."""

    name: str
    works: bool | None
    evidence: str
    cause: Cause | None = None

    @property
    def grants(self) -> dict[str, str]:
        """How to grant what is missing: {"docker": "docker run ...", ...}; empty where nothing can."""
        return {} if self.cause is None else _grants(self.cause)


class Diagnosis(NamedTuple):
    """What the doctor found: facts by name, and checks. str() is a report."""

    facts: dict[str, Any]
    checks: list[Check]

    def check(self, name: str) -> Check:
        """The check of this name: create, elements, bulk, qsize, ids, pins. KeyError for another."""
        for each in self.checks:
            if each.name == name:
                return each
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "facts": self.facts,
            "checks": [
                {
                    "name": check.name,
                    "works": check.works,
                    "evidence": check.evidence,
                    "cause": None
                    if check.cause is None
                    else {
                        "kind": check.cause.kind,
                        "certain": check.cause.certain,
                        "text": check.cause.text,
                        "help": check.cause.help,
                        "grants": check.grants,
                    },
                }
                for check in self.checks
            ],
        }

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        lines = [f"{name.replace('_', ' '):{width}}  {_words(value)}" for name, value in self.facts.items()]
        for check in self.checks:
            lines += ["", f"{_MARKS[check.works]}  {check.name}: {check.evidence}"]
            if check.cause:
                lines.append(f"    cause ({'certain' if check.cause.certain else 'a guess'}): {check.cause.text}")
                lines.append(f"    what helps: {check.cause.help}")
                lines += [f"      {where}: {how}" for where, how in check.grants.items()]
        return "\n".join(lines)


_MARKS = {True: "yes", False: "NO ", None: "?  "}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "not known"}[value]
    return str(value)


def diagnose() -> Diagnosis:
    """Finds out what works here and what does not, and why. Raises nothing for what is not permitted: that is the
    answer. Takes some milliseconds and needs no privilege.

    >>> diagnose().check("create").works
    True
    """
    return Diagnosis({name: look() for name, look in _FACTS.items() if _matters(name)}, _checks())


# The facts


def _matters(name: str) -> bool:
    # Since 5.11 maps are charged to the memory cgroup.
    return name != "rlimit_memlock" or kernel_version() < (5, 11)


# As python -m tests.harness.benchmarks doors measures it.
_FFI_MODES = {
    "api": "the compiled extension",
    "abi": "Python over cffi's ABI mode: push and pop cost 5 to 9 times as much, many at once the same",
}


def _door() -> str:
    return f"{FFI_MODE}, {_FFI_MODES[FFI_MODE]} ({FFI_MODE_REASON})"


def _kernel() -> str:
    """Its release; the simulated kernel says that it is one."""
    release = door.simulated.proc("/proc/sys/kernel/osrelease") if door.simulated is not None else None
    return release.strip() if release else os.uname().release


def _user_namespace() -> str:
    return {True: "initial", False: "nested", None: "not known"}[in_initial_user_namespace()]


def _seccomp() -> str:
    if proc_fields("/proc/self/status").get("Seccomp") == "0":
        return "none"
    refuses = {cmd: seccomp_refuses(cmd) for cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_MAP_UPDATE_ELEM)}
    if all(refuses.values()):
        return "a filter refuses bpf(2)"
    if any(refuses.values()):
        return "a filter refuses some commands of bpf(2)"
    return "not known" if None in refuses.values() else "a filter that lets bpf(2) pass"


def _rlimit_memlock() -> str:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} bytes"


def _lockdown() -> str:
    try:
        with open(LOCKDOWN) as file:
            text = file.read()
    except OSError:
        return "not known"
    # none [integrity] confidentiality
    return text.partition("[")[2].partition("]")[0]


_SHOWN = (Capability.CAP_BPF, Capability.CAP_PERFMON, Capability.CAP_NET_ADMIN, Capability.CAP_SYS_ADMIN)

_FACTS: dict[str, Callable[[], Any]] = {
    "kernel": _kernel,
    "door": _door,
    "capabilities": lambda: {capability.name: has_capability(capability) for capability in _SHOWN},
    "user_namespace": _user_namespace,
    "seccomp": _seccomp,
    "unprivileged_bpf_disabled": unprivileged_bpf_disabled,
    "rlimit_memlock": _rlimit_memlock,
    "bpffs": bpffs.mounts,
    "bpffs_with_delegation": bpffs.delegating_mounts,
    "security_modules": security_modules,
    "lockdown": _lockdown,
    "kernel_btf": lambda: os.access(reader.VMLINUX, os.R_OK),
}


# What works


def _checks() -> list[Check]:
    checks = []
    try:
        with Queue("=Q", 64, name="rawbpf_doctor") as q:
            checks.append(Check("create", True, f"BPF_MAP_CREATE made a queue, id {q.id}, which is gone again"))
            checks += [_tried(name, attempt, q) for name, attempt in _WITH_A_MAP.items()]
    except BpfError as error:
        checks.append(_failed("create", error, why_not_permitted(Cmd.BPF_MAP_CREATE)))
        checks += [Check(name, None, "can't be tried without a map") for name in _WITH_A_MAP]
    checks += [_ids(), _pins()]
    return checks


def _tried(name: str, attempt: Callable[[Queue[Any]], Check], q: Queue[Any]) -> Check:
    try:
        return attempt(q)
    except BpfError as error:
        return _failed(name, error, why_not_permitted(error.cmd, q.fileno()))


def _failed(name: str, error: BpfError, cause: Cause) -> Check:
    return Check(name, False, str(error), cause if isinstance(error, NotPermitted) else None)


def _elements(q: Queue[Any]) -> Check:
    q.push(7)
    peeked, popped = q.peek(), q.pop()
    return Check("elements", True, f"pushed 7, peeked {peeked}, popped {popped}")


def _bulk(q: Queue[Any]) -> Check:
    pushed = q.push_many(range(2 * BREAK_EVEN))
    popped = len(q.pop_many(pushed))
    status = q.bulk
    evidence = f"{pushed} pushed and {popped} popped, "
    if status.in_kernel:
        return Check("bulk", True, evidence + f"many in a call ({status.why})")
    perfmon = lacking(Capability.CAP_PERFMON, certain=False) if is_privileged(Capability.CAP_PERFMON) is False else None
    cause = why_not_permitted(Cmd.BPF_PROG_LOAD) if "not permitted" in status.why else perfmon
    return Check("bulk", False, evidence + f"a call for each, for {status.why}", cause)


def _qsize(q: Queue[Any]) -> Check:
    q.push(7)
    try:
        size = q.qsize()
    except NotPermitted as error:
        if is_privileged(Capability.CAP_PERFMON) is False:
            return _failed("qsize", error, lacking(Capability.CAP_PERFMON))
        raise
    finally:
        q.pop()
    return Check("qsize", True, f"a BPF program counted {counted(size, 'element')}")


def _ids() -> Check:
    try:
        number = sum(1 for _ in list_maps())
    except BpfError as error:
        return _failed("ids", error, why_not_permitted(error.cmd))
    return Check("ids", True, f"{counted(number, 'queue or stack is', 'queues and stacks are')} on the system")


def _pins() -> Check:
    """Looks and does not pin: a pin would be there for others to see."""
    mounts = bpffs.mounts()
    writable = [folder for folder in mounts if os.access(folder, os.W_OK | os.X_OK)]
    if writable:
        return Check("pins", True, f"may write in {', '.join(writable)} (nothing was pinned)")
    if mounts:
        cause = Cause("file-mode", f"no permission to write in {', '.join(mounts)}", "chown or chmod a folder in it")
        return Check("pins", False, "a bpffs is mounted", cause)
    cause = Cause("bpffs", "no bpffs is mounted here", "mount one: mount -t bpf bpf /sys/fs/bpf")
    return Check("pins", False, "a pin lives in a bpffs", cause)


_WITH_A_MAP = {"elements": _elements, "bulk": _bulk, "qsize": _qsize}


# What would permit it

# {word} is a capability without CAP_, {name} and {lower} are it whole.
_CAPABILITY_GRANTS = {
    "docker": "docker run --cap-add {word} ...",
    "podman": "sudo podman run --cap-add {name} ...",
    "kubernetes": 'securityContext: {{capabilities: {{add: ["{word}"]}}}}',
    "systemd": "[Service] AmbientCapabilities={name} CapabilityBoundingSet={name}",
    "setcap": "setcap {lower}+ep /path/to/the/python/of/this/program",
}

_GRANTS = {
    "seccomp": {
        "docker": "docker run --cap-add BPF ... (which opens Docker's own profile), or --security-opt seccomp=FILE",
        "podman": "sudo podman run --cap-add CAP_BPF ..., or --security-opt seccomp=profile.json",
        "kubernetes": 'securityContext: {capabilities: {add: ["BPF"]}}, or seccompProfile: {type: Localhost, ...}',
        "systemd": "[Service] SystemCallFilter=bpf",
    },
    "user-namespace": {
        "docker": "docker run --userns=host --cap-add BPF ...",
        "podman": "sudo podman run --cap-add CAP_BPF ... (rootless podman is in a user namespace)",
        "kubernetes": "hostUsers: true",
        "token": "a bpffs mounted with delegate_cmds and delegate_maps, and Queue(..., token=rawbpf.Token.open(bpffs))",
    },
    "bpffs": {
        "docker": "docker run -v /sys/fs/bpf:/sys/fs/bpf ...",
        "podman": "sudo podman run -v /sys/fs/bpf:/sys/fs/bpf ...",
        "kubernetes": "volumes: [{name: bpffs, hostPath: {path: /sys/fs/bpf}}]",
        "systemd": "[Unit] RequiresMountsFor=/sys/fs/bpf",
    },
    "sysctl": {"sysctl": "sysctl kernel.unprivileged_bpf_disabled=0"},
    "memlock": {
        "docker": "docker run --ulimit memlock=-1 ...",
        "podman": "sudo podman run --ulimit memlock=-1 ...",
        "systemd": "[Service] LimitMEMLOCK=infinity",
    },
}


def _grants(cause: Cause) -> dict[str, str]:
    """What to write where for it; the surroundings this process is in come first."""
    if cause.kind == "capability" and cause.capability is not None:
        name = cause.capability.name
        texts = {"word": name.removeprefix("CAP_"), "name": name, "lower": name.lower()}
        grants = {where: how.format_map(texts) for where, how in _CAPABILITY_GRANTS.items()}
    else:
        grants = _GRANTS.get(cause.kind, {})
    here = _surroundings()
    return {where: grants[where] for where in sorted(grants, key=lambda where: where != here)}


def _surroundings() -> str:
    signs = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
        "podman": os.path.exists("/run/.containerenv"),
        "docker": os.path.exists("/.dockerenv"),
        "systemd": "INVOCATION_ID" in os.environ,
    }
    return next((where for where, here in signs.items() if here), "")
