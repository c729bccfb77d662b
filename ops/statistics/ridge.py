"""Fits linear models in closed form, their regularization chosen by leave-one-out cross-validation.

A. E. Hoerl and R. W. Kennard, "Ridge regression", Technometrics 1970; the left-out predictions by D. M. Allen, "The
relationship between variable selection and data augmentation and a method for prediction", Technometrics 1974.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

PENALTIES = tuple(10 ** (power / 4) for power in range(-20, 9))  # 1e-5 to 1e2
FEW = tuple(10 ** (power / 2) for power in range(-6, 1))  # 1e-3 to 1, of models that are fitted several times
LEAST = 1e-10  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True)
class Ridge:
    """A linear model: `(features - mean) * scale @ weight + bias` predicts the targets.

    Attributes:
        mean: Means of the features, (D,).
        scale: One over their standard deviations, 0 for constant features, (D,).
        weight: (D, T).
        bias: (T,).
        left_out: What a model without that sample predicts for each sample, (N, T), but with the bias of all samples:
            the mean of the others would reveal the sample's own target.
        penalty: The chosen strength of the regularization.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    left_out: Tensor
    penalty: float


def fit_ridge(features: Tensor, targets: Tensor, of: Tensor) -> Ridge:
    """Fits ridge regression on standardized features.

    It minimizes the mean squared error plus `penalty` times D times the sum of squared weights, so that the same
    penalty suits any number of samples and features. Of `PENALTIES`, the one with the smallest leave-one-out error is
    chosen; one eigendecomposition serves all of them.

    Args:
        features: (N, D).
        targets: (N, T).
        of: Weights (T,) of the combination of the targets whose leave-one-out error decides.

    Returns:
        The model, in float64.

    Raises:
        ValueError: The shapes do not match, there are fewer than two samples, or a value is not finite.
    """
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or len(features) < 2:
        raise ValueError(
            f"features of shape {tuple(features.shape)} and targets of shape {tuple(targets.shape)}; expected (N, D) "
            "and (N, T) of at least two samples"
        )
    if not (features.isfinite().all() and targets.isfinite().all()):
        raise ValueError("some features or targets are nan or infinite")
    features, targets, of = features.double(), targets.double(), of.double()
    count, length = features.shape
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    varies = deviation > LEAST * (1 + mean.abs())
    scale = torch.where(varies, 1 / deviation, 0)
    standard = (features - mean) * scale / length**0.5
    directions, values = _principal(standard)
    bias = targets.mean(dim=0)
    along = directions.T @ (targets - bias)
    best, error = PENALTIES[-1], torch.inf
    left_out = torch.empty_like(targets)
    for penalty in PENALTIES:
        shrunk = values / (values + penalty * count)
        fitted = bias + directions @ (shrunk[:, None] * along)
        leverage = directions.square() @ shrunk + 1 / count
        predicted = targets - (targets - fitted) / (1 - leverage).clamp(min=LEAST)[:, None]
        found = float(((predicted - targets) @ of).square().mean())
        if found < error:
            best, error, left_out = penalty, found, predicted
    own = (targets - bias) / (count - 1)
    weight = standard.T @ (directions @ (along / (values + best * count)[:, None])) / length**0.5
    return Ridge(mean, scale, weight, bias, left_out + own, best)


class Moments:
    """Sums over samples that linear regression needs, added batch by batch; memory does not grow with the samples.

    Args:
        features: Number D of features.
        targets: Number T of targets.
        device: Where the sums are kept.

    Attributes:
        products: Of the features, the targets and a 1 with each other, float64 (D + T + 1, D + T + 1).
    """

    def __init__(self, features: int, targets: int, device: torch.device | None = None) -> None:
        self.features = features
        side = features + targets + 1
        self.products = torch.zeros(side, side, dtype=torch.float64, device=device)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Adds samples: features (N, D) and targets (N, T)."""
        both = torch.cat([features.float(), targets.float(), features.new_ones(len(features), 1).float()], dim=1)
        self.products += both.T @ both

    def means(self, mean: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Returns means over the samples, with z = (features - mean) * scale: z zᵀ, z yᵀ, z, y and y²."""
        count, size = self.products[-1, -1], self.features
        total = self.products / count.clamp(min=1)
        xx, xy, x = total[:size, :size], total[:size, size:-1], total[:size, -1]
        y, square = total[size:-1, -1], total[size:-1, size:-1].diagonal()
        xx = xx - torch.outer(mean, x) - torch.outer(x, mean) + torch.outer(mean, mean)
        return xx * scale[:, None] * scale, (xy - torch.outer(mean, y)) * scale[:, None], (x - mean) * scale, y, square


