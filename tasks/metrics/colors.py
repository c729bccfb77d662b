"""Metrics of colored images, and the trivial baselines ("floors" in names) that they must beat."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ops.color.bins import SIDE, bins, rebalancing, smoothed, soft_encoding
from ops.color.lab import SCALE, luminance_and_chroma, to_rgb
from ops.color.quality import SCORES, picture_scores

SCORE_UNITS = 2**20  # values are summed in integer units of 2⁻²⁰: the order does not matter


class ColorScores(Metric):
    """Means over the images of `ops.color.quality.picture_scores`; padding does not count.

    - `psnr`: peak signal-to-noise ratio of the RGB values in decibels, at most 60 per image
    - `ssim`: structural similarity; skips images without a block of 11 x 11 valid pixels
    - `delta_e76`, `delta_e2000`: mean color difference of an image's pixels
    - `colorfulness`, `colorfulness_true`, `colorfulness_difference`: of Hasler and Süsstrunk, of prediction and truth,
      and the difference; below 0 if the prediction is paler

    0 without images.

    Args:
        names: The metrics to report.
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
        """Adds a batch.

        Args:
            prediction: sRGB images in [0, 1], (B, 3, H, W). NaN counts as 0.
            target: True images, likewise.
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: The shapes do not match.
        """
        sums, pictures = _sums(picture_scores(prediction, target, valid, self.names))
        self.sums += sums
        self.pictures += pictures

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics by name, each a scalar."""
        return dict(zip(self.names, _means(self.sums, self.pictures), strict=True))


class FloorScores(Metric):
    """`ColorScores` of images in the colors of each baseline: `<baseline>_<metric>`, such as `mean_delta_e76`.

    Args:
        colored: Returns images (B, 3, H, W) in the colors of each of `FLOORS`, by name: `Floors.colored`.
        names: The metrics to report.
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
        """Adds a batch.

        Args:
            target: True sRGB images in [0, 1], (B, 3, H, W).
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: The shapes do not match.
        """
        pictures = self.colored(target)
        for row, floor in enumerate(FLOORS):
            sums, counts = _sums(picture_scores(pictures[floor], target, valid, self.names))
            self.sums[row] += sums
            self.pictures[row] += counts

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics by name, each a scalar."""
        keys = [f"{floor}_{name}" for floor in FLOORS for name in self.names]
        return dict(zip(keys, _means(self.sums.flatten(), self.pictures.flatten()), strict=True))


def _sums(scores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sum of each metric over the images that have it, in `SCORE_UNITS`, and their number."""
    values = torch.stack(list(scores.values()))  # (scores, B)
    found = ~values.isnan()
    units = (values.nan_to_num(0) * SCORE_UNITS).round().long()
    return units.sum(dim=1), found.sum(dim=1)


def _means(sums: Tensor, pictures: Tensor) -> list[Tensor]:
    # Python divides integers of any size with one rounding; a tensor would round them to float32 first
    pairs = zip(sums.tolist(), pictures.tolist(), strict=True)
    return [
        torch.tensor(total / SCORE_UNITS / max(1, count), dtype=torch.float32, device=sums.device)
        for total, count in pairs
    ]


FLOORS = ("grey", "mean", "mean_by_luminance")
"""The trivial baselines, see `Floors`."""
STEPS = 101  # of L, from 0 to 100
CHROMA_UNITS = 2**15  # chroma is summed in integer units of 2⁻¹⁵: order and device do not matter
REACH = 13  # no sRGB color has an a or b beyond 13 bins from 0
ColorBatch = tuple[Tensor, Tensor, Tensor | None]
"""Scaled luminance (B, 1, H, W) and chroma (B, 2, H, W), and True where a pixel counts, (B, 1, H, W)."""


