import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.read.pictures import channels_first, read_picture, resized
from ops.descriptors import color_moments
from tasks.aesthetics import AestheticsTask

Command = Callable[..., Any]

DATA = ["--data", "datamodules.aesthetics.AestheticsDataModule", "--data.size", "64", "--data.load_size", "64"]
TINY = ["--model", "tasks.aesthetics.AestheticsTask", "--model.dense_width", "8", "--model.pretrained", "false",
        "--model.freeze_convolutions", "false", *DATA]  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_trained_network_gives_vectors_and_classifiers(belvedere: Command, aesthetics_root: Path) -> None:
    root = ["--data.root", str(aesthetics_root)]
    assert belvedere("fit", *TINY, *root, "--config", "debug", "--output", "run").code == 0
    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    result = belvedere("features", *checkpoint)
    assert result.code == 0
    folder = Path("run/features/vectors")
    assert result.out.strip().endswith(str(folder.absolute() / "classifiers.csv"))
    assert not Path("run/features/config.yaml").exists()
    names = table(folder / "names.csv")
    pictures = {path.name for path in (aesthetics_root / "images").iterdir()}
    assert {Path(row["name"]).name for row in names} == pictures
    assert {row["split"] for row in names} == {"train", "val", "test"}
    assert {row["professional"] for row in names} == {"0", "1"}
    scores = table(folder / "classifiers.csv")
    assert [row["vector"] for row in scores] == ["-", *["fc6"] * 5, *["fc7"] * 5, *["pooled"] * 5]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in scores)
    assert {name: np.load(folder / f"{name}.npy").shape for name in ("fc6", "fc7", "pooled")} == {
        "fc6": (30, 8), "fc7": (30, 8), "pooled": (30, 256)
    }  # fmt: skip

    album = Path("album").absolute()  # squares of the network's size: what it sees is what lies there
    album.mkdir()
    squares = {f"{i}.png": torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8) for i in range(3)}
    for name, square in squares.items():
        Image.fromarray(square.numpy()).save(album / name)
    (album / "broken.jpg").write_bytes(b"no picture")
    assert belvedere("features", *checkpoint, "--data.pictures", str(album), "--vectors", "[fc7]").code == 0
    folder = Path("run/features-album/vectors")
    assert sorted(path.name for path in folder.iterdir()) == ["fc7.npy", "names.csv"]
    assert [row["name"] for row in table(folder / "names.csv")] == list(squares)
    task = AestheticsTask.load_from_checkpoint("run/checkpoints/best.ckpt", map_location="cpu").eval()
    image = torch.stack(list(squares.values())).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        wanted = task.network.forward_features(image)["fc7"]
    np.testing.assert_allclose(np.load(folder / "fc7.npy"), wanted, atol=1e-5)


def test_descriptors_want_no_network(belvedere: Command, clouds_root: Path) -> None:
    options = ["--config", "clouds/demo", "--data.root", str(clouds_root), "--data.size", "[32,48]"]
    vectors = ["--vectors", "[color_moments]", "--classifiers", "false"]
    assert belvedere("features", *options, *vectors, "--output", "out").code == 0
    names, found = table(Path("out/vectors/names.csv")), np.load("out/vectors/color_moments.npy")
    assert len(found) == len(names) == 24
    image = resized(read_picture(clouds_root / "train_images" / names[-1]["name"], at_least=(32, 48)), (32, 48))
    np.testing.assert_allclose(found[-1:], color_moments(channels_first(image)[None].float() / 255), atol=1e-3)
    assert [path.name for path in Path("out").iterdir()] == ["vectors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors", "[fc7]"], "fc7 would be random: the dense layers are not trained. Give a trained network"),
        (["--vectors", "[]"], "--vectors is empty; expected at least one"),
        (["--vectors", "[fc8]"], "--vectors: "),
        (["--ckpt_path", "none.ckpt"], "There is no checkpoint file none.ckpt."),
    ],
)
def test_what_gives_no_vectors_is_refused(
    options: list[str], message: str, belvedere: Command, aesthetics_root: Path
) -> None:
    result = belvedere("features", *TINY, "--data.root", str(aesthetics_root), "--output", "out", *options)
    assert result.refusal.startswith(message)
    assert not Path("out").exists()


def test_a_task_without_dense_layers_is_refused(belvedere: Command, clouds_root: Path) -> None:
    result = belvedere("features", "--config", "clouds/demo", "--data.root", str(clouds_root), "--output", "out")
    assert result.refusal.startswith("CloudsTask has no dense layers")
    assert not Path("out").exists()


def test_too_few_pictures_still_have_vectors(belvedere: Command, aesthetics_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "few"
    shutil.copytree(aesthetics_root / "stars", root)
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join(lines[:10]) + "\n")
    options = ["--data.root", str(root), "--vectors", "[color_moments]", "--output", "out"]
    message = belvedere("features", *TINY, *options).refusal
    assert message.startswith("The vectors are written, but no classifiers are fitted: ")
    assert "at least 15" in message
    assert len(np.load("out/vectors/color_moments.npy")) == 9
