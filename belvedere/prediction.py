"""The Python API: opens a checkpoint and applies it to images, along the same path as `belvedere predict`."""

import re
from argparse import ArgumentError as RejectedArgument
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import numpy as np
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from PIL import Image

from belvedere.checkpoints import finite_weights, read_checkpoint, run_config
from belvedere.commandline.parser import Parser, in_words, parameters, shortened
from belvedere.names import import_classes
from belvedere.quiet import quiet
from belvedere.sharing.packed import opened
from belvedere.trust import check_trusted
from callbacks.handover import Handover
from callbacks.writers.base import Writer
from callbacks.writers.format import Finished, Table
from callbacks.writers.memory import Collector
from callbacks.writers.prediction import Prediction
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.stitched import Stitched
from datamodules.base import ImageDataModule
from ops.errors import ArgumentError, ParserError, UserError, nearest
from tasks.base import ImageTask

if TYPE_CHECKING:
    import pandas as pd

Checkpoint: TypeAlias = str | Path
Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
KEPT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes of Pillow that a PNG can hold


class Predictions(list[Prediction]):
    """Predictions in the order of the images.

    Attributes:
        table: The rows that `belvedere predict` writes for all images: those of `submission.csv` (run lengths),
            `scores.csv` (best first) or `figures.csv`; None if the task writes no table.
    """

    def __init__(self, predictions: Sequence[Prediction] = (), table: "pd.DataFrame | None" = None) -> None:
        super().__init__(predictions)
        self.table = table


def load(checkpoint: Checkpoint | Sequence[Checkpoint], *, trust: bool = False, **settings: Any) -> ImageTask:
    """Opens a checkpoint, or several of one kind, whose probabilities are averaged as by `belvedere predict --members`.

    Boosted trees beside the checkpoint are loaded too, and a frozen extractor's weights are checked.

    Args:
        checkpoint: Path of the file, or a list of paths; thresholds are those of the first. A package that
            `belvedere pack` made is opened too: a zip file, a folder, or `hf://user/name`, which downloads it.
        trust: Whether its config may name any class, which can run any program; otherwise only belvedere's own classes
            and torch's optimizers and schedulers.
        settings: Arguments of the task's class that differ from those of training, such as `stride=1`.

    Returns:
        The task with its weights, in eval mode on the CPU.

    Raises:
        ArgumentError: A file is missing, is not a checkpoint or names other classes, or does not fit the first; or
            there is no such setting, or no such value.
        WeightsError: The extractor's weights are not available, or are not those of training.
        TreesError: The trees are missing or broken.
    """
    if not isinstance(checkpoint, str | Path):
        return _together([str(each) for each in checkpoint], trust, settings)
    quiet()
    import_classes()
    path = opened(checkpoint, trust)
    config = run_config(path, trust)
    finite_weights(path)
    kind = class_of(config["model"]["class_path"])
    if not trust:  # Lightning makes the task from these
        arguments = dict(read_checkpoint(path).get("hyper_parameters", {}))
        arguments.pop("_instantiator", None)  # Lightning has its own list of these
        class_path = arguments.pop("_class_path", config["model"]["class_path"])
        check_trusted({"model": {"class_path": class_path, "init_args": arguments}}, path)
    _check_names(kind, settings)
    try:
        task = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True, **settings)
    except UserError:
        raise
    except (RejectedArgument, TypeError, ValueError) as error:
        raise ArgumentError(_rejected(kind, settings, error)) from error
    except RuntimeError as error:  # of torch, for weights of other shapes
        raise ArgumentError(
            f"{path} holds the weights of another network than {settings} makes. Leave architecture, encoder and "
            "classes as they were in training."
        ) from error
    if getattr(task, "xgboost_on", "none") != "none":
        from tasks import boosting

        task.trees = boosting.load(path.with_suffix(".ubj"))
    vars(task)["run_config"] = config  # `predict` needs the data's settings too
    task.eval()
    assert isinstance(task, ImageTask)
    return task


def _together(paths: Sequence[str], trust: bool, settings: Mapping[str, Any]) -> ImageTask:
    """Returns the task of the first checkpoint, with those of the others as members."""
    if not paths:
        raise ArgumentError("There is no checkpoint in []; expected one or more paths.")
    first, *others = (load(path, trust=trust, **settings) for path in paths)
    first.add_members(others, paths[1:])
    return first


def changed_settings(task: ImageTask, checkpoint: Path) -> dict[str, Any]:
    """Returns the settings of a task of the command line that differ from its checkpoint's: what was typed.

    `load` takes them for the other members of an ensemble. Those that act in training only are left out.
    """
    trained = read_checkpoint(checkpoint).get("hyper_parameters")
    if trained is None:
        return {}
    return {
        name: task.hparams[name]
        for name, default in parameters(type(task)).items()
        if name in task.hparams
        and name not in ("optimizer", "scheduler")
        and _plain(task.hparams[name]) != _plain(trained.get(name, default))
    }


