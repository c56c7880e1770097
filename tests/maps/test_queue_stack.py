"""Queue and Stack as objects: the ways to open one, pins, ids, names, life and death of the descriptor, values."""

import copy
import ctypes
import errno
import fcntl
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings

import pytest

import rawbpf
from rawbpf import (
    AlreadyExists,
    BpfError,
    Map,
    MapFlag,
    MapType,
    NotFound,
    NotPermitted,
    Queue,
    Stack,
    open_map,
    syscall,
)
from rawbpf.abi import door
from tests.conftest import IS_ROOT

pytestmark = pytest.mark.creates


def other(kind):
    return Stack if kind is Queue else Queue


# Pins


@pytest.mark.admin
class TestPins:
    def test_a_pin_is_the_same_map(self, kind, bpf_folder):
        """What one descriptor pushes the other, opened by the pin, pops."""
        with kind(4, 3, name="shared") as m:
            m.pin(f"{bpf_folder}/shared")
            with kind.open(f"{bpf_folder}/shared") as again:
                assert again.id == m.id
                m.push(b"abcd")
                assert again.pop() == b"abcd"

    def test_a_pin_outlives_the_descriptor(self, kind, bpf_folder):
        """The elements are still there after close(), until the pin is unlinked."""
        with kind(4, 3) as m:
            m.pin(f"{bpf_folder}/kept")
            m.push(b"abcd")
        with kind.open(f"{bpf_folder}/kept") as again:
            assert again.pop() == b"abcd"
        os.unlink(f"{bpf_folder}/kept")
        with pytest.raises(NotFound, match="nothing is pinned at"):
            kind.open(f"{bpf_folder}/kept")

    def test_a_pin_is_for_its_owner(self, kind, bpf_folder):
        """New pins have mode 0600."""
        with kind(4, 3) as m:
            m.pin(f"{bpf_folder}/mine")
        assert os.stat(f"{bpf_folder}/mine").st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("convert", [str, os.fsencode, lambda p: __import__("pathlib").Path(p)])
    def test_paths_of_any_kind(self, kind, bpf_folder, convert):
        """str, bytes and os.PathLike are paths."""
        path = convert(f"{bpf_folder}/any")
        with kind(4, 3) as m:
            m.pin(path)
            with kind.open(path) as again:
                assert again.id == m.id

    def test_pin_errors(self, kind, bpf_folder, tmp_path):
        """EEXIST, ENOENT and the two causes of EPERM, each with its class, errno and path."""
        with kind(4, 3) as m:
            m.pin(f"{bpf_folder}/taken")
            for path, error, number in (
                (f"{bpf_folder}/taken", AlreadyExists, errno.EEXIST),
                (f"{bpf_folder}/no/folder", NotFound, errno.ENOENT),
                (f"{bpf_folder}/dotted.name", NotPermitted, errno.EPERM),
                (f"{tmp_path}/not_in_bpffs", NotPermitted, errno.EPERM),
            ):
                with pytest.raises(error) as caught:
                    m.pin(path)
                assert caught.value.errno == number
                assert caught.value.filename == path
                assert path in str(caught.value)
            assert isinstance(caught.value, PermissionError)
            assert "lives in a bpffs" in caught.value.hint

    def test_open_errors(self, kind, bpf_folder, tmp_path):
        """Nothing there is ENOENT, a plain file EACCES."""
        (tmp_path / "file").touch()
        for path, error, number in (
            (f"{bpf_folder}/nothing", NotFound, errno.ENOENT),
            (f"{tmp_path}/file", NotPermitted, errno.EACCES),
        ):
            with pytest.raises(error) as caught:
                kind.open(path)
            assert caught.value.errno == number
        assert isinstance(caught.value, OSError)

    @pytest.mark.parametrize("path", ["", "a\0b"])
    def test_what_is_no_path(self, kind, path):
        """An empty path and one with a NUL are refused before the call."""
        with kind(4, 3) as m:
            for call in (lambda: m.pin(path), lambda: kind.open(path)):
                with pytest.raises(ValueError, match="is not a path"):
                    call()

    def test_access(self, kind, bpf_folder):
        """access="r" opens for peek, "w" for push; the map itself is unchanged."""
        with kind(4, 3) as m:
            m.pin(f"{bpf_folder}/m")
            with kind.open(f"{bpf_folder}/m", access="w") as writer, kind.open(f"{bpf_folder}/m", access="r") as reader:
                writer.push(b"abcd")
                assert reader.peek() == b"abcd"
                with pytest.raises(NotPermitted, match="read-only"):
                    reader.push(b"abcd")
                with pytest.raises(NotPermitted, match="write-only"):
                    writer.peek()
            assert m.pop() == b"abcd"
        with pytest.raises(ValueError, match='access is "rw", "r" or "w"'):
            kind.open(f"{bpf_folder}/m", access="x")

    @pytest.mark.skipif(not IS_ROOT, reason="needs root to become another user")
    def test_file_mode_decides(self, kind, bpf_folder):
        """Another user's 0600 pin is EACCES, even with every capability but the file ones."""
        with kind(4, 3) as m:
            m.pin(f"{bpf_folder}/m")
        os.chmod(bpf_folder, 0o755)
        code = (
            "import errno, os, rawbpf, sys; os.setgid(65534); os.setuid(65534)\n"
            f"try: rawbpf.open_map('{bpf_folder}/m')\n"
            "except rawbpf.NotPermitted as e: print(errno.errorcode[e.errno])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout in ("EACCES\n", "EPERM\n"), result.stderr

    def test_the_other_type_is_a_type_error(self, kind, bpf_folder):
        """A pinned stack is no Queue; open_map() returns what it is."""
        with kind(4, 3, name="thing") as m:
            m.pin(f"{bpf_folder}/m")
            with pytest.raises(TypeError, match=f"'thing' is no {other(kind).__name__}: use {kind.__name__}"):
                other(kind).open(f"{bpf_folder}/m")
            with open_map(f"{bpf_folder}/m") as again:
                assert type(again) is kind

    @pytest.mark.real_kernel(reason="other map types")
    def test_other_maps_are_a_type_error(self, bpf_folder):
        """An array is neither."""
        fd = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "array", 4, 4, 4)
        syscall.obj_pin(fd, f"{bpf_folder}/array")
        os.close(fd)
        with pytest.raises(TypeError, match="neither a queue nor a stack"):
            Queue.open(f"{bpf_folder}/array")

    def test_a_given_value_must_fit(self, kind, bpf_folder):
        """value=None is bytes of the kernel's size; another size is a ValueError; the kernel's size counts."""
        with kind(6, 3, name="thing") as m:
            m.pin(f"{bpf_folder}/m")
            m.push(struct.pack("<IH", 7, 80))
            with kind.open(f"{bpf_folder}/m", "<IH") as typed:
                assert typed.peek() == (7, 80)
            with kind.open(f"{bpf_folder}/m") as raw:
                assert raw.peek() == struct.pack("<IH", 7, 80)
            with pytest.raises(ValueError, match="has 8 bytes, .* 'thing' value_size 6"):
                kind.open(f"{bpf_folder}/m", "<II")
            with pytest.raises(ValueError, match="has 4 bytes"):
                kind.open(f"{bpf_folder}/m", 4)


