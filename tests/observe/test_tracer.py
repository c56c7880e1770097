"""rawbpf.trace(): strace's lines, from inside; compared with what strace itself says of the same calls."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import rawbpf
from rawbpf import Cmd, Full, NotFound, bpf, bpf_attr, syscall
from rawbpf.abi import AttachType, door, layout
from rawbpf.observe import tracer

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

# What an installed strace may be too old for: fields, and the bits and enumerators of others.
NEWER_FIELDS = {
    "path_fd": "6.5",
    "value_type_btf_obj_fd": "6.9",
    "map_token_fd": "6.9",
    "excl_prog_hash": "6.18",
    "excl_prog_hash_size": "6.18",
    "core_relo_cnt": "5.17",
    "core_relos": "5.17",
    "core_relo_rec_size": "5.17",
    "log_true_size": "6.4",
    "prog_token_fd": "6.9",
    "fd_array_cnt": "6.14",
    "signature": "6.18",
    "signature_size": "6.18",
    "keyring_id": "6.18",
    "btf_log_true_size": "6.4",
    "btf_flags": "6.9",
    "btf_token_fd": "6.9",
    "cookie": "6.10",
}

# Every command that the library issues, succeeding and failing, with each length of attr that it sends.
LIBRARY_CALLS = """
    import os, struct, sys
    import rawbpf
    from rawbpf import BPF_EXIST, MapFlag, Queue, Stack, bpf, bpf_attr, pointer, syscall, Cmd
    from rawbpf.abi.door import ffi

    def attempt(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except OSError:
            return None

    folder = sys.argv[1]
    with rawbpf.trace(file=open(sys.argv[2], "w")):
        for options in ({}, {"flags": 0x80}, {"name": "sample"}, {"name": "x", "numa_node": 0}, {"numa_node": -1}):
            Queue(4, 3, **options).close()
        with Queue(4, 2, name="sample_queue") as q, Stack(8, 1) as s:
            for _ in range(2):
                q.push(b"abcd")
            attempt(q.push, b"efgh")
            q.push(b"efgh", BPF_EXIST)
            q.peek(), q.pop(), q.pop(), attempt(q.pop), attempt(q.peek), attempt(s.pop)
            attempt(s.pin, folder + "/no/folder")
            attempt(s.pin, folder + "/not_bpffs")
            attempt(Stack.open, folder + "/nothing")
            attempt(Stack.open, folder + "/nothing", access="r")
            attempt(Stack.open, folder + '/a"b\\\\c\\n\\xe4' + 99 * "long")
            attempt(lambda: Queue.from_id(q.id, access="w").close())
            attempt(syscall.map_get_fd_by_id, 2**32 - 1)
            attempt(syscall.map_get_next_id, 0)
            attempt(syscall.map_get_next_id, 2**31)
            q.freeze(), attempt(q.freeze), attempt(q.push, b"abcd")
        attempt(syscall.obj_get_info_by_fd, 99)

        # What the modules for programs and BTF send.
        instructions = bytearray(struct.pack("<BBhi", 0xB7, 0, 0, 7) + struct.pack("<BBhi", 0x95, 0, 0, 0))
        licence, log, packet = bytearray(b"GPL\\0"), bytearray(4096), bytearray(64)
        load = dict(prog_type=1, insn_cnt=2, insns=pointer(instructions), license=pointer(licence))
        for more, size in (
            ({}, 24),
            ({"prog_flags": 16, "prog_name": b"sample_prog"}, 64),
            ({"log_level": 1, "log_size": 4096, "log_buf": pointer(log)}, 48),
            ({"log_level": 1, "log_size": 4096, "log_buf": pointer(log), "expected_attach_type": 3}, 72),
            ({"kern_version": 0x60C01}, 116),
            ({"prog_type": 31}, 120),
            ({"prog_type": 31, "insn_cnt": 0}, 168),
        ):
            program = attempt(bpf, Cmd.BPF_PROG_LOAD, bpf_attr(**load | more), size)
            if program is not None and size == 24:
                for test, size in (({}, 32), ({"repeat": 2}, 40), ({"ctx_size_in": 8}, 64), ({"flags": 1}, 76)):
                    test = {"prog_fd": program, "data_in": pointer(packet), "data_size_in": 14} | test
                    attempt(bpf, Cmd.BPF_PROG_TEST_RUN, bpf_attr(test=test), size)
            if program is not None:
                os.close(program)
        types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
        btf = bytearray(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), 5) + types + b"\\0int\\0")
        for length, size in ((len(btf), 28), (len(btf), 40), (3, 28)):
            made = attempt(bpf, Cmd.BPF_BTF_LOAD, bpf_attr(btf=pointer(btf), btf_size=length), size)
            if made is not None:
                os.close(made)
        name = bytearray(b"no_such_tracepoint\\0")
        attempt(bpf, Cmd.BPF_RAW_TRACEPOINT_OPEN, bpf_attr(raw_tracepoint={"name": pointer(name), "prog_fd": 99}), 16)
        for attach_type in (1, 17, 24, 28, 37):
            more = {"prog_fd": 99, "target_fd": 98, "attach_type": attach_type, "flags": attach_type % 3}
            attempt(bpf, Cmd.BPF_LINK_CREATE, bpf_attr(link_create=more), 16)
        more = {"prog_fd": 99, "attach_type": 28, "iter_info": 4096, "iter_info_len": 8}
        attempt(bpf, Cmd.BPF_LINK_CREATE, bpf_attr(link_create=more), 32)
        more = {"prog_fd": 99, "attach_type": 41, "perf_event": {"bpf_cookie": 7}}
        attempt(bpf, Cmd.BPF_LINK_CREATE, bpf_attr(link_create=more), 24)
        attempt(syscall.link_update, 99, 98)
        attempt(syscall.link_update, 99, 98, 97)
        attempt(syscall.link_get_fd_by_id, 2**31)
        attempt(syscall.link_get_next_id, 2**31 - 2)
        attempt(syscall.raw_tracepoint_open, None, 99)
        attempt(syscall.raw_tracepoint_open, "nothing", 99)
        for cmd in (24, 25, 26, 27):
            attempt(bpf, cmd, bpf_attr(batch={"count": 3, "map_fd": 99, "elem_flags": 4}), 56)
        attempt(bpf, 99, bpf_attr(map_fd=1), 8)
        attempt(bpf, Cmd.BPF_MAP_CREATE, None, 16)
        attempt(bpf, Cmd.BPF_MAP_FREEZE, bytearray(5000))
        attempt(bpf, Cmd.BPF_MAP_FREEZE, bytearray(range(1, 21)))
