"""Distances on the grid of pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray


def distances(pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns the Euclidean distance (H, W) from the center of every pixel to that of the nearest given pixel.

    Args:
        pixels: Mask (H, W) of the given pixels, at least one.
    """
    # Intel IPP computes small masks with errors in the last bit that depend on memory alignment, so two runs differ;
    # OpenCV's own code is exact.
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        found: NDArray[np.float32] = cv2.distanceTransform((~pixels).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(used)
    return found
