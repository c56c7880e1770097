"""BPF_MAP_CREATE: each row of the kernel's checks, seen on the running kernel and refused by the library before it."""

import errno
import os
import subprocess
import sys

import pytest

from rawbpf import BpfError, MapFlag, Queue, Stack, syscall
from rawbpf.abi import BPF_ATTR_MAX_SIZE, Cmd, MapType
from rawbpf.abi.door import ffi
from rawbpf.syscall.proc import Capability, has_capability, kernel_version

pytestmark = pytest.mark.creates

QUEUE = MapType.BPF_MAP_TYPE_QUEUE
GOOD = {"map_type": QUEUE, "value_size": 4, "max_entries": 4}
CREATE = Cmd.BPF_MAP_CREATE

types = pytest.mark.parametrize("map_type", [MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK])


def attr_of(**fields):
    return syscall.bpf_attr(**{**GOOD, **fields})


# What the kernel answers to a bare call. Versions: where a field is unknown, non-zero bytes of it are EINVAL (within
# the kernel's union) or E2BIG (beyond it): both are refusals, and the test names the one of its kernel.


@types
@pytest.mark.parametrize("size", [16, 20, 24, 28, 44, 48, 60, 92, 96, 168])
def test_kernel_accepts_short_and_long_attrs(raw_errno, map_type, size):
    """16 bytes of attr are enough, and zero bytes up to a page are no obstacle."""
    if size == 96 and kernel_version() < (5, 16):
        size = 92
    assert raw_errno(CREATE, attr_of(map_type=map_type), size) == 0


def test_kernel_reads_a_page_and_no_more(raw_errno):
    """An attr of 4096 bytes passes if the tail is zero, 4097 is E2BIG, a non-zero byte beyond the union E2BIG."""
    attr = bytearray(BPF_ATTR_MAX_SIZE + 1)
    attr[:16] = bytes(ffi.buffer(attr_of()))[:16]
    assert raw_errno(CREATE, attr, BPF_ATTR_MAX_SIZE) == 0
    assert raw_errno(CREATE, attr, BPF_ATTR_MAX_SIZE + 1) == errno.E2BIG
    attr[1000] = 1
    assert raw_errno(CREATE, attr, BPF_ATTR_MAX_SIZE) == errno.E2BIG


@pytest.mark.parametrize("size", [0, 4, 8, 12])
def test_kernel_refuses_an_attr_without_the_sizes(raw_errno, size):
    """Less than 16 bytes means max_entries 0: EINVAL."""
    assert raw_errno(CREATE, attr_of(), size) == errno.EINVAL


@pytest.mark.parametrize("offset", range(92, 112))
def test_kernel_refuses_bytes_behind_the_last_field(raw_errno, offset):
    """A non-zero byte within the union, past the command's last field, is EINVAL (E2BIG where the union is shorter)."""
    attr = bytearray(168)
    attr[:16] = bytes(ffi.buffer(attr_of()))[:16]
    attr[offset] = 1
    assert raw_errno(CREATE, attr) in (errno.EINVAL, errno.E2BIG)
    if kernel_version() >= (6, 18):
        assert raw_errno(CREATE, attr) == errno.EINVAL


ALLOWED_FLAGS = 0x19C

REFUSED = {
    "btf_vmlinux_value_type_id": ({"btf_vmlinux_value_type_id": 1}, errno.EINVAL),
    "key type without value type": ({"btf_key_type_id": 1}, errno.EINVAL),
    "map_extra": ({"map_extra": 1}, errno.EINVAL),
    "RDONLY with WRONLY": ({"map_flags": 0x18}, errno.EINVAL),
    "NUMA node out of range": ({"map_flags": 4, "numa_node": 4095}, errno.EINVAL),
    "unknown map type": ({"map_type": 9999}, errno.EINVAL),
    "map type 0": ({"map_type": 0}, errno.EINVAL),
    "max_entries 0": ({"max_entries": 0}, errno.EINVAL),
    "key_size 4": ({"key_size": 4}, errno.EINVAL),
    "value_size 0": ({"value_size": 0}, errno.EINVAL),
    "RDONLY_PROG with WRONLY_PROG": ({"map_flags": 0x180}, errno.EINVAL),
    "value_size above KMALLOC_MAX_SIZE": ({"value_size": (4 << 20) + 1}, errno.E2BIG),
    "map_ifindex": ({"map_ifindex": 1}, errno.EINVAL),
    "name with '-'": ({"map_name": b"a-b"}, errno.EINVAL),
    "name without NUL": ({"map_name": b"sixteen_letters_"}, errno.EINVAL),
    "BTF descriptor bad": ({"btf_fd": 4095, "btf_key_type_id": 1, "btf_value_type_id": 1}, errno.EBADF),
}


