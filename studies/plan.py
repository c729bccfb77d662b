"""Reads a study file and lists the runs of its grid."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

from ops.errors import ArgumentError, StudyError, nearest
from ops.files.names import safe_name
from ops.files.yamls import read_yaml

Options = dict[str, Any]
Axes = dict[str, dict[str, Options]]
SHIPPED = Path(__file__).parents[1] / "configs" / "studies"


@dataclass(frozen=True)
class Run:
    """One training of a cell of the grid.

    Attributes:
        cell: Folder name of the cell: its labels in lower case (`a-z`, `0-9`, `.`, `-`), joined by `--`.
        labels: Label of the cell on each axis.
        seed: The only difference between the runs of a cell.
        arguments: Arguments of `belvedere fit`, without `--output` and `--seed_everything`.
        training: Folder name of the cell whose training this run uses; its own `cell`, unless they differ only in axes
            that act after training.
    """

    cell: str
    labels: dict[str, str]
    seed: int
    arguments: tuple[str, ...]
    training: str

    @property
    def folder(self) -> Path:
        """Folder of the run, relative to the study's folder."""
        return Path("cells", self.cell, f"seed-{self.seed}")

    @property
    def trained_in(self) -> Path:
        """Folder of the run that trains for this one, relative to the study's folder; its own by default."""
        return Path("cells", self.training, f"seed-{self.seed}")

    @property
    def name(self) -> str:
        """Name for logs and messages, such as `U-Net · ResNet-34, seed 0`."""
        return f"{' · '.join(self.labels.values())}, seed {self.seed}"


@dataclass(frozen=True)
class Column:
    """A column of the study's table.

    Attributes:
        figure: Name of the metric: one that `test` logs, such as `test/dice`, or one of `RECORDED`.
        title: Heading of the column.
        better: Whether smaller (`min`) or larger (`max`) values are better; None if neither.
        definition: One sentence that defines the metric and what it is computed over.
    """

    figure: str
    title: str
    better: Literal["min", "max"] | None
    definition: str


@dataclass(frozen=True)
class Study:
    """A comparison: a grid of cells, each trained with several seeds.

    Attributes:
        name: File name without its suffix.
        question: The question that the study answers.
        axes: Labels of each axis of the grid.
        seeds: One or more.
        runs: Runs of all possible cells, ordered by cell, then by seed.
        impossible: Labels of every impossible cell, with the reason.
        columns: Columns of the table; the first is the headline metric.
        curves: Validation metrics to plot over the epochs, each in a figure with its training counterpart.
        panel: Glob of predicted images in a run's folder to show side by side; None for none. Test images are always
            shown.
        after: Commands to run after each test, without their `--ckpt_path`.
        tables: CSV files in a run's folder to include in the report.
        after_training: Axes whose options act after training only. Cells that differ in nothing else share a training.
        matrices: Columns to also show as a matrix, the labels of the last axis side by side.
        lines: What to plot over the labels of a numeric axis, if anything.
        groups: What to show as groups of bars, if anything.
        also: Studies that the same command runs afterwards, each in a folder of its own inside the study's.
    """

    name: str
    question: str
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    impossible: tuple[tuple[dict[str, str], str], ...]
    columns: tuple[Column, ...]
    curves: tuple[str, ...]
    panel: str | None = None
    after: tuple[tuple[str, ...], ...] = ()
    tables: tuple[str, ...] = ()
    after_training: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    lines: "Measured | None" = None
    groups: "Measured | None" = None
    also: tuple[str, ...] = ()

    @property
    def trainings(self) -> tuple[tuple[Run, ...], ...]:
        """The runs by training, the one that trains first."""
        found: dict[Path, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.trained_in, []).append(run)
        return tuple(map(tuple, found.values()))


@dataclass(frozen=True)
class Measured:
    """What a figure shows of a table in each run's folder, beside the metrics of the runs' tests.

    Attributes:
        metrics: Names of metrics, without `test/`; columns of the table.
        table: Path of a CSV file in a run's folder with a row per `vector` and `classifier`.
        axis: The axis over whose labels lines are plotted; "" for bars.
    """

    metrics: tuple[str, ...]
    table: str
    axis: str = ""


