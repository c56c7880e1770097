"""What an errno means: that depends on the command, and on what the command was done to.

errors.py makes the exceptions from these tables, and `rawbpf explain` prints them.
"""

import errno
from typing import NamedTuple

from rawbpf.abi import ENOTSUPP, AttachType, Cmd, LinkType, MapType

# What a command was done to, where the meaning depends on it.
About = MapType | AttachType | LinkType | None


class Meaning(NamedTuple):
    """The name of the exception, and texts in which {subject}, {path} and the like stand for the call's details.

    `about` is what it holds for; empty for all for which no row says more. Without `what` the text is strerror(3)'s.
    """

    error: str
    what: str = ""
    hint: str = ""
    about: frozenset[About] = frozenset()


def _attach_types(*prefixes: str) -> frozenset[About]:
    return frozenset(each for each in AttachType if each.name.startswith(tuple(f"BPF_{prefix}" for prefix in prefixes)))


def _map_types(*names: str) -> frozenset[About]:
    return frozenset(MapType[f"BPF_MAP_TYPE_{name}"] for name in names)


_QUEUES = _map_types("QUEUE", "STACK")
_RINGS = _map_types("RINGBUF", "USER_RINGBUF")
_ARRAYS = _map_types("ARRAY", "PERCPU_ARRAY", "PROG_ARRAY", "PERF_EVENT_ARRAY", "CGROUP_ARRAY", "ARRAY_OF_MAPS")
_HASHES = _map_types("HASH", "PERCPU_HASH", "LRU_HASH", "LRU_PERCPU_HASH", "HASH_OF_MAPS", "SOCKHASH", "DEVMAP_HASH")
_TRIES = _map_types("LPM_TRIE")
_BLOOMS = _map_types("BLOOM_FILTER")
_KEYED: frozenset[About] = frozenset(MapType) - _QUEUES - _RINGS - _BLOOMS

_FUNCTIONS = _attach_types("TRACE_FENTRY", "TRACE_FEXIT", "TRACE_FSESSION", "MODIFY_RETURN", "LSM_MAC")
_XDP = _attach_types("XDP")
_TC = _attach_types("TCX_", "NETKIT_")
_CGROUPS = _attach_types("CGROUP_", "LSM_CGROUP")
_NETWORK_NAMESPACES = _attach_types("FLOW_DISSECTOR", "SK_LOOKUP")
_PERF = _attach_types("PERF_EVENT")
_KPROBES = _attach_types("TRACE_KPROBE_")
_UPROBES = _attach_types("TRACE_UPROBE_")

_EMPTY = Meaning("Empty", "{subject} is empty", about=_QUEUES)
_NO_KEY = Meaning("NoSuchKey", "{subject} has no such key", about=_KEYED)
_NO_INDEX = Meaning(
    "NoSuchIndex", "{subject} has no such index", "an array has the indices from 0 to max_entries - 1", _ARRAYS
)
_CANT = Meaning("Unsupported", "{subject}: this type of map can't do that")
_CANT_TRACE = Meaning("Unsupported", "{subject}: this kernel can't be traced there")
_TAKEN = Meaning("AlreadyExists", "{subject}: something is attached there already", "detach that first")
_CHANGED = Meaning("BpfError", "{subject}: what is attached there has changed meanwhile", "query it again")
_LOG_TOO_LARGE = Meaning("BpfError", "{subject}: the log is larger than the buffer for it", "give a larger one")
_NO_INTERFACE = Meaning("NotFound", "{subject}: there is no such interface")

