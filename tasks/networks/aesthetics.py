"""Networks that judge photographs: an ImageNet classifier's convolutions, and dense layers as wide as one likes."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from ops.errors import WeightsError
from tasks.networks.backbones import IMAGENET, feature_extractor, timm_card, timm_classifier
from tasks.networks.layers import Normalize
from tasks.networks.weights import fill_weights, given_path, hub_weights, read_weights

PUBLISHED_WIDTH = 4096  # of the dense layers, before they were shrunk
# Channels and side of the map that the dense layers are given, and the smallest picture, in pixels.
MAPS = {"alexnet": (256, 6, 67), "alexnet_torchvision": (256, 6, 63), "vgg16": (512, 7, 32)}
# What torchvision calls fc6 and fc7, and where its ImageNet weights lie.
PUBLISHED_KEYS = {"alexnet": ("classifier.1", "classifier.4"), "alexnet_torchvision": ("classifier.1", "classifier.4"),
                  "vgg16": ("classifier.0", "classifier.3")}  # fmt: skip
LIBRARY = "https://download.pytorch.org/models"
FILES = {"alexnet_torchvision": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth"}


class Judge(nn.Module):
    """Convolutions, pooling, and the dense layers `fc6`, `fc7` and `output`, with dropout after the first two.

    Args:
        convolutions: Maps pictures (B, 3, H, W) in [0, 1] to maps (B, C, h, w), or to vectors (B, C). The last part is
            what weights files are of.
        channels: C.
        side: Height and width that the maps are pooled to; 1 for vectors.
        sides: Height and width of the smallest and of the largest picture that the convolutions take, in pixels.
        width: Nodes of fc6 and of fc7.
        outputs: Nodes of the output.
        dropout: Share of the nodes of fc6 and fc7 that a training step leaves out.

    Attributes:
        convolutions: As given.
        pool: Maps to flat vectors (B, F), F = C side², the values of a channel side by side.
        dense: (B, F) to logits (B, outputs).
    """

    def __init__(
        self,
        convolutions: nn.Sequential,
        channels: int,
        side: int,
        sides: tuple[int, float],
        width: int,
        outputs: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.channels, self.sides = channels, sides
        self.convolutions = convolutions
        pool = nn.AdaptiveAvgPool2d(side) if side > 1 else nn.Identity()
        self.pool = nn.Sequential(pool, nn.Flatten())
        layers: dict[str, nn.Module] = {}
        for name, inputs in {"fc6": channels * side**2, "fc7": width}.items():
            layers |= {name: nn.Linear(inputs, width), f"relu_{name}": nn.ReLU(inplace=True)}
            layers |= {f"dropout_{name}": nn.Dropout(dropout)}
        self.dense = nn.Sequential(OrderedDict(layers, output=nn.Linear(width, outputs)))

    def flat(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to what `dense` is given, (B, F).

        With frozen convolutions and pictures that are not altered it is the same in every epoch.

        Raises:
            ValueError: The network does not take pictures of this size.
        """
        if min(image.shape[-2:]) < self.sides[0] or max(image.shape[-2:]) > self.sides[1]:
            raise ValueError(
                f"pictures of {tuple(image.shape[-2:])} pixels for a network that takes {self.sides[0]} to "
                f"{self.sides[1]} a side; set --data.size, or choose another network"
            )
        vectors: Tensor = self.pool(self.convolutions(image))
        return vectors

    def forward(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to logits (B, outputs)."""
        logits: Tensor = self.dense(self.flat(image))
        return logits

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] as vectors.

        Returns:
            `pooled` (B, C), the mean of each channel of the pooled maps, and `fc6` and `fc7` (B, width), after their
            activation.
        """
        flat = self.flat(image)
        fc6 = self.dense[:3](flat)
        return {"pooled": flat.view(len(flat), self.channels, -1).mean(dim=2), "fc6": fc6, "fc7": self.dense[3:6](fc6)}


def judge(network: str, dense_width: int = 250, outputs: int = 2, dropout: float = 0.5) -> Judge:
    """A network that judges photographs, with random weights.

    After F. Rubio, M. J. Flores and J. M. Puerta, "Optimización de las técnicas de Transfer Learning para la
    clasificación de la calidad estética en fotografía" (2018): AlexNet (Krizhevsky et al. 2012) and VGG16 (Simonyan and
    Zisserman 2015) with narrower dense layers. Trainable parameters for two outputs and dense layers of 4096, 1000, 500
    and 250 nodes:

    - `alexnet`: 58,289,538, 13,967,202, 8,607,202, 6,114,702. One column of ungrouped convolutions, without response
      normalisation; the one whose sizes on disk are the paper's. Nobody publishes its weights. It is for pictures of
      227 pixels; after others its last map is resampled to 6 x 6.
    - `alexnet_torchvision`: 57,012,034, 12,689,698, 7,329,698, 4,837,198. The one with public weights.
    - `vgg16`: 134,268,738, 40,806,690, 27,510,690, 21,050,190.

    Args:
        network: One of these three, or any network of timm, whose pooled vector the dense layers are given.
        dense_width: Nodes of fc6 and of fc7.
        outputs: Nodes of the output: 2, snapshot and professional shot, or one for each vote.
        dropout: Share of the nodes of fc6 and fc7 that a training step leaves out.

    Raises:
        ValueError: There is no such network, the message names the nearest; or a number is out of its range.
    """
    if dense_width < 1 or outputs < 2 or not 0 <= dropout < 1:
        raise ValueError(
            f"dense_width is {dense_width}, outputs {outputs} and dropout {dropout}; wanted are at least 1, at least "
            "2, and a number in [0, 1)"
        )
    if network in MAPS:
        channels, side, smallest = MAPS[network]
        convolutions = feature_extractor(network) if network == "vgg16" else alexnet_features(network)
        return Judge(convolutions, channels, side, (smallest, math.inf), dense_width, outputs, dropout)
    try:
        convolutions = timm_classifier(network, classes=0)
    except ValueError as error:
        raise ValueError(f"network {network!r} is none of {', '.join(MAPS)}; of timm's, {error}") from None
    card = timm_card(network)
    sides = (card.input_size[1], card.input_size[1]) if card.fixed_input_size else (1, math.inf)
    classifier: Any = convolutions.get_submodule("classifier")
    return Judge(convolutions, classifier.head_hidden_size, 1, sides, dense_width, outputs, dropout)


def parameter_count(network: str, dense_width: int, outputs: int = 2) -> int:
    """Number of parameters of a `judge`, counted without their memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in judge(network, dense_width, outputs).parameters())


def mebibytes(parameters: int) -> float:
    """Size of as many float32 parameters on disk, in MiB of 2²⁰ bytes, without what a file's format adds."""
    return parameters * 4 / 2**20


def load_judge(network: Judge, name: str, pretrained: bool | str | Path, keep_dense_weights: bool = False) -> None:
    """Fills the convolutions of a `judge` with trained weights.

    Args:
        network: Changed in place.
        name: What it was built by.
        pretrained: True for the library's ImageNet weights, from the local cache or else over the network; or the path
            of a weights file (.safetensors, .pt, .pth) with torchvision's keys, or with timm's for a network of timm.
            False does nothing.
        keep_dense_weights: Whether fc6 and fc7 are filled too, where they are as wide as published.

    Raises:
        WeightsError: The weights cannot be had, do not fit, or lack the dense layers that are to be kept.
    """
    if keep_dense_weights:
        _check_keeping(network, name, pretrained)
    if pretrained is False:
        return
    path = _published(name) if pretrained is True else given_path(pretrained)
    weights = read_weights(path, heads=True)
    keys = "torchvision's" if name in MAPS else "timm's"
    fill_weights(network.convolutions[-1], weights, name, str(path), keys)
    if keep_dense_weights:
        for layer, key in zip(("fc6", "fc7"), PUBLISHED_KEYS[name], strict=True):
            _fill(network.dense.get_submodule(layer), weights, key, f"{path}, weights of {name},")


def _check_keeping(network: Judge, name: str, pretrained: bool | str | Path) -> None:
    width = network.dense.get_submodule("output").in_features
    if name not in PUBLISHED_KEYS or width != PUBLISHED_WIDTH or pretrained is False:
        raise WeightsError(
            f"keep_dense_weights with {name}, dense layers of {width} nodes and pretrained {pretrained}; wanted are "
            f"{', '.join(PUBLISHED_KEYS)}, {PUBLISHED_WIDTH} nodes and trained weights. Give these, or "
            "--model.keep_dense_weights false."
        )


def _fill(layer: nn.Module, weights: dict[str, Tensor], key: str, source: str) -> None:
    found = {name: weights.get(f"{key}.{name}") for name in ("weight", "bias")}
    wanted = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in found.items() if value is not None}
    if shapes != wanted:
        raise WeightsError(
            f"{source} has {shapes or 'nothing'} under {key}; wanted is {wanted}. Give a file with dense layers, or "
            "--model.keep_dense_weights false."
        )
    layer.load_state_dict({name: value.float() for name, value in found.items() if value is not None})


