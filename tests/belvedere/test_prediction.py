"""`belvedere.predict` returns what `belvedere predict` writes."""

import doctest
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import belvedere as api
from belvedere.prediction import Predictions
from ops.errors import ArgumentError, DataError, TreesError, WeightsError
from tasks import boosting
from tasks.clouds import CloudsTask
from tests.helpers import ROOT, SMALL, metrics, table

FIXTURE = ROOT / "tests" / "fixtures" / "run_66ad3a8"
Command = Callable[..., Any]
Trained = Callable[[str], Path]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three images of different sizes, one of them gray, and a file that is none."""
    folder, rng = tmp_path / "album", np.random.default_rng(0)
    folder.mkdir()
    for name, shape in {"a.png": (70, 90, 3), "b_c.png": (64, 64, 3), "gray.png": (80, 66)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    return folder


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("task", SMALL)
def test_python_returns_what_the_command_writes(task: str, trained: Trained, belvedere: Command, album: Path) -> None:
    checkpoint = trained(task)
    options = ["--data.overlap", "0.5"] if task == "roads" else []
    (album / "broken.jpg").write_bytes(b"no image")
    arguments = ["--ckpt_path", str(checkpoint), "--data.pictures", str(album), "--output", "out"]
    assert belvedere("predict", *arguments, *options).code == 3
    found = api.predict(checkpoint, album, **({"overlap": 0.5} if options else {}))
    assert [each.name for each in found] == sorted(path.name for path in album.iterdir())
    listed = task in ("colorization", "aesthetics")  # in the table, with the problem
    whole = found if listed else Predictions([each for each in found if not each.problem], found.table)
    assert_equal(whole, Path("out"), task)
    [broken] = [each for each in found if each.problem]
    assert "broken.jpg" in broken.problem
    assert broken.image is None
    assert broken.masks == {}


def assert_equal(found: Predictions, folder: Path, task: str) -> None:
    tables = [path for name in ("submission", "scores", "figures") if (path := folder / f"{name}.csv").is_file()]
    if tables:
        assert found.table is not None
        expected = pd.read_csv(tables[0], keep_default_na=task != "clouds", dtype={"problem": str})
        if "problem" in expected:
            expected["problem"] = expected["problem"].fillna("")
        pd.testing.assert_frame_equal(found.table, expected)
    else:
        assert found.table is None
    files = sorted(folder.glob("masks/**/*.png")) + sorted(folder.glob("colored/*.png"))
    predicted = {f"{label}/{Path(each.name).stem}": mask for each in found for label, mask in each.masks.items()}
    predicted |= {f"colored/{Path(each.name).stem}": each.image for each in found if each.image is not None}
    assert len(predicted) == len(files)
    for path in files:
        parent = path.parent.name if path.parent.name != "masks" else {"roads": "road"}.get(task, "avalanche")
        values = predicted[f"{parent}/{path.stem}"]
        np.testing.assert_array_equal(values * np.uint8(255) if values.dtype == bool else values, pixels(path))
    if task == "avalanches":
        polygons = json.loads((folder / "polygons.json").read_text())["pictures"]
        for each in found:
            assert each.polygons is not None
            [feature] = json.loads(json.dumps(each.polygons))["features"]
            loops = [ring[:-1] for polygon in feature["geometry"]["coordinates"] for ring in polygon]
            assert sorted(loops) == sorted(polygons[each.name]["rings"])
            assert feature["properties"]["iou"] == polygons[each.name]["iou"]
    if task in ("clouds", "roads", "avalanches"):
        for each in found:
            assert isinstance(each.probability, np.ndarray)
            assert each.probability.dtype == np.float32
            assert each.probability.shape == (len(each.masks), *next(iter(each.masks.values())).shape)
    if task == "aesthetics":
        assert found.table is not None
        rows = found.table.set_index("name")
        for each in found:
            for name in ("probability", "mean", "spread"):
                np.testing.assert_allclose(each.scores[name], rows.loc[each.name, name], rtol=1e-5)
            assert each.probability is each.scores["probability"]


def test_images_may_be_arrays_pillow_images_and_paths(fitted: Path, album: Path) -> None:
    task = api.load(fitted / "checkpoints" / "best.ckpt")
    expected = {each.name: each for each in api.predict(task, album, output_size=None)}
    given = [album / "gray.png", Image.open(album / "a.png"), pixels(album / "b_c.png"), str(album / "a.png")]
    found = api.predict(task, given, output_size=None)
    assert [each.name for each in found] == ["gray.png", "1", "2", "a.png"]
    for each, name in zip(found, ("gray.png", "a.png", "b_c.png", "a.png"), strict=True):
        for label, mask in expected[name].masks.items():
            assert mask.shape == pixels(album / name).shape[:2]
            np.testing.assert_array_equal(each.masks[label], mask)
    assert found.table is not None
    assert found.table["Image_Label"].tolist() == [f"{each.name}_{label}" for each in found for label in task.classes]
    [one] = api.predict(task, pixels(album / "a.png"), output_size=None)
    [same] = api.predict(task, album / "a.png", output_size=None)
    assert (one.name, same.name) == ("0", "a.png")
    assert all(np.array_equal(one.masks[label], same.masks[label]) for label in task.classes)


def test_a_loaded_task_has_its_weights_and_can_be_changed(fitted: Path) -> None:
    checkpoint = fitted / "checkpoints" / "best.ckpt"
    task = api.load(checkpoint)
    assert isinstance(task, CloudsTask)
    assert not task.training
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())
    assert api.load(checkpoint, freeze_encoder=True).hparams["freeze_encoder"]


@pytest.mark.parametrize("on", ["predictions", "features"])
def test_boosted_trees_are_fitted_and_loaded(
    on: str, small: Callable[[str], list[str]], belvedere: Command, album: Path
) -> None:
    assert belvedere("fit", *small("avalanches"), "--model.xgboost_on", on, "--output", "run").code == 0
    best, trees = Path("run/checkpoints/best.ckpt"), Path("run/checkpoints/best.ubj")
    assert boosting.load(trees).num_features() == (1 if on == "predictions" else 128)
    assert belvedere("test", "--ckpt_path", str(best), "--config", "debug").code == 0
    found = {"test/dice", "test/boosted_dice", "test/boosted_accuracy", "test/second_edges_dice"}
    assert found <= metrics("run/test/metrics.csv").keys()
    [fitted] = table("run/boosted_thresholds.csv")
    weights = torch.load(best, weights_only=True)["state_dict"]
    assert weights["boosted_decision.thresholds"].item() == pytest.approx(float(fitted["threshold"]))
    assert belvedere("predict", "--ckpt_path", str(best), "--data.pictures", str(album), "--output", "out").code == 0
    assert_equal(api.predict(best, album), Path("out"), "avalanches")
    trees.unlink()
    assert "best.ubj" in belvedere("test", "--ckpt_path", str(best), "--config", "debug").refusal
    with pytest.raises(TreesError, match=r"best\.ubj"):
        api.load(best)


def test_another_extractor_is_rejected(trained: Trained) -> None:
    with pytest.raises(WeightsError, match="extractor"):
        api.load(trained("colorization"), extractor="mobilenetv3_small_050", extractor_weights=False)


def test_wrong_arguments_are_rejected(fitted: Path, album: Path) -> None:
    checkpoint = fitted / "checkpoints" / "best.ckpt"
    task = api.load(checkpoint)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: api.load("nowhere.ckpt"), "nowhere.ckpt"),
        (lambda: api.load(checkpoint, architectur="fpn"), "Did you mean architecture"),
        (lambda: api.load(checkpoint, tta="d9"), "tta is 'd9'; expected none, flip, d4 or scales"),
        (lambda: api.load(checkpoint, encoder_lr=7.0), "encoder_lr is 7.0; expected a factor"),
        (lambda: api.load(checkpoint, encoder="resnet18"), "weights of another network"),
        (lambda: api.predict(task, album, overlapp=0.5), "Did you mean overlap"),
        (lambda: api.predict(task, [np.zeros((3, 4, 4), np.uint8)]), r"\(3, 4, 4\)"),
        (lambda: api.predict(task, [np.zeros((4, 4, 3))]), "float64"),
        (lambda: api.predict(task, [album / "none.png"]), "no image file"),
        (lambda: api.predict(task, [3]), "Image 0 is a int"),  # type: ignore[list-item]
        (
            lambda: api.predict(CloudsTask(architecture="fpn", encoder="mobilenet_v2", pretrained=False), album),
            r"belvedere\.load",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ArgumentError, match=message):
            call()
    with pytest.raises(DataError):
        api.predict(task, album / "none")


@pytest.mark.parametrize("source", ["readme", "docstring"])
def test_examples_run(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    readme = str(ROOT / "README.md")
    done = doctest.testfile(readme, module_relative=False) if source == "readme" else doctest.testmod(api)
    assert done.attempted > 2
    assert done.failed == 0


def test_problems_name_the_files_of_the_caller(trained: Trained, album: Path) -> None:
    broken = album / "my broken.jpg"
    broken.write_bytes(b"no image")
    good, bad = api.predict(trained("aesthetics"), [album / "a.png", broken])
    assert (good.problem, bad.name) == ("", "my broken.jpg")
    assert bad.problem.startswith("my broken.jpg is ")
