"""ring_scan() and ring_fence() of door.c in Python."""

import errno
import os
from typing import TYPE_CHECKING

from rawbpf.abi.python_ffi import ffi

if TYPE_CHECKING:
    from rawbpf.abi._native import CData

# Elsewhere a processor may see two reads in another order than they are made, which nothing in Python prevents.
_READS_IN_ORDER = os.uname().machine in ("x86_64", "i386", "i486", "i586", "i686", "s390x")
_RINGBUF_HDR_SIZE, _RINGBUF_BUSY, _RINGBUF_DISCARD = 8, 1 << 31, 1 << 30


def ring_scan(
    producer: "CData", data: "CData", size: int, position: int, records: "CData", most: int, end: "CData"
) -> int:
    if not _READS_IN_ORDER:
        raise OSError(errno.ENOSYS, "ring buffers need the compiled extension on this machine: see `rawbpf doctor`")
    words = ffi.cast("uint32_t *", data)
    limit = ffi.cast("uint64_t *", producer)[0]
    count = 0
    if position % 8 or not 0 <= limit - position <= size:
        return -errno.EINVAL
    while position != limit and count < most:
        offset = position & size - 1
        header = words[offset // 4]
        length = header & ~(_RINGBUF_BUSY | _RINGBUF_DISCARD)
        total = -(-(length + _RINGBUF_HDR_SIZE) // 8) * 8
        if header & _RINGBUF_BUSY:
            break
        if total > limit - position:
            return -errno.EINVAL
        position += total
        if not header & _RINGBUF_DISCARD:
            record = records[count]
            record.after, record.offset, record.length = position, offset + _RINGBUF_HDR_SIZE, length
            count += 1
    end[0] = position
    return count


def ring_fence() -> None:
    """Where reads are seen in order, a write is not seen before them."""
