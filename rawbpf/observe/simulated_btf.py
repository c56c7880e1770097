"""Type information (BTF) of the simulated kernel: loaded, found by id, read, and given to a map.

The kernel checks every type before it takes type information. Here what rawbpf.btf.reader can't read is refused, which
is less strict.
"""

import errno
import os
import struct

from rawbpf.abi import BPF_ATTR_MAX_SIZE, MapFlag
from rawbpf.btf.reader import Btf, BtfError, Kind
from rawbpf.observe import user_memory
from rawbpf.observe.simulated_attr import Attr
from rawbpf.observe.simulated_map import Refused, refuse_if
from rawbpf.observe.simulated_state import RDONLY, KernelState

# BTF_MAX_SIZE and BPF_LOG_MASK of the kernel.
_MAX_SIZE = 16 << 20
_LOG_LEVELS = 0xF

# struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf; before 5.11 it ended with `id`.
_INFO = struct.Struct("=QIIQII")
_OLD_INFO_SIZE = 16


def btf_load(kernel: KernelState, attr: Attr) -> int:
    """bpf_btf_load() and btf_parse()."""
    attr.check()
    refuse_if(attr["btf_flags"] & ~int(MapFlag.BPF_F_TOKEN_FD), errno.EINVAL)
    if attr["btf_flags"]:
        raise Refused(_no_token(attr["btf_token_fd"]))
    refuse_if(kernel.unprivileged, errno.EPERM)
    size, log, log_size, level = (attr[f"btf_{name}"] for name in ("size", "log_buf", "log_size", "log_level"))
    refuse_if(size > _MAX_SIZE, errno.E2BIG)
    if level or log or log_size:
        # bpf_verifier_log_attr_valid(). Before 6.4 a level wanted a buffer.
        refuse_if(bool(log) != bool(log_size) or (log and not level) or level & ~_LOG_LEVELS, errno.EINVAL)
        refuse_if(kernel.version < (6, 4) and not log, errno.EINVAL)
    data = user_memory.read(attr["btf"], size)
    refuse_if(not _is_well_formed(data), errno.EINVAL)
    return kernel.make_btf(data)


def _no_token(fd: int) -> int:
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return errno.EBADF
    return errno.EINVAL


def _is_well_formed(data: bytes) -> bool:
    try:
        btf = Btf(data)
        for type_id in range(1, len(btf)):
            found = btf.type(type_id)
            if found.kind in (Kind.STRUCT, Kind.UNION):
                for member in btf.members(found):
                    btf.size_of(member.type_id)
    except BtfError:
        return False
    return True


def btf_get_fd_by_id(kernel: KernelState, attr: Attr) -> int:
    attr.check()
    refuse_if(attr["open_flags"], errno.EINVAL)
    refuse_if(kernel.unprivileged, errno.EPERM)
    refuse_if(attr["btf_id"] not in kernel.btf_ids(), errno.ENOENT)
    return kernel.open_file(kernel.btf_path(attr["btf_id"]), RDONLY)


def btf_info(kernel: KernelState, attr: Attr) -> int:
    """btf_get_info_by_fd()."""
    size = _INFO.size if kernel.version >= (5, 11) else _OLD_INFO_SIZE
    length, address = attr["info_len"], attr["info"]
    refuse_if(length > BPF_ATTR_MAX_SIZE, errno.E2BIG)
    refuse_if(length > size and any(user_memory.read(address + size, length - size)), errno.E2BIG)
    length = min(length, size)
    asked = user_memory.read(address, length).ljust(_INFO.size, b"\0")
    destination, room, _, name, name_size, _ = _INFO.unpack(asked)
    with open(f"/proc/self/fd/{attr['bpf_fd']}", "rb") as file:
        data = file.read()
        number = int(os.path.basename(os.readlink(f"/proc/self/fd/{file.fileno()}")))
    user_memory.write(destination, data[:room])
    refuse_if(bool(name) != bool(name_size), errno.EINVAL)
    if name:
        # Only the kernel's own has a name.
        user_memory.write(name, b"\0")
    info = _INFO.pack(destination, len(data), number, name, 0, 0)
    user_memory.write(address, info[:length])
    attr.write("info_len", length)
    return 0


def map_btf(kernel: KernelState, attr: Attr) -> tuple[int, int, int]:
    """map_check_btf(): the ids of a new map's type information, and in it of its key's and its value's type."""
    try:
        fd = kernel.checked_btf(attr["btf_fd"])
    except Refused as error:
        raise Refused(error.errno, "Invalid btf_fd.") from None
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        btf = Btf(file.read())
        number = int(os.path.basename(os.readlink(f"/proc/self/fd/{file.fileno()}")))
    key, value = attr["btf_key_type_id"], attr["btf_value_type_id"]
    # A queue and a stack have no check of their own for maps whose key has no type.
    refuse_if(not key or _size(btf, key) != 0 or _size(btf, value) != attr["value_size"], errno.EINVAL)
    return number, key, value


def _size(btf: Btf, type_id: int) -> int | None:
    """btf_type_id_size(): None for a type without a size."""
    try:
        return btf.size_of(type_id)
    except BtfError:
        return None
