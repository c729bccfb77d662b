"""Losses for segmentation (one sigmoid map per class), for colors (values or classes), and for votes."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """Returns one minus the dice coefficient with squared sums, averaged over (image, class) pairs.

    dice = (2 Σ y ŷ + smooth) / (Σ ŷ² + Σ y² + smooth), sums over the pixels of one pair: equation 5.2 of
    H. Nagarkar, "Evaluating Machine Learning Models for Semantic Segmentation over Cloud Images for
    Classification" (honors thesis, University of Mississippi, 2020), with `smooth` added, so that false
    positives have a cost where the truth is empty.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default.
            An image without valid pixels has a loss of 0 and is part of the mean.
        smooth: Pixels added above and below the fraction. Must be positive where a pair can be empty.

    Returns:
        A float32 scalar in [0, 1], whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
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
    """Returns the binary cross-entropy: the mean over an image's valid pixels and classes, then over the images.

    Every image has the same weight, so the loss of a dataset does not depend on the batch size.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
    """
    _check_shapes(logits, target, valid)
    with torch.autocast(logits.device.type, enabled=False):
        entropy = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
        return _mean_of_classes(entropy, valid)


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Returns the cross-entropy of each pixel times (1 - p)^gamma, where p is the probability given to the truth.

    T.-Y. Lin, P. Goyal, R. Girshick, K. He and P. Dollar, "Focal loss for dense object detection", ICCV 2017, equation
    4, without class weights; averaged as in `bce_loss`. Computed by torchvision.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default.
        gamma: How much less certain pixels count; 0 is `bce_loss`.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
    """
    from torchvision.ops import sigmoid_focal_loss

    _check_shapes(logits, target, valid)
    with torch.autocast(logits.device.type, enabled=False):
        return _mean_of_classes(sigmoid_focal_loss(logits.float(), target.float(), alpha=-1, gamma=gamma), valid)


def lovasz_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the Lovász hinge of each image and class, averaged: a convex surrogate of 1 - IoU.

    M. Berman, A. Rannen Triki and M. B. Blaschko, "The Lovász-Softmax loss", CVPR 2018, section 3.1.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth, 0 or 1, (B, K, H, W).
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
    """
    _check_shapes(logits, target, valid)
    with torch.autocast(logits.device.type, enabled=False):
        scores, truth = logits.float().flatten(2), target.float().flatten(2)  # (B, K, H W)
        errors = F.relu(1 - scores * (2 * truth - 1))
        if valid is not None:  # pixels without error come last, where they change nothing
            errors, truth = errors * valid.flatten(2), truth * valid.flatten(2)
        errors, order = errors.sort(dim=2, descending=True)
        truth = truth.gather(2, order)
        marked = truth.sum(dim=2, keepdim=True)
        # Jaccard loss if the first n pixels in this order were wrong, for every n
        jaccard = 1 - (marked - truth.cumsum(dim=2)) / (marked + (1 - truth).cumsum(dim=2))
        steps = torch.diff(jaccard, dim=2, prepend=jaccard.new_zeros(*jaccard.shape[:2], 1))
        return (errors * steps).sum(dim=2).mean()


def bce_dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns `bce_loss` plus `squared_dice_loss`.

    Args:
        logits: Network output before the sigmoid, (B, K, H, W).
        target: Truth in [0, 1], (B, K, H, W).
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
    """
    return bce_loss(logits, target, valid) + squared_dice_loss(logits, target, valid)


def focal_dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns `focal_loss` plus `squared_dice_loss`; the arguments are theirs."""
    return focal_loss(logits, target, valid) + squared_dice_loss(logits, target, valid)


def bce_lovasz_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns `bce_loss` plus `lovasz_loss`; the arguments are theirs."""
    return bce_loss(logits, target, valid) + lovasz_loss(logits, target, valid)


SegmentationLoss = Literal["bce", "bce_dice", "focal_dice", "bce_lovasz"]
SEGMENTATION_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "bce": bce_loss,
    "bce_dice": bce_dice_loss,
    "focal_dice": focal_dice_loss,
    "bce_lovasz": bce_lovasz_loss,
}


def chroma_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns half the squared error of both chroma values: the mean over an image's pixels, then over the images.

    C = 1 / (2 H W) Σ (x - x̂)² over a and b, where H W counts the valid pixels: equation 1 of
    F. Baldassarre, D. González Morín and L. Rodés-Guirao, "Deep Koalarization: image colorization using CNNs and
    Inception-ResNet-v2", arXiv:1712.03400.

    Args:
        prediction: Scaled chroma (B, 2, H, W).
        target: True chroma, likewise.
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default. An image
            without valid pixels has a loss of 0 and is part of the mean.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the prediction.

    Raises:
        ValueError: The shapes do not match.
    """
    if prediction.ndim != 4 or prediction.shape[1] != 2 or target.shape != prediction.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)} and target is {tuple(target.shape)}; expected one shape "
            "(B, 2, H, W) for both: a and b, at the size of the images"
        )
    with torch.autocast(prediction.device.type, enabled=False):
        errors = (prediction.float() - target.float()).square().sum(dim=1, keepdim=True) / 2
        return _mean_of_images(errors, valid)


