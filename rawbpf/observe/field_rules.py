"""What must hold for each field of each command's attr, and what the kernel answers otherwise. explain() shows it.

Sources: kernel/bpf/syscall.c and the files of the map and link types; a rule that came or went names the version.
"""

import errno
import re

from rawbpf.abi import ENOTSUPP, Cmd

# What holds for the attr of every command.
ATTR = (
    "at an address that can be read (EFAULT), at most a page (E2BIG). Bytes behind the command's last field are 0"
    " (EINVAL), and so are those behind the union that this kernel knows (E2BIG)"
)

_KEY = "NULL for queues and stacks (EINVAL); else the address of key_size bytes (EFAULT)"
_VALUE_OUT = "where the kernel writes value_size bytes, whatever the buffer's length; of a per-CPU map more"
_NO_FLAGS = "0 for queues and stacks (EINVAL)"
_MAP = "open (EBADF), a map's (EINVAL)"
_PROG = "open (EBADF), a program's (EINVAL)"
_LINK = "open (EBADF), a link's (EINVAL)"
_UNUSED = "0: it has no flags yet (EINVAL)"
_OPEN_FLAGS = "0, BPF_F_RDONLY or BPF_F_WRONLY (EINVAL)"
_TOKEN = "counts with BPF_F_TOKEN_FD: open (EBADF), a token (EINVAL); one that does not delegate this is ignored"

_NEXT_ID = {
    "start_id": "below 2**31 - 1 (EINVAL); the smallest id above it is looked for",
    "next_id": "the kernel writes the id that it found; if there is none the call is ENOENT",
}

_RELATIVE = "counts with BPF_F_BEFORE and BPF_F_AFTER: the neighbour's descriptor, open (EBADF) and attached (ENOENT)"
_RELATIVE_ID = "counts with BPF_F_ID too: the neighbour's id; it is attached there (ENOENT)"
_REVISION = "0, or the number of changes that the list has seen (ESTALE)"
_PLACE = {
    "target_fd": "open, and what the attach type asks for: a cgroup's folder, a map of sockets (EBADF)",
    "target_ifindex": "for TCX and netkit in place of target_fd: an interface (ENODEV)",
}
_ATTACHED = {
    **_PLACE,
    "attach_type": "one that this command serves, and that fits the program (EINVAL)",
    "attach_flags": "of cgroups BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI, BPF_F_REPLACE; where the order can be chosen"
    " also BPF_F_BEFORE, BPF_F_AFTER, BPF_F_ID (EINVAL)",
    "relative_fd": _RELATIVE,
    "relative_id": _RELATIVE_ID,
    "expected_revision": _REVISION,
}

_BATCH_PLACES = {
    "in_batch": "NULL for the beginning; else the address of what out_batch was given before (EFAULT)",
    "out_batch": "where the kernel writes the place to go on from: key_size bytes, of hash tables 4 (EFAULT)",
}
_BATCH = {
    "keys": "the address of count keys (EFAULT)",
    "count": "how many; the kernel writes how many were done, also where it fails midway. Of 0 nothing is done",
    "map_fd": f"{_MAP}, of a type that has this command (ENOTSUPP), opened for reading or writing as its elements are"
    " (EPERM)",
    "elem_flags": "0, or BPF_F_LOCK if the values have a lock (EINVAL)",
    "flags": "0; hash tables insist on it (EINVAL)",
}
_BATCH_VALUES = "the address of count values (EFAULT)"

_LOG = "0, or 1 or 2 (more is said), plus 4 (figures at the end), plus 8 (the end is cut, not the beginning) (EINVAL)"
_LOG_SIZE = "0 without a buffer, and not 0 with one (EINVAL)"
_LOG_BUF = "where the log is written (EFAULT), NULL without log_level (EINVAL); if it is too small the call is ENOSPC"
_COOKIE = "any number: bpf_get_attach_cookie() returns it"
_COOKIES = "NULL, or the address of cnt cookies of 8 bytes (EFAULT)"

