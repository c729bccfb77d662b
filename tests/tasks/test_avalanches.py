from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from datamodules.batch import Batch, DataFacts
from ops.errors import ArgumentError, TrainingError
from tasks import boosting
from tasks.avalanches import AvalanchesTask
from tests.checks import rejects, rejects_weights
from tests.tasks.helpers import Trainers, loader, logged, reloaded

WINDOWS = {"loss", "accuracy", "balanced_accuracy", "auprc"}
PASS = ("input", "probability", "mask", "mask_edges")
PICTURES = WINDOWS | {"dice", "dice_positive", "iou", "hausdorff95"}


def texture(height: int, width: int, rough: bool, seed: int) -> np.ndarray:
    """Snow (H, W, 3) in [0, 1], rough or smooth: of the same brightness on average."""
    noise = np.random.default_rng(seed).normal(0.6, 0.25 if rough else 0.02, (height, width, 1))
    return np.repeat(noise, 3, axis=2).clip(0, 1)


@pytest.fixture(scope="module")
def windows() -> Batch:
    """64 windows of 17 pixels, every other one rough."""
    images = np.stack([texture(17, 17, index % 2 == 1, index) for index in range(64)])
    return {"image": torch.from_numpy(images.transpose(0, 3, 1, 2)).float(), "label": (torch.arange(64) % 2).float()}


@pytest.fixture(scope="module")
def picture() -> Batch:
    """A picture of 40 x 60, rough in the middle."""
    mask = np.zeros((40, 60), bool)
    mask[8:34, 18:48] = True
    image = np.where(mask[..., None], texture(40, 60, True, 1), texture(40, 60, False, 2))
    return {"image": torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float(),
            "mask": torch.from_numpy(mask)[None, None].float(), "name": ["a.jpg"]}  # fmt: skip


@pytest.fixture
def simple() -> AvalanchesTask:
    """A task whose network is the redness at the centre of a window of one pixel."""
    task = AvalanchesTask("cnn2d", window=17, tile=16)
    task.window = 1
    task.network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(1, 1))
    for layer, weights in ((task.network[0], [8.0, 0, 0]), (task.network[2], [1.0])):
        layer.weight.data = torch.tensor(weights).view_as(layer.weight)
        layer.bias.data.fill_(-4 if layer is task.network[0] else 0)
    return task.eval()


def test_members_have_no_trees() -> None:
    plain, trees = AvalanchesTask(window=17), AvalanchesTask(window=17, xgboost_on="predictions")
    for one, other, named in ((plain, trees, "other.ckpt"), (trees, plain, "the first")):
        with pytest.raises(ArgumentError, match=f"trees.*{named}.*--model.xgboost_on none"):
            one.add_members([other], ["other.ckpt"])
        assert not one.members
    trees.add_members([], [])
    plain.add_members([AvalanchesTask(window=17)], ["other.ckpt"])
    assert plain.averages


def test_learns_windows_and_finds_them_in_an_image(make_trainer: Trainers, windows: Batch, picture: Batch) -> None:
    torch.manual_seed(0)
    task = AvalanchesTask("cnn2d", window=17)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(task, loader(windows, times=12), loader(picture))
    found = logged(trainer)
    assert found.keys() == {f"train/{name}" for name in WINDOWS} | {f"val/{name}" for name in PICTURES}
    assert found["train/accuracy"] > 0.95
    assert found["val/dice"] > 0.7
    trainer.test(task, loader(picture), verbose=False)
    passes = ("", "second_edges_", "second_enhanced_")
    assert trainer.callback_metrics.keys() == {f"test/{each}{name}" for each in passes for name in PICTURES}


