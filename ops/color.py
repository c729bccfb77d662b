"""CIE L*a*b* of sRGB pictures and back, on any device, and what keeps a colour within sRGB.

Lab is that of IEC 61966-2-1 (sRGB) and CIE 15 with D65 and the 2° observer, by the constants of scikit-image and
kornia: L in [0, 100], a and b of sRGB colours in [-87, 99] and [-108, 95]. Networks take it scaled: luminance
L / 50 - 1 and chroma (a, b) / 128, in [-1, 1].

Kornia multiplies by the matrices as convolutions and matrix products, which autocast, TF32 (in cuDNN the default) and
`torch.set_float32_matmul_precision` make inexact. The sums below are written out, so that nothing of that reaches them.
Half precision is computed, and returned, in single precision; double precision remains double.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""CIE XYZ of linear sRGB, row by row."""
TO_LINEAR = (
    (3.2404813432005266, -1.5371515162713185, -0.4985363261688878),
    (-0.9692549499965682, 1.8759900014898907, 0.0415559265582928),
    (0.0556466391351772, -0.2040413383665112, 1.0573110696453443),
)
"""Its inverse."""
WHITE = (0.95047, 1.0, 1.08883)
"""CIE XYZ of D65."""
SCALE = 128.0
"""What a and b are divided by to make chroma."""
TOLERANCE = 1e-5
"""How far a linear channel may lie outside [0, 1]: more than what rounding of 32 bits does to sRGB's own colours."""
HALVINGS = 14
"""Chroma in the gamut is found to 1 / 2^14 of the given one: to 0.02 for a chroma of 300."""
BLOCK, DEVICE_BLOCK = 1 << 16, 1 << 22
"""Pixels at a time, on the host (they stay in its cache) and on a device."""


def rgb_to_lab(rgb: Tensor, backend: Literal["exact", "kornia"] = "exact") -> Tensor:
    """CIE L*a*b* of sRGB pictures.

    Args:
        rgb: Pictures (B, 3, H, W) in [0, 1].
        backend: `kornia` is slower, and on CUDA as exact as TF32 if convolutions may round to it.

    Returns:
        L, a and b in CIE units, (B, 3, H, W).

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    image = _checked(rgb, "rgb", "divide 8-bit levels by 255")
    return _in_blocks(_lab, image) if backend == "exact" else _by_kornia("rgb_to_lab", image)


def lab_to_rgb(lab: Tensor, backend: Literal["exact", "kornia"] = "exact") -> Tensor:
    """Pictures of CIE L*a*b*; what sRGB lacks is clipped channel by channel, which changes L too: see `in_gamut`.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).
        backend: As in `rgb_to_lab`.

    Returns:
        Pictures in [0, 1], (B, 3, H, W).

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    image = _checked(lab, "lab", "give L in [0, 100], a and b as floats")
    return _in_blocks(_rgb, image) if backend == "exact" else _by_kornia("lab_to_rgb", image)


def _by_kornia(name: Literal["rgb_to_lab", "lab_to_rgb"], image: Tensor) -> Tensor:
    from kornia import color

    with torch.autocast(image.device.type, enabled=False):
        result: Tensor = getattr(color, name)(image)
    return result


