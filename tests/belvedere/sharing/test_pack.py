"""Packages: what `belvedere pack` makes, what predicts like the checkpoint, and what is never opened."""

import hashlib
import json
import os
import pickle
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

import belvedere as api
from belvedere.__main__ import main
from belvedere.checkpoints import read_checkpoint
from belvedere.run import Model
from belvedere.sharing.pack import without_local_paths
from belvedere.sharing.packed import opened
from ops.errors import ArgumentError, PackageError
from tests.helpers import SMALL, metrics, table

Command = Callable[..., Any]
Trained = Callable[[str], Path]
TASKS = [task if task == "roads" else pytest.param(task, marks=pytest.mark.slow) for task in SMALL]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "album", np.random.default_rng(0)
    folder.mkdir()
    for name, shape in {"a.png": (70, 90, 3), "b.png": (64, 64, 3)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def original(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a package of a tiny network of roads, without a look at its validation images."""
    folder = tmp_path_factory.mktemp("original") / "packed"
    assert main(["pack", str(trained("roads")), "--output", str(folder), "--worst", "0"]) == 0
    return folder


@pytest.fixture
def package(original: Path, working_folder: Path) -> Path:
    """A copy of it in the working folder, which a test may change."""
    return Path(shutil.copytree(original, working_folder / "packed"))


def signed(folder: Path) -> None:
    """Makes the digests of a changed package right, as its maker would."""
    description = json.loads((folder / "belvedere.json").read_text())
    for name in description["sha256"]:
        description["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "belvedere.json").write_text(json.dumps(description))


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                file.write(each, each.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("task", TASKS)
def test_a_package_predicts_like_its_checkpoint(task: str, trained: Trained, belvedere: Command, album: Path) -> None:
    checkpoint = trained(task)
    done = belvedere("pack", "--ckpt_path", str(checkpoint), "--worst", "2", "--license", "mit")
    assert done.code == 0, done.err
    assert "--data_license" in done.out
    assert "--license" not in done.out
    with zipfile.ZipFile("model.zip") as file:
        names = set(file.namelist())
        card, config = file.read("README.md").decode(), yaml.safe_load(file.read("config.yaml"))
    assert {"README.md", "belvedere.json", "config.yaml", "model.safetensors", "record.json"} <= names
    assert "images/worst.jpg" in names
    assert not Path(config["data"]["init_args"]["root"]).is_absolute()
    assert str(checkpoint.parents[1]) not in card
    assert f"tags: [belvedere, {task}]" in card
    assert "license: mit" in card
    arguments = ["--data.pictures", str(album), "--output"]
    assert belvedere("predict", "--model", "model.zip", *arguments, "of_package").code == 0
    assert belvedere("predict", "--ckpt_path", str(checkpoint), *arguments, "of_checkpoint").code == 0
    written = {path.relative_to("of_checkpoint"): path.read_bytes() for path in Path("of_checkpoint").rglob("*.*")
               if path.is_file() and path.name != "checkpoints.json"}  # fmt: skip
    assert len(written) > 2
    for path, content in written.items():
        assert (Path("of_package") / path).read_bytes() == content, path


def test_the_card_has_metrics_intervals_baselines_and_the_worst_images(
    trained: Trained, belvedere: Command, roads_root: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained("roads").parents[1], tmp_path / "run"))
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert belvedere("test", "--ckpt_path", str(checkpoint)).code == 0
    said = ["--author", "A. Nobody", "--use", "Maps | of `towns`.", "--data_license", "cc0-1.0", "--license", "mit"]
    done = belvedere("pack", str(checkpoint), "--output", "packed", "--worst", "2", *said)
    assert (done.code, "fill in" in done.out) == (0, False)
    card = Path("packed/README.md").read_text()
    assert all(word in card for word in ("A. Nobody", "Maps | of `towns`.", "cc0-1.0"))
    assert "to fill in" not in card
    values = metrics(run / "test" / "metrics.csv")
    limits = {row["figure"]: f"{float(row['low']):.4f} to {float(row['high']):.4f}"
              for row in table(run / "test" / "intervals.csv")}  # fmt: skip
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for line in card.splitlines()
            if len(cells := line.split("|")) > 2}  # fmt: skip
    assert rows["test metric"] == ["value", "95 % interval", "all marked", "none marked"]
    for name, value in values.items():
        assert rows[name.removeprefix("test/")][:2] == [f"{value:.4f}", limits.get(name, "")]
    record = json.loads((run / "record.json").read_text())
    assert record["data_fingerprint"] in card
    assert f"train {record['pictures']['train']}, val {record['pictures']['val']}" in card
    # both baselines, from the test masks themselves
    data = api.RoadsDataModule(**yaml.safe_load(Path("packed/config.yaml").read_text())["data"]["init_args"] | {
        "root": roads_root})  # fmt: skip
    data.setup("test")
    share = np.mean([np.asarray(Image.open(roads_root / "masks" / name).resize((64, 64), 0)) > 127
                     for name in data.picture_names()["test"]])  # fmt: skip
    accuracy = [float(cell) for cell in rows["accuracy"][2:]]
    assert accuracy == pytest.approx([share, 1 - share], abs=0.02)
    assert rows["recall"][2:] == ["1.0000", "0.0000"]
    # the two worst of the validation images, by a dice of the command's own masks
    data.setup("fit")
    assert belvedere("predict", "--ckpt_path", str(checkpoint), "--data.pictures", str(roads_root / "images"),
                     "--output", "found").code == 0  # fmt: skip
    dice = {}
    for name in data.picture_names()["val"]:
        truth, mask = (np.asarray(Image.open(folder / name)) > 127
                       for folder in (roads_root / "masks", Path("found/masks")))  # fmt: skip
        dice[name] = 2 * (truth & mask).sum() / (truth.sum() + mask.sum()) if (truth | mask).any() else 1.0
    shown = {name: float(cells[0]) for name, cells in rows.items() if name in dice}
    assert len(shown) == min(2, len(dice))
    assert max(shown.values()) <= min([value for name, value in dice.items() if name not in shown], default=1) + 0.05
    for name, value in shown.items():
        assert value == pytest.approx(dice[name], abs=0.05)  # there at the network's size
    assert Image.open("packed/images/worst.jpg").width > 400


def test_the_results_of_another_checkpoint_are_not_shown(trained: Trained, belvedere: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("roads").parents[1], tmp_path / "run"))
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / "metrics.csv").write_text("test/dice\n0.123456\n")
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    of_last = {"checkpoint": "/run/checkpoints/last.ckpt", "members": []}
    of_best = {"checkpoint": checkpoint, "members": []}
    cases = [(of_last, False), (of_best | {"metrics": of_last}, False), (of_last | {"metrics": of_best}, True),
             (of_best, True)]  # fmt: skip
    for number, (found, shown) in enumerate(cases):
        (run / "test" / "checkpoints.json").write_text(json.dumps(found))
        assert belvedere("pack", checkpoint, "--output", f"packed{number}", "--worst", "0").code == 0
        assert ("0.1235" in Path(f"packed{number}/README.md").read_text()) == shown
    os.utime(run / "test" / "metrics.csv", (0, 0))  # trained on since the test
    assert belvedere("pack", checkpoint, "--output", "trained_on", "--worst", "0").code == 0
    assert "0.1235" not in Path("trained_on/README.md").read_text()


def test_a_missing_dataset_is_said(trained: Trained, belvedere: Command, roads_root: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("roads").parents[1], tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(roads_root), str(tmp_path / "gone")))
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    done = belvedere("pack", checkpoint, "--output", "packed")
    assert done.code == 0
    assert "is not there" in done.out
    text = Path("packed/README.md").read_text()
    assert all(words in text for words in ("not tested", "validation metric", "is not there"))
    assert belvedere("pack", checkpoint, "--output", "model2.zip", "--data", str(roads_root)).code == 0
    with zipfile.ZipFile("model2.zip") as file:
        assert "images/worst.jpg" in file.namelist()


def test_python_opens_packages(package: Path, trained: Trained, album: Path) -> None:
    zipped(package, Path("model.zip"))
    expected = api.predict(trained("roads"), album)
    for given in (package, str(package), "model.zip", api.load("model.zip"), [package, "model.zip"]):
        found = api.predict(given, album)
        np.testing.assert_array_equal(found[0].probability, expected[0].probability)
    assert load_file(package / "model.safetensors").keys() == read_checkpoint(trained("roads"))["state_dict"].keys()


def test_results_of_packages_are_not_lost_in_the_cache(package: Path, belvedere: Command, album: Path) -> None:
    done = belvedere("predict", f"--model={package}", "--data.pictures", str(album))
    assert done.code == 0, done.err
    [folder] = Path("runs/roads").glob("packed-*")
    assert (folder / "predict-album" / "overview.html").is_file()
    assert not list(opened(package).parents[1].glob("predict*"))
    assert "package" in belvedere("predict", "--model", str(album), "--data.pictures", str(album)).refusal
    assert "dataset of the run" in belvedere("test", "--model", str(package)).refusal


def test_a_folder_is_made_with_its_parents_and_replaced(trained: Trained, belvedere: Command) -> None:
    arguments = ["pack", str(trained("roads")), "--worst", "0", "--output", "new/folder/model"]
    assert belvedere(*arguments).code == 0
    folder = Path("new/folder/model")
    written = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in written
    (folder / "images").mkdir()
    assert belvedere(*arguments, "--overwrite").code == 0
    assert {path.name for path in folder.iterdir()} == written
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_packages_are_not_replaced_unasked(package: Path, belvedere: Command, trained: Trained, album: Path) -> None:
    checkpoint = str(trained("roads"))
    assert "--overwrite" in belvedere("pack", checkpoint, "--output", str(package), "--worst", "0").refusal
    assert belvedere("pack", checkpoint, "--output", str(package), "--worst", "0", "--overwrite").code == 0
    assert "other files" in belvedere("pack", checkpoint, "--output", str(album), "--overwrite").refusal
    assert "hf://" in belvedere("pack", checkpoint, "--upload", "roads").refusal
    named = belvedere("pack", checkpoint, "--worst", "0", "--output", "public")  # also the name of a switch
    assert (named.code, Path("public").is_dir()) == (0, True)
    assert not list(package.parent.glob(".part-*"))


def test_a_package_as_checkpoint_is_told(trained: Trained, belvedere: Command) -> None:
    assert belvedere("pack", str(trained("roads")), "--worst", "0", "--output", "roads.zip").code == 0
    assert "--model" in belvedere("pack", "roads.zip", "--output", "again").refusal
    with pytest.raises(ArgumentError, match="--model"):
        Model("roads.zip")


def test_paths_of_this_computer_stay_here() -> None:
    config = {
        "model": {"class_path": "A", "init_args": {"backbones": {"a": "/home/me/a.pth", "b": True}}},
        "data": {"class_path": "B", "init_args": {"root": "~/x/sky", "pictures": "/p", "size": [3, 4]}},
    }
    assert without_local_paths(config) == {
        "model": {"class_path": "A", "init_args": {"backbones": {"a": "a.pth", "b": True}}},
        "data": {"class_path": "B", "init_args": {"root": "sky", "pictures": None, "size": [3, 4]}},
    }
    assert config["data"]["init_args"]["pictures"] == "/p"


# What nobody should open


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def rejected(package: Path, match: str, kind: type[Exception] = PackageError) -> None:
    """The package is rejected, from Python and on the command line, and nothing in it ran."""
    for given in (package, str(package)):
        with pytest.raises(kind, match=match):
            api.load(given)
    assert not Path("ran").exists()


def test_a_pickle_is_no_weights(package: Path, belvedere: Command, album: Path) -> None:
    (package / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    signed(package)
    rejected(package, "no safetensors")
    rejected(zipped(package, Path("evil.zip")), "no safetensors")
    assert "no safetensors" in belvedere("predict", "--model", "evil.zip", "--data.pictures", str(album)).refusal
    assert not Path("ran").exists()
    header = b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
    (package / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    signed(package)
    rejected(package, "no safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: "!!python/object/apply:os.system ['touch ran']\n", "not valid YAML"),
        (lambda text: text + "more: !!python/object/apply:os.system ['touch ran']\n", "not valid YAML"),
        (lambda text: text.replace("tasks.roads.RoadsTask", "os.system"), "os.system"),
        (lambda text: text.replace("torch.optim.AdamW", "subprocess.Popen").replace("torch.optim.Adam", "os.system"),
         "class_path"),
        (lambda text: text.replace("datamodules.roads.RoadsDataModule", "pickle.load"), "pickle.load"),
        (lambda text: "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
                                                 for a, b in zip("abcdefgh", "bcdefghi", strict=True)), "values"),
    ],
)  # fmt: skip
def test_a_config_runs_nothing(package: Path, change: Callable[[str], str], match: str) -> None:
    path = package / "config.yaml"
    path.write_text(change(path.read_text()))
    signed(package)
    rejected(package, match, ArgumentError)


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/tmp/evil.txt", "images/../../evil.jpg", "..\\evil.txt", "c:evil.txt", "images/a/evil.jpg",
     "evil.py", "images/evil.svg", "sub/config.yaml", ".evil"],
)  # fmt: skip
def test_a_zip_with_other_files_is_rejected(package: Path, name: str) -> None:
    path = zipped(package, Path("evil.zip"))
    before = set(Path().absolute().parent.rglob("*evil*"))
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo("x")
        info.filename = name
        file.writestr(info, "evil")
    rejected(path, "lie outside|a package has only")
    assert set(Path().absolute().parent.rglob("*evil*")) == before


def test_a_zip_with_links_bombs_or_two_files_of_one_name_is_rejected(package: Path) -> None:
    link = zipfile.ZipInfo("model.onnx")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped(package, Path("link.zip")), "a") as file:
        file.writestr(link, "/etc/passwd")
    rejected(Path("link.zip"), "link")
    (package / "config.yaml").write_bytes(b"#" * (1 << 23))
    signed(package)
    rejected(package, "larger than")
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for each in package.iterdir():
            file.write(each, each.name)
    rejected(Path("bomb.zip"), "larger than|compressed")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(zipped(package, Path("two.zip")), "a") as file:
        file.writestr("config.yaml", "model: other\n")
    rejected(Path("two.zip"), "two files of one name")


def test_damaged_and_foreign_packages_are_rejected(package: Path, belvedere: Command) -> None:
    original = (package / "model.safetensors").read_bytes()
    (package / "model.safetensors").write_bytes(original[:-1])
    rejected(package, "damaged")
    (package / "model.safetensors").write_bytes(original)
    description = json.loads((package / "belvedere.json").read_text())
    (package / "belvedere.json").write_text(json.dumps(description | {"format": 2}))
    rejected(package, "format 2")
    (package / "belvedere.json").write_text("[" * 100_000)
    rejected(package, "damaged")
    path = zipped(package, Path("cut.zip"))
    path.write_bytes(path.read_bytes()[:-30])
    rejected(path, "cannot be read")
    (package / "config.yaml").unlink()
    rejected(package, "no config.yaml")
    rejected(zipped(package, Path("part.zip")), "no config.yaml")
    rejected(Path("none.zip"), "no package")
    assert "no package" in belvedere("predict", "--model", "none.zip").refusal
