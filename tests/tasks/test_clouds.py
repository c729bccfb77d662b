from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.samples.clouds import CLOUD_CLASSES, cloud_picture
from tasks.base import Batch
from tasks.clouds import CloudsTask
from tasks.networks.backbones import encoder_of
from tests.checks import rejects, rejects_weights
from tests.tasks.helpers import Trainers, changed, loader, logged, reloaded, state, unmoved

SCORES = ("dice", "dice_positive", "dice_global", "auprc")
NAMES = {"loss", *SCORES} | {f"{score}_{name.lower()}" for score in ("dice", "auprc") for name in CLOUD_CLASSES}


@pytest.fixture(scope="module")
def pictures() -> Batch:
    """Two drawn pictures."""
    rng = np.random.default_rng(0)
    drawn = [cloud_picture(rng, (64, 96), classes, gap=False) for classes in (["Fish", "Sugar"], ["Gravel"])]
    images = [torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 255 for picture, _ in drawn]
    empty = np.zeros((64, 96), dtype=bool)
    masks = [np.stack([found.get(name, empty) for name in CLOUD_CLASSES]) for _, found in drawn]
    return {"image": torch.stack(images), "mask": torch.from_numpy(np.stack(masks)).float(), "name": ["a.jpg", "b.jpg"]}


@pytest.fixture
def simple() -> CloudsTask:
    """A task whose network is a picture's red and green: probabilities that can be worked out by hand."""
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=["Red", "Green"])
    task.network = nn.Conv2d(3, 2, 1, bias=False)
    task.network.weight.data = torch.tensor([[4.0, 0, 0], [0, 4.0, 0]]).view(2, 3, 1, 1)
    return task.eval()


def nadam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=3e-3)


def test_overfits_two_images_and_logs_its_names(make_trainer: Trainers, pictures: Batch) -> None:
    torch.manual_seed(0)
    task = CloudsTask(architecture="pspnet", pretrained=False, optimizer=nadam)
    trainer = make_trainer(max_epochs=5)
    before = make_trainer().validate(task, loader(pictures), verbose=False)[0]
    trainer.fit(task, loader(pictures, times=20), loader(pictures))
    after = logged(trainer)
    assert after.keys() == {f"{stage}/{name}" for stage in ("train", "val") for name in NAMES}
    assert before["val/dice_positive"] < 0.5
    for stage in ("train", "val"):
        assert after[f"{stage}/dice"] > 0.9
        assert after[f"{stage}/dice_positive"] > 0.9
        assert after[f"{stage}/auprc"] > 0.9
        assert after[f"{stage}/loss"] < 0.1 * before["val/loss"]
    trainer.test(task, loader(pictures), verbose=False)
    half = {f"{name}_at_half" for name in NAMES if "dice" in name and name != "dice_global"}
    assert trainer.callback_metrics.keys() == {f"test/{name}" for name in NAMES | half}


