"""What imports what: `import rawbpf` brings only what maps need, and folders depend on each other in one direction."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rawbpf

pytestmark = pytest.mark.alike

PACKAGE = Path(rawbpf.__file__).parent

# The folders from the lowest up; those of one row know nothing of each other.
LAYERS = (
    ("version",),
    ("abi",),
    ("syscall",),
    ("btf",),
    ("values", "programs"),
    ("maps",),
    ("objects", "observe"),
    ("cli",),
)
LAYER = {folder: number for number, row in enumerate(LAYERS) for folder in row}


@pytest.mark.real_kernel(reason="the simulated one brings modules of its own")
def test_import_brings_only_what_maps_need():
    """The command line's and the tools' modules are loaded when they are asked for, and not before."""
    code = "import sys, rawbpf; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert "rawbpf.maps.queue_stack" in loaded
    unwanted = {"asyncio", "argparse", "json", "socket", "ctypes", "multiprocessing", "subprocess", "resource"}
    assert loaded & unwanted == set()
    for folder in ("programs", "objects", "observe", "cli", "docs", "examples"):
        assert not [name for name in loaded if name.startswith(f"rawbpf.{folder}")]
    code = "import rawbpf; print(rawbpf.diagnose, rawbpf.Token, rawbpf.send_map, rawbpf.recv_map)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name, but for the examples, which are programs of their own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("examples", "docs"):
            yield ".".join(part for part in parts if part != "__init__"), path


def imported(path: Path) -> Iterator[str]:
    """The modules of rawbpf that a file imports anywhere: at its top, within functions, for the type checker."""
    names = {name for name, _ in modules()} | {"abi._native", "abi._cdef"}
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            yield from (a.name.partition(".")[2] for a in statement.names if a.name.split(".")[0] == "rawbpf")
        elif isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "rawbpf":
            assert statement.module is not None
            module = statement.module.partition(".")[2]
            for alias in statement.names:
                deeper = f"{module}.{alias.name}".lstrip(".")
                yield deeper if deeper in names else module


def test_imports_point_down():
    """What a file imports, wherever in it, is of its own folder or of a folder below."""
    for name, path in modules():
        folder = name.partition(".")[0]
        if folder in ("", "__main__"):
            continue
        for target in imported(path):
            other = target.partition(".")[0]
            assert other == folder or LAYER[other] < LAYER[folder], f"{name} imports {target}"


def test_no_circles():
    """No two files import each other, not even by way of others; a folder's __init__ only gathers."""
    arrows = {name: {t for t in imported(path) if t != name} for name, path in modules() if path.stem != "__init__"}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for target in sorted(arrows.get(name, ())):
                visit(target, (*above, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_beside_the_folders():
    """Beside the folders stand only the public names, the way in from the shell, and the version."""
    beside = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert beside == {"__init__.py", "__main__.py", "version.py", "py.typed"}


def test_no_module_is_too_long():
    """A file is read from top to bottom: none has more than some 500 lines."""
    assert {name: lines for name, path in modules() if (lines := len(path.read_text().splitlines())) > 510} == {}
