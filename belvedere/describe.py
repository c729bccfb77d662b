"""The command `describe`: checks a dataset, then writes and prints tables, charts and examples of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from callbacks.writers.format import FAILED, skipped
from datamodules.base import ImageDataModule
from datamodules.describe import describer
from datamodules.describe.leaks import add_leaks
from drawing.charts import draw_study
from drawing.pictures import panel, save_picture, titled
from ops.atomic import write_table
from ops.errors import refuse
from tasks.base import ImageTask

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def describe(task: ImageTask, data: ImageDataModule, trainer: Trainer, folder: Path) -> int:
    """Checks a dataset, then writes tables and charts of it. Images that cannot be used are skipped and listed.

    Args:
        task: Not used; every command of our own gets the same arguments.
        data: The dataset.
        trainer: Not used.
        folder: Where to write.

    Returns:
        How many images were skipped.

    Raises:
        DataError: Something else is wrong with the dataset; the message lists all of it.
        ArgumentError: No module in `datamodules.describe` describes such data.
    """
    data.folder, data.skipping = folder, True
    description = describer(data)
    problems = description.problems(data)
    if problems:
        problems += data.unusable.values()
        refuse(list(dict.fromkeys(problems)), str(data.root), shown=len(problems))
    study = description.study(data)
    add_leaks(study, data)
    parts = (study.tables, study.charts, study.examples, study.classes, study.panels)
    for path in write_study(*parts, folder, data.root.absolute().name):
        print(path)
    if data.unusable:
        write_table(folder / FAILED, ("name", "problem"), data.unusable.items())
    else:
        (folder / FAILED).unlink(missing_ok=True)  # that of an earlier check
    print(skipped(list(data.unusable.items())), end="\n" if data.unusable else "")
    return len(data.unusable)


def write_study(
    tables: "Mapping[str, pd.DataFrame]",
    charts: "Mapping[str, pd.Series[Any]]",
    examples: "Sequence[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]",
    classes: Sequence[str],
    panels: "Mapping[str, tuple[list[str], list[list[NDArray[np.uint8]]]]]",
    folder: Path,
    name: str = "",
) -> list[Path]:
    """Writes each table as CSV, the charts and examples as one image, each panel as another; prints the first table.

    Args:
        tables: By name; the first is the summary.
        charts: By title: index = bins, values = heights.
        examples: Title, image uint8 (H, W, 3) and masks bool (K, H, W), or (K + 1, H, W) with the ignored pixels.
        classes: Names of the K classes.
        panels: By name: titles of columns, and rows of images.
        folder: Where to write.
        name: What the dataset is called.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (part, table) in enumerate(tables.items()):
        if index == 0:
            print(table.to_string(index=False, na_rep="-"))
        path = folder / f"{part}.csv"
        write_table(path, table.columns, table.astype(object).where(table.notna(), "").to_numpy().tolist())
        paths.append(path)
    draw_study(charts, examples, classes, folder / "study.png", f"Dataset {name}" if name else "")
    paths.append(folder / "study.png")
    for part, (titles, rows) in panels.items():
        paths.append(folder / f"{part}.png")
        drawn = panel(rows, titles)
        save_picture(titled(drawn, f"Dataset {name}: {part}") if name else drawn, paths[-1])
    return paths
