"""Loggers for the local disk and the terminal, Weights & Biases, and the run's `config.yaml`."""

import csv
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from ops.atomic import replacing, write_text


class CSVLogger(Logger):
    """Writes all metrics to `metrics.csv` in the run's folder; unlike Lightning's, a resumed run keeps its rows.

    Each call of `log_metrics` appends a row. The file is rewritten, atomically, only for a metric without a column.

    Args:
        save_dir: The run's folder.
        keep: Whether to keep the rows of an earlier run, for a run that resumes.
    """

    def __init__(self, save_dir: str = ".", keep: bool = False) -> None:
        super().__init__()
        self.keep = keep
        self._path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] | None = None  # None until the file is first used

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `config.yaml` lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        row["step"] = step or 0
        known = self._known_columns()
        columns = sorted({*known, *row})
        if columns != known:
            self._rewrite(columns, self._rows())
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns).writerow(row)

    @rank_zero_only
    def cut(self, step: int) -> None:
        """Removes the rows from a step on, and a last row that is incomplete."""
        known = self._known_columns()
        if known:
            self._rewrite(known, [row for row in self._rows() if int(row["step"]) < step])

    def _known_columns(self) -> list[str]:
        if self._columns is None:
            if not self.keep:
                self._path.unlink(missing_ok=True)
            self._columns = []
            if self._path.is_file():
                with self._path.open(newline="", encoding="utf-8") as file:
                    self._columns = next(csv.reader(file), [])
        return self._columns

    def _rows(self) -> list[dict[str, str]]:
        """Returns the complete rows; a killed process may have left an incomplete last one."""
        if not self._path.is_file():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(line for line in file if line.endswith("\n")))

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


ID = Path("wandb", "id.txt")  # in a run's folder: its id on Weights & Biases
BOARD = "tensorboard"  # the folder in a run's folder that configs/tensorboard.yaml names


def dashboards(folder: Path) -> list[dict[str, Any]]:
    """Returns the loggers, as in a config, that continue the dashboards of the run in a folder."""
    found: list[dict[str, Any]] = []
    if (folder / ID).is_file():
        found.append({"class_path": "callbacks.loggers.WandbLogger", "init_args": {}})
    if (folder / BOARD).is_dir():
        arguments = {"name": "", "version": BOARD}
        found.append({"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": arguments})
    return found


class LearningRate(Callback):
    """Logs the learning rate of the last step of every epoch: `lr`, and `lr_1`, … of further parameter groups.

    Lightning's `LearningRateMonitor` logs it in rows of its own, which a resumed run would repeat.
    """

    def __init__(self) -> None:
        self._rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes the rates: at the end of the epoch, a schedule has changed them already."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self._rates = [float(group["lr"]) for group in groups]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number, rate in enumerate(self._rates):
            pl_module.log(f"lr_{number}" if number else "lr", rate, batch_size=1)


class WandbLogger(LightningWandbLogger):
    """Logs to Weights & Biases if the user is logged in, otherwise offline into the run's folder.

    A resumed training, and the test of a run, continue its dashboard: the folder keeps its id.

    `wandb sync <run>/wandb/offline-run-*` uploads an offline run later.

    Args:
        save_dir: The run's folder.
        project: Project that collects the runs of a task.
        name: Name of the run. $WANDB_NAME overrides it; a study sets that for each of its runs.
        group: Group of the run; null takes $WANDB_RUN_GROUP, which a study sets to its name.
        keep: Whether to continue the dashboard of the run in the folder, if it has one.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        project: str = "belvedere",
        name: str | None = None,
        group: str | None = None,
        keep: bool = True,
    ) -> None:
        # Read here, because wandb reads them only once per process.
        name, group = os.environ.get("WANDB_NAME", name), group or os.environ.get("WANDB_RUN_GROUP")
        offline = not logged_in() and os.environ.get("WANDB_MODE") != "disabled"
        os.environ.setdefault("WANDB_SILENT", "true")
        self._known = Path(save_dir or ".") / ID
        known = self._known.read_text().strip() if keep and self._known.is_file() else None
        super().__init__(name=name, save_dir=save_dir or ".", offline=offline, project=project, group=group, id=known)
        self._started = False
        if offline:
            rank_zero_info("wandb: not logged in, so this run is logged offline.")

    @property
    def experiment(self) -> Any:
        if not self._started:
            self._started = True
            _hide_wandb_warnings()
            run = super().experiment
            if isinstance(run.id, str) and not run.disabled:  # on the first process only
                write_text(self._known, run.id + "\n")
        return super().experiment


@rank_zero_only
def _hide_wandb_warnings() -> None:
    """Hides warnings until the run starts: Lightning passes a setting (`anonymous`) that wandb has deprecated."""
    import wandb

    wandb.termsetup(wandb.Settings(silent=True), None)


def logged_in() -> bool:
    """Returns whether wandb has an API key, without network access; False with WANDB_MODE=offline."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text()


class ProgressBar(TQDMProgressBar):
    """Shows Lightning's progress bar with the task's metrics; without a terminal, prints one line per epoch."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._validated = False
        super().__init__(refresh_rate=1 if self._terminal else 0)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the logger's version
        return metrics

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal:
            metrics = self.get_metrics(trainer, pl_module)
            # without those of an earlier epoch's validation
            new = {name: value for name, value in metrics.items() if self._validated or not name.startswith("val/")}
            self._validated = False
            text = ", ".join(f"{name} {float(value):.4f}" for name, value in new.items() if "/" in name)
            rank_zero_info(f"Epoch {trainer.current_epoch} of {trainer.max_epochs}: {text}")


class SaveConfig(SaveConfigCallback):
    """Writes the configuration to `config.yaml` in the run's folder, into each checkpoint, and to every dashboard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        write_text(Path(trainer.default_root_dir) / "config.yaml", self._text())
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger | LightningCSVLogger):  # config.yaml lies beside their file
                logger.log_hyperparams(yaml.safe_load(self._text()))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds a copy, so that a checkpoint works without its folder."""
        checkpoint["config"] = self._text()

    def _text(self) -> str:
        config = self.config.clone()
        config["ckpt_path"] = config["resume"] = None  # a run that repeats this one starts anew
        text: str = self.parser.dump(config, skip_none=False)
        return text
