"""What a command means, in words: the rules of its fields, what it does, and its errors. explain() shows it below the
layout.

The description is that of the command's function in rawbpf.syscall, the errors are those that its exceptions are made
from (syscall/meanings.py).
"""

import errno
import inspect
import textwrap
from collections.abc import Iterator

from rawbpf import syscall
from rawbpf.abi import ENOTSUPP, Cmd, MapType
from rawbpf.syscall import meanings
from rawbpf.syscall.errors import errno_name, strerror

# What one does with a queue, a map, a program, and which command that is.
WORDS = {
    "create": Cmd.BPF_MAP_CREATE,
    "push": Cmd.BPF_MAP_UPDATE_ELEM,
    "peek": Cmd.BPF_MAP_LOOKUP_ELEM,
    "pop": Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    "freeze": Cmd.BPF_MAP_FREEZE,
    "pin": Cmd.BPF_OBJ_PIN,
    "open": Cmd.BPF_OBJ_GET,
    "info": Cmd.BPF_OBJ_GET_INFO_BY_FD,
    "load": Cmd.BPF_PROG_LOAD,
    "run": Cmd.BPF_PROG_TEST_RUN,
    "attach": Cmd.BPF_LINK_CREATE,
}

_ELEMENT_KEY = "NULL for queues and stacks (EINVAL); else the address of key_size bytes (EFAULT)"
_VALUE_OUT = "where the kernel writes value_size bytes, whatever the buffer's length; of a per-CPU map more"
_NO_FLAGS = "0 for queues and stacks (EINVAL)"

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
        "numa_node": "counts with BPF_F_NUMA_NODE: a node that is online, or -1 (EINVAL)",
        "map_name": "at most 15 of [A-Za-z0-9_.], and a NUL (EINVAL)",
        "map_ifindex": "0 for queues and stacks (EINVAL)",
        "btf_key_type_id": "of a queue or stack an empty struct, if btf_value_type_id is given (EINVAL)",
        "btf_value_type_id": "a type of value_size bytes (EINVAL)",
        "map_extra": "0 but for bloom filters and arenas (EINVAL)",
        "map_token_fd": "counts with BPF_F_TOKEN_FD; a token that does not delegate this is ignored",
    },
    Cmd.BPF_MAP_UPDATE_ELEM: {
        "map_fd": "open (EBADF), a map's (EINVAL), opened for writing and not frozen (EPERM)",
        "key": _ELEMENT_KEY,
        "value": "the address of value_size bytes (EFAULT); of a per-CPU map of more",
        "flags": "of a push BPF_ANY or BPF_EXIST (EINVAL); of maps with keys also BPF_NOEXIST, BPF_F_LOCK",
    },
    Cmd.BPF_MAP_LOOKUP_ELEM: {
        "map_fd": "open (EBADF), a map's (EINVAL), opened for reading (EPERM)",
        "key": _ELEMENT_KEY,
        "value": f"{_VALUE_OUT} (EFAULT)",
        "flags": _NO_FLAGS,
    },
    Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM: {
        "map_fd": "open (EBADF), a map's (EINVAL), opened for both and not frozen (EPERM)",
        "key": _ELEMENT_KEY,
        "value": f"{_VALUE_OUT} (EFAULT, and the element is lost)",
        "flags": _NO_FLAGS,
    },
    Cmd.BPF_MAP_DELETE_ELEM: {"key": "the address of key_size bytes (EFAULT); queues and stacks have none (EINVAL)"},
    Cmd.BPF_MAP_GET_NEXT_KEY: {
        "key": "NULL for the first key; queues and stacks have none (EINVAL)",
        "next_key": "where the kernel writes key_size bytes (EFAULT)",
    },
    Cmd.BPF_MAP_FREEZE: {"map_fd": "opened for writing, and not frozen yet (EPERM)"},
    Cmd.BPF_OBJ_PIN: {
        "pathname": "in a bpffs (EPERM), its last part new (EEXIST) and without a '.' (EPERM)",
        "file_flags": "0, or BPF_F_PATH_FD (EINVAL)",
        "path_fd": "counts with BPF_F_PATH_FD: the folder that a relative path begins at",
    },
    Cmd.BPF_OBJ_GET: {
        "pathname": "a pin (ENOENT, EACCES)",
        "file_flags": "0, BPF_F_RDONLY or BPF_F_WRONLY, and BPF_F_PATH_FD (EINVAL); what the file's mode allows"
        " (EACCES)",
    },
    Cmd.BPF_OBJ_GET_INFO_BY_FD: {
        "info_len": "at most a page (E2BIG); the kernel writes how much it filled",
        "info": "the address of a struct of zeros, but for the addresses and lengths in it that the kernel shall use",
    },
    Cmd.BPF_PROG_TEST_RUN: {
        "data_size_in": "of network programs at least 14 (EINVAL), of type SYSCALL 0",
        "repeat": "0 or 1 for type SYSCALL",
    },
}

