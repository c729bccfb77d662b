"""Lets networks for red, green and blue see other bands."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tasks.networks.layers import Normalize


def widen(network: nn.Module, channels: int, bands: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Changes a network for images of three channels into one for images of `channels`.

    Its first convolution starts as `for_channels` makes it. Further channels are normalized by the means of the others.

    Args:
        network: A `segmentation_network` or `vgg_autoencoder`, changed in place.
        channels: Number C of channels.
        bands: Mean and standard deviation of the bands that pretrained weights know. If there are C, the images are
            taken to have the same, in this order.

    Raises:
        ValueError: The network has no first convolution that could be replaced.
    """
    if channels == 3:
        return
    found = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d)]
    normalize = network[0] if isinstance(network, nn.Sequential) else None
    if not isinstance(normalize, Normalize) or not found or found[0][1].in_channels != 3:
        raise ValueError(
            f"this network takes images of three channels only, not of {channels}; expected another network"
        )
    name, first = found[0]
    shape = (first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation)
    wide = nn.Conv2d(channels, *shape, bias=first.bias is not None)  # type: ignore[arg-type]  # a tuple of their types
    with torch.no_grad():
        wide.weight.copy_(for_channels(first.weight, channels))
        if first.bias is not None and wide.bias is not None:
            wide.bias.copy_(first.bias)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, wide)
    if bands is not None and len(bands) == channels:
        means, stds = zip(*bands.values(), strict=True)
    else:
        means, stds = (_more(values.flatten(), channels) for values in (normalize.mean, normalize.std))
    network[0] = Normalize(means, stds)  # type: ignore[operator]  # it is a Sequential


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """Returns the weights (N, C, h, w) of a first convolution for C channels, from those (N, 3, h, w) of colors.

    The first three of C channels are taken for red, green and blue, and the others start without an influence. Fewer
    channels share what the colors had.
    """
    if channels < 3:
        return weight.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)
    others = torch.zeros(len(weight), channels - 3, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    return torch.cat([weight, others], dim=1)


def _more(values: Tensor, channels: int) -> tuple[float, ...]:
    known: list[float] = values.tolist()
    return (*known, *[sum(known) / len(known)] * channels)[:channels] if channels > 3 else (sum(known) / 3,) * channels
