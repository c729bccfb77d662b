import io

import numpy as np
import pytest
from PIL import Image

from drawing.overview import jpeg_of
from drawing.sheet import CAPTION, CELL, Shown, drawn_sheet

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (20, 60, 200)


def image(color: tuple[int, int, int], size: tuple[int, int] = (60, 90)) -> np.ndarray:
    return np.full((*size, 3), color, np.uint8)


def shown(rank: int, color: tuple[int, int, int], name: str = "a.jpg", share: float = 0.5) -> Shown:
    return Shown(rank, name, share, f"note {rank}", jpeg_of(image(color), 320))


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
    bar = np.array((0, 114, 178))
    for share in (0.0, 0.3, 1.0):
        sheet = drawn_sheet("Sheet", [shown(1, RED, share=share)])
        lengths = (sheet == bar).all(axis=2).sum(axis=1)
        assert lengths.max() == round(share * CELL)
        assert (lengths > 0).sum() in ((0,) if share == 0 else (4,))
    assert drawn_sheet("Nothing here", []).shape[2] == 3


def test_tall_and_wide_images_keep_their_aspect() -> None:
    tall = Shown(1, "tall", 0.5, "", jpeg_of(image(RED, (400, 100)), 320))
    assert Image.open(io.BytesIO(tall.jpeg)).size == (80, 320)
    sheet = drawn_sheet("Sheet", [tall]).astype(int)
    rows, columns = np.nonzero(np.abs(sheet - RED).max(axis=2) < 12)
    assert np.ptp(rows) + 1 == CELL
    assert np.ptp(columns) + 1 == CELL // 4