BY_COMMAND: dict[tuple[Cmd, int], tuple[Meaning, ...]] = {
    (Cmd.BPF_MAP_CREATE, errno.ENOMEM): (
        Meaning(
            "BpfError",
            "no memory for {subject}: {entries} of {value_size} bytes",
            "the map is allocated at once and charged to the memory cgroup",
        ),
    ),
    (Cmd.BPF_MAP_CREATE, errno.E2BIG): (
        Meaning(
            "BpfError",
            "{subject} can't be created with {entries} of {value_size} bytes",
            # The second since a fix that 6.12.117 has, and 7.2.13 not yet: (max_entries + 1) * value_size must be a
            # u32.
            "the largest value is KMALLOC_MAX_SIZE (4 MiB where pages have 4 KiB), and some kernels refuse maps of"
            " 4 GiB",
            _QUEUES,
        ),
        Meaning("BpfError", "{subject} can't be created with {entries} of {value_size} bytes", "it would be too large"),
    ),
    (Cmd.BPF_MAP_CREATE, errno.EINVAL): (
        Meaning(
            "BpfError",
            "{subject}: the kernel does not take the map type, a flag or another argument",
            "queue and stack maps need Linux 4.20, BPF_F_*_PROG 5.2, tokens 6.9, and a NUMA node must be online",
            _QUEUES,
        ),
        Meaning(
            "BpfError",
            "{subject}: the kernel does not take an argument",
            "key_size and value_size must be 0, max_entries a power of two and a multiple of the page size",
            _RINGS,
        ),
        Meaning(
            "BpfError",
            "{subject}: the kernel does not take an argument",
            "key_size must be 4, value_size and max_entries not 0",
            _ARRAYS,
        ),
        Meaning(
            "BpfError",
            "{subject}: the kernel does not take an argument",
            "key_size, value_size and max_entries must not be 0",
            _HASHES,
        ),
        Meaning(
            "BpfError",
            "{subject}: the kernel does not take an argument",
            "key_size is 4 bytes and the prefix (5 to 260), and BPF_F_NO_PREALLOC must be set",
            _TRIES,
        ),
        Meaning("BpfError", "{subject}: the kernel does not take an argument", "key_size must be 0", _BLOOMS),
        Meaning("BpfError", "{subject}: the kernel does not take the map type, a flag or another argument"),
    ),
    (Cmd.BPF_MAP_CREATE, errno.EBADF): (
        Meaning("BpfError", "{subject}: a descriptor among the arguments is not open"),
    ),
    (Cmd.BPF_MAP_LOOKUP_ELEM, errno.ENOENT): (_EMPTY, _NO_INDEX, _NO_KEY),
    (Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, errno.ENOENT): (_EMPTY, _NO_KEY),
    (Cmd.BPF_MAP_DELETE_ELEM, errno.ENOENT): (_NO_INDEX, _NO_KEY),
    (Cmd.BPF_MAP_DELETE_ELEM, errno.EINVAL): (
        Meaning("Unsupported", "{subject}: elements of an array can't be deleted", "set them to 0", _ARRAYS),
        Meaning("BpfError"),
    ),
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.E2BIG): (
        Meaning(
            "Full",
            "{subject} is full ({entries})",
            "pop first, or push with BPF_EXIST to overwrite the oldest",
            _QUEUES,
        ),
        _NO_INDEX,
        Meaning("Full", "{subject} is full ({entries})", "delete an element first", _KEYED),
    ),
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.ENOSPC): (
        Meaning("Full", "{subject} is full ({entries})", "delete an element first", _KEYED),
    ),
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.ENOENT): (_NO_KEY,),
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.EEXIST): (
        Meaning("AlreadyExists", "{subject} has an element with this key", about=_KEYED),
    ),
    (Cmd.BPF_MAP_UPDATE_ELEM, errno.ENOMEM): (
        Meaning("BpfError", "no memory for an element of {subject}", "it is charged to the memory cgroup", _KEYED),
    ),
    (Cmd.BPF_MAP_GET_NEXT_KEY, errno.ENOENT): (Meaning("NotFound", "{subject} has no more keys"),),
    **{
        (cmd, ENOTSUPP): (_CANT,)
        for cmd in Cmd
        if cmd.name.startswith("BPF_MAP_") and cmd.name.endswith(("_ELEM", "_BATCH"))
    },
    (Cmd.BPF_MAP_LOOKUP_BATCH, errno.ENOSPC): (
        Meaning(
            "BpfError", "{subject}: a bucket of the hash table has more elements than `count`", "ask for more at once"
        ),
    ),
    (Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, errno.ENOSPC): (
        Meaning(
            "BpfError", "{subject}: a bucket of the hash table has more elements than `count`", "ask for more at once"
        ),
    ),
    (Cmd.BPF_MAP_UPDATE_BATCH, errno.E2BIG): (
        _NO_INDEX,
        Meaning("Full", "{subject} is full ({entries})", "delete elements first"),
    ),
    (Cmd.BPF_MAP_DELETE_BATCH, errno.ENOENT): (_NO_KEY,),
    # The first before 6.5; later a second freeze is EPERM.
    (Cmd.BPF_MAP_FREEZE, errno.EBUSY): (
        Meaning("NotPermitted", "{subject} is frozen already, or a process has it mapped for writing"),
    ),
    (Cmd.BPF_MAP_FREEZE, ENOTSUPP): (Meaning("Unsupported", "{subject}: this type of map can't be frozen"),),
    (Cmd.BPF_MAP_GET_FD_BY_ID, errno.ENOENT): (Meaning("NotFound", "no map has {subject}"),),
    **{
        (cmd, errno.ENOENT): (Meaning("NotFound", "{subject}: there is none above start_id"),)
        for cmd in Cmd
        if cmd.name.endswith("_GET_NEXT_ID")
    },
    (Cmd.BPF_OBJ_PIN, errno.EEXIST): (
        Meaning("AlreadyExists", "{path!r} exists", "unlink it first, or choose another"),
    ),
    (Cmd.BPF_OBJ_PIN, errno.ENOENT): (
        Meaning("NotFound", "no pin can be made at {path!r}", "the directory does not exist"),
    ),
    (Cmd.BPF_OBJ_PIN, errno.EPERM): (Meaning("NotPermitted", "{path!r} can't hold a pin"),),
    (Cmd.BPF_OBJ_PIN, errno.EACCES): (Meaning("NotPermitted", "{path!r}: no permission to write the directory"),),
    (Cmd.BPF_OBJ_GET, errno.ENOENT): (Meaning("NotFound", "nothing is pinned at {path!r}"),),
    (Cmd.BPF_OBJ_GET, errno.EACCES): (
        Meaning(
            "NotPermitted",
            "{path!r} can't be opened",
            "it is no pin of a BPF object, or its file mode does not allow this access",
        ),
    ),
    (Cmd.BPF_OBJ_GET_INFO_BY_FD, errno.EINVAL): (Meaning("BpfError", "{subject} is open, and no BPF object"),),
    (Cmd.BPF_OBJ_GET_INFO_BY_FD, errno.EBADFD): (Meaning("BpfError", "{subject} is not open"),),
    (Cmd.BPF_PROG_LOAD, errno.EACCES): (Meaning("BpfError", "{subject}: the verifier refused it"),),
    (Cmd.BPF_PROG_LOAD, errno.EAGAIN): (
        Meaning(
            "BpfError",
            "{subject}: signals kept interrupting the verifier",
            "one arrived during each of ten attempts: block signals while the program is loaded",
        ),
    ),
    # A kernel without a JIT says so of a program that calls its functions; the verifier's log may have why.
    (Cmd.BPF_PROG_LOAD, ENOTSUPP): (Meaning("BpfError", "{subject}: this kernel can't run it"),),
    (Cmd.BPF_PROG_LOAD, errno.ENOSPC): (_LOG_TOO_LARGE,),
    (Cmd.BPF_PROG_GET_FD_BY_ID, errno.ENOENT): (Meaning("NotFound", "no program has {subject}"),),
    (Cmd.BPF_PROG_TEST_RUN, ENOTSUPP): (
        Meaning("Unsupported", "{subject}: programs of this type can't be run by bpf(2)", "attach it instead"),
    ),
    (Cmd.BPF_PROG_TEST_RUN, errno.ENOSPC): (
        Meaning("BpfError", "{subject}: there is less room than the packet or the context needs"),
    ),
    (Cmd.BPF_PROG_ATTACH, errno.EEXIST): (_TAKEN,),
    (Cmd.BPF_PROG_ATTACH, errno.ENOENT): (
        Meaning("NotFound", "{subject}: the program to replace, or the neighbour, is not attached there"),
    ),
    (Cmd.BPF_PROG_ATTACH, errno.ESTALE): (_CHANGED,),
    (Cmd.BPF_PROG_ATTACH, errno.EPERM): (
        Meaning("NotPermitted", "{subject}: not permitted", about=_CGROUPS),
        Meaning("NotPermitted", "{subject}: not permitted"),
    ),
    (Cmd.BPF_PROG_ATTACH, errno.E2BIG): (Meaning("BpfError", "{subject}: no more programs fit there"),),
    (Cmd.BPF_PROG_ATTACH, errno.ENODEV): (_NO_INTERFACE,),
    (Cmd.BPF_PROG_DETACH, errno.ENOENT): (Meaning("NotFound", "{subject}: this program is not attached there"),),
    (Cmd.BPF_PROG_DETACH, errno.ENODEV): (_NO_INTERFACE,),
    (Cmd.BPF_PROG_DETACH, errno.ESTALE): (_CHANGED,),
    (Cmd.BPF_PROG_QUERY, errno.ENOSPC): (Meaning("BpfError", "{subject}: more programs than there is room for"),),
    (Cmd.BPF_PROG_QUERY, errno.ENODEV): (_NO_INTERFACE,),
    (Cmd.BPF_PROG_STREAM_READ_BY_FD, errno.ENOENT): (
        Meaning("NotFound", "{subject} has no such stream", "1 is its stdout, 2 its stderr"),
    ),
    (Cmd.BPF_BTF_LOAD, errno.EINVAL): (Meaning("BpfError", "{subject}: this kernel does not take it"),),
    (Cmd.BPF_BTF_LOAD, errno.ENOSPC): (_LOG_TOO_LARGE,),
    (Cmd.BPF_BTF_GET_FD_BY_ID, errno.ENOENT): (Meaning("NotFound", "no BTF has {subject}"),),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.ENOENT): (
        Meaning(
            "NotFound",
            "{subject}: there is none to attach to",
            "raw tracepoints are tracefs's events named without their category, of system calls sys_enter and sys_exit;"
            " before Linux 5.13 a tracing program is attached once in its life",
        ),
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.EBUSY): (
        Meaning(
            "BpfError",
            "{subject}: the kernel can't attach to this function",
            "it was compiled without a place for that (it is not in tracefs's available_filter_functions), or is being"
            " patched",
            _FUNCTIONS,
        ),
        Meaning(
            "AlreadyExists", "{subject}: the program is attached there already", "load it again to attach it twice"
        ),
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, errno.EINVAL): (
        Meaning(
            "BpfError",
            "{subject} does not take this program",
            "it may read more arguments than there are, or is of another type; a cookie needs Linux 6.10",
        ),
    ),
    (Cmd.BPF_RAW_TRACEPOINT_OPEN, ENOTSUPP): (_CANT_TRACE,),
    (Cmd.BPF_LINK_CREATE, errno.EEXIST): (
        Meaning(
            "AlreadyExists",
            "{subject}: something is attached there already",
            "detach that first; an interface takes one XDP program, by its driver or by the stack",
            _XDP,
        ),
        Meaning("AlreadyExists", "{subject}: this perf event has a program already", "open another", _PERF),
        _TAKEN,
    ),
    (Cmd.BPF_LINK_CREATE, errno.EBUSY): (
        Meaning(
            "BpfError",
            "{subject}: the kernel can't attach to this function",
            "it was compiled without a place for that (it is not in tracefs's available_filter_functions), or is being"
            " patched",
            _FUNCTIONS,
        ),
        _TAKEN,
    ),
    (Cmd.BPF_LINK_CREATE, errno.E2BIG): (
        Meaning(
            "BpfError",
            "{subject}: no more programs fit there",
            "a namespace takes one flow dissector, and 64 of others",
            _NETWORK_NAMESPACES,
        ),
        Meaning("BpfError", "{subject}: no more programs fit there", "64 a place are the most", _CGROUPS | _TC),
        Meaning("BpfError", "{subject}: too many places, or too many programs there"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.ENODEV): (_NO_INTERFACE,),
    (Cmd.BPF_LINK_CREATE, errno.ENOENT): (
        Meaning("NotFound", "{subject}: there is no such function to attach to", about=_KPROBES | _UPROBES),
        Meaning("NotFound", "{subject}: there is no such place to attach to"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.ESRCH): (
        Meaning("NotFound", "{subject}: there is no such symbol, or no such process", about=_KPROBES | _UPROBES),
        Meaning("BpfError"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.EBADF): (
        Meaning(
            "BpfError",
            "{subject}: the target is none for this attach type",
            "for cgroups, a folder of the cgroup2 hierarchy",
            _CGROUPS,
        ),
        Meaning(
            "BpfError",
            "{subject}: the target is none for this attach type",
            "a descriptor of perf_event_open(2)",
            _PERF,
        ),
        Meaning("BpfError", "{subject}: a descriptor is not open, or the target is none for this attach type"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.EOPNOTSUPP): (
        Meaning(
            "Unsupported",
            "{subject}: the interface does not support it",
            "without XDP_FLAGS_DRV_MODE any interface does",
            _XDP,
        ),
        Meaning("Unsupported", "{subject}: this kernel was built without it", "CONFIG_FPROBE", _KPROBES),
        Meaning("Unsupported", "{subject}: this kernel was built without it", "CONFIG_UPROBES", _UPROBES),
        Meaning("Unsupported", "{subject}: this kernel was built without it, or the target does not support it"),
    ),
    (Cmd.BPF_LINK_CREATE, ENOTSUPP): (_CANT_TRACE,),
    (Cmd.BPF_LINK_CREATE, errno.ESTALE): (_CHANGED,),
    (Cmd.BPF_LINK_CREATE, errno.EAFNOSUPPORT): (Meaning("BpfError", "{subject}: netfilter.pf is not IPv4 or IPv6"),),
    (Cmd.BPF_LINK_CREATE, errno.EPROTO): (Meaning("BpfError", "{subject}: there is no such netfilter.hooknum"),),
    (Cmd.BPF_LINK_CREATE, errno.ERANGE): (
        Meaning("BpfError", "{subject}: netfilter.priority must be neither the first nor the last"),
    ),
    (Cmd.BPF_LINK_CREATE, errno.EINVAL): (
        Meaning(
            "BpfError",
            "{subject}: this kernel does not attach the program there",
            "it is too old or built without it, the program is for something else, a flag is wrong, or the target is"
            " gone",
        ),
    ),
    (Cmd.BPF_LINK_UPDATE, errno.EINVAL): (
        Meaning(
            "BpfError",
            "{subject} does not take this program",
            "the new program must be of the old one's type, and links of raw tracepoints and tracing keep theirs",
        ),
    ),
    (Cmd.BPF_LINK_UPDATE, errno.ENOLINK): (Meaning("BpfError", "{subject}: what it was attached to is gone"),),
    (Cmd.BPF_LINK_DETACH, errno.EOPNOTSUPP): (
        Meaning("Unsupported", "{subject} can't be detached", "it ends with its last descriptor and pin: close it"),
    ),
    (Cmd.BPF_LINK_DETACH, errno.EINVAL): (
        Meaning(
            "Unsupported", "{subject} can't be detached", "BPF_LINK_DETACH needs Linux 5.9: close() it, unlink the pin"
        ),
    ),
    (Cmd.BPF_LINK_GET_FD_BY_ID, errno.ENOENT): (Meaning("NotFound", "no link has {subject}"),),
    (Cmd.BPF_ITER_CREATE, errno.EINVAL): (Meaning("BpfError", "{subject} is not one of an iterator"),),
    (Cmd.BPF_TASK_FD_QUERY, errno.ENOENT): (Meaning("NotFound", "{subject}: there is no such process"),),
    (Cmd.BPF_TASK_FD_QUERY, ENOTSUPP): (
        Meaning("Unsupported", "{subject}: no program is attached by this descriptor"),
    ),
    (Cmd.BPF_TASK_FD_QUERY, errno.ENOSPC): (Meaning("BpfError", "{subject}: the buffer is too small for the name"),),
    (Cmd.BPF_TOKEN_CREATE, errno.ENOENT): (
        Meaning(
            "NotFound",
            "{subject} delegates nothing",
            "mount it with delegate_cmds=map_create,delegate_maps=queue:stack",
        ),
    ),
    (Cmd.BPF_TOKEN_CREATE, errno.EOPNOTSUPP): (
        Meaning("Unsupported", "there is no token in the initial user namespace", "here CAP_BPF is enough"),
    ),
    (Cmd.BPF_TOKEN_CREATE, errno.EINVAL): (
        Meaning("BpfError", "{subject} is not the root of a bpffs", "tokens need Linux 6.9, and a bpffs's root folder"),
    ),
}

# What it means for all the others.
BY_ERRNO: dict[int, Meaning] = {
    errno.EPERM: Meaning(
        "NotPermitted",
        "{subject}: not permitted",
        "a capability is missing, or the descriptor or the object does not allow it",
    ),
    errno.EACCES: Meaning("NotPermitted", "{subject}: no access"),
    errno.EBUSY: Meaning("Busy", "{subject} stayed locked", "nothing was done: call again"),
    errno.EBADF: Meaning("BpfError", "{subject}: the descriptor is not open", "somebody else closed it"),
    errno.EMFILE: Meaning("BpfError", "{subject}: this process has no free descriptor", "raise its limit: ulimit -n"),
    errno.ENFILE: Meaning("BpfError", "{subject}: the system has no free descriptor", "sysctl fs.file-max"),
    errno.EFAULT: Meaning("BpfError", "{subject}: an address in the attr, or the attr's own, can't be read or written"),
    errno.EINVAL: Meaning(
        "BpfError",
        "{subject}: the kernel does not take a field of the attr",
        "`rawbpf explain {command}` says what each must be",
    ),
    errno.E2BIG: Meaning(
        "BpfError",
        "{subject}: something is too large or too many, or a field that this kernel does not know is not 0",
        "`rawbpf explain {command}` says what it can be",
    ),
    errno.ENOMEM: Meaning("BpfError", "{subject}: the kernel has no memory for it"),
    errno.ENOSYS: Meaning("Unsupported", "{subject}: bpf(2) is not there"),
    ENOTSUPP: Meaning("Unsupported"),
}


def meaning_of(cmd: Cmd, error: int, about: About = None, known_subject: bool = True) -> Meaning:
    """The meaning of an errno of a command that was done to `about`.

    Where rows tell types apart and the type is not known, the one for all types, else the first, which is that of
    queues and stacks. A bare call, whose subject is not known, has no meaning but the errno's own.
    """
    rows = BY_COMMAND.get((cmd, error), ()) if known_subject else ()
    for row in rows:
        if about in row.about or (about is not None and not row.about):
            return row
    general = next((row for row in rows if not row.about), None)
    if general is None and about is None and rows:
        general = rows[0]
    return general or BY_ERRNO.get(error) or Meaning("BpfError")
