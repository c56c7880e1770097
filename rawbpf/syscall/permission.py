"""Why something was not permitted: found from evidence, and only after the kernel has said no.

A Cause says why, what would permit it, and whether the evidence shows it or only suggests it. The error's one line, and
what doctor.py prints, are the same Cause.
"""

import errno
import mmap
import os
import stat
from typing import NamedTuple

from rawbpf.abi import Cmd, MapType, door
from rawbpf.abi.door import ffi, lib
from rawbpf.syscall.proc import (
    Capability,
    access_of,
    file_system_of,
    has_capability,
    in_initial_user_namespace,
    is_frozen,
    kernel_version,
    proc_fields,
    read_proc,
    security_modules,
    token_masks,
    unprivileged_bpf_disabled,
)


def seccomp_refuses(cmd: Cmd) -> bool | None:
    """Whether a seccomp filter answers EPERM to this command before the kernel sees it; None if that can't be told.

    An attr longer than a page is E2BIG on every kernel: one that answers EPERM to it did not get to see it. But before
    6.5 (creation and load) and before 5.19 (all commands) the kernel looked at the privilege first.
    """
    mode = proc_fields("/proc/self/status").get("Seccomp")
    if mode in (None, "0"):
        return None if mode is None else False
    privileged = is_privileged(Capability.CAP_BPF) and in_initial_user_namespace()
    if not privileged and kernel_version() < (5, 19):
        return None
    asked = int(cmd) if privileged or kernel_version() >= (6, 5) else _IMPOSSIBLE
    return _answer_to_a_long_attr(asked) == errno.EPERM


# A command that no kernel has; bit 16 is taken (BPF_COMMON_ATTRS).
_IMPOSSIBLE = 9999


def _answer_to_a_long_attr(cmd: int) -> int:
    """The errno of a call whose attr is longer than a page: E2BIG, unless somebody answers before the kernel looks."""
    size = mmap.PAGESIZE + 1
    return -int(lib.bpf(cmd, ffi.new("char[]", size), size))


def is_privileged(capability: Capability) -> bool | None:
    """Whether this process has the capability or CAP_SYS_ADMIN, which stands for all of BPF's; None if not known."""
    return has_capability(capability) or has_capability(Capability.CAP_SYS_ADMIN)


class Cause(NamedTuple):
    """Why something is not permitted.

    `kind` is one word for programs, `text` what is the matter, `help` what would permit it; `certain` False marks a
    guess. `capabilities` are those that are missing, `capability` is the first of them or None.
    """

    kind: str
    text: str
    help: str
    certain: bool = True
    capabilities: tuple[Capability, ...] = ()

    @property
    def capability(self) -> Capability | None:
        return self.capabilities[0] if self.capabilities else None

    def __str__(self) -> str:
        return f"{self.text}: {self.help}{'' if self.certain else ' (a guess)'}"


_ELEMENT_ACCESS = {
    Cmd.BPF_MAP_UPDATE_ELEM: ("push", "w"),
    Cmd.BPF_MAP_LOOKUP_ELEM: ("peek", "r"),
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: ("pop", "rw"),
    Cmd.BPF_MAP_FREEZE: ("freeze", "w"),
}

_WORDS = {"r": "read-only", "w": "write-only"}

_ID_COMMANDS = frozenset(cmd for cmd in Cmd if cmd.name.endswith(("_GET_NEXT_ID", "_GET_FD_BY_ID")))

# These ask for no capability, of whoever has the descriptor or the permission for the path.
_OPEN_COMMANDS = frozenset(
    {
        Cmd.BPF_MAP_UPDATE_ELEM,
        Cmd.BPF_MAP_LOOKUP_ELEM,
        Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
        Cmd.BPF_OBJ_PIN,
        Cmd.BPF_OBJ_GET,
        Cmd.BPF_OBJ_GET_INFO_BY_FD,
        Cmd.BPF_PROG_TEST_RUN,
        Cmd.BPF_LINK_UPDATE,
        Cmd.BPF_LINK_DETACH,
        Cmd.BPF_ITER_CREATE,
    }
)

# What these make was charged to RLIMIT_MEMLOCK before 5.11.
_CHARGED = (Cmd.BPF_MAP_CREATE, Cmd.BPF_PROG_LOAD, Cmd.BPF_BTF_LOAD)

