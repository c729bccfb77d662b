import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from drawing.overview import Card, jpeg_of, write_overview
from drawing.page import html_table

RED, GREEN = (200, 30, 30), (30, 160, 60)


def card(name: str, color: tuple[int, int, int], note: str = "", link: str = "", **values: float) -> Card:
    return Card(name, note, link, values, jpeg_of(np.full((60, 90, 3), color, np.uint8), 320))


class Page(HTMLParser):
    """What a browser would find: tags, texts, and every attribute that names a file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.tags if name == tag]


def written(folder: Path, cards: list[Card], **options: object) -> str:
    given = {
        "title": "Masks",
        "count": len(cards),
        "values": {"sure": "how sure it is", "size": "in pixels"},
        **options,
    }
    write_overview(folder / "overview.html", cards=cards, **given)  # type: ignore[arg-type]
    return (folder / "overview.html").read_text()


def test_images_are_in_the_page_and_nothing_else_is_loaded(tmp_path: Path) -> None:
    cards = [card("a.jpg", RED, "Fish", "overlays/a.jpg", sure=0.25), card("b.jpg", GREEN, size=3)]
    text = written(tmp_path, cards, metrics=html_table([["metric", "value"], ["dice", "0.5"]], 1), notes=["The end."])
    found = Page(text)
    for link, color in zip(found.all("img", "src"), (RED, GREEN), strict=True):
        head, content = str(link).split(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert image.size == (90, 60)
        assert np.abs(np.asarray(image).astype(int) - color).max() <= 4
    assert found.all("a", "href") == ["overlays/a.jpg"]
    assert found.all("script", "src") == [None]
    assert not re.search(r"url\(|@import|https?:", text)
    assert found.all("figure", "data-values") == ["0.25  ", " 3 "]
    assert found.all("option", "value") == ["0", "1", "name"]
    order = [each for each in found.texts if each in ("Masks: 2 images", "dice", "a.jpg", "Fish", "b.jpg", "The end.")]
    assert order == ["Masks: 2 images", "dice", "a.jpg", "Fish", "b.jpg", "The end."]


def test_signs_in_names_stay_text(tmp_path: Path) -> None:
    name = '<b onload="x">&amp; "quoted" \'s.jpg'
    found = Page(
        written(tmp_path, [card(name, RED, "<u>")], title="A <i>title</i>", notes=["<script>alert(1)</script>"])
    )
    assert found.all("img", "alt") == [name]
    for text in (name, "<u>", "A <i>title</i>: 1 image", "<script>alert(1)</script>"):
        assert text in found.texts
    assert not {"i", "u"} & {tag for tag, _ in found.tags}


def test_a_page_without_images_is_a_page(tmp_path: Path) -> None:
    found = Page(written(tmp_path, [], values={}))
    assert "Masks: 0 images" in found.texts
    assert not found.all("figure", "data-values")
