"""The texts for users, and what tests find in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
GENERATED = {"reference/cli.md", "changelog.md", "contributing.md"}
"""Pages that `website` makes, besides those of notebooks."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        kind: What follows the fence: "" for commands, `python`, `yaml`, `text`.
        code: The text in it.
        excuse: Why it is not run; "" if it is.
    """

    kind: str
    code: str
    excuse: str


def blocks(path: Path) -> Iterator[Block]:
    """Yields the fenced blocks of a page; `<!-- not run: … -->` in the line above is an excuse."""
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    before = ""
    for line in lines:
        if line.startswith("```"):
            excuse = re.fullmatch(r"<!-- not run: (.+) -->", before)
            code = []
            while (inner := next(lines)) != "```":
                code.append(inner)
            yield Block(line.removeprefix("```"), "\n".join(code) + "\n", excuse[1] if excuse else "")
        before = line


def prose(path: Path) -> str:
    """Returns a text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Returns the anchors of the headings of a text."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {re.sub("-+", "-", each) for each in plain} | set(plain)
