"""What a guest's tests did, read from the JUnit XML that pytest wrote there and its console shows, packed."""

import base64
import gzip
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from tests.harness.kernels.initramfs import END, REPORT

_PACKED = re.compile(rf"{REPORT}\w+\n(.*?)\n{END}", re.DOTALL)

# The reasons a test may have to skip. Everything else counts as a failure: no feature that a kernel has goes untested.
_BY_DESIGN = re.compile(r"by design: (?:needs Linux (?P<before>before )?(?P<version>\d+\.\d+)|(?P<jit>needs a JIT))?")
_NOT_HERE = re.compile(r"installed|could not import|needs CAP_")


class Run(NamedTuple):
    """One run of the suite by `name`: the number of tests that passed, and by test the failures' texts, the reasons of
    skips by design (the kernel is too old, too new, or without a JIT) and those of other skips (no tool, no
    privilege)."""

    name: str
    passed: int
    failed: dict[str, str]
    by_design: dict[str, str]
    otherwise: dict[str, str]


def parse(console: str, kernel: str, jit: bool = True) -> list[Run]:
    """The runs on a kernel, with or without a JIT for BPF; a report that was cut off or garbled is left out."""
    return [_run(ElementTree.fromstring(text), version(kernel), jit) for text in _documents(console)]


def _documents(console: str) -> Iterator[bytes]:
    for packed in _PACKED.findall(console):
        try:
            yield gzip.decompress(base64.b64decode(packed))
        except (ValueError, EOFError, OSError, zlib.error):
            continue


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _run(document: ElementTree.Element, kernel: tuple[int, ...], jit: bool) -> Run:
    [suite] = document.iter("testsuite")
    run = Run(suite.attrib["name"], int(suite.attrib["tests"]), {}, {}, {})
    for case in suite.iter("testcase"):
        test = f"{case.attrib['classname']}::{case.attrib['name']}"
        for problem in (*case.iter("failure"), *case.iter("error")):
            run.failed[test] = problem.text or problem.attrib.get("message", "")
        for skip in case.iter("skipped"):
            _sort_skip(run, test, _reason(skip), kernel, jit)
    return run._replace(passed=run.passed - len(run.failed.keys() | run.by_design.keys() | run.otherwise.keys()))


def _reason(skip: ElementTree.Element) -> str:
    """Why a test was skipped; of a whole module pytest writes that in the text: (file, line, 'Skipped: reason')."""
    message = skip.attrib.get("message", "")
    if message != "collection skipped":
        return message
    return (skip.text or "").rpartition("Skipped: ")[2].rstrip("')")


def _sort_skip(run: Run, test: str, reason: str, kernel: tuple[int, ...], jit: bool) -> None:
    match = _BY_DESIGN.match(reason)
    if match and match["version"] and (kernel < version(match["version"])) == bool(match["before"]):
        run.failed[test] = f"skipped on a kernel that it is for: {reason}"
    elif match and match["jit"] and jit:
        run.failed[test] = f"skipped on a kernel with a JIT: {reason}"
    elif match:
        run.by_design[test] = reason
    elif _NOT_HERE.search(reason):
        run.otherwise[test] = reason
    else:
        run.failed[test] = f"skipped for a reason that is none: {reason}"
