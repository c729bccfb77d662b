"""Loggers that need no account."""

import csv
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_info


class Rows(ExperimentWriter):
    """Writes `metrics.csv`, keeps the rows that are there already, and loses none where it is killed."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def cut(self, step: int) -> None:
        """Removes the rows from a step on, and one that was not written to its end."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            whole = [line for line in file if line.endswith("\n")]
        self._replace(self.metrics_keys, [row for row in csv.DictReader(whole) if int(row["step"]) < step])

    def _check_log_dir_exists(self) -> None:
        """Nothing: Lightning's own deletes the rows that are there."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._replace(fieldnames, rows)

    def _replace(self, fieldnames: list[str], rows: list[dict[str, str]]) -> None:
        path = Path(self.metrics_file_path)
        temporary = path.with_suffix(".part")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)


class CSVLogger(LightningCSVLogger):
    """Every figure, in `metrics.csv` of the run's folder.

    Args:
        save_dir: The run's folder.
        keep: Whether rows that are there already stay, for a training that goes on.
    """

    def __init__(self, save_dir: str = ".", keep: bool = False) -> None:
        super().__init__(save_dir, name="", version="")
        self.keep = keep

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made at the first use."""
        if self._experiment is None:
            if not self.keep:
                Path(self.log_dir, "metrics.csv").unlink(missing_ok=True)
            self._experiment = Rows(self.log_dir)
        return self._experiment


class WandbLogger(LightningWandbLogger):
    """Weights & Biases: online for a user who is logged in, otherwise offline into the run's folder.

    `wandb sync <run>/wandb/offline-run-*` uploads an offline run afterwards.

    Args:
        save_dir: The run's folder.
        project: Groups the runs of a task.
        name: Name of the run; $WANDB_NAME wins over it, which a study sets for each of its runs.
        group: Groups runs; None takes $WANDB_RUN_GROUP, which a study sets to its name.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        project: str = "belvedere",
        name: str | None = None,
        group: str | None = None,
    ) -> None:
        # wandb would read them once a process
        name, group = os.environ.get("WANDB_NAME", name), group or os.environ.get("WANDB_RUN_GROUP")
        offline = not logged_in() and os.environ.get("WANDB_MODE") != "disabled"
        os.environ.setdefault("WANDB_SILENT", "true")
        super().__init__(name=name, save_dir=save_dir or ".", offline=offline, project=project, group=group)
        self._wandb_init.pop("anonymous", None)  # wandb warns of the setting, which Lightning always passes
        if offline:
            rank_zero_info("wandb: not logged in, so this run is logged offline.")


def logged_in() -> bool:
    """Whether wandb has a key, without asking the network; WANDB_MODE=offline counts as not."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text()


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the task's figures; where the output is no terminal, a line an epoch instead."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._validated = False
        super().__init__(refresh_rate=1 if self._terminal else 0)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar, without the logger's version."""
        figures: dict[str, Any] = super().get_metrics(trainer, pl_module)
        figures.pop("v_num", None)
        return figures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends its bar."""
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch's bar, or writes its line."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal:
            figures = self.get_metrics(trainer, pl_module)
            # those of an earlier validation stay in the figures
            new = {name: value for name, value in figures.items() if self._validated or not name.startswith("val/")}
            self._validated = False
            text = ", ".join(f"{name} {float(value):.4f}" for name, value in new.items() if "/" in name)
            rank_zero_info(f"Epoch {trainer.current_epoch} of {trainer.max_epochs}: {text}")


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, a copy into each checkpoint, and tells every dashboard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file and tells the dashboards, when training only."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(self._text())
        temporary.replace(path)
        for logger in trainer.loggers:
            if not isinstance(logger, LightningCSVLogger):  # its file lies beside config.yaml and would say the same
                logger.log_hyperparams(yaml.safe_load(self._text()))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps a copy, for a checkpoint that is moved without its folder."""
        checkpoint["config"] = self._text()

    def _text(self) -> str:
        config = self.config.clone()
        config["ckpt_path"] = config["resume"] = None  # who repeats a run does not go on with it
        text: str = self.parser.dump(config, skip_none=False)
        return text
