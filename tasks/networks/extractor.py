"""What a frozen ImageNet classifier sees in a picture, as a vector for networks that are given it too."""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.backbones import (
    CLASSIFIER,
    EXTRACTORS,
    WeightsError,
    feature_extractor,
    hub_weights,
    load_weights,
    read_weights,
)

CLASSES = 1000  # of ImageNet
SIDES = {"vgg16": 224, "resnet50": 224, "resnet50_v1": 224, "inception_resnet_v2": 299}  # of pictures, in pixels
# Where the library's weights come with their classifier. VGG16's, three dense layers of 124 million parameters, is not
# built; no library has ResNet-50 as it was published.
REPOSITORIES = {"resnet50": "timm/resnet50.tv_in1k", "inception_resnet_v2": "timm/inception_resnet_v2.tf_in1k",
                "vgg16": "timm/vgg16.tv_in1k"}  # fmt: skip
OPTION = "extractor_weights"


class Extractor:
    """A frozen ImageNet classifier: pictures to vectors.

    It is no module, so that the task that holds it neither trains it, nor switches it out of `eval`, nor has it in its
    parameters and checkpoints, which would grow by 220 MB. It is built and loaded when it is first needed, and goes
    where its pictures are. What a checkpoint should keep is `digest`: the network learned from these weights and knows
    no others.

    Args:
        name: The classifier, a key of `EXTRACTORS`.
        weights: `True` for the library's ImageNet weights, the path of a weights file with torchvision's or timm's
            keys, or `False` for random weights, the same ones every time, which are good for trying things out only.
        vector: `logits`, the values before the softmax, for which the weights must have a classifier of 1000 classes;
            or `features`, the last map averaged, which all weights have and `vgg16` has only.

    Attributes:
        length: Length V of the vectors: 1000 logits; 512 features of `vgg16`, 2048 of `resnet50` and `resnet50_v1`,
            1536 of `inception_resnet_v2`.

    Raises:
        ValueError: There is no such classifier or vector.
    """

    def __init__(
        self,
        name: str = "inception_resnet_v2",
        weights: bool | str | Path = True,
        vector: Literal["logits", "features"] = "logits",
    ) -> None:
        if name not in EXTRACTORS:
            raise ValueError(f"extractor {name!r} is unknown; it is one of {', '.join(EXTRACTORS)}.")
        if vector not in ("logits", "features") or (name == "vgg16" and vector == "logits"):
            raise ValueError(
                f"extractor {name} with the vector {vector!r}; wanted is 'logits' or 'features', of vgg16 'features'."
            )
        self.name, self.weights, self.vector = name, weights, vector
        self.length = CLASSES if vector == "logits" else EXTRACTORS[name][0]
        self._network: nn.Sequential | None = None
        self._digest = ""

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Vectors of pictures, without a gradient.

        Args:
            image: (B, 3, H, W) in [0, 1], or (B, 1, H, W), which is stacked three times. It is resized to what the
                classifier was trained on, 224 or 299 a side, its aspect not kept.

        Returns:
            (B, V) float32.

        Raises:
            WeightsError: As in `load`.
        """
        network = self._loaded()
        with torch.inference_mode(False):  # weights moved in inference mode could not be used in training
            network.to(image.device)
        side = SIDES[self.name]
        resized = F.interpolate(image.float(), (side, side), mode="bilinear", antialias=True)
        vector: Tensor = network(resized.expand(-1, 3, -1, -1))
        return vector.float()

    def load(self) -> None:
        """Builds and fills the classifier now, where what is wrong with its weights is better said at once.

        Raises:
            WeightsError: The weights cannot be had, do not fit, or have no classifier for logits.
        """
        self._loaded()

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell these weights, as float32, from others."""
        if not self._digest:
            self._digest = _digest(self._loaded())
        return self._digest

    def check(self, digest: str) -> None:
        """Checks that the weights are those that a network was trained with.

        Args:
            digest: What was kept of them.

        Raises:
            WeightsError: They are others; or as in `load`.
        """
        if self.digest != digest:
            raise WeightsError(
                f"The weights {self.weights} of the extractor {self.name} are not those that the network was trained "
                f"with (digest {self.digest}, wanted {digest}). Give those: --model.{OPTION} path/to/weights."
            )

    def _loaded(self) -> nn.Sequential:
        if self._network is None:
            # Its random start must not move the random numbers of what is trained.
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = self._built()
                if self.weights is not False:
                    self._fill(network, self.weights)
            self._network = network.requires_grad_(False).eval()
        return self._network

    def _built(self) -> nn.Sequential:
        head = nn.Linear(EXTRACTORS[self.name][0], CLASSES) if self.vector == "logits" else nn.Identity()
        layers = {"extractor": feature_extractor(self.name), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        return nn.Sequential(OrderedDict(**layers, head=head))

    def _fill(self, network: nn.Sequential, source: Literal[True] | str | Path) -> None:
        if source is not True:
            path = Path(source)
        elif self.name in REPOSITORIES:
            path = hub_weights(REPOSITORIES[self.name], None, self.name, OPTION)
        else:
            raise WeightsError(
                f"The library has no weights of {self.name}. Give a file: --model.{OPTION} path/to/weights."
            )
        head = network.get_submodule("head")
        weights = read_weights(path, heads=True, option=OPTION)
        load_weights(network.get_submodule("extractor.features"), self.name, path)
        if isinstance(head, nn.Linear):
            head.load_state_dict(_classifier(weights, head, f"{path}, weights of {self.name},"))


def _classifier(weights: dict[str, Tensor], head: nn.Linear, source: str) -> dict[str, Tensor]:
    """Weight and bias of the linear layer that ends a classifier, under whichever library's name it has there."""
    for name in CLASSIFIER:
        weight, bias = weights.get(f"{name}weight"), weights.get(f"{name}bias")
        if weight is not None and bias is not None:
            if weight.shape != head.weight.shape:
                raise WeightsError(
                    f"{source} have a classifier of the shape {tuple(weight.shape)}, wanted is "
                    f"{tuple(head.weight.shape)}. Take their features: --model.extractor_vector features."
                )
            return {"weight": weight.float(), "bias": bias.float()}
    raise WeightsError(
        f"{source} have no classifier, so there are no logits. Take their features: --model.extractor_vector features."
    )


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        if value.is_floating_point():  # not the batches counted by batch normalisation, which some files lack
            digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
