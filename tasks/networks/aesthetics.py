"""Builds networks that rate photos: an ImageNet classifier's convolutions with dense layers of any width."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from ops.errors import WeightsError
from tasks.networks.backbones import IMAGENET, timm_card, timm_classifier
from tasks.networks.layers import Normalize
from tasks.networks.weights import fill_weights, given_path, hub_weights, read_weights

PUBLISHED_WIDTH = 4096  # of the original dense layers
# Channels and side of the maps that the dense layers see, and the side of the smallest image in pixels.
MAPS = {"alexnet": (256, 6, 67), "alexnet_torchvision": (256, 6, 63), "vgg16": (512, 7, 32)}
# Keys of fc6 and fc7 in torchvision's weights.
PUBLISHED_KEYS = {"alexnet": ("classifier.1", "classifier.4"), "alexnet_torchvision": ("classifier.1", "classifier.4"),
                  "vgg16": ("classifier.0", "classifier.3")}  # fmt: skip


class Judge(nn.Module):
    """Rates images by convolutions, pooling, and the dense layers `fc6`, `fc7` and `output`.

    Dropout follows fc6 and fc7.

    Args:
        convolutions: Maps images (B, 3, H, W) in [0, 1] to maps (B, C, h, w), or to vectors (B, C). Weights files fill
            its last part.
        channels: C.
        side: Height and width that the maps are pooled to; None for vectors.
        sides: Height and width of the smallest and the largest image that the convolutions accept, in pixels.
        width: Units of fc6 and of fc7.
        outputs: Units of the output.
        dropout: Dropout rate.

    Attributes:
        vectors: Names of the vectors that `forward_features` returns.
        convolutions: As given.
        pool: Maps to flat vectors (B, F), F = C side², the values of a channel side by side; F = C for vectors.
        dense: (B, F) to logits (B, outputs).
    """

    vectors = ("fc6", "fc7", "pooled")

    def __init__(
        self,
        convolutions: nn.Sequential,
        channels: int,
        side: int | None,
        sides: tuple[int, float],
        width: int,
        outputs: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.channels, self.sides = channels, sides
        self.convolutions = convolutions
        pool = nn.Identity() if side is None else nn.AdaptiveAvgPool2d(side)
        self.pool = nn.Sequential(pool, nn.Flatten())
        layers: dict[str, nn.Module] = {}
        for name, inputs in {"fc6": channels * (side or 1) ** 2, "fc7": width}.items():
            layers |= {name: nn.Linear(inputs, width), f"relu_{name}": nn.ReLU(inplace=True)}
            layers |= {f"dropout_{name}": nn.Dropout(dropout)}
        self.dense = nn.Sequential(OrderedDict(layers, output=nn.Linear(width, outputs)))

    def flat(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to the input of `dense`, (B, F).

        With frozen convolutions and unaugmented images it is the same in every epoch.

        Raises:
            ValueError: The network does not accept images of this size.
        """
        if min(image.shape[-2:]) < self.sides[0] or max(image.shape[-2:]) > self.sides[1]:
            raise ValueError(
                f"expected images of {self.sides[0]} to {self.sides[1]} pixels a side, got {tuple(image.shape[-2:])}; "
                "set --data.size, or choose another network"
            )
        vectors: Tensor = self.pool(self.convolutions(image))
        return vectors

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits (B, outputs)."""
        logits: Tensor = self.dense(self.flat(image))
        return logits

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        """Maps images (B, 3, H, W) in [0, 1] to feature vectors.

        Returns:
            `pooled` (B, C), the mean of each channel of the pooled maps, and `fc6` and `fc7` (B, width), after their
            activation.
        """
        flat = self.flat(image)
        fc6 = self.dense[:3](flat)
        return {"pooled": flat.view(len(flat), self.channels, -1).mean(dim=2), "fc6": fc6, "fc7": self.dense[3:6](fc6)}


def judge(
    network: str, dense_width: int = 250, outputs: int = 2, dropout: float = 0.5, pool_side: int | None = None
) -> Judge:
    """Builds a network that rates photos, with random weights.

    After F. Rubio, M. J. Flores and J. M. Puerta, "Optimización de las técnicas de Transfer Learning para la
    clasificación de la calidad estética en fotografía" (2018): AlexNet (Krizhevsky et al. 2012) and VGG16 (Simonyan and
    Zisserman 2015) with narrower dense layers. Trainable parameters for two outputs and dense layers of 4096, 1000, 500
    and 250 units:

    - `alexnet`: 58,289,538, 13,967,202, 8,607,202, 6,114,702. One column of ungrouped convolutions, without response
      normalization; its file sizes are those in the paper. Nobody publishes its weights. It is made for images of 227
      pixels; for others its last map is resampled to 6 x 6.
    - `alexnet_torchvision`: 57,012,034, 12,689,698, 7,329,698, 4,837,198. torchvision's, with public weights.
    - `vgg16`: 134,268,738, 40,806,690, 27,510,690, 21,050,190. torchvision's.

    Args:
        network: One of these three, or any timm network, whose pooled vector feeds the dense layers.
        dense_width: Units of fc6 and of fc7.
        outputs: Units of the output: 2, snapshot and professional shot, or one per rating.
        dropout: Dropout rate after fc6 and fc7.
        pool_side: Height and width that the maps are pooled to before fc6; None: as published, 6 for AlexNet and 7 for
            VGG16. With 1, the mean of each channel, 250 units have 2,597,198 (`alexnet_torchvision`) and 14,906,190
            parameters.

    Raises:
        ValueError: The network is unknown (the message names the nearest), or a number is out of range.
    """
    if dense_width < 1 or outputs < 2 or not 0 <= dropout < 1:
        raise ValueError(
            f"expected dense_width of at least 1, outputs of at least 2 and dropout in [0, 1), got {dense_width}, "
            f"{outputs} and {dropout}"
        )
    largest = MAPS[network][1] if network in MAPS else 1  # the vector of a timm network is pooled to one pixel
    if pool_side is not None and not 1 <= pool_side <= largest:
        expected = "1" if largest == 1 else f"1 to {largest}"
        raise ValueError(f"pool_side is {pool_side} for {network}; expected {expected} or null")
    if network in MAPS:
        channels, published, smallest = MAPS[network]
        side, sizes = pool_side or published, (smallest, math.inf)
        return Judge(_convolutions(network), channels, side, sizes, dense_width, outputs, dropout)
    try:
        convolutions = timm_classifier(network, classes=0)
    except ValueError as error:
        raise ValueError(f"network {network!r} is none of {', '.join(MAPS)}; of timm's, {error}") from None
    card = timm_card(network)
    sides = (card.input_size[1], card.input_size[1]) if card.fixed_input_size else (1, math.inf)
    classifier: Any = convolutions.get_submodule("classifier")
    return Judge(convolutions, classifier.head_hidden_size, None, sides, dense_width, outputs, dropout)


def _convolutions(name: str) -> nn.Sequential:
    """Builds the convolutions of a key of `MAPS`, with random weights, behind the normalization of ImageNet images.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to (B, C, h, w), 32 times smaller. The keys of its `features` are
        torchvision's.
    """
    layers = _single_column() if name == "alexnet" else _torchvision_features(name)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            # torch's default start fades with depth
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    features = nn.Sequential(OrderedDict(features=layers))
    return nn.Sequential(OrderedDict(normalize=Normalize(*IMAGENET), features=features))


def _single_column() -> nn.Sequential:
    """Builds AlexNet's convolutions as wide as both columns of the paper together: 3,747,200 parameters.

    A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional neural networks",
    NeurIPS 2012. The first convolution does not pad; 227 pixels become 6 x 6. torchvision only has the column of
    A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997: 2,469,696.
    """
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )


def _torchvision_features(name: str) -> nn.Sequential:
    """Builds the convolutions of torchvision's AlexNet or VGG16, uninitialized."""
    from torchvision import models

    device = torch.get_default_device()
    with torch.device("meta"):  # its dense layers are never allocated
        features = (models.vgg16 if name == "vgg16" else models.alexnet)().features
    empty: nn.Sequential = features.to_empty(device=device)
    return empty


