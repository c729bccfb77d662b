"""The commands: a LightningCLI whose subclasses of task and data module are chosen in the config."""

import hashlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from belvedere.arguments import help_wanted, reported
from belvedere.checkpoints import (
    check_fit,
    check_replaceable,
    check_resumable,
    check_same_data,
    check_task,
    output_folder,
    resumed_from,
    source_of,
    states,
    write_source,
)
from belvedere.describe import describe
from belvedere.export import export
from belvedere.features import features
from belvedere.files import run_folder
from belvedere.help import page, without_help
from belvedere.names import SHIPPED, import_classes, task_name
from belvedere.parser import Parser, shortened
from belvedere.precision import fastest_precision, mixed_precision
from belvedere.prediction import class_of, load
from belvedere.quiet import quiet, silent
from belvedere.results import results
from belvedere.shards import check_options, merge, prepare_shard, shard_folder, slurm_script
from belvedere.suggest import suggest
from callbacks.best import BestCheckpoint, EarlyStopping, FiniteOrStop, Summary, mode_of
from callbacks.curves import Curves
from callbacks.handover import Handover
from callbacks.intervals import Intervals
from callbacks.layers import Layers
from callbacks.loggers import LearningRate, ProgressBar, SaveConfig, WandbLogger, dashboards
from callbacks.panels import Panels
from callbacks.record import Record
from callbacks.resuming import LastCheckpoint, Preemption
from callbacks.score_loss import ScoreLoss
from callbacks.stopping import Stopping
from callbacks.writers.base import Writer, finished_rows, is_finished, write_checkpoints
from callbacks.writers.format import FAILED
from callbacks.writers.polygons import Outlines
from callbacks.writers.prelabels import PreLabels, Tool
from callbacks.writers.stitch import StitchingWriter
from callbacks.writers.stitched import StitchedFormat
from callbacks.writers.uncertainty import Uncertainty
from datamodules.base import ImageDataModule
from datamodules.batch import DataFacts
from datamodules.read.names import located
from datamodules.read.pictures import picture_size
from datamodules.read.tables import Table
from ops.atomic import check_writable, remove_leftovers
from ops.errors import SKIPPED, ArgumentError, ParserError, UserError, nearest
from ops.extras import installed
from ops.locks import claimed
from tasks.base import ImageTask
from tasks.networks.batch_norm import SyncBatchNorm

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
OWN_COMMANDS: dict[str, Callable[..., int | None]] = {"features": features, "describe": describe, "export": export,
                                                      "suggest": suggest}  # fmt: skip
COMMANDS = (*TRAINER_COMMANDS, *OWN_COMMANDS)
# Callbacks with options of their own, by prefix.
OWN_CALLBACKS = {"early_stopping": EarlyStopping, "panels": Panels, "last_checkpoint": LastCheckpoint,
                 "preemption": Preemption, "intervals": Intervals}  # fmt: skip
ACTING = {"fit": OWN_CALLBACKS.keys() - {"intervals"}, "test": {"intervals", "panels"}}
"""Which of them act in a command."""

PRECISION_HELP = "auto: bf16-mixed where the device computes it faster, unless --trainer.precision is given."
SHARD_OPTIONS = {
    "shards": (int | None, "Number of shards of this prediction; with --shard, --merge or --slurm."),
    "shard": (int | None, "Number of the shard to predict, from 0."),
}
MERGE_HELP = "Write the results of all shards."
SLURM_HELP = (
    "Print a script that submits the shards and the merge to SLURM; with a FILE, a copy of "
    "configs/studies/slurm/default.yaml, that says what a job needs."
)
TRUST_HELP = (
    "Let the checkpoint's config name any class. Such a config can run any program with your rights, so trust only "
    "checkpoints whose makers you trust. Without it, a checkpoint may only name belvedere's own classes and torch's "
    "optimizers and schedulers; --trust is for runs with your own classes."
)


def run(arguments: list[str], typed: Sequence[str] = ()) -> int:
    """Runs a command and returns its exit code. Errors that the user can fix are printed as one message.

    Args:
        arguments: The command and what follows it, after `belvedere.arguments.expanded`.
        typed: The same before.
    """
    quiet()
    if "--quiet" in arguments:
        silent()  # before the first notice
    named = "BELVEDERE_RUN" in os.environ
    try:
        cli = BelvedereCLI(arguments[0], arguments[1:], typed)
    except ParserError as error:
        return reported(ArgumentError(shortened(error)))
    except (UserError, MisconfigurationException, OSError) as error:
        return reported(error)
    except MemoryError:
        print("\nbelvedere: There is not enough memory. Use a smaller --data.batch_size, fewer --data.num_workers or "
              "smaller images; a lower --data.max_pixels skips large ones.", file=sys.stderr)  # fmt: skip
        return 2
    finally:
        if not named:
            os.environ.pop("BELVEDERE_RUN", None)  # the next command of this process gets its own folder
    return SKIPPED if cli.skipped else 0


