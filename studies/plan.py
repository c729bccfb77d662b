"""What a study compares: its file, and the runs that follow from it."""

import difflib
import json
import re
import shlex
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from ops.errors import StudyError as StudyError  # what users of this module catch

Options = dict[str, Any]
Axes = dict[str, dict[str, Options]]
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
        figure: The figure's name: one that `test` writes, such as `test/dice`, or one of `studies.plan.RECORDED`.
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
        because = _excluded(labels, file["impossible"])
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


def _excluded(labels: Mapping[str, str], rules: Sequence[tuple[Mapping[str, Sequence[str]], str]]) -> str | None:
    """Why a cell is impossible, by the first rule that is about it."""
    return next((why for when, why in rules if all(labels[axis] in some for axis, some in when.items())), None)


REQUIRED = ("question", "axes", "columns", "curve")
OPTIONAL: dict[str, Any] = {"options": {}, "impossible": [], "seeds": [0], "panel": None, "after": [], "tables": []}
COLUMN = ("figure", "title", "better", "definition")
RECORDED = ("best_epoch", "epochs", "seconds", "peak_bytes", "parameters")
"""Figures that a column can have beside those of `test`: what training took."""
TAKEN = ("cell", "definition", "seed", "state", "arguments", "folder", "versions", "belvedere", "data_fingerprint",
         "device", *RECORDED)  # fmt: skip  # columns of results.csv, where axes are columns too
AFTER = ("validate", "predict", "features")
OURS = {"output": "the study has an --output, and a folder in it for each run", "seed_everything": "give seeds",
        "ckpt_path": "the study goes on with its runs by itself",
        "resume": "the study goes on with its runs by itself"}  # fmt: skip
"""Options that the study gives each run itself, and what to do in their place."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key that comes twice is refused: the first one's cells would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different."""
        merge = "tag:yaml.org,2002:merge"  # `<<`, which may stand there more than once
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise StudyError(f"{key!r} stands there twice; different keys were wanted: take one out.")
        return super().construct_mapping(node, deep)


