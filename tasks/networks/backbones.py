"""Builds networks on the encoders of segmentation_models_pytorch and timm; no other file imports these two."""

import difflib
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.errors import WeightsError
from tasks.networks.features_head import OnFeatures, chosen
from tasks.networks.layers import AnySize, Normalize, remove_unused
from tasks.networks.weights import fill_weights, given_path, hub_weights, read_weights

Architecture = Literal["unet", "pspnet", "fpn", "features"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PRESENCE_DROPOUT = 0.2
KERAS = IMAGENET[0], (1 / 255,) * 3  # of its ResNet-50: RGB of 0 to 255 less the mean
# Normalization that each family of encoders was trained with; families with another one are not offered.
CARDS = {"resnet": IMAGENET, "vgg": IMAGENET, "mobilenet_v2": IMAGENET, "efficientnet-b": IMAGENET,
         "timm-tf_efficientnet_lite": HALF, "inceptionresnetv2": HALF, "inceptionv4": HALF}  # fmt: skip
Bands = dict[str, tuple[float, float]]
"""Mean and standard deviation, in [0, 1], of the bands that an encoder was trained on, in its order."""
# Convolutions of classifiers, by timm's names: channels, and the encoder whose weights fit.
EXTRACTORS = {"vgg16": (512, "vgg16"), "resnet50": (2048, "resnet50"), "resnet50_v1": (2048, "resnet50"),
              "inception_resnet_v2": (1536, "inceptionresnetv2")}  # fmt: skip
# Networks that no library has weights of, and what to do.
UNPUBLISHED = {
    "resnet50_v1": "The library's weights belong to resnet50, which halves elsewhere. Use it, or give a file."
}


def libraries() -> tuple[Any, Any]:
    """Returns the modules segmentation_models_pytorch and timm.

    timm would import wandb if it is installed, for its own trainings, which takes half a second.
    """
    blocked = "timm" not in sys.modules and "wandb" not in sys.modules
    if blocked:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # how Python marks a module that must not be imported
    try:
        import segmentation_models_pytorch
        import timm
    finally:
        if blocked:
            del sys.modules["wandb"]
    return segmentation_models_pytorch, timm


def segmentation_network(
    architecture: Architecture, encoder: str, classes: int, bands: Bands | None = None, presence: bool = False
) -> nn.Module:
    """Builds a segmentation network with random weights for images in [0, 1] of any size.

    U-Net (Ronneberger et al. 2015), PSPNet (Zhao et al. 2017) or FPN (Lin et al. 2017; Kirillov et al. 2019) of
    segmentation_models_pytorch, behind the encoder's own normalization and without the encoder layers that are never
    used. Trainable parameters for four classes: U-Net + ResNet-34 24,436,804, FPN + MobileNetV2 4,215,812. Or
    `features`: two convolutions on what a frozen network sees, see `tasks.networks.features_head.OnFeatures`.

    Args:
        architecture: The decoder.
        encoder: A name of segmentation_models_pytorch: `resnet34`, `resnet101`, `mobilenet_v2`, `inceptionresnetv2`,
            `efficientnet-b4`, `timm-tf_efficientnet_lite0`, another one of these families, or VGG. For `features` also
            any name of timm.
        classes: Number K of output maps.
        bands: What the encoder's weights were trained on, if not on the library's images; normalizes red, green and
            blue by these means and standard deviations.
        presence: Whether to add a head on the mean of the encoder's last map that says which classes an image shows.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to logits (B, K, H, W). Its encoder is `network.encoder`. With
        `presence`, K more maps are the constant logits of each class's presence.

    Raises:
        ValueError: The architecture or encoder is unknown (the message names the nearest), the bands have no red,
            green or blue, or `features` should have a presence head.
    """
    if architecture == "features":
        if bands is not None:
            raise ValueError("features has its network's own normalization; expected pretrained_bands null")
        if presence:
            raise ValueError("features has no presence head; expected unet, pspnet or fpn, or presence_head false")
        stages, sample = Stages(encoder), torch.zeros(1, 3, 224, 224)
        with torch.device("meta"):  # nothing is computed or allocated
            channels = [each.shape[1] for each in chosen(Stages(encoder).eval()(sample.to("meta"))[0])]
        return nn.Sequential(nn.Identity(), AnySize(OnFeatures(stages, channels, classes), stages.multiple))

    smp, _ = libraries()
    builders: dict[str, Callable[..., nn.Module]] = {"unet": smp.Unet, "pspnet": smp.PSPNet, "fpn": smp.FPN}
    if architecture not in builders:
        raise ValueError(f"architecture {architecture!r} is unknown; expected one of {', '.join(builders)}")
    family = next((family for family in CARDS if encoder.startswith(family)), None)
    known = [name for name in smp.encoders.get_encoder_names() if name.startswith(tuple(CARDS))]
    if family is None or encoder not in known:
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.4) or known[:6]
        raise ValueError(f"encoder {encoder!r} is unknown; did you mean {' or '.join(near)}?")
    head = {"classes": classes, "dropout": PRESENCE_DROPOUT} if presence else None
    network = builders[architecture](encoder_name=encoder, encoder_weights=None, classes=classes, aux_params=head)
    multiple = 8 if architecture == "pspnet" else 32
    if architecture == "pspnet" or "efficientnet" in family:
        remove_unused(AnySize(network, multiple), torch.zeros(1, 3, 64, 64))
    return nn.Sequential(Normalize(*(CARDS[family] if bands is None else _card(bands))), AnySize(network, multiple))


