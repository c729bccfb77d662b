"""What the page shows: trained tasks, and what they find in images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from belvedere.card import task_name
from belvedere.names import TASKS
from belvedere.parser import parameters
from belvedere.prediction import class_of, load, predict
from callbacks.writers.prediction import Prediction
from callbacks.writers.stitched import Maps, Stitched, Whole
from datamodules.read.pictures import read_picture
from drawing.pictures import Masks, Picture, save_picture
from ops.errors import ArgumentError
from ops.regions import without_small_regions
from tasks.base import ImageTask
from tasks.coloring import ColoringTask
from tasks.segmentation import SegmentationTask

Kind = Literal["masks", "colors", "scores"]


@dataclass(frozen=True)
class Found:
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


class Model:
    """A trained task behind the page.

    Args:
        path: Its checkpoint or package.
        trust: See `belvedere.load`.
    """

    def __init__(self, path: str, trust: bool = False) -> None:
        self.task = load(path, trust=trust)
        self.kind = kind_of(self.task)
        self.classes = list(self.task.classes)
        self.name = _name(path)
        self.config: dict[str, Any] = vars(self.task)["run_config"]
        short = task_name(self.config)
        self.title = TASKS.get(short, short).capitalize()

    @property
    def thresholds(self) -> list[float]:
        """Thresholds of the classes, as fitted."""
        assert isinstance(self.task, SegmentationTask)
        return [float(value) for value in self.task.active_decision.thresholds]

    def find(self, paths: Sequence[Path], strokes: NDArray[np.uint8] | None = None) -> list[Found]:
        """Predicts images.

        Args:
            paths: Their files.
            strokes: Colors that are known, for a single image of a coloring task: RGBA (H, W, 4), opaque where known.
        """
        options: dict[str, Any] = {
            "num_workers": 0,
            **({"output_size": None} if self._has_option("output_size") else {}),
        }
        with TemporaryDirectory(prefix="belvedere-") as folder:
            if strokes is None:
                predicted = predict(self.task, list(paths), **options)
            else:
                images, hints = Path(folder, "images"), Path(folder, "hints")
                images.mkdir()
                (images / paths[0].name).symlink_to(paths[0].absolute())
                save_picture(strokes, hints / f"{paths[0].stem}.png")
                predicted = predict(self.task, images, hints=str(hints), **options)
        return [_found(path, each) for path, each in zip(paths, predicted, strict=True)]

    def _has_option(self, name: str) -> bool:
        """Returns whether the data module of the task's run has an option."""
        return name in parameters(class_of(self.config["data"]["class_path"]))

    def masks(self, found: Found, thresholds: Sequence[float]) -> Masks:
        """Returns the masks (K, H, W) at other thresholds, without regions below the minimum areas."""
        assert found.probability is not None
        assert isinstance(self.task, SegmentationTask)
        marked: Masks = found.probability >= np.array(thresholds, np.float32)[:, None, None]
        areas = self.task.active_decision.least_areas((marked.shape[1], marked.shape[2]))
        return without_small_regions(marked, areas)

    def stitched(self, found: Found, masks: Masks) -> Stitched:
        """Returns masks of an image as output formats take them."""
        return Stitched(name=found.name, index=0, classes=self.classes, source=found.picture, content=Whole(masks))


def opened_models(paths: Sequence[str], trust: bool = False) -> list[Model]:
    """Opens checkpoints or packages of one kind.

    Raises:
        ArgumentError: They are of different kinds.
    """
    models = [Model(path, trust) for path in paths]
    first, *others = models
    for other in others:
        if (other.kind, other.classes) != (first.kind, first.classes):
            raise ArgumentError(
                f"{first.name} is of {first.task.predicts()}, {other.name} of {other.task.predicts()}; expected two of "
                "one kind to compare."
            )
    if len({model.name for model in models}) < len(models):
        for number, model in enumerate(models, 1):
            model.name = f"{number} {model.name}"
    return models


def kind_of(task: ImageTask) -> Kind:
    """Returns what a task makes of an image."""
    if isinstance(task, SegmentationTask):
        return "masks"
    return "colors" if isinstance(task, ColoringTask) else "scores"


def _name(path: str) -> str:
    """Returns what a checkpoint is called: its package, or its run."""
    parts = Path(path.rstrip("/")).parts
    inner = len(parts) > 2 and parts[-2] == "checkpoints"
    return parts[-3] if inner else Path(parts[-1]).stem


def _found(path: Path, prediction: Prediction) -> Found:
    if prediction.problem:
        return Found(path.name, np.zeros((1, 1, 3), np.uint8), problem=prediction.problem)
    picture = read_picture(path)
    probability = prediction.probability if isinstance(prediction.probability, np.ndarray) else None
    scores = {key: value for key, value in prediction.scores.items() if key in ("probability", "mean", "spread")}
    return Found(path.name, picture, probability, prediction.image, scores)
