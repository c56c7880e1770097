"""The documentation in the code: every public name is explained with an example, and the examples give what they print.

With the privilege they run on the running kernel; without it the simulated one answers those that need no program.
"""

import doctest
import importlib
import inspect
import pkgutil
import pydoc
import re
import rlcompleter
from contextlib import nullcontext

import pytest

import rawbpf
from rawbpf.abi import door
from tests.conftest import IS_ADMIN

pytestmark = pytest.mark.alike

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(rawbpf.__path__, "rawbpf.")
    if module.name.rpartition(".")[2]
    not in ("__main__", "_native", "_cdef", "batches", "python_calls", "python_door", "python_maps")
    and ".examples" not in module.name
)
# What the simulated kernel leaves out: programs, BTF, tokens, maps of other types, and looking around in the system.
_OF_THE_KERNEL = (
    "rawbpf.btf.reader",
    "rawbpf.btf.writer",
    "rawbpf.maps.array",
    "rawbpf.maps.hash",
    "rawbpf.maps.lpm_trie",
    "rawbpf.maps.of_descriptors",
    "rawbpf.maps.other",
    "rawbpf.maps.ring_buffer",
    "rawbpf.observe.doctor",
    "rawbpf.programs.link",
    "rawbpf.programs.program",
    "rawbpf.maps.token",
    "rawbpf.syscall.errors",
    "rawbpf.values.codecs",
)

# An example of a constant is that of its enum.
EXPLAINED = sorted(
    name for name in rawbpf.__all__ if name not in ("BPF_ANY", "BPF_EXIST", "BPF_NOEXIST", "__version__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    """Each example in a docstring gives what stands beneath it."""
    if (not IS_ADMIN or door.simulated is not None) and name in _OF_THE_KERNEL:
        pytest.skip("needs CAP_SYS_ADMIN, and the real kernel")
    module = importlib.import_module(name)
    public = {each: getattr(rawbpf, each) for each in rawbpf.__all__}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    with nullcontext() if IS_ADMIN else rawbpf.simulate():
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=public | vars(module)):
            runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_public_name_has_an_example(name: str) -> None:
    """What `from rawbpf import ...` gives says what it is, with an example."""
    thing = getattr(rawbpf, name)
    text = inspect.getdoc(thing)
    assert text, name
    if thing is not rawbpf.Map:  # Queue and Stack are it
        assert ">>> " in text, name


@pytest.mark.parametrize(
    "kind",
    ["Queue", "Hash", "PerCpuArray", "LpmTrie", "ArrayOfMaps", "RingBuffer", "Program", "Link", "ObjectFile", "Token"],
)
def test_every_method_is_explained(kind: str) -> None:
    """Every public method and property says what it does."""
    for name, member in inspect.getmembers(getattr(rawbpf, kind)):
        if not name.startswith("_") and name not in ("map_type", "map_types", "spec_names", "value_bytes"):
            assert inspect.getdoc(member), f"{kind}.{name}"


def test_every_public_name_is_seen():
    """dir(), help() and completion show all public names, also those that are imported only when asked for."""
    assert set(rawbpf.__all__) <= set(dir(rawbpf))
    text = pydoc.plain(pydoc.render_doc(rawbpf))
    completer = rlcompleter.Completer({"rawbpf": rawbpf})
    completed = {word.rstrip("()").removeprefix("rawbpf.") for word in completer.attr_matches("rawbpf.")}
    for name in rawbpf.__all__:
        if name != "__version__":
            assert re.search(rf"\b{name}\b", text), name
            assert name in completed, name
