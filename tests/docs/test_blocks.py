"""Every command of the site runs, on small synthetic data, and every Python block gives what it shows."""

import doctest
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from belvedere.__main__ import main
from tests.datamodules.helpers import film, noise, table
from tests.docs.texts import TEXTS, blocks
from tests.helpers import ROOT, masked_images

FIXTURE = ROOT / "tests" / "fixtures" / "run_66ad3a8"
# What makes a run small. Other options of the page win, but not sizes, since these images are small.
SMALL = {
    "clouds": ["--data.size", "[32,48]", "--data.output_size", "[35,53]", "--data.batch_size", "2"],
    "roads": ["--data.window", "[64,64]", "--data.size", "[32,32]"],
    "avalanches": ["--data.photos", "[32,32]"],
    "colorization": ["--data.size", "64", "--data.batch_size", "4"],
    "aesthetics": ["--data.size", "63", "--data.load_size", "63", "--data.threshold", "5.5"],
}
SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1",
         "--trainer.limit_test_batches", "2", "--intervals.resamples", "0", "--data.num_workers", "0",
         "--precision", "null"]  # fmt: skip
WITHOUT_WEIGHTS = {"aesthetics": ["--model.backbones", "{mobilenet_v2: false}"],
                   "colorization": ["--model.backbones", "{test_resnet: false}"]}  # fmt: skip
SCRATCH = ["--model.pretrained", "false"]


@pytest.fixture(scope="module")
def data(
    tmp_path_factory: pytest.TempPathFactory,
    clouds_root: Path,
    roads_root: Path,
    avalanches_root: Path,
    colorization_root: Path,
    aesthetics_root: Path,
) -> Path:
    """The folders and files that the texts name."""
    home = tmp_path_factory.mktemp("texts")
    named = {"understanding_cloud_organization": clouds_root, "aerial": roads_root, "snow": avalanches_root,
             "paintings": colorization_root, "AVA": aesthetics_root, "my/photographs": clouds_root / "test_images",
             "FOLDER": roads_root, "my/images": roads_root / "images", "orthophotos": roads_root / "pictures",
             "photographs": avalanches_root / "images", "attic": colorization_root / "photographs",
             "holiday": aesthetics_root / "album"}  # fmt: skip
    for name, target in named.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).symlink_to(target)
    masked_images(home / "sky", ["cloud"])
    torch.manual_seed(0)
    save_file(mobilenet_v2().state_dict(), home / "weights.safetensors")
    (home / "mobilenet_v2.safetensors").symlink_to(home / "weights.safetensors")
    labels_of_tools(home)
    attic = colorization_root / "photographs"
    first = min(path for path in attic.rglob("*") if path.is_file()).relative_to(attic)
    (home / "hints").mkdir()
    (home / "hints" / "known.csv").write_text(f"image,x,y,color\n{first},3,4,#3a6b35\n")
    for folder in ("originals", "predict-attic/colored"):
        (home / folder).parent.mkdir(exist_ok=True)
        (home / folder).symlink_to(attic)
    for judge in ("ann", "bob"):
        rows = [f"p,{judge},{number},A,B,left,1" for number in range(3)]
        table(home / f"answers_{judge}.csv", "page,judge,image,left,right,answer,seconds", *rows)
    film(home / "film.mp4", [noise(48, 64, seed=number) for number in range(4)])
    (home / "hints.csv").write_text("image,x,y,color\nfilm/2,3,4,#3a6b35\n")
    (home / "sister_photograph.jpg").symlink_to(min((colorization_root / "images").rglob("*.*")))
    return home


