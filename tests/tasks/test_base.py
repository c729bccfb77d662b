import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks.best import BestCheckpoint
from ops.errors import ArgumentError
from tasks.avalanches import AvalanchesTask
from tasks.base import Batch, ImageTask
from tasks.clouds import CloudsTask
from tasks.metrics.meter import Step
from tasks.roads import RoadsTask
from tests.checks import rejects
from tests.tasks.helpers import Trainers


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Largest(Metric):
    """Mean absolute error and the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("errors", torch.zeros(0), dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.errors = torch.cat([self.errors, (prediction - target).abs()])

    def compute(self) -> dict[str, Tensor]:
        return {"error": self.errors.mean(), "largest_error": self.errors.max()}


class Brightness(ImageTask):
    """Guesses a number from a picture's mean; dropout and a frozen layer are there to be looked at."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**({"optimizer": sgd} | arguments))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.network = nn.Sequential(nn.Dropout(), nn.Linear(3, 1))
        self.outputs: list[Tensor] = []

    def build_metrics(self) -> dict[str, Metric]:
        return {"errors": Largest()}

    def step(self, batch: Batch) -> Step:
        prediction = self.network(self.frozen(batch["image"].mean(dim=(2, 3))))[:, 0]
        self.outputs.append(prediction.detach().clone())
        return Step((prediction - batch["label"]).square().mean(), prediction, batch["label"])

    def predict(self, batch: Batch) -> dict[str, Any]:
        return {"number": self.network(batch["image"].mean(dim=(2, 3)))}


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(size, 3, 4, 4, generator=generator),
             "label": torch.randn(size, generator=generator)} for size in sizes]  # fmt: skip


def loader(*sizes: int) -> DataLoader[Any]:
    return DataLoader(batches(*sizes), batch_size=None)


@pytest.mark.parametrize(
    ("task", "kind", "settings"),
    [
        (AvalanchesTask(window=17), torch.optim.Adam, {"lr": 1e-3}),
        (CloudsTask(architecture="pspnet", pretrained=False), torch.optim.NAdam, {"lr": 2e-4}),
        (RoadsTask(), torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7}),
    ],
)
def test_default_optimizers_are_the_papers(task: ImageTask, kind: type, settings: dict[str, float]) -> None:
    optimizer = task.configure_optimizers()
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in settings} == settings


def test_metrics_are_named_by_stage_and_weigh_images_equally(make_trainer: Trainers) -> None:
    task = Brightness()
    logged = make_trainer(max_epochs=1)
    logged.validate(task, loader(5, 2, 1), verbose=False)
    assert logged.callback_metrics.keys() == {"val/loss", "val/error", "val/largest_error"}
    task.eval()
    errors = torch.cat([(step.prediction - step.target).detach() for step in map(task.step, batches(5, 2, 1))])
    expected = {"loss": errors.square().mean(), "error": errors.abs().mean(), "largest_error": errors.abs().max()}
    for name, value in expected.items():
        torch.testing.assert_close(logged.callback_metrics[f"val/{name}"], value)


def test_every_stage_logs_and_resets_each_epoch(make_trainer: Trainers) -> None:
    task, trainer = Brightness(), make_trainer(max_epochs=3)
    trainer.fit(task, loader(4, 1), loader(3))
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "error", "largest_error")}
    assert trainer.callback_metrics.keys() == names
    last = torch.cat(task.outputs[-3:-1])  # the last epoch's two training batches; a validation batch follows
    errors = last - torch.cat([batch["label"] for batch in batches(4, 1)])
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], errors.square().mean())
    trainer.test(task, loader(2), verbose=False)
    assert trainer.callback_metrics.keys() == {"test/loss", "test/error", "test/largest_error"}


def test_predict_step_is_predict_with_names(make_trainer: Trainers) -> None:
    task = Brightness().eval()
    named = {**batches(3)[0], "name": ["a.jpg", "b.jpg", "c.jpg"]}
    for batch in (batches(3)[0], named):
        [prediction] = make_trainer().predict(task, DataLoader([batch], batch_size=None))
        assert torch.equal(prediction["number"], task.predict(batch)["number"])
        assert prediction.get("name") == batch.get("name")


