"""Loggers that need no account."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info


class CSVLogger(LightningCSVLogger):
    """Every figure, in `metrics.csv` of the run's folder.

    Args:
        save_dir: The run's folder.
        keep: Whether rows that are there already stay, for a training that goes on; Lightning's own deletes them.
    """

    def __init__(self, save_dir: str = ".", keep: bool = False) -> None:
        super().__init__(save_dir, name="", version="")
        self.keep = keep

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made at the first use."""
        path = Path(self.log_dir) / "metrics.csv"
        if self._experiment is not None or not (self.keep and path.is_file()):
            return super().experiment
        kept = path.rename(path.with_suffix(".kept"))
        writer = super().experiment
        with kept.rename(path).open(newline="") as file:
            writer.metrics_keys = next(csv.reader(file), [])
        return writer


class WandbLogger(LightningWandbLogger):
    """Weights & Biases: online for a user who is logged in, otherwise offline into the run's folder.

    `wandb sync <run>/wandb/offline-run-*` uploads an offline run afterwards.

    Args:
        save_dir: The run's folder.
        project: Groups the runs of a task.
        name: Name of the run.
        group: Groups the runs of a study.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        project: str = "belvedere",
        name: str | None = None,
        group: str | None = None,
    ) -> None:
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
