"""Keeps the settings of a run: beside its checkpoints, inside them, and on its dashboards."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger


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
            if not isinstance(logger, CSVLogger):  # its file lies beside config.yaml and would say the same
                logger.log_hyperparams(yaml.safe_load(self._text()))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps a copy, for a checkpoint that is moved without its folder."""
        checkpoint["config"] = self._text()

    def _text(self) -> str:
        config = self.config.clone()
        config["ckpt_path"] = config["resume"] = None  # who repeats a run does not go on with it
        text: str = self.parser.dump(config, skip_none=False)
        return text
