"""Every task through the command line: trained once in `conftest.py`, then tested, described and used."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from belvedere import predict as predicted
from belvedere.prediction import load
from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import read_picture
from datamodules.roads import RoadsDataModule
from ops.color.lab import rgb_to_lab
from ops.errors import ArgumentError
from ops.masks.polygons import intersection_over_union, polygon_mask
from tasks.aesthetics import AestheticsTask
from tasks.avalanches import AvalanchesTask
from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import PixelScores
from tasks.networks.window_classifier import is_filled
from tasks.roads import RoadsTask
from tests.helpers import metrics, table

Command = Callable[..., Any]
Trained = Callable[[str], Path]
Small = Callable[[str], list[str]]

METRICS = {
    "roads": {"dice"},
    "avalanches": {"dice", "second_edges_dice", "second_enhanced_dice"},
    "colorization": {"delta_e2000", "mean_by_luminance_delta_e2000", "colorfulness_true"},
    "aesthetics": {"accuracy", "balanced_accuracy", "auc", "majority", "srcc", "plcc", "emd", "emd2"},
}
TAGGED = "test/balanced_accuracy@"
STUDIES = {
    "clouds": {"summary.csv", "pictures.csv", "study.png"},
    "roads": {"summary.csv", "pictures.csv", "study.png", "altered.png"},
    "avalanches": {"summary.csv", "study.png"},
    "colorization": {"summary.csv", "study.png", "colors.png"},
    "aesthetics": {"summary.csv", "study.png"},
}


@pytest.mark.parametrize("task", METRICS)  # clouds in test_cli.py
def test_a_trained_network_is_tested(task: str, trained: Trained, belvedere: Command) -> None:
    assert belvedere("test", "--ckpt_path", str(trained(task)), "--output", "out").code == 0
    found = metrics("out/metrics.csv")
    assert {f"test/{name}" for name in METRICS[task]} <= found.keys()
    if task == "aesthetics":
        assert len([name for name in found if name.startswith(TAGGED)]) > 2
        assert found["test/emd2"] == pytest.approx(found["test/loss"], rel=1e-5)


@pytest.mark.parametrize("task", STUDIES)
def test_a_dataset_is_described(task: str, small: Small, belvedere: Command) -> None:
    options = [word for word in small(task) if word != "2" and not word.startswith("--trainer.")]
    result = belvedere("describe", *options, "--output", "study")
    assert result.code == 0
    written = set(Path("study").absolute().iterdir())
    assert {path.name for path in written} >= STUDIES[task]
    assert {path for path in written if str(path) in result.out} == written


def test_a_large_image_is_predicted_window_by_window(belvedere: Command, trained: Trained, roads_root: Path) -> None:
    town, checkpoint = roads_root / "pictures" / "town.png", trained("roads")
    predict = ["predict", "--ckpt_path", str(checkpoint), "--data.pictures", str(town)]
    assert belvedere(*predict, "--data.overlap", "0", "--output", "out").code == 0
    names = ["checkpoints.json", "lines", "masks", "overlays", "overview.html", "source.txt"]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    mask, picture = read_mask(Path("out/masks/town.png")), read_picture(town)
    assert mask.shape == picture.shape[:2]
    with Image.open("out/overlays/town.jpg") as drawn:
        assert drawn.size[0] == picture.shape[1]
    task = RoadsTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    corner = torch.from_numpy(picture[:32, :32].transpose(2, 0, 1).copy())[None].float() / 255
    alone = task.masks(task.predict({"image": corner})["probability"])[0, 0, :28, :28]  # the next windows begin there
    np.testing.assert_array_equal(mask[:28, :28], alone)
    assert belvedere(*predict, "--model.threshold", "0", "--output", "all").code == 0
    assert read_mask(Path("all/masks/town.png")).all()


def test_roads_are_tested_by_the_masks_that_predict_writes(
    belvedere: Command, trained: Trained, roads_root: Path
) -> None:
    picture = read_picture(roads_root / "images" / "tile_0004.png")
    task = RoadsTask.load_from_checkpoint(trained("roads"), map_location="cpu").eval()
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255
    threshold = float(task.predict({"image": image})["probability"].median())  # neither all nor nothing
    options = ["--ckpt_path", str(trained("roads")), "--model.threshold", str(threshold), "--model.minimum_area", "9"]
    assert belvedere("test", *options, "--output", "test").code == 0
    assert belvedere("predict", *options, "--data.pictures", str(roads_root / "images"), "--output", "out").code == 0
    data = RoadsDataModule(roads_root, size=(32, 32))
    data.setup("test")
    scores = {"dice": DiceScores(("road",)), "f_measure": PixelScores()}
    for name in data.datasets["test"].names:
        masks = [read_mask(folder / "masks" / name) for folder in (Path("out"), roads_root)]
        assert 0 < masks[0].mean() < 1
        for score in scores.values():
            score.update(*(torch.from_numpy(mask)[None, None] for mask in masks))
    found = metrics("test/metrics.csv")
    for name, score in scores.items():
        assert found[f"test/{name}"] == pytest.approx(float(score.compute()[name]), abs=1e-6)


def test_later_commands_use_the_seed_of_the_run(belvedere: Command, trained: Trained) -> None:
    for seed, options in (("3", []), ("4", ["--seed_everything", "4"])):
        arguments = ["--ckpt_path", str(trained("roads")), "--config", "debug", "--output", f"out{seed}", *options]
        assert belvedere("validate", *arguments).code == 0
        assert os.environ["PL_GLOBAL_SEED"] == seed


def test_photographs_become_masks_and_polygons(belvedere: Command, trained: Trained, avalanches_root: Path) -> None:
    photographs = avalanches_root / "images"
    options = ["--data.pictures", str(photographs), "--data.pyramid_levels", "1", "--trainer.callbacks.outline", "raw",
               "--trainer.limit_predict_batches", "3", "--output", "out"]  # fmt: skip
    assert belvedere("predict", "--ckpt_path", str(trained("avalanches")), *options).code == 0
    names = ["checkpoints.json", "masks", "overlays", "overview.html", "polygons.json", "source.txt"]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    pictures = json.loads(Path("out/polygons.json").read_text())["pictures"]
    assert list(pictures) == sorted(path.name for path in photographs.iterdir())[:3]
    for name, record in pictures.items():
        with Image.open(photographs / name) as photograph:
            assert record["size"] == [photograph.height, photograph.width]
        mask = read_mask(Path("out/masks") / f"{Path(name).stem}.png")
        polygon = polygon_mask([np.array(ring) for ring in record["rings"]], (mask.shape[0], mask.shape[1]))
        assert intersection_over_union(mask, polygon) >= 0.98


def test_a_network_with_filled_components_is_trained_and_loaded(belvedere: Command, small: Small) -> None:
    options = ["--config", "avalanches/cnn1d", "--config", "debug", "--data.window", "17", "--model.components", "9"]
    assert belvedere("fit", *small("avalanches"), *options, "--output", "run").code == 0
    task = AvalanchesTask.load_from_checkpoint("run/checkpoints/best.ckpt", map_location="cpu")
    assert is_filled(task.network)
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt", "--config", "debug").code == 0


@pytest.mark.slow
def test_a_padded_network_gets_windows(belvedere: Command, avalanches_root: Path) -> None:
    options = ["--config", "avalanches/vgg16", "--config", "debug", "--model.pretrained", "false",
               "--data.root", str(avalanches_root), "--data.pyramid_levels", "1", "--data.batch_size", "4",
               "--data.val_pictures", "1", "--trainer.limit_val_batches", "1"]  # fmt: skip
    assert belvedere("fit", *options, "--output", "run").code == 0
    options = ["--data.pictures", str(avalanches_root / "images"), "--trainer.limit_predict_batches", "1"]
    assert belvedere("predict", "--ckpt_path", "run/checkpoints/best.ckpt", *options).code == 0
    [mask] = Path("run/predict-images/masks").iterdir()
    [photograph] = (avalanches_root / "images").glob(f"{mask.stem}.*")
    assert Image.open(mask).size == Image.open(photograph).size


def lightness(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        levels = np.asarray(picture.convert("RGB")).astype(np.float32)
    return rgb_to_lab(torch.from_numpy(levels.transpose(2, 0, 1))[None] / 255)[0, 0]


def test_colored_images_keep_size_and_lightness(belvedere: Command, trained: Trained, tmp_path: Path) -> None:
    album, rng = tmp_path / "album", np.random.default_rng(0)
    (album / "old").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (50, 90), np.uint8)).save(album / "grey.png")
    Image.fromarray(rng.integers(0, 256, (70, 40, 3), np.uint8)).save(album / "old" / "colored.png")
    (album / "broken.jpg").write_bytes(b"no image")
    predict = ["predict", "--ckpt_path", str(trained("colorization")), "--data.pictures", str(album)]
    assert belvedere(*predict, "--output", "out").code == 3  # broken.jpg
    for name in ("grey.png", "old/colored.png"):
        found, given = lightness(Path("out/colored") / name), lightness(album / name)
        assert found.shape == given.shape
        assert (found - given).abs().max() <= 0.5
    rows = {row["name"]: row for row in table("out/figures.csv")}
    assert rows["old/colored.png"]["delta_e76"]
    assert not rows["grey.png"]["delta_e76"]
    assert "broken.jpg" in rows["broken.jpg"]["problem"]
    assert "broken.jpg" in belvedere(*predict, "--data.unreadable", "refuse", "--output", "again").refusal
    assert not Path("again").exists()
    (album / "broken.jpg").unlink()
    hints = tmp_path / "hints.csv"
    hints.write_text("image,x,y,color\ngrey.png,80,10,#d06040\nold/colored.png,99,0,#d06040\n")
    refusal = belvedere(*predict, "--data.hints", str(hints), "--output", "hinted").refusal
    assert "row 3" in refusal
    assert "outside" in refusal
    assert not Path("hinted").exists()
    hints.write_text("image,x,y,color\ngrey.png,80,10,#d06040\n")
    assert belvedere(*predict, "--data.hints", str(hints), "--output", "hinted").code == 0
    [same] = predicted(trained("colorization"), album / "grey.png", hints=hints)
    with Image.open("hinted/colored/grey.png") as picture:
        levels = np.asarray(picture.convert("RGB"))
    assert same.image is not None
    np.testing.assert_array_equal(same.image, levels)
    before = np.asarray(Image.open("out/colored/grey.png").convert("RGB"))
    wanted = rgb_to_lab(torch.tensor([0xD0, 0x60, 0x40]).view(1, 3, 1, 1) / 255)[0, 1:, 0, 0]
    found = [rgb_to_lab(torch.from_numpy(each[10, 80].copy()).view(1, 3, 1, 1) / 255)[0, 1:, 0, 0]
             for each in (before, levels)]  # fmt: skip
    assert (found[1] - wanted).norm() < 0.5 * (found[0] - wanted).norm()  # as far as sRGB has it at this lightness


def test_an_album_is_ranked(belvedere: Command, trained: Trained, tmp_path: Path) -> None:
    album, rng = tmp_path / "album", np.random.default_rng(0)
    checkpoint = trained("aesthetics")
    (album / "May").mkdir(parents=True)
    squares = {name: rng.integers(0, 256, (63, 63, 3), np.uint8) >> shift  # of the network's size: nothing is cropped
               for shift, name in enumerate(["one.png", "two.png", "May/three.png", "May/four.png"])}  # fmt: skip
    for name, square in squares.items():
        Image.fromarray(square).save(album / name)
    (album / "May" / "broken.jpg").write_bytes(b"no image")
    predict = ["predict", "--ckpt_path", str(checkpoint)]
    assert belvedere(*predict, "--data.pictures", str(album), "--output", "out").code == 3
    names = ["checkpoints.json", "contact_sheet.png", "overview.html", "scores.csv", "skipped.csv", "source.txt"]
    assert sorted(os.listdir("out")) == names
    *rows, last = table("out/scores.csv")
    assert last["name"] == "May/broken.jpg"
    assert last["problem"]
    assert not last["probability"]
    scores = [(float(row["probability"]), float(row["mean"])) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["name"] for row in rows} == squares.keys()
    task = AestheticsTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    assert task.threshold == 5.5
    for row in rows:
        image = torch.from_numpy(squares[row["name"]].transpose(2, 0, 1))[None].float() / 255
        for name, value in task.predict({"image": image}).items():
            assert float(row[name]) == pytest.approx(value.item(), rel=1e-4)
    page = Path("out/overview.html").read_text()
    places = [page.index(row["name"]) for row in rows]
    assert places == sorted(places)
    assert "May/broken.jpg was skipped" in page
    with Image.open("out/contact_sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 100
    assert belvedere(*predict, "--data.pictures", str(album / "May" / "four.png"), "--output", "one").code == 0
    [row] = table("one/scores.csv")
    wanted = next({**each, "name": "four.png"} for each in rows if each["name"] == "May/four.png")
    assert row == {name: value for name, value in wanted.items() if name != "problem"}


def test_metrics_are_logged_with_their_baselines(
    belvedere: Command, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    binary = ["--data.threshold", "null", "--model.head", "binary", "--monitor", "val/balanced_accuracy"]
    assert belvedere("fit", *small("aesthetics"), *binary, "--output", "run").code == 0
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt").code == 0
    logged = [message for message in caplog.messages if message.startswith("Compared with trivial baselines")]
    for text, stage, path in zip(logged, ("val", "test"), ("run/metrics.csv", "run/test/metrics.csv"), strict=True):
        found = metrics(path)
        assert f"{stage}: accuracy {found[f'{stage}/accuracy']:.4g}, " in text
        assert f"(majority {found[f'{stage}/majority']:.4g})." in text
    assert "mean vote above 5 are professional" in caplog.text
    names = {"loss", "accuracy", "balanced_accuracy", "auc", "majority"}
    assert {name.split("@")[0] for name in found} == {f"test/{name}" for name in names}


@pytest.mark.parametrize("task", ["clouds", "roads", "avalanches", "colorization", "aesthetics"])
def test_bytes_are_not_taken_for_images(task: str, trained: Callable[[str], Path]) -> None:
    loaded = load(trained(task))
    with pytest.raises(ArgumentError, match=r"uint8.*divide"):
        loaded.predict({"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)})


@pytest.mark.parametrize("task", ["clouds", "avalanches"])
def test_one_batch_is_overfitted(task: str, belvedere: Callable[..., Any], small: Callable[[str], list[str]]) -> None:
    arguments = [*small(task), "--output", "run", "--trainer.overfit_batches", "1", "--trainer.max_epochs", "2"]
    assert belvedere("fit", *arguments).code == 0
    assert Path("run/checkpoints/last.ckpt").is_file()
