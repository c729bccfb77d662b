"""A checkpoint names known classes only, unless it is trusted."""

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import belvedere as api
from belvedere.checkpoints import run_config
from belvedere.names import MOVED, SHIPPED, renamed
from belvedere.trust import LARGEST, argument_hints, check_trusted, known_classes, wants_class
from ops.errors import ArgumentError

Command = Callable[..., Any]

EVIL = "import pathlib; pathlib.Path('ran').touch()\nclass Evil:\n    pass\n"
CONFIG = {
    "model": {"class_path": "tasks.clouds.CloudsTask",
              "init_args": {"architecture": "fpn", "optimizer": {"class_path": "torch.optim.Adam",
                                                                 "init_args": {"lr": 0.1, "betas": [0.9, 0.99]}}}},
    "data": {"class_path": "datamodules.clouds.CloudsDataModule", "init_args": {"size": [32, 48]}},
    "callbacks": [{"class_path": "callbacks.writers.segmentation.stitch.StitchingWriter",
                   "init_args": {"formats": [{"class_path": "MaskFiles", "init_args": {"by_class": True}}]}}],
}  # fmt: skip
SCHEDULER = {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "evil.Evil"}}


def changed(place: str, value: Any) -> dict[str, Any]:
    config: Any = copy.deepcopy(CONFIG)
    *parents, last = place.split(".")
    inner = config
    for name in parents:
        inner = inner[int(name) if name.isdigit() else name]
    inner[int(last) if last.isdigit() else last] = value
    return dict(config)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", "evil.Evil"),
        ("model", "evil.yaml"),
        ("model.class_path", "evil.Evil"),
        ("model.class_path", "callbacks.loggers.CSVLogger"),
        ("model.class_path", ["evil.Evil"]),
        ("model.dict_kwargs", {"optimizer": {"class_path": "evil.Evil"}}),
        ("model.init_args", "evil.yaml"),
        ("model.init_args.optimizer", "evil.Evil"),
        ("model.init_args.optimizer.class_path", "evil.Evil"),
        ("model.init_args.optimizer.init_args.lr", "evil.Evil"),
        ("model.init_args.scheduler", SCHEDULER),
        ("model.init_args.scheduler", {"init_args": {"lr_lambda": "evil.Evil"}}),
        ("model.init_args.scheduler", {"class_path.x": 3}),
        ("model.init_args.architecture", {"class_path": "evil.Evil"}),
        ("model.init_args.optimizer\n", "evil.Evil"),
        ("data.init_args.size", [32, {"class_path": "evil.Evil"}]),
        ("data.init_args.size", {"a": [{"class_path": "evil.Evil"}]}),
        ("data.init_args.size", b"32"),
        ("data.init_args.size", {(1, 2): 3}),
        ("callbacks", "evil.yaml"),
        ("callbacks.0", "evil.Evil"),
        ("callbacks.0.class_path", "evil.Evil"),
        ("callbacks.0.class_path", "callbacks.loggers.SaveConfig"),
        ("callbacks.0.init_args.formats.0", "evil.Evil"),
        ("callbacks.0.init_args.formats.0.class_path", "evil.Evil"),
        ("monitor", {"class_path": "evil.Evil"}),
    ],
)
def test_other_classes_and_values_are_rejected(place: str, value: Any) -> None:
    check_trusted(CONFIG, Path("best.ckpt"))
    with pytest.raises(ArgumentError, match=r"(?s)^best\.ckpt: .*--trust"):
        check_trusted(changed(place, value), Path("best.ckpt"))


def test_configs_that_unfold_without_end_are_rejected() -> None:
    bomb: Any = ["x"]
    for _ in range(40):
        bomb = [bomb] * 10
    endless: Any = []
    endless.append(endless)
    for value in (bomb, endless):
        with pytest.raises(ArgumentError, match=f"more than {LARGEST} values"):
            check_trusted(changed("data.init_args.size", value), Path("best.ckpt"))


