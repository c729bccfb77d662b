"""The Python API: opens a checkpoint and applies it to images, along the same path as `belvedere predict`."""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from PIL import Image

from belvedere.arguments import Parser, nearest
from belvedere.checkpoints import run_config
from belvedere.names import import_classes
from datamodules.base import ImageDataModule
from ops.errors import ArgumentError
from tasks.base import ImageTask

if TYPE_CHECKING:
    import pandas as pd

Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
KEPT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes of Pillow that a PNG can hold


@dataclass(frozen=True)
class Prediction:
    """What a task predicts for one image. Fields that the task does not predict are empty.

    Attributes:
        name: Name of the image's file, or its number in a list.
        masks: By class, bool (H, W) at the image's size, or at the data module's `output_size`.
        polygons: A GeoJSON MultiPolygon in pixels, x to the right and y down; whole numbers are pixel centers.
        scores: Numbers by name: `probability`, `mean` and `spread` of votes, or color metrics; NaN if unknown.
        image: The image in color, uint8 (H, W, 3).
        problem: Why the image could not be used; "" if it could.
    """

    name: str
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    polygons: dict[str, Any] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    problem: str = ""

    @property
    def probability(self) -> float | None:
        """Probability of a professional shot; None for other tasks."""
        return self.scores.get("probability")


class Predictions(list[Prediction]):
    """Predictions in the order of the images.

    Attributes:
        table: The rows that `belvedere predict` writes for all images: those of `submission.csv` (run lengths),
            `scores.csv` (best first) or `figures.csv`; None if the task writes no table.
    """

    def __init__(self, predictions: Sequence[Prediction] = (), table: "pd.DataFrame | None" = None) -> None:
        super().__init__(predictions)
        self.table = table


def load(checkpoint: str | Path, **settings: Any) -> ImageTask:
    """Opens a checkpoint.

    Boosted trees beside the checkpoint are loaded too, and a frozen extractor's weights are checked.

    Args:
        checkpoint: Path of the file.
        settings: Arguments of the task's class that differ from those of training, such as `stride=1`.

    Returns:
        The task with its weights, in eval mode on the CPU.

    Raises:
        ArgumentError: The file is missing or is not a checkpoint, or there is no such setting.
        WeightsError: The extractor's weights are not available, or are not those of training.
        TreesError: The trees are missing or broken.
    """
    import_classes()
    path = Path(checkpoint)
    config = run_config(path)
    kind = _class(config["model"]["class_path"])
    _check_names(kind, settings)
    task = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True, **settings)
    if getattr(task, "xgboost_on", "none") != "none":
        from tasks import boosting

        task.trees = boosting.load(path.with_suffix(".ubj"))
    vars(task)["run_config"] = config  # `predict` needs the data's settings too
    task.eval()
    assert isinstance(task, ImageTask)
    return task


def predict(
    checkpoint: str | Path | ImageTask,
    images: Picture | Sequence[Picture],
    *,
    accelerator: str = "auto",
    **options: Any,
) -> Predictions:
    """Applies a trained task to images: the same windows, decisions and files as `belvedere predict`, in memory.

    Args:
        checkpoint: Path of a checkpoint, or a task that `load` returned.
        images: A folder, an image file, a Pillow image, an array uint8 (H, W, 3) or (H, W), or a list of the last four.
        accelerator: Where to compute: `auto`, `cpu` or `gpu`.
        options: Arguments of the data module's class, such as `overlap=0.5`, `batch_size=8` or `output_size=None`.

    Returns:
        A prediction for each image, in the order of the list, or of the names in a folder.

    Raises:
        ArgumentError: There is no such option, or the task does not come from `load`.
        DataError: An image cannot be used.
    """
    task = checkpoint if isinstance(checkpoint, ImageTask) else load(checkpoint)
    config = vars(task).get("run_config")
    if config is None:
        raise ArgumentError(f"This {type(task).__name__} has no settings for its data. Open it with belvedere.load.")
    _check_names(_class(config["data"]["class_path"]), options)
    with TemporaryDirectory(prefix="belvedere-") as folder:
        source, given = _staged(images, Path(folder) / "images")
        data, callbacks = _configured(config, {"pictures": str(source), **options})
        output = Path(folder) / "output"
        names = _run(task, data, callbacks, output, accelerator)
        return _read(output, names, task.classes, given)


