"""BpfError and its family, and what an errno means for which command.

Python would turn a bare ENOENT into FileNotFoundError and read E2BIG as "Argument list too long". For a queue they
mean empty and full. Each class here is both: an OSError with the kernel's errno, and the exception that Python code
expects of such an event.
"""

import errno
import os
import queue
from typing import Any, NamedTuple

from rawbpf.abi import ENOTSUPP, Cmd, MapType
from rawbpf.abi.door import raise_hook_failure
from rawbpf.syscall import permission


class BpfError(OSError):
    """A bpf(2) call failed. `errno`: the kernel's; `cmd`: the command; `strerror`: what happened, in the map's terms;
    `hint`: what would help, or "".

    >>> try:
    ...     Queue.open("/proc/nothing")
    ... except BpfError as error:
    ...     error.cmd.name, errno.errorcode[error.errno]
    ('BPF_OBJ_GET', 'ENOENT')
    """

    cmd: Cmd
    hint: str

    def __init__(self, error: int, what: str, cmd: Cmd, hint: str = "") -> None:
        super().__init__(error, what)
        self.cmd = cmd
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.strerror} [{self.cmd.name}: {errno_name(self.errno or 0)}]"
        return f"{text}; {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "filename": self.filename}
        return type(self), (self.errno, self.strerror, self.cmd, self.hint), state


class Empty(BpfError, queue.Empty):
    """Peek or pop on a map without elements (ENOENT).

    >>> with Queue(4, 1, name="events") as q:
    ...     q.pop()
    Traceback (most recent call last):
        ...
    rawbpf.syscall.errors.Empty: queue 'events' is empty [BPF_MAP_LOOKUP_AND_DELETE_ELEM: ENOENT]
    """


class Full(BpfError, queue.Full):
    """Push with BPF_ANY on a map that holds max_entries elements (E2BIG).

    >>> import queue
    >>> with Stack("B", 1) as s:
    ...     s.push(1)
    ...     try:
    ...         s.push(2)
    ...     except queue.Full as error:  # the standard library's class catches it as well
    ...         type(error).__name__
    'Full'
    """


class Busy(BpfError, BlockingIOError):
    """The map's lock could not be had, ten times over (EBUSY; Linux 6.15). Nothing was done; call again.

    >>> issubclass(Busy, BlockingIOError)
    True
    """


class NotPermitted(BpfError, PermissionError):
    """The kernel refused (EPERM, EACCES). The hint says why, from evidence.

    >>> with Queue(4, 1) as q:
    ...     q.freeze()
    ...     try:
    ...         q.push(b"abcd")
    ...     except PermissionError as error:
    ...         print(error.hint)
    the map is frozen: push from user space is over for good: peek and BPF programs go on
    """


class Unsupported(BpfError):
    """This kernel can't do that (EOPNOTSUPP): too old, or built without it.

    >>> issubclass(Unsupported, OSError)
    True
    """


class NotFound(BpfError, FileNotFoundError):
    """No such pin, id, name or tracepoint (ENOENT), no such interface (ENODEV).

    >>> try:
    ...     Queue.open("/proc/nothing")
    ... except FileNotFoundError as error:
    ...     type(error).__name__
    'NotFound'
    """


class AlreadyExists(BpfError, FileExistsError):
    """Something is pinned at that path already (EEXIST), or attached at that place (EEXIST, EBUSY).

    >>> issubclass(AlreadyExists, FileExistsError)
    True
    """


class NoSuchKey(BpfError, KeyError):
    """The map has no such key (ENOENT).

    >>> with Hash("<I", "<Q", 8, name="owners") as owners:
    ...     owners[7]
    Traceback (most recent call last):
        ...
    rawbpf.syscall.errors.NoSuchKey: hash 'owners' has no key 7 [BPF_MAP_LOOKUP_ELEM: ENOENT]
    """


class NoSuchIndex(NoSuchKey, IndexError):
    """The array is not that long. The kernel is not asked; `errno` is ENOENT, as it would say.

    >>> with Array("<Q", 4) as counters:
    ...     try:
    ...         counters[4]
    ...     except IndexError as error:
    ...         type(error).__name__
    'NoSuchIndex'
    """


def errno_name(error: int) -> str:
    """The symbol of an errno, the kernel-internal ENOTSUPP (524) included."""
    return "ENOTSUPP" if error == ENOTSUPP else errno.errorcode.get(error, str(error))


# What this process, or the system, has too little of at this moment: no judgement on what was asked for.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class _Meaning(NamedTuple):
    """The class to raise, and texts in which {subject}, {path} and the like stand for the caller's details."""

    error: type[BpfError]
    what: str
    hint: str = ""


_EMPTY = _Meaning(Empty, "{subject} is empty")

