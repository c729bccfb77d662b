from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.handover import Handover
from datamodules.aesthetics import AestheticsDataModule
from ops.errors import ArgumentError
from tasks.aesthetics import AestheticsTask
from tasks.base import Batch
from tasks.networks.aesthetics import Judge
from tests.checks import rejects, rejects_weights
from tests.tasks.helpers import Trainers, changed, logged, reloaded, state

JUDGEMENT = {"loss", "accuracy", "balanced_accuracy", "auc", "majority"}
VOTES = {"srcc", "plcc", "emd", "emd2"}
FIGURES = {"binary": JUDGEMENT, "distribution": JUDGEMENT | VOTES}
HEADS = ("binary", "distribution")
NORMALISED = "mobilenetv3_small_050"  # by batch statistics


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
def test_learns_to_tell_professional_shots(head: Any, make_trainer: Trainers, batch: Batch) -> None:
    task = made(head, freeze_convolutions=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    torch.manual_seed(0)
    task.network = small(2 if head == "binary" else 10)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(task, Pictures(batch, 60))
    found = logged(trainer)
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
    before, trainer = state(task.network), make_trainer(max_epochs=1)
    trainer.fit(task, Pictures(batch, 3))
    moved = changed(task.network, before)
    assert {key for key in before if key.startswith("dense.")} <= moved
    convolutions = {key for key in moved if key.startswith("convolutions.")}
    statistics = {key for key in convolutions if key.endswith("running_mean")}
    assert (not convolutions) == (not statistics) == frozen
    optimised = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    wanted = list((task.network.dense if frozen else task.network).parameters())
    assert {id(each) for each in optimised} == {id(each) for each in wanted}


@pytest.mark.parametrize("options", [{"head": "binary", "network": NORMALISED}, {"head": "distribution", "bins": 5}])
def test_a_checkpoint_restores_the_task(
    options: dict[str, Any], make_trainer: Trainers, batch: Batch, tmp_path: Path
) -> None:
    task = made(**options, pretrained=str(tmp_path / "gone.pth"))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, Pictures(batch | {"votes": batch["votes"][:, 3:8]}))
    found, wanted = reloaded(task, trainer, tmp_path).predict(batch), task.eval().predict(batch)
    assert len(found) == (1 if options["head"] == "binary" else 3)
    for name, value in wanted.items():
        assert torch.equal(found[name], value)


def test_rejects_wrong_arguments_and_missing_weights(batch: Batch, tmp_path: Path) -> None:
    rejects("'both', bins 10 and threshold 5; ", made, "both")
    rejects("bins 1 and threshold 1;", made, "distribution", bins=1)
    rejects("bins 10 and threshold 10; .* between the lowest and the highest", made, "distribution", threshold=10)
    rejects("bins 5 and threshold nan;", made, "distribution", bins=5, threshold=float("nan"))
    rejects("expected dense_width", made, dense_width=0)
    rejects(r"dropout in \[0, 1\)", made, dropout=1.0)
    rejects("'alexnett' is none of alexnet, alexnet_torchvision, vgg16", made, network="alexnett")
    rejects(r"-1\.0 GiB", made, remember=-1.0)
    rejects(r"votes 1 to 10, .* 1 to 5\..*--model\.bins 10", made("distribution", bins=5).step, batch)
    rejects_weights(r"random noise.*--model\.pretrained true", made(pretrained=False).load_pretrained)
    made(pretrained=False, freeze_convolutions=False).load_pretrained()
    rejects_weights(r"no weights file .*gone\.pth", made(pretrained=str(tmp_path / "gone.pth")).load_pretrained)
    rejects_weights("Nobody publishes", made(network="alexnet").load_pretrained)
    rejects_weights("keep_dense_weights needs .* 8 units", made(keep_dense_weights=True).load_pretrained)


SCORES = ("accuracy", "balanced_accuracy", "auc", "majority")


def data_of(root: Path, **options: Any) -> AestheticsDataModule:
    given = {"size": 64, "load_size": 64, "crop": "center", "flips": False, "batch_size": 6, "num_workers": 0,
             "steps_per_epoch": None}  # fmt: skip
    return AestheticsDataModule(root, **{**given, **options})


