"""Studies whose runs are files with made-up metrics, and a stand-in for the command line: no test here trains."""

import csv
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import running
from studies.notes import Note, write_note
from studies.plan import Run, Study, read_study

# Two axes of two labels, one of the four cells impossible, two seeds: six runs.
FILE = """
question: Is it A & B, or <C>?
axes:
  network:
    U-Net: {config: clouds/unet}
    FPN: {config: clouds/fpn}
  encoder:
    ResNet-34: {model.encoder: resnet34}
    Wide | odd: {model.encoder: mobilenet_v2}
impossible:
- when: {network: FPN, encoder: Wide | odd}
  because: it <does> not fit.
seeds: [0, 1]
columns:
- {figure: test/dice, title: dice, better: max, definition: "Twice the overlap, over < the sum."}
- {figure: test/loss, title: loss, better: min, definition: The mean loss.}
- {figure: best_epoch, title: best epoch, better: null, definition: The best one.}
- {figure: parameters, title: parameters, better: null, definition: Of the network.}
curves: [val/dice]
panel: predict-*/overlays/*.jpg
after: [features]
tables: [features/vectors/classifiers.csv]
"""
RECORD = {"best_epoch": 1, "epochs": 3, "seconds": 75.4, "peak_bytes": 3 * 2**29, "parameters": 24_436_369,
          "samples": 64, "device": "NVIDIA H100", "processes": 1, "versions": {"belvedere": "0.1.0", "torch": "2.14.1"},
          "data_fingerprint": "c0ffee", "pictures": {"train": 16, "val": 4, "test": 5}}  # fmt: skip
DATA = {"class_path": "datamodules.clouds.CloudsDataModule",
        "init_args": {"root": "/pictures", "size": [224, 224], "output_size": [350, 525], "split_seed": 0,
                      "val_fraction": 0.2, "test_fraction": 0.1, "window": None}}  # fmt: skip


@dataclass
class Made:
    """A study and its folder; a run is `waiting` until its metrics or its failure are written."""

    study: Study
    folder: Path

    def run(self, cell: str, seed: int) -> Run:
        return next(run for run in self.study.runs if (run.cell, run.seed) == (cell, seed))

    def fail(self, cell: str, seed: int) -> None:
        failed = {"step": "fit", "code": 2, "last": ["belvedere: <no> images."]}
        write_note(Note([], failed=failed), self.folder / self.run(cell, seed).folder)

    def write(
        self,
        cell: str,
        seed: int,
        metrics: Mapping[str, float] | None = None,
        intervals: Mapping[str, tuple[float, float]] | None = None,
        curve: Mapping[str, list[float]] | None = None,
        data: Mapping[str, Any] | None = None,
        **record: Any,
    ) -> Path:
        """Writes the files of a run.

        Args:
            cell: Cell of the run.
            seed: Seed of the run.
            metrics: Metrics of the test; None if the run was not tested.
            intervals: Lower and upper ends of the intervals of metrics.
            curve: Values of the study's first curve by epoch, for `train` and `val`.
            data: Options of the data module, on top of `DATA`.
            record: Values of `record.json`, on top of `RECORD`.
        """
        folder = self.folder / self.run(cell, seed).folder
        folder.mkdir(parents=True, exist_ok=True)
        arguments = DATA | {"init_args": {**DATA["init_args"], **(data or {})}}  # type: ignore[dict-item]
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": arguments}))
        (folder / "record.json").write_text(json.dumps(RECORD | record))
        if metrics is not None:
            write_rows(folder / "test" / "metrics.csv", [{"epoch": 1, "step": 8, **metrics}])
            write_note(Note([], seconds={"fit": 1.0, "test": 1.0}), folder)
        if intervals is not None:
            rows = [{"figure": name, "low": low, "high": high} for name, (low, high) in intervals.items()]
            write_rows(folder / "test" / "intervals.csv", rows)
        if curve is not None:
            name = self.study.curves[0].partition("/")[2]
            lines = [{"epoch": epoch, f"{stage}/{name}": value}
                     for stage, values in curve.items() for epoch, value in enumerate(values)]  # fmt: skip
            write_rows(folder / "metrics.csv", lines, ["epoch", f"train/{name}", f"val/{name}"])
        return folder


def write_rows(path: Path, rows: list[dict[str, Any]], heads: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file: `FILE` with some keys replaced; None removes a key."""

    def write(**changes: Any) -> Path:
        values = {key: value for key, value in (yaml.safe_load(FILE) | changes).items() if value is not None}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


@pytest.fixture
def make(study_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Made]:
    """Makes an empty folder for the study of `FILE`, with changes as in `study_file`."""

    def made(**changes: Any) -> Made:
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        return Made(read_study(study_file(**changes)), folder)

    return made


# Two networks, of which the first does ACT (see fake_command.py), and two seeds.
ACTING = """
question: Does it run?
options: {config: any}
axes: {network: {One: {model.act: ACT}, Two: {model.act: good}}}
seeds: [0, 1]
columns: [{figure: test/dice, title: dice, better: max, definition: Dice.}]
curves: [val/dice]
"""
FAKE = (sys.executable, str(Path(__file__).with_name("fake_command.py")))


@pytest.fixture
def acting_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the file of a study whose runs are executed by the fake command."""

    def write(act: str = "good", name: str = "quokka") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(ACTING.replace("ACT", act))
        return path

    return write


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Replaces the real command line by the fake, and returns its calls since the last time."""
    file = tmp_path / "calls"
    monkeypatch.setattr(running, "PROGRAM", FAKE)
    for name in ("CHECK", "CHECK_STEPS"):
        monkeypatch.setattr(running, name, (sys.executable, "-c", "print('null')"))
    monkeypatch.setenv("CALLS", str(file))
    monkeypatch.setenv("MENDED", str(tmp_path / "mended"))
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)

    def since() -> list[list[str]]:
        lines = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [shlex.split(line) for line in lines]

    return since
