"""Which maps there are on the system: by id, by name."""

import errno
import os
from collections.abc import Iterator

from rawbpf import syscall
from rawbpf.abi import BPF_OBJ_NAME_LEN, Cmd, MapType
from rawbpf.syscall import QUEUE_AND_STACK, MapInfo
from rawbpf.syscall.errors import NotFound, bpf_error


def list_maps(*types: MapType) -> Iterator[MapInfo]:
    """Every queue and stack on the system, or every map of these types, by ascending id. Linux 4.13.

    Raises NotPermitted (EPERM) without CAP_SYS_ADMIN.

    >>> with Queue(4, 8, name="listed") as q:
    ...     [info.max_entries for info in list_maps() if info.id == q.id]
    [8]
    """
    for map_id in syscall.map_ids():
        try:
            fd = syscall.map_get_fd_by_id(map_id)
        except NotFound:
            # Freed since its id was listed.
            continue
        try:
            info = syscall.obj_get_info_by_fd(fd)
        finally:
            os.close(fd)
        if info.type in (types or QUEUE_AND_STACK):
            yield info


def id_of_name(name: str, types: tuple[MapType, ...] = (), wanted: str = "") -> int:
    """The id of the only map of this name; `types` are those that `wanted`, a class's name, stands for.

    Raises NotFound, ValueError if there are several, TypeError if the only one is of another type.
    """
    if not 0 < len(name) < BPF_OBJ_NAME_LEN:
        raise ValueError(f"{name!r} can't be a map's name: those have 1 to 15 characters")
    found = [info for info in list_maps(*MapType) if info.name == name]
    fitting = [info for info in found if info.type in (types or QUEUE_AND_STACK)]
    if len(fitting) > 1:
        ids = ", ".join(str(info.id) for info in fitting)
        raise ValueError(f"{len(fitting)} maps are named {name!r} (ids {ids}): use from_id()")
    if fitting:
        return fitting[0].id
    if found and wanted:
        raise TypeError(f"{syscall.describe(found[0])} is no {wanted}")
    raise bpf_error(Cmd.BPF_MAP_GET_NEXT_ID, errno.ENOENT, subject=f"queue or stack map is named {name!r}")
