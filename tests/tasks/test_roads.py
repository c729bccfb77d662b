from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.samples.roads import road_tile
from ops.windows import Blend, Size, cut, window_grid
from tasks.base import Batch
from tasks.roads import RoadsTask
from tests.checks import rejects, rejects_weights
from tests.tasks.helpers import Trainers, changed, loader, logged, reloaded, state, unmoved
from tests.tasks.networks.helpers import convolutions

SCORES = ("dice", "dice_positive", "f_measure", "precision", "recall", "specificity", "accuracy", "iou")
NAMES = {"loss", *SCORES}


@pytest.fixture(scope="module")
def tiles() -> Batch:
    """Two drawn tiles with roads."""
    rng = np.random.default_rng(0)
    drawn = [road_tile(rng, (64, 64), roads=2) for _ in range(2)]
    images = [torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 255 for picture, _ in drawn]
    masks = [torch.from_numpy(mask > 127)[None].float() for _, mask in drawn]
    return {"image": torch.stack(images), "mask": torch.stack(masks), "name": ["a.png", "b.png"]}


@pytest.fixture
def simple() -> RoadsTask:
    """A task whose network is a picture's redness: probabilities that can be worked out by hand."""
    task = RoadsTask(threshold=0.7)
    task.network = nn.Conv2d(3, 1, 1, bias=False)
    task.network.weight.data = torch.tensor([4.0, 0, 0]).view(1, 3, 1, 1)
    return task.eval()


def test_overfits_two_tiles_and_logs_its_names(make_trainer: Trainers, tiles: Batch) -> None:
    torch.manual_seed(1)
    task = RoadsTask("pspnet", optimizer=lambda p: torch.optim.NAdam(p, lr=3e-3))
    trainer = make_trainer(max_epochs=4)
    trainer.fit(task, loader(tiles, times=20), loader(tiles))
    found = logged(trainer)
    assert found.keys() == {f"{stage}/{name}" for stage in ("train", "val") for name in NAMES}
    assert found["val/dice"] > 0.9
    assert found["val/f_measure"] > 0.9
    trainer.test(task, loader(tiles), verbose=False)
    of_roads = {"relaxed_precision", "relaxed_recall", "relaxed_f1", "apls"}
    half = {f"{name}_at_half" for name in NAMES if "dice" in name and name != "dice_global"}
    assert trainer.callback_metrics.keys() == {f"test/{name}" for name in NAMES | of_roads | half}


@pytest.mark.parametrize("network", ["vgg10", "vgg12", "vgg16", "unet", "fpn", "pspnet"])
def test_a_training_step_moves_every_parameter(network: Any, tiles: Batch) -> None:
    torch.manual_seed(0)
    assert unmoved(RoadsTask(network, optimizer=lambda p: torch.optim.SGD(p, lr=1.0)), tiles) == set()


def test_a_probability_equal_to_the_threshold_is_road(simple: RoadsTask, tiles: Batch) -> None:
    task = RoadsTask(threshold=0.5).eval()
    task.network = simple.network
    task.network.weight.data.zero_()
    assert task.step(tiles).prediction.all()


def test_step_and_predict_decide_at_the_threshold(simple: RoadsTask, tiles: Batch) -> None:
    probability = 1 / (1 + np.exp(-4 * tiles["image"][:, :1].numpy()))
    step, found = simple.step(tiles), simple.predict(tiles)
    assert step.probability is not None
    np.testing.assert_allclose(step.probability, probability, atol=1e-6)
    np.testing.assert_allclose(found["probability"], probability, atol=1e-6)
    sure = np.abs(probability - 0.7) > 1e-5
    assert found.keys() == {"probability"}
    for masks in (step.prediction, simple.masks(found["probability"])):
        np.testing.assert_array_equal(masks.numpy()[sure], (probability >= 0.7)[sure])
    truth = tiles["mask"].numpy()
    entropy = -(truth * np.log(probability) + (1 - truth) * np.log(1 - probability)).mean()
    assert step.loss.item() == pytest.approx(entropy, rel=1e-5)


