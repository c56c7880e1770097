"""What `import rawbpf` may cost: only what maps need."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.alike


@pytest.mark.real_kernel(reason="the simulated one brings modules of its own")
def test_import_brings_only_what_maps_need():
    """The command line's and the tools' modules are loaded when they are asked for, and not before."""
    code = "import sys, rawbpf; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert "rawbpf.maps" in loaded
    unwanted = {"asyncio", "argparse", "json", "socket", "ctypes", "multiprocessing", "subprocess", "resource"}
    ours = {
        f"rawbpf.{name}"
        for name in (
            "bulk",
            "cli",
            "doctor",
            "introspect",
            "link",
            "program",
            "sharing",
            "streams",
            "text",
            "tokens",
            "tour",
        )
    }
    assert loaded & (unwanted | ours) == set()
    code = "import rawbpf; print(rawbpf.diagnose, rawbpf.Token, rawbpf.send_map, rawbpf.recv_map)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_imports_point_upwards_in_the_table() -> None:
    """The README's table of files is in layers: what a file imports at its top stands in its own row or above."""
    root = Path(__file__).parent.parent
    [table] = re.findall(r"\n## How it is built\n(.*?)\nThe layout is", (root / "README.md").read_text(), re.DOTALL)
    rows = [re.findall(r"`(\w+)\.\w+`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    layer = {name: number for number, row in enumerate(rows) for name in row}
    for name in layer:
        path = root / "rawbpf" / f"{name}.py"
        for imported in _imports(ast.parse(path.read_text()).body) if path.exists() else ():
            assert layer.get(imported, 0) <= layer[name], f"{name} imports {imported}"


def _imports(body: "list[ast.stmt]") -> "Iterator[str]":
    """The modules of rawbpf that are imported at a file's top, other than for the type checker."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.module and statement.module.startswith("rawbpf"):
            module = statement.module.partition(".")[2]
            yield from [module] if module else [alias.name for alias in statement.names]
