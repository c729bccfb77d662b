"""The commands: a LightningCLI whose subclasses of task and data module are chosen in the config."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from belvedere.checkpoints import (
    check_fit,
    check_resumable,
    check_same_data,
    check_task,
    output_folder,
    remove_records,
    resumed_from,
    source_of,
    states,
    trained_precision,
    write_source,
)
from belvedere.commandline.arguments import help_wanted, reported
from belvedere.commandline.help import page, without_help
from belvedere.commandline.options import (
    ACTING,
    OWN_CALLBACKS,
    OWN_COMMANDS,
    TRAINER_COMMANDS,
    add_options,
    add_own_options,
)
from belvedere.commandline.parser import Parser, shortened
from belvedere.commandline.precision import fastest_precision, mixed_precision
from belvedere.commandline.predicting import checkpoints_of, prepare, writers_of
from belvedere.commandline.results import results
from belvedere.commandline.settings import (
    check_accelerator,
    check_started,
    choose_loggers,
    follow_data,
    make_paths_absolute,
)
from belvedere.files import run_folder
from belvedere.names import SHIPPED, import_classes, task_name
from belvedere.prediction import changed_settings, load
from belvedere.quiet import quiet, silent
from belvedere.shards import check_options, shard_folder, slurm_script
from callbacks.best import FiniteOrStop, Summary
from callbacks.curves import Curves
from callbacks.handover import Handover
from callbacks.layers import Layers
from callbacks.loggers import LearningRate, ProgressBar, SaveConfig, WandbLogger
from callbacks.record import Record
from callbacks.score_loss import ScoreLoss
from callbacks.stopping import Stopping
from callbacks.writers.base import write_tested
from datamodules.base import ImageDataModule
from ops.atomic import check_writable, remove_leftovers
from ops.errors import SKIPPED, ArgumentError, ParserError, UserError, nearest
from ops.files.locks import claimed
from tasks.base import ImageTask
from tasks.networks.batch_norm import SyncBatchNorm


def run(arguments: list[str], typed: Sequence[str] = ()) -> int:
    """Runs a command and returns its exit code. Errors that the user can fix are printed as one message.

    Args:
        arguments: The command and what follows it, after `belvedere.commandline.arguments.expanded`.
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
        command: One of `belvedere.commandline.options.COMMANDS`.
        arguments: What follows the command, after `belvedere.commandline.arguments.expanded`.
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
        """Adds the options beyond those of Lightning."""
        add_options(parser, self.command)
        if self.command in OWN_COMMANDS:
            self.own_options = add_own_options(parser, self.command)

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
        choose_loggers(config, self.command, self.folder)
        chosen = config.trainer.precision is not None or self.command in OWN_COMMANDS  # these compute in float32
        if config.precision == "auto" and not chosen:
            config.trainer.precision = self._resumed_precision() or fastest_precision(
                config.trainer.accelerator, config.trainer.devices
            )
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
        make_paths_absolute(config)
        self.folder = output_folder(self.command, task_name(config.data.class_path), config)
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

    def _resumed_precision(self) -> str | None:
        """Returns the precision of the run that training resumes: measured anew, it may be another one."""
        checkpoint = self.settings.get("ckpt_path")
        return trained_precision(Path(checkpoint)) if self.command == "fit" and checkpoint is not None else None

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
        callbacks: list[Callback] = [] if self.settings.quiet else [ProgressBar()]
        if self.command != "fit":
            callbacks.append(Stopping())
        if self.command in TRAINER_COMMANDS:
            callbacks.append(Handover(self.datamodule, self.model))
        if self.command == "fit":
            callbacks += [FiniteOrStop(monitor), Curves(monitor), Summary(), LearningRate(), Layers(), Record()]
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
            raise ArgumentError(f"{error}.") from error
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        for group in getattr(optimizer, "param_groups", ()):
            if not math.isfinite(group.get("lr", 0)):
                raise ArgumentError(f"--model.optimizer.lr is {group['lr']}; expected a finite number.")
        self.datamodule.check_training()
        if not self.datamodule.root.is_dir():
            self.datamodule.prepare_data()  # its message is due before any weights are downloaded

    def before_fit(self) -> None:
        """Checks options and folder, loads the weights that training starts from, removes records of an earlier run."""
        config = self.settings
        self.check_options()
        own = config.ckpt_path is not None and run_folder(Path(config.ckpt_path)) == self.folder
        if not own and states(self.folder) and not config.resume and os.environ.get("LOCAL_RANK", "0") == "0":
            raise ArgumentError(
                f"{self.folder} already holds a run. Choose another --output, or resume the run: --resume auto."
            )
        if config.ckpt_path is not None:
            check_resumable(Path(config.ckpt_path))
            self._check_weights()
            if own:
                check_same_data(Path(config.ckpt_path), self.datamodule)
        else:
            self.model.load_pretrained()
        if not own and self.trainer.is_global_zero:
            remove_records(self.folder)

    def _check_weights(self) -> None:
        check_fit(Path(self.settings.ckpt_path), self.model.state_dict(), self.model.optional_keys)

    def _prepare_trained(self) -> None:
        """Checks the checkpoint and the dataset's folder, and loads the other members of the ensemble."""
        root = self.datamodule.root
        if self.command != "predict" and not root.is_dir():
            raise ArgumentError(f"The dataset of the run, {root}, is no longer there. Give its folder: --data.root.")
        self._check_weights()
        members = self.settings.members or ()
        if members:
            typed = changed_settings(self.model, Path(self.settings.ckpt_path))
            self.model.add_members([load(each, trust=self.settings.trust, **typed) for each in members], members)

    before_validate = before_test = _prepare_trained

    def before_predict(self) -> None:
        """Checks the weights, and finds what a shard or, with `--resume`, an interrupted prediction has finished."""
        self._prepare_trained()
        prepare(self.model, self.datamodule, self.trainer, self.settings, self.folder, self.results)

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
        write_tested(self.folder, checkpoints_of(self.settings))
        print(results(self.trainer.logged_metrics, self.folder / "intervals.csv"))
        print(self.folder / "metrics.csv")

    after_validate = after_test

    def after_predict(self) -> None:
        """Counts the images that could not be used."""
        self.skipped += sum(each.failed for each in writers_of(self.trainer))
        if self.settings.quiet and self.command == "predict":
            print(self.folder)
            print(
                f"belvedere: skipped {self.skipped}, see skipped.csv.\n" * bool(self.skipped), end="", file=sys.stderr
            )

    def _note_source(self) -> None:
        """Writes down of which images the results are, so that those of others do not replace them.

        It does so in the end of every command, because a signal or an error may come after the results.
        """
        if any(each.placed for each in writers_of(self.trainer)):
            write_source(self.folder, source_of(self.command, self.settings))
