"""What all tests share: which need the kernel's leave, a bpffs of their own, and that they leave nothing behind.

Markers say what a test needs; a test that needs nothing runs anywhere.

- `creates`: may create maps (CAP_BPF; CAP_SYS_ADMIN before Linux 5.8)
- `admin`: CAP_SYS_ADMIN, for ids and mounts
- `linux("5.2")`: a feature that came with that version; never skipped on a newer kernel
- `linux(before="5.11")`: what was so until that version
- `jit`: a callback or a trampoline, which an interpreter of BPF has not
- `alike`: says the same on every kernel; tests.harness.kernels leaves it out, where each second counts
- `real_kernel(reason="...")`: the kernel itself. All others also run, as any user, with RAWBPF_SIMULATE=1

A test whose privilege is missing skips with the reason; with RAWBPF_REQUIRE_KERNEL=1 it fails. tests.harness.kernels
lets these reasons pass: "by design: needs Linux ...", "by design: needs a JIT" where there is none, "needs CAP_...",
and that some tool is not "installed".
"""

import functools
import importlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rawbpf import NotPermitted, Queue, Stack, syscall
from rawbpf.abi import Cmd, MapType, ProgType, door
from rawbpf.maps import bpffs
from rawbpf.programs.asm import R0, exit_, mov
from rawbpf.programs.program import Program
from rawbpf.syscall.proc import Capability, has_capability, in_initial_user_namespace, kernel_version, proc_fields

# Root as we know it may become another user and drop capabilities; in a user namespace, or with CAP_BPF alone, it
# can't. CAP_SETGID, CAP_SETUID and CAP_SETPCAP are bits 6 to 8.
EFFECTIVE = int(proc_fields("/proc/self/status").get("CapEff", "0"), 16)
IS_ROOT = os.getuid() == 0 and in_initial_user_namespace() is not False and EFFECTIVE >> 6 & 7 == 7

REQUIRED = os.environ.get("RAWBPF_REQUIRE_KERNEL") == "1"
# Where compiled objects are given (the guests of tests.harness.kernels), compilers and the like need not be.
GIVEN_OBJECTS = os.environ.get("RAWBPF_TEST_OBJECTS")
TOOLS_REQUIRED = REQUIRED and GIVEN_OBJECTS is None

# How many times slower than a real one a processor may be: an emulated one needs more time for the same.
SLOWNESS = float(os.environ.get("RAWBPF_SLOWNESS", "1"))

# How long each of the tests goes on that try the same again and again, and what scales the number of their examples.
SECONDS = float(os.environ.get("RAWBPF_STRESS_SECONDS", "2"))


needs_3_11 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="by design: CPython 3.10 may interrupt between return and caller"
)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
GLIBC = platform.libc_ver()[0] == "glibc"
NOT_GLIBC = "probes are set in libc.so.6, which this process has not"
needs_glibc = pytest.mark.skipif(not GLIBC, reason=NOT_GLIBC)


def examples(number: int) -> int:
    """The number of examples for hypothesis, `number` by default, fewer with a shorter RAWBPF_STRESS_SECONDS."""
    return max(round(number * min(SECONDS, 2) / 2), 5)


def rounds(enough: Callable[[], bool] = lambda: True, seconds: float = SECONDS) -> Iterator[int]:
    """Numbers the rounds of a test that tries the same again and again: for so long, and until it is enough, for a slow
    machine does less in that time. After five minutes nothing more is to be hoped for."""
    began = time.monotonic()
    for number in count(1):
        passed = time.monotonic() - began
        if (passed >= seconds and enough()) or passed > 300:
            return
        yield number


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "creates: needs to create maps: CAP_BPF")
    config.addinivalue_line("markers", "admin: needs CAP_SYS_ADMIN")
    config.addinivalue_line("markers", "jit: needs a kernel that compiles BPF programs: a callback, a trampoline")
    config.addinivalue_line("markers", "alike: says the same on every kernel")
    config.addinivalue_line("markers", "real_kernel(reason): needs the kernel itself, not the simulated one")
    config.addinivalue_line("markers", "linux(since, before): needs Linux from `since` on, and before `before`")


def may_create() -> bool:
    attr = syscall.bpf_attr(map_type=MapType.BPF_MAP_TYPE_QUEUE, value_size=4, max_entries=1)
    try:
        os.close(syscall.bpf(Cmd.BPF_MAP_CREATE, attr, 16))
    except NotPermitted:
        return False
    return True


MAY_CREATE = may_create()
IS_ADMIN = has_capability(Capability.CAP_SYS_ADMIN) is True and MAY_CREATE


@functools.cache
def has_jit() -> bool:
    """Whether this kernel compiles BPF programs, by what it says of one."""
    with Program(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, [mov(R0, 0), exit_()]) as program:
        return syscall.prog_get_info_by_fd(program.fileno()).jited_prog_len > 0


def skip_without_jit() -> None:
    if not has_jit():
        pytest.skip("by design: needs a JIT for BPF programs, which this kernel has not")