def test_every_shipped_config_and_moved_class_is_trusted() -> None:
    for path in SHIPPED.rglob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        if "model" in config and "data" in config:
            parts = {"model": config["model"], "data": config["data"], "callbacks": config["trainer"]["callbacks"]}
            check_trusted(parts, path)
    known = known_classes()
    assert MOVED.keys() <= known.keys()
    for path in ("segmentation.SegmentationWriter", "outlines.Stages", "maps.Maps", "colorings.ColoringWriter"):
        assert known[f"callbacks.writers.{path}"] is known[renamed(f"callbacks.writers.{path}")]


def test_only_arguments_that_take_numbers_and_texts_take_any_text() -> None:
    found = {name: sorted(each for each, hint in argument_hints(kind).items() if wants_class(hint))
             for name, kind in known_classes().items()}  # fmt: skip
    assert found["CloudsTask"] == ["optimizer", "scheduler"]
    assert found["CloudsDataModule"] == found["AestheticsDataModule"] == []
    assert found["StitchingWriter"] == ["formats"]
    assert found["torch.optim.lr_scheduler.ReduceLROnPlateau"] == ["optimizer"]  # `mode` is a text
    assert "lr" in found["torch.optim.Adam"]  # may be a tensor
    assert not {"CSVLogger", "WandbLogger", "SaveConfig"} & found.keys()


@pytest.fixture
def hostile(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a run whose checkpoint (config or hyperparameters), or the config beside it, names another class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    (tmp_path / "evil.py").write_text(EVIL)

    def make(where: str) -> Path:
        shutil.copytree(fitted, "run")
        file, path = Path("run/config.yaml"), Path("run/checkpoints/best.ckpt")
        checkpoint, config = torch.load(path, weights_only=True), yaml.safe_load(file.read_text())
        if where == "hyperparameters":
            checkpoint["hyper_parameters"]["optimizer"] = {"class_path": "evil.Evil"}
            torch.save(checkpoint, path)
            return path
        config["trainer"]["callbacks"].append({"class_path": "evil.Evil"})
        if where == "beside":
            file.write_text(yaml.safe_dump(config))
        else:
            file.unlink()
            torch.save(checkpoint | {"config": yaml.safe_dump(config)}, path)
        return path

    return make


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_commands_run_nothing_that_a_checkpoint_brings(
    belvedere: Command, hostile: Callable[[str], Path], where: str
) -> None:
    path = hostile(where)
    for command in ("test", "predict", "validate", "features"):
        assert "'evil.Evil'" in belvedere(command, "--ckpt_path", str(path)).refusal
    with pytest.raises(ArgumentError, match=r"evil\.Evil"):
        api.load(path)
    with pytest.raises(ArgumentError, match=r"evil\.Evil"):
        api.predict(path, "album")
    assert not Path("ran").exists()
    assert run_config(path, trust=True)["trainer"]["callbacks"][-1] == {"class_path": "evil.Evil"}
    assert belvedere("test", "--ckpt_path", str(path), "--trust").code == 2  # not a callback, as it turns out
    assert Path("ran").exists()


def test_python_runs_nothing_that_hyperparameters_bring(hostile: Callable[[str], Path]) -> None:
    path = hostile("hyperparameters")
    with pytest.raises(ArgumentError, match=r"model\.optimizer has the class_path 'evil\.Evil'.*trust=True"):
        api.load(path)
    assert not Path("ran").exists()


def test_trust_is_explained(belvedere: Command) -> None:
    assert "can run any program with your rights" in " ".join(belvedere("predict", "--help.all").out.split())


def test_augmentations_need_no_trust(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["data"]["init_args"]["augmentations"] = [{"class_path": "albumentations.Blur"}]
    file.write_text(yaml.safe_dump(config))
    arguments = run_config(tmp_path / "run" / "checkpoints" / "best.ckpt")["data"]["init_args"]
    assert "augmentations" not in arguments
    assert arguments["size"] == [32, 48]