def scaled(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance L / 50 - 1 (B, 1, H, W) and chroma (a, b) / 128 (B, 2, H, W) of CIE L*a*b* (B, 3, H, W)."""
    return lab[:, :1] / 50 - 1, lab[:, 1:] / SCALE


def joined(luminance: Tensor, chroma: Tensor) -> Tensor:
    """CIE L*a*b* (B, 3, H, W) of scaled luminance (B, 1, H, W) and chroma (B, 2, H, W), in single precision at least.

    Raises:
        ValueError: They are not of that shape, or not of one size.
    """
    if luminance.shape[1:2] != (1,) or chroma.shape[1:2] != (2,) or luminance.shape[2:] != chroma.shape[2:]:
        raise ValueError(
            f"luminance of shape {tuple(luminance.shape)} and chroma of {tuple(chroma.shape)}; wanted (B, 1, H, W) and "
            "(B, 2, H, W): enlarge the chroma to the luminance's size, see ops.guided"
        )
    return torch.cat([(_single(luminance) + 1) * 50, _single(chroma) * SCALE], dim=1)


def luminance_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled luminance (B, 1, H, W) and chroma (B, 2, H, W) of sRGB pictures (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    return scaled(rgb_to_lab(rgb))


def to_rgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of scaled luminance (B, 1, H, W) and chroma (B, 2, H, W), clipped.

    Raises:
        ValueError: They are not of that shape, or not of one size.
    """
    return lab_to_rgb(joined(luminance, chroma))


def in_gamut(lab: Tensor) -> Tensor:
    """The colours of the same lightness and hue that sRGB has: where it lacks one, its chroma is reduced.

    By bisection along the line from grey. Rounded to 8 bits, the colours that come of it keep L to 0.5. Colours of sRGB
    come back as they were.

    Args:
        lab: L in [0, 100], a and b of any size, in CIE units, (B, 3, H, W).

    Returns:
        L, a and b in CIE units, (B, 3, H, W).

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    return _in_blocks(_reduced, _checked(lab, "lab", "give L in [0, 100], a and b as floats"))


def _single(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()


def _checked(image: Tensor, name: str, advice: str) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"{name} of shape {tuple(image.shape)} and {image.dtype}; wanted (B, 3, H, W) of floating point: {advice}"
        )
    return _single(image)


def _in_blocks(convert: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """What becomes of pictures, some rows at a time: beside input and output, memory holds a few small blocks."""
    if image.requires_grad and torch.is_grad_enabled():
        return convert(image)
    block = BLOCK if image.device.type == "cpu" else DEVICE_BLOCK
    rows = max(1, block // max(1, image.shape[0] * image.shape[3]))
    result = torch.empty_like(image, memory_format=torch.contiguous_format)
    for top in range(0, image.shape[2], rows):
        result[:, :, top : top + rows] = convert(image[:, :, top : top + rows])
    return result


def _product(matrix: tuple[tuple[float, ...], ...], channels: tuple[Tensor, ...]) -> list[Tensor]:
    first, second, third = channels
    return [row[0] * first + row[1] * second + row[2] * third for row in matrix]


def _lab(rgb: Tensor) -> Tensor:
    # Clamped, because the branch that is not taken must not make gradients infinite.
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = [each / white for each, white in zip(_product(TO_XYZ, linear.unbind(1)), WHITE, strict=True)]
    x, y, z = (torch.where(each > 0.008856, each.clamp(min=0.008856) ** (1 / 3), 7.787 * each + 4 / 29) for each in xyz)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _rgb(lab: Tensor) -> Tensor:
    linear = _linear(*lab.unbind(1))
    rgb = [
        torch.where(each > 0.0031308, 1.055 * each.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * each)
        for each in linear
    ]
    return torch.stack(rgb, dim=1).clamp(0, 1)


def _linear(lightness: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Linear red, green and blue, outside [0, 1] where sRGB lacks the colour."""
    y = (lightness + 16) / 116
    roots = (y + a / 500, y, (y - b / 200).clamp(min=0))
    xyz = [
        white * torch.where(each > 0.2068966, each * each * each, (each - 4 / 29) / 7.787)
        for each, white in zip(roots, WHITE, strict=True)
    ]
    return _product(TO_LINEAR, tuple(xyz))


def _within(lightness: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Which colours sRGB has."""
    red, green, blue = _linear(lightness, a, b)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    highest = torch.maximum(torch.maximum(red, green), blue)
    return (lowest >= -TOLERANCE) & (highest <= 1 + TOLERANCE)


def _reduced(lab: Tensor) -> Tensor:
    outside = ~_within(*lab.unbind(1))
    if not outside.any():
        return lab
    lightness, a, b = (channel[outside] for channel in lab.unbind(1))
    share = torch.zeros_like(lightness)  # always within: grey
    for halving in range(1, HALVINGS + 1):
        larger = share + 0.5**halving
        share = torch.where(_within(lightness, larger * a, larger * b), larger, share)
    result = lab.clone()
    for channel, value in ((1, a), (2, b)):
        result[:, channel][outside] = share * value
    return result