"""


def without_pointers(line: str) -> str:
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", line)


def without_newer_fields(line: str) -> str:
    for name in NEWER_FIELDS:
        line = re.sub(rf", {name}=[^,}}]*", "", line)
    return line


@needs_strace
@pytest.mark.real_kernel(reason="strace sees system calls")
@pytest.mark.creates
def test_every_line_is_straces(tmp_path):
    """For each command, length of attr and result our line is strace's, pointers and fields newer than it aside."""
    script, ours, theirs = tmp_path / "calls.py", tmp_path / "ours", tmp_path / "theirs"
    script.write_text(textwrap.dedent(LIBRARY_CALLS))
    command = ["strace", "-e", "trace=bpf", "-o", theirs, sys.executable, script, tmp_path, ours]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAWBPF_TRACE": "0"})
    assert result.returncode == 0, result.stderr
    expected = [line for line in theirs.read_text().splitlines() if line.startswith("bpf(")]
    actual = ours.read_text().splitlines()
    assert [without_newer_fields(without_pointers(line)) for line in actual] == [
        without_newer_fields(without_pointers(line)) for line in expected
    ]
    # 60 with CAP_BPF alone.
    assert len(actual) >= 60


def test_the_newer_fields_are_new():
    """Each field that strace may lack is in bpf.h with the version it is excused with."""
    since = {(f.path.rpartition(".")[2], f.since) for fields in layout.load().values() for f in fields}
    assert NEWER_FIELDS.items() <= since


# One call


@pytest.fixture
def lines():
    """Traces the test; the lines so far."""
    with io.StringIO() as file, rawbpf.trace(file=file):
        yield lambda: file.getvalue().splitlines()


@pytest.mark.creates
def test_one_call_is_one_line(lines, kind):
    """A push is a line: command, attr, size, result."""
    with kind(4, 1) as m:
        before = len(lines())
        m.push(b"abcd")
        with pytest.raises(Full):
            m.push(b"efgh")
        pushed, full = lines()[before:]
    attr = rf"{{map_fd={m_fd(pushed)}, key=NULL, value=0x[0-9a-f]+, flags=BPF_ANY}}, 32\)"
    assert re.fullmatch(rf"bpf\(BPF_MAP_UPDATE_ELEM, {attr} = 0", pushed)
    assert re.fullmatch(rf"bpf\(BPF_MAP_UPDATE_ELEM, {attr} = -1 E2BIG \(Argument list too long\)", full)


def m_fd(line: str) -> str:
    return line.partition("map_fd=")[2].partition(",")[0]


