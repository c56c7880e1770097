"""What is different from machine to machine, by Debian's name of the architecture."""

import platform
from typing import NamedTuple


class Machine(NamedTuple):
    """A machine that QEMU emulates. Its C compiler and libraries go by `{name}-linux-gnu`."""

    arch: str  # Debian's name
    name: str  # uname(2)'s
    qemu: tuple[str, ...]
    command_line: str  # the kernel's: its console, and what it must know of the emulation
    flavour: str  # how the names of Debian's kernel packages end
    bpf: str  # the target of clang for BPF programs with the machine's byte order
    jit: bool  # whether the flavour compiles BPF programs; without, there are no callbacks and no trampolines
    seconds: float  # until a guest is killed: some times what the suite takes on a machine with nothing else to do
    lacking: tuple[str, ...] = ()  # distributions of the tests that have no wheel for it


# Two processors that take turns: with a host thread for each, QEMU 7.2 now and then runs code that the other one is
# patching (at boot, for static keys), and the kernel oopses.
ONE_THREAD = ("-accel", "tcg,thread=single", "-smp", "2", "-m", "2G")

MACHINES = {
    machine.arch: machine
    for machine in (
        Machine(
            arch="amd64",
            name="x86_64",
            qemu=("qemu-system-x86_64", *ONE_THREAD, "-cpu", "max"),
            # On a busy host the kernel takes slow clocks for broken ones: it is not to check its timer and its TSC.
            command_line="console=ttyS0 no_timer_check tsc=reliable",
            flavour="cloud-amd64",
            bpf="bpfel",
            jit=True,
            seconds=3600,
        ),
        Machine(
            arch="arm64",
            name="aarch64",
            qemu=("qemu-system-aarch64", *ONE_THREAD, "-M", "virt,gic-version=3", "-cpu", "cortex-a72"),
            command_line="console=ttyAMA0",
            flavour="cloud-arm64",
            bpf="bpfel",
            jit=True,
            seconds=5400,
        ),
        Machine(
            arch="s390x",
            name="s390x",
            qemu=("qemu-system-s390x", *ONE_THREAD, "-M", "s390-ccw-virtio", "-cpu", "max"),
            command_line="console=ttysclp0",
            flavour="s390x",
            bpf="bpfeb",
            jit=False,
            seconds=5400,
            lacking=("numpy",),
        ),
    )
}

# This machine's; another kind than these would have to be added to the table.
HERE = next((machine for machine in MACHINES.values() if machine.name == platform.machine()), MACHINES["amd64"])
