import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.writers.outlines import OutlineWriter
from callbacks.writers.uncertainty import Uncertainty
from tests.callbacks.writers.shared import predict
from tests.callbacks.writers.test_outlines import NAMES, Bright, Data


def test_undecided_pixels_are_white_and_undecided_images_first(tmp_path: Path) -> None:
    writer = OutlineWriter()
    writer.formats.append(Uncertainty())
    data = Data()
    predict(tmp_path, Bright(), data, writer)
    with (tmp_path / "uncertainty.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    means = {}
    for name in NAMES:
        drawn = np.asarray(Image.open(tmp_path / "uncertainty" / f"{Path(name).stem}.png")).astype(float) / 255
        means[name] = drawn.mean()
        if name == NAMES[2]:  # not halved: the probability is its brightness
            chance = data.sources[2][..., 0] / 255
            assert np.abs(drawn - 4 * chance * (1 - chance)).max() < 0.03
    assert [name for name, _ in rows] == sorted(NAMES, key=lambda name: -means[name])
    assert {name: float(value) for name, value in rows} == pytest.approx(means, abs=0.01)
