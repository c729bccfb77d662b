"""A task of a few lines, as a newcomer writes it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from tasks.avalanches import AvalanchesTask
from tasks.clouds import CloudsTask
from tasks.networks.backbones import encoder_of
from tasks.roads import RoadsTask
from tasks.segmentation import SegmentationTask
from tests.checks import rejects
from tests.tasks.helpers import Trainers, changed, loader, logged, reloaded, state


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
                              "freeze_encoder": False, "loss": "bce_dice", "encoder_lr": 1.0,
                              "tta": "none", "border": 0, "pretrained_bands": None,
                              "encoder_frozen_steps": 0, "presence_head": False, "channels": 3}  # fmt: skip
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


def test_test_time_views_are_averaged_outside_of_fit_only(images: Batch) -> None:
    task = IceTask("pspnet", pretrained=False, tta="d4").eval()
    plain = IceTask("pspnet", pretrained=False).eval()
    plain.load_state_dict(task.state_dict())
    batch = images | {"valid": images["mask"] > 0}
    views = [torch.rot90(images["image"], turn, (2, 3)) for turn in range(4)]
    maps = [plain.probability({"image": view}) for view in views]
    maps += [plain.probability({"image": view.flip(3)}).flip(3) for view in views]
    expected = (
        torch.stack([torch.rot90(each, -turn, (2, 3)) for turn, each in enumerate(maps)]).mean(0) * batch["valid"]
    )
    for found in (task.probability(batch), task.predict(batch)["probability"], task.step(batch).probability):
        assert found is not None
        torch.testing.assert_close(found, expected)
    task._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    assert torch.equal(task.step(batch).probability, plain.step(batch).probability)  # type: ignore[arg-type]
    torch.testing.assert_close(task.probability(batch), expected)  # the threshold search, which ends fit


def test_members_are_averaged(images: Batch) -> None:
    tasks = [IceTask("pspnet", pretrained=False, tta=tta).eval() for tta in ("none", "flip")]
    alone = [task.probability(images) for task in tasks]
    tasks[0].members = [tasks[1]]
    keys = tasks[0].state_dict().keys()
    for found in (tasks[0].probability(images), tasks[0].step(images).probability):
        torch.testing.assert_close(found, (alone[0] + alone[1]) / 2)
    assert keys == tasks[1].state_dict().keys()


@pytest.mark.parametrize(("match", "settings"), [("tta", {"tta": "d8"}), ("loss", {"loss": "mse"}),
                                                 ("encoder_lr", {"encoder_lr": 0.0}),
                                                 ("frozen_steps", {"encoder_frozen_steps": -1})])  # fmt: skip
def test_rejects(match: str, settings: dict[str, Any]) -> None:
    rejects(match, IceTask, pretrained=False, **settings)


SEGMENTING = [
    lambda border: IceTask("pspnet", pretrained=False, border=border),
    lambda border: CloudsTask(["cloud"], architecture="pspnet", pretrained=False, border=border),
    lambda border: RoadsTask("pspnet", border=border),
    lambda border: AvalanchesTask("pspnet", second_input="none", border=border),
]


def smoothing(task: SegmentationTask) -> SegmentationTask:
    """The task with a network that marks where the mean of 9 x 9 pixels is above one half, as far as the image goes."""
    task.network = nn.Sequential(nn.Conv2d(3, 1, 9, padding=4))
    nn.init.constant_(task.network[0].weight, 200 / (3 * 81))
    nn.init.constant_(task.network[0].bias, -100)
    return task.eval()


@pytest.mark.parametrize("make", SEGMENTING)
def test_a_texture_is_marked_at_the_edge_as_inside(make: Callable[[int], SegmentationTask]) -> None:
    texture = torch.rand(1, 3, 400, 400, generator=torch.Generator().manual_seed(0))
    at_edge = torch.ones(400, 400, dtype=torch.bool)
    at_edge[3:-3, 3:-3] = False
    shares = {}
    for border in (0, 4):
        task = smoothing(make(border))
        masks = task.masks(task.predict({"image": texture})["probability"])[0, 0]
        shares[border] = masks[at_edge].float().mean().item(), masks[~at_edge].float().mean().item()
    assert shares[0][0] < 0.01, "the network pads with zeros"
    assert shares[4][0] == pytest.approx(shares[4][1], abs=0.05)
    assert shares[4][1] == pytest.approx(shares[0][1], abs=0.01) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("make", SEGMENTING)
def test_the_halves_of_a_tile_that_was_cut_join(make: Callable[[int], SegmentationTask]) -> None:
    tile = torch.zeros(1, 3, 60, 80)
    tile[..., 20:35, :] = 0.8  # a road across the cut
    for border, joined in ((0, False), (4, True)):
        task = smoothing(make(border))
        whole, *halves = (task.masks(task.predict({"image": part})["probability"])
                          for part in (tile, tile[..., :37], tile[..., 37:]))  # fmt: skip
        again = torch.cat(halves, dim=-1)[0, 0]
        assert bool(again[27].all()) == joined, "the road goes on"
        if joined:
            assert torch.equal(again, whole[0, 0])


def test_an_encoder_is_frozen_for_some_steps(make_trainer: Trainers, images: Batch, tmp_path: Path) -> None:
    def task() -> IceTask:
        torch.manual_seed(0)
        return IceTask("pspnet", "resnet18", False, encoder_frozen_steps=2)

    def trained(epochs: int, start: Path | None = None) -> IceTask:
        made, trainer = task(), make_trainer(max_epochs=epochs)
        trainer.fit(made, loader(images, 2), ckpt_path=start)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return made

    before = state(encoder_of(task().network))
    frozen, thawed = trained(1), trained(2)
    assert changed(encoder_of(frozen.network), before) == set()
    assert changed(encoder_of(thawed.network), before) == before.keys()
    assert changed(frozen.network, state(task().network)), "the decoder is trained"
    assert changed(trained(2, tmp_path / "1.ckpt"), state(thawed)) == set(), "a resumed run is the same"


def test_a_test_also_measures_the_default_threshold(make_trainer: Trainers, images: Batch) -> None:
    task = IceTask("fpn", pretrained=False)
    [plain] = make_trainer().test(task, loader(images), verbose=False)
    assert plain["test/dice_at_half"] == plain["test/dice"], "also logged where nothing was fitted"
    task.decision.thresholds.fill_(1.1)  # marks nothing
    [fitted] = make_trainer().test(task, loader(images), verbose=False)
    names = {name for name in fitted if name.endswith("_at_half")}
    dice = {name for name in plain if "dice" in name and name != "test/dice_global" and name not in names}
    assert {f"{name}_at_half" for name in dice} == names
    assert {name: fitted[name] for name in names} == {name: plain[name.removesuffix("_at_half")] for name in names}
    assert fitted["test/dice"] != plain["test/dice"]


def test_presence_thresholds_do_not_change_the_metrics_at_threshold_half(make_trainer: Trainers, images: Batch) -> None:
    task = IceTask("fpn", pretrained=False, presence_head=True)
    [plain] = make_trainer().test(task, loader(images), verbose=False)
    task.decision.presence_thresholds.fill_(1.1)  # no class is present
    [fitted] = make_trainer().test(task, loader(images), verbose=False)
    assert fitted["test/dice"] != plain["test/dice"]
    assert fitted["test/dice_at_half"] == plain["test/dice_at_half"] == plain["test/dice"]
    assert (task.decision.presence_thresholds == 1.1).all()
