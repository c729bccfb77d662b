from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from ops.statistics.ridge import FEW, PENALTIES, Moments, fit_ridge, fit_shrunk, fit_softmax
from tests.checks import rejects


def drawn(count: int, length: int, targets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of different scales, the second constant, and noisy linear functions of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(5, 3, (count, length)) * np.linspace(0.1, 10, length)
    features[:, 1] = 7
    truth = features[:, :3] @ rng.normal(size=(3, targets)) / 10
    return torch.from_numpy(features).float(), torch.from_numpy(truth + rng.normal(size=truth.shape)).float()


def fitted_by_sklearn(features: Tensor, targets: Tensor, penalty: float) -> Ridge:
    """The same model; `alpha` is per sum of squared errors, and there are as many samples and features."""
    count, length = features.shape
    return Ridge(alpha=penalty * count * length).fit(features.numpy(), targets.numpy())


def standard(features: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    return (features.double() - mean) / torch.where(deviation > 0, deviation, 1)


@pytest.mark.parametrize(("count", "length"), [(12, 40), (60, 9)])
def test_equals_scikit_learn_with_the_penalty_of_the_smallest_left_out_error(count: int, length: int) -> None:
    features, targets = drawn(count, length, 2)
    of = torch.tensor([1.0, -2.0])
    found = fit_ridge(features, targets, of)
    inputs, errors = standard(features), []
    for penalty in PENALTIES:
        left_out = np.empty((count, 2))
        for row in range(count):
            others = np.arange(count) != row
            # the standardization is not repeated, so the left-out sample keeps the scale that all have together
            model = Ridge(alpha=penalty * count * length).fit(inputs[others], targets[others])
            left_out[row] = model.predict(inputs[row : row + 1])[0]
        errors.append(np.square((left_out - targets.numpy()) @ of.numpy()).mean())
        if penalty == found.penalty:
            others = (targets.sum(0) - targets) / (count - 1)  # the bias that each model has
            np.testing.assert_allclose(found.left_out, left_out - (others - targets.mean(0)).numpy(), atol=1e-6)
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    expected = fitted_by_sklearn(inputs, targets, found.penalty).predict(inputs)
    predicted = (features - found.mean) * found.scale @ found.weight + found.bias
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    assert found.scale[1] == 0


def test_noise_is_regularized_more_than_signal() -> None:
    features, _ = drawn(40, 10, 1)
    noise = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    exact = features[:, :1] / 3
    penalties = [fit_ridge(features, each, torch.ones(1)).penalty for each in (noise, exact)]
    assert penalties[0] > 100 * penalties[1]
    assert penalties[1] == PENALTIES[0]


def test_left_out_predictions_without_signal_do_not_reveal_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.statistics.ridge.PENALTIES", (100.0,))
    rng = np.random.default_rng(0)
    features, targets = (torch.from_numpy(rng.normal(size=(500, length))) for length in (50, 1))
    found = fit_ridge(features, targets, torch.ones(1))
    correlation = torch.corrcoef(torch.cat([found.left_out, targets], dim=1).T)[0, 1]
    assert abs(correlation) < 0.2  # with the mean of the others as their bias, nearly -1


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
def test_probabilities_are_those_of_logistic_regression(labels: Sequence[int]) -> None:
    scores = torch.tensor([[-3.0], [-2.0], [-1.0], [0.5], [1.0], [2.0], [3.0], [4.0]])
    weight, bias = fit_softmax(scores, torch.nn.functional.one_hot(torch.tensor(labels), 2))
    found = (scores.double() @ weight + bias).softmax(1)[:, 1]
    # a ninth sample is half of each class, like Platt's; the penalty of one is that of the other's two weights
    count, deviation = len(labels), scores.std(correction=0).item()
    x = np.concatenate([scores.numpy(), scores.numpy()]) / deviation
    sure = np.array(labels, float) * count / (count + 1) + 0.5 / (count + 1)
    model = LogisticRegression(C=1 / (1e-4 * count), tol=1e-10, max_iter=10_000)
    model.fit(x, [1] * count + [0] * count, sample_weight=np.concatenate([sure, 1 - sure]))
    np.testing.assert_allclose(found, model.predict_proba(x[:count])[:, 1], atol=2e-3)
    assert ((found > 0) & (found < 1)).all()


def test_shares_are_recovered_from_scores_that_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(200, 2)))
    scores = torch.cat([scores, -scores.sum(1, keepdim=True)], dim=1)
    shares = (scores * torch.tensor([2.0, 1.0, 0.5])).softmax(1)
    weight, bias = fit_softmax(scores, shares)
    torch.testing.assert_close((scores @ weight + bias).softmax(1), shares, atol=0.02, rtol=0)


def test_rejects_what_cannot_be_fitted() -> None:
    features, targets = drawn(4, 3, 1)
    rejects("at least two samples", fit_ridge, features[:1], targets[:1], torch.ones(1))
    rejects("at least two samples", fit_ridge, features, targets[:3], torch.ones(1))
    features[0, 0] = torch.inf
    rejects("nan or infinite", fit_ridge, features, targets, torch.ones(1))


def moments(features: Tensor, targets: Tensor) -> Moments:
    """Added in two batches."""
    found = Moments(features.shape[1], targets.shape[1])
    found.add(features[:7], targets[:7])
    found.add(features[7:], targets[7:])
    return found


def test_blocks_are_ridge_regressions_that_left_out_samples_choose() -> None:
    features, targets = drawn(80, 9, 2)
    targets -= targets.mean(dim=0)
    parts, val = [slice(0, 30), slice(30, 60)], slice(60, 80)
    found = fit_shrunk([moments(features[part], targets[part]) for part in parts],
                       moments(features[val], targets[val]), [5, 4])  # fmt: skip
    best = (np.inf, 0.0, 0.0, torch.empty(0))
    for penalty in FEW:
        predicted, true = [], []
        for seen, asked in ((parts[1], parts[0]), (parts[0], parts[1]), (slice(0, 60), val)):
            deviation, mean = torch.std_mean(features[seen].double(), dim=0, correction=0)
            ours = ((features.double() - mean) / deviation.clamp(min=1e-9)).float()
            models = [(part, fitted_by_sklearn(ours[seen, part], targets[seen], penalty))
                      for part in (slice(5), slice(5, 9))]  # fmt: skip
            mixed = sum(torch.from_numpy(model.predict(ours[:, part].numpy())) for part, model in models) / 2
            predicted.append(mixed[asked])
            true.append(targets[asked])
        left, truth = torch.cat(predicted), torch.cat(true)
        shrink = min(1.0, max(0.0, float((left * truth).sum() / left.square().sum())))
        error = float((shrink * left - truth).square().sum() / truth.square().sum())
        best = min(best, (error, shrink, penalty, shrink * mixed), key=lambda each: each[0])
    assert found.error == pytest.approx(best[0], rel=1e-3)
    assert found.shrink == pytest.approx(best[1], rel=1e-2)
    assert found.penalty == best[2]
    answer = (features.double() - found.mean) * found.scale @ found.weight + found.bias
    torch.testing.assert_close(answer.float(), best[3].float(), rtol=1e-2, atol=1e-2)


def test_what_does_not_help_validation_samples_is_shrunk_to_nothing() -> None:
    features, targets = drawn(60, 5, 2)
    targets -= targets.mean(dim=0)
    found = fit_shrunk([moments(features, targets)], moments(features, -targets), [5])
    assert found.shrink == 0
    assert not found.weight.any()
    assert found.error == 1
    rejects("0 validation samples", fit_shrunk, [moments(features, targets)], Moments(5, 2), [5])