def test_an_image_is_decided_pixel_by_pixel(simple: AvalanchesTask, picture: Batch) -> None:
    probability = 1 / (1 + np.exp(-(8 * picture["image"][:, :1].numpy() - 4)))
    step = simple.step(picture)
    assert step.probability is not None
    np.testing.assert_allclose(step.probability, probability, atol=1e-6)
    truth = picture["mask"].numpy()
    entropy = -(truth * np.log(probability) + (1 - truth) * np.log(1 - probability)).mean()
    assert step.loss.item() == pytest.approx(entropy, rel=1e-5)
    np.testing.assert_array_equal(step.prediction.numpy(), probability >= 0.5)


def test_pixels_outside_boxes_are_ignored(simple: AvalanchesTask, picture: Batch) -> None:
    valid = torch.zeros(1, 1, 40, 60, dtype=torch.bool)
    valid[..., 10:20, 20:30] = True
    boxed = picture | {"valid": valid}
    inside = {key: value[..., 10:20, 20:30] for key, value in picture.items() if key != "name"}
    step = simple.step(boxed)
    assert step.loss.item() == pytest.approx(simple.step(inside).loss.item(), rel=1e-5)
    assert torch.equal(step.target, picture["mask"] * valid)
    for masks in (step.prediction, simple.masks(simple.predict(boxed)["probability"])):
        assert not masks[~valid].any()
        assert masks[valid].any()


@pytest.mark.parametrize("second", ["edges", "enhanced"])
def test_the_second_pass_sees_the_edges_of_the_first_mask(second: Any, simple: AvalanchesTask, picture: Batch) -> None:
    simple.second_input, simple.given_final = second, second
    simple.second_decisions[second].thresholds.fill_(0.7)
    found = simple.predict(picture)
    stages = found["stages"]
    assert list(stages) == ["first_probability", "first_mask", "first_edges", "second_input", "second_probability",
                            "second_mask", "second_mask_edges"]  # fmt: skip
    mask = simple.decision.masks(stages["first_probability"])[0, 0].numpy()
    edges = cv2.Canny(mask.astype(np.uint8) * 255, 100, 200) > 0
    np.testing.assert_array_equal(stages["first_edges"][0, 0], edges)
    expected = np.repeat(edges[None], 3, axis=0) if second == "edges" else picture["image"][0].numpy().copy()
    expected[:, edges] = 1
    np.testing.assert_array_equal(stages["second_input"][0], expected)
    again = simple.step(picture | {"image": stages["second_input"]}).probability
    assert torch.equal(found["probability"], again)
    assert torch.equal(stages["second_mask"], simple.masks(found["probability"]))
    edges = cv2.Canny(stages["second_mask"][0, 0].numpy().astype(np.uint8) * 255, 100, 200) > 0
    np.testing.assert_array_equal(stages["second_mask_edges"][0, 0], edges)
    assert torch.equal(stages["second_mask"], found["probability"] >= 0.7), "each pass has its own threshold"


def test_the_final_pass_is_the_best_on_validation_images(simple: AvalanchesTask, picture: Batch) -> None:
    first = simple.predict(picture)
    assert simple.final == "first", "nothing was measured"
    assert list(first["stages"]) == ["first_probability", "first_mask", "first_edges"], "no pass that nobody needs"
    simple.keep_dice({"first": 0.6, "edges": 0.7, "enhanced": 0.7})
    assert simple.final == "edges", "the earlier one of equals"
    assert not torch.equal(simple.predict(picture)["probability"], first["probability"])
    assert simple.active_decision is simple.second_decisions["edges"]
    simple.every_stage = True
    names = [f"second_{kind}_{name}" for kind in ("edges", "enhanced") for name in PASS]
    assert list(simple.predict(picture)["stages"])[3:] == names
    simple.second_input = "enhanced"
    assert simple.final == "enhanced", "edges are not made"
    simple.keep_dice({"enhanced": 0.609})
    assert simple.final == "first", "too little to tell"
    simple.keep_dice({"first": 0.8})
    assert simple.final == "first"
    simple.on_fit_start()
    assert (simple.validation_dice < 0).all()


