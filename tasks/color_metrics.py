"""Scores of coloured pictures and of the floors they must beat, exact under several processes."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from ops.color_difference import SCORES, picture_scores
from tasks.color_floors import FLOORS

SCORE_UNITS = 2**20  # scores are summed in whole units of 2⁻²⁰: in any order the sum is the same


class ColorScores(Metric):
    """Means over the pictures of `ops.color_difference.picture_scores`; padding counts nowhere.

    - `psnr`: peak signal-to-noise ratio of the RGB values in decibels, each picture's at most 60
    - `ssim`: structural similarity; without pictures that have no 11 x 11 valid pixels in one place
    - `delta_e76`, `delta_e2000`: mean colour difference of a picture's pixels
    - `colorfulness`, `colorfulness_true`, `colorfulness_difference`: of Hasler and Süsstrunk, of prediction and truth,
      and how much more the prediction has; below 0 where it is paler than the truth

    0 while there is no picture.

    Args:
        names: Which of the scores.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    pictures: Tensor

    def __init__(self, names: Sequence[str] = SCORES) -> None:
        super().__init__()
        self.names = tuple(names)
        for state in ("sums", "pictures"):
            self.add_state(state, torch.zeros(len(self.names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: sRGB pictures in [0, 1], (B, 3, H, W). NaN counts as 0.
            target: True pictures, likewise.
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: The shapes do not belong together.
        """
        sums, pictures = _sums(picture_scores(prediction, target, valid, self.names))
        self.sums += sums
        self.pictures += pictures

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, each a scalar."""
        return dict(zip(self.names, _means(self.sums, self.pictures), strict=True))


class FloorScores(Metric):
    """`ColorScores` of pictures in the colours of each floor: `<floor>_<score>`, such as `mean_delta_e76`.

    Args:
        colored: Gives the pictures (B, 3, H, W) in the colours of each of `FLOORS`, by its name:
            `tasks.color_floors.Floors.colored`.
        names: Which of the scores.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    pictures: Tensor

    def __init__(
        self,
        colored: Callable[[Tensor], Mapping[str, Tensor]],
        names: Sequence[str] = ("psnr", "delta_e76", "delta_e2000"),
    ) -> None:
        super().__init__()
        self.colored = colored
        self.names = tuple(names)
        for state in ("sums", "pictures"):
            self.add_state(state, torch.zeros(len(FLOORS), len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            target: True sRGB pictures in [0, 1], (B, 3, H, W).
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: The shapes do not belong together.
        """
        pictures = self.colored(target)
        for row, floor in enumerate(FLOORS):
            sums, counts = _sums(picture_scores(pictures[floor], target, valid, self.names))
            self.sums[row] += sums
            self.pictures[row] += counts

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, each a scalar."""
        keys = [f"{floor}_{name}" for floor in FLOORS for name in self.names]
        return dict(zip(keys, _means(self.sums.flatten(), self.pictures.flatten()), strict=True))


def _sums(scores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of each score over the pictures that have it, in `SCORE_UNITS`, and their number."""
    values = torch.stack(list(scores.values()))  # (scores, B)
    found = ~values.isnan()
    units = (values.nan_to_num(0) * SCORE_UNITS).round().long()
    return units.sum(dim=1), found.sum(dim=1)


def _means(sums: Tensor, pictures: Tensor) -> list[Tensor]:
    # Python divides whole numbers of any size with one rounding; a tensor would round them to float32 first.
    pairs = zip(sums.tolist(), pictures.tolist(), strict=True)
    return [
        torch.tensor(total / SCORE_UNITS / max(1, count), dtype=torch.float32, device=sums.device)
        for total, count in pairs
    ]
