"""The commands: a thin LightningCLI, the one place that knows both tasks and data modules."""

import logging
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from belvedere.arguments import SHIPPED, Parser, expanded, nearest, readable
from belvedere.checkpoints import check_fit, output_folder, resumed_from, states
from belvedere.features import Features, InOrder, Vector
from callbacks.best import BestCheckpoint, EarlyStopping, FiniteOrStop, Summary, mode_of
from callbacks.curves import Curves
from callbacks.handover import Handover
from callbacks.intervals import Intervals
from callbacks.loggers import ProgressBar, SaveConfig, WandbLogger
from callbacks.panels import Panels
from callbacks.record import Record
from callbacks.resuming import LastCheckpoint, Preemption
from callbacks.writers.features import FeatureWriter
from datamodules.base import ImageDataModule
from datamodules.batch import DataFacts
from ops.errors import ArgumentError, DataError, ParserError, TrainingError, TreesError, WeightsError, refuse
from tasks.base import ImageTask

COMMANDS = ("fit", "validate", "test", "predict", "features", "describe")
WORDS = ("clouds", "roads", "avalanches", "colorization", "aesthetics")
# What has options of its own, by their prefix; `intervals` is for tests, the others for training.
OWN_CALLBACKS = {"early_stopping": EarlyStopping, "panels": Panels, "last_checkpoint": LastCheckpoint,
                 "preemption": Preemption, "intervals": Intervals}  # fmt: skip
for word in WORDS:  # so that a config can name their classes
    import_module(f"tasks.{word}")
    import_module(f"datamodules.{word}")


class BelvedereCLI(LightningCLI):
    """fit, validate, test, predict, features and describe for every task."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands and the arguments of theirs that are no options."""
        return LightningCLI.subcommands() | {name: {"model", "datamodule"} for name in ("features", "describe")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what every task has: a folder, a monitored figure, and the callbacks around it."""
        parser.add_argument("--output", type=str | None, default=None,
                            help="Folder for all that is written (default: runs/<task>/<date and time>).")  # fmt: skip
        parser.add_argument("--monitor", type=str, default="val/loss",
                            help="The figure that decides which epoch is best and when training stops.")  # fmt: skip
        for name, callback in OWN_CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("monitor", "early_stopping.monitor")
        parser.link_arguments("monitor", "early_stopping.mode", compute_fn=mode_of)
        parser.add_argument("--resume", type=Literal["auto"] | None, help="auto: go on from what --output holds.")

    def _parse_ckpt_path(self) -> None:
        """Nothing: the run's config came first, so that what was typed wins over what a checkpoint remembers."""

    def before_instantiate_classes(self) -> None:
        """Settles the run's folder and gives it to all that writes."""
        command = str(self.subcommand)
        config = self.config[command]
        check_started(config.trainer.get("plugins"))
        _follow_data(config, command)
        if command == "predict":
            config.return_predictions = False  # the writers write; memory stays flat
        if command == "features":
            config.trainer.callbacks = None  # they are there for what the task predicts
        root = config.data.init_args.get("root")
        if root is not None:
            config.data.init_args.root = str(Path(root).expanduser().absolute())
        word = config.data.class_path.split(".")[-2]
        self.folder = output_folder(command, word, config)
        if self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError(f"--output {self.folder} is a file; a folder was wanted.")
        if command == "fit" and config.resume:
            config.ckpt_path = resumed_from(self.folder, config)
        config.trainer.precision = mixed_precision(config.trainer.precision, config.trainer.accelerator)
        config.trainer.default_root_dir = str(self.folder)
        config.trainer.logger = self._loggers(config.trainer.get("logger"), word)

    def _loggers(self, loggers: Any, word: str) -> Any:
        """The loggers, writing into the run's folder; a dashboard for training only, none where nothing is measured."""
        if not isinstance(loggers, list):
            return loggers
        if self.subcommand not in ("fit", "validate", "test"):
            return False
        if self.subcommand != "fit":
            loggers = [logger for logger in loggers if logger.class_path.endswith("CSVLogger")]
        for logger in loggers:
            logger["init_args.save_dir"] = str(self.folder)
            if logger.class_path == "callbacks.loggers.CSVLogger":
                logger["init_args.keep"] = self.subcommand == "fit"
            if logger.class_path.endswith("WandbLogger"):
                logger["init_args.project"], logger["init_args.name"] = f"belvedere-{word}", self.folder.name
        return loggers

    def instantiate_classes(self) -> None:
        """Makes task, data module and trainer.

        Raises:
            ParserError: A value was refused by the class that it was for.
        """
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            raise ParserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with what watches over training where there is any."""
        monitor = self._get(self.config, "monitor")
        watched = monitor, mode_of(monitor)
        callbacks: list[Callback] = [ProgressBar()]
        if self.subcommand not in ("features", "describe"):
            callbacks.append(Handover(self.datamodule, self.model))
        if self.subcommand == "fit":
            callbacks += [FiniteOrStop(monitor), Curves(*watched), Summary(*watched), BestCheckpoint(*watched)]
            callbacks.append(Record())
        own = {"fit": OWN_CALLBACKS.keys() - {"intervals"}, "test": {"intervals"}}.get(str(self.subcommand), set())
        self._parser(self.subcommand).callback_keys[:] = [name for name in OWN_CALLBACKS if name in own]
        self.trainer_defaults = {"callbacks": callbacks}
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Checks what can be checked before any picture is read, and loads the weights that training starts from."""
        config = self.config.fit
        figures = self.model.figures()
        if config.monitor not in figures:
            raise ArgumentError(
                f"--monitor {config.monitor}: there is no such figure.{nearest(config.monitor, figures)}"
            )
        try:
            self.model.configure_optimizers()
        except ValueError as error:
            raise ArgumentError(f"--model.optimizer: {error}.") from error
        if config.ckpt_path is not None:
            check_fit(Path(config.ckpt_path), self.model.state_dict(), self.model.optional_keys)
        elif states(self.folder) and not config.resume and "LOCAL_RANK" not in os.environ:
            raise ArgumentError(
                f"{self.folder} holds a run already. Give another --output, or go on with it: --resume auto."
            )
        else:
            self.model.load_pretrained()

    def _check_weights(self) -> None:
        path = Path(self.config[self.subcommand].ckpt_path)
        check_fit(path, self.model.state_dict(), self.model.optional_keys)

    before_validate = before_test = before_predict = _check_weights

    def after_fit(self) -> None:
        """Ends the dashboard's run: the next one of this process would be logged into it."""
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

    def after_test(self) -> None:
        """Says where the figures lie."""
        print(self.folder / "metrics.csv")

    after_validate = after_test

    def features(
        self,
        model: ImageTask,
        datamodule: ImageDataModule,
        ckpt_path: str | Path | None,
        vectors: list[Vector] | None,
        classifiers: bool,
    ) -> None:
        """Writes the pictures of a data set as vectors, and how well classical classifiers do with them."""
        from belvedere.classifiers import write_classifiers

        trained: list[Vector] = ["fc6", "fc7", "pooled"]
        module = Features(model, (trained if ckpt_path is not None else ["pooled"]) if vectors is None else vectors)
        module.load(ckpt_path)
        in_order = InOrder(datamodule)
        self.trainer.callbacks.append(FeatureWriter(in_order))  # type: ignore[attr-defined]  # untyped there
        self.trainer.predict(module, in_order, return_predictions=False)
        if classifiers and datamodule.pictures is None and self.trainer.is_global_zero:
            try:
                print(write_classifiers(self.folder / "vectors", seed=datamodule.seed))
            except ValueError as error:
                raise ArgumentError(f"The vectors are written, but no classifiers are fitted: {error}.") from error

    def describe(self, model: LightningModule, datamodule: ImageDataModule) -> None:
        """Lists everything that is wrong with the data set, or writes tables and pictures of it."""
        from belvedere.describe import write_study

        datamodule.folder = self.folder
        described = import_module(f"datamodules.describe.{type(datamodule).__module__.split('.')[-1]}")
        problems = described.problems(datamodule)
        refuse(problems, str(datamodule.root), shown=len(problems))
        study = described.study(datamodule)
        parts = (study.tables, study.charts, study.examples, study.classes, study.panels)
        for path in write_study(*parts, self.folder):
            print(path)


def run(arguments: list[str]) -> int:
    """Runs a command and returns the exit code; what the user can mend is said in a few words."""
    quiet()
    named = "BELVEDERE_RUN" in os.environ
    try:
        if arguments[0] not in COMMANDS:
            text = f"{arguments[0]!r} is no command of belvedere; the commands are {', '.join(COMMANDS)} and study."
            raise ArgumentError(text + nearest(arguments[0], [*COMMANDS, "study"]))
        BelvedereCLI(
            ImageTask,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=BelvedereTrainer,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,
                **{command: {"default_config_files": [str(SHIPPED / "defaults.yaml")]} for command in COMMANDS},
            },
            args=expanded(arguments),
        )
    except (ArgumentError, DataError, TrainingError, TreesError, WeightsError, MisconfigurationException) as error:
        text = readable(error) if isinstance(error, ParserError) else str(error)
        text = text.split("DataError: ")[-1]  # a loader's worker wraps its traceback around the message
        print(f"\nbelvedere: {text}", file=sys.stderr)
        return 2
    finally:
        if not named:
            os.environ.pop("BELVEDERE_RUN", None)  # the next command of this process has a folder of its own
    return 0


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


