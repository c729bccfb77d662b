"""Metrics of predicted masks and probabilities.

All states are integer sums: they do not depend on the order of batches or the number of processes, and training in
bfloat16, which casts the floating-point states of a metric, leaves them exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

DICE_UNITS = 2**30  # dice is summed in integer units of 2⁻³⁰: float32 values from 2⁻⁶ to 1 are exact
LOG_ODDS_LIMIT = 17.0  # the largest float32 below 1 is 1 - 2⁻²⁴, with log-odds of 16.6


class MeanLoss(Metric):
    """The mean of a loss over images; nan if a loss was nan.

    Like torchmetrics' MeanMetric, but without its search for nan, which makes the host wait for the device.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    pictures: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("pictures", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, pictures: int) -> None:
        """Adds the mean loss of a batch of this many images, a scalar."""
        self.total += loss * pictures
        self.pictures += pictures

    def compute(self) -> Tensor:
        """Returns the mean, a scalar; nan without images."""
        return self.total / self.pictures


class DiceScores(Metric):
    """Dice coefficients 2 TP / (2 TP + FP + FN) of binary masks, in all definitions in use.

    - `dice`: the mean over all (image, class) pairs, where a pair whose two masks are both empty counts 1.
      The metric of Kaggle's "Understanding Clouds from Satellite Images".
    - `dice_positive`: the mean over the pairs whose truth is not empty; 0 while there is no such pair.
    - `dice_global`: TP, FP and FN are summed over all images and classes first; 1 while all three are 0.
    - `dice_<class in lower case>`: `dice` of one class, if there are several.

    Args:
        classes: Names of the K classes, in the order of the masks.
        pooled: Whether to report `dice_global`.

    Raises:
        ValueError: Two metrics would have the same name.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    dice_sum: Tensor
    images: Tensor
    positive_dice_sum: Tensor
    positive_pairs: Tensor
    overlap: Tensor
    marked: Tensor

    def __init__(self, classes: Sequence[str], pooled: bool = True) -> None:
        super().__init__()
        self.class_count = len(classes)
        self.pooled = pooled
        self.class_keys = class_keys("dice", classes, taken=("dice_positive", "dice_global"))
        self.add_state("dice_sum", torch.zeros(len(classes), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("images", "positive_dice_sum", "positive_pairs", "overlap", "marked"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Predicted masks, (B, K, H, W): bool, or numbers, where values above one half count as 1.
            target: True masks, likewise.
            valid: True where a pixel counts, (B, 1, H, W). All count by default; an image without any does not count.

        Raises:
            ValueError: A shape is not (B, K, H, W), or the two differ.
        """
        check_shapes(self.class_count, prediction=prediction, target=target)
        predicted, true = counting(prediction, valid), counting(target, valid)
        overlap = pixel_counts(predicted & true)
        true_pixels = pixel_counts(true)
        marked = pixel_counts(predicted) + true_pixels  # 2 TP + FP + FN
        units = dice_units(overlap, marked)
        if valid is not None:
            units = units * valid.flatten(1).any(dim=1, keepdim=True)
        positive = true_pixels > 0
        self.dice_sum += units.sum(dim=0)
        self.images += len(target) if valid is None else valid.flatten(1).any(dim=1).sum()
        self.positive_dice_sum += (units * positive).sum()
        self.positive_pairs += positive.sum()
        self.overlap += overlap.sum()
        self.marked += marked.sum()

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics in [0, 1] by name, each a scalar."""
        by_class = mean_dice(self.dice_sum, self.images)
        scores = {
            "dice": by_class.mean(),
            "dice_positive": mean_dice(self.positive_dice_sum, self.positive_pairs),
        }
        if self.pooled:
            scores["dice_global"] = mean_dice(dice_units(self.overlap, self.marked), torch.ones_like(self.marked))
        # a single class has no key
        return scores | dict(zip(self.class_keys, by_class, strict=False))


class PixelAveragePrecision(Metric):
    """Average precision of pixel probabilities: the area under the precision-recall curve, in steps.

    AP = Σ (Rₙ − Rₙ₋₁) Pₙ with precision Pₙ and recall Rₙ at the n-th threshold, all pixels of a class pooled
    over all images. Pixels are counted in bins, and those in one bin are ties, so that memory does not grow with
    the data. The bins are equally wide in log-odds: a confident network puts most pixels within 0.001 of 0 or 1,
    which bins of equal width in probability could not separate. With 4000 bins
    the error stayed below 0.001 for log-odds of standard deviation 1 (hesitant), 3 and 10 (very confident).

    - `auprc`: the mean over the classes with true pixels; 0 while there is none.
    - `auprc_<class in lower case>`: of one class, if there are several; 0 without true pixels.

    Args:
        classes: Names of the K classes, in the order of the maps.
        bins: Number of bins.

    Raises:
        ValueError: Two metrics would have the same name.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    pixels: Tensor

    def __init__(self, classes: Sequence[str], bins: int = 4000) -> None:
        super().__init__()
        self.class_count = len(classes)
        self.class_keys = class_keys("auprc", classes)
        self.bins = bins
        histograms = torch.zeros(len(classes), 2, bins, dtype=torch.int64)  # axis 1: negatives, positives
        self.add_state("pixels", histograms, dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            probability: Probabilities in [0, 1], (B, K, H, W); NaN counts as 0.
            target: True masks, (B, K, H, W): bool, or numbers, where values above one half count as 1.
            valid: True where a pixel counts, (B, 1, H, W). All count by default.

        Raises:
            ValueError: A shape is not (B, K, H, W), or the two differ.
        """
        check_shapes(self.class_count, probability=probability, target=target)
        true = as_bool(target)
        # one class at a time fits into the cache: on a CPU ten times faster than one bincount for all
        for index in range(self.class_count):
            log_odds = torch.logit(probability[:, index].float(), eps=2**-24).nan_to_num(nan=-LOG_ODDS_LIMIT)
            position = ((log_odds / LOG_ODDS_LIMIT + 1) * (self.bins / 2)).int()
            position += true[:, index].int() * self.bins
            if valid is not None:
                position = position[valid[:, 0]]
            self.pixels[index] += counted(position.flatten(), 2 * self.bins).view(2, self.bins)

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics in [0, 1] by name, each a scalar."""
        above = self.pixels.flip(-1).cumsum(-1)  # pixels at or above each threshold, from the highest down
        true_positives, found = above[:, 1], above.sum(dim=1)
        precision = true_positives.float() / found.clamp(min=1)
        true_pixels = true_positives[:, -1]
        recall_steps = self.pixels[:, 1].flip(-1).float() / true_pixels.clamp(min=1).unsqueeze(-1)
        by_class = (recall_steps * precision).sum(dim=-1)  # 0 without true pixels
        mean = by_class.sum() / (true_pixels > 0).sum().clamp(min=1)
        return {"auprc": mean} | dict(zip(self.class_keys, by_class, strict=False))


def class_keys(prefix: str, classes: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Returns names `<prefix>_<class in lower case>` for the metrics of single classes; none if there is only one.

    Raises:
        ValueError: A name repeats, or is one of `taken`.
    """
    if len(classes) == 1:
        return []
    keys = [f"{prefix}_{name.lower()}" for name in classes]
    if clashes := sorted({key for key in keys if key in taken or keys.count(key) > 1}):
        raise ValueError(
            f"classes {list(classes)} make more than one metric called {', '.join(clashes)}; expected a "
            "different name for every metric: rename the classes"
        )
    return keys


def check_shapes(class_count: int, **maps: Tensor) -> None:
    """Checks that maps are (B, K, H, W) with K classes, and all of one shape.

    Raises:
        ValueError: They are not; the message lists the shapes.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in maps.items()}
    first, *others = shapes.values()
    if len(first) != 4 or first[1] != class_count or any(shape != first for shape in others):
        found = " and ".join(f"{name} is {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{found}; expected one shape (B, {class_count}, H, W), one map per class: "
            "resize the maps to one size, or give the metric the classes that the maps have"
        )


def counted(numbers: Tensor, count: int) -> Tensor:
    """Counts how often each of 0 ... `count` - 1 occurs among integers (N,), as int64."""
    return torch.bincount(numbers, minlength=count) if numbers.device.type == "cpu" else scattered(numbers, count)


def scattered(numbers: Tensor, count: int) -> Tensor:
    """Counts like `counted`, but bincount's search for the extremes would make the host wait for the device."""
    ones = numbers.new_ones((), dtype=torch.int64).expand(len(numbers))
    return torch.zeros(count, dtype=torch.int64, device=numbers.device).scatter_add_(0, numbers.long(), ones)


def as_bool(mask: Tensor) -> Tensor:
    """Returns whether each pixel of a bool or number mask is above one half."""
    return mask if mask.dtype == torch.bool else mask > 0.5


def counting(mask: Tensor, valid: Tensor | None) -> Tensor:
    """Returns a bool or number mask (B, K, H, W) as bool, false where pixels are not valid, (B, 1, H, W)."""
    return as_bool(mask) if valid is None else as_bool(mask) & valid


def dice_units(overlap: Tensor, marked: Tensor) -> Tensor:
    """Returns dice coefficients as int64 in `DICE_UNITS`, 1 where both masks are empty.

    Args:
        overlap: Pixels in both masks (TP), integers of any shape.
        marked: Pixels of one mask plus pixels of the other (2 TP + FP + FN), same shape.
    """
    dice = 2 * overlap.float() / marked.float().clamp(min=1)
    return (dice.masked_fill(marked == 0, 1.0) * DICE_UNITS).long()


def mean_dice(units: Tensor, count: Tensor) -> Tensor:
    """Returns the mean of `count` dice coefficients from their sum in `DICE_UNITS`; 0 where the count is 0."""
    return units.float() / DICE_UNITS / count.clamp(min=1)


def pixel_counts(mask: Tensor) -> Tensor:
    """Returns the number of true pixels of each bool mask (B, K, H, W), as int64 (B, K)."""
    # rows as bytes into int32, then the rows: on a CPU six times faster than summing bools, and exact
    return mask.view(torch.uint8).sum(dim=-1, dtype=torch.int32).sum(dim=-1)
