import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import belvedere
from belvedere.__main__ import HELP, main
from belvedere.names import MOVED, SHIPPED, TASKS, configs, import_classes, renamed
from tasks.base import ImageTask
from tasks.clouds import CloudsTask


def test_the_python_names_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, belvedere; print('torch' in sys.modules, 'PIL' in sys.modules); "
        "print(belvedere.RoadsTask.__module__, belvedere.RoadsDataModule.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\ntasks.roads datamodules.roads\n"
    assert belvedere.CloudsTask is CloudsTask
    assert {"load", "predict", "AestheticsDataModule", "ColorizationTask"} <= set(dir(belvedere))
    with pytest.raises(AttributeError, match="no attribute 'CloudTask'"):
        belvedere.CloudTask  # noqa: B018


def test_each_task_is_in_the_help_with_its_configs() -> None:
    for task, subject in TASKS.items():
        names = ", ".join(sorted(path.stem for path in (SHIPPED / task).glob("*.yaml")))
        assert subject in HELP
        assert f"{task}/ {names}" in HELP


def test_configs_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert listed == configs() + "\n"
    lines = [line.split(maxsplit=1) for line in listed.splitlines() if line.startswith("  ")]
    names = [path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")]
    assert sorted(name for name, _ in lines) == sorted(name.removeprefix("studies/") for name in names)
    assert all(len(text) > 15 and "belvedere" not in text for _, text in lines)
    assert len({text for _, text in lines}) == len(lines)
    assert max(map(len, listed.splitlines())) <= 140


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"belvedere {belvedere.__version__}\n"


def test_moved_classes_have_their_new_names() -> None:
    old = {"trainer": {"callbacks": [{"class_path": "callbacks.predictions.SegmentationWriter"}, "mine.Writer"]}}
    new = {"trainer": {"callbacks": [{"class_path": "SegmentationWriter"}, "mine.Writer"]}}
    assert renamed(old) == new
    assert renamed(new) == new


def test_every_name_that_a_config_gives_a_class_is_one_class() -> None:
    from lightning.pytorch import Callback

    import_classes()
    classes: list[type] = [ImageTask, Callback]
    for each in classes:
        classes += each.__subclasses__()
    names = [each.__name__ for each in classes if not each.__module__.startswith(("tests", "test_"))]
    for name in MOVED.values():
        assert names.count(name) == 1, name


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_name_no_moved_class(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert renamed(config) == config