def _plain(value: Any) -> Any:
    """Returns a setting with lists in place of tuples."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def predict(
    checkpoint: Checkpoint | Sequence[Checkpoint] | ImageTask,
    images: Picture | Sequence[Picture],
    *,
    accelerator: str = "auto",
    trust: bool = False,
    **options: Any,
) -> Predictions:
    """Applies a trained task to images: the same windows and decisions as `belvedere predict`, in memory.

    Args:
        checkpoint: Path of a checkpoint, a list of paths to average, or a task that `load` returned.
        images: A folder, an image file, a Pillow image, an array uint8 (H, W, 3) or (H, W), or a list of the last four.
        accelerator: Where to compute: `auto`, `cpu` or `gpu`.
        trust: See `load`.
        options: Arguments of the data module's class, such as `overlap=0.5`, `batch_size=8` or `output_size=None`.

    Returns:
        A prediction for each image, in the order of the list, or of the names in a folder; the `problem` of one says
        why an image cannot be used.

    Raises:
        ArgumentError: There is no such option, or the task does not come from `load`.
        DataError: There are no images.
    """
    task = checkpoint if isinstance(checkpoint, ImageTask) else load(checkpoint, trust=trust)
    config = vars(task).get("run_config")
    if config is None:
        raise ArgumentError(f"This {type(task).__name__} has no settings for its data. Open it with belvedere.load.")
    _check_names(class_of(config["data"]["class_path"]), options)
    with TemporaryDirectory(prefix="belvedere-") as folder:
        source, given = staged(images, Path(folder))
        data, writer = configured(config, {"pictures": str(source), **options})
        return collected(task, data, writer, given, accelerator)


def class_of(class_path: str) -> Any:
    """Returns the class of a class path in a run's config."""
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _check_names(kind: type, settings: Mapping[str, Any]) -> None:
    known = parameters(kind)
    for name in settings:
        if name not in known:
            raise ArgumentError(f"{kind.__name__} has no setting {name!r}.{nearest(name, known)}")


def _rejected(kind: type, settings: Mapping[str, Any], error: Exception) -> str:
    """Returns the message for settings that a class rejects."""
    for name in re.findall(r'Parser key "(?:\w+\.)?(\w+)":', str(error)):
        hints = (get_type_hints(vars(parent)["__init__"]) for parent in kind.__mro__ if "__init__" in vars(parent))
        hint = next((found[name] for found in hints if name in found), None)
        if name in settings and hint is not None:
            return f"{kind.__name__}: {name} is {settings[name]!r}; expected {in_words(hint)}."
    return f"{kind.__name__}: {error}."


def staged(images: Picture | Sequence[Picture], folder: Path) -> tuple[Path, dict[str, str]]:
    """Puts images into a folder, unless they are one already.

    Returns:
        The folder or file to read, and the name of each image by the name of its file in the folder.
    """
    if isinstance(images, str | Path):
        return Path(images).expanduser(), {}
    several = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
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


def configured(config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[ImageDataModule, Writer[Any]]:
    """Makes a run's data module, with other options, and the writer among its callbacks."""
    parser = Parser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    parser.add_argument("--callbacks", type=list[Callback] | None)
    data = {**config["data"], "init_args": {**config["data"].get("init_args", {}), **options}}
    try:
        parsed = parser.parse_object({"data": data, "callbacks": config["trainer"]["callbacks"]})
        made = parser.instantiate_classes(parsed)
    except ParserError as error:
        raise ArgumentError(shortened(error)) from error
    for callback in made.callbacks or []:
        if isinstance(callback, Writer):
            return made.data, callback
    raise ArgumentError(
        "The callbacks of the run have no writer, such as SegmentationWriter, to collect predictions from."
    )


def collected(
    task: ImageTask, data: ImageDataModule, writer: Writer[Any], given: Mapping[str, str], accelerator: str
) -> Predictions:
    """Predicts as the command does, but keeps the writer's images in memory.

    Args:
        task: The task.
        data: Has the images.
        writer: Would write them.
        given: The caller's name of each image, by the name of its file.
        accelerator: Where to compute.
    """
    collector: Collector[Any] = Collector(writer)
    with TemporaryDirectory(prefix="belvedere-") as folder:
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            default_root_dir=folder,
            callbacks=[Handover(data), collector],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.predict(task, data, return_predictions=False)
    images = [_named(image, data, given) for image in collector.images]
    return Predictions([_prediction(image, writer) for image in images], _table(images, writer))


def _named(image: Finished, data: ImageDataModule, given: Mapping[str, str]) -> Finished:
    """Returns an image with the caller's name of it, also in what is wrong with it."""
    if image.name not in given or data.pictures is None:
        return image
    name = given[image.name]
    return replace(image, name=name, problem=image.problem.replace(str(data.pictures / image.name), name))


def _prediction(image: Finished, writer: Writer[Any]) -> Prediction:
    """Returns a writer's image as a prediction, with the polygons of its own settings."""
    prediction = image.prediction()
    if not isinstance(image, Stitched) or image.problem:
        return prediction
    return replace(prediction, outlined=partial(outlines_of(writer).geojson, image))


def outlines_of(writer: Writer[Any]) -> Outlines:
    """Returns how a writer outlines masks, also if it writes no polygons itself."""
    return next((each for each in writer.formats if isinstance(each, Outlines)), Outlines())


def _table(images: Sequence[Finished], writer: Writer[Any]) -> "pd.DataFrame | None":
    """Returns the table that the writer would write, by its own format."""
    import pandas as pd

    for each in writer.formats:
        if isinstance(each, Table):
            usable = [image for image in images if each.lists_problems or not image.problem]
            rows = [row for image in usable for row in each.write(image, Path())]
            return pd.DataFrame(each.table(rows), columns=list(each.columns))
    return None
