"""Checks the shipped studies: every run is expanded, every label is parsed, and every metric exists in its task."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from belvedere.__main__ import main
from belvedere.commandline.arguments import expanded
from belvedere.files import find_config
from datamodules.roads import RoadsDataModule
from datamodules.samples.roads import draw_roads
from studies.plan import SHIPPED, Run, Study, read_study
from studies.results import image_size
from tasks.aesthetics import AestheticsTask
from tasks.avalanches import AvalanchesTask
from tasks.base import ImageTask
from tasks.clouds import CloudsTask
from tasks.colorization import ColorizationTask
from tasks.roads import RoadsTask

NAMES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
CELLS = {"aesthetics": 16, "aesthetics_delta": 10, "aesthetics_features": 6, "avalanches": 28, "clouds": 12,
         "clouds_claims": 10, "colorization": 18, "folds": 5, "learning_curve": 12,
         "roads": 16}  # fmt: skip  # possible ones
SMALL: dict[str, Callable[[], ImageTask]] = {
    "aesthetics": lambda: AestheticsTask("alexnet", 8, "distribution", pretrained=False, freeze_convolutions=False),
    "avalanches": lambda: AvalanchesTask(network="cnn2d"),
    "clouds": lambda: CloudsTask(architecture="fpn", encoder="mobilenet_v2", pretrained=False),
    "colorization": lambda: ColorizationTask(extractor=None),
    "folds": lambda: RoadsTask("vgg10", pretrained=False),
    "learning_curve": lambda: RoadsTask("vgg10", pretrained=False),
    "roads": lambda: RoadsTask("vgg10", pretrained=False),
}


def shipped(name: str) -> Study:
    recipe = ["--config", "roads/vgg10"] if name in ("folds", "learning_curve") else []  # which take any
    return read_study(SHIPPED / f"{name}.yaml", ["--seeds", "0", *recipe])


def covering(study: Study) -> Iterator[Run]:
    """Yields few runs that together have every label of every axis."""
    missing = {pair for run in study.runs for pair in run.labels.items()}
    assert missing == {(axis, label) for axis, labels in study.axes.items() for label in labels}
    while missing:
        run = max(study.runs, key=lambda run: len(missing & set(run.labels.items())))
        missing -= set(run.labels.items())
        yield run


def test_all_are_counted() -> None:
    assert {name: len(shipped(name).runs) for name in NAMES} == CELLS


@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_expanded(name: str) -> None:
    study = shipped(name)
    for run in study.runs:
        _, *words = expanded(["fit", *run.arguments])
        configs = [value for option, value in zip(words[::2], words[1::2], strict=True) if option == "--config"]
        assert configs
        assert all(Path(config).is_file() for config in configs)
    assert len({run.arguments for run in study.runs}) == len(study.runs)
    assert len({run.folder for run in study.runs}) == len(study.runs)


def parsed(run: Run, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Returns the config that `fit` makes of the arguments of a run."""
    with pytest.raises(SystemExit) as leaving:
        main(["fit", *run.arguments, *options, "--print_config"])
    captured = capsys.readouterr()
    assert leaving.value.code in (0, None), captured.err
    config: dict[str, Any] = yaml.safe_load(captured.out)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_label_is_parsed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = set()
    for run in covering(shipped(name)):
        config = parsed(run, capsys)
        assert differing(config, run.arguments) == {}
        sizes.add(image_size(config["data"]["init_args"]))
    assert len(sizes) == 1, "rows of the table could not be compared"


def test_every_cell_of_roads_takes_the_tiles_of_the_paper(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = draw_roads(tmp_path / "roads", tiles=8)
    for run in covering(shipped("roads")):
        options = parsed(run, capsys, "--data.root", str(root), "--data.val_fraction", "0.25")["data"]["init_args"]
        data = RoadsDataModule(**options)
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        assert batch["image"].shape[1:] == (3, 256, 256), run.cell


def differing(config: dict[str, Any], arguments: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values of a parsed config that differ from the options that it was parsed from."""
    wrong = {}
    for option, text in zip(arguments[::2], arguments[1::2], strict=True):
        if option == "--config":
            wanted = yaml.safe_load(find_config(text).read_text())["model"]["class_path"]
            found = config["model"]["class_path"].split(".")[-1]  # parsed, a bare name is a full path
        else:
            part, *names = option.removeprefix("--").split(".")
            wanted, found = yaml.safe_load(text), config[part]
            for name in names:
                found = found["init_args"][name]
            found = found["class_path"] if isinstance(found, dict) else found
        if found != wanted:
            wrong[option] = found
    return wrong


def test_a_different_config_is_detected() -> None:
    config = {"model": {"class_path": "tasks.roads.RoadsTask", "init_args": {"network": "vgg10"}}}
    assert differing(config, ("--config", "roads/vgg10", "--model.network", "vgg12")) == {"--model.network": "vgg10"}
    assert "--config" in differing(config, ("--config", "clouds/fpn"))


@pytest.mark.filterwarnings("ignore:.*compute.*was called before the.*update")
@pytest.mark.parametrize("name", NAMES)
def test_every_metric_exists_in_its_task(name: str) -> None:
    study = shipped(name)
    known = {figure.removeprefix("val/") for figure in SMALL[name if name in SMALL else name.split("_")[0]]().figures()}
    if name == "avalanches":
        known |= {
            f"{each}_{figure}" for figure in known for each in ("second_edges", "second_enhanced", "boosted")
        }  # in the test
    known |= {f"{figure}_at_half" for figure in known if name.startswith("clouds")}
    wanted = [column.figure for column in study.columns if column.figure.startswith("test/")]
    assert {figure.partition("/")[2] for figure in [*wanted, *study.curves]} <= known


@pytest.mark.parametrize("name", NAMES)
def test_file_starts_with_the_command_that_runs_it(name: str) -> None:
    text = (SHIPPED / f"{name}.yaml").read_text()
    first = text.splitlines()[1].split()
    command = ["learning-curve"] if name == "learning_curve" else ["study", name]
    assert first[: 2 + len(command)] == ["#", "belvedere", *command]
    planned = read_study(SHIPPED / f"{name}.yaml", first[2 + len(command) :])
    assert "--data.root" in planned.runs[0].arguments
    assert ("--data.pictures" in text) == (planned.panel is not None)  # a panel needs predictions
