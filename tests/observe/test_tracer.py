"""rawbpf.trace(): strace's lines, from inside; compared with what strace itself says of the same calls."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

import rawbpf
from rawbpf import Cmd, Full, NotFound, bpf, bpf_attr, syscall
from rawbpf.abi import AttachType, door
from rawbpf.observe import tracer

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
    assert "'small' is full (1 entry) [BPF_MAP_UPDATE_ELEM: E2BIG]; pop first, or push with BPF_EXIST" in text
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
        f" {tracing}}}}}, 168)"
    )
    assert detach == "bpf(BPF_LINK_DETACH, {link_detach={link_fd=4095}}, 168)"
    assert iterate == "bpf(BPF_ITER_CREATE, {iter_create={link_fd=4095, flags=0}}, 168)"


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
