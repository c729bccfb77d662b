"""What is marked of probabilities: thresholds and minimum areas, kept in the checkpoint."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from ops.regions import region_overlaps, without_small_regions
from tasks.metrics.dice import as_bool, check_shapes, dice_units, mean_dice


class Decision(nn.Module):
    """Marks a class where its probability reaches a threshold, in regions no smaller than a minimum area.

    Both start at .5 and 0; `callbacks.thresholds` fits them on the validation pictures after training. In training no
    region is too small.

    Args:
        classes: Number K of classes.
    """

    thresholds: Tensor
    minimum_areas: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.full((classes,), 0.5))
        self.register_buffer("minimum_areas", torch.zeros(classes))

    def reset(self) -> None:
        """Unfits thresholds and areas."""
        self.thresholds.fill_(0.5)
        self.minimum_areas.zero_()

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels reach their class's threshold, bool, of probabilities (B, K, H, W)."""
        return probability >= self.thresholds.view(-1, 1, 1)

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The masks (K, H, W) of a whole picture without the regions below their class's minimum area."""
        return without_small_regions(masks, self.minimum_areas.tolist())

    def masks(self, probability: Tensor) -> Tensor:
        """Masks of whole pictures, bool, of probabilities (B, K, H, W); regions are found on the CPU."""
        marked = self.marked(probability)
        if self.training or not self.minimum_areas.any():  # which makes the host wait for the device
            return marked
        return torch.stack([torch.from_numpy(self.cleaned(mask.numpy())) for mask in marked.cpu()]).to(marked.device)


THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MINIMUM_AREAS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)


class ThresholdSearch(Metric):
    """Dice of every threshold and minimum area on a grid, by class, and the best of them.

    A predicted mask holds the pixels whose probability reaches the threshold, without the 8-connected
    regions smaller than the minimum area. Its dice is the `dice` of `tasks.metrics.dice.DiceScores`: the mean over
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