def _card(bands: Bands) -> Any:
    """Returns means and standard deviations of red, green and blue."""
    colors = ("red", "green", "blue")
    if not {*colors} <= bands.keys() or not all(math.isfinite(mean) and std > 0 for mean, std in bands.values()):
        raise ValueError(
            f"pretrained_bands is {bands}; expected a mean and a standard deviation above 0 for each band of "
            "the weights, in their order, red, green and blue among them"
        )
    return tuple(tuple(bands[color][part] for color in colors) for part in (0, 1))


def feature_extractor(name: str) -> nn.Sequential:
    """Builds the convolutions of an ImageNet classifier, with random weights, behind its own normalization.

    VGG16 (Simonyan and Zisserman 2015), ResNet-50 (He et al. 2016) or Inception-ResNet-v2 (Szegedy et al. 2017) of
    timm, without the final pooling and dense layers; `load_features` fills them. `resnet50_v1` is ResNet-50 as
    published and as in Keras, with its normalization, for weights from there.

    Args:
        name: A key of `EXTRACTORS`, which also holds the number C of channels.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1] to (B, C, h, w), 32 times smaller. The keys of its `features` are
        torchvision's.

    Raises:
        ValueError: The extractor is unknown; the message lists the known ones.
    """
    _, timm = libraries()
    if name not in EXTRACTORS:
        raise ValueError(f"feature extractor {name!r} is unknown; expected one of {', '.join(EXTRACTORS)}")
    if name == "vgg16":
        # Its unused dense layers would have 119 million parameters: they are built one channel wide.
        convolutions = timm.create_model(name, pretrained=False, num_classes=0, mlp_ratio=1 / 4096).features
        features: nn.Module = nn.Sequential(OrderedDict(features=convolutions))
    else:
        features = timm.create_model(name.removesuffix("_v1"), pretrained=False, num_classes=0, global_pool="")
    if name == "resnet50_v1":
        _halve_early(features)
    encoder = EXTRACTORS[name][1]
    card = next(card for family, card in CARDS.items() if encoder.startswith(family))
    normalize = Normalize(*(KERAS if name == "resnet50_v1" else card))
    return nn.Sequential(OrderedDict(normalize=normalize, features=features))


