from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.loaders import Samples
from ops.errors import DataError

RAMP = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).round().astype(np.uint8)


def predicted(root: Path, **options: Any) -> Samples:
    data = CloudsDataModule(root, **({"size": (20, 30), "num_workers": 0} | options))
    data.setup("predict")
    return data.datasets["predict"]


def picture(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)
    return path


def test_the_order_is_that_of_the_sample_submission(clouds_copy: Path) -> None:
    table = clouds_copy / "sample_submission.csv"
    header, *rows = table.read_text().splitlines()
    names = [row.split("_")[0] for row in rows[::4]]
    assert predicted(clouds_copy).names == names == sorted(names)
    table.write_text("\n".join([header, *rows[8:], *rows[:8]]))
    assert predicted(clouds_copy).names == names[2:] + names[:2]
    table.unlink()
    assert predicted(clouds_copy).names == names


def test_samples_have_the_networks_size_and_the_outputs(clouds_root: Path) -> None:
    sample = predicted(clouds_root, output_size=(35, 50))[0, 1]
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, 20, 30)
    assert sample["size"].tolist() == [35, 50]
    assert sample["source"].shape == (140, 210, 3), "what is drawn over is the picture itself"
    assert predicted(clouds_root)[0, 1]["size"].tolist() == [140, 210], "each picture's own size"


def test_a_folder_or_a_file_of_the_users_wins(clouds_root: Path, tmp_path: Path) -> None:
    for name, size in {"b.jpg": (60, 40), "a.png": (30, 90)}.items():
        picture(tmp_path / "mine" / name, Image.new("RGB", size))
    samples = predicted(clouds_root, pictures=tmp_path / "mine")
    assert samples.names == ["a.png", "b.jpg"]
    assert [samples[0, index]["size"].tolist() for index in range(2)] == [[90, 30], [40, 60]]
    assert predicted("/nowhere", pictures=tmp_path / "mine" / "b.jpg").names == ["b.jpg"]


def test_no_training_data_are_wanted(tmp_path: Path) -> None:
    picture(tmp_path / "test_images" / "a.jpg", Image.new("RGB", (60, 40)))
    data = CloudsDataModule(tmp_path)
    data.trainer = type("Trainer", (), {"state": type("State", (), {"fn": "predict"})})
    data.prepare_data()
    data.setup("predict")
    assert data.datasets["predict"].names == ["a.jpg"]


def test_missing_test_pictures_and_unknown_classes_are_all_told(clouds_copy: Path) -> None:
    table, folder = clouds_copy / "sample_submission.csv", clouds_copy / "test_images"
    lines = table.read_text().splitlines()
    names = [line.split("_")[0] for line in lines[1::4]]
    for name in names[1:3]:
        (folder / name).unlink()
    lines[1] = lines[1].replace("Fish", "Fsh")
    table.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        predicted(clouds_copy)
    assert caught.value.problems == [
        f"{table}, row 2: the class 'Fsh' is unknown; the classes are Fish, Flower, Gravel, Sugar.",
        f"{table}, row 6: there is no picture {names[1]!r} in {folder}. Unpack the test pictures again.",
        f"{table}, row 10: there is no picture {names[2]!r} in {folder}. Unpack the test pictures again.",
    ]


def test_nothing_to_predict_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder or file .*/test_images\. Give the path of pictures"):
        predicted(tmp_path)
    with pytest.raises(DataError, match=r"There is no folder or file .*/gone\.png"):
        predicted(tmp_path, pictures=tmp_path / "gone.png")
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match="holds no pictures; files ending in"):
        predicted(tmp_path, pictures=tmp_path)


GREY = np.repeat(RAMP[..., :1], 3, axis=2)
CUT = RAMP // 128 * 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY[..., 0]), GREY),
        (Image.fromarray(CUT).convert("P", palette=Image.Palette.ADAPTIVE), CUT),
        (Image.fromarray(np.dstack([RAMP, np.full((40, 60), 9, np.uint8)])), RAMP),
    ],
    ids=["grey", "palette", "rgba"],
)
def test_any_picture_is_predicted(image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", image)
    sample = predicted(tmp_path, pictures=path, size=(40, 60))[0, 0]
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), expected)
    np.testing.assert_array_equal(sample["source"], expected)


def test_a_turned_picture_is_predicted_upright(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    path = picture(tmp_path / "a.png", Image.fromarray(RAMP), exif=tags)
    sample = predicted(tmp_path, pictures=path, size=(60, 40))[0, 0]
    assert sample["size"].tolist() == [60, 40]
    np.testing.assert_array_equal(sample["source"], np.rot90(RAMP, -1))


def test_a_source_is_no_smaller_than_the_output(tmp_path: Path) -> None:
    stripes = np.zeros((320, 480, 3), np.uint8)
    stripes[:, ::2] = 255
    path = picture(tmp_path / "a.jpg", Image.fromarray(stripes), quality=95)
    source = predicted(tmp_path, pictures=path, output_size=(320, 480))[0, 0]["source"]
    assert source.std() > 100, "a picture decoded at half its size would be grey"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"bad\.png is empty \(0 bytes\)"), (b"text", r"bad\.png is truncated or not a picture")],
)
def test_a_bad_picture_is_told_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    samples = predicted(tmp_path, pictures=tmp_path, output_size=(40, 60))
    with pytest.raises(DataError, match=message):
        samples[0, 0]


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "deep.png", Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257))
    with pytest.raises(DataError, match=r"deep\.png has the mode 'I;16', more than 8 bits a channel"):
        predicted(tmp_path, pictures=tmp_path)[0, 0]
