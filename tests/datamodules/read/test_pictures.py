import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.read.pictures import picture_files, picture_size, read_mask, read_picture
from datamodules.read.tables import read_table
from ops.errors import SHOWN, DataError, refuse

RAMP = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
GREY = RAMP[..., 0]


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_problems_are_listed_the_first_few_and_kept_all() -> None:
    problems = [f"problem {number}." for number in range(SHOWN + 3)]
    refuse([], "nothing")
    with pytest.raises(DataError) as caught:
        refuse(problems, "the folder")
    text = str(caught.value)
    assert text.startswith(f"{SHOWN + 3} problems in the folder:\n  - problem 0.\n")
    assert text.endswith("problem 19.\n  … and 3 more; `belvedere describe` lists all of them")
    assert caught.value.problems == problems
    assert pickle.loads(pickle.dumps(caught.value)).problems == problems
    with pytest.raises(DataError, match=re.escape("1 problem in here:\n  - It is odd.")):
        refuse(["It is odd."], "here")
    assert DataError("Alone.").problems == ["Alone."]


def test_pictures_of_a_folder_are_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.tiff", "._a.png", "notes.txt", ".jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    assert picture_files(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder or file .*/gone\. Give the path of pictures \(\.jpg "):
        picture_files(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no pictures; files ending in \.jpg .* were looked for"):
        picture_files(tmp_path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
        (Image.fromarray(np.dstack([RAMP, 255 - GREY])), RAMP),
        (Image.fromarray(RAMP // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE), RAMP // 128 * 255),
        (Image.fromarray(GREY > 100), np.repeat((GREY > 100)[..., None] * np.uint8(255), 3, axis=2)),
    ],
    ids=["rgb", "grey", "rgba", "palette", "black and white"],
)
def test_any_picture_becomes_rgb(image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path / "a.png", image))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, RAMP), (3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP, 1)), (5, RAMP.transpose(1, 0, 2))],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pictures_are_turned_as_exif_says(orientation: int, upright: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", RAMP, exif=exif(orientation))
    np.testing.assert_array_equal(read_picture(path), upright)
    assert picture_size(path) == upright.shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("at_least", [(1, 1), (30, 40), (31, 40), (60, 79), (61, 80), (100, 700), (100, 750)])
def test_a_picture_is_never_smaller_than_asked(orientation: int, at_least: tuple[int, int], tmp_path: Path) -> None:
    picture = np.zeros((1400, 2100, 3) if at_least[1] > 100 else (240, 320, 3), np.uint8)
    path = saved(tmp_path / "a.jpg", picture, exif=exif(orientation))
    height, width = read_picture(path, at_least).shape[:2]
    full_height, full_width = picture_size(path)
    assert height >= min(at_least[0], full_height)
    assert width >= min(at_least[1], full_width)
    assert (height, width) != (full_height, full_width) or at_least[0] * 2 > full_height or at_least[1] * 2 > full_width


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.new(mode, (4, 4)))
    with pytest.raises(DataError, match=rf"a\.tif has the mode '{mode}.*8-bit pictures were wanted. Scale it"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_of_sixteen_bits_are_refused(suffix: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.full((4, 4, 3), 4000, np.uint16))  # Pillow would make 15 of it
    with pytest.raises(DataError, match=rf"a{suffix} has the mode 'RGB', more than 8 bits a channel"):
        read_picture(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("reader", [read_picture, picture_size, read_mask])
def test_files_that_are_no_pictures_are_refused(reader: object, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=r"There is no file .*/a\.png\."):
        reader(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png is empty \(0 bytes\); a picture was wanted\. Fetch it again"):
        reader(path)
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.png is truncated or not a picture \(.*\)\. Fetch it again or remove it"):
        reader(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_truncated_pictures_are_refused(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", RAMP)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_picture, read_mask):
        with pytest.raises(DataError, match=rf"a{suffix} is truncated or not a picture"):
            read(path)
    with pytest.raises(DataError, match="is truncated"):
        read_picture(path, at_least=(5, 5))


def test_a_header_of_a_giant_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.bmp", RAMP)
    data = bytearray(path.read_bytes())
    data[18:26] = (60000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(data)
    for read in (read_picture, picture_size, read_mask):
        with pytest.raises(DataError, match=r"a\.bmp is truncated or not a picture \(Image size \(3600000000 pixels\)"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"name,split\na.jpg,train\n\nb.jpg,\n",
        b"\xef\xbb\xbfname,split\r\na.jpg,train\r\n\r\nb.jpg,\r\n\r\n",
        b"name,split\ra.jpg,train\r\rb.jpg\r",
        b'name,split,why\n"a.jpg",train,x\n,,\nb.jpg,,',
    ],
    ids=["unix", "windows", "mac", "quoted"],
)
def test_tables_are_text_with_line_numbers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes(content)
    table = read_table(path, ["name", "split"])
    assert table[["name", "split"]].to_dict("index") == {
        2: {"name": "a.jpg", "split": "train"},
        4: {"name": "b.jpg", "split": ""},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"There is no file .*/t\.csv\."),
        (b"", r"t\.csv could not be read as a CSV file with the columns \['name', 'split'\]"),
        (b"\xff\xd8\xff\xe0", r"t\.csv could not be read as a CSV file with the columns"),
        (b"name,split\na,train,b\nc,d,e,f\n", r"t\.csv could not be read as a CSV file"),
        (b"name,split\na,train,b\n", r"t\.csv has rows of more cells than its header 'name,split' has"),
        (b"name;split\na;train\n", r"has the columns \['name;split'\]; 'name' is missing. The header 'name,split' was"),
    ],
    ids=["missing", "empty", "picture", "ragged", "wide", "semicolons"],
)
def test_files_that_are_no_such_tables_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(path, ["name", "split"])
