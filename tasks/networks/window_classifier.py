"""Builds networks that classify the central pixel of an image window."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ops.statistics.components import principal_components
from tasks.networks.backbones import EXTRACTORS, HALF, feature_extractor
from tasks.networks.layers import Normalize

# Smallest window in pixels that leaves a pixel after the last layer.
SMALLEST = {"cnn1d": 10, "cnn2d": 12, "vgg16": 32, "resnet50": 1, "resnet50_v1": 1, "inception_resnet_v2": 75}
HIDDEN = 128  # width of the dense layer of the small networks


class Grey(nn.Module):
    """Averages the channels of an image to one."""

    def forward(self, image: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, 1, H, W)."""
        return image.mean(dim=1, keepdim=True)


def window_classifier(
    name: Literal["cnn1d", "cnn2d", "vgg16", "resnet50", "resnet50_v1", "inception_resnet_v2"],
    window: int,
    channels: int = 3,
    components: int | None = None,
) -> nn.Sequential:
    """Builds a window classifier with random weights.

    These are the networks that Alharbi et al. compare ("Predicting avalanche field in images using convolutional neural
    networks and edge detection", 2020). The paper does not list the layers of its own two, `cnn1d` and `cnn2d`, which
    are reconstructed here. `cnn1d` treats the rows of a window as a sequence: its first kernel is as wide as the
    window. Neither pads, so both have a dense form (`tasks.networks.dense`). The others are ImageNet classifiers up to
    their last map, then its mean and one linear layer; they pad. `backbones.load_features(network[0], …)` fills them.

    With `components`, `cnn1d` consists of the dense layers only and sees the principal components of a window, as the
    paper proposes to shrink the input. They are not trained: `fill_projection(network, …)` fills them.

    Trainable parameters, and the smallest window:

    - `cnn1d`: 61,441 for 17 pixels and one channel, 67,969 for 17 and three, 142,721 for 33 and three; 10 pixels.
      With n components, 128 n + 257.
    - `cnn2d`: 61,345, 61,921 and 324,065 for the same; 12 pixels.
    - `vgg16`: 14,715,201; 32 pixels.
    - `resnet50`, `resnet50_v1`: 23,510,081; any.
    - `inception_resnet_v2`: 54,308,001; 75 pixels.

    Args:
        name: The network.
        window: Height and width of the windows in pixels.
        channels: 3, or 1 for a network that averages the channels itself: only `cnn1d` and `cnn2d`.
        components: Number of principal components of a window that the dense layers of `cnn1d` see; None puts
            convolutions before them.

    Returns:
        A module that maps (B, 3, window, window) in [0, 1] to logits (B, 1). Its last layer is the linear one that
        computes the logits; `network[:-1]` maps to features (B, C).

    Raises:
        ValueError: The network is unknown, does not support the channels or components, or the window is too small.
    """
    if name not in SMALLEST:
        raise ValueError(f"network {name!r} is unknown; expected one of {', '.join(SMALLEST)}")
    if channels not in (1, 3) or (channels == 1 and name in EXTRACTORS):
        raise ValueError(f"expected 3 channels, or 1 for cnn1d and cnn2d, got {channels} for {name}")
    if window < SMALLEST[name]:
        raise ValueError(
            f"windows of {window} pixels are too small for {name}, which needs {SMALLEST[name]}; choose larger windows "
            "or another network"
        )
    if components is not None and name != "cnn1d":
        raise ValueError(f"components need the network cnn1d, got {name}: use it, or remove components")
    if name in EXTRACTORS:
        return nn.Sequential(
            feature_extractor(name), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(EXTRACTORS[name][0], 1)
        )
    scale = [Normalize(*HALF)] if channels == 3 else [Grey(), Normalize((0.5,), (0.5,))]
    convolutions: list[nn.Module]
    if components is not None:
        convolutions, features = [projection(channels, components, window)], components
    elif name == "cnn1d":
        convolutions, features = _cnn1d(channels, window), 128 * (((window - 2) // 2 - 2) // 2)
    else:
        convolutions, features = _cnn2d(channels), 64 * (((window - 4) // 2 - 2) // 2) ** 2
    hidden = [nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*scale, *convolutions, *hidden, nn.Linear(HIDDEN, 1))


def _cnn1d(channels: int, window: int) -> list[nn.Module]:
    """Builds convolutions along the rows: the first kernel is as wide as the window and leaves one column."""
    return [
        *_convolution(channels, 64, (3, window)),
        nn.MaxPool2d((2, 1)),
        *_convolution(64, 128, (3, 1)),
        nn.MaxPool2d((2, 1)),
    ]


def _cnn2d(channels: int) -> list[nn.Module]:
    return [
        *_convolution(channels, 32, (3, 3)),
        *_convolution(32, 32, (3, 3)),
        nn.MaxPool2d(2),
        *_convolution(32, 64, (3, 3)),
        nn.MaxPool2d(2),
    ]


def _convolution(channels: int, outputs: int, kernel: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(channels, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


# Components with less than this share of the largest variance are noise: float32 keeps seven digits of a window.
LEAST = 1e-10


def projection(channels: int, components: int, window: int) -> nn.Conv2d:
    """Builds a layer from windows (B, channels, window, window) to components (B, components, 1, 1).

    Its parameters are 0 until `fill_projection` and get no gradient, but are part of the state dict.

    Raises:
        ValueError: A window does not have that many components.
    """
    values = channels * window**2
    if not 1 <= components <= values:
        raise ValueError(
            f"expected 1 to {values} components of windows of {window} x {window} x {channels}, got {components}"
        )
    layer = nn.Conv2d(channels, components, window).requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def fill_projection(
    network: nn.Sequential, windows: Iterable[Tensor], total: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Fills the projection of a network with the principal components of its input for these windows.

    Its outputs then have mean 0 and variance 1 in each component, and no covariance. Components along which the windows
    do not vary stay 0. The result depends on the windows only.

    Args:
        network: Has a `projection`; changed in place.
        windows: Batches of windows (B, C, w, w), uint8 or in [0, 1].
        total: Sums a float64 tensor over the processes, if each has some of the windows; each needs at least one.

    Returns:
        Share of the variance that the components hold, 0 if all windows are the same.

    Raises:
        ValueError: The network has no projection, or there are fewer than two windows.
    """
    place, layer = _projection(network)
    before = network[:place]

    def inputs() -> Iterable[Tensor]:
        for batch in windows:
            image = batch.to(layer.weight.device).float()  # even where the network is in half precision
            yield before(image if batch.is_floating_point() else image / 255)

    with torch.no_grad():
        mean, axes, variances = principal_components(inputs(), layer.out_channels, total)
        held = variances[: len(axes)]
        scales = torch.where(held > LEAST * variances[0], held.rsqrt(), 0.0)
        kernels = scales[:, None] * axes
        layer.weight.copy_(kernels.view_as(layer.weight))
        layer.bias.copy_(-kernels @ mean)  # type: ignore[union-attr]  # it has one
    return float(held.sum() / variances.sum()) if variances[0] > 0 else 0.0


def is_filled(network: nn.Sequential) -> bool:
    """Returns whether the projection of a network has been filled, here or by a state dict.

    Raises:
        ValueError: The network has no projection.
    """
    return bool(_projection(network)[1].weight.any())


def _projection(network: nn.Sequential) -> tuple[int, nn.Conv2d]:
    """Returns the position and the layer."""
    for place, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d) and not layer.weight.requires_grad:
            return place, layer
    raise ValueError("the network has no projection; build it by window_classifier('cnn1d', …, components=…)")
