"""The kernel's own words on why BPF_MAP_CREATE failed, from Linux 7.2 on: asked for after a failure only."""

import errno
import io
import os
from contextlib import nullcontext

import pytest

from rawbpf import BpfError, Queue, bpf, bpf_attr, simulate, syscall, trace
from rawbpf.abi import BPF_COMMON_ATTRS, Cmd, MapFlag, MapType, door
from rawbpf.abi.door import ffi, lib

NO_SUCH_NODE = 4095
WITH_WORDS = Cmd.BPF_MAP_CREATE | BPF_COMMON_ATTRS


def refused() -> BpfError:
    """The error of a creation that every kernel refuses, for a reason that the library leaves to it."""
    with pytest.raises(BpfError) as caught:
        Queue(4, 1, numa_node=NO_SUCH_NODE)
    assert caught.value.errno == errno.EINVAL
    return caught.value


@pytest.fixture
def talking_kernel(monkeypatch):
    """A Linux 7.2 whose answers to both calls, and words, the test chooses: kernel(error, again, words)."""
    calls = []

    def kernel(error: int, again: int, words: bytes) -> list[int]:
        def hook(cmd, attr, size):
            calls.append(cmd)
            if cmd == Cmd.BPF_MAP_CREATE:
                return -error
            ffi.memmove(lib.bpf_log(), words, len(words))
            return again

        door.set_hook(hook)
        return calls

    monkeypatch.setattr("rawbpf.syscall.map.kernel_version", lambda: (7, 2))
    previous = door.set_hook(None)
    yield kernel
    door.set_hook(previous)


@pytest.mark.creates
@pytest.mark.linux("7.2")
@pytest.mark.real_kernel(reason="the log of bpf_common_attr")
class TestTheKernelsWords:
    def test_a_node_that_is_not_there(self, sent):
        """The hint is what the kernel says, and it was asked once more for that."""
        assert refused().hint == "the kernel says: Invalid numa_node."
        assert [cmd for cmd, _ in sent] == [Cmd.BPF_MAP_CREATE, WITH_WORDS]

    def test_a_token_that_is_closed(self):
        """EBADF has words as well."""
        fd = os.dup(0)
        os.close(fd)
        with pytest.raises(BpfError) as caught:
            syscall.map_create(MapType.BPF_MAP_TYPE_QUEUE, "", 0, 4, 1, token_fd=fd)
        assert caught.value.errno == errno.EBADF
        assert caught.value.hint == "the kernel says: Invalid map_token_fd."

    def test_a_reason_without_words(self):
        """Where the kernel has no words the hint is the library's: 7.2 has none for an interface that is not there."""
        with pytest.raises(BpfError) as caught:
            syscall.create(bpf_attr(map_type=22, value_size=4, max_entries=1, map_ifindex=9), "queue 'q'")
        assert caught.value.errno == errno.EINVAL
        assert caught.value.hint.startswith("queue and stack maps need Linux 4.20")

    def test_the_bare_call(self):
        """The command with BPF_COMMON_ATTRS does what it does without, and the words are bpf_log()'s."""
        attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=4, max_entries=1)
        os.close(bpf(WITH_WORDS, attr, 92))
        assert ffi.string(lib.bpf_log()) == b""
        attr.map_flags, attr.numa_node = MapFlag.BPF_F_NUMA_NODE, NO_SUCH_NODE
        with pytest.raises(BpfError):
            bpf(WITH_WORDS, attr, 92)
        assert ffi.string(lib.bpf_log()) == b"Invalid numa_node.\n"


HASH = bytearray(32)
REASONS = [
    (
        {"btf_vmlinux_value_type_id": 1},
        errno.EINVAL,
        "btf_vmlinux_value_type_id can only be used with struct_ops maps.",
    ),
    ({"btf_key_type_id": 1}, errno.EINVAL, "Invalid btf_value_type_id."),
    ({"map_extra": 1}, errno.EINVAL, "Invalid map_extra."),
    ({"map_flags": MapFlag.BPF_F_NUMA_NODE, "numa_node": NO_SUCH_NODE}, errno.EINVAL, "Invalid numa_node."),
    ({"map_type": 9999}, errno.EINVAL, "Invalid map_type."),
    ({"map_type": MapType.BPF_MAP_TYPE_UNSPEC}, errno.EINVAL, ""),
    ({"map_flags": MapFlag.BPF_F_TOKEN_FD, "map_token_fd": 4095}, errno.EBADF, "Invalid map_token_fd."),
    ({"map_name": b"a b"}, errno.EINVAL, "Invalid map_name."),
    ({"btf_fd": 4095, "btf_value_type_id": 1}, errno.EBADF, "Invalid btf_fd."),
    ({"excl_prog_hash": syscall.pointer(HASH), "excl_prog_hash_size": 1}, errno.EINVAL, "Invalid excl_prog_hash_size."),
    ({"key_size": 4}, errno.EINVAL, ""),
    ({"max_entries": 0}, errno.EINVAL, ""),
    ({"value_size": 0}, errno.EINVAL, ""),
    ({"map_flags": MapFlag.BPF_F_NO_PREALLOC}, errno.EINVAL, ""),
    ({"map_ifindex": 9}, errno.EINVAL, ""),
]


