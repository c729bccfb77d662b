"""The command `export`: writes a trained task as one ONNX file that runs without torch, and checks it."""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from belvedere import __version__
from belvedere.checkpoints import read_checkpoint, run_config
from belvedere.portable import Halved, Portable, letterbox, levels_of, portable
from belvedere.prediction import changed_settings, collected, configured, load
from belvedere.run import KEY, Decision, Model
from callbacks.handover import Handover
from callbacks.record import FINGERPRINT
from callbacks.writers.base import Writer
from callbacks.writers.coloring.colored import ColoredFiles
from callbacks.writers.coloring.writer import ColoringWriter
from callbacks.writers.prediction import Prediction
from callbacks.writers.segmentation.masks import MaskFiles, Submission
from callbacks.writers.segmentation.polygons import Outlines
from datamodules.base import ImageDataModule
from datamodules.batch import Batch
from datamodules.read.names import located, picture_files
from datamodules.read.pictures import fitted, read_picture, resized
from drawing.pictures import save_picture
from ops.atomic import replacing, write_text
from ops.color.lab import luminance_and_chroma
from ops.errors import ArgumentError, ExportError, UserError
from ops.extras import check_installed
from ops.windows import resized_maps
from tasks.avalanches import SECOND, AvalanchesTask
from tasks.base import ImageTask
from tasks.coloring import ColoringTask
from tasks.judging import JudgingTask
from tasks.metrics.meter import Step
from tasks.segmentation import SegmentationTask

if TYPE_CHECKING:
    from onnx import ModelProto

FILE, QUANTIZED, REPORT = "model.onnx", "model.int8.onnx", "report.json"
TOLERANCE = 1e-3
"""Largest difference of a probability or score from torch's, for the same image."""
MARKED = 1e-3
"""Largest share of the pixels whose mask may differ from torch's."""
LEVELS = 2
"""Largest difference of a color from torch's, of 255."""
RESIZED = 5e-3
"""Largest mean difference where the file resizes an image by itself: OpenCV rounds differently when enlarging."""
CHECKED = 3  # images that a file is checked on, each at three sizes
LONGEST = 1024  # pixels of the longer side of these
CALIBRATION, WINDOWS = 64, 4  # images that int8 is calibrated on, and of each at most so many windows
REPEATS = 5  # of a measured time, of which the shortest counts: others also wait for the machine


