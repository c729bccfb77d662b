from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from callbacks.writers.memory import Collector
from callbacks.writers.scores import ScoreWriter
from tasks.base import Batch
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes
from tests.datamodules.helpers import contents, csv_rows

NAMES = ["b.jpg", "one/same.png", "two/same.png", "broken.jpg", "best & last.jpg", "a.jpg"]
PROBABILITIES = [0.25, 0.75, 0.5, 0.99, 0.875, 0.25]
MEANS = [3.5, 6.5, 5.0, 9.0, 8.0, 4.0]
SPREADS = [1.0, 1.25, 1.5, 0.5, 2.0, 1.75]
GREYS = [20, 60, 100, 0, 180, 220]
ORDER = ["best & last.jpg", "one/same.png", "two/same.png", "a.jpg", "b.jpg"]


class Judge(LightningModule):
    """Gives the figures back that are in the batch.

    Args:
        votes: What of the votes it predicts.
    """

    def __init__(self, votes: bool = True) -> None:
        super().__init__()
        self.votes = votes

    def predict_step(self, batch: Batch, index: int) -> dict[str, Any]:
        rows = batch["index"]
        votes = {"mean": torch.tensor(MEANS)[rows], "spread": torch.tensor(SPREADS)[rows]}
        return {"probability": torch.tensor(PROBABILITIES)[rows], **(votes if self.votes else {"mean": None})}


class Album(Batches):
    """Six images in three batches, not sorted; the fourth cannot be read."""

    def __init__(self) -> None:
        super().__init__([self.batch(rows) for rows in ([4, 0], [1, 3, 2], [5])])

    def batch(self, rows: list[int]) -> Batch:
        bad = [NAMES[row].startswith("broken") for row in rows]
        return {
            "image": torch.zeros(len(rows), 3, 8, 8),
            "index": torch.tensor(rows),
            "name": [NAMES[row] for row in rows],
            "source": [
                np.full((0 if b else 400, 300, 3), GREYS[row], np.uint8) for row, b in zip(rows, bad, strict=True)
            ],
            "problem": ["broken.jpg is truncated." if b else "" for b in bad],
        }


def run(folder: Path, data: Album, votes: bool = True, **options: int) -> None:
    predict(folder, Judge(votes), data, ScoreWriter(**options))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    run(folder, Album())
    return folder


def test_the_table_has_the_best_first(written: Path) -> None:
    rows = csv_rows(written / "scores.csv")
    assert list(rows[0]) == ["name", "probability", "mean", "spread", "problem"]
    assert [row["name"] for row in rows] == [*ORDER, "broken.jpg"]
    for row in rows[:-1]:
        place = NAMES.index(row["name"])
        figures = [float(row[column]) for column in ("probability", "mean", "spread")]
        assert figures == [PROBABILITIES[place], MEANS[place], SPREADS[place]]
        assert row["problem"] == ""
    assert list(rows[-1].values()) == ["broken.jpg", "", "", "", "broken.jpg is truncated."]
    assert b"\r" not in (written / "scores.csv").read_bytes()


def test_without_votes_equal_probabilities_keep_the_order_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Album(), votes=False)
    rows = csv_rows(tmp_path / "scores.csv")
    assert [row["name"] for row in rows][3:5] == ["b.jpg", "a.jpg"]
    assert list(rows[0]) == ["name", "probability", "problem"]
    assert "mean vote" not in (tmp_path / "overview.html").read_text()
    monkeypatch.setitem(globals(), "PROBABILITIES", [0.25, float("nan"), 0.5, 0.99, 0.875, 0.1])
    run(tmp_path, Album(), votes=False)
    assert [row["name"] for row in csv_rows(tmp_path / "scores.csv")][-2:] == ["one/same.png", "broken.jpg"]


def test_the_page_has_the_best_first(written: Path) -> None:
    text = (written / "overview.html").read_text()
    parts = ["5 images", "87.5", 'alt="best &amp; last.jpg"', 'alt="one/same.png"',
             'alt="two/same.png"', 'alt="a.jpg"', 'alt="b.jpg"', "broken.jpg was skipped"]  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("data:image/jpeg") == 5
    assert (text.count("<br>professional shot"), text.count("<br>snapshot")) == (2, 3)


def test_the_sheet_shows_each_images_own_pixels(written: Path) -> None:
    sheet = np.asarray(Image.open(written / "contact_sheet.png").convert("RGB")).astype(int)
    middle = sheet[44 + 100]  # across the first row of cells, none of which is as wide as high
    assert [int(middle[12 + 212 * column + 100].mean()) for column in range(5)] == pytest.approx(
        [GREYS[NAMES.index(name)] for name in ORDER], abs=2
    )


def test_of_many_the_best_are_shown_and_all_are_in_the_table(tmp_path: Path) -> None:
    run(tmp_path, Album(), on_page=3, on_sheet=1)
    text = (tmp_path / "overview.html").read_text()
    assert text.count("<figure ") == 3
    assert "Of 5 images these are the 3" in text
    assert len(csv_rows(tmp_path / "scores.csv")) == 6
    # a cell and the margins, and as much as the title wants
    assert Image.open(tmp_path / "contact_sheet.png").height < 320


def test_without_usable_images_the_page_is_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = Album()
    data.loaders = [[data.batch([3] * 13)]]
    run(tmp_path, data)
    assert caplog.messages[-1].startswith("Images predicted: 0.\n")
    assert "<figure " not in (tmp_path / "overview.html").read_text()


def test_names_of_any_bytes_are_written(tmp_path: Path) -> None:
    data, name = Album(), b"caf\xe9, \xe2\x98\x95.jpg".decode(errors="surrogateescape")
    data.loaders[0][2]["name"] = [name]
    run(tmp_path, data)
    assert b'"caf\xe9, \xe2\x98\x95.jpg"' in (tmp_path / "scores.csv").read_bytes()
    assert "caf?, ☕.jpg" in (tmp_path / "overview.html").read_text(encoding="utf-8")


def test_two_processes_write_the_same_files(tmp_path: Path, written: Path) -> None:
    predict_in_processes(tmp_path, Judge(), Album(), ScoreWriter)
    assert contents(tmp_path) == contents(written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "contact_sheet.png", "overview.html", "scores.csv", "skipped.csv"
    ]  # fmt: skip


def test_in_memory_are_the_scores_in_the_order_of_the_data(tmp_path: Path) -> None:
    collector = Collector(ScoreWriter())
    predict(tmp_path, Judge(), Album(), collector)
    assert [image.name for image in collector.images] == NAMES
    assert [image.mean for image in collector.images if not image.problem] == [*MEANS[:3], *MEANS[4:]]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"on_page": 0}, {"on_sheet": 0}])
def test_sheets_without_images_are_rejected(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ScoreWriter(**wrong)
