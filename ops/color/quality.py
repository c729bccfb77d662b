"""Compares images in color: PSNR, SSIM, CIE color differences and colorfulness per image, over its valid pixels.

Kornia's own `psnr` and `ssim` know no valid pixels and hold whole batches. Here sums are made over bands of rows, so
that memory does not grow with an image's height.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ops.color.lab import rgb_to_lab, single

SCORES = (
    "psnr",
    "ssim",
    "delta_e76",
    "delta_e2000",
    "colorfulness",
    "colorfulness_true",
    "colorfulness_difference",
)
"""The metrics that `picture_scores` computes."""
PSNR_LIMIT = 60.0
"""Largest PSNR in decibels. Equal images would have infinitely many; rounding to 8 bits alone gives 58.9."""
WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation of the Gaussian window of the structural similarity, in pixels."""
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2  # the paper's C₁ and C₂, for values in [0, 1]
PIXELS_AT_ONCE, DEVICE_PIXELS_AT_ONCE = 1 << 18, 1 << 22

Differences = dict[str, Callable[[Tensor, Tensor], Tensor]]


def picture_scores(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, names: Sequence[str] = SCORES
) -> dict[str, Tensor]:
    """Computes how well each image is colored.

    - `psnr`, `ssim`: of the red, green and blue values
    - `delta_e76`, `delta_e2000`: mean color differences over the valid pixels
    - `colorfulness`, `colorfulness_true`, `colorfulness_difference`: of the prediction, of the target, and the first
      minus the second

    Args:
        prediction: sRGB images (B, 3, H, W): floating point in [0, 1], or uint8. NaN counts as 0.
        target: True images, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.
        names: Metrics to compute.

    Returns:
        (B,) per name, in the order of `names`. NaN for an image without a valid pixel, and for the `ssim` of an image
        without 11 x 11 valid pixels in one place.

    Raises:
        ValueError: The shapes do not match, or a name is unknown.
    """
    valid = _checked_valid(prediction, target, valid)
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"expected scores out of {', '.join(SCORES)}, got {unknown}")
    scores: dict[str, Tensor] = {}
    if "psnr" in names:
        scores["psnr"] = psnr(prediction, target, valid)
    if "ssim" in names:
        scores["ssim"] = ssim(prediction, target, valid)
    differences: Differences = {"delta_e76": delta_e76, "delta_e2000": delta_e2000}
    if chosen := {name: function for name, function in differences.items() if name in names}:
        scores |= _mean_differences(chosen, prediction, target, valid)
    if any(name.startswith("colorfulness") for name in names):
        found, true = colorfulness(prediction, valid), colorfulness(target, valid)
        scores |= {"colorfulness": found, "colorfulness_true": true, "colorfulness_difference": found - true}
    return {name: scores[name] for name in names}