@types
@pytest.mark.parametrize("case", REFUSED)
def test_kernel_refuses(raw_errno, map_type, case):
    """Each check of map_create() and queue_stack_map_alloc_check() answers its errno."""
    if case == "map_extra" and kernel_version() < (5, 16):
        pytest.skip("by design: needs Linux 5.16")
    if case == "map_ifindex" and not has_capability(Capability.CAP_NET_ADMIN):
        pytest.skip("a map for a device needs CAP_NET_ADMIN")
    fields, expected = REFUSED[case]
    assert raw_errno(CREATE, attr_of(**{"map_type": map_type, **fields})) == expected


@types
@pytest.mark.parametrize("bit", range(32))
def test_kernel_allows_five_flags(raw_errno, map_type, bit):
    """Of all map_flags bits a queue takes NUMA_NODE, RDONLY, WRONLY, RDONLY_PROG and WRONLY_PROG (0x19C)."""
    expected = 0 if 1 << bit & ALLOWED_FLAGS else errno.EINVAL
    with open(os.devnull) as no_token:
        attr = attr_of(map_type=map_type, map_flags=1 << bit)
        if 1 << bit == MapFlag.BPF_F_TOKEN_FD and kernel_version() >= (6, 9):
            attr.map_token_fd = no_token.fileno()
        assert raw_errno(CREATE, attr) == expected


@pytest.mark.linux("6.9")
def test_kernel_asks_for_a_token(raw_errno):
    """BPF_F_TOKEN_FD with a closed descriptor is EBADF, with one that is no token EINVAL."""
    flag = int(MapFlag.BPF_F_TOKEN_FD)
    with open(os.devnull) as no_token:
        assert raw_errno(CREATE, attr_of(map_flags=flag, map_token_fd=4095)) == errno.EBADF
        assert raw_errno(CREATE, attr_of(map_flags=flag, map_token_fd=no_token.fileno())) == errno.EINVAL


def test_kernel_ignores_fields_without_their_flag(raw_errno):
    """numa_node and inner_map_fd mean nothing unless asked for, and numa_node -1 is anywhere."""
    assert raw_errno(CREATE, attr_of(numa_node=4095)) == 0
    assert raw_errno(CREATE, attr_of(inner_map_fd=4095)) == 0
    assert raw_errno(CREATE, attr_of(map_flags=4, numa_node=2**32 - 1)) == 0


def test_kernel_checks_parameters_in_its_order(raw_errno):
    """Of two faults the earlier check answers: flags (EINVAL) before value_size (E2BIG)."""
    assert raw_errno(CREATE, attr_of(value_size=(4 << 20) + 1, map_flags=1)) == errno.EINVAL


def test_kernel_lets_latin1_letters_into_names(raw_errno):
    """isalnum() of the kernel is Latin-1: 0xC0 passes there, and our check of names refuses it."""
    assert raw_errno(CREATE, attr_of(map_name=b"\xc0")) == 0
    with pytest.raises(ValueError, match="of ASCII"):
        Queue(4, 4, name="\xc0")


def test_kernel_does_not_see_the_overflow_of_max_entries(raw_errno):
    """max_entries 0xFFFFFFFF is accepted and broken: on an empty queue BPF_ANY is E2BIG, BPF_EXIST lost."""
    try:
        fd = syscall.bpf(CREATE, attr_of(value_size=1, max_entries=2**32 - 1))
    except BpfError as error:
        # Kernels that do the sum in 64 bits, or charge it to memlock, run out of memory.
        assert error.errno in (errno.ENOMEM, errno.E2BIG, errno.EPERM)
        return
    try:
        value = bytearray(1)
        attr = syscall.bpf_attr(map_fd=fd, value=syscall.pointer(value))
        assert raw_errno(Cmd.BPF_MAP_UPDATE_ELEM, attr, 32) == errno.E2BIG
        attr.flags = 2
        assert raw_errno(Cmd.BPF_MAP_UPDATE_ELEM, attr, 32) == 0
        attr.flags = 0
        assert raw_errno(Cmd.BPF_MAP_LOOKUP_ELEM, attr, 32) == errno.ENOENT
    finally:
        os.close(fd)