def skip_other_kernels(since: str = "0.0", before: str = "") -> None:
    if kernel_version() < version(since):
        pytest.skip(f"by design: needs Linux {since}")
    if before and kernel_version() >= version(before):
        pytest.skip(f"by design: needs Linux before {before}")


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if door.simulated is not None and (marker := item.get_closest_marker("real_kernel")):
        pytest.skip(f"by design: needs the real kernel: {marker.kwargs['reason']}")
    for marker in item.iter_markers("linux"):
        skip_other_kernels(*marker.args, **marker.kwargs)
    lacking = [
        reason
        for name, there, reason in (
            ("creates", MAY_CREATE, "may not create maps: needs CAP_BPF"),
            ("admin", IS_ADMIN, "needs CAP_SYS_ADMIN"),
        )
        if item.get_closest_marker(name) and not there
    ]
    if lacking and REQUIRED:
        pytest.fail(f"RAWBPF_REQUIRE_KERNEL=1, and this process {lacking[0]}")
    if lacking:
        pytest.skip(lacking[0])
    if item.get_closest_marker("jit"):
        skip_without_jit()


def descriptors() -> dict[str, str]:
    """This process's descriptors and what they are of."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """No test may leave a descriptor behind."""
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture(params=[Queue, Stack])
def kind(request: pytest.FixtureRequest) -> Any:
    """Queue and Stack in turn."""
    return request.param


@pytest.fixture
def bpf_folder() -> Iterator[str]:
    """A bpffs of the test's own."""
    with bpffs.mounted() as folder:
        yield folder


@pytest.fixture
def raw_errno() -> Callable[..., int]:
    """Calls the bare bpf(2) and returns the errno it answers, 0 for success; a descriptor it makes is closed."""

    def call(cmd: int, attr: Any = None, size: int | None = None) -> int:
        try:
            result = syscall.bpf(cmd, attr, size)
        except OSError as error:
            assert error.errno is not None
            return error.errno
        if cmd in (Cmd.BPF_MAP_CREATE, Cmd.BPF_OBJ_GET, Cmd.BPF_MAP_GET_FD_BY_ID, Cmd.BPF_ENABLE_STATS):
            os.close(result)
        return 0

    return call


@pytest.fixture
def sent() -> Iterator[list[tuple[Cmd, int]]]:
    """The (command, size) of every call that passes the door, which stays as it was otherwise."""
    calls: list[tuple[Cmd, int]] = []

    def hook(cmd: int, attr: Any, size: int) -> int:
        calls.append((Cmd(cmd), size))
        return door.ask_kernel(cmd, attr, size)

    previous = door.set_hook(hook)
    yield calls
    door.set_hook(previous)


@pytest.fixture
def no_calls(sent: list[tuple[Cmd, int]]) -> Iterator[None]:
    """The test must not get as far as the kernel."""
    yield
    assert sent == []


@pytest.fixture
def no_library_call(sent: list[tuple[Cmd, int]]) -> "Callable[[], AbstractContextManager[None]]":
    """A context in which nothing may pass the door."""

    @contextmanager
    def silence() -> Iterator[None]:
        before = len(sent)
        yield
        assert sent[before:] == []

    return silence


class Interrupted(Exception):
    """What the signal handler raises."""


@contextmanager
def interruptions(seconds: float) -> Iterator[Callable[[Callable[[], object]], bool]]:
    """Gives a function that runs another one, which is interrupted by a signal handler that raises, after `seconds`
    again and again; it returns whether it was."""
    armed = False

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    def run(call: Callable[[], object]) -> bool:
        nonlocal armed
        try:
            armed = True
            call()
            armed = False
        except Interrupted:
            return True
        return False

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield run
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture
def unraisable_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """For signal handlers that raise at any moment: Python swallows what is raised while the collector closes a
    generator, and the next signal may raise in pytest's report of it."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup with a limit of 32 MiB; either version of the hierarchy."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(root, f"rawbpf-test-{os.getpid()}")
        try:
            folder.mkdir()
            (folder / limit).write_text("32M")
        except OSError:
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no memory cgroup can be made here")


OBJECTS = Path(__file__).parent / "objects"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a C file of tests/objects, or another, once a run: compiled("pinned") is the path of pinned.bpf.o.

    RAWBPF_TEST_OBJECTS names a folder of compiled ones for where there is no compiler.
    """
    folder = Path(GIVEN_OBJECTS) if GIVEN_OBJECTS else tmp_path_factory.mktemp("objects")

    def compile_one(name: "str | Path") -> Path:
        source = name if isinstance(name, Path) else OBJECTS / f"{name}.bpf.c"
        target = folder / f"{source.stem}.o"
        if not target.exists():
            needs_clang()
            compile_for_bpf(source, target)
        return target

    return compile_one


def needs_extra(module: str, package: str) -> Any:
    """A module that README's test command does not install. Without it the test skips; with RAWBPF_REQUIRE_EXTRAS=1,
    which says that all of rawbpf[test-all] is there, it fails."""
    if os.environ.get("RAWBPF_REQUIRE_EXTRAS") == "1":
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{package} is not installed: it comes with rawbpf[test-all]")


def needs_clang() -> None:
    """Skips where there is no compiler, and none is asked for."""
    if shutil.which("clang") is None and not TOOLS_REQUIRED:
        pytest.skip("clang is not installed")


def compile_for_bpf(source: Path, target: Path, *flags: str) -> None:
    """The README's command, with more flags. Debian keeps asm/types.h in a folder of the machine's."""
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    command = [
        "clang",
        "-O2",
        "-g",
        "-Wall",
        "-Werror",
        "-target",
        "bpf",
        include,
        *flags,
        "-c",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
