"""The options of commands after a training are checked before it starts."""

import io
import json
import sys
from pathlib import Path

import pytest

from belvedere.commandline import checking_steps

FEATURES = ["features", "--vectors", "[fc6,color_moments]"]


@pytest.mark.parametrize(
    ("commands", "number", "message"),
    [
        ([FEATURES, ["validate"], ["predict", "--uncertainty", "--data.pictures", "album"]], None, ""),
        ([FEATURES, ["features", "--vectors", "[fc9]"]], 1, "--vectors"),
        ([["predict", "--uncertianty"], ["features", "--vectors", "[fc9]"]], 0, "--uncertianty"),
        ([["predict", "--data.batch_size", "few"]], 0, "--data.batch_size"),
        ([["validate", "--config", "no config"]], 0, "no config"),
    ],
)
def test_the_first_invalid_command_is_named(
    commands: list[list[str]],
    number: int | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    working_folder: Path,
) -> None:
    answer = io.StringIO()
    asked = [["--config", "aesthetics/alexnet", "--data.root", "x", "--trainer.max_epochs", "2"], *commands]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    monkeypatch.setattr(sys, "stdout", answer)
    checking_steps.main()
    found = json.loads(answer.getvalue())
    assert (found is None) == (number is None)
    if found is not None:
        assert found[0] == number
        assert message in found[1]
    assert list(working_folder.iterdir()) == []