def test_a_checkpoint_restores_the_task(
    make_trainer: Trainers, pictures: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = CloudsTask(architecture="pspnet", encoder="resnet18", pretrained=False, classes=["a", "b", "c", "d"])
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(pictures))
    task.decision.thresholds.copy_(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    task.decision.minimum_areas.fill_(0.02)
    task.hparams["pretrained"] = True  # as in most runs; the checkpoint alone must suffice
    monkeypatch.setattr("tasks.segmentation.load_encoder", lambda *_: pytest.fail("loads weights"))
    loaded = reloaded(task, trainer, tmp_path, weights_only=True)
    assert loaded.hparams.keys() == {"architecture", "encoder", "pretrained", "freeze_encoder", "classes", "loss",
                                     "presence_head", "encoder_lr", "tta", "border", "pretrained_bands",
                                     "encoder_frozen_steps", "channels"}  # fmt: skip
    assert loaded.classes == ["a", "b", "c", "d"]
    batch = {"image": torch.rand(2, 3, 41, 57)}
    expected, found = task.eval().predict(batch), loaded.predict(batch)
    assert found.keys() == {"probability"}
    assert torch.equal(found["probability"], expected["probability"])
    assert torch.equal(loaded.masks(found["probability"]), task.masks(expected["probability"]))
    torch.testing.assert_close(loaded.decision.thresholds, torch.tensor([0.2, 0.4, 0.6, 0.8]))


def test_invalid_pixels_change_neither_loss_nor_prediction(simple: CloudsTask) -> None:
    image = torch.rand(2, 3, 6, 8)
    valid = torch.ones(2, 1, 6, 8, dtype=torch.bool)
    valid[0, ..., :3] = False
    target = (torch.rand(2, 2, 6, 8) > 0.5).float()
    other_image, other_target = (torch.where(valid, value, 1 - value) for value in (image, target))
    step = simple.step({"image": image, "mask": target, "valid": valid})
    other = simple.step({"image": other_image, "mask": other_target, "valid": valid})
    torch.testing.assert_close(step.loss, other.loss)
    assert torch.equal(step.prediction, other.prediction)
    assert torch.equal(step.probability, other.probability)
    assert not step.prediction[0, ..., :3].any()
    assert not simple.predict({"image": image, "valid": valid})["probability"][0, ..., :3].any()
    simple.step({"image": image.requires_grad_(), "mask": target, "valid": valid}).loss.backward()
    assert (image.grad[0, ..., :3] == 0).all()
    assert (image.grad[1, :2] != 0).all()


@pytest.mark.parametrize("size", [(6, 8), (12, 16), (9, 13), (4, 5)])
@pytest.mark.parametrize("gap", [False, True])
def test_steps_score_the_masks_that_are_written(simple: CloudsTask, size: tuple[int, int], gap: bool) -> None:
    simple.decision.thresholds.copy_(torch.tensor([0.3, 0.8]))
    simple.decision.minimum_areas.fill_(0.02)
    image = torch.rand(3, 3, 6, 8)
    batch: Batch = {"image": image, "mask": torch.zeros(3, 2, *size)}
    if gap:
        batch["valid"] = torch.rand(3, 1, 6, 8) > 0.3
    scored = simple.step(batch).prediction
    assert scored.shape == (3, 2, *size)
    del batch["mask"]
    written = simple.predict(batch)["probability"]
    assert written.shape[-2:] == (6, 8)
    assert torch.equal(simple.masks(written, size), scored)
    assert 0.2 < scored.float().mean() < 0.9


def test_masks_apply_threshold_area_and_size(simple: CloudsTask) -> None:
    probability = torch.zeros(1, 2, 10, 10)
    probability[..., :4, :4] = 0.3  # 16 hundredths of the picture
    probability[..., 8:, 8:] = 0.9  # 4 hundredths
    simple.decision.thresholds.copy_(torch.tensor([0.3, 0.5]))

    def areas(size: tuple[int, int] | None = None) -> list[float]:
        found: Tensor = simple.masks(probability, size)
        assert found.dtype == torch.bool
        assert found.shape[-2:] == (size or (10, 10))
        return found[0].float().mean(dim=(1, 2)).tolist()

    assert areas() == pytest.approx([0.20, 0.04])  # 0.3 reaches the first class's threshold
    simple.decision.minimum_areas.copy_(torch.tensor([0.1, 0.0]))
    assert areas() == pytest.approx([0.16, 0.04])
    simple.decision.minimum_areas.copy_(torch.tensor([0.0, 0.1]))
    assert areas() == pytest.approx([0.20, 0.0])
    simple.decision.minimum_areas.fill_(0.0)
    simple.decision.thresholds.fill_(0.15)  # half of 0.3: the enlarged outline stays where it was
    assert areas((30, 40)) == pytest.approx([0.2, 0.2], abs=0.02)


def test_a_frozen_encoder_does_not_change(make_trainer: Trainers, pictures: Batch) -> None:
    task = CloudsTask(architecture="pspnet", pretrained=False, freeze_encoder=True, optimizer=nadam)
    before, trainer = state(task.network), make_trainer(max_epochs=2)
    trainer.fit(task, loader(pictures), loader(pictures))
    moved = changed(task.network, before)
    assert any("running_mean" in name for name in moved)
    assert any("running_mean" in name for name in before if ".encoder." in name)
    assert not any(".encoder." in name for name in moved)
    with_state = {id(parameter) for parameter in trainer.optimizers[0].state}
    assert with_state
    assert not with_state & {id(parameter) for parameter in encoder_of(task.network).parameters()}


def test_pretrained_fills_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("tasks.segmentation.load_encoder", lambda network, *what: asked.append((network, *what)))
    task = CloudsTask(architecture="pspnet", encoder="resnet18", pretrained="weights.pt")
    assert asked == []  # making a task reads no file: a checkpoint would want it
    task.load_pretrained()
    assert asked == [(task.network, "resnet18", "weights.pt", None)]
    noise = CloudsTask(architecture="pspnet", pretrained=False, freeze_encoder=True)
    rejects_weights(r"freeze_encoder is true.*--model\.freeze_encoder", noise.load_pretrained)


def test_training_restores_the_default_decision() -> None:
    task = CloudsTask(pretrained=False)
    task.decision.thresholds.fill_(0.2)
    task.decision.minimum_areas.fill_(0.1)
    task.on_fit_start()
    assert task.decision.thresholds.tolist() == [0.5] * 4
    assert task.decision.minimum_areas.tolist() == [0.0] * 4


@pytest.mark.parametrize(("architecture", "tta"), [("pspnet", "none"), ("fpn", "flip"), ("unet", "none")])
def test_a_presence_head_marks_only_classes_that_are_there(
    architecture: Any, tta: Any, make_trainer: Trainers, pictures: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = CloudsTask(architecture=architecture, pretrained=False, presence_head=True, tta=tta, optimizer=nadam)
    plain = CloudsTask(architecture=architecture, pretrained=False)
    head = {name for name, _ in task.network.named_parameters()} - {
        name for name, _ in plain.network.named_parameters()
    }
    assert {name.rpartition(".")[0] for name in head} == {"1.network.classification_head.3"}
    outputs = task.eval()(pictures["image"])
    assert outputs.shape == (2, 8, 64, 96)
    assert (outputs[:, 4:] == outputs[:, 4:, :1, :1]).all(), "one value per image"
    target = pictures["mask"]
    expected = plain.loss(outputs[:, :4], target, None) + 0.1 * nn.functional.binary_cross_entropy_with_logits(
        outputs[:, 4:, 0, 0], target.amax(dim=(2, 3))
    )
    assert task.step(pictures).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not unmoved(task.train(), pictures)
    task.eval()
    presence = task.presence(pictures)
    free = task.probability(pictures)
    assert presence is not None
    assert presence.shape == (2, 4)
    task.decision.presence_thresholds.copy_(presence.sort(dim=0).values[1])  # the higher one of both images
    gated = task.probability(pictures)
    assert torch.equal(gated.flatten(2).any(dim=2), presence >= task.decision.presence_thresholds)
    assert torch.equal(gated[gated > 0], free[gated > 0])
    assert torch.equal(task.predict({"image": pictures["image"]})["probability"], gated)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(pictures))
    task.decision.presence_thresholds.fill_(0.4)
    again = reloaded(task, trainer, tmp_path)
    assert again.decision.presence_thresholds.tolist() == pytest.approx([0.4] * 4)
    assert again.presence_head


def test_only_segmentation_networks_have_a_presence_head() -> None:
    rejects("no presence head", CloudsTask, architecture="features", encoder="resnet18", presence_head=True)
