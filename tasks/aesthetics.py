"""Aesthetics: is a photograph a professional shot or a snapshot?

After F. Rubio, M. J. Flores and J. M. Puerta, "Optimización de las técnicas de Transfer Learning para la clasificación
de la calidad estética en fotografía", 2018: AlexNet and VGG16 pretrained on ImageNet, with new, narrow
dense layers; and, as they propose for future work, the distribution of the votes (H. Talebi and P. Milanfar, "NIMA:
neural image assessment", IEEE Transactions on Image Processing, 2018).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from ops.errors import ArgumentError, WeightsError
from tasks.base import ImageTask
from tasks.losses import emd_loss
from tasks.metrics.judgements import JudgementScores, VoteScores, judgement_of_mean, mean_vote, vote_spread
from tasks.metrics.meter import Meter, Step
from tasks.networks.aesthetics import judge, load_judge
from tasks.remembered import Remembered


class AestheticsTask(ImageTask):
    """Distinguishes professional shots from snapshots, or predicts how people would vote.

    Headline metric: `val/balanced_accuracy`.

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
        remember: GiB of memory to cache the outputs of frozen convolutions for images that are not augmented; what fits
            is computed in the first epoch only.
        keep_dense_weights: Whether dense layers of 4096 nodes start from published weights too.
        optimizer: Builds the optimizer; SGD at 1e-3 in the paper.
        scheduler: Builds the learning-rate schedule; none in the paper.

    Raises:
        ValueError: The network or head is unknown, or a number is out of range.
    """

    headline = "balanced_accuracy"
    baselines = ("majority",)

    def __init__(
        self,
        network: str = "alexnet_torchvision",
        dense_width: int = 250,
        head: Literal["binary", "distribution"] = "binary",
        bins: int = 10,
        threshold: float | None = None,
        dropout: float = 0.5,
        pretrained: bool | str = True,
        freeze_convolutions: bool = True,
        remember: float = 4.0,
        keep_dense_weights: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        limit = (5.0 if bins == 10 else (1 + bins) / 2) if threshold is None else threshold
        if head not in ("binary", "distribution") or (head == "distribution" and not 1 < limit < bins):
            raise ValueError(
                f"head is {head!r}, bins {bins} and threshold {limit:g}; expected binary or distribution, 2 or more, "
                "and a number between the lowest and the highest vote"
            )
        self.head, self.bins, self.threshold = head, bins, limit
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.name, self.pretrained, self.keep_dense_weights = network, pretrained, keep_dense_weights
        self.freeze_convolutions = freeze_convolutions
        self.network = judge(network, dense_width, 2 if head == "binary" else bins, dropout)
        self.network.convolutions.requires_grad_(not freeze_convolutions)
        self._maps = Remembered(remember)
        self.train()  # the trainer keeps the modes of a new task; this one sets that of frozen convolutions

    def build_metrics(self, tags: Sequence[str] = ()) -> dict[str, Metric]:
        """Returns metrics of judgements, of all images and of each tag, and of the votes if they are predicted."""
        votes: dict[str, Metric] = {"votes": VoteScores()} if self.head == "distribution" else {}
        return {"judgement": JudgementScores(tags), **votes}

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

    def receive(self, facts: DataFacts) -> None:
        """Checks that the network takes such images and votes.

        Raises:
            ArgumentError: It does not take images of this size, or has outputs for other votes or another threshold.
        """
        super().receive(facts)
        least, most = self.network.sides
        for side in facts.size or ():
            if not least <= side <= most:
                sides = (
                    f"{least}" if least == most else f"{least} or more" if most == math.inf else f"{least} to {most}"
                )
                raise ArgumentError(f"--data.size is {side}; {self.name} takes images of {sides} pixels a side.")
        bins, threshold = facts.vote_scale
        if self.head == "distribution" and bins not in (None, self.bins):
            raise ArgumentError(self._other_votes(bins))
        stated = self.head == "distribution" or self.hparams["threshold"] is not None
        if stated and threshold not in (None, self.threshold):
            raise ArgumentError(
                f"The data's threshold is {threshold:g}, the model's is {self.threshold:g}: --model.threshold follows "
                "the data, give --data.threshold."
            )

    def on_fit_start(self) -> None:
        """Forgets the convolutions' outputs of an earlier training."""
        self._maps.clear()

    def on_test_start(self) -> None:
        """Makes metrics for every tag and style of the test images."""
        self.meters["test_meter"] = Meter(self.build_metrics(self.facts.tags)).to(self.device)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen convolutions keep their batch statistics."""
        super().train(mode)
        if self.freeze_convolutions:
            self.network.convolutions.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits, see `outputs`."""
        logits: Tensor = self.network(image)
        return logits

    def outputs(self, batch: Batch) -> Tensor:
        """Returns logits (B, 2), snapshot and professional shot, or (B, V), one per vote."""
        logits: Tensor = self.network.dense(self._flat(batch))
        return logits

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns logits into the probabilities of both classes, or the shares of the votes; float32."""
        return outputs.float().softmax(dim=1)

    def step(self, batch: Batch) -> Step:
        """Returns the loss and the probabilities of professional shots.

        Raises:
            ValueError: The batch has another number of votes than the network.
        """
        logits, target, votes = self.outputs(batch), batch["professional"], batch["votes"]
        if self.head == "binary":
            loss = F.cross_entropy(logits.float(), target.long())
        elif votes.shape[1] == self.bins:
            loss = emd_loss(self.activate(logits, batch), votes)
        else:
            raise ValueError(self._other_votes(votes.shape[1]))
        shares = self.probability(batch, logits.detach())
        return Step(loss, self._judgement(shares), target, shares, votes=votes, tags=batch.get("tags"))

    def _other_votes(self, bins: int | None) -> str:
        return (
            f"The data have votes 1 to {bins}, the network has votes 1 to {self.bins}. Train one for these data: "
            f"--model.bins {bins}."
        )

    def _flat(self, batch: Batch) -> Tensor:
        """Returns the input of the dense layers; training remembers it where it is the same in every epoch."""
        names = batch.get("name", [])
        if self.freeze_convolutions and self.fitting and names and "altered" not in batch:
            return self._maps(names, batch["image"], self.network.flat)
        return self.network.flat(batch["image"])

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Judges images.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1].

        Returns:
            `probability` (B,) that an image is a professional shot; for a distribution also the `mean` (B,) of its
            votes and their standard deviation, `spread` (B,).
        """
        shares = self.probability(batch)
        found = {"probability": self._judgement(shares)}
        if self.head == "distribution":
            found |= {"mean": mean_vote(shares), "spread": vote_spread(shares)}
        return found

    def _judgement(self, shares: Tensor) -> Tensor:
        if self.head == "binary":
            return shares[:, 1]
        return judgement_of_mean(mean_vote(shares), self.threshold, self.bins)
