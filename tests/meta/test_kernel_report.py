"""The report of tests.harness.kernels: a test that should have run there and did not is a failure."""

import base64
import gzip

import pytest

from tests.harness.kernels import initramfs, report

pytestmark = pytest.mark.alike

DOCUMENT = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<testsuites><testsuite name="root" tests="{count}">{cases}</testsuite></testsuites>'
)


def console(document: str) -> str:
    """What a guest prints of a report."""
    packed = base64.encodebytes(gzip.compress(document.encode())).decode()
    return f"booting\n{initramfs.REPORT}root\n{packed}{initramfs.END}\n"


def run_of(kernel: str, *cases: str, jit: bool = True) -> report.Run:
    tests = "".join(f'<testcase classname="tests.test_x" name="t{i}">{case}</testcase>' for i, case in enumerate(cases))
    [run] = report.parse(console(DOCUMENT.format(count=len(cases), cases=tests)), kernel, jit)
    return run


def module_skipped(reason: str) -> str:
    text = f"('/project/tests/test_x.py', 7, 'Skipped: {reason}')"
    return f'<skipped type="pytest.skip" message="collection skipped">{text}</skipped>'


def skipped(reason: str) -> str:
    return f'<skipped type="pytest.skip" message="{reason}"/>'


@pytest.mark.parametrize(
    ("kernel", "reason", "where"),
    [
        ("5.10", "by design: needs Linux 5.11", "by_design"),
        ("5.11", "by design: needs Linux 5.11", "failed"),
        ("6.1", "by design: needs Linux 5.11", "failed"),
        ("7.2", "by design: needs Linux 6.18", "failed"),
        ("6.1", "by design: needs Linux before 6.1", "by_design"),
        ("5.10", "by design: needs Linux before 5.11", "failed"),
        ("6.1", "by design: CPython 3.10 may interrupt between return and caller", "by_design"),
        ("6.1", "clang is not installed", "otherwise"),
        ("6.1", "may not create maps: needs CAP_BPF", "otherwise"),
        ("6.1", "not today", "failed"),
        ("6.1", "", "failed"),
    ],
)
def test_skips(kernel, reason, where):
    """A skip is by design where the kernel is too old or too new, and a failure where it has the feature."""
    run = run_of(kernel, "", skipped(reason))
    assert run.passed == 1
    assert {name: len(getattr(run, name)) for name in ("failed", "by_design", "otherwise")} == {
        "failed": 0,
        "by_design": 0,
        "otherwise": 0,
    } | {where: 1}


def test_a_module_that_is_skipped():
    """Its reason is in the text: a package that is not installed is no failure, another reason is one."""
    run = run_of("6.1", module_skipped("a package is not installed"), module_skipped("not today"))
    assert run.otherwise == {"tests.test_x::t0": "a package is not installed"}
    assert list(run.failed) == ["tests.test_x::t1"]


@pytest.mark.parametrize(("jit", "where"), [(True, "failed"), (False, "by_design")])
def test_skips_for_a_jit(jit, where):
    """What needs a JIT is skipped by design only where Debian's kernel has none."""
    run = run_of("6.12", skipped("by design: needs a JIT for BPF"), jit=jit)
    assert list(getattr(run, where)) == ["tests.test_x::t0"]


def test_failures_and_errors():
    """A test that failed, and one whose fixture did, count once each, with their texts."""
    run = run_of("6.1", "", '<failure message="m">text</failure><error message="later"/>', '<error message="e"/>')
    assert run.passed == 1
    assert run.failed == {"tests.test_x::t1": "later", "tests.test_x::t2": "e"}


def test_a_report_that_was_cut_off():
    """A run whose report did not come through to its end is none."""
    whole = console(DOCUMENT.format(count=0, cases=""))
    packed = whole.splitlines()[2]
    assert [run.name for run in report.parse(whole + whole[:-20], "6.1")] == ["root"]
    assert report.parse(whole.replace(packed, packed[:-20]), "6.1") == []
    assert report.parse(whole.replace(packed, "A" + packed[:-1]), "6.1") == []
    assert report.parse("", "6.1") == []


class TestBudget:
    """--budget: what is not done in time is not had (exit code 3), and a failed test is a failure nevertheless."""

    @pytest.fixture
    def main(self, monkeypatch, tmp_path):
        """tests.harness.kernels without QEMU: main(document, ended, budget) is its exit code for one guest."""
        from tests.harness.kernels import __main__ as kernels

        monkeypatch.setattr(kernels.initramfs, "build", lambda *arguments: None)
        monkeypatch.setattr(kernels.fetch, "kernel", lambda *arguments: tmp_path / "vmlinuz")

        def run(document: str, *, ended: bool, budget: str, silent: float = 1.0) -> int:
            guest = kernels.boot.Boot(console(document) if document else "", 1.0, silent, ended)
            monkeypatch.setattr(kernels.boot, "boot", lambda *arguments, **environment: guest)
            return kernels.main(["6.1", "--budget", budget])

        return run

    def test_not_begun(self, main, capsys):
        """Without time left no guest is begun."""
        assert main("", ended=True, budget="0") == 3
        assert "6.1 was not begun within the budget" in capsys.readouterr().out

    def test_not_done(self, main, capsys):
        """A guest that is killed at the end of the budget was not had."""
        assert main("", ended=False, budget="60") == 3
        assert "6.1 was not done within the budget" in capsys.readouterr().out

    def test_a_hang_is_a_failure(self, main, capsys):
        """A guest that had been silent for long when the budget ended was not slow."""
        assert main("", ended=False, budget="600", silent=300.0) == 1
        assert "the last 300 silent" in capsys.readouterr().out

    def test_a_failure_stays_one(self, main):
        """Of a guest that is killed, what had failed by then is a failure."""
        case = '<testcase classname="tests.test_x" name="t"><failure message="no"/></testcase>'
        assert main(DOCUMENT.format(count=1, cases=case), ended=False, budget="60") == 1