@pytest.mark.creates
def test_the_meaning_on_request(kind):
    """With meaning=True an error is followed by what it means for this map."""
    file = io.StringIO()
    with kind(4, 1, name="small") as m, rawbpf.trace(file=file, meaning=True):
        m.push(b"abcd")
        with pytest.raises(Full):
            m.push(b"efgh")
        assert m.pop(default=None) == b"abcd"
        assert m.pop(default=None) is None
    text = " ".join(file.getvalue().split())
    assert "(Argument list too long) queue" in text or "(Argument list too long) stack" in text
    assert "'small' is full (1 entries) [BPF_MAP_UPDATE_ELEM: E2BIG]; pop first, or push with BPF_EXIST" in text
    assert "'small' is empty [BPF_MAP_LOOKUP_AND_DELETE_ELEM: ENOENT]" in text
    assert len(re.findall(r"\bbpf\(", text)) == 4


@pytest.mark.creates
def test_drawings_on_request(kind):
    """With attrs=True every line is followed by the attr's drawing, and by that of the info struct."""
    file = io.StringIO()
    with kind(4, 1, name="drawn") as m, rawbpf.trace(file=file, attrs=True):
        m.push(b"abcd")
        m.info()
    text = file.getvalue()
    assert "BPF_MAP_UPDATE_ELEM (2), Linux 3.18: 32 bytes, 32 sent" in text
    assert re.search(r"^ +4 +4 \(padding\) +00000000$", text, re.MULTILINE)
    assert "struct bpf_map_info" in text
    assert '"drawn"' in text


def test_links_that_strace_does_not_know(lines):
    """The cookie stands in its own struct; BPF_LINK_DETACH and BPF_ITER_CREATE have their descriptor."""
    with pytest.raises(OSError, match="BPF_LINK_CREATE"):
        syscall.link_create(4095, 0, AttachType.BPF_TRACE_FENTRY, tracing={"cookie": 0x77})
    for call_ in (syscall.link_detach, syscall.iter_create):
        with pytest.raises(OSError, match="descriptor 4095"):
            call_(4095)
    create, detach, iterate = (line.partition(" = ")[0].rstrip() for line in lines())
    tracing = "tracing={target_btf_id=0, cookie=0x77}"
    assert create == (
        f"bpf(BPF_LINK_CREATE, {{link_create={{prog_fd=4095, target_fd=0, attach_type=BPF_TRACE_FENTRY, flags=0,"
        f" {tracing}}}}}, 32)"
    )
    assert detach == "bpf(BPF_LINK_DETACH, {link_detach={link_fd=4095}}, 4)"
    assert iterate == "bpf(BPF_ITER_CREATE, {iter_create={link_fd=4095, flags=0}}, 8)"


@pytest.mark.parametrize(
    ("call_", "meaning"),
    [
        (lambda: syscall.raw_tracepoint_open("nothing", 1), "raw tracepoint 'nothing': there is none"),
        (lambda: syscall.link_create(1, 1, AttachType.BPF_XDP), "BPF_XDP: there is no such place"),
        (lambda: syscall.link_get_fd_by_id(12), "no link has id 12"),
    ],
)
def test_the_meaning_for_links(answered, call_, meaning):
    """With meaning=True the error's text names the tracepoint, the attach type, the id."""
    file = io.StringIO()
    with rawbpf.trace(file=file, meaning=True), pytest.raises(NotFound):
        call_()
    assert meaning in " ".join(file.getvalue().split())


def test_calls_that_have_no_attr(lines):
    """NULL, size 0 and unknown commands are shown as strace does."""
    for cmd, attr, size in ((0, None, 16), (9999, bytearray(4), 4), (0, bytearray(4), 0)):
        with pytest.raises(OSError, match="bpf"):
            bpf(cmd, attr, size)
    null, unknown, empty = lines()
    assert null.startswith("bpf(BPF_MAP_CREATE, NULL, 16) ")
    assert re.match(r"bpf\(0x270f /\* BPF_\?\?\? \*/, 0x[0-9a-f]+, 4\) ", unknown)
    assert re.match(r"bpf\(BPF_MAP_CREATE, 0x[0-9a-f]+, 0\) ", empty)


# Starting and stopping


@pytest.fixture
def answered():
    """Nothing gets to a kernel: every call answers ENOENT."""

    class Nothing:
        bpffs = ""

        def bpf(self, cmd, attr, size):
            return -errno.ENOENT

        def proc(self, path):
            return None

    previous = door.set_simulated(Nothing())
    yield
    door.set_simulated(previous)


def call():
    with pytest.raises(OSError, match="ENOENT"):
        bpf(Cmd.BPF_MAP_FREEZE, bpf_attr(), 4)


