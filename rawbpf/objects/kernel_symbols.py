"""What `extern ... __ksym;` in a C file means: functions and variables of the kernel, by the ids of their BTF types;
and the addresses of what is declared as void, from /proc/kallsyms.

Source: Documentation/bpf/kfuncs.rst, tools/lib/bpf/libbpf.c (bpf_object__resolve_externs), relo_core.c.
"""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from rawbpf.btf.reader import Btf, Kind, Type, vmlinux
from rawbpf.objects.elf import ObjectFileError
from rawbpf.objects.functions import SymbolUse, with_src
from rawbpf.objects.object_btf import Extern
from rawbpf.programs.asm import Pseudo

_KALLSYMS = "/proc/kallsyms"

# src of a call to a kernel function (BPF_PSEUDO_KFUNC_CALL; Linux 5.13).
_KFUNC_CALL = 2

# The number of a helper that there is not: a call that a program must not reach. It is libbpf's, in whose log of the
# verifier people look for it.
_UNRESOLVED_CALL = 2002000000

# How deep types may be nested that are compared (the kernel's and libbpf's limit).
_DEEPEST = 32


def resolve_symbols(btf: Btf, externs: Mapping[str, Extern], uses: Iterable[SymbolUse]) -> dict[str, int]:
    """The id or the address of each kernel symbol that is used; 0 for a weak one that this kernel does not have.

    Raises ObjectFileError for one that is missing, or is of another type here.
    """
    used = {use.name: use.where for use in uses if externs[use.name].offset is None}
    addresses = _addresses({name for name in used if not externs[name].type_id})
    types = _types([externs[name] for name in used if externs[name].type_id])
    resolved = {}
    for name, where in used.items():
        extern, found = externs[name], types.get(name)
        if found and not _compatible(btf, extern.type_id, vmlinux(), found.size):
            if not (extern.is_weak and extern.is_function):
                raise ObjectFileError(f"{where}: {_plain(extern)!r} of this kernel has another type")
            found = None
        resolved[name] = found.id if found else addresses.get(name, 0)
        if not (found or name in addresses or extern.is_weak):
            what = "function" if extern.is_function else "variable" if extern.type_id else "symbol"
            raise ObjectFileError(
                f"{where}: this kernel has no such {what} (those of modules are not looked for); "
                "declared __weak it would be NULL"
            )
    return resolved


def refer_to_symbol(code: bytearray, use: SymbolUse, extern: Extern, found: int, number: int) -> None:
    """Writes what was found into the call or the 64-bit load. `number` tells unresolved calls apart."""
    at = use.slot * 8
    if use.is_call:
        code[at + 1] = with_src(code[at + 1], _KFUNC_CALL if found else 0)
        struct.pack_into("=i", code, at + 4, found or _UNRESOLVED_CALL + number)
        return
    typed = bool(extern.type_id and found)
    code[at + 1] = with_src(code[at + 1], Pseudo.BTF_ID if typed else Pseudo.NUMBER)
    struct.pack_into("=I", code, at + 4, found & 0xFFFFFFFF)
    struct.pack_into("=I", code, at + 12, found >> 32)


def _addresses(names: set[str]) -> dict[str, int]:
    if not names:
        return {}
    found: dict[str, int] = {}
    for line in Path(_KALLSYMS).read_text().splitlines():
        address, _, name = line.split()[:3]
        if name in names:
            found.setdefault(name, int(address, 16))
    if found and not any(found.values()):
        raise ObjectFileError(f"{_KALLSYMS} hides the address of {min(found)!r}: see sysctl kernel.kptr_restrict")
    return found


def _types(externs: list[Extern]) -> dict[str, Type]:
    """The kernel's functions and variables of these names."""
    if not externs:
        return {}
    try:
        kernel = vmlinux()
    except OSError as error:
        name = externs[0].name
        raise ObjectFileError(f"extern {name!r}: this kernel was built without BTF (CONFIG_DEBUG_INFO_BTF)") from error
    found: dict[str, Type] = {}
    for kind, is_function in ((Kind.FUNC, True), (Kind.VAR, False)):
        names = {extern.name: _plain(extern) for extern in externs if extern.is_function == is_function}
        there = kernel.find_all(kind, names.values())
        found |= {name: there[plain] for name, plain in names.items() if plain in there}
    return found


def _plain(extern: Extern) -> str:
    """The kernel's name. A function NAME___other is another declaration of NAME, as types are with CO-RE."""
    return extern.name.partition("___")[0] if extern.is_function else extern.name


def _compatible(ours: Btf, our_id: int, theirs: Btf, their_id: int, depth: int = _DEEPEST) -> bool:
    """Whether two types are of the same shape, as far as pointers, arrays and functions go: names do not count."""
    one, other = ours.resolve(our_id), theirs.resolve(their_id)
    if _shape(one.kind) != _shape(other.kind) or not depth:
        return False
    if one.kind == Kind.INT:
        return ours.integer(one).bit_offset == 0 == theirs.integer(other).bit_offset
    if one.kind == Kind.PTR:
        return _compatible(ours, one.size, theirs, other.size, depth - 1)
    if one.kind == Kind.ARRAY:
        return _compatible(ours, ours.array(one)[0], theirs, theirs.array(other)[0], depth - 1)
    if one.kind == Kind.FUNC_PROTO:
        pairs = zip(ours.parameters(one), theirs.parameters(other), strict=False)
        return (
            one.vlen == other.vlen
            and all(_compatible(ours, mine[1], theirs, its[1], depth - 1) for mine, its in pairs)
            and _compatible(ours, one.size, theirs, other.size, depth - 1)
        )
    return one.kind in (Kind.VOID, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FWD)


def _shape(kind: Kind) -> Kind:
    return Kind.ENUM if kind == Kind.ENUM64 else kind
