"""Tasks whose only trained layer is fitted in closed form, before an epoch that trains nothing."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batch import Batch
from ops.errors import TrainingError
from tasks.base import ImageTask
from tasks.networks.frozen_linear import half


class ClosedFormTask(ImageTask):
    """Part of a task whose `prepare` fits `network`, a `tasks.networks.frozen_linear.FrozenLinear`."""

    network: Any

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the frozen networks in half precision, which `load_pretrained` has rounded them to."""
        super().on_save_checkpoint(checkpoint)
        weights = checkpoint["state_dict"]
        frozen = {key: half(value) for key, value in weights.items() if key.startswith("network.backbones.")}
        checkpoint["state_dict"] = {**weights, **frozen}

    def on_fit_start(self) -> None:
        """Checks that the linear layer is fitted.

        Raises:
            TrainingError: It is not.
        """
        super().on_fit_start()
        if not self.network.fitted:
            raise TrainingError(
                "The linear layer is not fitted. Add callbacks.handover.Handover(data) to the trainer's callbacks."
            )

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Returns the loss of a training batch; nothing is left to train."""
        loss = super().training_step(batch, batch_index)
        optimizer: Any = self.optimizers()
        optimizer.step()
        return loss