# Ids and names


def named(word: str) -> str:
    """A name that no other run of these tests gives to its maps at this moment."""
    return f"{word}_{os.getpid()}"


@pytest.mark.admin
class TestIds:
    def test_from_id(self, kind):
        """The id leads to the same map."""
        with kind(4, 3) as m, kind.from_id(m.id) as again:
            m.push(b"abcd")
            assert again.pop() == b"abcd"

    def test_from_id_of_a_read_only_descriptor_is_read_write(self, kind):
        """RDONLY belongs to the descriptor, not to the map."""
        with kind(4, 3, flags=MapFlag.BPF_F_RDONLY) as m, kind.from_id(m.id) as again:
            again.push(b"abcd")
            assert m.peek() == b"abcd"

    def test_from_id_errors(self, kind):
        """No such id is ENOENT; the other type a TypeError; an id below 0 or above 32 bits a ValueError."""
        with pytest.raises(NotFound, match="no map has id 4294967295") as caught:
            kind.from_id(2**32 - 1)
        assert caught.value.errno == errno.ENOENT
        with kind(4, 3) as m, pytest.raises(TypeError, match="is no"):
            other(kind).from_id(m.id)
        for wrong in (-1, 2**32):
            with pytest.raises(ValueError, match="id must be from 0"):
                kind.from_id(wrong)

    def test_from_name(self, kind):
        """A name that is unique leads to its map."""
        with kind(4, 3, name=named("one")) as m, kind.from_name(named("one")) as again:
            assert again.id == m.id

    def test_from_name_errors(self, kind):
        """No map of the name: NotFound. Several: ValueError with their ids. The other type: TypeError."""
        with pytest.raises(NotFound, match="is named 'nobodys_name'"):
            kind.from_name("nobodys_name")
        with kind(4, 3, name=named("twins")) as one, kind(4, 3, name=named("twins")) as two:
            with pytest.raises(ValueError, match=rf"2 maps are named '{named('twins')}' \(ids {one.id}, {two.id}\)"):
                kind.from_name(named("twins"))
            with pytest.raises(TypeError, match=f"'{named('twins')}' is no {other(kind).__name__}"):
                other(kind).from_name(named("twins"))
        for wrong in ("", "sixteen_letters_"):
            with pytest.raises(ValueError, match="1 to 15 characters"):
                kind.from_name(wrong)

    def test_from_name_prefers_its_own_type(self):
        """A queue and a stack of one name do not confuse each other, but open_map() can't choose."""
        with Queue(4, 3, name=named("pair")) as q, Stack(4, 3, name=named("pair")) as s:
            with Queue.from_name(named("pair")) as a, Stack.from_name(named("pair")) as b:
                assert (a.id, b.id) == (q.id, s.id)
            with pytest.raises(ValueError, match="2 maps are named"):
                open_map(f"name:{named('pair')}")

    def test_open_map(self, kind):
        """id:N and name:S lead to the map as what it is."""
        with kind(4, 3, name=named("open")) as m:
            for spec in (f"id:{m.id}", f"name:{named('open')}"):
                with open_map(spec) as again:
                    assert type(again) is kind
                    assert again.id == m.id
        with pytest.raises(ValueError, match="'7x' is not a map's id"):
            open_map("id:7x")

    @pytest.mark.real_kernel(reason="other map types")
    def test_maps_lists_queues_and_stacks_only(self):
        """maps() yields every queue and stack by ascending id, as the kernel describes them, and no other type."""
        array = syscall.map_create(MapType.BPF_MAP_TYPE_ARRAY, "array", 4, 4, 4)
        with Queue(4, 3, name="q") as q, Stack(8, 5, name="s") as s:
            found = list(rawbpf.list_maps())
            assert q.info() in found
            assert s.info() in found
        os.close(array)
        assert [info.id for info in found] == sorted(info.id for info in found)
        assert {info.type for info in found} == {MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK}

    @pytest.mark.real_kernel(reason="privileges")
    def test_ids_without_the_privilege(self):
        """CAP_BPF alone is EPERM, and the error names CAP_SYS_ADMIN."""
        code = "import rawbpf\ntry: list(rawbpf.list_maps())\nexcept rawbpf.NotPermitted as e: print(e)"
        result = subprocess.run(
            ["setpriv", "--bounding-set=-all,+bpf", "--inh-caps=-all,+bpf", sys.executable, "-c", code],
            capture_output=True,
            text=True,
        )
        assert "this process has no CAP_SYS_ADMIN" in result.stdout, result.stderr
        assert "EPERM" in result.stdout


