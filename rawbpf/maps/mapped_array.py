"""An array map of one value that this process has mapped into its memory: what BPF programs and Python share."""

import mmap

from rawbpf import syscall
from rawbpf.abi import MapFlag, MapType
from rawbpf.syscall.descriptor import Descriptor


class MappedArray(Descriptor):
    """Makes the map; `view` is its value. Linux 5.5 (BPF_F_MMAPABLE).

    The view and the programs that use the map keep it alive, so that its descriptor may be closed.
    """

    def __init__(self, size: int, name: str, subject: str) -> None:
        """A value of `size` bytes; `name` is the map's, `subject` names it in errors."""
        attr = syscall.bpf_attr(
            map_type=MapType.BPF_MAP_TYPE_ARRAY,
            key_size=4,
            value_size=size,
            max_entries=1,
            map_flags=int(MapFlag.BPF_F_MMAPABLE),
            map_name=name.encode(),
        )
        # Until it is mapped there is nothing to see, which close() understands.
        self.view = memoryview(b"")
        self._fd = syscall.create(attr, subject)
        try:
            self.view = memoryview(mmap.mmap(self._fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE))[:size]
        except BaseException:
            self.close()
            raise
