import os
import re
import shlex
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.errors import StudyError
from studies import running
from studies.notes import check_folder, claim, has_checkpoint, read_note
from studies.plan import Study, read_study
from studies.running import failure, locked, run_study, state

FAKE = (sys.executable, str(Path(__file__).with_name("fake_command.py")))
FILE = """
question: Does it run?
options: {config: any}
axes:
  network: {One: {model.act: ACT}, Two: {model.act: good}}
seeds: [0, 1]
columns: [{figure: test/dice, title: dice, better: max, definition: Dice.}]
curve: val/dice
"""


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Study]:
    """Reads a study of two networks and two seeds; the first network's runs act as told."""

    def plan(act: str = "good", typed: list[str] | None = None, name: str = "quokka") -> Study:
        file = tmp_path / f"{name}.yaml"
        file.write_text(FILE.replace("ACT", act))
        return read_study(file, typed or [])

    return plan


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Has the fake run in place of the real command line, and gives what was called since the last time."""
    file = tmp_path / "calls"
    monkeypatch.setattr(running, "PROGRAM", FAKE)
    monkeypatch.setenv("CALLS", str(file))
    monkeypatch.setenv("MENDED", str(tmp_path / "mended"))
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)

    def since() -> list[list[str]]:
        lines = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [shlex.split(line) for line in lines]

    return since


def run_all(study: Study, folder: Path) -> list[str]:
    """Runs all runs of a study and gives the lines that are said, with N for seconds."""
    said: list[str] = []
    claim(study, folder)
    run_study(study, study.runs, folder, said.append)
    return [re.sub(r"\d+ s", "N s", line) for line in said]


def states(study: Study, folder: Path) -> list[str]:
    return [state(run, folder) for run in study.runs]


def test_every_run_is_trained_tested_and_followed_by_what_comes_after(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_RUN", "another")
    study, folder = planned(typed=["--data.pictures", "my album"]), tmp_path / "out"
    assert states(study, folder) == ["waiting"] * 4
    said = run_all(study, folder)
    assert states(study, folder) == ["finished"] * 4
    found = calls()
    assert [call[0] for call in found] == ["fit", "test", "predict"] * 4
    place = folder / "cells" / "one" / "seed-1"
    seen = ["WANDB_RUN_GROUP=quokka", "WANDB_NAME=one--seed-1", "BELVEDERE_RUN=None"]
    best = ["--ckpt_path", str(place / "checkpoints" / "best.ckpt")]
    assert found[3] == ["fit", "--config", "any", "--model.act", "good", "--seed_everything", "1", "--output",
                        str(place), "--resume", "auto", "--preemption.requeue", "false", *seen]  # fmt: skip
    assert found[4] == ["test", *best, *seen]
    assert found[5] == ["predict", "--data.pictures", "my album", *best, *seen]
    assert said[0] == "[1/4] One, seed 0: fit, test, predict --data.pictures 'my album'"
    assert said[1].startswith("[1/4] One, seed 0: dice 0.400, N s; 3 left, about ")
    assert said[7] == "[4/4] Two, seed 1: dice 0.400, N s"


def test_what_is_finished_is_not_run_again(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path
) -> None:
    run_all(planned(typed=["--seeds", "0"]), tmp_path / "out")
    calls()
    assert run_all(planned(typed=["--seeds", "0"]), tmp_path / "out") == []
    assert calls() == []
    assert len(run_all(planned(typed=["--seeds", "[0, 7]"]), tmp_path / "out")) == 4
    assert [call[:1] + call[5:7] for call in calls() if call[0] == "fit"] == [["fit", "--seed_everything", "7"]] * 2
    later = planned(typed=["--seeds", "0", "--data.pictures", "album"])  # a step more
    run_all(later, tmp_path / "out")
    assert [call[0] for call in calls()] == ["predict"] * 2


@pytest.mark.parametrize(("act", "step"), [("fails", "fit"), ("fails_test", "test")])
def test_a_failing_run_stops_no_other_and_is_tried_again(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path, act: str, step: str
) -> None:
    study, folder = planned(act), tmp_path / "out"
    said = run_all(study, folder)
    assert states(study, folder) == ["failed", "failed", "finished", "finished"]
    assert said[1].startswith("[1/4] One, seed 0: failed after N s")
    log = folder / study.runs[0].folder / "log.txt"
    assert failure(study.runs[0], folder).splitlines() == [
        f"One, seed 0: {step} ended with exit code 2; {log}",
        "    belvedere: there are no pictures.",
    ]
    assert f"$ belvedere {step} " in log.read_text()
    assert failure(study.runs[2], folder) == ""
    calls()
    (tmp_path / "mended").touch()
    run_all(study, folder)
    assert [call[0] for call in calls()] == (["fit", "test"] if step == "fit" else ["test"]) * 2
    assert states(study, folder) == ["finished"] * 4


def test_what_was_ended_by_a_signal_is_told_so(tmp_path: Path, planned: Callable[..., Study]) -> None:
    [run, *_] = planned().runs
    place = tmp_path / run.folder
    place.mkdir(parents=True)
    (place / "study.json").write_text('{"arguments": [], "failed": {"step": "fit", "code": -9, "last": []}}')
    assert failure(run, tmp_path) == f"One, seed 0: fit was ended by SIGKILL; {place / 'log.txt'}"


def test_a_run_that_gave_way_ends_the_study_and_has_not_failed(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path
) -> None:
    study, folder = planned("gives_way"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_all(study, folder)
    assert states(study, folder) == ["begun", "waiting", "waiting", "waiting"]
    assert [call[0] for call in calls()] == ["fit"]
    (tmp_path / "mended").touch()
    assert run_all(study, folder)[0] == "[1/4] One, seed 0: fit, test from its last checkpoint"


def test_half_a_training_goes_on_from_its_checkpoint(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path
) -> None:
    study, folder = planned(typed=["--seeds", "0"]), tmp_path / "out"
    whole, broken = (folder / run.folder for run in study.runs)
    for place in (whole, broken):
        (place / "checkpoints").mkdir(parents=True)
        (place / "metrics.csv").write_text("epoch,val/dice\n0,0.1\n")
        with zipfile.ZipFile(place / "checkpoints" / "last.ckpt", "w") as file:
            file.writestr("weights", os.urandom(1000))
    path = broken / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-50])
    assert [has_checkpoint(place) for place in (whole, broken, tmp_path)] == [True, False, False]
    said = run_all(study, folder)
    assert said[0] == "[1/2] One, seed 0: fit, test from its last checkpoint"
    assert [call[0] for call in calls()] == ["fit", "test", "fit", "test"]
    assert said[2] == "[2/2] Two, seed 0: fit, test anew, because no checkpoint is whole"
    assert (whole / "metrics.csv").read_text().count("\n") == 4
    assert (broken / "metrics.csv").read_text() == "epoch,val/dice\n0,0.5\n"  # anew, not after what was there


def test_other_options_are_refused_for_what_was_trained(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run_all(planned("fails", ["--data.root", "here"]), folder)
    calls()
    with pytest.raises(StudyError, match=r"two/seed-0 was begun .*: with --data.root here then, without it now; with "
                                         r"--data.root there now, without it then. Give the options"):  # fmt: skip
        check_folder(planned("fails", ["--data.root", "there"]), folder)
    check_folder(planned("fails", ["--data.root", "there", "--axes.network", "One"]), folder)  # has no checkpoint
    check_folder(planned("fails", ["--data.root", "here", "--seeds", "[0, 1, 2]"]), folder)
    with pytest.raises(StudyError, match="holds the study quokka, and this is wombat"):
        claim(planned(name="wombat"), folder)
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="is a file"):
        claim(planned(), tmp_path / "file")


def test_other_axes_are_refused(planned: Callable[..., Study], tmp_path: Path) -> None:
    study = planned()
    claim(study, tmp_path / "out")
    (tmp_path / "quokka.yaml").write_text(FILE.replace("network", "encoder"))
    with pytest.raises(StudyError, match="holds the axes network, and this is encoder"):
        claim(read_study(tmp_path / "quokka.yaml"), tmp_path / "out")


def test_a_run_that_another_process_is_at_is_passed_over(
    planned: Callable[..., Study], calls: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = planned(typed=["--seeds", "0"]), tmp_path / "out"
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    with locked(folder / study.runs[0].folder, 0):
        said = run_all(study, folder)
    assert said[0] == "[2/2] Two, seed 0: fit, test"
    assert said[1].startswith("[2/2] Two, seed 0: dice 0.400, N s; 1 left, about ")
    assert said[2] == "[1/2] One, seed 0: another process is at it; passed over"
    assert states(study, folder) == ["waiting", "finished"]
    run_all(study, folder)
    note = read_note(folder / study.runs[0].folder)
    assert note is not None
    assert list(note.seconds) == ["fit", "test"]