def timm_card(name: str) -> Any:
    """Returns timm's `PretrainedCfg` of a network: normalization, input size, classes, and where its weights are.

    Args:
        name: timm's name of an architecture, with or without a tag that names the training: `resnet18.a1_in1k`; or
            `resnet50_v1`, Keras's.

    Raises:
        ValueError: The network is unknown; the message names the nearest.
    """
    _, timm = libraries()
    if name == "resnet50_v1":
        return replace(timm.get_pretrained_cfg("resnet50"), mean=KERAS[0], std=KERAS[1], hf_hub_id=None)
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        known = dict.fromkeys([*EXTRACTORS, *timm.list_models(pretrained="." in name)])
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or EXTRACTORS
        raise ValueError(f"extractor {name!r} is unknown; did you mean {' or '.join(near)}?") from None


def timm_classifier(name: str, classes: int) -> nn.Sequential:
    """Builds a timm classifier with random weights, behind its own normalization.

    Args:
        name: As in `timm_card`.
        classes: Number K of classes; 0 returns the features that the classifier would see.

    Returns:
        A module that maps (B, 3, H, W) in [0, 1], of the size on its card, to logits (B, K) or features (B, V). The
        keys of its `classifier` are timm's, and V is its `classifier.head_hidden_size`.

    Raises:
        ValueError: As in `timm_card`.
    """
    _, timm = libraries()
    card = timm_card(name)
    network = timm.create_model(name.removesuffix("_v1"), pretrained=False, num_classes=classes)
    if name == "resnet50_v1":
        _halve_early(network)
    return nn.Sequential(OrderedDict(normalize=Normalize(card.mean, card.std), classifier=network))


class Stages(nn.Module):
    """Returns the maps of every stage of a classifier, and the vector that its last layer would see.

    Batch normalization is frozen, in training too. The keys of `network` are torchvision's for encoders of
    segmentation_models_pytorch, otherwise timm's.

    Args:
        name: `mobilenet_v2`, `resnet50` or another encoder of the families in `CARDS`; `resnet50_v1`, ResNet-50 as
            published and as in Keras; or any timm name, with or without a tag.

    Raises:
        ValueError: The network is unknown; the message names the nearest.
    """

    def __init__(self, name: str) -> None:
        smp, timm = libraries()
        from timm.layers import freeze_batch_norm_2d

        super().__init__()
        family = next((family for family in CARDS if name.startswith(family)), None)
        encoder = "resnet50" if name == "resnet50_v1" else name
        self.keys = "torchvision's"
        self.side: int | None = None
        self.multiple = 32  # pixels that height and width should be divisible by
        card = CARDS.get(family or "", IMAGENET)
        if family is not None and encoder in smp.encoders.get_encoder_names():
            self.network: Any = smp.encoders.get_encoder(encoder, weights=None)
            if name == "resnet50_v1":
                _halve_early(self.network)
                card = KERAS
        else:
            found = timm_card(name)
            self.keys, card = "timm's", (found.mean, found.std)
            try:  # transformers for one size, which can take others
                self.network = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
                self.multiple = max(self.network.patch_embed.patch_size)
            except TypeError:
                self.network = timm.create_model(name, pretrained=False, num_classes=0)
                self.side = found.input_size[1] if found.fixed_input_size else None
        # `sync_batchnorm` would replace timm's batch normalization, and lose the activation that it contains
        self.network = freeze_batch_norm_2d(self.network)
        self.normalize = Normalize(*card)

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps images (B, 3, H, W) in [0, 1] to maps (B, C, h, w) and vectors (B, V)."""
        size = [-(-side // self.multiple) * self.multiple for side in image.shape[-2:]]
        if self.side is not None or (self.multiple != 32 and size != list(image.shape[-2:])):
            size = size if self.side is None else [self.side, self.side]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        image = self.normalize(image)
        if self.keys == "torchvision's":
            return self.network(image)[1:], []
        last, maps = self.network.forward_intermediates(image)
        return maps, [] if last is maps[-1] else [self.network.forward_head(last, pre_logits=True)]


def load_stages(stages: Stages, name: str, weights: bool | str | Path, option: str) -> None:
    """Fills `Stages` of this name with trained weights.

    Args:
        stages: Changed in place.
        name: The name that it was built by.
        weights: True for the library's ImageNet weights, or the path of a weights file; False does nothing.
        option: The option that gave them, for the message.

    Raises:
        WeightsError: They are missing or do not fit.
    """
    if weights is False:
        return
    if weights is not True:
        path = Path(weights)
    elif name in UNPUBLISHED:
        raise WeightsError(UNPUBLISHED[name])
    elif stages.keys == "torchvision's":
        path = _library_weights(name)
    else:
        repository = timm_card(name).hf_hub_id
        if repository is None:
            raise WeightsError(f"timm has no weights of {name}. Give a file: --model.{option} path/to/weights.")
        path = hub_weights(repository, None, name, option)
    tensors = read_weights(path, heads=stages.keys == "timm's", option=option)
    fill_weights(stages.network, tensors, name, str(path), stages.keys)


def _halve_early(network: Any) -> None:
    """Makes ResNet-50 the published one: its stages halve in their first convolution, the libraries' in the second."""
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def load_features(extractor: nn.Module, name: str, pretrained: bool | str | Path) -> None:
    """Fills a `feature_extractor` of this name with trained weights; see `load_weights`."""
    if name in UNPUBLISHED and pretrained is True:
        raise WeightsError(UNPUBLISHED[name])
    load_weights(extractor.get_submodule("features"), EXTRACTORS[name][1], pretrained)