@pytest.mark.parametrize("network", ["cnn2d", "pspnet"])
def test_training_on_both_adds_the_loss_of_second_inputs(network: Any, windows: Batch, picture: Batch) -> None:
    torch.manual_seed(0)
    whole = network == "pspnet"
    batch = picture if whole else windows | {"mask": torch.zeros(64, 1, 17, 17)}
    if not whole:
        batch["mask"][:, :, 8:] = 1  # the edge lies where the Canny of a step does
    task = AvalanchesTask(network, window=17, train_on="both", size=(40, 60) if whole else None)
    for layer in task.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            layer.eval().train = lambda mode=True, layer=layer: layer  # the same in every pass
    found = task.step(batch).loss
    task.train_on = "first"
    step = task.step(batch)
    marked = batch["mask"] > 0.5 if not whole else step.probability >= 0.5
    edges = np.stack([cv2.Canny(mask[0].numpy().astype(np.uint8) * 255, 100, 200) > 0 for mask in marked])[:, None]
    assert edges.any()
    inputs = [np.repeat(edges, 3, axis=1), np.where(edges, 1.0, batch["image"].numpy())]
    losses = [step.loss, *(task.step(batch | {"image": torch.from_numpy(each).float()}).loss for each in inputs)]
    assert found.item() == pytest.approx(sum(loss.item() for loss in losses) / 3, rel=1e-5)
    assert task.eval().step(batch).loss.item() != pytest.approx(found.item())


