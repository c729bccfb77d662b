import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchmetrics import MetricCollection

from tasks.metrics.judgements import JudgementScores, VoteScores, judgement_of_mean, mean_vote, vote_spread
from tests.checks import rejects
from tests.tasks.metrics.helpers import by_processes, cut, numbers

TAGS = ("Nature", "Black and White", "Macro")


def judgements(pictures: int = 60) -> dict[str, object]:
    """Probabilities with many ties, and which of the first two tags each picture has."""
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(pictures, generator=generator) < 0.7).float()
    prediction = ((0.3 * target + 0.7 * torch.rand(pictures, generator=generator)) * 12).round() / 12
    tags = [[tag for k, tag in enumerate(TAGS[:2]) if index % (k + 2) == 0] + ["unknown"] for index in range(pictures)]
    return {"prediction": prediction, "target": target, "tags": tags}


def polls(pictures: int = 40, bins: int = 10) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    votes = torch.randint(0, 20, (pictures, bins), generator=generator).float()
    noise = torch.rand(pictures, bins, generator=generator)
    return {"probability": (votes / 20 + noise).softmax(dim=1), "votes": votes}


def scored(prediction: list[float], target: list[int]) -> dict[str, float]:
    metric = JudgementScores()
    metric.update(torch.tensor(prediction), torch.tensor(target).float())
    return numbers(metric.compute())


def slow_scores(prediction: list[float], target: list[float]) -> dict[str, float]:
    pairs = list(zip(prediction, target, strict=True))
    professional, snapshots = ([p for p, t in pairs if t == each] for each in (1, 0))
    hits = sum(p > 0.5 for p in professional), sum(p <= 0.5 for p in snapshots)
    wins = sum(1.0 if p > s else 0.5 if p == s else 0.0 for p in professional for s in snapshots)
    return {
        "accuracy": sum(hits) / len(pairs),
        "balanced_accuracy": (hits[0] / len(professional) + hits[1] / len(snapshots)) / 2,
        "auc": wins / len(professional) / len(snapshots),
        "majority": max(len(professional), len(snapshots)) / len(pairs),
    }


def test_judgements_by_hand() -> None:
    # three professional shots, one of them found; a snapshot that is left, and one taken for professional
    found = scored([0.9, 0.5, 0.1, 0.5, 0.7], [1, 1, 1, 0, 0])
    # 0.9 beats both, 0.5 ties with one and loses, 0.1 loses twice: 2.5 of 6
    expected = {"accuracy": 2 / 5, "balanced_accuracy": (1 / 3 + 1 / 2) / 2, "auc": 2.5 / 6, "majority": 3 / 5}
    assert found == pytest.approx(expected)


def test_scores_overall_and_by_tag_equal_a_slow_loop() -> None:
    fields = judgements()
    metric = JudgementScores(TAGS)
    for batch in (slice(0, 7), slice(7, 40), slice(40, 60)):
        metric.update(**cut(fields, batch))
    prediction, target = fields["prediction"].tolist(), fields["target"].tolist()
    expected = slow_scores(prediction, target)
    for tag, ending in (("Nature", "@nature"), ("Black and White", "@black_and_white")):
        chosen = [index for index, tags in enumerate(fields["tags"]) if tag in tags]
        scores = slow_scores([prediction[index] for index in chosen], [target[index] for index in chosen])
        expected |= {name + ending: score for name, score in scores.items()}
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-7)  # no picture has the tag Macro


def test_the_area_of_a_large_set_does_not_overflow() -> None:
    target = torch.arange(200_000) % 2
    metric = JudgementScores()
    metric.update(torch.zeros(len(target)), target)
    assert metric.compute()["auc"].item() == 0.5
    metric.reset()
    metric.update(target.float(), target)
    assert metric.compute()["auc"].item() == 1


