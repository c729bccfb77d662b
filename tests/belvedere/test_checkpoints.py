import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from belvedere.arguments import expanded
from belvedere.checkpoints import check_fit, resumed_from, run_config, run_folder
from ops.errors import ArgumentError


def write_run(folder: Path, config: dict[str, Any] | None) -> Path:
    checkpoint = folder / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "config": yaml.safe_dump({"model": "CloudsTask", "data": None})}, checkpoint)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return checkpoint


def test_a_run_is_remembered_by_seed_model_data_monitor_and_callbacks(tmp_path: Path) -> None:
    config = {
        "model": {"class_path": "CloudsTask"},
        "data": {"class_path": "CloudsDataModule"},
        "monitor": "val/dice",
        "output": "elsewhere",
        "seed_everything": 3,
        "ckpt_path": None,
        "trainer": {"devices": 8, "callbacks": [{"class_path": "FittedThresholds"}]},
    }
    checkpoint = write_run(tmp_path / "run", config)
    wanted = {key: config[key] for key in ("seed_everything", "model", "data", "monitor")} | {
        "trainer": {"callbacks": [{"class_path": "FittedThresholds"}]}
    }
    assert run_config(checkpoint) == wanted
    command, flag, text, *rest = expanded(["test", "--ckpt_path", str(checkpoint), "--data.batch_size", "2"])
    assert (command, flag) == ("test", "--config")
    assert yaml.safe_load(text) == wanted
    assert rest == ["--ckpt_path", str(checkpoint), "--data.batch_size", "2"]  # after it, so that it wins


def test_a_lonely_checkpoint_remembers_by_itself(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    assert run_folder(checkpoint) == tmp_path / "run"
    assert run_config(checkpoint)["model"] == "CloudsTask"
    moved = checkpoint.rename(tmp_path / "moved.ckpt")
    assert run_folder(moved) == tmp_path
    assert run_config(moved)["model"] == "CloudsTask"


def test_missing_checkpoints_are_refused_with_those_found(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    for wrong in (tmp_path / "run", checkpoint.with_name("bets.ckpt"), tmp_path / "run" / "best.ckpt"):
        with pytest.raises(ArgumentError, match=rf"There is no checkpoint file {wrong}\. Found: {checkpoint}\."):
            run_config(wrong)
    with pytest.raises(ArgumentError, match=r"no checkpoint file nowhere/best\.ckpt\.$"):
        run_config(Path("nowhere/best.ckpt"))


def test_checkpoints_that_are_found_are_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(ArgumentError, match=rf"There is no checkpoint file nope\. Found: {checkpoint}\.$"):
        run_config(Path("nope"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    torch.save({"state_dict": own}, tmp_path / "best.ckpt")
    check_fit(tmp_path / "best.ckpt", {"a": torch.ones(2), "b": torch.ones(3)})
    for other in ({"a": own["a"]}, {"a": torch.zeros(4), "b": own["b"]}, own | {"c": torch.zeros(1)}):
        with pytest.raises(ArgumentError, match=r"best\.ckpt holds the weights of another network: 1 of its tensors"):
            check_fit(tmp_path / "best.ckpt", other)


def test_files_that_are_no_checkpoint_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ArgumentError, match=r"text\.ckpt is not a checkpoint of belvedere"):
        run_config(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ArgumentError, match=r"no config .*foreign\.ckpt.*--config FILE"):
        run_config(tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ArgumentError, match=r"list\.ckpt is not a checkpoint of belvedere"):
        run_config(tmp_path / "list.ckpt")


def settings(**given: str | None) -> Any:
    return SimpleNamespace(**({"output": "run", "ckpt_path": None} | given))


def test_a_run_resumes_from_its_newest_whole_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_run(tmp_path / "other", None)
    folder = tmp_path / "job" / "checkpoints"
    folder.mkdir(parents=True)
    assert resumed_from(folder.parent, settings()) is None
    state = torch.load(checkpoint, weights_only=True)
    for step, name in ((7, "last.ckpt"), (8, "preempted.ckpt"), (9, "best.ckpt")):
        torch.save(state | {"global_step": step}, folder / name)
        os.utime(folder / name, (-step, -step))  # as of copies
    assert resumed_from(folder.parent, settings()) == str(folder / "preempted.ckpt")
    assert capsys.readouterr().err == ""
    torch.save(state | {"global_step": 10}, folder / "last.ckpt")
    assert resumed_from(folder.parent, settings()) == str(folder / "last.ckpt")
    (folder / "preempted.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    assert resumed_from(folder.parent, settings()) == str(folder / "last.ckpt")
    assert "preempted.ckpt is not a checkpoint of belvedere, or is truncated. Skipped." in capsys.readouterr().err
    (folder / "last.ckpt").write_bytes(b"")
    assert resumed_from(folder.parent, settings()) is None


def test_a_run_resumes_in_its_own_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="remove --ckpt_path"):
        resumed_from(tmp_path, settings(ckpt_path="last.ckpt"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ArgumentError, match="add --output FOLDER"):
        resumed_from(tmp_path, settings(output=None))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert resumed_from(tmp_path, settings(output=None)) is None
