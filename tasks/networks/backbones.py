"""Networks built on other people's encoders: the only file that knows segmentation_models_pytorch and timm."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.networks.layers import AnySize, Normalize, remove_unused

Architecture = Literal["unet", "pspnet", "fpn"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
# What each family of encoders was trained on, from its own card; families with another card are not offered.
CARDS = {"resnet": IMAGENET, "vgg": IMAGENET, "mobilenet_v2": IMAGENET,
         "inceptionresnetv2": HALF, "inceptionv4": HALF}  # fmt: skip
# The convolutions of classifiers, by timm's names: channels, and the encoder whose weights fit.
EXTRACTORS = {"vgg16": (512, "vgg16"), "resnet50": (2048, "resnet50"), "resnet50_v1": (2048, "resnet50"),
              "inception_resnet_v2": (1536, "inceptionresnetv2")}  # fmt: skip
CLASSIFIER = ("fc.", "classifier.", "last_linear.", "head.", "classif.")  # heads that a weights file may carry


class WeightsError(ValueError):
    """Weights that were asked for cannot be had or do not fit."""


def segmentation_network(architecture: Architecture, encoder: str, classes: int) -> nn.Module:
    """A segmentation network with random weights that takes pictures in [0, 1] of any size.

    U-Net (Ronneberger et al. 2015), PSPNet (Zhao et al. 2017) and FPN (Lin et al. 2017; Kirillov et al. 2019)
    as segmentation_models_pytorch builds them, with the encoder's own normalisation in front and without the
    encoder layers that PSPNet never uses. Trainable parameters for four classes: U-Net + ResNet-34 24,436,804,
    FPN + MobileNetV2 4,215,812.

    Args:
        architecture: The decoder.
        encoder: A name of segmentation_models_pytorch: `resnet34`, `resnet101`, `mobilenet_v2`,
            `inceptionresnetv2`, any other of those families, or VGG.
        classes: Number K of output maps.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to logits (B, K, H, W). Its encoder is `network.encoder`.

    Raises:
        ValueError: The architecture or encoder is unknown; the message names the nearest.
    """
    import segmentation_models_pytorch as smp

    builders: dict[str, Callable[..., nn.Module]] = {"unet": smp.Unet, "pspnet": smp.PSPNet, "fpn": smp.FPN}
    if architecture not in builders:
        raise ValueError(f"architecture {architecture!r} is unknown; it is one of {', '.join(builders)}.")
    family = next((family for family in CARDS if encoder.startswith(family)), None)
    known = [name for name in smp.encoders.get_encoder_names() if name.startswith(tuple(CARDS))]
    if family is None or encoder not in known:
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.4) or known[:6]
        raise ValueError(f"encoder {encoder!r} is unknown; did you mean {' or '.join(near)}?")
    network = builders[architecture](encoder_name=encoder, encoder_weights=None, classes=classes)
    multiple = 8 if architecture == "pspnet" else 32
    if architecture == "pspnet":
        remove_unused(network, torch.zeros(1, 3, 64, 64))
    return nn.Sequential(Normalize(*CARDS[family]), AnySize(network, multiple))


def feature_extractor(name: str) -> nn.Sequential:
    """The convolutions of an ImageNet classifier, with random weights and its own normalisation in front.

    VGG16 (Simonyan and Zisserman 2015), ResNet-50 (He et al. 2016) and Inception-ResNet-v2 (Szegedy et al. 2017) as
    timm builds them, without pooling and dense layers at their end; `load_features` fills them. `resnet50_v1` is
    ResNet-50 as it was published and as Keras has it, for weights that were trained so.

    Args:
        name: A key of `EXTRACTORS`, which also has the number C of channels.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to (B, C, h, w), 32 times smaller. The keys of its `features` are
        torchvision's.

    Raises:
        ValueError: There is no such extractor; the message names those there are.
    """
    import timm

    if name not in EXTRACTORS:
        raise ValueError(f"feature extractor {name!r} is unknown; it is one of {', '.join(EXTRACTORS)}.")
    if name == "vgg16":
        # Its dense layers, 119 million parameters, are not wanted: they are built one channel wide.
        convolutions = timm.create_model(name, pretrained=False, num_classes=0, mlp_ratio=1 / 4096).features
        features: nn.Module = nn.Sequential(OrderedDict(features=convolutions))
    else:
        features = timm.create_model(name.removesuffix("_v1"), pretrained=False, num_classes=0, global_pool="")
    if name == "resnet50_v1":  # a stage halves in its first convolution; in timm's and torchvision's, in its second
        network: Any = features
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    encoder = EXTRACTORS[name][1]
    card = next(card for family, card in CARDS.items() if encoder.startswith(family))
    return nn.Sequential(OrderedDict(normalize=Normalize(*card), features=features))


def load_features(extractor: nn.Module, name: str, pretrained: bool | str | Path) -> None:
    """Fills a `feature_extractor` of this name with trained weights; see `load_weights`."""
    if name == "resnet50_v1" and pretrained is True:
        raise WeightsError("The library's weights are those of resnet50, which halves elsewhere. Give it, or a file.")
    load_weights(extractor.get_submodule("features"), EXTRACTORS[name][1], pretrained)


def encoder_of(network: nn.Module) -> nn.Module:
    """The encoder of a `segmentation_network` or a `vgg_autoencoder`."""
    return network.get_submodule("1.network.encoder")


def load_encoder(network: nn.Module, encoder: str, pretrained: bool | str | Path) -> None:
    """Fills the encoder of a `segmentation_network` or `vgg_autoencoder` with trained weights; see `load_weights`."""
    load_weights(encoder_of(network), encoder, pretrained)


def load_weights(module: nn.Module, name: str, pretrained: bool | str | Path) -> None:
    """Fills an encoder whose keys are torchvision's with trained weights.

    Args:
        module: Changed in place.
        name: The encoder's name in segmentation_models_pytorch.
        pretrained: True for the library's ImageNet weights, from the local cache or else from its hub; or the
            path of a weights file (.safetensors, .pt, .pth) whose keys are torchvision's. False does nothing.

    Raises:
        WeightsError: The file is missing or does not fit the encoder, or there are no weights in the cache and
            no network to fetch them over.
    """
    if pretrained is False:
        return
    source = str(pretrained) if pretrained is not True else f"the ImageNet weights of {name}"
    path = _library_weights(name) if pretrained is True else Path(pretrained)
    weights = read_weights(path)
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {len(missing)} of its {len(wanted)} tensors are missing, "
            f"the first is {missing[0]!r}. Give weights of {name} with torchvision's keys."
        )
    misshapen = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    if misshapen:
        key = misshapen[0]
        raise WeightsError(
            f"{source} does not fit the encoder {name}: {key!r} has the shape {tuple(weights[key].shape)}, "
            f"the encoder wants {tuple(wanted[key].shape)}. Give weights of {name}."
        )
    fitting = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()
               if key in wanted}  # fmt: skip
    nn.Module.load_state_dict(module, {**wanted, **fitting})


def read_weights(path: Path, heads: bool = False, option: str = "pretrained") -> dict[str, Tensor]:
    """Tensors of a weights file.

    Args:
        path: A .safetensors file or a file of torch.save that holds tensors only.
        heads: Whether those of a classifier's head are among them.
        option: The argument that gave the path, for the message.

    Raises:
        WeightsError: There is no such file or it holds no weights.
    """
    if not path.is_file():
        raise WeightsError(
            f"There is no weights file {path}. Give the path of a .safetensors or .pth file to model.{option}, "
            "or `true` for the library's ImageNet weights, or `false` for random ones."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: Mapping[str, object] = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)  # type: ignore[assignment]  # whatever was saved
        tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    except Exception as error:
        raise WeightsError(f"{path} could not be read as a weights file: {error}") from error
    if not tensors:
        raise WeightsError(f"{path} holds no tensors; a state dict of a network was wanted.")
    return {key: value for key, value in tensors.items() if heads or not key.startswith(CLASSIFIER)}


def _library_weights(encoder: str) -> Path:
    """Path of the library's ImageNet weights: from the local cache, or else fetched over the network."""
    from segmentation_models_pytorch.encoders import encoders

    card = encoders[encoder]["pretrained_settings"].get("imagenet")
    if card is None:
        raise WeightsError(
            f"The library has no ImageNet weights for {encoder}. Set model.pretrained to a weights file or to false."
        )
    return hub_weights(card["repo_id"], card["revision"], encoder)


def hub_weights(repository: str, revision: str | None, name: str, option: str = "pretrained") -> Path:
    """Path of the weights of a repository of the hub: from the local cache, or else fetched over the network.

    Args:
        repository: Its name there.
        revision: Which of its states; None for the newest.
        name: The network's, for the message.
        option: The argument that asked for them, for the message.

    Raises:
        WeightsError: They cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        reason = "no network" if not _online() else None
    if reason is None:
        try:
            return Path(hf_hub_download(repository, "model.safetensors", revision=revision))
        except Exception as error:  # the hub client's errors have no common base
            reason = f"{type(error).__name__} while fetching them"
    raise WeightsError(
        f"The ImageNet weights of {name} are not in the local cache and cannot be fetched ({reason}). Either run "
        "once where there is a network, or copy a weights file here and give its path: "
        f"--model.{option} path/to/weights.safetensors. To start from random ones: --model.{option} false."
    )


def _online() -> bool:
    """Whether the hub answers at all, asked once and briefly (its client would retry for minutes)."""
    import os
    import socket
    from urllib.parse import urlparse

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # a proxy answers for the hub; a direct connection would prove nothing
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True
