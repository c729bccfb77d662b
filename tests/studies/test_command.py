import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from belvedere.__main__ import HELP, main
from ops.errors import StudyError
from studies import command
from studies.command import Arguments, read_arguments
from studies.plan import SHIPPED
from tests.helpers import ROOT

Calls = Callable[[], list[list[str]]]


@pytest.fixture(autouse=True)
def place(calls: Calls, acting_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a study of two networks and two seeds; the runs of the first network fail."""
    monkeypatch.chdir(tmp_path)
    acting_file("fails")
    return tmp_path


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns the message about a study that is rejected before anything is executed or written."""

    def of(*arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        assert main(["study", *arguments]) == 2
        assert sorted(Path().rglob("*")) == before
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("\nbelvedere: ")
        return err.removeprefix("\nbelvedere: ").rstrip()

    return of


def test_a_study_from_start_to_end(place: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka.yaml"]) == 1
    out, err = capsys.readouterr()
    folder = place / "runs" / "studies" / "quokka"
    assert out.startswith("quokka: runs 4, finished 0")
    assert "Failed: 2 of 4 runs" in err
    assert f"{folder}/cells/one/seed-1/log.txt\n" in err
    assert "| Two     | 2     | 0.400 ± 0.000 |        |\n" in out
    assert "| One     | 0     | -             | failed |\n" in out
    table = (folder / "table.md").read_text()
    assert table in out
    for name in ("results.csv", "table.md", "layers.csv", "figures/curves_dice.png", "report.html"):
        assert f"{folder / name}\n" in out
        assert (folder / name).is_file()
    assert list(pd.read_csv(folder / "results.csv")["folder"]) == ["cells/two/seed-0", "cells/two/seed-1"]

    assert main(["study", "quokka.yaml", "--status"]) == 0
    out = capsys.readouterr().out
    assert table in out
    assert re.search(
        r"\nfailed    One, seed 0\nfailed    One, seed 1\nfinished  Two, seed 0: fit \d s, test \d s\n", out
    )
    assert "found no images" in out

    (folder / "table.md").unlink()
    assert main(["study", "quokka", "--report"]) == 0
    assert (folder / "table.md").read_text() == table
    assert len(calls()) == 2 + 4


def test_matrices_and_joined_tables_are_written_and_logged(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Path] = []
    monkeypatch.setattr(command, "log_study", lambda study, folder, files, warn: logged.extend(files))
    made = make(matrices=["test/dice"])
    table = made.write("u-net--resnet-34", 0, {"test/dice": 0.4}) / "features" / "vectors" / "classifiers.csv"
    table.parent.mkdir(parents=True)
    table.write_text("vector,accuracy\nfc6,0.5\n")
    command.write_outputs(made.study, made.folder)
    matrix, joined = made.folder / "matrix_test_dice.csv", made.folder / "features_vectors_classifiers.csv"
    assert matrix.read_text().splitlines() == ["network,ResNet-34,Wide | odd", "U-Net,0.400,", "FPN,,"]
    assert joined.read_text().splitlines()[1:] == ["U-Net,ResNet-34,fc6,1,0.500"]
    assert {matrix, joined, made.folder / "results.csv", made.folder / "figures" / "bars.png"} <= set(logged)
    assert all(path.suffix in (".csv", ".png") for path in logged)


def test_one_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka", "--output", "out", "--run", "3"]) == 0
    assert "[1/1] Two, seed 1: dice 0.400" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "out").iterdir()) == ["cells", "study.json"]
    assert [str(path.relative_to(place / "out")) for path in (place / "out").glob("cells/*/*")] == ["cells/two/seed-1"]
    assert main(["study", "quokka", "--output", "out", "--run", "0"]) == 1


def test_the_job_array_runs_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka", "--slurm", "--output", "out", "--data.root", "my data"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-3\n" in script
    command = "belvedere study quokka --output out --data.root 'my data'"
    assert f'{command} --run "$SLURM_ARRAY_TASK_ID"' in script
    assert f"{command} --report" in script


def test_the_state_is_read_from_disk_at_once(place: Path) -> None:
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
    after = os.times()  # CPU time: the machine may be busy
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_help_names_the_shipped_studies(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["clouds", "-h"]):
        assert main(["study", *arguments]) == 0
        out = capsys.readouterr().out
        assert all(path.stem in out for path in SHIPPED.glob("*.yaml"))
        assert max(map(len, out.splitlines())) <= 120
    assert "belvedere study " in HELP


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluods"], "Did you mean clouds?"),
        (["--status", "clouds"], "name or file of a study before --status"),
        (["quokka", "--status", "--report"], "--status and --report exclude"),
        (["quokka", "--status=yes"], "no value, got 'yes'"),
        (["quokka", "--run"], "expected --run N"),
        (["quokka", "--output"], "expected --output FOLDER"),
        *((["quokka", f"--run={number}"], "integer from 0 to 3") for number in ("4", "-1", "one", "")),
        (["quokka", "--report"], "runs/studies/quokka does not exist"),
        (["quokka", "--seed_everything", "1"], "does not accept --seed_everything"),
        (["quokka", "--data.root"], "--data.root has no value"),
        (["quokka", "--slurm", "overlay.yaml"], "Cannot read overlay.yaml"),
        (["quokka", "--data.pictures", "nowhere"], "--data.pictures is nowhere; expected a folder or file of images"),
    ],
)
def test_invalid_commands_are_rejected(refusal: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["a"], Arguments("a", None, None, None, [])),
        (["a", "--run", "3", "--output=x"], Arguments("a", Path("x"), "run", "3", [])),
        (["a", "--slurm", "--seeds", "[0]"], Arguments("a", None, "slurm", None, ["--seeds", "[0]"])),
        (["a", "--slurm", "big.yaml"], Arguments("a", None, "slurm", "big.yaml", [])),
        (["a", "--model.x=1", "--status"], Arguments("a", None, "status", None, ["--model.x=1"])),
        (["a", "--model.x", "--status"], Arguments("a", None, None, None, ["--model.x", "--status"])),  # rejected later
    ],
)
def test_the_command_line_is_split(words: list[str], arguments: Arguments) -> None:
    assert read_arguments(words) == arguments


