"""Probes, tracepoints and perf events: the program runs where it was attached, as long as it is, and with its cookie.

bpftool says the same of the links, and nm the same of where functions are in a file.
"""

import ctypes.util
import errno
import gc
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from rawbpf import AlreadyExists, BpfError, NotFound, NotPermitted, Queue, Unsupported
from rawbpf.abi import AttachType, LinkType, ProgType
from rawbpf.programs import attach as attach_module
from rawbpf.programs import elf_functions, tracefs
from rawbpf.programs.asm import R0, R1, R6, R10, Helper, call, exit_, load, mov, store
from rawbpf.programs.program import Program
from rawbpf.programs.targets import Kprobe, KprobeMulti, Ksyscall, PerfEvent, Uprobe, UprobeMulti, parse
from rawbpf.syscall.proc import kernel_version
from tests.conftest import (
    GLIBC,
    NOT_GLIBC,
    descriptors,
    examples,
    needs_3_11,
    needs_glibc,
    rounds,
    skip_other_kernels,
)
from tests.programs.attaching import OUT, execute, failure_of, libc, only_here, pushes, pushing, ran, reading_its_cookie

pytestmark = [pytest.mark.creates, pytest.mark.admin, pytest.mark.real_kernel(reason="programs")]

KPROBE, TRACEPOINT = ProgType.BPF_PROG_TYPE_KPROBE, ProgType.BPF_PROG_TYPE_TRACEPOINT
PERF_EVENT = ProgType.BPF_PROG_TYPE_PERF_EVENT
NONE = AttachType(0)
PERF_LINK = LinkType.BPF_LINK_TYPE_PERF_EVENT

DEVICES = Path("/sys/bus/event_source/devices")
LIBC = elf_functions.resolve("libc.so.6")

needs_bpftool = pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")

# Where a program finds its function's first argument and its result, in struct pt_regs.
ARGUMENT, RESULT = {"x86_64": (112, 80), "aarch64": (0, 0)}.get(os.uname().machine, (0, 0))
known_registers = pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="by design: the test knows the registers of two machines"
)


def nap() -> None:
    time.sleep(0.0001)


class Where(NamedTuple):
    """A kind of place: the Linux that has it, the type of the program, the target, what makes the program run, as which
    type it is loaded, what the link is, and which of the kernel's parts it needs."""

    since: str
    prog_type: ProgType
    target: object
    act: Callable[[], object]
    expected: AttachType = NONE
    link_type: LinkType = PERF_LINK
    needs: str = ""


MULTI, SESSION = AttachType.BPF_TRACE_KPROBE_MULTI, AttachType.BPF_TRACE_KPROBE_SESSION
UMULTI, USESSION = AttachType.BPF_TRACE_UPROBE_MULTI, AttachType.BPF_TRACE_UPROBE_SESSION
KLINK, ULINK = LinkType.BPF_LINK_TYPE_KPROBE_MULTI, LinkType.BPF_LINK_TYPE_UPROBE_MULTI

