"""Marks classes by a small head on what a frozen network sees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SEEN = 4  # of the last stages of a convolutional network, or blocks of a transformer
WIDTH = 64  # channels of the head


class OnFeatures(nn.Module):
    """Two convolutions on the maps of a frozen network.

    The last four stages of a convolutional network, or four blocks of a transformer that are spread evenly up to its
    last one, are normalized over the batch, reduced to 64 channels by 1 x 1 each, summed at the size of the largest,
    and mapped to the classes by 3 x 3. The frozen network is in eval mode and gets no gradient.

    Args:
        encoder: The frozen network, a `tasks.networks.backbones.Stages`; it normalizes images by itself.
        channels: Channels of its `chosen` maps.
        classes: Number K of output maps.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(each, affine=False), nn.Conv2d(each, WIDTH, 1)) for each in channels
        )
        self.output = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, classes, 3, padding=1))

    def train(self, mode: bool = True) -> "OnFeatures":
        """Sets the mode; the frozen network keeps its batch statistics."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        with torch.no_grad():
            maps = chosen(self.encoder(image)[0])
        reduced = [layer(each) for layer, each in zip(self.reduce, maps, strict=True)]
        largest = max((each.shape[-2:] for each in reduced), key=lambda size: size[0] * size[1])
        total = torch.stack([_resized(each, largest) for each in reduced]).sum(dim=0)
        return _resized(self.output(total), image.shape[-2:])


def chosen(maps: Sequence[Tensor]) -> list[Tensor]:
    """Returns the last four maps of different sizes, or of equally large ones four that are spread evenly."""
    if maps[0].shape[-2:] != maps[-1].shape[-2:]:
        return list(maps[-SEEN:])
    count = min(SEEN, len(maps))
    return [maps[len(maps) * (step + 1) // count - 1] for step in range(count)]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear")
