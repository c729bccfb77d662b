"""Aesthetics: is a photograph a professional shot or a snapshot?

`LinearAestheticsTask` is the recommended one: a linear layer, fitted in closed form, on frozen networks.
`AestheticsTask` has AlexNet and VGG16 pretrained on ImageNet with new, narrow dense layers, after F. Rubio, M. Flores
and J. M. Puerta, "Optimización de las técnicas de Transfer Learning para la clasificación de la calidad estética en
fotografía", 2018. Both can predict, as those propose for future work, the distribution of the votes (H. Talebi and
P. Milanfar, "NIMA: neural image assessment", IEEE Transactions on Image Processing, 2018).
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from datamodules.batch import Batch
from ops.errors import TrainingError, WeightsError
from ops.statistics.ridge import Ridge, fit_ridge, fit_softmax
from tasks.base import gathered
from tasks.closed_form import ClosedFormTask
from tasks.judging import Head, JudgingTask
from tasks.metrics.judgements import mean_vote
from tasks.networks.aesthetics import Judge, judge, load_judge
from tasks.networks.linear_judge import LinearJudge, Views


class AestheticsTask(JudgingTask):
    """Judges photographs by trained dense layers on the convolutions of one network, see `JudgingTask`.

    Args:
        network: `alexnet`, `alexnet_torchvision`, `vgg16`, or any network of timm.
        dense_width: Width of the two dense layers; 4096 as published, fewer in the paper.
        head: `binary`, snapshot or professional shot by cross-entropy; or `distribution`, the shares of the votes by
            earth mover's distance.
        bins: The highest vote, for the distribution.
        threshold: Mean vote above which the distribution is a professional shot; null is 5 for ten votes, otherwise
            (1 + bins) / 2. Follows the data's.
        dropout: Dropout rate of the dense layers.
        pretrained: `true` for the library's ImageNet weights, the path of a weights file, or `false` for none.
        freeze_convolutions: Whether to train the dense layers only.
        remember: GiB of memory to cache the outputs of frozen convolutions for images with no augmentation but
            flips; what fits is computed once.
        keep_dense_weights: Whether dense layers of 4096 nodes start from published weights too.
        tta: `flip` averages the probabilities of each image and its mirror image in test and predict.
        optimizer: Builds the optimizer; SGD at 1e-3 in the paper.
        scheduler: Builds the learning-rate schedule; none in the paper.
        pool_side: Height and width that the maps are pooled to before the dense layers; null is 6 (AlexNet) or 7
            (VGG16), as published. 1 leaves the mean of each channel, which trains better on few images.

    Raises:
        ValueError: The network or head is unknown, or a number is out of range.
    """

    network: Judge

    def __init__(
        self,
        network: str = "alexnet_torchvision",
        dense_width: int = 250,
        head: Head = "binary",
        bins: int = 10,
        threshold: float | None = None,
        dropout: float = 0.5,
        pretrained: bool | str = True,
        freeze_convolutions: bool = True,
        remember: float = 4.0,
        keep_dense_weights: bool = False,
        tta: Views = "none",
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        pool_side: int | None = None,
    ) -> None:
        super().__init__(head, bins, threshold, remember, optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.name, self.pretrained, self.keep_dense_weights = network, pretrained, keep_dense_weights
        self.freeze_convolutions, self.tta = freeze_convolutions, tta
        self.network = judge(network, dense_width, self.outputs_count, dropout, pool_side)
        self.network.convolutions.requires_grad_(not freeze_convolutions)
        self.train()  # the trainer keeps the modes of a new task; this one sets that of frozen convolutions

    def load_pretrained(self) -> None:
        """Fills the convolutions, and the dense layers with `keep_dense_weights`.

        Raises:
            WeightsError: The weights are missing or do not fit, or random convolutions would be frozen.
        """
        if self.freeze_convolutions and self.pretrained is False:
            raise WeightsError(
                "freeze_convolutions is true and pretrained is false: the convolutions would stay random noise. Give "
                "--model.pretrained true or the path of a weights file, or --model.freeze_convolutions false."
            )
        load_judge(self.network, self.name, self.pretrained, self.keep_dense_weights)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen convolutions keep their batch statistics."""
        super().train(mode)
        if self.freeze_convolutions:
            self.network.convolutions.eval()
        return self

    @property
    def remembering(self) -> bool:
        """Whether the convolutions are frozen."""
        return self.freeze_convolutions

    @property
    def averages(self) -> bool:
        """Whether `probability` averages over several views of the images, or over several tasks."""
        return super().averages or self.tta != "none"

    def averaged(self, batch: Batch) -> Tensor:
        """Returns this task's probabilities for a batch, averaged over each image and its mirror image with `tta`."""
        found, *mirrored = self.views_apart(batch)
        return (found + mirrored[0]) / 2 if mirrored else found

    def views_apart(self, batch: Batch) -> Iterator[Tensor]:
        yield super().averaged(batch)
        if self.tta != "none":
            yield super().averaged({**batch, "image": batch["image"].flip(3), "name": []})


