"""The doctor: what bpf(2) does for this process here, and, where it is not permitted, why and what would permit it.

It looks, and it tries: a map that lives for a moment, without a pin; or a map that is there, by calls that take nothing
out of it and put nothing in. It changes nothing and leaves nothing behind. What it says of a refusal is what a
NotPermitted says in its hint: syscall/permission.py finds the cause for both.
"""

import errno
import os
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from rawbpf import syscall
from rawbpf.abi import Cmd, door
from rawbpf.abi.door import FFI_MODE, FFI_MODE_REASON, ffi, lib
from rawbpf.btf import reader
from rawbpf.maps import bpffs
from rawbpf.maps.bulk import BREAK_EVEN
from rawbpf.maps.listing import list_maps
from rawbpf.maps.opening import open_map
from rawbpf.maps.queue_stack import Queue, QueueOrStack
from rawbpf.observe.remedies import grants, remedies
from rawbpf.observe.wording import counted
from rawbpf.syscall import StrPath, describe
from rawbpf.syscall.errors import BpfError, NotFound, bpf_error
from rawbpf.syscall.permission import (
    Cause,
    is_privileged,
    lacking,
    seccomp_refuses,
    why_no_access,
    why_not_permitted,
    why_not_there,
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
        return {} if self.cause is None else grants(self.cause)


class Diagnosis(NamedTuple):
    """What the doctor found: facts by name, and checks. str() is a report in lines of 80 characters."""

    facts: dict[str, Any]
    checks: list[Check]

    def check(self, name: str) -> Check:
        """The check of this name: create, elements, bulk, qsize, ids, pins; of a map open, peek, push, pop, qsize.
        KeyError for another."""
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
        return self.report(80)

    def report(self, width: int) -> str:
        """The report in lines of at most `width` characters. A cause and what helps are said once, under a number; of
        the places where a remedy can be written, only the one that this process runs in, if it is known."""
        column = max(map(len, self.facts)) + 2
        lines = []
        for name, value in self.facts.items():
            lines += _filled(f"{name.replace('_', ' '):{column}}", _words(value), width)
        lines.append("")
        causes = list(dict.fromkeys(check.cause for check in self.checks if check.cause is not None))
        for check in self.checks:
            number = "" if check.cause is None else f" -> {causes.index(check.cause) + 1}"
            lines += _filled(f"{_MARKS[check.works]}  {check.name}: ", f"{check.evidence}{number}", width, column=5)
        said: set[tuple[str, str]] = set()
        for index, cause in enumerate(causes, 1):
            lines += ["", *_filled(f"{index}  ", f"{cause.text}{'' if cause.certain else ' (a guess)'}", width)]
            found = [each for each in remedies(cause) if each not in said]
            said.update(found)
            for where, how in found:
                lines += _filled(f"   {where or 'what helps'}: ", how, width, column=5)
        return "\n".join(lines)


def _filled(head: str, text: str, width: int, column: int | None = None) -> list[str]:
    """Text behind a head, in lines of at most `width` characters; those after the first begin at `column`, by default
    under the text."""
    indent = " " * (len(head) if column is None else column)
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True
    ) or [head.rstrip()]


_MARKS = {True: "yes", False: "NO ", None: "?  "}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "not known"}[value]
    return str(value)


def diagnose(spec: StrPath | None = None) -> Diagnosis:
    """Finds out what works here and what does not, and why. Raises nothing for what is not permitted: that is the
    answer. Takes some milliseconds and needs no privilege.

    `spec` is one map to try instead, as open_map() has it: a pin's path, "id:294" or "name:events". It is not changed.
    Raises ValueError for an id that is no number, or a name that several maps have.

    >>> diagnose().check("create").works
    True
    """
    facts = {name: look() for name, look in _FACTS.items() if _matters(name)}
    return Diagnosis(facts, _checks() if spec is None else _checks_of(spec))


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
    guesses = (why_not_there(Cmd.BPF_MAP_CREATE, error) for error in (errno.ENOSYS, errno.EINVAL))
    if any(guess is not None and guess.kind == "seccomp" for guess in guesses):
        return "a filter seems to answer bpf(2)"
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
        checks.append(_failed("create", error))
        checks += [Check(name, None, "can't be tried without a map") for name in _WITH_A_MAP]
    checks += [_ids(), _pins()]
    return checks


def _tried(name: str, attempt: Callable[[QueueOrStack[Any]], Check], q: QueueOrStack[Any]) -> Check:
    try:
        return attempt(q)
    except BpfError as error:
        return _failed(name, error)


def _failed(name: str, error: BpfError) -> Check:
    """What the kernel answered, and why; what is not there is no matter of a cause, and has its hint instead."""
    cause = None if isinstance(error, NotFound) else error.cause
    told = BpfError(error.errno or 0, error.strerror or "", error.cmd, "" if cause else error.hint)
    return Check(name, False, str(told), cause)


