"""Boots a kernel in QEMU, without KVM, and waits for the end of what its init does."""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# Two processors that take turns: with a host thread for each, QEMU 7.2 now and then runs code that the other one is
# patching (at boot, for static keys), and the kernel oopses. No disk, no network, no screen. The guest's init ends with
# a reboot, and a panic is one too (panic=-1): -no-reboot turns both into QEMU's end.
QEMU = ("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2G")
QUIET = ("-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot")
# On a busy host the kernel takes slow clocks for broken ones: it is not to check its timer and its TSC.
COMMAND_LINE = "console=ttyS0 rdinit=/init panic=-1 loglevel=5 no_timer_check tsc=reliable"


class Boot(NamedTuple):
    """What a guest left: its console (ttyS0) as text, what it wrote to its second serial port (ttyS1), how long it
    ran in seconds, how many of them it had printed nothing at the end, and whether it ended by itself."""

    console: str
    report: bytes
    seconds: float
    silent: float
    ended: bool


def boot(kernel: Path, initramfs: Path, console: Path, seconds: float, **environment: str) -> Boot:
    """Boots, and kills the guest after `seconds`. Its console can be watched in the file `console`. The kernel hands
    `environment` on to init."""
    words = [COMMAND_LINE, *(f'{name}="{value}"' for name, value in environment.items())]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        ports = ("-serial", f"file:{console}", "-serial", f"file:{report}")
        files = ("-kernel", str(kernel), "-initrd", str(initramfs), "-append", " ".join(words))
        start = time.monotonic()
        try:
            # A guest that is waited for in vain is killed by run().
            subprocess.run([*QEMU, *QUIET, *ports, *files], check=True, stdin=subprocess.DEVNULL, timeout=seconds)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        silent = time.time() - console.stat().st_mtime
        return Boot(console.read_text(errors="replace"), report.read_bytes(), time.monotonic() - start, silent, ended)
