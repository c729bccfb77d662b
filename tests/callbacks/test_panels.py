from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks.panels import Panels
from drawing import pictures as drawing
from tasks.base import Batch, ImageTask
from tasks.decision import Decision
from tasks.metrics.meter import Step
from tasks.segmentation import SegmentationTask
from tests.scripted import quiet_trainer


class Tiny(ImageTask):
    """Segments by one layer behind what panels could disturb: batch statistics and random numbers.

    Args:
        answer: What `predict` returns: "mask", "small mask", "image" or "score".
    """

    def __init__(self, answer: str = "mask") -> None:
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.1))
        self.answer = answer
        self.classes = ["Fish", "Flower"]
        self.frozen = nn.BatchNorm2d(3)
        self.network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 2, 1))
        self.seen: list[dict[str, Any]] = []

    def train(self, mode: bool = True) -> "Tiny":
        super().train(mode)
        self.frozen.eval()
        return self

    def build_metrics(self) -> dict[str, Metric]:
        return {}

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.frozen(image))

    def step(self, batch: Batch) -> Step:
        logits = self(batch["image"])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.rand_like(logits))
        return Step(loss, logits > 0, batch["image"])

    def predict(self, batch: Batch) -> dict[str, Any]:
        modes = {module.training for module in self.modules()}
        probability = self(batch["image"]).sigmoid() + torch.rand(1) * 1e-9
        mask = probability > 0.5
        small = nn.functional.interpolate(probability, scale_factor=0.5) > 0.5
        answers = {"mask": mask, "small mask": small, "image": 1 - batch["image"], "score": probability.mean()}
        self.seen.append({"batch": batch, "modes": modes, "gradient": torch.is_grad_enabled(), "mask": mask})
        return {self.answer.split()[-1]: answers[self.answer]}


def batches(count: int = 2, size: int = 3, masks: bool = True) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        coarse = torch.rand(size, 3, 4, 6, generator=generator)  # large areas: the panels are compressed fast
        batch: Batch = {"image": coarse.repeat_interleave(6, dim=2).repeat_interleave(6, dim=3)}
        batch["name"] = [f"{number}_{k}.jpg" for k in range(size)]
        if masks:
            batch["mask"] = (torch.rand(size, 2, 24, 36, generator=generator) > 0.9).float()
        found.append(batch)
    return found


def fit(
    task: LightningModule, folder: Path, panels: Panels | None, data: list[Batch] | None = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(folder, *([panels] if panels else []), **({"max_epochs": 2} | options))
    loaders = [DataLoader(found, batch_size=None) for found in (batches(), data or batches())]
    trainer.fit(task, loaders[0], loaders[1])
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "panels").glob("*"))


def drawn(folder: Path, epoch: int = 0) -> np.ndarray:
    return np.asarray(Image.open(folder / "panels" / f"epoch_{epoch:04d}.png"))


def shown(data: list[Batch]) -> np.ndarray:
    """The first image, as large as it is in a panel."""
    return drawing.scaled((data[0]["image"][0] * 255).round().byte().permute(1, 2, 0).numpy(), 480, 480)


def test_a_panel_an_epoch_of_the_first_samples_of_the_first_batch(tmp_path: Path) -> None:
    task = Tiny()
    fit(task, tmp_path, Panels(pictures=2))
    assert names(tmp_path) == ["epoch_0000.png", "epoch_0001.png"]
    assert [seen["batch"]["name"] for seen in task.seen] == [["0_0.jpg", "0_1.jpg"]] * 2
    for key in ("image", "mask"):
        assert torch.equal(task.seen[1]["batch"][key], batches()[0][key][:2])


def test_the_panel_shows_image_truth_prediction_and_legend(tmp_path: Path) -> None:
    task = Tiny()
    data = batches(1, 1)
    data[0]["mask"] = torch.zeros(1, 2, 24, 36)
    data[0]["mask"][0, 1, :, :18] = 1
    fit(task, tmp_path, Panels(), data, max_epochs=1)
    panel = drawn(tmp_path)
    image = shown(data)
    truth = drawing.overlay(image, drawing.scaled_masks(data[0]["mask"][0].numpy() > 0, 480, 320))
    predicted = task.seen[0]["mask"][0].numpy()
    prediction = drawing.overlay(image, drawing.scaled_masks(predicted, 480, 320))
    grid = drawing.panel([[image, truth, prediction]], ["input", "truth", "prediction"], ["0_0.jpg"])
    present = [bool(predicted[0].any()), True]
    legend = drawing.legend(task.classes, grid.shape[1], present, drawing.letter_size(480))
    assert (panel == np.vstack([grid, legend])).all()


