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
from tests.helpers import table

Command = Callable[..., Any]
Small = Callable[[str], list[str]]


def test_a_trained_network_gives_vectors_and_classifiers(
    belvedere: Command, trained: Callable[[str], Path], aesthetics_root: Path
) -> None:
    checkpoint = trained("aesthetics")
    features = ["features", "--ckpt_path", str(checkpoint)]
    result = belvedere(*features, "--output", "out")
    assert result.code == 0
    folder = Path("out/vectors")
    assert result.out.strip().endswith(str(folder.absolute() / "classifiers.csv"))
    assert not Path("out/config.yaml").exists()
    names = table(folder / "names.csv")
    assert {Path(row["name"]).name for row in names} == {path.name for path in (aesthetics_root / "images").iterdir()}
    assert {row["split"] for row in names} == {"train", "val", "test"}
    assert {row["professional"] for row in names} == {"0", "1"}
    scores = table(folder / "classifiers.csv")
    assert [row["vector"] for row in scores] == ["-", *["fc6"] * 5, *["fc7"] * 5, *["pooled"] * 5]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in scores)
    shapes = {name: np.load(folder / f"{name}.npy").shape for name in ("fc6", "fc7", "pooled")}
    assert shapes == {"fc6": (30, 8), "fc7": (30, 8), "pooled": (30, 256)}

    album = Path("album").absolute()  # squares of the network's size: nothing is cropped
    album.mkdir()
    squares = {f"{i}.png": torch.randint(0, 256, (63, 63, 3), dtype=torch.uint8) for i in range(3)}
    for name, square in squares.items():
        Image.fromarray(square.numpy()).save(album / name)
    (album / "broken.jpg").write_bytes(b"no image")
    options = ["--data.pictures", str(album), "--vectors", "[fc7]", "--output", "out-album"]
    assert belvedere(*features, *options).code == 3  # one of the images is broken
    folder = Path("out-album/vectors")
    assert sorted(path.name for path in folder.iterdir()) == ["fc7.npy", "names.csv"]
    assert [row["name"] for row in table(folder / "names.csv")] == list(squares)
    task = AestheticsTask.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    image = torch.stack(list(squares.values())).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        wanted = task.network.forward_features(image)["fc7"]
    np.testing.assert_allclose(np.load(folder / "fc7.npy"), wanted, atol=1e-5)


def test_descriptors_need_no_network(belvedere: Command, clouds_root: Path) -> None:
    options = ["--config", "clouds/demo", "--data.root", str(clouds_root), "--data.size", "[32,48]"]
    vectors = ["--vectors", "[color_moments]", "--classifiers", "false"]
    assert belvedere("features", *options, *vectors, "--output", "out").code == 0
    names, found = table(Path("out/vectors/names.csv")), np.load("out/vectors/color_moments.npy")
    assert len(found) == len(names) == 24
    image = resized(read_picture(clouds_root / "train_images" / names[-1]["name"], at_least=(32, 48)), (32, 48))
    np.testing.assert_allclose(found[-1:], color_moments(channels_first(image)[None].float() / 255), atol=1e-3)
    assert sorted(path.name for path in Path("out").iterdir()) == ["source.txt", "vectors"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--vectors", "[fc7]"], "fc7 would be random"),
        (["--vectors", "[fc8]"], "--vectors"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt"),
    ],
)
def test_wrong_options_are_rejected(options: list[str], word: str, belvedere: Command, small: Small) -> None:
    assert word in belvedere("features", *small("aesthetics"), "--output", "out", *options).refusal
    assert not Path("out").exists()


def test_vectors_of_too_few_images_are_kept(
    belvedere: Command, small: Small, aesthetics_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "few"
    shutil.copytree(aesthetics_root / "stars", root)
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join(lines[:10]) + "\n")
    options = ["--data.root", str(root), "--data.threshold", "null", "--model.bins", "5"]
    vectors = ["--vectors", "[color_moments]", "--trainer.limit_predict_batches", "null", "--output", "out"]
    message = belvedere("features", *small("aesthetics"), *options, *vectors).refusal
    assert "The vectors are written" in message
    assert "at least 15" in message
    assert len(np.load("out/vectors/color_moments.npy")) == 9
