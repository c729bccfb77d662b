"""Files that `belvedere export` writes, and what `python -m belvedere.run` does with them."""

import ast
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import belvedere as api
from belvedere import export as exporting
from belvedere.run import Model, main
from ops.errors import ArgumentError, DataError, ExportError
from ops.files.locks import claimed
from tasks.avalanches import AvalanchesTask
from tests.helpers import ROOT, SMALL

Command = Callable[..., Any]
Trained = Callable[[str], Path]
QUICK = "avalanches"  # the smallest network; the others take half a minute each to export
# roads' PSPNet in windows knows one size; of its networks, unet was exported by hand
TASKS = [pytest.param(task, marks=[] if task == QUICK else pytest.mark.slow) for task in SMALL if task != "roads"]
SHARED = ("masks", "overlays", "colored", "submission.csv", "polygons.json", "scores.csv", "skipped.csv")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Images of several sizes, one of them gray, and a file that is none."""
    folder, rng = tmp_path / "album", np.random.default_rng(0)
    folder.mkdir()
    for name, shape in {"a.png": (70, 90, 3), "b_c.png": (65, 64, 3), "gray.png": (80, 66)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def files(folder: Path) -> dict[str, Path]:
    """Files of the formats that both write, by their path below a folder."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))
            if path.is_file() and path.relative_to(folder).parts[0] in SHARED}  # fmt: skip


def assert_same(one: Path, other: Path) -> None:
    """Asserts that two files are equal, scores to five digits and colors to two levels."""
    if one.suffix == ".csv":
        rows = [list(csv.reader(path.read_text().splitlines())) for path in (one, other)]
        for left, right in zip(*rows, strict=True):
            for cell, cell2 in zip(left, right, strict=True):
                assert cell == cell2 or float(cell) == pytest.approx(float(cell2), abs=1e-5)
    elif one.parts[-2] == "colored":
        assert np.abs(np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other))).max() <= 2
    else:
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_an_exported_file_writes_what_predict_writes(
    task: str, trained: Trained, belvedere: Command, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    checkpoint = str(trained(task))
    result = belvedere("export", "--ckpt_path", checkpoint, "--output", "file", "--quiet")
    assert result.code == 0, result.err
    report = json.loads(Path("file/report.json").read_text())
    assert {tuple(each["size"]) for each in report["checks"]} > {tuple(report["checks"][0]["size"])}
    for name, value in report["metrics"]["torch"].items():
        near = 0.5 if task == "colorization" else 0.02  # colors of 8 bits that sRGB has
        assert report["metrics"]["model.onnx"][name] == pytest.approx(value, abs=near), name
    assert report["seconds"]["1"].keys() == {"torch", "model.onnx"}

    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(album), "--output", "torch").code == 3
    assert main(["file/model.onnx", str(album), "--output", "~/onnx"]) == 3
    one, other = files(Path("torch")), files(Path("onnx"))
    assert one.keys() == other.keys()
    assert len(one) >= 2
    for name, path in one.items():
        assert_same(path, other[name])


def test_the_file_says_what_it_is(trained: Trained, belvedere: Command, album: Path) -> None:
    import onnxruntime

    Path("file").mkdir()
    Path("file/model.int8.onnx").write_bytes(b"of another network")
    assert belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file", "--input", "float").code == 0
    assert {path.name for path in Path("file").glob("*.*")} >= {"model.onnx", "report.json"}
    assert not Path("file/model.int8.onnx").exists()
    model, task = Model("file/model.onnx"), api.load(trained(QUICK))
    assert model.settings["classes"] == ["avalanche"]
    assert model.settings["task"] == "AvalanchesTask"
    assert model.settings["preparation"] == {"kind": "pyramid", "levels": 0, "least_side": 17}
    assert len(model.settings["data_fingerprint"]) > 8
    assert model.decisions[-1].thresholds == task.active_decision.thresholds.tolist()  # type: ignore[union-attr, operator]  # of segmentation
    session = onnxruntime.InferenceSession("file/model.onnx")
    [given] = session.get_inputs()
    assert (given.name, given.type, len(given.shape), given.shape[3]) == ("image", "tensor(float)", 4, 3)
    image = np.asarray(Image.open(album / "a.png"))
    [probability, mask] = session.run(None, {"image": image[None].astype(np.float32) / 255})
    assert probability.shape == mask.shape == (1, 1, *image.shape[:2])
    np.testing.assert_array_equal(mask, probability >= np.float32(model.decisions[0].thresholds[0]))
    found = model.predict(album / "a.png")
    assert found.masks["avalanche"].shape == image.shape[:2]


