"""How alike two pictures are, pixel by pixel and in their structure, over the pixels that count.

Sums are made over bands of rows, so that memory does not grow with the height of a picture.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PSNR_LIMIT = 60.0
"""Decibels that no picture exceeds. Equal pictures would have infinitely many; rounding to 8 bits alone gives 58.9."""

WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation of the Gaussian window of the structural similarity, in pixels."""

PIXELS_AT_ONCE, DEVICE_PIXELS_AT_ONCE = 1 << 18, 1 << 22
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2  # the paper's C₁ and C₂, for values in [0, 1]


def psnr(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio 10 log₁₀ (1 / MSE) of each picture, over all values of its valid pixels.

    Args:
        prediction: Pictures (B, C, H, W): floating point in [0, 1], or uint8.
        target: True pictures, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Decibels (B,), at most `PSNR_LIMIT`; NaN for a picture without a valid pixel.

    Raises:
        ValueError: The shapes do not belong together.
    """

    def squares(predicted: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return picture_sums((levels(predicted) - levels(true)).square(), counted)

    valid = checked_valid(prediction, target, valid)
    values = prediction.shape[1] * valid.sum(dim=(1, 2, 3))  # 0 / 0 is NaN
    error = band_sums(squares, prediction, target, valid) / values
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()


def ssim(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Structural similarity of each picture: the mean over its channels and over the windows that lie inside.

    Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13, 2004, equation 13, with its Gaussian window. A
    window that reaches over the picture's edge or holds a pixel that is not valid does not count: padding changes
    nothing. It is what scikit-image's `structural_similarity` with `gaussian_weights=True`,
    `use_sample_covariance=False`, `data_range=1` and a channel axis gives for the picture without its padding.

    Args:
        prediction: Pictures (B, C, H, W): floating point in [0, 1], or uint8.
        target: True pictures, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Similarity (B,) in [-1, 1]; NaN for a picture in which no window fits.

    Raises:
        ValueError: The shapes do not belong together.
    """
    valid = checked_valid(prediction, target, valid)
    if min(prediction.shape[2:]) < WINDOW:
        return torch.full((len(prediction),), math.nan, device=prediction.device)
    sums = band_sums(_similarity_sums, prediction, target, valid, halo=WINDOW // 2)
    return sums[0] / (prediction.shape[1] * sums[1])


def levels(rgb: Tensor) -> Tensor:
    """Pictures as float32 in [0, 1]: uint8 divided by 255, other values clipped, NaN taken for 0."""
    return rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb.float().nan_to_num(0).clamp(0, 1)


def checked_valid(prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    """`valid` as bool, all true by default.

    Raises:
        ValueError: Prediction, target and valid are not (B, C, H, W) twice, and (B, 1, H, W).
    """
    if prediction.ndim != 4 or target.shape != prediction.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)} and target is {tuple(target.shape)}; wanted is one shape (B, C, "
            "H, W) for both: resize them to one size"
        )
    wanted = (len(prediction), 1, *prediction.shape[2:])
    if valid is None:
        return torch.ones((), dtype=torch.bool, device=prediction.device).expand(wanted)
    if valid.shape != wanted:
        raise ValueError(f"valid is {tuple(valid.shape)}; wanted is {wanted}: give one map a picture")
    return valid if valid.dtype == torch.bool else valid > 0.5


def picture_sums(values: Tensor, valid: Tensor) -> Tensor:
    """Sums (B,) of the values (B, C, H, W) where valid (B, 1, H, W); what they are elsewhere, even NaN, is nothing."""
    return values.masked_fill(~valid, 0).sum(dim=(1, 2, 3))


def band_sums(function: Callable[..., Tensor], *maps: Tensor, halo: int = 0) -> Tensor:
    """The sum of what a function gives for bands of rows.

    Args:
        function: Takes a band of each map and gives sums, always of one shape.
        *maps: (B, C, H, W) each, with any C, and more than 2 `halo` rows.
        halo: Rows at the top and the bottom of a band that the function sees and does not count. Those of neighbouring
            bands overlap; those at the edges of the maps are never counted.
    """
    pictures, _, height, width = maps[0].shape
    block = PIXELS_AT_ONCE if maps[0].device.type == "cpu" else DEVICE_PIXELS_AT_ONCE
    rows = max(2 * halo + 1, block // (pictures * width))
    counted = height - 2 * halo
    parts = []
    for top in range(0, counted, rows):
        band = slice(top, min(top + rows, counted) + 2 * halo)
        parts.append(function(*(each[:, :, band] for each in maps)))
    return torch.stack(parts).sum(dim=0)


def _similarity_sums(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Sum of the similarities and number of the windows of each picture, (2, B)."""
    inside = -functional.max_pool2d(-valid.float(), (WINDOW, 1), stride=1)
    inside = -functional.max_pool2d(-inside, (1, WINDOW), stride=1)
    # Picture by picture, what is made on the way stays in the cache.
    pairs = zip(levels(prediction), levels(target), strict=True)
    similarity = torch.stack([_similarity(*pair) for pair in pairs])
    return torch.stack([picture_sums(similarity, inside > 0), inside.sum(dim=(1, 2, 3))])


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Similarity of the windows that fit into pictures (C, H, W), (C, H - 10, W - 10)."""
    mean_x, mean_y = _window_means(x), _window_means(y)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _window_means(x * y) - product
    variances = _window_means(x.square() + y.square()) - squares
    likeness = (2 * product + LUMINANCE_CONSTANT) * (2 * covariance + CONTRAST_CONSTANT)
    return likeness / ((squares + LUMINANCE_CONSTANT) * (variances + CONTRAST_CONSTANT))


def _window_means(maps: Tensor) -> Tensor:
    """Gaussian means (C, H - 10, W - 10) of maps (C, H, W).

    Shifted sums, because a GPU computes convolutions in TensorFloat-32, whose errors are as large as the variances in
    the smooth parts of a picture.
    """
    half = WINDOW // 2
    weights = [math.exp(-((step / DEVIATION) ** 2) / 2) for step in range(half + 1)]
    whole = weights[0] + 2 * sum(weights[1:])
    for axis in (2, 1):
        length = maps.shape[axis] - 2 * half
        means = maps.narrow(axis, half, length) * (weights[0] / whole)
        for step in range(1, half + 1):
            pair = maps.narrow(axis, half - step, length) + maps.narrow(axis, half + step, length)
            means.add_(pair, alpha=weights[step] / whole)
        maps = means
    return maps
