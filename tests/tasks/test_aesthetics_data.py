"""The task with its own data module."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.handover import Handover
from datamodules.aesthetics import AestheticsDataModule
from ops.errors import ArgumentError
from tasks.aesthetics import AestheticsTask
from tasks.networks.aesthetics import Judge
from tests.checks import rejects

NORMALISED = "mobilenetv3_small_050"  # by batch statistics

SCORES = ("accuracy", "balanced_accuracy", "auc", "majority")

Trainers = Callable[..., Trainer]


def made(head: Any = "binary", **options: Any) -> AestheticsTask:
    torch.manual_seed(0)
    return AestheticsTask(**{"dense_width": 8, "head": head, **options})


def with_data(trainer: Trainer, data: AestheticsDataModule) -> Trainer:
    trainer.callbacks.append(Handover(data))
    return trainer


def data_of(root: Path, **options: Any) -> AestheticsDataModule:
    given = {"size": 64, "load_size": 64, "crop": "center", "flips": False, "batch_size": 6, "num_workers": 0}
    return AestheticsDataModule(root, **{**given, **options})


class Counted:
    """Counts the pictures that convolutions see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures, plain = 0, Judge.flat

        def flat(judge: Judge, image: Tensor) -> Tensor:
            self.pictures += len(image)
            return plain(judge, image)

        monkeypatch.setattr(Judge, "flat", flat)


@pytest.mark.parametrize("network", ["alexnet_torchvision", NORMALISED])
def test_what_is_remembered_changes_nothing(
    network: str, make_trainer: Trainers, aesthetics_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, weights, losses = Counted(monkeypatch), [], []
    for remember, seen in ((4.0, 24), (0.0, 3 * 24 + 3)):  # 21 pictures to train on and 3 to validate on, once more
        task = made(network=network, remember=remember, optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))
        counted.pictures = 0
        trainer = make_trainer(max_epochs=3, num_sanity_val_steps=2)
        trainer.fit(task, data_of(aesthetics_root))
        assert counted.pictures == seen
        weights.append(task.network.state_dict())
        losses.append(trainer.callback_metrics["val/loss"])
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*losses)
    start = made(network=network).network.state_dict()
    assert (weights[0]["dense.output.weight"] - start["dense.output.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(("crop", "flips"), [("center", True), ("random", False)])
def test_altered_pictures_are_not_remembered(
    crop: Any, flips: bool, make_trainer: Trainers, aesthetics_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, task = Counted(monkeypatch), made()
    data = data_of(aesthetics_root, crop=crop, flips=flips)
    for _ in range(2):  # what the first training's convolutions said is forgotten
        counted.pictures = 0
        make_trainer(max_epochs=3).fit(task, data)
        assert counted.pictures == 3 * 21 + 3
        assert len(task._maps) == 3
    counted.pictures = 0
    make_trainer().test(task, data)
    assert (counted.pictures, len(task._maps)) == (6, 3), "only training comes back to a picture"


def test_moving_convolutions_are_not_remembered(make_trainer: Trainers, aesthetics_root: Path) -> None:
    task = made(freeze_convolutions=False)
    make_trainer(max_epochs=1).fit(task, data_of(aesthetics_root))
    assert len(task._maps) == 0


def test_scores_are_also_of_tags(make_trainer: Trainers, aesthetics_root: Path) -> None:
    task, data, trainer = made("distribution"), data_of(aesthetics_root, batch_size=4), make_trainer()
    torch.nn.init.normal_(task.network.dense.get_submodule("output").weight, std=20)
    with_data(trainer, data).test(task, data)
    found = {key: value.item() for key, value in trainer.callback_metrics.items()}
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
def test_data_that_the_network_is_not_for_are_refused(
    options: dict[str, Any], data_options: dict[str, Any], message: str, make_trainer: Trainers, aesthetics_root: Path
) -> None:
    task, data = made(**options), data_of(aesthetics_root / "stars", **data_options)
    for command in (with_data(make_trainer(max_epochs=1), data).fit, with_data(make_trainer(), data).test):
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
        trainer = make_trainer()
        data = data_of(root, threshold=threshold, test_fraction=0.4)
        with_data(trainer, data).test(made(threshold=threshold), data)
        found.append({key: value.item() for key, value in trainer.callback_metrics.items()})
    assert found[0] == found[1]
    assert found[0]["test/majority"] < 1