_WIDTH = 80


def describe(cmd: Cmd, about: MapType | None = None) -> Iterator[str]:
    """The lines below the layout; with `about` only the errors of that type of map."""
    if rules := RULES.get(cmd):
        yield from ("", "What the fields must be, and what the kernel answers otherwise:")
        for field, rule in rules.items():
            yield from _item(field, rule)
    function = getattr(syscall, cmd.name.removeprefix("BPF_").lower())
    text = (inspect.getdoc(function) or "").removeprefix(f"{cmd.name}: ")
    yield from ("", f"rawbpf.syscall.{function.__name__}():")
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        # What its exceptions are follows below, with the kernel's errnos.
        yield from _wrapped(paragraph[:1].upper() + paragraph[1:])
    yield from ("", "Errors:")
    for (command, number), rows in meanings.BY_COMMAND.items():
        if command == cmd:
            for row in _rows_for(rows, about):
                yield from _item(errno_name(number), _said(row, number))
    for number, row in meanings.BY_ERRNO.items():
        if (cmd, number) not in meanings.BY_COMMAND:
            yield from _item(errno_name(number), _said(row, number))


def _rows_for(rows: tuple[meanings.Meaning, ...], about: MapType | None) -> list[meanings.Meaning]:
    """Those that hold for the type of map, where one is asked for."""
    if about is None:
        return list(rows)
    return [row for row in rows if about in row.about] or [row for row in rows if not row.about]


def describe_errno(name: str) -> Iterator[str]:
    """What an errno means for each command that has a meaning of its own for it."""
    number = ENOTSUPP if name == "ENOTSUPP" else getattr(errno, name)
    yield f"{name} ({number}): {strerror(number)}"
    for (cmd, error), rows in meanings.BY_COMMAND.items():
        if error == number:
            yield from ("", cmd.name)
            for row in rows:
                yield from _wrapped(_said(row, number))
    if number in meanings.BY_ERRNO:
        yield from ("", "Any other command")
        yield from _wrapped(_said(meanings.BY_ERRNO[number], number))


def is_errno(name: str) -> bool:
    return name == "ENOTSUPP" or (name[:1] == "E" and isinstance(getattr(errno, name, None), int))


# What stands for the details of a call.
_DETAILS = {
    "subject": "it",
    "path": "PATH",
    "entries": "max_entries elements",
    "max_entries": "max_entries",
    "value_size": "value_size",
}


def _said(row: meanings.Meaning, number: int) -> str:
    what = (row.what or "{subject}: " + strerror(number)).format_map(_DETAILS).replace("it: ", "")
    kinds = sorted(str(each and each.name).removeprefix("BPF_").removeprefix("MAP_TYPE_") for each in row.about)
    shown = ", ".join(kinds[:4]) + (" ..." if len(kinds) > 4 else "")
    if MapType.BPF_MAP_TYPE_HASH in row.about and MapType.BPF_MAP_TYPE_ARRAY in row.about:
        shown = "maps with keys"
    text = f"{row.error}: {what}" + (f"; {row.hint}" if row.hint else "")
    return f"{text} ({shown})" if shown else text


def _item(name: str, text: str) -> list[str]:
    indent = " " * 14
    return textwrap.wrap(f"  {name:<11} {text}", _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
