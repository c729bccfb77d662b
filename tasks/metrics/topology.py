"""Metrics of roads that forgive small shifts, and one of their connections."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ops.geo.apls import path_similarity
from ops.geo.centerlines import center_lines
from ops.masks.distances import distances
from tasks.metrics.dice import check_shapes, counting

SIMILARITY_UNITS = 2**20  # similarities are summed in integer units of 2⁻²⁰: the order does not matter


class RelaxedScores(Metric):
    """Precision and recall of roads that may be some pixels off, over all pixels of all images.

    As in Mnih and Hinton, "Learning to detect roads in high-resolution aerial images", ECCV 2010. A metric whose
    denominator is 0 is 0.

    - `relaxed_precision`: the share of predicted pixels that are at most `buffer` pixels from a true one
    - `relaxed_recall`: the share of true pixels that are at most `buffer` pixels from a predicted one
    - `relaxed_f1`: the harmonic mean of both

    Args:
        buffer: Distance between the centers of pixels.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    predicted_near: Tensor
    predicted_pixels: Tensor
    true_near: Tensor
    true_pixels: Tensor

    def __init__(self, buffer: float = 3.0) -> None:
        super().__init__()
        self.buffer = buffer
        for name in ("predicted_near", "predicted_pixels", "true_near", "true_pixels"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Predicted masks, (B, 1, H, W): bool, or numbers, where values above one half count as 1.
            target: True masks, likewise.
            valid: True where a pixel counts, (B, 1, H, W). Others belong to no mask. All count by default.

        Raises:
            ValueError: A shape is not (B, 1, H, W), or the two differ.
        """
        for predicted, true in _pairs(prediction, target, valid):
            self.predicted_near += _near(predicted, true, self.buffer)
            self.true_near += _near(true, predicted, self.buffer)
            self.predicted_pixels += int(np.count_nonzero(predicted))
            self.true_pixels += int(np.count_nonzero(true))

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics in [0, 1] by name, each a scalar."""
        precision = int(self.predicted_near) / max(1, int(self.predicted_pixels))
        recall = int(self.true_near) / max(1, int(self.true_pixels))
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
        found = {"relaxed_precision": precision, "relaxed_recall": recall, "relaxed_f1": f1}
        return {name: torch.tensor(value, device=self.true_near.device) for name, value in found.items()}


class PathSimilarity(Metric):
    """The mean over images of `ops.geo.apls.path_similarity` between the center lines of predicted and true roads.

    - `apls`: the mean, in [0, 1]; images without a true route do not count, and without any it is 0.

    Args:
        pixel_size: Meters per pixel: routes are measured in meters, see `path_similarity`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    similarity_sum: Tensor
    pictures: Tensor

    def __init__(self, pixel_size: float = 1.0) -> None:
        super().__init__()
        self.pixel_size = pixel_size
        for name in ("similarity_sum", "pictures"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Predicted masks, (B, 1, H, W): bool, or numbers, where values above one half count as 1.
            target: True masks, likewise.
            valid: True where a pixel counts, (B, 1, H, W). Others belong to no mask. All count by default.

        Raises:
            ValueError: A shape is not (B, 1, H, W), or the two differ.
        """
        affine = (self.pixel_size, 0.0, 0.0, 0.0, self.pixel_size, 0.0)
        for masks in _pairs(prediction, target, valid):
            predicted, true = (center_lines(mask).transformed(affine) for mask in masks)
            similarity = path_similarity(true, predicted)
            if similarity is not None:
                self.similarity_sum += round(similarity * SIMILARITY_UNITS)
                self.pictures += 1

    def compute(self) -> dict[str, Tensor]:
        """Returns the similarity by its name, a scalar."""
        mean = int(self.similarity_sum) / SIMILARITY_UNITS / max(1, int(self.pictures))
        return {"apls": torch.tensor(mean, dtype=torch.float32, device=self.similarity_sum.device)}


def _pairs(
    prediction: Tensor, target: Tensor, valid: Tensor | None
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Returns the predicted and the true mask of each image."""
    check_shapes(1, prediction=prediction, target=target)
    predicted, true = (counting(masks, valid)[:, 0].cpu().numpy() for masks in (prediction, target))
    return list(zip(predicted, true, strict=True))


def _near(mask: NDArray[np.bool_], other: NDArray[np.bool_], buffer: float) -> int:
    """Returns how many pixels of a mask are at most this far from those of another."""
    return int(np.count_nonzero(distances(other)[mask] <= buffer)) if mask.any() and other.any() else 0
