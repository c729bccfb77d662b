"""Ensembles and precision on the command line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import belvedere as api
from belvedere.checkpoints import trained_precision
from belvedere.prediction import changed_settings
from ops.errors import ArgumentError
from tasks.base import ImageTask
from tests.helpers import table

Run = Callable[..., Any]


def test_members_are_tested_and_predicted_together(belvedere: Run, fitted: Path, other: Path, tiny: list[str]) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    data = tiny[tiny.index("--data.root") :]
    metrics = {}
    for name, arguments in {"one": (best,), "two": (other,), "both": (best, other), "twice": (best, best)}.items():
        members = ["--members", json.dumps([str(path) for path in arguments[1:]])] if arguments[1:] else []
        assert belvedere("test", "--ckpt_path", str(arguments[0]), *members, *data, "--output", name).code == 0
        metrics[name] = table(f"{name}/metrics.csv")[-1]["test/auprc"]
    assert metrics["twice"] == metrics["one"]
    assert len({metrics["one"], metrics["two"], metrics["both"]}) == 3
    made = {name: json.loads(Path(name, "checkpoints.json").read_text())["metrics"] for name in metrics}
    assert made["one"] == {"checkpoint": str(best), "members": []}
    assert made["both"] == {"checkpoint": str(best), "members": [str(other)]}


def test_python_averages_the_same_checkpoints(belvedere: Run, fitted: Path, other: Path, clouds_root: Path) -> None:
    best, picture = fitted / "checkpoints" / "best.ckpt", min((clouds_root / "train_images").iterdir())
    given = ["predict", "--ckpt_path", str(best), "--data.pictures", str(picture), "--output", "out"]
    assert belvedere(*given, "--members", json.dumps([str(other)])).code == 0
    assert json.loads(Path("out/checkpoints.json").read_text())["members"] == [str(other)]
    (found,) = api.predict([best, str(other)], picture)
    for label, mask in found.masks.items():
        written = np.asarray(Image.open(Path("out/masks", label, f"{picture.stem}.png")))
        np.testing.assert_array_equal(mask, written > 0)
    one, two = (api.predict(path, picture)[0].probability for path in (best, other))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(found.probability, (one + two) / 2, atol=1e-6)


@pytest.mark.parametrize("command", ["test", "predict", "suggest", "export"])
def test_what_is_typed_holds_for_all_members(
    command: str, belvedere: Run, fitted: Path, other: Path, clouds_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []

    def add(task: ImageTask, members: Sequence[ImageTask], names: Sequence[object]) -> None:
        found.append([vars(each)["tta"] for each in (task, *members)])
        raise ArgumentError("enough")

    monkeypatch.setattr(ImageTask, "add_members", add)
    best, pictures = fitted / "checkpoints/best.ckpt", clouds_root / "test_images"
    given = [command, "--ckpt_path", str(best), str(other), "--data.pictures", str(pictures), "--output", "out"]
    for options in ([], ["--model.tta", "flip"]):
        assert "enough" in belvedere(*given, *options).refusal
    assert found == [["none", "none"], ["flip", "flip"]]


def test_only_what_is_typed_is_passed_to_members(fitted: Path) -> None:
    best = fitted / "checkpoints/best.ckpt"
    task = api.load(best)
    assert changed_settings(task, best) == {}
    assert changed_settings(api.load(best, tta="flip", border=4), best) == {"tta": "flip", "border": 4}


def test_a_member_of_another_task_is_rejected(belvedere: Run, fitted: Path, trained: Callable[[str], Path]) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    found = belvedere("test", "--ckpt_path", str(best), "--members", json.dumps([str(trained("roads"))]))
    assert "RoadsTask" in found.refusal
    assert "CloudsTask" in found.refusal
    with pytest.raises(ArgumentError, match="RoadsTask"):
        api.load([best, trained("roads")])
    with pytest.raises(ArgumentError, match="no checkpoint"):
        api.load([])


def test_a_finished_prediction_is_not_repeated(
    belvedere: Run, fitted: Path, other: Path, clouds_root: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    shutil.copy(min((clouds_root / "train_images").iterdir()), album / "a.jpg")
    (album / "b.jpg").write_bytes(b"")
    given = ["predict", "--ckpt_path", str(fitted / "checkpoints/best.ckpt"), "--data.pictures", str(album), "--resume",
             "--output", "out"]  # fmt: skip
    assert belvedere(*given).code == 3
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("[!.]*")}
    again = belvedere(*given)
    assert again.code == 3
    assert "finished already" in again.err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("[!.]*")} == before
    members = json.dumps([str(other)])
    assert "0 of 2 images" in belvedere(*given, "--members", members).err, "another prediction"
    assert json.loads(Path("out/checkpoints.json").read_text())["members"] == [str(other)]
    shutil.rmtree("out/masks")
    assert belvedere(*given, "--members", members).code == 3
    assert Path("out/masks").is_dir(), "what is missing is made again"


def test_metrics_and_predictions_in_one_folder_know_their_checkpoints(
    belvedere: Run, fitted: Path, other: Path, clouds_root: Path
) -> None:
    best, picture = fitted / "checkpoints/best.ckpt", min((clouds_root / "train_images").iterdir())

    def run(command: str, path: Path, *options: str) -> dict[str, Any]:
        assert belvedere(command, "--ckpt_path", str(path), *options, "--output", "out").code == 0
        return dict(json.loads(Path("out/checkpoints.json").read_text()))

    shown = ["--data.pictures", str(picture)]
    first = run("predict", best, *shown)
    tested = run("test", other)
    assert tested == first | {"metrics": {"checkpoint": str(other), "members": []}}
    given = ["predict", "--ckpt_path", str(best), *shown, "--output", "out", "--resume"]
    assert "finished already" in belvedere(*given).err
    last = run("predict", other, *shown, "--uncertainty")
    assert last["checkpoint"] == str(other)
    assert last["metrics"] == tested["metrics"]
    assert run("predict", best, *shown).keys() == tested.keys()
    assert not Path("out/uncertainty.csv").exists()
    assert Path("out/metrics.csv").is_file()


@pytest.mark.parametrize(("typed", "expected"), [([], "bf16-mixed"), (["--trainer.precision", "32-true"], "32-true")])
def test_precision_auto_leaves_what_is_typed(
    typed: list[str], expected: str, belvedere: Run, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belvedere.commandline.cli.fastest_precision", lambda accelerator, devices: "bf16-mixed")
    options = ["--config", "debug", "--precision", "auto", *typed, "--output", "run"]
    assert belvedere("fit", *tiny, *options).code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == expected


def test_a_resumed_run_keeps_the_precision_that_auto_found(
    belvedere: Run, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, epochs in (("bf16-mixed", "1"), ("32-true", "2")):
        monkeypatch.setattr("belvedere.commandline.cli.fastest_precision", lambda *device, found=found: found)
        options = ["--config", "debug", "--precision", "auto", "--output", "run", "--resume", "auto"]
        assert belvedere("fit", *tiny, *options, "--trainer.max_epochs", epochs).code == 0
        assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    assert len({row["epoch"] for row in table("run/metrics.csv")}) == 2
    assert trained_precision(Path("run/checkpoints/last.ckpt")) == "bf16-mixed"
    Path("run/config.yaml").unlink()
    assert trained_precision(Path("run/checkpoints/last.ckpt")) == "bf16-mixed"