PLACES = {
    "tracepoint": Where("5.8", TRACEPOINT, "sched/sched_process_exec", execute),
    "tracepoint of a system call": Where("5.8", TRACEPOINT, "syscalls/sys_enter_getppid", libc.getppid),
    "uprobe": Where("5.8", KPROBE, "uprobe/libc.so.6:getppid", libc.getppid),
    "uprobe at an offset": Where("5.8", KPROBE, f"uprobe/{LIBC}:getppid+0x0", libc.getppid),
    "uretprobe": Where("5.8", KPROBE, "uretprobe/libc.so.6:getppid", libc.getppid),
    "uprobe.s": Where("5.8", KPROBE, "uprobe.s/libc.so.6:getppid", libc.getppid),
    "uprobe.multi": Where("6.6", KPROBE, "uprobe.multi/libc.so.6:getpp*", libc.getppid, UMULTI, ULINK),
    "uretprobe.multi": Where("6.6", KPROBE, "uretprobe.multi/libc.so.6:getppid", libc.getppid, UMULTI, ULINK),
    "uprobe.session": Where("6.13", KPROBE, "uprobe.session/libc.so.6:getppid", libc.getppid, USESSION, ULINK),
    "kprobe": Where("5.8", KPROBE, "kprobe/do_nanosleep", nap, needs="kprobe"),
    "kretprobe": Where("5.8", KPROBE, "kretprobe/do_nanosleep", nap, needs="kprobe"),
    "ksyscall": Where("5.8", KPROBE, "ksyscall/getppid", libc.getppid, needs="kprobe"),
    "kretsyscall": Where("5.8", KPROBE, "kretsyscall/getppid", libc.getppid, needs="kprobe"),
    "kprobe.multi": Where("5.18", KPROBE, "kprobe.multi/do_nanosleep", nap, MULTI, KLINK, "fprobe"),
    "kprobe.multi of a pattern": Where("5.18", KPROBE, "kprobe.multi/do_nanoslee[p]*", nap, MULTI, KLINK, "fprobe"),
    "kretprobe.multi": Where("5.18", KPROBE, "kretprobe.multi/do_nanosleep", nap, MULTI, KLINK, "fprobe"),
    "kprobe.session": Where("6.10", KPROBE, "kprobe.session/do_nanosleep", nap, SESSION, KLINK, "fprobe"),
}


def skip_without(where: Where) -> None:
    skip_other_kernels(where.since)
    if str(where.target).startswith("syscalls/") and sys.maxsize < 2**32:
        pytest.skip("by design: the tracepoints of system calls leave out those of 32-bit processes")
    if "libc" in str(where.target) and not GLIBC:
        pytest.skip(NOT_GLIBC)
    if where.needs and not (DEVICES / "kprobe").exists():
        pytest.skip("by design: this kernel was built without kprobes")
    if where.needs == "fprobe" and " register_fprobe" not in Path("/proc/kallsyms").read_text():
        pytest.skip("by design: this kernel was built without fprobes")


@pytest.fixture(params=PLACES)
def where(request) -> Where:
    """Each kind of place in turn."""
    skip_without(PLACES[request.param])
    return PLACES[request.param]


def load_for(where: Where, code: list) -> Program:
    return Program(where.prog_type, code, name="tested", expected_attach_type=where.expected)


def test_it_runs_from_attach_to_close(where, q):
    """Attached it runs, closed it does not, and not before either; the link outlives the program's descriptor."""
    with load_for(where, pushing(q)) as program:
        assert not ran(q, where.act)
        link = program.attach(where.target)
    with link:
        assert ran(q, where.act)
    assert link.closed
    assert not ran(q, where.act)


def test_its_cookie(where, q):
    """Each of two programs at one place reads the number that its attach() was given."""
    skip_other_kernels("5.15")
    cookie = [call(Helper.BPF_FUNC_get_attach_cookie), store("u64", R10, -8, R0)]
    with ExitStack() as stack:
        for number in (2**63 + 5, 6):
            program = stack.enter_context(load_for(where, [*cookie, *pushes(q), mov(R0, 0), exit_()]))
            stack.enter_context(program.attach(where.target, cookie=number))
        where.act()
        assert set(q.pop_many(64)) == {2**63 + 5, 6}


@pytest.mark.linux("5.15")
def test_twice_to_one_tracepoint(q):
    """A program is attached to a tracepoint once: the second time is AlreadyExists (EEXIST), and the hint helps."""
    with Program(TRACEPOINT, pushing(q)) as program, program.attach("sched/sched_process_exec"):
        error = failure_of(lambda: program.attach("sched/sched_process_exec"))
        assert (type(error), error.errno) == (AlreadyExists, errno.EEXIST)
        assert "tracepoint 'sched/sched_process_exec': this program is attached there already" in str(error)
        assert "load the program again" in error.hint


@needs_bpftool
def test_bpftool_sees_the_link(where, q):
    """The link's type and program are those that bpftool shows, and with the link they are gone."""
    skip_other_kernels("5.15")
    with load_for(where, pushing(q)) as program, program.attach(where.target) as link:
        info = link.info()
        shown = bpftool_link(info.id)
    assert info.type == where.link_type
    assert shown["prog_id"] == info.prog_id
    # bpftool 7.1 does not know all of the names.
    assert shown["type"] in (where.link_type.name.removeprefix("BPF_LINK_TYPE_").lower(), where.link_type)
    assert "No such file" in bpftool_link(info.id)["error"]


