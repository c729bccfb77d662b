"""Metrics of one class's masks over all pixels of a dataset, as in change detection and road extraction."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ops.masks.distances import distances
from tasks.metrics.dice import check_shapes, counting, pixel_counts


class PixelScores(Metric):
    """Metrics of binary masks from TP, FP, TN and FN, each first summed over all pixels of all images.

    As in Wang et al., "CDnet 2014: an expanded change detection benchmark dataset", CVPR workshops 2014, and `iou`.
    A metric whose denominator is 0 is 0.

    - `f_measure`: 2 P R / (P + R) = 2 TP / (2 TP + FP + FN) of precision P and recall R. It is the `dice_global` of
      `tasks.metrics.dice.DiceScores`, except that without any true or predicted pixel it is 0.
    - `precision`: TP / (TP + FP)
    - `recall`: TP / (TP + FN)
    - `specificity`: TN / (TN + FP)
    - `accuracy`: (TP + TN) / (TP + FP + TN + FN)
    - `iou`: TP / (TP + FP + FN)
    - `balanced_accuracy`: the mean of recall and specificity; only on request.

    Pixels are counted in integers, exact for any number of pixels and processes.

    Args:
        names: The metrics to report, in this order.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    true_negatives: Tensor

    def __init__(
        self, names: Sequence[str] = ("f_measure", "precision", "recall", "specificity", "accuracy", "iou")
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in ("true_positives", "false_positives", "false_negatives", "true_negatives"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Predicted masks, (B, 1, H, W): bool, or numbers, where values above one half count as 1.
            target: True masks, likewise.
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: A shape is not (B, 1, H, W), or the two differ.
        """
        check_shapes(1, prediction=prediction, target=target)
        predicted, true = counting(prediction, valid), counting(target, valid)
        overlap, predicted_pixels, true_pixels = (
            pixel_counts(mask).sum() for mask in (predicted & true, predicted, true)
        )
        self.true_positives += overlap
        self.false_positives += predicted_pixels - overlap
        self.false_negatives += true_pixels - overlap
        pixels = true.numel() if valid is None else pixel_counts(valid).sum()
        self.true_negatives += pixels - predicted_pixels - true_pixels + overlap

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics in [0, 1] by name, each a scalar."""
        # Python divides integers of any size with one rounding; a tensor would round them to float32 first
        tp, fp = int(self.true_positives), int(self.false_positives)
        fn, tn = int(self.false_negatives), int(self.true_negatives)
        fractions = {
            "f_measure": (2 * tp, 2 * tp + fp + fn),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
            "specificity": (tn, tn + fp),
            "accuracy": (tp + tn, tp + fp + tn + fn),
            "iou": (tp, tp + fp + fn),
            "balanced_accuracy": (tp * (tn + fp) + tn * (tp + fn), 2 * (tp + fn) * (tn + fp)),
        }
        found = {name: part / whole if whole else 0.0 for name, (part, whole) in fractions.items()}
        device = self.true_positives.device
        return {name: torch.tensor(found[name], dtype=torch.float32, device=device) for name in self.names}


DISTANCE_UNITS = 2**20  # distances are summed in integer units of 2⁻²⁰ pixels: the order does not matter


def hausdorff95(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns the symmetric 95 % Hausdorff distance between the outlines of two masks, in pixels.

    An outline is all mask pixels with one of their four neighbors outside the mask or the image. The result is the
    larger of the two 95th percentiles, interpolated linearly, of the distances from each pixel of one outline to the
    nearest pixel of the other, as in medical segmentation (MONAI's `compute_hausdorff_distance` with
    `percentile=95`).

    Args:
        mask: Mask of shape (H, W).
        other: Mask of the same shape.

    Returns:
        The distance; the length of the image's diagonal if one mask is empty, and 0 if both are.

    Raises:
        ValueError: A mask is not of shape (H, W), or the two differ in shape.
    """
    if mask.ndim != 2 or mask.shape != other.shape:
        raise ValueError(
            f"masks of shapes {mask.shape} and {other.shape}; expected one shape (H, W): give one mask of each at a "
            "time, resized to one size"
        )
    if not (mask.any() and other.any()):
        return float(np.hypot(*mask.shape)) if mask.any() or other.any() else 0.0
    left, top, width, height = cv2.boundingRect((mask | other).view(np.uint8))
    window = np.s_[top : top + height, left : left + width]  # no distance leaves it
    outline, other_outline = _outline(mask[window]), _outline(other[window])
    there = distances(other_outline)[outline]
    back = distances(outline)[other_outline]
    return float(max(np.percentile(found.astype(np.float64), 95) for found in (there, back)))


class BoundaryDistance(Metric):
    """The mean over images of `hausdorff95` between predicted and true outline, in pixels.

    - `hausdorff95`: the mean; 0 without images. An image where only the prediction or only the truth is empty counts
      with its diagonal.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    distance_sum: Tensor
    pictures: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("distance_sum", "pictures"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Predicted masks, (B, 1, H, W): bool, or numbers, where values above one half count as 1.
            target: True masks, likewise.
            valid: True where a pixel counts, (B, 1, H, W). Others belong to no mask. All count by default;
                an image without any does not count.

        Raises:
            ValueError: A shape is not (B, 1, H, W), or the two differ.
        """
        check_shapes(1, prediction=prediction, target=target)
        if valid is not None:
            some = valid.flatten(1).any(dim=1)
            prediction, target, valid = prediction[some], target[some], valid[some]
        predicted, true = (counting(masks, valid)[:, 0].cpu().numpy() for masks in (prediction, target))
        for masks in zip(predicted, true, strict=True):
            self.distance_sum += round(hausdorff95(*masks) * DISTANCE_UNITS)
        self.pictures += len(target)

    def compute(self) -> dict[str, Tensor]:
        """Returns the distance in pixels by its name, a scalar."""
        # Python divides integers of any size with one rounding; a tensor would round them to float32 first
        mean = int(self.distance_sum) / DISTANCE_UNITS / max(1, int(self.pictures))
        return {"hausdorff95": torch.tensor(mean, dtype=torch.float32, device=self.distance_sum.device)}


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the mask pixels with one of their four neighbors outside the mask or the array."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    inner: NDArray[np.uint8] = cv2.erode(pixels, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & ~inner.astype(np.bool_)
