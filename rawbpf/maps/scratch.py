"""The scratch: memory that a bulk call shares with its BPF program in the kernel, and what stands at its beginning.

It is the value of a one-entry array map, mapped into this process. As 32-bit words:

    0   TAKEN    elements popped into the scratch and not handed over yet
    1   PUSHED   elements pushed out of it
    2   LIMIT    how many to move
    3   WHY      what the helper answered when the loop ended early: -ENOENT, -E2BIG, -EBUSY
    4   FLAGS    of a push, 64 bits

and the elements from byte DATA on. Apart from bulk.py, so that a program which moves nothing in bulk does not load it.
"""

from typing import NamedTuple

SCRATCH_MAX = 1 << 20
DATA = 64
TAKEN, PUSHED, LIMIT, WHY, FLAGS = range(5)


class Status(NamedTuple):
    """How a map moves many elements: `in_kernel` None if that is not known yet, and why it is so."""

    in_kernel: bool | None
    why: str