@pytest.mark.parametrize("on", ["predictions", "features"])
def test_trees_see_what_they_were_fitted_on(on: Any, windows: Batch, picture: Batch) -> None:
    torch.manual_seed(0)
    task = AvalanchesTask("cnn2d", window=17, second_input="none", xgboost_on=on, tile=16).eval()
    with torch.no_grad():
        features = boosting.window_features(task.network, on, windows["image"])
        alone = task.classified(picture["image"])
        task.trees = boosting.fit_boosted(features.numpy(), windows["label"].numpy(), seed=0, rounds=20)
        both = task.classified(picture["image"])
        torch.testing.assert_close(both[:, :1], alone)
        windows_at = [picture["image"][:, :, y - 8 : y + 9, x - 8 : x + 9] for y, x in ((20, 30), (9, 50))]
        of_windows = boosting.window_features(task.network, on, torch.cat(windows_at)).numpy()
    expected = torch.from_numpy(task.trees.inplace_predict(of_windows))
    torch.testing.assert_close(both[0, 1, [20, 9], [30, 50]].sigmoid(), expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert task.final == "boosted", "nothing was measured"
        assert torch.equal(task.predict(picture)["probability"], task.probability(picture))
        torch.testing.assert_close(task.probability(picture), both[:, 1:].sigmoid())
        torch.testing.assert_close(task.step(picture).probability, alone.sigmoid())
    task.boosted_decision.thresholds.fill_(0.9)
    assert torch.equal(task.masks(torch.tensor([[[[0.8, 0.95]]]])), torch.tensor([[[[False, True]]]]))
    task.trees = None
    assert torch.equal(task.masks(torch.tensor([[[[0.8, 0.95]]]])), torch.tensor([[[[True, True]]]]))


def test_trees_decide_if_they_are_best(make_trainer: Trainers, simple: AvalanchesTask, picture: Batch) -> None:
    redness = torch.linspace(0, 1, 200)[:, None]
    simple.xgboost_on = "predictions"
    simple.trees = boosting.fit_boosted((8 * redness - 4).sigmoid().numpy(), (redness[:, 0] < 0.3).numpy(), seed=0)
    found = simple.predict(picture)
    red = picture["image"][:, :1]
    surely = (red - 0.3).abs() > 0.02
    mask = simple.masks(found["probability"])
    assert torch.equal(mask[surely], (red < 0.3)[surely]), "the other way round than the network"
    assert torch.equal(found["stages"]["first_mask"], red >= 0.5)
    trainer = make_trainer()
    trainer.test(simple, loader(picture), verbose=False)
    figures = trainer.callback_metrics
    dice = 2 * (mask * picture["mask"]).sum() / (mask.sum() + picture["mask"].sum())
    assert figures["test/boosted_dice"].item() == pytest.approx(dice.item())
    assert figures["test/boosted_dice"] != figures["test/dice"]
    simple.keep_dice({"first": 0.6, "boosted": 0.5})
    assert torch.equal(simple.masks(simple.predict(picture)["probability"]), red >= 0.5)


def test_kornia_finds_the_edges_of_the_euclidean_gradient(simple: AvalanchesTask, picture: Batch) -> None:
    simple.backend = "kornia"
    stages = simple.predict(picture)["stages"]
    mask = simple.masks(stages["first_probability"])[0, 0].numpy()
    expected = cv2.Canny(mask.astype(np.uint8) * 255, 100, 200, L2gradient=True) > 0
    found = stages["first_edges"][0, 0].numpy()
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.99


def test_scores_are_also_by_condition(make_trainer: Trainers, simple: AvalanchesTask, picture: Batch) -> None:
    dark = picture | {"image": picture["image"] * 0, "condition": ["shady"]}
    batches = [picture | {"condition": ["sunny"]}, dark, picture | {"condition": [""]}]
    simple.receive(DataFacts(conditions=("shady", "sunny")))
    trainer = make_trainer()
    trainer.test(simple, DataLoader(batches, batch_size=None), verbose=False)
    found = logged(trainer)
    assert found["test/dice@shady"] == 0
    assert found["test/dice"] == pytest.approx(2 / 3 * found["test/dice@sunny"])
    assert {"test/iou@sunny", "test/second_edges_dice@shady", "test/second_enhanced_iou@shady"} < found.keys()


def test_second_input_none_skips_the_second_pass(simple: AvalanchesTask, picture: Batch) -> None:
    simple.second_input = "none"
    found = simple.predict(picture)
    assert list(found["stages"]) == ["first_probability", "first_mask", "first_edges"]
    assert torch.equal(found["probability"], simple.step(picture).probability)


def test_fitted_decisions_apply_until_training_starts(simple: AvalanchesTask, picture: Batch) -> None:
    simple.decision.thresholds.fill_(0.9)
    simple.decision.minimum_areas.fill_(0.01)
    simple.boosted_decision.thresholds.fill_(0.7)
    mask = simple.predict(picture)["stages"]["first_mask"][0, 0].numpy()
    np.testing.assert_array_equal(simple.step(picture).prediction[0, 0], mask)
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    assert mask.any()
    assert regions[1:, cv2.CC_STAT_AREA].min() >= 0.01 * mask.size
    simple.on_fit_start()
    assert (simple.decision.thresholds.item(), simple.decision.minimum_areas.item()) == (0.5, 0)
    assert simple.boosted_decision.thresholds.item() == 0.5


def test_a_checkpoint_restores_the_task(make_trainer: Trainers, windows: Batch, picture: Batch, tmp_path: Path) -> None:
    task = AvalanchesTask("cnn1d", window=17, channels=1, second_input="edges")
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(windows))
    task.decision.thresholds.fill_(0.3)
    task.keep_dice({"first": 0.2, "edges": 0.3})
    again = reloaded(task, trainer, tmp_path)
    assert again.decision.thresholds.item() == pytest.approx(0.3)
    assert again.final == "edges"
    assert torch.equal(again.predict(picture)["probability"], task.eval().predict(picture)["probability"])


