import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.errors import StudyError
from studies import running
from studies.notes import check_folder, claim, failure, has_checkpoint, read_note, state
from studies.plan import Study, read_study
from studies.running import check_options, locked, run_study

Plan = Callable[..., Study]
Calls = Callable[[], list[list[str]]]


@pytest.fixture
def planned(acting_file: Callable[..., Path]) -> Plan:
    """Reads a study of two networks and two seeds; the runs of the first network do `act`."""
    return lambda act="good", overrides=(), name="quokka": read_study(acting_file(act, name), overrides)


def run_all(study: Study, folder: Path) -> list[str]:
    """Runs a study and returns the lines that it logs, with N for seconds."""
    logged: list[str] = []
    claim(study, folder)
    run_study(study, study.runs, folder, logged.append)
    return [re.sub(r"\d+ s", "N s", line) for line in logged]


def states(study: Study, folder: Path) -> list[str]:
    return [state(run, folder) for run in study.runs]


def test_every_run_is_trained_tested_and_predicts(
    planned: Plan, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_RUN", "another")
    monkeypatch.setenv("WANDB_SERVICE", "3-1-tcp-localhost-1-pwd")
    study, folder = planned(overrides=["--data.pictures", "my album"]), tmp_path / "out"
    assert states(study, folder) == ["waiting"] * 4
    logged = run_all(study, folder)
    assert states(study, folder) == ["finished"] * 4
    found = calls()
    assert [call[0] for call in found] == ["fit", "test", "predict"] * 4
    place = folder / "cells" / "one" / "seed-1"
    seen = ["WANDB_RUN_GROUP=quokka", "WANDB_NAME=one--seed-1", "BELVEDERE_RUN=None", "WANDB_SERVICE=None"]
    best = ["--ckpt_path", str(place / "checkpoints" / "best.ckpt"), "--trust"]
    assert found[3] == ["fit", "--config", "any", "--model.act", "good", "--seed_everything", "1", "--output",
                        str(place), "--resume", "auto", "--preemption.requeue", "false", *seen]  # fmt: skip
    assert found[4] == ["test", *best, *seen]
    assert found[5] == ["predict", "--data.pictures", "my album", *best, *seen]
    assert logged[0] == "[1/4] One, seed 0: fit, test, predict --data.pictures 'my album'"
    assert logged[1].startswith("[1/4] One, seed 0: dice 0.400, N s; 3 left, about ")
    assert logged[7] == "[4/4] Two, seed 1: dice 0.400, N s"


def test_finished_steps_are_not_repeated(planned: Plan, calls: Calls, tmp_path: Path) -> None:
    run_all(planned(overrides=["--seeds", "0"]), tmp_path / "out")
    calls()
    assert run_all(planned(overrides=["--seeds", "0"]), tmp_path / "out") == []
    assert calls() == []
    assert len(run_all(planned(overrides=["--seeds", "[0, 7]"]), tmp_path / "out")) == 4
    assert [call[:1] + call[5:7] for call in calls() if call[0] == "fit"] == [["fit", "--seed_everything", "7"]] * 2
    later = planned(overrides=["--seeds", "0", "--data.pictures", "album"])  # one more step
    run_all(later, tmp_path / "out")
    assert [call[0] for call in calls()] == ["predict"] * 2


@pytest.mark.parametrize(("act", "step"), [("fails", "fit"), ("fails_test", "test")])
def test_a_failing_run_stops_no_other_and_is_retried(
    planned: Plan, calls: Calls, tmp_path: Path, act: str, step: str
) -> None:
    study, folder = planned(act), tmp_path / "out"
    logged = run_all(study, folder)
    assert states(study, folder) == ["failed", "failed", "finished", "finished"]
    assert logged[1].startswith("[1/4] One, seed 0: failed after N s")
    log = folder / study.runs[0].folder / "log.txt"
    assert failure(study.runs[0], folder).splitlines() == [
        f"One, seed 0: {step} ended with exit code 2; {log}",
        "    belvedere: found no images.",
    ]
    assert f"$ belvedere {step} " in log.read_text()
    assert failure(study.runs[2], folder) == ""
    note = folder / study.runs[0].folder / "study.json"
    text = note.read_text()
    note.write_text(text.replace('"code": 2', '"code": -9'))
    assert "SIGKILL" in failure(study.runs[0], folder)
    note.write_text(text)
    calls()
    (tmp_path / "mended").touch()
    run_all(study, folder)
    assert [call[0] for call in calls()] == (["fit", "test"] if step == "fit" else ["test"]) * 2
    assert states(study, folder) == ["finished"] * 4


def test_a_preempted_run_stops_the_study_and_has_not_failed(planned: Plan, calls: Calls, tmp_path: Path) -> None:
    study, folder = planned("gives_way"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_all(study, folder)
    assert states(study, folder) == ["started", "waiting", "waiting", "waiting"]
    assert [call[0] for call in calls()] == ["fit"]
    with pytest.raises(StudyError, match="other options"):  # half a training
        check_folder(planned("gives_way", ["--data.root", "there"]), folder)
    (tmp_path / "mended").touch()
    assert run_all(study, folder)[0] == "[1/4] One, seed 0: fit, test from the last checkpoint"


def test_an_interrupted_training_resumes_from_its_checkpoint(planned: Plan, calls: Calls, tmp_path: Path) -> None:
    study, folder = planned(overrides=["--seeds", "0"]), tmp_path / "out"
    whole, broken = (folder / run.folder for run in study.runs)
    for place in (whole, broken):
        (place / "checkpoints").mkdir(parents=True)
        (place / "metrics.csv").write_text("epoch,val/dice\n0,0.1\n")
        with zipfile.ZipFile(place / "checkpoints" / "last.ckpt", "w") as file:
            file.writestr("weights", os.urandom(1000))
    path = broken / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-50])
    assert [has_checkpoint(place) for place in (whole, broken, tmp_path)] == [True, False, False]
    logged = run_all(study, folder)
    assert logged[0] == "[1/2] One, seed 0: fit, test from the last checkpoint"
    assert [call[0] for call in calls()] == ["fit", "test", "fit", "test"]
    assert logged[2] == "[2/2] Two, seed 0: fit, test from scratch: no checkpoint is complete"
    assert (whole / "metrics.csv").read_text().count("\n") == 4
    assert (broken / "metrics.csv").read_text() == "epoch,val/dice\n0,0.5\n"  # not appended