# What must hold for a field, and what the kernel answers otherwise.
RULES: dict[Cmd, dict[str, str]] = {
    Cmd.BPF_MAP_CREATE: {
        "map_type": "one that this kernel knows (EINVAL)",
        "key_size": "0 for queues and stacks (EINVAL)",
        "value_size": "not 0 (EINVAL); at most KMALLOC_MAX_SIZE, 4 MiB with pages of 4 KiB (E2BIG)",
        "max_entries": "not 0 (EINVAL). Of queues and stacks not 2**32 - 1, and times value_size below 2**32: the"
        " kernel does not check either, and the map would be broken",
        "map_flags": "queues and stacks take BPF_F_NUMA_NODE, BPF_F_RDONLY or BPF_F_WRONLY, BPF_F_RDONLY_PROG or"
        " BPF_F_WRONLY_PROG, BPF_F_TOKEN_FD (EINVAL)",
        "inner_map_fd": "of maps of maps: open (EBADF), a map's like those that they will hold (EINVAL)",
        "numa_node": "counts with BPF_F_NUMA_NODE: a node that is online, or -1 (EINVAL)",
        "map_name": "at most 15 of [A-Za-z0-9_.], and a NUL (EINVAL)",
        "map_ifindex": "0 for queues and stacks (EINVAL)",
        "btf_fd": "counts with btf_value_type_id: open (EBADF), of type information (EINVAL)",
        "btf_key_type_id": "of a queue or stack an empty struct, if btf_value_type_id is given (EINVAL)",
        "btf_value_type_id": "a type of value_size bytes (EINVAL)",
        "btf_vmlinux_value_type_id": "0 but for maps of type STRUCT_OPS (EINVAL)",
        "map_extra": "0 but for bloom filters and arenas (EINVAL)",
        "value_type_btf_obj_fd": "counts with BPF_F_VTYPE_BTF_OBJ_FD, of maps of type STRUCT_OPS: the BTF of a module",
        "map_token_fd": _TOKEN,
        "excl_prog_hash": "NULL, or the address of the SHA-256 of the only program that may use the map (EFAULT)",
        "excl_prog_hash_size": "32 with excl_prog_hash, else 0 (EINVAL)",
    },
    Cmd.BPF_MAP_UPDATE_ELEM: {
        "map_fd": f"{_MAP}, opened for writing and not frozen (EPERM)",
        "key": _KEY,
        "value": "the address of value_size bytes (EFAULT); of a per-CPU map of more",
        "flags": "of a push BPF_ANY or BPF_EXIST (EINVAL); of maps with keys also BPF_NOEXIST, BPF_F_LOCK",
    },
    Cmd.BPF_MAP_LOOKUP_ELEM: {
        "map_fd": f"{_MAP}, opened for reading (EPERM)",
        "key": _KEY,
        "value": f"{_VALUE_OUT} (EFAULT)",
        "flags": _NO_FLAGS,
    },
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: {
        "map_fd": f"{_MAP}, opened for both and not frozen (EPERM)",
        "key": _KEY,
        "value": f"{_VALUE_OUT} (EFAULT, and the element is lost)",
        "flags": _NO_FLAGS,
    },
    Cmd.BPF_MAP_DELETE_ELEM: {
        "map_fd": f"{_MAP}, opened for writing and not frozen (EPERM)",
        "key": "the address of key_size bytes (EFAULT); queues and stacks have none (EINVAL)",
    },
    Cmd.BPF_MAP_GET_NEXT_KEY: {
        "map_fd": f"{_MAP}, opened for reading (EPERM)",
        "key": "NULL for the first key; queues and stacks have none (EINVAL)",
        "next_key": "where the kernel writes key_size bytes (EFAULT)",
    },
    Cmd.BPF_MAP_FREEZE: {"map_fd": f"{_MAP}, opened for writing, and not frozen yet (EPERM)"},
    Cmd.BPF_MAP_LOOKUP_BATCH: {**_BATCH_PLACES, **_BATCH, "values": _BATCH_VALUES},
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH: {**_BATCH_PLACES, **_BATCH, "values": _BATCH_VALUES},
    Cmd.BPF_MAP_UPDATE_BATCH: {**_BATCH, "values": _BATCH_VALUES},
    Cmd.BPF_MAP_DELETE_BATCH: _BATCH,
    Cmd.BPF_PROG_LOAD: {
        "prog_type": "one that this kernel knows (EINVAL)",
        "insn_cnt": "from 1 to 1,000,000, without CAP_BPF to 4096 (E2BIG)",
        "insns": "the address of insn_cnt instructions of 8 bytes (EFAULT)",
        "license": "the address of a string (EFAULT); some helpers want one that the GPL is compatible with (EINVAL)",
        "log_level": _LOG,
        "log_size": _LOG_SIZE,
        "log_buf": _LOG_BUF,
        "kern_version": "is not looked at; before Linux 5.0 a kprobe's had to be the kernel's (EINVAL)",
        "prog_flags": "BPF_F_SLEEPABLE and others, as the type allows (EINVAL)",
        "prog_name": "at most 15 of [A-Za-z0-9_.], and a NUL (EINVAL)",
        "prog_ifindex": "0, or the interface whose device shall run the program (EINVAL)",
        "expected_attach_type": "one of the program type's, where that has several (EINVAL)",
        "prog_btf_fd": "counts with func_info and line_info: open (EBADF), of type information (EINVAL)",
        "func_info_rec_size": "8 to 252, a multiple of 4 (EINVAL)",
        "func_info": "the address of func_info_cnt records (EFAULT)",
        "func_info_cnt": "0, or one record for each function (EINVAL)",
        "line_info_rec_size": "16 to 252, a multiple of 4 (EINVAL)",
        "line_info": "the address of line_info_cnt records (EFAULT)",
        "line_info_cnt": "0, or a record for each function at least (EINVAL)",
        "attach_btf_id": "of types TRACING, LSM, STRUCT_OPS and EXT the id of what they are for; else 0 (EINVAL)",
        "attach_prog_fd": "with attach_btf_id, if that is in another program: open (EBADF), that program's (EINVAL)",
        "attach_btf_obj_fd": "in its place the type information of a kernel module",
        "core_relo_cnt": "how many relocations the kernel shall make",
        "fd_array": "the address of descriptors that instructions have the index of (EFAULT)",
        "core_relos": "the address of core_relo_cnt records (EFAULT)",
        "core_relo_rec_size": "16 to 252, a multiple of 4 (EINVAL)",
        "log_true_size": "the kernel writes how long the log would have been",
        "prog_token_fd": _TOKEN,
        "fd_array_cnt": "0, or how many of fd_array the program shall keep: maps or type information (EINVAL)",
        "signature": "NULL, or the address of a signature of the instructions (EFAULT)",
        "signature_size": "its length, at most what kmalloc() gives (EINVAL)",
        "keyring_id": "0 to 2 for the kernel's keyrings, else the serial number of one (EINVAL)",
    },
    Cmd.BPF_OBJ_PIN: {
        "pathname": "in a bpffs (EPERM), its last part new (EEXIST) and without a '.' (EPERM)",
        "bpf_fd": "open, and of a map, a program or a link (EINVAL)",
        "file_flags": "0, or BPF_F_PATH_FD (EINVAL)",
        "path_fd": "0, or with BPF_F_PATH_FD the folder that a relative path begins at (EINVAL)",
    },
    Cmd.BPF_OBJ_GET: {
        "pathname": "a pin (ENOENT, EACCES)",
        "bpf_fd": "0 (EINVAL)",
        "file_flags": "0, BPF_F_RDONLY or BPF_F_WRONLY, and BPF_F_PATH_FD (EINVAL); what the file's mode allows"
        " (EACCES)",
        "path_fd": "0, or with BPF_F_PATH_FD the folder that a relative path begins at (EINVAL)",
    },
    Cmd.BPF_PROG_ATTACH: {
        **_ATTACHED,
        "attach_bpf_fd": f"{_PROG}",
        "replace_bpf_fd": "counts with BPF_F_REPLACE: open (EBADF), a program that is attached there (ENOENT)",
    },
    Cmd.BPF_PROG_DETACH: {
        **_ATTACHED,
        "attach_bpf_fd": "the program that is attached (ENOENT); where only one can be it need not be given",
        "replace_bpf_fd": "is not looked at",
    },
    Cmd.BPF_PROG_TEST_RUN: {
        "prog_fd": f"{_PROG}, of a type that can be run (ENOTSUPP)",
        "retval": "the kernel writes what the program returned",
        "data_size_in": "of network programs at least 14 (EINVAL), of type SYSCALL 0",
        "data_size_out": "the room at data_out; the kernel writes the packet's length. Too little: ENOSPC",
        "data_in": "the address of data_size_in bytes (EFAULT), a packet",
        "data_out": "NULL, or where the kernel writes the packet afterwards (EFAULT)",
        "repeat": "0 or 1 for type SYSCALL",
        "duration": "the kernel writes how many nanoseconds a run took on average",
        "ctx_size_in": "0 without ctx_in, and not 0 with it (EINVAL)",
        "ctx_size_out": "0 without ctx_out, and not 0 with it (EINVAL)",
        "ctx_in": "NULL, or the address of the context, if the type takes one (EFAULT)",
        "ctx_out": "NULL, or where the kernel writes the context afterwards (EFAULT)",
        "flags": "BPF_F_TEST_RUN_ON_CPU for raw tracepoints, BPF_F_TEST_XDP_LIVE_FRAMES for XDP (EINVAL)",
        "cpu": "0, or with BPF_F_TEST_RUN_ON_CPU the processor that runs it (EINVAL)",
        "batch_size": "0, or with BPF_F_TEST_XDP_LIVE_FRAMES (EINVAL) at most 256 (E2BIG)",
    },
    Cmd.BPF_PROG_GET_NEXT_ID: _NEXT_ID,
    Cmd.BPF_MAP_GET_NEXT_ID: _NEXT_ID,
    Cmd.BPF_BTF_GET_NEXT_ID: _NEXT_ID,
    Cmd.BPF_LINK_GET_NEXT_ID: _NEXT_ID,
    Cmd.BPF_PROG_GET_FD_BY_ID: {"prog_id": "a program's (ENOENT)"},
    Cmd.BPF_MAP_GET_FD_BY_ID: {"map_id": "a map's (ENOENT)", "open_flags": _OPEN_FLAGS},
    Cmd.BPF_BTF_GET_FD_BY_ID: {
        "btf_id": "of type information (ENOENT)",
        "open_flags": "0, or BPF_F_TOKEN_FD (EINVAL)",
        "fd_by_id_token_fd": _TOKEN,
    },
    Cmd.BPF_LINK_GET_FD_BY_ID: {"link_id": "a link's (ENOENT)"},
    Cmd.BPF_OBJ_GET_INFO_BY_FD: {
        "bpf_fd": "open (EBADFD), of a map, a program, a link, type information, or a token (EINVAL)",
        "info_len": "at most a page (E2BIG); the kernel writes how much it filled",
        "info": "the address of a struct of zeros, but for the addresses and lengths in it that the kernel shall use",
    },
    Cmd.BPF_PROG_QUERY: {
        **_PLACE,
        "attach_type": "one that can be asked about (EINVAL)",
        "query_flags": "0, or for a cgroup BPF_F_QUERY_EFFECTIVE: also what its parents have (EINVAL)",
        "attach_flags": "the kernel writes those of the cgroup's programs",
        "prog_ids": "NULL, or where the kernel writes prog_cnt ids (EFAULT)",
        "prog_cnt": "the room at prog_ids; the kernel writes how many programs there are. Too little: ENOSPC",
        "count": "prog_cnt's other name",
        "prog_attach_flags": "NULL, or where each program's flags go; not with BPF_F_QUERY_EFFECTIVE (EINVAL)",
        "link_ids": "NULL, or where the ids of the programs' links go, of TCX and netkit (EFAULT)",
        "link_attach_flags": "NULL, or where the links' flags go, of TCX and netkit (EFAULT)",
        "revision": "the kernel writes how many changes the list has seen",
    },
    Cmd.BPF_RAW_TRACEPOINT_OPEN: {
        "name": "the address of a string (EFAULT), a tracepoint's name (ENOENT); NULL for types TRACING and LSM, which"
        " were loaded for a place (EINVAL)",
        "prog_fd": f"{_PROG}, of type RAW_TRACEPOINT, TRACING or LSM (EINVAL)",
        "cookie": _COOKIE,
    },
    Cmd.BPF_BTF_LOAD: {
        "btf": "the address of btf_size bytes (EFAULT), well formed (EINVAL)",
        "btf_log_buf": _LOG_BUF,
        "btf_size": "at most 16 MiB (E2BIG)",
        "btf_log_size": _LOG_SIZE,
        "btf_log_level": _LOG,
        "btf_log_true_size": "the kernel writes how long the log would have been",
        "btf_flags": "0, or BPF_F_TOKEN_FD (EINVAL)",
        "btf_token_fd": _TOKEN,
    },
    Cmd.BPF_TASK_FD_QUERY: {
        "pid": "a process's (ENOENT)",
        "fd": "open there (EBADF), of a perf event or a raw tracepoint with a program (ENOTSUPP)",
        "flags": _UNUSED,
        "buf_len": "the room at buf; the kernel writes how long the name is. Too little: ENOSPC",
        "buf": "where the kernel writes the name of the function or tracepoint (EFAULT)",
        "prog_id": "the kernel writes the program's id",
        "fd_type": "the kernel writes what it is attached to: a kprobe, a tracepoint ...",
        "probe_offset": "the kernel writes how far into the function or file the probe is",
        "probe_addr": "the kernel writes the address of the function",
    },
    Cmd.BPF_LINK_CREATE: {
        "prog_fd": f"{_PROG}",
        "map_fd": "for BPF_STRUCT_OPS in place of prog_fd: such a map's, made with BPF_F_LINK (EINVAL)",
        "target_fd": "open, and what the attach type asks for: a cgroup's folder, a network namespace, a perf event, a"
        " map of sockets (EBADF); 0 where it asks for nothing",
        "target_ifindex": "for XDP, TCX and netkit in place of target_fd: an interface (ENODEV)",
        "attach_type": "one that this kernel serves, and that fits the program (EINVAL)",
        "flags": "0; where the order can be chosen BPF_F_BEFORE, BPF_F_AFTER, BPF_F_ID; for XDP XDP_FLAGS_* (EINVAL)",
        "iter_info": "NULL, or the address of what the iterator shall go through (EFAULT)",
        "iter_info_len": "its length, 0 without it (EINVAL)",
        "perf_event.bpf_cookie": _COOKIE,
        "kprobe_multi.flags": "0, or BPF_F_KPROBE_MULTI_RETURN (EINVAL)",
        "kprobe_multi.cnt": "not 0 (EINVAL), at most 2**20 (E2BIG)",
        "kprobe_multi.syms": "the address of cnt addresses of names (EFAULT), each a function (ESRCH)",
        "kprobe_multi.addrs": "in their place the address of cnt addresses; not both (EINVAL)",
        "kprobe_multi.cookies": _COOKIES,
        "tracing.target_btf_id": "0, or a function of another program, target_fd's (EINVAL)",
        "tracing.cookie": _COOKIE,
        "netfilter.pf": "NFPROTO_IPV4 (2) or NFPROTO_IPV6 (10) (EAFNOSUPPORT)",
        "netfilter.hooknum": "0 to 4, from NF_INET_PRE_ROUTING to NF_INET_POST_ROUTING (EPROTO)",
        "netfilter.priority": "the order, neither the first nor the last possible (ERANGE)",
        "netfilter.flags": "0, or BPF_F_NETFILTER_IP_DEFRAG (EOPNOTSUPP)",
        "tcx.relative_fd": _RELATIVE,
        "tcx.relative_id": _RELATIVE_ID,
        "tcx.expected_revision": _REVISION,
        "uprobe_multi.path": "the address of a file's path (EFAULT), which is there (ENOENT) and is a file (EBADF)",
        "uprobe_multi.offsets": "the address of cnt places in the file (EFAULT), none negative (EINVAL)",
        "uprobe_multi.ref_ctr_offsets": "NULL, or the address of cnt places of counters (EFAULT)",
        "uprobe_multi.cookies": _COOKIES,
        "uprobe_multi.cnt": "not 0 (EINVAL), at most 2**20 (E2BIG)",
        "uprobe_multi.flags": "0, or BPF_F_UPROBE_MULTI_RETURN (EINVAL)",
        "uprobe_multi.pid": "0 for all, or a process's (ESRCH)",
        "uprobe_multi.path_fd": "with the flag for it: the folder that a relative path begins at, or the file itself",
        "netkit.relative_fd": _RELATIVE,
        "netkit.relative_id": _RELATIVE_ID,
        "netkit.expected_revision": _REVISION,
        "cgroup.relative_fd": _RELATIVE,
        "cgroup.relative_id": _RELATIVE_ID,
        "cgroup.expected_revision": _REVISION,
        "tracing_multi.ids": "the address of cnt BTF ids of functions (EFAULT)",
        "tracing_multi.cookies": _COOKIES,
        "tracing_multi.cnt": "not 0 (EINVAL)",
        "target_btf_id": "of type EXT the function that it replaces in target_fd's program (EINVAL)",
    },
    Cmd.BPF_LINK_UPDATE: {
        "link_fd": _LINK,
        "new_prog_fd": f"{_PROG}, of the old one's type (EINVAL)",
        "new_map_fd": "of a link of type STRUCT_OPS in its place: such a map's (EINVAL)",
        "flags": "0, or BPF_F_REPLACE (EINVAL)",
        "old_prog_fd": "0 without BPF_F_REPLACE (EINVAL); with it open (EBADF), and what is attached (EPERM)",
        "old_map_fd": "of a link of type STRUCT_OPS in its place",
    },
    Cmd.BPF_LINK_DETACH: {"link_fd": f"{_LINK}, of a type that can be detached (EOPNOTSUPP)"},
    Cmd.BPF_ENABLE_STATS: {"type": "BPF_STATS_RUN_TIME, which is 0 (EINVAL)"},
    Cmd.BPF_ITER_CREATE: {"link_fd": f"{_LINK}, an iterator's (EINVAL)", "flags": _UNUSED},
    Cmd.BPF_PROG_BIND_MAP: {"prog_fd": _PROG, "map_fd": _MAP, "flags": _UNUSED},
    Cmd.BPF_TOKEN_CREATE: {
        "flags": _UNUSED,
        "bpffs_fd": "open (EBADF), the root of a bpffs (EINVAL) of this user namespace (EPERM) that delegates something"
        " (ENOENT)",
    },
    Cmd.BPF_PROG_STREAM_READ_BY_FD: {
        "stream_buf": "where the kernel writes what the program printed (EFAULT)",
        "stream_buf_len": "the room there",
        "stream_id": "1 for stdout, 2 for stderr (ENOENT)",
        "prog_fd": _PROG,
    },
    Cmd.BPF_PROG_ASSOC_STRUCT_OPS: {
        "map_fd": f"{_MAP}, of type STRUCT_OPS (EINVAL)",
        "prog_fd": f"{_PROG}, not of type STRUCT_OPS (EINVAL), and of no other such map (EBUSY)",
        "flags": _UNUSED,
    },
}

_ERRNO = re.compile(r"\bE[A-Z0-9]{3,}\b")


def errnos_in(text: str) -> set[int]:
    """The errnos that a text names.

    >>> errnos_in("open (EBADF), of a type that has this command (ENOTSUPP)") == {errno.EBADF, 524}
    True
    """
    numbers = {name: ENOTSUPP if name == "ENOTSUPP" else getattr(errno, name, None) for name in _ERRNO.findall(text)}
    return {number for number in numbers.values() if number is not None}