def test_the_minimum_area_is_in_pixels_of_whole_images() -> None:
    assert RoadsTask(minimum_area=9).decision.least_areas((8, 16)) == [9 / 128]
    assert RoadsTask().decision.least_areas((8, 16)) == [0]
    task = RoadsTask(minimum_area=10_000).eval()
    assert task.decision.least_areas((8, 16)) == [1]
    probability = torch.zeros(1, 1, 8, 16)
    probability[..., :3, :3] = probability[..., 5:7, 5:9] = 1  # 9 and 8 pixels
    decision = RoadsTask(minimum_area=9).decision
    assert decision.eval().masks(probability)[0, 0].nonzero().max() == 2
    assert torch.equal(decision.train().masks(probability), probability > 0), "a training tile shows cut ends of roads"
    assert not task.decision.cleaned(np.arange(4096).reshape(1, 64, 64) > 0).any()


@pytest.mark.parametrize(("size", "window", "overlap"), [((50, 40), (16, 24), 0.25), ((10, 64), (32, 32), 0.0)])
def test_a_whole_image_is_measured_by_the_blend_of_its_windows(
    simple: RoadsTask, size: Size, window: Size, overlap: float
) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), np.uint8)
    grid = window_grid(size, window, overlap)
    inputs = [torch.from_numpy(cut(picture, each, window).transpose(2, 0, 1).copy()) for each in grid]
    mask = torch.from_numpy(rng.random((1, 1, *size)) < 0.3).float()
    batch = {
        "image": torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255,
        "mask": mask,
        "windows": torch.stack(inputs)[None],
        "window": torch.tensor([window]),
        "overlap": [overlap],
    }
    whole = simple.step({key: batch[key] for key in ("image", "mask")})
    simple.network = nn.Sequential(simple.network, nn.ZeroPad2d(-1), nn.ReplicationPad2d(1))  # wrong at their edges
    step = simple.step(batch)
    blend = Blend(size, window, overlap, 1)
    rows = [blend.add(simple.predict({"image": each[None].float() / 255})["probability"][0], origin)
            for each, origin in zip(inputs, grid, strict=True)]  # fmt: skip
    expected = torch.cat([*rows, blend.finish()], dim=1)[None]
    assert torch.equal(step.probability, expected)
    assert torch.equal(simple.predict(batch)["probability"], expected)
    assert torch.equal(step.prediction, expected >= 0.7)
    entropy = torch.nn.functional.binary_cross_entropy(expected, mask).item()
    assert step.loss.item() == pytest.approx(entropy, rel=1e-5)
    assert whole.loss.item() == pytest.approx(entropy, rel=0.2)
    rejects(
        "one whole image per batch, got 2",
        simple.step,
        batch | {"windows": torch.stack(inputs)[None].repeat(2, 1, 1, 1, 1)},
    )


def test_images_are_reflected_beyond_their_edges_outside_of_training() -> None:
    task, plain = RoadsTask(border=2), RoadsTask()
    box = nn.Conv2d(3, 1, 5, padding=2)
    task.network = plain.network = box
    image = torch.rand(2, 3, 9, 12)
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode="reflect"))
    expected = nn.functional.conv2d(padded, box.weight, box.bias).sigmoid()
    torch.testing.assert_close(task.eval().predict({"image": image})["probability"], expected)
    assert not torch.allclose(plain.eval().predict({"image": image})["probability"], expected)
    assert torch.equal(task.train().outputs({"image": image}), plain.train().outputs({"image": image}))
    even = task.eval().predict({"image": torch.full((1, 3, 9, 12), 0.3)})["probability"]
    torch.testing.assert_close(even, even[:, :, :1, :1].expand_as(even))  # the edge is like the inside
    assert task.predict({"image": image[..., :1, :]})["probability"].shape == (2, 1, 1, 12)
    rejects("border is -1", RoadsTask, border=-1)


def test_a_checkpoint_restores_the_task(make_trainer: Trainers, tiles: Batch, tmp_path: Path) -> None:
    task = RoadsTask("vgg10", threshold=0.4)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(tiles))
    again = reloaded(task, trainer, tmp_path)
    assert again.decision.thresholds.tolist() == pytest.approx([0.4])
    assert torch.equal(again.predict(tiles)["probability"], task.eval().predict(tiles)["probability"])