def test_nothing_before_and_after(answered):
    """The context is what is traced."""
    file = io.StringIO()
    call()
    with rawbpf.trace(file=file):
        call()
    call()
    assert len(file.getvalue().splitlines()) == 1


def test_an_exception_leaves_the_door_as_it_was(answered):
    """Whatever the traced code raises, the hook is gone, or the one before is back."""

    def hook(cmd, attr, size):
        return door.ask_kernel(cmd, attr, size)

    for before in (None, hook):
        previous = door.set_hook(before)
        with pytest.raises(ZeroDivisionError), rawbpf.trace(file=io.StringIO()):
            _ = 1 / 0
        assert door.set_hook(previous) is before


def test_a_trace_in_a_trace_prints_once(answered):
    """To the same file no line twice; to another file it is printed as well."""
    one, two = io.StringIO(), io.StringIO()
    with rawbpf.trace(file=one), rawbpf.trace(file=one), rawbpf.trace(file=two):
        call()
    assert len(one.getvalue().splitlines()) == len(two.getvalue().splitlines()) == 1


def test_a_hook_beneath_is_asked(answered):
    """Tracing looks on at a hook that was there first, once per call."""
    seen = []
    previous = door.set_hook(lambda cmd, attr, size: seen.append(cmd) or -errno.ENOENT)
    with rawbpf.trace(file=io.StringIO()):
        call()
    door.set_hook(previous)
    assert seen == [Cmd.BPF_MAP_FREEZE]


def test_stderr_is_the_default(answered, capsys):
    """Without a file lines go to what sys.stderr is by then."""
    with rawbpf.trace():
        call()
    assert capsys.readouterr().err.startswith("bpf(BPF_MAP_FREEZE, {map_fd=0}, 4)")


def test_threads_do_not_mix(answered, tmp_path):
    """Many threads, whole lines, one for each call."""
    path = tmp_path / "trace"
    with open(path, "w", buffering=1) as file, rawbpf.trace(file=file):

        def work(number):
            for _ in range(50):
                with pytest.raises(OSError, match="ENOENT"):
                    bpf(Cmd.BPF_MAP_FREEZE, bpf_attr(map_fd=number), 4)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = path.read_text().splitlines()
    expected = [f"bpf(BPF_MAP_FREEZE, {{map_fd={number}}}, 4)" for number in range(8) for _ in range(50)]
    assert sorted(line.partition(" = ")[0].rstrip() for line in lines) == sorted(expected)


@pytest.mark.creates
def test_a_tracer_that_can_not_print_loses_nothing(kind):
    """The file raises after the kernel has given the element: the next pop hands it over."""

    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with kind(4, 1) as m:
        m.push(b"abcd")
        with pytest.raises(BrokenPipeError), rawbpf.trace(file=Broken()):
            m.pop()
        assert m.pop() == b"abcd"


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


CALL = "import rawbpf\ntry: rawbpf.bpf(22, rawbpf.bpf_attr(), 4)\nexcept OSError: pass"


def test_the_environment_variable():
    """RAWBPF_TRACE=1 traces the process to stderr; 0 and nothing do not."""
    assert run(CALL, RAWBPF_TRACE="1").stderr.startswith("bpf(BPF_MAP_FREEZE, {map_fd=0}, 4)")
    assert run(CALL, RAWBPF_TRACE="0").stderr == run(CALL, RAWBPF_TRACE="").stderr == ""


def test_the_tools_are_not_imported_unasked():
    """import rawbpf imports neither tracer nor simulator nor ctypes."""
    code = "import sys, rawbpf; print([m for m in sys.modules if m == 'ctypes' or m.startswith('rawbpf.observe')])"
    assert run(code, RAWBPF_TRACE="", RAWBPF_SIMULATE="").stdout == "[]\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_traces_on(answered, tmp_path):
    """After fork() the child's calls are printed too, although another thread of the parent held the lock."""
    path = tmp_path / "trace"
    held, done = threading.Event(), threading.Event()

    def hold():
        with tracer._lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    with open(path, "w") as file, rawbpf.trace(file=file):
        holder.start()
        held.wait()
        try:
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                call()
                os._exit(0)
            status = os.waitpid(child, 0)[1]
        finally:
            done.set()
            holder.join()
    assert status == 0
    assert path.read_text().startswith("bpf(BPF_MAP_FREEZE")


def test_a_trace_to_what_is_no_file(no_calls):
    """A path is refused before anything is traced."""
    with pytest.raises(TypeError, match="an open file, not to a str"), rawbpf.trace("log.txt"):
        pass
