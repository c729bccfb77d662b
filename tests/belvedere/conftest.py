import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from belvedere.__main__ import main
from tasks.networks.aesthetics import judge
from tests.helpers import SMALL


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
