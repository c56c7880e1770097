"""A root with only libc, Python, cffi and rawbpf: the main job runs there, through both doors, without /proc too."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.harness.roots import minimal

BULK = """
import os, sys
from rawbpf import Queue, Stack
from rawbpf.abi import door
assert "ctypes" not in sys.modules and "cffi" not in sys.modules
with Queue(8, 100, name="minimal") as q, Stack("<IH", 4) as s:
    pushed = q.push_many(bytes(800))
    s.push((7, 80))
    q.pin("/bpf/minimal")
    with Queue.open("/bpf/minimal", 8) as p:
        print(door.FFI_MODE, os.path.exists("/proc"), pushed, len(p.pop_many(100)), p.bulk.in_kernel, s.pop())
"""

missing = [tool for tool in ("unshare", "ldd", "chroot", "cc") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.alike,
    pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} is not installed"),
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.linux("5.17"),
    pytest.mark.real_kernel(reason="other roots and processes"),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One root with a folder for /proc, and one without."""
    if not os.path.exists("pyproject.toml") or not os.path.exists("rawbpf"):
        pytest.skip("the source tree is not installed")
    folder = tmp_path_factory.mktemp("roots")
    with_proc = minimal.build(folder / "with", sys.executable)
    bare = with_proc._replace(path=folder / "without")
    shutil.copytree(with_proc.path, bare.path, symlinks=True)
    (bare.path / "proc").rmdir()
    yield {"with /proc": with_proc, "without /proc": bare}
    shutil.rmtree(folder)


@pytest.fixture(params=["with /proc", "without /proc"])
def root(request, roots):
    return roots[request.param]


@pytest.fixture(params=["api", "abi"])
def surroundings(request):
    return minimal.environment(request.param)


def run(root, environment, *arguments):
    result = subprocess.run(minimal.command(root, *arguments), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_what_is_in_the_root(roots):
    """Nothing but Python's own files, cffi's compiled part and rawbpf; no libbpf, no compiler, no shell."""
    root = roots["with /proc"]
    files = [path.relative_to(root.path) for path in root.path.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(("libbpf", "libelf", "libLLVM", "libclang"))]
    assert not [path for path in files if path.name in ("cc", "gcc", "clang", "sh", "bash", "bpftool", "pip")]
    site = {path.parts[1] for path in files if path.parts[0] == "site"}
    assert {name for name in site if not name.startswith("_cffi_backend")} <= {"rawbpf", "cffi.libs"}
    assert set(root.sizes) == {"libc", "Python", "cffi", "rawbpf"}
    assert all(root.sizes.values())


def test_the_job(root, surroundings):
    """A queue is made, pushed to and popped from, and raises nothing when empty."""
    assert run(root, surroundings, "-c", minimal.RAWBPF) == minimal.EXPECTED


def test_many_and_a_pin(root, surroundings):
    """Bulk calls run in the kernel, a stack has struct values, a queue goes through a pin; ctypes is not there."""
    door = surroundings["RAWBPF_FFI"]
    proc = (root.path / "proc").exists()
    output = run(root, surroundings, "-c", BULK)
    assert output == f"{door} {proc} 100 100 True (7, 80)\n"


def test_the_command_line(root, surroundings):
    """The commands start, and the doctor makes its map also where there is no /proc to look into."""
    assert run(root, surroundings, "-m", "rawbpf", "--version").startswith("rawbpf ")
    report = run(root, surroundings, "-m", "rawbpf", "doctor")
    assert "yes  create:" in report
    assert "yes  elements:" in report
