"""Push, peek and pop: every row of the kernel's tables through the bare call, and the same through the library."""

import errno
import os
import select

import pytest

from rawbpf import BPF_ANY, BPF_EXIST, BPF_NOEXIST, BpfError, Empty, Full, MapFlag, NotPermitted, Queue, Stack, syscall
from rawbpf.abi import ENOTSUPP, Cmd, MapType
from rawbpf.abi.door import FFI_MODE, ffi, lib, new_batch, new_map
from rawbpf.syscall.proc import kernel_version

pytestmark = pytest.mark.creates

PUSH, PEEK, POP = Cmd.BPF_MAP_UPDATE_ELEM, Cmd.BPF_MAP_LOOKUP_ELEM, Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM
BAD_ADDRESS = 1


def one(number: int) -> bytes:
    return number.to_bytes(4, "little")


@pytest.fixture
def three(kind):
    """A map of three elements with room for none: 1, 2, 3."""
    with kind(4, 3, name="three") as m:
        for number in (1, 2, 3):
            m.push(one(number))
        yield m


@pytest.fixture
def empty(kind):
    """A map with room for three elements."""
    with kind(4, 3, name="empty") as m:
        yield m


def drained(m) -> list[int]:
    """Everything in the map, in pop order."""
    numbers = []
    while (value := m.pop(default=None)) is not None:
        numbers.append(int.from_bytes(value, "little"))
    return numbers


def order(m, *pushed: int) -> list[int]:
    """What was pushed, in the order of this map's pops."""
    return list(pushed) if isinstance(m, Queue) else list(reversed(pushed))


def element(m, value=None, **fields):
    """An element command's attr; `value` is a writable buffer or an address."""
    if isinstance(value, bytearray):
        value = syscall.pointer(value)
    return syscall.bpf_attr(map_fd=m.fileno(), value=value or 0, **fields)


# Push


BAD_FLAGS = [1, 3, 4, 5, 6, 7, 8, 16, 24, 32, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1]


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_push_flags(raw_errno, no_library_call, empty, flags):
    """All flags but BPF_ANY and BPF_EXIST are EINVAL to the kernel, and a ValueError that says so before the call."""
    assert raw_errno(PUSH, element(empty, bytearray(4), flags=flags), 32) == errno.EINVAL
    with no_library_call(), pytest.raises(ValueError, match=r"push takes BPF_ANY or BPF_EXIST, not .*\(EINVAL\)"):
        empty.push(one(1), flags)
    assert drained(empty) == []


@pytest.mark.parametrize("flags", [None, "BPF_EXIST", 2.5])
def test_push_flags_of_a_wrong_type(no_library_call, empty, flags):
    """What is not a flag at all is refused as well."""
    with no_library_call(), pytest.raises(ValueError, match="push takes BPF_ANY or BPF_EXIST"):
        empty.push(one(1), flags)


def test_push_names_the_flag_it_refuses(empty):
    """The usual mistake, BPF_NOEXIST, is called by its name."""
    with pytest.raises(ValueError, match="not BPF_NOEXIST"):
        empty.push(one(1), BPF_NOEXIST)


def test_push_any_fails_when_full(raw_errno, three):
    """BPF_ANY on a full map is E2BIG: Full, which is queue.Full and OSError, in the map's terms."""
    import queue

    assert raw_errno(PUSH, element(three, bytearray(4)), 32) == errno.E2BIG
    with pytest.raises(Full, match=r"'three' is full \(3 entries\).*E2BIG.*BPF_EXIST") as caught:
        three.push(one(4), BPF_ANY)
    assert caught.value.errno == errno.E2BIG
    assert isinstance(caught.value, (queue.Full, OSError))
    assert drained(three) == order(three, 1, 2, 3)


def test_push_exist_with_room_is_a_plain_push(raw_errno, empty):
    """BPF_EXIST needs no element to be there."""
    assert raw_errno(PUSH, element(empty, bytearray(one(1)), flags=2), 32) == 0
    empty.push(one(2), BPF_EXIST)
    assert drained(empty) == order(empty, 1, 2)


