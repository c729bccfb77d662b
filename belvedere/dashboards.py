"""Logs the tables and figures of a study to the dashboards that its runs were logged to.

`python -m belvedere.dashboards FOLDER NAME FILE …`: the study's folder and name, and its PNG and CSV files.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from belvedere.quiet import quiet
from callbacks.loggers import BOARD, ID, WandbLogger
from datamodules.read.pictures import read_picture


def log_study(folder: Path, name: str, files: Sequence[Path]) -> None:
    """Logs figures and tables to Weights & Biases and to `tensorboard/` in the study's folder, where runs were logged.

    Args:
        folder: The study's folder.
        name: Its name, the group of its runs.
        files: PNG and CSV files.
    """
    runs = [path for path in (folder / "cells").glob("*/*") if path.is_dir()]
    images = {path.stem: path for path in files if path.suffix == ".png"}
    if any((run / BOARD).is_dir() for run in runs):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / BOARD)) as writer:
            for title, path in images.items():
                writer.add_image(f"study/{title}", read_picture(path), dataformats="HWC")
            for path in files:
                if path.suffix == ".csv":
                    writer.add_text(f"study/{path.stem}", path.read_text(encoding="utf-8"))
    logged = next((run for run in runs if (run / ID).is_file()), None)
    if logged is not None:
        import pandas as pd

        os.environ["WANDB_NAME"] = f"{name} (tables and figures)"
        logger = WandbLogger(str(folder), project=_project(logged), group=os.environ.get("WANDB_RUN_GROUP", name))
        for title, path in images.items():
            logger.log_image(key=f"study/{title}", images=[read_picture(path)])
        for path in files:
            if path.suffix == ".csv":
                logger.log_table(key=f"study/{path.stem}", dataframe=pd.read_csv(path).astype(str))
        logger.experiment.finish()


def _project(run: Path) -> str:
    """Returns the project that a run was logged to."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    loggers = (each for each in config["trainer"]["logger"] or () if each["class_path"].endswith("WandbLogger"))
    return str(next((each["init_args"]["project"] for each in loggers), "belvedere"))


if __name__ == "__main__":
    quiet()
    log_study(Path(sys.argv[1]), sys.argv[2], [Path(name) for name in sys.argv[3:]])
