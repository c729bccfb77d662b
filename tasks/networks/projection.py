"""Principal components of windows as a layer: a convolution as large as the window, which is filled, not trained."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ops.components import principal_components

# Components with less than this share of the largest variance are noise: float32 keeps seven digits of a window.
LEAST = 1e-10


def projection(channels: int, components: int, window: int) -> nn.Conv2d:
    """Maps windows (B, channels, window, window) to (B, components, 1, 1), all 0 until `fill_projection`.

    Its parameters get no gradient, but the state dict has them.

    Raises:
        ValueError: A window has not that many components.
    """
    values = channels * window**2
    if not 1 <= components <= values:
        raise ValueError(
            f"{components} components of windows of {window} x {window} x {channels}; wanted are 1 to {values}."
        )
    layer = nn.Conv2d(channels, components, window).requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def fill_projection(network: nn.Sequential, windows: Iterable[Tensor]) -> float:
    """Fills the projection of a network with the principal components of what it is given for these windows.

    What it then makes of them has mean 0 and variance 1 in each component, and no covariance. Components along which
    the windows do not vary stay 0. The same windows fill it in the same way.

    Args:
        network: Has a `projection`; changed in place.
        windows: Windows (B, C, w, w), uint8 or in [0, 1], in batches.

    Returns:
        Which share of the variance the components hold, 0 where the windows are all the same.

    Raises:
        ValueError: The network has no projection, or there are fewer than two windows.
    """
    place, layer = _projection(network)
    before = network[:place]

    def given() -> Iterable[Tensor]:
        for batch in windows:
            image = batch.to(layer.weight.device).float()  # even where the network is in half precision
            yield before(image if batch.is_floating_point() else image / 255)

    with torch.no_grad():
        mean, axes, variances = principal_components(given(), layer.out_channels)
        held = variances[: len(axes)]
        scales = torch.where(held > LEAST * variances[0], held.rsqrt(), 0.0)
        kernels = scales[:, None] * axes
        layer.weight.copy_(kernels.view_as(layer.weight))
        layer.bias.copy_(-kernels @ mean)  # type: ignore[union-attr]  # it has one
    return float(held.sum() / variances.sum()) if variances[0] > 0 else 0.0


def is_filled(network: nn.Sequential) -> bool:
    """Whether the projection of a network has been filled, here or by a state dict.

    Raises:
        ValueError: The network has no projection.
    """
    return bool(_projection(network)[1].weight.any())


def _projection(network: nn.Sequential) -> tuple[int, nn.Conv2d]:
    """Place and layer."""
    for place, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d) and not layer.weight.requires_grad:
            return place, layer
    raise ValueError("the network has no projection; make it by window_classifier('cnn1d', …, components=…).")
