"""The commands and their options beyond those of Lightning: output folder, monitored metric, ensembles, shards."""

from collections.abc import Callable
from inspect import signature
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from belvedere.describe import describe
from belvedere.export import export
from belvedere.features import features
from belvedere.suggest import suggest
from callbacks.best import BestCheckpoint, EarlyStopping, mode_of
from callbacks.intervals import Intervals
from callbacks.panels import Panels
from callbacks.resuming import LastCheckpoint, Preemption
from callbacks.writers.segmentation.prelabels import Tool

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
OWN_COMMANDS: dict[str, Callable[..., int | None]] = {"features": features, "describe": describe, "export": export,
                                                      "suggest": suggest}  # fmt: skip
COMMANDS = (*TRAINER_COMMANDS, *OWN_COMMANDS)
# Callbacks with options of their own, by prefix.
OWN_CALLBACKS = {"best_checkpoint": BestCheckpoint, "early_stopping": EarlyStopping, "panels": Panels,
                 "last_checkpoint": LastCheckpoint, "preemption": Preemption, "intervals": Intervals}  # fmt: skip
ACTING = {"fit": OWN_CALLBACKS.keys() - {"intervals"}, "test": {"intervals", "panels"}}
"""Which of them act in a command."""

TRUST_HELP = (
    "Let the checkpoint's config name any class. Such a config can run any program with your rights, so trust only "
    "checkpoints whose makers you trust. Without it, a checkpoint may only name belvedere's own classes and torch's "
    "optimizers and schedulers; --trust is for runs with your own classes."
)


def add_options(parser: LightningArgumentParser, command: str) -> None:
    """Adds the options of every task, and those of the callbacks around training.

    They exist for every command, so that one config serves all; callbacks act only where they belong.
    """
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder for everything that is written (default: runs/<task>/<date and time>).",
    )
    parser.add_argument(
        "--monitor",
        type=str,
        default="val/loss",
        help="The metric that selects the best epoch and stops training.",
    )
    for name, callback in OWN_CALLBACKS.items():
        parser.add_lightning_class_args(callback, name)
    parser.callback_keys[:] = [name for name in OWN_CALLBACKS if name in ACTING.get(command, ())]
    for name in ("best_checkpoint", "early_stopping"):
        parser.link_arguments("monitor", f"{name}.monitor")
        parser.link_arguments("monitor", f"{name}.mode", compute_fn=mode_of)
    parser.add_argument(
        "--precision",
        type=Literal["auto"] | None,
        help="auto: bf16-mixed where the device computes it faster, unless --trainer.precision is given.",
    )
    parser.add_argument(
        "--members",
        type=list[str] | None,
        help="Further checkpoints whose probabilities are averaged with those of --ckpt_path.",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="Let predict and features replace what is not theirs, or of other images, in the same folder.",
    )
    if command == "predict":
        _add_options_of_predict(parser)
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="Print results and problems only: no progress bars, no notices.",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
    parser.add_argument(
        "--resume",
        type=Literal["auto"] | None,
        help="auto: resume the run in --output, if any; predict keeps the images that are finished.",
    )


def _add_options_of_predict(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--prelabels",
        type=list[Tool] | None,
        help="Annotation tools whose labels it writes too, for correction: labelme, coco, cvat.",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="Write how unsure the network, or the members together, are of each pixel and image.",
    )
    parser.add_argument(
        "--shards",
        type=int | None,
        default=None,
        help="Number of shards of this prediction; with --shard, --merge or --slurm.",
    )
    parser.add_argument("--shard", type=int | None, default=None, help="Number of the shard to predict, from 0.")
    parser.add_argument("--merge", action="store_true", help="Write the results of all shards.")
    parser.add_argument(
        "--slurm",
        nargs="?",
        type=str,
        const="",
        default=None,
        help="Print a script that submits the shards and the merge to SLURM; with a FILE, a copy of "
        "configs/studies/slurm/default.yaml, that says what a job needs.",
    )


def add_own_options(parser: LightningArgumentParser, command: str) -> list[str]:
    """Adds the options of one of `OWN_COMMANDS`: the arguments of its function. Returns the names to call it with."""
    function = OWN_COMMANDS[command]
    shared = {"members", "trust"} & signature(function).parameters.keys()  # options of every command
    skip: set[str | int] = {"task", "data", "trainer", "folder", *shared}
    return [*parser.add_function_arguments(function, skip=skip), *shared]
