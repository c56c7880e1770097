"""The attr of a call to the simulated kernel."""

import errno
import sys
from collections.abc import Callable

from rawbpf.abi import Cmd, layout
from rawbpf.abi.kinds import number_in
from rawbpf.observe import user_memory
from rawbpf.observe.attr_fields import struct_of
from rawbpf.observe.simulated_map import refuse_if
from rawbpf.observe.simulated_state import KernelState


class Attr:
    """A call's attr: its fields by name. `address` is where the caller's own is: some commands write into it."""

    def __init__(self, kernel: KernelState, cmd: Cmd, address: int, data: bytes) -> None:
        struct = struct_of(cmd)
        assert struct is not None
        self.cmd = cmd
        self.address = address
        self.data = data
        self._fields = {field.name: field for field in struct.fields if layout.version(field.since) <= kernel.version}

    def __getitem__(self, name: str) -> int:
        """A field's value; 0 if a kernel of this version does not know the field."""
        field = self._fields.get(name)
        return 0 if field is None else number_in(self.data, field)

    def check(self, last: str | None = None) -> None:
        """CHECK_ATTR(): bytes behind the command's last field are EINVAL."""
        end = self._fields[last].end if last else max(field.end for field in self._fields.values())
        refuse_if(any(self.data[end:]), errno.EINVAL)

    def bytes_of(self, name: str) -> bytes:
        field = self._fields[name]
        return self.data[field.offset : field.end]

    def write(self, name: str, value: int) -> None:
        """put_user(): into the caller's attr, also where that is shorter."""
        field = self._fields[name]
        user_memory.write(self.address + field.offset, value.to_bytes(field.size, sys.byteorder))


Command = Callable[[KernelState, Attr], int]
