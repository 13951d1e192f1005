"""README and the pages of docs/, and the commands, code and links that stand in them."""

import re
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"make [a-z]|\.venv/bin/|python -m (kernel|tests)|bash ")
CALL = re.compile(r"kernel\.\w+\(.*\)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; those of commands have none."""
    return [block for kind, block in FENCED.findall(text_of(page)) if kind == language]


def spans(page: Path) -> list[str]:
    """What stands between single backticks, where a line's end is a space."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text_of(page)))]


def commands() -> list[str]:
    """Every command of every page, once."""
    lines = [line for page in PAGES for block in blocks(page, "") for line in block.strip().splitlines()]
    return sorted({line for line in [*lines, *(span for page in PAGES for span in spans(page))] if COMMAND.match(line)})


def calls() -> list[str]:
    """Every call of the package that a page shows within a line, but those that leave something out."""
    return sorted({span for page in PAGES for span in spans(page) if CALL.match(span) and "..." not in span})


def named_files(page: Path) -> set[str]:
    """Files and folders of the project that a page names within its text."""
    return {span for span in spans(page) if re.fullmatch(r"(kernel|tests|notebooks|wheels|docs)/[\w/.]*", span)}


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page ends in, as GitHub makes it."""
    headings = [line.lstrip("# ") for line in FENCED.sub("", text_of(page)).splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of links and pictures."""
    return re.findall(r"(?:\]\(|src=\")([^)\"]+)", FENCED.sub("", text_of(page)))
