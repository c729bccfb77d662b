"""`belvedere predict --shards N`: one prediction in shards that may run anywhere, be killed and be started again."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from belvedere.prediction import class_of
from callbacks.writers.base import Writer
from callbacks.writers.segmentation.shards import Pieces, ShardWriter, finished_share, joined
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.stitched import Stitched
from datamodules.base import ImageDataModule
from datamodules.decoded.shares import Share, background, plan
from ops.errors import ArgumentError
from studies.slurm import job_array, job_options
from tasks.base import ImageTask

FOLDER = "shards"


def check_options(settings: Any) -> None:
    """Checks the options of shards.

    Raises:
        ArgumentError: They do not fit together.
    """
    shards, shard = settings.shards, settings.shard
    actions = [name for name, given in (("--shard", shard is not None), ("--merge", settings.merge),
                                        ("--slurm", settings.slurm is not None)) if given]  # fmt: skip
    if shards is None:
        if actions:
            raise ArgumentError(f"{actions[0]} needs --shards N, the number of shards, the same for all of them.")
        return
    if shards < 1 or (shard is not None and not 0 <= shard < shards):
        raise ArgumentError(f"--shards is {shards} and --shard {shard}; expected 1 or more, and a number from 0 to "
                            "--shards minus 1.")  # fmt: skip
    if len(actions) != 1:
        raise ArgumentError(
            f"--shards {shards} needs --shard i, which predicts one of them, --merge, which makes the results of all, "
            f"or --slurm, which prints a job script; got {' and '.join(actions) or 'none of these'}."
        )
    if settings.output is None:
        raise ArgumentError("--shards needs --output FOLDER, the same for all shards and the merge.")
    if settings.resume:
        raise ArgumentError("--shards resumes by itself: remove --resume.")
    _check_writer([class_of(each.class_path) for each in settings.trainer.callbacks or ()], settings.trainer.callbacks)


def _check_writer(kinds: Sequence[type], callbacks: Sequence[Any]) -> None:
    """Checks that there is one writer, and that it can write what shards leave.

    Args:
        kinds: The classes of the callbacks.
        callbacks: Their settings.

    Raises:
        ArgumentError: Shards cannot be predicted.
    """
    names = [kind.__name__ for kind in kinds if issubclass(kind, Writer)]
    if len(names) != 1:
        raise ArgumentError(f"--shards expected one writer among the callbacks, got {', '.join(names) or 'none'}.")
    [(kind, writer)] = [pair for pair in zip(kinds, callbacks, strict=True) if issubclass(pair[0], Writer)]
    if not issubclass(kind, StitchingWriter):
        raise ArgumentError(
            f"--shards is for tasks that mark masks, not for {kind.__name__}. Split the folder of images instead, and "
            "predict each part."
        )
    if writer.get("init_args", {}).get("keep_stages"):
        raise ArgumentError("--shards keeps no stages: remove keep_stages.")


def shard_folder(folder: Path, shard: int) -> Path:
    """Returns the folder of a shard below that of the results."""
    return folder / FOLDER / str(shard)


def prepare_shard(
    trainer: Trainer, data: ImageDataModule, writer: StitchingWriter, folder: Path, key: str, shard: int, shards: int
) -> bool:
    """Makes a trainer predict what is left of one shard, and write it into the shard's folder.

    Returns:
        Whether something is left.

    Raises:
        ArgumentError: The images cannot be shared.
    """
    samples = _samples(data)
    own = [share for share in plan(samples, shards) if share.shard == shard]
    left = [share for share in own if not _finished(folder, share, key)]
    if len(left) < len(own) or not own:
        print(f"belvedere: shard {shard}: {len(own) - len(left)} of {len(own)} images are finished already.",
              file=sys.stderr)  # fmt: skip
    data.shares = left
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # untyped there
    callbacks[callbacks.index(writer)] = ShardWriter(writer, shard_folder(folder, shard), key)
    return bool(left)


def merge(task: ImageTask, data: ImageDataModule, writer: StitchingWriter, folder: Path, key: str, shards: int) -> None:
    """Writes the results of all shards, as if one process had predicted them, and removes what they left.

    Raises:
        ArgumentError: A shard is not finished.
    """
    samples = _samples(data)
    shares = plan(samples, shards)
    found = {share: finished_share(shard_folder(folder, share.shard), share.picture, key) for share in shares}
    missing = sorted({share.shard for share, done in found.items() if done is None})
    if missing:
        raise ArgumentError(
            f"{len(missing)} of {shards} shards are not finished in {folder}: {_ranges(missing)}. Run them with the "
            "options and the checkpoint of the merge: --shard i."
        )

    def images() -> Iterator[Stitched]:
        for picture, own in groupby(shares, lambda share: share.picture):
            pieces = [(shard_folder(folder, share.shard), done) for share in own if (done := found[share]) is not None]
            below = background(samples, picture)
            name = samples.names[samples.groups[picture][0]]
            whole = Pieces(name, picture, pieces, below.source, below.georeference, below.boxes, below.problem)
            yield from joined(writer, whole)

    writer.write(task, folder, images)
    shutil.rmtree(folder / FOLDER)


def _samples(data: ImageDataModule) -> Any:
    """Returns the samples to predict."""
    data.setup("predict")
    return data.datasets["predict"]


def _finished(folder: Path, share: Share, key: str) -> bool:
    """Returns whether a share is finished; images with a problem are tried again."""
    done = finished_share(shard_folder(folder, share.shard), share.picture, key)
    return done is not None and not done.problem


def _ranges(numbers: Sequence[int]) -> str:
    """Returns ascending numbers as text, such as `0-3,7`, as SLURM takes them for an array."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


SUBMIT = """\
#!/bin/bash
# Submits {shards} shards of a prediction and the merge, which starts when all of them are finished: bash job.sh
# A shard that is killed or reaches its time limit is requeued. After an interruption, run this script again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cat > "$folder/shards.sh" <<'SHARDS'
{array}SHARDS
cat > "$folder/merge.sh" <<'MERGE'
{merge}MERGE
array=$(sbatch --parsable "$folder/shards.sh")
merge=$(sbatch --parsable --dependency="afterok:${{array%%;*}}" "$folder/merge.sh")
echo "shards: job $array; merge: job $merge"
"""


def slurm_script(arguments: Sequence[str], folder: Path, shards: int, overlay: Path | None) -> str:
    """Returns a script that submits a job array of shards, and the merge of their results.

    Args:
        arguments: What was typed after `belvedere`, with `--slurm`.
        folder: The folder of the results, which gets the logs.
        shards: Number of shards.
        overlay: YAML file with the resources of a job, see `configs/studies/slurm/default.yaml`.

    Raises:
        StudyError: The overlay is invalid, or a path or option has control characters.
    """
    command = ["belvedere", *_without(arguments, "--slurm")]
    job = job_options(overlay)
    name, logs = f"belvedere-{folder.name}", folder / "slurm"
    array = job_array(
        name, f"{shards} shards of a prediction.", command, "--shard", shards - 1, logs, job, requeue_killed=True
    )
    own = job | {"at_once": None, "gpus": "0"}
    merged = job_array(f"{name}-merge", "Their merge.", [*command, "--merge"], None, None, logs, own)
    return SUBMIT.format(shards=shards, array=array, merge=merged)


def _without(arguments: Sequence[str], name: str) -> list[str]:
    """Returns arguments without an option and its value, if it has one."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if argument == name or argument.startswith(f"{name}="):
            skip = argument == name
        elif not (skip and not argument.startswith("--")):
            kept.append(argument)
            skip = False
        else:
            skip = False
    return kept
