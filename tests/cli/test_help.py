"""`rawbpf help`: every guide is listed and shown as plain text that fits the terminal."""

import argparse
import re

import pytest

from rawbpf.cli import help as guides

pytestmark = pytest.mark.alike


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    guides.add_help_arguments(parser)
    assert guides.run_help(parser.parse_args(arguments)) == 0
    return capsys.readouterr().out


def test_the_list_names_every_guide(capsys):
    """Without a topic each guide is listed with its title."""
    listed = run(capsys)
    for topic in guides.topics():
        assert re.search(rf"^  {topic} +\w", listed, re.MULTILINE), topic


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("topic", guides.topics())
def test_a_guide_is_plain_text(capsys, monkeypatch, topic, width):
    """No Markdown is left in a guide, and only code is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(capsys, topic)
    prose = [line for line in shown.splitlines() if not line.startswith("    ")]
    assert shown.strip()
    for line in prose:
        assert not re.search(r"```|^#|^\|---|\]\(", line), line
        assert len(line) <= width or not line.rstrip().count(" "), line


def test_no_word_is_lost(capsys, monkeypatch):
    """Every word of a guide is on the screen."""
    monkeypatch.setenv("COLUMNS", "120")
    for topic in guides.topics():
        shown = re.sub(r"\W+", "", run(capsys, topic))
        code_aside = re.sub(r"^\|.*$", "", guides.guide(topic), flags=re.MULTILINE)
        for paragraph in re.split(r"\n{2,}", code_aside):
            text = re.sub(r"\]\([^)]*\.md\)|```\w*", "", paragraph)
            assert re.sub(r"\W+", "", text) in shown, (topic, paragraph)


def test_an_unknown_topic_is_a_usage_error(capsys):
    """A topic that does not exist is refused with the names of those that do."""
    with pytest.raises(SystemExit) as refused:
        run(capsys, "nothing")
    assert refused.value.code == 2
    assert "errors" in capsys.readouterr().err


def test_a_terminal_gets_a_pager(monkeypatch):
    """On a terminal a guide goes through the pager, in one piece."""
    paged: list[str] = []
    monkeypatch.setattr("pydoc.pager", paged.append)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert guides.run_help(argparse.Namespace(topic="errors")) == 0
    assert len(paged) == 1
    assert "BpfError" in paged[0]
