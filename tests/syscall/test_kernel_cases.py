"""The cases that the kernel's own selftests check for these maps (test_maps.c), and documented behaviour of the pair.

Written afresh after what they check, for queue and stack alike.
"""

import errno

import pytest

from rawbpf import BPF_EXIST, Empty, Full, MapFlag, syscall
from rawbpf.abi import Cmd

pytestmark = pytest.mark.creates

SIZE = 32
VALUES = list(range(1000, 1000 + 3 * SIZE // 2))


def test_key_size_is_refused_by_the_kernel(raw_errno, kind):
    """key_size 4 is EINVAL."""
    attr = syscall.bpf_attr(map_type=kind.map_types[0], key_size=4, value_size=4, max_entries=SIZE)
    assert raw_errno(Cmd.BPF_MAP_CREATE, attr) == errno.EINVAL


def test_no_prealloc_is_refused_by_the_kernel(raw_errno, kind):
    """BPF_F_NO_PREALLOC is EINVAL."""
    flags = int(MapFlag.BPF_F_NO_PREALLOC)
    attr = syscall.bpf_attr(map_type=kind.map_types[0], value_size=4, max_entries=SIZE, map_flags=flags)
    assert raw_errno(Cmd.BPF_MAP_CREATE, attr) == errno.EINVAL


def test_fill_overwrite_and_empty(raw_errno, kind):
    """32 pushes fit, the 33rd is E2BIG, 16 with BPF_EXIST replace the oldest, 32 pops come in order, then ENOENT."""
    with kind("<I", SIZE) as m:
        for value in VALUES[:SIZE]:
            m.push(value)
        with pytest.raises(Full) as full:
            m.push(VALUES[0])
        assert full.value.errno == errno.E2BIG

        first, last = VALUES[0], VALUES[SIZE - 1]
        assert m.peek() == (first if kind.__name__ == "Queue" else last)

        for value in VALUES[SIZE:]:
            m.push(value, BPF_EXIST)

        left = VALUES[SIZE // 2 :]
        expected = left if kind.__name__ == "Queue" else left[::-1]
        assert [m.pop() for _ in range(SIZE)] == expected

        for take in (m.pop, m.peek):
            with pytest.raises(Empty) as empty:
                take()
            assert empty.value.errno == errno.ENOENT

        fd = m.fileno()
        assert raw_errno(Cmd.BPF_MAP_DELETE_ELEM, syscall.bpf_attr(map_fd=fd), 16) == errno.EINVAL
        assert raw_errno(Cmd.BPF_MAP_GET_NEXT_KEY, syscall.bpf_attr(map_fd=fd), 24) == errno.EINVAL
