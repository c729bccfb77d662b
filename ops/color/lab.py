"""Converts sRGB images to CIE L*a*b* and back, on any device, and reduces colors to those that sRGB has.

Lab follows IEC 61966-2-1 (sRGB) and CIE 15 with D65 and the 2° observer, with the constants of scikit-image and
kornia: L in [0, 100], a and b of sRGB colors in [-87, 99] and [-108, 95]. Networks take it scaled: luminance
L / 50 - 1 and chroma (a, b) / 128, in [-1, 1].

Kornia converts, in full precision: autocast and TF32 would be off by up to 3 units. Half precision is
computed and returned in float32; float64 stays float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ops.exact.backends import full_precision

TO_LINEAR = (
    (3.2404813432005266, -1.5371515162713185, -0.4985363261688878),
    (-0.9692549499965682, 1.8759900014898907, 0.0415559265582928),
    (0.0556466391351772, -0.2040413383665112, 1.0573110696453443),
)
"""Matrix from CIE XYZ to linear sRGB, row by row."""
WHITE = (0.95047, 1.0, 1.08883)
"""CIE XYZ of D65."""
SCALE = 128.0
"""Divisor of a and b that gives chroma."""
TOLERANCE = 1e-5
"""How far a linear channel may lie outside [0, 1]: more than float32 rounding moves sRGB's own colors."""
HALVINGS = 14
"""Steps of bisection: chroma is found to 1 / 2^14 of the given one, 0.02 for a chroma of 300."""
BLOCK, DEVICE_BLOCK = 1 << 16, 1 << 22
"""Pixels at a time, on the host (so that they stay in its cache) and on a device."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Converts sRGB images to CIE L*a*b*.

    Args:
        rgb: Images (B, 3, H, W) in [0, 1].

    Returns:
        L, a and b in CIE units, (B, 3, H, W).

    Raises:
        ValueError: The input is not floating point of shape (B, 3, H, W).
    """
    from kornia.color import rgb_to_lab as convert

    with full_precision(rgb.device):
        return _in_blocks(convert, _checked(rgb, "rgb", "divide 8-bit levels by 255"))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Converts CIE L*a*b* to sRGB. Colors outside sRGB are clipped per channel, which changes L too: see `in_gamut`.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).

    Returns:
        Images in [0, 1], (B, 3, H, W).

    Raises:
        ValueError: The input is not floating point of shape (B, 3, H, W).
    """
    from kornia.color import lab_to_rgb as convert

    with full_precision(lab.device):
        return _in_blocks(convert, _checked(lab, "lab", "give L in [0, 100], a and b as floats"))


def scaled(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Splits CIE L*a*b* (B, 3, H, W) into luminance L / 50 - 1 (B, 1, H, W) and chroma (a, b) / 128 (B, 2, H, W)."""
    return lab[:, :1] / 50 - 1, lab[:, 1:] / SCALE


def joined(luminance: Tensor, chroma: Tensor) -> Tensor:
    """Joins scaled luminance (B, 1, H, W) and chroma (B, 2, H, W) to CIE L*a*b* (B, 3, H, W), in float32 or float64.

    Raises:
        ValueError: The shapes are different ones, or differ in size.
    """
    if luminance.shape[1:2] != (1,) or chroma.shape[1:2] != (2,) or luminance.shape[2:] != chroma.shape[2:]:
        raise ValueError(
            f"expected luminance (B, 1, H, W) and chroma (B, 2, H, W), got {tuple(luminance.shape)} and "
            f"{tuple(chroma.shape)}: enlarge the chroma to the luminance's size, see ops.color.coloring"
        )
    return torch.cat([(single(luminance) + 1) * 50, single(chroma) * SCALE], dim=1)


def luminance_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Converts sRGB images (B, 3, H, W) in [0, 1] to scaled luminance (B, 1, H, W) and chroma (B, 2, H, W).

    Raises:
        ValueError: The input is not floating point of shape (B, 3, H, W).
    """
    return scaled(rgb_to_lab(rgb))


def to_rgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    """Converts scaled luminance (B, 1, H, W) and chroma (B, 2, H, W) to images (B, 3, H, W) in [0, 1], clipped.

    Raises:
        ValueError: The shapes are different ones, or differ in size.
    """
    return lab_to_rgb(joined(luminance, chroma))


def in_gamut(lab: Tensor) -> Tensor:
    """Reduces the chroma of colors outside sRGB until sRGB has them, at the same lightness and hue.

    Bisects along the line from gray. Rounded to 8 bits, the results keep L to 0.5. Colors inside sRGB are unchanged.

    Args:
        lab: L in [0, 100], a and b of any size, in CIE units, (B, 3, H, W).

    Returns:
        L, a and b in CIE units, (B, 3, H, W).

    Raises:
        ValueError: The input is not floating point of shape (B, 3, H, W).
    """
    return _in_blocks(_reduced, _checked(lab, "lab", "give L in [0, 100], a and b as floats"))


def single(image: Tensor) -> Tensor:
    """Returns float64 as it is and everything else as float32."""
    return image if image.dtype == torch.float64 else image.float()


def _checked(image: Tensor, name: str, advice: str) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"expected {name} (B, 3, H, W) of floating point, got {image.dtype} of shape {tuple(image.shape)}: {advice}"
        )
    return single(image)


def _in_blocks(convert: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Converts images some rows at a time, so that memory holds only a few small blocks beside input and output."""
    if (image.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_exporting():
        return convert(image)
    block = BLOCK if image.device.type == "cpu" else DEVICE_BLOCK
    rows = max(1, block // max(1, image.shape[0] * image.shape[3]))
    result = torch.empty_like(image, memory_format=torch.contiguous_format)
    for top in range(0, image.shape[2], rows):
        result[:, :, top : top + rows] = convert(image[:, :, top : top + rows])
    return result


def _linear(lightness: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Returns linear red, green and blue, outside [0, 1] where sRGB lacks the color."""
    y = (lightness + 16) / 116
    roots = (y + a / 500, y, (y - b / 200).clamp(min=0))
    xyz = [
        white * torch.where(each > 0.2068966, each * each * each, (each - 4 / 29) / 7.787)
        for each, white in zip(roots, WHITE, strict=True)
    ]
    # Written out instead of kornia's conversion, which would also compute sRGB's power 14 times.
    return [row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2] for row in TO_LINEAR]


def _within(lightness: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Returns which colors sRGB has."""
    red, green, blue = _linear(lightness, a, b)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    highest = torch.maximum(torch.maximum(red, green), blue)
    return (lowest >= -TOLERANCE) & (highest <= 1 + TOLERANCE)


def _share(lightness: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Returns the largest share of the chroma that sRGB has."""
    share = torch.zeros_like(lightness)  # gray, which is always inside
    for halving in range(1, HALVINGS + 1):
        larger = share + 0.5**halving
        share = torch.where(_within(lightness, larger * a, larger * b), larger, share)
    return share


def _reduced(lab: Tensor) -> Tensor:
    outside = ~_within(*lab.unbind(1))
    if torch.compiler.is_exporting():  # an exported network cannot choose pixels
        reduced = torch.where(outside, _share(*lab.unbind(1)), 1)[:, None] * lab[:, 1:]
        return torch.cat([lab[:, :1], reduced], dim=1)
    if not outside.any():
        return lab
    lightness, a, b = (channel[outside] for channel in lab.unbind(1))
    share = _share(lightness, a, b)
    result = lab.clone()
    for channel, value in ((1, a), (2, b)):
        result[:, channel][outside] = share * value
    return result
