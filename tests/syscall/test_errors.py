"""BpfError and its family: what they are caught by, what they say, and that they survive a pickle."""

import errno
import os
import pickle
import queue

import pytest

import rawbpf
from rawbpf import AlreadyExists, BpfError, Busy, Empty, Full, NotFound, NotPermitted
from rawbpf.abi import ENOTSUPP, AttachType, Cmd, MapType
from rawbpf.syscall import errors, meanings, permission

pytestmark = pytest.mark.alike

QUEUE, STACK = MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK


@pytest.mark.parametrize(
    ("error", "caught_by"),
    [
        (Empty, queue.Empty),
        (Full, queue.Full),
        (Busy, BlockingIOError),
        (NotPermitted, PermissionError),
        (NotFound, FileNotFoundError),
        (AlreadyExists, FileExistsError),
    ],
)
def test_both_families_catch(error, caught_by):
    """Each class is a BpfError, an OSError and what Python code expects of such an event."""
    assert issubclass(error, (BpfError, caught_by))
    assert issubclass(error, BpfError)
    assert issubclass(error, caught_by)
    assert issubclass(error, OSError)


def test_an_error_has_errno_command_text_and_hint():
    """errno, cmd, strerror and hint are there, and str() says all of them in one line."""
    error = errors.bpf_error(
        Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG, about=QUEUE, subject="queue 'events'", max_entries=10
    )
    assert type(error) is Full
    assert (error.errno, error.cmd) == (errno.E2BIG, Cmd.BPF_MAP_UPDATE_ELEM)
    assert error.strerror == "queue 'events' is full (10 entries)"
    assert str(error) == (
        "queue 'events' is full (10 entries) [BPF_MAP_UPDATE_ELEM: E2BIG]; "
        "pop first, or push with BPF_EXIST to overwrite the oldest"
    )


def test_an_error_without_a_hint():
    """No hint, no semicolon."""
    error = errors.bpf_error(Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT, about=STACK, subject="stack 's'")
    assert type(error) is Empty
    assert str(error) == "stack 's' is empty [BPF_MAP_LOOKUP_ELEM: ENOENT]"


def test_an_errno_no_table_knows():
    """Any other errno is a BpfError with the text of strerror(3); 524 has one of ours."""
    error = errors.bpf_error(Cmd.BPF_MAP_CREATE, errno.EXDEV, subject="queue 'q'")
    assert type(error) is BpfError
    assert str(error) == f"queue 'q': {os.strerror(errno.EXDEV)} [BPF_MAP_CREATE: EXDEV]"
    assert errors.errno_name(ENOTSUPP) == "ENOTSUPP"
    assert errors.errno_name(9999) == "9999"


def test_too_large_a_map():
    """E2BIG of a creation is about value_size, or on some kernels (6.12.117) about 4 GiB: the text has both numbers."""
    details = {"subject": "queue 'q'", "max_entries": 2**20 - 1, "value_size": 4096}
    error = errors.bpf_error(Cmd.BPF_MAP_CREATE, errno.E2BIG, about=QUEUE, **details)
    assert type(error) is BpfError
    assert error.strerror == "queue 'q' can't be created with 1048575 entries of 4096 bytes"
    assert "KMALLOC_MAX_SIZE" in error.hint and "4 GiB" in error.hint


