import functools
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from belvedere.__main__ import main
from datamodules.samples.aesthetics import draw_aesthetics
from datamodules.samples.avalanches import draw_avalanches
from datamodules.samples.clouds import draw_clouds
from datamodules.samples.colorization import draw_colorization
from datamodules.samples.roads import draw_roads
from ops.processes import KEYBOARD, SIGNALS
from tasks.networks.aesthetics import judge
from tests.helpers import SMALL


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches arrays in a folder of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BELVEDERE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, here and in commands: images are too small for more, and threads that share a core wait in loops."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the signal handlers: a command that was asked to end ignores further signals."""
    before = {each: signal.getsignal(each) for each in (*SIGNALS, *KEYBOARD)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture(autouse=True)
def notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows notices, which a command with `--quiet` turned off in this process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    monkeypatch.delenv("WANDB_SILENT", raising=False)


@pytest.fixture(scope="session")
def clouds_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic images of 140 x 210 and 4 test images, as Kaggle lays them out; tests leave it as it is."""
    return draw_clouds(tmp_path_factory.mktemp("drawn") / "clouds", pictures=24, test_pictures=4, size=(140, 210))


@pytest.fixture
def clouds_copy(clouds_root: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(clouds_root, tmp_path / "clouds"))


@pytest.fixture(scope="session")
def roads_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 synthetic tiles of 64 x 64, half of them with roads, and a larger image; tests leave them as they are."""
    return draw_roads(tmp_path_factory.mktemp("drawn") / "roads", tiles=16, size=64)


@pytest.fixture(scope="session")
def avalanches_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 synthetic photographs of 96 x 128; tests leave them as they are."""
    return draw_avalanches(tmp_path_factory.mktemp("drawn") / "avalanches", pictures=10, size=(96, 128))


@pytest.fixture(scope="session")
def colorization_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic paintings of four artists, 96 pixels and less, and six photographs; tests leave them as they are."""
    return draw_colorization(tmp_path_factory.mktemp("drawn") / "colorization", pictures=24, size=96)


@pytest.fixture(scope="session")
def aesthetics_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 synthetic photographs with votes in the layout of AVA, 15 with stars, 12 without; read-only."""
    return draw_aesthetics(tmp_path_factory.mktemp("drawn") / "aesthetics", pictures=30, size=96)


@pytest.fixture
def real_data() -> Path:
    """The folder of real images in $BELVEDERE_DATA."""
    folder = Path(os.environ.get("BELVEDERE_DATA", "/nowhere"))
    if not folder.is_dir():
        pytest.skip("no real images: $BELVEDERE_DATA is not a folder")
    return folder


@pytest.fixture
def same_run() -> Callable[[Path, Path], None]:
    """Asserts that two runs left the same behind, to the last bit."""
    return _same_run


def _same_run(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        first, second = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for folder in (one, other)
        )
        parts = ["state_dict", "lr_schedulers", "global_step", "epoch"]
        parts += ["optimizer_states", "callbacks", "loops"] if name == "last" else []
        for part in parts:
            assert _plain(first[part], one) == _plain(second[part], other), (name, part)
    for name in ("metrics.csv", "thresholds.csv"):
        texts = [(folder / name).read_text() if (folder / name).is_file() else "" for folder in (one, other)]
        assert texts[0] == texts[1], name
    names = [{path.name for path in folder.rglob("*")} - {"preempted.ckpt"} for folder in (one, other)]
    assert names[0] == names[1]


def _plain(value: Any, folder: Path) -> Any:
    """Tensors as bytes, and paths without the run's folder, for comparisons to the last bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        # `current_score` is not restored by Lightning; a record has times and memory
        known = {key: each for key, each in value.items() if key not in ("current_score", "Record")}
        return {_plain(key, folder): _plain(each, folder) for key, each in known.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, folder) for each in value]
    if isinstance(value, float):
        return value.hex()  # nan is nan
    return value.replace(str(folder.absolute()), "") if isinstance(value, str) else value


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one message of an error that the user can fix."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        assert self.err.count("belvedere: ") == 1
        return self.err.split("belvedere: ")[1]


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a quiet trainer on the CPU that writes nothing."""

    def make(**options: Any) -> Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                 "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | options))

    return make


@pytest.fixture(scope="session")
def tiny(clouds_root: Path) -> list[str]:
    """Options of a small network on small synthetic images for two epochs."""
    return ["--config", *SMALL["clouds"], "--data.root", str(clouds_root)]


@pytest.fixture(scope="session")
def fitted(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, trained once by the command line; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BELVEDERE_CACHE", str(folder / "cache"))
        assert main(["fit", *tiny, "--output", "run"]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Returns options that fit a tiny network of a task to its small dataset."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(judge("alexnet_torchvision", 8).convolutions[-1].state_dict(), weights)

    def options(task: str) -> list[str]:
        root = str(request.getfixturevalue(f"{task}_root"))
        return ["--config", *(word.format(weights=weights) for word in SMALL[task]), "--data.root", root]

    return options


@pytest.fixture(scope="session")
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small: Callable[[str], list[str]]
) -> Callable[[str], Path]:
    """Returns the best checkpoint of a tiny network, trained once per task; tests leave its folder as it is."""

    @functools.cache
    def train(task: str) -> Path:
        if task == "clouds":
            fitted: Path = request.getfixturevalue("fitted")
            return fitted / "checkpoints" / "best.ckpt"
        folder = tmp_path_factory.mktemp(task)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("PL_GLOBAL_SEED", "0")
            patch.setenv("BELVEDERE_RUN", "")
            patch.delenv("BELVEDERE_RUN")
            assert main(["fit", *small(task), "--output", "run"]) == 0
        return folder / "run" / "checkpoints" / "best.ckpt"

    return train


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what commands set in the environment is restored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BELVEDERE_RUN", "run")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


@pytest.fixture
def belvedere(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs a command of the command line in this process and an empty working folder."""

    def run(*arguments: str) -> Result:
        monkeypatch.delenv("BELVEDERE_RUN", raising=False)
        monkeypatch.setattr(sys, "path", [*sys.path])  # commands append the working folder
        capfd.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Result(code, *capfd.readouterr())

    return run