def bpftool_link(link_id: int) -> dict:
    return json.loads(subprocess.run(["bpftool", "-j", "link", "show", "id", str(link_id)], capture_output=True).stdout)


def test_a_perf_event_without_a_link(where, q, monkeypatch):
    """Before Linux 5.15 an ioctl attaches, and close() ends it; what only links can do is Unsupported."""
    if where.link_type != PERF_LINK:
        pytest.skip("by design: it never was attached by a perf event")
    monkeypatch.setattr(attach_module, "kernel_version", lambda: (5, 14))
    with load_for(where, pushing(q)) as program:
        with program.attach(where.target) as link:
            assert ran(q, where.act)
            for call in (link.info, link.detach, link.iterate, lambda: link.pin("/x"), lambda: link.update(program)):
                with pytest.raises(Unsupported, match="is no link of the kernel's.*since Linux 5.15") as caught:
                    call()
                assert caught.value.errno == errno.EOPNOTSUPP
        assert not ran(q, where.act)
        with pytest.raises(Unsupported, match="no cookies for perf events.*5.15"):
            program.attach(where.target, cookie=1)


# Events, typed and in order


@known_registers
@pytest.mark.linux("5.8")
@needs_glibc
@pytest.mark.parametrize(("kind", "place"), [("uprobe", ARGUMENT), ("uretprobe", RESULT)])
def test_events_arrive_in_order(kind, place):
    """Each call's argument, and each call's result, is in the queue, in the order of the calls."""
    with Queue("=q", 256) as q:
        code = [load("u64", R6, R1, place), *only_here(), store("u64", R10, -8, R6), *pushes(q), *OUT]
        with Program(KPROBE, code) as program, program.attach(f"{kind}/libc.so.6:labs"):
            for number in range(200):
                libc.labs(number)
        assert q.pop_many(256) == list(range(200))


@known_registers
@pytest.mark.linux("5.8")
def test_the_fields_of_a_tracepoint():
    """A tracepoint's context has its fields where tracefs says: the system call's first argument at byte 16."""
    with Queue("=Q", 64) as q:
        code = [load("u64", R6, R1, 16), *only_here(), store("u64", R10, -8, R6), *pushes(q), *OUT]
        with Program(TRACEPOINT, code) as program, program.attach("syscalls/sys_enter_getpgid"):
            for number in (0, 7, 0):
                libc.getpgid(number)
        assert q.pop_many(64) == [0, 7, 0]


# Uprobes


