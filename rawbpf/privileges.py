"""What this process may do: read from /proc, and only after the kernel has said no.

Nothing here guesses. A missing /proc means "not known", and a cause is named only where the evidence shows it.
"""

import fcntl
import os
import re
from enum import IntEnum

from rawbpf import door
from rawbpf.abi import Cmd


class Capability(IntEnum):
    """The capabilities bpf(2) asks for. Source: include/uapi/linux/capability.h."""

    CAP_SYS_ADMIN = 21
    CAP_SYS_RESOURCE = 24
    CAP_PERFMON = 38
    CAP_BPF = 39


def _simulated(path: str) -> str | None:
    """What the simulated kernel has in its /proc; None if there is none, or if it has nothing of its own to say."""
    kernel = door.simulated
    return None if kernel is None else kernel.proc(path)


def read_proc(path: str) -> str | None:
    """A file in /proc; None where it can't be read."""
    text = _simulated(path)
    if text is not None:
        return text
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def kernel_version() -> tuple[int, int]:
    """The running kernel's version, (6, 18) for "6.18.3-arch1"; distributions append what they like."""
    release = _simulated("/proc/sys/kernel/osrelease") or os.uname().release
    major, minor = re.findall(r"\d+", release)[:2]
    return int(major), int(minor)


def proc_fields(path: str) -> dict[str, str]:
    """The `name: value` lines of a file in /proc; empty where it can't be read."""
    lines = (read_proc(path) or "").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def has_capability(capability: Capability) -> bool | None:
    """Whether the capability is effective here; None if /proc does not tell."""
    effective = proc_fields("/proc/self/status").get("CapEff")
    return None if effective is None else bool(int(effective, 16) >> capability & 1)


def in_initial_user_namespace() -> bool | None:
    """Whether user ids are the machine's own; inside a user namespace capabilities do not reach bpf(2)."""
    uid_map = read_proc("/proc/self/uid_map")
    return None if uid_map is None else uid_map.split() == ["0", "0", str(2**32 - 1)]


def access_of(fd: int) -> str:
    """How a map's descriptor was opened: "r", "w" or "rw"."""
    return {os.O_RDONLY: "r", os.O_WRONLY: "w"}.get(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE, "rw")


def is_frozen(fd: int) -> bool | None:
    """Whether BPF_MAP_FREEZE was called on the map; None if /proc does not tell (fdinfo says it since 5.2)."""
    frozen = proc_fields(f"/proc/self/fdinfo/{fd}").get("frozen")
    return None if frozen is None else frozen == "1"


_ELEMENT_ACCESS = {
    Cmd.BPF_MAP_UPDATE_ELEM: ("push", "w"),
    Cmd.BPF_MAP_LOOKUP_ELEM: ("peek", "r"),
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: ("pop", "rw"),
    Cmd.BPF_MAP_FREEZE: ("freeze", "w"),
}

_WORDS = {"r": "read-only", "w": "write-only"}


def why_not_permitted(cmd: Cmd, fd: int | None = None) -> str:
    """The cause of an EPERM that `cmd` just answered, and what would permit it; one line.

    `fd` is the map of an element command. The causes are tried in the kernel's own order; "the cause is not
    visible" is an answer too.
    """
    if fd is not None and cmd in _ELEMENT_ACCESS and (why := _why_map_refused(cmd, fd)):
        return why
    return _why_process_refused(cmd)


def _why_map_refused(cmd: Cmd, fd: int) -> str:
    # Before 6.5 freezing needs CAP_BPF and no writable descriptor.
    if cmd == Cmd.BPF_MAP_FREEZE and kernel_version() < (6, 5):
        return ""
    verb, needed = _ELEMENT_ACCESS[cmd]
    access = access_of(fd)
    if not set(needed) <= set(access):
        return f'the descriptor is {_WORDS[access]} and {verb} needs access="{needed}": open the map again with that'
    if needed != "r" and is_frozen(fd):
        return f"the map is frozen: {verb} from user space is over for good, peek and BPF programs go on"
    return ""


def needed_capability(cmd: Cmd) -> Capability:
    """What `cmd` asks for on this kernel; CAP_SYS_ADMIN always is enough."""
    return Capability.CAP_SYS_ADMIN if cmd in _ID_COMMANDS or kernel_version() < (5, 8) else Capability.CAP_BPF


def is_capable(cmd: Cmd) -> bool | None:
    """Whether this process has the capability that `cmd` needs; None if /proc does not tell."""
    return has_capability(needed_capability(cmd)) or has_capability(Capability.CAP_SYS_ADMIN)


def _why_process_refused(cmd: Cmd) -> str:
    needed, enough = needed_capability(cmd), is_capable(cmd)
    if enough is False:
        word = needed.name.removeprefix("CAP_")
        return (
            f"this process has no {needed.name}: run it as root, or grant it "
            f"(docker run --cap-add {word}, systemd AmbientCapabilities={needed.name})"
        )
    if enough and in_initial_user_namespace() is False:
        return f"{needed.name} counts only outside user namespaces: use a BPF token, or a map made by a helper outside"
    if proc_fields("/proc/self/status").get("Seccomp", "0") != "0":
        return "the capability is there, but a seccomp filter is active and may refuse bpf(2)"
    return "the capability is there and no cause is visible in /proc: a security module or lockdown may refuse it"


_ID_COMMANDS = frozenset({Cmd.BPF_MAP_GET_NEXT_ID, Cmd.BPF_MAP_GET_FD_BY_ID})
