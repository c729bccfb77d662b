"""Runs the command: looks at the pool and at what is labeled, chooses, and writes the result."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from belvedere.checkpoints import check_fit, read_checkpoint, run_config
from belvedere.prediction import changed_settings, configured, load, staged
from belvedere.suggest.looks import Look, See, looks, seeing
from belvedere.suggest.result import Pool, Suggestion, reasons, write_sheet, write_suggestions
from callbacks.handover import Handover
from callbacks.writers.base import Writer
from callbacks.writers.format import FAILED, skipped
from callbacks.writers.judged import ScoreTable
from callbacks.writers.originals import Originals
from callbacks.writers.segmentation.masks import Overlays
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.prelabels import PreLabels, Tool
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.uncertainty import Uncertainty
from datamodules.base import ImageDataModule
from datamodules.read.names import located, picture_files
from datamodules.read.pictures import fitted, picture_size, read_picture, resized
from datamodules.read.rasters import shown
from ops.atomic import mapped_array, write_table
from ops.duplicates import Thumbnails, same, thumbnails
from ops.errors import ArgumentError, DataError, listed
from ops.progress import progress
from ops.statistics.selection import By, Covered, chosen
from tasks.base import ImageTask
from tasks.judging import JudgingTask
from tasks.segmentation import SegmentationTask

SIDE = 128  # pixels at which images are compared for duplicates
TOOLS: tuple[Tool, ...] = ("labelme", "coco", "cvat")


def suggest(
    task: ImageTask,
    data: ImageDataModule,
    trainer: Trainer,
    folder: Path,
    ckpt_path: str | Path | None = None,
    members: list[str] | None = None,
    trust: bool = False,
    count: int = 10,
    by: By = "alternate",
    labeled: str | None = None,
    backbones: dict[str, bool | str] | None = None,
    prelabels: list[Tool] | None = None,
    copy_images: bool = False,
) -> int:
    """Finds the images of a pool whose labels would help the network most, and prepares them for labeling.

    Args:
        task: Looks at the images.
        data: Has the pool, `--data.pictures`, and the dataset that the checkpoint was trained on.
        trainer: Predicts the images that are chosen.
        folder: Where to write.
        ckpt_path: The checkpoint.
        members: Further checkpoints, whose disagreement counts too.
        trust: See `belvedere.load`.
        count: How many images to suggest, `-n` for short.
        by: How to choose: see `ops.statistics.selection.chosen`.
        labeled: A folder of images that are labeled too, besides those of the dataset, or one file.
        backbones: Networks that compare images, and their weights; the checkpoint's own encoder by default.
        prelabels: Annotation tools to write pre-labels for; all by default.
        copy_images: Whether to copy the images; otherwise they are linked.

    Returns:
        How many images could not be used.

    Raises:
        ArgumentError: The task has no probabilities, an option is wrong, or no image is left to label.
        DataError: There are no images.
    """
    if not isinstance(task, SegmentationTask | JudgingTask):
        raise ArgumentError(
            f"suggest is for tasks whose network can be unsure of a label: clouds, roads, avalanches, aesthetics. "
            f"{type(task).__name__} colors images, and colors need no labels."
        )
    if count < 1:
        raise ArgumentError(f"--count is {count}; expected 1 image or more.")
    if trainer.world_size > 1:
        raise ArgumentError("suggest runs in one process: --trainer.devices 1 --trainer.num_nodes 1.")
    assert ckpt_path is not None  # the command line asks for it
    _fill(task, Path(ckpt_path), [str(each) for each in members or ()], trust)
    task.to(trainer.strategy.root_device)
    source, names = data.predicted_names()
    known = _labeled_files(data, labeled)
    with TemporaryDirectory(prefix="belvedere-") as scratch:
        pool = _seen(task, data, known, seeing(task, backbones), Path(scratch))
        if not pool.candidates.any():
            raise ArgumentError(
                f"No image of {source} is left to label: {len(pool.problems)} of {len(names)} cannot be used, and the "
                "others are labeled already."
            )
        found, doubles = _chosen(pool, by, count, data, source, known)
    if not found:
        raise ArgumentError(f"Every image of {source} shows what a labeled one shows, so none is left to label.")
    _write(task, data, trainer, folder, [each.name for each in found], Path(ckpt_path), trust, prelabels, copy_images)
    write_suggestions(folder, found, doubles)
    files = {each.name: located(source, each.name) for each in found}
    write_sheet(folder, found, files, data.channels)
    _report(folder, found, doubles, pool, isinstance(task, SegmentationTask))
    return len(pool.problems)


def _fill(task: ImageTask, path: Path, members: Sequence[str], trust: bool) -> None:
    """Loads the weights of a checkpoint, its trees if it has any, and the other members."""
    check_fit(path, task.state_dict(), task.optional_keys)
    checkpoint = read_checkpoint(path)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    if getattr(task, "xgboost_on", "none") != "none":
        from tasks import boosting

        vars(task)["trees"] = boosting.load(path.with_suffix(".ubj"))
    typed = changed_settings(task, path)
    task.add_members([load(each, trust=trust, **typed) for each in members], members)


def _labeled_files(data: ImageDataModule, labeled: str | None) -> list[Path]:
    """Returns the images that are labeled: those of the dataset, and those of `--labeled`."""
    files = picture_files(Path(labeled).expanduser()) if labeled is not None else []
    if not data.root.is_dir():
        rank_zero_info(
            f"The dataset of the run, {data.root}, is not there, so its images do not count as labeled. Give its "
            "folder, --data.root, or that of its images, --labeled."
        )
        return files
    own = copy(data)
    own.train_share = 1.0  # what was not trained on is labeled too
    own.prepare_data()
    own.setup("test")
    return own.files() + files


def _seen(task: ImageTask, data: ImageDataModule, known: Sequence[Path], see: See, scratch: Path) -> Pool:
    """Looks at the labeled images, then at the pool; vectors are kept in a file."""
    data.setup("predict")
    total = len(known) + len(set(data.datasets["predict"].pictures))
    pool, vectors, labeled = Pool(), None, {path.resolve() for path in known}
    source = data.predicted_names()[0]
    for look, is_known in _looks(task, data, known, see):
        if look.problem:
            if not is_known:
                pool.problems[look.name] = look.problem
            continue
        if vectors is None:
            vectors = mapped_array(scratch / "vectors.npy", (total, len(look.vector)), np.float32)
        vectors[len(pool.names)] = look.vector
        is_known = is_known or located(source, look.name).resolve() in labeled
        pool.add(look.name, look.uncertainty, look.disagreement, is_known)
    if vectors is not None:
        pool.vectors = vectors[: len(pool.names)]
    return pool


def _looks(task: ImageTask, data: ImageDataModule, known: Sequence[Path], see: See) -> Iterator[tuple[Look, bool]]:
    """Yields what is found of each image, and whether it is labeled."""
    if known:
        with TemporaryDirectory(prefix="belvedere-") as folder:
            own = copy(data)
            own.pictures, given = staged(list(known), Path(folder))
            own.datasets = {}
            own.setup("predict")
            for look in looks(task, own, see, "looking at labeled images"):
                yield Look(given[look.name], *list(vars(look).values())[1:]), True
    for look in looks(task, data, see, "looking at the pool"):
        yield look, False


def _chosen(
    pool: Pool, by: By, count: int, data: ImageDataModule, source: Path, known: Sequence[Path]
) -> tuple[list[Suggestion], list[tuple[str, str]]]:
    """Returns the images to label next, and those that show what another one shows."""
    covered = Covered(pool.vectors)
    covered.cover(np.flatnonzero(~pool.candidates).tolist())
    explain = reasons(pool, covered)
    seen, shows = [], []
    for path in progress(known, "comparing with labeled images", len(known)):
        small = _thumbnail(path, data)
        if small is not None:
            seen.append(small)
            shows.append(path.name)
    doubles: list[tuple[str, str]] = []

    def is_new(row: int) -> bool:
        """Returns whether an image shows something new, and remembers it."""
        small = _thumbnail(located(source, pool.names[row]), data)
        if small is None:
            return True
        if seen:
            together = Thumbnails(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))
            pair = next(same(small, together), None)
            if pair is not None:
                doubles.append((pool.names[row], shows[pair.right]))
                return False
        seen.append(small)
        shows.append(pool.names[row])
        return True

    uncertainty, open_rows = np.array(pool.uncertainty), pool.candidates.copy()
    found: list[Suggestion] = []
    for row, distance, center in chosen(by, uncertainty, covered, open_rows, is_new, data.seed):
        found.append(explain(len(found) + 1, row, distance, center))
        if len(found) == count:
            break
    return found, doubles


def _thumbnail(path: Path, data: ImageDataModule) -> Thumbnails | None:
    """Returns an image reduced for comparison; None if it cannot be read."""
    try:
        pixels = shown(read_picture(path, (SIDE, SIDE), data.channels))
    except DataError:
        return None
    return thumbnails([resized(pixels, fitted((pixels.shape[0], pixels.shape[1]), SIDE))])


def _write(
    task: ImageTask,
    data: ImageDataModule,
    trainer: Trainer,
    folder: Path,
    names: Sequence[str],
    ckpt_path: Path,
    trust: bool,
    prelabels: Sequence[Tool] | None,
    copy_images: bool,
) -> None:
    """Writes the images and what is predicted of them."""
    source, every = data.predicted_names()
    formats: list[Any] = [Originals(partial(located, source), copy_images)]
    if isinstance(task, SegmentationTask):
        _, own = configured(run_config(ckpt_path, trust), {})
        like = next((each for each in own.formats if isinstance(each, Outlines)), None)
        images = folder / "images"

        def size_of(path: Path) -> tuple[int, int]:
            return picture_size(located(source, path.relative_to(images).as_posix()), data.channels)

        tools = TOOLS if prelabels is None else tuple(dict.fromkeys(prelabels))
        formats += [Overlays(), Uncertainty()]
        formats += [PreLabels(tool, images.joinpath, size_of, like, "images") for tool in tools]
        writer: Writer[Any] = StitchingWriter(formats)
    else:
        from callbacks.writers.scores import ScoreWriter

        writer = ScoreWriter()
        writer.formats = [*formats, ScoreTable()]
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it without a type
    callbacks += [Handover(data), writer]
    data.finished = set(every) - set(names)
    trainer.predict(task, data, return_predictions=False)


def _report(
    folder: Path, found: Sequence[Suggestion], doubles: Sequence[tuple[str, str]], pool: Pool, masks: bool
) -> None:
    """Prints the suggestions and where they are, and writes what was skipped."""
    for each in found:
        print(f"{each.rank:4}  {each.name}: {each.why}")
    if doubles:
        text = listed([f"{name} shows what {other} shows." for name, other in doubles], 10, ", see duplicates.csv")
        rank_zero_info(f"Left out, since they show nothing new: {len(doubles)}.\n{text}")
    problems = list(pool.problems.items())
    if problems:
        write_table(folder / FAILED, ("name", "problem"), problems)
    print(folder / "suggestions.csv")
    print(folder / "contact_sheet.png")
    print(f"labelme {folder / 'images'}" if masks else folder / "images", end="")
    print(skipped(problems))
