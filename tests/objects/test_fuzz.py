"""Object files broken at random: only ObjectFileError comes out, in bounded time and memory.

The mutants are read in a child with a limit of memory; every twentieth is loaded as well, if it can be read.
RAWBPF_STRESS_SECONDS (default 2) scales how many there are: 6000 by default.
"""

import faulthandler
import io
import os
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from rawbpf import BpfError
from rawbpf.objects.declarations import read
from rawbpf.objects.object_file import ObjectFile, ObjectFileError
from tests.conftest import FREE_THREADED, SECONDS

pytestmark = pytest.mark.alike

CASES = int(3000 * min(SECONDS, 2))

# One of each kind of records: plain ones, callbacks, CO-RE relocations, the kernel's configuration and its functions,
# maps in maps, tables of programs.
FILES = (
    *("everything", "callback", "helpers"),
    *("corpus/core_functions", "corpus/core_enums", "corpus/kconfig", "corpus/kernel_functions"),
    *("corpus/map_in_map", "corpus/tail_calls"),
)
# A free-threaded CPython reserves a gibibyte of addresses for its memory at once.
MEMORY = 1 << 32 if FREE_THREADED else 1 << 30
# More than the reading of a hundred broken files takes on a slow machine: what takes longer hangs.
SECONDS_OF_A_BATCH = 60

# Numbers that lengths and offsets are wrong with.
_EDGES = (0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000)


def mutate(data: bytes, places: list[int], chance: random.Random) -> bytes:
    """The file with a few things wrong: bits, words, pieces missing, doubled or elsewhere."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        kind = chance.randrange(6)
        at = min(chance.choice(places), len(broken))
        if kind == 0:
            broken[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            size = chance.choice((1, 2, 4, 8))
            at -= at % size
            broken[at : at + size] = struct.pack("=Q", chance.choice(_EDGES))[:size]
        elif kind == 2:
            del broken[at : at + chance.choice((1, 8, 24, 64, 4096))]
        elif kind == 3:
            length = chance.choice((8, 16, 24, 64, 512))
            broken[at:at] = broken[at : at + length]
        elif kind == 4:
            other, length = chance.choice(places), chance.choice((4, 8, 24, 64))
            broken[at : at + length] = broken[other : other + length]
        else:
            # The section headers stand at the end, and say most of what can be wrong.
            at = max(0, len(broken) - chance.randrange(1, 2048))
            broken[at : at + 4] = struct.pack("=I", chance.choice(_EDGES) & 0xFFFFFFFF)
    return bytes(broken)


def read_mutants(path: str, seed: int, cases: int) -> None:
    """In the child: dies of any exception but the two that are allowed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    data, chance = Path(path).read_bytes(), random.Random(seed)
    places, records = places_that_matter(data), places_of_records(data)
    refused = loaded = 0
    target = Path(path).with_name(f"mutant{seed}.o")
    before = os.listdir("/proc/self/fd")
    for case in range(cases):
        if case % 100 == 0:
            faulthandler.dump_traceback_later(SECONDS_OF_A_BATCH, exit=True)
        broken = mutate_records(data, records, chance) if case % 2 else mutate(data, places, chance)
        try:
            read(broken)
        except ObjectFileError:
            refused += 1
            continue
        if loaded * 20 > case:
            continue
        loaded += 1
        target.write_bytes(broken)
        with suppress(ObjectFileError, BpfError):
            ObjectFile.load(target, pin_root=target.parent).close()
    faulthandler.cancel_dump_traceback_later()
    assert os.listdir("/proc/self/fd") == before
    print(refused)


@pytest.mark.parametrize("name", FILES)
def test_only_our_errors(compiled: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Thousands of broken files: each is read, or is an ObjectFileError; no hang, no gigabyte, no descriptor left."""
    source = tmp_path / "source.bpf.o"
    source.write_bytes(compiled(name).read_bytes())
    command = [sys.executable, "-m", "tests.objects.test_fuzz", str(source), "7", str(CASES // len(FILES))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    # That many of them were broken indeed: a wrong number may be as good as the right one.
    assert int(done.stdout) > CASES // len(FILES) // 3


def places_that_matter(data: bytes) -> list[int]:
    """Every offset but those in DWARF, which makes up most of a file, and which nothing here reads."""
    dwarf: set[int] = set()
    for section in ELFFile(io.BytesIO(data)).iter_sections():
        if ".debug" in section.name:
            dwarf.update(range(section["sh_offset"], section["sh_offset"] + section["sh_size"]))
    return [at for at in range(len(data)) if at not in dwarf]


def places_of_records(data: bytes) -> list[int]:
    """The words of what is read as records: types, CO-RE relocations, lines, maps, and relocations of all of these."""
    found: list[int] = []
    for section in ELFFile(io.BytesIO(data)).iter_sections():
        if section.name in (".BTF", ".BTF.ext", ".maps", ".symtab") or section.name.startswith(".rel"):
            found.extend(range(section["sh_offset"], section["sh_offset"] + section["sh_size"] - 3, 4))
    return found


def mutate_records(data: bytes, places: list[int], chance: random.Random) -> bytes:
    """The file with a few numbers of its records wrong, and all else in its place."""
    broken = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice(places)
        (number,) = struct.unpack_from("=I", broken, at)
        wrong = chance.choice(
            (number ^ 1 << chance.randrange(32), number + chance.randrange(-8, 9), chance.choice(_EDGES))
        )
        struct.pack_into("=I", broken, at, wrong & 0xFFFFFFFF)
    return bytes(broken)


if __name__ == "__main__":
    read_mutants(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