def test_other_options_are_rejected_after_training(
    planned: Plan, calls: Calls, acting_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run_all(planned("fails", ["--data.root", "here"]), folder)
    calls()
    with pytest.raises(StudyError, match=r"two/seed-0 .*--data.root here.*--data.root there"):
        check_folder(planned("fails", ["--data.root", "there"]), folder)
    check_folder(planned("fails", ["--data.root", "there", "--axes.network", "One"]), folder)  # without a checkpoint
    check_folder(planned("fails", ["--data.root", "here", "--seeds", "[0, 1, 2]"]), folder)
    with pytest.raises(StudyError, match="study quokka, not wombat"):
        claim(planned(name="wombat"), folder)
    other = acting_file()
    other.write_text(other.read_text().replace("network", "encoder"))
    with pytest.raises(StudyError, match="axes network, not encoder"):
        claim(read_study(other), folder)
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="is a file"):
        claim(planned(), tmp_path / "file")


def test_a_run_in_use_by_another_process_is_skipped(
    planned: Plan, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = planned(overrides=["--seeds", "0"]), tmp_path / "out"
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    with locked(folder / study.runs[0].folder, 0):
        logged = run_all(study, folder)
    assert logged[0] == "[2/2] Two, seed 0: fit, test"
    assert logged[1].startswith("[2/2] Two, seed 0: dice 0.400, N s; 1 left, about ")
    assert logged[2] == "[1/2] One, seed 0: in use by another process; skipped"
    assert states(study, folder) == ["waiting", "finished"]
    run_all(study, folder)
    note = read_note(folder / study.runs[0].folder)
    assert note is not None
    assert list(note.seconds) == ["fit", "test"]


def test_cells_that_differ_after_training_share_one(
    acting_file: Callable[..., Path], calls: Calls, tmp_path: Path
) -> None:
    path = acting_file()
    text = path.read_text().replace("seeds:", "after_training: [second]\nseeds:")
    path.write_text(
        text.replace("Two: {model.act: good}}", "Two: {model.act: good}}, second: {a: {}, b: {model.b: 1}}")
    )
    study, folder = read_study(path, ["--seeds", "0"]), tmp_path / "out"
    assert [[run.cell for run in runs] for runs in study.trainings] == [["one--a", "one--b"], ["two--a", "two--b"]]
    place = folder / "cells" / "one--a" / "seed-0"
    logged = run_all(study, folder)
    assert states(study, folder) == ["finished"] * 4
    assert logged[2] == "[2/4] One · b, seed 0: fit, test with the training of one--a"
    other = folder / "cells" / "one--b" / "seed-0"
    assert (other / "checkpoints" / "last.ckpt").read_bytes() == (place / "checkpoints" / "last.ckpt").read_bytes()
    # the fake command appends an epoch to the copied table, the real one none
    assert (other / "metrics.csv").read_text() == 2 * (place / "metrics.csv").read_text()
    assert [call[0] for call in calls()] == ["fit", "test"] * 4


def test_what_shares_a_failed_training_is_not_started(
    acting_file: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    path = acting_file("fails")
    text = path.read_text().replace("seeds:", "after_training: [second]\nseeds:")
    path.write_text(
        text.replace("Two: {model.act: good}}", "Two: {model.act: good}}, second: {a: {}, b: {model.b: 1}}")
    )
    study, folder = read_study(path, ["--seeds", "0", "--axes.network", "One"]), tmp_path / "out"
    logged = run_all(study, folder)
    assert logged[-1] == "[2/2] One · b, seed 0: not started, because one--a is not trained"
    assert states(study, folder) == ["failed", "waiting"]
    assert [call[0] for call in calls()] == ["fit"]


def test_invalid_options_start_nothing(planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = planned("fails", overrides=["--data.rot", "x"])
    answer = "import json, sys; trainings = json.load(sys.stdin); print(json.dumps([1, str(trainings[1])]))"
    monkeypatch.setattr(running, "CHECK", (sys.executable, "-c", answer))
    with pytest.raises(StudyError, match=r"Nothing was started.* Two: \['--config', 'any', .*'--data.rot', 'x'\]"):
        check_options(study, study.runs, tmp_path)
    monkeypatch.setattr(running, "CHECK", (sys.executable, "-c", "raise SystemExit('no torch')"))
    with pytest.raises(StudyError, match="cannot be checked: no torch"):
        check_options(study, study.runs, tmp_path)


def test_options_of_trained_runs_are_not_checked(
    planned: Plan, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned()
    run_all(study, tmp_path)
    monkeypatch.setattr(running, "CHECK", ("false",))
    check_options(study, study.runs, tmp_path)


@pytest.mark.parametrize(
    ("option", "found"),
    [
        (["--data.pictures", "nowhere"], "nowhere; .* found nothing"),
        (["--data.pictures=nowhere"], "nowhere; .* found nothing"),
        (["--data.pictures", "empty"], "empty; .* found an empty folder"),
        (["--data.pictures", "album"], ""),
        (["--data.pictures", "album/a.jpg"], ""),
    ],
)
def test_missing_images_start_nothing(
    acting_file: Callable[..., Path],
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    found: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("album", "empty"):
        Path(name).mkdir()
    Path("album", "a.jpg").touch()
    path = acting_file()
    path.write_text(f"{path.read_text()}after: [{['predict', *option]}]\n")
    study = read_study(path)
    if not found:
        check_options(study, study.runs, tmp_path / "out")
        return
    with pytest.raises(StudyError, match=f"Nothing was started.*{found}.* Give the path"):
        check_options(study, study.runs, tmp_path / "out")


def test_finished_predictions_need_no_images(planned: Plan, calls: Calls, tmp_path: Path) -> None:
    study = planned(overrides=["--data.pictures", str(tmp_path / "removed")])
    run_all(study, tmp_path / "out")
    check_options(study, study.runs, tmp_path / "out")


def test_invalid_options_after_the_test_start_nothing(
    acting_file: Callable[..., Path], calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = acting_file()
    path.write_text(f"{path.read_text()}after: [validate, 'features --vectors [fc9]']\n")
    study = read_study(path)
    answer = "import json, sys; fit, *commands = json.load(sys.stdin); print(json.dumps([1, str([fit, commands[1]])]))"
    monkeypatch.setattr(running, "CHECK_STEPS", (sys.executable, "-c", answer))
    with pytest.raises(StudyError, match=r"options of features .*'any', .*\['features', '--vectors', '\[fc9\]'\]"):
        check_options(study, study.runs, tmp_path / "out")
