"""Base of all prediction writers: results appear in the run folder once all of them are complete."""

import json
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.signals import Stopped, unstopped
from callbacks.writers.prediction import Prediction
from datamodules.batch import Batch
from ops.atomic import write_table

LISTED = 10  # skipped images named in the message; tables list all of them
PARTIAL = "partial"  # folder of what a stopped prediction had finished
PATIENCE = 10.0  # seconds that the other processes of a stopped prediction have to end
Row: TypeAlias = list[Any]
"""What a format remembers of one image until all are merged; anything JSON can hold."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished image.

    Attributes:
        name: Its file name or its path within the data.
        index: Its position in the data.
        problem: Why it could not be used, or "".
    """

    name: str
    index: int
    problem: str = ""

    def prediction(self) -> Prediction:
        """Returns what the Python API gives of the image."""
        return Prediction(self.name, problem=self.problem)


Image = TypeVar("Image", bound=Finished)


class Format(ABC, Generic[Image]):
    """Writes finished images in one output format.

    Attributes:
        folders: Folders it writes into, each of which replaces one of the same name, even if no image is written.
    """

    folders: Sequence[str] = ()

    @abstractmethod
    def write(self, image: Image, folder: Path) -> Iterable[Row]:
        """Writes the files of one image below `folder` and returns rows for `finish`.

        Runs in the process that predicted the image. Images with a `problem` are passed too.
        """

    def close(self) -> None:
        """Closes files kept open between images; called in every process, on errors too."""

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        """Writes the tables.

        Args:
            rows: The rows of all processes, in the order of the data.
            folder: Where to write them.

        Returns:
            Text to append to the closing message.
        """
        return ""


class Table(Format[Image]):
    """Writes one CSV table, which the Python API returns as a data frame; `write` returns rows and writes no files.

    Attributes:
        file: Name of the table.
        columns: Its columns.
    """

    file: str
    columns: Sequence[str]

    def table(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the rows of the table, with NaN for unknown numbers, from those of `write`; by default the same."""
        return list(rows)

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        cells = [
            ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in self.table(rows)
        ]
        write_table(folder / self.file, self.columns, cells)
        return ""


class Writer(Callback, ABC, Generic[Image]):
    """Hands finished images to output formats while `predict` runs.

    Every process writes its own images into the folder `part` of the run folder. When all are done, rows are merged
    in the order of the data and everything moves up into the run folder, replacing an earlier prediction. If
    prediction fails, `part` is deleted; if it is stopped by a signal, the finished images are kept in `partial`, and
    those of an earlier prediction stay as they are.

    Args:
        formats: The output formats.
    """

    def __init__(self, formats: Sequence[Format[Image]]) -> None:
        self.formats = list(formats)
        self.part = Path()

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
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for name in (name for each in self.formats for name in each.folders):
                (part / name).mkdir(parents=True, exist_ok=True)  # formats may share one
        trainer.strategy.barrier()
        self._rows(trainer.global_rank).write_text("")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        with self._rows(trainer.global_rank).open("a") as file:
            for image in self.images(outputs, batch):
                with unstopped():
                    rows = [list(each.write(image, self.part)) for each in self.formats]
                    file.write(json.dumps([dataloader_idx, image.index, image.problem, rows]) + "\n")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()
        if not trainer.predicting or not self.part.name:
            return
        if isinstance(exception, Stopped):
            self._ended(trainer.global_rank).touch()
        if not trainer.is_global_zero:
            return
        if isinstance(exception, Stopped) and self._all_ended(trainer.world_size):
            self._keep_finished(trainer.world_size)
        shutil.rmtree(self.part, ignore_errors=True)
        with suppress(OSError):  # the run folder goes only if nothing else is in it
            self.part.parent.rmdir()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges what all processes wrote and moves it into the run folder."""
        self._release()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        count, notes = self._finish(trainer.world_size)
        places = _place(self.part)
        shutil.rmtree(self.part.with_name(PARTIAL), ignore_errors=True)
        rank_zero_info(f"Images predicted: {count}.{places}{notes}")

    def _finish(self, world_size: int) -> tuple[int, str]:
        """Merges the rows of all processes and writes the tables.

        Returns:
            The number of images without a problem, and text to append to the closing message.
        """
        lines = []
        for path in map(self._rows, range(world_size)):
            with path.open() as file:
                lines += [json.loads(line) for line in file]
            path.unlink()
        lines.sort(key=lambda line: line[:2])
        notes = [
            each.finish([row for line in lines for row in line[3][number]], self.part)
            for number, each in enumerate(self.formats)
        ]
        problems = [line[2] for line in lines if line[2]]
        return len(lines) - len(problems), f"{skipped(problems)}{''.join(notes)}"

    def _keep_finished(self, world_size: int) -> None:
        """Keeps the images that are finished in a folder of their own, unless there are none."""
        if not any(self._rows(rank).stat().st_size for rank in range(world_size)):
            return
        count, notes = self._finish(world_size)
        partial = self.part.with_name(PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        self.part.replace(partial)
        rank_zero_info(f"Images predicted before the command was stopped: {count}.\n  {partial}{notes}")

    def _all_ended(self, world_size: int) -> bool:
        """Waits for all processes to stop, removes their marks and returns whether they have."""
        marks = [self._ended(rank) for rank in range(world_size)]
        until = time.monotonic() + PATIENCE
        while not all(mark.exists() for mark in marks):
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        for mark in marks:
            mark.unlink()
        return True

    def _ended(self, rank: int) -> Path:
        return self.part / f"ended{rank}"

    def _release(self) -> None:
        self.end()
        for each in self.formats:
            each.close()

    def _rows(self, rank: int) -> Path:
        return self.part / f"rows{rank}.jsonl"


def _place(part: Path) -> str:
    """Moves the contents of `part` one folder up, replacing earlier ones, and lists where they are now."""
    written = sorted(part.iterdir())
    for path in written:
        earlier = part.parent / path.name
        if earlier.is_dir():
            shutil.rmtree(earlier)
        path.replace(earlier)
    part.rmdir()
    return "".join(f"\n  {part.parent / path.name}" for path in reversed(written))


def skipped(problems: Sequence[str]) -> str:
    """Returns the first problems of images that could not be used, to append to a message."""
    if not problems:
        return ""
    shown = "".join(f"\n  - {problem}" for problem in problems[:LISTED])
    more = len(problems) - LISTED
    return f"\nSkipped: {len(problems)}.{shown}" + (f"\n  … and {more} more" if more > 0 else "")
