from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.writers.segmentation.mask_files import ReducedMask, mask_file
from drawing.pictures import scaled_masks

SIZE = (97, 61)


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(0).random(SIZE) < 0.3


@pytest.mark.parametrize("height", [1, 10, 97])
def test_any_bands_make_the_same_image(height: int, mask: np.ndarray, tmp_path: Path) -> None:
    with mask_file(tmp_path / "mask.png", SIZE) as append:
        for top in range(0, SIZE[0], height):
            append(mask[top : top + height])
    with Image.open(tmp_path / "mask.png") as image:
        image.verify()
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), 255 * mask)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_incomplete_masks_leave_no_file(mask: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 96 rows;"), mask_file(tmp_path / "a.png", SIZE) as append:
        append(mask[:96])
    with pytest.raises(ValueError, match="got 98 rows of 61 pixels"), mask_file(tmp_path / "b.png", SIZE) as append:
        append(np.concatenate([mask, mask[:1]]))
    with pytest.raises(ValueError, match="97 rows of 60 pixels"), mask_file(tmp_path / "c.png", SIZE) as append:
        append(mask[:, 1:])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reduced", [(97, 61), (40, 25), (1, 1), (96, 60), (33, 61)])
@pytest.mark.parametrize("height", [1, 10, 97])
def test_a_reduced_mask_is_that_of_the_whole(reduced: tuple[int, int], height: int, mask: np.ndarray) -> None:
    found = ReducedMask(SIZE, reduced)
    for top in range(0, SIZE[0], height):
        found.add(mask[top : top + height])
    [expected] = scaled_masks(mask[None], reduced[1], reduced[0])
    np.testing.assert_array_equal(found.mask, expected)
    assert found.present
    nothing = ReducedMask(SIZE, reduced)
    nothing.add(np.zeros(SIZE, bool))
    assert not nothing.present
