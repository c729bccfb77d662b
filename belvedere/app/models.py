"""What the page shows: trained tasks, and what they find in images."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from belvedere.commandline.parser import parameters
from belvedere.names import TASKS, task_name
from belvedere.prediction import class_of, configured, load, outlines_of, predict
from belvedere.run import Decision
from belvedere.run import Model as File
from callbacks.writers.prediction import Prediction
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.stitched import Maps, Stitched, Whole
from datamodules.read.pictures import read_picture, resized
from datamodules.read.rasters import COLOR, Channels, shown
from drawing.pictures import Masks, Picture, save_picture
from ops.errors import ArgumentError
from tasks.base import ImageTask
from tasks.coloring import ColoringTask
from tasks.segmentation import SegmentationTask

Kind = Literal["masks", "colors", "scores"]


@dataclass(frozen=True)
class AppResult:
    """What a task finds in an image.

    Attributes:
        name: Name of the image's file.
        picture: The image (H, W, 3).
        probability: Of each class, (K, H, W), if the task marks classes.
        colored: The image in color (H, W, 3), if the task colors.
        scores: Values by name, if the task judges.
        problem: Why the image cannot be used; "" if it can.
    """

    name: str
    picture: Picture
    probability: Maps | None = None
    colored: Picture | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


class Model(ABC):
    """A trained task behind the page.

    Args:
        path: Its file.
        kind: What it makes of an image.
        task: Name of the task, such as `roads`.
        classes: Names of its classes, if it marks some.

    Attributes:
        name: What the page calls it.
        title: What its task is about.
        takes_hints: Whether it takes known colors.
        outlines: How its masks become polygons.
    """

    takes_hints = False
    outlines = Outlines()

    def __init__(self, path: str, kind: Kind, task: str, classes: Sequence[str]) -> None:
        self.name, self.kind, self.classes = _name(path), kind, list(classes)
        self.title = TASKS.get(task, task).capitalize()

    @abstractmethod
    def find(self, paths: Sequence[Path], strokes: NDArray[np.uint8] | None = None) -> list[AppResult]:
        """Predicts images.

        Args:
            paths: Their files.
            strokes: Colors that are known, for a single image and if it `takes_hints`: RGBA (H, W, 4), opaque where
                known.
        """

    @property
    @abstractmethod
    def decision(self) -> Decision:
        """Thresholds and minimum areas, if it marks classes."""

    @property
    def thresholds(self) -> list[float]:
        """Thresholds of the classes, as fitted."""
        return list(self.decision.thresholds)

    def masks(self, found: AppResult, thresholds: Sequence[float]) -> Masks:
        """Returns the masks (K, H, W) at other thresholds, without regions below the minimum areas."""
        assert found.probability is not None
        return replace(self.decision, thresholds=thresholds).masks(found.probability)

    def stitched(self, found: AppResult, masks: Masks) -> Stitched:
        """Returns masks of an image as output formats take them."""
        return Stitched(name=found.name, index=0, classes=self.classes, source=found.picture, content=Whole(masks))


class TrainedModel(Model):
    """A checkpoint, or a package.

    Args:
        path: Its path or address.
        trust: See `belvedere.load`.
    """

    def __init__(self, path: str, trust: bool = False) -> None:
        self.task = load(path, trust=trust)
        self.config: dict[str, Any] = vars(self.task)["run_config"]
        super().__init__(path, _kind_of(self.task), task_name(self.config["data"]), self.task.classes)
        self.takes_hints = self.kind == "colors"
        data, writer = configured(self.config, {"pictures": None})
        self.channels, self.outlines = data.channels, outlines_of(writer)
        self._lock = threading.Lock()  # a task has one trainer at a time; the page has a thread for each event

    @property
    def decision(self) -> Decision:
        assert isinstance(self.task, SegmentationTask)
        return Decision.of(self.task.active_decision)

    def find(self, paths: Sequence[Path], strokes: NDArray[np.uint8] | None = None) -> list[AppResult]:
        known = parameters(class_of(self.config["data"]["class_path"]))
        options: dict[str, Any] = {"num_workers": 0} | ({"output_size": None} if "output_size" in known else {})
        with self._lock, TemporaryDirectory(prefix="belvedere-") as folder:
            if strokes is None:
                predicted = predict(self.task, list(paths), **options)
            else:
                images, hints = Path(folder, "images"), Path(folder, "hints")
                images.mkdir()
                (images / paths[0].name).symlink_to(paths[0].absolute())
                save_picture(strokes, hints / f"{paths[0].stem}.png")
                predicted = predict(self.task, images, hints=str(hints), **options)
        return [_found(path, each, self.channels) for path, each in zip(paths, predicted, strict=True)]


class ExportedModel(Model):
    """A file of `belvedere export`.

    Args:
        path: The ONNX file.
    """

    def __init__(self, path: str) -> None:
        self.file = File(path)
        kind = self.file.preparation["kind"]
        masks = kind in ("resized", "pyramid")
        classes = self.file.settings["classes"] if masks else []
        super().__init__(path, "masks" if masks else "scores" if kind == "squared" else "colors",
                         task_name(self.file.settings["task"]), classes)  # fmt: skip
        self.outlines = Outlines(**self.file.settings["formats"].get("outlines", {}))

    @property
    def decision(self) -> Decision:
        return self.file.decisions[-1]

    def find(self, paths: Sequence[Path], strokes: NDArray[np.uint8] | None = None) -> list[AppResult]:
        return [_found(path, self.file.predict(path)) for path in paths]


def opened_models(paths: Sequence[str], trust: bool = False) -> list[Model]:
    """Opens checkpoints, packages or exported files of one kind.

    Raises:
        ArgumentError: They are of different kinds.
    """
    models: list[Model] = [
        ExportedModel(path) if path.lower().endswith(".onnx") else TrainedModel(path, trust) for path in paths
    ]
    first, *others = models
    for other in others:
        if (other.kind, other.classes) != (first.kind, first.classes):
            raise ArgumentError(
                f"{first.name} is of {_described(first)}, {other.name} of {_described(other)}; expected two of one "
                "kind to compare."
            )
    if len({model.name for model in models}) < len(models):
        for number, model in enumerate(models, 1):
            model.name = f"{number} {model.name}"
    return models


def _described(model: Model) -> str:
    return model.title + (f" with the classes {model.classes}" if model.classes else "")


def _kind_of(task: ImageTask) -> Kind:
    """Returns what a task makes of an image."""
    if isinstance(task, SegmentationTask):
        return "masks"
    return "colors" if isinstance(task, ColoringTask) else "scores"


def _name(path: str) -> str:
    """Returns what a checkpoint is called: its package, or its run."""
    parts = Path(path.rstrip("/")).parts
    inner = len(parts) > 2 and parts[-2] == "checkpoints"
    return parts[-3] if inner else Path(parts[-1]).stem


def usable(results: Sequence[Sequence[AppResult]]) -> list[int]:
    """Returns the numbers of the images that every model can use.

    Args:
        results: What each model finds in each image.
    """
    return [
        number for number, several in enumerate(zip(*results, strict=True)) if not any(each.problem for each in several)
    ]


def complaints(models: Sequence[Model], results: Sequence[Sequence[AppResult]]) -> list[str]:
    """Returns why images cannot be used, and by which of several models."""
    found = []
    for several in zip(*results, strict=True):
        problems = {model.name: each.problem for model, each in zip(models, several, strict=True) if each.problem}
        if len(problems) == len(models) and len(set(problems.values())) == 1:
            found.append(f"{several[0].name} cannot be used: {several[0].problem}")
        else:
            found += [f"{several[0].name} cannot be used by {name}: {problem}" for name, problem in problems.items()]
    return found


def _found(path: Path, prediction: Prediction, channels: Channels = COLOR) -> AppResult:
    if prediction.problem:
        return AppResult(path.name, np.zeros((1, 1, 3), np.uint8), problem=prediction.problem)
    picture = shown(read_picture(path, channels=channels))
    probability = prediction.probability if isinstance(prediction.probability, np.ndarray) else None
    if probability is not None:  # some files give masks of one size
        picture = resized(picture, (probability.shape[1], probability.shape[2]))
    scores = {key: value for key, value in prediction.scores.items() if key in ("probability", "mean", "spread")}
    return AppResult(path.name, picture, probability, prediction.image, scores)