def test_rejects_wrong_arguments_and_missing_weights(tmp_path: Path) -> None:
    for options in ({"tile": 0}, {"edge_thresholds": (-1, 200)}, {"edge_thresholds": (0, float("inf"))}):
        rejects("expected 1 pixel or more", AvalanchesTask, window=17, **options)
    rejects("kornia.*above 0", AvalanchesTask, window=17, backend="kornia", edge_thresholds=(0, 200))
    rejects("make no such pass", AvalanchesTask, window=17, second_input="edges", final="enhanced")
    rejects("make no such pass", AvalanchesTask, window=17, final="boosted")
    rejects("train_on is 'both'", AvalanchesTask, window=17, second_input="none", train_on="both")
    rejects("17 pixels are too small for vgg16", AvalanchesTask, "vgg16", window=17)
    rejects_weights("cnn2d has no", AvalanchesTask("cnn2d", window=17, pretrained=True).load_pretrained)
    gone = AvalanchesTask("vgg16", window=33, pretrained=str(tmp_path / "gone.safetensors"))
    rejects_weights(r"weights file .*gone\.safetensors", gone.load_pretrained)


def test_principal_components_are_fitted_once_on_the_windows_of_all_processes(
    windows: Batch, picture: Batch, make_trainer: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = AvalanchesTask("cnn1d", window=17, components=4)
    rejects("Handover", make_trainer(max_epochs=1).fit, task, loader(windows), loader(picture), error=TrainingError)
    parts = [{"image": windows["image"][part]} for part in (slice(0, 40), slice(40, 64))]
    whole = AvalanchesTask("cnn1d", window=17, components=4)
    whole.prepare(iter(parts))
    assert whole.network[1].weight.any()
    before = whole.network[1].weight.clone()
    whole.prepare(pytest.fail(each) for each in parts)  # a checkpoint's components stay
    assert torch.equal(whole.network[1].weight, before)
    # two processes: what the other one sums is played back
    sums: list[list[torch.Tensor]] = [[], []]
    for _ in range(4):  # each turn knows one more sum of the other process
        for rank in (0, 1):
            other = list(sums[1 - rank])
            sums[rank] = []

            def summed(values: torch.Tensor, rank: int = rank, other: list[torch.Tensor] = other) -> torch.Tensor:
                sums[rank].append(values.clone())
                return values + other.pop(0) if other else values

            again = AvalanchesTask("cnn1d", window=17, components=4)
            monkeypatch.setattr(again, "summed", summed)
            again.prepare(iter([parts[rank]]))
    torch.testing.assert_close(again.network[1].weight, before, rtol=1e-4, atol=1e-5)


def test_a_segmentation_network_marks_whole_images_at_one_size(picture: Batch) -> None:
    torch.manual_seed(0)
    task = AvalanchesTask("pspnet", size=(24, 32), second_input="none", loss="bce_dice", tta="flip").eval()
    sizes: list[Any] = []
    task.network.register_forward_hook(lambda module, inputs, outputs: sizes.append(tuple(inputs[0].shape[-2:])))
    found = task.predict(picture)
    assert sizes == [(24, 32)] * 2
    assert found["probability"].shape == picture["mask"].shape
    mirrored = task.predict({"image": picture["image"].flip(3)})["probability"].flip(3)
    torch.testing.assert_close(found["probability"], mirrored)
    assert list(found["stages"]) == ["first_probability", "first_mask", "first_edges"]
    valid = torch.zeros_like(picture["mask"], dtype=torch.bool)
    valid[..., 10:20, 20:30] = True
    assert not task.predict(picture | {"valid": valid})["probability"][~valid].any()
    assert task.build_training_metrics().keys() == {"masks", "pixels"}


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("components", {"network": "unet", "components": 3}),
        ("components", {"network": "fpn", "xgboost_on": "features"}),
        ("windows", {"network": "cnn2d", "tta": "flip"}),
        ("windows", {"network": "cnn2d", "loss": "bce_dice"}),
    ],
)
def test_whole_images_and_windows_have_options_of_their_own(match: str, settings: dict[str, Any]) -> None:
    rejects(match, AvalanchesTask, **settings)