def load_judge(network: Judge, name: str, pretrained: bool | str | Path, keep_dense_weights: bool = False) -> None:
    """Fills the convolutions of a `judge` with trained weights.

    Args:
        network: Changed in place.
        name: The name it was built by.
        pretrained: True for the library's ImageNet weights, from the local cache or else over the network; or the path
            of a weights file (.safetensors, .pt, .pth) with torchvision's keys, or with timm's for a timm network.
            False does nothing.
        keep_dense_weights: Whether to fill fc6 and fc7 too, if they are as wide as published.

    Raises:
        WeightsError: The weights cannot be loaded, do not fit, or lack the dense layers to keep.
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
    inputs, width = (network.dense.get_submodule(layer).in_features for layer in ("fc6", "output"))
    known = name in PUBLISHED_KEYS and inputs == MAPS[name][0] * MAPS[name][1] ** 2
    if not known or width != PUBLISHED_WIDTH or pretrained is False:
        raise WeightsError(
            f"keep_dense_weights needs one of {', '.join(PUBLISHED_KEYS)}, pool_side null, dense layers of "
            f"{PUBLISHED_WIDTH} units and trained weights, got {name}, {width} units, {inputs} inputs and "
            f"pretrained {pretrained}. Change these, or set --model.keep_dense_weights false."
        )


def _fill(layer: nn.Module, weights: dict[str, Tensor], key: str, source: str) -> None:
    found = {name: weights.get(f"{key}.{name}") for name in ("weight", "bias")}
    expected = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in found.items() if value is not None}
    if shapes != expected:
        raise WeightsError(
            f"{source} has {shapes or 'nothing'} under {key}; expected {expected}. Give a file with dense layers, or "
            "set --model.keep_dense_weights false."
        )
    layer.load_state_dict({name: value.float() for name, value in found.items() if value is not None})


def _published(name: str) -> Path:
    """Returns the path of a library's ImageNet weights, from its cache or else fetched over the network."""
    if name == "alexnet":
        raise WeightsError(
            "Nobody publishes weights of the single-column alexnet. Use alexnet_torchvision, give a weights file, or "
            "train the convolutions too: --model.pretrained false --model.freeze_convolutions false."
        )
    if name in MAPS:
        return _torchvision_weights(name)
    repository = timm_card(name).hf_hub_id
    if repository is None:
        raise WeightsError(
            f"timm has no weights of {name}. Set model.pretrained to a weights file, or train the convolutions too: "
            "--model.pretrained false --model.freeze_convolutions false."
        )
    try:
        return hub_weights(repository, None, name)
    except WeightsError as error:  # the hub's message ends with `--model.pretrained false`
        raise WeightsError(f"{error} Do not freeze random weights: --model.freeze_convolutions false.") from error


def _torchvision_weights(name: str) -> Path:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    address = (VGG16_Weights if name == "vgg16" else AlexNet_Weights).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name
    if path.is_file():
        return path
    try:
        urlopen(address, timeout=5).close()  # the download itself has no time limit
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), hash_prefix=path.stem.split("-")[-1], progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"The ImageNet weights of {name} are not at {path} and cannot be fetched from {address} ({error}). Either "
            "run once with network access, or copy a weights file here and give its path: --model.pretrained "
            "path/to/weights.pth. To start from random weights: --model.pretrained false --model.freeze_convolutions "
            "false."
        ) from error
    return path
