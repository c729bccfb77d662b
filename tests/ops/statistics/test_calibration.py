import numpy as np
import pytest
import torch
from scipy.special import expit
from torchmetrics.classification import BinaryCalibrationError

from ops.statistics.calibration import (
    BINS,
    fitted_temperature,
    kept_quality,
    log_loss,
    log_odds_counts,
    pooled_reliability,
    reliability,
)


def predictions(temperature: float, count: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right once their log-odds are divided by a temperature."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-0.5, 2, count)
    return expit(odds * temperature).astype(np.float32), rng.random(count) < expit(odds)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_predictions_is_found(temperature: float) -> None:
    counts = log_odds_counts(*predictions(temperature))
    found = fitted_temperature(counts)
    assert found == pytest.approx(temperature, rel=0.05)
    assert log_loss(counts, found) <= log_loss(counts)
    assert reliability(counts, found).error < 0.01


def test_the_error_and_the_log_loss_are_those_of_torch() -> None:
    chance, truth = predictions(2.0, 5000)
    counts = log_odds_counts(chance, truth)
    theirs = BinaryCalibrationError(n_bins=BINS, norm="l1")(*_binary(chance, truth))
    assert reliability(counts).error == pytest.approx(_two_sided(chance, truth), abs=2e-3)
    assert reliability(counts).error == pytest.approx(float(theirs), abs=0.05)  # it takes the more likely class
    loss = torch.nn.functional.binary_cross_entropy(torch.tensor(chance), torch.tensor(truth).float())
    assert log_loss(counts) == pytest.approx(float(loss), abs=1e-3)


def _binary(chance: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(chance), torch.tensor(truth).int()


def _two_sided(chance: np.ndarray, truth: np.ndarray) -> float:
    """The same error, bin by bin."""
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    return sum(abs(chance[bins == k].mean() - truth[bins == k].mean()) * (bins == k).mean() for k in set(bins.tolist()))


def test_probabilities_of_0_and_1_count_and_one_kind_of_truth_fits_nothing() -> None:
    counts = log_odds_counts(np.array([0, 1, 1], np.float32), np.array([False, True, True]))
    assert (counts[0].tolist(), counts[-1].tolist()) == ([1, 0], [0, 2])
    assert fitted_temperature(log_odds_counts(np.array([0.2, 0.9], np.float32), np.array([True, True]))) == 1
    assert np.isnan(log_loss(np.zeros_like(counts)))


def test_parts_with_temperatures_of_their_own_are_measured_together() -> None:
    parts = [predictions(temperature, 150, seed) for seed, temperature in enumerate((0.5, 1.0, 2.0, 2.0, 0.5))]
    counts, temperatures = [log_odds_counts(*part) for part in parts], [0.5, 1.0, 2.0, 2.0, 0.5]
    scaled = [expit(np.log(chance / (1 - chance)) / each)
              for (chance, _), each in zip(parts, temperatures, strict=True)]  # fmt: skip
    truth, chances = np.concatenate([truth for _, truth in parts]), np.concatenate(scaled).astype(np.float64)
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    by_hand = sum(abs(chances[bins == each].sum() - truth[bins == each].sum()) for each in range(BINS)) / len(truth)
    together = pooled_reliability(counts, temperatures).error
    assert together == pytest.approx(by_hand, abs=0.01)
    assert together < np.mean([reliability(*each).error for each in zip(counts, temperatures, strict=True)])


def test_the_most_certain_images_are_kept_first() -> None:
    kept = kept_quality(np.array([0.3, 0.1, 0.2]), np.array([0.0, 1.0, 0.5]))
    assert kept.tolist() == [1.0, 0.75, 0.5]