def _published(name: str) -> Path:
    """Path of a library's ImageNet weights: from its cache, or else fetched over the network."""
    if name == "alexnet":
        raise WeightsError(
            "Nobody publishes weights of the single-column alexnet. Take alexnet_torchvision, give a weights file, or "
            "train the convolutions too: --model.pretrained false --model.freeze_convolutions false."
        )
    if name in FILES:
        return _torchvisions(name)
    repository = timm_card(name).hf_hub_id
    if repository is None:
        raise WeightsError(
            f"timm has no weights of {name}. Set model.pretrained to a weights file, or train the convolutions too: "
            "--model.pretrained false --model.freeze_convolutions false."
        )
    try:
        return hub_weights(repository, None, name)
    except WeightsError as error:  # the hub's message ends with `--model.pretrained false`
        raise WeightsError(f"{error} Random ones are not to be frozen: --model.freeze_convolutions false.") from error


def _torchvisions(name: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[name]
    if path.is_file():
        return path
    address = f"{LIBRARY}/{FILES[name]}"
    try:
        urlopen(address, timeout=5).close()  # downloading has no limit of its own
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), hash_prefix=path.stem.split("-")[-1], progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"The ImageNet weights of {name} are not at {path} and cannot be fetched from {address} ({error}). Either "
            "run once where there is a network, or copy a weights file here and give its path: --model.pretrained "
            "path/to/weights.pth. To start from random ones: --model.pretrained false --model.freeze_convolutions "
            "false."
        ) from error
    return path


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