@needs_glibc
@pytest.mark.linux("5.8")
def test_one_process(q):
    """With a pid the program runs for that process alone, without for all."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: libc.getppid())
        while True:
            signal.pause()
    try:
        with Program(KPROBE, pushing(q)) as program:
            for target in (Uprobe("libc.so.6", "getppid", pid=os.getpid()), *multi_of_this_process()):
                if isinstance(target, UprobeMulti):
                    break
                with program.attach(target):
                    assert ran(q, libc.getppid)
            with program.attach(Uprobe("libc.so.6", "getppid", pid=child)):
                assert not ran(q, libc.getppid)
                os.kill(child, signal.SIGUSR1)
                assert comes(q)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def multi_of_this_process() -> list[UprobeMulti]:
    return [UprobeMulti("libc.so.6", ["getppid"], pid=os.getpid())]


def comes(q: Queue) -> bool:
    """Whether something is pushed in the end."""
    return any(q.pop(default=None) is not None or time.sleep(0.01) for _ in range(1000))


@needs_glibc
@pytest.mark.linux("6.6")
def test_many_of_one_process(q):
    """uprobe.multi with a pid runs for that process alone."""
    with Program(KPROBE, pushing(q), expected_attach_type=UMULTI) as program:
        with program.attach(multi_of_this_process()[0]):
            assert ran(q, libc.getppid)
        with program.attach(UprobeMulti("libc.so.6", ["getppid"], pid=os.getppid())):
            assert not ran(q, libc.getppid)


@needs_glibc
@pytest.mark.linux("6.6")
def test_many_functions_with_cookies_of_their_own(q):
    """Each function of a uprobe.multi has its cookie; it is found by its name or by its offset in the file."""
    functions = ["getppid", elf_functions.function_offset(LIBC, "getuid")]
    with (
        Program(KPROBE, reading_its_cookie(q), expected_attach_type=UMULTI) as program,
        program.attach(UprobeMulti("libc.so.6", functions, cookies=[11, 12])),
    ):
        libc.getppid(), libc.getuid(), libc.getppid()
    assert q.pop_many(64) == [11, 12, 11]


@needs_bpftool
@pytest.mark.parametrize("kind", ["uprobe", "uretprobe", "kprobe", "kretprobe", "tracepoint"])
def test_bpftool_sees_the_perf_event(kind, q, monkeypatch):
    """bpftool names the kind of probe, the file and the offset in it, the function, or the tracepoint."""
    skip_without(PLACES[kind])
    monkeypatch.setattr(attach_module, "kernel_version", lambda: (5, 14))  # so that the event's descriptor is open
    with load_for(PLACES[kind], pushing(q)) as program, program.attach(PLACES[kind].target) as link:
        shown = json.loads(subprocess.run(["bpftool", "-j", "perf"], capture_output=True, check=True).stdout)
        [event] = [each for each in shown if (each["pid"], each["fd"]) == (os.getpid(), link.fileno())]
    expected = {
        "u": {"offset": elf_functions.function_offset(LIBC, "getppid"), "filename": LIBC},
        "k": {"offset": 0, "func": "do_nanosleep"},
        "t": {"tracepoint": "sched_process_exec"},
    }[kind[0]]
    assert {key: event[key] for key in ("fd_type", *expected)} == {"fd_type": kind, **expected}


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_functions_are_where_nm_says():
    """The address of each dynamic function of the C library, minus where its segment is loaded, is its offset."""
    lines = subprocess.run(["nm", "-D", "--defined-only", LIBC], capture_output=True, text=True, check=True).stdout
    symbols = [line.split() for line in lines.splitlines()]
    # IFUNCs are "i"; an old version of a name has one "@".
    functions = {name.partition("@@")[0]: int(address, 16) for address, kind, name in symbols if kind in "TW"}
    default = {name: address for name, address in functions.items() if "@" not in name}
    ours = {name: list(offsets) for name, offsets in elf_functions._functions(LIBC).items()}
    assert len(default) > 1000
    # Code of the C library is loaded as it lies in the file.
    assert {name: ours.get(name) for name in default} == {name: [address] for name, address in default.items()}


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("nm") is None, reason="cc or nm is not installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="by design: -m32 is x86's")
@pytest.mark.parametrize("option", ["-m32", "-m64"])
def test_both_classes_of_files(tmp_path, option):
    """In a file for 32-bit machines functions are found as in one for 64 bits: where nm says that they are loaded, and
    the segment lies in the file."""
    (tmp_path / "source.c").write_text(
        "int one(int n) { return n + 1; } static int two = 2; int *three(void) { return &two; }"
    )
    library = tmp_path / "library.so"
    command = ["cc", option, "-nostdlib", "-shared", "-fPIC", "-o", library, "source.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    shown = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    theirs = {name: [int(place, 16)] for place, kind, name in map(str.split, shown.splitlines()) if kind in "Tt"}
    ours = {name: list(offsets) for name, offsets in elf_functions._functions(str(library)).items()}
    # Code lies in the file where it is loaded.
    assert {name: ours[name] for name in ("one", "three")} == {name: theirs[name] for name in ("one", "three")}


def test_a_damaged_file(tmp_path):
    """Whatever is wrong in an ELF file, it is a ValueError or functions elsewhere, and nothing worse."""
    with open(LIBC, "rb") as file:
        content = file.read()
    path = tmp_path / "damaged"
    outcomes = set()
    numbers = random.Random(1)
    # The headers are where it hurts: the file's and the segments' at the beginning, the sections' at the end.
    places = [*range(64 + 14 * 56), *range(len(content) - 70 * 64, len(content))]
    for _ in range(examples(60)):
        damaged = bytearray(content[: numbers.choice([len(content), len(content), numbers.randrange(len(content))])])
        for place in (numbers.randrange(64), *numbers.sample(places, 5)):
            if place < len(damaged):
                damaged[place] = numbers.randrange(256)
        path.write_bytes(damaged)
        try:
            elf_functions._functions(str(path))
        except ValueError as error:
            outcomes.add(type(error))
    assert outcomes == {ValueError}


C_FILE = """
    static __attribute__((noinline)) int twice(int n) { return n * %d; }
    int %s(int n) { return twice(n) + 1; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")
def test_static_functions(tmp_path, q):
    """A static function is found by its name if it is the only one; of several the error names the offsets, by which
    each can be meant."""
    for number in (2, 3):
        (tmp_path / f"{number}.c").write_text(C_FILE % (number, f"public{number}"))
    one, two = tmp_path / "one.so", tmp_path / "two.so"
    for library, sources in ((one, ["2.c"]), (two, ["2.c", "3.c"])):
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, *sources], cwd=tmp_path, check=True)
    loaded = ctypes.CDLL(str(two))
    with Program(KPROBE, pushing(q)) as program:
        with program.attach(f"uprobe/{one}:twice"):
            assert ran(q, lambda: ctypes.CDLL(str(one)).public2(1))
        with pytest.raises(LookupError, match="several functions 'twice', at 0x[0-9a-f]+, 0x[0-9a-f]+: give") as caught:
            program.attach(f"uprobe/{two}:twice")
        offsets = [word for word in str(caught.value).replace(",", " ").replace(":", " ").split() if word[:2] == "0x"]
        seen = []
        for offset in offsets:
            with program.attach(f"uprobe/{two}:{offset}"):
                seen.append([ran(q, lambda: loaded.public2(1)), ran(q, lambda: loaded.public3(1))])
        assert sorted(seen) == [[False, True], [True, False]]