# What the library refuses before the call: a hook at the door proves that the kernel is not asked.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"value": 0}, ValueError, r"value_size must not be 0 \(EINVAL\)"),
        ({"value": -1}, ValueError, "value_size must be from 0"),
        ({"value": (4 << 20) + 1}, ValueError, r"KMALLOC_MAX_SIZE \(E2BIG\)"),
        ({"value": 2**32}, ValueError, "value_size must be from 0"),
        ({"value": True}, TypeError, "a value is a size in bytes"),
        ({"value": None}, TypeError, "a value is a size in bytes"),
        ({"max_entries": 0}, ValueError, r"max_entries must not be 0 \(EINVAL\)"),
        ({"max_entries": -1}, ValueError, "max_entries must be from 0"),
        ({"max_entries": 2**32 - 1}, ValueError, "wraps to 0"),
        ({"max_entries": 2**32}, ValueError, "max_entries must be from 0"),
        ({"max_entries": 1.0}, TypeError, "integer"),
        ({"value": 4096, "max_entries": 1 << 20}, ValueError, r"must stay below 2\*\*32"),
        ({"value": 65537, "max_entries": 65536}, ValueError, r"must stay below 2\*\*32"),
        ({"flags": 1}, ValueError, "BPF_F_NO_PREALLOC"),
        ({"flags": MapFlag.BPF_F_NO_PREALLOC | MapFlag.BPF_F_RDONLY}, ValueError, "BPF_F_NO_PREALLOC"),
        ({"flags": MapFlag.BPF_F_MMAPABLE}, ValueError, "take no BPF_F_MMAPABLE"),
        ({"flags": MapFlag.BPF_F_ZERO_SEED}, ValueError, "take no BPF_F_ZERO_SEED"),
        ({"flags": MapFlag.BPF_F_INNER_MAP | MapFlag.BPF_F_CLONE}, ValueError, "BPF_F_CLONE|BPF_F_INNER_MAP"),
        ({"flags": 1 << 31}, ValueError, "take no 0x80000000"),
        ({"flags": 1 << 32}, ValueError, "map_flags must be from 0"),
        ({"flags": 0x18}, ValueError, "BPF_F_RDONLY and BPF_F_WRONLY exclude"),
        ({"flags": 0x180}, ValueError, "BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG exclude"),
        ({"flags": MapFlag.BPF_F_NUMA_NODE}, ValueError, "needs numa_node"),
        ({"numa_node": -2}, ValueError, "numa_node must be from 0"),
        ({"flags": MapFlag.BPF_F_TOKEN_FD}, ValueError, "needs the token's descriptor"),
        ({"token": -1}, ValueError, "is not a descriptor"),
        ({"name": "sixteen_letters_"}, ValueError, "the kernel takes 15"),
        ({"name": "a-b"}, ValueError, "letters, digits, '_' and '.'"),
        ({"name": "a b"}, ValueError, "letters, digits, '_' and '.'"),
        ({"name": "a\n"}, ValueError, "letters, digits, '_' and '.'"),
        ({"name": "a\0"}, ValueError, "letters, digits, '_' and '.'"),
        ({"name": "é"}, ValueError, "of ASCII"),
    ],
)
def test_library_refuses_before_the_call(kind, no_calls, arguments, error, message):
    """A broken rule is a ValueError or TypeError that names it, and no system call."""
    with pytest.raises(error, match=message):
        kind(**{"value": 4, "max_entries": 4, **arguments})


def test_library_refuses_a_key_size(no_calls):
    """map_create() of a queue with key_size 4 names the rule."""
    with pytest.raises(ValueError, match="key_size must be 0, not 4"):
        syscall.map_create(QUEUE, "", 4, 4, 4)


# What works.


@pytest.mark.parametrize("value_size", [1, 2, 3, 7, 8, 13, 4096, 4 << 20])
def test_value_sizes_from_one_byte_to_4_mib(kind, value_size):
    """Values of 1 byte to 4194304 bytes come back as they went in."""
    value = os.urandom(value_size)
    with kind(value_size, 2) as m:
        assert m.value_size == value_size
        m.push(value)
        assert m.peek() == value
        assert m.pop() == value


