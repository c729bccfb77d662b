"""A linear layer, fitted in closed form, on what frozen networks see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from tasks.networks.backbones import Stages, load_stages

OPTION = "backbones"


class FrozenLinear(nn.Module):
    """Frozen networks and a linear layer on standardized features; subclasses make the features.

    Args:
        names: Names of the networks, see `tasks.networks.backbones.Stages`.
        features: Number of features D.
        outputs: Units of the output.

    Raises:
        ValueError: A network is unknown; the message names the nearest.
    """

    mean: Tensor
    scale: Tensor
    is_fitted: Tensor

    def __init__(self, names: list[str], features: int, outputs: int) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(Stages(name) for name in names)
        self.backbones.requires_grad_(False).eval()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("is_fitted", torch.tensor(False))
        self.output = nn.Linear(features, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def fitted(self) -> bool:
        """Whether `fill` has set the linear layer."""
        return bool(self.is_fitted)

    def load(self, backbones: Mapping[str, bool | str | Path]) -> None:
        """Fills the frozen networks, in half precision, as checkpoints keep them.

        Args:
            backbones: Their weights by name, in the order of the network; see `tasks.networks.backbones.load_stages`.

        Raises:
            WeightsError: Weights are missing or do not fit.
        """
        for stages, (name, weights) in zip(self.backbones, backbones.items(), strict=True):
            assert isinstance(stages, Stages)
            load_stages(stages, name, weights, OPTION)
        for values in self.backbones.state_dict().values():
            values.copy_(half(values))

    @torch.no_grad()
    def fill(self, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Sets the linear layer.

        Args:
            mean: Means of the features (D,).
            scale: What their differences from it are multiplied with, (D,).
            weight: (D, outputs).
            bias: (outputs,).
        """
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.output.weight.copy_(weight.T)
        self.output.bias.copy_(bias)
        self.is_fitted.fill_(True)

    def standard(self, features: Tensor) -> Tensor:
        """Standardizes features (…, D)."""
        return (features - self.mean) * self.scale

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; the frozen networks keep their batch statistics."""
        super().train(mode)
        self.backbones.eval()
        return self


def half(values: Tensor) -> Tensor:
    """Returns weights of layers in half precision, and vectors, such as batch statistics, as they are."""
    return values.half() if values.ndim > 1 and values.is_floating_point() else values