def psnr(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the peak signal-to-noise ratio 10 log₁₀ (1 / MSE) of each image, over all values of its valid pixels.

    Args:
        prediction: Images (B, C, H, W): floating point in [0, 1], or uint8.
        target: True images, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Decibels (B,), at most `PSNR_LIMIT`; NaN for an image without a valid pixel.

    Raises:
        ValueError: The shapes do not match.
    """

    def squares(predicted: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return _picture_sums((_levels(predicted) - _levels(true)).square(), counted)

    valid = _checked_valid(prediction, target, valid)
    values = prediction.shape[1] * valid.sum(dim=(1, 2, 3))  # 0 / 0 is NaN
    error = _band_sums(squares, prediction, target, valid) / values
    return -10 * error.clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()


def ssim(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the structural similarity of each image: the mean over its channels and the windows inside it.

    Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13, 2004, equation 13, with its Gaussian window.
    Windows that cross the image's edge or contain an invalid pixel do not count, so padding changes nothing. Equals
    scikit-image's `structural_similarity` with `gaussian_weights=True`, `use_sample_covariance=False`, `data_range=1`
    and a channel axis, of the image without its padding.

    Args:
        prediction: Images (B, C, H, W): floating point in [0, 1], or uint8.
        target: True images, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Similarity (B,) in [-1, 1]; NaN for an image in which no window fits.

    Raises:
        ValueError: The shapes do not match.
    """
    valid = _checked_valid(prediction, target, valid)
    if min(prediction.shape[2:]) < WINDOW:
        return torch.full((len(prediction),), math.nan, device=prediction.device)
    sums = _band_sums(_similarity_sums, prediction, target, valid, halo=WINDOW // 2)
    return sums[0] / (prediction.shape[1] * sums[1])


def delta_e76(lab: Tensor, other: Tensor) -> Tensor:
    """Returns the CIE76 color difference, the Euclidean distance in Lab. About 2.3 is just noticeable.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).
        other: The same of the other image.

    Returns:
        Differences (B, H, W), at least 0.

    Raises:
        ValueError: The shapes are not (B, 3, H, W), or differ.
    """
    _check_lab(lab, other)
    return (single(lab) - single(other)).square().sum(dim=1).sqrt()


def delta_e2000(lab: Tensor, other: Tensor) -> Tensor:
    """Returns the CIEDE2000 color difference with all weights 1. About 1 is just noticeable.

    G. Sharma, W. Wu and E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test
    data, and mathematical observations", Color Research and Application 30, 2005, equations 2 to 22.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).
        other: The same of the other image; the order of the two does not matter.

    Returns:
        Differences (B, H, W), at least 0.

    Raises:
        ValueError: The shapes are not (B, 3, H, W), or differ.
    """
    _check_lab(lab, other)
    lightness1, a1, b1 = single(lab).unbind(1)
    lightness2, a2, b2 = single(other).unbind(1)
    stretch = 1.5 - 0.5 * _saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    chroma1, chroma2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    hue1, hue2 = _hue(a1, b1), _hue(a2, b2)

    turn = hue2 - hue1
    across = turn.abs() > 180  # the shorter way from one hue to the other passes through 0
    gray = chroma1 * chroma2 == 0
    turn = torch.where(across, turn - 360 * turn.sign(), turn)
    hue_difference = 2 * (chroma1 * chroma2).sqrt() * (turn / 2).deg2rad().sin()
    both = hue1 + hue2
    mean_hue = torch.where(across, both + torch.where(both < 360, 360, -360), both) / 2
    mean_hue = torch.where(gray, both, mean_hue)  # one of the two has no hue and is represented by 0

    chroma = (chroma1 + chroma2) / 2
    from_middle = ((lightness1 + lightness2) / 2 - 50).square()
    weight_lightness = 1 + 0.015 * from_middle / (20 + from_middle).sqrt()
    weight_chroma = 1 + 0.045 * chroma
    weight_hue = 1 + 0.015 * chroma * _hue_dependence(mean_hue)
    rotation = -2 * _saturation(chroma) * (60 * (-((mean_hue - 275) / 25).square()).exp()).deg2rad().sin()

    lightness_part = (lightness2 - lightness1) / weight_lightness
    chroma_part = (chroma2 - chroma1) / weight_chroma
    hue_part = hue_difference / weight_hue
    squares = lightness_part.square() + chroma_part.square() + hue_part.square() + rotation * chroma_part * hue_part
    return squares.clamp(min=0).sqrt()  # rounding may leave less than 0


def colorfulness(rgb: Tensor, valid: Tensor | None = None) -> Tensor:
    """Returns the colorfulness of each image: the spread of its opponent colors and their distance from gray.

    σ + 0.3 μ with σ² = σ²(R − G) + σ²((R + G) / 2 − B), and μ likewise of the means, for values from 0 to 255. 0 is
    not colorful, 15 slightly, 33 moderately, 59 quite, 82 highly: D. Hasler and S. Süsstrunk, "Measuring colourfulness
    in natural images", Proc. SPIE 5007, 2003, equation 3 and table 2.

    Args:
        rgb: Images (B, 3, H, W): floating point in [0, 1], or uint8.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Colorfulness (B,), at least 0; NaN for an image without a valid pixel.

    Raises:
        ValueError: The shapes do not match.
    """
    valid = _checked_valid(rgb, rgb, valid)
    pixels = valid.sum(dim=(1, 2, 3))

    def sums(band: Tensor, counted: Tensor) -> Tensor:
        return torch.stack([_picture_sums(each, counted) for each in _opponents(band)])

    means = _band_sums(sums, rgb, valid) / pixels  # (2, B)

    def squares(band: Tensor, counted: Tensor) -> Tensor:
        pairs = zip(_opponents(band), means, strict=True)
        return torch.stack([_picture_sums((each - mean.view(-1, 1, 1, 1)).square(), counted) for each, mean in pairs])

    variances = _band_sums(squares, rgb, valid) / pixels
    return variances.sum(dim=0).sqrt() + 0.3 * means.square().sum(dim=0).sqrt()


def _checked_valid(prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    """Returns `valid` as bool, all true by default."""
    if prediction.ndim != 4 or target.shape != prediction.shape:
        raise ValueError(
            f"expected prediction and target of one shape (B, C, H, W), got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}"
        )
    shape = (len(prediction), 1, *prediction.shape[2:])
    if valid is None:
        return torch.ones((), dtype=torch.bool, device=prediction.device).expand(shape)
    if valid.shape != shape:
        raise ValueError(f"expected valid of shape {shape}, one map per image, got {tuple(valid.shape)}")
    return valid if valid.dtype == torch.bool else valid > 0.5


def _check_lab(lab: Tensor, other: Tensor) -> None:
    if lab.ndim != 4 or lab.shape[1] != 3 or other.shape != lab.shape:
        raise ValueError(
            f"expected Lab of one shape (B, 3, H, W), got {tuple(lab.shape)} and {tuple(other.shape)}: convert images "
            "of one size by ops.color.lab.rgb_to_lab"
        )


def _levels(rgb: Tensor) -> Tensor:
    """Returns images as float32 in [0, 1]: divides uint8 by 255, clips other values, and takes NaN for 0."""
    return rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb.float().nan_to_num(0).clamp(0, 1)


def _picture_sums(values: Tensor, valid: Tensor) -> Tensor:
    """Sums (B, C, H, W) over the valid pixels (B, 1, H, W), to (B,); values elsewhere, even NaN, do not matter."""
    return values.masked_fill(~valid, 0).sum(dim=(1, 2, 3))


def _band_sums(function: Callable[..., Tensor], *maps: Tensor, halo: int = 0) -> Tensor:
    """Sums what a function returns for bands of rows.

    Args:
        function: Takes a band of each map and returns sums, always of one shape.
        *maps: (B, C, H, W) each, with any C, and more than 2 `halo` rows.
        halo: Rows at the top and bottom of a band that the function sees but does not count. They overlap between
            neighboring bands; those at the edges of the maps are never counted.
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
    """Returns each image's sum of similarities and number of windows, (2, B)."""
    inside = -functional.max_pool2d(-valid.float(), (WINDOW, 1), stride=1)
    inside = -functional.max_pool2d(-inside, (1, WINDOW), stride=1)
    # Image by image, intermediate results stay in the cache.
    pairs = zip(_levels(prediction), _levels(target), strict=True)
    similarity = torch.stack([_similarity(*pair) for pair in pairs])
    return torch.stack([_picture_sums(similarity, inside > 0), inside.sum(dim=(1, 2, 3))])


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Returns the similarity of the windows that fit into images (C, H, W), (C, H - 10, W - 10)."""
    mean_x, mean_y = _window_means(x), _window_means(y)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _window_means(x * y) - product
    variances = _window_means(x.square() + y.square()) - squares
    likeness = (2 * product + LUMINANCE_CONSTANT) * (2 * covariance + CONTRAST_CONSTANT)
    return likeness / ((squares + LUMINANCE_CONSTANT) * (variances + CONTRAST_CONSTANT))


def _window_means(maps: Tensor) -> Tensor:
    """Returns Gaussian means (C, H - 10, W - 10) of maps (C, H, W).

    Uses shifted sums, because a GPU computes convolutions in TF32, whose errors are as large as the variances in smooth
    parts of an image.
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


def _mean_differences(differences: Differences, prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    def sums(predicted: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        lab, other = rgb_to_lab(_levels(predicted)), rgb_to_lab(_levels(true))
        return torch.stack([_picture_sums(each(lab, other)[:, None], counted) for each in differences.values()])

    means = _band_sums(sums, prediction, target, valid) / valid.sum(dim=(1, 2, 3))
    return dict(zip(differences, means, strict=True))


def _saturation(chroma: Tensor) -> Tensor:
    """Returns √(C⁷ / (C⁷ + 25⁷))."""
    power = (chroma / 25) ** 7
    return (power / (power + 1)).sqrt()


def _hue(a: Tensor, b: Tensor) -> Tensor:
    """Returns the hue in degrees, in [0, 360); 0 for gray."""
    return torch.atan2(b, a).rad2deg() % 360


def _hue_dependence(hue: Tensor) -> Tensor:
    """Returns the factor T in the weight of hue, for hues in degrees."""
    dependence = torch.ones_like(hue)
    for factor, times, shift in ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63)):
        dependence += factor * (times * hue - shift).deg2rad().cos()
    return dependence


def _opponents(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Returns red minus green and yellow minus blue, (B, 1, H, W) each, for values from 0 to 255."""
    scaled = 255 * _levels(rgb)
    red, green, blue = scaled[:, :1], scaled[:, 1:2], scaled[:, 2:]
    return red - green, (red + green) / 2 - blue
