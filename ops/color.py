"""CIE L*a*b* of sRGB pictures and back, on any device, and what keeps a colour within sRGB.

Lab is that of IEC 61966-2-1 (sRGB) and CIE 15 with D65 and the 2° observer, by the constants of scikit-image and
kornia: L in [0, 100], a and b of sRGB colours in [-87, 99] and [-108, 95]. Networks take it scaled: luminance
L / 50 - 1 and chroma (a, b) / 128, in [-1, 1].

Kornia converts. It multiplies by the matrices as convolutions and matrix products, which autocast, TF32 (in cuDNN the
default) and `torch.set_float32_matmul_precision` round, by up to 3 units: all three are off while it does. Half
precision is computed, and returned, in single precision; double precision remains double.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

TO_LINEAR = (
    (3.2404813432005266, -1.5371515162713185, -0.4985363261688878),
    (-0.9692549499965682, 1.8759900014898907, 0.0415559265582928),
    (0.0556466391351772, -0.2040413383665112, 1.0573110696453443),
)
"""Linear sRGB of CIE XYZ, row by row."""
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


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* of sRGB pictures.

    Args:
        rgb: Pictures (B, 3, H, W) in [0, 1].

    Returns:
        L, a and b in CIE units, (B, 3, H, W).

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    from kornia.color import rgb_to_lab as convert

    with _exactly(rgb.device):
        return _in_blocks(convert, _checked(rgb, "rgb", "divide 8-bit levels by 255"))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Pictures of CIE L*a*b*; what sRGB lacks is clipped channel by channel, which changes L too: see `in_gamut`.

    Args:
        lab: L, a and b in CIE units, (B, 3, H, W).

    Returns:
        Pictures in [0, 1], (B, 3, H, W).

    Raises:
        ValueError: These are no floating-point pictures of three channels.
    """
    from kornia.color import lab_to_rgb as convert

    with _exactly(lab.device):
        return _in_blocks(convert, _checked(lab, "lab", "give L in [0, 100], a and b as floats"))


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
            "(B, 2, H, W): enlarge the chroma to the luminance's size, see ops.coloring"
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


@contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """Single precision is single precision, whatever training allows itself; afterwards it may again."""
    # Of kornia's products, on CUDA and on the host; torch sets these attributes when it runs.
    switches = torch.backends.cudnn.conv, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set at run time
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


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


def _linear(lightness: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Linear red, green and blue, outside [0, 1] where sRGB lacks the colour."""
    y = (lightness + 16) / 116
    roots = (y + a / 500, y, (y - b / 200).clamp(min=0))
    xyz = [
        white * torch.where(each > 0.2068966, each * each * each, (each - 4 / 29) / 7.787)
        for each, white in zip(roots, WHITE, strict=True)
    ]
    # Written out, so that no precision of products reaches what bisection looks at 14 times.
    return [row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2] for row in TO_LINEAR]


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
