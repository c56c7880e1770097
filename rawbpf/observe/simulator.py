"""rawbpf.simulate(): a simulated kernel for queue and stack maps.

It stands at the door (abi/door.py) and answers bpf(2) as Linux does: it reads the real attr, byte for byte, makes the
kernel's checks in the kernel's order, and answers with the kernel's errnos, quirks included. Nothing above the door
knows. Programs, tokens and all other map types are left out: commands for them fail with EOPNOTSUPP.

    simulator.py             starts and stops it
    simulated_kernel.py      from a call to its command, and /proc
    simulated_commands.py    the commands; simulated_pins.py has those for pins
    simulated_btf.py         those for type information
    simulated_attr.py        a call's attr
    simulated_state.py       the directory and the descriptors
    simulated_map.py         one map in its file
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rawbpf.abi import door, layout
from rawbpf.observe.simulated_kernel import SimulatedKernel

# The kernel that is simulated unless told otherwise.
NEWEST = "7.2"


@contextmanager
def simulate(
    kernel: str = NEWEST, *, unprivileged: bool = False, directory: str | None = None
) -> Iterator[SimulatedKernel]:
    """Answers every bpf(2) call of this process with a simulated kernel while the context lasts. Needs no privilege.

    >>> with simulate():
    ...     with Queue(4, 3) as q:
    ...         q.push(b"abcd")

    Args:
        kernel: Its version, "4.20" to "7.2": "5.10" answers as Linux 5.10 where that differs.
        unprivileged: It answers as to a process without CAP_BPF and CAP_SYS_ADMIN, where
            kernel.unprivileged_bpf_disabled is 2: no creation, and before 5.19 nothing at all.
        directory: Where its maps are. Two processes that name the same directory share its maps, and pins outlast
            the context. None makes a new directory, which is removed at the end.

    Yields the kernel; pins go into its folder `bpffs`. Maps that are still open at the end can't be used afterwards.
    """
    version = _simulated_version(kernel)
    own = tempfile.mkdtemp(prefix="rawbpf-simulated-") if directory is None else None
    creator = os.getpid()
    simulated = SimulatedKernel(own or directory or "", version, unprivileged)
    _answering.append(simulated)
    door.set_simulated(simulated)
    try:
        yield simulated
    finally:
        # Contexts in several threads need not end in the order in which they began.
        _answering.remove(simulated)
        door.set_simulated(_answering[-1] if _answering else None)
        if own and os.getpid() == creator:
            simulated.remove()


def start(value: str) -> None:
    """Simulates to the end of the process. `value`, from RAWBPF_SIMULATE, is the directory, or 1 for the user's own."""
    directory = (
        value if os.path.isabs(value) else os.path.join(tempfile.gettempdir(), f"rawbpf-simulated-{os.getuid()}")
    )
    _answering.append(SimulatedKernel(directory, _simulated_version(NEWEST), unprivileged=False))
    door.set_simulated(_answering[-1])


# The kernels of start() and of all contexts that have not ended; the newest stands at the door.
_answering: list[SimulatedKernel] = []


def _simulated_version(kernel: str) -> tuple[int, ...]:
    version = layout.version(kernel)
    if not (4, 20) <= version <= layout.version(NEWEST):
        raise ValueError(f"kernels from 4.20 to {NEWEST} are simulated, not {kernel}")
    return version
