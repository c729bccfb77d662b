import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.read.pictures import read_mask, read_picture
from tasks.roads import RoadsTask

Command = Callable[..., Any]

TINY = ["--config", "roads/unet", "--config", "debug", "--model.network", "pspnet", "--model.pretrained", "false",
        "--data.size", "[32,32]"]  # fmt: skip


@pytest.fixture
def trained(belvedere: Command, roads_root: Path) -> Path:
    """The best checkpoint of a run of two steps with seed 3."""
    root = ["--data.root", str(roads_root), "--data.samples_per_category", "3"]
    assert belvedere("fit", *TINY, *root, "--seed_everything", "3", "--output", "run").code == 0
    return Path("run/checkpoints/best.ckpt").absolute()


def test_a_large_picture_is_predicted_as_its_windows_are(belvedere: Command, trained: Path, roads_root: Path) -> None:
    town = roads_root / "pictures" / "town.png"
    assert (
        belvedere("predict", "--ckpt_path", str(trained), "--data.pictures", str(town), "--data.overlap", "0").code == 0
    )
    folder = trained.parents[1] / "predict-town"
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "overlays", "source.txt"]
    mask, picture = read_mask(folder / "masks" / "town.png"), read_picture(town)
    assert mask.shape == picture.shape[:2]
    with Image.open(folder / "overlays" / "town.jpg") as drawn:
        assert drawn.size[0] == picture.shape[1]
    task = RoadsTask.load_from_checkpoint(trained, map_location="cpu").eval()
    corner = torch.from_numpy(picture[:32, :32].transpose(2, 0, 1).copy())[None].float() / 255
    np.testing.assert_array_equal(mask[:32, :32], task.masks(task.predict({"image": corner})["probability"])[0, 0])
    options = ["--data.pictures", str(town), "--model.threshold", "0", "--output", "all"]
    assert belvedere("predict", "--ckpt_path", str(trained), *options).code == 0
    assert read_mask(Path("all/masks/town.png")).all(), "a threshold that is typed wins over the checkpoint's"


def test_predict_asks_for_pictures(belvedere: Command, trained: Path) -> None:
    result = belvedere("predict", "--ckpt_path", str(trained))
    assert result.code == 2
    assert "--data.pictures" in result.err


def test_what_was_drawn_with_the_runs_seed_is_drawn_again(belvedere: Command, trained: Path) -> None:
    for seed, options in (("3", []), ("4", ["--seed_everything", "4"])):
        assert belvedere("validate", "--ckpt_path", str(trained), "--config", "debug", *options).code == 0
        assert os.environ["PL_GLOBAL_SEED"] == seed


@pytest.mark.parametrize("network", ["vgg10", "vgg12", "vgg16", "unet"])
def test_roads_are_trained_to_the_end_unless_asked_otherwise(belvedere: Command, network: str) -> None:
    for overlays, patience in (([], None), (["--config", "early_stopping"], 15)):
        printed = belvedere("fit", "--config", f"roads/{network}", *overlays, "--print_config")
        config = yaml.safe_load(printed.out)
        assert config["early_stopping"]["patience"] == patience
        assert (config["monitor"], config["trainer"]["max_epochs"]) == ("val/dice", 150)


def test_describe_writes_tables_charts_and_copies(belvedere: Command, roads_root: Path) -> None:
    result = belvedere("describe", "--config", "roads/vgg10", "--data.root", str(roads_root), "--data.size", "[64,64]",
                       "--output", "study")  # fmt: skip
    assert result.code == 0
    assert sorted(path.name for path in Path("study").iterdir()) == ["copies.png", "pictures.csv", "study.png",
                                                                     "summary.csv"]  # fmt: skip
    assert "no_road" in result.out
