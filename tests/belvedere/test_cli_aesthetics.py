import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from belvedere.__main__ import main
from callbacks.best import mode_of
from tasks.aesthetics import AestheticsTask
from tasks.networks.aesthetics import judge

Command = Callable[..., Any]

ROOT = Path(__file__).parents[2]
SMALL = ["--config", "debug", "--model.dense_width", "8", "--data.size", "63", "--data.load_size", "63"]
BINARY = ["--config", "aesthetics/alexnet_torchvision", *SMALL]
DISTRIBUTION = ["--config", "aesthetics/distribution", *SMALL]
TAGGED = "test/balanced_accuracy@"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a file of random convolutions, which take the place of ImageNet's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(judge("alexnet_torchvision", 8).convolutions[-1].state_dict(), path)
    return ["--model.pretrained", str(path)]


@pytest.fixture(scope="module")
def run(weights: list[str], aesthetics_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the shipped distribution, with a threshold of 5.5; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("distribution")
    options = ["--data.root", str(aesthetics_root), "--data.threshold", "5.5", "--monitor", "val/emd2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *DISTRIBUTION, *weights, *options, "--output", "run"]) == 0
    return folder / "run"


@pytest.fixture
def checkpoint(run: Path) -> list[str]:
    return ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(path: Path) -> dict[str, float]:
    return {name: float(value) for row in table(path) for name, value in row.items() if "/" in name and value}


def test_an_album_is_put_in_order(belvedere: Command, run: Path, checkpoint: list[str], tmp_path: Path) -> None:
    album, rng = tmp_path / "album", np.random.default_rng(0)
    (album / "May").mkdir(parents=True)
    squares = {name: rng.integers(0, 256, (63, 63, 3), np.uint8) >> shift  # of the network's size: it sees all of them
               for shift, name in enumerate(["one.png", "two.png", "May/three.png", "May/four.png"])}  # fmt: skip
    for name, square in squares.items():
        Image.fromarray(square).save(album / name)
    (album / "May" / "broken.jpg").write_bytes(b"no picture")
    assert belvedere("predict", *checkpoint, "--config", "debug", "--data.pictures", str(album),
                     "--trainer.limit_predict_batches", "null").code == 0  # fmt: skip
    folder = run / "predict-album"
    names = ["contact_sheet.html", "contact_sheet.png", "scores.csv", "source.txt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    *rows, last = table(folder / "scores.csv")
    assert last["name"] == "May/broken.jpg"
    assert "broken.jpg is truncated" in last["problem"]
    assert not last["probability"]
    scores = [(float(row["probability"]), float(row["mean"])) for row in rows]
    assert scores == sorted(scores, reverse=True)
    task = AestheticsTask.load_from_checkpoint(checkpoint[1], map_location="cpu").eval()
    assert task.threshold == 5.5
    assert {row["name"] for row in rows} == squares.keys()
    for row in rows:
        image = torch.from_numpy(squares[row["name"]].transpose(2, 0, 1))[None].float() / 255
        for name, value in task.predict({"image": image}).items():
            assert float(row[name]) == pytest.approx(value.item(), rel=1e-4)
    page = (folder / "contact_sheet.html").read_text()
    places = [page.index(row["name"]) for row in rows]
    assert places == sorted(places)
    assert "Skipped: 1" in page
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 100
    one = ["--data.pictures", str(album / "May" / "four.png"), "--output", "one"]
    assert belvedere("predict", *checkpoint, *one).code == 0
    [row] = table(Path("one/scores.csv"))
    assert row == next({**each, "name": "four.png"} for each in rows if each["name"] == "May/four.png")


def test_test_pictures_are_scored_by_tag(belvedere: Command, checkpoint: list[str]) -> None:
    assert belvedere("test", *checkpoint, "--output", "out").code == 0
    found = figures(Path("out/metrics.csv"))
    assert len([name for name in found if name.startswith(TAGGED)]) > 2
    assert {"test/auc", "test/majority", "test/srcc", "test/plcc", "test/emd", "test/emd2"} <= found.keys()
    assert found["test/emd2"] == pytest.approx(found["test/loss"], rel=1e-5)


def test_the_shipped_config_says_what_its_figures_mean(
    belvedere: Command, weights: list[str], aesthetics_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert belvedere("fit", *BINARY, *weights, "--data.root", str(aesthetics_root), "--output", "run").code == 0
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt").code == 0
    spoken = [message for message in caplog.messages if message.startswith("Compared with trivial baselines")]
    for text, stage, path in zip(spoken, ("val", "test"), ("run/metrics.csv", "run/test/metrics.csv"), strict=True):
        found = figures(Path(path))
        assert f"{stage}: accuracy {found[f'{stage}/accuracy']:.4g}, " in text
        assert f"(majority {found[f'{stage}/majority']:.4g})." in text
    assert "those with a mean vote above 5 are professional shots" in caplog.text
    assert {name.split("@")[0] for name in found} == {
        f"test/{name}" for name in ("loss", "accuracy", "balanced_accuracy", "auc", "majority")
    }


def test_the_model_has_the_threshold_of_the_data(belvedere: Command, run: Path, checkpoint: list[str]) -> None:
    assert torch.load(checkpoint[1], weights_only=True)["hyper_parameters"]["threshold"] == 5.5
    message = belvedere("test", *checkpoint, "--data.threshold", "6", "--output", "out").refusal
    assert message.strip() == "The checkpoint knows the threshold 5.5; --data.threshold is 6.0."


def test_balanced_accuracy_decides_unless_another_figure_shall(run: Path) -> None:
    shipped = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs" / "aesthetics").glob("*.yaml")]
    assert len(shipped) >= 4
    assert {config["monitor"] for config in shipped if "model" in config} == {"val/balanced_accuracy"}
    figures = ("balanced_accuracy", "auc", "srcc", "plcc", "emd", "emd2", "loss")
    assert [mode_of(f"val/{name}") for name in figures] == ["max"] * 4 + ["min"] * 3
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    assert any("BestCheckpoint" in key and "'val/emd2'" in key and "'mode': 'min'" in key for key in kept)


@pytest.mark.parametrize("command", ["test", "predict"])
def test_what_the_network_is_not_for_is_refused(
    command: str, belvedere: Command, checkpoint: list[str], aesthetics_root: Path
) -> None:
    pictures = ["--data.pictures", str(aesthetics_root / "album"), "--output", "out"]
    message = belvedere(command, *checkpoint, *pictures, "--data.size", "62").refusal
    assert message.startswith("--data.size is 62; alexnet_torchvision takes")
    if command == "test":
        message = belvedere(command, *checkpoint, *pictures, "--data.root", str(aesthetics_root / "stars"),
                                    "--data.threshold", "null").refusal  # fmt: skip
        assert "--model.bins 5" in message


@pytest.mark.slow
def test_two_processes_test_as_one(
    belvedere: Command, checkpoint: list[str], aesthetics_root: Path, tmp_path: Path
) -> None:
    names = sorted(path.stem for path in (aesthetics_root / "images").iterdir())
    (tmp_path / "test.txt").write_text("\n".join(names[:13]))
    options = [*checkpoint, "--data.test_list", str(tmp_path / "test.txt"), "--data.batch_size", "3"]
    assert belvedere("test", *options, "--output", "one").code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    left_out = ("BELVEDERE_RUN", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--output", "two"]
    command = [sys.executable, "-m", "belvedere", "test", *options, *two]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, found = (figures(Path(name) / "metrics.csv") for name in ("one", "two"))
    assert found == pytest.approx(one, abs=1e-6, nan_ok=True)  # areas of tags of one kind
    assert len([name for name in found if name.startswith(TAGGED)]) > 3
    assert 0 < one["test/emd"] < 1