class Counted:
    """Counts the pictures that convolutions see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures, plain = 0, Judge.flat

        def flat(judge: Judge, image: Tensor) -> Tensor:
            self.pictures += len(image)
            return plain(judge, image)

        monkeypatch.setattr(Judge, "flat", flat)


@pytest.mark.parametrize(
    ("network", "flips"), [("alexnet_torchvision", False), ("alexnet_torchvision", True), (NORMALISED, False)]
)
def test_remembered_features_change_nothing(
    network: str, flips: bool, make_trainer: Trainers, aesthetics_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, weights, losses = Counted(monkeypatch), [], []
    for remember in (4.0, 0.0):
        task = made(network=network, remember=remember, optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))
        counted.pictures = 0
        trainer = make_trainer(max_epochs=3, num_sanity_val_steps=2)
        trainer.fit(task, data_of(aesthetics_root, flips=flips))
        if remember:  # 21 images to train on, with flips in both views, and 3 to validate on
            assert counted.pictures == (2 * 21 + 3 if flips else 24)
        else:
            assert counted.pictures == 3 * 24 + 3
        weights.append(task.network.state_dict())
        losses.append(trainer.callback_metrics["val/loss"])
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*losses)
    start = made(network=network).network.state_dict()
    assert (weights[0]["dense.output.weight"] - start["dense.output.weight"]).abs().max() > 1e-3


def test_a_resumed_run_with_mirror_images_ends_with_the_same_bits(
    make_trainer: Trainers, aesthetics_root: Path, tmp_path: Path
) -> None:
    def trained(epochs: int, resume: Path | None = None) -> AestheticsTask:
        task = made(optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))
        trainer = make_trainer(max_epochs=epochs)
        trainer.fit(task, data_of(aesthetics_root, flips=True), ckpt_path=resume, weights_only=True if resume else None)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return task

    whole = trained(4)
    trained(2)
    resumed = trained(4, tmp_path / "2.ckpt")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("crop", "flips", "frozen"),
    [("random", True, True), ("random", False, True), ("center", False, False), ("blurred", False, True)],
)
def test_altered_images_and_trained_features_are_not_remembered(
    crop: Any, flips: bool, frozen: bool, make_trainer: Trainers, aesthetics_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, task = Counted(monkeypatch), made(freeze_convolutions=frozen)
    blur = [{"class_path": "albumentations.Blur", "init_args": {"p": 0.5}}]
    options = {"crop": "center", "augmentations": blur} if crop == "blurred" else {"crop": crop}
    data = data_of(aesthetics_root, flips=flips, **options)
    validation = 3 if frozen else 0  # images that stay the same in every epoch
    for _ in range(2):  # each training starts without remembered features
        counted.pictures = 0
        make_trainer(max_epochs=3).fit(task, data)
        assert counted.pictures == 3 * 21 + (3 if frozen else 3 * 3)
        assert len(task._maps) == validation
    counted.pictures = 0
    make_trainer().test(task, data)
    assert (counted.pictures, len(task._maps)) == (6, validation), "only training comes back to an image"


def test_scores_are_also_by_tag(make_trainer: Trainers, aesthetics_root: Path) -> None:
    task, data = made("distribution"), data_of(aesthetics_root, batch_size=4)
    trainer = make_trainer(callbacks=[Handover(data)])
    torch.nn.init.normal_(task.network.dense.get_submodule("output").weight, std=20)
    trainer.test(task, data)
    found = logged(trainer)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    tags = [tags for batch in batches for tags in batch["tags"]]
    names = sorted({tag for each in tags for tag in each})
    assert {"Architecture", "Landscape", "Still Life"} & set(names)
    endings = ["", *("@" + name.lower().replace(" ", "_") for name in names)]
    scores = {f"test/{score}{ending}" for score in SCORES for ending in endings}
    assert found.keys() == scores | {"test/loss", "test/srcc", "test/plcc", "test/emd", "test/emd2"}
    professional = torch.cat([batch["professional"] for batch in batches]) > 0
    right = (torch.cat([task.predict(batch)["mean"] for batch in batches]) > 5) == professional
    for ending, name in zip(endings, ["", *names], strict=True):
        chosen = torch.tensor([not name or name in each for each in tags])
        assert found[f"test/accuracy{ending}"] == pytest.approx(right[chosen].float().mean().item())
        shares = [right[chosen & kind].float().mean().item() for kind in (professional, ~professional)
                  if (chosen & kind).any()]  # fmt: skip
        assert found[f"test/balanced_accuracy{ending}"] == pytest.approx(sum(shares) / len(shares))


@pytest.mark.parametrize(
    ("options", "data_options", "message"),
    [
        ({"head": "distribution"}, {}, r"votes 1 to 5, .* 1 to 10.*--model\.bins 5"),
        ({}, {"size": 62}, r"--data\.size is 62; alexnet_torchvision .* 63 or more"),
        ({"network": "vit_tiny_patch16_224"}, {}, r"--data\.size is 64; .* 224 pixels"),
        ({"head": "distribution", "bins": 5}, {"threshold": 3.5}, r"data's threshold is 3\.5, the model's is 3: "),
        ({"threshold": 4}, {}, r"data's threshold is 3, the model's is 4: --model\.threshold follows the data"),
    ],
)
def test_rejects_data_that_does_not_fit_the_network(
    options: dict[str, Any], data_options: dict[str, Any], message: str, make_trainer: Trainers, aesthetics_root: Path
) -> None:
    task, data = made(**options), data_of(aesthetics_root / "stars", **data_options)
    trainer = make_trainer(max_epochs=1, callbacks=[Handover(data)])
    for command in (trainer.fit, trainer.test):
        rejects(message, command, task, data, error=ArgumentError)


def test_the_binary_head_takes_votes_on_any_scale(
    make_trainer: Trainers, aesthetics_root: Path, tmp_path: Path
) -> None:
    stars = aesthetics_root / "stars"
    (tmp_path / "images").symlink_to(stars / "images")
    rows = [",".join(["image", *(f"count_{vote}" for vote in range(1, 21))])]
    for line in (stars / "labels.csv").read_text().splitlines()[1:]:
        name, *counts = line.split(",")
        rows.append(",".join([name, *(f"0,0,0,{count}" for count in counts)]))  # a star is four votes
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = []
    for root, threshold in ((stars, None), (tmp_path, 12.0)):
        data = data_of(root, threshold=threshold, test_fraction=0.4)
        trainer = make_trainer(callbacks=[Handover(data)])
        trainer.test(made(threshold=threshold), data)
        found.append(logged(trainer))
    assert found[0] == found[1]
    assert found[0]["test/majority"] < 1
