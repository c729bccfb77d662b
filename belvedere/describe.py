"""The command `describe`: checks a dataset, then writes and prints tables, charts and examples of it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from belvedere.folds.found import FoldResult, check_labeled, fold_modules, fold_results
from belvedere.folds.looks import looks_of
from belvedere.folds.panels import write_doubts
from belvedere.prediction import load
from callbacks.writers.format import FAILED, skipped
from datamodules.base import ImageDataModule
from datamodules.describe import describer
from datamodules.describe.leaks import add_leaks
from datamodules.describe.study import Study
from drawing.charts import draw_study
from drawing.pictures import panel, save_picture, titled
from ops.atomic import write_table
from ops.errors import refuse
from tasks.base import ImageTask
from tasks.metrics.meter import Meter


def describe(
    task: ImageTask,
    data: ImageDataModule,
    trainer: Trainer,
    folder: Path,
    ckpt_path: str | Path | None = None,
    members: list[str] | None = None,
    backbones: dict[str, bool | str] | None = None,
    trust: bool = False,
) -> int:
    """Checks a dataset, then writes tables and charts of it. Images that cannot be used are skipped and listed.

    With a checkpoint, also the images whose labels it contradicts while it is sure.

    Args:
        task: Not used; every command of our own gets the same arguments.
        data: The dataset.
        trainer: Not used.
        folder: Where to write.
        ckpt_path: A trained network. Doubtful labels are looked for among the images of val and test.
        members: The checkpoints of the other folds: doubtful labels are looked for among all images, each with the
            network that was trained without it.
        backbones: Frozen networks, and for each `true` or the path of its weights, by which images of different splits
            are compared; the checkpoint's encoder by default.
        trust: Let the checkpoints' configs name any class.

    Returns:
        How many images were skipped.

    Raises:
        DataError: Something else is wrong with the dataset; the message lists all of it.
        ArgumentError: No module in `datamodules.describe` describes such data, or a checkpoint's task
            neither marks nor judges images.
    """
    data.folder, data.skipping = folder, True
    description = describer(data)
    problems = description.problems(data)
    if problems:
        problems += data.unusable.values()
        refuse(list(dict.fromkeys(problems)), str(data.root), shown=len(problems))
    study = description.study(data)
    paths = [] if ckpt_path is None else [Path(ckpt_path), *map(Path, members or ())]
    tasks = [load(path, trust=trust) for path in paths]
    for each in tasks:
        check_labeled(each)
    add_leaks(study, data, looks_of(tasks[0] if tasks else None, backbones))
    for path in write_study(study, folder, data.root.absolute().name):
        print(path)
    if tasks:
        print("\n".join(_doubtful(tasks, paths, data, folder, trust)))
    if data.unusable:
        write_table(folder / FAILED, ("name", "problem"), data.unusable.items())
    else:
        (folder / FAILED).unlink(missing_ok=True)  # that of an earlier check
    print(skipped(list(data.unusable.items())), end="\n" if data.unusable else "")
    return len(data.unusable)


def _doubtful(
    tasks: Sequence[ImageTask], paths: Sequence[Path], data: ImageDataModule, folder: Path, trust: bool
) -> list[str]:
    """Writes the doubtful labels, and returns lines about them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    several = len(tasks) > 1
    modules = fold_modules(paths, trust) if several else iter([data])
    found: list[FoldResult] = []
    for task, module in zip(tasks, modules, strict=True):
        task.share_temperature(tasks[0])
        meter = Meter(task.build_metrics())
        for split in ("test",) if several else ("val", "test"):
            found += fold_results(task.to(device), module, meter.to(device), device, split)
    of = "folds" if several else "val and test"
    lines = write_doubts(found, data, folder)
    return lines or [f"No label of the {len(found)} images of {of} is doubtful."]


def write_study(study: Study, folder: Path, name: str = "") -> list[Path]:
    """Writes each table as CSV, the charts and examples as one image, each panel as another; prints the first table.

    Args:
        study: What describes the dataset.
        folder: Where to write.
        name: What the dataset is called.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (part, table) in enumerate(study.tables.items()):
        if index == 0:
            print(table.to_string(index=False, na_rep="-"))
        path = folder / f"{part}.csv"
        write_table(path, table.columns, table.astype(object).where(table.notna(), "").to_numpy().tolist())
        paths.append(path)
    draw_study(study.charts, study.examples, study.classes, folder / "study.png", f"Dataset {name}" if name else "")
    paths.append(folder / "study.png")
    for part, (titles, rows, names) in study.panels.items():
        paths.append(folder / f"{part}.png")
        drawn = panel(rows, titles, names)
        save_picture(titled(drawn, f"Dataset {name}: {part}") if name else drawn, paths[-1])
    return paths