def test_rejects_wrong_arguments_and_missing_weights(tmp_path: Path) -> None:
    rejects("'vgg10' has no pretrained weights", RoadsTask, "vgg10", pretrained=True)
    rejects("vgg10, vgg12", RoadsTask, "vgg11")
    rejects("norm is 'batch'.* network 'unet'.* vgg10, vgg12, vgg16", RoadsTask, "unet", norm="batch")
    rejects("init 'he' and network 'unet'", RoadsTask, "unet", init="he")
    rejects(r"threshold is 1\.5 .*probability", RoadsTask, threshold=1.5)
    rejects("minimum_area -1", RoadsTask, minimum_area=-1)
    gone = RoadsTask("vgg16", pretrained=str(tmp_path / "gone.safetensors"))
    rejects_weights(r"weights file .*gone\.safetensors", gone.load_pretrained)


def test_the_last_bias_starts_at_the_share_of_road(make_trainer: Trainers, tiles: Batch, tmp_path: Path) -> None:
    task = RoadsTask("vgg10", norm="batch", prior_bias=True, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    task.prepare([tiles, {"mask": tiles["mask"][:1]}])
    marked = tiles["mask"].sum() + tiles["mask"][0].sum()
    share = (marked + 1) / (3 * 64 * 64 + 2)
    bias = convolutions(task.network)[-1].bias
    assert bias is not None
    assert bias.sigmoid().item() == pytest.approx(share.item(), rel=1e-5)
    assert all(layer.bias is None for layer in convolutions(task.network)[:-1])
    make_trainer(max_epochs=1).fit(task, loader(tiles))
    moved = bias.item()
    trainer = make_trainer(max_epochs=1)
    trainer.strategy.connect(task)
    again = reloaded(task, trainer, tmp_path)
    again.prepare([tiles])  # as a resumed run does
    [*_, last] = convolutions(again.network)
    assert last.bias is not None
    assert last.bias.item() == moved
    assert "prior" not in RoadsTask("vgg10").state_dict()


def test_without_any_road_the_last_bias_is_finite() -> None:
    task = RoadsTask("unet", prior_bias=True)
    task.prepare([{"mask": torch.zeros(1, 1, 8, 8)}])
    [*_, last] = convolutions(task.network)
    assert last.bias is not None
    assert last.bias.sigmoid().item() == pytest.approx(1 / 66, rel=1e-5)


def test_checkpoints_restore_fitted_thresholds_unless_one_is_given(make_trainer: Trainers, tmp_path: Path) -> None:
    task, trainer = RoadsTask(threshold=0.4), make_trainer()
    task.decision.thresholds.fill_(0.7)  # as FittedThresholds does
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    old = torch.load(tmp_path / "new.ckpt", weights_only=True)
    for key in RoadsTask.optional_keys:  # as commit 66ad3a8 wrote them
        del old["state_dict"][key]
    del old["threshold"]
    torch.save(old, tmp_path / "old.ckpt")
    for name, options, expected in (("new", {}, 0.7), ("new", {"threshold": 0.9}, 0.9), ("old", {}, 0.4),
                                    ("old", {"threshold": 0.9}, 0.9)):  # fmt: skip
        again = RoadsTask.load_from_checkpoint(tmp_path / f"{name}.ckpt", map_location="cpu", **options)
        assert again.decision.thresholds.item() == pytest.approx(expected)


@pytest.mark.real
def test_vgg16_starts_from_a_weights_file(real_data: Path) -> None:
    weights = real_data.parent / "weights" / "vgg16_features_fp16.safetensors"
    if not weights.is_file():
        pytest.skip("no VGG16 weights beside BELVEDERE_DATA")
    task, scratch = (RoadsTask("vgg16", pretrained=pretrained) for pretrained in (str(weights), False))
    before = state(task.network)
    task.load_pretrained()
    scratch.load_pretrained()
    moved = changed(task.network, before)
    assert moved == {name for name in before if ".features." in name}
    assert len(moved) == 26
    normalized = RoadsTask("vgg16", pretrained=str(weights), norm="batch", init="he")
    before = state(normalized.network)
    normalized.load_pretrained()
    plain, own = (
        [value for name, value in state(each.network).items() if ".features." in name and value.ndim == 4]
        for each in (task, normalized)
    )
    assert len(own) == 13
    assert all(torch.equal(*pair) for pair in zip(plain, own, strict=True))
    assert len(changed(normalized.network, before)) == 13
