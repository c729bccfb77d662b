import cv2
import numpy as np
from scipy import ndimage

from ops.masks.distances import distances


def test_distances_are_exact_at_any_memory_offset() -> None:
    used = cv2.ipp.useIPP()
    given = np.random.default_rng(0).random((100, 110)) < 0.01
    expected = ndimage.distance_transform_edt(~given).astype(np.float32)
    memory = np.zeros(given.size + 64, dtype=bool)
    for offset in range(64):
        placed = memory[offset : offset + given.size].reshape(given.shape)
        placed[:] = given
        assert np.array_equal(distances(placed), expected)
    assert cv2.ipp.useIPP() == used