class Files:
    """A data module that reads images as in their files."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def picture(self, name: str, side: int) -> np.ndarray:
        return self.image


def test_images_keep_the_aspect_of_their_files_and_ignored_pixels_are_hatched(tmp_path: Path) -> None:
    data = batches(1, 1)
    data[0]["ignored"] = torch.zeros(1, 1, 24, 36, dtype=torch.bool)
    data[0]["ignored"][..., :12] = True
    panels = Panels()
    original = np.full((600, 500, 3), 90, np.uint8)
    panels.data = Files(original)  # type: ignore[assignment]  # as much of it as a panel needs
    task = Tiny()
    fit(task, tmp_path, panels, data, max_epochs=1)
    image = drawing.scaled(original, 480, 672)
    assert image.shape == (576, 480, 3)
    masks = [drawing.scaled_masks(each[0].numpy() > 0, 480, 576)
             for each in (data[0]["mask"], task.seen[0]["mask"], data[0]["ignored"])]  # fmt: skip
    truth = drawing.hatched(drawing.overlay(image, masks[0]), masks[2][0])
    row = [image, truth, drawing.overlay(image, masks[1])]
    grid = drawing.panel([row], ["input", "truth", "prediction"], ["0_0.jpg"])
    panel = drawn(tmp_path)
    assert (panel[: len(grid)] == grid).all()
    present = [bool(masks[0][k].any() or masks[1][k].any()) for k in range(2)]
    legend = drawing.legend(task.classes, grid.shape[1], present, drawing.letter_size(480), ignoring=True)
    assert (panel[len(grid) :] == legend).all()


def test_colored_panels_are_as_sharp_as_the_files_and_without_padding(tmp_path: Path) -> None:
    data = batches(1, 1, masks=False)
    data[0]["valid"] = torch.zeros(1, 1, 24, 36, dtype=torch.bool)
    data[0]["valid"][..., 9:27] = True  # 24 x 18
    original = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
    panels = Panels()
    panels.data = Files(original)  # type: ignore[assignment]
    fit(Tiny("image"), tmp_path, panels, data, max_epochs=1)
    panel = drawn(tmp_path).astype(int)
    image = drawing.scaled(original, 480, 672).astype(int)
    top, gap = len(panel) - 8 - len(image), 8
    gray, truth, predicted = (panel[top : top + len(image), gap + k * (480 + gap) :][:, :480] for k in range(3))
    assert (truth == image).all()
    assert np.ptp(gray, axis=2).max() <= 1
    luminance = [each @ np.array([0.2126, 0.7152, 0.0722]) for each in (gray, predicted)]
    assert np.corrcoef(*(each.ravel() for each in luminance))[0, 1] > 0.9  # the file's own, not the small image's


class Everything(SegmentationTask):
    """Marks every pixel, whatever its probability."""

    classes = ("Fish", "Flower")

    def build_network(self) -> nn.Module:
        return nn.Conv2d(3, 2, 1)

    def build_decision(self) -> Decision:
        return Decision(2, threshold=0)


def test_the_decision_of_a_segmentation_task_makes_the_masks(tmp_path: Path) -> None:
    data = batches(1, 1)
    data[0]["mask"][:] = 1
    fit(Everything(pretrained=False), tmp_path, Panels(), data, max_epochs=1)
    panel = drawn(tmp_path)
    image = shown(data)
    marked = drawing.overlay(image, np.ones((2, 320, 480), bool))
    grid = drawing.panel([[image, marked, marked]], ["input", "truth", "prediction"], ["0_0.jpg"])
    assert (panel[: len(grid)] == grid).all()


def test_whole_images_in_windows_come_from_several_batches(tmp_path: Path) -> None:
    data = [{**batch, "mask": batch["mask"] * 0 + 1} for batch in batches(4, 1)]
    for height, batch in zip((24, 16, 24, 24), data, strict=True):
        batch["image"], batch["mask"] = batch["image"][:, :, :height], batch["mask"][:, :, :height]
        windows = torch.zeros(1, 2, 3, height, 24, dtype=torch.uint8)
        batch |= {"windows": windows, "window": torch.tensor([[height, 24]]), "overlap": [0.0]}
    fit(Everything(pretrained=False), tmp_path, Panels(pictures=3), data, max_epochs=1)
    rows = []
    for height, number in ((320, 0), (213, 1), (320, 2)):
        image = shown(data[number:])
        marked = drawing.overlay(image, np.ones((2, height, 480), bool))
        rows.append([image, marked, marked])
    names = ["0_0.jpg", "1_0.jpg", "2_0.jpg"]
    grid = drawing.panel(rows, ["input", "truth", "prediction"], names)
    assert (drawn(tmp_path)[: len(grid)] == grid).all()


@pytest.mark.parametrize(("every", "files"), [(2, ["epoch_0001.png", "epoch_0003.png"]), (9, [])])
def test_every_n_epochs(tmp_path: Path, every: int, files: list[str]) -> None:
    fit(Tiny(), tmp_path, Panels(pictures=1, every_n_epochs=every), max_epochs=5)
    assert names(tmp_path) == files


def test_the_sanity_check_is_not_drawn(tmp_path: Path) -> None:
    task = Tiny()
    fit(task, tmp_path, Panels(), max_epochs=1, num_sanity_val_steps=2, limit_train_batches=0, limit_val_batches=1)
    assert names(tmp_path) == []
    assert task.seen == []


def test_validating_alone_does_not_replace_the_panel_of_an_epoch(tmp_path: Path) -> None:
    task = Tiny()
    trainer = fit(task, tmp_path, Panels(), max_epochs=1)
    trainer.validate(task, DataLoader(batches(), batch_size=None), verbose=False)
    assert names(tmp_path) == ["epoch_0000.png", "validate.png"]


def test_training_is_the_same_with_and_without_panels(tmp_path: Path) -> None:
    results = []
    for panels in (None, Panels()):
        torch.manual_seed(0)
        task = Tiny()
        fit(task, tmp_path, panels, max_epochs=3)
        results.append((task, torch.get_rng_state()))
    (plain, plain_rng), (watched, watched_rng) = results
    assert len(watched.seen) == 3
    assert all(seen["modes"] == {False} and not seen["gradient"] for seen in watched.seen)
    assert torch.equal(plain_rng, watched_rng)
    assert all(torch.equal(value, watched.state_dict()[key]) for key, value in plain.state_dict().items())
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]


def test_a_predicted_image_is_drawn_after_gray_and_truth(tmp_path: Path) -> None:
    data = batches(1, 1, masks=False)
    data[0]["image"][:] = torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1)
    fit(Tiny("image"), tmp_path, Panels(), data, max_epochs=1)
    level = 131  # whose L is 54.76; that of the color is 54.89
    columns = []
    for color in ((level, level, level), (255, 0, 128), (0, 255, 128)):
        found = (drawn(tmp_path) == color).all(axis=-1)
        assert 0 <= found.sum() - 480 * 320 < 100  # letters have pixels of that gray
        columns.append(np.flatnonzero(found.any(axis=0))[0])
    assert columns == sorted(columns)
    data[0]["valid"] = torch.zeros(1, 1, 24, 36, dtype=torch.bool)
    data[0]["valid"][..., :18] = True
    fit(Tiny("image"), tmp_path, Panels(), data, max_epochs=1)
    colored, truth = ((drawn(tmp_path) == color).all(axis=-1) for color in ((0, 255, 128), (255, 0, 128)))
    assert colored.sum() == truth.sum() == 480 * 640, "padding is left out"


@pytest.mark.parametrize(
    ("answer", "data", "panels"),
    [
        ("mask", batches(1, 2, masks=False), 2),
        ("small mask", batches(1, 2), 2),
        ("mask", batches(1, 0), 0),
        ("score", batches(1, 2), 0),
    ],
)
def test_missing_masks_and_empty_batches_stop_no_training(
    tmp_path: Path, answer: str, data: list[Batch], panels: int
) -> None:
    fit(Tiny(answer), tmp_path, Panels(), data)
    assert len(names(tmp_path)) == panels


def test_loggers_that_can_show_images_are_given_the_panel(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wandb = create_autospec(WandbLogger, instance=True, save_dir=None, name="n", version="v")
    board = TensorBoardLogger(tmp_path / "board")
    fit(Tiny(), tmp_path, Panels(), logger=[wandb, board])
    panel = drawn(tmp_path, 1)
    shown = wandb.log_image.call_args.kwargs
    assert (shown["key"], shown["step"]) == ("panels", 4)
    assert (shown["images"][0] == panel).all()
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload().Images("panels")
    assert [(event.step, event.width, event.height) for event in events] == [
        (step, panel.shape[1], panel.shape[0]) for step in (2, 4)
    ]


class Splits(Files):
    """A data module with test images."""

    def picture_names(self) -> dict[str, list[str]]:
        return {"test": [name for batch in batches(3) for name in batch["name"]]}


class Stepped(Everything):
    """Marks every pixel in two steps."""

    classes = ("Fish",)

    def build_network(self) -> nn.Module:
        return nn.Conv2d(3, 1, 1)

    def build_decision(self) -> Decision:
        return Decision(1, threshold=0)

    def predict(self, batch: Batch) -> dict[str, Any]:
        found = super().predict(batch)
        edges = torch.zeros_like(found["probability"], dtype=torch.bool)
        stages = {"first_probability": found["probability"], "first_mask": ~edges, "first_edges": edges,
                  "second_input": batch["image"], "second_mask": edges}  # fmt: skip
        return found | {"stages": stages}


def drawn_by_test(task: ImageTask, folder: Path, data: list[Batch], pictures: int) -> Path:
    panels = Panels(pictures=pictures)
    panels.data = Splits(np.full((24, 36, 3), 90, np.uint8))  # type: ignore[assignment]
    trainer = quiet_trainer(folder, panels)
    trainer.test(task, DataLoader(data, batch_size=None), verbose=False)
    return folder / "panels"


def parts(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[0]))]


def test_a_test_draws_evenly_spaced_images_and_their_parts(tmp_path: Path) -> None:
    folder = drawn_by_test(Tiny(), tmp_path, batches(3), 3)
    assert sorted(path.name for path in folder.iterdir()) == ["0_0", "1_1", "2_2"]
    assert parts(folder / "1_1") == ["0_input.jpg", "1_truth.jpg", "2_prediction.jpg"]
    assert Image.open(tmp_path / "panel.png").width == 3 * 480 + 4 * 8
    assert not (tmp_path / "panels" / "validate.png").exists()


def test_the_steps_to_a_mask_are_parts_too(tmp_path: Path) -> None:
    data = [{**batch, "mask": batch["mask"][:, :1] * 0} for batch in batches(3)]
    data[0]["mask"][0, :, 6:18, 6:18] = 1
    folder = drawn_by_test(Stepped(pretrained=False), tmp_path, data, 3) / "0_0"
    assert parts(folder)[3:] == [
        "3_reference.jpg", "4_true_mask.jpg", "5_first_mask.jpg", "6_first_edges.jpg", "7_true_edges.jpg",
        "8_second_input.jpg", "9_second_mask.jpg", "10_polygon.jpg",
    ]  # fmt: skip
    mask, edges, first = (np.asarray(Image.open(folder / name).convert("L")) > 127
                          for name in ("4_true_mask.jpg", "7_true_edges.jpg", "5_first_mask.jpg"))  # fmt: skip
    assert mask.mean() == pytest.approx(12 * 12 / (24 * 36), abs=0.01)
    assert first.all()
    assert 0.02 < edges.mean() < 0.12


class Voting(Tiny):
    """Predicts the same share for every vote."""

    def probability(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        return torch.full_like(batch["votes"], 1 / batch["votes"].shape[1])


def test_votes_are_bars(tmp_path: Path) -> None:
    data = [{**batch, "votes": torch.tensor([[0.0, 0, 0, 10], [8, 1, 1, 0], [1, 1, 1, 1]])}
            for batch in batches(3, masks=False)]  # fmt: skip
    folder = drawn_by_test(Voting(), tmp_path, data, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["0_0", "2_2"]
    blue = {}
    for name in ("0_0", "2_2"):
        for title in ("1_truth", "2_prediction"):
            image = np.asarray(Image.open(folder / name / f"{title}.jpg")).astype(int)
            blue[name, title] = int(((image[..., 2] > 120) & (image[..., 0] < 60)).any(axis=0).sum())
    assert blue["0_0", "1_truth"] < blue["0_0", "2_prediction"] / 2, "one bar of four"
    assert blue["2_2", "1_truth"] == pytest.approx(blue["2_2", "2_prediction"], abs=3)


def test_wrong_arguments_and_modules_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        Panels(pictures=0)
    with pytest.raises(TypeError, match="expected an ImageTask, got LightningModule"):
        Panels().setup(create_autospec(Trainer), LightningModule(), "fit")


def test_true_edges_are_found_as_the_task_finds_edges(tmp_path: Path) -> None:
    data = [{**batch, "mask": batch["mask"][:, :1] * 0} for batch in batches(3)]
    data[0]["mask"][0, :, 6:18, 6:18] = 1
    task = Stepped(pretrained=False)
    task.edge_thresholds = (5000, 6000)  # none is as steep
    folder = drawn_by_test(task, tmp_path, data, 3) / "0_0"
    assert np.asarray(Image.open(folder / "7_true_edges.jpg").convert("L")).max() < 60
    assert not task.every_stage
