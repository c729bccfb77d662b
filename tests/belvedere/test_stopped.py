"""Commands that a signal stops, and commands that would write into a folder at the same time."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from belvedere import describe, features
from belvedere.__main__ import main
from belvedere.commandline.cli import BelvedereCLI
from callbacks.writers.segmentation.masks import Submission
from datamodules.base import ImageDataModule
from tests.datamodules.helpers import contents
from tests.helpers import ROOT


def after(count: int, act: Callable[..., Any], number: signal.Signals) -> Callable[..., Any]:
    """Returns a function like another one, in whose call of this number the process is signaled."""
    calls = iter(range(count))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), number)
        return act(*arguments, **options)

    return call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_prediction_resumes(
    number: signal.Signals, fitted: Path, clouds_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    pictures, out, whole = tmp_path / "album", tmp_path / "out", tmp_path / "whole"
    pictures.mkdir()
    for path in sorted((clouds_root / "train_images").iterdir())[:5]:
        shutil.copy(path, pictures)
    given = ["predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--data.pictures", str(pictures),
             "--output"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Submission, "write", after(2, Submission.write, number))
        assert main([*given, str(out)]) == 128 + number
    assert [path.name for path in out.iterdir()] == ["part"]
    assert f"Images finished: 3, kept in {out / 'part'}. Resume with --resume." in caplog.text
    images = sorted(path.stem for path in pictures.iterdir())
    # the third was being written when the signal came
    assert sorted(path.stem for path in (out / "part" / "overlays").iterdir()) == images[:3]
    for name in ("", "checkpoints", "panels"):  # of killed processes
        (out / name).mkdir(exist_ok=True)
        (out / name / ".part-01234567-file").touch()
    drawn: list[str] = []

    def noted(self: Submission, image: Any, folder: Path) -> Any:
        drawn.append(image.name)
        return write(self, image, folder)

    with monkeypatch.context() as patch:
        write = Submission.write
        patch.setattr(Submission, "write", noted)
        assert main([*given, str(out), "--resume"]) == 0
    assert [Path(name).stem for name in drawn] == images[3:]
    assert main([*given, str(whole)]) == 0
    assert contents(out) == contents(whole)


def test_a_signal_after_the_last_image_leaves_the_whole_result(
    fitted: Path, clouds_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Submission, "finish", after(0, Submission.finish, signal.SIGTERM))
    pictures = sorted((clouds_root / "train_images").iterdir())[0]
    given = ["predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--data.pictures", str(pictures)]
    assert main([*given, "--output", str(tmp_path / "out")]) == 128 + signal.SIGTERM
    names = {"checkpoints.json", "masks", "overlays", "overview.html", "submission.csv", "source.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["validate", "test", "describe", "features"])
def test_a_stopped_command_exits_at_once(
    command: str, number: signal.Signals, fitted: Path, clouds_root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    owner, name = {"describe": (describe, "describer"), "features": (features, "Features")}.get(
        command, (ImageDataModule, "on_after_batch_transfer")
    )
    monkeypatch.setattr(owner, name, after(0, getattr(owner, name), number))
    run = ["--config", "clouds/demo"] if command in ("describe", "features") else [
        "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt")]  # fmt: skip
    given = [command, *run, "--output", str(tmp_path / "out"), "--data.root", str(clouds_root)]
    assert main(given) == 128 + number
    assert f"stopped by {number.name}" in capsys.readouterr().err
    assert not (tmp_path / "out" / ".in-use").exists()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process has claimed."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom ops.files.locks import claimed\n"
        "with claimed(Path(sys.argv[1]), 'belvedere fit'):\n    print(flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)  # fmt: skip
    assert other.stdout is not None
    other.stdout.readline()
    yield tmp_path / "run"
    other.communicate(b"")


@pytest.mark.parametrize("command", ["fit", "resume", "predict", "test", "describe", "features"])
def test_a_folder_in_use_is_rejected(
    command: str, busy: Path, fitted: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if command in ("predict", "test"):
        given = [command, "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt")]
    else:
        given = ["fit", *tiny, "--resume", "auto"] if command == "resume" else [command, *tiny]
    assert main([*given, "--output", str(busy)]) == 2
    said = capsys.readouterr().err
    assert "in use by belvedere fit, process" in said
    assert "Traceback" not in said
    assert [path.name for path in busy.iterdir()] == [".in-use"]


def test_only_the_first_process_claims_a_folder(busy: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(command: BelvedereCLI) -> None:
        raise KeyError("begun")

    monkeypatch.setattr(Trainer, "is_global_zero", False)
    monkeypatch.setattr(BelvedereCLI, "before_fit", begun)
    with pytest.raises(KeyError, match="begun"):
        main(["fit", *tiny, "--output", str(busy)])
