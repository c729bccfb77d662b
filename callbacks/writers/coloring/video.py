"""Colors the frames of a film, which arrive in order, and writes them as a film with the sound of the original."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batch import Frame
from drawing.pictures import Picture, save_picture
from ops.atomic import PREFIX
from ops.color.coloring import colored
from ops.color.film import Coherence
from ops.color.hints import Hints, spread, spread_rows
from ops.color.lab import SCALE
from ops.files.names import safe_path
from ops.files.videos import opened_film

if TYPE_CHECKING:
    import av

IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")
"""Sound that players expect in MP4 files."""
QUALITY = "17"  # constant rate factor of x264: lower is better, and below 18 hardly a difference is seen
BT709 = 1  # FFmpeg's number of the matrix, primaries and transfer function of HD video
LIMITED = 1  # of the range of its levels


class FilmColoring:
    """Colors a film.

    Args:
        frame: Its first frame.
        folder: Where the film waits until it is complete.
        suffix: File type of frames that are images.
        guided: See `callbacks.writers.coloring.writer.ColoringWriter`.

    Attributes:
        shown: The frame in the middle and its colored image, for the panel, once it has come.
    """

    def __init__(self, frame: Frame, folder: Path, suffix: str, guided: bool) -> None:
        self.guided, self.coherence = guided, Coherence()
        waiting = folder / f"{PREFIX}film-{uuid4().hex}"
        self.sink: Sink = VideoSink(frame.film, waiting) if not frame.name else FrameSink(waiting, suffix)
        self.shown: tuple[Picture, Picture] | None = None

    def add(self, frame: Frame, source: Picture, chroma: Tensor, luminance: Tensor, hints: Hints | None) -> None:
        """Colors and writes the next frame.

        Args:
            frame: The frame.
            source: The frame (H, W, 3).
            chroma: Scaled chroma of the same frame, reduced and without padding, (2, h, w).
            luminance: Scaled luminance of the reduced frame, (1, h, w).
            hints: Given colors, at pixels of `source`.
        """
        if hints is not None and len(hints.places):
            chroma = chroma + added(hints, chroma, luminance, source.shape[:2])
        gray = (255 * (luminance[0] + 1) / 2).round().clamp(0, 255).byte().cpu().numpy()
        averaged = self.coherence(gray, (SCALE * chroma).movedim(0, 2).float().cpu().numpy())
        steady = torch.from_numpy(averaged).movedim(2, 0).to(chroma) / SCALE
        image = colored(source, steady, luminance, self.guided)
        self.sink.add(frame, image)
        if frame.number == frame.total // 2:
            self.shown = source, image

    def close(self) -> None:
        """Closes files, and removes the film unless it was placed; may be called more than once."""
        self.sink.close()


def added(hints: Hints, chroma: Tensor, luminance: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns what hints add to the chroma (2, h, w) of a reduced frame.

    Unlike in images they do not fix their own pixels: as they move, these would be seen as dots.
    """
    height, width = chroma.shape[1:]
    scale = np.array([height / size[0], width / size[1]])
    places = ((hints.places + 0.5) * scale - 0.5).round().astype(np.int64).clip(0, (height - 1, width - 1))
    row, column = torch.from_numpy(places).to(chroma.device).unbind(1)
    small = Hints(places, hints.chroma)
    grid = spread(small, chroma[:, row, column].T, luminance[0, row, column], height, width)
    return spread_rows(grid, luminance[None], 0, height)[0]


class Sink(ABC):
    """Where colored frames go."""

    @abstractmethod
    def add(self, frame: Frame, image: Picture) -> None:
        """Writes the next frame."""

    @abstractmethod
    def place(self, folder: Path, name: str) -> None:
        """Moves the complete film to where its name belongs below a folder."""

    @abstractmethod
    def close(self) -> None:
        """Closes files, and removes the film unless it was placed; may be called more than once."""


class FrameSink(Sink):
    """Writes each frame as an image.

    Args:
        waiting: A folder to write into.
        suffix: `png` or `jpg`.
    """

    def __init__(self, waiting: Path, suffix: str) -> None:
        self.waiting, self.suffix = waiting, suffix

    def add(self, frame: Frame, image: Picture) -> None:
        save_picture(image, self.waiting / safe_path(frame.name, f".{self.suffix}"))

    def place(self, folder: Path, name: str) -> None:
        self.waiting.replace(folder / name)

    def close(self) -> None:
        shutil.rmtree(self.waiting, ignore_errors=True)


