"""From probabilities to masks: thresholds and minimum areas, and the search for the best ones."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from ops.masks.regions import least_areas, region_overlaps, without_small_regions
from tasks.calibration import Temperature
from tasks.metrics.dice import DICE_UNITS, as_bool, check_shapes, counting, dice_units, mean_dice

HALF = 0.5  # the threshold where none is given or fitted


class Decision(nn.Module):
    """Marks a class where its probability reaches a threshold, in regions no smaller than a minimum area.

    `callbacks.thresholds` fits both on the validation images after training; the checkpoint keeps them.

    Args:
        classes: Number K of classes.
        threshold: Initial threshold of every class.
        minimum_pixels: Smallest region in pixels that is kept in images of any size, besides the fitted minimum areas,
            which are shares of an image.
        presence: Whether a class also needs a probability of being in the image, see `gated`.

    Attributes:
        temperature: Calibrates probabilities before they are compared with the thresholds; `belvedere pool` fits it.
    """

    thresholds: Tensor
    minimum_areas: Tensor
    presence_thresholds: Tensor

    def __init__(self, classes: int, threshold: float = HALF, minimum_pixels: int = 0, presence: bool = False) -> None:
        super().__init__()
        self.initial_threshold, self.minimum_pixels = threshold, minimum_pixels
        self.register_buffer("thresholds", torch.full((classes,), threshold))
        self.register_buffer("minimum_areas", torch.zeros(classes))
        self.temperature = Temperature(classes)
        self.presence = presence
        if presence:
            self.register_buffer("presence_thresholds", torch.zeros(classes))

    def reset(self) -> None:
        """Restores the initial threshold, minimum areas and presence thresholds of 0, and a temperature of 1."""
        self.temperature.set(torch.ones_like(self.temperature.values))
        self.thresholds.fill_(self.initial_threshold)
        self.minimum_areas.zero_()
        if self.presence:
            self.presence_thresholds.zero_()

    def gated(self, probability: Tensor, presence: Tensor) -> Tensor:
        """Returns pixel probabilities with 0 where a class is not present.

        Args:
            probability: (B, K, H, W).
            presence: Probability (B, K) that an image shows each class; below the fitted threshold it does not.
        """
        return probability * (presence >= self.presence_thresholds)[:, :, None, None]

    def marked(self, probability: Tensor) -> Tensor:
        """Returns which pixels reach their class's threshold: bool, for probabilities (B, K, H, W)."""
        return probability >= self.thresholds.view(-1, 1, 1)

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """Returns the smallest region of each class that is kept in an image, as a share of its height times width."""
        return least_areas(self.minimum_areas.tolist(), self.minimum_pixels, size)

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of a whole image without the regions below their class's minimum area."""
        return without_small_regions(masks, self.least_areas((masks.shape[1], masks.shape[2])))

    def masks(self, probability: Tensor) -> Tensor:
        """Returns masks, bool, for probabilities (B, K, H, W); in training, which sees tiles, small regions stay.

        The regions are found on the CPU.
        """
        marked = self.marked(probability)
        if self.training or not (self.minimum_pixels or self.minimum_areas.any()):  # the host waits for the device here
            return marked
        areas = self.least_areas((marked.shape[-2], marked.shape[-1]))
        kept = [torch.from_numpy(without_small_regions(mask.numpy(), areas)) for mask in marked.cpu()]
        return torch.stack(kept).to(marked.device)


THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
GAIN_UNITS = 2**10  # gains are squared in units of 2⁻²⁰, so that their sum over a million images fits
PRESENCES = (0.0, *THRESHOLDS)
MINIMUM_AREAS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)


