"""What /proc says of this process, its descriptors and the kernel. A missing /proc means "not known"."""

import fcntl
import os
import re
from enum import IntEnum

from rawbpf.abi import door


class Capability(IntEnum):
    """The capabilities that matter for bpf(2) and its pins. Source: include/uapi/linux/capability.h."""

    CAP_DAC_OVERRIDE = 1
    CAP_NET_ADMIN = 12
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
        with open(path, errors="surrogateescape") as file:
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
    if door.simulated is not None:
        return True
    try:
        # The kernel gives the first one this number on every machine (PROC_USER_INIT_INO).
        return os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD
    except OSError:
        return None


def possible_cpus() -> int:
    """How many CPUs there may ever be here: a value of a per-CPU map has one part for each. OSError without sysfs."""
    with open("/sys/devices/system/cpu/possible") as file:
        ranges = [part.split("-") for part in file.read().strip().split(",")]
    return sum(int(last[-1]) - int(last[0]) + 1 for last in ranges)


def access_of(fd: int) -> str:
    """How a map's descriptor was opened: "r", "w" or "rw"."""
    return {os.O_RDONLY: "r", os.O_WRONLY: "w"}.get(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE, "rw")


def is_frozen(fd: int) -> bool | None:
    """Whether BPF_MAP_FREEZE was called on the map; None if /proc does not tell (fdinfo says it since 5.2)."""
    frozen = proc_fields(f"/proc/self/fdinfo/{fd}").get("frozen")
    return None if frozen is None else frozen == "1"


def file_system_of(path: str) -> str | None:
    """The type of the file system that holds a path ("bpf", "ext4"); None if /proc does not tell."""
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            entries = [line.split() for line in file]
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw: the type stands behind the dash.
    return next((entry[entry.index("-") + 1] for entry in entries if entry[2] == number), None)


def token_masks(fd: int) -> dict[str, int] | None:
    """What a BPF token delegates: bit masks "cmds", "maps", "progs" and "attachs"; None if fdinfo does not tell."""
    fields = proc_fields(f"/proc/self/fdinfo/{fd}")
    names = ("cmds", "maps", "progs", "attachs")
    if f"allowed_{names[0]}" not in fields:
        return None
    words = {name: fields[f"allowed_{name}"] for name in names}
    return {name: 2**64 - 1 if word == "any" else int(word, 16) for name, word in words.items()}


def unprivileged_bpf_disabled() -> int | None:
    """The sysctl kernel.unprivileged_bpf_disabled: 0 open, 1 closed for good, 2 closed; None if it is not there."""
    try:
        with open("/proc/sys/kernel/unprivileged_bpf_disabled") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def security_modules() -> list[str]:
    """The active Linux security modules; empty if securityfs does not tell."""
    try:
        with open("/sys/kernel/security/lsm") as file:
            return file.read().strip().split(",")
    except OSError:
        return []