def test_what_a_file_does_not_have(q, tmp_path):
    """A missing function is a LookupError with both names, a missing file FileNotFoundError, no ELF file ValueError."""
    with Program(KPROBE, pushing(q)) as program:
        before = descriptors()
        with pytest.raises(LookupError, match=f"'{LIBC}' has no function 'nothing'; its symbols may be stripped"):
            program.attach("uprobe/libc.so.6:nothing")
        with pytest.raises(FileNotFoundError, match="in the system's folders: 'libnothing.so'"):
            program.attach("uprobe/libnothing.so:f")
        with pytest.raises(FileNotFoundError):
            program.attach("uprobe//no/such/file:f")
        (tmp_path / "text").write_text("no ELF file")
        with pytest.raises(ValueError, match="no well-formed ELF file"):
            program.attach(f"uprobe/{tmp_path}/text:f")
        assert descriptors() == before
    skip_other_kernels("6.6")
    wrong = pytest.raises(LookupError, match="has no function that matches 'nothing\\*'")
    with Program(KPROBE, pushing(q), expected_attach_type=UMULTI) as program, wrong:
        program.attach("uprobe.multi/libc.so.6:nothing*")


def test_errors_of_uprobes(q):
    """No such process is NotFound (ESRCH); an offset behind the file's end is EINVAL. Both name the place."""
    with Program(KPROBE, pushing(q)) as program:
        error = failure_of(lambda: program.attach(Uprobe("libc.so.6", "getppid", pid=2**22)))
        assert (type(error), error.errno) == (NotFound, errno.ESRCH)
        assert str(error).startswith("uprobe libc.so.6:getppid of process 4194304: ")
        error = failure_of(lambda: program.attach("uprobe/libc.so.6:0x7fffffff0000"))
        assert (type(error), error.errno) == (BpfError, errno.EINVAL)


# Kprobes


@pytest.fixture
def kprobes() -> None:
    skip_without(PLACES["kprobe"])


