import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.best import BestCheckpoint
from callbacks.boosting import BoostedTrees
from callbacks.handover import Handover
from callbacks.thresholds import FittedThresholds
from datamodules.batch import Batch, DataFacts
from ops.errors import TreesError
from tasks import boosting
from tasks.avalanches import AvalanchesTask


class Windows(LightningDataModule):
    """Windows that are rough or smooth, and a picture half of which is rough."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def windows(self, count: int) -> tuple[Tensor, Tensor]:
        label = (torch.arange(count) % 2).float()
        spread = torch.where(label > 0, 0.3, 0.02).view(-1, 1, 1, 1)
        return (0.5 + spread * torch.randn(count, 3, 17, 17, generator=self.generator)).clamp(0, 1), label

    def training_windows(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(0, count, 50):
            yield self.windows(50)

    def facts(self) -> DataFacts:
        return DataFacts(window=17)

    def unaugmented(self, split: str) -> Iterator[Batch]:
        assert split == "val"
        yield from self.val_dataloader()

    def fingerprint(self) -> str:
        return ""

    def picture_names(self) -> dict[str, list[str]]:
        return {}

    def train_dataloader(self) -> DataLoader[Any]:
        batches = [dict(zip(("image", "label"), self.windows(32), strict=True)) for _ in range(6)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a data set

    def val_dataloader(self) -> DataLoader[Any]:
        mask = torch.zeros(1, 1, 40, 60)
        mask[..., 30:] = 1
        image = (0.5 + (0.02 + 0.28 * mask) * torch.randn(1, 3, 40, 60, generator=self.generator)).clamp(0, 1)
        return DataLoader([{"image": image, "mask": mask}], batch_size=None)  # type: ignore[arg-type]


def make_trainer(folder: Path, *callbacks: Any, epochs: int = 1) -> Trainer:
    return Trainer(accelerator="cpu", default_root_dir=folder, max_epochs=epochs, logger=False, num_sanity_val_steps=0,
                   enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks))  # fmt: skip


@pytest.mark.parametrize("on", ["predictions", "features"])
def test_trees_lie_beside_the_best_epoch_and_are_read_from_there(on: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = AvalanchesTask("cnn2d", window=17, xgboost_on=on, second_input="none")
    trees = BoostedTrees(windows=400, rounds=20, max_depth=2)
    data = Windows()
    thresholds = FittedThresholds()  # even behind the trees it fits the network's decision
    trainer = make_trainer(tmp_path, BestCheckpoint("val/dice", "max"), trees, thresholds, Handover(data))
    trainer.fit(task, datamodule=data)
    best = tmp_path / "checkpoints" / "best.ckpt"
    booster = boosting.load(best.with_suffix(".ubj"))
    assert booster.num_boosted_rounds() == 20
    windows, label = data.windows(200)
    features = boosting.window_features(task.network, on, windows).detach().numpy()
    assert ((booster.inplace_predict(features) > 0.5) == (label.numpy() > 0.5)).mean() > 0.9
    again = AvalanchesTask.load_from_checkpoint(best, map_location="cpu")
    assert torch.equal(again.boosted_decision.thresholds, task.boosted_decision.thresholds)
    kept = torch.load(best, weights_only=True)["state_dict"]
    for name in ("thresholds", "boosted_thresholds"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            [row] = csv.DictReader(file)
        assert float(row["dice_fitted"]) > 0.7
        key = "decision" if name == "thresholds" else "boosted_decision"
        assert kept[f"{key}.thresholds"].item() == pytest.approx(float(row["threshold"]))
    data.test_dataloader = data.val_dataloader  # type: ignore[method-assign]
    tester = make_trainer(tmp_path / "test", BoostedTrees())
    tester.test(again, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
    assert tester.callback_metrics["test/boosted_dice"] > 0.7


def test_old_trees_are_gone_while_their_network_is_trained_on(tmp_path: Path) -> None:
    old = tmp_path / "checkpoints" / "best.ubj"
    old.parent.mkdir()
    old.write_bytes(b"old")
    make_trainer(tmp_path, BestCheckpoint("val/dice", "max"), BoostedTrees()).fit(
        AvalanchesTask("cnn2d", window=17), datamodule=Windows()
    )
    assert not old.exists(), "xgboost_on is none"


def test_missing_trees_are_told(tmp_path: Path) -> None:
    task = AvalanchesTask("cnn2d", window=17, xgboost_on="features")
    trainer = make_trainer(tmp_path, BoostedTrees())
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    data = Windows()
    data.test_dataloader = data.val_dataloader  # type: ignore[method-assign]
    with pytest.raises(TreesError, match=r"no file .*best\.ubj"):
        trainer.test(task, datamodule=data, ckpt_path=tmp_path / "best.ckpt", weights_only=True)


def test_numbers_out_of_range_are_refused() -> None:
    for options in ({"windows": 0}, {"rounds": 0}, {"max_depth": 0}, {"learning_rate": 0}, {"learning_rate": 1.5}):
        with pytest.raises(ValueError, match="expected integers of at least 1 and a rate in"):
            BoostedTrees(**options)
