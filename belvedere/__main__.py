"""The command line: `belvedere`, which is `python -m belvedere`."""

import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from belvedere import TASKS, __version__
from belvedere.commandline.arguments import check_command, expanded, reported
from belvedere.files import at_home
from belvedere.names import SHIPPED, best_first, configs
from callbacks.signals import Stopped, noted, stoppable
from ops.errors import ArgumentError, UserError, nearest

HELP = """belvedere: five image tasks for small datasets, on one command line

  belvedere fit      --config roads/best --data.root FOLDER     trains, and keeps the best epoch
  belvedere validate --ckpt_path FILE                           computes metrics on the validation images
  belvedere test     --ckpt_path FILE                           computes metrics on the test images
  belvedere predict  --ckpt_path FILE --data.pictures PATH      writes masks, tables and overlays of your images
  belvedere features --ckpt_path FILE                           writes feature vectors, and fits classifiers on them
  belvedere describe --config roads/best --data.root FOLDER     checks a dataset, then writes tables and charts of it
  belvedere suggest  --ckpt_path FILE --data.pictures FOLDER    chooses the images to label next, with pre-labels
  belvedere export   --ckpt_path FILE                           writes one ONNX file, which runs without torch
  belvedere import   --from coco FILE --output FOLDER           makes a dataset of an annotation tool's labels
  belvedere pack     --ckpt_path FILE --output model.zip        makes one file to share: weights, settings, model card
  belvedere app      --ckpt_path FILE                           opens a page in the browser to try it on your images
  belvedere study    clouds --data.root FOLDER                  compares many runs; see belvedere study --help
  belvedere compare  FOLDER FOLDER --output page.html           asks people which results they prefer; see --help
  belvedere pool     runs/studies/folds                         measures the folds of a study together, each image once
  belvedere learning-curve --config roads/best --data.root FOLDER   says what twice as many labels would bring
  belvedere configs  [TASK]                                     lists the shipped configs, one line each

The tasks and their configs:
{tasks}

Options of every command except import, pack, app, pool, study, learning-curve, compare and configs, whose own --help
lists theirs:
  --config NAME    a config from the list, then overlays (debug, gpu, ddp, slurm, tensorboard, early_stopping); your own
                   file or a shipped one; later ones win
  --output FOLDER  where the command writes; runs/<task>/<date and time> by default
  --KEY VALUE      any setting: --model.encoder resnet34, --data.batch_size 8, --monitor val/auprc
  --epochs N, --lr X, --batch_size N, --data FOLDER
                   short for --trainer.max_epochs, --model.optimizer.lr, --data.batch_size and --data.root
  --quiet          prints results and problems only
  --help           lists the options; with --config NAME those of its task and data first
  --print_config   prints the full config instead of running it

belvedere --version prints the version. Completion with the Tab key, once in bash (or zsh, where zsh looks for it):
  mkdir -p ~/.local/share/bash-completion/completions
  belvedere completion bash > ~/.local/share/bash-completion/completions/belvedere
"""


def _tasks() -> str:
    """Lists each task with its subject and its configs."""
    lines = []
    for task, subject in TASKS.items():
        names = ", ".join(path.stem for path in sorted((SHIPPED / task).glob("*.yaml"), key=best_first))
        lines.append(f"  {task:13} {subject}\n{'':16}{task}/ {names}")
    return "\n".join(lines)


HELP = HELP.format(tasks=_tasks())


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What was typed after `belvedere`; None reads it from the process.

    Returns:
        The exit code: 0; 2 for an error that the user can fix; 3 if predict, features, suggest, describe or import
        finished, but skipped what cannot be used; 75 for a training that saved its state and stopped on SIGUSR1 or
        SIGTERM; 143 and 130 for another command that was stopped by SIGTERM or Ctrl-C. `study` has its own codes, see
        `studies.command.study`.
    """
    try:
        return _main(arguments)
    except Stopped as stopped:
        print(f"\nbelvedere: stopped by {stopped.signal.name}.", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("\nbelvedere: stopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT


def _main(arguments: list[str] | None) -> int:
    typed = arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may have any bytes
    try:
        sys.path.append(os.getcwd())  # for the user's own classes in configs; last, so that they hide no library
    except FileNotFoundError:
        print("\nbelvedere: The working folder no longer exists. Change to another one.", file=sys.stderr)
        return 2
    # these answer at once: importing the libraries takes seconds
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _print(HELP)
    if arguments[0] == "--version":
        return _print(f"belvedere {__version__}")
    try:
        check_command(arguments[0])
        if arguments[0] == "configs":
            return _print(configs(_known(arguments[1] if len(arguments) > 1 else "", "task", ("", *TASKS))))
        if arguments[0] == "completion":
            _known(" ".join(arguments[1:]), "shell", ("bash", "zsh"))
        elif arguments[0] not in ("import", "pack", "app", "pool", "study", "learning-curve", "compare"):
            arguments = expanded(arguments)
    except (UserError, OSError) as error:
        return reported(error)
    if arguments[0] == "study":
        from studies.command import study

        return study(arguments[1:])
    if arguments[0] == "learning-curve":
        from belvedere.folds.learning import learning_curve

        return learning_curve([at_home(each) for each in arguments[1:]])
    if arguments[0] == "compare":
        from belvedere.compare import compare

        return compare(arguments[1:])
    if arguments[0] == "import":
        from belvedere.importing import import_labels

        with stoppable():
            return import_labels(arguments[1:])
    if arguments[0] == "completion":
        from belvedere.commandline.completion import Completion

        Completion(arguments[1])
    if arguments[0] in ("pack", "app", "pool"):
        from belvedere.commandline.functions import run_function

        with stoppable():
            return run_function(arguments[0], [at_home(each) for each in arguments[1:]])
    if "--quiet" in arguments:
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
    with noted() if arguments[0] == "fit" else stoppable():
        from belvedere.commandline.cli import run

        return run(arguments, typed)


def _known(name: str, what: str, known: Sequence[str]) -> str:
    """Returns a name that is known.

    Raises:
        ArgumentError: It is not.
    """
    if name not in known:
        listed = ", ".join(each for each in known if each)
        raise ArgumentError(f"there is no {what} {name!r}; expected {listed}.{nearest(name, known)}")
    return name


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