def _follow_data(config: Any, command: str) -> None:
    """Gives the task the settings that follow the data.

    Raises:
        ArgumentError: A checkpoint was trained with others.
    """
    facts = _facts(config.data)
    for name, fact in {"classes": facts.classes, "window": facts.window, "threshold": facts.vote_scale[1]}.items():
        known = config.model.init_args.get(name)
        given, known = (list(value) if isinstance(value, tuple) else value for value in (fact, known))
        if given in (None, []) or name not in config.model.init_args or given == known:
            continue
        if command != "fit" and config.get("ckpt_path") is not None:
            order = ", in this order" if isinstance(known, list) else ""
            known = "null" if known is None else known
            raise ArgumentError(f"The checkpoint knows the {name} {known}{order}; --data.{name} is {given}.")
        config.model.init_args[name] = given


def _facts(data: Namespace) -> DataFacts:
    """Returns the facts that follow from the arguments of a data module.

    Raises:
        ParserError: The class rejected a value.
    """
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = Namespace(data=data.clone())  # type: ignore[no-untyped-call]  # jsonargparse's own
    try:
        module: ImageDataModule = parser.instantiate_classes(config).data
    except (TypeError, ValueError) as error:
        raise ParserError(str(error)) from error
    return module.facts()


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


def mixed_precision(asked: str | None, accelerator: str) -> str | None:
    """The precision that was asked for; `16-mixed` for `bf16-mixed` where the GPU has no bfloat16, which is said.

    Args:
        asked: `trainer.precision`.
        accelerator: `trainer.accelerator`.
    """
    on_gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if asked != "bf16-mixed" or not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False):
        return asked
    print(f"belvedere: {torch.cuda.get_device_name()} has no bfloat16; 16-mixed is taken instead.", file=sys.stderr)
    return "16-mixed"
