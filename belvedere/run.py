"""Applies exported files to images, without torch: `python -m belvedere.run model.onnx images/ --output out/`.

It needs numpy, Pillow, OpenCV and ONNX Runtime only, and reads, cuts, stitches and writes images by the same code as
`belvedere predict`.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from callbacks.writers.coloring.colored import Colored, ColoredFiles
from callbacks.writers.format import FAILED, Finished, Format, Row, place, skipped
from callbacks.writers.judged import Judged, ScoreTable
from callbacks.writers.prediction import Prediction
from callbacks.writers.segmentation.masks import MaskFiles, Overlays, Submission
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.stitched import Canvas, Stitched, Whole, uncertain
from datamodules.read.boxes import boxes_beside
from datamodules.read.names import located, predicted_names
from datamodules.read.pictures import (
    BACKGROUND,
    THUMBNAIL,
    checked_size,
    fitted,
    picture_size,
    read_picture,
    resized,
    squared,
)
from datamodules.read.strips import Strip
from drawing.pictures import Picture
from ops.atomic import PREFIX, check_writable, write_table
from ops.errors import SKIPPED, ArgumentError, DataError, UserError
from ops.extras import check_installed
from ops.files.images import check_pixels
from ops.files.locks import claimed
from ops.masks.regions import least_areas, without_small_regions
from ops.windows import cut, window_grid

KEY = "belvedere"  # of the settings in a file's metadata
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """Thresholds and minimum areas of a file, as `tasks.decision.Decision` applies them.

    Attributes:
        thresholds: Of each class.
        minimum_areas: Shares of an image, of each class.
        minimum_pixels: The least of every class.
    """

    thresholds: Sequence[float]
    minimum_areas: Sequence[float]
    minimum_pixels: int = 0

    @classmethod
    def of(cls, fitted: Any) -> "Decision":
        """Returns the thresholds and minimum areas of a `tasks.decision.Decision`."""
        return cls(fitted.thresholds.tolist(), fitted.minimum_areas.tolist(), fitted.minimum_pixels)

    def marked(self, probability: Maps) -> NDArray[np.bool_]:
        """Returns which pixels reach their class's threshold, for probabilities (…, K, H, W)."""
        return np.asarray(probability >= np.array(self.thresholds, np.float32)[:, None, None])

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """Returns the smallest region of each class that is kept, as a share of the image."""
        return least_areas(self.minimum_areas, self.minimum_pixels, size)

    def masks(self, probability: Maps) -> NDArray[np.bool_]:
        """Returns the masks of a whole image for probabilities (K, H, W)."""
        marked = self.marked(probability)
        return without_small_regions(marked, self.least_areas((marked.shape[1], marked.shape[2])))