@pytest.mark.parametrize(
    ("key", "about"),
    [(key, next(iter(row.about), None)) for key, rows in meanings.BY_COMMAND.items() for row in rows],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_every_text_can_be_filled(key, about):
    """The texts ask for no detail that their command does not give, for each kind of object that has its own."""
    details = {"subject": "S", "path": "P", "max_entries": 1, "value_size": 2}
    error = errors.bpf_error(*key, about=about, **details)
    assert "{" not in str(error)
    assert error.errno == key[1]


@pytest.mark.parametrize(
    ("cmd", "error", "about", "said", "not_said"),
    [
        (Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP, AttachType.BPF_XDP, "XDP_FLAGS_DRV_MODE", ""),
        (Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP, AttachType.BPF_TRACE_KPROBE_MULTI, "CONFIG_FPROBE", "XDP"),
        (Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP, AttachType.BPF_PERF_EVENT, "built without it", "XDP"),
        (Cmd.BPF_LINK_CREATE, errno.EBADF, AttachType.BPF_PERF_EVENT, "perf_event_open(2)", "cgroup"),
        (Cmd.BPF_LINK_CREATE, errno.EBUSY, AttachType.BPF_TRACE_FEXIT, "can't attach to this function", "already"),
        (Cmd.BPF_LINK_CREATE, errno.EBUSY, AttachType.BPF_XDP, "attached there already", "function"),
        (Cmd.BPF_MAP_CREATE, errno.EINVAL, MapType.BPF_MAP_TYPE_QUEUE, "queue and stack maps need Linux 4.20", ""),
        (Cmd.BPF_MAP_CREATE, errno.EINVAL, MapType.BPF_MAP_TYPE_RINGBUF, "a power of two", "queue"),
        (Cmd.BPF_MAP_CREATE, errno.EINVAL, MapType.BPF_MAP_TYPE_CPUMAP, "the kernel does not take", "queue"),
        (Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG, MapType.BPF_MAP_TYPE_HASH, "delete an element", "pop"),
        (Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG, MapType.BPF_MAP_TYPE_ARRAY, "no such index", "full"),
        (Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT, MapType.BPF_MAP_TYPE_HASH, "no such key", "empty"),
    ],
)
def test_an_errno_means_what_it_means_for_this_object(cmd, error, about, said, not_said):
    """What is said of a failure is about the kind of map or attachment that failed, and of no other."""
    text = str(errors.bpf_error(cmd, error, about=about, subject="S", max_entries=2, value_size=4))
    assert said in text
    assert not not_said or not_said not in text


@pytest.mark.parametrize(("number", "words"), [(1, "(1 entry)"), (2, "(2 entries)")])
def test_one_entry_is_not_entries(number, words):
    """A number and its noun agree."""
    about = MapType.BPF_MAP_TYPE_QUEUE
    error = errors.bpf_error(Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG, about=about, subject="S", max_entries=number)
    assert words in str(error)


def test_an_error_carries_its_subject_and_its_cause(monkeypatch):
    """Who wants to know why reads `cause`, and does not search the text: kind, capability, certainty."""
    monkeypatch.setattr(permission, "has_capability", lambda capability: False)
    monkeypatch.setattr(permission, "in_initial_user_namespace", lambda: True)
    monkeypatch.setattr(permission, "seccomp_refuses", lambda cmd: False)
    error = errors.bpf_error(Cmd.BPF_MAP_CREATE, errno.EPERM, subject="queue 'q'")
    assert type(error) is NotPermitted
    assert error.subject == "queue 'q'"
    assert error.cause.kind == "capability" and error.cause.certain
    assert error.hint == str(error.cause)
    assert errors.bpf_error(Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT, subject="queue 'q'").cause is None
    assert pickle.loads(pickle.dumps(error)).cause == error.cause


@pytest.mark.parametrize("error", [BpfError, Empty, Full, Busy, NotPermitted, NotFound, AlreadyExists])
def test_errors_survive_a_pickle(error):
    """multiprocessing sends exceptions through pickle: nothing may be lost."""
    original = error(errno.EPERM, "what", Cmd.BPF_MAP_CREATE, "hint")
    copied = pickle.loads(pickle.dumps(original))
    assert type(copied) is error
    assert (copied.errno, copied.strerror, copied.cmd, copied.hint) == (errno.EPERM, "what", Cmd.BPF_MAP_CREATE, "hint")


def test_all_names_are_there():
    """__all__ holds no name that is missing."""
    for name in rawbpf.__all__:
        assert hasattr(rawbpf, name), name


def test_a_pickled_error_is_whole():
    """What an error says beside its four arguments travels, too: a verifier's log, a path."""
    error = errors.NotFound(errno.ENOENT, "there is nothing", Cmd.BPF_OBJ_GET, "look elsewhere")
    error.filename, error.log = "/sys/fs/bpf/x", "a log"
    again = pickle.loads(pickle.dumps(error))
    assert (again.filename, again.log, again.hint, str(again)) == (
        "/sys/fs/bpf/x",
        "a log",
        "look elsewhere",
        str(error),
    )
