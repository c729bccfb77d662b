from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from belvedere.__main__ import main
from belvedere.folds.doubts import reduced
from belvedere.folds.found import FoldResult
from belvedere.folds.panels import write_doubts
from tests.belvedere.folds.test_doubts import blob
from tests.belvedere.folds.test_pool import folds
from tests.helpers import table

__all__ = ["folds"]  # a fixture
PICTURES: Any = SimpleNamespace(picture=lambda name, side: np.full((60, 80, 3), 90, np.uint8))


def marked(name: str, label: np.ndarray, mask: np.ndarray) -> FoldResult:
    """What a network that marks `mask`, and is sure of it, finds of an image with this label."""
    small, guess = reduced(label), reduced(mask)
    quality = 2 * float((small * guess).sum()) / float(small.sum() + guess.sum())
    return FoldResult(name, 0, {}, quality, 0.97, 0.05, [], np.zeros(1, np.int64), small, guess, guess)


def test_swapped_and_shifted_masks_are_listed_with_panels(tmp_path: Path) -> None:
    masks = [blob(seed) for seed in range(8)]
    labels = list(masks)
    labels[1], labels[2] = masks[2], masks[1]
    labels[5] = np.roll(masks[5], (12, -16), (1, 2))
    found = [marked(f"{row}.png", *each) for row, each in enumerate(zip(labels, masks, strict=True))]
    lines = write_doubts(found, PICTURES, tmp_path)
    rows = {row["name"]: row["hint"] for row in table(tmp_path / "doubtful.csv")}
    assert rows.keys() == {"1.png", "2.png", "5.png"}
    assert rows["1.png"] == "swapped with 2.png?"
    assert "fits better moved" in rows["5.png"]
    assert any("swapped with 1.png?" in line for line in lines)
    with Image.open(tmp_path / "doubtful.png") as drawn:
        assert drawn.width > 3 * 300
    assert write_doubts([each for each in found if each.name not in rows], PICTURES, tmp_path) == []
    assert not (tmp_path / "doubtful.png").exists()


def test_judgements_that_are_sure_and_wrong_are_listed(tmp_path: Path) -> None:
    none = np.zeros((0, 1, 1), np.float32)
    found = [FoldResult(name, 0, {}, quality, expected, 0, [], None, none, none, none)
             for name, quality, expected in (("right", 1, 0.99), ("sure", 0, 0.95), ("unsure", 0, 0.6))]  # fmt: skip
    write_doubts(found, PICTURES, tmp_path)
    [row] = table(tmp_path / "doubtful.csv")
    assert (row["name"], row["hint"]) == ("sure", "the network is 95% sure of the other class")
    assert (tmp_path / "doubtful.png").is_file()


def test_describe_looks_at_labels_that_its_networks_have_not_seen(
    folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folds / "cells/0/seed-0/checkpoints/best.ckpt"
    assert main(["describe", "--ckpt_path", str(one), "--output", str(tmp_path / "one")]) == 0
    assert "of val and test is doubtful" in capsys.readouterr().out or table(tmp_path / "one/doubtful.csv")
    splits = {row["name"]: row["split"] for row in table(tmp_path / "one/pictures.csv")}
    assert all(splits[row["name"]] != "train" for row in table(tmp_path / "one/doubtful.csv"))
    assert main(["pool", str(folds), "--output", str(tmp_path / "pooled")]) == 0
    assert main(["describe", "--run", str(tmp_path / "pooled"), "--output", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all/doubtful.csv").read_text() == (tmp_path / "pooled/doubtful.csv").read_text()
    assert main(["describe", "--members", f"[{one}]", "--ckpt_path", str(one), "--output", str(tmp_path / "odd")]) == 2
    assert "different folds" in capsys.readouterr().err