def export(
    task: ImageTask,
    data: ImageDataModule,
    trainer: Trainer,
    folder: Path,
    ckpt_path: str | None = None,
    members: list[str] | None = None,
    trust: bool = False,
    input: Literal["uint8", "float"] = "uint8",  # the name of the option
    int8: str | None = None,
) -> int:
    """Writes `model.onnx`, checked against torch on real images, and `report.json`.

    The file takes images (N, H, W, 3) of any size and does everything else itself: it resizes, normalizes, averages
    over views and members, and compares with the thresholds. `python -m belvedere.run` applies it without torch. It is
    checked on validation images, or on `data.pictures`, and rejected if it differs from torch.

    Args:
        task: Has the settings that `load` makes it anew with.
        data: The dataset.
        trainer: Not used.
        folder: Where to write.
        ckpt_path: The checkpoint.
        members: Further checkpoints whose probabilities are averaged with its own.
        trust: See `belvedere.load`.
        input: Type of the file's input: `uint8`, levels from 0 to 255, or `float`, from 0 to 1.
        int8: A folder of images, or one file. With it, `model.int8.onnx` has convolutions and dense layers with 8-bit
            integers, whose ranges suit these images; not the validation or test images.

    Returns:
        0.

    Raises:
        ArgumentError: The task or its data cannot be exported, or there are no images to check the file on.
        DataError: There are no images in the folder `int8`.
        ExportError: The network cannot be converted, or the file differs from torch.
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        check_installed(name, "export needs")
    calibration = [] if int8 is None else picture_files(Path(int8).expanduser())
    assert ckpt_path is not None  # the command line asks for it
    task = load([ckpt_path, *(members or [])], trust=trust, **changed_settings(task, Path(ckpt_path)))
    config = run_config(Path(ckpt_path), trust)
    _, writer = configured(config, {"pictures": None})
    settings = described(task, data, writer, ckpt_path)
    module = portable(task, settings["preparation"], settings.get("formats", {}).get("guided", True))
    folder.mkdir(parents=True, exist_ok=True)
    preparation = settings["preparation"]
    images = checked_images(data, preparation.get("least_side", 32) * 2 ** preparation.get("levels", 0))
    with TemporaryDirectory(dir=folder) as inner:
        made = Path(inner) / FILE
        write_model(module, images[0], made, settings, input)
        files = [made]
        report: dict[str, Any] = {"checks": check(task, data, writer, made, module, images)}
        if calibration:
            files.append(quantized(made, Path(inner) / QUANTIZED, calibration))
        report |= {"tolerance": {"score": TOLERANCE, "mask": MARKED, "level": LEVELS, "resized": RESIZED}}
        named = {"torch": Path(ckpt_path), **{each.name: each for each in files}}
        report["size_mb"] = {name: _megabytes(each) for name, each in named.items()}
        report["seconds"] = {str(threads): times(module, files, images[0], threads) for threads in (1, 2)}
        report["metrics"] = metrics_of_each(task, data, files)
        for each in files:
            with replacing(folder / each.name) as temporary:
                each.replace(temporary)
    if not calibration:
        (folder / QUANTIZED).unlink(missing_ok=True)  # of an earlier network
    write_text(folder / REPORT, json.dumps(report, indent=2) + "\n")
    print(_shown(report))
    print("\n".join(str(folder / name) for name in (*(each.name for each in files), REPORT)))
    return 0


def described(task: ImageTask, data: ImageDataModule, writer: Writer[Any], checkpoint: str) -> dict[str, Any]:
    """Returns the file's metadata, which `belvedere.run` reads."""
    record = read_checkpoint(Path(checkpoint)).get("callbacks", {}).get("Record", {})
    settings: dict[str, Any] = {
        "version": __version__,
        "task": type(task).__name__,
        "bands": ["red", "green", "blue"],
        "data_fingerprint": record.get(FINGERPRINT),
        "preparation": data.preparation(),
    }
    if isinstance(task, SegmentationTask):
        settings["classes"] = list(task.classes)
        decisions = [task.active_decision]
        if isinstance(task, AvalanchesTask) and task.final == "boosted":
            raise ArgumentError("Boosted trees cannot be exported. Export the network alone: --model.final first.")
        if isinstance(task, AvalanchesTask) and task.final in SECOND:
            decisions = [task.decision, task.active_decision]
            settings["second_input"] = task.final
            settings["edge_thresholds"], settings["euclidean"] = list(task.edge_thresholds), task.backend == "kornia"
        settings["decisions"] = [asdict(Decision.of(each)) for each in decisions]
    if isinstance(task, JudgingTask):
        settings["classes"] = ["snapshot", "professional"]
        settings["decisions"] = []
        settings["votes"] = task.bins if task.head == "distribution" else None
    formats: dict[str, Any] = {"submission": False, "folders": True}
    for each in writer.formats:
        if isinstance(each, MaskFiles):
            formats["folders"] = each.by_class
        if isinstance(each, Submission):
            formats["submission"] = True
        if isinstance(each, Outlines):
            formats["outlines"] = dict(vars(each))  # its arguments
        if isinstance(each, ColoredFiles):
            formats["suffix"] = each.suffix
    if isinstance(writer, ColoringWriter):
        formats["guided"] = writer.guided
    return settings | {"formats": formats}


