"""Marks classes by a small head on what a frozen network sees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.backbones import Stages
from tasks.networks.layers import AnySize

SEEN = 4  # of the last stages of a convolutional network, or blocks of a transformer
WIDTH = 64  # channels of the head


class OnFeatures(nn.Module):
    """Two convolutions on the maps of a frozen network.

    The last four stages of a convolutional network, or four blocks of a transformer that are spread evenly up to its
    last one, are normalized over the batch, reduced to 64 channels by 1 x 1 each, summed at the size of the largest,
    and mapped to the classes by 3 x 3. The frozen network is in eval mode and gets no gradient.

    Args:
        name: Name of the network, see `tasks.networks.backbones.Stages`.
        classes: Number K of output maps.

    Attributes:
        encoder: The frozen network.

    Raises:
        ValueError: The network is unknown; the message names the nearest.
    """

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.encoder = Stages(name).eval().requires_grad_(False)
        channels = _channels(name)
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


def features_network(name: str, classes: int) -> nn.Module:
    """Builds a network of `OnFeatures` with random weights for images in [0, 1] of any size.

    Args:
        name: Name of the frozen network.
        classes: Number K of output maps.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to logits (B, K, H, W). Its frozen network is `network.encoder`.
    """
    network = OnFeatures(name, classes)
    return nn.Sequential(nn.Identity(), AnySize(network, network.encoder.multiple))  # it normalizes by itself


def chosen(maps: Sequence[Tensor]) -> list[Tensor]:
    """Returns the last four maps of different sizes, or of equally large ones four that are spread evenly."""
    if maps[0].shape[-2:] != maps[-1].shape[-2:]:
        return list(maps[-SEEN:])
    count = min(SEEN, len(maps))
    return [maps[len(maps) * (step + 1) // count - 1] for step in range(count)]


def _channels(name: str) -> list[int]:
    """Returns the channels of the maps that the head sees; nothing is computed or allocated."""
    with torch.device("meta"):
        return [each.shape[1] for each in chosen(Stages(name).eval()(torch.zeros(1, 3, 224, 224))[0])]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear")
