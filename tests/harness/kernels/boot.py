"""Boots a kernel in QEMU, without KVM, and waits for the end of what its init does."""

import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from tests.harness.kernels.machines import Machine

# No disk, no network, no screen. The guest's init ends with a reboot, and a panic is one too (panic=-1): -no-reboot
# turns both into QEMU's end.
QUIET = ("-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot")
COMMAND_LINE = "rdinit=/init panic=-1 loglevel=5"


class Boot(NamedTuple):
    """What a guest left: its console as text, how long it ran in seconds, how many of them it had printed nothing at
    the end, and whether it ended by itself."""

    console: str
    seconds: float
    silent: float
    ended: bool


def boot(machine: Machine, kernel: Path, initramfs: Path, console: Path, seconds: float, **environment: str) -> Boot:
    """Boots, and kills the guest after `seconds`. Its console can be watched in the file `console`. The kernel hands
    `environment` on to init."""
    words = [machine.command_line, COMMAND_LINE, *(f'{name}="{value}"' for name, value in environment.items())]
    files = ("-kernel", str(kernel), "-initrd", str(initramfs), "-append", " ".join(words))
    command = [*machine.qemu, *QUIET, "-serial", f"file:{console}", *files]
    start = time.monotonic()
    try:
        # A guest that is waited for in vain is killed by run().
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=seconds)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    silent = time.time() - console.stat().st_mtime
    return Boot(console.read_text(errors="replace"), time.monotonic() - start, silent, ended)