def test_push_exist_evicts_the_oldest_when_full(raw_errno, three):
    """With 1, 2, 3 in a full map BPF_EXIST drops 1: the queue's head, the stack's bottom."""
    assert raw_errno(PUSH, element(three, bytearray(one(4)), flags=2), 32) == 0
    assert drained(three) == order(three, 2, 3, 4)


def test_push_exist_goes_round_the_ring(three):
    """Any number of overwriting pushes leaves the last three."""
    for number in range(4, 50):
        three.push(one(number), BPF_EXIST)
    assert drained(three) == order(three, 47, 48, 49)


def test_push_without_flags_in_the_attr(raw_errno, empty):
    """24 bytes of attr, flags left out, are a push with BPF_ANY."""
    assert raw_errno(PUSH, element(empty, bytearray(one(5))), 24) == 0
    assert drained(empty) == [5]


def test_push_of_a_bad_address(raw_errno, empty):
    """A value the kernel can't read is EFAULT, and that wins over bad flags; nothing is pushed."""
    for value in (0, BAD_ADDRESS):
        assert raw_errno(PUSH, element(empty, value), 32) == errno.EFAULT
        assert raw_errno(PUSH, element(empty, value, flags=3), 32) == errno.EFAULT
    assert drained(empty) == []


def test_push_bytes_behind_the_attr(raw_errno, empty):
    """A non-zero byte past the command's 32 bytes is EINVAL."""
    attr = bytearray(bytes(ffi.buffer(element(empty, bytearray(4)))))
    attr[32] = 1
    assert raw_errno(PUSH, attr, 40) == errno.EINVAL


# The key


@pytest.mark.parametrize("cmd", [PUSH, PEEK, POP])
def test_any_key_is_refused(raw_errno, three, cmd):
    """A key pointer is EINVAL even to a valid buffer, and wins over everything that comes later."""
    key = bytearray(4)
    assert raw_errno(cmd, element(three, bytearray(4), key=syscall.pointer(key)), 32) == errno.EINVAL
    assert drained(three) == order(three, 1, 2, 3)


def test_library_functions_refuse_a_key(sent, empty):
    """The functions of rawbpf.syscall take None for the key of a queue or stack, and name the rule otherwise. What map
    it is they ask the kernel; no other call is made."""
    fd = empty.fileno()
    for call, words in (
        (lambda: syscall.map_update_elem(fd, b"", one(1)), "key must be None.*NULL"),
        (lambda: syscall.map_lookup_elem(fd, b"\0\0\0\0"), "key must be None.*NULL"),
        (lambda: syscall.map_lookup_and_delete_elem(fd, b"\0\0\0\0"), "key must be None.*NULL"),
        (lambda: syscall.map_delete_elem(fd, b"\0\0\0\0"), "has no keys"),
        (lambda: syscall.map_get_next_key(fd, None), "has no keys"),
        (lambda: syscall.map_lookup_batch(fd, None, 1), "no batches"),
        (lambda: syscall.map_lookup_and_delete_batch(fd, None, 1), "no batches"),
        (lambda: syscall.map_update_batch(fd, b"abcd", one(1)), "no batches"),
        (lambda: syscall.map_delete_batch(fd, b"abcd"), "no batches"),
        (lambda: syscall.map_lookup_elem(fd, None, flags=4), "take no flags"),
    ):
        sent.clear()
        with pytest.raises(ValueError, match=words):
            call()
        assert {cmd for cmd, _ in sent} == {Cmd.BPF_OBJ_GET_INFO_BY_FD}


# Peek and pop


def test_peek_and_pop_order(three):
    """A queue gives the oldest, a stack the newest; peek shows what pop will take and leaves it there."""
    for number in order(three, 1, 2, 3):
        assert three.peek() == three.peek() == one(number)
        assert three.pop() == one(number)


