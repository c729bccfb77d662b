from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.avalanches import AvalanchesDataModule
from ops.errors import DataError

HEADER = "image,x0,y0,x1,y1\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures to predict, a box in the first."""
    rng = np.random.default_rng(0)
    for name in ("0.png", "5.png"):
        Image.fromarray(rng.integers(0, 256, (24, 36, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(f"{HEADER}0.png,3,2,18,9\n")
    return tmp_path


def test_boxes_among_pictures_to_predict_are_theirs(pictures: Path) -> None:
    root = pictures / "snow"
    root.mkdir()
    (root / "boxes.csv").write_text(f"{HEADER}5.png,0,0,5,5\n")  # of another picture of that name
    data = AvalanchesDataModule(root, window=9, pyramid_levels=1, pictures=pictures)
    data.setup("predict")
    boxed, whole = data.datasets["predict"][0, 0], data.datasets["predict"][0, 1]
    inside = torch.zeros(1, 24, 36, dtype=torch.bool)
    inside[:, 2:9, 3:18] = True
    assert torch.equal(boxed["inside"], inside)
    assert torch.equal(boxed["valid"], inside[:, ::2, ::2])
    assert not {"valid", "inside"} & whole.keys()


def test_a_box_of_no_picture_is_told(pictures: Path) -> None:
    (pictures / "boxes.csv").write_text(f"{HEADER}0.png,3,2,18,9\ngone.png,0,0,5,5\n")
    with pytest.raises(DataError, match=rf"row 3: there is no picture 'gone.png' in {pictures}\. Remove the row"):
        AvalanchesDataModule("snow", window=9, pictures=pictures).setup("predict")
    data = AvalanchesDataModule("snow", window=9, pictures=pictures / "0.png")
    data.setup("predict")  # of one picture the table may say more
    assert int(data.datasets["predict"][0, 0]["valid"].sum()) == 15 * 7
