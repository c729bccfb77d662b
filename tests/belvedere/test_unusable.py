"""Commands finish what they can: unusable images are skipped and listed, and an interrupted prediction resumes."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.writers.segmentation.masks import Overlays
from datamodules.roads import RoadsDataModule
from tests.helpers import table

Command = Callable[..., Any]
TASKS = ["clouds", *(pytest.param(task, marks=pytest.mark.slow) for task in ("roads", "avalanches", "colorization",
                                                                             "aesthetics"))]  # fmt: skip


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three images, one of them in a folder with a name of its own, and two files that are none."""
    folder = tmp_path / "album"
    for number, name in enumerate(("a.jpg", "b.gif", "$x^2$, =1/c.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (96, 128, 3), np.uint8)).save(folder / name)
    data = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_predict_lists_unusable_images_and_does_the_others(
    task: str,
    trained: Callable[[str], Path],
    belvedere: Command,
    album: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = trained(task)
    caplog.set_level("INFO")
    done = belvedere("predict", "--ckpt_path", str(path), "--data.pictures", str(album), "--output", "found")
    assert done.code == 3, done.err
    assert "Images predicted: 3." in caplog.text
    assert [row["name"] for row in table("found/skipped.csv")] == ["cut.jpg", "empty.png"]
    assert "Traceback" not in done.err
    for name in ("cut.jpg is truncated", "empty.png is empty"):
        assert name in caplog.text
    if task in ("clouds", "roads", "avalanches"):
        folder = "masks" if task != "clouds" else "masks/Fish"
        masks = Path("found", folder).rglob("*.png")
        assert {path.relative_to(Path("found", folder)).as_posix() for path in masks} == {
            "a.png", "b.png", "$x^2$, =1/c.png"
        }  # fmt: skip


def test_a_prediction_on_a_full_disk_keeps_what_is_finished_and_resumes(
    trained: Callable[[str], Path], belvedere: Command, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = ["predict", "--ckpt_path", str(trained("clouds")), "--data.pictures", str(album), "--output"]
    assert belvedere(*predict, "whole").code == 3
    write, count = Overlays.write, iter(range(100))

    def full(*given: Any) -> Any:
        if next(count) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part/overlays/b.jpg")
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Overlays, "write", full)
        message = belvedere(*predict, "found").refusal
    assert message == (
        "part/overlays/b.jpg: No space left on device (free some space on the disk or in the quota, then try again).\n"
    )
    drawn: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Overlays, "write", lambda self, image, folder: drawn.append(image.name) or write(self, image, folder)
        )
        done = belvedere(*predict, "found", "--resume")
    assert done.code == 3
    assert "1 of 5 images are finished already" in done.err
    assert drawn == ["a.jpg", "b.gif"]  # the first one was finished, in the order of the names
    files = [{path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
             for folder in ("whole", "found")]  # fmt: skip
    assert files[0] == files[1]


def test_describe_lists_unusable_images_and_describes_the_others(belvedere: Command, clouds_copy: Path) -> None:
    first, second, *_ = sorted((clouds_copy / "train_images").iterdir())
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"")
    done = belvedere("describe", "--config", "clouds/demo", "--data.root", str(clouds_copy), "--output", "found")
    assert done.code == 3, done.err
    assert [row["name"] for row in table("found/skipped.csv")] == [first.name, second.name]
    assert len(table("found/pictures.csv")) == 22
    assert f"{first.name} is truncated" in done.out
    assert f"{second} is empty" in done.out


def test_a_run_does_not_resume_with_other_data(
    fitted: Path, tiny: list[str], clouds_root: Path, clouds_copy: Path, belvedere: Command
) -> None:
    shutil.copytree(fitted, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with (clouds_copy / "train.csv").open("a") as file:
        file.write("\n")
    resume = ["--resume", "auto", "--output", "run"]
    message = belvedere("fit", *tiny, "--data.root", str(clouds_copy), *resume).refusal
    assert str(clouds_root) in message
    assert str(clouds_copy) in message
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert belvedere("fit", *tiny, *resume).code == 0


def test_weights_that_are_no_numbers_are_rejected(fitted: Path, belvedere: Command, album: Path) -> None:
    shutil.copytree(fitted, "run")
    path = Path("run/checkpoints/best.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    name = next(key for key, value in checkpoint["state_dict"].items() if value.is_floating_point())
    checkpoint["state_dict"][name].flatten()[0] = float("nan")
    torch.save(checkpoint, path)
    message = belvedere("predict", "--ckpt_path", str(path), "--data.pictures", str(album)).refusal
    assert str(path) in message
    assert "nan or infinite" in message
    assert name in message


@pytest.fixture(autouse=True)
def unlimited() -> Iterator[None]:
    yield
    RoadsDataModule()  # restores the default


@pytest.mark.parametrize("output", ["file/run", "x" * 300, "/proc/nothing/run"])
def test_folders_that_cannot_be_written_are_rejected_at_once(output: str, belvedere: Command, tiny: list[str]) -> None:
    Path("file").touch()
    for command in (["fit", *tiny], ["describe", *tiny], ["study", "clouds"]):
        message = belvedere(*command, "--output", output).refusal
        assert output.split("/")[-1] in message
        assert "Nothing can be written" in message or "File name too long" in message


def test_a_working_folder_that_is_gone_is_reported(belvedere: Command, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert "no longer exists" in belvedere("fit", *tiny).refusal
    finally:
        os.chdir(tmp_path)
