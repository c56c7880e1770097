"""Maps for other processes: sent over a Unix socket, or handed to a multiprocessing child.

Least privilege: a helper with CAP_BPF makes the map and passes its descriptor; the worker needs no capability to push,
peek and pop on it (Linux 5.19, or kernel.unprivileged_bpf_disabled=0).
"""

import os
import socket
import struct
from typing import Any

from rawbpf.maps.opening import close_held, map_from_held
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.values.codecs import OpenSpec

# Sent along with the descriptor: a stream socket carries a descriptor only together with at least one byte.
_MARK = b"m"

_INT = struct.Struct("i")
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


def send_map(sock: socket.socket, m: "QueueOrStack[Any]") -> None:
    """Sends a map over a Unix socket (SCM_RIGHTS). The receiver gets a descriptor of its own; this one stays open.

    What the descriptor may do goes with it: one opened with access="r" is read-only there too.

    >>> import socket
    >>> here, there = socket.socketpair()
    >>> with here, there, Queue("<I", 4) as q:
    ...     send_map(here, q)
    ...     with recv_map(there, "<I") as same:
    ...         same.push(7)
    ...     q.pop()
    7
    """
    if sock.family != socket.AF_UNIX:
        raise ValueError("descriptors travel over Unix sockets only")
    socket.send_fds(sock, [_MARK], [m.fileno()])


def recv_map(sock: socket.socket, value: "OpenSpec" = None) -> Any:
    """Receives what send_map() sent, as the Queue or Stack that the kernel says it is.

    `value` is as in Queue.open(): the sender's codec does not travel.

    Raises EOFError if the other end is closed, ValueError if not exactly one descriptor came or `value` does not have
    the map's size, TypeError if it is no queue and no stack.

    >>> import socket
    >>> here, there = socket.socketpair()
    >>> here.close()
    >>> with there:
    ...     recv_map(there)
    Traceback (most recent call last):
        ...
    EOFError: the other end of the socket is closed
    """
    # Not socket.recv_fds(): it forgets its flags (up to Python 3.13 at least), and so close-on-exec.
    data, messages, flags, _ = sock.recvmsg(len(_MARK), socket.CMSG_LEN(_INT.size), socket.MSG_CMSG_CLOEXEC)
    fds = [_INT.unpack(content)[0] for level, kind, content in messages if (level, kind) == _RIGHTS]
    if not data and not fds:
        raise EOFError("the other end of the socket is closed")
    if len(fds) != 1 or flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        if flags & socket.MSG_CTRUNC:
            raise ValueError("more descriptors came over the socket than one, or than this process may open")
        raise ValueError("what came over the socket was sent without a descriptor: use send_map()")
    try:
        return map_from_held(fds, value)
    finally:
        close_held(fds)