# Descriptors


def test_from_fd_takes_over(kind):
    """The descriptor is the object's from then on."""
    with kind(4, 3) as m:
        m.push(b"abcd")
        duplicate = os.dup(m.fileno())
        with kind.from_fd(duplicate) as again:
            assert again.fileno() == duplicate
            assert again.pop() == b"abcd"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(duplicate)


def test_from_fd_leaves_what_it_refuses(kind):
    """On an error the descriptor is still the caller's."""
    with kind(4, 3) as m:
        with pytest.raises(TypeError):
            other(kind).from_fd(m.fileno())
        with pytest.raises(ValueError, match="8 bytes"):
            kind.from_fd(m.fileno(), 8)
        m.push(b"abcd")
    with open(os.devnull) as file:
        with pytest.raises(BpfError, match="no BPF object"):
            kind.from_fd(file.fileno())
        os.fstat(file.fileno())


def test_from_fd_0_moves_it():
    """Descriptor 0 is taken over as 3 or above, and 0 closed."""
    code = (
        "import os, rawbpf, sys; q = rawbpf.Queue(4, 1); os.dup2(q.fileno(), 0);"
        "again = rawbpf.Queue.from_fd(0); again.push(b'abcd'); print(again.fileno() > 2, q.pop());"
        "print(os.open(os.devnull, os.O_RDONLY)); q.close(); again.close()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "True b'abcd'\n0\n", result.stderr


def test_detach(kind):
    """detach() gives the descriptor away open, and the object counts as closed."""
    m = kind(4, 3)
    fd = m.detach()
    assert m.closed
    os.fstat(fd)
    os.close(fd)
    m.close()


def test_close_may_be_repeated(kind):
    """close() closes the descriptor once."""
    m = kind(4, 3)
    fd = m.fileno()
    m.close()
    m.close()
    assert m.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.push(b"abcd"),
        lambda m: m.peek(),
        lambda m: m.pop(),
        lambda m: m.pop(default=None),
        lambda m: m.info(),
        lambda m: m.pin("/sys/fs/bpf/x"),
        lambda m: m.freeze(),
        lambda m: m.fileno(),
        lambda m: m.detach(),
        lambda m: m.__enter__(),
    ],
)
def test_everything_after_close_is_a_value_error(kind, call):
    """A closed map says so, by name, whatever is called."""
    m = kind(4, 3, name="gone")
    m.push(b"abcd")
    m.pop()
    m.close()
    with pytest.raises(ValueError, match="'gone'.* closed"):
        call(m)


