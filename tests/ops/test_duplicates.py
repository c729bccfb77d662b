import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ops.duplicates import same, thumbnails, views


def picture(seed: int, size: tuple[int, int] = (150, 200)) -> np.ndarray:
    """An image with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.normal(size=(*size, 3)), (s, s, 0)) * s for s in (2, 6, 20)]
    return cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


PICTURES = [picture(seed) for seed in range(12)]


@pytest.mark.parametrize(
    "alter",
    [
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR),
        lambda image: cv2.resize(image, (90, 60), interpolation=cv2.INTER_AREA),
        lambda image: np.clip(image * 1.2 + 10, 0, 255).astype(np.uint8),
        lambda image: np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3),
        lambda image: image[3:-3, 4:-4],
    ],
    ids=["jpeg", "smaller", "brighter", "gray", "cropped"],
)
def test_altered_copies_are_found_and_nothing_else(alter) -> None:  # noqa: ANN001  # a lambda
    found = list(same(thumbnails(PICTURES), thumbnails([np.ascontiguousarray(alter(each)) for each in PICTURES])))
    assert [(pair.left, pair.right, pair.view) for pair in sorted(found)] == [(k, k, 0) for k in range(len(PICTURES))]


@pytest.mark.parametrize("view", range(8))
def test_mirrored_and_turned_copies_are_found(view: int) -> None:
    image = picture(3, (160, 160))
    [pair] = same(thumbnails([np.ascontiguousarray(_turned(image, view))]), thumbnails([image]))
    assert (pair.view, pair.similarity) == (view, pytest.approx(1, abs=0.01))


def _turned(image: np.ndarray, view: int) -> np.ndarray:
    return np.dstack([views(image[..., channel])[view] for channel in range(3)])


def test_images_without_details_resemble_nothing() -> None:
    slope = np.repeat(np.linspace(40, 120, 200)[None], 150, axis=0)[..., None].repeat(3, axis=2).astype(np.uint8)
    flat = np.full((150, 200, 3), 90, np.uint8)
    assert list(same(thumbnails([slope, flat]), thumbnails([slope, flat]))) == []


def test_many_images_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(same(thumbnails(PICTURES), thumbnails(PICTURES)))
    monkeypatch.setattr("ops.duplicates.BLOCK", 200)
    assert list(same(thumbnails(PICTURES), thumbnails(PICTURES))) == whole
