"""Writes colorized images at their own size, and how far they are from the originals."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from callbacks.writers.base import Writer
from callbacks.writers.coloring.colored import Colored, ColoredFiles
from callbacks.writers.coloring.video import FilmColoring, Sink
from callbacks.writers.format import Format, Row, Table
from callbacks.writers.overview import Overview
from callbacks.writers.prediction import Prediction
from datamodules.batch import Batch, Frame
from drawing.pictures import Picture, panel, save_picture, scaled
from ops.color.coloring import colored, grey, has_colors
from ops.color.hints import Hints
from ops.color.lab import luminance_and_chroma
from ops.color.quality import picture_scores
from ops.errors import ArgumentError
from ops.files.names import safe_path
from ops.pictures import cropped

VIEW = 800  # maximum pixels of the longer side of an image in a panel
UNSURE = 40  # standard deviation of a and b, in CIE units, at the yellow end of a panel's map
SCORES = ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness", "colorfulness_true")


@dataclass(frozen=True, kw_only=True)
class Colorized(Colored):
    """A colorized image.

    Attributes:
        source: The original (H, W, 3) uint8.
        original: Whether the original has colors to compare with.
        scores: Its metrics by name, as in `figures.csv`.
        film: The colored frames of a film, of which the above is the one in the middle; None for an image.
        samples: Further plausible colorings (H, W, 3), if the task predicts any.
        spread: Standard deviation of the distribution that these are drawn from, in CIE units of a and b, (H, W).
    """

    source: Picture
    original: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    film: Sink | None = None
    samples: Sequence[Picture] = ()
    spread: NDArray[np.uint8] | None = None

    def prediction(self) -> Prediction:
        return replace(super().prediction(), scores=self.scores)


class ColoringWriter(Writer[Colorized]):
    """Writes every image in color, a panel of it, and a table of metrics into the run folder.

    - `colored/<path and stem>.png`: as large as the image, with its own luminance: L within 0.5; of a film, a file
      `.mp4` or `.mkv` or a folder of frames, see `callbacks.writers.coloring.video`.
    - `panels/<path and stem>.jpg`: gray and colorized side by side, and the original if it has colors.
    - `samples/<path and stem>/<number>.png` and `spread/<path and stem>.png`, if the task predicts `samples`: further
      plausible colorings, and the standard deviation of a and b, one gray level each unit; the panel has both.
    - `overview.html`: all images on one page, see `callbacks.writers.overview`.
    - `figures.csv`: for images with colors the metrics of `ops.color.quality.picture_scores` at full size;
      `colorfulness` for every image; and in `problem` why an image was skipped. Of a film, they are those of the frame
      in the middle, which panel and page show.

    The task predicts `chroma` (B, 2, S, S), scaled as in `ops.color.lab`, and maybe `samples` (B, K, 2, S, S) and
    `spread` (B, 1, S, S), see `tasks.coloring.ColoringTask.alternatives`. Batches have `name`, `index`, `image`, `box`
    (the place of the image within the square), `source`, the whole images (H, W, 3), `problem`, "" for usable ones, and
    maybe `hints`, row, column and sRGB of given colors (N, 5), which are spread over the image at full size. Those of a
    film also have `frame`, see `datamodules.batch.Frame`.

    Args:
        guided: Whether colors stop at edges of the full image's luminance; otherwise they are interpolated.
        suffix: File type of colorized images: `png`, or `jpg`, which is smaller but also changes the luminance, at
            color edges by several units of L.

    Raises:
        ArgumentError: The suffix is neither.
    """

    def __init__(self, guided: bool = True, suffix: Literal["png", "jpg"] = "png") -> None:
        if suffix not in ("png", "jpg"):
            raise ArgumentError(f"expected the suffix png or jpg, got {suffix!r}")
        self.guided, self.suffix = guided, suffix
        self._folder: Path | None = None
        self._film: FilmColoring | None = None
        super().__init__([ColorizedFiles(suffix), Alternatives(suffix), ColoringPanels(), Scores(),
                          ColoringOverview()])  # fmt: skip

    def begin(self, task: LightningModule, folder: Path, in_memory: bool = False) -> None:
        self._folder = None if in_memory else folder

    def end(self) -> None:
        if self._film is not None:
            self._film.close()
        self._film = None

    def images(self, outputs: Any, batch: Batch) -> Iterator[Colorized]:
        for i, name in enumerate(batch["name"]):
            index, problem, source = int(batch["index"][i]), batch["problem"][i], batch["source"][i]
            if problem:
                empty = np.zeros((0, 0, 3), np.uint8)
                yield Colorized(name=name, index=index, problem=problem, source=source, image=empty)
                continue
            chroma, square = (cropped(maps[i], batch["box"][i]) for maps in (outputs["chroma"], batch["image"]))
            hints = given_colors(batch["hints"][i]) if "hints" in batch else None
            luminance = luminance_and_chroma(square[None])[0][0]
            if "frame" in batch:
                if "samples" in outputs:
                    raise ArgumentError(f"{name} is a film, which gets one coloring. Remove --model.samples.")
                film = self._colored_film(batch["frame"][i], source, chroma, luminance, hints)
                if film is not None and film.shown is not None:
                    yield self._compared(name, index, *film.shown, chroma.device, film.sink)
                    self.end()
                continue
            image = colored(source, chroma, luminance, self.guided, hints)
            found = self._compared(name, index, source, image, chroma.device)
            if "samples" in outputs:
                several = (cropped(each, batch["box"][i]) for each in outputs["samples"][i])
                samples = [colored(source, each, luminance, self.guided, hints) for each in several]
                spread = cropped(outputs["spread"][i], batch["box"][i])[0].round().clamp(0, 255).byte().cpu().numpy()
                full = np.asarray(cv2.resize(spread, source.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
                found = replace(found, samples=samples, spread=full)
            yield found

    def _colored_film(
        self, frame: Frame, source: Picture, chroma: Tensor, luminance: Tensor, hints: Hints | None
    ) -> FilmColoring | None:
        """Colors the next frame of a film; returns the film when it is complete."""
        if self._folder is None:
            raise ArgumentError(
                f"{frame.film} is a film, which memory does not hold. Use belvedere predict, which writes a file."
            )
        if frame.number == 0:
            self.end()
            self._film = FilmColoring(frame, self._folder, self.suffix, self.guided)
        assert self._film is not None  # the first frame comes first
        self._film.add(frame, source, chroma, luminance, hints)
        return self._film if frame.last else None

    def _compared(
        self, name: str, index: int, source: Picture, image: Picture, device: torch.device, film: Sink | None = None
    ) -> Colorized:
        """Returns a colored image with its metrics."""
        original = has_colors(source)
        prediction, truth = (torch.from_numpy(each).to(device).permute(2, 0, 1)[None] for each in (image, source))
        found = picture_scores(prediction, truth, names=SCORES if original else ["colorfulness"])
        scores = {key: round(float(value), 4) for key, value in found.items()}
        return Colorized(
            name=name, index=index, source=source, image=image, original=original, scores=scores, film=film
        )


def given_colors(hints: NDArray[np.int64]) -> Hints:
    """Returns hints from row, column and sRGB of each, (N, 5)."""
    rgb = torch.from_numpy(hints[:, 2:]).float().T[None, :, :, None] / 255
    chroma = luminance_and_chroma(rgb)[1] if len(hints) else torch.zeros(1, 2, 0, 1)
    return Hints(hints[:, :2], chroma[0, :, :, 0].T.numpy())


class ColorizedFiles(ColoredFiles[Colorized]):
    """Writes `colored/<path and stem>.png` or `.jpg`, or moves a film there."""

    def write(self, image: Colorized, folder: Path) -> Iterable[Row]:
        if image.film is None:
            return super().write(image, folder)
        image.film.place(folder / "colored", image.name)
        return []


class Alternatives(Format[Colorized]):
    """Writes `samples/<path and stem>/<number>.png` or `.jpg`, and `spread/<path and stem>.png`."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def write(self, image: Colorized, folder: Path) -> list[Row]:
        for number, sample in enumerate(image.samples, start=1):
            save_picture(sample, folder / "samples" / safe_path(image.name, "") / f"{number}.{self.suffix}")
        if image.spread is not None:
            save_picture(image.spread, folder / "spread" / safe_path(image.name, ".png"))
        return []