# What these may ask for besides depends on the type of the program.
_WANTED_BESIDES = {
    Cmd.BPF_PROG_LOAD: (Capability.CAP_PERFMON, Capability.CAP_NET_ADMIN),
    Cmd.BPF_RAW_TRACEPOINT_OPEN: (Capability.CAP_PERFMON,),
    Cmd.BPF_LINK_CREATE: (Capability.CAP_NET_ADMIN,),
}


def why_not_permitted(
    cmd: Cmd,
    fd: int | None = None,
    *,
    path: str | None = None,
    token_fd: int | None = None,
    map_type: MapType | None = None,
) -> Cause:
    """The cause of an EPERM that `cmd` just answered, from evidence.

    `fd` is the map of an element command, `path` that of a pin, `token_fd` the token of a creation and `map_type` what
    was to be created. "The cause is not visible" is an answer too.
    """
    return (
        (_why_map_refused(cmd, fd) if fd is not None else None)
        or (_why_path_refused(cmd, path) if path is not None else None)
        or (_why_token_refused(cmd, token_fd, map_type) if token_fd is not None else None)
        or _why_process_refused(cmd)
    )


def why_no_access(cmd: Cmd, path: str) -> Cause | None:
    """The cause of an EACCES for a path in a bpffs, from owners and modes; None if those do not show it."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    for above in reversed(_folders_above(path)):
        if not _mode_permits(above, os.X_OK):
            return _owner_cause(above, "as its owner: chmod o+x {path}")
    if why_no_bpffs(path):
        return None
    if cmd == Cmd.BPF_OBJ_PIN:
        return None if _mode_permits(folder, os.W_OK) else _owner_cause(folder, "{as_root} chown {me} {path}")
    if not _mode_permits(path, os.R_OK):
        return _owner_cause(path, '{as_root} chown {me} {path}; or chmod o+r {path}, then access="r" can peek')
    if not _mode_permits(path, os.W_OK):
        return _owner_cause(path, 'access="r" is permitted, and can peek; to push and pop, {as_root} chown {me} {path}')
    return None


def _folders_above(path: str) -> list[str]:
    folder = os.path.dirname(path)
    return [folder] if folder == path else [folder, *_folders_above(folder)]


def _mode_permits(path: str, wanted: int) -> bool:
    """Whether this process has these permissions for a file: by its mode, or because it may ignore modes."""
    try:
        found = os.stat(path)
    except OSError:
        return True
    if has_capability(Capability.CAP_DAC_OVERRIDE) and in_initial_user_namespace():
        return True
    owns, shares = os.geteuid() == found.st_uid, found.st_gid in {os.getegid(), *os.getgroups()}
    return found.st_mode >> (6 if owns else 3 if shares else 0) & wanted == wanted


def _owner_cause(path: str, remedy: str) -> Cause:
    """The cause "it is somebody else's": whose, with which mode, and who this process is."""
    found, me = os.stat(path), os.geteuid()
    text = (
        f"{path!r} belongs to {_user(found.st_uid)} and has mode {stat.S_IMODE(found.st_mode):04o}, and this process"
        f" is {_user(me)}"
    )
    outside = _uid_outside(me)
    if outside != me:
        text += f", outside its user namespace uid {outside}"
    as_root = "as root:" if me else "with CAP_CHOWN:"
    return Cause("owner", text, remedy.format(me=outside, path=path, as_root=as_root))


def _uid_outside(uid: int) -> int:
    """What the user is called where this user namespace was made."""
    for line in (read_proc("/proc/self/uid_map") or "").splitlines():
        inside, outside, length = map(int, line.split())
        if inside <= uid < inside + length:
            return uid - inside + outside
    return uid


def _user(uid: int) -> str:
    """A user's name and number; the number alone where there is no name."""
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def why_not_there(cmd: Cmd, error: int) -> Cause | None:
    """The cause of an ENOSYS, or of an EINVAL that a seccomp filter answers in the kernel's place; else None."""
    filtered = proc_fields("/proc/self/status").get("Seccomp") == "2"
    if filtered and _answer_to_a_long_attr(cmd) == error:
        return _seccomp_cause(f"seems to answer bpf(2) with {errno.errorcode[error]}", cmd, False)
    if error != errno.ENOSYS:
        return None
    return _gvisor() or Cause(
        "kernel", "this kernel was built without bpf(2)", "run on a kernel with CONFIG_BPF_SYSCALL", not filtered
    )