def find_study(name: str) -> Path:
    """Returns the file of a study: a path, or a name in `configs/studies` of the working folder or of the package.

    Raises:
        StudyError: There is no such study; the message suggests the nearest name.
    """
    for folder in (Path(), Path("configs", "studies"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    hint = nearest(Path(name).stem, shipped) or f" Shipped studies: {', '.join(shipped)}."
    raise StudyError(f"Found no study {name!r} in {Path.cwd()} or among the shipped ones.{hint}")


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads a study file and applies the options of the command line.

    Args:
        path: The study file; see `configs/studies` for examples.
        overrides: `--seeds '[0, 1]'` replaces the seeds. `--axes.<axis> '[label, label]'` keeps only these labels of an
            axis. `--also '[]'` selects among the studies to run afterwards. `--data.pictures FOLDER` adds a prediction
            of these images after each test. Every other option goes to `belvedere fit` of every run and overrides the
            file.

    Raises:
        StudyError: The file or an option is invalid.
    """
    file = read_file(path)
    axes: Axes = dict(file["axes"])
    seeds, after, also, arguments = file["seeds"], list(file["after"]), file["also"], list[str]()
    for name, value in option_pairs(overrides):
        if name == "seeds":
            seeds = checked_seeds(_listed(value))
        elif name.startswith("axes."):
            axis = name.removeprefix("axes.")
            axes[axis] = _selected(axis, value, file["axes"])
        elif name == "also":
            also = [study for study in _listed(value) if study is not None]
            unknown = [study for study in also if study not in file["also"]]
            _check(not unknown, f"--also is {value}; expected some of [{', '.join(file['also'])}].")
        elif name == "data.pictures":
            after.append(["predict", "--data.pictures", value])
        else:
            _check_free(name, file["axes"])
            arguments += [f"--{name}", value]
    runs: list[Run] = []
    impossible: list[tuple[dict[str, str], str]] = []
    trainings: dict[tuple[str, ...], str] = {}
    for choice in product(*axes.values()):  # the labels of the last axis vary fastest
        labels = dict(zip(axes, choice, strict=True))
        reason = _reason_against(labels, file["impossible"])
        if reason is not None:
            impossible.append((labels, reason))
            continue
        options = [file["options"], *(axes[axis][label] for axis, label in labels.items())]
        cell = safe_name("--".join(map(folder_name, labels.values())))
        key = tuple(label for axis, label in labels.items() if axis not in file["after_training"])
        training = trainings.setdefault(key, cell)
        runs += [Run(cell, labels, seed, (*option_arguments(options), *arguments), training) for seed in seeds]
    _check(bool(runs), f"{path}: every cell is impossible; expected at least one possible cell.")
    return Study(
        name=path.stem,
        question=file["question"],
        axes={axis: tuple(labels) for axis, labels in axes.items()},
        seeds=tuple(seeds),
        runs=tuple(runs),
        impossible=tuple(impossible),
        columns=tuple(Column(**column) for column in file["columns"]),
        curves=tuple(file["curves"]),
        panel=file["panel"],
        after=tuple(map(tuple, after)),
        tables=tuple(file["tables"]),
        after_training=tuple(file["after_training"]),
        matrices=tuple(file["matrices"]),
        lines=file["lines"],
        groups=file["groups"],
        also=tuple(also),
    )


def cells_of(study: Study) -> dict[tuple[str, ...], list[Run]]:
    """Returns the runs of each cell by its labels, in grid order; impossible cells have an empty list."""
    cells: dict[tuple[str, ...], list[Run]] = {cell: [] for cell in product(*study.axes.values())}
    for run in study.runs:
        cells[tuple(run.labels.values())].append(run)
    return cells


def trained_cells(study: Study) -> dict[tuple[str, ...], list[Run]]:
    """Returns the runs that train, by their labels on the axes that matter for training, in grid order.

    Impossible cells have an empty list.
    """
    kept = [place for place, axis in enumerate(study.axes) if axis not in study.after_training]
    cells: dict[tuple[str, ...], list[Run]] = {}
    for labels, runs in cells_of(study).items():
        found = cells.setdefault(tuple(labels[place] for place in kept), [])
        found += [run for run in runs if run.trained_in == run.folder]
    return cells


def option_pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields option names and values from `--name value` and `--name=value`."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        _check(word.startswith("--") and name != "", f"expected an option such as --data.root FOLDER, got {word!r}.")
        if not equals:
            value = next(rest, "--")
            _check(not value.startswith("--"), f"--{name} has no value; expected --{name} VALUE.")
        yield name, value


def _listed(value: str) -> list[Any]:
    """Parses a list such as `[0, 1]`; a single value becomes a list of one."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    return parsed if isinstance(parsed, list) else [parsed]


def _selected(axis: str, value: str, axes: Axes) -> dict[str, Options]:
    """Returns the labels of an axis that the command line selects, in the order of the file."""
    labels = [str(label) for label in _listed(value)]
    _check_labels(labels, axis, axes)
    _check(bool(labels), f"--axes.{axis} is {value}; expected one or more of {', '.join(axes[axis])}.")
    return {label: options for label, options in axes[axis].items() if label in labels}


def _check_free(name: str, axes: Axes) -> None:
    """Rejects an option that an axis varies, which would make its cells equal, or that the study sets itself."""
    if name in RESERVED:
        raise StudyError(f"a study does not accept --{name}: {RESERVED[name].replace('set seeds', 'set --seeds')}.")
    for axis, labels in axes.items():
        for key in {key for options in labels.values() for key in options} - {"config"}:
            if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
                raise StudyError(
                    f"--{name} is set by the axis {axis}; overriding it would make its cells equal. To run some of its "
                    f"labels: --axes.{axis} '[{', '.join(labels)}]'."
                )


def _reason_against(labels: Mapping[str, str], rules: Sequence[tuple[Mapping[str, Sequence[str]], str]]) -> str | None:
    """Returns why a cell is impossible, by the first rule that matches; None if none does."""
    return next((why for when, why in rules if all(labels[axis] in some for axis, some in when.items())), None)


REQUIRED = ("question", "axes", "columns", "curves")
OPTIONAL: dict[str, Any] = {"options": {}, "impossible": [], "seeds": [0], "panel": None, "after": [], "tables": [],
                            "after_training": [], "matrices": [], "lines": None, "groups": None,
                            "also": []}  # fmt: skip
COLUMN = ("figure", "title", "better", "definition")
# What a column can show besides the metrics of `test`: the cost of training, from record.json.
RECORDED = ("best_epoch", "epochs", "seconds", "peak_bytes", "parameters", "samples")
# Columns of results.csv, which has a column per axis too.
TAKEN = ("cell", "definition", "seed", "state", "arguments", "folder", "versions", "belvedere", "data_fingerprint",
         "device", *RECORDED)  # fmt: skip
AFTER = ("validate", "predict", "features")
# Options that the study sets for each run, and what to use instead.
RESERVED = {"output": "the study has its own --output, with a folder for each run",
            "seed_everything": "set seeds instead",
            "ckpt_path": "the study resumes its runs itself",
            "resume": "the study resumes its runs itself"}  # fmt: skip


def read_file(path: Path) -> dict[str, Any]:
    """Reads and checks a study file, with defaults for missing keys.

    Returns:
        `question`, `options`, `axes` (axis, label, options), `impossible` (labels by axis, and the reason), `seeds`,
        `columns` (mappings), `curves`, `panel`, `after` (lists of words), `tables`, `after_training`, `matrices`,
        `lines` and `groups` (`Measured` or None), and `also`.

    Raises:
        StudyError: The file cannot be read or its content is invalid.
    """
    try:
        return _checked(read_yaml(path.read_text(encoding="utf-8"), path))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"Cannot read {path}: {error}.") from error
    except ArgumentError as error:
        raise StudyError(str(error)) from error
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def option_arguments(parts: Iterable[Options]) -> tuple[str, ...]:
    """Returns options as command-line arguments: the configs of all parts first, then every other option once.

    Args:
        parts: Groups of options; later ones override earlier ones.
    """
    configs: list[str] = []
    settings: Options = {}
    for part in parts:
        for key, value in part.items():
            if key == "config":
                configs += [value] if isinstance(value, str) else value
            else:
                settings.pop(key, None)  # so that the value that wins also comes last
                settings[key] = value
    words = [word for config in configs for word in ("--config", config)]
    return (*words, *(word for key, value in settings.items() for word in (f"--{key}", as_text(value))))


def as_text(value: Any) -> str:
    """Returns a YAML value as typed on the command line: `true`, `null`, `0.001`, `[224, 224]`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def folder_name(label: str) -> str:
    """Returns a label as part of a folder name: `a-z`, `0-9`, `.`, with single `-` in between."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")


