import json
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks.signals import Stopped, stoppable
from callbacks.writers.base import CHECKPOINTS, Writer, finished_rows
from callbacks.writers.format import Finished, Format, Row, Table, skipped
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

    file, columns, lists_problems = "lengths.csv", ("name", "length"), True

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
        "Images predicted: 1.", *(f"  {tmp_path / name}" for name in ("two", "texts", "skipped.csv", "one")),
        "Rows: 2.", "Rows: 2.", "Skipped, since they cannot be used: 1.", "  - p is empty."
    ]  # fmt: skip
    assert (tmp_path / "skipped.csv").read_text() == "name,problem\np,p is empty.\n"
    predict(tmp_path, Task(), Batches(batches([0], names="a")), TextWriter())
    assert not (tmp_path / "skipped.csv").exists()


def test_the_first_ten_problems_are_listed() -> None:
    assert skipped([]) == ""
    lines = skipped([(str(number), f"{number} is broken.") for number in range(13)]).splitlines()
    assert lines[1] == "Skipped, since they cannot be used: 13."
    assert lines[2:] == [*(f"  - {number} is broken." for number in range(10)), "  … and 3 more, see skipped.csv"]


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


def test_a_prediction_resumes_with_what_is_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run, names = tmp_path / "run", [*"apb", "broken"]
    rows = [{"name": [name], "index": torch.tensor([index])} for index, name in enumerate(names)]
    first = TextWriter()
    first.key = "1"
    with pytest.raises(OSError, match="disk full"):
        predict(run, Task(), Batches(rows), first)
    assert "Images finished: 2" in caplog.messages[-1]
    with (run / "part" / "rows0.jsonl").open("a") as file:
        file.write('[0, 3, "bro')  # a kill may cut a row off
    (run / "part" / "texts" / ".part-12345678-x").touch()
    (run / "part" / ".part-film-12345678.mp4").touch()
    (run / "part" / ".part-12345678").mkdir()
    (run / "part" / ".part-12345678" / "mask.tif").touch()
    assert finished_rows(run / "part", "2") == []
    second = TextWriter()
    second.key, second.earlier = "1", finished_rows(run / "part", "1")
    assert [row[2] for row in second.earlier] == ["a", "b"]
    rest = [rows[1], {"name": ["c"], "index": torch.tensor([3])}]
    predict(run, Task(), Batches(rest), second)
    assert second.given == 2
    assert contents(run).keys() == {
        "one",
        "two",
        "skipped.csv",
        *(f"texts/{n}.{t}" for n in "abc" for t in ("one", "two")),
    }
    assert [line for line in (run / "one").read_text().splitlines() if "second" not in line] == ["a ", "b ", "c "]


def test_a_new_prediction_replaces_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("kept")
    for name in "ab":
        writer = TextWriter()
        predict(tmp_path, Task(), Batches(batches([0], names=name)), writer)
        assert writer.given == 1, "both formats get the same image"
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["b.one", "b.two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "one", "texts", "two"]


def test_what_an_earlier_prediction_has_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    writer = TextWriter()
    writer.checkpoints, writer.formats = ["a.ckpt"], [Texts("one"), Texts("two"), Lengths()]
    predict(run, Task(), Batches(batches([0, 1], names="ap")), writer)
    listed = json.loads((run / CHECKPOINTS).read_text())
    listed["files"] += ["..", ".", "../other", "", str(tmp_path / "other"), "link"]  # as of a stranger's folder
    (run / CHECKPOINTS).write_text(json.dumps(listed))
    (tmp_path / "other").mkdir()
    (run / "link").symlink_to(tmp_path / "other")
    for name in ("maps", "samples"):
        (run / name).mkdir()
    writer = TextWriter()
    writer.formats = [Lengths()]
    predict(run, Task(), Batches(batches([0], names="a")), writer)
    assert sorted(path.name for path in run.iterdir()) == ["lengths.csv", "maps", "samples"]
    assert (tmp_path / "other").is_dir()


def test_unknown_numbers_of_a_table_are_empty_cells(tmp_path: Path) -> None:
    writer = TextWriter()
    writer.formats = [Lengths()]
    predict(tmp_path, Task(), Batches(batches([0, 1], names="ap")), writer)
    assert (tmp_path / "lengths.csv").read_text() == "name,length\na,0.5\np,\n"
    images = [Finished(name="a", index=0), Finished(name="p", index=1, problem="p is empty.")]
    assert [each.prediction().problem for each in images] == ["", "p is empty."]


class Signaled(Texts):
    """Signals the process while it writes image `b`, or while it writes the table."""

    def __init__(self, merging: bool) -> None:
        super().__init__("three")
        self.merging = merging

    def write(self, image: Finished, folder: Path) -> list[Row]:
        if image.name == "b" and not self.merging:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(image, folder)

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().finish(rows, folder)


@pytest.mark.parametrize("merging", [False, True])
def test_a_signal_waits_for_the_current_image_and_for_the_end(
    merging: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Task(), Batches(batches([4])), TextWriter())
    earlier = contents(tmp_path)
    writer = TextWriter()
    writer.key, writer.formats = "1", [Signaled(merging), Texts("one")]
    with stoppable(), pytest.raises(Stopped):
        predict(tmp_path, Task(), Batches(batches([0, 1], [2, 3])), writer)
    assert not any(each.open for each in writer.formats if isinstance(each, Texts))
    found = contents(tmp_path)
    names = [f"texts/{name}.{table}" for name in "abcd" for table in ("three", "one")]
    if merging:
        assert found.keys() == {*earlier.keys() - {"texts/e.one", "texts/e.two"}, "three", *names}
        return
    assert "Images finished: 2" in caplog.messages[-1]
    assert [row[2] for row in finished_rows(tmp_path / "part", "1")] == ["a", "b"]
    assert {name for name in found if name.startswith("part/texts")} == {f"part/{name}" for name in names[:4]}
    assert {name: content for name, content in found.items() if not name.startswith("part/")} == earlier