@pytest.mark.parametrize("values", [(0.0, 255.0), (-2.1, 2.6), (0.0, float("nan"))])
def test_images_to_predict_are_in_0_to_1(values: tuple[float, float]) -> None:
    task = CloudsTask(architecture="pspnet", pretrained=False)
    image = torch.tensor(values)[:, None, None, None].expand(2, 3, 32, 32)
    rejects("values from", task.predict, {"image": image}, error=ArgumentError)


def test_the_optimizer_gets_the_trained_parameters(make_trainer: Trainers) -> None:
    task, trainer = Brightness(), make_trainer(max_epochs=1)
    before = {name: value.clone() for name, value in task.named_parameters()}
    trainer.fit(task, loader(4))
    given = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in given} == {id(parameter) for parameter in task.network.parameters()}
    changed = {name for name, value in task.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"network.1.weight", "network.1.bias"}


def test_a_schedule_steps_once_an_epoch(make_trainer: Trainers) -> None:
    task = Brightness(scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    trainer = make_trainer(max_epochs=3)
    trainer.fit(task, loader(2, 2))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_a_plateau_schedule_monitors_its_metric(make_trainer: Trainers) -> None:
    task = Brightness(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-12),  # nothing improves
        scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, "val/error", patience=0, factor=0.5, eps=0),
    )
    trainer = make_trainer(max_epochs=3)
    trainer.fit(task, loader(2), loader(2))
    assert trainer.lr_scheduler_configs[0].monitor == "val/error"
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-12 * 0.5**2)  # the first epoch is the best


def test_dropout_is_a_function_of_seed_epoch_and_batch(make_trainer: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that it is put back

    def drawn(seed: int, disturb: bool) -> list[Tensor]:
        seed_everything(seed)
        torch.manual_seed(0)  # the same weights
        task = Brightness(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        if disturb:
            torch.rand(7)
        make_trainer(max_epochs=2).fit(task, DataLoader([batches(8)[0]] * 2, batch_size=None))
        return task.outputs

    first, again, other = drawn(1, False), drawn(1, True), drawn(2, False)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert len({tuple(output.tolist()) for output in first}) == 4  # two epochs of two batches
    assert os.environ["PL_GLOBAL_SEED"] == "2"


def test_a_task_must_implement_the_abstract_methods() -> None:
    rejects(r"abstract.*build_metrics.*predict.*step", ImageTask, sgd, error=TypeError)


def test_a_run_that_ends_within_an_epoch_is_validated_there(make_trainer: Trainers) -> None:
    best = BestCheckpoint("val/error", "min")
    trainer = make_trainer(max_steps=7, max_epochs=-1, callbacks=[best], enable_checkpointing=True)
    task = Brightness()
    data = batches(2, 2, 2, 2, 2)
    trainer.fit(task, DataLoader(data, batch_size=None), DataLoader(data[:1], batch_size=None))
    assert trainer.global_step == 7
    assert {"train/loss", "val/loss", "val/error"} <= trainer.callback_metrics.keys()
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] in (5, 7)
    assert len(task.outputs) == 7 + 2  # a validation after the fifth step and one at the end


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_steps": 7, "max_epochs": -1}, [6]),  # within the second epoch
        ({"max_steps": 2, "max_epochs": -1}, [1]),  # within the first
        ({"max_steps": 5, "max_epochs": -1}, [4]),  # at the end of the first
        ({"max_epochs": 3}, [9, 14]),
        ({"max_epochs": 2}, [9]),
        ({"max_epochs": 9, "callbacks": [StopAt(2)]}, [1]),  # as `max_time` does
        ({"max_epochs": 9, "callbacks": [StopAt(2)], "min_epochs": 1}, [4]),
    ],
)
def test_the_end_of_a_run_is_validated_whatever_the_epochs_between(
    limits: dict[str, Any], expected: list[int], make_trainer: Trainers
) -> None:
    steps: list[int] = []

    class Watching(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            steps.append(trainer.global_step - 1)

    best = BestCheckpoint("val/error", "min")
    settings = {"check_val_every_n_epoch": 2, "enable_checkpointing": True}
    trainer = make_trainer(**settings, **limits | {"callbacks": [best, Watching(), *limits.get("callbacks", [])]})
    data = batches(2, 2, 2, 2, 2)
    trainer.fit(Brightness(), DataLoader(data, batch_size=None), DataLoader(data[:1], batch_size=None))
    assert steps == expected
    assert {"train/loss", "val/error"} <= trainer.callback_metrics.keys()
    assert Path(best.best_model_path).is_file()
