"""Without a compiler: the door in Python does what the compiled one does, and the installation does not need more."""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rawbpf
from rawbpf import Queue
from rawbpf.abi import door, layout, python_batches, python_calls, python_door
from rawbpf.abi._cdef import ffi as abi_ffi
from rawbpf.abi.syscall_number import syscall_number
from tests.conftest import examples

pytestmark = pytest.mark.alike

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info", "*.so", "_abi.py", "tests")


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )


# The layout


def places(ffi, owner: str, path: str) -> tuple[int, int]:
    """The offset and the size that cffi gives to a field."""
    ctype = layout.c_type(owner)
    kind = ffi.typeof(ctype)
    for part in path.split("."):
        kind = dict(all_fields(kind))[part].type
    return ffi.offsetof(ctype, *path.split(".")), ffi.sizeof(kind)


def all_fields(kind):
    """A type's fields by name, those of its anonymous members included."""
    for name, field in kind.fields:
        if name:
            yield name, field
        else:
            yield from all_fields(field.type)


@pytest.mark.parametrize("ffi", [abi_ffi, door.ffi], ids=["abi", "the door"])
def test_every_field_is_where_the_text_says(ffi):
    """What the compiler asserts of bpf.h in API mode holds for cffi's own view of it."""
    checked = 0
    for owner, fields in layout.load().items():
        for field in (field for field in fields if not field.is_bits):
            assert places(ffi, owner, field.path) == (field.offset, field.size), (owner, field.path)
            checked += 1
    assert checked > 200
    assert (ffi.sizeof("union bpf_attr"), ffi.sizeof("struct bpf_map_info")) == (168, 104)


# The functions


def test_it_has_every_function_of_the_text():
    """Each prototype at the end of bpf.h is a function here; batch_hold() is a step that batch_holding() answers."""
    text = Path(door.__file__).with_name("bpf.h").read_text()
    declared = re.findall(r"^(?:int|void|char|uint32_t|int64_t) \*?(\w+)\(", text, re.MULTILINE)
    assert len(declared) > 15
    for name in declared:
        assert callable(getattr(python_door, name if name != "batch_hold" else "batch_holding"))


class Side:
    """One door with a map, two batches and a scratch that is never run; and what can be seen of them."""

    def __init__(self, m: "Queue[bytes]", made: ModuleType, lib: Any, ffi: Any) -> None:
        self.made, self.lib, self.ffi = made, lib, ffi
        self.begun: dict[Any, Any] = {}
        self.map = made.new_map(m.fileno(), 4)
        self.closed = made.new_map(-1 if lib is not python_door else 0xFFFFFFFF, 4)
        self.batches = [made.new_batch(self.map, capacity) for capacity in (2, 3)]

    def call(self, name: str, *arguments: Any) -> Any:
        words = {
            "map": self.map,
            "closed": self.closed,
            "a": self.batches[0][0],
            "b": self.batches[1][0],
            "room": self.ffi.new("char[]", 4),
        }
        if name == "batch_hold":
            return any(self.made.batch_holding(words[arguments[0]]))
        answer = getattr(self.lib, name)(*(words.get(each, each) for each in arguments))
        if isinstance(answer, python_batches.Answer):
            self.begun[arguments[0]] = answer  # as a call keeps it
        return answer

    def seen(self) -> list[Any]:
        found: list[Any] = [self.map.held]
        for batch, _, view in self.batches:
            found.append((batch.state, batch.first, batch.count))
            found.append(bytes(view[4 * batch.first : 4 * batch.count]) if batch.state else b"")
        return found


_CALLS = [
    ("map_update_elem", "map", b"abcd", 0),
    ("map_update_elem", "map", b"efgh", 0),
    ("map_update_elem", "map", b"ijkl", 2),
    ("map_update_elem", "map", b"mnop", 2**64 - 1),
    ("map_update_elem", "closed", b"efgh", 0),
    ("map_push", "map", b"qrstuvwxyz01", 3, 0),
    ("map_push", "map", b"qrstuvwxyz01", 3, 2),
    ("map_lookup_elem", "map", "room"),
    ("map_lookup_elem", "closed", "room"),
    *(
        call
        for batch, other in (("a", "b"), ("b", "a"))
        for call in (
            ("map_lookup_and_delete_elem", batch),
            *[("map_pop", batch, 1), ("map_pop", batch, 3)] * 2,
            *[("batch_begin", batch)] * 8,
            *[("batch_pop", batch, 1), ("batch_pop", batch, 5)] * 8,
            ("batch_keep", batch),
            ("batch_keep_both", batch, other),
            *[("batch_hold", batch)] * 4,
            ("batch_left", batch),
            *[("batch_move", batch, other, 1), ("batch_move", batch, other, 9)] * 8,
            *[("batch_absorb", batch)] * 16,
        )
    ),
]


