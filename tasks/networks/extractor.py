"""Extracts feature vectors of images by a frozen ImageNet classifier, as input for other networks."""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.errors import WeightsError
from tasks.networks.backbones import EXTRACTORS, feature_extractor, timm_card, timm_classifier
from tasks.networks.weights import CLASSIFIER, fill_weights, hub_weights, in_order, read_weights

CLASSES = 1000  # of ImageNet
SIDES = {"vgg16": 224, "resnet50": 224, "resnet50_v1": 224, "inception_resnet_v2": 299}  # of images, in pixels
# Repositories of weights with their classifier. VGG16's, three dense layers of 124 million parameters, is not built; no
# library has ResNet-50 as it was published.
REPOSITORIES = {"resnet50": "timm/resnet50.tv_in1k", "inception_resnet_v2": "timm/inception_resnet_v2.tf_in1k",
                "vgg16": "timm/vgg16.tv_in1k"}  # fmt: skip
OPTION = "extractor_weights"
INSTEAD = "Use its features: --model.extractor_vector features."


class Extractor:
    """Maps images to vectors by a frozen ImageNet classifier.

    It is not a module, so that the task that holds it neither trains it, nor switches it out of `eval`, nor stores it
    in its checkpoints, which would grow by 220 MB. It is built and loaded when first needed, or built at once if only
    the network knows its `length`, and moves to the device of its images. Checkpoints should keep `digest`: the network
    learned from these weights and works with no others.

    Args:
        name: The classifier: a key of `EXTRACTORS`, or any timm name, with a tag (`resnet18.a1_in1k`) or without.
        weights: `True` for the library's ImageNet weights, the path of a weights file, or `False` for random weights,
            always the same ones, for tests only. A file has timm's keys, those of
            `torch.save(timm.create_model(name, pretrained=True).state_dict(), path)`; torchvision's work too for
            `EXTRACTORS`, and for networks with the same layers in the same order, such as `mobilenetv2_100`.
        vector: `logits`, the values before the softmax, which need weights with a classifier of as many classes as the
            library's; or `features`, the classifier's input, which all weights have. `vgg16` has only features, because
            its dense layers are not built; `vgg16.tv_in1k` is timm's, with them. Features of `EXTRACTORS` are the mean
            of the last map; other networks may have layers after that.

    Attributes:
        length: Length V of the vectors: 1000 logits of ImageNet; 512 features of `vgg16`, 2048 of `resnet50` and
            `resnet50_v1`, 1536 of `inception_resnet_v2`.

    Raises:
        ValueError: The classifier or the vector is unknown; the message names the nearest.
    """

    def __init__(
        self,
        name: str = "inception_resnet_v2",
        weights: bool | str | Path = True,
        vector: Literal["logits", "features"] = "logits",
    ) -> None:
        self._card: Any = None if name in EXTRACTORS else timm_card(name)
        if vector not in ("logits", "features") or (name == "vgg16" and vector == "logits"):
            raise ValueError(
                f"expected the vector 'logits' or 'features', for vgg16 'features', got {vector!r} for {name}"
            )
        if vector == "logits" and self._card is not None and not self._card.num_classes:
            raise ValueError(f"extractor {name} has no classifier, so there are no logits. {INSTEAD}")
        self.name, self.weights, self.vector = name, weights, vector
        self._network: nn.Sequential | None = None
        self._filled = False
        self._digest = ""
        self.length = self._length()

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Returns vectors of images, without a gradient.

        Args:
            image: (B, 3, H, W) in [0, 1], or (B, 1, H, W), which is repeated three times. It is resized to the size
                that the classifier was trained on, usually 224 or 299 a side, without keeping its aspect.

        Returns:
            (B, V) float32.

        Raises:
            WeightsError: As in `load`.
        """
        network = self._loaded()
        with torch.inference_mode(False):  # weights moved in inference mode could not be used in training
            network.to(image.device)
        size = (SIDES[self.name],) * 2 if self._card is None else self._card.input_size[1:]
        resized = F.interpolate(image.float(), size, mode="bilinear", antialias=True)
        vector: Tensor = network(resized.expand(-1, 3, -1, -1))
        return vector.float()

    def load(self) -> None:
        """Builds and fills the classifier now, to report problems with its weights early.

        Raises:
            WeightsError: The weights cannot be loaded, do not fit, or have no classifier for logits.
        """
        self._loaded()

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify these weights, as float32."""
        if not self._digest:
            self._digest = _digest(self._loaded())
        return self._digest

    def check(self, digest: str) -> None:
        """Checks that the weights are those that a network was trained with.

        Args:
            digest: The digest of those.

        Raises:
            WeightsError: They differ; or as in `load`.
        """
        if self.digest != digest:
            raise WeightsError(
                f"The weights {self.weights} of the extractor {self.name} are not those that the network was trained "
                f"with: expected the digest {digest}, got {self.digest}. Give those: --model.{OPTION} path/to/weights."
            )

    def _length(self) -> int:
        if self.vector == "logits":
            return CLASSES if self._card is None else int(self._card.num_classes)
        if self._card is None:
            return EXTRACTORS[self.name][0]
        classifier: Any = self._built().get_submodule("classifier")
        return int(classifier.head_hidden_size)  # not on its card

    def _loaded(self) -> nn.Sequential:
        if not self._filled and self.weights is not False:
            path = self._path(self.weights)
            with torch.inference_mode(False):
                self._fill(self._built(), path)
        self._filled = True
        return self._built()

    def _built(self) -> nn.Sequential:
        if self._network is None:
            # Its random weights must not change the random numbers of training.
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if self._card is None:
                    network = _with_linear_head(self.name, self.vector)
                else:
                    network = timm_classifier(self.name, self._card.num_classes if self.vector == "logits" else 0)
            self._network = network.requires_grad_(False).eval()
        return self._network

    def _path(self, source: Literal[True] | str | Path) -> Path:
        if source is not True:
            return Path(source)
        repository = REPOSITORIES.get(self.name) if self._card is None else self._card.hf_hub_id
        if not repository:
            raise WeightsError(
                f"The library has no weights of {self.name}. Give a file: --model.{OPTION} path/to/weights."
            )
        return hub_weights(repository, None, self.name, OPTION)

    def _fill(self, network: nn.Sequential, path: Path) -> None:
        weights = read_weights(path, heads=True, option=OPTION)
        source = f"{path}, weights of {self.name},"
        if self._card is None:
            fill_weights(network.get_submodule("extractor.features"), weights, self.name, str(path))
            head = network.get_submodule("head")
            if isinstance(head, nn.Linear):
                head.load_state_dict(_classifier(weights, head, source))
            return
        classifier = network.get_submodule("classifier")
        weights = dict(in_order(weights, classifier.state_dict()))
        heads = self._card.classifier or ()
        for key in (f"{head}.weight" for head in ([heads] if isinstance(heads, str) else heads)):
            if key in classifier.state_dict():  # networks for features have none
                _check_classifier(weights.get(key), classifier.state_dict()[key], source)
        fill_weights(classifier, weights, self.name, str(path), keys="timm's")


def _with_linear_head(name: str, vector: str) -> nn.Sequential:
    head = nn.Linear(EXTRACTORS[name][0], CLASSES) if vector == "logits" else nn.Identity()
    layers = {"extractor": feature_extractor(name), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(**layers, head=head))


def _classifier(weights: dict[str, Tensor], head: nn.Linear, source: str) -> dict[str, Tensor]:
    """Returns weight and bias of a classifier's final linear layer, under any library's name for it."""
    found = [name for name in CLASSIFIER if {f"{name}weight", f"{name}bias"} <= weights.keys()]
    weight = weights[f"{found[0]}weight"] if found else None
    _check_classifier(weight, head.weight, source)
    return {key: weights[f"{found[0]}{key}"].float() for key in ("weight", "bias")}


def _check_classifier(weight: Tensor | None, expected: Tensor, source: str) -> None:
    if weight is None:
        raise WeightsError(f"{source} contain no classifier, so there are no logits. {INSTEAD}")
    if weight.shape != expected.shape:
        raise WeightsError(
            f"{source} contain a classifier of shape {tuple(weight.shape)}, expected {tuple(expected.shape)}. {INSTEAD}"
        )


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        if value.is_floating_point():  # not batch normalization's batch counts, which some files lack
            digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