def test_a_kprobe_by_its_address(kprobes, q):
    """The function's address does as well as its name, and an offset may be added to both."""
    lines = Path("/proc/kallsyms").read_text().splitlines()
    address = next(int(line.split()[0], 16) for line in lines if line.endswith(" do_nanosleep"))
    assert address
    with Program(KPROBE, pushing(q)) as program:
        for target in (Kprobe(address), f"kprobe/{address:#x}", "kprobe/do_nanosleep+0"):
            with program.attach(target):
                assert ran(q, nap)


def test_no_such_function(kprobes, q):
    """An unknown function is NotFound (ENOENT) that names it; so is an unknown system call, with what was tried."""
    with Program(KPROBE, pushing(q)) as program:
        error = failure_of(lambda: program.attach("kprobe/no_such_function"))
        assert (type(error), error.errno) == (NotFound, errno.ENOENT)
        assert str(error).startswith("kprobe no_such_function: ")
        error = failure_of(lambda: program.attach("ksyscall/nothing"))
        assert (type(error), error.errno) == (NotFound, errno.ENOENT)
        assert "ksyscall nothing: this kernel has no function __" in str(error)


def test_a_function_that_can_not_be_probed(kprobes, q):
    """The kernel's blacklisted functions are EINVAL, and the hint says that there are such."""
    with Program(KPROBE, pushing(q)) as program:
        error = failure_of(lambda: program.attach("kprobe/notify_die"))
    assert error.errno == errno.EINVAL
    assert "keeps this function free of probes" in error.hint


def test_many_functions_of_the_kernel(q):
    """kprobe.multi takes names and addresses; each function has its cookie."""
    skip_without(PLACES["kprobe.multi"])
    lines = Path("/proc/kallsyms").read_text().splitlines()
    prefix = {"x86_64": "__x64_", "aarch64": "__arm64_", "s390x": "__s390x_"}[os.uname().machine]
    names = [f"{prefix}sys_getppid", f"{prefix}sys_getuid"]
    addresses = [next(int(line.split()[0], 16) for line in lines if line.endswith(f" {name}")) for name in names]
    with Program(KPROBE, reading_its_cookie(q), expected_attach_type=MULTI) as program:
        for functions in (names, addresses):
            with program.attach(KprobeMulti(functions, cookies=[11, 12])):
                libc.getppid(), libc.getuid()
            assert set(q.pop_many(64)) == {11, 12}
        with pytest.raises(LookupError, match="that can be traced matches 'no_such_\\*'"):
            program.attach("kprobe.multi/no_such_*")


def test_a_kernel_without_kprobes(q, monkeypatch, tmp_path):
    """Where the kernel offers no kprobes as perf events the error says what they need."""
    monkeypatch.setattr("rawbpf.programs.probes._DEVICES", str(tmp_path))
    with Program(KPROBE, pushing(q)) as program:
        error = failure_of(lambda: program.attach("kprobe/do_nanosleep"))
    assert (type(error), error.errno) == (Unsupported, errno.EOPNOTSUPP)
    assert "no kprobes for perf_event_open(2)" in str(error)
    assert "CONFIG_KPROBE_EVENTS" in error.hint


# Tracepoints


def test_no_such_tracepoint(q):
    """An unknown name is NotFound (ENOENT) that names it, and leaves no descriptor."""
    with Program(TRACEPOINT, pushing(q)) as program:
        error = failure_of(lambda: program.attach("sched/nothing"))
    assert (type(error), error.errno) == (NotFound, errno.ENOENT)
    assert "there is no tracepoint 'sched/nothing'" in str(error)


def test_tracefs_need_not_be_mounted(monkeypatch):
    """Where tracefs is not mounted it is read all the same, and no mount is to be seen."""
    mounted = Path("/proc/self/mountinfo").read_text()
    number = tracefs.event_id("sched/sched_process_exec")
    monkeypatch.setattr(tracefs, "_MOUNTED_AT", ())
    assert tracefs.event_id("sched/sched_process_exec") == number > 0
    assert Path("/proc/self/mountinfo").read_text() == mounted


