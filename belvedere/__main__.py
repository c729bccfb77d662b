"""The command line: `belvedere` = `python -m belvedere`."""

import sys
from contextlib import nullcontext

from callbacks.signals import noted

HELP = """belvedere: five picture tasks for few pictures, on one command line

  belvedere fit      --config clouds/fpn --data.root FOLDER     train; keeps the best epoch
  belvedere validate --ckpt_path FILE                           figures on the validation pictures
  belvedere test     --ckpt_path FILE                           figures on the test pictures
  belvedere predict  --ckpt_path FILE --data.pictures PATH      masks, tables and overlays of a folder or one picture
  belvedere features --ckpt_path FILE                           vectors of a data set's pictures, classifiers on them
  belvedere describe --config clouds/fpn --data.root FOLDER     checks the data set, then tables and pictures of it
  belvedere study    clouds --data.root FOLDER                  many runs, compared; belvedere study --help

  clouds   patterns in satellite pictures   clouds/unet, clouds/pspnet, clouds/fpn, clouds/demo; clouds/folders on top
  roads    roads in aerial pictures         roads/vgg10, roads/vgg12, roads/vgg16, roads/unet
  avalanches   in mountain photographs      avalanches/cnn1d, cnn2d, vgg16, resnet50, inception_resnet_v2
  colorization   of grey pictures           colorization/pooled, strided, classes
  aesthetics   professional or snapshot     aesthetics/alexnet, alexnet_torchvision, vgg16, distribution

Every command but study takes
  --config NAME    an experiment of the above, then overlays (debug, gpu, ddp, slurm, tensorboard, early_stopping): a
                   file of yours, or one that is shipped; later ones win
  --output FOLDER  where everything goes that the command writes; runs/<task>/<date> where it is not given
  --KEY VALUE      any setting: --model.encoder resnet34, --data.batch_size 8, --monitor val/auprc
  --help           all of them; --model.help CloudsTask and --data.help CloudsDataModule for a task's own
  --print_config   what would be run
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What was typed after `belvedere`; None takes it from the process.

    Returns:
        The exit code: 0; 2 where the user's input was refused; 75 where a training was asked to end by SIGUSR1 or
        SIGTERM and has saved its state. A study's own are those of `studies.command.study`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)  # at once: importing the libraries takes seconds
        return 0
    if arguments[0] == "study":
        from studies.command import study

        return study(arguments[1:])
    with noted() if arguments[0] == "fit" else nullcontext():
        from belvedere.cli import run

        return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