def _gvisor() -> Cause | None:
    """The cause "this is gVisor": it answers uname(2) with the time at which Linux 4.4 was tagged."""
    if "Sun Jan 10 15:06:54 PST 2016" not in (read_proc("/proc/version") or ""):
        return None
    return Cause("gvisor", "this looks like gVisor, which has no bpf(2)", "use a runtime on the host's kernel", False)


def lacking(*capabilities: Capability, certain: bool = True) -> Cause:
    """The cause "this process has not these capabilities"."""
    names = [capability.name for capability in capabilities]
    words = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in names)
    it = "it" if len(names) == 1 else "them"
    grant = f"grant {it} (docker run {words}, systemd AmbientCapabilities={' '.join(names)})"
    return Cause(
        "capability",
        f"this process has no {' and no '.join(names)}",
        grant if os.geteuid() == 0 else f"run it as root, or {grant}",
        certain,
        capabilities,
    )


def _why_map_refused(cmd: Cmd, fd: int) -> Cause | None:
    # Before 6.5 freezing needs CAP_BPF and no writable descriptor.
    if cmd not in _ELEMENT_ACCESS or (cmd == Cmd.BPF_MAP_FREEZE and kernel_version() < (6, 5)):
        return None
    verb, needed = _ELEMENT_ACCESS[cmd]
    access = access_of(fd)
    if not set(needed) <= set(access):
        text = f'the descriptor is {_WORDS[access]} and {verb} needs access="{needed}"'
        return Cause("descriptor", text, "open the map again with that")
    if needed != "r" and is_frozen(fd):
        what = " already" if cmd == Cmd.BPF_MAP_FREEZE else ": push and pop from user space are over for good"
        return Cause("frozen", f"the map is frozen{what}", "peek and BPF programs go on")
    return None


def _why_path_refused(cmd: Cmd, path: str) -> Cause | None:
    name = os.path.basename(os.path.abspath(path))
    if cmd == Cmd.BPF_OBJ_PIN and (cause := why_no_bpffs(path)):
        return cause
    if why_no_bpffs(path) is None and "." in name:
        return Cause("name", f"the name {name!r} has a '.', which a bpffs keeps for itself", "choose another")
    return None


def why_no_bpffs(path: str) -> Cause | None:
    """The cause "this folder is in no bpffs"; None if it is, or is not there."""
    folder = os.path.dirname(os.path.abspath(path))
    if door.simulated is not None:
        there = door.simulated.bpffs
        if os.path.commonpath((os.path.realpath(folder), there)) == there:
            return None
        return Cause("simulated", f"{folder!r} is not in the simulated kernel's bpffs", f"that is {there!r}")
    file_system = file_system_of(folder)
    if file_system in (None, "bpf"):
        return None
    text = f"{folder!r} is on {file_system}, and a pin lives in a bpffs"
    return Cause("bpffs", text, "mount one (mount -t bpf bpf /sys/fs/bpf, docker run -v /sys/fs/bpf:/sys/fs/bpf)")


def _why_token_refused(cmd: Cmd, token_fd: int, map_type: MapType | None) -> Cause | None:
    """A token that does not delegate what is asked for is ignored without a word."""
    masks = token_masks(token_fd)
    if masks is not None:
        wanted = [("cmds", cmd), ("maps", map_type)] if map_type is not None else [("cmds", cmd)]
        for what, bit in wanted:
            if bit is not None and not masks[what] >> bit & 1:
                text = f"the token does not delegate {bit.name}, and is ignored"
                return Cause("token", text, f"mount its bpffs with it in delegate_{what}")
    if is_privileged(Capability.CAP_BPF) is False:
        text = "a token counts only with CAP_BPF in its user namespace"
        return Cause("token", text, "give the process that capability there", capabilities=(Capability.CAP_BPF,))
    return None


def needed_capability(cmd: Cmd) -> Capability:
    """What `cmd` asks for on this kernel; CAP_SYS_ADMIN always is enough."""
    return Capability.CAP_SYS_ADMIN if cmd in _ID_COMMANDS or kernel_version() < (5, 8) else Capability.CAP_BPF


