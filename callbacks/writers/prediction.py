"""What the Python API returns for one image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a task predicts for one image. Fields that the task does not predict are empty.

    Attributes:
        name: Name of the image's file, or its index in a list.
        masks: By class, bool (H, W) at the image's size, or at the data module's `output_size`.
        probability: For segmentation float32 (K, H, W), one map per class; for aesthetics that of a professional shot.
        scores: Values by name: `probability`, `mean` and `spread` of the votes, or color metrics; NaN if unknown.
        image: The image in color, uint8 (H, W, 3), of colorization.
        problem: Why the image could not be used; "" if it could.
        outlined: Computes `polygons`.
    """

    name: str
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    probability: NDArray[np.float32] | float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    problem: str = ""
    outlined: Callable[[], dict[str, Any]] | None = field(default=None, repr=False)

    @cached_property
    def polygons(self) -> dict[str, Any] | None:
        """The masks as a GeoJSON FeatureCollection, a MultiPolygon per class in pixels; None without masks.

        x points to the right and y down; whole numbers are pixel centers. Computed at the first use.
        """
        return None if self.outlined is None else self.outlined()