class BelvedereCLI(LightningCLI):
    """Runs one command for any task.

    `fit`, `validate`, `test` and `predict` are Lightning's subcommands. Those of `OWN_COMMANDS` are not methods of its
    Trainer, as Lightning requires of a subcommand: for them this is a LightningCLI with `run=False`, which parses the
    same options, makes the same objects and leaves the rest to the function of that name.

    Args:
        command: One of `COMMANDS`.
        arguments: What follows the command, after `belvedere.arguments.expanded`.
        typed: The command and what was typed after it, before.

    Attributes:
        skipped: How many images could not be used.
    """

    def __init__(self, command: str, arguments: list[str], typed: Sequence[str] = ()) -> None:
        self.command, self.skipped, self.typed = command, 0, typed
        import_classes()
        subcommands = command in TRAINER_COMMANDS
        if subcommands:  # the parsers of the other three would take as long as this one's
            vars(self)["subcommands"] = lambda: {command: LightningCLI.subcommands()[command]}
        settings = {"default_config_files": [str(SHIPPED / "defaults.yaml")], "allow_abbrev": False}
        main: dict[str, Any] = {"prog": "belvedere", "allow_abbrev": False}
        main |= {command: dict(settings)}
        with ExitStack() as stack:
            # a function, because averaged weights copy whatever the network refers to
            self._at_end: Callable[[], ExitStack] = lambda: stack
            super().__init__(
                ImageTask,
                ImageDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveConfig,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_class=Parser,
                parser_kwargs=main if subcommands else {"prog": f"belvedere {command}", **settings},
                run=subcommands,
                args=[command, *arguments] if subcommands else arguments,
            )
            if not subcommands:
                given = {name: self.config_init[name] for name in self.own_options}
                found = OWN_COMMANDS[command](self.model, self.datamodule, self.trainer, self.folder, **given)
                self.skipped += found or 0
                self.after_predict()

    @property
    def settings(self) -> Any:
        """The parsed config of the command."""
        return self.config if self.subcommand is None else self.config[self.subcommand]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of every task: output folder, monitored metric, and the callbacks around training."""
        folder_help = "Folder for everything that is written (default: runs/<task>/<date and time>)."
        monitor_help = "The metric that selects the best epoch and stops training."
        parser.add_argument("--output", type=str | None, default=None, help=folder_help)
        parser.add_argument("--monitor", type=str, default="val/loss", help=monitor_help)
        for name, callback in OWN_CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("monitor", "early_stopping.monitor")
        parser.link_arguments("monitor", "early_stopping.mode", compute_fn=mode_of)
        parser.add_argument("--precision", type=Literal["auto"] | None, help=PRECISION_HELP)
        members_help = "Further checkpoints whose probabilities are averaged with those of --ckpt_path."
        parser.add_argument("--members", type=list[str] | None, help=members_help)
        if self.command == "predict":
            prelabels_help = "Annotation tools whose labels it writes too, for correction: labelme, coco, cvat."
            parser.add_argument("--prelabels", type=list[Tool] | None, help=prelabels_help)
            uncertainty_help = "Write how unsure the network, or the members together, are of each pixel and image."
            parser.add_argument("--uncertainty", action="store_true", help=uncertainty_help)
        overwrite_help = "Let predict and features replace what is not theirs, or of other images, in the same folder."
        parser.add_argument("--overwrite", action="store_true", help=overwrite_help)
        if self.command == "predict":
            for name, (kind, help_text) in SHARD_OPTIONS.items():
                parser.add_argument(f"--{name}", type=kind, default=None, help=help_text)
            parser.add_argument("--merge", action="store_true", help=MERGE_HELP)
            parser.add_argument("--slurm", nargs="?", type=str, const="", default=None, help=SLURM_HELP)
        quiet_help = "Print results and problems only: no progress bars, no notices."
        parser.add_argument("--quiet", action="store_true", help=quiet_help)
        parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
        resume_help = "auto: resume the run in --output, if any; predict keeps the images that are finished."
        parser.add_argument("--resume", type=Literal["auto"] | None, help=resume_help)
        # options exist for every command, so that one config serves all; callbacks act only where they belong
        parser.callback_keys[:] = [name for name in OWN_CALLBACKS if name in ACTING.get(self.command, ())]
        if self.command in OWN_COMMANDS:
            function = OWN_COMMANDS[self.command]
            shared = {"members", "trust"} & signature(function).parameters.keys()  # options of every command
            skip: set[str | int] = {"task", "data", "trainer", "folder", *shared}
            self.own_options = [*parser.add_function_arguments(function, skip=skip), *shared]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, or prints the help that they ask for and exits."""
        topic = help_wanted(args)
        if topic in ("--help", "--help.trainer"):
            plain = without_help(args)
            settings = None
            if any(argument.startswith(("--config", "-c", "--model", "--data")) for argument in plain):
                super().parse_arguments(parser, plain)
                settings = self.config[self.command] if self.command in TRAINER_COMMANDS else self.config
            commands = getattr(self, "_subcommand_parsers", {})
            elsewhere = tuple(f"{name}." for name in OWN_CALLBACKS.keys() - ACTING.get(self.command, set()))
            print(page(self.command, commands.get(self.command, parser), settings, topic, elsewhere))
            sys.exit(0)
        super().parse_arguments(parser, ["--help" if argument == "--help.all" else argument for argument in args])

    def _parse_ckpt_path(self) -> None:
        """Does nothing. Lightning would let the checkpoint's settings win over those typed; there is no public switch.

        `expanded` puts the checkpoint's config first instead, so that everything typed wins.
        """

    def before_instantiate_classes(self) -> None:
        """Completes the config: the task follows the data, and everything is written into one folder."""
        config = self.settings
        if config.quiet:
            silent()
            config.trainer.enable_progress_bar = False
        check_started(config.trainer.get("plugins"))
        check_accelerator(config.trainer.accelerator)
        if config.get("ckpt_path") is not None and Path(config.ckpt_path).is_file():
            check_task(Path(config.ckpt_path), config.model.class_path, config.data.class_path)
        follow_data(config, self.command)
        if self.command == "predict":
            check_options(config)
        self._choose_folder()
        self._resume()
        self._choose_loggers()
        if config.precision == "auto" and config.trainer.precision is None:
            config.trainer.precision = fastest_precision(config.trainer.accelerator, config.trainer.devices)
        config.trainer.precision = mixed_precision(config.trainer.precision, config.trainer.accelerator)
        if self.command in ("test", "validate"):
            config.verbose = False  # `results` prints the metrics
        if self.command == "predict":
            config.return_predictions = False  # the callbacks write them, so memory use stays constant
        if self.command in OWN_COMMANDS:
            config.trainer.callbacks = None  # the run's callbacks expect the task's predictions

    def _choose_folder(self) -> None:
        """Sets the folder that the command writes to, and makes paths absolute: other commands start elsewhere."""
        config = self.settings
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
        self.task_name = task_name(config.data.class_path)
        self.folder = output_folder(self.command, self.task_name, config)
        self.results = self.folder
        if self.command == "predict" and config.slurm is not None:
            overlay = Path(config.slurm) if config.slurm else None
            print(slurm_script(self.typed, self.folder, config.shards, overlay), end="")
            sys.exit(0)
        if self.command == "predict" and config.shard is not None:
            self.folder = shard_folder(self.folder, config.shard)
        if "LOCAL_RANK" not in os.environ:  # the first process has checked it
            check_writable(self.folder)
        config.trainer.default_root_dir = str(self.folder)

    def _resume(self) -> None:
        """Chooses the checkpoint that `--resume auto` starts from."""
        if self.command == "fit" and self.settings.resume:
            self.settings.ckpt_path = resumed_from(self.folder, self.settings)

    def _choose_loggers(self) -> None:
        """Makes the loggers write into the run's folder; a test continues the dashboards of its training."""
        trainer = self.settings.trainer
        if self.command not in ("fit", "validate", "test"):
            trainer.logger = False
            return
        if isinstance(trainer.get("logger"), bool | None):
            return
        if not isinstance(trainer.logger, list):
            trainer.logger = [trainer.logger]
        home, checkpoint = self.folder, self.settings.get("ckpt_path")
        if self.command != "fit":
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
            logger["init_args.save_dir"] = str(self.folder if table else home)
            if logger.class_path == "callbacks.loggers.CSVLogger":
                logger["init_args.keep"] = self.command == "fit"
            if logger.class_path == "callbacks.loggers.WandbLogger":
                logger["init_args.keep"] = checkpoint is not None and run_folder(Path(checkpoint)) == home
            if logger.class_path.endswith("WandbLogger"):
                logger["init_args.project"], logger["init_args.name"] = f"belvedere-{self.task_name}", home.name

    def instantiate_classes(self) -> None:
        """Makes task, data module and trainer, and claims the folder: two commands would mix what they write.

        Raises:
            ParserError: A class rejected a value.
            FolderError: Another process uses the folder.
        """
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise ParserError(str(error)) from error
        if self.trainer.is_global_zero:
            self._at_end().enter_context(claimed(self.folder, f"belvedere {self.command}"))
            self._at_end().callback(self._note_source)
            remove_leftovers(*(self.folder / name for name in ("", "checkpoints", "panels")))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer; in training it gets the callbacks that monitor the run."""
        monitor = self.settings.monitor
        watched = monitor, mode_of(monitor)
        callbacks: list[Callback] = [] if self.settings.quiet else [ProgressBar()]
        if self.command != "fit":
            callbacks.append(Stopping())
        if self.command in TRAINER_COMMANDS:
            callbacks.append(Handover(self.datamodule, self.model))
        if self.command == "fit":
            callbacks += [FiniteOrStop(monitor), Curves(*watched), Summary(*watched), BestCheckpoint(*watched)]
            callbacks += [LearningRate(), Layers(), Record()]
        callbacks.append(ScoreLoss())
        self.trainer_defaults = {"callbacks": callbacks}
        if self.settings.trainer.sync_batchnorm:
            made = self.config_init if self.subcommand is None else self.config_init[self.subcommand]
            plugins = made.trainer.plugins or []
            kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), SyncBatchNorm()]
        return super().instantiate_trainer(**kwargs)

    def check_options(self) -> None:
        """Checks the options of `fit` as far as they need no image and no weights.

        Raises:
            ArgumentError: One is wrong.
            DataError: The dataset is missing.
        """
        config = self.settings
        metrics = self.model.figures()
        if config.monitor not in metrics:
            raise ArgumentError(
                f"--monitor {config.monitor}: there is no such metric.{nearest(config.monitor, metrics)} The metrics "
                f"are {', '.join(metrics)}."
            )
        try:
            configured: Any = self.model.configure_optimizers()
        except ValueError as error:
            raise ArgumentError(f"--model.optimizer: {error}.") from error
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        for group in getattr(optimizer, "param_groups", ()):
            if not math.isfinite(group.get("lr", 0)):
                raise ArgumentError(f"--model.optimizer.lr is {group['lr']}; expected a finite number.")
        if not self.datamodule.root.is_dir():
            self.datamodule.prepare_data()  # its message is due before any weights are downloaded

    def before_fit(self) -> None:
        """Checks everything that needs no image, and loads the weights that training starts from."""
        config = self.settings
        self.check_options()
        if config.ckpt_path is not None:
            check_resumable(Path(config.ckpt_path))
            self._check_weights()
            if run_folder(Path(config.ckpt_path)) == self.folder:
                check_same_data(Path(config.ckpt_path), self.datamodule)
        elif states(self.folder) and not config.resume and "LOCAL_RANK" not in os.environ:
            raise ArgumentError(
                f"{self.folder} already holds a run. Choose another --output, or resume the run: --resume auto."
            )
        else:
            self.model.load_pretrained()

    def _check_weights(self) -> None:
        check_fit(Path(self.settings.ckpt_path), self.model.state_dict(), self.model.optional_keys)

    def _prepare_trained(self) -> None:
        """Checks the checkpoint and the dataset's folder, and loads the other members of the ensemble."""
        root = self.datamodule.root
        if self.command != "predict" and not root.is_dir():
            raise ArgumentError(f"The dataset of the run, {root}, is no longer there. Give its folder: --data.root.")
        self._check_weights()
        members = self.settings.members or ()
        self.model.add_members([load(path, trust=self.settings.trust) for path in members], members)

    before_validate = before_test = _prepare_trained

    def before_predict(self) -> None:
        """Checks the weights, and finds what a shard or, with `--resume`, an interrupted prediction has finished."""
        self._prepare_trained()
        writers = self._writers()
        if len(writers) != 1:
            return
        (writer,), (folder, names) = writers, self.datamodule.predicted_names()
        writer.formats += self._added_formats(writer, folder)
        if self.settings.output is not None and not self.settings.overwrite:
            check_replaceable(self.results, (name for each in writer.formats for name in each.folders))
        self.model.disagreeing = self.settings.uncertainty
        writer.key, writer.checkpoints = self._prediction_key(folder, names), self._checkpoints()
        if (self.settings.resume or self.settings.shards) and is_finished(self.results, writer.key):
            self.datamodule.finished = set(names)  # Lightning skips a prediction of no images
            skipped = self.results / FAILED
            writer.failed = len(Table(skipped, ["name"]).rows) if skipped.is_file() else 0
            print(f"belvedere: all {len(names)} images are finished already: {self.results}", file=sys.stderr)
            return
        if self.settings.shards is not None:
            assert isinstance(writer, StitchingWriter)  # `check_options` has checked it
            shards, key = self.settings.shards, f"{writer.key} {self.settings.shards}"
            if self.settings.merge:
                merge(self.model, self.datamodule, writer, self.results, key, shards)
                left = False
            else:
                left = prepare_shard(
                    self.trainer, self.datamodule, writer, self.results, key, self.settings.shard, shards
                )
            if not left:
                self.datamodule.finished = set(names)  # Lightning skips a prediction of no images
                self.datamodule.shares = None
            return
        if not self.settings.resume:
            return
        rows = finished_rows(self.folder / "part", writer.key)
        if len({row[2] for row in rows}) >= len(names):
            rows.pop()  # Lightning skips a prediction of no images, and with it the writer's end
        writer.earlier, self.datamodule.finished = rows, {row[2] for row in rows}
        print(f"belvedere: {len(rows)} of {len(names)} images are finished already.", file=sys.stderr)

    def _added_formats(self, writer: Writer[Any], folder: Path) -> list[StitchedFormat]:
        """Returns the formats of `--prelabels` and `--uncertainty`.

        Raises:
            ArgumentError: The task marks no regions.
        """
        tools = dict.fromkeys(self.settings.prelabels or ())
        if (tools or self.settings.uncertainty) and not isinstance(writer, StitchingWriter):
            raise ArgumentError("--prelabels and --uncertainty are for tasks that mark regions in images.")
        like = next((each for each in writer.formats if isinstance(each, Outlines)), None)
        added: list[StitchedFormat] = [Uncertainty()] if self.settings.uncertainty else []
        return added + [PreLabels(tool, partial(located, folder), picture_size, like) for tool in tools]

    def _prediction_key(self, folder: Path, names: Sequence[str]) -> str:
        """Returns a digest of the images, the checkpoint and the settings of a prediction."""
        settings, paths = self.settings, self._checkpoints()
        states = [(path, state.st_size, state.st_mtime_ns) for path in paths for state in (Path(path).stat(),)]
        parts = [*states, str(folder), *names, settings.model.as_dict(), settings.data.as_dict(),
                 settings.trainer.callbacks, settings.prelabels, settings.uncertainty]  # fmt: skip
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def _checkpoints(self) -> list[str]:
        """Returns the paths of the checkpoint and of the members that are averaged with it."""
        return [os.path.abspath(path) for path in (self.settings.ckpt_path, *(self.settings.members or ()))]

    def after_fit(self) -> None:
        """Ends the dashboard's run, or the next run of this process would be logged into it."""
        self._end_dashboards()

    def _end_dashboards(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

    def after_test(self) -> None:
        """Prints the metrics and the path of their table, and writes down of which checkpoints they are."""
        self._end_dashboards()
        if not self.trainer.is_global_zero:
            return
        write_checkpoints(self.folder, self._checkpoints())
        print(results(self.trainer.logged_metrics, self.folder / "intervals.csv"))
        print(self.folder / "metrics.csv")

    after_validate = after_test

    def after_predict(self) -> None:
        """Counts the images that could not be used."""
        self.skipped += sum(each.failed for each in self._writers())
        if self.settings.quiet and self.command == "predict":
            print(self.folder)
            print(
                f"belvedere: skipped {self.skipped}, see skipped.csv.\n" * bool(self.skipped), end="", file=sys.stderr
            )

    def _note_source(self) -> None:
        """Writes down of which images the results are, so that those of others do not replace them.

        It does so in the end of every command, because a signal or an error may come after the results.
        """
        if any(each.placed for each in self._writers()):
            write_source(self.folder, source_of(self.command, self.settings))

    def _writers(self) -> list[Writer[Any]]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # untyped there
        return [each for each in callbacks if isinstance(each, Writer)]


def _absolute_if_found(value: Any) -> Any:
    """Returns the absolute path of a file that exists, and any other value as it is."""
    if isinstance(value, str | Path) and (found := Path(value).expanduser()).exists():
        return str(found.absolute())
    return value


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
