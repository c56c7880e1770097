"""ObjectFile: maps and programs declared in C, compiled with clang -target bpf -g, loaded without libbpf.

    clang -O2 -g -target bpf -c events.bpf.c -o events.bpf.o

    with ObjectFile.load("events.bpf.o") as events, events.programs["on_exec"].attach():
        for event in events.maps["queue"].follow():
            print(event.pid, event.comm)

The file is read and checked as a whole before the kernel hears of it. Then come the BTF, the maps, the programs; if one
of them is refused, all that was made goes again. Needs pyelftools (the extra rawbpf[elf]) and Linux 5.2, with global
variables 5.5.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rawbpf import syscall
from rawbpf.abi import ProgType
from rawbpf.btf.reader import BtfError
from rawbpf.objects.attached import Attached
from rawbpf.objects.declarations import Declarations, Selection, read
from rawbpf.objects.elf import ObjectFileError
from rawbpf.objects.loader import Loader, Wishes, plan
from rawbpf.objects.variables import Variables
from rawbpf.programs.attach import Target, why_not_attached
from rawbpf.programs.program import Program
from rawbpf.syscall.descriptor import Descriptor, HasFileno

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer, Self

__all__ = ["ObjectFile", "ObjectFileError", "Variables"]

# Where maps with LIBBPF_PIN_BY_NAME are pinned, by libbpf's convention.
PIN_ROOT = "/sys/fs/bpf"

# How the bytes of an object file begin, and no path.
_ELF = b"\x7fELF"


class ObjectFile:
    """The maps, global variables and programs of a compiled C file, loaded into the kernel.

    `maps`, `programs` and `variables` are found by their names in C. A Queue or Stack decodes its values by their type
    in C (see rawbpf.values.btf_codec); one that is declared by value_size alone gives bytes.

    >>> with ObjectFile.load("events.bpf.o") as events:  # doctest: +SKIP
    ...     events.attach()
    ...     for event in events.maps["queue"].follow():
    ...         print(event.pid, event.comm)

    close(), or the end of `with`, closes all of them. What was taken out of `maps` or `programs` goes with it; to keep
    something in the kernel, pin it.
    """

    maps: Mapping[str, Any]
    programs: Mapping[str, Program]
    variables: Variables

    @classmethod
    def load(
        cls,
        source: "syscall.StrPath | Buffer",
        *,
        variables: "Mapping[str, Any] | None" = None,
        max_entries: "Mapping[str, int] | None" = None,
        maps: "Mapping[str, int | HasFileno] | None" = None,
        programs: "Collection[str] | None" = None,
        without: Collection[str] = (),
        sections: "Mapping[str, str | ProgType] | None" = None,
        pin_root: syscall.StrPath = PIN_ROOT,
    ) -> "Self":
        """Reads the file, makes its maps and loads its programs.

        Args:
            source: The path of what clang -target bpf -g -c wrote; or its bytes, as bytearray, memoryview or (they
                begin with b"\\x7fELF") bytes.
            variables: Initial values of global variables, in place of those in C; and of __kconfig externs, in place of
                the kernel's. The verifier takes one that is `const volatile` for a constant: a branch that it rules out
                is not even looked at.
            max_entries: How many entries maps have, by their names, in place of the number in C.
            maps: Maps to use in place of new ones, by their names in C: a Queue or another map, or a descriptor. They
                must have the type and the sizes of key and value that the file says. They stay open; `maps` of the
                loaded file has an object of its own for each.
            programs: The names of the programs to load. By default all of them, but for those in sections whose names
                begin with "?".
            without: The names of programs to leave out.
            sections: What the programs in sections with names of your own are: {"incoming": "xdp"} says that
                SEC("incoming") is like SEC("xdp"), {"incoming": ProgType.BPF_PROG_TYPE_XDP} gives the type alone.
            pin_root: A folder in a bpffs for maps with __uint(pinning, LIBBPF_PIN_BY_NAME): what is pinned there under
                the map's name is used, else the new map is pinned.

        Raises:
            OSError: The file can't be read.
            ObjectFileError: The file can't be loaded here; the text names section and symbol. Nothing was loaded.
            ValueError, TypeError: A map breaks a rule, a map, program or variable does not exist or has another type.
            VerifierError: The kernel refused a program; the log has the lines of C.
            NotPermitted: CAP_BPF is missing, or CAP_PERFMON or CAP_NET_ADMIN, as the program types want it.
            BpfError: Another of the calls failed.
            ImportError: pyelftools is not installed.

        Linux 5.2; with global variables 5.5, with CO-RE relocations (vmlinux.h) 5.17, with kernel functions 5.13.
        """
        where, data = content_of(source)
        wishes = Wishes(variables or {}, max_entries or {}, maps or {}, pin_root)
        try:
            declarations = read(data, Selection(programs, without, sections or {}))
            return cls(declarations, os.path.basename(where).partition(".")[0] or "object", wishes)
        except (ObjectFileError, BtfError) as error:
            text = f"section '.BTF': {error}" if isinstance(error, BtfError) else str(error)
            raise ObjectFileError(f"{where!r}: {text}" if where else text) from error

    def __init__(self, declarations: Declarations, name: str, wishes: Wishes) -> None:
        """Use load()."""
        self.name = name
        planned = plan(declarations, wishes)
        with ExitStack() as undo:
            loader = Loader(declarations, name, wishes, undo)
            opened = loader.maps(planned.maps)
            data = {section: loader.data(declarations.data[section], c) for section, c in planned.contents.items()}
            self.variables = Variables(declarations, data)
            self.programs = loader.programs({**opened, **data}, planned)
            self.maps = opened
            self._opened: list[Descriptor] = [*self.programs.values(), *opened.values(), *data.values()]
            loader.done()
            undo.pop_all()

    def attach(self, targets: "Mapping[str, Target] | None" = None) -> Attached:
        """Attaches every program whose section says where (SEC("raw_tp/sched_process_exec")), until close().

        `targets` says it for others, such as those of sockets, cgroups and interfaces, and instead of what sections
        say: attach({"drop": "eth0"}). What a target is says Program.attach().

        Returns the links by the programs' names; what became of the other programs is in its `not_attached`, and of all
        of them in its str(). Raises ValueError for a program that the file does not have, and what Program.attach()
        raises; then none of them is attached.
        """
        given = targets or {}
        if unknown := given.keys() - self.programs.keys():
            raise ValueError(f"there is no program {min(unknown)!r}: the file has {', '.join(self.programs)}")
        with ExitStack() as undo:
            attached = Attached()
            for name, program in self.programs.items():
                why_not = "" if name in given else why_not_attached(program)
                if why_not:
                    attached.not_attached[name] = why_not
                else:
                    attached[name] = undo.enter_context(program.attach(given.get(name)))
            undo.pop_all()
        self._opened[:0] = attached.values()
        return attached

    def close(self) -> None:
        """Closes all maps, programs and links of attach(). What is pinned stays in the kernel. May be repeated."""
        for descriptor in self._opened:
            descriptor.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        exception_type: "type[BaseException] | None",
        exception: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ObjectFile {self.name!r} maps={list(self.maps)} programs={list(self.programs)}>"


def content_of(source: "syscall.StrPath | Buffer") -> tuple[str, bytes]:
    """The path ("" if there is none) and the bytes of an object file. OSError if it can't be read."""
    if isinstance(source, (str, os.PathLike)) or (isinstance(source, bytes) and source[:4] != _ELF):
        where = os.fsdecode(source)
        return where, Path(where).read_bytes()
    return "", bytes(source)
