"""Paths may begin with `~`, and a run remembers them in full."""

import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import belvedere as api
from belvedere.files import at_home
from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/x y", "/home/me/x y"),
        ("--output=~/x", "/home/me/x"),
        ("--data.root=~/a=b", "/home/me/a=b"),
        ("--data.root=~", "~"),  # null in YAML
        ("~", "~"),
        ("--a=b~/c", "b~/c"),
        ("--note=a\n~/b", "a\n~/b"),
        ("model: ~\nx: ~/y", "model: ~\nx: ~/y"),
        ("-1", "-1"),
        ("", ""),
    ],
)
def test_only_paths_at_home_are_completed(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    name = given.split("=")[0] + "=" if given.startswith("--") else ""
    assert at_home(given) == name + expected


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_every_path_may_be_at_home(
    belvedere: Command, fitted: Path, clouds_root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fitted, home / "run")
    shutil.copytree(clouds_root / "train_images", home / "album")
    checkpoint = "~/run/checkpoints/best.ckpt"
    assert belvedere("predict", f"--ckpt_path={checkpoint}", "--data.pictures=~/album", "--output=~/x").code == 0
    assert (home / "x" / "submission.csv").is_file()
    assert belvedere("test", "--ckpt_path", checkpoint, "--output", "~/y").code == 0
    assert (home / "y" / "metrics.csv").is_file()
    assert not Path("~").exists()
    assert len(api.predict(checkpoint, "~/album")) == 24


def test_a_run_remembers_absolute_paths(
    belvedere: Command, colorization_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(colorization_root, "data")
    name = "mobilenetv3_small_050"
    import timm
    import torch

    torch.save(timm.create_model(name).state_dict(), "weights.pth")
    options = ["--config", "colorization/pooled", "--config", "debug", "--data.size", "32", "--data.batch_size", "4",
               "--model.extractor", name]  # fmt: skip
    paths = ["--data.root", "data", "--model.extractor_weights", "weights.pth", "--output", "run",
             "--data.reference", "data/images"]  # fmt: skip
    assert belvedere("fit", *options, *paths).code == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["model"]["init_args"]["extractor_weights"] == str(tmp_path / "weights.pth")
    assert config["data"]["init_args"]["root"] == str(tmp_path / "data")
    assert config["data"]["init_args"]["reference"] == str(tmp_path / "data" / "images")
    assert config["output"] == str(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pictures = ["--data.pictures", "../data/images", "--data.reference", "null"]
    assert belvedere("predict", "--ckpt_path", "../run/checkpoints/best.ckpt", *pictures).code == 0
    assert (tmp_path / "run" / "predict-images" / "colored").is_dir()


@pytest.mark.parametrize("kind", [AestheticsDataModule, AvalanchesDataModule, CloudsDataModule, ColorizationDataModule,
                                  RoadsDataModule])  # fmt: skip
def test_every_path_becomes_absolute_unless_it_is_relative_to_the_dataset(kind: type[ImageDataModule]) -> None:
    parameters = [each for base in kind.__mro__ if issubclass(base, ImageDataModule)
                  for each in signature(base).parameters.values()]  # fmt: skip
    found = {each.name for each in parameters if Path in get_args(each.annotation)}
    within = {"labels", "test_list", "train_list"} if kind is AestheticsDataModule else set()
    assert found - within == set(kind.paths)