@pytest.mark.parametrize(("cmd", "name"), [(PEEK, "peek"), (POP, "pop")])
def test_empty(raw_errno, empty, cmd, name):
    """Empty is ENOENT, the buffer untouched: Empty, which is queue.Empty and OSError, or the default."""
    import queue

    buffer = bytearray(b"\xaa" * 4)
    assert raw_errno(cmd, element(empty, buffer), 32) == errno.ENOENT
    assert buffer == b"\xaa" * 4
    with pytest.raises(Empty, match="'empty' is empty") as caught:
        getattr(empty, name)()
    assert caught.value.errno == errno.ENOENT
    assert caught.value.cmd == cmd
    assert isinstance(caught.value, queue.Empty)
    assert isinstance(caught.value, OSError)
    assert getattr(empty, name)(default=None) is None
    assert getattr(empty, name)(7) == 7


@pytest.mark.parametrize("cmd", [PEEK, POP])
@pytest.mark.parametrize("flags", [1, 2, 4, 8, 1 << 32, 1 << 63])
def test_peek_and_pop_take_no_flags(raw_errno, three, cmd, flags):
    """Every flag is EINVAL and takes nothing."""
    assert raw_errno(cmd, element(three, bytearray(4), flags=flags), 32) == errno.EINVAL
    assert drained(three) == order(three, 1, 2, 3)


@pytest.mark.parametrize("value", [0, BAD_ADDRESS])
def test_a_faulting_peek_keeps_the_element(raw_errno, three, value):
    """EFAULT on peek loses nothing."""
    assert raw_errno(PEEK, element(three, value), 32) == errno.EFAULT
    assert drained(three) == order(three, 1, 2, 3)


@pytest.mark.linux("5.7")
@pytest.mark.parametrize("value", [0, BAD_ADDRESS])
def test_a_faulting_pop_loses_the_element(raw_errno, three, value):
    """EFAULT on pop comes after the removal: why the library gives every pop a buffer of its own."""
    assert raw_errno(POP, element(three, value), 32) == errno.EFAULT
    assert drained(three) == order(three, 1, 2, 3)[1:]


def test_short_attrs_of_peek_and_pop(raw_errno, three):
    """24 bytes of attr are enough for peek and pop; without the value's address they fault."""
    buffer = bytearray(4)
    assert raw_errno(PEEK, element(three, buffer), 24) == 0
    assert raw_errno(POP, element(three, buffer), 24) == 0
    assert buffer == one(order(three, 1, 2, 3)[0])
    assert raw_errno(PEEK, element(three, buffer), 16) == errno.EFAULT


# Read-only, write-only, frozen


@pytest.mark.parametrize(
    ("flag", "allowed"), [(MapFlag.BPF_F_RDONLY, {"peek"}), (MapFlag.BPF_F_WRONLY, {"push"})], ids=["RDONLY", "WRONLY"]
)
def test_access_of_the_descriptor(raw_errno, kind, flag, allowed):
    """Push needs write, peek read, pop both; else EPERM: NotPermitted, with the reason and what helps."""
    calls = {"push": lambda m: m.push(one(1)), "peek": lambda m: m.peek(default=0), "pop": lambda m: m.pop(default=0)}
    commands = {"push": PUSH, "peek": PEEK, "pop": POP}
    word = "read-only" if flag == MapFlag.BPF_F_RDONLY else "write-only"
    with kind(4, 3, flags=flag) as m:
        for name, call in calls.items():
            if name in allowed:
                call(m)
                continue
            assert raw_errno(commands[name], element(m, bytearray(4)), 32) == errno.EPERM
            with pytest.raises(NotPermitted, match=f"the descriptor is {word} and {name} needs") as caught:
                call(m)
            assert caught.value.errno == errno.EPERM
            assert isinstance(caught.value, PermissionError)


@pytest.mark.linux("5.2")
def test_freeze(raw_errno, three):
    """A frozen map is peeked as before; push, pop and a second freeze are EPERM (the last EBUSY before 6.5)."""
    three.freeze()
    assert three.peek() == one(order(three, 1, 2, 3)[0])
    for cmd in (PUSH, POP):
        assert raw_errno(cmd, element(three, bytearray(4)), 32) == errno.EPERM
    with pytest.raises(NotPermitted, match="the map is frozen: push and pop from user space are over"):
        three.push(one(4))
    with pytest.raises(NotPermitted, match="the map is frozen: push and pop"):
        three.pop()
    with pytest.raises(NotPermitted, match="is frozen already") as caught:
        three.freeze()
    assert caught.value.errno == (errno.EPERM if kernel_version() >= (6, 5) else errno.EBUSY)
    assert str(caught.value).startswith(f"{type(three).__name__.lower()} 'three'")


