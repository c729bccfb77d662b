from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from belvedere.__main__ import main
from datamodules.clouds import CloudsDataModule
from datamodules.describe.leaks import Seen, add_leaks, found_leaks
from datamodules.describe.study import Study
from tests.helpers import table
from tests.ops.test_duplicates import PICTURES

CRS = "EPSG:32611"


def seen(
    number: int, shot: tuple[str, datetime] | None = None, ground: tuple[str, tuple[float, ...]] | None = None
) -> Seen:
    return Seen(PICTURES[number], bytes([number]), shot, ground)  # type: ignore[arg-type]  # four numbers


def test_what_splits_share_is_found() -> None:
    noon = datetime(2020, 1, 1, 12)
    known = {
        "train": seen(0, ("Acme Snap", noon)), "late": seen(1, ("Acme Snap", noon.replace(second=10))),
        "later": seen(2, ("Acme Snap", noon.replace(second=11))), "other": seen(3, ("Acme Pro", noon)),
        "tile": seen(4, None, (CRS, (0, 0, 100, 100))), "beside": seen(5, None, (CRS, (100, 0, 200, 100))),
        "across": seen(6, None, (CRS, (90, 90, 190, 190))), "far": seen(7, None, ("EPSG:1", (0, 0, 100, 100))),
        "copy": seen(0), "mirrored": Seen(PICTURES[4][:, ::-1].copy(), b"x", None, None),
        "same": seen(8), "twin": seen(8),
    }  # fmt: skip
    train = ("train", "tile", "same", "twin")
    rows = [(name, "train" if name in train else "val" if name == "copy" else "test", "") for name in known]
    artists = {"train": "Ann  Lee", "far": "ann lee", "other": "Bo"}
    rows = [(name, split, artists.get(name, "")) for name, split, _ in rows]
    leaks = list(found_leaks(pd.DataFrame(rows, columns=["name", "split", "artist"]), known))
    assert [(leak.name, leak.other, leak.why.split(" (")[0]) for leak in leaks] == [
        ("train", "copy", "equal files"),
        ("tile", "across", "overlap on the ground by 1%"),
        ("tile", "mirrored", "the same picture, mirrored"),
        ("train", "late", "taken by one camera within 10 s"),
        ("train", "far", "same artist, ann lee"),
    ]
    assert {(leak.split, leak.other_split) for leak in leaks} == {("train", "val"), ("train", "test")}


