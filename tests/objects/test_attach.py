"""ObjectFile.attach(): every program whose section says where is attached there; of the others it is said why not."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rawbpf import NotPermitted, ProgType, syscall
from rawbpf.btf.reader import Kind
from rawbpf.objects.declarations import read
from rawbpf.objects.object_file import ObjectFile
from rawbpf.programs.program import FuncInfo, Program
from tests.conftest import descriptors, needs_glibc, skip_other_kernels

pytestmark = [pytest.mark.admin, pytest.mark.real_kernel(reason="programs run in the kernel alone")]

libc = ctypes.CDLL(None)


@pytest.fixture
def load(compiled: Callable[[str], Path]) -> Callable[..., ObjectFile]:
    """Loads some of the file's programs, which run for this process alone."""

    def load_these(*names: str) -> ObjectFile:
        return ObjectFile.load(compiled("attached"), programs=names, variables={"process": os.getpid()})

    return load_these


def numbers(file: ObjectFile, act: Callable[[], object] = libc.getppid) -> set[int]:
    """The numbers of the programs that run when this is done."""
    file.maps["ran"].pop_many(64)
    act()
    return set(file.maps["ran"].pop_many(64))


@needs_glibc
def test_they_run_until_close(load):
    """Programs of all kinds run from attach() on, and end with the file's close()."""
    with load("raw_tracepoint", "tracepoint", "user_function") as file:
        assert numbers(file) == set()
        attached = file.attach()
        assert set(attached) == {"raw_tracepoint", "tracepoint", "user_function"}
        assert numbers(file) == {1, 2, 3}
        assert attached["user_function"].target == "uprobe libc.so.6:getppid"
    assert all(link.closed for link in attached.values())


@needs_glibc
@pytest.mark.linux("5.14")  # programs of type SYSCALL
def test_what_became_of_each(load):
    """Programs that have to be told their target, or that are not attached at all, are named with the reason."""
    names = ["raw_tracepoint", "counter", "packet", "somewhere", "traffic", "command", "marker"]
    with load(*names) as file:
        attached = file.attach()
        assert list(attached) == ["raw_tracepoint"]
        expected = [
            "raw_tracepoint is attached to raw tracepoint 'sys_enter'",
            "counter is not attached: attach() has to be told the target: a perf event, as a PerfEvent or a descriptor",
            "packet is not attached: attach() has to be told the target: an interface, as a name or an index",
            "somewhere is not attached: attach() has to be told the target: a probe, as in a section's name"
            " ('kprobe/do_nanosleep', 'uprobe//bin/bash:readline')",
            "traffic is not attached: attach() has to be told the target: a cgroup's folder, as a path or a descriptor",
            "command is not attached: BPF_PROG_TYPE_SYSCALL is not attached by attach(): run() runs it",
            "marker is not attached: rawbpf does not attach to USDT probes; a uprobe at the probe's offset is the same",
        ]
        assert sorted(str(attached).splitlines()) == sorted(expected)
        # A program can still be attached by hand.
        with file.programs["somewhere"].attach("uprobe/libc.so.6:getppid"):
            assert numbers(file) >= {7}


@needs_glibc
def test_told_where(load):
    """Targets can be given to attach(): of programs that wait for one, and in place of what a section says."""
    with load("somewhere", "user_function", "raw_tracepoint") as file:
        attached = file.attach({"somewhere": "uprobe/libc.so.6:getppid", "user_function": "uprobe/libc.so.6:getuid"})
        assert attached["user_function"].target == "uprobe libc.so.6:getuid"
        assert not attached.not_attached
        assert numbers(file) == {1, 7}
        assert numbers(file, libc.getuid) == {1, 3}
        with pytest.raises(ValueError, match="there is no program 'nothing': the file has raw_tracepoint, "):
            file.attach({"nothing": "lo"})


def test_all_or_none(load):
    """If one can't be attached, attach() raises what Program.attach() does, and none of them is attached."""
    with load("raw_tracepoint", "user_function", "wrong") as file:
        before = descriptors()
        with pytest.raises(LookupError, match="has no function 'nothing_of_this_name'"):
            file.attach()
        assert descriptors() == before
        assert numbers(file) == set()


@needs_glibc
def test_many_functions(load):
    """A pattern in a section's name stands for all functions that match."""
    skip_other_kernels("6.6")
    with load("many") as file:
        assert file.attach()["many"].target == "uprobe.multi libc.so.6:getpp*"
        assert numbers(file) == {11}


def test_kprobes(load):
    """Functions of the kernel, system calls among them, one at a time or many."""
    if not os.path.exists("/sys/bus/event_source/devices/kprobe"):
        pytest.skip("by design: this kernel was built without kprobes")
    fprobes = " register_fprobe" in Path("/proc/kallsyms").read_text()
    names = ["function", "system_call", *(["many_of_the_kernel"] if fprobes else [])]
    with load(*names) as file:
        assert list(file.attach()) == names
        assert numbers(file) == {13}
        assert numbers(file, lambda: time.sleep(0.001)) == {12, *([14] if fprobes else [])}


@pytest.mark.jit
@pytest.mark.linux("5.10")
def test_a_function_is_replaced(compiled):
    """A program of type EXT takes the place of a function of another program, from attach() to close()."""
    path = compiled("replaced")
    declarations = read(path.read_bytes())
    linked = declarations.programs["replacement"].linked
    with ObjectFile.load(path) as file:
        asks, packet = file.programs["asks"], bytes(64)
        assert asks.run(packet).retval == 7
        btf_fd = syscall.btf_load(declarations.btf_data)
        try:
            replacement = Program(
                ProgType.BPF_PROG_TYPE_EXT,
                linked.code,
                name="replacement",
                btf_fd=btf_fd,
                func_info=[FuncInfo(*record) for record in linked.func_info],
                attach_prog_fd=asks.fileno(),
                attach_btf_id=declarations.btf.find(Kind.FUNC, "answer").id,
            )
        except NotPermitted:
            pytest.skip("this kernel refuses to load programs for trampolines to everyone: EPERM")
        finally:
            os.close(btf_fd)
        with replacement:
            with replacement.attach() as link:
                assert asks.run(packet).retval == 42
                assert link.target == "the function that it was loaded for"
            assert asks.run(packet).retval == 7
