"""Pixels whose truth is not known count in no loss, metric or fitted threshold of any task."""

from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.thresholds import fit_decisions
from datamodules.batch import Batch
from tasks.avalanches import AvalanchesTask
from tasks.clouds import CloudsTask
from tasks.metrics.meter import Meter
from tasks.roads import RoadsTask
from tasks.segmentation import SegmentationTask
from tests.tasks.helpers import Trainers

SIZE = (32, 48)
TASKS = {
    "clouds": lambda: CloudsTask(architecture="pspnet", pretrained=False, classes=["Fish", "Sugar"]),
    "roads": lambda: RoadsTask("pspnet"),
    "avalanches": lambda: AvalanchesTask("cnn2d", window=17, second_input="none"),
    "focal and dice": lambda: RoadsTask("pspnet", loss="focal_dice"),
    "lovasz": lambda: RoadsTask("pspnet", loss="bce_lovasz"),
}


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def regions(*shape: int, seed: int) -> Tensor:
    """Random maps in [0, 1] that are smooth, so that they have regions."""
    rough = random(*shape[:2], 4, 6, seed=seed)
    return torch.nn.functional.interpolate(rough, shape[2:], mode="bilinear", align_corners=True)


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> SegmentationTask:
    torch.manual_seed(0)
    made: SegmentationTask = TASKS[request.param]().eval()
    return made


@pytest.fixture
def batch(task: SegmentationTask) -> Batch:
    """Three images, of which the last is ignored as a whole."""
    ignored = regions(3, 1, *SIZE, seed=1) > 0.6
    ignored[2] = True
    mask = (regions(3, len(task.classes), *SIZE, seed=2) > 0.5).float()
    return {"image": random(3, 3, *SIZE, seed=3), "mask": mask, "ignored": ignored, "name": ["a", "b", "c"]}


def outcomes(
    task: SegmentationTask, logits: Tensor, batch: Batch, monkeypatch: pytest.MonkeyPatch, trainer: Any
) -> list[Any]:
    """Loss, metrics, metrics with a minimum area, and the fitted decision."""
    monkeypatch.setattr(task, "outputs", lambda batch: logits)
    found: list[Any] = []
    task.decision.reset()
    for areas in (0.0, 0.05):
        task.decision.minimum_areas.fill_(areas)
        step = task.step(batch)
        meter = Meter(task.build_metrics())
        meter.update(step, len(batch["image"]))
        found.append({name: value.item() for name, value in meter.result().items()})
    for decisions in task.fit_order():
        for fitted in fit_decisions(trainer, task, decisions, [batch]).values():
            found.append({name: value.tolist() for name, value in fitted.items()})
    return found


@pytest.mark.parametrize("invalid", [False, True])
def test_pixels_under_ignore_change_nothing(
    task: SegmentationTask, batch: Batch, invalid: bool, monkeypatch: pytest.MonkeyPatch, make_trainer: Trainers
) -> None:
    if invalid:
        batch["valid"] = regions(3, 1, *SIZE, seed=4) > 0.2
    trainer = make_trainer(limit_val_batches=1)
    monkeypatch.setattr("callbacks.thresholds.validation_batches", lambda trainer: 1)
    ignored = batch["ignored"]
    logits = 6 * regions(3, len(task.classes), *SIZE, seed=5) - 3
    before = outcomes(task, logits, batch, monkeypatch, trainer)
    other_truth = batch | {"mask": torch.where(ignored, 1 - batch["mask"], batch["mask"])}
    assert outcomes(task, logits, other_truth, monkeypatch, trainer) == before
    for value in (-9.0, 9.0):
        assert outcomes(task, logits.masked_fill(ignored, value), batch, monkeypatch, trainer) == before
    counted = {key: value for key, value in other_truth.items() if key != "ignored"}
    assert outcomes(task, logits, counted, monkeypatch, trainer) != before, "without `ignored` they count"


def test_the_loss_has_no_gradient_under_ignore(
    task: SegmentationTask, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.zeros(3, len(task.classes), *SIZE, requires_grad=True)
    monkeypatch.setattr(task, "outputs", lambda batch: logits)
    task.step(batch).loss.backward()
    assert logits.grad is not None
    ignored = batch["ignored"].expand_as(logits)
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()


def test_metrics_are_those_of_the_other_pixels(
    task: SegmentationTask, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of each image is ignored: the metrics are those of images cut in half."""
    batch["ignored"] = torch.zeros(3, 1, *SIZE, dtype=torch.bool)
    batch["ignored"][..., 24:] = True
    logits = 6 * regions(3, len(task.classes), *SIZE, seed=5) - 3
    found = []
    for cut in (batch, {"image": batch["image"][..., :24], "mask": batch["mask"][..., :24]}):
        shown = logits[..., : cut["mask"].shape[-1]]
        monkeypatch.setattr(task, "outputs", lambda batch, shown=shown: shown)
        meter = Meter({name: metric for name, metric in task.build_metrics().items() if name != "boundary"})
        meter.update(task.step(cut), 3)
        found.append({name: value.item() for name, value in meter.result().items()})
    assert found[0] == pytest.approx(found[1], abs=1e-6)
