"""`rawbpf help`: the guides of rawbpf/docs, as plain text on a terminal.

The guides use little of Markdown: headings, paragraphs, lists, tables, and blocks of code between fences. That much is
laid out here for the width of the terminal.
"""

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from rawbpf.cli.errors import DONE
from rawbpf.cli.output import say

_FOLDER = Path(__file__).parents[1] / "docs"

# Wider lines are hard to read, and narrower ones leave no room for a table's cells.
_WIDEST, _NARROWEST = 120, 40

_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
_RULE = re.compile(r"\|[-:| ]+\|$")
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_LIST_ITEM = re.compile(r"(- |\d+\. )")


def add_help_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rawbpf help`."""
    parser.add_argument(
        "topic", nargs="?", choices=topics(), metavar="TOPIC", help="a guide; all are listed without it"
    )


def run_help(options: argparse.Namespace) -> int:
    """Shows a guide, a page at a time on a terminal; without a topic, the list of guides."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    if options.topic is None:
        say(overview(width))
    elif sys.stdout.isatty():
        from pydoc import pager

        pager(plain(guide(options.topic), width))
    else:
        say(plain(guide(options.topic), width))
    return DONE


def topics() -> list[str]:
    """The names of the guides."""
    return sorted(each.stem for each in _FOLDER.glob("*.md"))


def guide(topic: str) -> str:
    """A guide, as it is written."""
    return (_FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def overview(width: int) -> str:
    """The list of guides, with their titles."""
    names = topics()
    column = max(map(len, names)) + 4
    titles = [guide(name).partition("\n")[0].removeprefix("# ") for name in names]
    listed = [
        textwrap.fill(title, width, initial_indent=f"  {name:{column - 2}}", subsequent_indent=" " * column)
        for name, title in zip(names, titles, strict=True)
    ]
    return "\n".join(["guides, shown by `rawbpf help TOPIC`:", "", *listed])


def plain(markdown: str, width: int) -> str:
    """A guide as plain text, in lines of at most `width` characters; blocks of code stay as they are."""
    parts = re.split(r"^```\w*\n(.*?)^```\n", markdown, flags=re.DOTALL | re.MULTILINE)
    lines: list[str] = []
    for number, part in enumerate(parts):
        # What was between fences has every second place.
        lines += [*textwrap.indent(part, "    ").splitlines(), ""] if number % 2 else _text(part, width)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n")


def _text(markdown: str, width: int) -> Iterator[str]:
    for block in re.split(r"\n{2,}", markdown.strip("\n")):
        if block.startswith("|"):
            yield from _table(block.splitlines(), width)
        elif block.startswith("    "):
            yield from block.splitlines()
        elif block.startswith("#"):
            title = textwrap.wrap(_inline(block.lstrip("# ")), width)
            yield from ("", *title, ("=" if block.startswith("# ") else "-") * len(title[-1]))
        else:
            yield from _paragraphs(block.splitlines(), width)
        yield ""


def _paragraphs(lines: list[str], width: int) -> Iterator[str]:
    """Paragraphs and the items of lists, filled again."""
    items: list[str] = []
    for line in lines:
        if not items or _LIST_ITEM.match(line):
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    for item in items:
        marker = _LIST_ITEM.match(item)
        yield from textwrap.wrap(_inline(item), width, subsequent_indent=" " * len(marker[0] if marker else ""))


def _table(rows: list[str], width: int) -> Iterator[str]:
    """A table in columns, whose cells are broken into lines where it would be too wide."""
    cells = [
        [_inline(cell.strip().replace(r"\|", "|")) for cell in _CELL_BORDER.split(row.strip().strip("|"))]
        for row in rows
        if not _RULE.match(row)
    ]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    longest_words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > 8:
        # The widest column gives way; words are broken only where no column has room left.
        spare = [size if size > longest else 0 for size, longest in zip(widths, longest_words, strict=True)]
        choice = spare if any(spare) else widths
        widths[choice.index(max(choice))] -= 1
    for number, row in enumerate(cells):
        wrapped = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for line in range(max(map(len, wrapped))):
            texts = [cell[line] if line < len(cell) else "" for cell in wrapped]
            yield "  ".join(f"{text:{size}}" for text, size in zip(texts, widths, strict=True))
        if number == 0:
            yield "  ".join("-" * size for size in widths)


def _inline(text: str) -> str:
    """Links as text, code without its quotes."""
    return _LINK.sub(lambda link: link[1] if link[2].endswith(".md") else f"{link[1]} ({link[2]})", text).replace(
        "`", ""
    )