@pytest.mark.linux("5.2")
def test_freezing_what_is_no_queue_or_stack():
    """The error names the descriptor: what the kernel says of it might be no map at all."""
    with open(os.devnull) as file, pytest.raises(BpfError, match=f"the map of descriptor {file.fileno()}: ") as caught:
        syscall.map_freeze(file.fileno())
    assert caught.value.errno == errno.EINVAL


@pytest.mark.linux("5.2", before="6.5")
def test_freeze_through_a_read_only_descriptor(kind):
    """Before 6.5 (commit c4c84f6fb2c4) the kernel asks for CAP_BPF to freeze, and not for a writable descriptor."""
    with kind(4, 1, flags=MapFlag.BPF_F_RDONLY) as m:
        m.freeze()
        with pytest.raises(NotPermitted, match="frozen"):
            m.freeze()


@pytest.mark.linux("6.5")
def test_freeze_needs_write(kind):
    """Freezing through a read-only descriptor is EPERM and says so."""
    with kind(4, 1, flags=MapFlag.BPF_F_RDONLY) as m, pytest.raises(NotPermitted, match="read-only") as caught:
        m.freeze()
    assert caught.value.errno == errno.EPERM


@pytest.mark.linux("5.2")
def test_freeze_reads_four_bytes(raw_errno, empty):
    """A non-zero byte behind map_fd is EINVAL."""
    assert raw_errno(Cmd.BPF_MAP_FREEZE, element(empty, flags=1), 32) == errno.EINVAL


# What queue and stack maps do not have


def test_delete_and_next_key(raw_errno, three):
    """There are no keys to delete or to walk: EINVAL."""
    assert raw_errno(Cmd.BPF_MAP_DELETE_ELEM, element(three), 16) == errno.EINVAL
    assert raw_errno(Cmd.BPF_MAP_GET_NEXT_KEY, element(three), 24) == errno.EINVAL