def test_tracefs_can_be_mounted(monkeypatch, tmp_path):
    """Where it is mounted, that is what is read."""
    folder = tmp_path / "events" / "group" / "event"
    folder.mkdir(parents=True)
    (folder / "id").write_text("77\n")
    monkeypatch.setattr(tracefs, "_MOUNTED_AT", ("/no/such/folder", str(tmp_path)))
    assert tracefs.event_id("group/event") == 77


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.getuid() != 0, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        (",+bpf,+perfmon", "Unsupported tracefs is not mounted where this process can read it"),
        (",+bpf,+perfmon,+sys_admin", "attached"),
    ],
)
def test_what_tracefs_needs(capabilities, said):
    """Without CAP_SYS_ADMIN it has to be mounted, and the error says how."""
    skip_other_kernels("5.8")
    if os.path.isdir("/sys/kernel/tracing/events"):
        pytest.skip("by design: tracefs is mounted here")
    assert attach_with(capabilities, TRACEPOINT, "sched/sched_process_exec").startswith(said)


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.getuid() != 0, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
def test_what_a_uprobe_needs():
    """CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN attach a uprobe; the hint names what is missing."""
    skip_other_kernels("5.8")
    assert attach_with(",+bpf,+perfmon,+sys_admin", KPROBE, "uprobe/libc.so.6:getppid") == "attached\n"
    said = attach_with(",+bpf,+perfmon", KPROBE, "uprobe/libc.so.6:getppid")
    assert said.startswith("NotPermitted uprobe libc.so.6:getppid: not permitted [perf_event_open: EACCES]")
    assert "this process has no CAP_SYS_ADMIN" in said


ATTACHES = """
import sys
from rawbpf.abi import ProgType
from rawbpf.programs.asm import R0, exit_, mov
from rawbpf.programs.program import Program
try:
    with Program(ProgType(int(sys.argv[1])), [mov(R0, 0), exit_()]) as program:
        program.attach(sys.argv[2]).close()
except OSError as error:
    print(type(error).__name__, error)
else:
    print("attached")
"""


def attach_with(capabilities: str, prog_type: ProgType, target: str) -> str:
    """What becomes of attaching in a process with only these capabilities."""
    sets = f"--bounding-set=-all{capabilities}", f"--inh-caps=-all{capabilities}"
    command = ["setpriv", *sets, sys.executable, "-c", ATTACHES, str(int(prog_type)), target]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.linux("5.8")
def test_a_perf_event_that_is_not_permitted(q):
    """EACCES of perf_event_open(2) is NotPermitted, and names the capability that is missing."""
    with Program(TRACEPOINT, pushing(q)) as program, without_the_effective_capabilities():
        error = failure_of(lambda: program.attach("sched/sched_process_exec"))
    assert (type(error), error.errno) == (NotPermitted, errno.EACCES)
    assert "this process has no CAP_PERFMON" in error.hint


@contextmanager
def without_the_effective_capabilities() -> Iterator[None]:
    """Lets perf_event_open(2) answer as it does to those who lack CAP_PERFMON, and /proc as it says it then."""
    from rawbpf.abi import door
    from rawbpf.syscall import perf_event

    before = perf_event.is_privileged
    door.set_perf_event_hook(lambda *_: -errno.EACCES)
    perf_event.is_privileged = lambda capability: False
    try:
        yield
    finally:
        door.set_perf_event_hook(None)
        perf_event.is_privileged = before


# Perf events

SOFTWARE, CPU_CLOCK, PAGE_FAULTS = 1, 0, 2


def fault_pages() -> None:
    with mmap.mmap(-1, 1 << 22) as memory:
        for page in range(0, 1 << 22, mmap.PAGESIZE):
            memory[page] = 1


@pytest.mark.linux("5.8")
def test_a_counter(q):
    """The program runs as often as the event happens: at each 100th page fault of this process."""
    with Program(PERF_EVENT, pushing(q)) as program:
        with program.attach(PerfEvent(SOFTWARE, PAGE_FAULTS, sample_period=100, pid=0)):
            assert ran(q, fault_pages)
        assert not ran(q, fault_pages)


