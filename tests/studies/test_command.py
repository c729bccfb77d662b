import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from belvedere.__main__ import HELP, main
from ops.errors import StudyError
from studies import running
from studies.command import Typed, read_typed
from studies.plan import SHIPPED

ROOT = Path(__file__).parents[2]
FAKE = (sys.executable, str(Path(__file__).with_name("fake_command.py")))
FILE = """
question: Does it run?
axes: {network: {One: {model.act: fails}, Two: {model.act: good}}}
seeds: [0, 1]
columns: [{figure: test/dice, title: dice, better: max, definition: Dice.}]
curve: val/dice
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a study of two networks and two seeds; runs of the first network fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "PROGRAM", FAKE)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "quokka.yaml").write_text(FILE)
    return tmp_path


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said of a study that is refused before anything was run or written."""

    def of(*arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        assert main(["study", *arguments]) == 2
        assert sorted(Path().rglob("*")) == before
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("\nbelvedere: ")
        return err.removeprefix("\nbelvedere: ").rstrip()

    return of


def test_a_study_from_beginning_to_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka.yaml"]) == 1
    out, err = capsys.readouterr()
    folder = place / "runs" / "studies" / "quokka"
    assert out.startswith(f"quokka: runs 4, finished 0; {folder}\n[1/4] One, seed 0: fit, test\n")
    assert err.startswith(
        "\nFailed: 2 of 4 runs. The same command tries them again.\nOne, seed 0: fit ended with exit "
    )
    assert f"{folder}/cells/one/seed-1/log.txt\n" in err
    assert "| Two     | 2     | 0.400 ± 0.000 |        |\n" in out
    assert "| One     | 0     | -             | failed |\n" in out
    table = (folder / "table.md").read_text()
    assert table in out
    for name in ("results.csv", "table.md", "figures/curves.png", "report.html"):
        assert f"{folder / name}\n" in out
        assert (folder / name).is_file()
    assert list(pd.read_csv(folder / "results.csv")["folder"]) == ["cells/two/seed-0", "cells/two/seed-1"]

    assert main(["study", "quokka.yaml", "--status"]) == 0
    out = capsys.readouterr().out
    assert table in out
    assert re.search(
        r"\nfailed    One, seed 0\nfailed    One, seed 1\nfinished  Two, seed 0: fit \d s, test \d s\n", out
    )
    assert "there are no pictures" in out

    (folder / "table.md").unlink()
    assert main(["study", "quokka", "--report"]) == 0
    assert (folder / "table.md").read_text() == table
    assert len((place / "calls").read_text().splitlines()) == 2 + 4


def test_one_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka", "--output", "out", "--run", "3"]) == 0
    assert "[1/1] Two, seed 1: dice 0.400" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "out").iterdir()) == ["cells", "study.json"]
    assert [str(path.relative_to(place / "out")) for path in (place / "out").glob("cells/*/*")] == ["cells/two/seed-1"]
    assert main(["study", "quokka", "--output", "out", "--run", "0"]) == 1


def test_the_job_array_runs_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka", "--slurm", "--output", "out", "--data.root", "my data"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-3\n" in script
    command = "belvedere study quokka --output out --data.root 'my data'"
    assert f'{command} --run "$SLURM_ARRAY_TASK_ID"' in script
    assert f"{command} --report" in script


def test_the_state_is_told_from_disk_at_once(place: Path) -> None:
    main(["study", "quokka", "--axes.network", "Two"])
    code = """
import sys
from belvedere.__main__ import main
code = main(["study", "quokka", "--status"])
print(code, "torch" in sys.modules or "matplotlib" in sys.modules)
"""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert re.sub(r"\d s", "N s", done.stdout).endswith(
        "waiting   One, seed 0\nwaiting   One, seed 1\n"
        "finished  Two, seed 0: fit N s, test N s\nfinished  Two, seed 1: fit N s, test N s\n0 False\n"
    )
    after = os.times()  # of the processor: the machine may be busy with something else
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_help_names_the_shipped_studies(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["clouds", "-h"]):
        assert main(["study", *arguments]) == 0
        out = capsys.readouterr().out
        assert all(path.stem in out for path in SHIPPED.glob("*.yaml"))
        assert max(map(len, out.splitlines())) <= 120
    assert "belvedere study " in HELP


def test_what_cannot_be_used_is_refused(refusal: Callable[..., str], place: Path) -> None:
    assert "Did you mean quokka" not in refusal("wombat")
    assert refusal("cluods").endswith("among the shipped ones. Did you mean clouds?")
    assert refusal("--status", "clouds").startswith("--status was typed where a study's name or file was wanted")
    assert refusal("quokka", "--status", "--report") == "--status and --report were typed; one of them was wanted."
    assert refusal("quokka", "--status=yes") == "--status takes no value, and 'yes' came."
    assert refusal("quokka", "--run") == "--run has no value; wanted is --run N."
    assert refusal("quokka", "--output") == "--output has no value; wanted is --output FOLDER."
    for number in ("4", "-1", "one", ""):
        assert refusal("quokka", f"--run={number}").endswith("a whole number from 0 to 3 was wanted, the study's runs.")
    assert refusal("quokka", "--report").startswith(f"There is no {place}/runs/studies/quokka yet.")
    assert refusal("quokka", "--seed_everything", "1").startswith("--seed_everything is not for a study")
    assert refusal("quokka", "--data.root").startswith("--data.root has no value")
    assert refusal("quokka", "--slurm", "overlay.yaml").startswith("overlay.yaml cannot be read")


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["a"], Typed("a", None, None, None, [])),
        (["a", "--run", "3", "--output=x"], Typed("a", Path("x"), "run", "3", [])),
        (["a", "--slurm", "--seeds", "[0]"], Typed("a", None, "slurm", None, ["--seeds", "[0]"])),
        (["a", "--slurm", "big.yaml"], Typed("a", None, "slurm", "big.yaml", [])),
        (["a", "--model.x=1", "--status"], Typed("a", None, "status", None, ["--model.x=1"])),
        (["a", "--model.x", "--status"], Typed("a", None, None, None, ["--model.x", "--status"])),  # refused later
    ],
)
def test_what_was_typed_is_taken_apart(words: list[str], typed: Typed) -> None:
    assert read_typed(words) == typed


def test_the_command_is_what_was_typed_without_its_mode() -> None:
    typed = read_typed(["a", "--data.root", "x", "--run", "3", "--output", "my out"])
    assert typed.command == ["belvedere", "study", "a", "--output", "my out", "--data.root", "x"]
    with pytest.raises(StudyError):
        read_typed(["a", "--run", "3", "--slurm"])