@pytest.mark.linux("5.6")
@pytest.mark.parametrize(
    "cmd",
    [
        Cmd.BPF_MAP_LOOKUP_BATCH,
        Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH,
        Cmd.BPF_MAP_UPDATE_BATCH,
        Cmd.BPF_MAP_DELETE_BATCH,
    ],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches(raw_errno, three, cmd, count):
    """The batch commands are errno 524, which is the kernel's own, and leave `count` as it was."""
    attr = syscall.bpf_attr(batch={"map_fd": three.fileno(), "count": count})
    assert raw_errno(cmd, attr, 56) == ENOTSUPP
    assert attr.batch.count == count


@pytest.mark.linux("5.6")
def test_batches_ask_for_permission_first(raw_errno, kind):
    """On a read-only descriptor an updating batch is EPERM, not 524."""
    with kind(4, 3, flags=MapFlag.BPF_F_RDONLY) as m:
        attr = syscall.bpf_attr(batch={"map_fd": m.fileno(), "count": 1})
        assert raw_errno(Cmd.BPF_MAP_UPDATE_BATCH, attr, 56) == errno.EPERM


def test_errno_524_has_a_text(three):
    """BpfError knows 524, for which strerror(3) has no text."""
    attr = syscall.bpf_attr(batch={"map_fd": three.fileno(), "count": 1})
    if kernel_version() < (5, 6):
        pytest.skip("by design: needs Linux 5.6")
    with pytest.raises(BpfError, match="not supported by this map.*ENOTSUPP") as caught:
        syscall.bpf(Cmd.BPF_MAP_LOOKUP_BATCH, attr, 56)
    assert caught.value.errno == 524


@pytest.mark.real_kernel(reason="its descriptors are files")
def test_file_operations(three):
    """A map's descriptor can't be read, written or sought."""
    fd = three.fileno()
    for call, expected in (
        (lambda: os.read(fd, 4), errno.EINVAL),
        (lambda: os.write(fd, one(1)), errno.EINVAL),
        (lambda: os.lseek(fd, 0, os.SEEK_SET), errno.ESPIPE),
    ):
        with pytest.raises(OSError, match=".") as caught:
            call()
        assert caught.value.errno == expected


@pytest.mark.real_kernel(reason="its descriptors are files")
def test_mmap(three):
    """mmap is errno 524."""
    import mmap

    with pytest.raises(OSError, match=".") as caught:
        mmap.mmap(three.fileno(), 4096)
    assert caught.value.errno == ENOTSUPP


@pytest.mark.real_kernel(reason="its descriptors are files")
def test_there_is_no_readiness(empty):
    """poll() reports POLLERR at once, empty or not: nothing to wait for."""
    poll = select.poll()
    poll.register(empty.fileno(), select.POLLIN | select.POLLOUT)
    for _ in range(2):
        [(_, events)] = poll.poll(0)
        assert events & select.POLLERR
        empty.push(one(1))


# Other descriptors


def test_descriptors_that_are_no_map(raw_errno, three):
    """A closed descriptor is EBADF, a file EINVAL, for every element command."""
    with open(os.devnull) as file:
        for cmd in (PUSH, PEEK, POP):
            buffer = bytearray(4)
            attr = syscall.bpf_attr(map_fd=4095, value=syscall.pointer(buffer))
            assert raw_errno(cmd, attr, 32) == errno.EBADF
            attr.map_fd = file.fileno()
            assert raw_errno(cmd, attr, 32) == errno.EINVAL


@pytest.mark.linux("5.14")
@pytest.mark.real_kernel(reason="other map types")
def test_other_map_types(raw_errno):
    """Where there are keys, NULL for one is EFAULT; with a key, a pop from an array is 524."""
    buffer, key = bytearray(4), bytearray(4)
    for map_type in (MapType.BPF_MAP_TYPE_HASH, MapType.BPF_MAP_TYPE_ARRAY):
        fd = syscall.map_create(map_type, "", 4, 4, 4)
        attr = syscall.bpf_attr(map_fd=fd, value=syscall.pointer(buffer))
        without_key = raw_errno(PUSH, attr, 32), raw_errno(POP, attr, 32)
        attr.key = syscall.pointer(key)
        with_key = raw_errno(POP, attr, 32)
        os.close(fd)
        assert without_key == (errno.EFAULT, errno.EFAULT)
        assert with_key == (errno.ENOENT if map_type == MapType.BPF_MAP_TYPE_HASH else ENOTSUPP)


# The value


@pytest.mark.parametrize("value", [b"", b"abc", b"abcde", bytearray(5), memoryview(b"abc")])
def test_values_of_a_wrong_size(no_library_call, empty, value):
    """A value that has not exactly value_size bytes is a ValueError with both sizes, and nothing is pushed."""
    with no_library_call(), pytest.raises(ValueError, match=f"{len(value)} bytes, and value_size is 4"):
        empty.push(value)


@pytest.mark.parametrize("value", [None, 4, "abcd", 1.5, [1, 2, 3, 4], object()])
def test_values_that_are_no_bytes(no_library_call, empty, value):
    """An int is not four zero bytes, a str not its encoding: TypeError."""
    with no_library_call(), pytest.raises(TypeError, match="a value is bytes or another buffer"):
        empty.push(value)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b * 2))[::2][:0] or b])
def test_any_buffer_is_a_value(empty, make):
    """bytes, bytearray, memoryview: what has a buffer of the right length goes in, bytes come out."""
    empty.push(make(b"abcd"))
    assert empty.pop() == b"abcd"
    assert type(empty.pop(default=b"")) is bytes


def test_a_strided_buffer_is_pushed_as_it_reads(empty):
    """A memoryview with a step is its elements, not the memory between."""
    empty.push(memoryview(b"a-b-c-d-")[::2])
    assert empty.pop() == b"abcd"