def _elements(q: QueueOrStack[Any]) -> Check:
    q.push(7)
    peeked, popped = q.peek(), q.pop()
    return Check("elements", True, f"pushed 7, peeked {peeked}, popped {popped}")


def _bulk(q: QueueOrStack[Any]) -> Check:
    pushed = q.push_many(range(2 * BREAK_EVEN))
    popped = len(q.pop_many(pushed))
    status = q.bulk
    evidence = f"{pushed} pushed and {popped} popped, "
    if status.in_kernel:
        return Check("bulk", True, evidence + f"many in a call ({status.why})")
    perfmon = lacking(Capability.CAP_PERFMON, certain=False) if is_privileged(Capability.CAP_PERFMON) is False else None
    cause = why_not_permitted(Cmd.BPF_PROG_LOAD) if "not permitted" in status.why else perfmon
    return Check("bulk", False, evidence + f"a call for each, for {status.why}", cause)


def _qsize(q: QueueOrStack[Any]) -> Check:
    q.push(7)
    try:
        size = q.qsize()
    finally:
        q.pop()
    who = "a BPF program" if door.simulated is None else "the simulated kernel"
    return Check("qsize", True, f"{who} counted {counted(size, 'element')}")


def _ids() -> Check:
    try:
        number = sum(1 for _ in list_maps())
    except BpfError as error:
        return _failed("ids", error)
    return Check("ids", True, f"{counted(number, 'queue or stack is', 'queues and stacks are')} on the system")


def _pins() -> Check:
    """Looks and does not pin: a pin would be there for others to see."""
    mounts = bpffs.mounts()
    writable = [folder for folder in mounts if os.access(folder, os.W_OK | os.X_OK)]
    if writable:
        return Check("pins", True, f"may write in {', '.join(writable)} (nothing was pinned)")
    if mounts:
        refused = why_no_access(Cmd.BPF_OBJ_PIN, os.path.join(mounts[0], "pin"))
        cause = refused or Cause("owner", f"no permission to write in {mounts[0]!r}", "chown or chmod a folder in it")
        return Check("pins", False, "a bpffs is mounted, and may not be written to", cause)
    cause = Cause("bpffs", "no bpffs is mounted here", "mount one: mount -t bpf bpf /sys/fs/bpf")
    return Check("pins", False, "a pin lives in a bpffs", cause)


_WITH_A_MAP = {"elements": _elements, "bulk": _bulk, "qsize": _qsize}


# What works with a map that is there


def _checks_of(spec: StrPath) -> list[Check]:
    """Tries to open a map, for reading alone if writing is not permitted, and to use it if it is a queue or a stack."""
    refused = None
    try:
        m, opened = open_map(spec), "for reading and writing"
    except BpfError as error:
        refused = error
        try:
            m, opened = open_map(spec, access="r"), "for reading alone"
        except BpfError:
            return [_failed("open", refused)]
    with m:
        evidence = f"{describe(m.info())}, id {m.id}, {opened}"
        checks = [Check("open", True, evidence)]
        if not isinstance(m, QueueOrStack):
            return checks
        for name, attempt in _WITH_THE_MAP.items():
            check = _tried(name, attempt, m)
            if refused is not None and check.works is False and check.cause and check.cause.kind == "descriptor":
                check = _failed(name, refused)
            checks.append(check)
        return checks


def _peek(m: QueueOrStack[Any]) -> Check:
    return Check("peek", True, "it is empty" if m.peek(default=None) is None else "it holds an element")


def _refused_key(cmd: Cmd) -> Callable[[QueueOrStack[Any]], Check]:
    """Tries an element command with a key. A map without keys answers EINVAL to that once it has looked whether the
    command is permitted, and before it does anything."""
    name = {Cmd.BPF_MAP_UPDATE_ELEM: "push", Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: "pop"}[cmd]

    def attempt(m: QueueOrStack[Any]) -> Check:
        key, value = bytearray(1), bytearray(m.value_size)
        attr = syscall.bpf_attr(map_fd=m.fileno(), key=syscall.pointer(key), value=syscall.pointer(value))
        answer = lib.bpf(cmd, attr, ffi.sizeof(attr[0]))
        if answer == -errno.EINVAL:
            return Check(name, True, "permitted (nothing was done)")
        raise bpf_error(cmd, -answer, fd=m.fileno(), about=m.info().type, subject=describe(m.info()))

    return attempt


def _counted(m: QueueOrStack[Any]) -> Check:
    return Check("qsize", True, f"{counted(m.qsize(), 'element')}, room for {m.max_entries}")


_WITH_THE_MAP = {
    "peek": _peek,
    "push": _refused_key(Cmd.BPF_MAP_UPDATE_ELEM),
    "pop": _refused_key(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM),
    "qsize": _counted,
}

# What can be asked for by name, of this process and of a map.
CHECKS = ("create", *_WITH_A_MAP, "ids", "pins")
CHECKS_OF_A_MAP = ("open", *_WITH_THE_MAP)
