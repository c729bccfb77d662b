"""The command `features`: writes images as feature vectors, from a network or from plain descriptors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from belvedere.checkpoints import check_fit, read_checkpoint
from belvedere.classifiers import write_classifiers
from callbacks.writers.features import FeatureWriter
from datamodules.base import SPLITS, ImageDataModule
from datamodules.batch import Batch
from datamodules.loaders import EpochLoader
from ops.descriptors import color_moments, gradient_histograms
from ops.errors import ArgumentError
from ops.extras import check_installed
from tasks.base import ImageTask

Vector = Literal["fc6", "fc7", "pooled", "color_moments", "gradient_histograms"]
DESCRIPTORS: dict[str, Callable[[Tensor], Tensor]] = {"color_moments": color_moments,
                                                      "gradient_histograms": gradient_histograms}  # fmt: skip
"""Vectors that need no network."""
DENSE = ("fc6", "fc7")
"""Vectors of layers that are random before training, unless published weights are kept."""


def features(
    task: ImageTask,
    data: ImageDataModule,
    trainer: Trainer,
    folder: Path,
    ckpt_path: str | Path | None = None,
    vectors: list[Vector] | None = None,
    classifiers: bool = True,
) -> None:
    """Writes the images of a dataset as feature vectors, and the metrics of classical classifiers on them.

    Args:
        task: Has the network.
        data: The dataset, or the images of `--data.pictures`.
        trainer: Runs the network; gets a `FeatureWriter`.
        folder: Where to write.
        ckpt_path: A trained network; without one, the convolutions have the weights that training starts from.
        vectors: Which vectors to write; all that a trained network has, otherwise pooled.
        classifiers: Whether to fit classifiers on the training images and test them on the test images.

    Raises:
        ArgumentError: There are no such vectors, or no classifiers can be fitted on them.
        MissingPackageError: Classifiers need scikit-learn, which is not installed.
    """
    if classifiers and data.pictures is None:
        check_installed("sklearn", "Without --classifiers false, features needs")
    trained: list[Vector] = list(getattr(task.network, "vectors", ())) if ckpt_path is not None else []
    module = Features(task, (trained or ["pooled"]) if vectors is None else vectors)
    module.load(ckpt_path)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it without a type
    callbacks.append(FeatureWriter())
    trainer.predict(module, InOrder(data), return_predictions=False)
    if classifiers and data.pictures is None and trainer.is_global_zero:
        try:
            print(write_classifiers(folder / "vectors", seed=data.seed))
        except ValueError as error:
            raise ArgumentError(f"The vectors are written, but no classifiers are fitted: {error}.") from error


class Features(LightningModule):
    """Returns feature vectors of images from `predict_step`.

    After J. Donahue et al., "DeCAF: a deep convolutional activation feature for generic visual recognition", ICML 2014.

    Args:
        task: Its network's `forward_features` maps images (B, 3, H, W) in [0, 1] to vectors (B, V) by name, those that
            its `vectors` lists: `fc6` and `fc7`, after their activation, and `pooled`, the mean of the last convolution
            over the image, or the mean and standard deviation of every stage.
        vectors: Which of them, and of the descriptors in `ops.descriptors`, to compute; at least one.

    Raises:
        ArgumentError: `vectors` is empty, or the task's network has none.
    """

    def __init__(self, task: ImageTask, vectors: Sequence[Vector]) -> None:
        super().__init__()
        self.task, self.vectors = task, list(dict.fromkeys(vectors))
        if not self.vectors:
            raise ArgumentError("--vectors is empty; expected at least one, such as '[fc7]'.")
        if self.needs_network and not hasattr(getattr(task, "network", None), "forward_features"):
            raise ArgumentError(
                f"{type(task).__name__} has no dense layers to take features from. Use a task that has, such as "
                f"AestheticsTask, or --vectors '[{','.join(DESCRIPTORS)}]'."
            )
        missing = [name for name in self.vectors if name not in (*DESCRIPTORS, *self.own_vectors)]
        if missing:
            raise ArgumentError(
                f"The network has no vectors {', '.join(missing)}; it has {', '.join(self.own_vectors)}. Use --vectors "
                f"'[{','.join(self.own_vectors)}]'."
            )

    @property
    def own_vectors(self) -> Sequence[str]:
        """Names of the vectors that the network has."""
        return getattr(self.task.network, "vectors", ()) if self.needs_network else ()

    @property
    def needs_network(self) -> bool:
        """Whether any of the vectors is the network's."""
        return any(name not in DESCRIPTORS for name in self.vectors)

    def load(self, checkpoint: str | Path | None) -> None:
        """Loads a checkpoint's weights, or without one the weights that training starts from.

        Raises:
            ArgumentError: The checkpoint does not fit, or there is none and the dense layers would be random.
            WeightsError: The weights that training starts from are not available or do not fit.
        """
        if not self.needs_network:
            return
        if checkpoint is not None:
            check_fit(Path(checkpoint), self.task.state_dict(), self.task.optional_keys)
            self.task.load_state_dict(read_checkpoint(Path(checkpoint))["state_dict"])
        elif any(name in DENSE for name in self.vectors) and not self.task.hparams.get("keep_dense_weights"):
            raise ArgumentError(
                f"{' and '.join(name for name in self.vectors if name in DENSE)} would be random: the dense layers are "
                "not trained. Give a trained network, --ckpt_path runs/…/checkpoints/best.ckpt, use --vectors "
                "'[pooled]', or keep published weights: --model.keep_dense_weights true."
            )
        else:
            self.task.load_pretrained()

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_index: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Returns vectors (B, V) float32 by name, in the order of `vectors`."""
        task: Any = self.task
        found: dict[str, Tensor] = task.network.forward_features(batch["image"]) if self.needs_network else {}
        made = {name: found[name] if name in found else DESCRIPTORS[name](batch["image"]) for name in self.vectors}
        return {name: vectors.flatten(1).float() for name, vectors in made.items()}


class InOrder(LightningDataModule):
    """Gives a trainer's `predict` all splits of a dataset, one after the other, or the images to predict.

    Training images are read like validation images: each once, in the order of their names, without augmentation.

    Args:
        data: The dataset. If it has `pictures`, only those are read.

    Attributes:
        splits: The splits, in the order of the loaders.
    """

    def __init__(self, data: ImageDataModule) -> None:
        super().__init__()
        self.data = data
        self.splits: list[str] = [] if data.pictures is None else ["predict"]

    def prepare_data(self) -> None:
        if self.data.pictures is None:
            self.data.prepare_data()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        if self.data.pictures is not None:
            self.data.setup("predict")
            return
        for needed in ("fit", "test"):
            self.data.setup(needed)
        self.splits = [split for split in SPLITS if self.data.datasets.get(split)]

    def predict_dataloader(self) -> list[EpochLoader]:
        """Returns a loader for each split."""
        if self.splits == ["predict"]:
            return [self.data.predict_dataloader()]
        return [self.data.loader(split) for split in self.splits]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Adds the `split` of the batch."""
        return {**self.data.on_after_batch_transfer(batch, dataloader_index), "split": self.splits[dataloader_index]}