def checked_seeds(value: Any) -> list[int]:
    """Returns the seeds.

    Raises:
        StudyError: The value is not a list of different integers in [0, 2^32).
    """
    valid = isinstance(value, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in value)
    _check(
        valid and bool(value) and len(set(value)) == len(value),
        f"seeds is {as_text(value)}; expected different integers from 0, such as [0, 1].",
    )
    return list(value)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StudyError(otherwise)


def _checked(file: Any) -> dict[str, Any]:
    given = _mapping(file, "the file", (*REQUIRED, *OPTIONAL))
    missing = [key for key in REQUIRED if not given.get(key)]
    _check(not missing, f"{' and '.join(missing)} missing; a study needs {', '.join(REQUIRED)}.")
    values = OPTIONAL | {key: value for key, value in given.items() if value is not None}
    for key in ("question", "panel"):
        _check(isinstance(values[key], str | None), f"{key} is {as_text(values[key])}; expected text.")
    for curve in _list(values, "curves"):
        known = isinstance(curve, str) and curve.startswith("val/")
        _check(known, f"curves has {as_text(curve)}; expected a validation metric such as val/dice.")
    axes = _axes(values["axes"])
    for axis in _list(values, "after_training"):
        _check_labels((), axis, axes)
    columns = _columns(_list(values, "columns"))
    for matrix in _list(values, "matrices"):
        titles = [column["figure"] for column in columns]
        _check(matrix in titles, f"matrices has {as_text(matrix)}; expected columns: {', '.join(titles)}.")
    return values | {
        "options": _options(values["options"], "options"),
        "axes": axes,
        "impossible": [_impossible(rule, axes) for rule in _list(values, "impossible")],
        "seeds": checked_seeds(values["seeds"]),
        "columns": columns,
        "lines": _measured(values["lines"], "lines", axes),
        "groups": _measured(values["groups"], "groups", {}),
        "also": [str(study) for study in _list(values, "also")],
        "after": [_command(command) for command in _list(values, "after")],
        "tables": [str(table) for table in _list(values, "tables")],
    }


