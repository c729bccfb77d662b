"""Turns a window classifier into its dense form, which classifies every position of an image in one pass."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ops.errors import NoDenseFormError
from tasks.networks.layers import Normalize
from tasks.networks.window_classifier import Grey

Step = Callable[[Tensor], Tensor]
# Layers that compute each value from the values at the same place, by the same rule everywhere.
PIXELWISE = (Normalize, Grey, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid,
             nn.Tanh)  # fmt: skip
NORMALIZATION = (nn.BatchNorm1d, nn.BatchNorm2d)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
INSTEAD = "Classify windows one by one, at a stride of 2 or 4 to save time."


class DenseForm(nn.Module):
    """Applies a window classifier to all windows of an image at once, by dilated convolutions.

    Where the classifier has stride s its dense form has stride 1, and the following layers take their inputs s times as
    far apart; the linear layer after the last map becomes a convolution. So what neighboring windows share is computed
    once (Giusti et al., "Fast image scanning with deep max-pooling convolutional neural networks", ICIP 2013). The
    logits equal the classifier's up to rounding; on CUDA, only if convolutions do not round to TF32.

    The parameters are the classifier's own and follow it when it is trained or moved. Batch normalization always uses
    its running statistics, and dropout does nothing, as in evaluation.

    Args:
        network: Maps windows (B, C, w, w) to (B, K): an `nn.Sequential`, possibly nested, of convolutions, poolings,
            batch normalizations, activations and dropout, then `nn.Flatten` and linear layers.
        window: Height and width w of the windows in pixels.

    Raises:
        NoDenseFormError: The network pads, or has a layer without a dense form; the message names the first.
        ValueError: The network is not made for windows of this size.
    """

    def __init__(self, network: nn.Module, window: int) -> None:
        super().__init__()
        self.network = network
        self.window = window
        self.steps, self.reach = _plan(network, window)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of every window.

        Args:
            image: (B, C, H, W).

        Returns:
            (B, K, H - w + 1, W - w + 1): at (y, x) those of the window whose upper left pixel is (y, x).

        Raises:
            ValueError: The image is smaller than the window.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.window:
            raise ValueError(
                f"expected an image of at least {self.window} x {self.window}, the window, got {height} x {width}"
            )
        # A pooling that drops a remainder never sees the last rows and columns of a window.
        maps = image[..., : height - self.window + self.reach[0], : width - self.window + self.reach[1]]
        for step in self.steps:
            maps = step(maps)
        return maps


def _plan(network: nn.Module, window: int) -> tuple[list[Step], list[int]]:
    """Returns the steps of the dense form, and how many rows and columns of a window they see."""
    steps: list[Step] = []
    side = np.array([window, window])  # size of the classifier's map
    apart = np.array([1, 1])  # distance of neighbors in that map, in pixels of the image
    reach = np.array([1, 1])
    channels = None  # of the map, once a layer determines them
    for name, layer in _layers(network):
        _check(name, layer, side)
        if type(layer) in PIXELWISE:
            steps.append(layer)
        elif type(layer) in NORMALIZATION:
            steps.append(partial(_normalize, layer))
        elif type(layer) in SLIDING:
            kernel, stride, dilation = (np.broadcast_to(sizes, 2) for sizes in _geometry(layer, side))
            taken = getattr(layer, "in_features", 0)  # all values of the map, by a linear layer
            given = side.prod() * (channels or taken // side.prod()) if taken else 0
            side = (side - dilation * (kernel - 1) - 1) // stride + 1
            if side.min() < 1 or given != taken:
                raise ValueError(
                    f"layer {name}, {layer}, does not fit windows of {window} x {window} pixels; "
                    "use the size that the network was made for."
                )
            distance = dilation * apart
            steps.append(partial(SLIDING[type(layer)], layer, kernel.tolist(), distance.tolist()))
            reach += distance * (kernel - 1)
            apart *= stride
            channels = getattr(layer, "out_channels", getattr(layer, "out_features", channels))
    if side.prod() > 1:
        raise NoDenseFormError(
            f"expected one value per class, got a network that ends in maps of {side[0]} x {side[1]}; "
            "add a pooling and a linear layer."
        )
    return steps, reach.tolist()


def _layers(network: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields names and layers in the order in which they are applied."""
    # A subclass of nn.Sequential may apply its layers in another way.
    if type(network).forward is not nn.Sequential.forward:
        yield name, network
    else:
        for key, layer in network.named_children():
            yield from _layers(layer, f"{name}.{key}" if name else key)


def _check(name: str, layer: Any, side: Any) -> None:
    """Rejects a layer without a dense form where the classifier's map has this height and width."""
    for key, part in layer.named_modules(prefix=name):
        if getattr(part, "padding", 0) not in (0, (0, 0), "valid") or getattr(part, "ceil_mode", False):
            raise NoDenseFormError(
                f"layer {key}, {part}, pads: the classifier sees padding around a window where a dense form would see "
                f"the image, so none equals it. {INSTEAD}"
            )
    kind = type(layer)
    known = (
        kind in (*PIXELWISE, *DROPOUT, *SLIDING)
        or (kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1))
        or (kind is nn.BatchNorm2d and layer.track_running_stats)
        or (kind is nn.BatchNorm1d and layer.track_running_stats and side.prod() == 1)
    )
    if kind is nn.AdaptiveAvgPool2d:
        known = layer.output_size in (1, (1, 1))
    if kind is nn.AvgPool2d:
        known = layer.divisor_override is None
    if not known:
        raise NoDenseFormError(
            f"layer {name}, {kind.__name__}, has no known dense form; expected nn.Sequential, "
            f"{', '.join(sorted(layer.__name__ for layer in (*PIXELWISE, *SLIDING)))} or batch normalization of maps. "
            f"{INSTEAD}"
        )


def _geometry(layer: Any, side: Any) -> tuple[Any, Any, Any]:
    """Returns kernel, stride and dilation of a layer whose input in the classifier has this height and width."""
    if isinstance(layer, (nn.Linear, nn.AdaptiveAvgPool2d)):
        return side, 1, 1
    return layer.kernel_size, layer.stride, getattr(layer, "dilation", 1)


def _normalize(layer: Any, maps: Tensor) -> Tensor:
    return F.batch_norm(maps, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)


def _convolve(layer: nn.Conv2d, kernel: list[int], distance: list[int], maps: Tensor) -> Tensor:
    return F.conv2d(maps, layer.weight, layer.bias, dilation=distance, groups=layer.groups)


def _connect(layer: nn.Linear, kernel: list[int], distance: list[int], maps: Tensor) -> Tensor:
    return F.conv2d(maps, layer.weight.view(layer.out_features, -1, *kernel), layer.bias, dilation=distance)


def _maximum(layer: nn.MaxPool2d, kernel: list[int], distance: list[int], maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, kernel, stride=1, dilation=distance)


def _average(layer: nn.Module, kernel: list[int], distance: list[int], maps: Tensor) -> Tensor:
    for axis, size, step in zip((-2, -1), kernel, distance, strict=True):
        maps = maps.unfold(axis, step * (size - 1) + 1, 1)[..., ::step].mean(dim=-1)
    return maps


# Functions that apply each layer with a kernel to: the layer, its kernel, the distance of its inputs, and maps.
SLIDING: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _convolve,
    nn.Linear: _connect,
    nn.MaxPool2d: _maximum,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
}
