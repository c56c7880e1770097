"""rawbpf.trace() prints perf_event_open(2) as strace does."""

import io
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

import rawbpf
from rawbpf import Unsupported
from rawbpf.abi import door
from rawbpf.syscall.perf_event import perf_event_open

OPENS = """
    import sys
    from contextlib import suppress
    import rawbpf
    from rawbpf.abi import door
    from rawbpf.abi.door import ffi
    from rawbpf.syscall.perf_event import perf_event_open

    made = ffi.new("int32_t *")
    with rawbpf.trace(file=open(sys.argv[1], "w")):
        for event_type in range(10):
            for config in (*range(13), 0x10102, 0x70203, 1 << 24, 2**64 - 1):
                with suppress(OSError):
                    perf_event_open("", event_type, config, pid=0, cpu=-1)
        # The dummy event, which never happens: a clock that is read too often keeps its processor busy for good.
        for more in ({"sample_period": 1000}, {"sample_freq": 99}, {"config1": 4096, "config2": 7}, {"pid": 2**30}):
            with suppress(OSError):
                perf_event_open("", 1, 9, **{"pid": 0, "cpu": -1} | more)
        attr = ffi.new("struct perf_event_attr *", {"type": 1, "size": 64})
        for flags in (0, 1, 6, 15):
            door.perf_event_open(attr, 0, -1, 77, flags, made)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.real_kernel(reason="strace sees system calls")
def test_every_line_is_straces(tmp_path):
    """For every type of event, its counters, the fields that rawbpf sets and each flag our line is strace's."""
    script, ours, theirs = tmp_path / "opens.py", tmp_path / "ours", tmp_path / "theirs"
    script.write_text(textwrap.dedent(OPENS))
    command = ["strace", "-e", "trace=perf_event_open", "-o", theirs, sys.executable, script, ours]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [line for line in theirs.read_text().splitlines() if line.startswith("perf_event_open")]
    assert ours.read_text().splitlines() == lines
    assert len(lines) == 10 * 17 + 4 + 4


@pytest.mark.real_kernel(reason="a simulated one has no perf events")
@pytest.mark.admin
def test_an_error_is_a_line_too():
    """A call that fails is shown with its errno, and is an exception all the same; after trace() nothing is shown."""
    file = io.StringIO()
    with rawbpf.trace(file=file), pytest.raises(OSError, match="no such process") as caught:
        perf_event_open("an event", 1, 0, pid=2**30)
    number = caught.value.errno
    assert re.fullmatch(
        r"perf_event_open\(\{type=PERF_TYPE_SOFTWARE, size=PERF_ATTR_SIZE_VER1, config=PERF_COUNT_SW_CPU_CLOCK, .*"
        r"\}, 1073741824, 0, -1, PERF_FLAG_FD_CLOEXEC\) = -1 ESRCH \(No such process\)\n",
        file.getvalue(),
    )
    assert number == 3
    with pytest.raises(OSError, match="no such process"):
        perf_event_open("an event", 1, 0, pid=2**30)
    assert file.getvalue().count("\n") == 1
    assert door.set_perf_event_hook(None) is None


def test_a_simulated_kernel_has_none():
    """It answers ENOSYS, which is Unsupported."""
    with rawbpf.simulate(), pytest.raises(Unsupported, match="an event.*perf_event_open: ENOSYS"):
        perf_event_open("an event", 1, 0, pid=0)