@pytest.mark.parametrize("kind", [0, 1])
def test_one_class_alone_has_no_area(kind: int) -> None:
    found = scored([0.9, 0.2, 0.3], [kind] * 3)
    share = (1 + (1 - kind)) / 3
    expected = {"accuracy": share, "balanced_accuracy": share, "auc": math.nan, "majority": 1}
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_tag_with_one_class_has_no_area() -> None:
    metric = JudgementScores(["Sea", "Sky"])
    metric.update(torch.tensor([0.9, 0.4, 0.2]), torch.tensor([1.0, 1.0, 0.0]), [["Sea", "Sky"], ["Sea"], ["Sky"]])
    found = numbers(metric.compute())
    assert math.isnan(found["auc@sea"])  # two professional shots
    assert (found["auc@sky"], found["auc"]) == (1, 1)
    assert (found["accuracy@sea"], found["balanced_accuracy@sea"], found["majority@sea"]) == (0.5, 0.5, 1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_scores_without_images_are_zero() -> None:
    found = numbers(JudgementScores(TAGS).compute())
    assert math.isnan(found.pop("auc"))
    assert found == dict.fromkeys(("accuracy", "balanced_accuracy", "majority"), 0)
    assert numbers(VoteScores().compute()) == dict.fromkeys(("srcc", "plcc", "emd", "emd2"), 0)


def test_nan_counts_as_negative() -> None:
    assert scored([math.nan, math.nan, 0.8], [0, 1, 1]) == scored([0, 0, 0.8], [0, 1, 1])


@pytest.mark.parametrize("bins", [5, 10])
def test_vote_scores_equal_scipy_and_a_slow_loop(bins: int) -> None:
    fields = polls(bins=bins)
    metric = VoteScores()
    for batch in (slice(0, 15), slice(15, 40)):
        metric.update(**cut(fields, batch))
    probability, votes = (fields[name].double().numpy() for name in ("probability", "votes"))
    predicted, true = ((table * np.arange(1, bins + 1)).sum(1) / table.sum(1) for table in (probability, votes))
    differences = np.abs(probability.cumsum(1) - (votes / votes.sum(1, keepdims=True)).cumsum(1))
    expected = {
        "srcc": stats.spearmanr(predicted, true).statistic,
        "plcc": stats.pearsonr(predicted, true).statistic,
        "emd": differences.mean(1).mean(),
        "emd2": np.sqrt((differences**2).mean(1)).mean(),
    }
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_images_with_the_same_mean_vote_are_ties_however_many_voted() -> None:
    # means 7/3, 7/3, 7/3, 2 and 3
    votes = torch.tensor([[1.0, 0, 2, 0], [3, 1, 4, 1], [20, 0, 40, 0], [1, 1, 1, 0], [0, 0, 9, 0]])
    exact = [Fraction(sum((k + 1) * int(n) for k, n in enumerate(row)), int(row.sum())) for row in votes]
    assert exact == [Fraction(7, 3)] * 3 + [2, 3]
    probability = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.9, 0.1, 0, 0],
                                [0.1, 0.1, 0.1, 0.7]])  # fmt: skip
    metric = VoteScores()
    metric.update(probability, votes)
    expected = stats.spearmanr(mean_vote(probability), [float(mean) for mean in exact]).statistic
    assert metric.compute()["srcc"].item() == pytest.approx(expected, abs=1e-6)
    assert mean_vote(votes)[:3].unique().numel() == 1


def test_the_same_answer_for_all_images_correlates_with_nothing() -> None:
    votes = polls()["votes"]
    metric = VoteScores()
    metric.update(torch.full_like(votes, 0.1), votes)
    found = numbers(metric.compute())
    assert (found["srcc"], found["plcc"]) == (0, 0)
    assert 0 < found["emd"] < found["emd2"]


def test_means_and_spreads_of_votes_are_those_of_their_list() -> None:
    votes = polls(bins=5)["votes"]
    for row, mean, spread in zip(votes, mean_vote(votes), vote_spread(votes), strict=True):
        listed = np.repeat(np.arange(1, 6), row.int().numpy())
        assert (mean.item(), spread.item()) == pytest.approx((listed.mean(), listed.std()), abs=1e-6)
    shares = votes / votes.sum(dim=1, keepdim=True)
    torch.testing.assert_close(vote_spread(shares), vote_spread(votes))


def test_a_judgement_orders_as_the_mean_does_and_turns_at_the_threshold() -> None:
    mean = torch.tensor([1.0, 3.0, 5.0, math.nextafter(5.0, 6) + 1e-6, 7.5, 10.0])
    found = judgement_of_mean(mean, threshold=5, bins=10)
    assert found.tolist() == pytest.approx([0, 0.25, 0.5, 0.5, 0.75, 1], abs=1e-6)
    assert (found > 0.5).tolist() == (mean > 5).tolist() == [False, False, False, True, True, True]
    assert (found.diff() > 0).all()


def test_half_precision_does_not_round_the_state() -> None:
    fields = judgements()
    metric, expected = JudgementScores().to(torch.bfloat16), JudgementScores()
    for each in (metric, expected):
        each.update(fields["prediction"], fields["target"])
    assert metric.compute()["auc"] == expected.compute()["auc"]


def test_rejects_wrong_shapes_and_names() -> None:
    four = torch.zeros(4)
    rejects(r"prediction is \(4, 2\)", JudgementScores().update, torch.zeros(4, 2), four)
    rejects(r"tags are of 1 images", JudgementScores(TAGS).update, four, four, [["Nature"]])
    rejects(r"'Long Exposure', 'long  exposure'", JudgementScores, ["Long Exposure", "long  exposure"])
    rejects(r"votes are \(4, 10\)", VoteScores().update, torch.zeros(4, 5), torch.ones(4, 10))
    for threshold in (1, 10, 11.5):
        rejects(rf"threshold is {threshold}", judgement_of_mean, four, threshold, bins=10)


def collected(batches: list[slice]) -> dict[str, Tensor]:
    collection = MetricCollection([JudgementScores(TAGS), VoteScores()], compute_groups=False)
    for batch in batches:
        collection.update(**cut(judgements(), batch), **cut(polls(60), batch))
    return collection.compute()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    alone = numbers(collected([slice(0, 23), slice(23, 30), slice(30, 60)]))
    assert len(alone) == 16
    shares = [[], [slice(0, 23)], [slice(23, 30), slice(30, 60)]]  # the first process has no image
    assert by_processes(collected, shares, tmp_path / "processes") == [alone] * 3
