"""Predicts colors on a coarse grid by a linear layer on the maps of frozen networks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.color.coloring import guided_upsample
from ops.color.lab import to_rgb
from tasks.networks.backbones import Stages
from tasks.networks.frozen_linear import FrozenLinear

STRIDE = 16  # pixels of the image per cell of the grid
SIDE = 224  # pixels of the image that lengths are measured on
OWN = 4  # features of a cell besides the maps: mean and deviation of luminance, and its place


class LinearColorizer(FrozenLinear):
    """Maps luminance to chroma on a grid of cells of 16 pixels by one linear layer on what frozen networks see.

    A cell's features are the channels of each network's maps at an eighth and a sixteenth of the image's size, averaged
    over the image and its mirror image, and the mean and deviation of its luminance and its place.

    Args:
        names: Names of the networks, see `tasks.networks.backbones.Stages`.

    Attributes:
        blocks: Number of features of each network; the own ones are part of each.

    Raises:
        ValueError: A network is unknown; the message names the nearest.
    """

    def __init__(self, names: list[str]) -> None:
        self.blocks = [_channels(name) + OWN for name in names]
        super().__init__(names, sum(self.blocks), 2)

    @torch.no_grad()
    def cells(self, luminance: Tensor, valid: Tensor) -> Tensor:
        """Returns the features of each cell in float32; mixed precision is off, since the layer is fitted on them.

        Args:
            luminance: Scaled luminance (B, 1, H, W).
            valid: Pixels that count, bool (B, 1, H, W).

        Returns:
            (B, D, ceil(H / 16), ceil(W / 16)).
        """
        size = cell_size(luminance)
        with torch.autocast(luminance.device.type, enabled=False):
            gray = to_rgb(luminance, luminance.new_zeros(len(luminance), 2, *luminance.shape[2:]))
            mean = cell_means(luminance, valid)
            deviation = (cell_means(luminance.square(), valid) - mean.square()).clamp(min=0).sqrt()
            y, x = torch.meshgrid(*(torch.linspace(-1, 1, side, device=gray.device) for side in size), indexing="ij")
            place = torch.stack([y, x]).expand(len(gray), -1, -1, -1)
            found = []
            for stages in self.backbones:
                once, mirrored = (_maps(stages(image)[0], luminance.shape[-2:]) for image in (gray, gray.flip(3)))
                pairs = zip(once, mirrored, strict=True)
                found += [F.adaptive_avg_pool2d((a + b.flip(3)) / 2, size) for a, b in pairs]
                found += [mean, deviation, place]
            return torch.cat(found, dim=1)

    def chroma(self, cells: Tensor) -> Tensor:
        """Maps features (B, D, h, w) to what is added to the chroma of each cell, (B, 2, h, w)."""
        with torch.autocast(cells.device.type, enabled=False):
            added: Tensor = self.output(self.standard(cells.movedim(1, 3)))
            return added.movedim(3, 1)

    def forward(self, luminance: Tensor, valid: Tensor) -> Tensor:
        """Maps scaled luminance (B, 1, H, W) to what is added to the chroma of each pixel, (B, 2, H, W)."""
        return enlarged(self.chroma(self.cells(luminance, valid)), luminance, valid)


def cell_size(image: Tensor) -> tuple[int, int]:
    """Returns the number of cells along the height and width of images (B, C, H, W)."""
    return -(-image.shape[-2] // STRIDE), -(-image.shape[-1] // STRIDE)


def cell_means(maps: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of the valid pixels of each cell, 0 where there are none, of maps (B, C, H, W)."""
    size = cell_size(maps)
    share = F.adaptive_avg_pool2d(valid.to(maps), size)
    return F.adaptive_avg_pool2d(maps.masked_fill(~valid, 0), size) / share.clamp(min=1e-6)


def enlarged(added: Tensor, luminance: Tensor, valid: Tensor) -> Tensor:
    """Enlarges chroma of cells (B, 2, h, w) to the size of the luminance (B, 1, H, W) by the guided filter."""
    return guided_upsample(added, cell_means(luminance, valid), luminance)


def _maps(maps: list[Tensor], size: torch.Size) -> list[Tensor]:
    """Returns the last of the maps of each size from an eighth to a sixteenth of the image's."""
    last = {each.shape[-2:]: each for each in maps}
    kept = [each for side, each in last.items() if size[0] <= side[0] * STRIDE and side[0] * STRIDE <= 2.5 * size[0]]
    return kept or [maps[-1]]


def _channels(name: str) -> int:
    """Returns the channels of a network's maps that are used; nothing is computed or allocated."""
    with torch.device("meta"):
        maps = Stages(name).eval()(torch.zeros(1, 3, SIDE, SIDE))[0]
        return sum(each.shape[1] for each in _maps(maps, torch.Size((SIDE, SIDE))))
