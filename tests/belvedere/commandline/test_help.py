"""What a command prints of itself: its help, and the script with which a shell completes it."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from belvedere.commandline.help import choices_of, sentence
from belvedere.commandline.options import COMMANDS

Command = Callable[..., Any]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_the_options_of_data_and_task(
    belvedere: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = belvedere(command, "--config", "clouds/fpn", "--data.val_fraction", "0.3", "--help")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].startswith("Data: CloudsDataModule")
    assert any(line.startswith("  --data.val_fraction 0.3 ") for line in lines)  # the value that was typed
    assert any(line.startswith("  --model.architecture fpn ") and "unet, pspnet, fpn" in line for line in lines)
    assert any(line.startswith("  --output ") for line in lines)
    assert "--epochs" in result.out
    assert not any(line.startswith("  --trainer.") for line in lines)
    assert "--model.classes" not in result.out  # it follows the data
    for option in ("--early_stopping.patience", "--best_checkpoint.tolerance"):
        assert (option in result.out) == (command == "fit")
    assert "--best_checkpoint.monitor" not in result.out  # it follows --monitor
    assert max(map(len, lines)) <= 100
    assert len(lines) < 87
    assert any(line.startswith("  --run FOLDER ") for line in lines) == (command not in ("fit", "features"))


def test_help_without_a_config_says_how_to_get_more(belvedere: Command) -> None:
    assert "belvedere fit --config" in belvedere("fit", "--help").out.splitlines()[0]
    assert "belvedere test --ckpt_path" in belvedere("test", "-h").out.splitlines()[0]


def test_help_of_a_checkpoint_is_that_of_its_run(belvedere: Command, fitted: Path) -> None:
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    assert "--model.architecture pspnet" in belvedere("predict", "--ckpt_path", checkpoint, "--help").out


def test_the_options_of_the_trainer_are_listed_apart(belvedere: Command) -> None:
    result = belvedere("fit", "--config", "clouds/demo", "--help.trainer")
    assert "  --trainer.max_epochs 24 " in result.out
    assert "--data." not in result.out
    assert "--trainer.max_epochs MAX_EPOCHS" in belvedere("fit", "--help.all").out


def test_wrong_words_are_answered_without_importing_libraries() -> None:
    code = """
import sys
from belvedere.__main__ import main
lines = [["train"], ["fit"], ["fit", "--config", "clouds/fnp"], ["predict", "--ckpt_path", "none.ckpt"],
         ["configs", "cloud"], ["completion", "fish"]]
print(*[main(line) for line in lines], {"torch", "numpy", "lightning", "jsonargparse"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 2 2 2 2 2 set()\n"
    assert done.stderr.count("belvedere: ") == 6


def test_the_completion_knows_commands_options_values_and_configs(belvedere: Command) -> None:
    script = belvedere("completion", "bash").out

    def completed(*words: str) -> list[str]:
        typed = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
        line = f"source ./completed; {typed}; _shtab_belvedere; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()

    Path("completed").write_text(script)
    assert completed("belvedere", "f") == ["fit", "features"]
    assert completed("belvedere", "fit", "--model.architecture", "''") == ["unet", "pspnet", "fpn", "features"]
    assert "clouds/fpn" in completed("belvedere", "fit", "--config", "cl")
    assert completed("belvedere", "test", "--data.batch") == ["--data.batch_size"]
    assert completed("belvedere", "configs", "r") == ["roads"]
    assert completed("belvedere", "predict", "--ru") == ["--run"]
    assert completed("belvedere", "fit", "--ru") == []


def test_types_and_docstrings_become_choices_and_sentences() -> None:
    assert choices_of(Literal["a", 1] | None) == ["a", "1"]
    assert choices_of(list[Literal["a"]]) == choices_of(int | None) == []
    assert sentence("Uses `x`.\n  None is 0.5. More.") == "Uses x"
    assert sentence("None is 0.5 of it") == "null is 0.5 of it"


def test_a_quiet_command_prints_results_only(
    belvedere: Command, trained: Callable[[str], Path], roads_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TQDM_DISABLE", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # and restores it
    pictures = ["--data.pictures", str(roads_root / "pictures")]
    logger = logging.getLogger("lightning.pytorch")
    try:
        result = belvedere("predict", "--ckpt_path", str(trained("roads")), *pictures, "--quiet", "--output", "out")
    finally:
        logger.setLevel(logging.INFO)
    assert (result.code, result.out) == (0, f"{Path('out').absolute()}\n")
    assert "%" not in result.err
    assert "Images predicted" not in result.err


def test_quiet_training_prints_its_best_epoch(
    belvedere: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "")  # and restores it
    logger = logging.getLogger("lightning.pytorch")
    try:
        with pytest.warns(UserWarning, match="val_fraction is 0") as caught:
            result = belvedere("fit", *tiny, "--data.val_fraction", "0", "--quiet", "--output", "out")
    finally:
        logger.setLevel(logging.INFO)
    assert result.code == 0
    assert "best.ckpt" in result.out
    assert "val/dice" in result.out
    assert "Seed set" not in result.err
    assert "Fitting" not in result.err
    [own] = [each for each in caught if "val_fraction is 0" in str(each.message)]
    shown = warnings.formatwarning(own.message, own.category, own.filename, own.lineno)  # as it is printed
    assert shown == f"belvedere: {own.message}\n"


def test_short_names_are_those_of_the_task(belvedere: Command) -> None:
    of_aesthetics = belvedere("fit", "--config", "aesthetics/best", "--help").out
    assert "  --lr " not in of_aesthetics  # its layer is fitted in closed form
    assert "  --epochs " in of_aesthetics
    assert "  --lr " in belvedere("fit", "--config", "roads/best", "--help").out
    message = belvedere("fit", "--config", "aesthetics/best", "--lr", "0.1").refusal
    assert "--lr, short for --model.optimizer.lr, is no option of this task" in message
