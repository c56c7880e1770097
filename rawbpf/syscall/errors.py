"""BpfError and its family; meanings.py says which of them an errno becomes.

Python would turn a bare ENOENT into FileNotFoundError and read E2BIG as "Argument list too long". For a queue they
mean empty and full. Each class here is both: an OSError with the kernel's errno, and the exception that Python code
expects of such an event.
"""

import errno
import os
import queue
from typing import Any

from rawbpf.abi import ENOTSUPP, Cmd, MapType, ProgFlag, ProgType, door
from rawbpf.abi.door import raise_hook_failure
from rawbpf.syscall import meanings, permission
from rawbpf.syscall.permission import Cause
from rawbpf.syscall.proc import kernel_version


class BpfError(OSError):
    """A bpf(2) call failed.

    `errno` is the kernel's, `cmd` the command, `subject` the map, program or path that it was about ("queue 'events'"),
    `strerror` what happened, in the subject's terms. `hint` says what would help, or is "". `cause` is why something is
    not permitted, found from evidence (a Cause: kind, text, help, certain, capability), where that is the question;
    else None. Names and the kernel's words stand in the texts as they are: who prints them escapes them.

    >>> try:
    ...     Queue.open("/proc/nothing")
    ... except BpfError as error:
    ...     error.cmd.name, errno.errorcode[error.errno]
    ('BPF_OBJ_GET', 'ENOENT')
    """

    def __init__(
        self, error: int, what: str, cmd: Cmd, hint: str = "", subject: str = "", cause: Cause | None = None
    ) -> None:
        super().__init__(error, what)
        self.cmd = cmd
        self.hint = hint
        self.subject = subject
        self.cause = cause

    def __str__(self) -> str:
        text = f"{self.strerror} [{self.cmd.name}: {errno_name(self.errno or 0)}]"
        return f"{text}; {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "filename": self.filename}
        return type(self), (self.errno, self.strerror, self.cmd), state


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
    """The kernel refused (EPERM, EACCES). `cause` and the hint say why, from evidence.

    >>> with Queue(4, 1) as q:
    ...     q.freeze()
    ...     try:
    ...         q.push(b"abcd")
    ...     except PermissionError as error:
    ...         print(error.hint)
    the map is frozen: push and pop from user space are over for good: peek and BPF programs go on
    """


class Unsupported(BpfError):
    """This kernel, or this kind of object, can't do that: too old, or built without it.

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
    """Something is pinned at that path (EEXIST), attached at that place (EEXIST, EBUSY), or the map has an element with
    that key (EEXIST).

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


class VerifierError(BpfError):
    """The kernel refused a program. `log` is what the verifier says of it, the end of it the reason.

    >>> from rawbpf.programs.asm import exit_
    >>> try:
    ...     Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [exit_()])
    ... except VerifierError as error:
    ...     "R0 !read_ok" in error.log
    True
    """

    log = ""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.log}" if self.log else super().__str__()


def errno_name(error: int) -> str:
    """The kernel's symbol for an errno, the kernel-internal ENOTSUPP (524) included."""
    # Python calls the errno that the kernel calls EOPNOTSUPP by its other name, ENOTSUP.
    special = {ENOTSUPP: "ENOTSUPP", errno.EOPNOTSUPP: "EOPNOTSUPP"}
    return special.get(error) or errno.errorcode.get(error, str(error))


# What this process, or the system, has too little of at this moment: no judgement on what was asked for.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_FAMILY = (BpfError, Empty, Full, Busy, NotPermitted, Unsupported, NotFound, AlreadyExists, NoSuchKey, NoSuchIndex)
_CLASSES: dict[str, type[BpfError]] = {each.__name__: each for each in _FAMILY}


def bpf_error(
    cmd: Cmd,
    error: int,
    *,
    fd: int | None = None,
    token_fd: int | None = None,
    about: meanings.About = None,
    needs: tuple[ProgType | ProgFlag, ...] = (),
    hint: str = "",
    cause: Cause | None = None,
    **details: object,
) -> BpfError:
    """The exception for a failed call: `error` is the positive errno, `details` fill the texts.

    `about` is what it was done to, where the errno's meaning depends on it: the type of the map or of the link, the
    attach type. `needs` is what else the kernel must know. Without a `subject` (the bare call) no map's terms are used.
    An EPERM, and an EACCES of a path, are explained from evidence (permission.py): `fd`, `token_fd`, `about` and the
    path among the details are where to look for it. First raises what a hook at the door raised, if that is why the
    call failed.
    """
    raise_hook_failure(-error)
    meaning = meanings.meaning_of(cmd, error, about, known_subject="subject" in details)
    if error == errno.EINVAL and (newer := _newer_than_the_kernel(cmd, about, *needs)):
        meaning = meanings.Meaning("Unsupported", "{subject}: " + newer)
    if error == errno.EOPNOTSUPP and door.simulated is not None:
        meaning, hint = meanings.Meaning("Unsupported", "{subject}: not simulated"), door.simulated.limits
    details.setdefault("subject", "bpf(2)")
    details["command"] = cmd.name.removeprefix("BPF_").lower()
    if "max_entries" in details:
        details["entries"] = f"{details['max_entries']} {'entry' if details['max_entries'] == 1 else 'entries'}"
    path = details.get("path")
    assert path is None or isinstance(path, str)
    if not hint and cause is None and error in (errno.EPERM, errno.EACCES):
        map_type = about if isinstance(about, MapType) else None
        if error == errno.EPERM:
            cause = permission.why_not_permitted(cmd, fd, path=path, token_fd=token_fd, map_type=map_type)
        elif path is not None:
            cause = permission.why_no_access(cmd, path)
    if path is not None and cause is None and error in (errno.ENOENT, errno.EACCES):
        cause = permission.why_no_bpffs(path)
    if not hint and cause is None and error in (errno.ENOSYS, errno.EINVAL):
        cause = permission.why_not_there(cmd, error)
    what = meaning.what or "{subject}: " + strerror(error)
    words = hint or (str(cause) if cause else meaning.hint)
    exception = _CLASSES[meaning.error](
        error,
        what.format_map(details),
        cmd,
        words.format_map(details) if words is meaning.hint else words,
        str(details["subject"]),
        cause,
    )
    exception.filename = path
    return exception


def _newer_than_the_kernel(*needed: Cmd | meanings.About | ProgType | ProgFlag) -> str:
    """Says of the first of these that this kernel is too old for it; "" if it is for none."""
    running = kernel_version()
    for each in needed:
        if each is not None and each.since and running < tuple(map(int, each.since.split("."))):
            return f"{each.name} came with Linux {each.since}, this is {'.'.join(map(str, running))}"
    return ""


def strerror(error: int) -> str:
    """The text of an errno; strerror(3) has none for ENOTSUPP (524)."""
    return "operation not supported by this map" if error == ENOTSUPP else os.strerror(error)