@pytest.mark.linux("5.8")
def test_a_clock_on_each_cpu(q):
    """With sample_freq it runs so many times a second, on the processor that is named."""
    with ExitStack() as stack:
        program = stack.enter_context(Program(PERF_EVENT, pushing(q)))
        for cpu in os.sched_getaffinity(0):
            stack.enter_context(program.attach(PerfEvent(SOFTWARE, CPU_CLOCK, sample_freq=1000, cpu=cpu)))
        assert any(ran(q, lambda: sum(range(100_000))) for _ in range(1000))


@pytest.mark.linux("5.8")
def test_a_perf_event_of_ones_own(q):
    """A descriptor of an open perf event is taken, and stays the caller's."""
    from rawbpf.syscall.perf_event import perf_event_open

    fd = perf_event_open("mine", SOFTWARE, PAGE_FAULTS, sample_period=100, pid=0, cpu=-1)
    with Program(PERF_EVENT, pushing(q)) as program, program.attach(fd):
        assert ran(q, fault_pages)
    os.close(fd)


# Texts


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("kprobe/do_nanosleep", Kprobe("do_nanosleep")),
        ("kprobe/do_nanosleep+0x10", Kprobe("do_nanosleep", 16)),
        ("kprobe/module:function+8", Kprobe("module:function", 8)),
        ("kprobe/0xffffffff81000000+1", Kprobe(0xFFFFFFFF81000000, 1)),
        ("kretprobe/do_nanosleep", Kprobe("do_nanosleep", 0, True)),
        ("ksyscall/openat", Ksyscall("openat")),
        ("kretsyscall/openat", Ksyscall("openat", True)),
        ("kprobe.multi/vfs_*", KprobeMulti("vfs_*")),
        ("kretprobe.multi/vfs_*", KprobeMulti("vfs_*", True)),
        ("kprobe.session/vfs_*", KprobeMulti("vfs_*")),
        ("uprobe//bin/bash:readline", Uprobe("/bin/bash", "readline")),
        ("uprobe.s//bin/bash:readline+0x4", Uprobe("/bin/bash", "readline", 4)),
        ("uprobe/bash:0x1234", Uprobe("bash", "", 0x1234)),
        ("uretprobe/libc.so.6:malloc", Uprobe("libc.so.6", "malloc", 0, True)),
        ("uprobe.multi//bin/bash:read*", UprobeMulti("/bin/bash", "read*")),
        ("uretprobe.multi.s//bin/bash:read*", UprobeMulti("/bin/bash", "read*", True)),
    ],
)
def test_texts(text, probe):
    """A probe's text means the same as its parts, with which it can be given as well."""
    assert parse(text) == probe
    assert type(parse(text)) is type(probe)


def test_an_exception_between_two_calls(q, monkeypatch):
    """Whatever raises while a perf event is open leaves neither the event nor the link open."""

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(attach_module, "perf_event_enable", fail)
    with Program(KPROBE, pushing(q)) as program:
        for version in ((6, 18), (5, 14)):
            if kernel_version() < version == (6, 18):
                continue
            monkeypatch.setattr(attach_module, "kernel_version", lambda version=version: version)
            before = descriptors()
            with pytest.raises(KeyboardInterrupt):
                program.attach("uprobe/libc.so.6:getppid")
            assert descriptors() == before
            assert not ran(q, libc.getppid)


class Interrupted(Exception):
    pass


@needs_3_11
@pytest.mark.linux("5.8")
# A handler may also raise in a __del__, where nobody can catch it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["uprobe", "tracepoint"])
def test_a_handler_that_raises_anywhere(name):
    """Whenever a signal handler raises while a program is attached or detached, no descriptor stays open."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    place, numbers, interrupted = PLACES[name], random.Random(1), []
    before_handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with load_for(place, [mov(R0, 0), exit_()]) as program, warnings.catch_warnings():
            # What the handler left without an owner is closed with a warning.
            warnings.simplefilter("ignore")
            program.attach(place.target).close()
            before = descriptors()
            for _ in rounds(lambda: len(interrupted) > 5):
                try:
                    signal.setitimer(signal.ITIMER_REAL, numbers.uniform(0.00001, 0.03))
                    program.attach(place.target).close()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted as exception:
                    interrupted.append(exception.__class__)
            gc.collect()
            assert descriptors() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_handler)