def test_what_is_known_without_the_kernel_stays_known(kind):
    """Sizes, name and id of a closed map can still be read."""
    with kind(4, 3, name="gone") as m:
        pass
    assert (m.name, m.value_size, m.max_entries) == ("gone", 4, 3)
    assert m.id > 0


def test_a_stale_buffer_does_not_reach_a_new_map(kind):
    """After close() the descriptor's number may be another map's: nothing is popped from it."""
    old = kind(4, 3)
    old.push(b"abcd")
    old.pop()
    fd = old.fileno()
    old.close()
    with kind(4, 3) as new:
        assert new.fileno() == fd
        new.push(b"keep")
        with pytest.raises(ValueError, match="closed"):
            old.pop()
        assert new.pop() == b"keep"


def test_a_map_collected_open_warns(kind):
    """ResourceWarning with the map's repr, and the descriptor is closed."""
    m = kind(4, 3, name="forgotten")
    fd = m.fileno()
    expected = f"unclosed <{kind.__name__} 'forgotten' fd={fd}"
    with pytest.warns(ResourceWarning, match=expected):  # noqa: PT031
        del m
        gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_map_is_collected_at_once(kind):
    """No reference cycle keeps a forgotten map, and its memory in the kernel, alive."""
    m = kind(4, 3)
    m.push_many([b"abcd"] * 3)
    fd = m.fileno()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed"):
            del m
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        gc.enable()


