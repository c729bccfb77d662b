"""Makes the pages of the site: copies `docs/`, and adds what is made from the code and the repository's other texts."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from textwrap import shorten
from typing import Any

from website.reference import cli_page

ROOT = Path(__file__).parents[1]
# Links from texts outside docs, and to results outside docs, as they are on the site.
MOVED = {"](docs/": "](", "](../benchmarks/results/": "](results/", "](../../benchmarks/results/": "](../results/",
         "](CONTRIBUTING.md": "](contributing.md",
         "](CHANGELOG.md": "](changelog.md", "](../CONTRIBUTING.md": "](contributing.md",
         "](../../CONTRIBUTING.md": "](../contributing.md"}  # fmt: skip


def on_site(text: str) -> str:
    """Returns a text with the links that the site has in other places."""
    for old, new in MOVED.items():
        text = text.replace(old, new)
    return text


def marked_commands(text: str) -> str:
    """Returns a text whose blocks without a language, which are commands, say that they are."""
    lines, inside = text.splitlines(), False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            lines[number] = "```sh" if line == "```" and not inside else line
            inside = not inside
    return "\n".join(lines) + "\n"


def notebook_page(path: Path) -> str:
    """Returns a notebook as Markdown: its texts, and its code in blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"]).strip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    note = f"This page is the notebook `notebooks/{path.name}`: run it with Jupyter in the repository's folder."
    return on_site("\n\n".join([parts[0], note, *parts[1:]])).replace("](../docs/", "](../") + "\n"


def nav(entries: Any) -> list[str]:
    """Returns the pages of a navigation, in order."""
    if isinstance(entries, str):
        return [entries]
    if isinstance(entries, dict):
        return [page for value in entries.values() for page in nav(value)]
    return [page for entry in entries for page in nav(entry)]


def title_and_lead(text: str) -> tuple[str, str]:
    """Returns the title of a page and the beginning of its first paragraph."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert title, "a page without a title"
    prose = re.sub(r"^```.*?^```$", "", text[title.end() :], flags=re.MULTILINE | re.DOTALL)
    for paragraph in prose.split("\n\n"):
        plain = " ".join(paragraph.split())
        if re.match(r"[\w*`(]", plain):
            lead = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain)
            return title[1], shorten(lead, 200, placeholder=" …")
    return title[1], ""


def llms(folder: Path, pages: list[str]) -> str:
    """Returns `llms.txt`: every page with the beginning of its text, for language models."""
    lines = [
        "# Belvedere",
        "",
        "> Five image tasks for small datasets, on PyTorch Lightning, with one command line.",
        "",
    ]
    for page in pages:
        title, lead = title_and_lead((folder / page).read_text(encoding="utf-8"))
        address = Path(page).with_suffix(".html").as_posix()
        lines.append(f"- [{title}]({address}): {lead}" if lead else f"- [{title}]({address})")
    return "\n".join(lines) + "\n"


def make_pages(folder: Path) -> list[str]:
    """Fills a folder with the pages and images of the site; returns the pages in the order of the navigation."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "results", ignore=shutil.ignore_patterns("*.json"))
    for page in folder.rglob("*.md"):
        page.write_text(marked_commands(on_site(page.read_text(encoding="utf-8"))), encoding="utf-8")
    (folder / "reference" / "cli.md").write_text(cli_page(), encoding="utf-8")
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"{name.lower()}.md").write_text(on_site(text), encoding="utf-8")
    (folder / "notebooks").mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        (folder / "notebooks" / f"{path.stem}.md").write_text(notebook_page(path), encoding="utf-8")
    pages = nav(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    (folder / "llms.txt").write_text(llms(folder, pages), encoding="utf-8")
    return pages
