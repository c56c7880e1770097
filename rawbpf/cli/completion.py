"""Completion in a shell: the shell's script asks `rawbpf completion --words ...` for what may come next."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import suppress

from rawbpf.cli import pins
from rawbpf.maps.listing import list_maps
from rawbpf.observe.wording import escaped
from rawbpf.syscall.errors import errno_name

SCRIPTS = {
    # bash splits words at colons, so the words are taken from the line, and what precedes the colon is cut off again.
    "bash": r"""_rawbpf() {
    local line=${COMP_LINE:0:COMP_POINT} current prefix word
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    prefix=
    [[ $current == *:* ]] && prefix=${current%"${current##*:}"}
    COMPREPLY=()
    while IFS= read -r word; do
        [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$prefix"}")
    done < <(rawbpf completion --words "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _rawbpf rawbpf
""",
    "zsh": r"""#compdef rawbpf
_rawbpf() {
    local -a found
    found=("${(@f)$(rawbpf completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n $found ]] && compadd -a found || _files
}
compdef _rawbpf rawbpf
""",
    "fish": r"""function __rawbpf_words
    set -l words (commandline -opc) (commandline -ct)
    rawbpf completion --words $words[2..-1] 2>/dev/null
end
complete -c rawbpf -a '(__rawbpf_words)'
""",
}


def words_after(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """What the last of the words, the beginning of one, may become; empty where a file is wanted."""
    *before, begun = words or [""]
    commands = subparsers(parser)
    command = commands.get(before[0]) if before else None
    if command is None:
        found = list(commands) if not before else []
    elif begun.startswith("-"):
        found = [option for action in command._actions for option in action.option_strings]
    else:
        action = _wanted(command, before[1:])
        found = [] if action is None else list(_values(action))
    return sorted({word for word in found if word.startswith(begun) and escaped(word) == word})


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    action = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


def _wanted(command: argparse.ArgumentParser, before: list[str]) -> argparse.Action | None:
    """The argument that comes after the words before: an option's, or the next without an option."""
    options = {option: action for action in command._actions for option in action.option_strings}
    positionals = [action for action in command._actions if not action.option_strings]
    given = 0
    pending: argparse.Action | None = None
    for word in before:
        if pending is not None:
            pending = None
        elif word in options:
            pending = options[word] if options[word].nargs != 0 else None
        else:
            given += 1
    if pending is not None:
        return pending
    return positionals[min(given, len(positionals) - 1)] if positionals else None


def _values(action: argparse.Action) -> Iterator[str]:
    if action.choices is not None:
        yield from map(str, action.choices)
    elif isinstance(action.metavar, str) and action.metavar in _VALUES:
        yield from _VALUES[action.metavar]()


def _maps() -> Iterator[str]:
    yield from pins.files()
    # Ids and names take CAP_SYS_ADMIN.
    with suppress(OSError):
        for info in list_maps():
            yield f"id:{info.id}"
            if info.name:
                yield f"name:{info.name}"


def _bpf_commands() -> Iterator[str]:
    from rawbpf.abi import Cmd
    from rawbpf.observe import pages

    yield from (name.removeprefix("BPF_").lower() for name in Cmd.__members__)
    yield from pages.WORDS
    yield from sorted({errno_name(number) for cmd in Cmd for number in pages.errors_of(cmd)})


# What may stand for an argument, by what the help calls it.
_VALUES: dict[str, Callable[[], Iterator[str]]] = {"MAP": _maps, "PIN": pins.files, "CMD": _bpf_commands}
