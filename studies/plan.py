"""What a study compares: its file, and the runs that follow from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from studies.study_file import (
    OURS,
    Axes,
    Options,
    check_labels,
    checked_seeds,
    folder_name,
    nearest,
    option_arguments,
    read_file,
)
from studies.study_file import StudyError as StudyError  # what users of this module catch

SHIPPED = Path(__file__).parents[1] / "configs" / "studies"


@dataclass(frozen=True)
class Run:
    """One run of the command line.

    Attributes:
        cell: Its cell's folder: the labels in lower case, of `a-z`, `0-9`, `.` and `-`, with `--` between them.
        labels: The cell's label on each axis.
        seed: Of the run; the other runs of the cell differ from it in nothing else.
        arguments: What `belvedere fit` is given, without `--output` and `--seed_everything`.
    """

    cell: str
    labels: dict[str, str]
    seed: int
    arguments: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Its folder, in the study's."""
        return Path("cells", self.cell, f"seed-{self.seed}")


@dataclass(frozen=True)
class Column:
    """A column of a study's table.

    Attributes:
        figure: The figure's name: one that `test` writes, such as `test/dice`, or one of `studies.study_file.RECORDED`.
        title: What stands over the column.
        better: Whether small or large values are better; None where neither is.
        definition: One sentence: what it is, over what.
    """

    figure: str
    title: str
    better: Literal["min", "max"] | None
    definition: str


@dataclass(frozen=True)
class Study:
    """A comparison: a grid of cells, each trained with several seeds.

    Attributes:
        name: The file's, without its ending.
        question: What the study is to answer.
        axes: The labels of each axis of the grid.
        seeds: One or more.
        runs: Those of all cells that are possible, cell by cell, seed by seed.
        impossible: The labels of every other cell, and why it is impossible.
        columns: Of the table; the first is the headline.
        curve: The figure of validation and training whose curves are drawn.
        panel: Which pictures of a run's folder are shown side by side, a glob; None for none.
        after: Commands that follow each run's test, without their `--ckpt_path`.
        tables: CSV files in a run's folder that the report shows.
    """

    name: str
    question: str
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    impossible: tuple[tuple[dict[str, str], str], ...]
    columns: tuple[Column, ...]
    curve: str
    panel: str | None = None
    after: tuple[tuple[str, ...], ...] = ()
    tables: tuple[str, ...] = ()


def find_study(name: str) -> Path:
    """The file of a study: a path, or a name in `configs/studies` of the working folder or among the shipped ones.

    Raises:
        StudyError: There is none; the message names the nearest.
    """
    for folder in (Path(), Path("configs", "studies"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    hint = nearest(Path(name).stem, shipped) or f" Shipped: {', '.join(shipped)}."
    raise StudyError(f"There is no study {name!r} in {Path.cwd()} or among the shipped ones.{hint}")


def read_study(path: Path, typed: Sequence[str] = ()) -> Study:
    """The study of a file, with what was typed on top.

    Args:
        path: The file; `configs/studies` has examples.
        typed: `--seeds '[0, 1]'` takes these seeds, `--axes.<axis> '[label, label]'` these labels of an axis only;
            `--data.pictures FOLDER` has each run predict these pictures after its test. All else is for every run:
            options of `belvedere fit`, which win over those of the file.

    Raises:
        StudyError: The file or what was typed cannot be used; the message says what was wanted.
    """
    file = read_file(path)
    axes: Axes = dict(file["axes"])
    seeds, after, arguments = file["seeds"], list(file["after"]), list[str]()
    for name, value in _pairs(typed):
        if name == "seeds":
            seeds = checked_seeds(_listed(value))
        elif name.startswith("axes."):
            axis = name.removeprefix("axes.")
            axes[axis] = _some(axis, value, file["axes"])
        elif name == "data.pictures":
            after.append(["predict", "--data.pictures", value])
        else:
            _refuse_chosen(name, file["axes"])
            arguments += [f"--{name}", value]
    runs: list[Run] = []
    impossible: list[tuple[dict[str, str], str]] = []
    for labels in _cells(axes):
        because = _impossible(labels, file["impossible"])
        if because is not None:
            impossible.append((labels, because))
            continue
        options = [file["options"], *(axes[axis][label] for axis, label in labels.items())]
        cell = "--".join(map(folder_name, labels.values()))
        runs += [Run(cell, labels, seed, (*option_arguments(options), *arguments)) for seed in seeds]
    if not runs:
        raise StudyError(f"{path}: every cell is impossible; one that is possible was wanted.")
    return Study(
        name=path.stem,
        question=file["question"],
        axes={axis: tuple(labels) for axis, labels in axes.items()},
        seeds=tuple(seeds),
        runs=tuple(runs),
        impossible=tuple(impossible),
        columns=tuple(Column(**column) for column in file["columns"]),
        curve=file["curve"],
        panel=file["panel"],
        after=tuple(map(tuple, after)),
        tables=tuple(file["tables"]),
    )


def cells_of(study: Study) -> dict[tuple[str, ...], list[Run]]:
    """Runs by labels, in the order of the grid; none of an impossible cell."""
    cells: dict[tuple[str, ...], list[Run]] = {tuple(labels.values()): [] for labels, _ in study.impossible}
    for run in study.runs:
        cells.setdefault(tuple(run.labels.values()), []).append(run)
    axes = list(study.axes.values())
    return {
        labels: cells[labels]
        for labels in sorted(
            cells, key=lambda cell: [axis.index(label) for axis, label in zip(axes, cell, strict=True)]
        )
    }


def _pairs(typed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values, of `--name value` and `--name=value`."""
    words = iter(typed)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise StudyError(f"{word!r} was typed where an option was wanted, such as --data.root FOLDER.")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise StudyError(f"--{name} has no value; wanted is --{name} VALUE.")
        yield name, value


def _listed(value: str) -> Any:
    """A typed list, `[0, 1]`, or what stands alone as a list of one."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    return parsed if isinstance(parsed, list) else [parsed]


def _some(axis: str, value: str, axes: Axes) -> dict[str, Options]:
    """The typed labels of an axis, in the order of the file."""
    labels = [str(label) for label in _listed(value)]
    check_labels(labels, axis, axes)
    if not labels:
        raise StudyError(f"--axes.{axis} is {value}; one label or more was wanted, of {', '.join(axes[axis])}.")
    return {label: options for label, options in axes[axis].items() if label in labels}


def _refuse_chosen(name: str, axes: Axes) -> None:
    """Refuses an option that the cells differ in, which would make them one, or that the study gives by itself."""
    if name in OURS:
        raise StudyError(f"--{name} is not for a study: {OURS[name].replace('give seeds', 'give --seeds')}.")
    for axis, labels in axes.items():
        for key in {key for options in labels.values() for key in options} - {"config"}:
            if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
                raise StudyError(
                    f"--{name} is what the axis {axis} chooses: the cells would no longer differ. Take some of its "
                    f"labels: --axes.{axis} '[{', '.join(labels)}]'."
                )


def _cells(axes: Axes) -> Iterator[dict[str, str]]:
    """The labels of every cell of the grid; those of the last axis change first."""
    return (dict(zip(axes, labels, strict=True)) for labels in product(*axes.values()))


def _impossible(labels: Mapping[str, str], rules: Sequence[tuple[Mapping[str, Sequence[str]], str]]) -> str | None:
    """Why a cell is impossible, by the first rule that is about it."""
    return next((why for when, why in rules if all(labels[axis] in some for axis, some in when.items())), None)
