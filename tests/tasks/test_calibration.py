import numpy as np
import pytest
import torch
from scipy.stats import entropy

from ops.statistics.calibration import fitted_temperature, log_odds_counts, reliability
from tasks.calibration import Temperature
from tasks.clouds import CloudsTask
from tasks.decision import Decision


def small(seed: int) -> CloudsTask:
    torch.manual_seed(seed)
    return CloudsTask(architecture="fpn", encoder="resnet18", pretrained=False, classes=["a", "b"]).eval()


def test_probabilities_of_each_class_have_their_temperature() -> None:
    temperature = Temperature(2)
    chance = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    assert temperature(chance) is chance
    temperature.set(torch.tensor([1.0, 2.0]))
    found = temperature(chance)
    torch.testing.assert_close(found[:, 0], chance[:, 0])
    torch.testing.assert_close(found[:, 1], torch.special.expit(torch.logit(chance[:, 1]) / 2))
    assert temperature(torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1)).flatten().tolist() == [0, 1]


def test_checkpoints_keep_it_and_earlier_ones_have_none() -> None:
    decision = Decision(1)
    decision.temperature.set(torch.tensor([3.0]))
    other = Decision(1)
    other.load_state_dict(decision.state_dict())
    assert other.temperature.active
    assert other.temperature(torch.tensor([[0.9]])) == pytest.approx(decision.temperature(torch.tensor([[0.9]])))
    earlier = {key: value for key, value in Decision(1).state_dict().items() if not key.startswith("temperature")}
    other.load_state_dict(earlier)
    assert not other.temperature.active


def test_a_fitted_temperature_makes_a_task_reliable() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 40_000)
    truth = rng.random(odds.size) < 1 / (1 + np.exp(-odds))
    chance = 1 / (1 + np.exp(-2.5 * odds))  # 2.5 times too sure
    counts = log_odds_counts(chance.astype(np.float32), truth)
    fitted = fitted_temperature(counts)
    assert fitted == pytest.approx(2.5, rel=0.05)
    temperature = Temperature(1)
    temperature.set(torch.tensor([fitted]))
    calm = temperature(torch.from_numpy(chance.astype(np.float32))).numpy()
    assert reliability(counts).error > 0.05
    assert reliability(log_odds_counts(calm, truth)).error < 0.01


def test_members_are_calibrated_before_they_are_averaged_and_their_disagreement_is_kept() -> None:
    one, two = small(0), small(1)
    batch = {"image": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    own = torch.stack([each.probability(batch) for each in (one, two)])
    one.decision.temperature.set(torch.full((len(one.classes),), 2.0))
    one.add_members([two], ["two"])
    one.disagreeing = True
    found = one.predict_step(batch, 0)
    calm = torch.special.expit(torch.logit(own) / 2)
    torch.testing.assert_close(found["probability"], calm.mean(dim=0))
    mean = found["probability"]
    # what the members are unsure of, and what they disagree about, add up
    whole, own = (
        torch.from_numpy(entropy([each, 1 - each], base=2)) for each in (mean.detach().numpy(), calm.detach().numpy())
    )
    torch.testing.assert_close(whole, own.mean(dim=0) + found["disagreement"], atol=1e-5, rtol=1e-4)
    assert found["disagreement"].max() > 0


def test_networks_of_the_same_folds_share_a_temperature() -> None:
    one, two = small(0), small(1)
    one.decision.temperature.set(torch.tensor([2.0, 3.0]))
    two.share_temperature(one)
    assert two.decision.temperature.values.tolist() == [2, 3]
    assert two.decision.temperature.active
