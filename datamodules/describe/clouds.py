"""Checks and describes a clouds dataset: the segmentation study, with test images and black pixels."""

import math

import numpy as np

from datamodules.clouds import CloudsDataModule
from datamodules.describe import segmentation
from datamodules.describe.study import Study, histogram
from ops.pictures import share_of_black


def problems(data: CloudsDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, its `test_images` included; see `segmentation.problems`."""
    tests = data.root / "test_images"
    return segmentation.problems(data, tests if tests.is_dir() else None)


def study(data: CloudsDataModule) -> Study:
    """Returns the data study of the thesis: figures 4.1 to 4.4, section 4.6 (black pixels) and examples as in 4.5.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    made, images = segmentation.study(data), data.decoded().pictures
    black = np.array(segmentation.measured(lambda row: share_of_black(images[row]), len(images), "black pixels"))
    made.tables["pictures"]["black"] = black.round(4)
    highest = max(0.1, math.ceil(black.max() * 10) / 10)
    made.charts["Black pixels, such as gaps between orbits"] = histogram(black, (0, highest), "share of the image")
    return made
