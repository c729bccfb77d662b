"""Links, images and the table of contents of the texts for users."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.texts import GENERATED, LINK, PAGES, TEXTS, anchors, blocks, prose
from tests.helpers import ROOT
from website.pages import nav


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    dead = []
    for link in LINK.findall(prose(path)):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (path.parent / name).resolve() if name else path
        page = target.relative_to(ROOT / "docs").as_posix() if target.is_relative_to(ROOT / "docs") else ""
        if page in GENERATED or page.startswith("notebooks/"):
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_image_is_shown() -> None:
    shown = {(path.parent / link).resolve() for path in TEXTS for link in LINK.findall(prose(path))}
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path.resolve() not in shown] == []


def test_the_table_of_contents_lists_every_page() -> None:
    listed = nav(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    written = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(listed) == len(set(listed))
    assert set(listed) == written | GENERATED | notebooks


def test_few_blocks_are_not_run() -> None:
    excused = [block.excuse for path in TEXTS for block in blocks(path) if block.excuse]
    assert len(excused) <= 17


def test_the_messages_of_the_page_of_errors_exist() -> None:
    messages = set()
    for package in ("belvedere", "callbacks", "datamodules", "ops", "studies", "tasks"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    messages.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    messages.add(node.value)
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", (ROOT / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    listed = [row for row in rows if row not in ("message", "---")]
    assert len(listed) > 30
    assert [row for row in listed if not any(row in message for message in messages)] == []


def test_the_page_of_questions_answers_thirty() -> None:
    text = (ROOT / "docs" / "faq.md").read_text()
    assert len(re.findall(r"^### .+[?.]\n\S", text, flags=re.MULTILINE)) >= 30


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