def read_file(path: Path) -> dict[str, Any]:
    """What a study's file says, checked, with defaults where it says nothing.

    Returns:
        `question`, `options`, `axes` (axis, label, options), `impossible` (labels by axis, and why), `seeds`, `columns`
        (mappings), `curve`, `panel`, `after` (lists of words) and `tables`.

    Raises:
        StudyError: It cannot be read, or says something that is not wanted there.
    """
    try:
        return _checked(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def option_arguments(parts: Iterable[Options]) -> tuple[str, ...]:
    """Options as the command line takes them: the configs of all parts first, then each other option once.

    Args:
        parts: Later ones win.
    """
    configs: list[str] = []
    settings: Options = {}
    for part in parts:
        for key, value in part.items():
            if key == "config":
                configs += [value] if isinstance(value, str) else value
            else:
                settings.pop(key, None)  # so that what wins also comes last
                settings[key] = value
    words = [word for config in configs for word in ("--config", config)]
    return (*words, *(word for key, value in settings.items() for word in (f"--{key}", as_text(value))))


def as_text(value: Any) -> str:
    """A value of YAML as it is typed: `true`, `null`, `0.001`, `[224, 224]`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def folder_name(label: str) -> str:
    """A label as a part of a folder's name, of `a-z`, `0-9`, `.` and single `-` between them."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def checked_seeds(value: Any) -> list[int]:
    """Seeds, if they are some.

    Raises:
        StudyError: They are not.
    """
    whole = isinstance(value, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in value)
    if not whole or not value or len(set(value)) < len(value):
        raise StudyError(f"seeds are {as_text(value)}; different whole numbers from 0 on were wanted, such as [0, 1].")
    return list(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _checked(file: Any) -> dict[str, Any]:
    given = _mapping(file, "the file", (*REQUIRED, *OPTIONAL))
    missing = [key for key in REQUIRED if not given.get(key)]
    if missing:
        raise StudyError(f"there is no {' and no '.join(missing)}; a study has {', '.join(REQUIRED)}.")
    said = OPTIONAL | {key: value for key, value in given.items() if value is not None}
    for key in ("question", "curve", "panel"):
        if not isinstance(said[key], str | None):
            raise StudyError(f"{key} is {as_text(said[key])}; text was wanted.")
    if not said["curve"].startswith("val/"):
        raise StudyError(f"curve is {said['curve']!r}; a figure of validation was wanted, such as val/dice.")
    axes = _axes(said["axes"])
    return said | {
        "options": _options(said["options"], "options"),
        "axes": axes,
        "impossible": [_impossible(rule, axes) for rule in _list(said, "impossible")],
        "seeds": checked_seeds(said["seeds"]),
        "columns": _columns(_list(said, "columns")),
        "after": [_command(command) for command in _list(said, "after")],
        "tables": [str(table) for table in _list(said, "tables")],
    }


def _mapping(value: Any, what: str, known: Sequence[str] = ()) -> dict[Any, Any]:
    """The value, if it is a mapping with no other keys than those known, where some are."""
    if not isinstance(value, dict):
        raise StudyError(f"{what} is {as_text(value)}; keys with values were wanted.")
    for key in value:
        if known and key not in known:
            hint = nearest(str(key), known) or f" Known: {', '.join(known)}."
            raise StudyError(f"there is no key {key!r} in {what}.{hint}")
    return value


def _list(said: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(said[key], list):
        raise StudyError(f"{key} is {as_text(said[key])}; a list was wanted.")
    return list(said[key])


def _options(value: Any, where: str) -> Options:
    """Options of `belvedere fit`, if they can be some."""
    options = _mapping({} if value is None else value, where)
    for key, setting in options.items():
        if key in OURS:
            raise StudyError(f"{where} has {key}, which is not for the file: {OURS[key]}.")
        if not isinstance(key, str) or not re.fullmatch(r"[a-z_]\w*(\.\w+)*\+?", key):
            raise StudyError(f"{where} has {key!r}; an option was wanted, as model.encoder is.")
        if isinstance(setting, dict) and "." not in key:
            inner = next(iter(setting), "encoder")
            raise StudyError(f"{where} has {key} with keys below it; write {key}.{inner}: … in one line each.")
        names = [setting] if isinstance(setting, str) else setting
        if key == "config" and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise StudyError(f"config in {where} is {as_text(setting)}; a config's name or a list of them was wanted.")
    return options


def _axes(value: Any) -> Axes:
    axes: Axes = {}
    for axis, labels in _mapping(value, "axes").items():
        if not re.fullmatch(r"[a-z]\w*", str(axis)) or axis in TAKEN:
            raise StudyError(f"an axis is called {axis!r}; letters and _ were wanted, and none of {', '.join(TAKEN)}.")
        where, folders = f"axis {axis}", dict[str, str]()
        axes[axis] = {}
        for label, options in _mapping(labels, where).items():
            if label is None or isinstance(label, bool):
                raise StudyError(f"{where} has the label {label}, as YAML reads it; put it in quotes.")
            name, folder = str(label), folder_name(str(label))
            if not folder or folder in folders:
                other = f"that of {folders[folder]!r} too" if folder else "empty"
                raise StudyError(f"{where}: the folder of {name!r} would be {folder!r}, {other}; call it otherwise.")
            folders[folder] = name
            axes[axis][name] = _options(options, f"{where}, {name}")
        if not axes[axis]:
            raise StudyError(f"{where} has no labels; one or more were wanted.")
    return axes


def _impossible(value: Any, axes: Axes) -> tuple[dict[str, list[str]], str]:
    """Labels by axis that do not go together, and why."""
    rule = _mapping(value, "impossible", ("when", "because"))
    if not rule.get("when") or not isinstance(rule.get("because"), str):
        raise StudyError(f"impossible has {as_text(value)}; wanted is when: {{axis: label}}, and because: in words.")
    when = {}
    for axis, labels in _mapping(rule["when"], "impossible, when", list(axes)).items():
        when[axis] = [str(label) for label in (labels if isinstance(labels, list) else [labels])]
        check_labels(when[axis], axis, axes)
    return when, rule["because"]


def check_labels(labels: Iterable[str], axis: str, axes: Axes) -> None:
    """Refuses labels that an axis does not have.

    Raises:
        StudyError: There is such a label, or no such axis.
    """
    if axis not in axes:
        raise StudyError(f"there is no axis {axis!r}; the axes are {', '.join(axes)}.{nearest(axis, axes)}")
    for label in labels:
        if label not in axes[axis]:
            raise StudyError(f"axis {axis} has no label {label!r}; it has {', '.join(axes[axis])}.")


def _columns(value: list[Any]) -> list[dict[str, Any]]:
    columns = [_mapping(column, "columns", COLUMN) for column in value]
    for column in columns:
        missing = [key for key in COLUMN if key not in column]
        if missing:
            raise StudyError(f"columns has {as_text(column)} without {' and '.join(missing)}.")
        odd = [key for key in ("figure", "title", "definition") if not isinstance(column[key], str) or not column[key]]
        if odd:
            raise StudyError(f"columns has {as_text(column)}; {' and '.join(odd)} in words was wanted.")
        figure, better = column["figure"], column["better"]
        if not figure.startswith("test/") and figure not in RECORDED:
            raise StudyError(
                f"columns has the figure {figure!r}; one of the test was wanted, such as test/dice, or one of "
                f"{', '.join(RECORDED)}."
            )
        if better not in ("min", "max", None):
            raise StudyError(f"{figure} is better at {better!r}; min, max or null was wanted.")
    if columns[0]["better"] is None:
        raise StudyError(f"the first column, {columns[0]['figure']}, is the headline; better: min or max was wanted.")
    return columns


def _command(value: Any) -> list[str]:
    words = shlex.split(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words or words[0] not in AFTER:
        raise StudyError(f"after has {as_text(value)}; wanted is {', '.join(AFTER)}, and its options.")
    return [as_text(word) for word in words]
