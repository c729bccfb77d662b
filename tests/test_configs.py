import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import belvedere
from belvedere.__main__ import main
from tests.helpers import ROOT, masked_images

CONFIGS = ROOT / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")
               if path.relative_to(CONFIGS).parts[0] != "studies")  # fmt: skip
EXPERIMENTS = [name for name in NAMES if "model" in yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())]
OVERLAYS = [name for name in NAMES if name not in EXPERIMENTS and name != "defaults"]

# An experiment of each task, for overlays, and options that make its networks and images tiny.
FIRST = {name.split("/")[0]: name for name in reversed(EXPERIMENTS) if not name.endswith(("best", "demo", "features"))}
TINY = {"clouds": ["--model.pretrained", "false", "--model.encoder", "mobilenet_v2", "--data.size", "[33,48]",
                   "--data.output_size", "[35,53]"],
        "roads": ["--model.pretrained", "false", "--data.window", "[64,64]", "--data.size", "[32,32]",
                  "--data.crop", "null", "--data.samples_per_category", "3"],
        "avalanches": ["--model.pretrained", "false", "--model.network", "cnn2d", "--data.val_pictures", "1"],
        "colorization": ["--model.extractor", "null", "--data.size", "32", "--data.batch_size", "4"],
        "aesthetics": ["--model.pretrained", "false", "--model.freeze_convolutions", "false", "--data.batch_size", "4",
                       "--model.dense_width", "8", "--data.size", "67", "--data.load_size", "67"],
        "avalanches/features": ["--model.pretrained", "false", "--data.photos", "[32,32]", "--data.batch_size", "2"],
        "avalanches/best": ["--model.pretrained", "false", "--data.photos", "[32,32]", "--data.batch_size", "2"],
        "colorization/best": ["--model.backbones", "{test_resnet: false}", "--data.batch_size", "4",
                              "--data.size", "64"],
        "aesthetics/best": ["--model.backbones", "{test_resnet: false}", "--data.batch_size", "4", "--data.size", "32",
                            "--data.load_size", "32"],
        }  # fmt: skip
TINY |= {"avalanches/demo": TINY["avalanches/best"], "aesthetics/demo": TINY["aesthetics/best"]}
ONE_BATCH = ["--config", "debug", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, dict[str, object]]]:
    """Parses the configs of these names and returns the settings of the run."""

    def run(*names: str) -> dict[str, dict[str, object]]:
        options = [argument for name in names for argument in ("--config", name)]
        with pytest.raises(SystemExit) as leaving:
            main(["fit", *options, "--print_config"])
        captured = capsys.readouterr()
        assert leaving.value.code in (0, None), captured.err
        config: dict[str, dict[str, object]] = yaml.safe_load(captured.out)
        return config

    return run


def dataset(task: str, request: pytest.FixtureRequest) -> Path:
    """A task's sample; images with a folder of masks per class for one that has none of its own."""
    try:
        root: Path = request.getfixturevalue(f"{task}_root")
    except pytest.FixtureLookupError:
        root = masked_images(Path("data"), getattr(belvedere, f"{task.title()}DataModule")("data").classes)
    return root


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_trains_on_one_batch(name: str, request: pytest.FixtureRequest) -> None:
    task = name.split("/")[0]
    root = dataset(task, request)
    tiny = TINY.get(name) or TINY.get(task, ["--model.pretrained", "false", "--data.size", "[32,32]"])
    assert main(["fit", "--config", name, *ONE_BATCH, *tiny, "--data.root", str(root), "--output", "run"]) == 0
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert yaml.safe_load(checkpoint["config"])["model"]["class_path"].startswith(f"tasks.{task}.")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_has_the_settings_of_its_file(
    name: str, printed: Callable[..., dict[str, dict[str, object]]]
) -> None:
    stated, parsed = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), printed(name)
    assert states(parsed, stated)


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_changes_an_experiment(name: str, printed: Callable[..., dict[str, dict[str, object]]]) -> None:
    experiment = FIRST[name.split("/")[0]] if "/" in name else EXPERIMENTS[0]
    stated = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    alone, parsed = printed(experiment), printed(experiment, name)
    added = {key: value for key, value in stated.get("trainer", {}).items() if key.endswith("+")}
    for key, value in added.items():
        del stated["trainer"][key]
        before, after = (config["trainer"][key.removesuffix("+")] for config in (alone, parsed))
        assert [entry["class_path"] for entry in after] == [entry["class_path"] for entry in [*before, *value]]
    assert states(parsed, stated)
    assert parsed != alone


def states(config: object, wanted: object) -> bool:
    """Whether a config has all settings of another."""
    if isinstance(wanted, dict):
        return isinstance(config, dict) and all(key in config and states(config[key], wanted[key]) for key in wanted)
    if isinstance(wanted, str) and "." not in wanted and isinstance(config, str):
        return config == wanted or config.endswith(f".{wanted}")  # parsed, a bare name is a full path
    if isinstance(wanted, list):
        return isinstance(config, list) and len(config) == len(wanted) and all(map(states, config, wanted))
    return config == wanted


@pytest.mark.parametrize("name", NAMES)
def test_file_starts_with_a_description_and_a_command(name: str) -> None:
    description, command, *rest = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert description.startswith("# ")
    assert "belvedere" not in description
    if name == "defaults":  # every command starts from it, none names it
        return
    commands = re.findall(r"belvedere (fit|predict|test|features|describe) ((?:--[\w.]+ [\w./'\[\]]+ ?)+)", command)
    assert commands, f"the second line is {command!r}"
    configs = re.findall(r"--config ([\w/]+)", command)
    assert name in configs
    assert set(configs) <= set(NAMES)
    assert not any(line.startswith("# belvedere") for line in rest)


def test_missing_settings_are_detected() -> None:
    assert states({"a": {"b": 1, "c": [{"d": 2}]}}, {"a": {"c": [{"d": 2}]}})
    for config, wanted in (({"b": 1}, {"b": 2}), ([1], [1, 2]), (None, {"b": 1})):
        assert not states({"a": config}, {"a": wanted})
    assert states({"class_path": "tasks.clouds.CloudsTask"}, {"class_path": "CloudsTask"})
    assert not states({"class_path": "tasks.clouds.OtherCloudsTask"}, {"class_path": "CloudsTask"})


def test_no_epoch_is_selected_by_a_metric_that_rewards_blank_masks() -> None:
    """Roads have tiles without roads; the clouds of the thesis keep the metric of the competition."""
    for name in EXPERIMENTS:
        monitor = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["monitor"]
        if name.startswith("roads/"):
            assert monitor == "val/f_measure", name
        assert monitor != "val/dice" or name.startswith(("avalanches/", "clouds/")), name
    assert yaml.safe_load((CONFIGS / "clouds/features.yaml").read_text())["monitor"] == "val/dice_global"
