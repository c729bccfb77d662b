import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from drawing.sheet import CAPTION, CELL, Shown, drawn_sheet, jpeg_of, write_page

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (20, 60, 200)


def image(color: tuple[int, int, int], size: tuple[int, int] = (60, 90)) -> np.ndarray:
    return np.full((*size, 3), color, np.uint8)


def shown(rank: int, color: tuple[int, int, int], name: str = "a.jpg", share: float = 0.5) -> Shown:
    return Shown(rank, name, share, f"note {rank}", jpeg_of(image(color), 320))


class Page(HTMLParser):
    """What a browser would find: images, texts, and every attribute that asks for a file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.meters: list[float] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self.links += [str(value) for key, value in attributes if key in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.images.append(found)
        if tag == "meter":
            self.meters.append(float(str(found["value"])))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def page(*args: object) -> str:
    file = io.StringIO()
    write_page(file, *args)  # type: ignore[arg-type]
    return file.getvalue()


def test_images_are_in_the_page_and_nothing_else_is_asked_for() -> None:
    text = page("Sheet", [("Good: 2", [shown(1, RED), shown(2, GREEN)]), ("Bad: 1", [shown(3, BLUE)])], ["The end."])
    found = Page(text)
    assert len(found.links) == 3
    for link, color in zip(found.links, (RED, GREEN, BLUE), strict=True):
        head, content = link.split(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert image.size == (90, 60)
        assert np.abs(np.asarray(image).astype(int) - color).max() <= 4
    assert "script" not in found.tags
    assert not re.search(r"url\(|@import|https?:", text)
    order = [each for each in found.texts if each in ("Good: 2", "1", "2", "Bad: 1", "3", "The end.")]
    assert order == ["Good: 2", "1", "2", "Bad: 1", "3", "The end."]
    assert found.tags.count("figure") == found.tags.count("figcaption") == 3


def test_signs_in_names_stay_text() -> None:
    name = '<b onload="x">&amp; "quoted" \'s.jpg'
    found = Page(page("A <i>title</i>", [("<u>", [shown(1, RED, name)])], ["<script>alert(1)</script>"]))
    assert found.images[0]["alt"] == name
    assert set(found.images[0]) == {"alt", "src"}
    for text in (name, "A <i>title</i>", "<u>", "<script>alert(1)</script>"):
        assert text in found.texts
    assert not {"i", "u", "script"} & set(found.tags)
    assert found.tags.count("b") == 1


def test_images_stand_in_rows_best_first() -> None:
    sheet = drawn_sheet("Sheet", [shown(1, RED), shown(2, GREEN), shown(3, BLUE)], columns=2)
    flat = sheet.reshape(-1, 3).astype(int)
    places = []
    for color in (RED, GREEN, BLUE):
        near = (np.abs(flat - color).max(axis=1) < 12).reshape(sheet.shape[:2])
        rows, columns = np.nonzero(near)
        assert abs(len(rows) - CELL * round(CELL * 60 / 90)) < 0.03 * CELL**2  # enlarged to the cell
        places.append((rows.mean(), columns.mean()))
    (red, green, blue) = places
    assert red[0] == pytest.approx(green[0], abs=1)
    assert green[1] - red[1] == pytest.approx(CELL, abs=20)
    assert blue[1] == pytest.approx(red[1], abs=1)
    assert blue[0] - red[0] == pytest.approx(CELL * 60 / 90 + CAPTION, abs=1)  # no higher than its images


def test_bars_are_as_long_as_the_share() -> None:
    found = Page(page("Sheet", [("All", [shown(1, RED, share=1.0), shown(2, RED, share=0.25)])]))
    assert found.meters == [1.0, 0.25]
    bar = np.array((0, 114, 178))
    for share in (0.0, 0.3, 1.0):
        sheet = drawn_sheet("Sheet", [shown(1, RED, share=share)])
        lengths = (sheet == bar).all(axis=2).sum(axis=1)
        assert lengths.max() == round(share * CELL)
        assert (lengths > 0).sum() in ((0,) if share == 0 else (4,))
    assert drawn_sheet("Nothing here", []).shape[2] == 3
    assert "figure" not in Page(page("Nothing here", [])).tags


def test_tall_and_wide_images_keep_their_aspect() -> None:
    tall = Shown(1, "tall", 0.5, "", jpeg_of(image(RED, (400, 100)), 320))
    assert Image.open(io.BytesIO(tall.jpeg)).size == (80, 320)
    sheet = drawn_sheet("Sheet", [tall]).astype(int)
    rows, columns = np.nonzero(np.abs(sheet - RED).max(axis=2) < 12)
    assert np.ptp(rows) + 1 == CELL
    assert np.ptp(columns) + 1 == CELL // 4
