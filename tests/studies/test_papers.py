"""One command per paper makes all its tables and figures, here of synthetic samples and very small networks."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT

pytestmark = pytest.mark.slow
EVERY = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--data.num_workers", "0", "--seeds", "0",
         "--trainer.num_sanity_val_steps", "0"]  # fmt: skip
SMALL = {
    "roads": ["--data.size", "[32,32]", "--data.window", "[64,64]", "--axes.network", "VGG10",
              "--axes.strategy", "[none, filters]", "--data.steps_per_epoch", "2"],
    "avalanches": ["--data.pyramid_levels", "1", "--data.windows_per_epoch", "200", "--data.val_fraction", "0.2",
                   "--data.test_fraction", "0.2", "--axes.network", "CNN 17x17x1"],
    "colorization": ["--data.size", "64", "--axes.extractor", "none", "--axes.encoder", "pooled",
                     "--axes.objective", "[regression, residual]"],
    "clouds": ["--model.pretrained", "false", "--data.size", "[64,96]", "--data.output_size", "[70,105]",
               "--axes.architecture", "[FPN]", "--axes.encoder", "MobileNetV2", "--axes.stop", "AUPRC",
               "--axes.small_masks", "[masks under 2 %]", "--data.steps_per_epoch", "2"],
    "aesthetics": ["--model.pretrained", "false", "--model.freeze_convolutions", "false", "--data.size", "64",
                   "--data.batch_size", "8", "--axes.network", "AlexNet", "--axes.width", "250",
                   "--axes.delta", "[0.0, 0.25]"],
}  # fmt: skip
FIGURES = {
    "roads": ["curves_loss", "curves_accuracy", "curves_f_measure", "bars", "panel", "layers"],
    "avalanches": ["curves_loss", "curves_accuracy", "bars", "panel", "steps", "layers"],
    "colorization": ["curves_loss", "curves_delta_e76", "bars", "panel", "layers"],
    "clouds": ["curves_loss", "curves_dice", "bars", "panel", "layers"],
    "clouds/clouds_claims": ["curves_loss", "curves_dice", "curves_auprc", "bars", "panel", "layers"],
    "aesthetics": ["curves_loss", "curves_balanced_accuracy", "bars", "panel", "layers"],
    "aesthetics/aesthetics_delta": ["curves_loss", "curves_balanced_accuracy", "bars", "panel", "layers", "lines"],
    "aesthetics/aesthetics_features": ["curves_loss", "curves_balanced_accuracy", "bars", "panel", "layers", "groups"],
}


def colors_of(path: Path) -> set[tuple[int, ...]]:
    """Colors of a chart with a hundred pixels or more."""
    found, counts = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color) for color in found[counts >= 100].tolist()}


@pytest.mark.parametrize("name", SMALL)
def test_one_command_makes_all_tables_and_figures(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root: Path = request.getfixturevalue(f"{name}_root")
    command = [sys.executable, "-m", "belvedere", "study", name, "--data.root", str(root), *EVERY, *SMALL[name]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled",
                   "BELVEDERE_CACHE": str(tmp_path / "cache")}  # fmt: skip
    done = subprocess.run([*command, "--output", name], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for study in (each for each in FIGURES if each.split("/")[0] == name):
        folder = tmp_path / study
        assert {path.stem for path in (folder / "figures").glob("*.png")} == set(FIGURES[study])
        assert {path.stem for path in (folder / "figures").glob("*.svg")} == set(FIGURES[study])
        for path in (folder / "figures").glob("curves_*.png"):
            # blue of training and orange of validation
            assert {(0, 114, 178), (213, 94, 0)} <= colors_of(path), path
        panel = (folder / "figures" / "panel.svg").read_text()
        assert all(f"<!-- {row} -->" in panel for row in ("input", "truth"))
        for table in ("layers.csv", "results.csv"):
            with (folder / table).open() as file:
                rows = list(csv.DictReader(file))
            assert rows
        if study == "avalanches":  # the paper compares two optimizers, and every first pass with its second ones
            assert {row["optimizer"] for row in rows} == {"Adam", "RMSprop"}
            for figure in ("panel", "steps"):
                drawn = (folder / "figures" / f"{figure}.svg").read_text()
                assert all(f"<!-- {optimizer} -->" in drawn for optimizer in ("Adam", "RMSprop"))
        assert (folder / "table.md").read_text().startswith("| "), "rows that cannot be compared"
        assert (folder / "report.html").is_file()