def test_a_drain_keeps_its_map(kind):
    """The map of a running drain is not collected under it."""
    with kind(4, 3, name="kept") as m:
        m.push_many([b"abcd"] * 3)
        drain = kind.from_fd(os.dup(m.fileno())).drain()
        with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
            assert list(drain) == [b"abcd"] * 3
            del drain


def test_a_map_that_was_never_made_does_not_warn(kind):
    """A refused constructor leaves nothing to warn about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="max_entries"):
            kind(4, 0)
        gc.collect()


def test_repr(kind):
    """Type, name, descriptor, id and sizes; or closed."""
    with kind(4, 3, name="named") as m:
        assert repr(m) == f"<{kind.__name__} 'named' fd={m.fileno()} id={m.id} value_size=4 max_entries=3>"
    assert repr(m) == f"<{kind.__name__} 'named' closed>"


def test_no_length_no_iteration(kind):
    """The ABI has neither: len() and iter() do not pretend."""
    with kind(4, 3) as m:
        for call in (len, iter, list):
            with pytest.raises(TypeError):
                call(m)
        assert bool(m)


def test_no_pickle_no_copy(kind):
    """A descriptor can't be pickled or copied, and the error says what to do."""
    with kind(4, 3) as m:
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="descriptor of this process"):
                call(m)


def test_map_is_the_common_class(kind):
    """isinstance(x, Map) holds for both."""
    with kind(4, 3) as m:
        assert isinstance(m, Map)


def test_map_itself_makes_none(no_calls):
    """Map(4, 4) is a TypeError that names the classes to use, before the kernel is asked."""
    with pytest.raises(TypeError, match=r"a Map can't be made: call Queue\(\), Stack\(\)"):
        Map(4, 4)


def test_fork_shares_the_map(kind):
    """Parent and child push to and pop from the same map through the inherited descriptor."""
    with kind(4, 3) as m:
        child = os.fork()
        if child == 0:
            m.push(b"abcd")
            os._exit(0)
        os.waitpid(child, 0)
        assert m.pop() == b"abcd"


def test_inheritance_through_exec(kind):
    """A descriptor passed to an executed program works there, without any capability."""
    with kind(4, 3) as m:
        fcntl.fcntl(m.fileno(), fcntl.F_SETFD, 0)
        code = f"import rawbpf\nwith rawbpf.{kind.__name__}.from_fd({m.fileno()}) as m: m.push(b'abcd')"
        subprocess.run([sys.executable, "-c", code], check=True, pass_fds=[m.fileno()])
        assert m.pop() == b"abcd"


# Values


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int32), ("y", ctypes.c_uint16))


class Upper:
    """A codec of the user's own."""

    size = 4

    def encode(self, value: str) -> bytes:
        return value.lower().encode()

    def decode(self, data: bytes) -> str:
        return data.decode().upper()


@pytest.mark.parametrize(
    ("spec", "values", "size"),
    [
        (4, [b"abcd", b"\0\0\0\0"], 4),
        ("<I", [0, 7, 2**32 - 1], 4),
        ("<IH", [(7, 80), (0, 0)], 6),
        (struct.Struct(">q"), [-1, 2**62], 8),
        ("4s", [b"abcd"], 4),
        ("?", [True, False], 1),
        (ctypes.c_uint32, [0, 7, 2**32 - 1], 4),
        (ctypes.c_double, [0.5], 8),
        (Upper(), ["ABCD"], 4),
    ],
)
def test_values(kind, spec, values, size):
    """Sizes, struct formats, ctypes types and codecs: what goes in comes out."""
    with kind(spec, 4) as m:
        assert m.value_size == size
        for value in values:
            m.push(value)
            assert m.peek() == value
            assert m.pop() == value


def test_ctypes_structures(kind):
    """A structure comes out as one, a copy of its own."""
    with kind(Point, 4) as m:
        m.push(Point(-3, 5))
        popped = m.pop()
        assert (type(popped), popped.x, popped.y) == (Point, -3, 5)


