import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from belvedere.checkpoints import check_fit, check_resumable, resumed_from, run_config
from belvedere.commandline.arguments import expanded
from belvedere.files import run_folder
from ops.errors import ArgumentError


def write_run(folder: Path, config: dict[str, Any] | None) -> Path:
    checkpoint = folder / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save(
        {"state_dict": {}, "config": yaml.safe_dump({"model": "CloudsTask", "data": "CloudsDataModule"})}, checkpoint
    )
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return checkpoint


def test_later_commands_get_the_config_of_the_run(tmp_path: Path) -> None:
    callbacks = [{"class_path": "FittedThresholds"}]
    wanted = {"seed_everything": 3, "model": {"class_path": "CloudsTask"}, "data": {"class_path": "CloudsDataModule"},
              "monitor": "val/dice", "trainer": {"callbacks": callbacks}}  # fmt: skip
    trainer = {"devices": 8, "callbacks": callbacks}
    config = wanted | {"output": "elsewhere", "ckpt_path": None, "trainer": trainer}
    checkpoint = write_run(tmp_path / "run", config)
    assert run_config(checkpoint) == wanted
    command, flag, text, *rest = expanded(["test", "--ckpt_path", str(checkpoint), "--data.batch_size", "2"])
    assert (command, flag) == ("test", "--config")
    assert yaml.safe_load(text) == wanted
    assert rest == ["--ckpt_path", str(checkpoint), "--data.batch_size", "2"]  # later options win


def test_a_checkpoint_contains_its_config(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    assert run_folder(checkpoint) == tmp_path / "run"
    assert run_config(checkpoint)["model"] == "CloudsTask"
    moved = checkpoint.rename(tmp_path / "moved.ckpt")
    assert run_folder(moved) == tmp_path
    assert run_config(moved)["model"] == "CloudsTask"


def test_missing_checkpoints_are_rejected_with_those_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    monkeypatch.chdir(tmp_path / "run")
    for wrong in (tmp_path / "run", checkpoint.with_name("bets.ckpt"), tmp_path / "run" / "best.ckpt", Path("nope")):
        with pytest.raises(ArgumentError, match=rf"{wrong}\. Found: {checkpoint}\.$"):  # named once
            run_config(wrong)
    with pytest.raises(ArgumentError, match=r"nowhere/best\.ckpt\.$"):
        run_config(Path("nowhere/best.ckpt"))


def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    torch.save({"state_dict": own}, tmp_path / "best.ckpt")
    check_fit(tmp_path / "best.ckpt", {"a": torch.ones(2), "b": torch.ones(3)})
    for other in ({"a": own["a"]}, {"a": torch.zeros(4), "b": own["b"]}, own | {"c": torch.zeros(1)}):
        with pytest.raises(ArgumentError, match=r"best\.ckpt .*another network: 1 of its tensors"):
            check_fit(tmp_path / "best.ckpt", other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a checkpoint of belvedere"),
        ([1, 2], "not a checkpoint of belvedere"),
        ({"state_dict": {}}, "no config .*--config FILE"),
    ],
)
def test_foreign_files_are_rejected(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("no checkpoint")
    if content is not None:
        torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ArgumentError, match=message) as error:
        run_config(tmp_path / "x.ckpt")
    assert "x.ckpt" in str(error.value)


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
        os.utime(folder / name, (-step, -step))  # as copying may leave them
    assert resumed_from(folder.parent, settings()) == str(folder / "preempted.ckpt")
    assert capsys.readouterr().err == ""
    torch.save(state | {"global_step": 10}, folder / "last.ckpt")
    assert resumed_from(folder.parent, settings()) == str(folder / "last.ckpt")
    (folder / "preempted.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    assert resumed_from(folder.parent, settings()) == str(folder / "last.ckpt")
    assert "preempted.ckpt is not a checkpoint" in capsys.readouterr().err
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


def test_the_best_checkpoint_is_slim_and_training_resumes_from_the_last(fitted: Path) -> None:
    best, last = (fitted / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    with pytest.raises(ArgumentError, match=r"best\.ckpt is for use .* last\.ckpt"):
        check_resumable(best)
    check_resumable(last)
    assert best.stat().st_size < 0.6 * last.stat().st_size