def bins_loss(
    logits: Tensor,
    indices: Tensor,
    weights: Tensor,
    class_weights: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns the cross-entropy with soft labels of few bins, each pixel weighted by its nearest bin.

    - v Σ w log softmax(z), sums over the K bins of a pixel's label: equations 2 to 4 of R. Zhang, P. Isola and
    A. A. Efros, "Colorful image colorization", ECCV 2016, but with the mean over an image's valid pixels, then
    over the images, instead of the sum. `ops.color.bins` makes labels and weights.

    Args:
        logits: Network output before the softmax, (B, Q, H, W).
        indices: The K bins of each pixel's label, int64 (B, K, H, W).
        weights: Their shares of the label, (B, K, H, W), summing to 1. The largest share marks the nearest bin.
        class_weights: Weight v of each bin, (Q,); 1 by default.
        valid: 1 where a pixel counts, otherwise 0, (B, 1, H, W). All pixels count by default. An image
            without valid pixels has a loss of 0 and is part of the mean.

    Returns:
        A float32 scalar, at least 0, whatever the precision of the logits.

    Raises:
        ValueError: The shapes do not match.
    """
    pixels = (len(logits), *logits.shape[2:])
    if logits.ndim != 4 or indices.shape != weights.shape or (len(indices), *indices.shape[2:]) != pixels:
        raise ValueError(
            f"logits are {tuple(logits.shape)}, indices {tuple(indices.shape)} and weights {tuple(weights.shape)}; "
            "expected (B, Q, H, W) and twice (B, K, H, W): encode chroma of the size that the network predicts"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"class_weights are {tuple(class_weights.shape)} for {logits.shape[1]} bins; expected one for each"
        )
    with torch.autocast(logits.device.type, enabled=False):
        # log_softmax would be as large as the logits, of which only K of Q values are needed
        likelihoods = logits.gather(1, indices).float() - logits.float().logsumexp(dim=1, keepdim=True)
        entropy = -(weights.float() * likelihoods).sum(dim=1, keepdim=True)
        if class_weights is not None:
            nearest = indices.gather(1, weights.argmax(dim=1, keepdim=True))
            entropy = entropy * class_weights.float()[nearest]
        return _mean_of_images(entropy, valid)


def emd_loss(probability: Tensor, votes: Tensor, r: float = 2.0) -> Tensor:
    """Returns the mean over the images of `earth_movers_distance`.

    Args:
        probability: Predicted shares of the votes 1 to K, (B, K), summing to 1: the softmax of a network's outputs.
        votes: True counts or shares, (B, K), at least one vote per image.
        r: 2 to train, 1 to report.

    Returns:
        A float32 scalar in [0, 1], whatever the precision of the probability.

    Raises:
        ValueError: The shapes are not one (B, K), or r is below 1.
    """
    return earth_movers_distance(probability, votes, r).mean()


def earth_movers_distance(probability: Tensor, votes: Tensor, r: float = 2.0) -> Tensor:
    """Returns (1 / K Σ |CDF - CDF̂|ʳ)^(1 / r) of each image's votes, over the K cumulative shares.

    Equation 1 of H. Talebi and P. Milanfar, "NIMA: neural image assessment", IEEE Transactions on Image Processing 27
    (2018). Predicting a neighboring vote costs less than predicting a distant one.

    Args:
        probability: Predicted shares of the votes 1 to K, (B, K), summing to 1.
        votes: True counts or shares, (B, K), at least one vote per image.
        r: 2 to train, 1 to report.

    Returns:
        Float32 (B,) in [0, 1]. The gradient is 0 where the prediction equals the truth.

    Raises:
        ValueError: The shapes are not one (B, K), or r is below 1.
    """
    if probability.ndim != 2 or votes.shape != probability.shape:
        raise ValueError(
            f"probability is {tuple(probability.shape)} and votes are {tuple(votes.shape)}; expected one shape (B, K) "
            "for both: give the network as many outputs as there are votes to choose from"
        )
    if not 1 <= r < math.inf:
        raise ValueError(f"r is {r}; expected a number of at least 1: 2 to train, 1 to report")
    with torch.autocast(probability.device.type, enabled=False):
        shares = votes.float() / votes.float().sum(dim=1, keepdim=True)
        differences = (probability.float() - shares).cumsum(dim=1)
        # a root of a sum of powers would have no gradient at 0
        distance: Tensor = torch.linalg.vector_norm(differences, r, dim=1) / differences.shape[1] ** (1 / r)
        return distance


def _mean_of_classes(values: Tensor, valid: Tensor | None) -> Tensor:
    """Returns the mean over the valid pixels and classes of each image (B, K, H, W), then over the images."""
    if valid is None:
        return values.mean()
    counted = (valid.float().sum(dim=(1, 2, 3)) * values.shape[1]).clamp(min=1)  # (B,)
    return ((values * valid).sum(dim=(1, 2, 3)) / counted).mean()


def _mean_of_images(values: Tensor, valid: Tensor | None) -> Tensor:
    """Returns the mean over the valid pixels of each image (B, 1, H, W), then over the images."""
    if valid is None:
        return values.mean()
    _check_valid(values, valid)
    counted = valid.float().sum(dim=(1, 2, 3)).clamp(min=1)
    return (values.masked_fill(valid <= 0, 0).sum(dim=(1, 2, 3)) / counted).mean()


def _check_shapes(logits: Tensor, target: Tensor, valid: Tensor | None) -> None:
    if logits.ndim != 4 or target.shape != logits.shape:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and target is {tuple(target.shape)}; expected one shape "
            "(B, K, H, W) for both: give the network one output per class, and masks of the size it predicts"
        )
    if valid is not None:
        _check_valid(logits, valid)


def _check_valid(maps: Tensor, valid: Tensor) -> None:
    if valid.shape != (expected := (maps.shape[0], 1, *maps.shape[2:])):
        raise ValueError(
            f"valid is {tuple(valid.shape)}; expected {expected}: give one map per image, for all its classes"
        )
