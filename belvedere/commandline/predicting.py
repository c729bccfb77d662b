"""What `belvedere predict` settles before its first image: what it writes, and which images are finished already."""

import hashlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer

from belvedere.checkpoints import check_replaceable
from belvedere.shards import merge, prepare_shard
from callbacks.writers.base import Writer, finished_rows, is_finished
from callbacks.writers.format import FAILED
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.prelabels import PreLabels
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.stitched import StitchedFormat
from callbacks.writers.segmentation.uncertainty import Uncertainty
from datamodules.base import ImageDataModule
from datamodules.read.names import located
from datamodules.read.pictures import picture_size
from datamodules.read.tables import Table
from ops.errors import ArgumentError
from tasks.base import ImageTask


def prepare(
    task: ImageTask, data: ImageDataModule, trainer: Trainer, settings: Namespace, folder: Path, results: Path
) -> None:
    """Adds the formats that the options ask for to the writer, and skips images that are finished.

    Args:
        task: The task.
        data: The images to predict.
        trainer: Has the writer among its callbacks.
        settings: The parsed options.
        folder: Where this process writes.
        results: Where the results will be; another folder if this is one of several shards.

    Raises:
        ArgumentError: The options do not fit the task, or results of others would be replaced.
    """
    writers = writers_of(trainer)
    if len(writers) != 1:
        return
    (writer,), (pictures, names) = writers, data.predicted_names()
    writer.formats += _added_formats(writer, pictures, settings)
    if settings.output is not None and not settings.overwrite:
        check_replaceable(results, (name for each in writer.formats for name in each.folders))
    task.disagreeing = settings.uncertainty
    writer.key, writer.checkpoints = _key(settings, pictures, names), checkpoints_of(settings)
    if (settings.resume or settings.shards) and is_finished(results, writer.key):
        data.finished = set(names)  # Lightning skips a prediction of no images
        skipped = results / FAILED
        writer.failed = len(Table(skipped, ["name"]).rows) if skipped.is_file() else 0
        print(f"belvedere: all {len(names)} images are finished already: {results}", file=sys.stderr)
    elif settings.shards is not None:
        assert isinstance(writer, StitchingWriter)  # `belvedere.shards.check_options` has checked it
        left, key = False, f"{writer.key} {settings.shards}"
        if settings.merge:
            merge(task, data, writer, results, key, settings.shards)
        else:
            left = prepare_shard(trainer, data, writer, results, key, settings.shard, settings.shards)
        if not left:
            data.finished, data.shares = set(names), None  # Lightning skips a prediction of no images
    elif settings.resume:
        rows = finished_rows(folder / "part", writer.key)
        if len({row[2] for row in rows}) >= len(names):
            rows.pop()  # Lightning skips a prediction of no images, and with it the writer's end
        writer.earlier, data.finished = rows, {row[2] for row in rows}
        print(f"belvedere: {len(rows)} of {len(names)} images are finished already.", file=sys.stderr)


def writers_of(trainer: Trainer) -> list[Writer[Any]]:
    """Returns the writers among the callbacks of a trainer."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # untyped there
    return [each for each in callbacks if isinstance(each, Writer)]


def checkpoints_of(settings: Namespace) -> list[str]:
    """Returns the paths of the checkpoint and of the members that are averaged with it."""
    return [os.path.abspath(path) for path in (settings.ckpt_path, *(settings.members or ()))]


def _added_formats(writer: Writer[Any], pictures: Path, settings: Namespace) -> list[StitchedFormat]:
    """Returns the formats of `--prelabels` and `--uncertainty`.

    Raises:
        ArgumentError: The task marks no regions.
    """
    tools = dict.fromkeys(settings.prelabels or ())
    if (tools or settings.uncertainty) and not isinstance(writer, StitchingWriter):
        raise ArgumentError("--prelabels and --uncertainty are for tasks that mark regions in images.")
    like = next((each for each in writer.formats if isinstance(each, Outlines)), None)
    added: list[StitchedFormat] = [Uncertainty()] if settings.uncertainty else []
    return added + [PreLabels(tool, partial(located, pictures), picture_size, like) for tool in tools]


def _key(settings: Namespace, pictures: Path, names: Sequence[str]) -> str:
    """Returns a digest of the images, the checkpoints and the settings of a prediction."""
    states = [(path, state.st_size, state.st_mtime_ns)
              for path in checkpoints_of(settings) for state in (Path(path).stat(),)]  # fmt: skip
    parts = [*states, str(pictures), *names, settings.model.as_dict(), settings.data.as_dict(),
             settings.trainer.callbacks, settings.prelabels, settings.uncertainty]  # fmt: skip
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()