@pytest.fixture(
    params=[
        "simulated",
        pytest.param(
            "real",
            marks=[
                pytest.mark.admin,
                pytest.mark.linux("7.2"),
                pytest.mark.real_kernel(reason="the simulated one is tried as well"),
            ],
        ),
    ]
)
def either_kernel(request):
    """Linux 7.2, the real and the simulated one."""
    with simulate(kernel="7.2") if request.param == "simulated" else nullcontext():
        yield


@pytest.mark.parametrize(("fields", "error", "words"), REASONS)
def test_every_reason(either_kernel, fields, error, words):
    """Each refusal has the same words, or none, on the real kernel and on the simulated one."""
    attr = bpf_attr(**{"map_type": MapType.BPF_MAP_TYPE_QUEUE, "value_size": 4, "max_entries": 1, **fields})
    with pytest.raises(BpfError) as caught:
        bpf(WITH_WORDS, attr, 92)
    assert caught.value.errno == error
    assert ffi.string(lib.bpf_log()) == (f"{words}\n".encode() if words else b"")


@pytest.mark.parametrize(
    ("kernel", "hint"),
    [("7.1", "queue and stack maps need Linux 4.20"), ("7.2", "the kernel says: Invalid numa_node.")],
)
def test_a_simulated_kernel_has_words_from_7_2_on(kernel, hint):
    """What a user sees on the simulated kernel is what the real one of that version makes of it."""
    with simulate(kernel=kernel):
        assert refused().hint.startswith(hint)
        with pytest.raises(BpfError):
            bpf(WITH_WORDS, bpf_attr(map_extra=1), 92)
        assert ffi.string(lib.bpf_log()) == (b"Invalid map_extra.\n" if kernel == "7.2" else b"")


@pytest.mark.alike
@pytest.mark.parametrize(
    "call", [lambda cmd, attr: lib.bpf(cmd, attr, 168), syscall.open_descriptor], ids=["bpf", "bpf_open"]
)
def test_no_words_of_an_earlier_call(call):
    """Whichever way a call goes in, what stood in the log before is gone; for map type 0 no kernel has words."""
    ffi.memmove(lib.bpf_log(), b"old\0", 4)
    assert call(WITH_WORDS, bpf_attr()) in (-errno.EINVAL, -errno.EPERM)
    assert ffi.string(lib.bpf_log()) == b""


@pytest.mark.creates
def test_success_asks_for_no_words(sent):
    """A map that is created costs one call, on every kernel."""
    Queue(4, 1).close()
    assert [cmd for cmd, _ in sent if cmd in (Cmd.BPF_MAP_CREATE, WITH_WORDS)] == [Cmd.BPF_MAP_CREATE]


@pytest.mark.creates
@pytest.mark.linux(before="7.2")
def test_older_kernels_are_not_asked(sent):
    """Before 7.2 a failed creation is one call, and the hint is the library's."""
    assert refused().hint.startswith("queue and stack maps need Linux 4.20")
    assert [cmd for cmd, _ in sent] == [Cmd.BPF_MAP_CREATE]


@pytest.mark.creates
@pytest.mark.linux(before="7.2")
def test_older_kernels_do_not_know_the_flag(raw_errno):
    """Before 7.2 the command with BPF_COMMON_ATTRS is an unknown one: EINVAL, and no words."""
    attr = bpf_attr(map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=4, max_entries=1)
    assert raw_errno(WITH_WORDS, attr, 92) == errno.EINVAL
    assert ffi.string(lib.bpf_log()) == b""


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (errno.EINVAL, b"Invalid map_name.\n\0", "the kernel says: Invalid map_name."),
        (errno.EBADF, b"\xff\0", "the kernel says: \N{REPLACEMENT CHARACTER}"),
        (errno.EINVAL, b"\n\0", "queue and stack maps need Linux 4.20"),
    ],
)
def test_what_it_says_is_the_hint(talking_kernel, error, words, hint):
    """The errno is that of the creation, the hint what the kernel says, whatever its bytes; ours if it says nothing."""
    calls = talking_kernel(error, -errno.EXDEV, words)
    with pytest.raises(BpfError) as caught:
        Queue(4, 1)
    assert caught.value.errno == error
    assert caught.value.hint.startswith(hint)
    assert calls == [Cmd.BPF_MAP_CREATE, WITH_WORDS]


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EMFILE, errno.E2BIG])
def test_it_is_asked_about_wrong_arguments_only(talking_kernel, error):
    """What is no argument's fault is not tried a second time: it might work, or cost as much again."""
    calls = talking_kernel(error, -error, b"no\0")
    with pytest.raises(BpfError) as caught:
        Queue(4, 1)
    assert caught.value.errno == error
    assert calls == [Cmd.BPF_MAP_CREATE]


def test_a_second_creation_that_works_leaves_nothing(talking_kernel):
    """If the kernel does it the second time, the first answer holds and the descriptor is closed."""
    talking_kernel(errno.EINVAL, os.dup(0), b"\0")
    with pytest.raises(BpfError) as caught:
        Queue(4, 1)
    assert caught.value.errno == errno.EINVAL


def test_in_a_trace(talking_kernel):
    """The second call is spelled as the kernel spells it."""
    talking_kernel(errno.EINVAL, -errno.EINVAL, b"no\0")
    lines = io.StringIO()
    with trace(lines), pytest.raises(BpfError):
        Queue(4, 1)
    first, second = lines.getvalue().splitlines()
    assert second == first.replace("BPF_MAP_CREATE", "BPF_MAP_CREATE|BPF_COMMON_ATTRS")