def is_capable(cmd: Cmd) -> bool | None:
    """Whether this process has the capability that `cmd` needs; None if /proc does not tell."""
    return is_privileged(needed_capability(cmd))


def _why_process_refused(cmd: Cmd) -> Cause:
    needed, capable = needed_capability(cmd), is_capable(cmd)
    refuses = seccomp_refuses(cmd)
    if refuses:
        return _seccomp_cause("refuses bpf(2)", cmd, True)
    if gvisor := _gvisor():
        return gvisor
    if cmd in _OPEN_COMMANDS:
        return _why_open_command_refused(capable)
    if cmd == Cmd.BPF_TOKEN_CREATE:
        return _why_no_token()
    if in_initial_user_namespace() is False:
        text = f"{needed.name} counts only outside user namespaces"
        remedy = _IN_A_USER_NAMESPACE.get(cmd, "let a helper outside do it")
        return Cause("user-namespace", text, remedy, capabilities=(needed,))
    if capable is False:
        return lacking(needed, certain=refuses is False)
    if kernel_version() < (5, 11) and cmd in _CHARGED:
        return Cause("memlock", "RLIMIT_MEMLOCK is too low for it", "ulimit -l, or run with CAP_SYS_RESOURCE", False)
    for capability in _WANTED_BESIDES.get(cmd, ()):
        if is_privileged(capability) is False:
            return lacking(capability, certain=False)
    return _not_visible()


# What stands in for a capability in a user namespace.
_WITH_AN_ID = "open the map by its pin, or let a helper outside pass it on (rawbpf.send_map)"
_IN_A_USER_NAMESPACE = {
    Cmd.BPF_MAP_CREATE: "use a BPF token (Linux 6.9: rawbpf.Token), or a map made by a helper outside",
    Cmd.BPF_BTF_LOAD: "use a BPF token (Linux 6.9: rawbpf.Token), or a map made by a helper outside",
    **dict.fromkeys(_ID_COMMANDS, _WITH_AN_ID),
}


def _seccomp_cause(what: str, cmd: Cmd, certain: bool) -> Cause:
    """The cause "a seccomp filter". Runtimes open theirs to a process with CAP_BPF or CAP_SYS_ADMIN."""
    needed = needed_capability(cmd)
    if is_privileged(needed) is False:
        also = "" if cmd in _OPEN_COMMANDS else f" (and this process has no {needed.name})"
        word = needed.name.removeprefix("CAP_")
        remedy = f"allow the system call in the filter, which docker run --cap-add {word} does"
        return Cause("seccomp", f"a seccomp filter {what}{also}", remedy, certain, (needed,))
    though = ", though CAP_BPF is there" if has_capability(Capability.CAP_BPF) else ""
    remedy = "allow the system call in the filter (--security-opt seccomp=...)"
    return Cause("seccomp", f"a seccomp filter {what}{though}", remedy, certain)


def _why_no_token() -> Cause:
    if has_capability(Capability.CAP_BPF) is False:
        text = "a token wants CAP_BPF in this user namespace"
        return Cause("token", text, "give the process that capability", capabilities=(Capability.CAP_BPF,))
    text = "the bpffs was not mounted for this user namespace"
    return Cause("token", text, "mount one whose fsopen() was called in here", False)


def _why_open_command_refused(capable: bool | None) -> Cause:
    """A command that asks for no capability: up to 5.18 the sysctl closed it as well."""
    closed = unprivileged_bpf_disabled()
    if kernel_version() < (5, 19) and closed and not capable:
        return Cause(
            "sysctl",
            f"kernel.unprivileged_bpf_disabled is {closed}, which before 5.19 closes all of bpf(2) without CAP_BPF",
            "grant CAP_BPF, or sysctl kernel.unprivileged_bpf_disabled=0 (after 1 only a reboot helps)",
        )
    return _not_visible()


def _not_visible() -> Cause:
    modules = ", ".join(security_modules()) or "unknown"
    return Cause(
        "security-module",
        "no cause is visible in /proc",
        f"a security module may refuse it (active: {modules}), see its log (dmesg, journalctl -k)",
        False,
    )
