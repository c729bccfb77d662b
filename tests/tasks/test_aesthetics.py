from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks.aesthetics import AestheticsTask
from tasks.base import Batch
from tasks.networks.aesthetics import Judge
from tests.checks import rejects, rejects_weights

JUDGEMENT = {"loss", "accuracy", "balanced_accuracy", "auc", "majority"}
VOTES = {"srcc", "plcc", "emd", "emd2"}
FIGURES = {"binary": JUDGEMENT, "distribution": JUDGEMENT | VOTES}
HEADS = ("binary", "distribution")
NORMALISED = "mobilenetv3_small_050"  # by batch statistics

Trainers = Callable[..., Trainer]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Eight noisy pictures of 64 pixels, the professional shots redder; six to twelve people voted on each."""
    generator = torch.Generator().manual_seed(0)
    good = torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 0])
    image = 0.5 * torch.rand(8, 3, 64, 64, generator=generator)
    image[:, 0] += 0.4 * good[:, None, None]
    votes = torch.zeros(8, 10)
    for row in range(8):
        for vote in torch.randint(5, 9, (6 + row % 7,), generator=generator) - 4 * int(1 - good[row]):
            votes[row, vote] += 1
    return {"image": image, "professional": good, "votes": votes, "name": list("abcdefgh"), "tags": [[]] * 8}


class Pictures(LightningDataModule):
    """The same batch, as often as wanted."""

    def __init__(self, batch: Batch, times: int = 1) -> None:
        super().__init__()
        self.batches = [batch] * times

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches[:1], batch_size=None)


def made(head: Any = "binary", **options: Any) -> AestheticsTask:
    torch.manual_seed(0)
    return AestheticsTask(**{"dense_width": 8, "head": head, **options})


@torch.no_grad()
def telling(task: AestheticsTask, image: Tensor) -> AestheticsTask:
    """The task in evaluation mode, its last layer scaled so that random features tell these pictures apart."""
    logits, output = task.eval()(image), task.network.dense.get_submodule("output")
    for value in output.parameters():
        value /= logits.std(dim=0).mean()
    output.bias -= task(image).mean(dim=0)
    return task


def small(outputs: int) -> Judge:
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU())
    return Judge(convolutions, 4, 2, (8, 1000.0), 8, outputs, dropout=0.1)


def shares_of(task: AestheticsTask, batch: Batch) -> np.ndarray[Any, Any]:
    """Softmax in double precision, outside of PyTorch."""
    with torch.no_grad():
        logits = task(batch["image"]).double().numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray[Any, Any] = powers / powers.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("head", HEADS)
def test_learns_what_professional_shots_look_like(head: Any, make_trainer: Trainers, batch: Batch) -> None:
    task = made(head, freeze_convolutions=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    torch.manual_seed(0)
    task.network = small(2 if head == "binary" else 10)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(task, Pictures(batch, 60))
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert found.keys() == {f"{stage}/{name}" for stage in ("train", "val") for name in FIGURES[head]}
    assert found["val/balanced_accuracy"] == found["val/auc"] == 1
    assert found["val/majority"] == 5 / 8
    assert found["val/loss"] < 0.1
    if head == "distribution":
        assert found["val/srcc"] > 0.7
        assert found["val/emd2"] == pytest.approx(found["val/loss"], rel=1e-5)
    assert set(task.figures()) == {f"val/{name}" for name in FIGURES[head]}


def test_the_loss_of_the_binary_head_is_the_cross_entropy(batch: Batch) -> None:
    task = telling(made(), batch["image"])
    shares, step = shares_of(task, batch), task.step(batch)
    right = np.where(batch["professional"].numpy() > 0, shares[:, 1], shares[:, 0])
    assert step.loss.item() == pytest.approx(-np.log(right).mean(), rel=1e-4)
    np.testing.assert_allclose(step.prediction.detach(), shares[:, 1], atol=1e-5)
    assert shares[:, 1].std() > 0.1
    found = task.predict(batch)
    assert found.keys() == {"probability"}
    torch.testing.assert_close(found["probability"], step.prediction)


@pytest.mark.parametrize(("bins", "threshold", "limit"), [(10, None, 5.0), (5, None, 3.0), (5, 2.5, 2.5)])
def test_a_distribution_is_judged_by_its_mean(bins: int, threshold: float | None, limit: float, batch: Batch) -> None:
    task = telling(made("distribution", bins=bins, threshold=threshold), batch["image"])
    assert task.threshold == limit
    votes = batch["votes"][:, :bins] + 1
    shares, scale = shares_of(task, batch), np.arange(1, bins + 1)
    found = {name: value.numpy() for name, value in task.predict(batch).items()}
    assert found.keys() == {"probability", "mean", "spread"}
    mean = shares @ scale
    np.testing.assert_allclose(found["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(found["spread"], np.sqrt(shares @ scale**2 - mean**2), atol=1e-3)
    assert mean.std() > 0.1
    for probability, each in zip(found["probability"], mean, strict=True):
        end = bins if each > limit else 1
        assert probability == pytest.approx(0.5 + 0.5 * abs(each - limit) / (end - limit), abs=1e-5)
        assert (probability > 0.5) == (each > limit)
    step = task.step(batch | {"votes": votes})
    torch.testing.assert_close(step.prediction, torch.from_numpy(found["probability"]))
    total = 0.0
    for predicted, counts in zip(shares, votes.double().numpy(), strict=True):
        differences = np.cumsum(predicted) - np.cumsum(counts / counts.sum())
        total += np.sqrt(np.mean(differences**2)) / len(votes)
    assert step.loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_convolutions_keep_weights_and_statistics(frozen: bool, make_trainer: Trainers, batch: Batch) -> None:
    task = made(network=NORMALISED, freeze_convolutions=frozen, remember=0)
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, Pictures(batch, 3))
    after = task.network.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {key for key in after if key.startswith("dense.")} <= moved
    convolutions = {key for key in moved if key.startswith("convolutions.")}
    statistics = {key for key in convolutions if key.endswith("running_mean")}
    assert (not convolutions) == (not statistics) == frozen
    optimised = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    wanted = list((task.network.dense if frozen else task.network).parameters())
    assert {id(each) for each in optimised} == {id(each) for each in wanted}


@pytest.mark.parametrize("options", [{"head": "binary", "network": NORMALISED}, {"head": "distribution", "bins": 5}])
def test_a_checkpoint_gives_the_same_judgements_from_the_file_alone(
    options: dict[str, Any], make_trainer: Trainers, batch: Batch, tmp_path: Path
) -> None:
    task = made(**options, pretrained=str(tmp_path / "gone.pth"))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, Pictures(batch | {"votes": batch["votes"][:, 3:8]}))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = AestheticsTask.load_from_checkpoint(tmp_path / "run.ckpt", map_location="cpu").eval()
    found, wanted = again.predict(batch), task.eval().predict(batch)
    assert len(found) == (1 if options["head"] == "binary" else 3)
    for name, value in wanted.items():
        assert torch.equal(found[name], value)


def test_votes_of_another_scale_are_refused_without_a_data_module(batch: Batch) -> None:
    rejects(r"votes 1 to 10, .* 1 to 5\..*--model\.bins 10", made("distribution", bins=5).step, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "both"}, "head is 'both', bins 10 and threshold 5; "),
        ({"head": "distribution", "bins": 1}, "bins 1 and threshold 1;"),
        ({"head": "distribution", "threshold": 10}, "bins 10 and threshold 10; .* between the lowest and the highest"),
        ({"head": "distribution", "bins": 5, "threshold": float("nan")}, "bins 5 and threshold nan;"),
        ({"dense_width": 0}, "expected dense_width"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"network": "alexnett"}, "network 'alexnett' is none of alexnet, alexnet_torchvision, vgg16"),
        ({"remember": -1.0}, r"-1\.0 GiB of cache"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    rejects(message, made, **options)


def test_random_convolutions_are_not_frozen(tmp_path: Path) -> None:
    rejects_weights(r"random noise.*--model\.pretrained true", made(pretrained=False).load_pretrained)
    made(pretrained=False, freeze_convolutions=False).load_pretrained()
    rejects_weights(r"no weights file .*gone\.pth", made(pretrained=str(tmp_path / "gone.pth")).load_pretrained)
    rejects_weights(r"Nobody publishes", made(network="alexnet").load_pretrained)
    rejects_weights(r"keep_dense_weights needs .* 8 units", made(keep_dense_weights=True).load_pretrained)