class ThresholdSearch(Metric):
    """Finds, for each class, the threshold and minimum area on a grid that give the best dice.

    A predicted mask holds the pixels whose probability reaches the threshold, without the 8-connected regions smaller
    than the minimum area. Its dice is the `dice` of `tasks.metrics.dice.DiceScores`: the mean over images, where two
    empty masks count 1. Among equal cells the threshold nearest to 0.5 wins (the lower of two equally near), then the
    smallest minimum area.

    With `presence`, a third threshold is searched together with these two: the probability of being in the image at all
    below which a class is not marked.

    On few images the best cell may win by chance. With `caution`, only cells count whose gain in dice over threshold
    0.5 and area 0, averaged over the images, is more than that many standard errors of this mean above 0; where there
    is none, and with a single image, 0.5 and 0 stay.

    Args:
        classes: Names of the K classes, in the order of the maps.
        thresholds: Probabilities in [0, 1] to try; 0.5 must be among them.
        minimum_areas: Shares of the image's area in [0, 1] to try; 0 must be among them.
        caution: Number of standard errors, at least 0; 0 takes the best cell.
        presence: Whether to search presence thresholds too, `PRESENCES`.

    Raises:
        ValueError: 0.5 or 0 is missing, or `caution` is negative.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    dice_sum: Tensor
    gain_squares: Tensor
    images: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        thresholds: Sequence[float] = THRESHOLDS,
        minimum_areas: Sequence[float] = MINIMUM_AREAS,
        caution: float = 0.0,
        presence: bool = False,
    ) -> None:
        super().__init__()
        if not caution >= 0:
            raise ValueError(f"caution is {caution}; expected a number of standard errors, 0 or more")
        if 0.5 not in thresholds or 0 not in minimum_areas:
            raise ValueError(
                f"thresholds are {list(thresholds)} and minimum_areas {list(minimum_areas)}; expected 0.5 among the "
                "thresholds and 0 among the areas, the baseline that the gain is measured against: add them"
            )
        self.class_count, self.caution = len(classes), caution
        # Of equal cells the first one wins: 0.5 and 0 come first.
        self.thresholds = sorted(thresholds, key=lambda value: (round(abs(value - 0.5), 6), value))
        self.minimum_areas = sorted(minimum_areas)
        self.presences = PRESENCES if presence else PRESENCES[:1]
        grid = torch.zeros(len(classes), len(thresholds), len(minimum_areas), len(self.presences), dtype=torch.int64)
        self.add_state("dice_sum", grid, dist_reduce_fx="sum")
        self.add_state("gain_squares", grid.clone(), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, probability: Tensor, target: Tensor, valid: Tensor | None = None, presence: Tensor | None = None
    ) -> None:
        """Adds a batch. Regions are found on the CPU.

        Args:
            probability: Probabilities in [0, 1], (B, K, H, W).
            target: True masks, (B, K, H, W): bool, or numbers, where values above one half count as 1.
            valid: True where a pixel counts, (B, 1, H, W). Others belong to no region. All count by default;
                an image without any does not count.
            presence: Probability in [0, 1] that an image shows each class, (B, K); 1 by default.

        Raises:
            ValueError: A shape is not (B, K, H, W), or the two differ.
        """
        check_shapes(self.class_count, probability=probability, target=target)
        presence = torch.ones(probability.shape[:2]) if presence is None else presence.float().cpu()
        if valid is not None:
            some = valid.flatten(1).any(dim=1)
            probability, target = probability.masked_fill(~valid, -1)[some], counting(target, valid)[some]
            presence = presence[some.cpu()]
        probabilities, truths = probability.float().cpu().numpy(), as_bool(target).cpu().numpy()
        for image_probabilities, image_truths, present in zip(probabilities, truths, presence, strict=True):
            for index in range(self.class_count):
                overlap, marked = self._counts(image_probabilities[index], image_truths[index])
                nothing = 0 if image_truths[index].any() else DICE_UNITS
                kept = present[index] >= torch.tensor(self.presences)
                units = torch.where(kept, dice_units(overlap, marked)[..., None], nothing).to(self.dice_sum.device)
                self.dice_sum[index] += units
                self.gain_squares[index] += ((units - units[0, 0, 0]) // GAIN_UNITS).square()
        self.images += len(target)

    def compute(self) -> dict[str, Tensor]:
        """Returns the best cell of each class.

        Returns:
            `thresholds`, `minimum_areas` (shares of the image's area), `presence_thresholds` if these are searched, and
            `dice` of the best cells, and `dice_at_half`, the dice at threshold 0.5 with all regions kept; each float32
            (K,).
        """
        sums = self.dice_sum.flatten(start_dim=1)
        best = sums.where(self._clear(sums), -1).argmax(dim=1)  # the first of equal ones
        grid = list(product(self.thresholds, self.minimum_areas, self.presences))
        cells = torch.tensor(grid, dtype=torch.float32, device=sums.device)
        presence = {"presence_thresholds": cells[best, 2]} if len(self.presences) > 1 else {}
        return {
            "thresholds": cells[best, 0],
            "minimum_areas": cells[best, 1],
            **presence,
            "dice": mean_dice(sums.gather(1, best.unsqueeze(1)).squeeze(1), self.images),
            "dice_at_half": mean_dice(sums[:, 0], self.images),
        }

    def _clear(self, sums: Tensor) -> Tensor:
        """Returns which cells gain enough, bool (K, cells); the first always does."""
        clear = torch.ones_like(sums, dtype=torch.bool)
        if self.caution:
            count = int(self.images)
            totals, squares = (sums - sums[:, :1]).cpu(), self.gain_squares.flatten(start_dim=1).cpu()
            gain = totals.double() / (GAIN_UNITS * count)
            variance = (squares.double() / count - gain.square()).clamp(min=0) / max(count - 1, 1)
            clear = ((gain > self.caution * variance.sqrt()) & (count > 1)).to(sums.device)
            clear[:, 0] = True
        return clear

    def _counts(self, probability: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Returns TP and 2 TP + FP + FN of one image and class, int64 (thresholds, minimum areas) each."""
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
