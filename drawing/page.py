"""A page of HTML from pieces: one file, without a network, light or dark, for screens of any width and for paper."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --dim: #666c74; --line: #e2e4e8; --tint: #f5f6f8;
  --warm: #fff6e5; --warmline: #e69f00; --finished: #009e73; --begun: #56b4e9; --failed: #d55e00; --waiting: #b4b9c1 }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e7e9; --dim: #9aa0a8; --line: #31353b;
  --tint: #1e2125; --warm: #2b2415; --waiting: #565c65 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: clamp(1.4rem, 4vw, 2.1rem); line-height: 1.2; margin: .2rem 0 1.2rem; max-width: 45rem;
  text-wrap: balance }
h2 { font-size: 1.15rem; margin: 3rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem }
p { max-width: 45rem; margin: .6rem 0 }
.dim, figcaption, .kind { color: var(--dim); font-size: .875rem }
.kind { margin: 0; letter-spacing: .04em }
.warn { background: var(--warm); border-left: 4px solid var(--warmline); padding: .7rem 1rem; margin: 1rem 0;
  max-width: none }
.warn p { margin: .2rem 0; max-width: 60rem }
.bar { display: flex; gap: 2px; height: 8px; max-width: 45rem; border-radius: 4px; overflow: hidden }
.bar i, .dot { background: var(--waiting) }
.bar .finished, .dot.finished { background: var(--finished) }
.bar .begun, .dot.begun { background: var(--begun) }
.bar .failed, .dot.failed { background: var(--failed) }
.dot { display: inline-block; width: .6em; height: .6em; border-radius: 50%; margin-right: .45em }
.wide { overflow-x: auto; margin: .8rem 0; max-width: 100% }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.35; font-variant-numeric: tabular-nums }
th, td { padding: .34rem .5rem; text-align: left; vertical-align: baseline; white-space: nowrap }
th:first-child, td:first-child { padding-left: 0 }
thead th { white-space: normal; font-weight: 600; color: var(--dim); border-bottom: 2px solid var(--line);
  vertical-align: bottom }
tbody tr.first:not(:first-child) > * { border-top: 1px solid var(--line) }
tbody tr:hover > * { background: var(--tint) }
.number { text-align: right }
.again, .spread { color: var(--dim) }
.again { opacity: .55 }
.words { white-space: normal; min-width: 7rem; max-width: 34rem }
strong { font-weight: 700 }
figure { margin: 1.5rem 0 }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 6px }
figcaption { margin-top: .5rem; max-width: 45rem }
code, pre { font: .82rem/1.5 ui-monospace, monospace }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); border-radius: 6px; padding: .7rem .9rem;
  margin: .4rem 0 1rem }
summary { cursor: pointer; margin: .8rem 0 }
@media (max-width: 48rem) { body { padding: 1.2rem .9rem 3rem } .wide img { max-width: none; width: 46rem } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --dim: #444; --line: #bbb; --tint: #f4f4f4;
  --warm: #fff }
  @page { size: A4 landscape; margin: 14mm }
  body { padding: 0; max-width: none; font-size: 11pt } h2, h3 { break-after: avoid }
  tr, figure, pre, .warn { break-inside: avoid } figure img { max-height: 165mm; border: 0; padding: 0 }
  .wide { overflow: visible } th, td { padding: .16rem .35rem } table { font-size: 7.5pt }
  .bar, .dot { print-color-adjust: exact } summary { display: none }
  details::details-content { content-visibility: visible; block-size: auto } }
"""
SPREAD = re.compile(r"( ± .+| \[.+\])$")
"""What follows a figure: its deviation, or its interval in brackets."""


def page(title: str, body: str) -> str:
    """A whole page; the browser is told to load nothing from anywhere."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{chr(10).join(part for part in parts if part)}\n</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, `**bold**` in it."""
    return f"<p{_kind(kind)}>{_strong(escape(text))}</p>"


def html_table(lines: Sequence[Sequence[str]], keys: int, words: Sequence[str] = ("remark",)) -> str:
    """A table, the heads first.

    Args:
        lines: Texts, `**bold**` in those of figures.
        keys: How many columns, from the left, say what a line is of; figures follow.
        words: Heads of columns that are words nevertheless, which may be broken into lines.
    """
    heads, *rows = lines
    columns = list(zip(*rows, strict=True)) or [()] * len(heads)
    widths = [max((len(_mean(text)) for text in column), default=0) for column in columns]
    spread = [any(SPREAD.search(text) for text in column) for column in columns]
    kinds = ["" if place < keys else "words" if head in words else "" if spread[place] else "number"
             for place, head in enumerate(heads)]  # fmt: skip
    top = "".join(f'<th scope="col"{_kind(kind)}>{escape(head)}</th>' for head, kind in zip(heads, kinds, strict=True))
    body, above = [], [""] * len(heads)
    for row in rows:
        same = keys > 1 and row[0] == above[0]  # of lines that begin alike, the first is seen best
        cells = [f"<td{_kind('again' if same else '')}>{escape(row[0])}</td>"]
        for place in range(1, len(row)):
            figure = place >= keys and kinds[place] != "words"
            inner = _figure(row[place], widths[place] if spread[place] else 0) if figure else _words(row[place])
            cells.append(f"<td{_kind(kinds[place])}>{inner}</td>")
        if heads[-1] == "remark" and set(row[keys + 1 : -1]) == {NONE}:  # why there are no figures, in their place
            cells[keys + 1 :] = [f'<td colspan="{len(row) - keys - 1}" class="words dim">{escape(row[-1])}</td>']
        body.append(f"<tr{'' if same else _kind('first')}>{''.join(cells)}</tr>")
        above = list(row)
    rest = "\n".join(body)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{rest}\n</tbody></table></div>'


def picture(path: Path, title: str, caption: str) -> str:
    """A figure from a file, which the page then holds itself.

    Args:
        path: An SVG, or a PNG, which the page holds as JPEG: it is of photographs.
        title: What it shows.
        caption: How to read it.
    """
    kind, content = ("svg+xml", path.read_bytes()) if path.suffix == ".svg" else ("jpeg", _jpeg(path))
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure><h3>{escape(title)}</h3><div class="wide"><img alt="{escape(title)}" '
        f'src="data:image/{kind};base64,{data}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _jpeg(path: Path) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(content, "JPEG", quality=88)
    return content.getvalue()


def _mean(text: str) -> str:
    """A figure without its spread."""
    return SPREAD.sub("", text).replace("**", "")


def _figure(text: str, width: int) -> str:
    """A figure, its spread paler, so that figures of this width stand below each other."""
    pad = "\u2007" * (width - len(_mean(text)))  # as wide as a digit
    return pad + SPREAD.sub(r'<span class="spread">\1</span>', _strong(escape(text)))


def _words(text: str) -> str:
    mark = f'<span class="dot {text}"></span>' if text in ("finished", "begun", "failed", "waiting") else ""
    return mark + escape(text)


def _kind(kind: str) -> str:
    return f' class="{kind.strip()}"' if kind.strip() else ""


def _strong(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


NONE = "-"