@dataclass(frozen=True)
class Shrunk:
    """The mean of several ridge regressions, each on a block of the features, times `shrink`.

    `(features - mean) * scale @ weight + bias` predicts the targets; `shrink` is in weight and bias already.

    Attributes:
        mean: (D,).
        scale: (D,).
        weight: (D, T).
        bias: (T,).
        shrink: In [0, 1]: it minimizes the squared error on left-out samples.
        penalty: The chosen strength of the regularization, the same for all blocks.
        error: Squared error on the left-out samples, as a share of the error of predicting 0.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    shrink: float
    penalty: float
    error: float


def fit_shrunk(training: Sequence[Moments], validation: Moments, blocks: Sequence[int]) -> Shrunk:
    """Fits ridge regressions on blocks of standardized features, by what they predict for samples that they left out.

    Args:
        training: Moments of several parts of the training samples.
        validation: Moments of the validation samples. They and each part of the training samples, predicted from the
            other parts, choose the penalty (see `fit_ridge`) and `shrink` together.
        blocks: Number of features of each block, in order.

    Raises:
        ValueError: There are fewer than two training samples or no validation sample.
    """
    whole = Moments(training[0].features, 0)
    whole.products = sum((each.products for each in training), torch.zeros_like(training[0].products))
    counts = [int(each.products[-1, -1]) for each in (whole, validation)]
    if counts[0] < 2 or counts[1] < 1:
        raise ValueError(f"{counts[0]} training and {counts[1]} validation samples; expected 2 and 1 or more")
    crosses, owns, truth = [0.0] * len(FEW), [0.0] * len(FEW), 0.0
    for held in (*training, validation):
        rest = Moments(whole.features, 0)
        rest.products = whole.products if held is validation else whole.products - held.products
        count = float(held.products[-1, -1])
        if count < 1 or rest.products[-1, -1] < 2:
            continue
        mean, scale, bias, weights = _ridges(rest, blocks)
        seen = held.means(mean, scale)
        truth += count * float(seen[4].sum())
        for row, weight in enumerate(weights):
            cross, own = _agreement(weight, bias, seen)
            crosses[row] += count * cross
            owns[row] += count * own
    shrinks = [min(1.0, max(0.0, cross / own)) if own > 0 else 0.0 for cross, own in zip(crosses, owns, strict=True)]
    errors = [1 + (shrink * shrink * own - 2 * shrink * cross) / max(truth, LEAST)
              for shrink, cross, own in zip(shrinks, crosses, owns, strict=True)]  # fmt: skip
    best = errors.index(min(errors))
    # those of the validation samples, which came last, are fitted on all training samples
    return Shrunk(mean, scale, shrinks[best] * weights[best], shrinks[best] * bias, shrinks[best], FEW[best],
                  errors[best])  # fmt: skip


def _ridges(moments: Moments, blocks: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Returns mean and scale of the features, the bias, and the weights (D, T) of each of the penalties `FEW`."""
    plain = torch.ones(moments.features, dtype=torch.float64, device=moments.products.device)
    square, _, mean, *_ = moments.means(0 * plain, plain)
    variance = square.diagonal() - mean.square()
    scale = torch.where(variance > LEAST * (1 + mean.square()), variance.clamp(min=LEAST).rsqrt(), 0)
    zz, zy, _, bias, _ = moments.means(mean, scale)
    parts = [slice(end - size, end) for end, size in zip(accumulate(blocks), blocks, strict=True)]
    found = []
    for penalty in FEW:
        solved = []
        for part in parts:
            side = part.stop - part.start
            lower = torch.linalg.cholesky(zz[part, part] + penalty * side * torch.eye(side).to(zz))
            solved.append(torch.cholesky_solve(zy[part], lower) / len(blocks))
        found.append(torch.cat(solved))
    return mean, scale, bias, found


def _agreement(weight: Tensor, bias: Tensor, seen: Sequence[Tensor]) -> tuple[float, float]:
    """Returns the means of predictions times targets and of squared predictions, summed over the targets."""
    zz, zy, z, y, *_ = seen
    cross = (weight * zy).sum() + bias @ y
    own = (weight * (zz @ weight)).sum() + 2 * (bias * (z @ weight)).sum() + bias @ bias
    return float(cross), float(own)


def _principal(standard: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the left singular vectors (N, R) of a matrix (N, D) and its squared singular values (R,)."""
    count, length = standard.shape
    values, vectors = torch.linalg.eigh(standard @ standard.T if count <= length else standard.T @ standard)
    kept = values > LEAST * values[-1].clamp(min=LEAST)
    values, vectors = values[kept], vectors[:, kept]
    return (vectors if count <= length else standard @ vectors / values.sqrt()), values


def fit_softmax(scores: Tensor, shares: Tensor, penalty: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Fits multinomial logistic regression on a few scores by L-BFGS.

    After J. Platt, "Probabilistic outputs for support vector machines" (1999): the targets contain one uniform sample
    more than there are, so that the result is finite even where the scores separate the classes.

    Args:
        scores: (N, T).
        shares: The share of each class, (N, C); rows sum to 1.
        penalty: Strength of the regularization, for scores that depend on each other.

    Returns:
        Weight (T, C) and bias (C,), in float64: `(scores @ weight + bias).softmax(1)` predicts the shares.
    """
    scores, shares = scores.double(), shares.double()
    count, classes = shares.shape
    shares = (count * shares + 1 / classes) / (count + 1)
    deviation, mean = torch.std_mean(scores, dim=0, correction=0)
    scale = torch.where(deviation > LEAST, 1 / deviation, 0)
    standard = (scores - mean) * scale
    with torch.enable_grad():
        weight = torch.zeros(scores.shape[1], classes, dtype=torch.float64, requires_grad=True)
        bias = shares.mean(dim=0).log().requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = (standard @ weight + bias).log_softmax(dim=1)
            value: Tensor = penalty * weight.square().sum() - (shares * logits).sum(dim=1).mean()
            value.backward()  # type: ignore[no-untyped-call]  # torch's own
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch's own
    found = weight.detach() * scale[:, None]
    return found, bias.detach() - mean @ found
