import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.read.pictures import read_mask
from ops.polygons import intersection_over_union, polygon_mask
from tasks import boosting
from tasks.avalanches import AvalanchesTask
from tasks.networks.window_classifier import is_filled

Command = Callable[..., Any]

TINY = ["--config", "avalanches/cnn2d", "--config", "debug", "--data.window", "17"]


@pytest.fixture
def trained(belvedere: Command, avalanches_root: Path) -> Path:
    """The best checkpoint of a run of two steps on windows of 17 pixels."""
    assert belvedere("fit", *TINY, "--data.root", str(avalanches_root), "--output", "run").code == 0
    return Path("run/checkpoints/best.ckpt").absolute()


def test_photographs_become_masks_and_polygons(belvedere: Command, trained: Path, avalanches_root: Path) -> None:
    photographs = avalanches_root / "images"
    options = [
        "--data.pictures",
        str(photographs),
        "--data.pyramid_levels",
        "1",
        "--trainer.limit_predict_batches",
        "3",
    ]
    assert belvedere("predict", "--ckpt_path", str(trained), *options).code == 0
    folder = trained.parents[1] / "predict-images"
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "overlays", "polygons.json", "source.txt"]
    pictures = json.loads((folder / "polygons.json").read_text())["pictures"]
    assert list(pictures) == sorted(path.name for path in photographs.iterdir())[:3]
    for name, record in pictures.items():
        with Image.open(photographs / name) as photograph:
            assert record["size"] == [photograph.height, photograph.width]
        mask = read_mask(folder / "masks" / f"{Path(name).stem}.png")
        polygon = polygon_mask([np.array(ring) for ring in record["rings"]], (mask.shape[0], mask.shape[1]))
        assert intersection_over_union(mask, polygon) >= 0.98


@pytest.mark.parametrize("on", ["predictions", "features"])
def test_trees_decide_where_they_lie_beside_the_checkpoint(on: str, belvedere: Command, avalanches_root: Path) -> None:
    fit = [*TINY, "--data.root", str(avalanches_root), "--output", "run"]
    assert belvedere("fit", *fit, "--model.xgboost_on", on).code == 0
    best, trees = Path("run/checkpoints/best.ckpt"), Path("run/checkpoints/best.ubj")
    assert boosting.load(trees).num_features() == (1 if on == "predictions" else 128)
    assert belvedere("test", "--ckpt_path", str(best), "--config", "debug").code == 0
    with Path("run/test/metrics.csv").open(newline="") as file:
        [figures] = csv.DictReader(file)
    assert {"test/dice", "test/boosted_dice", "test/boosted_accuracy", "test/second_dice"} <= figures.keys()
    kept = torch.load(best, weights_only=True)["state_dict"]
    with Path("run/boosted_thresholds.csv").open(newline="") as file:
        [fitted] = csv.DictReader(file)
    assert kept["boosted_decision.thresholds"].item() == pytest.approx(float(fitted["threshold"]))
    trees.unlink()
    result = belvedere("test", "--ckpt_path", str(best), "--config", "debug")
    assert result.code == 2
    assert "best.ubj; expected boosted trees" in result.err


def test_a_network_that_sees_components_only_is_trained_and_read_again(
    belvedere: Command, avalanches_root: Path
) -> None:
    fit = ["--config", "avalanches/cnn1d", "--config", "debug", "--data.window", "17", "--model.components", "9"]
    assert belvedere("fit", *fit, "--data.root", str(avalanches_root), "--output", "run").code == 0
    task = AvalanchesTask.load_from_checkpoint("run/checkpoints/best.ckpt", map_location="cpu")
    assert is_filled(task.network)
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt", "--config", "debug").code == 0


def test_a_run_goes_on_with_its_own_window(belvedere: Command, trained: Path, avalanches_root: Path) -> None:
    options = [*TINY, "--data.root", str(avalanches_root), "--trainer.max_epochs", "2"]
    assert belvedere("fit", *options, "--ckpt_path", str(trained.with_name("last.ckpt"))).code == 0
    assert torch.load(trained.with_name("last.ckpt"), weights_only=True)["global_step"] == 4
    result = belvedere("fit", *options, "--model.window", "17")
    assert result.code == 2
    assert result.err.strip().endswith("--model.window follows the data: give --data.window.")


@pytest.mark.slow
def test_a_network_that_pads_is_given_windows(belvedere: Command, avalanches_root: Path) -> None:
    options = ["--config", "avalanches/vgg16", "--config", "debug", "--model.pretrained", "false",
               "--data.root", str(avalanches_root), "--data.pyramid_levels", "1", "--data.batch_size", "4",
               "--data.val_pictures", "1", "--trainer.limit_val_batches", "1"]  # fmt: skip
    assert belvedere("fit", *options, "--output", "run").code == 0
    options = ["--data.pictures", str(avalanches_root / "images"), "--trainer.limit_predict_batches", "1"]
    assert belvedere("predict", "--ckpt_path", "run/checkpoints/best.ckpt", *options).code == 0
    [mask] = Path("run/predict-images/masks").iterdir()
    [photograph] = (avalanches_root / "images").glob(f"{mask.stem}.*")
    assert Image.open(mask).size == Image.open(photograph).size


def test_the_window_of_the_data_is_the_networks(belvedere: Command, trained: Path) -> None:
    result = belvedere("test", "--ckpt_path", str(trained), "--data.window", "19")
    assert result.code == 2
    assert result.err.strip().endswith("The checkpoint knows the window 17; --data.window is 19.")
    assert belvedere("test", "--ckpt_path", str(trained), "--config", "debug").code == 0


def test_describe_writes_tables_and_charts(belvedere: Command, avalanches_root: Path) -> None:
    result = belvedere("describe", *TINY, "--data.root", str(avalanches_root), "--output", "study")
    assert result.code == 0
    assert {"summary.csv", "study.png"} <= {path.name for path in Path("study").iterdir()}