# What an errno means for one command.
_BY_COMMAND: dict[tuple[Cmd, int], _Meaning] = {
    (Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT): _EMPTY,
    (Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, errno.ENOENT): _EMPTY,
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG): _Meaning(
        Full,
        "{subject} is full ({max_entries} entries)",
        "pop first, or push with BPF_EXIST to overwrite the oldest",
    ),
    (Cmd.BPF_MAP_CREATE, errno.ENOMEM): _Meaning(
        BpfError,
        "no memory for {subject}: {max_entries} entries of {value_size} bytes",
        "the map is allocated at once and charged to the memory cgroup",
    ),
    (Cmd.BPF_MAP_CREATE, errno.E2BIG): _Meaning(
        BpfError,
        "{subject} can't be created with {max_entries} entries of {value_size} bytes",
        # The second since a fix that 6.12.117 has, and 7.2.13 not yet: (max_entries + 1) * value_size must be a u32.
        "the largest value is KMALLOC_MAX_SIZE (4 MiB where pages have 4 KiB), and some kernels refuse maps of 4 GiB",
    ),
    (Cmd.BPF_MAP_CREATE, errno.EINVAL): _Meaning(
        BpfError,
        "{subject}: the kernel does not take the map type, a flag or another argument",
        "queue and stack maps need Linux 4.20, BPF_F_*_PROG 5.2, tokens 6.9, and a NUMA node must be online",
    ),
    (Cmd.BPF_MAP_CREATE, errno.EBADF): _Meaning(BpfError, "{subject}: the token's descriptor is not open"),
    (Cmd.BPF_PROG_LOAD, errno.EACCES): _Meaning(BpfError, "{subject}: the verifier refused it"),
    # Before 6.5; later a second freeze is EPERM.
    (Cmd.BPF_MAP_FREEZE, errno.EBUSY): _Meaning(NotPermitted, "{subject} is frozen already"),
    (Cmd.BPF_OBJ_PIN, errno.EEXIST): _Meaning(AlreadyExists, "{path!r} exists", "unlink it first, or choose another"),
    (Cmd.BPF_OBJ_PIN, errno.ENOENT): _Meaning(NotFound, "{path!r}: the directory does not exist"),
    (Cmd.BPF_OBJ_PIN, errno.EPERM): _Meaning(NotPermitted, "{path!r} can't hold a pin"),
    (Cmd.BPF_OBJ_PIN, errno.EACCES): _Meaning(NotPermitted, "{path!r}: no permission to write the directory"),
    (Cmd.BPF_OBJ_GET, errno.ENOENT): _Meaning(NotFound, "nothing is pinned at {path!r}"),
    (Cmd.BPF_OBJ_GET, errno.EACCES): _Meaning(
        NotPermitted,
        "{path!r} can't be opened",
        "it is no pin of a BPF object, or its file mode does not allow this access",
    ),
    (Cmd.BPF_OBJ_GET_INFO_BY_FD, errno.EINVAL): _Meaning(BpfError, "{subject} is open, and no BPF object"),
    (Cmd.BPF_OBJ_GET_INFO_BY_FD, errno.EBADFD): _Meaning(BpfError, "{subject} is not open"),
    (Cmd.BPF_MAP_GET_FD_BY_ID, errno.ENOENT): _Meaning(NotFound, "no map has {subject}"),
    (Cmd.BPF_BTF_GET_FD_BY_ID, errno.ENOENT): _Meaning(NotFound, "no BTF has {subject}"),
    (Cmd.BPF_BTF_LOAD, errno.EINVAL): _Meaning(BpfError, "{subject}: this kernel does not take it"),
    (Cmd.BPF_MAP_GET_NEXT_ID, errno.ENOENT): _Meaning(NotFound, "no {subject}"),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.ENOENT): _Meaning(
        NotFound,
        "{subject}: there is none to attach to",
        "raw tracepoints are tracefs's events named without their category, of system calls sys_enter and sys_exit;"
        " before Linux 5.13 a tracing program is attached once in its life",
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.EBUSY): _Meaning(
        AlreadyExists, "{subject}: the program is attached there already", "load it again to attach it twice"
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.EINVAL): _Meaning(
        BpfError,
        "{subject} does not take this program",
        "it may read more arguments than there are, or is of another type; a cookie needs Linux 6.10",
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, ENOTSUPP): _Meaning(Unsupported, "{subject}: this kernel can't be traced there"),
    **dict.fromkeys(
        ((Cmd.BPF_LINK_CREATE, errno.EEXIST), (Cmd.BPF_LINK_CREATE, errno.EBUSY)),
        _Meaning(AlreadyExists, "{subject}: something is attached there already", "detach that first"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.E2BIG): _Meaning(
        BpfError, "{subject}: no more programs fit there", "a flow dissector is one a namespace, others are at most 64"
    ),
    (Cmd.BPF_LINK_CREATE, errno.ENODEV): _Meaning(NotFound, "{subject}: there is no such interface"),
    (Cmd.BPF_LINK_CREATE, errno.ENOENT): _Meaning(NotFound, "{subject}: there is no such place to attach to"),
    (Cmd.BPF_LINK_CREATE, errno.EBADF): _Meaning(
        BpfError, "{subject}: the target is none for this attach type", "for cgroups, a folder of the cgroup2 hierarchy"
    ),
    (Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP): _Meaning(
        Unsupported, "{subject}: the target does not support it", "without XDP_FLAGS_DRV_MODE any interface does"
    ),
    (Cmd.BPF_LINK_CREATE, ENOTSUPP): _Meaning(Unsupported, "{subject}: this kernel can't be traced there"),
    (Cmd.BPF_LINK_CREATE, errno.EINVAL): _Meaning(
        BpfError,
        "{subject}: this kernel does not attach the program there",
        "it is too old or built without it, the program is for something else, a flag is wrong, or the target is gone",
    ),
    (Cmd.BPF_LINK_UPDATE, errno.EINVAL): _Meaning(
        BpfError,
        "{subject} does not take this program",
        "the new program must be of the old one's type, and links of raw tracepoints and tracing keep theirs",
    ),
    (Cmd.BPF_LINK_UPDATE, errno.ENOLINK): _Meaning(BpfError, "{subject}: what it was attached to is gone"),
    (Cmd.BPF_LINK_DETACH, errno.EOPNOTSUPP): _Meaning(
        Unsupported,
        "{subject} can't be detached",
        "it ends with its last descriptor and pin: close it",
    ),
    (Cmd.BPF_LINK_DETACH, errno.EINVAL): _Meaning(
        Unsupported, "{subject} can't be detached", "BPF_LINK_DETACH needs Linux 5.9: close() it, unlink the pin"
    ),
    (Cmd.BPF_LINK_GET_FD_BY_ID, errno.ENOENT): _Meaning(NotFound, "no link has {subject}"),
    (Cmd.BPF_ITER_CREATE, errno.EINVAL): _Meaning(BpfError, "{subject} is not one of an iterator"),
    (Cmd.BPF_TOKEN_CREATE, errno.ENOENT): _Meaning(
        NotFound, "{subject} delegates nothing", "mount it with delegate_cmds=map_create,delegate_maps=queue:stack"
    ),
    (Cmd.BPF_TOKEN_CREATE, errno.EOPNOTSUPP): _Meaning(
        Unsupported, "there is no token in the initial user namespace", "here CAP_BPF is enough"
    ),
    (Cmd.BPF_TOKEN_CREATE, errno.EINVAL): _Meaning(
        BpfError, "{subject} is not the root of a bpffs", "tokens need Linux 6.9, and a bpffs's root folder"
    ),
}

