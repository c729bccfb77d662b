import numpy as np
import pytest
import torch

from ops.exact.edges import grey
from ops.light import condition_of, peak


@pytest.mark.parametrize(("level", "expected"), [(199, "shady"), (200, "sunny"), (255, "sunny"), (0, "shady")])
def test_most_pixels_decide_not_their_mean(level: int, expected: str) -> None:
    image = np.full((20, 20, 3), level, np.uint8)
    image[:9] = 255 - level
    assert condition_of(image) == expected


def test_the_peak_is_that_of_numpys_histogram() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    gray = grey(torch.from_numpy(image).permute(2, 0, 1)[None]).numpy()
    counts, edges = np.histogram(gray, bins=32, range=(0, 256))
    assert peak(gray) == edges[counts.argmax()] + 4
