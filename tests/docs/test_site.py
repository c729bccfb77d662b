"""The built site: it needs no network, and its links lead somewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.texts import PAGES
from tests.helpers import ROOT

SITE = ROOT / "build" / "site"


class Page(HTMLParser):
    """Collects the anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        if "id" in found:
            self.anchors.add(found["id"] or "")
        if tag == "a" and "href" in found:
            self.links.append(found["href"] or "")
        if (tag == "link" and "href" in found) or "src" in found:
            self.loaded.append(found.get("src") or found.get("href") or "")


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    """The pages of a new build."""
    subprocess.run([sys.executable, "-m", "website"], cwd=ROOT, check=True, capture_output=True)
    return {path: Page(path) for path in SITE.rglob("*.html") if path.name != "404.html"}


def dead(path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for link in pages[path].links:
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
            yield link


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(site: dict[Path, Page]) -> None:
    assert len(site) > len(PAGES)
    assert {str(path.relative_to(SITE)): found for path in site if (found := list(dead(path, site)))} == {}
    loaded = {file for page in site.values() for file in page.loaded}
    assert [file for file in loaded if re.match(r"(https?:)?//", file)] == []
    reference = (SITE / "reference" / "cli.html").read_text()
    assert all(
        each in reference for each in ("--model.encoder", "--data.mask_values", "--trainer.max_epochs", "--resume")
    )
    assert (SITE / "reference" / "api.html").read_text().count("doc-heading") > 15
    assert all((SITE / line).is_file() for line in re.findall(r"\]\((\S+)\)", (SITE / "llms.txt").read_text()))
