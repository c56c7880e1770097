"""What a guest's tests did, read from the JUnit XML that pytest wrote there."""

import re
from typing import NamedTuple
from xml.etree import ElementTree

_DOCUMENT = re.compile(rb"<\?xml.*?</testsuites>", re.DOTALL)

# The reasons a test may have to skip. Everything else counts as a failure: no feature that a kernel has goes untested.
_BY_DESIGN = re.compile(r"by design: (?:needs Linux (?P<before>before )?(?P<version>\d+\.\d+))?")
_NOT_HERE = re.compile(r"installed|could not import|needs CAP_")


class Run(NamedTuple):
    """One run of the suite by `name`: the number of tests that passed, and by test the failures' texts, the reasons of
    skips by design (the kernel is too old, or too new) and those of other skips (no tool, no privilege)."""

    name: str
    passed: int
    failed: dict[str, str]
    by_design: dict[str, str]
    otherwise: dict[str, str]


def parse(report: bytes, kernel: str) -> list[Run]:
    """The runs in a report; a document that was cut off is left out."""
    return [_run(ElementTree.fromstring(text), version(kernel)) for text in _DOCUMENT.findall(report)]


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _run(document: ElementTree.Element, kernel: tuple[int, ...]) -> Run:
    [suite] = document.iter("testsuite")
    run = Run(suite.attrib["name"], int(suite.attrib["tests"]), {}, {}, {})
    for case in suite.iter("testcase"):
        test = f"{case.attrib['classname']}::{case.attrib['name']}"
        for problem in (*case.iter("failure"), *case.iter("error")):
            run.failed[test] = problem.text or problem.attrib.get("message", "")
        for skip in case.iter("skipped"):
            _sort_skip(run, test, skip.attrib.get("message", ""), kernel)
    return run._replace(passed=run.passed - len(run.failed.keys() | run.by_design.keys() | run.otherwise.keys()))


def _sort_skip(run: Run, test: str, reason: str, kernel: tuple[int, ...]) -> None:
    match = _BY_DESIGN.match(reason)
    if match and match["version"] and (kernel < version(match["version"])) == bool(match["before"]):
        run.failed[test] = f"skipped on a kernel that it is for: {reason}"
    elif match:
        run.by_design[test] = reason
    elif _NOT_HERE.search(reason):
        run.otherwise[test] = reason
    else:
        run.failed[test] = f"skipped for a reason that is none: {reason}"
