"""How large the networks that judge photographs are, by arithmetic: no network is built."""

from itertools import pairwise
from typing import NamedTuple

WIDTHS = (4096, 1000, 500, 250)
"""Nodes of the dense layers in table I of F. Rubio, M. J. Flores and J. M. Puerta, "Clasificación de fotografías según
su calidad estética" (2018)."""

CONVOLUTIONS = {
    "alexnet": ((3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)),
    "alexnet_torchvision": ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)),
    "vgg16": tuple(
        (inputs, outputs, 3)
        for inputs, outputs in (
            (3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256),
            (256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
        )
    ),
}  # fmt: skip
"""Channels that each convolution takes and gives, and the side of its kernel."""

INPUTS = {"alexnet": 256 * 6 * 6, "alexnet_torchvision": 256 * 6 * 6, "vgg16": 512 * 7 * 7}
"""What fc6 is given: the last map, flat."""

PRINTED: dict[str, dict[int, tuple[float, int]]] = {
    "alexnet": dict(zip(WIDTHS, ((60, 223), (14, 54), (8.6, 33), (6.1, 24)), strict=True)),
    "vgg16": dict(zip(WIDTHS, ((134, 513), (41, 156), (28, 106), (21, 81)), strict=True)),
}
"""The paper's table I: millions of parameters and size in MB, by network and width."""


class NetworkSize(NamedTuple):
    """The size of one network.

    Attributes:
        network: One of `CONVOLUTIONS`.
        dense_width: Nodes of fc6 and of fc7.
        parameters: How many.
        mebibytes: On disk, in float32, without what a file's format adds.
    """

    network: str
    dense_width: int
    parameters: int
    mebibytes: float


def network_size(network: str, dense_width: int, outputs: int = 2) -> NetworkSize:
    """The size of a network with dense layers fc6, fc7 and output, every layer with biases.

    Args:
        network: One of `CONVOLUTIONS`.
        dense_width: Nodes of fc6 and of fc7.
        outputs: Nodes of the output.

    Raises:
        ValueError: There is no such network, or no node.
    """
    if network not in CONVOLUTIONS or dense_width < 1 or outputs < 1:
        raise ValueError(
            f"{network=}, {dense_width=}, {outputs=}: one of {', '.join(CONVOLUTIONS)} and 1 node or more were wanted"
        )
    parameters = sum((inputs * kernel**2 + 1) * channels for inputs, channels, kernel in CONVOLUTIONS[network])
    nodes = (INPUTS[network], dense_width, dense_width, outputs)
    parameters += sum((inputs + 1) * layer for inputs, layer in pairwise(nodes))
    return NetworkSize(network, dense_width, parameters, parameters * 4 / 2**20)


def network_sizes(outputs: int = 2) -> list[NetworkSize]:
    """The sizes of all networks of `CONVOLUTIONS`, each with dense layers of all `WIDTHS`."""
    return [network_size(network, width, outputs) for network in CONVOLUTIONS for width in WIDTHS]