def test_halved_images_and_int8(trained: Trained, belvedere: Command, album: Path, avalanches_root: Path) -> None:
    """A file that halves images by itself does what it does to images that OpenCV has halved."""
    options = ["--data.pyramid_levels", "1", "--int8", str(avalanches_root / "images")]
    result = belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file", *options)
    assert result.code == 0, result.err
    report = json.loads(Path("file/report.json").read_text())
    assert max(each["resized"] for each in report["checks"]) < 1e-4
    assert report["size_mb"]["model.int8.onnx"] < 0.5 * report["size_mb"]["model.onnx"]
    assert report["metrics"]["model.int8.onnx"].keys() == report["metrics"]["torch"].keys()
    whole, small = (
        np.asarray(Model(f"file/{name}.onnx").predict(album / "a.png").probability) for name in ("model", "model.int8")
    )
    difference = np.abs(whole - small)
    assert 0 < difference.max() < 0.2


def test_a_file_that_differs_is_rejected(trained: Trained, belvedere: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    result = belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file")
    assert result.code == 2
    assert "differs from torch" in result.err
    assert not list(Path().rglob("*.onnx"))


def test_a_file_needs_images_to_be_checked_on(
    trained: Trained, belvedere: Command, roads_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file", "--data.root", "none")
    assert result.code == 2
    assert "--data.pictures" in result.err
    with pytest.raises(DataError, match="no folder or file"):
        exporting.checked_images(api.RoadsDataModule(roads_root, pictures="none"), 32)
    monkeypatch.setattr(api.RoadsDataModule, "picture_names", lambda self: {"val": []})
    with pytest.raises(ArgumentError, match="no validation images"):
        exporting.checked_images(api.RoadsDataModule(roads_root, size=[64, 64]), 32)


def test_images_for_int8_are_looked_at_first(
    trained: Trained, belvedere: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "write_model", lambda *arguments: pytest.fail("written"))
    assert "none" in belvedere("export", "--ckpt_path", str(trained(QUICK)), "--int8", "none").refusal


def test_networks_that_torch_cannot_convert_are_rejected() -> None:
    class Deciding(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.sum() > 0 else -image

    with pytest.raises(ExportError, match=r"cannot convert the network to ONNX: \w.* Nothing was written"):
        exporting.onnx_of(Deciding(), (torch.ones(2, 4, 4, 3),), ("image",), ("found",))


def test_a_file_that_fails_says_why(trained: Trained, belvedere: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("[ONNXRuntimeError] : bad allocation\nmore")

    monkeypatch.setattr(exporting.Model, "predict", fails)
    message = belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file").refusal
    assert "bad allocation. Nothing was written." in message
    assert "unet" not in message  # which is about networks for windows
    assert not list(Path().rglob("*.onnx"))


def test_a_file_is_not_checked_on_images_below_the_window(trained: Trained, belvedere: Command, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    Image.fromarray(np.zeros((12, 90, 3), np.uint8)).save(tmp_path / "few" / "low.png")
    arguments = ["--ckpt_path", str(trained(QUICK)), "--output", "file", "--data.pictures", str(tmp_path / "few")]
    result = belvedere("export", *arguments)
    assert result.code == 2
    assert "smaller than a window" in result.err
    assert not list(Path().rglob("*.onnx"))


def test_networks_without_a_dense_form_are_rejected() -> None:
    task = AvalanchesTask("vgg16", window=33)
    with pytest.raises(ArgumentError, match=r"vgg16 cannot be exported: .* pads.* Export cnn1d, cnn2d"):
        task.exported()


def test_run_rejects_other_files(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    for path in ("other.onnx", "missing.onnx"):
        assert main([str(tmp_path / path), str(album), "--output", str(tmp_path / "out")]) == 2
        assert path in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run_keeps_off_other_commands(trained: Trained, belvedere: Command, album: Path, tmp_path: Path) -> None:
    assert belvedere("export", "--ckpt_path", str(trained(QUICK)), "--output", "file", "--quiet").code == 0
    out = tmp_path / "out"
    (out / "part").mkdir(parents=True)
    (out / "part" / "rows0.jsonl").write_text("of an interrupted prediction")
    (album / "broken.jpg").unlink()
    words = ["file/model.onnx", str(album), "--output", str(out)]
    code = "import sys; from belvedere.run import main; sys.exit(main(sys.argv[1:]))"
    with claimed(out, "belvedere predict"):
        second = subprocess.run([sys.executable, "-c", code, *words], env=os.environ | {"PYTHONPATH": str(ROOT)},
                                capture_output=True, text=True, check=False)  # fmt: skip
    assert (second.returncode, "in use by belvedere predict" in second.stderr) == (2, True)
    assert [path.name for path in out.iterdir()] == ["part"]
    assert main(words) == 0
    assert (out / "part" / "rows0.jsonl").exists()
    assert not list(out.glob(".*"))


def test_run_needs_four_packages() -> None:
    code = """import belvedere.run, onnxruntime, sys
names = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(sorted(names - sys.stdlib_module_names))"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "lightning", "pandas", "scipy", "yaml", "jinja2", "matplotlib", "tqdm", "pyvips", "rasterio"}
    others = set(ast.literal_eval(found.stdout))
    assert {"numpy", "PIL", "cv2", "onnxruntime"} <= others
    assert others & heavy == set()
