"""CO-RE: offsets, sizes and numbers that the kernel writes into a program, from the types that it has itself.

The records of .BTF.ext go to BPF_PROG_LOAD as they are (Linux 5.17). What the kernel can't find it replaces by an
instruction that must not be reached, and the verifier's log names that by a number. Here the log becomes a sentence.

Source: kernel/bpf/btf.c (bpf_core_apply), tools/lib/bpf/relo_core.c, Documentation/bpf/llvm_reloc.rst.
"""

import re
from enum import IntEnum

from rawbpf.btf.ext import CoreRecord
from rawbpf.btf.reader import Btf, BtfError, Kind, Type, vmlinux
from rawbpf.objects.functions import Linked

MINIMUM = (5, 17)

# What the verifier says of the instruction that replaces one that can't be relocated: its constant, 0xbad2310, and the
# number of the record. And the relocation's own message at the end of a log, where only the verifier's statistics may
# follow: with others before it the kernel went on.
_POISONED = re.compile(r"invalid func unknown#(\d+)\s*$", re.MULTILINE)
_POISON = 0xBAD2310
_LAST_MESSAGE = re.compile(r"relo #(\d+): (?!patched|substituting)([^\n]*)\n(processed 0 [^\n]*\n?)?\0*\Z")


class CoreKind(IntEnum):
    """enum bpf_core_relo_kind: what the instruction is to get."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


_OF_TYPES = (CoreKind.TYPE_ID_LOCAL, CoreKind.TYPE_ID_TARGET, CoreKind.TYPE_EXISTS, CoreKind.TYPE_SIZE)
_OF_ENUMERATORS = (CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE)


def explain(log: str, linked: Linked, btf: Btf) -> str:
    """Why the kernel could not relocate an instruction, by the verifier's log: the line of C, the type, the field.
    "" if that is not why it refused the program."""
    number, said = _failure(log)
    if not 0 <= number < len(linked.core_relocations):
        return ""
    record = linked.core_relocations[number]
    try:
        return f"{_line(record, linked, btf)}{said or _missing(btf, record)}"
    except BtfError:
        return ""


def _failure(log: str) -> tuple[int, str]:
    """The number of the record that failed (-1 for none), and what the kernel says of it beyond that."""
    if poisoned := _POISONED.findall(log):
        return int(poisoned[-1]) - _POISON, ""
    if last := _LAST_MESSAGE.search(log):
        return int(last[1]), f"the kernel can't relocate it: {last[2]}"
    return -1, ""


def _missing(btf: Btf, record: CoreRecord) -> str:
    owner, member = target_of(btf, record)
    if not member:
        return f"this kernel has no {owner} like that of the program"
    what = "enumerator" if record.kind in _OF_ENUMERATORS else "field"
    if _is_in_kernel(btf.resolve(record.type_id)):
        return f"this kernel's {owner} has no {what} {member!r}"
    return f"this kernel has no {owner} with the {what} {member!r}"


def _is_in_kernel(found: Type) -> bool:
    try:
        vmlinux().find(found.kind, _plain(found.name))
    except (KeyError, OSError):
        return False
    return True


def target_of(btf: Btf, record: CoreRecord) -> tuple[str, str]:
    """What a record is about: a type, as in C, and members or an enumerator ("" for the type alone)."""
    root = btf.resolve(record.type_id)
    numbers = btf.string(record.access_str_off).split(":")
    if not all(map(str.isdecimal, numbers)):
        raise BtfError(f"a CO-RE record has the access string {':'.join(numbers)!r}")
    named = btf.type(record.type_id)
    owner = _in_c(named if named.kind == Kind.TYPEDEF else root)
    if record.kind in _OF_TYPES or record.kind == CoreKind.TYPE_MATCHES:
        return owner, ""
    steps = [int(number) for number in numbers]
    if record.kind in _OF_ENUMERATORS:
        names = list(btf.enumerators(root))
        if steps[0] >= len(names):
            raise BtfError(f"{owner} has no enumerator {steps[0]}")
        return owner, names[steps[0]]
    # The first number is an index, for a pointer may be one into an array.
    return owner, _path(btf, root, steps[1:])


def _path(btf: Btf, found: Type, steps: list[int]) -> str:
    path = ""
    for step in steps:
        if found.kind == Kind.ARRAY:
            path += f"[{step}]"
            found = btf.resolve(btf.array(found)[0])
            continue
        members = btf.members(found)
        if step >= len(members):
            raise BtfError(f"type {found.id} has no member {step}")
        if members[step].name:
            path += f"{'.' if path else ''}{members[step].name}"
        found = btf.resolve(members[step].type_id)
    return path


def _in_c(found: Type) -> str:
    kind = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.ENUM: "enum ", Kind.ENUM64: "enum "}
    return kind.get(found.kind, "") + _plain(found.name)


def _plain(name: str) -> str:
    """The name without ___flavor, which tells several declarations of one type apart."""
    return name.partition("___")[0]


def _line(record: CoreRecord, linked: Linked, btf: Btf) -> str:
    """ "line 12 of events.bpf.c, `x = task->pid;`: " as far as the file has line numbers."""
    before = [line for line in linked.line_info if line[0] * 8 <= record.offset]
    if not before:
        return f"instruction {record.offset // 8}: "
    _, file_name, text, place = before[-1]
    source = btf.string(text).strip()
    return f"line {place >> 10} of {btf.string(file_name)}{f', `{source}`' if source else ''}: "
