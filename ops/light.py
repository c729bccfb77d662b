"""Tells sunny from shady photographs by the peak of their brightness.

After figure 10 of Alharbi et al., "Predicting avalanche field in images using convolutional neural networks and edge
detection", 2020.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

BIN = 8  # levels per bin of a histogram
SUNNY = 200  # lowest brightness peak of a sunny image
CONDITIONS = ("sunny", "shady")


def level_counts(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the number of values in each bin of `BIN` levels (32,)."""
    return np.bincount(levels.ravel() // BIN, minlength=256 // BIN)


def peak(levels: NDArray[np.uint8]) -> float:
    """Returns the center of the fullest bin, 0 to 255."""
    return BIN * (float(level_counts(levels).argmax()) + 0.5)


def condition_for(brightness: float) -> str:
    """Returns sunny for a brightness peak in [200, 255], otherwise shady."""
    return CONDITIONS[0] if brightness >= SUNNY else CONDITIONS[1]


def condition_of(image: NDArray[np.uint8]) -> str:
    """Returns the condition of an image (H, W, 3)."""
    return condition_for(peak(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8)))
