"""Base of all prediction writers: results appear in the run folder once all of them are complete."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.signals import unstopped
from callbacks.writers.format import FAILED, Format, Image, place, skipped
from datamodules.batch import Batch
from ops.atomic import remove_leftovers, write_table, write_text

ROWS, EARLIER, KEY = "rows*.jsonl", "rows_earlier.jsonl", "key.txt"  # in `part`, until it is moved
CHECKPOINTS, TESTED = "checkpoints.json", "metrics"  # of which checkpoints results are, and a key of it


class Writer(Callback, ABC, Generic[Image]):
    """Hands finished images to output formats while `predict` runs.

    Every process writes its own images into the folder `part` of the run folder. When all are done, rows are merged
    in the order of the data and everything moves up into the run folder, replacing an earlier prediction: of that, what
    `checkpoints.json` lists and this one does not write is removed. Images that cannot be used are listed in
    `skipped.csv`. If prediction fails or is stopped by a signal, `part` keeps the finished
    images where it can be resumed, and is deleted otherwise.

    Args:
        formats: The output formats.

    Attributes:
        failed: How many images could not be used, in the first process.
        placed: Whether the results are in the run folder, in the first process.
        key: Identifies what is predicted and how; "" if it cannot be resumed.
        checkpoints: Paths of the checkpoints that predict, to write into `checkpoints.json`; empty if unknown.
        earlier: Rows of the images that an earlier part finished, see `finished_rows`.
    """

    def __init__(self, formats: Sequence[Format[Image]]) -> None:
        self.formats = list(formats)
        self.part = Path()
        self.failed, self.placed, self.key = 0, False, ""
        self.checkpoints: Sequence[str] = ()
        self.earlier: list[Any] = []

    def begin(self, task: LightningModule, folder: Path, in_memory: bool = False) -> None:
        """Prepares for the first batch.

        Args:
            task: The task that predicts.
            folder: Where temporary files may lie.
            in_memory: Whether images must stay valid after the next one; see `callbacks.writers.memory`.
        """

    @abstractmethod
    def images(self, outputs: Any, batch: Batch) -> Iterator[Image]:
        """Yields the images that a batch finishes, each valid until the next one.

        Args:
            outputs: What the task predicted.
            batch: The batch.
        """

    def end(self) -> None:
        """Releases what `begin` and `images` hold; called on errors too."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        part = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "part"
        self.begin(pl_module, part)
        self.part = part
        if trainer.is_global_zero:
            self._prepare()
        trainer.strategy.barrier()
        self._rows(trainer.global_rank).write_text("")

    def _prepare(self) -> None:
        """Makes the folder `part`, with what an earlier prediction finished."""
        part = self.part
        if not self.earlier:
            shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, exist_ok=True)
        remove_leftovers(part, *(path for path in part.rglob("*") if path.is_dir()))
        write_text(part / EARLIER, "".join(json.dumps(line) + "\n" for line in self.earlier))
        for path in set(part.glob(ROWS)) - {part / EARLIER}:
            path.unlink()
        write_text(part / KEY, self.key)
        for name in (name for each in self.formats for name in each.folders):
            (part / name).mkdir(parents=True, exist_ok=True)  # formats may share one

    def write(self, task: LightningModule, folder: Path, make: Callable[[], Iterable[Image]]) -> None:
        """Writes finished images that were predicted before, in the order of the data.

        Args:
            task: The task that predicted them.
            folder: The run folder.
            make: Yields the images, each valid until the next one, after `begin`.
        """
        self.part = folder / "part"
        self.begin(task, self.part)
        self._prepare()
        try:
            self._record(make(), 0, 0)
        finally:
            self._release()
        with unstopped():
            self._finish()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._record(self.images(outputs, batch), dataloader_idx, trainer.global_rank)

    def _record(self, images: Iterable[Image], loader: int, rank: int) -> None:
        """Hands images to the formats and keeps their rows."""
        with self._rows(rank).open("a") as file:
            for image in images:
                with unstopped():
                    rows = [
                        list(each.write(image, self.part)) if each.lists_problems or not image.problem else []
                        for each in self.formats
                    ]
                    file.write(json.dumps([loader, image.index, image.name, image.problem, rows]) + "\n")
                    file.flush()  # a killed prediction resumes after this image

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()
        if trainer.predicting and trainer.is_global_zero and self.part.name:
            finished = len(finished_rows(self.part, self.key)) if self.key else 0
            if finished:
                rank_zero_info(f"Images finished: {finished}, kept in {self.part}. Resume with --resume.")
                return
            shutil.rmtree(self.part, ignore_errors=True)
            with suppress(OSError):  # the run folder goes only if nothing else is in it
                self.part.parent.rmdir()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges what all processes wrote and moves it into the run folder."""
        self._release()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        with unstopped():  # half-merged rows cannot be resumed
            self._finish()

    def _finish(self) -> None:
        lines = []
        for path in sorted(self.part.glob(ROWS)):
            with path.open() as file:
                lines += [json.loads(line) for line in file]
        for path in (*self.part.glob(ROWS), self.part / KEY):
            path.unlink()
        lines.sort(key=lambda line: line[:2])
        notes = [
            each.finish([row for line in lines for row in line[4][number]], self.part)
            for number, each in enumerate(self.formats)
        ]
        problems = [(line[2], line[3]) for line in lines if line[3]]
        self.failed, count = len(problems), len(lines) - len(problems)
        if problems:
            write_table(self.part / FAILED, ("name", "problem"), problems)
        folder, earlier = self.part.parent, predicted_files(self.part.parent)
        (folder / FAILED).unlink(missing_ok=True)  # that of an earlier prediction
        kept = {TESTED: found[TESTED]} if TESTED in (found := read_checkpoints(folder)) else {}
        (folder / CHECKPOINTS).unlink(missing_ok=True)
        written = sorted(path.name for path in self.part.iterdir())
        places, self.placed = place(self.part), True
        for path in (folder / name for name in earlier - {*written}):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.checkpoints:
            kept = _listed(self.checkpoints) | {"key": self.key, "files": written} | kept
        if kept:
            _write(folder, kept)
        rank_zero_info(f"Images predicted: {count}.{places}{''.join(notes)}{skipped(problems)}")

    def _release(self) -> None:
        self.end()
        for each in self.formats:
            each.close()

    def _rows(self, rank: int) -> Path:
        return self.part / f"rows{rank}.jsonl"


def finished_rows(part: Path, key: str) -> list[Any]:
    """Returns the rows of the images that an interrupted prediction finished; none if it was another one.

    Images that could not be used are tried again.

    Args:
        part: Its folder `part`.
        key: The key of the writer.
    """
    try:
        if (part / KEY).read_text() != key:
            return []
        lines = [line for path in sorted(part.glob(ROWS)) for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
    rows: list[Any] = []
    for line in lines:
        with suppress(ValueError):  # the last one may be cut off
            rows.append(json.loads(line))
    return [row for row in rows if not row[3]]


def write_tested(folder: Path, checkpoints: Sequence[str]) -> None:
    """Writes down of which checkpoints the metrics in a folder are, beside those of a prediction there."""
    _write(folder, read_checkpoints(folder) | {TESTED: _listed(checkpoints)})


def read_checkpoints(folder: Path) -> dict[str, Any]:
    """Returns of which checkpoints the results in a folder are.

    Those of a prediction are the keys `checkpoint` and `members`, the ones averaged with it, beside its `key` and
    `files`; those of a test are the same keys in a table `metrics`. Empty if unknown.
    """
    try:
        found = json.loads((folder / CHECKPOINTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(checkpoints: Sequence[str]) -> dict[str, Any]:
    first, *members = checkpoints
    return {"checkpoint": first, "members": members}


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    write_text(folder / CHECKPOINTS, json.dumps(found, indent=2) + "\n")


def predicted_files(folder: Path) -> set[str]:
    """Returns the names of the files and folders that a prediction has written into a folder; none if unknown."""
    try:
        found = read_checkpoints(folder)["files"]
        return {name for name in found if name == Path(name).name and name not in ("", "..")}
    except (KeyError, TypeError):
        return set()


def is_finished(folder: Path, key: str) -> bool:
    """Returns whether a folder has all results of a prediction.

    Args:
        folder: The folder above its folder `part`.
        key: The key of the writer.
    """
    try:
        found = read_checkpoints(folder)
        return bool(found["key"] == key) and all((folder / name).exists() for name in found["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
