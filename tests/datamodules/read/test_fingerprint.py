import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.read import fingerprint as module
from datamodules.read.fingerprint import fingerprint
from datamodules.roads import RoadsDataModule


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images, their masks and a table."""
    folder = tmp_path / "data"
    for name, content in {"images/a.jpg": "one", "images/b.jpg": "two", "images/é.jpg": "three", "masks/a.png": "m",
                          "masks/b.png": "n", "table.csv": "name,vote\na,3\n"}.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def in_another_order(root: Path, folder: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file():
            (folder / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.relative_to(root))


def of_macos(root: Path, folder: Path) -> None:
    shutil.copytree(root, folder)
    path = folder / "images" / "é.jpg"
    path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    (folder / ".DS_Store").write_text("order of icons")
    (folder / "images" / "._a.jpg").write_text("resources")


def linked(root: Path, folder: Path) -> None:
    folder.mkdir()
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "images" / ".around").symlink_to(root)


def with_runs(root: Path, folder: Path) -> None:
    shutil.copytree(root, folder)
    (folder / "runs" / "roads").mkdir(parents=True)
    (folder / "runs" / "roads" / "metrics.csv").write_text("step")


def touched(root: Path, folder: Path) -> None:
    shutil.copytree(root, folder)
    os.utime(folder / "images" / "a.jpg", (0, time.time() - 1e6))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("copied", [in_another_order, of_macos, linked, with_runs, touched])
def test_copies_have_one_fingerprint(
    copied: Callable[[Path, Path], None], whole: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE", 10**6 if whole else 0)
    folder = tmp_path / "elsewhere" / "copy"
    folder.parent.mkdir()
    copied(root, folder)
    assert fingerprint(folder, ["b.jpg", "a.jpg"]) == fingerprint(root, ["a.jpg", "b.jpg"])
    assert len(fingerprint(root, [])) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "images" / "a.jpg").write_text("one more"),
        lambda root: (root / "images" / "a.jpg").rename(root / "images" / "c.jpg"),
        lambda root: (root / "images" / "c.jpg").write_text("one"),
        lambda root: (root / "masks" / "a.png").unlink(),
        lambda root: (root / "masks" / "a.png").write_text("mask"),
        lambda root: (root / "table.csv").write_text("name,vote\na,4\n"),
    ],
    ids=["picture", "name", "more", "fewer", "mask", "table"],
)
@pytest.mark.parametrize("whole", [True, False])
def test_other_data_have_another(
    change: Callable[[Path], object], whole: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE", 10**6 if whole else 0)
    before = fingerprint(root, ["a.jpg"])
    change(root)
    assert fingerprint(root, ["a.jpg"]) != before


def test_images_of_a_small_dataset_are_read_and_those_of_a_large_one_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = fingerprint(root, [])
    monkeypatch.setattr(module, "WHOLE", 0)
    large = fingerprint(root, [])
    (root / "images" / "a.jpg").write_text("two")  # as many bytes
    assert fingerprint(root, []) == large
    monkeypatch.undo()
    assert fingerprint(root, []) != small


def test_test_images_and_settings_count(root: Path, tmp_path: Path) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text("a,3")
    before = fingerprint(root, ["a.jpg"], ["mean above 5", votes])
    assert fingerprint(root, ["b.jpg"], ["mean above 5", votes]) != before
    assert fingerprint(root, ["a.jpg", "b.jpg"], ["mean above 5", votes]) != before
    assert fingerprint(root, ["a.jpg"], ["mean above 6", votes]) != before
    votes.write_text("a,4")
    assert fingerprint(root, ["a.jpg"], ["mean above 5", votes]) != before


def test_links_in_a_circle_are_not_followed(root: Path) -> None:
    before = fingerprint(root, [])
    (root / "images" / "again").symlink_to(root)
    assert fingerprint(root, []) == before


def of_clouds(root: Path, **options: object) -> str:
    data = CloudsDataModule(root, size=(32, 48), num_workers=0, **options)  # type: ignore[arg-type]
    data.setup("test")
    return data.fingerprint()


def test_clouds_differ_by_split_and_classes_but_not_by_size_or_place(clouds_root: Path, clouds_copy: Path) -> None:
    before = of_clouds(clouds_root)
    assert of_clouds(clouds_copy) == before
    assert of_clouds(clouds_root, output_size=(35, 53), flips=False, batch_size=3) == before
    assert of_clouds(clouds_root, split_seed=1) != before
    data = CloudsDataModule(clouds_root, classes=["Sugar", "Gravel", "Flower", "Fish"], size=(32, 48), num_workers=0)
    data.setup("test")
    assert data.fingerprint() == before  # in another order
    data.classes = ["Fish", "Sugar"]
    assert data.fingerprint() != before
    table = clouds_copy / "train.csv"
    lines = table.read_text().splitlines()
    masked = next(index for index, line in enumerate(lines[1:], 1) if not line.endswith(","))
    lines[masked] = lines[masked].split(",")[0] + ","
    table.write_text("\n".join(lines))
    assert of_clouds(clouds_copy) != before


def test_sampled_training_images_do_not_count(roads_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, trained = set(), set()
    for seed in ("0", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = RoadsDataModule(roads_root, size=(32, 32), samples_per_category=2, num_workers=0)
        data.setup("fit")
        found.add(data.fingerprint())
        trained.add(tuple(data.picture_names()["train"]))
    assert len(found) == 1
    assert len(trained) > 1


def test_aesthetics_differ_by_their_classes(aesthetics_root: Path) -> None:
    def of(**options: object) -> str:
        data = AestheticsDataModule(aesthetics_root, size=32, num_workers=0, **options)  # type: ignore[arg-type]
        data.setup("test")
        return data.fingerprint()

    before = of()
    assert of(delta=0.5) == before
    assert of(threshold=5.5) != before
    assert of(statistic="median") != before


def test_images_that_windows_are_drawn_from_are_counted(avalanches_root: Path) -> None:
    data = AvalanchesDataModule(avalanches_root, window=17, pyramid_levels=1, num_workers=0)
    data.setup("fit")
    assert {split: len(names) for split, names in data.picture_names().items()} == {"train": 6, "val": 2, "test": 2}
    assert len({name for names in data.picture_names().values() for name in names}) == 10
