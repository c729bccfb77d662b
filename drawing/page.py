"""Renders pages from the templates in `drawing/templates`; every HTML page is one file that loads nothing else."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).with_name("templates")
NONE = "-"  # an empty cell of a table
SPREAD = re.compile(r"( ± .+| \[.+\])$")  # what follows a value: its deviation, or its interval in brackets


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: Its text.
        kind: CSS class: `words` breaks lines, `number` aligns right, `again` repeats the row above, `state` adds a dot.
        bold: Whether the text is bold.
        spread: Deviation or interval that follows the text, shown in a lighter color.
        pad: Digit-wide spaces before the text, which align the values of a column with spreads.
        span: Number of columns.
    """

    text: str
    kind: str = ""
    bold: bool = False
    spread: str = ""
    pad: int = 0
    span: int = 1


class Table(NamedTuple):
    """A table: header cells, and rows of cells; a rule separates groups of rows with the same first cell."""

    head: list[Cell]
    rows: list[list[Cell]]


def template(name: str) -> "Template":
    """Loads a template, which rejects missing values, and has filters: `base64` for bytes, `cell` for Markdown tables.

    HTML escapes all values.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    environment.filters["cell"] = markdown_cell
    return environment.get_template(name)


def markdown_cell(text: object) -> str:
    """Returns a text as a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def html_table(lines: Sequence[Sequence[str]], keys: int, words: Sequence[str] = ("remark",)) -> Table:
    """Lays out a table.

    Args:
        lines: Texts, header first; numbers may be `**bold**` and have a spread, as in `0.5 ± 0.1` or `0.5 [0.4, 0.6]`.
        keys: Number of columns, from the left, that identify a row; numbers follow.
        words: Headers of later columns that hold text.
    """
    head, *rows = lines
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    widths = [max((len(_value(text)) for text in column), default=0) for column in columns]
    spread = [any(SPREAD.search(text) for text in column) for column in columns]
    kinds = [_kind(name, place < keys, name in words, spread[place]) for place, name in enumerate(head)]
    body: list[list[Cell]] = []
    above = ""
    for row in rows:
        repeated = keys > 1 and row[0] == above
        cells = [Cell(row[0], "again" if repeated else kinds[0])]
        for place in range(1, len(row)):
            if place < keys or kinds[place] == "words":
                cells.append(Cell(row[place], kinds[place]))
            else:
                value, tail = _value(row[place]), SPREAD.search(row[place])
                pad = widths[place] - len(value) if spread[place] else 0
                cells.append(Cell(value, kinds[place], "**" in row[place], tail.group() if tail else "", pad))
        if head[-1] == "remark" and set(row[keys + 1 : -1]) == {NONE}:  # the remark takes the place of the numbers
            cells[keys + 1 :] = [Cell(row[-1], "words dim", span=len(row) - keys - 1)]
        body.append(cells)
        above = row[0]
    return Table([Cell(name, kind) for name, kind in zip(head, kinds, strict=True)], body)


def image_address(path: Path) -> str:
    """Returns an image as a `data:` address, which makes it part of the page.

    Args:
        path: An SVG, or a PNG of photographs, which is embedded as JPEG.
    """
    kind, content = ("svg+xml", path.read_bytes()) if path.suffix == ".svg" else ("jpeg", _jpeg(path))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _kind(head: str, key: bool, words: bool, spread: bool) -> str:
    if key:
        return "state" if head == "state" else ""
    return "words" if words else "" if spread else "number"


def _jpeg(path: Path) -> bytes:
    from ops.files.images import opened

    content = io.BytesIO()
    with opened(path) as image:
        image.convert("RGB").save(content, "JPEG", quality=88)
    return content.getvalue()


def _value(text: str) -> str:
    """Returns the text of a number without its spread and markup."""
    return SPREAD.sub("", text).replace("**", "")
