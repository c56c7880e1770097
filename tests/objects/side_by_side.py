"""The same object file loaded by bpftool, through libbpf, and by rawbpf: do both, and is it the same in the kernel?

python -m tests.objects.side_by_side FILE.bpf.o ...
"""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rawbpf import BpfError, syscall
from rawbpf.maps import bpffs
from rawbpf.objects.object_file import ObjectFile, ObjectFileError

# Where the kernel has put a map, on x86-64: it is in an instruction behind bpf_timer_set_callback(). It begins with
# ffff, or with ff alone where page tables have five levels. (Functions and variables of the kernel itself begin with
# eight times f.)
_ALLOCATED = re.compile(r"\b0xff(?!f{6})[0-9a-f]{14}\b")

_MAP = re.compile(r"map\[id:(\d+)\]")


class Outcome(NamedTuple):
    """What became of a file: why each refused it ("" for loaded), and the names of programs that are not the same."""

    libbpf: str
    rawbpf: str
    different: list[str]

    @property
    def verdict(self) -> str:
        """In one or two words."""
        if self.libbpf:
            return "both refuse" if self.rawbpf else "only rawbpf loads"
        return "ONLY LIBBPF LOADS" if self.rawbpf else "DIFFERENT" if self.different else "same"


def bpftool(*arguments: str) -> Any:
    """What bpftool -j answers. Raises CalledProcessError."""
    done = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else None


def compare(path: Path, folder: str, **wishes: Any) -> Outcome:
    """Loads the file twice; `folder` is a bpffs. `wishes` are for ObjectFile.load()."""
    theirs, their_error = _by_libbpf(path, f"{folder}/libbpf")
    mine, my_error = _by_rawbpf(path, folder, wishes)
    if their_error or my_error:
        return Outcome(their_error, my_error, [])
    return Outcome("", "", sorted(name for name in theirs if theirs[name] != mine.get(name)))


def _by_libbpf(path: Path, folder: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each program as the kernel has them; or why there is none."""
    os.mkdir(folder)
    # Maps to be pinned by name are pinned below /sys/fs/bpf: a bpffs is mounted there that only bpftool sees.
    script = 'mount -t bpf none /sys/fs/bpf && exec bpftool prog loadall "$0" "$1"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, path, folder], capture_output=True, text=True)
    try:
        if done.returncode:
            return {}, done.stderr or done.stdout
        return {name: instructions("pinned", f"{folder}/{name}") for name in os.listdir(folder)}, ""
    finally:
        _unpin(Path(folder), os.listdir(folder))
        os.rmdir(folder)


def _unpin(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _by_rawbpf(path: Path, folder: str, wishes: dict[str, Any]) -> tuple[dict[str, list[str]], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            loaded = ObjectFile.load(path, pin_root=folder, **wishes)
    except (ObjectFileError, BpfError, ValueError) as error:
        return {}, f"{type(error).__name__}: {error}"
    finally:
        _unpin(Path(folder), set(os.listdir(folder)) - {"maps.debug", "progs.debug"})
    with loaded:
        return {name: instructions("id", _id_of(each.fileno())) for name, each in loaded.programs.items()}, ""


def _id_of(fd: int) -> str:
    [line] = [line for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if line.startswith("prog_id:")]
    return line.split()[1]


def instructions(*program: str) -> list[str]:
    """The program as the kernel has it, each load of a map with the map's name in place of its number."""
    lines = [entry.get("disasm", "") for entry in bpftool("prog", "dump", "xlated", *program)]
    return [_ALLOCATED.sub("0x...", _MAP.sub(lambda found: f"map[{_map_name(int(found[1]))}]", line)) for line in lines]


def _map_name(map_id: int) -> str:
    fd = syscall.map_get_fd_by_id(map_id)
    try:
        return syscall.obj_get_info_by_fd(fd).name
    finally:
        os.close(fd)


def main(paths: list[str]) -> None:
    """Prints the verdict on each file, the reasons where they differ, and the numbers."""
    verdicts: dict[str, int] = {}
    for path in map(Path, paths):
        with bpffs.mounted() as folder:
            outcome = compare(path, folder)
        verdicts[outcome.verdict] = verdicts.get(outcome.verdict, 0) + 1
        print(f"{outcome.verdict:18} {path}")
        if outcome.verdict != "same":
            print("    libbpf:", " | ".join(outcome.libbpf.strip().splitlines()[-6:])[:600] or "loads")
            print(
                "    rawbpf:", " | ".join(outcome.rawbpf.strip().splitlines()[:2])[:600] or "loads", outcome.different
            )
    print(verdicts)


if __name__ == "__main__":
    main(sys.argv[1:])
