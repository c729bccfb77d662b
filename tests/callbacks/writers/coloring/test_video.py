import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from callbacks.writers.coloring.video import FrameSink, Sink, VideoSink
from callbacks.writers.coloring.writer import ColoringWriter
from callbacks.writers.memory import Collector
from datamodules.batch import Frame
from datamodules.colorization import ColorizationDataModule
from ops.color.coloring import grey
from ops.color.film import Coherence
from ops.errors import ArgumentError
from tests.callbacks.writers.coloring.test_writer import OwnColors
from tests.callbacks.writers.shared import predict, read
from tests.checks import rejects
from tests.datamodules.helpers import contents, csv_rows, film, write

SIZE = (60, 80)


def frames(count: int = 12, height: int = SIZE[0]) -> list[NDArray[np.uint8]]:
    """A colored pattern that moves to the left, and after half of the film another one."""
    y, x = np.mgrid[:height, : SIZE[1] + 2 * count]
    waves = [128 + 60 * np.sin(x / 5) * np.cos(y / 6), 128 + 50 * np.cos(x / 9), 128 + 60 * np.sin((x + y) / 11)]
    first = np.stack(waves, axis=2).astype(np.uint8)
    both = first, first[::-1, :, ::-1]
    return [both[2 * place // count][:, 2 * place : 2 * place + SIZE[1]] for place in range(count)]


def run(folder: Path, pictures: Path, **options: Any) -> None:
    data = ColorizationDataModule(folder, 48, pictures, num_workers=0, **options)
    predict(folder, OwnColors(), data, ColoringWriter())


def decoded(path: Path) -> tuple[list[NDArray[np.uint8]], list[float], int]:
    """Frames, when they are shown in seconds, and the number of packets of sound."""
    import av

    with av.open(path) as container:
        shown = [(frame.to_ndarray(format="rgb24"), float(frame.time or 0)) for frame in container.decode(video=0)]
    with av.open(path) as container:
        sound = [packet for packet in container.demux(container.streams.audio) if packet.size] \
            if container.streams.audio else []  # fmt: skip
    return [each for each, _ in shown], [time for _, time in shown], len(sound)


@pytest.mark.parametrize(("sound", "suffix"), [("aac", "mp4"), (None, "mp4"), ("pcm_s16le", "mkv")])
def test_a_film_keeps_its_luminance_times_and_sound(sound: str | None, suffix: str, tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14]  # of a phone, whose frames come when they come
    source = film(tmp_path / "old.mkv" if sound == "pcm_s16le" else tmp_path / "old.mp4", frames(), sound, times)
    run(tmp_path / "run", source)
    before, after = decoded(source), decoded(tmp_path / "run" / "colored" / f"old.{suffix}")
    np.testing.assert_allclose(after[1], before[1], atol=1e-3)
    assert after[2] == before[2] == (0 if sound is None else after[2])
    assert (after[2] > 0) == (sound is not None)
    for found, wanted in zip(after[0], before[0], strict=True):
        assert np.abs(found.astype(int) - wanted).mean() < 12, "the network gives the true colors"
        assert np.abs(grey(found).astype(int) - grey(wanted)).mean() < 3
    assert sorted(contents(tmp_path / "run")) == sorted(
        [f"colored/old.{suffix}", "figures.csv", "overview.html", "panels/old.jpg"]
    )
    [row] = csv_rows(tmp_path / "run" / "figures.csv")
    assert (row["name"], row["problem"]) == (source.name, "")
    assert float(row["delta_e2000"]) < 6


def test_odd_sides_grow_by_a_pixel_and_frames_of_a_folder_do_not(tmp_path: Path) -> None:
    pictures = frames(4, 61)
    run(tmp_path / "run", film(tmp_path / "odd.mp4", pictures))
    assert decoded(tmp_path / "run" / "colored" / "odd.mp4")[0][0].shape == (62, 80, 3)
    for place, picture in enumerate(pictures):
        write(tmp_path / "shot" / f"{place}.png", picture)
    run(tmp_path / "folder", tmp_path / "shot", frames=True)
    for place, picture in enumerate(pictures):
        found = read(tmp_path / "folder" / "colored" / "shot" / f"{place}.png")
        assert found.shape == picture.shape
        assert np.abs(found.astype(int) - picture).mean() < 12
    assert [row["name"] for row in csv_rows(tmp_path / "folder" / "figures.csv")] == ["shot"]


def test_hints_on_one_frame_color_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(60, 190, (15, 30, 1)), 3, axis=2).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    source = film(tmp_path / "gray.mp4", [picture[:, place : place + 80] for place in range(0, 16, 2)])
    lines = [f"gray/3,{x},30,#3060d0" for x in (20, 40, 60)]
    (tmp_path / "hints.csv").write_text("\n".join(["image,x,y,color", *lines]))
    run(tmp_path / "plain", source)
    run(tmp_path / "run", source, hints=tmp_path / "hints.csv")
    for plain, found in zip(*(decoded(tmp_path / name / "colored" / "gray.mp4")[0] for name in ("plain", "run")),
                            strict=True):  # fmt: skip
        bluer = found[..., 2].astype(int) - found[..., 0] - (plain[..., 2].astype(int) - plain[..., 0])
        assert bluer[:, 20:60].mean() > 20


def test_colors_are_steadier_than_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trembling(OwnColors):
        def predict_step(self, batch: Any, index: int) -> dict[str, Any]:
            found: dict[str, Any] = super().predict_step(batch, index)
            return {"chroma": found["chroma"] + (-1) ** index * 0.08}

    still = np.ascontiguousarray(frames(2)[0])
    source = film(tmp_path / "still.mp4", [still] * 8)
    changes = {}
    for name, share in (("steady", 0.2), ("alone", 1.0)):
        monkeypatch.setattr(Coherence.__init__, "__defaults__", (share,))
        data = ColorizationDataModule(tmp_path, 48, source, num_workers=0)
        predict(tmp_path / name, Trembling(), data, ColoringWriter())
        shown = np.stack(decoded(tmp_path / name / "colored" / "still.mp4")[0]).astype(int)
        changes[name] = np.abs(np.diff(shown, axis=0)).mean()
    assert changes["steady"] < 0.4 * changes["alone"]


def test_memory_holds_no_film_and_nothing_is_left_of_a_broken_one(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", frames(4))
    data = ColorizationDataModule(tmp_path, 48, source, num_workers=0)
    rejects("belvedere predict", predict, tmp_path / "run", OwnColors(), data, Collector(ColoringWriter()),
            error=ArgumentError)  # fmt: skip

    class Failing(OwnColors):
        def predict_step(self, batch: Any, index: int) -> dict[str, Any]:
            if index == 2:
                raise RuntimeError("stopped")
            return super().predict_step(batch, index)

    with pytest.raises(RuntimeError, match="stopped"):
        predict(tmp_path / "run", Failing(), data, ColoringWriter())
    assert not (tmp_path / "run" / "part").exists()


@pytest.mark.parametrize("folder", [False, True])
def test_a_film_that_was_not_placed_is_removed(folder: bool, tmp_path: Path) -> None:
    pictures = frames(4)
    source = film(tmp_path / "a.mp4", pictures)
    (tmp_path / "results").mkdir()
    for placed in (False, True):
        waiting = tmp_path / "part" / "waiting"
        waiting.parent.mkdir(exist_ok=True)
        sink: Sink = FrameSink(waiting, "png") if folder else VideoSink(source, waiting)
        for number, picture in enumerate(pictures):
            sink.add(Frame(source, number, len(pictures), f"{number}.png" * folder, number), picture)
        if placed:
            sink.place(tmp_path / "results", "a")
        sink.close()
        sink.close()
        assert not any((tmp_path / "part").iterdir())
        assert any((tmp_path / "results").iterdir()) is placed


def test_a_video_that_cannot_be_made_names_its_file_and_closes_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from av.error import FFmpegError

    pictures = frames(4)
    source = film(tmp_path / "a.mp4", pictures, "aac")

    def fails(sink: VideoSink) -> None:
        raise FFmpegError(28, "no space")

    kept = len(os.listdir("/proc/self/fd"))
    sink = VideoSink(source, tmp_path / "nowhere" / "b")
    for number, picture in enumerate(pictures[:3]):  # the encoder keeps them
        sink.add(Frame(source, number, 4, "", number), picture)
    rejects("nowhere/b.mp4", sink.add, Frame(source, 3, 4, "", 3), pictures[3], error=OSError)
    sink.close()
    monkeypatch.setattr(VideoSink, "_of_sound", fails)
    rejects("no space.*b.mp4", VideoSink, source, tmp_path / "b", error=OSError)
    assert len(os.listdir("/proc/self/fd")) == kept
    assert not (tmp_path / "b.mp4").exists()