@pytest.mark.parametrize(
    ("spec", "value", "error", "message"),
    [
        ("<I", 2**32, ValueError, "does not fit the struct format '<I'"),
        ("<I", -1, ValueError, "does not fit"),
        ("<I", "7", ValueError, "does not fit"),
        ("<IH", (7,), ValueError, "does not fit"),
        ("<IH", (7, 80, 1), ValueError, "does not fit"),
        ("<IH", 7, TypeError, "a tuple, not int"),
        (ctypes.c_uint8, 256, ValueError, "does not fit c_ubyte"),
        (ctypes.c_uint8, "a", TypeError, "integer"),
        (Point, (1, 2), TypeError, "is a tuple, not a Point"),
        (Upper(), "toolong", ValueError, "7 bytes, and value_size is 4"),
        (Upper(), "abc", ValueError, "3 bytes, and value_size is 4"),
    ],
)
def test_values_that_do_not_fit(kind, no_library_call, spec, value, error, message):
    """A value that its type can't hold is refused before the call."""
    with kind(spec, 4) as m, no_library_call(), pytest.raises(error, match=message):
        m.push(value)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", ValueError, "has no field"),
        ("4x", ValueError, "has no field"),
        ("<Z", ValueError, "'<Z' is not a struct format"),
        (3.5, TypeError, "a value is a size in bytes"),
        (b"<I", TypeError, "a value is a size in bytes"),
        (Upper, TypeError, "a value is a size in bytes"),
        (int, TypeError, "a value is a size in bytes"),
    ],
)
def test_specifications_that_are_none(kind, no_calls, spec, error, message):
    """What describes no value is refused before the call."""
    with pytest.raises(error, match=message):
        kind(spec, 4)


class Broken:
    """A codec that can't decode what begins with '!'."""

    size = 4

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        if data[:1] == b"!":
            raise RuntimeError("can't decode")
        return data


def test_an_element_that_can_not_be_decoded_is_kept(kind):
    """pop() raises the codec's exception and offers the element again; take_held() hands it over raw."""
    with kind(Broken(), 4) as m:
        m.push(b"!bad")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't decode"):
                m.pop()
            with pytest.raises(RuntimeError, match="can't decode"):
                m.peek()
        m.push(b"good")
        assert m.take_held() == [b"!bad"]
        assert m.take_held() == []
        assert m.pop() == b"good"


def test_close_warns_of_elements_never_handed_over(kind):
    """What was taken out of the kernel does not vanish silently."""
    m = kind(Broken(), 4)
    m.push(b"!bad")
    with pytest.raises(RuntimeError):
        m.pop()
    with pytest.warns(RuntimeWarning, match="1 elements of .* were popped and never handed over"):
        m.close()
    assert m.take_held() == [b"!bad"]


