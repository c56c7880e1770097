"""Values from stdin, or from the command's arguments, into a map."""

import os
from collections.abc import Callable

from rawbpf.abi import BPF_ANY
from rawbpf.cli.progress import Progress
from rawbpf.maps.queue_stack import QueueOrStack
from rawbpf.maps.waiting import Waiting
from rawbpf.observe.wording import counted

# Read from the input at once, in bytes.
_CHUNK = 1 << 18


class Feed:
    """Pushes values. `pushed`: how many so far; `full`: whether it ended because the map is full.

    `flags`: BPF_ANY, or BPF_EXIST to overwrite the oldest element of a full map. `wait`: whether to wait for room.
    """

    def __init__(self, m: QueueOrStack[bytes], flags: int = BPF_ANY, wait: bool = False) -> None:
        self._map = m
        self._flags = flags
        self._wait = wait
        self.pushed = 0
        self.full = False

    def read(self, source: int, encode: "Callable[[str], bytes] | None") -> None:
        """Reads a descriptor to its end. `encode` makes a value of each line; None: the values' bytes themselves come.

        Raises ValueError for a line that is no value, when all lines before it are pushed, and for bytes at the end
        that are less than a value.
        """
        status = os.fstat(source)
        progress, done, rest = Progress(status.st_size), 0, b""
        while not self.full:
            data = os.read(source, _CHUNK)
            done += len(data)
            rest = self._take(rest + data, encode, last=not data)
            progress.show(self.pushed, done)
            if not data:
                break
        progress.show(self.pushed, done, last=True)

    def _take(self, data: bytes, encode: "Callable[[str], bytes] | None", last: bool) -> bytes:
        """Pushes the whole values in `data`; returns the beginning of the next one."""
        if encode is None:
            whole = len(data) - len(data) % self._map.value_size
            self.push(data[:whole])
            if last and data[whole:]:
                left = counted(len(data) - whole, "byte is", "bytes are")
                raise ValueError(f"{left} left over: a value has {self._map.value_size}")
            return data[whole:]
        lines, newline, rest = data.rpartition(b"\n")
        if last:
            lines, newline, rest = data, b"\n" if data else b"", b""
        values = []
        try:
            for line in lines.split(b"\n") if newline else ():
                values.append(encode(os.fsdecode(line)))
        finally:
            self.push(b"".join(values))
        return rest

    def push(self, data: bytes) -> None:
        """Pushes whole values."""
        waiting = Waiting()
        while data:
            pushed = self._map.push_many(data, self._flags)
            self.pushed += pushed
            if pushed:
                waiting.arrived()
            data = data[pushed * self._map.value_size :]
            if data and not self._wait:
                self.full = True
                return
            if data:
                waiting.wait()
