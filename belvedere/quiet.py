"""Silences messages of Lightning about intended behavior."""

import logging
import os
import warnings
from pathlib import Path

from belvedere.packages import PACKAGES, ROOT

DEFAULT_FORMAT = warnings.formatwarning


def quiet() -> None:
    """Silences warnings about intended behavior, and Lightning's advertisements."""
    for message in (
        r".*does not have many workers.*",  # the data modules decide
        r".*sync_dist=True.*",  # metrics are synchronized when they are computed
        r".*compute.*method of metric .* was called before the .*update.*",  # a process without a test image
        r".*Experiment logs directory .* exists and is not empty.*",
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own
        r".*callbacks used to create the checkpoint need to be provided.*",  # those of training, at test
        r".*Total length of `EpochLoader` across ranks is zero.*",  # every image is predicted already
        r"Found \d+ module\(s\) in eval mode.*",  # frozen and pretrained parts are on purpose
        r".*LightningCLI's args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = _warning
    if "SLURM_JOB_ID" not in os.environ:  # outside of a job srun is not needed; in one it was forgotten
        warnings.filterwarnings("ignore", r"The `srun` command is available.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Returns a warning as it is printed: Belvedere's own are for users, who need no place in the code."""
    own = category is UserWarning and any(Path(filename).is_relative_to(ROOT / name) for name in PACKAGES)
    return f"belvedere: {message}\n" if own else DEFAULT_FORMAT(message, category, filename, lineno, line)


def silent() -> None:
    """Silences notices and progress bars too; warnings and errors remain."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ["WANDB_SILENT"] = "true"


def _is_news(record: logging.LogRecord) -> bool:
    """Returns whether a message of Lightning is news: no advertisement, missing accelerator or path that was typed."""
    known = ("💡", "TPU available", "GPU available: False", "Restoring states", "Loaded model weights")
    return not record.getMessage().startswith(known)
