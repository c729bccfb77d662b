"""Pictures as vectors: what a task's network says of them before its output, and plain descriptors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from belvedere.checkpoints import check_fit, read_checkpoint
from datamodules.base import SPLITS, ImageDataModule
from datamodules.loaders import EpochLoader
from ops.descriptors import color_moments, gradient_histograms
from ops.errors import ArgumentError
from tasks.base import Batch, ImageTask

Vector = Literal["fc6", "fc7", "pooled", "color_moments", "gradient_histograms"]
DESCRIPTORS: dict[str, Callable[[Tensor], Tensor]] = {"color_moments": color_moments,
                                                      "gradient_histograms": gradient_histograms}  # fmt: skip
"""What needs no network."""
DENSE = ("fc6", "fc7")
"""What training fills; before it these layers are as they were drawn, unless published weights are kept."""


class Features(LightningModule):
    """Vectors of pictures, for a trainer's `predict`: what a network says of them, and descriptors.

    After J. Donahue et al., "DeCAF: a deep convolutional activation feature for generic visual recognition", ICML 2014.

    Args:
        task: Its network's `forward_features` maps pictures (B, 3, H, W) in [0, 1] to vectors (B, V) by name: `fc6` and
            `fc7`, after their activation, and `pooled`, the convolutions' mean over the picture.
        vectors: Which of them and of the descriptors of `ops.descriptors` are made, at least one.

    Raises:
        ArgumentError: There are none to make, or the task's network gives no vectors.
    """

    def __init__(self, task: ImageTask, vectors: Sequence[Vector]) -> None:
        super().__init__()
        self.task, self.vectors = task, list(dict.fromkeys(vectors))
        if not self.vectors:
            raise ArgumentError("--vectors is empty; wanted is at least one, such as '[fc7]'.")
        if self.asks_network and not hasattr(getattr(task, "network", None), "forward_features"):
            raise ArgumentError(
                f"{type(task).__name__} has no dense layers to take features of. Wanted is a task that has, such as "
                f"AestheticsTask, or --vectors '[{','.join(DESCRIPTORS)}]'."
            )

    @property
    def asks_network(self) -> bool:
        """Whether any of the vectors is the network's."""
        return any(name not in DESCRIPTORS for name in self.vectors)

    def load(self, checkpoint: str | Path | None) -> None:
        """Fills the network with the weights of a checkpoint, or else with those that training starts from.

        Raises:
            ArgumentError: The checkpoint does not fit, or there is none and the dense layers would be as drawn.
            WeightsError: The weights that training starts from cannot be had or do not fit.
        """
        if checkpoint is not None:
            check_fit(Path(checkpoint), self.task.state_dict())
            self.task.load_state_dict(read_checkpoint(Path(checkpoint))["state_dict"])
        elif any(name in DENSE for name in self.vectors) and not self.task.hparams.get("keep_dense_weights"):
            raise ArgumentError(
                f"{' and '.join(name for name in self.vectors if name in DENSE)} would be random: the dense layers are "
                "not trained. Give a trained network, --ckpt_path runs/…/checkpoints/best.ckpt, or take --vectors "
                "'[pooled]', or keep published ones: --model.keep_dense_weights true."
            )
        elif self.asks_network:
            self.task.load_pretrained()

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_index: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Vectors (B, V) float32 by name, in the order in which they were asked for."""
        task: Any = self.task
        found: dict[str, Tensor] = task.network.forward_features(batch["image"]) if self.asks_network else {}
        made = {name: found[name] if name in found else DESCRIPTORS[name](batch["image"]) for name in self.vectors}
        return {name: vectors.flatten(1).float() for name, vectors in made.items()}


class InOrder(LightningDataModule):
    """Lets a trainer's `predict` see all splits of a data set, one after the other, or the pictures to predict.

    The training pictures come as the validation pictures do: each once, in the order of their names, whole batches or
    not, and without augmentation.

    Args:
        data: The data set. Where it has `pictures`, only these are seen.

    Attributes:
        splits: Which splits are seen, in the order of the loaders.
    """

    def __init__(self, data: ImageDataModule) -> None:
        super().__init__()
        self.data = data
        self.splits: list[str] = [] if data.pictures is None else ["predict"]

    def prepare_data(self) -> None:
        """What the data set does once on each machine."""
        if self.data.pictures is None:
            self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Makes the data sets."""
        self.data.trainer = self.trainer
        if self.data.pictures is not None:
            self.data.setup("predict")
            return
        for needed in ("fit", "test"):
            self.data.setup(needed)
        self.splits = [split for split in SPLITS if self.data.datasets.get(split)]

    def predict_dataloader(self) -> list[EpochLoader]:
        """A loader a split."""
        if self.splits == ["predict"]:
            return [self.data.predict_dataloader()]
        for split in self.splits:  # under its own name `train` would be shuffled, and lack a last picture
            self.data.datasets[f"{split}, in order"] = self.data.datasets[split]
        return [self.data._loader(f"{split}, in order") for split in self.splits]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """What the data set does on the device, and the `split` of the batch."""
        return {**self.data.on_after_batch_transfer(batch, dataloader_index), "split": self.splits[dataloader_index]}
