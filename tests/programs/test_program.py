"""Program: load, run, refusal with the verifier's log, life and death of the descriptor."""

import errno
import gc
import os
import sys

import pytest

from rawbpf import BpfError, NotPermitted
from rawbpf.abi import Cmd, ProgType, door
from rawbpf.programs.asm import R0, R1, R2, R10, Helper, add, call, exit_, load, mov, store
from rawbpf.programs.program import ETH_HLEN, Program, VerifierError

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="programs")]

FILTER = ProgType.BPF_PROG_TYPE_SOCKET_FILTER
SEVEN = [mov(R0, 7), exit_()]


def test_load_and_run():
    """A program returns what it computes, as often as asked."""
    with Program(FILTER, SEVEN, name="seven") as program:
        assert program.run(bytes(ETH_HLEN)).retval == 7
        result = program.run(bytes(ETH_HLEN), repeat=100)
        assert (result.retval, len(result.data)) == (7, ETH_HLEN)
        assert program.prog_type == FILTER


def test_a_packet_is_at_least_an_ethernet_header():
    """13 bytes of data are EINVAL, 14 run."""
    with Program(FILTER, SEVEN) as program:
        with pytest.raises(BpfError) as caught:
            program.run(bytes(ETH_HLEN - 1))
        assert caught.value.errno == errno.EINVAL
        assert program.run(bytes(ETH_HLEN)).retval == 7


@pytest.mark.admin
def test_a_packet_comes_back_changed():
    """A SCHED_CLS program may write to its packet; the result has it."""
    program = [load("u32", R2, R1, 76), load("u32", R1, R1, 80), mov(R0, R2), add(R0, 1)]
    program += [*[store("u8", R10, -1, 0)], mov(R0, 3), exit_()]
    with Program(ProgType.BPF_PROG_TYPE_SCHED_CLS, program) as loaded:
        result = loaded.run(b"\x00" * 20)
    assert (result.retval, result.data) == (3, b"\x00" * 20)


@pytest.mark.linux("5.14")
def test_a_syscall_programs_context_comes_back():
    """A syscall program reads and writes its context."""
    double = [load("u32", R2, R1, 0), add(R2, R2), store("u32", R1, 4, R2), mov(R0, 0), exit_()]
    with Program(ProgType.BPF_PROG_TYPE_SYSCALL, double, flags=1 << 4) as program:
        result = program.run(ctx=(21).to_bytes(4, sys.byteorder) + bytes(4))
    assert (result.retval, int.from_bytes(result.ctx[4:8], sys.byteorder)) == (0, 42)


def test_the_verifiers_log_is_in_the_exception():
    """A refused program is a VerifierError whose text ends with the verifier's reason."""
    with pytest.raises(VerifierError, match="R0 !read_ok") as caught:
        Program(FILTER, [exit_()], name="no_result")
    assert caught.value.errno in (errno.EACCES, errno.EINVAL)
    assert "'no_result'" in str(caught.value)
    assert caught.value.log in str(caught.value)


def test_a_long_log_is_fetched_whole(sent):
    """A log that does not fit (ENOSPC) is asked for again with more room."""
    code = [mov(R0, 0)] * 4000 + [call(Helper.BPF_FUNC_map_pop_elem), exit_()]
    with pytest.raises(VerifierError) as caught:
        Program(FILTER, code)
    assert len(caught.value.log) > 1 << 16
    assert [cmd for cmd, _ in sent].count(Cmd.BPF_PROG_LOAD) >= 3


def test_eagain_is_retried():
    """A signal that disturbs the verifier makes PROG_LOAD answer EAGAIN: nobody sees it."""
    calls = []

    def hook(cmd, attr, size):
        calls.append(cmd)
        return -errno.EAGAIN if len(calls) < 4 else door.ask_kernel(cmd, attr, size)

    previous = door.set_hook(hook)
    try:
        program = Program(FILTER, SEVEN)
    finally:
        door.set_hook(previous)
    assert calls == [Cmd.BPF_PROG_LOAD] * 4
    program.close()


def test_a_signal_at_each_attempt():
    """If a signal disturbs the verifier ten times the error says so, and does not call the program refused."""
    calls = []

    def hook(cmd, attr, size):
        calls.append(cmd)
        return -errno.EAGAIN

    previous = door.set_hook(hook)
    try:
        with pytest.raises(
            BpfError, match="signals kept interrupting the verifier.*during each of ten attempts"
        ) as caught:
            Program(FILTER, SEVEN)
    finally:
        door.set_hook(previous)
    assert calls == [Cmd.BPF_PROG_LOAD] * 10
    assert (type(caught.value), caught.value.errno) == (BpfError, errno.EAGAIN)


@pytest.mark.admin
def test_pin(bpf_folder):
    """A pinned program outlives its descriptor."""
    with Program(FILTER, SEVEN) as program:
        program.pin(f"{bpf_folder}/program")
    assert os.path.exists(f"{bpf_folder}/program")


def test_life_and_death():
    """repr, closed, ValueError after close(), ResourceWarning when collected open."""
    program = Program(FILTER, SEVEN, name="mortal")
    assert repr(program) == f"<Program 'mortal' BPF_PROG_TYPE_SOCKET_FILTER fd={program.fileno()}>"
    program.close()
    program.close()
    assert program.closed
    for call_ in (program.fileno, program.run, lambda: program.pin("/x")):
        with pytest.raises(ValueError, match="'mortal' BPF_PROG_TYPE_SOCKET_FILTER closed"):
            call_()
    forgotten = [Program(FILTER, SEVEN, name="forgotten")]
    with pytest.warns(ResourceWarning, match="unclosed <Program 'forgotten'"):  # noqa: PT031
        forgotten.clear()
        gc.collect()


def test_names_are_checked(no_calls):
    """A name that the kernel would refuse is refused before."""
    with pytest.raises(ValueError, match="the kernel takes 15"):
        Program(FILTER, SEVEN, name="sixteen_letters_")


def test_eperm_is_explained():
    """Without the privilege loading is NotPermitted, with a hint."""
    previous = door.set_hook(lambda cmd, attr, size: -errno.EPERM)
    try:
        with pytest.raises(NotPermitted) as caught:
            Program(FILTER, SEVEN)
    finally:
        door.set_hook(previous)
    assert caught.value.hint
