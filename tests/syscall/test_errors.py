"""BpfError and its family: what they are caught by, what they say, and that they survive a pickle."""

import errno
import pickle
import queue

import pytest

import rawbpf
from rawbpf import AlreadyExists, BpfError, Busy, Empty, Full, NotFound, NotPermitted
from rawbpf.abi import ENOTSUPP, Cmd
from rawbpf.syscall import errors

pytestmark = pytest.mark.alike


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
    error = errors.bpf_error(Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG, subject="queue 'events'", max_entries=10)
    assert type(error) is Full
    assert (error.errno, error.cmd) == (errno.E2BIG, Cmd.BPF_MAP_UPDATE_ELEM)
    assert error.strerror == "queue 'events' is full (10 entries)"
    assert str(error) == (
        "queue 'events' is full (10 entries) [BPF_MAP_UPDATE_ELEM: E2BIG]; "
        "pop first, or push with BPF_EXIST to overwrite the oldest"
    )


def test_an_error_without_a_hint():
    """No hint, no semicolon."""
    error = errors.bpf_error(Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT, subject="stack 's'")
    assert type(error) is Empty
    assert str(error) == "stack 's' is empty [BPF_MAP_LOOKUP_ELEM: ENOENT]"


def test_an_errno_no_table_knows():
    """Any other errno is a BpfError with the text of strerror(3); 524 has one of ours."""
    error = errors.bpf_error(Cmd.BPF_MAP_CREATE, errno.EXDEV, subject="queue 'q'")
    assert type(error) is BpfError
    assert str(error) == "queue 'q': Invalid cross-device link [BPF_MAP_CREATE: EXDEV]"
    assert errors.errno_name(ENOTSUPP) == "ENOTSUPP"
    assert errors.errno_name(9999) == "9999"


def test_too_large_a_map():
    """E2BIG of a creation is about value_size, or on some kernels (6.12.117) about 4 GiB: the text has both numbers."""
    details = {"subject": "queue 'q'", "max_entries": 2**20 - 1, "value_size": 4096}
    error = errors.bpf_error(Cmd.BPF_MAP_CREATE, errno.E2BIG, **details)
    assert type(error) is BpfError
    assert error.strerror == "queue 'q' can't be created with 1048575 entries of 4096 bytes"
    assert "KMALLOC_MAX_SIZE" in error.hint and "4 GiB" in error.hint


@pytest.mark.parametrize(
    "key", sorted(errors._BY_COMMAND), ids=lambda key: f"{key[0].name}-{errors.errno_name(key[1])}"
)
def test_every_text_can_be_filled(key):
    """The texts ask for no detail that their command does not give."""
    details = {"subject": "S", "path": "P", "max_entries": 1, "value_size": 2}
    error = errors.bpf_error(*key, **details)
    assert "{" not in str(error)
    assert error.errno == key[1]


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
