"""What a command means, in words: the rules of its fields, what it does, and its errors. explain() shows it below the
layout.

The description is that of the command's function in rawbpf.syscall, the errors are those that its exceptions are made
from (syscall/meanings.py).
"""

import errno
import inspect
import itertools
import textwrap
from collections.abc import Iterator

from rawbpf import syscall
from rawbpf.abi import ENOTSUPP, Cmd, MapType
from rawbpf.observe.field_rules import ATTR, RULES, errnos_in
from rawbpf.syscall import meanings
from rawbpf.syscall.errors import errno_name, strerror

# What one does with a queue, a map, a program, and which command that is.
WORDS = {
    "create": Cmd.BPF_MAP_CREATE,
    "push": Cmd.BPF_MAP_UPDATE_ELEM,
    "peek": Cmd.BPF_MAP_LOOKUP_ELEM,
    "pop": Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    "delete": Cmd.BPF_MAP_DELETE_ELEM,
    "next": Cmd.BPF_MAP_GET_NEXT_KEY,
    "list": Cmd.BPF_MAP_GET_NEXT_ID,
    "freeze": Cmd.BPF_MAP_FREEZE,
    "pin": Cmd.BPF_OBJ_PIN,
    "open": Cmd.BPF_OBJ_GET,
    "info": Cmd.BPF_OBJ_GET_INFO_BY_FD,
    "load": Cmd.BPF_PROG_LOAD,
    "run": Cmd.BPF_PROG_TEST_RUN,
    "attach": Cmd.BPF_LINK_CREATE,
    "detach": Cmd.BPF_LINK_DETACH,
    "replace": Cmd.BPF_LINK_UPDATE,
    "query": Cmd.BPF_PROG_QUERY,
    "token": Cmd.BPF_TOKEN_CREATE,
    "stats": Cmd.BPF_ENABLE_STATS,
}

# What the words for queues and stacks say of errors is about these maps alone.
OF_QUEUES = frozenset({"create", "push", "peek", "pop"})

_WIDTH = 80


def describe(cmd: Cmd, about: MapType | None = None) -> Iterator[str]:
    """The lines below the layout; with `about` only the errors of that type of map."""
    yield from ("", "What the attr and its fields must be, and what the kernel answers otherwise:")
    for field, rule in {"(attr)": ATTR, **RULES[cmd]}.items():
        yield from _item(field, rule)
    text = description(cmd)
    yield from ("", f"rawbpf.syscall.{cmd.name.removeprefix('BPF_').lower()}():")
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        # What its exceptions are follows below, with the kernel's errnos.
        yield from _wrapped(paragraph[:1].upper() + paragraph[1:])
    yield from ("", "Errors:")
    for number, rows in errors_of(cmd).items():
        for row in _rows_for(rows, about):
            yield from _item(errno_name(number), _said(row, number))


def description(cmd: Cmd) -> str:
    """What the command's function says of itself."""
    function = getattr(syscall, cmd.name.removeprefix("BPF_").lower())
    return (inspect.getdoc(function) or "").removeprefix(f"{cmd.name}: ")


def errors_of(cmd: Cmd) -> dict[int, tuple[meanings.Meaning, ...]]:
    """The errnos that a command answers: those with a meaning of their own for it, then what its fields' rules and its
    description name."""
    own = {number: rows for (command, number), rows in meanings.BY_COMMAND.items() if command == cmd}
    named = errnos_in(" ".join((ATTR, *RULES[cmd].values(), description(cmd))))
    return own | {number: (row,) for number, row in meanings.BY_ERRNO.items() if number in named and number not in own}


def _rows_for(rows: tuple[meanings.Meaning, ...], about: MapType | None) -> list[meanings.Meaning]:
    """Those that hold for the type of map, where one is asked for."""
    if about is None:
        return list(rows)
    return [row for row in rows if about in row.about] or [row for row in rows if not row.about]


def describe_errno(name: str) -> Iterator[str]:
    """What an errno means for each command that has a meaning of its own for it, and which others answer it."""
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
    rules = [(cmd, field, rule) for cmd in Cmd for field, rule in RULES[cmd].items() if number in errnos_in(rule)]
    if rules:
        yield from ("", "What fields must be, or the command answers it:")
    for cmd, of_command in itertools.groupby(rules, lambda each: each[0]):
        yield f"  {cmd.name}"
        for _, field, rule in of_command:
            yield from (f"  {line}" for line in _item(field, rule, _WIDTH - 2))


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
    # Attach types compare equal to map types with the same number.
    maps = {each for each in row.about if isinstance(each, MapType)}
    if {MapType.BPF_MAP_TYPE_HASH, MapType.BPF_MAP_TYPE_ARRAY} <= maps:
        shown = "maps with keys"
    # A hint to look at this page is of no use here.
    hint = "" if "rawbpf explain" in row.hint else row.hint
    text = f"{row.error}: {what}" + (f"; {hint}" if hint else "")
    return f"{text} ({shown})" if shown else text


def _item(name: str, text: str, width: int = _WIDTH) -> list[str]:
    indent = " " * 14
    return textwrap.wrap(f"  {name:<11} {text}", width, subsequent_indent=indent, break_on_hyphens=False)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