def _class(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _check_names(kind: type, settings: Mapping[str, Any]) -> None:
    known = list(inspect.signature(kind).parameters)
    for name in settings:
        if name not in known:
            raise ArgumentError(f"{kind.__name__} has no setting {name!r}.{nearest(name, known)}")


def _staged(images: Picture | Sequence[Picture], folder: Path) -> tuple[Path, dict[str, str]]:
    """Puts images into a folder, unless they are one already.

    Returns:
        The folder or file to read, and the name of each image by the name of its file in the folder.
    """
    if isinstance(images, str | Path):
        return Path(images).expanduser(), {}
    several = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
    folder.mkdir()
    given: dict[str, str] = {}
    for number, image in enumerate(several):
        if isinstance(image, str | Path):
            path = Path(image).expanduser().absolute()
            if not path.is_file():
                raise ArgumentError(f"There is no image file {path}.")
            staged = folder / f"{number:08}{path.suffix}"
            staged.symlink_to(path)
            given[staged.name] = path.name
        else:
            staged = folder / f"{number:08}.png"
            _pillow(image, number).save(staged, compress_level=1)
            given[staged.name] = str(number)
    return folder, given


def _pillow(image: Any, number: int) -> Image.Image:
    """Returns an image that a PNG can hold without loss."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise ArgumentError(
                f"Image {number} is an array {image.dtype} of shape {image.shape}; expected uint8 (H, W, 3) or (H, W)."
            )
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ArgumentError(f"Image {number} is a {type(image).__name__}; expected a path, a Pillow image or an array.")
    return image if image.mode in KEPT else image.convert("RGB")


def _configured(config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[ImageDataModule, list[Callback]]:
    """Makes the data module and the callbacks of a run, with other options for the data."""
    parser = Parser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    parser.add_argument("--callbacks", type=list[Callback] | None)
    data = {**config["data"], "init_args": {**config["data"].get("init_args", {}), **options}}
    parsed = parser.parse_object({"data": data, "callbacks": config["trainer"]["callbacks"]})
    made = parser.instantiate_classes(parsed)
    return made.data, made.callbacks or []


def _run(
    task: ImageTask, data: ImageDataModule, callbacks: Sequence[Callback], folder: Path, accelerator: str
) -> list[str]:
    """Predicts into a folder as the command does, and returns the names of the images."""
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with _silent():
        trainer.predict(task, data, return_predictions=False)
    return list(dict.fromkeys(data.datasets["predict"].names))


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps back the paths that the writers log: they are those of a temporary folder."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read(folder: Path, names: Sequence[str], classes: Sequence[str], given: Mapping[str, str]) -> Predictions:
    """Reads what the callbacks wrote.

    Args:
        folder: Where they wrote.
        names: Names of the images.
        classes: Names of the task's classes.
        given: What the caller calls an image, by its name.
    """
    import pandas as pd

    polygons = {}
    if (folder / "polygons.json").is_file():
        polygons = json.loads((folder / "polygons.json").read_text())["pictures"]
    table, rows = None, {}
    for file in ("submission.csv", "scores.csv", "figures.csv"):
        if (folder / file).is_file():
            table = pd.read_csv(folder / file, keep_default_na=file != "submission.csv", dtype={"problem": str})
            if "name" in table:
                rows = {str(row["name"]): row for row in table.to_dict("records")}
                table["name"] = table["name"].map(lambda name: given.get(name, name))
            elif given:  # <name>_<class>, and staged names have no underscore
                parts = table["Image_Label"].str.split("_", n=1)
                table["Image_Label"] = parts.map(lambda part: f"{given[part[0]]}_{part[1]}")
    found = []
    for name in names:
        row = rows.get(name, {})
        problem = row.get("problem")
        scores = {key: value for key, value in row.items() if key not in ("name", "problem")}
        found.append(
            Prediction(
                given.get(name, name),
                _masks(folder / "masks", Path(name).stem, classes),
                _multipolygon(polygons[name]["rings"]) if name in polygons else None,
                scores,
                _colored(folder / "colored" / name),
                problem if isinstance(problem, str) else "",
            )
        )
    return Predictions(found, table)


def _masks(folder: Path, stem: str, classes: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    files = {label: folder / label / f"{stem}.png" for label in classes}
    if len(classes) == 1 and not files[classes[0]].is_file():
        files = {classes[0]: folder / f"{stem}.png"}
    return {label: np.asarray(Image.open(path)) > 0 for label, path in files.items() if path.is_file()}


def _colored(path: Path) -> NDArray[np.uint8] | None:
    for suffix in (".png", ".jpg"):
        if path.with_suffix(suffix).is_file():
            return np.asarray(Image.open(path.with_suffix(suffix)).convert("RGB"))
    return None


def _multipolygon(rings: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Returns even-odd rings as a GeoJSON MultiPolygon: outer rings, each followed by its holes.

    The holes of a ring are the rings that lie in one ring more than it does, and in it.
    """
    inside = [[k for k, outer in enumerate(rings) if k != i and _holds(outer, ring)] for i, ring in enumerate(rings)]
    polygons = []
    for i, ring in enumerate(rings):
        if len(inside[i]) % 2 == 0:
            holes = [rings[k] for k in range(len(rings)) if i in inside[k] and len(inside[k]) == len(inside[i]) + 1]
            polygons.append([[*each, each[0]] for each in (ring, *holes)])  # in GeoJSON a ring ends where it begins
    return {"type": "MultiPolygon", "coordinates": polygons}


def _holds(outer: Sequence[Sequence[float]], ring: Sequence[Sequence[float]]) -> bool:
    """Whether most vertices of a ring lie in another; a simplified hole may reach over the edge."""
    polygon = np.asarray(outer, np.float64)
    points = np.asarray(ring, np.float64)
    start, end = polygon, np.roll(polygon, -1, axis=0)
    (x, y), crosses = points.T[:, :, None], (start[:, 1] > points[:, 1:]) != (end[:, 1] > points[:, 1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = start[:, 0] + (y - start[:, 1]) * (end - start)[:, 0] / (end - start)[:, 1]
    return bool((np.count_nonzero(crosses & (x < at), axis=1) % 2).mean() > 0.5)