class ColoringPanels(Format[Colorized]):
    """Writes `panels/<path and stem>.jpg`."""

    folders = ("panels",)

    def write(self, image: Colorized, folder: Path) -> list[Row]:
        small = _reduced(image.source)
        row = {"gray": grey(small), "colorized": _reduced(image.image)}
        row |= {f"sample {number}": _reduced(sample) for number, sample in enumerate(image.samples, start=1)}
        if image.spread is not None:
            row[f"spread (yellow: {UNSURE} or more)"] = _heat(image.spread, small.shape[:2])
        row |= {"original": small} if image.original else {}
        drawn = panel([list(row.values())], list(row), [image.name])
        save_picture(drawn, folder / "panels" / safe_path(image.name, ".jpg"))
        return []


class ColoringOverview(Overview[Colorized]):
    """Writes `overview.html` of colorized images."""

    title = "Colorized images"
    explanations: Mapping[str, str] = {
        "colorfulness": "how colorful the colorized image is (Hasler and Süsstrunk); 0 is gray",
        "delta_e2000": "mean color difference to the original (CIEDE2000); 0 is equal, below 2 hardly visible",
        "psnr": "likeness to the original in decibels; higher is closer",
    }

    def view(self, image: Colorized) -> Picture:
        return image.image

    def values(self, image: Colorized) -> dict[str, float]:
        return {name: image.scores.get(name, math.nan) for name in self.explanations}

    def note(self, image: Colorized) -> str:
        return "" if image.original else "no original colors"

    def link(self, image: Colorized) -> str:
        return f"panels/{safe_path(image.name, '.jpg')}"


class Scores(Table[Colorized]):
    """Writes `figures.csv`."""

    file = "figures.csv"
    lists_problems = True
    columns = ("name", *SCORES, "problem")

    def write(self, image: Colorized, folder: Path) -> list[Row]:
        return [[image.name, *(image.scores.get(column, math.nan) for column in SCORES), image.problem]]


def _heat(spread: NDArray[np.uint8], size: tuple[int, ...]) -> Picture:
    """Returns standard deviations as an image of this height and width, from violet for 0 to yellow for `UNSURE`."""
    small = cv2.resize(spread, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    levels = (255 * small.astype(np.float32) / UNSURE).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def _reduced(image: Picture) -> Picture:
    return image if max(image.shape[:2]) <= VIEW else scaled(image, VIEW, VIEW)
