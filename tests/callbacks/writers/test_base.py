import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks.signals import Stopped
from callbacks.writers import base
from callbacks.writers.base import Finished, Format, Row, Table, Writer, skipped
from tasks.base import Batch
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes
from tests.datamodules.helpers import contents


class Task(LightningModule):
    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> Any:
        return None


class Texts(Format[Finished]):
    """Writes a file per image, a table, and keeps a file open."""

    folders = ("texts",)

    def __init__(self, table: str) -> None:
        self.table, self.open = table, False

    def write(self, image: Finished, folder: Path) -> list[Row]:
        self.open = True
        if image.name == "broken":
            raise OSError("disk full")
        (folder / "texts" / f"{image.name}.{self.table}").write_text(image.name)
        return [[image.name, image.problem], [image.name, "second row"]]

    def close(self) -> None:
        self.open = False

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        (folder / self.table).write_text("\n".join(" ".join(row) for row in rows))
        return f"\nRows: {len(rows)}."


class TextWriter(Writer[Finished]):
    def __init__(self) -> None:
        super().__init__([Texts("one"), Texts("two")])
        self.given = 0

    def images(self, outputs: Any, batch: Batch) -> Iterator[Finished]:
        for name, index in zip(batch["name"], batch["index"].tolist(), strict=True):
            self.given += 1
            yield Finished(name=name, index=index, problem="p is empty." if name == "p" else "")


class Lengths(Table[Finished]):
    """Writes a number of each image, unknown for one."""

    file, columns = "lengths.csv", ("name", "length")

    def write(self, image: Finished, folder: Path) -> list[Row]:
        return [[image.name, math.nan if image.problem else len(image.name) / 2]]


def batches(*rows: list[int], names: str = "abcdefgh") -> list[Batch]:
    return [{"name": [names[row] for row in each], "index": torch.tensor(each)} for each in rows]


@pytest.mark.parametrize(("count", "idle"), [(1, 0), (2, 0), (4, 1)])
def test_rows_are_merged_in_the_order_of_the_data(count: int, idle: int, tmp_path: Path) -> None:
    data = Batches(batches([2, 0], [3, 1]), batches([1], [0], names="yz"))
    predict_in_processes(tmp_path, Task(), data, TextWriter, count, idle)
    lines = (tmp_path / "two").read_text().splitlines()
    assert [line.split(maxsplit=1) for line in lines if "second" in line] == [[n, "second row"] for n in "abcdyz"]
    assert [line.strip() for line in lines[::2]] == list("abcdyz")
    assert contents(tmp_path).keys() == {
        "one", "two", *(f"texts/{n}.{table}" for n in "abcdyz" for table in ("one", "two"))
    }  # fmt: skip


def test_the_message_names_files_and_what_was_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Task(), Batches(batches([0, 1], names="ap")), TextWriter())
    assert caplog.messages[-1].splitlines() == [
        "Images predicted: 1.", *(f"  {tmp_path / name}" for name in ("two", "texts", "one")),
        "Skipped: 1.", "  - p is empty.", "Rows: 4.", "Rows: 4."
    ]  # fmt: skip


def test_the_first_ten_problems_are_listed() -> None:
    assert skipped([]) == ""
    lines = skipped([f"{number} is broken." for number in range(13)]).splitlines()
    assert lines[1] == "Skipped: 13."
    assert lines[2:] == [*(f"  - {number} is broken." for number in range(10)), "  … and 3 more"]


def test_an_error_leaves_nothing_new_and_the_earlier_prediction(tmp_path: Path) -> None:
    run, task, writer = tmp_path / "run", Task(), TextWriter()
    broken = Batches([*batches([0]), {"name": ["broken"], "index": torch.tensor([1])}])
    with pytest.raises(OSError, match="disk full"):
        predict(run, task, broken, writer)
    assert not run.exists(), "not even an empty folder is left"
    assert not any(each.open for each in writer.formats)  # type: ignore[attr-defined]  # Texts
    predict(run, task, Batches(batches([0, 1])), TextWriter())
    whole = contents(run)
    with pytest.raises(OSError, match="disk full"):
        predict(run, task, broken, writer)
    assert contents(run) == whole


def test_a_new_prediction_replaces_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("kept")
    for name in "ab":
        writer = TextWriter()
        predict(tmp_path, Task(), Batches(batches([0], names=name)), writer)
        assert writer.given == 1, "both formats get the same image"
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["b.one", "b.two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "one", "texts", "two"]


def test_unknown_numbers_of_a_table_are_empty_cells(tmp_path: Path) -> None:
    writer = TextWriter()
    writer.formats = [Lengths()]
    predict(tmp_path, Task(), Batches(batches([0, 1], names="ap")), writer)
    assert (tmp_path / "lengths.csv").read_text() == "name,length\na,0.5\np,\n"
    images = [Finished(name="a", index=0), Finished(name="p", index=1, problem="p is empty.")]
    assert [each.prediction().problem for each in images] == ["", "p is empty."]


class StoppedWriter(TextWriter):
    """Is stopped after a number of images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def images(self, outputs: Any, batch: Batch) -> Iterator[Finished]:
        for image in super().images(outputs, batch):
            if self.given > self.after:
                raise Stopped(signal.SIGTERM)
            yield image


@pytest.mark.parametrize("after", [0, 3])
def test_a_stopped_prediction_keeps_the_finished_images_apart(after: int, tmp_path: Path) -> None:
    predict(tmp_path, Task(), Batches(batches([0, 1], [2, 3])), TextWriter())
    earlier = contents(tmp_path)
    writer = StoppedWriter(after)
    with pytest.raises(Stopped):
        predict(tmp_path, Task(), Batches(batches([3, 2], [1, 0])), writer)
    found = contents(tmp_path)
    assert {name: content for name, content in found.items() if not name.startswith("partial/")} == earlier
    partial = {name for name in found if name.startswith("partial/")}
    names = {"one", "two", *(f"texts/{name}.{table}" for name in "dcb" for table in ("one", "two"))}
    assert partial == ({f"partial/{name}" for name in names} if after else set())
    if after:
        assert (tmp_path / "partial" / "one").read_text().split()[::4] == ["b", "c", "d"]
    assert not any(each.open for each in writer.formats if isinstance(each, Texts))
    predict(tmp_path, Task(), Batches(batches([0, 1], [2, 3])), TextWriter())
    assert contents(tmp_path) == earlier


@pytest.mark.parametrize("all_end", [True, False])
def test_stopped_processes_keep_what_all_of_them_finished(
    all_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PATIENCE", 0.1)
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)
    trainers: list[Any] = [
        SimpleNamespace(strategy=strategy, default_root_dir=tmp_path, world_size=2, global_rank=rank,
                        is_global_zero=rank == 0, predicting=True) for rank in range(2)
    ]  # fmt: skip
    writers = [TextWriter() for _ in trainers]
    for rank, (writer, trainer) in enumerate(zip(writers, trainers, strict=True)):
        writer.on_predict_start(trainer, Task())
        writer.on_predict_batch_end(trainer, Task(), None, batches([1 - rank])[0], 0)
    for writer, trainer in reversed(list(zip(writers, trainers, strict=True))[: 1 + all_end]):
        writer.on_exception(trainer, Task(), Stopped(signal.SIGTERM))
    assert not (tmp_path / "part").exists()
    assert (tmp_path / "partial").exists() == all_end
    if all_end:
        assert (tmp_path / "partial" / "one").read_text().split()[::4] == ["a", "b"]
