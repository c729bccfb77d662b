"""What all tasks share that judge photographs: metrics, probabilities and checks; the networks are the subclasses'."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from ops.errors import ArgumentError
from tasks.base import ImageTask, check_images
from tasks.calibration import Temperature
from tasks.losses import emd_loss
from tasks.metrics.judgements import JudgementScores, VoteScores, judgement_of_mean, mean_vote, vote_spread
from tasks.metrics.meter import Meter, Step
from tasks.networks.aesthetics import Judge
from tasks.networks.linear_judge import LinearJudge
from tasks.remembered import Remembered

Head = Literal["binary", "distribution"]


class JudgingTask(ImageTask):
    """Distinguishes professional shots from snapshots, or predicts how people would vote.

    Headline metric: `val/balanced_accuracy`. Subclasses set `network` and `name`.

    Args:
        head: `binary`, snapshot or professional shot; or `distribution`, the shares of the votes.
        bins: The highest vote, for the distribution.
        threshold: Mean vote above which the distribution is a professional shot; null is 5 for ten votes, otherwise
            (1 + bins) / 2. Follows the data's.
        remember: GiB of memory to cache the outputs of frozen layers for images with no augmentation but flips.
        optimizer: Builds the optimizer.
        scheduler: Builds the learning-rate schedule.

    Raises:
        ValueError: The head is unknown, or a number is out of range.
    """

    headline = "balanced_accuracy"
    optional_keys = ("temperature.values",)
    baselines = ("majority",)
    name: str
    """The network's name, for messages."""
    network: Judge | LinearJudge

    def __init__(
        self,
        head: Head,
        bins: int,
        threshold: float | None,
        remember: float,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
    ) -> None:
        limit = (5.0 if bins == 10 else (1 + bins) / 2) if threshold is None else threshold
        if head not in ("binary", "distribution") or (head == "distribution" and not 1 < limit < bins):
            raise ValueError(
                f"head is {head!r}, bins {bins} and threshold {limit:g}; expected binary or distribution, 2 or more, "
                "and a number between the lowest and the highest vote"
            )
        self.head, self.bins, self.threshold = head, bins, limit
        super().__init__(optimizer, scheduler)
        self.outputs_count = 2 if head == "binary" else bins
        self._maps = Remembered(remember)
        self.temperature = Temperature(1)

    def build_metrics(self, tags: Sequence[str] = ()) -> dict[str, Metric]:
        """Returns metrics of judgements, of all images and of each tag, and of the votes if they are predicted."""
        votes: dict[str, Metric] = {"votes": VoteScores()} if self.head == "distribution" else {}
        return {"judgement": JudgementScores(tags), **votes}

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

    def predicts(self) -> str:
        """Describes what the probabilities are of: the head, and the votes of a distribution."""
        votes = f", bins {self.bins} and threshold {self.threshold:g}" if self.head == "distribution" else ""
        return f"{type(self).__name__} with head {self.head}{votes}"

    def on_fit_start(self) -> None:
        """Forgets the outputs of an earlier training, and its temperature."""
        self._maps.clear()
        self.temperature.set(torch.ones(1))

    def on_test_start(self) -> None:
        """Makes metrics for every tag and style of the test images."""
        self.meters["test_meter"] = Meter(self.build_metrics(self.facts.tags)).to(self.device)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits, see `outputs`."""
        logits: Tensor = self.network(image)
        return logits

    def outputs(self, batch: Batch) -> Tensor:
        """Returns logits (B, 2), snapshot and professional shot, or (B, V), one per vote."""
        logits: Tensor = self.network.dense(self.flat(batch))
        return logits

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns logits into the probabilities of both classes, or the shares of the votes; float32."""
        return outputs.float().softmax(dim=1)

    def vectors(self, image: Tensor) -> Tensor:
        """Returns what the convolutions see in images (B, 3, H, W) in [0, 1]: vectors (B, V)."""
        return self.network.forward_features(image)["pooled"]

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
        shares = self.measured(batch, logits)
        return Step(loss, self.judgement(shares), target, shares, votes=votes, tags=batch.get("tags"))

    def _other_votes(self, bins: int | None) -> str:
        return (
            f"The data have votes 1 to {bins}, the network has votes 1 to {self.bins}. To train for these data, set "
            f"--model.bins {bins}."
        )

    def flat(self, batch: Batch) -> Tensor:
        """Returns the input of the dense layers; training remembers it for images with no augmentation but flips.

        Of an image that may be mirrored, both views are computed when it is new: batches stay as large in a resumed run
        as they were, and so do all bits.
        """
        names = batch.get("name", [])
        if self.remembering and self.fitting and names and "altered" not in batch:
            if "mirrored" not in batch:
                return self._maps(names, batch["image"], self.network.flat)
            mirrored, keys = batch["mirrored"], [(name, "both views") for name in names]
            if not self._maps.takes(keys):
                return self.network.flat(batch["image"])
            loaded = torch.where(mirrored[:, None, None, None], batch["image"].flip(3), batch["image"])
            views = self._maps(keys, loaded, self._both_views)
            return views[torch.arange(len(names), device=views.device), mirrored.long()]
        return self.network.flat(batch["image"])

    def _both_views(self, image: Tensor) -> Tensor:
        """Returns what the dense layers see in images and in their mirror images, (B, 2, F)."""
        return torch.stack([self.network.flat(image), self.network.flat(image.flip(3))], dim=1)

    @property
    def remembering(self) -> bool:
        """Whether the layers before the dense ones are frozen, so that their outputs can be remembered."""
        return True

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Judges images.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1].

        Returns:
            `probability` (B,) that an image is a professional shot; for a distribution also the `mean` (B,) of its
            votes and their standard deviation, `spread` (B,).
        """
        check_images(batch)
        found = self.judged(batch)
        del found["shares"]
        return found

    def exported(self) -> Callable[[Batch], dict[str, Tensor]]:
        return self.judged

    def judged(self, batch: Batch) -> dict[str, Tensor]:
        """Returns what `predict` returns, and `shares` (B, V): of both classes, or of the votes."""
        shares = self.probability(batch)
        found = {"probability": self.judgement(shares), "shares": shares}
        if self.head == "distribution":
            found |= {"mean": mean_vote(shares), "spread": vote_spread(shares)}
        return found

    def share_temperature(self, other: ImageTask) -> None:
        assert isinstance(other, JudgingTask)
        self.temperature.set(other.temperature.values)

    def calibrated(self, probability: Tensor) -> Tensor:
        """Returns the probabilities of both classes at the temperature; shares of votes as they are."""
        if self.head != "binary" or not self.temperature.active:
            return probability
        professional = self.temperature(probability[:, 1])
        return torch.stack([1 - professional, professional], dim=1)

    def judgement(self, shares: Tensor) -> Tensor:
        """Returns the probability (B,) of professional shots, from what `probability` returns."""
        if self.head == "binary":
            return shares[:, 1]
        found: Tensor = self.temperature(judgement_of_mean(mean_vote(shares), self.threshold, self.bins))
        return found
