"""Builds auto-encoders of VGG blocks that map images to maps, without skip connections."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from tasks.networks.backbones import HALF, IMAGENET
from tasks.networks.layers import AnySize, Init, Normalize, start_like_keras

# Encoder and decoder: a number is a 3 x 3 convolution to that many channels with ReLU, P halves the size, U doubles it.
LAYERS = {
    "vgg10": ("64 P 128 P 256 P 512 P", "512 U 256 U 128 U 64 U"),
    "vgg12": ("64 P 128 P 256 256 P 512 512 P", "512 U 256 256 256 U 128 U 64 U"),
    "vgg16": (
        "64 64 P 128 128 P 256 256 256 P 512 512 512 P 512 512 512 P",
        "U 256 256 256 U 128 128 128 U 64 64 64 U 32 32 U 16 16",
    ),
}
LATENT = 512  # channels in which every encoder ends
Norm = Literal["none", "batch"]


def vgg_autoencoder(
    name: Literal["vgg10", "vgg12", "vgg16"], classes: int = 1, norm: Norm = "none", init: Init = "glorot"
) -> nn.Module:
    """Builds an auto-encoder of VGG blocks with random weights for images in [0, 1] of any size.

    After Kebir, Taibi and Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with few
    data training", ICCSA 2021, which prints the number of parameters (its table 2) but no list of layers. Trainable
    parameters for one class:

    - `vgg10`: 5,460,097, as printed. One list of plain VGG layers has that count: this one.
    - `vgg12`: 9,590,145, as printed. Four lists have that count; this is the one that mirrors `vgg10`.
    - `vgg16`: 17,847,409. The paper prints 18,087,715; its decoder could not be identified. The encoder is the full
      VGG16 (Simonyan and Zisserman 2015); each of its five poolings is undone by nearest-neighbor upsampling before a
      block of two or three convolutions.

    With batch normalization, which the paper does not have, every convolution but the last is followed by one and has
    no bias of its own: 5,462,017, 9,593,345 and 17,853,073 parameters.

    Weights are initialized as in Keras, the paper's library. Its default, `glorot`, halves the variance of the maps in
    every layer with ReLU, so that after the 26 of `vgg16` the logits hardly depend on the image.

    Args:
        name: Which of the three.
        classes: Number K of output maps.
        norm: `batch` adds batch normalization.
        init: `glorot` or `he`, see `layers.start_like_keras`.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to logits (B, K, H, W). `vgg16` normalizes images as torchvision's
        ImageNet weights expect them, the others to [-1, 1].

    Raises:
        ValueError: The network, the normalization or the start is unknown; the message lists the known ones.
    """
    if name not in LAYERS:
        raise ValueError(f"network {name!r} is unknown; expected one of {', '.join(LAYERS)}")
    if norm not in ("none", "batch"):
        raise ValueError(f"norm is {norm!r}; expected none or batch")
    if init not in ("glorot", "he"):
        raise ValueError(f"init is {init!r}; expected glorot or he")
    encoder, decoder = LAYERS[name]
    features = nn.Sequential(*_layers(encoder, 3, norm))  # the name that torchvision's keys have
    last = int(decoder.rstrip(" U").split()[-1])  # channels before the output
    hidden = _layers(decoder, LATENT, norm)
    output = nn.Conv2d(last, classes, 3, padding=1)  # logits: nothing follows
    network = nn.Sequential(
        OrderedDict(encoder=nn.Sequential(OrderedDict(features=features)), decoder=nn.Sequential(*hidden, output))
    )
    start_like_keras(network, init)
    card = IMAGENET if name == "vgg16" else HALF
    return nn.Sequential(Normalize(*card), AnySize(network, 2 ** encoder.count("P")))


def copy_kernels(plain: nn.Module, normalized: nn.Module) -> None:
    """Copies the kernels of convolutions, in their order, to the same ones with batch normalization, without biases."""
    kernels = ([each.weight for each in network.modules() if isinstance(each, nn.Conv2d)]
               for network in (plain, normalized))  # fmt: skip
    with torch.no_grad():
        for given, own in zip(*kernels, strict=True):
            own.copy_(given)


def _layers(plan: str, channels: int, norm: Norm) -> list[nn.Module]:
    """Builds the layers of a plan in the notation of `LAYERS`, for an input with this many channels."""
    layers: list[nn.Module] = []
    for step in plan.split():
        if step == "P":
            layers.append(nn.MaxPool2d(2))
        elif step == "U":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            before, channels = channels, int(step)
            layers.append(nn.Conv2d(before, channels, 3, padding=1, bias=norm == "none"))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
    return layers