def test_a_child_does_not_hand_over_its_parents_elements(kind):
    """After fork() a held element is the parent's alone."""
    with kind(Broken(), 4) as m:
        m.push(b"!bad")
        with pytest.raises(RuntimeError):
            m.pop()
        child = os.fork()
        if child == 0:
            os._exit(len(m.take_held()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert m.take_held() == [b"!bad"]


def test_threads_do_not_share_buffers(kind):
    """Many threads popping large values at once each get whole elements."""
    size, count = 4096, 400
    with kind(size, count) as m:
        for number in range(count):
            m.push(struct.pack("<I", number) * (size // 4))
        seen: list[int] = []

        def consume() -> None:
            while (value := m.pop(default=None)) is not None:
                words = set(struct.unpack(f"<{size // 4}I", value))
                assert len(words) == 1
                seen.extend(words)

        threads = [threading.Thread(target=consume) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == list(range(count))


# What must not be copied, followed or cut


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_owns_a_descriptor_is_not_copied(copy):
    """A copy would close the descriptor once more: TypeError, for maps and programs alike."""
    from rawbpf.programs.asm import R0, exit_, mov
    from rawbpf.programs.program import Program

    owners = [Queue(4, 1)]
    if door.simulated is None:
        owners.append(Program(rawbpf.abi.ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 0), exit_()]))
    for owner in owners:
        with owner, pytest.raises(TypeError, match="is a descriptor of this process"):
            copy(owner)


class Nested(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int), ("names", ctypes.c_char_p * 2))


@pytest.mark.parametrize("spec", [ctypes.c_char_p, ctypes.c_wchar_p, ctypes.py_object, ctypes.c_char_p * 3, Nested])
def test_addresses_are_no_values(no_calls, spec):
    """A ctypes type that decoding would follow into memory is refused, wherever it stands."""
    with pytest.raises(TypeError, match="is an address, which means nothing in other processes"):
        Queue(spec, 4)


class Size(int):
    """A size that says it is no other."""

    def __ne__(self, other):
        return False


def test_a_size_is_a_plain_number():
    """An int of another class decides nothing: a value shorter than it is refused."""
    with Queue(Size(64), 3) as q, pytest.raises(ValueError, match="has 1 bytes, and value_size is 64"):
        q.push(b"x")


class Own(ctypes.c_uint32):
    """A simple type's own class."""


def test_simple_ctypes_are_values_in_bulk_too(kind):
    """pop() and pop_many() give the same of a class derived from a simple type; a pointer's 0 can be pushed."""
    with kind(Own, 40) as m:
        m.push_many(range(40))
        assert {type(each) for each in m.pop_many(30)} == {int}
        assert type(m.pop()) is int
    with kind(ctypes.c_void_p, 2) as m:
        m.push(0)
        assert m.pop() is None


@pytest.mark.parametrize(("spec", "value"), [("4s", b"abcde"), ("<I2s", (1, b"abc")), ("3p", b"abc"), ("<f", 1e300)])
def test_nothing_is_cut(kind, spec, value):
    """The struct module cuts bytes to their size, and raises OverflowError for floats: here both are ValueError."""
    with kind(spec, 2) as m:
        for push in (m.push, lambda value: m.push_many([value] * 20)):
            with pytest.raises(ValueError, match="struct format"):
                push(value)
        assert m.pop(None) is None


def test_bytes_that_fit_a_struct_format(kind):
    """Shorter ones are filled up, as the struct module does."""
    with kind("<I2s", 20) as m:
        m.push_many([(1, b"ab"), (2, b"a")] * 10)
        assert set(m.pop_many(20)) == {(1, b"ab"), (2, b"a\0")}


@pytest.mark.parametrize(
    ("arguments", "says"), [({"name": 5}, "a name is a str"), ({"max_entries": "3"}, "max_entries")]
)
def test_arguments_of_other_types(no_calls, arguments, says):
    """The TypeError names the argument."""
    with pytest.raises(TypeError, match=says):
        Queue(**{"value": 4, "max_entries": 3, **arguments})


def test_overwrite_is_bpf_exist(kind):
    """push() and push_many() with overwrite=True do to a full map what they do with BPF_EXIST."""
    with kind("<I", 2) as ours, kind("<I", 2) as theirs:
        for number in range(5):
            ours.push(number, overwrite=True)
            theirs.push(number, rawbpf.BPF_EXIST)
        assert ours.push_many(range(5, 8), overwrite=True) == theirs.push_many(range(5, 8), rawbpf.BPF_EXIST) == 3
        assert ours.pop_many(3) == theirs.pop_many(3)


def test_overwrite_does_not_excuse_other_flags(kind):
    """overwrite=True beside flags that break the rules is a ValueError, and overwrite=False is as if it were not
    there."""
    with kind("<I", 1) as m:
        with pytest.raises(ValueError, match="push takes BPF_ANY or BPF_EXIST"):
            m.push(1, 1, overwrite=True)
        with pytest.raises(ValueError, match="push takes BPF_ANY or BPF_EXIST"):
            m.push_many([1], 1, overwrite=True)
        m.push(1, overwrite=False)
        with pytest.raises(rawbpf.Full):
            m.push(2, overwrite=False)
        assert m.pop_many(2) == [1]