class Floors(nn.Module):
    """Trivial baselines that color without looking at the image, and how often colors occur, from the training images.

    - `grey`: no color
    - `mean`: the mean chroma of all pixels
    - `mean_by_luminance`: the mean chroma of the pixels with the same rounded L, or the nearest L that occurred

    The last two minimize the squared error of chroma over all training pixels for a model that knows nothing, and for
    one that knows a pixel's luminance. Before `fit` all three are gray. The checkpoint keeps them.

    Attributes:
        mean: Scaled chroma (2,).
        by_luminance: Scaled chroma for each whole L from 0 to 100, (101, 2).
        prior: Pixels in each of the color bins of `ops.color.bins.bins`, int64 (Q,); 0 before `fit`.
        centres: Centers of these bins in CIE units, (Q, 2); not in the checkpoint.
        weights: Loss weights of the bins, so that rare colors count as much as frequent ones, (Q,); 1 before `fit`. Not
            in the checkpoint, because they follow from the prior.
    """

    mean: Tensor
    by_luminance: Tensor
    prior: Tensor
    centres: Tensor
    weights: Tensor
    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        centres = bins()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("by_luminance", torch.zeros(STEPS, 2))
        self.register_buffer("prior", torch.zeros(len(centres), dtype=torch.int64))
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("weights", torch.ones(len(centres)), persistent=False)
        self.register_buffer("places", _places(centres), persistent=False)
        register: Any = self.register_load_state_dict_post_hook  # untyped there
        register(lambda floors, keys: floors._weigh())

    @property
    def fitted(self) -> bool:
        """Whether training images have been counted."""
        return bool(self.prior.any())

    @torch.no_grad()
    def fit(self, batches: Iterable[ColorBatch], total: Callable[[Tensor], Tensor] = lambda counts: counts) -> None:
        """Counts the training images once, from zero.

        Args:
            batches: Scaled luminance, scaled chroma, and the pixels that count (None: all), on any device.
            total: Sums an int64 tensor over the processes, if each has a part of the images.

        Raises:
            ValueError: No pixel counts.
        """
        device = self.mean.device
        sums = torch.zeros(STEPS, 2, dtype=torch.int64, device=device)
        pixels = torch.zeros(STEPS, dtype=torch.int64, device=device)
        prior = torch.zeros_like(self.prior)
        for luminance, chroma, valid in batches:
            counted = torch.ones_like(luminance, dtype=torch.bool) if valid is None else valid > 0
            step = _steps(luminance.to(device))[counted]
            colors = chroma.to(device).float().movedim(1, 3)[counted[:, 0]]  # (pixels, 2)
            sums.index_add_(0, step, (colors * CHROMA_UNITS).round().long())
            pixels += torch.bincount(step, minlength=STEPS)
            prior += torch.bincount(self._bins(colors), minlength=len(prior))
        sums, pixels, prior = total(sums), total(pixels), total(prior)
        if not pixels.any():
            raise ValueError("no pixel of the images counts; expected at least one: check `valid` and the split")
        self.mean.copy_(sums.sum(dim=0) / CHROMA_UNITS / pixels.sum())
        found = pixels.nonzero().flatten()
        means = sums[found] / CHROMA_UNITS / pixels[found, None]
        nearest = (torch.arange(STEPS, device=device)[:, None] - found).abs().argmin(dim=1)
        self.by_luminance.copy_(means[nearest])
        self.prior.copy_(prior)
        self._weigh()

    def _weigh(self) -> None:
        """Derives the weights from the prior; once, because reading the prior makes the host wait."""
        self.weights.copy_(rebalancing(smoothed(self.prior, self.centres)) if self.fitted else torch.ones(()))

    def chroma(self, luminance: Tensor) -> dict[str, Tensor]:
        """Returns each baseline's scaled chroma (B, 2, H, W) by name, for scaled luminance (B, 1, H, W)."""
        size = (len(luminance), 2, *luminance.shape[2:])
        by_luminance = self.by_luminance[_steps(luminance)[:, 0]].movedim(3, 1)
        mean = self.mean.view(1, 2, 1, 1).expand(size)
        return dict(zip(FLOORS, (torch.zeros_like(mean), mean, by_luminance), strict=True))

    @torch.no_grad()
    def colored(self, rgb: Tensor) -> dict[str, Tensor]:
        """Returns images (B, 3, H, W), sRGB in [0, 1], with the same luminance and each baseline's colors, by name."""
        luminance, _ = luminance_and_chroma(rgb)
        return {name: to_rgb(luminance, chroma) for name, chroma in self.chroma(luminance).items()}

    def _bins(self, colors: Tensor) -> Tensor:
        """Returns the bin of each scaled chroma (N, 2)."""
        row, column = ((colors * (SCALE / SIDE)).round().long().clamp(-REACH, REACH) + REACH).unbind(1)
        return self.places[row, column]


def _steps(luminance: Tensor) -> Tensor:
    """Returns integer L from 0 to 100 for scaled luminance."""
    return ((luminance.float() + 1) * 50).round().long().clamp(0, STEPS - 1)


def _places(centres: Tensor) -> Tensor:
    """Returns the bin of each square of the ab plane, or the nearest bin for a square without one."""
    steps = SIDE * torch.arange(-REACH, REACH + 1)
    squares = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))
    indices, _ = soft_encoding(squares[None], centres, neighbours=1)
    return indices[0, 0]