class VideoSink(Sink):
    """Writes a video file, H.264 in MP4, or in Matroska if MP4 does not take the sound, which is copied.

    Frames are shown when the original ones are. Sides of an odd number of pixels, which the format does not have, grow
    by one.

    Args:
        film: The original.
        waiting: A path to write to; the suffix is added.

    Attributes:
        suffix: `.mp4` or `.mkv`.

    Raises:
        DataError: The original cannot be read.
        OSError: The file cannot be written.
    """

    def __init__(self, film: Path, waiting: Path) -> None:
        with opened_film(film) as source:
            sound = [stream.codec_context.codec.canonical_name for stream in source.streams.audio]
        self.suffix = ".mp4" if set(sound) <= {*IN_MP4} else ".mkv"
        self.film, self.waiting, self._files = film, waiting.with_name(waiting.name + self.suffix), ExitStack()
        try:
            self._source = self._files.enter_context(opened_film(film))
            with self._named_errors():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Opens the file and chooses how it is encoded."""
        import av

        self._target: Any = self._files.enter_context(av.open(self.waiting, "w"))
        given = self._source.streams.video[0]
        rate = given.average_rate or Fraction(25)
        self._clock = given.time_base or 1 / rate
        self._video = self._target.add_stream("libx264", rate=rate)
        self._video.pix_fmt = "yuv420p"
        ratio = given.sample_aspect_ratio
        if ratio:
            self._video.codec_context.sample_aspect_ratio = ratio
        context = self._video.codec_context
        context.time_base = self._clock
        context.options = {"crf": QUALITY, "preset": "medium"}
        context.color_range, context.colorspace = LIMITED, BT709
        context.color_primaries = context.color_trc = BT709
        self._sounds = {stream.index: self._target.add_stream_from_template(stream)
                        for stream in self._source.streams.audio}  # fmt: skip
        self._packets = self._of_sound()
        self._kept = next(self._packets, None)

    def _of_sound(self) -> "Iterator[tuple[Fraction, av.Packet[Any]]]":
        """Yields the packets of sound, with the time in seconds that orders them."""
        if self._sounds:
            for packet in self._source.demux(self._source.streams.audio):
                if packet.dts is not None and packet.time_base is not None:
                    yield packet.dts * packet.time_base, packet

    def add(self, frame: Frame, image: Picture) -> None:
        """Writes the next frame.

        Raises:
            OSError: The file cannot be written.
        """
        with self._named_errors():
            self._add(frame, image)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns errors of FFmpeg into an OSError that names the file."""
        import av

        try:
            yield
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self.waiting)) from error

    def _add(self, frame: Frame, image: Picture) -> None:
        import av

        made = av.VideoFrame.from_ndarray(_even(image), "rgb24")
        made = made.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
        if frame.number == 0:
            self._video.width, self._video.height = made.width, made.height
        made.pts, made.time_base = frame.time, self._clock
        for packet in self._video.encode(made):
            self._mux(packet)
        if frame.last:
            for packet in self._video.encode():
                self._mux(packet)
            self._sound_until(None)
            self._files.close()

    def _mux(self, packet: Any) -> None:
        self._sound_until(packet.dts * packet.time_base)
        self._target.mux(packet)

    def _sound_until(self, seconds: Fraction | None) -> None:
        """Copies the sound up to a time, all of it for None."""
        while self._kept is not None and (seconds is None or self._kept[0] <= seconds):
            packet = self._kept[1]
            packet.stream = self._sounds[packet.stream.index]
            self._target.mux(packet)
            self._kept = next(self._packets, None)

    def place(self, folder: Path, name: str) -> None:
        self.waiting.replace(folder / safe_path(name, self.suffix))

    def close(self) -> None:
        try:
            with self._named_errors():
                self._files.close()
        finally:
            self.waiting.unlink(missing_ok=True)


def _even(image: Picture) -> NDArray[np.uint8]:
    """Returns an image with sides of even numbers of pixels, of which the last may be repeated."""
    odd = [side % 2 for side in image.shape[:2]]
    return np.pad(image, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else image
