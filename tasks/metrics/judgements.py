"""Metrics of judgements and of predicted votes over a whole dataset.

The area under the curve and the correlations need all images at once, so a few float32 values per image are kept: some
megabytes for 250,000 images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tasks.losses import earth_movers_distance


class JudgementScores(Metric):
    """Metrics of the probability that an image is a professional shot; above one half it is judged to be one.

    - `accuracy`: share of the images that are judged correctly
    - `balanced_accuracy`: the mean of the accuracies among professional shots and among snapshots; if one kind is
      missing, the accuracy among the other
    - `auc`: area under the receiver operating characteristic, that is, the probability that a professional shot
      ranks above a snapshot, where ties count one half; nan if either kind is missing
    - `majority`: the baseline for `accuracy`: the accuracy of always choosing the more frequent kind
    - `<metric>@<tag in lower case>`: each of them among the images of a tag or style, with `_` for spaces. Tags without
      images are skipped.

    The others are 0 without images.

    Args:
        tags: Names of tags, the same and in the same order in all processes.

    Raises:
        ValueError: Two tags would have metrics of the same name.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    probabilities: list[Tensor]
    truths: list[Tensor]
    members: list[Tensor]

    def __init__(self, tags: Sequence[str] = ()) -> None:
        super().__init__()
        self.tags = tuple(tags)
        self.endings = ["@" + "_".join(tag.lower().split()) for tag in tags]
        if len(set(self.endings)) < len(tags):
            raise ValueError(
                f"two of the tags {', '.join(map(repr, tags))} differ at most in case and spaces; expected a "
                "different name for every tag: rename one, or spell both alike"
            )
        for state in ("probabilities", "truths", "members"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, tags: Sequence[Sequence[str]] | None = None) -> None:
        """Adds a batch.

        Args:
            prediction: Probabilities in [0, 1], (B,). NaN counts as 0.
            target: 1 for professional shots and 0 for snapshots, (B,).
            tags: Names of each image's tags, none by default. Unknown tags are ignored.

        Raises:
            ValueError: The shapes are not one (B,), or tags are missing for some images.
        """
        if prediction.ndim != 1 or prediction.shape != target.shape:
            raise ValueError(
                f"prediction is {tuple(prediction.shape)} and target is {tuple(target.shape)}; expected one shape "
                "(B,) for both: the probability that each image is a professional shot, and whether it is"
            )
        tags = [()] * len(prediction) if tags is None else tags
        if len(tags) != len(prediction):
            raise ValueError(f"tags are of {len(tags)} images, there are {len(prediction)}; expected a list for each")
        members = [tag in found for found in tags for tag in self.tags]
        self.probabilities.append(prediction.detach().float().nan_to_num(0))
        self.truths.append(target.float())
        # flat: torchmetrics gathers one-dimensional lists if a process had no image
        self.members.append(torch.tensor(members, dtype=torch.float32, device=prediction.device))

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics in [0, 1] by name, each a scalar; `auc` may be nan."""
        probabilities, truths = _whole(self.probabilities), _whole(self.truths) > 0.5
        members = _whole(self.members).view(len(truths), len(self.tags)) > 0.5
        scores = _judgement_scores(probabilities, truths)
        for ending, chosen in zip(self.endings, members.T, strict=True):
            if chosen.any():
                scores |= _judgement_scores(probabilities[chosen], truths[chosen], ending)
        return _scalars(scores, self.device)


class VoteScores(Metric):
    """Metrics of predicted shares of the votes.

    - `srcc`: Spearman's rank correlation of the mean votes, ties with their mean rank
    - `plcc`: Pearson's linear correlation of the mean votes
    - `emd`: mean earth mover's distance with r = 1, as published: the mean difference of the cumulative shares over the
      K votes; for ten votes 0.05 is good
    - `emd2`: the same with r = 2, the training loss

    A correlation is 0 if all true or all predicted mean votes are equal. All metrics are 0 without images. Lower values
    of `emd` and `emd2` are better.
    """

    is_differentiable = False
    full_state_update = False
    predicted: list[Tensor]
    true: list[Tensor]
    distances: list[Tensor]
    squared_distances: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("predicted", "true", "distances", "squared_distances"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, probability: Tensor, votes: Tensor) -> None:
        """Adds a batch.

        Args:
            probability: Predicted shares of the votes 1 to K, (B, K), summing to 1.
            votes: True counts or shares, (B, K), at least one vote per image.

        Raises:
            ValueError: The shapes are not one (B, K).
        """
        shares = probability.detach().float()
        self.distances.append(earth_movers_distance(shares, votes, r=1))
        self.squared_distances.append(earth_movers_distance(shares, votes, r=2))
        self.predicted.append(mean_vote(shares))
        self.true.append(mean_vote(votes))

    def compute(self) -> dict[str, Tensor]:
        """Returns metrics by name, each a scalar: correlations in [-1, 1], distances in [0, 1]."""
        predicted, true = _whole(self.predicted).double(), _whole(self.true).double()
        scores = {"srcc": _correlation(_ranks(predicted), _ranks(true)), "plcc": _correlation(predicted, true)}
        for name, distances in {"emd": self.distances, "emd2": self.squared_distances}.items():
            whole = _whole(distances).double()
            scores[name] = whole.sum().item() / max(1, len(whole))
        return _scalars(scores, self.device)


def mean_vote(votes: Tensor) -> Tensor:
    """Returns the mean of the votes 1 to K, float32 (B,), from their counts or shares (B, K)."""
    # summed before the division, so that equal means are ties however many people voted
    return (votes.float() * _scale(votes)).sum(dim=1) / votes.float().sum(dim=1)


def vote_spread(votes: Tensor) -> Tensor:
    """Returns the standard deviation of the votes 1 to K, float32 (B,), from their counts or shares (B, K)."""
    squares = (_scale(votes) - mean_vote(votes).unsqueeze(1)).square()
    return ((votes.float() * squares).sum(dim=1) / votes.float().sum(dim=1)).sqrt()


def judgement_of_mean(mean: Tensor, threshold: float, bins: int) -> Tensor:
    """Maps mean votes to [0, 1] in the place of a probability: 1/2 at the threshold, 0 and 1 at the ends.

    Linear between, so that the order of the images stays, and values above one half mean votes above the threshold.

    Args:
        mean: Mean votes in [1, K], (B,).
        threshold: Above it an image is a professional shot.
        bins: The highest vote K.

    Raises:
        ValueError: The threshold is not between 1 and K.
    """
    if not 1 < threshold < bins:
        raise ValueError(
            f"threshold is {threshold}; expected a number between 1 and {bins}, the lowest and the highest vote"
        )
    above = mean - threshold
    return (0.5 + above / 2 / torch.where(above > 0, bins - threshold, threshold - 1)).clamp(0, 1)


def _scale(votes: Tensor) -> Tensor:
    return torch.arange(1, votes.shape[1] + 1, dtype=torch.float32, device=votes.device)


def _judgement_scores(probability: Tensor, professional: Tensor, ending: str = "") -> dict[str, float]:
    right = (probability > 0.5) == professional
    shares = [right[chosen].double().mean().item() for chosen in (professional, ~professional) if chosen.any()]
    scores = {
        "accuracy": right.sum().item() / max(1, len(right)),
        "balanced_accuracy": sum(shares) / max(1, len(shares)),
        "auc": _area(probability, professional),
        "majority": max(professional.sum().item(), (~professional).sum().item()) / max(1, len(right)),
    }
    return {name + ending: value for name, value in scores.items()}


def _area(probability: Tensor, professional: Tensor) -> float:
    """Returns the area under the ROC curve: Mann and Whitney's U over the pairs, in integers; nan without pairs."""
    levels, places = torch.unique(probability, return_inverse=True)
    above, below = (torch.bincount(places[chosen], minlength=len(levels)) for chosen in (professional, ~professional))
    pairs = int(above.sum() * below.sum())
    halves = int((above * (2 * below.cumsum(0) - below)).sum())  # 2 for each pair in order, 1 for each tie
    return halves / (2 * pairs) if pairs else math.nan


def _ranks(values: Tensor) -> Tensor:
    """Returns ranks from 1, equal values with their mean rank."""
    _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return ranks[places]


def _correlation(first: Tensor, second: Tensor) -> float:
    """Returns Pearson's correlation; 0 if either is constant."""
    if len(first) == 0 or (first == first[0]).all() or (second == second[0]).all():
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    return float((first @ second / (first.norm() * second.norm())).clamp(-1, 1))


def _whole(state: list[Tensor] | Tensor) -> Tensor:
    """Returns a list state as one tensor on the CPU, because not every device has float64."""
    return dim_zero_cat(state).cpu() if len(state) else torch.zeros(0)


def _scalars(scores: dict[str, float], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in scores.items()}