@pytest.mark.parametrize("value_size", [1, 2, 3, 7, 8, 13, 4096, 4 << 20])
@pytest.mark.parametrize("name", ["map_lookup_elem", "map_lookup_and_delete_elem"])
def test_guard_bytes(kind, value_size, name):
    """The kernel writes value_size bytes and no more: bytes around the buffer stay as they were."""
    guard = b"\x5a" * 64
    value = os.urandom(value_size)
    with kind(value_size, 2) as m:
        m.push(value)
        memory = bytearray(guard + bytes(value_size) + guard)
        room = ffi.from_buffer("char[]", memoryview(memory)[len(guard) :])
        handle = new_map(m.fileno(), value_size)
        batch, *_ = new_batch(handle, 1)
        batch.data = room if FFI_MODE == "api" else memoryview(memory)[len(guard) :]
        assert getattr(lib, name)(*((handle, room) if name == "map_lookup_elem" else (batch,))) == 0
        assert memory[: len(guard)] == guard
        assert memory[len(guard) : -len(guard)] == value
        assert memory[-len(guard) :] == guard


@pytest.mark.parametrize("value_size", [1, 2, 3, 7, 8, 13, 4096, 4 << 20])
def test_the_librarys_own_buffers_fit_exactly(kind, value_size):
    """new_batch() makes room for so many values, and no more; the view is that room."""
    with kind(value_size, 1) as m:
        *_, room = new_batch(new_map(m.fileno(), value_size), 3)
        assert room.nbytes == 3 * value_size


# The functions of rawbpf.syscall


def test_syscall_functions(kind):
    """map_update_elem, map_lookup_elem and map_lookup_and_delete_elem push, peek and pop."""
    fd = syscall.map_create(kind.map_types[0], "direct", 0, 4, 2)
    syscall.map_update_elem(fd, None, one(1), BPF_ANY)
    assert syscall.map_lookup_elem(fd, None) == one(1)
    assert syscall.map_lookup_and_delete_elem(fd, None) == one(1)
    with pytest.raises(Empty, match="'direct' is empty"):
        syscall.map_lookup_elem(fd, None)
    with pytest.raises(Empty):
        syscall.map_lookup_and_delete_elem(fd, None)
    for number in (1, 2):
        syscall.map_update_elem(fd, None, one(number))
    with pytest.raises(Full, match=r"'direct' is full \(2 entries\)"):
        syscall.map_update_elem(fd, None, one(3))
    os.close(fd)


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_syscall_functions_compare_sizes_with_the_kernels(empty, size):
    """A size that is not the map's is refused: the kernel would write past a shorter buffer."""
    fd = empty.fileno()
    with pytest.raises(ValueError, match=f"the value has {size} bytes, and .* wants 4"):
        syscall.map_update_elem(fd, None, bytes(size))


@pytest.mark.real_kernel(reason="other map types")
def test_syscall_functions_on_what_is_no_queue():
    """A map with keys wants one, and other descriptors are a BpfError, before any element is asked for."""
    fd = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "", 4, 4, 4)
    with pytest.raises(ValueError, match="has keys of 4 bytes"):
        syscall.map_lookup_elem(fd, None)
    os.close(fd)
    with open(os.devnull) as file, pytest.raises(BpfError, match="no BPF object") as caught:
        syscall.map_lookup_elem(file.fileno(), None)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(BpfError, match="not open") as caught:
        syscall.map_lookup_elem(4095, None)
    assert caught.value.errno in (errno.EBADF, errno.EBADFD)


@pytest.mark.parametrize(("fd", "error"), [(-1, ValueError), (2**31, ValueError), (True, TypeError), ("3", TypeError)])
def test_descriptors_are_checked(no_calls, fd, error):
    """What can't be a descriptor is refused before the call."""
    with pytest.raises(error, match="descriptor"):
        syscall.map_lookup_elem(fd, None)
    with pytest.raises(error, match="descriptor"):
        Stack.from_fd(fd)


def test_sizes_of_the_attrs(sent, empty):
    """The element calls, which fill their attr in C, send their own struct, all others the whole union."""
    sent.clear()
    empty.push(one(1))
    empty.peek()
    empty.pop()
    empty.info()
    if kernel_version() >= (5, 2):
        empty.freeze()
    assert sent == [
        (PUSH, 32),
        (PEEK, 32),
        (POP, 32),
        (Cmd.BPF_OBJ_GET_INFO_BY_FD, 168),
        *([(Cmd.BPF_MAP_FREEZE, 168)] if kernel_version() >= (5, 2) else []),
    ]