def labels_of_tools(home: Path) -> None:
    """Writes an image and its labels as labelme, COCO, CVAT, YOLO and VOC have them."""
    points = [[2, 1], [6, 1], [6, 5], [2, 5]]
    for name in ("drawn/a.png", "yolo/images/a.png", "VOC/JPEGImages/a.png"):
        (home / name).parent.mkdir(parents=True)
        Image.new("RGB", (10, 8)).save(home / name)
    shapes = [{"label": label, "points": points, "shape_type": "polygon"} for label in ("cloud", "thin cloud")]
    (home / "drawn" / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png", "imageData": None}))
    image, kind = {"id": 1, "file_name": "a.png", "height": 8, "width": 10}, {"id": 1, "name": "cloud"}
    labeled_fields(home / "fields")
    outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[each for point in points for each in point]]}
    document = {"images": [image], "categories": [kind], "annotations": [outline]}
    (home / "instances.json").write_text(json.dumps(document))
    polygon = '<polygon label="cloud" points="2,1;6,1;6,5;2,5"/>'
    (home / "annotations.xml").write_text(f'<annotations><image name="a.png">{polygon}</image></annotations>')
    (home / "yolo" / "labels").mkdir()
    (home / "yolo" / "labels" / "a.txt").write_text("0 .4 .4 .2 .2\n")
    (home / "yolo" / "classes.txt").write_text("cloud\n")
    (home / "VOC" / "SegmentationClass").mkdir()
    Image.new("P", (10, 8), 1).save(home / "VOC" / "SegmentationClass" / "a.png")


def labeled_fields(folder: Path) -> None:
    """Writes eight images with a field each, and their outlines as labelme has them."""
    folder.mkdir()
    for number in range(8):
        left, top, right, bottom = 4 + 3 * number, 6, 20 + 3 * number, 24
        image = Image.fromarray(noise(48, 64, seed=number))
        image.paste((90, 200, 90), (left, top, right, bottom))
        image.save(folder / f"{number}.png")
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        shapes = [{"label": "field", "points": points, "shape_type": "polygon"}]
        (folder / f"{number}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{number}.png"}))


def commands(code: str) -> Iterator[list[str]]:
    """Yields the words of each command of a block."""
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip():
            yield shlex.split(line, comments=True)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


def run(words: list[str], runs: dict[str, Path]) -> int:
    """Runs a command of a text in this process, made small.

    Args:
        words: The command, after `belvedere`.
        runs: The newest run of each task, for `runs/<task>/<date>`.
    """
    used = re.search(r"runs/(\w+)/<date>", " ".join(words))
    task = used[1] if used else option(words, "--config").split("/")[0] or "clouds"
    if used and task not in runs:  # a page that begins with test or predict
        root = {"roads": "aerial", "clouds": "understanding_cloud_organization"}[task]
        assert (
            run(["fit", "--config", f"{task}/{'best' if task == 'roads' else 'fpn'}", "--data.root", root], runs) == 0
        )
    words = [re.sub(rf"runs/{task}/<date>", str(runs.get(task, "")), word) for word in words]
    if words[0] in ("fit", "describe"):
        small = SMALL[task] if "clouds/folders" not in words else ["--data.size", "[32,48]"]
        small = small + SHORT + WITHOUT_WEIGHTS.get(task, SCRATCH)
        pairs = zip(small[::2], small[1::2], strict=True)
        sizes = ("--data.window", "--data.size")
        words += [each for name, value in pairs if name not in words or name in sizes for each in (name, value)]
    if words[0] == "fit":
        given = option(words, "--output") or f"made/{task}{len(list(Path().glob('made/*')))}"
        runs[task] = Path(given).absolute()
        words = [*words, "--output", given]
    if words[0] == "describe":
        words = [*words, "--output", f"made/described{len(list(Path().glob('made/*')))}"]
    return main(words)


@pytest.fixture
def no_dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turns wandb off, and ends its session, which would stay off for later tests of this process."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()
        sys.modules["wandb"].teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("no_dashboard")
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_run(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in data.iterdir():
        (tmp_path / each.name).symlink_to(each)
    monkeypatch.chdir(tmp_path)
    runs: dict[str, Path] = {}
    for block in blocks(path):
        if block.kind or block.excuse:
            continue
        for words in commands(block.code):
            if words[0] == "belvedere":
                assert run(words[1:], runs) == 0, words
            else:
                assert words[0] == "make", words
                assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_blocks_give_what_they_show(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(">>>" in block.code for block in blocks(path)):
        return
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    done = doctest.testfile(str(path), module_relative=False)
    assert done.attempted > 1
    assert done.failed == 0


def test_every_block_has_a_known_kind() -> None:
    kinds = {block.kind for path in TEXTS for block in blocks(path)}
    assert kinds <= {"", "python", "yaml", "text"}
