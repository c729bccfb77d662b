"""The probability threshold and the smallest region worth keeping, searched for each class."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from ops.regions import region_overlaps
from tasks.metrics import as_bool, check_shapes, dice_units, mean_dice

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MINIMUM_AREAS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)


class ThresholdSearch(Metric):
    """Dice of every threshold and minimum area on a grid, by class, and the best of them.

    A predicted mask holds the pixels whose probability reaches the threshold, without the 8-connected
    regions smaller than the minimum area. Its dice is the `dice` of `tasks.metrics.DiceScores`: the mean over
    images, where two empty masks count 1. Of cells that score the same, the one nearest to threshold 0.5 is
    best (the lower of two as near), then the one with the smallest minimum area.

    Args:
        classes: Names of the K classes, in the order of the maps.
        thresholds: Probabilities in [0, 1] to try; 0.5 must be among them.
        minimum_areas: Shares of the picture's area in [0, 1] to try; 0 must be among them.

    Raises:
        ValueError: 0.5 or 0 is missing.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    dice_sum: Tensor
    images: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        thresholds: Sequence[float] = THRESHOLDS,
        minimum_areas: Sequence[float] = MINIMUM_AREAS,
    ) -> None:
        super().__init__()
        if 0.5 not in thresholds or 0 not in minimum_areas:
            raise ValueError(
                f"thresholds are {list(thresholds)} and minimum_areas {list(minimum_areas)}; wanted are 0.5 "
                "among the first and 0 among the second, to measure the gain against: add them"
            )
        self.class_count = len(classes)
        # The order in which cells of equal dice are preferred; 0.5 and 0 come first.
        self.thresholds = sorted(thresholds, key=lambda value: (round(abs(value - 0.5), 6), value))
        self.minimum_areas = sorted(minimum_areas)
        grid = torch.zeros(len(classes), len(thresholds), len(minimum_areas), dtype=torch.int64)
        self.add_state("dice_sum", grid, dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add a batch. Regions are found on the CPU.

        Args:
            probability: Probabilities in [0, 1], (B, K, H, W).
            target: True masks, (B, K, H, W): bool, or numbers of which those above one half are 1.

        Raises:
            ValueError: A shape is not (B, K, H, W), or the two differ.
        """
        check_shapes(self.class_count, probability=probability, target=target)
        probabilities, truths = probability.float().cpu().numpy(), as_bool(target).cpu().numpy()
        for image_probabilities, image_truths in zip(probabilities, truths, strict=True):
            for index in range(self.class_count):
                overlap, marked = self._counts(image_probabilities[index], image_truths[index])
                self.dice_sum[index] += dice_units(overlap, marked).to(self.dice_sum.device)
        self.images += len(target)

    def compute(self) -> dict[str, Tensor]:
        """The best cell of each class.

        Returns:
            `thresholds`, `minimum_areas` (shares of the picture's area) and `dice` of the best cells, and
            `dice_at_half`, the dice at threshold 0.5 with every region kept; each float32 (K,).
        """
        sums = self.dice_sum.flatten(start_dim=1)
        best = sums.argmax(dim=1)  # the first of equal ones
        grid = list(product(self.thresholds, self.minimum_areas))
        cells = torch.tensor(grid, dtype=torch.float32, device=sums.device)
        return {
            "thresholds": cells[best, 0],
            "minimum_areas": cells[best, 1],
            "dice": mean_dice(sums.gather(1, best.unsqueeze(1)).squeeze(1), self.images),
            "dice_at_half": mean_dice(sums[:, 0], self.images),
        }

    def _counts(self, probability: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """TP and 2 TP + FP + FN of one image and class, int64 (thresholds, minimum areas) each."""
        overlap = np.zeros((len(self.thresholds), len(self.minimum_areas)), np.int64)
        marked = np.full_like(overlap, np.count_nonzero(truth))
        for row, threshold in enumerate(self.thresholds):
            mask = probability >= threshold
            if mask.any():
                areas, intersections = region_overlaps(mask, truth)
                kept = (areas / truth.size)[:, None] >= self.minimum_areas  # (regions, minimum areas)
                overlap[row] = intersections @ kept
                marked[row] += areas @ kept
        return torch.from_numpy(overlap), torch.from_numpy(marked)