def checked_images(data: ImageDataModule, least: int) -> list[NDArray[np.uint8]]:
    """Returns real images of several sizes: of `data.pictures`, or the validation images of the dataset.

    Args:
        data: The dataset.
        least: Smallest height and width.

    Raises:
        ArgumentError: There are none.
        DataError: `data.pictures` does not exist, or an image cannot be read.
    """
    if data.pictures is not None:
        found = [read_picture(file) for file in picture_files(data.pictures)[:CHECKED]]
    elif data.root.is_dir():
        data.prepare_data()
        data.setup("validate")
        names = data.picture_names()["val"][:CHECKED]
        found = [each for each in (data.picture(name, 1 << 16) for name in names) if each is not None]
    else:
        raise ArgumentError(
            f"The dataset of the run, {data.root}, is no longer there to check the file on. Give its folder, "
            "--data.root, or images, --data.pictures."
        )
    if not found:
        raise ArgumentError(
            f"The dataset of the run, {data.root}, has no validation images to check the file on. Give the folder that "
            "the run was trained on, --data.root, or images, --data.pictures."
        )
    images = []
    for each in found:
        size = fitted((each.shape[0], each.shape[1]), LONGEST)
        whole = resized(each, size)
        images += [whole, whole[: max(least, size[0] * 2 // 3 - 1)], whole[:, : max(least, size[1] // 2 + 1)]]
    return [np.ascontiguousarray(each) for each in images]


def write_model(
    module: Portable, image: NDArray[np.uint8], path: Path, settings: Mapping[str, Any], kind: str = "uint8"
) -> None:
    """Writes what a module computes as an ONNX file.

    Args:
        module: What the file computes.
        image: An example.
        path: The file.
        settings: Its metadata.
        kind: Type of its input, `uint8` or `float`.
    """
    import onnx

    preparation = settings["preparation"]
    levels = preparation.get("levels", 0)
    batch = torch.from_numpy(image[None])
    given = batch if kind == "uint8" else batch.float() / 255
    if preparation["kind"] in ("resized", "squared"):
        given = torch.cat([given, given])  # an example of one would fix the number of images at one
    if levels:
        halved = Halved(levels)
        model = onnx_of(module, (given, halved(given)), ("image", "prepared"), module.names)
        model = with_default(model, onnx_of(halved, (given,), ("image",), ("halved",)))
    else:
        model = onnx_of(module, (given,), ("image",), module.names)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: json.dumps(settings), "classes": ", ".join(settings.get("classes", [])),
                                        "task": settings["task"], "version": settings["version"]})  # fmt: skip
    model.producer_name, model.producer_version = "belvedere", __version__
    onnx.save(model, path)


def onnx_of(
    module: nn.Module, given: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> "ModelProto":
    """Returns a module in ONNX, for images of any number and size, if there is more than one in the example.

    Raises:
        ExportError: torch cannot convert it.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys((0, 1, 2) if len(each) > 1 else (1, 2), dynamic) for each in given)
    try:
        with torch.no_grad(), _silent():
            program = torch.onnx.export(module, given, dynamo=True, dynamic_shapes=shapes, verbose=False,
                                        input_names=list(inputs), output_names=list(outputs))  # fmt: skip
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch's have no common parent
        windows = isinstance(module, Portable) and "window" in module.preparation
        border = getattr(module.task, "border", 0) if windows else 0
        advice = "Set --model.border 0, for predict too." if border else "Choose another architecture or encoder."
        reason = _reason(error.__cause__ or error)
        raise ExportError(
            f"torch cannot convert the network to ONNX: {reason}. Nothing was written. {advice}"
        ) from error
    assert program is not None  # since it writes no file
    graph = program.model.graph
    for node in graph:  # torch names values by their operation, such as `mean`, which may be an output's name
        for value in node.outputs:
            if value.name in outputs and value not in graph.outputs:
                value.name = f"{value.name}_within"
    model: ModelProto = program.model_proto
    return model


def _reason(error: BaseException) -> str:
    """Returns the first line of an error of another library, as part of a sentence."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


@contextmanager
def _silent() -> Iterator[None]:
    """Hides what torch's exporter says about itself; its errors are raised."""
    shown = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = shown


def with_default(model: "ModelProto", halved: "ModelProto") -> "ModelProto":
    """Makes the input `prepared` optional: where it is empty, the file computes it of `image`.

    Args:
        model: Has the inputs `image` and `prepared`.
        halved: Computes it; its nodes become a branch of the model.
    """
    import onnx
    from onnx import TensorProto, helper

    halved = onnx.compose.add_prefix(halved, "halved/", rename_inputs=False)
    graph, branch = model.graph, halved.graph

    def made(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.UINT8, [1, "rows", "columns", 3])

    then = helper.make_graph(list(branch.node), "halve", [], [made(branch.output[0].name)], list(branch.initializer))
    given = helper.make_node("Identity", ["prepared"], ["given/prepared"])
    other = helper.make_graph([given], "given", [], [made("given/prepared")])
    for node in graph.node:
        node.input[:] = ["level/image" if name == "prepared" else name for name in node.input]
    nodes = [
        helper.make_node("Size", ["prepared"], ["level/count"]),
        helper.make_node("Equal", ["level/count", "level/none"], ["level/empty"]),
        helper.make_node("If", ["level/empty"], ["level/image"], then_branch=then, else_branch=other),
    ]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    graph.initializer.append(helper.make_tensor("level/none", TensorProto.INT64, [], [0]))
    graph.initializer.append(helper.make_tensor("prepared", TensorProto.UINT8, [1, 0, 0, 3], []))  # the default
    return model


def check(
    task: ImageTask,
    data: ImageDataModule,
    writer: Writer[Any],
    path: Path,
    module: Portable,
    images: Sequence[NDArray[np.uint8]],
) -> list[dict[str, Any]]:
    """Compares a file with `belvedere predict`, and what it makes of unprepared images with torch.

    Returns:
        For each image its size and the differences.

    Raises:
        ExportError: One is beyond its tolerance.
        ArgumentError: No image can be used.
    """
    model, found = Model(path), []
    with TemporaryDirectory() as folder:
        files = []
        for number, image in enumerate(images):
            files.append(Path(folder) / f"{number:04}.png")
            save_picture(image, files[-1])
        shown = copy(data)
        shown.pictures, shown.datasets = Path(folder), {}
        expected = collected(task, shown, writer, {}, "cpu")
        if all(one.problem for one in expected):
            raise ArgumentError(f"No image can be used to check the file on: {expected[0].problem}")
        for image, file, one in zip(images, files, expected, strict=True):
            try:
                differences = compared(one, model.predict(file))
                if not one.problem:
                    differences |= _unprepared(model, module, image)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # ONNX Runtime's have no common parent
                windows = "window" in model.preparation
                advice = " If the network takes one size only, export unet, fpn or vgg instead." if windows else ""
                raise ExportError(
                    f"The file fails on an image of {image.shape[0]} x {image.shape[1]} pixels: {_reason(error)}. "
                    f"Nothing was written.{advice}"
                ) from error
            found.append({"size": list(image.shape[:2]), **differences})
            limits = {"score": TOLERANCE, "mask": MARKED, "level": LEVELS, "resized": RESIZED}
            for name, value in differences.items():
                if not value <= limits[name]:
                    raise ExportError(
                        f"The file differs from torch on an image of {image.shape[0]} x {image.shape[1]} pixels: "
                        f"{name} by {value:.2g}, expected at most {limits[name]:g}. Nothing was written."
                    )
    return found


def compared(one: Prediction, other: Prediction) -> dict[str, float]:
    """Returns the largest differences of two predictions of one image, of each of `check`'s kinds."""
    if one.problem != "" or other.problem != "":
        return {"score": 0.0 if bool(one.problem) == bool(other.problem) else np.inf}
    if one.image is not None and other.image is not None:
        return {"level": float(np.abs(one.image.astype(int) - other.image).max())}
    if one.masks:
        shares = [float((mask != other.masks[name]).mean()) for name, mask in one.masks.items()]
        return {"score": _furthest(one.probability, other.probability), "mask": max(shares)}
    scores = [_furthest(value, other.scores[name]) for name, value in one.scores.items() if np.isfinite(value)]
    return {"score": max(scores)}


def _furthest(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


def _unprepared(model: Model, module: Portable, image: NDArray[np.uint8]) -> dict[str, float]:
    """Returns how far what a file makes of an image as it is differs from torch, on average."""
    if module.names[0] != "probability":
        return {}
    given = torch.from_numpy(image[None])
    with torch.no_grad():
        levels = module.preparation.get("levels", 0)
        expected = module(given, Halved(levels)(given))[0] if levels else module(given)[0]
    return {"resized": float(np.abs(expected[0].numpy() - model.outputs(image)["probability"]).mean())}


def quantized(path: Path, result: Path, files: Sequence[Path]) -> Path:
    """Writes a file whose convolutions and dense layers compute with 8-bit integers.

    Args:
        path: The file in floats.
        result: The new file.
        files: Images that ranges of activations are measured on.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    model = Model(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result)  # batch normalization is merged into the convolutions
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    class Images(CalibrationDataReader):  # type: ignore[misc]  # untyped there
        """Yields what the file gets of each image."""

        def __init__(self) -> None:
            taken = (islice(model.inputs(file), WINDOWS) for file in files[:CALIBRATION])
            self.feeds = (model.feed(*each) for several in taken for each in several)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    with _silent():
        quantize_static(str(result), str(result), Images(), op_types_to_quantize=["Conv", "Gemm"], per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True)  # fmt: skip
    made = onnx.load(result)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, {each.key: each.value for each in onnx.load(path).metadata_props})
    onnx.save(made, result)
    return result


def times(module: Portable, files: Sequence[Path], image: NDArray[np.uint8], threads: int) -> dict[str, float]:
    """Returns the seconds for one image, from its pixels to the outputs, in torch and of each file."""
    given, earlier = torch.from_numpy(image[None]), torch.get_num_threads()
    inputs = (given, Halved(levels)(given)) if (levels := module.preparation.get("levels", 0)) else (given,)

    def by_torch() -> None:
        with torch.inference_mode():
            module(*inputs)

    clock = time.process_time if threads == 1 else time.perf_counter  # one thread's own time: others may use the core
    try:
        torch.set_num_threads(threads)
        found = {"torch": _shortest(by_torch, clock)}
    finally:
        torch.set_num_threads(earlier)
    for file in files:
        model = Model(file, threads)
        found[file.name] = _shortest(partial(model.outputs, image), clock)
    return found


def _shortest(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    call()
    taken = []
    for _ in range(REPEATS):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def metrics_of_each(task: ImageTask, data: ImageDataModule, files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Returns the metrics of the validation images by torch and by each file; nothing if there is no dataset."""
    if not data.root.is_dir():
        return {}
    found = {"torch": validated(task, data)}
    for file in files:
        with in_place(task, Model(file), data):
            found[file.name] = validated(task, data)
    return found


def validated(task: ImageTask, data: ImageDataModule) -> dict[str, float]:
    """Returns the metrics of the validation images, without the loss."""
    with TemporaryDirectory() as folder:
        unwanted = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        quiet: dict[str, Any] = dict.fromkeys((*unwanted, "use_distributed_sampler"), False)
        trainer = Trainer(accelerator="cpu", devices=1, callbacks=[Handover(data)], default_root_dir=folder, **quiet)
        [metrics] = trainer.validate(task, data, verbose=False)
    task.eval()
    return {name: value for name, value in metrics.items() if not name.endswith("loss")}


@contextmanager
def in_place(task: ImageTask, model: Model, data: ImageDataModule) -> Iterator[None]:
    """Lets a file predict in place of the task while it is validated; images are read from the dataset's files."""

    def outputs(name: str) -> dict[str, NDArray[Any]]:
        folders = (data.root / each for each in ("images", "train_images"))
        file = next(file for file in (located(folder, name) for folder in folders) if file.is_file())
        if "window" in model.preparation:
            return {"probability": np.asarray(model.predict(file).probability)}
        return model.outputs(*next(model.inputs(file)))

    def measure(batch: Batch, _: Tensor | None = None) -> Tensor:
        made = [outputs(name) for name in batch["name"]]
        if isinstance(task, JudgingTask):
            return torch.stack([torch.from_numpy(each["shares"]) for each in made])
        if isinstance(task, ColoringTask):
            side = batch["image"].shape[-1]
            squares = [letterbox(levels_of(torch.from_numpy(each["colored"][None])), side)[0] for each in made]
            return luminance_and_chroma(torch.cat(squares) / 255)[1]
        step = 2 ** model.preparation.get("levels", 0)
        size = batch["mask"].shape[-2:]
        maps = [torch.from_numpy(each["probability"][None, :, ::step, ::step].copy()) for each in made]
        found = torch.cat([resized_maps(each, size) for each in maps])
        for key in ("valid", "ignored"):  # gaps in images are known to the file, which may have another size
            if key in batch and batch[key].shape[-2:] == size:
                found = found * (batch[key] if key == "valid" else ~batch[key])
        return found

    step = task.step
    name = "probability" if isinstance(task, ColoringTask) else "measured"
    setattr(task, name, measure)

    def whole(batch: Batch) -> Step:
        return step({key: value for key, value in batch.items() if key != "windows"})

    task.step = whole  # type: ignore[method-assign]  # for this block only
    try:
        yield
    finally:
        delattr(task, name)
        del task.step


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


def _shown(report: Mapping[str, Any]) -> str:
    """Returns the report as a table, a row for torch and for each file."""
    metrics = list(next(iter(report["metrics"].values()), {}))
    lines = [["", "MB", "s, 1 thread", "s, 2 threads", *metrics]]
    for name in report["size_mb"]:
        size = report["size_mb"][name]
        seconds = [f"{report['seconds'][threads][name]:.3f}" for threads in ("1", "2")]
        values = [f"{report['metrics'][name][metric]:.4f}" for metric in metrics]
        lines.append([name, f"{size:.1f}", *seconds, *values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
