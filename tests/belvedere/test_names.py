import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import belvedere as api
import datamodules
import tasks
from belvedere.__main__ import HELP, main
from belvedere.names import (
    MOVED,
    MOVED_MODULES,
    SHIPPED,
    TASKS,
    class_modules,
    configs,
    import_classes,
    renamed,
    task_name,
)
from datamodules.segmentation import SegmentationDataModule
from tasks.base import ImageTask
from tasks.clouds import CloudsTask
from tests.helpers import ROOT, masked_images, table

FIXTURE = ROOT / "tests" / "fixtures" / "run_66ad3a8"


def test_names_are_imported_on_demand() -> None:
    code = (
        "import sys, belvedere; print('torch' in sys.modules, 'PIL' in sys.modules); "
        "print(belvedere.RoadsTask.__module__, belvedere.RoadsDataModule.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\ntasks.roads datamodules.roads\n"
    assert api.CloudsTask is CloudsTask
    for task in TASKS:
        for name, module in ((f"{task.title()}Task", tasks), (f"{task.title()}DataModule", datamodules)):
            assert getattr(api, name).__module__ == f"{module.__name__}.{task}"
            assert name in dir(api)
            assert name in api.__all__
    with pytest.raises(AttributeError, match="no attribute 'CloudTask'"):
        api.CloudTask  # noqa: B018


def test_help_lists_every_task_with_its_configs() -> None:
    for task, subject in TASKS.items():
        others = sorted({path.stem for path in (SHIPPED / task).glob("*.yaml")} - {"best"})
        names = ", ".join(["best", *others])
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
    first = {name.split("/")[0]: name for name, _ in reversed(lines) if name.split("/")[0] in TASKS and "/" in name}
    assert first == {task: f"{task}/best" for task in TASKS}


def test_the_configs_of_a_task_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "aesthetics"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert {"aesthetics/alexnet", "aesthetics", "aesthetics_delta"} <= {*names}
    assert all(name.startswith("aesthetics") for name in names)
    assert main(["configs", "cloud"]) == 2
    assert "no task 'cloud'; expected clouds, roads" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error() -> None:
    closed = f"{sys.executable} -c 'import os; os.close(0)'"
    for command in ("configs", "--help", "--version"):
        pipe = f"set -o pipefail; (sleep 0.5; {sys.executable} -m belvedere {command}) | {closed}"
        done = subprocess.run(["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"belvedere {api.__version__}\n"


def test_moved_classes_are_renamed() -> None:
    old = {"trainer": {"callbacks": [{"class_path": "callbacks.predictions.SegmentationWriter"}, "mine.Writer"]}}
    new = {"trainer": {"callbacks": [{"class_path": "SegmentationWriter"}, "mine.Writer"]}}
    assert renamed(old) == new
    assert renamed(new) == new
    for path in ("segmentation.SegmentationWriter", "masks.MaskFiles", "uncertainty.Uncertainty", "video.VideoSink"):
        module, _, name = renamed(f"callbacks.writers.{path}").rpartition(".")
        assert inspect.isclass(getattr(import_module(module), name))
        assert renamed(f"{module}.{name}") == f"{module}.{name}"
    for module in MOVED_MODULES.values():
        import_module(module)


def test_class_names_are_unique() -> None:
    from lightning.pytorch import Callback

    import_classes()
    classes: list[type] = [ImageTask, Callback]
    for each in classes:
        classes += each.__subclasses__()
    names = [each.__name__ for each in classes if not each.__module__.startswith(("tests", "test_"))]
    for name in MOVED.values():
        assert names.count(name) == 1, name


def test_shipped_configs_name_no_moved_class() -> None:
    for path in SHIPPED.rglob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert renamed(config) == config, path


def test_the_sixth_task_of_contributing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, belvedere: Callable[..., Any]
) -> None:
    text = (SHIPPED.parent / "docs/howto/sixth-task.md").read_text()
    files = dict(re.findall(r"^`([\w/]+\.(?:py|yaml))`.*?\n```\w+\n(.*?)```", text, flags=re.S | re.M))
    [subject] = re.findall(r'^    ("glaciers": .*),$', text, flags=re.M)
    for module in ("belvedere", "belvedere.names"):
        monkeypatch.setattr(f"{module}.TASKS", TASKS | json.loads(f"{{{subject}}}"))
    for name in ("tasks/glaciers.py", "datamodules/glaciers.py", "configs/glaciers/fpn.yaml"):
        assert len(files[name].splitlines()) < 15
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(files[name])
    lines = files["datamodules/glaciers.py"].splitlines()
    for line in (lines[-6], *lines[-2:]):  # without its docstring
        assert line.strip() in (SegmentationDataModule.__doc__ or "")
    for package in (tasks, datamodules):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / package.__name__)])
    masked_images(tmp_path / "data", ["glacier"])
    typed = ["--config", "glaciers/fpn", "--config", "debug", "--data.root", "data", "--data.size", "[32,32]"]
    assert belvedere("describe", *typed, "--output", "study").code == 0
    assert belvedere("fit", *typed, "--model.pretrained", "false", "--output", "run").code == 0
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt").code == 0
    assert belvedere("predict", "--ckpt_path", "run/checkpoints/best.ckpt", "--data.pictures", "data/images").code == 0
    assert len(list(Path("run/predict-images/masks").glob("*.png"))) > 1
    for options in (
        {"overlap": 0.5, "batch_size": 2},
        {"size": (64, 32)},
        {"output_size": None},
        {"output_size": (20, 30)},
    ):
        found = api.predict("run/checkpoints/best.ckpt", "data/images", **options)
        assert {each.masks["glacier"].shape for each in found} == {options.get("output_size") or (40, 60)}
    shutil.copytree(FIXTURE, tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    assert doctest.testmod(api).failed == 0  # with six tasks


def test_the_output_format_of_contributing_works(
    monkeypatch: pytest.MonkeyPatch, belvedere: Callable[..., Any], fitted: Path
) -> None:
    text = (ROOT / "docs/howto/sixth-task.md").read_text()
    [code] = re.findall(r"```python\n([^`]*?class AreaTable.*?)```", text, flags=re.S)
    [config] = re.findall(r"```yaml\n([^`]*?AreaTable.*?)```", text, flags=re.S)
    Path("my_formats.py").write_text(code)
    Path("areas.yaml").write_text(config)
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    done = belvedere("predict", "--ckpt_path", checkpoint, "--config", "areas.yaml", "--output", "out")
    monkeypatch.delitem(sys.modules, "my_formats")
    assert done.code == 0, done.err
    rows = table("out/areas.csv")
    assert len(rows) == 4 * 4
    for row in rows:
        mask = np.asarray(Image.open(f"out/masks/{row['class']}/{Path(row['name']).stem}.png"))
        assert int(row["pixels"]) == (mask > 0).sum()


def test_every_class_belongs_to_its_task() -> None:
    for name, module in class_modules().items():
        task = module.rpartition(".")[2]
        assert task_name(name) == task_name(f"{module}.{name}") == task_name({"class_path": name}) == task
