"""How far apart colours look, how colourful a picture is, and the scores of coloured pictures made of both."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ops.color import rgb_to_lab
from ops.similarity import band_sums, checked_valid, levels, picture_sums, psnr, ssim

SCORES = (
    "psnr",
    "ssim",
    "delta_e76",
    "delta_e2000",
    "colorfulness",
    "colorfulness_true",
    "colorfulness_difference",
)
"""What `picture_scores` knows."""


def delta_e76(lab: Tensor, other: Tensor) -> Tensor:
    """CIE76 colour difference: the Euclidean distance in Lab. About 2.3 is just noticeable.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).
        other: The same of the other picture.

    Returns:
        Differences (B, H, W), at least 0.

    Raises:
        ValueError: The shapes are not (B, 3, H, W), or differ.
    """
    _check(lab, other)
    return (_single(lab) - _single(other)).square().sum(dim=1).sqrt()


def delta_e2000(lab: Tensor, other: Tensor) -> Tensor:
    """CIEDE2000 colour difference with all weights 1. About 1 is just noticeable.

    G. Sharma, W. Wu and E. N. Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test
    data, and mathematical observations", Color Research and Application 30, 2005, equations 2 to 22.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).
        other: The same of the other picture; the order of the two does not matter.

    Returns:
        Differences (B, H, W), at least 0.

    Raises:
        ValueError: The shapes are not (B, 3, H, W), or differ.
    """
    _check(lab, other)
    lightness1, a1, b1 = _single(lab).unbind(1)
    lightness2, a2, b2 = _single(other).unbind(1)
    stretch = 1.5 - 0.5 * _saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    chroma1, chroma2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    hue1, hue2 = _hue(a1, b1), _hue(a2, b2)

    turn = hue2 - hue1
    across = turn.abs() > 180  # the shorter way from one hue to the other leads through 0
    grey = chroma1 * chroma2 == 0
    turn = torch.where(across, turn - 360 * turn.sign(), turn)
    hue_difference = 2 * (chroma1 * chroma2).sqrt() * (turn / 2).deg2rad().sin()
    both = hue1 + hue2
    mean_hue = torch.where(across, both + torch.where(both < 360, 360, -360), both) / 2
    mean_hue = torch.where(grey, both, mean_hue)  # one of the two has no hue, and 0 stands for it

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
    """Colourfulness of each picture, the spread of its opponent colours and their distance from grey.

    σ + 0.3 μ with σ² = σ²(R − G) + σ²((R + G) / 2 − B), and μ likewise of the means, for values from 0 to 255. 0 is
    not colourful, 15 slightly, 33 moderately, 59 quite, 82 highly: D. Hasler and S. Süsstrunk, "Measuring
    colourfulness in natural images", Proc. SPIE 5007, 2003, equation 3 and table 2.

    Args:
        rgb: Pictures (B, 3, H, W): floating point in [0, 1], or uint8.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.

    Returns:
        Colourfulness (B,), at least 0; NaN for a picture without a valid pixel.

    Raises:
        ValueError: The shapes do not belong together.
    """
    valid = checked_valid(rgb, rgb, valid)
    pixels = valid.sum(dim=(1, 2, 3))

    def sums(band: Tensor, counted: Tensor) -> Tensor:
        return torch.stack([picture_sums(each, counted) for each in _opponents(band)])

    means = band_sums(sums, rgb, valid) / pixels  # (2, B)

    def squares(band: Tensor, counted: Tensor) -> Tensor:
        pairs = zip(_opponents(band), means, strict=True)
        return torch.stack([picture_sums((each - mean.view(-1, 1, 1, 1)).square(), counted) for each, mean in pairs])

    variances = band_sums(squares, rgb, valid) / pixels
    return variances.sum(dim=0).sqrt() + 0.3 * means.square().sum(dim=0).sqrt()


def picture_scores(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, names: Sequence[str] = SCORES
) -> dict[str, Tensor]:
    """How well each picture is coloured.

    - `psnr`, `ssim`: those of `ops.similarity`, of the red, green and blue values
    - `delta_e76`, `delta_e2000`: the means of both differences over the valid pixels
    - `colorfulness`, `colorfulness_true`, `colorfulness_difference`: of prediction, target, and the one less the other

    Beside the pictures, memory holds a band of rows.

    Args:
        prediction: sRGB pictures (B, 3, H, W): floating point in [0, 1], or uint8. NaN counts as 0.
        target: True pictures, likewise.
        valid: True where a pixel counts, (B, 1, H, W). All count by default.
        names: Which of the scores.

    Returns:
        By name, (B,) each, in the order of `names`. NaN for a picture without a valid pixel, and the `ssim` of one that
        has no 11 x 11 valid pixels in one place.

    Raises:
        ValueError: The shapes do not belong together, or a name is unknown.
    """
    valid = checked_valid(prediction, target, valid)
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"scores {unknown}; wanted are some of {', '.join(SCORES)}")
    scores: dict[str, Tensor] = {}
    if "psnr" in names:
        scores["psnr"] = psnr(prediction, target, valid)
    if "ssim" in names:
        scores["ssim"] = ssim(prediction, target, valid)
    differences: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"delta_e76": delta_e76, "delta_e2000": delta_e2000}
    if wanted := [name for name in differences if name in names]:
        scores |= _mean_differences({name: differences[name] for name in wanted}, prediction, target, valid)
    if any(name.startswith("colorfulness") for name in names):
        found, true = colorfulness(prediction, valid), colorfulness(target, valid)
        scores |= {"colorfulness": found, "colorfulness_true": true, "colorfulness_difference": found - true}
    return {name: scores[name] for name in names}


def _mean_differences(
    differences: dict[str, Callable[[Tensor, Tensor], Tensor]], prediction: Tensor, target: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    def sums(predicted: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        lab, other = rgb_to_lab(levels(predicted)), rgb_to_lab(levels(true))
        return torch.stack([picture_sums(each(lab, other)[:, None], counted) for each in differences.values()])

    means = band_sums(sums, prediction, target, valid) / valid.sum(dim=(1, 2, 3))
    return dict(zip(differences, means, strict=True))


def _check(lab: Tensor, other: Tensor) -> None:
    if lab.ndim != 4 or lab.shape[1] != 3 or other.shape != lab.shape:
        raise ValueError(
            f"Lab of shapes {tuple(lab.shape)} and {tuple(other.shape)}; wanted is one shape (B, 3, H, W) for both: "
            "convert pictures of one size by ops.color.rgb_to_lab"
        )


def _single(lab: Tensor) -> Tensor:
    return lab if lab.dtype == torch.float64 else lab.float()


def _saturation(chroma: Tensor) -> Tensor:
    """√(C⁷ / (C⁷ + 25⁷))."""
    power = (chroma / 25) ** 7
    return (power / (power + 1)).sqrt()


def _hue(a: Tensor, b: Tensor) -> Tensor:
    """Hue in degrees, in [0, 360); 0 for grey."""
    return torch.atan2(b, a).rad2deg() % 360


def _hue_dependence(hue: Tensor) -> Tensor:
    """The factor T of the weight of hue, of hues in degrees."""
    dependence = torch.ones_like(hue)
    for factor, times, shift in ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63)):
        dependence += factor * (times * hue - shift).deg2rad().cos()
    return dependence


def _opponents(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Red less green, and yellow less blue, (B, 1, H, W) each, for values from 0 to 255."""
    scaled = 255 * levels(rgb)
    red, green, blue = scaled[:, :1], scaled[:, 1:2], scaled[:, 2:]
    return red - green, (red + green) / 2 - blue
