"""Which pins of maps there are, in all bpffs that this process sees."""

import os
from collections.abc import Iterator
from contextlib import suppress

from rawbpf import syscall
from rawbpf.abi import FileFlag
from rawbpf.maps import bpffs
from rawbpf.syscall.proc import proc_fields


def paths_by_map_id() -> dict[int, list[str]]:
    """The paths that each map is pinned at, by the map's id; without those that this process may not read."""
    found: dict[int, list[str]] = {}
    for path in files():
        with suppress(OSError):
            fd = syscall.obj_get(path, FileFlag.BPF_F_RDONLY)
            try:
                number = proc_fields(f"/proc/self/fdinfo/{fd}").get("map_id")
            finally:
                os.close(fd)
            # Pins of programs and links have other fields there.
            if number is not None:
                found.setdefault(int(number), []).append(path)
    return found


def files() -> Iterator[str]:
    """The paths of all pins, also those of programs and links."""
    for mount in bpffs.mounts():
        for folder, _, names in os.walk(mount):
            # A pin has no dot in its name; maps.debug and progs.debug are the kernel's.
            yield from (os.path.join(folder, name) for name in sorted(names) if "." not in name)
