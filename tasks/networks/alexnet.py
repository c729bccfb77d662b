"""The convolutions of AlexNet, as they are reckoned with and as their weights are published."""

from collections import OrderedDict

from torch import nn

from tasks.networks.backbones import IMAGENET
from tasks.networks.layers import Normalize

# Channels of the five convolutions, and padding of the first.
ALEXNETS = {"alexnet": ((96, 256, 384, 384, 256), 0), "alexnet_torchvision": ((64, 192, 384, 256, 256), 2)}


def alexnet_features(name: str) -> nn.Sequential:
    """The convolutions of AlexNet, with random weights and the normalisation of ImageNet's pictures in front.

    In one column, ungrouped, without response normalisation.

    Args:
        name: `alexnet`, as wide as A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep
            convolutional neural networks", NeurIPS 2012, have both columns together, without padding at first:
            3,747,200 parameters, and 6 x 6 places of a picture of 227 pixels. Or `alexnet_torchvision`, the column of
            A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, as
            torchvision has it: 2,469,696 parameters, and 6 x 6 places of 224 pixels.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to (B, 256, h, w), 32 times smaller. The keys of its `features` are
        torchvision's.
    """
    (first, second, *others), padding = ALEXNETS[name]
    layers: list[nn.Module] = [
        *_convolution(3, first, 11, stride=4, padding=padding),
        nn.MaxPool2d(3, 2),
        *_convolution(first, second, 5, padding=2),
        nn.MaxPool2d(3, 2),
    ]
    for inputs, outputs in zip((second, *others[:-1]), others, strict=True):
        layers += _convolution(inputs, outputs, 3, padding=1)
    features = nn.Sequential(OrderedDict(features=nn.Sequential(*layers, nn.MaxPool2d(3, 2))))
    return nn.Sequential(OrderedDict(normalize=Normalize(*IMAGENET), features=features))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # torch's own start fades with depth
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return [layer, nn.ReLU(inplace=True)]