@pytest.mark.parametrize("name", ["", "a", "sample_queue", "fifteen_letters", "a.b_C.9"])
def test_names(kind, name):
    """A name of up to 15 characters is what the kernel knows the map by."""
    with kind(4, 1, name=name) as m:
        assert m.name == m.info().name == name


def test_info_equals_what_was_asked_for(kind):
    """The kernel confirms type, sizes, flags and name."""
    with kind(12, 34, name="thing", flags=MapFlag.BPF_F_RDONLY_PROG, numa_node=0) as m:
        info = m.info()
    assert (info.type, info.key_size, info.value_size, info.max_entries) == (kind.map_types[0], 0, 12, 34)
    assert info.map_flags == MapFlag.BPF_F_RDONLY_PROG | MapFlag.BPF_F_NUMA_NODE
    assert info.name == "thing"
    assert info.id > 0


@pytest.mark.parametrize("flag", [MapFlag.BPF_F_RDONLY_PROG, MapFlag.BPF_F_WRONLY_PROG])
@pytest.mark.linux("5.2")
def test_program_flags_do_not_bind_user_space(kind, flag):
    """RDONLY_PROG and WRONLY_PROG are for BPF programs: push and pop go on here."""
    with kind(4, 1, flags=flag) as m:
        m.push(b"abcd")
        assert m.pop() == b"abcd"


def test_the_descriptor_is_close_on_exec(kind):
    """A map does not leak into programs that are executed."""
    with kind(4, 1) as m:
        assert not os.get_inheritable(m.fileno())


def test_the_whole_union_is_sent(kind, sent):
    """MAP_CREATE sends all of union bpf_attr, whatever its arguments: the kernel takes zeros that it does not know."""
    for arguments in ({}, {"flags": 0x80}, {"numa_node": 0}, {"name": "x"}):
        sent.clear()
        kind(4, 1, **arguments).close()
        assert [length for cmd, length in sent if cmd == CREATE] == [ffi.sizeof("union bpf_attr")]


def test_descriptor_0_is_never_kept(kind):
    """With stdin closed the kernel gives out 0, which means "none" in many attrs: the map moves to 3 or above."""
    code = (
        "import os, rawbpf, sys; os.close(0); os.close(1);"
        f"m = rawbpf.{kind.__name__}(4, 1); sys.stderr.write(f'{{m.fileno()}} ');"
        "m.push(b'abcd'); sys.stderr.write(str(m.pop()));"
        "free = os.open(os.devnull, os.O_RDONLY); sys.stderr.write(f' {free}'); m.close()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "3 b'abcd' 0"


def test_too_many_descriptors(kind):
    """With no descriptor free the error is EMFILE and says what helps."""
    code = (
        "import errno, resource, rawbpf;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        f"try: rawbpf.{kind.__name__}(4, 1)\n"
        "except rawbpf.BpfError as e: print(errno.errorcode[e.errno], e)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith("EMFILE") and "ulimit -n" in result.stdout, result.stderr


@pytest.mark.admin
@pytest.mark.linux("5.11")
@pytest.mark.real_kernel(reason="memory is charged to a cgroup")
def test_no_memory(kind, memory_cgroup):
    """A map larger than the memory cgroup's limit is ENOMEM, and the text says how large it was to be."""
    code = (
        "import errno, os, rawbpf; me = str(os.getpid()).encode();"
        # What was charged in vain is given back later: until then the group would have no room for the message.
        f"back = os.open({str(memory_cgroup.parent / 'cgroup.procs')!r}, os.O_WRONLY);"
        f"os.write(os.open({str(memory_cgroup / 'cgroup.procs')!r}, os.O_WRONLY), me)\n"
        f"try: rawbpf.{kind.__name__}(4096, 16384)\n"
        "except rawbpf.BpfError as e: os.write(back, me); print(errno.errorcode[e.errno], e)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith("ENOMEM no memory for"), result.stderr
    assert "16384 entries of 4096 bytes" in result.stdout


def test_both_classes_say_which_they_are():
    """map_type is the kernel's number for the class."""
    assert (Queue.map_types, Stack.map_types) == ((22,), (23,))
