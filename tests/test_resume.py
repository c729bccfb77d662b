"""A run that is stopped anywhere and resumed ends bit for bit like one that was not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from belvedere.__main__ import main
from tasks.base import ImageTask
from tests.helpers import CSV, table

PLATEAU = ["--model.scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor", "val/loss",
           "--model.scheduler.patience", "0"]  # fmt: skip
STEPS = {"clouds": 3, "roads": 2, "avalanches": 4, "colorization": 3, "aesthetics": 4}  # per epoch
TASKS = {"clouds": ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[33,48]",
                    "--data.output_size", "[35,53]", "--data.batch_size", "5", *PLATEAU],
         "roads": ["--config", "roads/vgg10", "--data.size", "[32,32]", "--data.window", "[64,64]",
                   "--data.strategy", "both", "--data.flips", "true", "--data.batch_size", "8",
                   "--data.samples_per_category", "3"],
         "avalanches": ["--config", "avalanches/cnn2d", "--data.windows_per_epoch", "64", "--data.batch_size", "16",
                        "--data.val_pictures", "1", "--data.window", "17"],
         "colorization": ["--config", "colorization/pooled", "--model.extractor", "null", "--data.size", "32",
                          "--data.batch_size", "4"],
         "aesthetics": ["--config", "aesthetics/alexnet", "--model.dense_width", "8", "--data.size", "67",
                        "--data.load_size", "76", "--data.batch_size", "5"],
         }  # fmt: skip


RECIPE = """\
trainer:
  callbacks+: [{class_path: AveragedWeights, init_args: {decay: 0.5}}]
model:
  init_args:
    encoder_lr: 0.5
    encoder_frozen_steps: 2
    tta: flip
    scheduler: {class_path: WarmupCosine}
"""
Same = Callable[[Path, Path], None]


class Killed(Exception):
    """Stands for a kill within one process."""


@pytest.fixture
def fit(working_folder: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Trains three epochs of a task, or as many as the options say."""
    Path("csv.yaml").write_text(CSV)

    def run(name: str, output: str, *options: str) -> None:
        root = str(request.getfixturevalue(f"{name}_root"))
        arguments = [*TASKS[name], "--config", "csv.yaml", "--data.root", root, "--output", output]
        assert main(["fit", *arguments, "--trainer.max_epochs", "3", "--resume", "auto", "--panels.every_n_epochs", "3",
                     *options]) == 0  # fmt: skip

    return run


def stopped(fit: Callable[..., None], name: str, hook: str, step: int, *options: str) -> None:
    """Trains until a hook of the task is called after so many steps, then resumes."""
    kept = getattr(ImageTask, hook)

    def killing(task: ImageTask, *arguments: Any) -> Any:
        if task.global_step >= step and task.trainer.state.fn == "fit" and not task.trainer.sanity_checking:
            raise Killed
        return kept(task, *arguments)

    options = "--last_checkpoint.steps", "1", *options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageTask, hook, killing)
        with pytest.raises(Killed):
            fit(name, "stopped", *options)
    fit(name, "stopped", *options)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_stopped_within_an_epoch_ends_like_one_that_was_not(
    name: str, fit: Callable[..., None], same_run: Same
) -> None:
    fit(name, "whole", "--trainer.max_epochs", "2")
    stopped(fit, name, "on_train_batch_start", STEPS[name] - 1, "--trainer.max_epochs", "2")
    same_run(Path("whole"), Path("stopped"))
    rows = table("whole/metrics.csv")
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert int(rows[-1]["step"]) == 2 * STEPS[name] - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clouds", "avalanches"])
def test_a_run_stopped_anywhere_ends_like_one_that_was_not(name: str, fit: Callable[..., None], same_run: Same) -> None:
    fit(name, "whole")
    last = STEPS[name]
    places = {"on_train_batch_start": [1, 2, last, last + 1], "on_train_batch_end": [last, last + 1, 2 * last],
              "on_validation_epoch_end": [2 * last], "on_train_epoch_end": [last, 3 * last],
              "on_train_epoch_start": [last], "on_fit_end": [3 * last]}  # fmt: skip
    for hook, steps in places.items():
        for step in steps:
            shutil.rmtree("stopped", ignore_errors=True)
            stopped(fit, name, hook, step)
            same_run(Path("whole"), Path("stopped"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--data.num_workers", "2"],
        ["--trainer.max_epochs", "-1", "--trainer.max_steps", "8"],
        ["--trainer.accumulate_grad_batches", "2"],
        ["--trainer.check_val_every_n_epoch", "2", "--model.scheduler", "null"],
        ["--trainer.val_check_interval", "0.5"],
        ["--trainer.limit_train_batches", "2"],
        ["--early_stopping.patience", "1", "--model.optimizer.lr", "1e-9"],
        [
            "--data.steps_per_epoch",
            "4",
            "--data.augment",
            "aerial",
            "--data.size",
            "[48,48]",
            "--data.crop",
            "[32,32]",
            "--config",
            "recipe.yaml",
        ],
    ],
    ids=lambda options: options[0],
)
def test_options_do_not_break_resuming(options: list[str], fit: Callable[..., None], same_run: Same) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    fit("clouds", "whole", *options)
    steps = int(table("whole/metrics.csv")[-1]["step"]) + 1
    places = [("on_train_batch_start", steps // 2), ("on_train_epoch_end", steps // 2), ("on_fit_end", steps)]
    if "--early_stopping.patience" in options:
        places.pop()  # a resumed run that had stopped early trains nothing; last.ckpt then has new counters of batches
    for hook, step in places:
        shutil.rmtree("stopped", ignore_errors=True)
        stopped(fit, "clouds", hook, step, *options)
        same_run(Path("whole"), Path("stopped"))
