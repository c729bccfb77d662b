"""Calibrated probabilities: log-odds divided by a temperature."""

from typing import Any

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """Divides log-odds by a temperature of each class, 1 unless it was fitted.

    Above 1, probabilities come closer to one half (C. Guo et al., "On calibration of modern neural networks", ICML
    2017). `belvedere pool` fits it on images that the networks were not trained on; the checkpoint keeps it.

    Args:
        classes: Number K of classes.
    """

    values: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(classes))
        self.active = False  # known to the host: exported graphs may not depend on values
        self.register_load_state_dict_pre_hook(_add_missing)  # type: ignore[no-untyped-call]  # untyped in torch
        self.register_load_state_dict_post_hook(_see)  # type: ignore[no-untyped-call]  # untyped in torch

    def set(self, values: Tensor) -> None:
        """Sets the temperatures (K,)."""
        self.values.copy_(values)
        _see(self)

    def forward(self, probability: Tensor) -> Tensor:
        """Returns calibrated probabilities, for (B, K, …) or with a single temperature for any shape."""
        if not self.active:
            return probability
        values = self.values if len(self.values) == 1 else self.values.view(-1, *(1,) * (probability.ndim - 2))
        probability = probability.float()
        odds = probability.log() - (-probability).log1p()  # minus and plus infinity for 0 and 1, which stay
        return (odds / values).sigmoid()


def _add_missing(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Adds the temperatures that a checkpoint of an earlier version lacks."""
    assert isinstance(module, Temperature)
    state.setdefault(f"{prefix}values", torch.ones_like(module.values))


def _see(module: nn.Module, keys: Any = None) -> None:
    assert isinstance(module, Temperature)
    module.active = not module.values.is_meta and bool((module.values != 1).any())