class Model:
    """A file that `belvedere export` has written.

    Args:
        path: The ONNX file.
        threads: Number of threads; 0 leaves it to ONNX Runtime.

    Attributes:
        settings: The file's metadata: `task`, `classes`, `preparation`, `decisions`, `version` and others.

    Raises:
        ArgumentError: There is no such file, or another program wrote it.
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        check_installed("onnxruntime", "Exported files need")
        import onnxruntime

        if not Path(path).is_file():
            raise ArgumentError(f"There is no file {path}; expected one that belvedere export has written.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; the sizes that a file names are only hints
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            found = self.session.get_modelmeta().custom_metadata_map
            self.settings: dict[str, Any] = json.loads(found[KEY])
        except Exception as error:  # broken files make the parser raise anything
            hints = {".ckpt": f" It is a checkpoint: belvedere export --ckpt_path {path}.",
                     ".zip": f" It is a package: belvedere predict --model {path}."}  # fmt: skip
            raise ArgumentError(
                f"{path} is not a file that belvedere export has written, or is truncated."
                f"{hints.get(Path(path).suffix.lower(), '')}"
            ) from error
        self.preparation: Mapping[str, Any] = self.settings["preparation"]
        self.floating = self.session.get_inputs()[0].type == "tensor(float)"
        self.decisions = [Decision(**each) for each in self.settings.get("decisions", [])]

    def outputs(self, image: Picture, prepared: Picture | None = None) -> dict[str, NDArray[Any]]:
        """Returns the file's outputs for an image (H, W, 3) uint8, by name and without the axis of the batch."""
        names = [output.name for output in self.session.get_outputs()]
        found = self.session.run(names, self.feed(image, prepared))
        return {name: value[0] for name, value in zip(names, found, strict=True)}

    def feed(self, image: Picture, prepared: Picture | None = None) -> dict[str, NDArray[Any]]:
        """Returns the file's inputs for an image, and the same at the level of its pyramid, if there is one."""
        batch = image[None]
        found = {"image": batch.astype(np.float32) / np.float32(255) if self.floating else batch}
        return found if prepared is None else found | {"prepared": prepared[None]}

    def inputs(self, file: Path) -> Iterator[tuple[Picture, Picture | None]]:
        """Yields the arguments of `outputs` for an image: one, or one for each of its windows.

        Raises:
            DataError: The image cannot be read.
        """
        preparation = self.preparation
        match preparation["kind"]:
            case "resized" if "window" not in preparation:
                rows, columns = preparation["size"]
                yield resized(read_picture(file, at_least=(rows, columns)), (rows, columns)), None
            case "resized":
                picture, window = read_picture(file), tuple(preparation["window"])
                for origin in window_grid(picture.shape[:2], window, preparation["overlap"]):
                    yield np.ascontiguousarray(cut(picture, origin, window)), None
            case "pyramid":
                picture = read_picture(file)
                yield picture, self._halved(picture) if preparation["levels"] else None
            case "squared":
                side = preparation["side"]
                yield squared(read_picture(file, at_least=(side, side)), side, preparation["squeeze"]), None
            case _:
                yield read_picture(file), None

    def predict(self, path: str | Path) -> Prediction:
        """Returns what `belvedere.predict` returns for an image file, without `polygons`."""
        with TemporaryDirectory() as folder:
            image = self.finished(Path(path), Path(path).name, 0, Path(folder), keep=True)
            prediction = image.prediction()
            close(image)
            return prediction

    def finished(self, file: Path, name: str, index: int, folder: Path, keep: bool = False) -> Finished:
        """Returns a finished image, whose `problem` says why it cannot be used.

        Args:
            file: The image.
            name: Its name below the folder of images.
            index: Its number.
            folder: Where temporary files may lie.
            keep: Whether to keep the probability of masks in memory.
        """
        make = {"resized": self._masks, "pyramid": self._scene, "squared": self._judged, "letterboxed": self._colored}
        known: dict[str, Any] = {"name": name, "index": index}
        try:
            return make[self.preparation["kind"]](file, known, folder, keep)
        except DataError as error:
            problem = str(error)
        empty = np.zeros((0, 0, 3), np.uint8)
        match self.preparation["kind"]:
            case "squared":
                scores: dict[str, Any] = dict.fromkeys(("probability", "mean", "spread"), math.nan)
                return Judged(**known, problem=problem, source=empty, **scores)
            case "letterboxed":
                return Colored(**known, problem=problem, image=empty)
            case _:
                nothing = Whole(np.zeros((len(self.settings["classes"]), 0, 0), np.bool_))
                return self._stitched(known | {"problem": problem}, empty, nothing)

    def _stitched(self, known: dict[str, Any], source: Picture, content: Canvas | Whole) -> Stitched:
        return Stitched(**known, classes=self.settings["classes"], source=source, content=content)

    def _masks(self, file: Path, known: dict[str, Any], folder: Path, keep: bool) -> Stitched:
        """Marks an image as `datamodules.decoded.predicted` and `callbacks.writers.segmentation.stitch` do together."""
        size, window = picture_size(file), self.preparation.get("window")
        view = fitted(size, BACKGROUND)
        if window is None:
            rows, columns = self.preparation["size"]
            output = self.preparation.get("output_size") or size
            check_pixels(file, *output)
            picture = read_picture(file, at_least=(max(view[0], rows), max(view[1], columns)))
            canvas = Canvas(self.decisions[-1], tuple(output), tuple(output), 0.0, folder, keep)
            canvas.add(self.outputs(resized(picture, (rows, columns)))["probability"], (0, 0))
            return self._stitched(known, resized(picture, view), canvas)
        overlap, strip = self.preparation["overlap"], Strip(file, size, window[0], view)
        canvas = Canvas(self.decisions[-1], size, tuple(window), overlap, folder, keep)
        try:
            for top, left in window_grid(size, tuple(window), overlap):
                part = np.ascontiguousarray(cut(strip.move(top), (0, left), tuple(window)))
                canvas.add(self.outputs(part)["probability"], (top, left))
        except BaseException:
            canvas.close()
            raise
        return self._stitched(known, strip.view(), canvas)

    def _scene(self, file: Path, known: dict[str, Any], folder: Path, keep: bool) -> Stitched:
        """Marks an image at a level of its pyramid, in one pass or two, as `tasks.avalanches` does."""
        levels, least = self.preparation["levels"], self.preparation["least_side"]
        picture = read_picture(file)
        level = self._halved(picture)
        if min(level.shape[:2]) < least:
            raise DataError(
                f"{file} is {level.shape[0]} x {level.shape[1]} pixels at pyramid level {levels}: smaller than a "
                f"window of {least} x {least}. Enlarge or remove it."
            )
        probability = self._level(picture, level)
        if "second_input" in self.settings:
            step = 2**levels
            mask = self.decisions[0].masks(probability[:, ::step, ::step])[0]
            low, high = self.settings["edge_thresholds"]
            edges = cv2.Canny(mask.astype(np.uint8) * 255, low, high, L2gradient=self.settings["euclidean"]) > 0
            if self.settings["second_input"] == "edges":
                level = np.repeat(edges[..., None].astype(np.uint8) * 255, 3, axis=2)
            else:
                level = np.where(edges[..., None], np.uint8(255), level)
            probability = self._level(picture if levels else level, level)
        masks = self.decisions[-1].masks(probability)
        content = Whole(masks, probability if keep else None, float(uncertain(probability).mean()))
        return self._stitched(known, picture, content)

    def _halved(self, picture: Picture) -> Picture:
        for _ in range(self.preparation["levels"]):
            picture = cv2.pyrDown(picture).reshape(-(-picture.shape[0] // 2), -(-picture.shape[1] // 2), 3)
        return picture

    def _level(self, picture: Picture, level: Picture) -> Maps:
        found: Maps = self.outputs(picture, level if self.preparation["levels"] else None)["probability"]
        return found

    def _judged(self, file: Path, known: dict[str, Any], folder: Path, keep: bool) -> Judged:
        side = self.preparation["side"]
        picture = read_picture(file, at_least=(side, side))
        found = self.outputs(squared(picture, side, self.preparation["squeeze"]))
        names = ("probability", "mean", "spread")
        scores: dict[str, Any] = {name: float(found.get(name, math.nan)) for name in names}
        source = resized(picture, fitted((picture.shape[0], picture.shape[1]), THUMBNAIL))
        return Judged(**known, source=source, **scores)

    def _colored(self, file: Path, known: dict[str, Any], folder: Path, keep: bool) -> Colored:
        checked_size(file)
        return Colored(**known, image=self.outputs(read_picture(file))["colored"])

    def formats(self) -> list[Format[Any]]:
        """Returns the output formats of the run that the file is from, as far as they need no further package."""
        formats: Mapping[str, Any] = self.settings["formats"]
        match self.preparation["kind"]:
            case "squared":
                return [ScoreTable()]
            case "letterboxed":
                return [ColoredFiles(formats["suffix"])]
        found: list[Format[Any]] = [MaskFiles(formats["folders"])]
        found.append(Outlines(**formats["outlines"]) if "outlines" in formats else Overlays())
        return [*found, Submission()] if formats["submission"] else found


def close(image: Finished) -> None:
    """Deletes the temporary files of a finished image."""
    if isinstance(image, Stitched) and isinstance(image.content, Canvas):
        image.content.close()


def predict(model: Model, images: Path, folder: Path) -> list[tuple[str, str]]:
    """Writes what `belvedere predict` writes for images, except pages, panels and metrics.

    Args:
        model: The file.
        images: A folder, or one file.
        folder: Where to write; results of the same names are replaced, once all images are done.

    Returns:
        Name and problem of each image that cannot be used.

    Raises:
        DataError: There are no images.
    """
    formats = model.formats()
    source, names = predicted_names(images, unique=model.preparation["kind"] != "squared")
    boxes = boxes_beside(images)
    if model.preparation["kind"] == "pyramid" and boxes.is_file():
        print(f"belvedere.run: {boxes} is ignored, so whole images are marked.", file=sys.stderr)
    part = folder / f"{PREFIX}run"  # `part` may hold images that an interrupted `belvedere predict` has finished
    shutil.rmtree(part, ignore_errors=True)
    for inner in ("", *(name for each in formats for name in each.folders)):
        (part / inner).mkdir(parents=True, exist_ok=True)
    rows: list[list[Row]] = [[] for _ in formats]
    problems: list[tuple[str, str]] = []
    try:
        for index, name in enumerate(names):
            image = model.finished(located(source, name), name, index, part)
            problems += [(name, image.problem)] if image.problem else []
            for each, kept in zip(formats, rows, strict=True):
                kept += each.write(image, part) if each.lists_problems or not image.problem else []
            close(image)
        notes = [each.finish(kept, part) for each, kept in zip(formats, rows, strict=True)]
        if problems:
            write_table(part / FAILED, ("name", "problem"), problems)
        (folder / FAILED).unlink(missing_ok=True)  # that of an earlier prediction
        print(f"Images predicted: {len(names) - len(problems)}.{place(part)}{''.join(notes)}{skipped(problems)}")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: What was typed after `python -m belvedere.run`; None reads it from the process.

    Returns:
        The exit code: 0; 2 for an error that the user can fix; 3 if some images could not be used.
    """
    parser = argparse.ArgumentParser(prog="python -m belvedere.run", description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", help="file that belvedere export has written")
    parser.add_argument("images", type=Path, help="folder of images, or one image")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--threads", type=int, default=0, help="number of threads (default: all cores)")
    given = parser.parse_args(arguments)
    try:
        model = Model(given.model, given.threads)
        folder = given.output.expanduser()
        check_writable(folder)
        with claimed(folder, "belvedere.run"):
            return SKIPPED if predict(model, given.images.expanduser(), folder) else 0
    except (UserError, OSError) as error:
        print(f"\nbelvedere.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbelvedere.run: stopped by Ctrl-C.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
