from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.best import BestCheckpoint
from callbacks.boosting import BoostedTrees
from callbacks.handover import Handover
from callbacks.thresholds import FittedThresholds
from datamodules.batch import Batch, DataFacts
from ops.errors import TreesError
from tasks import boosting
from tasks.avalanches import AvalanchesTask
from tests.callbacks.shared import Given
from tests.datamodules.helpers import csv_rows
from tests.scripted import quiet_trainer

GENERATOR = torch.Generator().manual_seed(0)


def windows(count: int) -> tuple[Tensor, Tensor]:
    """Windows that are smooth and rough in turns, and whether they are rough."""
    label = (torch.arange(count) % 2).float()
    spread = torch.where(label > 0, 0.3, 0.02).view(-1, 1, 1, 1)
    return (0.5 + spread * torch.randn(count, 3, 17, 17, generator=GENERATOR)).clamp(0, 1), label


class Windows(Given):
    """Windows, and an image half of which is rough."""

    def __init__(self) -> None:
        mask = torch.zeros(1, 1, 40, 60)
        mask[..., 30:] = 1
        image = (0.5 + (0.02 + 0.28 * mask) * torch.randn(1, 3, 40, 60, generator=GENERATOR)).clamp(0, 1)
        train: list[Batch] = [dict(zip(("image", "label"), windows(32), strict=True)) for _ in range(6)]
        super().__init__(train, [{"image": image, "mask": mask}], DataFacts(window=17))

    def training_windows(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(0, count, 50):
            yield windows(50)


@pytest.mark.parametrize("on", ["predictions", "features"])
def test_trees_lie_beside_the_best_epoch_and_are_read_from_there(on: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = AvalanchesTask("cnn2d", window=17, xgboost_on=on, second_input="none")
    trees = BoostedTrees(windows=400, rounds=20, max_depth=2)
    data = Windows()
    thresholds = FittedThresholds()  # even behind the trees it fits the network's decision
    callbacks = BestCheckpoint("val/dice", "max"), trees, thresholds, Handover(data)
    quiet_trainer(tmp_path, *callbacks, max_epochs=1).fit(task, datamodule=data)
    best = tmp_path / "checkpoints" / "best.ckpt"
    booster = boosting.load(best.with_suffix(".ubj"))
    assert booster.num_boosted_rounds() == 20
    images, label = windows(200)
    features = boosting.window_features(task.network, on, images).detach().numpy()
    assert ((booster.inplace_predict(features) > 0.5) == (label.numpy() > 0.5)).mean() > 0.9
    again = AvalanchesTask.load_from_checkpoint(best, map_location="cpu")
    assert torch.equal(again.boosted_decision.thresholds, task.boosted_decision.thresholds)
    kept = torch.load(best, weights_only=True)["state_dict"]
    for name, key in (("thresholds", "decision"), ("boosted_thresholds", "boosted_decision")):
        [row] = csv_rows(tmp_path / f"{name}.csv")
        assert float(row["dice_fitted"]) > 0.7
        assert kept[f"{key}.thresholds"].item() == pytest.approx(float(row["threshold"]))
    tester = quiet_trainer(tmp_path / "test", BoostedTrees())
    tester.test(again, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
    assert tester.callback_metrics["test/boosted_dice"] > 0.7
    best.with_suffix(".ubj").unlink()
    with pytest.raises(TreesError, match=r"no file .*best\.ubj"):
        tester.test(again, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)


def test_training_removes_old_trees(tmp_path: Path) -> None:
    old = tmp_path / "checkpoints" / "best.ubj"
    old.parent.mkdir()
    old.write_bytes(b"old")
    trainer = quiet_trainer(tmp_path, BestCheckpoint("val/dice", "max"), BoostedTrees(), max_epochs=1)
    trainer.fit(AvalanchesTask("cnn2d", window=17), datamodule=Windows())
    assert not old.exists(), "xgboost_on is none"


def test_arguments_out_of_range_are_rejected() -> None:
    for options in ({"windows": 0}, {"rounds": 0}, {"max_depth": 0}, {"learning_rate": 0}, {"learning_rate": 1.5}):
        with pytest.raises(ValueError, match="at least 1 and a rate"):
            BoostedTrees(**options)


def test_the_best_pass_on_validation_images_is_final(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    task, data = AvalanchesTask("cnn2d", window=17, xgboost_on="predictions"), Windows()
    callbacks = BestCheckpoint("val/dice", "max"), FittedThresholds(), BoostedTrees(400, 5, 1), Handover(data)
    with caplog.at_level("INFO"):
        quiet_trainer(tmp_path, *callbacks, max_epochs=1).fit(task, datamodule=data)
    [first], [trees] = (csv_rows(tmp_path / f"{name}thresholds.csv") for name in ("", "boosted_"))
    seconds = {row["pass"]: row for row in csv_rows(tmp_path / "second_thresholds.csv")}
    rows = {"first": first, **seconds, "boosted": trees}
    dice = {name: float(row["dice_fitted"]) for name, row in rows.items()}
    assert list(dice) == ["first", "edges", "enhanced", "boosted"]
    best = tmp_path / "checkpoints" / "best.ckpt"
    again = AvalanchesTask.load_from_checkpoint(best, map_location="cpu")
    again.trees = task.trees
    assert again.validation_dice.tolist() == pytest.approx(list(dice.values()), abs=1e-4)
    best = max(dice, key=lambda name: dice[name])
    assert again.final == (best if dice[best] >= dice["first"] + 0.01 else "first")
    assert again.second_decisions["edges"].thresholds.item() == pytest.approx(float(rows["edges"]["threshold"]))
    assert f"write the pass {again.final!r}" in caplog.text
    [metrics] = quiet_trainer(tmp_path / "test").test(again, data, verbose=False)
    names = {"first": "", "edges": "second_edges_", "enhanced": "second_enhanced_", "boosted": "boosted_"}
    for name, prefix in names.items():  # tested on the images that were validated on
        assert metrics[f"test/{prefix}dice"] == pytest.approx(dice[name], abs=1e-4)
