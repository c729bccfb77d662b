"""Losses of the segmentation tasks: one sigmoid map a class, classes may overlap."""

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """One minus the dice coefficient with squared sums, averaged over (image, class) pairs.

    dice = (2 Σ y ŷ + smooth) / (Σ ŷ² + Σ y² + smooth), sums over the pixels of one pair: equation 5.2 of
    H. Nagarkar, "Evaluating Machine Learning Models for Semantic Segmentation over Cloud Images for
    Classification" (honors thesis, University of Mississippi, 2020), with `smooth` added, so that false
    positives cost something where the truth is empty.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts and 0 where it is left out, (B, 1, H, W). All pixels count by default.
            A picture with no valid pixel has a loss of 0 and is part of the mean.
        smooth: Pixels added above and below the fraction. Must be positive where a pair can be empty.

    Returns:
        A float32 scalar in [0, 1], whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not belong together.
    """
    _check_shapes(logits, target, valid)
    with torch.autocast(logits.device.type, enabled=False):
        probability, truth = logits.float().sigmoid(), target.float()
        if valid is not None:
            probability, truth = probability * valid, truth * valid
        overlap = (probability * truth).sum(dim=(2, 3))
        squares = probability.square().sum(dim=(2, 3)) + truth.square().sum(dim=(2, 3))
        dice = (2 * overlap + smooth) / (squares + smooth)  # (B, K)
        return 1 - dice.mean()


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross-entropy: the mean over the valid pixels and classes of a picture, then over pictures.

    Every picture weighs the same, so the loss of a set does not depend on how it is cut into batches.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts and 0 where it is left out, (B, 1, H, W). All pixels count by default.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not belong together.
    """
    _check_shapes(logits, target, valid)
    with torch.autocast(logits.device.type, enabled=False):
        entropy = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
        if valid is None:
            return entropy.mean()
        counted = (valid.float().sum(dim=(1, 2, 3)) * logits.shape[1]).clamp(min=1)  # (B,)
        return ((entropy * valid).sum(dim=(1, 2, 3)) / counted).mean()


def bce_dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """`bce_loss` plus `squared_dice_loss`.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts and 0 where it is left out, (B, 1, H, W). All pixels count by default.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not belong together.
    """
    return bce_loss(logits, target, valid) + squared_dice_loss(logits, target, valid)


def _check_shapes(logits: Tensor, target: Tensor, valid: Tensor | None) -> None:
    if logits.ndim != 4 or target.shape != logits.shape:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and target is {tuple(target.shape)}; wanted is one shape "
            "(B, K, H, W) for both: give the network one output a class, and masks of the size it predicts"
        )
    if valid is not None and valid.shape != (wanted := (logits.shape[0], 1, *logits.shape[2:])):
        raise ValueError(
            f"valid is {tuple(valid.shape)}; wanted is {wanted}: give one map a picture, for all its classes"
        )
