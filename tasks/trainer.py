"""Lightning's trainer, with names for the commands that it has not, and without what it need not say."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from tasks.checkpoints import ArgumentError
from tasks.features import Vector


class BelvedereTrainer(Trainer):
    """Lightning's trainer, whose methods tell the command line what there is to type."""

    def describe(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Check a data set, then write tables and pictures of it."""

    def features(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        ckpt_path: str | Path | None = None,
        vectors: list[Vector] | None = None,
        classifiers: bool = True,
    ) -> None:
        """Write the pictures of a data set as vectors, and how well classical classifiers do with them.

        Args:
            model: The task.
            datamodule: The data set, or the pictures of `--data.pictures`.
            ckpt_path: A trained network; without one there is what its convolutions start from.
            vectors: Which kinds are written; fc6, fc7 and pooled of a trained network, otherwise pooled.
            classifiers: Whether classifiers are fitted on the training pictures and scored on the test pictures.
        """


def check_started(plugins: Any) -> None:
    """Checks that `srun` started this process, where the trainer's plugins ask for SLURM.

    Raises:
        ArgumentError: It did not, and this process would wait for the others for ever.
    """
    if "SLURMEnvironment" in str(plugins) and "SLURM_STEP_ID" not in os.environ:
        raise ArgumentError(
            "--config slurm is for processes that srun starts in a job of SLURM; this one was not. Job files: "
            "docs/jobs. On this machine alone: --config ddp."
        )


def quiet() -> None:
    """Silences warnings about what is meant to be so."""
    for message in (
        r".*does not have many workers.*",  # the data modules decide
        r".*sync_dist=True.*",  # metrics are synchronised when they are computed
        r".*compute.*method of metric .* was called before the .*update.*",  # a process without a test picture
        r".*Experiment logs directory .* exists and is not empty.*",
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own
        r".*callbacks used to create the checkpoint need to be provided.*",  # those about training, at test
        r".*LightningCLI's args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", message)
    if "SLURM_JOB_ID" not in os.environ:  # where jobs are submitted; in a job it is what was forgotten
        warnings.filterwarnings("ignore", r"The `srun` command is available.*")
    chatter = ("💡", "TPU available", "GPU available: False")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(chatter)
    )