def _mapping(value: Any, where: str, known: Sequence[str] = ()) -> dict[Any, Any]:
    """Returns the value if it is a mapping; rejects keys that are not in `known`, unless `known` is empty."""
    if not isinstance(value, dict):
        raise StudyError(f"{where} is {as_text(value)}; expected keys with values.")
    for key in value:
        if known and key not in known:
            hint = nearest(str(key), known) or f" Known keys: {', '.join(known)}."
            raise StudyError(f"unknown key {key!r} in {where}.{hint}")
    return value


def _list(values: dict[str, Any], key: str) -> list[Any]:
    _check(isinstance(values[key], list), f"{key} is {as_text(values[key])}; expected a list.")
    return list(values[key])


def _options(value: Any, where: str) -> Options:
    """Returns options of `belvedere fit`."""
    options = _mapping({} if value is None else value, where)
    for key, setting in options.items():
        _check(key not in RESERVED, f"{where} cannot set {key}: {RESERVED.get(key)}.")
        named = isinstance(key, str) and re.fullmatch(r"[a-z_]\w*(\.\w+)*\+?", key) is not None
        _check(named, f"{where} has {key!r}; expected an option such as model.encoder.")
        if isinstance(setting, dict) and "." not in key:
            inner = next(iter(setting), "encoder")
            raise StudyError(f"{where} nests keys below {key}; write each on its own line as {key}.{inner}: …")
        names = [setting] if isinstance(setting, str) else setting
        if key == "config" and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise StudyError(f"config in {where} is {as_text(setting)}; expected the name of a config or a list.")
    return options


