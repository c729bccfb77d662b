"""Options of trainings are checked before any of them starts."""

import io
import json
import sys
from pathlib import Path

import pytest

from belvedere.commandline import checking

Trainings = list[list[str]]


@pytest.fixture
def roads(roads_root: Path) -> list[str]:
    return ["--config", "roads/vgg10", "--data.root", str(roads_root)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epocs", "2"], "Did you mean --trainer.max_epochs"),
        (["--model.network", "vgg16", "--model.pretrained", "no.pt"], "no file no.pt"),
        (["--monitor", "val/dise"], "Did you mean val/dice"),
        (["--data.strategy", "filters", "--data.filters", "[]"], "at least one filter"),
        (["--data.root", "nowhere"], "No dataset in nowhere"),
        (["--model.optimizer.lr", ".inf"], "finite number"),
        (["--config", "roads/vgg99"], "vgg99"),
    ],
)
def test_the_first_invalid_training_is_named(
    roads: list[str], options: list[str], message: str, working_folder: Path
) -> None:
    found = checking.first_problem([roads, [*roads, *options], ["--config", "no config"]])
    assert found is not None
    assert found[0] == 1
    assert message in found[1]
    assert list(working_folder.iterdir()) == []


def test_valid_trainings_have_no_problem(
    roads: list[str], colorization_root: Path, monkeypatch: pytest.MonkeyPatch, working_folder: Path
) -> None:
    # the second computes while it is made, which needs memory
    coloring = ["--config", "colorization/pooled", "--data.root", str(colorization_root), "--model.extractor", "null"]
    answer = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([roads, coloring])))
    monkeypatch.setattr(sys, "stdout", answer)
    checking.main()
    assert json.loads(answer.getvalue()) is None
    assert list(working_folder.iterdir()) == []
