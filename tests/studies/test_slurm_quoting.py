"""Nothing that is written into a job script runs there, except the study."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ops.errors import StudyError
from studies.plan import read_study
from studies.slurm import array_script

Write = Callable[..., Path]
COMMAND = ["belvedere", "study", "tiny"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("strange", ["\n", "\r", "\0", "\t", "\x1b[2J", "\x85", "\u2028", "\udce9"])
@pytest.mark.parametrize("place", ["name", "option", "output", "folder"])
def test_control_characters_are_rejected(
    strange: str, place: str, study_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, text = read_study(study_file()), f"a{strange}touch ran"
    if place == "folder":
        if strange == "\0":
            return
        (tmp_path / text).mkdir()
        monkeypatch.chdir(tmp_path / text)
    command = COMMAND + {"option": ["--data.root", text], "output": [f"--output={text}"]}.get(place, [])
    with pytest.raises(StudyError, match="has control characters, which a job script cannot hold"):
        array_script(replace(study, name=text) if place == "name" else study, command, None)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text",
    ["$(touch ran)", "`touch ran`", "'; touch ran; '", '"; touch ran; "', "; touch ran #", "x\\", "-x", "%j", "*"],
)
def test_everything_else_is_quoted(text: str, study_file: Write, tmp_path: Path) -> None:
    command = [*COMMAND, "--data.root", text, "--output", text]
    script = array_script(replace(read_study(study_file()), name=text), command, None)
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nshift\nprintf "%s\\n" "$@" > words\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "1"}
    subprocess.run(["bash", "-c", script], env=environment, check=True)
    assert (tmp_path / "words").read_text().splitlines() == [*command, "--run", "3"]
    assert not (tmp_path / "ran").exists()
