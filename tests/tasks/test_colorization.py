from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.batch import DataFacts
from ops.color.bins import annealed_mean, rebalancing, smoothed
from ops.color.lab import luminance_and_chroma, to_rgb
from ops.errors import ArgumentError, TrainingError
from tasks.base import Batch
from tasks.coloring import error_covariance, error_moments
from tasks.colorization import ColorizationTask, LinearColorizationTask
from tasks.metrics.colors import FLOORS
from tasks.networks.extractor import Extractor
from tests.checks import rejects, rejects_weights
from tests.tasks.helpers import Trainers, loader, logged, reloaded

SCORES = ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness", "colorfulness_true", "colorfulness_difference")
FLOOR_SCORES = [f"{floor}_{name}" for floor in FLOORS for name in ("psnr", "delta_e76", "delta_e2000")]
OBJECTIVES = ("regression", "residual", "classes")


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two pictures, blue where they are bright and red where they are dark, padded above and below."""
    rng = np.random.default_rng(0)
    bright = torch.from_numpy(rng.random((2, 1, 4, 4)) > 0.5).float()
    bright = nn.functional.interpolate(bright, (32, 32))
    colors = torch.tensor([[0.45, 0.1, 0.1], [0.5, 0.7, 1.0]]).view(2, 3, 1, 1)
    valid = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    valid[:, :, 4:28] = True
    image = torch.where(valid, bright * colors[1] + (1 - bright) * colors[0], 1.0)
    return {"image": image, "valid": valid, "name": ["a.jpg", "b.jpg"]}


class Constant(nn.Module):
    """Gives every place the same values."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, luminance: Tensor, vector: Tensor | None) -> Tensor:
        return self.values.view(1, -1, 1, 1).expand(len(luminance), -1, *luminance.shape[2:])

    def half_size(self, luminance: Tensor, vector: Tensor | None) -> Tensor:
        return self(luminance, vector)[..., ::2, ::2]


@pytest.mark.parametrize(("objective", "steps"), [("regression", 50), ("classes", 30)])
def test_learns_which_colours_luminance_has(objective: Any, steps: int, make_trainer: Trainers, batch: Batch) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None, objective=objective, optimizer=lambda p: torch.optim.Adam(p, lr=3e-4))
    trainer = make_trainer(max_epochs=2)
    rejects("Handover", make_trainer(max_epochs=1).fit, task, loader(batch), error=TrainingError)
    task.prepare([batch])
    trainer.fit(task, loader(batch, steps), loader(batch, steps))
    found = logged(trainer)
    training = {"train/loss", "train/psnr", "train/delta_e76"}
    assert found.keys() == training | {f"val/{name}" for name in ("loss", *SCORES, *FLOOR_SCORES)}
    assert found["val/loss"] < (0.003 if objective == "regression" else 0.5)  # 0.06 and 1.3 at the start
    assert found["val/mean_delta_e76"] < found["val/grey_delta_e76"]
    before = task.floors.by_luminance.clone()
    task.prepare(pytest.fail(str(each)) for each in [batch])  # a checkpoint's colors stay
    assert torch.equal(task.floors.by_luminance, before)


def test_regression_has_the_papers_loss(batch: Batch) -> None:
    task = ColorizationTask(extractor=None)
    task.network = Constant(torch.tensor([0.1, -0.2]))
    step = task.step(batch)
    luminance, chroma = luminance_and_chroma(batch["image"])
    error = ((chroma - torch.tensor([0.1, -0.2]).view(1, 2, 1, 1)) ** 2).sum(1)[:, 4:28].mean() / 2
    assert step.loss.item() == pytest.approx(error.item(), rel=1e-5)
    torch.testing.assert_close(step.prediction, to_rgb(luminance, task.predict(batch)["chroma"]))
    assert torch.equal(step.target, batch["image"])
    assert step.valid is batch["valid"]


def test_classes_give_their_annealed_mean(batch: Batch) -> None:
    task = ColorizationTask(extractor=None, objective="classes", temperature=0.5)
    logits = torch.randn(len(task.floors.centres), generator=torch.Generator().manual_seed(0))
    task.network = Constant(logits)
    expected = annealed_mean(logits.view(1, -1, 1, 1), task.floors.centres, 0.5) / 128
    found = task.predict(batch)["chroma"]
    assert found.shape == (2, 2, 32, 32)
    torch.testing.assert_close(found, expected.expand_as(found))
    plain = task.step(batch).loss
    luminance, chroma = luminance_and_chroma(batch["image"])
    task.floors.fit([(luminance, chroma, batch["valid"])])
    weights = rebalancing(smoothed(task.floors.prior, task.floors.centres))
    assert weights.max() > 2 * weights.min()
    assert task.step(batch).loss != plain


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_is_ignored(objective: Any, batch: Batch) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None, objective=objective).eval()
    task.network = Constant(torch.linspace(-0.3, 0.3, len(task.floors.centres) if objective == "classes" else 2))
    noise = torch.where(batch["valid"], batch["image"], torch.rand_like(batch["image"]))
    torch.testing.assert_close(task.step(batch | {"image": noise}).loss, task.step(batch).loss)