def test_describe_lists_leaks(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = tmp_path / "sky"
    for folder in ("images", "masks/cloud"):
        (root / folder).mkdir(parents=True)
    rows = ["name,split"]
    for number in range(6):
        image = PICTURES[number if number < 5 else 0][:, :: (1 if number < 5 else -1)]
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = "Acme", "Snap"
        if number in (1, 4):
            exif.get_ifd(0x8769)[0x9003] = f"2020:01:01 10:00:0{number}"
        Image.fromarray(np.ascontiguousarray(image)).save(root / f"images/{number}.jpg", exif=exif)
        Image.fromarray(np.uint8(image[..., 0] > 99) * 255).save(root / f"masks/cloud/{number}.png")
        rows.append(f"{number}.jpg,{('train', 'train', 'train', 'val', 'test', 'test')[number]}")
    (root / "splits.csv").write_text("\n".join(rows))
    command = ["describe", "--config", "clouds/fpn", "--config", "clouds/folders", "--data.classes", "[cloud]"]
    command += ["--data.root", str(root), "--data.size", "[32,48]", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    found = [(row["name"], row["other"]) for row in table(tmp_path / "out" / "leaks.csv")]
    assert found == [("0.jpg", "5.jpg"), ("1.jpg", "4.jpg")]
    assert (tmp_path / "out" / "leaks.png").is_file()
    study = Study({"pictures": pd.read_csv(root / "splits.csv")})
    with pytest.warns(UserWarning, match="2 pairs of images"):
        add_leaks(study, CloudsDataModule(root, classes=["cloud"]))
    assert list(study.panels["leaks"].names) == [
        "0.jpg (train) and 5.jpg (test): the same picture, mirrored (similarity 1.00)",
        "1.jpg (train) and 4.jpg (test): taken by one camera within 3 s",
    ]
    assert any("memorization" in str(each.message) and "within 3 s" in str(each.message) for each in recwarn)
    (root / "splits.csv").write_text("\n".join([*rows[:-2], "4.jpg,val"]))
    assert main([*command, str(tmp_path / "again")]) == 0
    assert [row["why"] for row in table(tmp_path / "again" / "leaks.csv")] == ["taken by one camera within 3 s"]


def test_what_looks_alike_to_a_network_is_found() -> None:
    def looks(images: np.ndarray) -> np.ndarray:
        return np.stack([images.mean(axis=(1, 2))[:, k] for k in range(3)], axis=1).astype(np.float32)

    rng = np.random.default_rng(0)

    def plain(color: tuple[int, int, int]) -> Seen:
        noise = rng.integers(0, 30, (40, 60, 3))
        return Seen((np.array(color) + noise).astype(np.uint8), rng.bytes(4), None, None)

    colors = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200), "rose": (190, 60, 60)}
    known = {name: plain(color) for name, color in colors.items()}
    rows = [(name, "test" if name == "rose" else "train") for name in known]
    frame = pd.DataFrame(rows, columns=["name", "split"])
    assert list(found_leaks(frame, known)) == []
    [leak] = found_leaks(frame, known, looks)
    assert (leak.name, leak.other) == ("red", "rose")
    assert leak.why.startswith("alike to a frozen network (cosine ")


@pytest.mark.real
def test_crops_are_found_by_a_frozen_network_among_real_tiles(real_data: Path, tmp_path: Path) -> None:
    weights = real_data.parent / "weights" / "mobilenet_v2.safetensors"
    if not weights.is_file():
        pytest.skip(f"no ImageNet weights: {weights}")
    root, files = tmp_path / "roads", sorted((real_data / "roads/images").iterdir())[:24]
    rows = ["name,split"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, file in enumerate(files):
        for folder in ("images", "masks"):
            (root / folder / file.name).symlink_to(real_data / "roads" / folder / file.name)
        rows.append(f"{file.name},{'train' if number < 20 else 'val'}")
        if number < 4:  # a crop of a training image
            for folder in ("images", "masks"):
                with Image.open(real_data / "roads" / folder / file.name) as image:
                    image.crop((20, 20, 370, 370)).resize((400, 400)).save(root / folder / f"crop-{number}.png")
            rows.append(f"crop-{number}.png,test")
    (root / "splits.csv").write_text("\n".join(rows))
    command = ["describe", "--config", "roads/best", "--data.root", str(root), "--output", str(tmp_path / "out")]
    assert main([*command, "--backbones", f"{{mobilenet_v2: {weights}}}"]) == 0
    found = [row for row in table(tmp_path / "out" / "leaks.csv") if "frozen" in row["why"]]
    pairs = {(row["name"], row["other"]) for row in found}
    assert len(pairs) >= 2
    assert pairs <= {(files[number].name, f"crop-{number}.png") for number in range(4)}


@pytest.mark.real
def test_two_shots_of_one_night_are_found_among_real_photographs(real_data: Path) -> None:
    folder = real_data / "aesthetics/images"
    names = [name for name in (f"{number:04}.png" for number in range(840, 870)) if (folder / name).is_file()]
    pixels = {name: np.asarray(Image.open(folder / name).convert("RGB")) for name in names}
    known = {name: Seen(each, name.encode(), None, None) for name, each in pixels.items()}
    splits = pd.DataFrame({"name": names, "split": ["test" if name == "0856.png" else "train" for name in names]})
    assert [(leak.name, leak.other) for leak in found_leaks(splits, known)] == [("0855.png", "0856.png")]
