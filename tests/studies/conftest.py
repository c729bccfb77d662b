"""Studies whose runs are files of made-up figures: what comes out of a study needs no training to be looked at."""

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from studies.plan import Run, Study, read_study

# Two axes of two, one cell of the four impossible, two seeds: six runs.
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
- {figure: test/dice, title: dice, better: max, definition: "Twice what is shared, over < the sum."}
- {figure: test/loss, title: loss, better: min, definition: The mean loss.}
- {figure: best_epoch, title: best epoch, better: null, definition: The best one.}
- {figure: parameters, title: parameters, better: null, definition: Of the network.}
curve: val/dice
panel: predict-*/overlays/*.jpg
after: [features]
tables: [features/vectors/classifiers.csv]
"""
RECORD = {"best_epoch": 1, "epochs": 3, "seconds": 75.4, "peak_bytes": 3 * 2**29, "parameters": 24_436_369,
          "device": "NVIDIA H100", "processes": 1, "versions": {"belvedere": "0.1.0", "torch": "2.14.1"},
          "data_fingerprint": "c0ffee", "pictures": {"train": 16, "val": 4, "test": 5}}  # fmt: skip
DATA = {"class_path": "datamodules.clouds.CloudsDataModule",
        "init_args": {"root": "/pictures", "size": [224, 224], "output_size": [350, 525], "split_seed": 0,
                      "val_fraction": 0.2, "test_fraction": 0.1, "window": None}}  # fmt: skip


@dataclass
class Made:
    """A study, its folder, and how far its runs are said to be.

    Attributes:
        study: As it was read.
        folder: The study's.
        states: By folder of the run; a run that is not here is `finished` if it has figures of a test, else `waiting`.
    """

    study: Study
    folder: Path
    states: dict[Path, str] = field(default_factory=dict)

    def run(self, cell: str, seed: int) -> Run:
        """The run of that cell and seed."""
        return next(run for run in self.study.runs if (run.cell, run.seed) == (cell, seed))

    def write(
        self,
        cell: str,
        seed: int,
        figures: Mapping[str, float] | None = None,
        intervals: Mapping[str, tuple[float, float]] | None = None,
        curve: Mapping[str, list[float]] | None = None,
        data: Mapping[str, Any] | None = None,
        **record: Any,
    ) -> Path:
        """Writes what a run of these figures leaves in its folder.

        Args:
            cell: The run's.
            seed: The run's.
            figures: Of its test; without any it was not tested.
            intervals: Lower and upper ends, of figures of the test.
            curve: Values of the study's curve, an epoch each, by `train` and `val`.
            data: What the data module was given in place of `DATA`.
            record: What `record.json` says in place of `RECORD`.
        """
        folder = self.folder / self.run(cell, seed).folder
        folder.mkdir(parents=True, exist_ok=True)
        arguments = DATA | {"init_args": {**DATA["init_args"], **(data or {})}}  # type: ignore[dict-item]
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": arguments}))
        (folder / "record.json").write_text(json.dumps(RECORD | record))
        if figures is not None:
            write_rows(folder / "test" / "metrics.csv", [{"epoch": 1, "step": 8, **figures}])
        if intervals is not None:
            rows = [{"figure": name, "low": low, "high": high} for name, (low, high) in intervals.items()]
            write_rows(folder / "test" / "intervals.csv", rows)
        if curve is not None:
            name = self.study.curve.partition("/")[2]
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
    """Writes a study's file: `FILE`, with these keys in place of its own; None takes a key out."""

    def write(**changes: Any) -> Path:
        said = yaml.safe_load(FILE) | changes
        path = tmp_path / "tiny.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in said.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


@pytest.fixture
def make(study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    """Makes an empty folder for the study of `FILE`, with changes, as `study_file` makes them."""

    def made(**changes: Any) -> Made:
        result = Made(read_study(study_file(**changes)), tmp_path / "study")
        result.folder.mkdir(exist_ok=True)

        def state(run: Run, folder: Path) -> str:
            tested = (folder / run.folder / "test" / "metrics.csv").is_file()
            return result.states.get(run.folder, "finished" if tested else "waiting")

        def failure(run: Run, folder: Path) -> str:
            return f"{run.cell}: <why> it failed" if state(run, folder) == "failed" else ""

        running = ModuleType("studies.running")
        running.state, running.failure = state, failure  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "studies.running", running)
        return result

    return made