@pytest.mark.creates
@pytest.mark.real_kernel(reason="it looks behind the door")
def test_both_doors_answer_the_same():
    """Any row of calls has the same results through door.c and through Python, and leaves the same in the batches."""
    native = pytest.importorskip("rawbpf.abi._native", reason="the compiled extension is not installed")
    from rawbpf.abi import batches

    chance = random.Random(5)
    with Queue(4, 5) as q, Queue(4, 5) as r:
        sides = Side(q, batches, native.lib, native.ffi), Side(r, python_door, python_door, abi_ffi)
        counts: Counter[str] = Counter()
        for _ in range(examples(4000)):
            # What is in no call's hands is not to be moved to or added to.
            taken = {name for name, (batch, *_) in zip("ab", sides[0].batches, strict=True) if batch.state == 1}
            if all(batch.state == 2 for batch, *_ in sides[0].batches):
                # Both are HELD, and none is there to move their elements to: begin again.
                for side in sides:
                    for _, memory, _ in side.batches:
                        memory[0] = 0
                sides[0].map.held = 0
            name, *arguments = chance.choice(_CALLS)
            if name in ("batch_pop", "batch_move", "batch_absorb", "batch_hold") and arguments[0] not in taken:
                continue
            if name == "batch_hold":
                left = sides[0].call("batch_left", arguments[0])
                rest = chance.randint(0, left)
                for side in sides:
                    side.batches[arguments[0] == "b"][0].rest[0:2] = [rest // 2, rest - rest // 2]
            elif chance.random() < 0.1 and taken:
                for side in sides:
                    side.batches[min(taken) == "b"][1][0] = 0
            answers = [side.call(name, *arguments) for side in sides]
            assert answers[0] == answers[1], (name, arguments)
            assert sides[0].seen() == sides[1].seen(), (name, arguments)
            counts[name] += 1
        assert min(counts.values()) > 5
        assert all(sides[0].call(*call) == sides[1].call(*call) for call in [("bpf", 9999, "room", 4)])


@pytest.mark.parametrize("arguments", [(2**31, 8), (-(2**31) - 1, 8), (1, -1), (1, 2**32)])
def test_what_is_no_c_integer_is_refused(arguments):
    """A command or size that bpf(2) can't be given raises OverflowError, as cffi does, and asks nobody."""
    cmd, size = arguments
    with pytest.raises(OverflowError):
        python_door.bpf_syscall(cmd, abi_ffi.new("char[]", 8), size)


def test_an_unknown_machine_is_said_to_be(monkeypatch):
    """Where the number of bpf(2) is not known, every call says so, names the machine, and is ENOSYS."""
    monkeypatch.setattr(python_calls, "_NR_BPF", None)
    with pytest.raises(OSError, match=f"the number of bpf.2. on {os.uname().machine}") as caught:
        python_door.bpf_syscall(0, abi_ffi.NULL, 0)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "pointer_size", "number"),
    [
        ("x86_64", 8, 321),
        ("x86_64", 4, 357),
        ("i686", 4, 357),
        ("i686", 8, 321),  # setarch i686 python3
        ("aarch64", 8, 280),
        ("aarch64", 4, 386),
        ("armv7l", 4, 386),
        ("riscv64", 8, 280),
        ("loongarch64", 8, 280),
        ("ppc64le", 8, 361),
        ("s390x", 8, 351),
        ("sparc64", 8, 349),
        ("mips64", 8, 5315),
        ("mips", 4, 4355),
        ("mips64", 4, None),  # n32 or o32
        ("vax", 4, None),
    ],
)
def test_the_number_by_machine(machine, pointer_size, number):
    """uname(2) and the size of a pointer decide; where they don't there is none."""
    assert syscall_number(machine, pointer_size) == number


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="by design: -m32 is x86's")
@pytest.mark.parametrize(("option", "pointer_size"), [("-m64", 8), ("-m32", 4)])
def test_the_number_is_the_headers(option, pointer_size):
    """The kernel's own header has the same number, for x86-64 and for i386."""
    # One header for both, in the folder of the machine's own.
    header = ["-isystem", "/usr/include/x86_64-linux-gnu", "-include", "asm/unistd.h"]
    command = ["cc", option, "-E", "-dM", *header, "-x", "c", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("<asm/unistd.h> is not installed")
    for name in ("bpf", "perf_event_open"):
        number = syscall_number("x86_64", pointer_size, name)
        assert re.search(rf"#define __NR_{name} (\d+)", result.stdout)[1] == str(number)


# Which door


@pytest.mark.parametrize("wanted", ["api", "abi"])
def test_the_environment_forces_a_door(wanted):
    """RAWBPF_FFI=api and =abi choose; nobody looks for the other then."""
    if wanted == "api":
        pytest.importorskip("rawbpf.abi._native", reason="the compiled extension is not installed")
    unwanted = {"api": "rawbpf.abi.python_door", "abi": "rawbpf.abi._native"}[wanted]
    result = run(
        f"import sys; from rawbpf.abi import door; print(door.FFI_MODE, {unwanted!r} in sys.modules)", RAWBPF_FFI=wanted
    )
    assert result.stdout == f"{wanted} False\n", result.stderr


def test_a_door_that_does_not_exist_is_refused():
    """A misspelt RAWBPF_FFI is no silent default."""
    result = run("import rawbpf", RAWBPF_FFI="apo")
    assert "RAWBPF_FFI is api or abi, not 'apo'" in result.stderr
    assert result.returncode == 1


def test_without_the_extension_it_is_the_python_door():
    """Where rawbpf.abi._native is missing nothing fails, and why it is so can be asked; RAWBPF_FFI=api insists."""
    code = "import sys; sys.modules['rawbpf.abi._native'] = None; from rawbpf.abi import door;"
    code += " print(door.FFI_MODE, '|', door.FFI_MODE_REASON)"
    assert re.fullmatch(r"abi \| .*rawbpf\.abi\._native.*\n", run(code, RAWBPF_FFI="").stdout)
    assert "ModuleNotFoundError: import of rawbpf.abi._native" in run(code, RAWBPF_FFI="api").stderr


def test_the_doctor_names_the_door():
    """`rawbpf doctor` says which door is in use, why, and what the one in Python costs."""
    code = "import rawbpf; print(rawbpf.diagnose().facts['door'])"
    assert re.fullmatch(r"abi, .* times as much, .*\(RAWBPF_FFI asks for it\)\n", run(code, RAWBPF_FFI="abi").stdout)
    assert rawbpf.diagnose().facts["door"].startswith(f"{door.FFI_MODE}, ")


# The installation


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the source tree without anything built."""
    for tool in ("pip", "setuptools"):
        if not list(distributions(name=tool)):
            pytest.skip(f"{tool} is not installed")
    if not ROOT.joinpath("build_ffi.py").exists() or not ROOT.joinpath("rawbpf", "abi", "bpf.h").exists():
        pytest.skip("the source tree is not installed")
    return Path(shutil.copytree(ROOT, tmp_path / "source", ignore=NOT_SOURCE))


def build_wheel(source: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", "out", "."]
    return subprocess.run(
        command, cwd=source, env={**os.environ, "RAWBPF_FFI": "", **environment}, capture_output=True, text=True
    )


def test_a_wheel_without_a_compiler(source: Path):
    """Where there is no compiler the wheel is built nevertheless, says so loudly, and is for every Python."""
    result = build_wheel(source, CC=str(source / "no-such-cc"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rawbpf.abi._native could not be compiled" in result.stdout + result.stderr
    [wheel] = source.glob("out/*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"rawbpf/abi/{each}" for each in ("_cdef.py", "python_door.py", "bpf.h", "door.c")} <= set(names)
    assert not [name for name in names if name.endswith(".so")]


def test_a_wheel_that_insists_on_the_compiler(source: Path):
    """With RAWBPF_FFI=api no wheel is built where there is no compiler."""
    result = build_wheel(source, CC=str(source / "no-such-cc"), RAWBPF_FFI="api")
    assert result.returncode != 0
    assert not list(source.glob("out/*.whl"))


def test_an_error_in_the_c_text_is_loud(source: Path):
    """Also where the compiler is there and refuses: its errors are printed, and RAWBPF_FFI=api fails."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    text = source / "rawbpf" / "abi" / "door.c"
    text.write_text(text.read_text() + "\nint wrong = ;\n")
    assert build_wheel(source, RAWBPF_FFI="api").returncode != 0
    result = build_wheel(source)
    assert result.returncode == 0
    assert "rawbpf.abi._native could not be compiled" in result.stdout + result.stderr


# Memory that can't be had

FAILING_PUSHES = """
import _testcapi, os, threading
from rawbpf import Queue

def push_fails(q, number):
    try:
        _testcapi.set_nomemory(number, number + 1)
        q.push(b"abcd")
        _testcapi.remove_mem_hooks()
        return False
    except MemoryError:
        _testcapi.remove_mem_hooks()
        return True

number, stuck = 0, []
while True:
    q = Queue(4, 100)
    failed = push_fails(q, number)
    closing = threading.Thread(target=q.close, daemon=True)
    closing.start()
    closing.join(5)
    if closing.is_alive():
        stuck.append(number)
    # One that fails where CPython makes do without it is none.
    if stuck or not failed and number > 5:
        break
    number += 1
print(number, stuck, flush=True)
os._exit(0)
"""


@pytest.mark.creates
@pytest.mark.real_kernel(reason="the simulated one allocates for itself")
def test_a_call_that_fails_for_memory_is_not_counted():
    """MemoryError at any allocation of a push through the Python door leaves no call counted: close() does not wait for
    it."""
    pytest.importorskip("_testcapi", reason="by design: this CPython was built without its test modules")
    answer = run(FAILING_PUSHES, RAWBPF_FFI="abi").stdout.split(maxsplit=1)
    assert answer[1:] == ["[]\n"], answer
    assert int(answer[0]) > 5
