import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.read.pictures import read_picture
from datamodules.read.video import FrameFolder, Reader, VideoFile, find_film, frame_names
from ops import extras
from ops.errors import DataError
from tests.checks import rejects
from tests.datamodules.helpers import film, noise, table, truncate, write

HEIGHT, WIDTH, COUNT = 48, 64, 9


def pictures(count: int = COUNT) -> list[np.ndarray]:
    """Frames of one color each, the upper half brighter, so that they differ after compression."""
    found = [np.full((HEIGHT, WIDTH, 3), (20 * place + 30, 120, 200 - 15 * place), np.uint8) for place in range(count)]
    for each in found:
        each[: HEIGHT // 2] += 20
    return found


def test_frames_of_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    found = list(VideoFile(film(tmp_path / "a.mp4", pictures())).frames())
    assert len(found) == COUNT
    for (pixels, name, _), wanted in zip(found, pictures(), strict=True):
        assert (pixels.shape, name) == ((HEIGHT, WIDTH, 3), "")
        assert np.abs(pixels.astype(int) - wanted).max() < 6
    times = [time for *_, time in found]
    assert np.ptp(np.diff(times)) == 0
    assert VideoFile(tmp_path / "a.mp4").size == (HEIGHT, WIDTH)
    small = next(VideoFile(tmp_path / "a.mp4").frames(32))[0]
    assert small.shape == (24, 32, 3)


def test_films_of_phones_are_turned(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", pictures(2))
    data = path.read_bytes()
    upright = b"".join(
        number.to_bytes(4, "big", signed=True) for number in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    )
    turned = b"".join(
        number.to_bytes(4, "big", signed=True) for number in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    )
    place = data.index(upright, data.index(b"tkhd"))  # the matrix of the track: 90 degrees clockwise
    path.write_bytes(data[:place] + turned + data[place + len(upright) :])
    shown = VideoFile(path)
    assert shown.size == (WIDTH, HEIGHT)
    pixels = next(shown.frames())[0]
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(pixels.astype(int) - np.rot90(pictures(1)[0], -1)).max() < 6
    assert next(shown.frames(32))[0].shape == (32, 24, 3)


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for place, picture in enumerate(pictures(11)):
        write(tmp_path / "shot" / f"frame_{place}.png", picture)
    found = FrameFolder(tmp_path / "shot")
    assert frame_names(found, 11) == [f"frame_{place}.png" for place in range(11)]
    for (pixels, name, time), wanted in zip(found.frames(), pictures(11), strict=True):
        assert np.array_equal(pixels, wanted)
        assert name == f"frame_{time}.png"
    write(tmp_path / "shot" / "frame_5.png", noise(40, 64))
    rejects(r"frame_5\.png is 40 x 64 .* 48 x 64", list, found.frames(), error=DataError)


def test_a_reader_decodes_each_frame_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = VideoFile(film(tmp_path / "a.mp4", pictures()))
    opened = []
    frames = shown.frames
    monkeypatch.setattr(shown, "frames", lambda *given: opened.append(1) or frames(*given))
    read = Reader(shown, COUNT)
    for place in range(COUNT):
        pixels, frame = read(place)
        assert abs(int(pixels[-1, 0, 0]) - (20 * place + 30)) < 6
        assert (frame.number, frame.total, frame.last) == (place, COUNT, place == COUNT - 1)
    assert len(opened) == 1
    assert abs(int(read(4)[0][-1, 0, 0]) - 110) < 6, "others are found too"
    monkeypatch.undo()
    assert pickle.loads(pickle.dumps(read))(2)[1].number == 2
    rejects("ends at frame 9 of 12", Reader(shown, 12), 9, error=DataError)


def test_films_that_cannot_be_read_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    rejects(r"text\.mp4 cannot be read as a film", VideoFile, tmp_path / "text.mp4", error=DataError)
    path = film(tmp_path / "a.avi", [noise(HEIGHT, WIDTH, seed=place) for place in range(40)])
    truncate(path)
    assert 0 < len(list(VideoFile(path).frames())) < 40
    rejects("frames needs a folder", find_film, path.parent / "gone", True, error=DataError)
    assert find_film(tmp_path, False) is None
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    rejects("pip install av ", VideoFile, path, error=extras.MissingPackageError)


def batches(data: ColorizationDataModule) -> list[dict[str, Any]]:
    data.setup("predict")
    return list(data.predict_dataloader())


def test_a_film_is_predicted_frame_by_frame_with_its_hints(tmp_path: Path) -> None:
    picture = noise(HEIGHT // 4, WIDTH // 2).repeat(4, axis=0).repeat(4, axis=1)
    frames = [picture[:, place : place + WIDTH] for place in range(0, 8, 2)]
    film(tmp_path / "a.b.mp4", frames)
    table(tmp_path / "hints.csv", "image,x,y,color", "a.b/2,30,20,#c03020")
    data = ColorizationDataModule(tmp_path, 32, tmp_path / "a.b.mp4", num_workers=0, hints=tmp_path / "hints.csv")
    found = batches(data)
    assert data.predicted_names() == (tmp_path, ["a.b.mp4"])
    assert [batch["frame"][0].number for batch in found] == [0, 1, 2, 3]
    assert {batch["name"][0] for batch in found} == {"a.b.mp4"}
    assert found[0]["image"].shape == (1, 3, 32, 32)
    assert found[0]["box"].tolist() == [[4, 0, 24, 32]]
    assert found[0]["source"][0].shape == (HEIGHT, WIDTH, 3)
    for batch, x in zip(found, (34, 32, 30, 28), strict=True):
        [[row, column, *color]] = batch["hints"][0].tolist()
        assert abs(row - 20) <= 1
        assert abs(column - x) <= 1
        assert color == [0xC0, 0x30, 0x20]
    wrong = ColorizationDataModule(tmp_path, 32, tmp_path / "a.b.mp4", num_workers=0, hints=tmp_path / "hints.csv")
    for line, problem in {"a.b/4,1,1,#000000": "no image", "a.b/1,64,1,#000000": "x from 0 to 63"}.items():
        table(tmp_path / "hints.csv", "image,x,y,color", line)
        rejects(problem, wrong.setup, "predict", error=DataError)


def test_a_folder_is_a_film_if_that_is_said(tmp_path: Path) -> None:
    for place, picture in enumerate(pictures(3)):
        write(tmp_path / "shot" / f"{place}.png", picture)
    data = ColorizationDataModule(tmp_path, 32, tmp_path / "shot", num_workers=0, frames=True)
    found = batches(data)
    assert data.predicted_names() == (tmp_path, ["shot"])
    assert [(batch["name"], batch["frame"][0].name) for batch in found] == [(["shot"], f"{n}.png") for n in range(3)]
    assert np.array_equal(found[1]["source"][0], read_picture(tmp_path / "shot" / "1.png"))
    assert "frame" not in batches(ColorizationDataModule(tmp_path, 32, tmp_path / "shot", num_workers=0))[0]
    Image.fromarray(noise(20, 20)).save(tmp_path / "shot" / "0.png")
    rejects("sides of 32 or more", data.setup, "predict", error=DataError)
