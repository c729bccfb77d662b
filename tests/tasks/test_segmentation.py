"""A task of a few lines, as a newcomer writes it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from tasks.segmentation import SegmentationTask
from tests.checks import rejects
from tests.tasks.helpers import Trainers, loader, logged, reloaded


class IceTask(SegmentationTask):
    """Masks of glaciers in satellite images."""

    classes = ("glacier",)


@pytest.fixture(scope="module")
def images() -> Batch:
    """Two images whose bright half is glacier."""
    mask = torch.zeros(2, 1, 32, 48)
    mask[0, :, :16], mask[1, :, :, 24:] = 1, 1
    noise = 0.1 * torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return {"image": 0.3 + 0.5 * mask + noise, "mask": mask, "name": ["a.png", "b.png"]}


def test_a_class_name_makes_a_task(make_trainer: Trainers, images: Batch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = IceTask("pspnet", pretrained=False, optimizer=lambda p: torch.optim.NAdam(p, lr=3e-3))
    trainer = make_trainer(max_epochs=4)
    trainer.fit(task, loader(images, 20), loader(images))
    found, names = logged(trainer), ("loss", "dice", "dice_positive", "dice_global", "auprc")
    assert found.keys() == {f"{stage}/{name}" for stage in ("train", "val") for name in names}
    assert found["val/dice"] > 0.9
    assert task.headline in names
    loaded = reloaded(task, trainer, tmp_path)
    assert loaded.hparams == {"architecture": "pspnet", "encoder": "mobilenet_v2", "pretrained": False,
                              "freeze_encoder": False}  # fmt: skip
    probability = loaded.predict(images)["probability"]
    assert torch.equal(probability, task.eval().predict(images)["probability"])
    assert (loaded.masks(probability) == (images["mask"] > 0.5)).float().mean() > 0.9


def test_step_predict_and_threshold_search_share_one_path(images: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    task = IceTask("pspnet", pretrained=False).eval()
    monkeypatch.setattr(task, "activate", lambda outputs, batch: torch.full_like(batch["mask"], 0.7))
    for found in (task.step(images).probability, task.predict(images)["probability"], task.probability(images)):
        assert found is not None
        assert torch.equal(found, torch.full((2, 1, 32, 48), 0.7))


def test_target_decides_whether_invalid_pixels_count(images: Batch) -> None:
    class Kept(IceTask):
        def target(self, batch: Batch) -> Tensor:
            return super().target(batch) * batch["valid"]

    batch = images | {"valid": torch.zeros(2, 1, 32, 48, dtype=torch.bool)}
    missed, skipped = (task("pspnet", pretrained=False).eval().step(batch) for task in (IceTask, Kept))
    assert torch.equal(missed.target, images["mask"])
    assert not skipped.target.any()
    assert not missed.prediction.any()
    assert missed.loss == skipped.loss


def test_rejects_a_task_without_classes() -> None:
    rejects("one or more different names", SegmentationTask)