def _axes(value: Any) -> Axes:
    axes: Axes = {}
    for axis, labels in _mapping(value, "axes").items():
        valid = re.fullmatch(r"[a-z]\w*", str(axis)) is not None and axis not in TAKEN
        _check(valid, f"invalid axis name {axis!r}; use lower-case letters and _, and none of {', '.join(TAKEN)}.")
        where, folders = f"axis {axis}", dict[str, str]()
        axes[axis] = {}
        for label, options in _mapping(labels, where).items():
            _check(
                label is not None and not isinstance(label, bool), f"{where}: YAML reads a label as {label}; quote it."
            )
            name, folder = str(label), folder_name(str(label))
            if not folder or folder in folders:
                problem = f"as for {folders[folder]!r}" if folder else "which is empty"
                raise StudyError(f"{where}: the folder of {name!r} would be {folder!r}, {problem}; rename the label.")
            folders[folder] = name
            axes[axis][name] = _options(options, f"{where}, {name}")
        _check(bool(axes[axis]), f"{where} has no labels; expected one or more.")
    return axes


def _impossible(value: Any, axes: Axes) -> tuple[dict[str, list[str]], str]:
    """Returns the labels by axis that a rule excludes, and why."""
    rule = _mapping(value, "impossible", ("when", "because"))
    if not rule.get("when") or not isinstance(rule.get("because"), str):
        raise StudyError(f"impossible has {as_text(value)}; expected when: {{axis: label}} and because: text.")
    when = {}
    for axis, labels in _mapping(rule["when"], "impossible, when", list(axes)).items():
        when[axis] = [str(label) for label in (labels if isinstance(labels, list) else [labels])]
        _check_labels(when[axis], axis, axes)
    return when, rule["because"]


def _check_labels(labels: Iterable[str], axis: str, axes: Axes) -> None:
    _check(axis in axes, f"unknown axis {axis!r}; the axes are {', '.join(axes)}.{nearest(axis, axes)}")
    for label in labels:
        _check(label in axes[axis], f"axis {axis} has no label {label!r}; its labels are {', '.join(axes[axis])}.")


def _columns(value: list[Any]) -> list[dict[str, Any]]:
    columns = [_mapping(column, "columns", COLUMN) for column in value]
    for column in columns:
        missing = [key for key in COLUMN if key not in column]
        _check(not missing, f"columns: {as_text(column)} lacks {' and '.join(missing)}.")
        odd = [key for key in ("figure", "title", "definition") if not isinstance(column[key], str) or not column[key]]
        _check(not odd, f"columns: {as_text(column)}; expected text for {' and '.join(odd)}.")
        figure, better = column["figure"], column["better"]
        _check(
            figure.startswith("test/") or figure in RECORDED,
            f"columns: figure is {figure!r}; expected a test metric such as test/dice, or {', '.join(RECORDED)}.",
        )
        _check(better in ("min", "max", None), f"columns: {figure} has better: {better}; expected min, max or null.")
    headline = columns[0]
    _check(headline["better"] is not None, f"the first column, {headline['figure']}, needs better: min or max.")
    return columns


def _measured(value: Any, where: str, axes: Axes) -> Measured | None:
    """Returns what a figure shows; an axis must be given, with numbers as labels, if there are any."""
    if value is None:
        return None
    given = _mapping(value, where, ("metrics", "table", *(["axis"] if axes else [])))
    metrics: Any = given.get("metrics")
    table: Any = given.get("table")
    axis: Any = given.get("axis", "")
    named = isinstance(metrics, list) and metrics and all(isinstance(each, str) for each in [*metrics, table, axis])
    _check(bool(named), f"{where} is {as_text(value)}; expected metrics: [accuracy] and table: FILE.")
    if axes:
        _check_labels((), axis, axes)
        odd = [label for label in axes[axis] if not re.fullmatch(r"\d+(\.\d+)?", label)]
        _check(not odd, f"{where}: the labels of {axis} are no numbers: {', '.join(odd)}.")
    return Measured(tuple(metrics), table, axis)


def _command(value: Any) -> list[str]:
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:  # quotes that do not close, a backslash at the end
        raise StudyError(
            f"after has {value!r}, which is not a command line: {str(error).lower()}. Close the quote, or write the "
            "command as a list of words."
        ) from error
    valid = isinstance(words, list) and words and words[0] in AFTER
    _check(bool(valid), f"after has {as_text(value)}; expected one of {', '.join(AFTER)} with its options.")
    return [as_text(word) for word in words]