class LinearAestheticsTask(ClosedFormTask, JudgingTask):
    """Judges photographs by a linear layer on what frozen ImageNet networks see, see `JudgingTask`.

    The layer is fitted before the only epoch, in seconds: ridge regression of the mean vote, or of the shares of the
    votes, with the penalty of the smallest leave-one-out error; then logistic regression turns its left-out predictions
    into probabilities. Validation and the rest of a run are as for any task. Checkpoints contain the frozen networks,
    in half precision, so that they need no other file.

    Args:
        backbones: The frozen networks, and for each `true` for the library's ImageNet weights, or the path of a weights
            file, or `false` for random weights, for tests only. Names are those of
            `tasks.networks.backbones.Stages`: `mobilenet_v2`, `resnet50`, `vgg16`, or any network of timm. Null is
            MobileNetV2 and ResNet-50.
        head: `binary`, snapshot or professional shot; or `distribution`, the shares of the votes.
        bins: The highest vote, for the distribution.
        threshold: Mean vote above which the distribution is a professional shot; null is 5 for ten votes, otherwise
            (1 + bins) / 2. Follows the data's.
        tta: `flip` averages what the networks see in each image and its mirror image, in training too.
        most: Largest number of images to fit on; of more, as many are sampled.
        remember: GiB of memory to cache what the networks see in each image.

    Raises:
        ValueError: A network or the head is unknown, or a number is out of range.
    """

    network: LinearJudge

    def __init__(
        self,
        backbones: dict[str, bool | str] | None = None,
        head: Head = "binary",
        bins: int = 10,
        threshold: float | None = None,
        tta: Views = "flip",
        most: int = 20_000,
        remember: float = 4.0,
    ) -> None:
        self.weights = {"mobilenet_v2": True, "resnet50": True} if backbones is None else backbones
        if not self.weights or most < 2:
            raise ValueError(
                f"backbones is {backbones} and most {most}; expected one network or more, and 2 images or more"
            )
        # without gradients it changes nothing, but counts the steps, by which the trainer numbers checkpoints
        super().__init__(head, bins, threshold, remember, lambda p: torch.optim.SGD(p, lr=0.0), None)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.name, self.most = " + ".join(self.weights), most
        self.network = LinearJudge(list(self.weights), self.outputs_count, tta)

    def load_pretrained(self) -> None:
        """Fills the frozen networks.

        Raises:
            WeightsError: Weights are missing or do not fit.
        """
        try:
            self.network.load(self.weights)
        except WeightsError as error:
            names = ", ".join(f"{name}: {name}.safetensors" for name in self.weights)
            text = str(error).split("--model.pretrained")[0].rstrip()
            raise WeightsError(f"{text} --model.backbones '{{{names}}}'") from error

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits the linear layer on the training images, unless a checkpoint provided it.

        Raises:
            TrainingError: There are fewer than two images.
        """
        if self.network.fitted:
            return
        sample = Sample(self.most)
        trainer = self.attached_trainer()
        limit = getattr(trainer, "limit_train_batches", None)
        self._maps.clear()
        for batch in islice(batches, limit if isinstance(limit, int) else None):
            sample.add(batch["name"], self.flat(batch), batch["votes"], batch["professional"])
        sample.merge(gathered(sample.rows, 1 if trainer is None else trainer.world_size))
        if len(sample.rows) < 2:
            raise TrainingError(f"There are {len(sample.rows)} training images; expected 2 or more to fit on.")
        found: Any = None if trainer is not None and not trainer.is_global_zero else self._fit(sample)
        self.network.fill(*(found if trainer is None else trainer.strategy.broadcast(found)))

    def _fit(self, sample: "Sample") -> tuple[Tensor, ...]:
        """Returns the arguments of `LinearJudge.fill`."""
        features, votes, professional = sample.stacked()
        shares = votes / votes.sum(dim=1, keepdim=True)
        if self.head == "binary":
            targets, of = mean_vote(shares)[:, None], torch.ones(1)
            wanted = F.one_hot(professional.long(), 2)
        elif votes.shape[1] != self.bins:
            raise ValueError(self._other_votes(votes.shape[1]))
        else:
            targets, of, wanted = shares, torch.arange(1.0, self.bins + 1), shares
        ridge = fit_ridge(features, targets, of)
        weight, bias = fit_softmax(ridge.left_out, wanted)
        rank_zero_info(self._report(ridge, targets, of))
        return ridge.mean, ridge.scale, ridge.weight @ weight, ridge.bias @ weight + bias

    def _report(self, ridge: Ridge, targets: Tensor, of: Tensor) -> str:
        found, true = ridge.left_out @ of.double(), targets.double() @ of.double()
        correlation = torch.corrcoef(torch.stack([found, true]))[0, 1]
        return (
            f"Fitted on {len(targets)} training images, {self.network.length} values each: penalty "
            f"{ridge.penalty:.1e}, leave-one-out correlation with the mean votes {correlation:.3f}."
        )


class Sample:
    """Holds vectors of images with their votes: all of them, or of many a sample that depends on their names only.

    Args:
        most: Largest number of images.

    Attributes:
        rows: By a hash of the image's name, its vector, votes and class on the host.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: dict[str, tuple[Tensor, ...]] = {}

    def add(self, names: Iterable[str], *values: Tensor) -> None:
        """Adds images by their names, with values (B, …)."""
        for name, *row in zip(names, *(each.float().cpu() for each in values), strict=True):
            key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
            self.rows[key] = tuple(value.clone() for value in row)  # a view would keep the whole batch
        if len(self.rows) > 2 * self.most:
            self._shrink()

    def merge(self, samples: Iterable[dict[str, tuple[Tensor, ...]]]) -> None:
        """Replaces the rows by those of several processes."""
        self.rows = {key: row for rows in samples for key, row in rows.items()}
        self._shrink()

    def _shrink(self) -> None:
        self.rows = {key: self.rows[key] for key in sorted(self.rows)[: self.most]}

    def stacked(self) -> list[Tensor]:
        """Returns the values (N, …), in an order that depends on the names only."""
        return [torch.stack(values) for values in zip(*self.rows.values(), strict=True)]