def test_the_command_is_repeated_without_its_mode() -> None:
    arguments = read_arguments(["a", "--data.root", "x", "--run", "3", "--output", "my out"])
    assert arguments.command == ["belvedere", "study", "a", "--output", "my out", "--data.root", "x"]
    with pytest.raises(StudyError):
        read_arguments(["a", "--run", "3", "--slurm"])


@pytest.fixture
def paper(place: Path) -> None:
    """Lets the study run another one afterwards, with an axis of its own."""
    text = (place / "quokka.yaml").read_text().replace("fails", "good")
    (place / "quokka.yaml").write_text(text + "also: [other]\n")
    (place / "other.yaml").write_text(text.replace("{network:", "{size: {small: {model.c: 1}, large: {}}, network:"))


def test_other_studies_of_a_paper_follow_in_folders_inside(
    paper: None, place: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "album").mkdir()
    (place / "album" / "a.jpg").touch()
    options = ["--seeds", "0", "--data.root", "x", "--axes.network", "Two", "--axes.size", "small"]
    assert main(["study", "quokka", "--output", "out", "--data.pictures", "album", *options]) == 0
    found = calls()
    assert [call[0] for call in found] == ["fit", "test", "predict", "fit", "test"]
    assert [call[call.index("--output") + 1] for call in found if call[0] == "fit"] == [
        str(place / "out" / folder) for folder in ("cells/two/seed-0", "other/cells/small--two/seed-0")
    ]
    assert "--model.c" in found[3]
    assert "--data.root" in found[3]
    for folder in ("out", "out/other"):
        assert (place / folder / "report.html").is_file()
    assert main(["study", "quokka", "--output", "out", "--report", "--also", "[]", *options[:6]]) == 0
    capsys.readouterr()
    assert main(["study", "quokka", "--output", "out", "--status", *options[:4]]) == 0
    out = capsys.readouterr().out
    assert "finished  small · Two, seed 0" in out
    assert "waiting   large · One, seed 0" in out


def test_one_run_and_job_arrays_are_of_the_named_study(paper: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "quokka", "--slurm"]) == 0
    out, err = capsys.readouterr()
    assert "#SBATCH --array=0-3\n" in out
    assert "Without other" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--also", "[none]"], "expected some of [other]"),
        (["--axes.depth", "1"], "unknown axis 'depth'"),
        (["--axes.size", "huge"], "no label 'huge'"),
    ],
)
def test_options_of_other_studies_are_checked_too(
    paper: None, refusal: Callable[..., str], words: list[str], message: str
) -> None:
    assert message in refusal("quokka", *words)