def encoder_of(network: nn.Module) -> nn.Module:
    """Returns the encoder of a `segmentation_network` or a `vgg_autoencoder`."""
    return network.get_submodule("1.network.encoder")


def encoder_vectors(network: nn.Module, image: Tensor) -> Tensor:
    """Returns what the encoder of such a network sees in images (B, C, H, W) in [0, 1]: vectors (B, V).

    They are the mean of each channel of its last map, and the class token of networks that have one.
    """
    normalize, whole = network.get_submodule("0"), network.get_submodule("1")
    assert isinstance(whole, AnySize)
    found = encoder_of(network)(whole.padded(normalize(image)))
    maps, tokens = found if isinstance(found, tuple) else (found, [])
    last = maps if isinstance(maps, Tensor) else maps[-1]
    return torch.cat([last.mean(dim=(2, 3)), *tokens], dim=1).float()


def load_encoder(network: nn.Module, encoder: str, pretrained: bool | str | Path, bands: Bands | None = None) -> None:
    """Fills the encoder of a `segmentation_network` or `vgg_autoencoder` with trained weights; see `load_weights`."""
    module = encoder_of(network)
    if isinstance(module, Stages):
        load_stages(module, encoder, pretrained, "pretrained")
    else:
        load_weights(module, encoder, pretrained, list(bands or ()))


def load_weights(module: nn.Module, name: str, pretrained: bool | str | Path, bands: Sequence[str] = ()) -> None:
    """Fills an encoder of segmentation_models_pytorch with trained weights.

    Args:
        module: Changed in place.
        name: The encoder's name in segmentation_models_pytorch.
        pretrained: True for the library's ImageNet weights, from the local cache or else from its hub; or the path of
            a weights file (.safetensors, .pt, .pth, .ckpt) with the encoder's keys, or in a layout that
            `tasks.networks.weights.own_keys` knows. False does nothing.
        bands: What the first convolution of the weights sees, if not red, green and blue.

    Raises:
        WeightsError: The file is missing or does not fit the encoder, or the weights are not cached and cannot be
            fetched.
    """
    if pretrained is False:
        return
    source = str(pretrained) if pretrained is not True else f"the ImageNet weights of {name}"
    path = _library_weights(name) if pretrained is True else given_path(pretrained)
    keys = "segmentation_models_pytorch's" if "efficientnet" in name else "torchvision's"
    fill_weights(module, read_weights(path), name, source, keys, bands)


def _library_weights(encoder: str) -> Path:
    """Returns the path of the library's ImageNet weights, from the local cache or else fetched over the network."""
    smp, _ = libraries()
    card = smp.encoders.encoders[encoder]["pretrained_settings"].get("imagenet")
    if card is None:
        raise WeightsError(
            f"The library has no ImageNet weights for {encoder}. Set model.pretrained to a weights file or to false."
        )
    return hub_weights(card["repo_id"], card["revision"], encoder)