def test_predictions_depend_on_luminance_alone(batch: Batch) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None).eval()
    luminance, _ = luminance_and_chroma(batch["image"])
    grey = to_rgb(luminance, torch.zeros(2, 2, 32, 32))
    torch.testing.assert_close(
        task.predict({"image": grey})["chroma"], task.predict(batch)["chroma"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_checkpoint_restores_the_task(objective: Any, make_trainer: Trainers, batch: Batch, tmp_path: Path) -> None:
    task = ColorizationTask("strided", extractor=None, objective=objective)
    task.prepare([batch])
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(batch))
    again = reloaded(task, trainer, tmp_path)
    assert again.floors.fitted
    assert torch.equal(again.floors.by_luminance, task.floors.by_luminance)
    assert torch.equal(again.predict(batch)["chroma"], task.eval().predict(batch)["chroma"])


def test_the_extractor_is_frozen_and_checked_by_its_digest(
    make_trainer: Trainers, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    plain = Extractor.__call__

    def counted(self: Extractor, image: Tensor) -> Tensor:
        calls.append(len(image))
        return plain(self, image)

    monkeypatch.setattr(Extractor, "__call__", counted)
    task = ColorizationTask(extractor="resnet50", extractor_weights=False)
    task.prepare([batch])
    trainer = make_trainer(max_epochs=2)
    trainer.fit(task, loader(batch))
    assert sum(calls) == 2, "vectors of unaltered images are remembered"
    assert sum(parameter.numel() for parameter in task.trained_parameters()) == 4_696_098
    again = reloaded(task, trainer, tmp_path)
    assert torch.equal(again.predict(batch)["chroma"], task.eval().predict(batch)["chroma"])
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert sum(value.numel() for key, value in checkpoint["state_dict"].items() if "network" in key) == 4_696_098
    checkpoint["extractor"] = "0123456789abcdef"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    rejects_weights("are not those", ColorizationTask.load_from_checkpoint, tmp_path / "other.ckpt", map_location="cpu")


def test_rejects_wrong_arguments_and_another_extractor(make_trainer: Trainers, batch: Batch, tmp_path: Path) -> None:
    name = "mobilenetv3_small_050"
    seeing = {"extractor": name, "extractor_weights": False, "extractor_vector": "features"}
    trainer, load = make_trainer(), ColorizationTask.load_from_checkpoint
    for folder, settings in {"blind": {"extractor": None}, "seeing": seeing}.items():
        task = ColorizationTask(**settings)
        trainer.strategy.connect(task)
        again = reloaded(task, trainer, tmp_path / folder)
        assert torch.equal(again.predict(batch)["chroma"], task.eval().predict(batch)["chroma"])
    rejects_weights(rf"without an extractor .*{name}", load, tmp_path / "blind" / "run.ckpt", **seeing)
    rejects_weights(r"\(digest [0-9a-f]{16}\).* without one", load, tmp_path / "seeing" / "run.ckpt", extractor=None)
    rejects("objective is 'lab' and temperature 0.38", ColorizationTask, extractor=None, objective="lab")
    rejects("temperature 0;", ColorizationTask, extractor=None, temperature=0)
    gone = ColorizationTask(extractor="resnet50", extractor_weights=str(tmp_path / "gone.safetensors"))
    rejects_weights(r"no weights file .*gone\.safetensors", gone.load_pretrained)


def test_the_extractor_sees_the_larger_copy(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def kept(self: Extractor, image: Tensor) -> Tensor:
        seen.append(image)
        return torch.zeros(len(image), self.length)

    monkeypatch.setattr(Extractor, "__call__", kept)
    task = ColorizationTask(extractor="resnet50", extractor_weights=False)
    view = torch.rand(2, 3, 80, 80)
    for each in (batch, batch | {"view": view}):
        task.predict(each)
    assert [image.shape[-1] for image in seen] == [32, 80]
    torch.testing.assert_close(luminance_and_chroma(seen[1].expand(-1, 3, -1, -1))[0], luminance_and_chroma(view)[0])


def test_copies_of_metrics_do_not_copy_the_task() -> None:
    task = ColorizationTask(extractor=None)
    metric = task.build_metrics()["floors"].clone()
    assert metric.colored.__closure__[0].cell_contents is task


def test_a_residual_starts_from_the_baseline_and_is_shrunk_by_validation(make_trainer: Trainers, batch: Batch) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None, objective="residual", optimizer=lambda p: torch.optim.SGD(p, lr=0.0)).eval()
    task.prepare([batch])
    baseline = task.floors.colored(batch["image"])["mean_by_luminance"]
    torch.testing.assert_close(task.predict(batch)["image"], baseline)
    chroma = luminance_and_chroma(batch["image"])[1]
    task.floors.by_luminance.zero_()
    valid = batch["valid"]
    added = torch.tensor([0.1, 0.2])
    task.network = Constant(added)
    truth = chroma.movedim(1, 3)[valid[:, 0]]
    expected = float((truth @ added).sum() / (len(truth) * added.square().sum()))
    make_trainer(max_epochs=1).fit(task, loader(batch), loader(batch, 3))
    assert task.shrink.item() == pytest.approx(min(1.0, max(0.0, expected)), abs=1e-4)
    found = task.eval().predict(batch)["chroma"]
    torch.testing.assert_close(found, (task.shrink * added).view(1, 2, 1, 1).expand_as(found))


@pytest.mark.parametrize("objective", ["residual", "classes"])
def test_samples_are_other_plausible_colors(
    objective: Any, make_trainer: Trainers, batch: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None, objective=objective, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    task.prepare([batch])
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, loader(batch), loader(batch | {"image": batch["image"].flip(1)}))  # colors it has not seen
    again = reloaded(task, trainer, tmp_path)
    plain = again.predict(batch)
    assert plain.keys() == {"chroma", "image"}
    again.samples = 3
    found = again.predict(batch)
    assert torch.equal(found["chroma"], plain["chroma"]), "the most likely colors stay"
    assert found["samples"].shape == (2, 3, 2, 32, 32)
    assert found["spread"].shape == (2, 1, 32, 32)
    assert found["spread"].min() > 0
    assert (found["samples"][:, 0] - found["samples"][:, 1]).abs().mean() > 0.005
    assert torch.equal(again.predict(batch)["samples"], found["samples"]), "those of a name are always the same"
    renamed = again.predict(batch | {"name": ["b.jpg", "a.jpg"]})["samples"]
    assert not torch.equal(renamed, found["samples"])


def test_the_spread_of_samples_is_that_of_the_errors_on_validation_images(make_trainer: Trainers, batch: Batch) -> None:
    torch.manual_seed(0)
    task = ColorizationTask(extractor=None, objective="residual", optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    task.prepare([batch])
    task.floors.by_luminance.zero_()
    make_trainer(max_epochs=1).fit(task, loader(batch), loader(batch, 3))
    chroma = luminance_and_chroma(batch["image"])[1].movedim(1, 3)[batch["valid"][:, 0]]
    pooled = task.unknown.diagonal(dim1=1, dim2=2).sum(dim=1).mean()
    assert 0.3 * chroma.square().sum(dim=1).mean() < pooled < chroma.square().sum(dim=1).mean()
    task.unknown.zero_()
    task.samples = 1
    rejects("remove --model.samples", task.predict, batch, error=ArgumentError)
    rejects("samples is 2 and objective regression", ColorizationTask, extractor=None, samples=2)
    rejects("samples is -1", LinearColorizationTask, SEEN, samples=-1)


def test_errors_are_counted_by_luminance_and_pooled() -> None:
    rng = torch.Generator().manual_seed(0)
    light = torch.tensor([-1.0] * 4000 + [1.0] * 4000)
    truth = torch.randn(8000, 2, generator=rng) * torch.tensor([0.1, 0.2])
    added = 2 * truth + torch.randn(8000, 2, generator=rng) * 0.1
    truth[4000:], added[4000:] = 0, 0
    found = error_covariance(error_moments(light, truth, added), 0.5)
    errors = truth - 0.5 * added
    pooled = errors.T @ errors / 8000
    own = errors[:4000].T @ errors[:4000]
    torch.testing.assert_close(found[0].float(), (own + 100 * pooled) / 4100)
    torch.testing.assert_close(found[5].float(), pooled)
    torch.testing.assert_close(found[10].float(), 100 * pooled / 4100)


SEEN = {"test_resnet": False}


def drawn_batches(count: int, seed: int, size: int = 64) -> list[Batch]:
    """Fine noise is blue, coarse noise of the same luminances is orange."""
    generator, batches = torch.Generator().manual_seed(seed), []
    for number in range(count):
        fine = 0.35 + 0.2 * torch.rand(1, 1, size, size, generator=generator)
        coarse = 0.35 + 0.2 * torch.rand(1, 1, size // 16, size // 16, generator=generator)
        gray = torch.cat([fine, nn.functional.interpolate(coarse, (size, size))])
        luminance = luminance_and_chroma(gray.expand(-1, 3, -1, -1))[0]
        chroma = torch.tensor([[0.05, -0.2], [0.1, 0.25]]).view(2, 2, 1, 1).expand(-1, -1, size, size)
        valid = torch.ones(2, 1, size, size, dtype=torch.bool)
        names = [f"{seed}-{number}-{each}" for each in range(2)]
        batches.append({"image": to_rgb(luminance, chroma), "valid": valid, "name": names})
    return batches


def made(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)


def linear() -> LinearColorizationTask:
    torch.manual_seed(0)
    task = LinearColorizationTask(SEEN)
    task.load_pretrained()
    return task


def test_a_linear_layer_sees_what_luminance_does_not_tell(make_trainer: Trainers, tmp_path: Path) -> None:
    train, val, test = (drawn_batches(count, seed) for seed, count in enumerate((6, 3, 2)))
    task = linear()
    rejects("Handover", make_trainer(max_epochs=1).fit, task, made(train), error=TrainingError)
    task.prepare(train)
    rejects("linear layer", make_trainer(max_epochs=1).fit, task, made(train), error=TrainingError)
    task.calibrate(val)
    assert 0.7 < task.shrink <= 1
    trainer = make_trainer(max_epochs=1)
    before = task.network.output.weight.clone()
    trainer.fit(task, made(train), made(val))
    assert torch.equal(task.network.output.weight, before)
    found = logged(trainer)
    assert found["val/delta_e2000"] < 0.4 * found["val/mean_by_luminance_delta_e2000"]
    again = reloaded(task, trainer, tmp_path)
    assert 0 < again.unknown.diagonal(dim1=1, dim2=2).max() < 0.04
    for batch in test:
        expected, chroma = luminance_and_chroma(batch["image"])[1], again.predict(batch)["chroma"]
        assert (chroma - expected).abs().mean() < 0.04
        assert torch.equal(chroma, task.eval().predict(batch)["chroma"])
        torch.testing.assert_close(again.predict({"image": batch["image"]})["chroma"], chroma)
    again.prepare(pytest.fail(str(each)) for each in train)


def test_validation_images_of_other_colors_leave_the_baseline() -> None:
    task = linear()
    train = drawn_batches(4, 0)
    task.prepare(train)
    luminances, chromas = zip(*(luminance_and_chroma(each["image"]) for each in train), strict=True)
    swapped = [to_rgb(luminance, chroma.flip(0)) for luminance, chroma in zip(luminances, chromas, strict=True)]
    task.calibrate([{**each, "image": image} for each, image in zip(train, swapped, strict=True)])
    assert task.shrink == 0
    batch = train[0]
    torch.testing.assert_close(
        task.eval().predict(batch)["image"], task.floors.colored(batch["image"])["mean_by_luminance"]
    )


def test_rejects_no_networks_and_unknown_ones() -> None:
    rejects("one network or more", LinearColorizationTask, {})
    rejects("'resnet51' is unknown", LinearColorizationTask, {"resnet51": False})


def test_colors_are_taken_from_the_reference_that_looks_alike() -> None:
    task = linear()
    task.prepare(drawn_batches(4, 0))
    task.calibrate(drawn_batches(2, 1))
    [asked] = drawn_batches(1, 2)
    plain = task.eval().predict(asked)["chroma"]
    luminance = luminance_and_chroma(asked["image"])[0]
    green = torch.tensor([-0.3, 0.2]).view(1, 2, 1, 1).expand(1, -1, *luminance.shape[2:])
    same = {"image": to_rgb(luminance[:1], green), "valid": asked["valid"][:1], "name": ["same"]}
    other = {"image": asked["image"][1:], "valid": asked["valid"][1:], "name": ["other"]}
    task.receive(DataFacts(references=[other, same]))
    found = task.predict(asked)["chroma"]
    assert (found[0] - plain[0]).mean(dim=(1, 2))[0] < -0.01, "greener"
    assert (found[1] - plain[1]).abs().mean() < 0.02, "its own colors, which are known"
    task.receive(DataFacts())
    assert torch.equal(task.predict(asked)["chroma"], plain)
    rejects("colorization/best", ColorizationTask(extractor=None).receive, DataFacts(references=[same]),
            error=ArgumentError)  # fmt: skip
