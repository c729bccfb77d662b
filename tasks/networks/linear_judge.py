"""Rates photos by a linear layer on the pooled maps of frozen networks."""

from typing import Literal

import torch
from torch import Tensor

from tasks.networks.backbones import Stages
from tasks.networks.frozen_linear import FrozenLinear

Views = Literal["none", "flip"]
SMALLEST = 32  # pixels a side


class LinearJudge(FrozenLinear):
    """Rates images by one linear layer on what frozen networks see in them.

    The vector of an image has, for every stage of every network, the mean and the standard deviation of each channel;
    networks whose last layer sees something else, such as a class token, add that.

    Args:
        names: Names of the networks, see `tasks.networks.backbones.Stages`.
        outputs: Units of the output.
        tta: `flip` averages the vectors of each image and its mirror image.

    Attributes:
        length: Length D of the vectors.
        sides: Height and width of the smallest and the largest image, in pixels.
        vectors: Names of the vectors that `forward_features` returns.

    Raises:
        ValueError: A network is unknown; the message names the nearest.
    """

    vectors = ("pooled",)

    def __init__(self, names: list[str], outputs: int, tta: Views = "flip") -> None:
        self.length = sum(map(_length, names))
        super().__init__(names, self.length, outputs)
        self.tta = tta
        self.sides = SMALLEST, float("inf")

    @torch.no_grad()
    def flat(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to vectors (B, D) in float32.

        Mixed precision is off: the linear layer, which is fitted on these vectors, must see the same ones later.

        Raises:
            ValueError: The images are too small.
        """
        if min(image.shape[-2:]) < self.sides[0]:
            raise ValueError(
                f"expected images of {self.sides[0]} pixels a side or more, got {tuple(image.shape[-2:])}; set "
                "--data.size"
            )
        with torch.autocast(image.device.type, enabled=False):
            image = image.float()
            vectors = self._seen(image)
            return vectors if self.tta == "none" else (vectors + self._seen(image.flip(3))) / 2

    def _seen(self, image: Tensor) -> Tensor:
        return torch.cat([pooled(*stages(image)) for stages in self.backbones], dim=1)

    def dense(self, vectors: Tensor) -> Tensor:
        """Maps vectors (B, D) to logits (B, outputs) in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            logits: Tensor = self.output(self.standard(vectors))
            return logits

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits (B, outputs)."""
        return self.dense(self.flat(image))

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        """Maps images (B, 3, H, W) in [0, 1] to their vectors: `pooled` (B, D)."""
        return {"pooled": self.flat(image)}


def pooled(maps: list[Tensor], vectors: list[Tensor]) -> Tensor:
    """Returns the mean and the standard deviation of each channel of maps (B, C, h, w), then the vectors; (B, D)."""
    found = []
    for each in maps:
        deviation, mean = torch.std_mean(each, dim=(2, 3), correction=0)
        found += [mean, deviation]
    return torch.cat([*found, *vectors], dim=1)


def _length(name: str) -> int:
    """Returns the length of a network's vectors; nothing is computed or allocated."""
    with torch.device("meta"):
        return pooled(*Stages(name).eval()(torch.zeros(1, 3, 224, 224))).shape[1]
