import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import nn

import belvedere as api
from belvedere.checkpoints import run_config
from belvedere.suggest.looks import looks
from datamodules.base import ImageDataModule
from tasks.base import ImageTask
from tests.helpers import table

Run = Callable[..., Any]
COUNT = 12


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Images of 32 x 48 pixels that all show something else."""
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        layers = [gaussian_filter(rng.normal(size=(32, 48, 3)), (s, s, 0)) * s for s in (1, 3, 8)]
        pixels = np.clip(128 + 60 * np.sum(layers, axis=0), 0, 255)
        path = tmp_path / "pool" / f"{'inner/' * (number % 2)}{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "pool"


def bits(probability: Any) -> float:
    inside = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    return float(-(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).mean())


def test_the_pool_is_ranked_and_prepared_for_labeling(belvedere: Run, fitted: Path, other: Path, pool: Path) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    (pool / "broken.png").write_bytes(b"no image")
    given = ["suggest", "--ckpt_path", str(best), str(other), "--data.pictures", str(pool), "--output", "out"]
    result = belvedere(*given, "-n", "5", "--by", "uncertainty", "--data.output_size", "null")
    assert result.code == 3
    assert "broken.png" in result.out
    assert [row["name"] for row in table("out/skipped.csv")] == ["broken.png"]
    rows = table("out/suggestions.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    # the entropy of what `predict` finds, and the part of it that the two networks do not have alone
    (pool / "broken.png").unlink()
    files = sorted(pool.rglob("*.png"))
    unsure, apart = {}, {}
    found = [api.predict(each, files, output_size=None) for each in ([best, other], best, other)]
    for path, both, one, two in zip(files, *found, strict=True):
        name = path.relative_to(pool).as_posix()
        unsure[name] = bits(both.probability)
        apart[name] = unsure[name] - (bits(one.probability) + bits(two.probability)) / 2
    assert [row["image"] for row in rows] == sorted(unsure, key=lambda name: -unsure[name])[:5]
    for row in rows:
        assert float(row["uncertainty"]) == pytest.approx(unsure[row["image"]], abs=1e-4)
        assert float(row["disagreement"]) == pytest.approx(apart[row["image"]], abs=1e-4)
        assert float(row["disagreement"]) > 0
        assert float(row["distance"]) > 0  # the training images count as labeled
        assert "more uncertain than" in row["why"]
        linked = Path("out/images", row["image"])
        assert linked.resolve() == (pool / row["image"]).resolve()
        document = json.loads(linked.with_suffix(".json").read_text())
        assert (linked.parent / document["imagePath"]).resolve() == linked.resolve()
        assert (document["imageHeight"], document["imageWidth"]) == (32, 48)
    coco = json.loads(Path("out/coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == {row["image"] for row in rows}
    assert Path("out/cvat.xml").is_file()
    with Image.open("out/contact_sheet.png") as sheet:
        assert sheet.height > 5 * 200


def test_what_is_labeled_counts_as_covered(belvedere: Run, fitted: Path, pool: Path, tmp_path: Path) -> None:
    best, labeled = fitted / "checkpoints" / "best.ckpt", tmp_path / "labeled"
    labeled.mkdir()
    shutil.copy(pool / "00.png", labeled / "copied.png")
    (labeled / "linked.png").symlink_to(pool / "02.png")
    with Image.open(pool / "04.png") as image:
        ImageOps.mirror(image).resize((96, 64)).save(pool / "mirrored.png")
    given = ["suggest", "--ckpt_path", str(best), "--data.pictures", str(pool), "--labeled", str(labeled)]
    given += ["--by", "diversity", "--data.root", "none", "--output", "out", "--copy_images", "true"]
    assert belvedere(*given, "--count", "99").code == 0
    rows = table("out/suggestions.csv")
    names = {row["image"] for row in rows}
    assert not {"00.png", "02.png"} & names
    assert len({"04.png", "mirrored.png"} & names) == 1
    assert len(rows) == COUNT - 2
    assert {row["disagreement"] for row in rows} == {""}  # one network, one view
    doubles = {row["image"]: row["shows"] for row in table("out/duplicates.csv")}
    assert doubles["00.png"] == "copied.png"
    assert {*doubles} - {"00.png"} <= {"04.png", "mirrored.png"}
    assert rows[0]["nearest"] in ("copied.png", "02.png", "linked.png")
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances, reverse=True)  # as k-center does it
    assert any("suggested above" in row["why"] for row in rows)
    assert not Path("out/images", rows[0]["image"]).is_symlink()


def test_images_that_were_not_trained_on_are_labeled_too(
    belvedere: Run, fitted: Path, pool: Path, tmp_path: Path
) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    root = Path(shutil.copytree(run_config(best)["data"]["init_args"]["root"], tmp_path / "sky"))
    source = next(path for path in (root / "images", root / "train_images") if path.is_dir())
    names = sorted(path.name for path in source.iterdir())
    both = Path(shutil.copytree(source, tmp_path / "both"))
    shutil.copy(pool / "00.png", both / "new.png")
    given = ["suggest", "--ckpt_path", str(best), "--data.pictures", str(both), "--data.root", str(root), "-n", "99"]
    assert belvedere(*given, "--data.train_share", "0.5", "--output", "share").code == 0
    assert [row["image"] for row in table("share/suggestions.csv")] == ["new.png"]
    splits = [f"{name},{'test' if number < 2 else 'train'}" for number, name in enumerate(names)]
    (root / "splits.csv").write_text("\n".join(["name,split", *splits]) + "\n")
    assert belvedere(*given, "--data.folds", "2", "--output", "folds").code == 0
    assert [row["image"] for row in table("folds/suggestions.csv")] == ["new.png"]


def test_windows_count_by_their_data() -> None:
    """A window without data says nothing about its image, one half filled half as much as a full one."""
    windows = [("a", 0.5, 1.0), ("a", 0.9, 0.5), ("a", 0.01, 0.0), ("b", 0.01, 0.0)]
    batch: dict[str, Any] = {
        "name": [name for name, *_ in windows],
        "image": torch.tensor([chance for _, chance, _ in windows]).view(4, 1, 1, 1).expand(4, 3, 8, 8),
        "valid": torch.stack([torch.arange(8).view(1, 8, 1).expand(1, 8, 8) < 8 * there for *_, there in windows]),
        "source": [None, None, np.zeros((1, 1, 3)), np.zeros((1, 1, 3))],
        "problem": [""] * 4,
    }

    class Data:
        def facts(self) -> None: ...

        def loader(self, split: str) -> list[dict[str, Any]]:
            return [batch]

        def on_after_batch_transfer(self, moved: dict[str, Any], index: int) -> dict[str, Any]:
            return moved

    class Task(nn.Module):
        device = torch.device("cpu")

        def receive(self, facts: None) -> None: ...

        def apart(self, batch: dict[str, Any]) -> list[torch.Tensor]:
            return [batch["image"][:, :1]]

    data, task = cast(ImageDataModule, Data()), cast(ImageTask, Task())
    one, two = looks(task, data, lambda batch: batch["image"][:, :1, 0, 0], "looking")
    assert one.uncertainty == pytest.approx((bits(np.array(0.5)) + bits(np.array(0.9)) / 2) / 1.5, abs=1e-6)
    assert one.vector == pytest.approx([(0.5 + 0.9 / 2) / 1.5])
    assert (one.name, two.name, two.uncertainty) == ("a", "b", 0)


def test_views_disagree_too(belvedere: Run, fitted: Path, pool: Path) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    given = ["suggest", "--ckpt_path", str(best), "--data.pictures", str(pool), "-n", "2", "--prelabels", "[]"]
    assert belvedere(*given, "--model.tta", "flip", "--output", "out", "--backbones", "{mobilenet_v2: false}").code == 0
    assert all(float(row["disagreement"]) > 0 for row in table("out/suggestions.csv"))
    assert not Path("out/coco.json").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["-n", "0"], "--count is 0"),
        (["--backbones", "{resnet19: false}"], "resnet19"),
        (["--by", "luck"], "--by"),
        (["--labeled", "none"], "none"),
    ],
)
def test_wrong_options_are_rejected(options: list[str], word: str, belvedere: Run, fitted: Path, pool: Path) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    given = ["suggest", "--ckpt_path", str(best), "--data.pictures", str(pool), "--output", "out", *options]
    assert word in belvedere(*given).refusal
    assert not Path("out").exists()


def test_a_pool_that_is_labeled_has_no_suggestions(belvedere: Run, fitted: Path, pool: Path) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    given = ["suggest", "--ckpt_path", str(best), "--data.pictures", str(pool), "--output", "out"]
    assert "left to label" in belvedere(*given, "--labeled", str(pool)).refusal


@pytest.mark.parametrize("task", ["roads", "avalanches", "aesthetics"])
def test_every_task_that_can_be_unsure(task: str, belvedere: Run, trained: Callable[[str], Path], pool: Path) -> None:
    for path in pool.rglob("*.png"):  # window classifiers need larger images
        with Image.open(path) as image:
            image.resize((144, 96)).save(path)
    given = ["suggest", "--ckpt_path", str(trained(task)), "--data.pictures", str(pool), "-n", "3", "--output", "out"]
    assert belvedere(*given).code == 0
    rows = table("out/suggestions.csv")
    assert len(rows) == 3
    assert all(0 <= float(row["uncertainty"]) <= 1 for row in rows)
    assert all((pool / row["image"]).samefile(Path("out/images", row["image"])) for row in rows)
    assert Path("out/contact_sheet.png").is_file()
    assert Path("out/coco.json").exists() == (task != "aesthetics")
    if task == "aesthetics":
        scores = {row["name"]: np.array(float(row["probability"])) for row in table("out/scores.csv")}
        for row in rows:
            assert float(row["uncertainty"]) == pytest.approx(bits(scores[row["image"]]), abs=1e-4)


def test_colors_need_no_labels(belvedere: Run, trained: Callable[[str], Path], pool: Path) -> None:
    given = ["suggest", "--ckpt_path", str(trained("colorization")), "--data.pictures", str(pool), "--output", "out"]
    assert "colors need no labels" in belvedere(*given).refusal
    assert not Path("out").exists()
