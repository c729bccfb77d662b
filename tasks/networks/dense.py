"""The dense form of a window classifier: its answer at every position of a picture, computed in one pass."""

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
# What makes a value of the values at the same place, by the same rule at every place.
PIXELWISE = (Normalize, Grey, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid,
             nn.Tanh)  # fmt: skip
NORMALIZATION = (nn.BatchNorm1d, nn.BatchNorm2d)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
INSTEAD = "Classify windows one by one, at a stride of 2 or 4 to save time."


class DenseForm(nn.Module):
    """A window classifier applied to all windows of a picture at once, by convolutions with dilation.

    Where the classifier steps by s pixels its dense form steps by one, and the layers behind take their inputs s times
    as far apart; the linear layer behind the last map becomes a convolution. So what neighbouring windows share is
    computed once (Giusti et al., "Fast image scanning with deep max-pooling convolutional neural networks", ICIP 2013).
    The logits are the classifier's up to rounding; on CUDA, only if convolutions may not round to TF32.

    The parameters are the classifier's, not copies: they follow it when it is trained or moved. Batch normalisation
    always takes its running statistics, and dropout does nothing, as in evaluation.

    Args:
        network: Maps windows (B, C, w, w) to (B, K): an `nn.Sequential`, nested as may be, of convolutions, poolings,
            batch normalisations, activations and dropout, then `nn.Flatten` and linear layers.
        window: Height and width w of the windows in pixels.

    Raises:
        NoDenseFormError: The network pads, or has a layer without a dense form; the message names the first.
        ValueError: The network is not for windows of this size.
    """

    def __init__(self, network: nn.Module, window: int) -> None:
        super().__init__()
        self.network = network
        self.window = window
        self.steps, self.reach = _plan(network, window)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every window.

        Args:
            image: (B, C, H, W).

        Returns:
            (B, K, H - w + 1, W - w + 1): at (y, x) those of the window whose upper left pixel is (y, x).

        Raises:
            ValueError: The picture is smaller than the window.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.window:
            raise ValueError(
                f"a picture of {height} x {width} holds no window of {self.window} x {self.window}; give a larger one."
            )
        # A pooling that leaves a remainder out never sees the last rows and columns of a window.
        maps = image[..., : height - self.window + self.reach[0], : width - self.window + self.reach[1]]
        for step in self.steps:
            maps = step(maps)
        return maps


def _plan(network: nn.Module, window: int) -> tuple[list[Step], list[int]]:
    """The steps of the dense form, and how many rows and columns of a window they see."""
    steps: list[Step] = []
    side = np.array([window, window])  # of the classifier's map
    apart = np.array([1, 1])  # neighbours in that map, in pixels of the picture
    reach = np.array([1, 1])
    channels = None  # of the map, from where a layer tells
    for name, layer in _layers(network):
        _check(name, layer, side)
        if type(layer) in PIXELWISE:
            steps.append(layer)
        elif type(layer) in NORMALIZATION:
            steps.append(partial(_normalize, layer))
        elif type(layer) in SLIDING:
            kernel, stride, dilation = (np.broadcast_to(sizes, 2) for sizes in _geometry(layer, side))
            taken = getattr(layer, "in_features", 0)  # by a linear layer: all values of the map
            given = side.prod() * (channels or taken // side.prod()) if taken else 0
            side = (side - dilation * (kernel - 1) - 1) // stride + 1
            if side.min() < 1 or given != taken:
                raise ValueError(
                    f"layer {name}, {layer}, does not fit windows of {window} x {window} pixels; "
                    "give the size that the network was made for."
                )
            distance = dilation * apart
            steps.append(partial(SLIDING[type(layer)], layer, kernel.tolist(), distance.tolist()))
            reach += distance * (kernel - 1)
            apart *= stride
            channels = getattr(layer, "out_channels", getattr(layer, "out_features", channels))
    if side.prod() > 1:
        raise NoDenseFormError(
            f"the network ends in maps of {side[0]} x {side[1]}, and a classifier in one value a class; "
            "add a pooling and a linear layer."
        )
    return steps, reach.tolist()


def _layers(network: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and layers in the order in which they are applied."""
    # A class made from nn.Sequential may apply its layers otherwise.
    if type(network).forward is not nn.Sequential.forward:
        yield name, network
    else:
        for key, layer in network.named_children():
            yield from _layers(layer, f"{name}.{key}" if name else key)


def _check(name: str, layer: Any, side: Any) -> None:
    """Refuses a layer that has no dense form where the classifier's map has this height and width."""
    for key, part in layer.named_modules(prefix=name):
        if getattr(part, "padding", 0) not in (0, (0, 0), "valid") or getattr(part, "ceil_mode", False):
            raise NoDenseFormError(
                f"layer {key}, {part}, pads: the classifier sees padding around a window where a dense form would see "
                f"the picture, so that none equals it. {INSTEAD}"
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
            f"layer {name}, {kind.__name__}, has no dense form that is known here; nn.Sequential, "
            f"{', '.join(sorted(layer.__name__ for layer in (*PIXELWISE, *SLIDING)))} and batch normalisation of maps "
            f"have one. {INSTEAD}"
        )


def _geometry(layer: Any, side: Any) -> tuple[Any, Any, Any]:
    """Kernel, stride and dilation of a layer whose input, in the classifier, has this height and width."""
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


# How each layer with a kernel is applied: to a layer, its kernel, the distance of its inputs, and maps.
SLIDING: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _convolve,
    nn.Linear: _connect,
    nn.MaxPool2d: _maximum,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
}