# What it means for all the others.
_BY_ERRNO: dict[int, _Meaning] = {
    errno.EPERM: _Meaning(NotPermitted, "{subject}: not permitted"),
    errno.EACCES: _Meaning(NotPermitted, "{subject}: no access"),
    errno.EBUSY: _Meaning(Busy, "{subject} stayed locked", "nothing was done: call again"),
    errno.EBADF: _Meaning(BpfError, "{subject}: the descriptor is not open", "somebody else closed it"),
    errno.EMFILE: _Meaning(BpfError, "{subject}: this process has no free descriptor", "raise its limit: ulimit -n"),
    errno.ENFILE: _Meaning(BpfError, "{subject}: the system has no free descriptor", "sysctl fs.file-max"),
}


def bpf_error(
    cmd: Cmd,
    error: int,
    *,
    fd: int | None = None,
    token_fd: int | None = None,
    map_type: MapType | None = None,
    hint: str = "",
    **details: object,
) -> BpfError:
    """The exception for a failed call: `error` is the positive errno, `details` fill the texts.

    Without a `subject` (the bare call) no map's terms are used. An EPERM is explained from evidence (permission.py):
    `fd`, `token_fd`, `map_type` and the path among the details are where to look for it.
    First raises what a hook at the door raised, if that is why the call failed.
    """
    raise_hook_failure(-error)
    in_its_terms = _BY_COMMAND.get((cmd, error)) if "subject" in details else None
    meaning = in_its_terms or _BY_ERRNO.get(error) or _Meaning(BpfError, "{subject}: " + strerror(error))
    details.setdefault("subject", "bpf(2)")
    path = details.get("path")
    assert path is None or isinstance(path, str)
    if not hint:
        hint = meaning.hint
        if error == errno.EPERM:
            hint = str(permission.why_not_permitted(cmd, fd, path=path, token_fd=token_fd, map_type=map_type))
    exception = meaning.error(error, meaning.what.format_map(details), cmd, hint)
    exception.filename = path
    return exception


def strerror(error: int) -> str:
    """The text of an errno; strerror(3) has none for ENOTSUPP (524)."""
    return "operation not supported by this map" if error == ENOTSUPP else os.strerror(error)
