"""Predicts images in shards: each writes the rows that it decides, and the merge makes whole images of them."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.signals import unstopped
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.stitched import CanvasShare, Rows, Stitched, Whole
from datamodules.batch import Batch
from ops.atomic import remove_leftovers, replacing, write_text
from ops.errors import DataError
from ops.geo.rasters import Georeference


@dataclass(frozen=True)
class Done:
    """What is known of a finished share.

    Attributes:
        key: Identifies what is predicted and how.
        picture: Number of the image.
        size: Height and width of its masks.
        rows: First row of the share, and the one after its last.
        heights: How many rows each band has.
        uncertain: Sum of the uncertainty over the rows; of a whole image its mean.
        disagreed: The same of the members' disagreement; None if it was not measured.
        areas: Smallest region of each class that is kept, as a share of the image; none if that is done.
        percents: Whether probabilities were kept.
        whole: Whether the image was predicted whole, at a level of a pyramid.
        problem: Why the image cannot be used, or "".
    """

    key: str
    picture: int
    size: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)
    heights: Sequence[int] = ()
    uncertain: float = 0.0
    disagreed: float | None = None
    areas: Sequence[float] = ()
    percents: bool = False
    whole: bool = False
    problem: str = ""


class ShardWriter(Callback):
    """Writes the rows that a shard predicts: `<image>.masks`, `<image>.percents`, and in the end `<image>.json`.

    Args:
        writer: The writer of the whole images.
        folder: The shard's folder.
        key: Identifies what is predicted and how.
    """

    def __init__(self, writer: StitchingWriter, folder: Path, key: str) -> None:
        self.writer, self.folder, self.key = writer, folder, key
        self._canvas: CanvasShare | None = None
        self._picture = -1  # of the canvas, or of an image with a problem

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            remove_leftovers(self.folder)
        trainer.strategy.barrier()
        self.writer.begin(pl_module, self.folder)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if "level" in batch:
            self._write_whole(self.writer.images(outputs, batch), batch["picture"].tolist())
            return
        for i, picture in enumerate(batch["picture"].tolist()):
            new = picture != self._picture
            if new:
                self._close()
                self._picture = picture
            if "problem" in batch and batch["problem"][i]:
                if new or self._canvas is not None:
                    self._close()
                    self._done(Done(self.key, picture, problem=batch["problem"][i]))
                continue
            maps = [outputs[name][i] for name in ("probability", "disagreement") if outputs.get(name) is not None]
            if new:
                self._canvas = self._new(batch, i, len(maps) > 1)
            assert self._canvas is not None  # it is the first window of the share
            top, left = batch["origin"][i].tolist()
            if self._canvas.add(torch.cat(maps).float(), (top, left)):
                with unstopped():
                    self._save(self._canvas, self._about(self._canvas))
                self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _new(self, batch: Batch, i: int, disagreeing: bool) -> CanvasShare:
        (height, width), (first, last) = batch["size"][i].tolist(), batch["rows"][i].tolist()
        window = tuple(batch["window"][i].tolist())
        percents = self.writer.keeps_percents(batch, i)
        rows = (first, height if last < 0 else last)
        overlap = batch["overlap"][i]
        files = (self.folder, percents, rows, disagreeing)
        return CanvasShare(self.writer.decision, (height, width), window, overlap, *files)

    def _about(self, canvas: CanvasShare) -> Done:
        return Done(
            key=self.key,
            picture=self._picture,
            size=canvas.size,
            rows=canvas.rows,
            heights=canvas.heights,
            uncertain=canvas.uncertain,
            disagreed=canvas.disagreed if canvas.disagreeing else None,
            areas=self.writer.decision.least_areas(canvas.size),
            percents=canvas.probabilities is not None,
        )

    def _write_whole(self, images: Iterable[Stitched], pictures: Sequence[int]) -> None:
        """Writes images that were predicted whole."""
        for image, picture in zip(images, pictures, strict=True):
            if image.problem:
                self._done(Done(self.key, picture, problem=image.problem))
                continue
            kept, count = image.probability is not None, len(image.classes)
            between = image.content.disagreement
            files = (image.size, self.folder, False, kept, between is not None)
            rows = Rows(Decided([0.0] * count), *files)
            try:
                maps = (image.percents, *(() if between is None else (image.disagreements,)))
                percents = np.stack([next(each(k)) for each in maps for k in range(count)]) if kept else None
                rows.append(image.masks, percents, 0.0)
                about = Done(
                    key=self.key,
                    picture=picture,
                    size=image.size,
                    rows=(0, image.size[0]),
                    heights=rows.heights,
                    uncertain=image.content.uncertainty,
                    disagreed=between,
                    percents=kept,
                    whole=True,
                )
                with unstopped():
                    self._save(rows, about)
            finally:
                rows.close()

    def _save(self, rows: Rows, about: Done) -> None:
        files = {"masks": rows.file, "percents": rows.probabilities}
        for name, file in files.items():
            if file is not None:
                with replacing(self.folder / f"{about.picture}.{name}") as temporary, temporary.open("wb") as copy:
                    file.seek(0)
                    shutil.copyfileobj(file, copy)
        self._done(about)

    def _done(self, done: Done) -> None:
        write_text(self.folder / f"{done.picture}.json", json.dumps(asdict(done)))

    def _close(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = None


def finished_share(folder: Path, picture: int, key: str) -> Done | None:
    """Returns what is known of an image's share in a shard's folder; None if it is not finished."""
    with suppress(OSError, ValueError, TypeError):
        found = Done(**json.loads((folder / f"{picture}.json").read_text()))
        if found.key == key:
            return found
    return None


@dataclass(frozen=True)
class Decided:
    """The decision of the shards, whose rows are decided already."""

    areas: list[float]

    def marked(self, probability: Any) -> Any:
        """Is not called: there are no probabilities left."""
        raise NotImplementedError

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """Returns the smallest region of each class that is kept."""
        return self.areas


@dataclass(frozen=True)
class Pieces:
    """The shares of an image, and what else its outputs need.

    Attributes:
        name: Name of the image.
        picture: Its number.
        shares: Folder of each share's shard, and what is known of the share, from the top.
        source: See `Stitched`.
        georeference: See `Stitched`.
        boxes: See `Stitched`.
        problem: Why the image cannot be used, or "".
    """

    name: str
    picture: int
    shares: Sequence[tuple[Path, Done]]
    source: np.ndarray[Any, np.dtype[np.uint8]]
    georeference: Georeference | None = None
    boxes: Sequence[tuple[float, float, float, float]] = ()
    problem: str = ""


def joined(writer: StitchingWriter, pieces: Pieces) -> Iterator[Stitched]:
    """Yields the image that shares make, once, valid until the next one; `writer` must have begun."""
    problem = pieces.problem or next((done.problem for _, done in pieces.shares if done.problem), "")
    image = Stitched(
        name=pieces.name,
        index=pieces.picture,
        problem=problem,
        classes=writer.classes,
        source=pieces.source,
        content=writer.nothing(),
        boxes=pieces.boxes,
        georeference=pieces.georeference,
        line_classes=writer.line_classes,
    )
    if problem:
        yield image
        return
    folder, first = pieces.shares[0]
    if first.whole:
        yield replace(image, content=_whole(folder, first, len(writer.classes)))
        return
    size = (first.size[0], first.size[1])
    decided, between = Decided(list(first.areas)), first.disagreed is not None
    rows = Rows(decided, size, writer.folder, percents=first.percents, disagreeing=between)
    try:
        for folder, done in pieces.shares:
            _append(rows, folder, done)
        rows.clean()
        yield replace(image, content=rows)
    finally:
        rows.close()


def _whole(folder: Path, done: Done, count: int) -> Whole:
    """Returns the masks of an image that was predicted whole, by its number of classes."""
    files = ((done.size[0], done.size[1]), folder, False, done.percents, done.disagreed is not None)
    rows = Rows(Decided([0.0] * count), *files)
    try:
        _append(rows, folder, done)
        masks = np.stack([next(rows.bands(k)) for k in range(count)])
        percents = [next(rows.percents(k)) for k in range(rows.planes)] if done.percents else None
    finally:
        rows.close()
    if percents is None:
        return Whole(masks, None, done.uncertain)
    maps = np.stack(percents).astype(np.float32) / np.float32(100)
    whole = Whole(masks, maps[:count], done.uncertain, maps[count:] if len(maps) > count else None)
    whole.disagreement = done.disagreed  # of maps that were not rounded yet
    return whole


def _append(rows: Rows, folder: Path, done: Done) -> None:
    """Adds the rows of a share.

    Raises:
        DataError: A file of the share is damaged; the share no longer counts as finished.
    """
    count, width, stem = len(rows.regions), rows.size[1], folder / str(done.picture)
    try:
        with ExitStack() as files:
            masks = files.enter_context(stem.with_suffix(".masks").open("rb"))
            percents = files.enter_context(stem.with_suffix(".percents").open("rb")) if done.percents else None
            for number, height in enumerate(done.heights):
                packed = _read(masks, (count, height, -(-width // 8)))
                marked = np.unpackbits(packed, axis=2, count=width).view(np.bool_)
                found = None if percents is None else _read(percents, (rows.planes, height, width))
                sums = (0.0, 0.0) if number else (done.uncertain, done.disagreed or 0.0)
                rows.append(marked, found, *sums)
    except (EOFError, FileNotFoundError) as error:
        stem.with_suffix(".json").unlink(missing_ok=True)
        raise DataError(
            f"{stem}.masks or .percents is missing or truncated. Run this shard again, then the merge: --shard "
            f"{folder.name}."
        ) from error


def _read(file: IO[bytes], shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Reads an array.

    Raises:
        EOFError: The file is too short.
    """
    content = file.read(int(np.prod(shape)))
    if len(content) < np.prod(shape):
        raise EOFError
    return np.frombuffer(content, np.uint8).reshape(shape)
