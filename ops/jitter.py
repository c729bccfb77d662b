"""Random views of images and their masks, by each sample's seed alone: crops, symmetries, small warps, colors."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.augment import bits_of
from ops.exact.backends import full_precision
from ops.windows import Size

Augment = Literal["none", "flips", "d4", "photo", "aerial"]
"""How training images vary: `flips` along both axes; `d4` flips and quarter turns; `photo` left-right flips, zoom,
small rotations and colors; `aerial` `d4` with the zoom and colors of `photo`."""

DRAWS = 11  # random numbers per sample


@dataclass(frozen=True)
class Jitter:
    """How far views differ from their image.

    Attributes:
        mirror: Whether views are flipped left to right, half of the time.
        upright: Whether the top stays the top; otherwise views are also flipped top to bottom.
        turns: Whether views are also turned by multiples of 90 degrees.
        zoom: Largest factor by which views are enlarged or reduced.
        rotation: Largest angle in degrees, in either direction.
        color: Brightness, contrast and (of three channels) saturation change by up to this share, gamma by up to this
            factor's logarithm.
    """

    mirror: bool = False
    upright: bool = True
    turns: bool = False
    zoom: float = 1.0
    rotation: float = 0.0
    color: float = 0.0


JITTERS: dict[str, Jitter] = {
    "none": Jitter(),
    "flips": Jitter(mirror=True, upright=False),
    "d4": Jitter(mirror=True, upright=False, turns=True),
    "photo": Jitter(mirror=True, zoom=1.3, rotation=5, color=0.2),
    "aerial": Jitter(mirror=True, upright=False, turns=True, zoom=1.3, color=0.2),
}


class RandomViews:
    """Draws a view of each image and the same view of its masks, by the sample's seed alone.

    Args:
        augment: How views vary.
        image: Height and width of the images.
        crop: Height and width of the views; None is that of the images.

    Raises:
        ValueError: Images of this size have no such views.
    """

    def __init__(self, augment: Augment, image: Size, crop: Size | None = None) -> None:
        if augment not in JITTERS:
            raise ValueError(f"augment is {augment!r}; expected one of {', '.join(get_args(Augment))}")
        self.jitter, self.size = JITTERS[augment], image if crop is None else crop
        if min(self.size) < 1 or self.size[0] > image[0] or self.size[1] > image[1]:
            raise ValueError(f"crop is {list(self.size)}; expected 1 to {list(image)} pixels, the size of the images")
        if self.jitter.turns and (image[0] != image[1] or self.size[0] != self.size[1]):
            raise ValueError(
                f"augment {augment!r} turns images by 90 degrees, but they are {list(image)} pixels and views "
                f"{list(self.size)}; expected equal height and width, or another augment"
            )

    def __call__(self, image: Tensor, mask: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Draws views; where one reaches beyond its image, it shows the reflection.

        Args:
            image: Images (B, 3, H, W) in [0, 1].
            mask: Masks (B, K, H, W), floating point, 0 or 1.
            seeds: int64 (B,).

        Returns:
            Views (B, 3, h, w) in [0, 1], and masks (B, K, h, w), 0 or 1.
        """
        draws = _uniform(seeds)
        if self.jitter.zoom != 1 or self.jitter.rotation != 0:
            image, mask = _warped(image, mask, draws, self.jitter, self.size)
        else:
            pairs = zip(torch.cat([image, mask], dim=1), draws.tolist(), strict=True)
            views = torch.stack([_cut(each, draw, self.jitter, self.size) for each, draw in pairs])
            image, mask = torch.split(views, [image.shape[1], mask.shape[1]], dim=1)
        return _recolored(image, draws[:, 6:10], self.jitter.color), mask


def _uniform(seeds: Tensor) -> Tensor:
    """Returns `DRAWS` numbers from 0 up to 1 for each seed, float32 (B, DRAWS), on the device of the seeds."""
    bits = [bits_of(bits_of(bits_of(seeds)))]
    while len(bits) < DRAWS:
        bits.append(bits_of(bits[-1]))
    return torch.stack([(each >> 40) & 0xFFFFFF for each in bits], dim=1).float() / (1 << 24)


def _cut(image: Tensor, draw: list[float], jitter: Jitter, size: Size) -> Tensor:
    """Returns a crop of an image (C, H, W), flipped and turned without interpolation."""
    turns = int(4 * draw[2]) if jitter.turns else 0
    height, width = size if turns % 2 == 0 else (size[1], size[0])
    top = int(draw[3] * (image.shape[1] - height + 1))
    left = int(draw[4] * (image.shape[2] - width + 1))
    crop = image[:, top : top + height, left : left + width]
    view = torch.rot90(crop, turns, (1, 2))
    view = view.flip(2) if jitter.mirror and draw[0] < 0.5 else view
    return view.flip(1) if not jitter.upright and draw[1] < 0.5 else view


def _warped(image: Tensor, mask: Tensor, draws: Tensor, jitter: Jitter, size: Size) -> tuple[Tensor, Tensor]:
    (height, width), (rows, columns) = image.shape[-2:], size
    scale = torch.exp(math.log(jitter.zoom) * (2 * draws[:, 5] - 1))
    quarter = (4 * draws[:, 2]).floor() if jitter.turns else torch.zeros_like(scale)
    angle = math.radians(jitter.rotation) * (2 * draws[:, 10] - 1) + quarter * (math.pi / 2)
    across = torch.where(draws[:, 0] < 0.5, -1.0, 1.0) if jitter.mirror else torch.ones_like(scale)
    down = torch.ones_like(scale) if jitter.upright else torch.where(draws[:, 1] < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    # the pixel of the image, as x and y from a center, that each pixel of the view shows: flipped, turned and scaled
    to_image = torch.stack([cosine * across, -sine * down, sine * across, cosine * down], dim=1).view(-1, 2, 2)
    whole, view = to_image.new_tensor([width, height]), to_image.new_tensor([columns, rows])
    room = (whole - to_image.abs() @ view).clamp(min=0)
    center = (whole - room) / 2 + room * draws[:, 3:5].flip(1)
    # affine_grid counts view and image from -1 to 1
    theta = torch.cat([to_image * view / whole[:, None], (2 * center / whole - 1)[..., None]], dim=2)
    with full_precision(image.device):
        grid = F.affine_grid(theta.to(image.device), [len(image), 1, rows, columns], align_corners=False)
        both = F.grid_sample(torch.cat([image, mask], 1), grid, padding_mode="reflection", align_corners=False)
    views, masks = torch.split(both, [image.shape[1], mask.shape[1]], dim=1)
    return views.clamp(0, 1), (masks > 0.5).to(mask.dtype)


def _recolored(image: Tensor, draws: Tensor, amount: float) -> Tensor:
    """Changes gamma, brightness, contrast and saturation, by kornia."""
    if amount == 0:
        return image
    from kornia import enhance

    around = (amount * (2 * draws - 1)).to(image)
    with full_precision(image.device):
        image = enhance.adjust_gamma(image, around[:, 0].exp())
        image = enhance.adjust_brightness_accumulative(image, 1 + around[:, 1])
        image = enhance.adjust_contrast_with_mean_subtraction(image, 1 + around[:, 2])
        if image.shape[1] != 3:
            return image
        changed: Tensor = enhance.adjust_saturation_with_gray_subtraction(image, 1 + around[:, 3])
        return changed
