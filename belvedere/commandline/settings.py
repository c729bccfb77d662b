"""Completes the settings of a command: what follows from the data and the machine, full paths, loggers."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_info

from belvedere.files import run_folder
from belvedere.names import task_name
from belvedere.prediction import class_of
from callbacks.loggers import dashboards
from datamodules.base import ImageDataModule
from datamodules.batch import DataFacts
from ops.errors import ArgumentError, ParserError
from ops.extras import installed


def follow_data(config: Any, command: str) -> None:
    """Gives the task the settings that follow the data.

    Raises:
        ArgumentError: A checkpoint was trained with others.
    """
    facts = _facts(config.data)
    follows = {"classes": facts.classes, "window": facts.window, "size": facts.size, "threshold": facts.vote_scale[1],
               "channels": facts.channels}  # fmt: skip
    for name, fact in follows.items():
        known = config.model.init_args.get(name)
        given, known = (list(value) if isinstance(value, tuple) else value for value in (fact, known))
        if given in (None, []) or name not in config.model.init_args or given == known:
            continue
        if command != "fit" and config.get("ckpt_path") is not None:
            order = ", in this order" if isinstance(known, list) else ""
            known = "null" if known is None else known
            if name == "channels":
                raise ArgumentError(
                    f"The checkpoint was trained on {known} channels; --data.bands gives {given}. Give the same bands."
                )
            raise ArgumentError(f"The checkpoint knows the {name} {known}{order}; --data.{name} is {given}.")
        config.model.init_args[name] = given


def _facts(data: Namespace) -> DataFacts:
    """Returns the facts that follow from the arguments of a data module.

    Raises:
        ParserError: The class rejected a value.
    """
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    try:
        config = Namespace(data=data.clone())  # type: ignore[no-untyped-call]  # jsonargparse has no types for it
        module: ImageDataModule = parser.instantiate_classes(config).data
    except (TypeError, ValueError) as error:
        raise ParserError(str(error)) from error
    return module.facts()


def check_accelerator(name: str) -> None:
    """Checks that there is a GPU if one is asked for.

    Raises:
        ArgumentError: There is none.
    """
    import torch

    if name in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ArgumentError(
            "There is no GPU that torch can use. Leave out --config gpu to compute on the CPU, or install torch for "
            "your GPU and its driver."
        )


def check_started(plugins: Any) -> None:
    """Checks that `srun` started this process, if the trainer's plugins ask for SLURM.

    Raises:
        ArgumentError: It did not, and this process would wait for the others forever.
    """
    if "SLURMEnvironment" in str(plugins) and "SLURM_STEP_ID" not in os.environ:
        raise ArgumentError(
            "--config slurm is for processes that srun starts in a SLURM job, and srun did not start this one. See "
            "docs/jobs for job files. On this machine alone: --config ddp."
        )


def make_paths_absolute(config: Namespace) -> None:
    """Replaces relative paths, because a later command that reads this config starts elsewhere."""
    paths = class_of(config.data.class_path).paths
    for values, names in ((config, ("output",)), (config.data.init_args, paths)):
        for name in names:
            if values.get(name) is not None:
                values[name] = str(Path(values[name]).expanduser().absolute())
    # these may also be words
    for values, names in ((config, ("ckpt_path",)), (config.model.init_args, ("pretrained", "extractor_weights"))):
        for name in names:
            if values.get(name) is not None:
                values[name] = _absolute_if_found(values[name])
    backbones = config.model.init_args.get("backbones")
    if backbones:
        config.model.init_args.backbones = {name: _absolute_if_found(path) for name, path in backbones.items()}


def _absolute_if_found(value: Any) -> Any:
    """Returns the absolute path of a file that exists, and any other value as it is."""
    if isinstance(value, str | Path) and (found := Path(value).expanduser()).exists():
        return str(found.absolute())
    return value


def choose_loggers(config: Namespace, command: str, folder: Path) -> None:
    """Makes the loggers write into the run's folder; a test continues the dashboards of its training."""
    trainer = config.trainer
    if command not in ("fit", "validate", "test"):
        trainer.logger = False
        return
    if isinstance(trainer.get("logger"), bool | None):
        return
    if not isinstance(trainer.logger, list):
        trainer.logger = [trainer.logger]
    home, checkpoint = folder, config.get("ckpt_path")
    if command != "fit":
        trainer.logger = [logger for logger in trainer.logger if logger.class_path.endswith("CSVLogger")]
        if checkpoint is not None:
            home = run_folder(Path(checkpoint))
            for each in dashboards(home):
                trainer.logger.append(Namespace(each))  # type: ignore[no-untyped-call]  # jsonargparse has no types
    without = [logger for logger in trainer.logger if not logger.class_path.endswith("WandbLogger")]
    if len(without) < len(trainer.logger) and not installed("wandb"):
        trainer.logger = without
        rank_zero_info("wandb is not installed, so it logs nothing: pip install wandb.")
    for logger in trainer.logger:
        table = logger.class_path.endswith("CSVLogger")
        logger["init_args.save_dir"] = str(folder if table else home)
        if logger.class_path == "callbacks.loggers.CSVLogger":
            logger["init_args.keep"] = command == "fit"
        if logger.class_path == "callbacks.loggers.WandbLogger":
            logger["init_args.keep"] = checkpoint is not None and run_folder(Path(checkpoint)) == home
        if logger.class_path.endswith("WandbLogger"):
            logger["init_args.project"] = f"belvedere-{task_name(config.data.class_path)}"
            logger["init_args.name"] = home.name
