"""Values that would fail deep inside a library, or silently, are rejected before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.batch_size", "0"], "batch_size is 0"),
        (["--data.size", "[0,0]"], "size is [0, 0]"),
        (["--data.output_size", "[-3,5]"], "output_size is [-3, 5]"),
        (["--data.num_workers", "-2"], "num_workers is -2"),
        (["--data.val_fraction", "1.5"], "val_fraction is 1.5"),
        (["--data.small_mask_area", "7"], "small_mask_area is 7.0"),
        (["--data.classes", "[]"], "classes are []"),
        (["--early_stopping.patience", "-4"], "patience is -4"),
        (["--model.optimizer.lr", "-1"], "--model.optimizer: Invalid learning rate: -1.0."),
        (["--monitor", "val/dize"], "Did you mean val/dice?"),
        (["--trainer.max_epochs", "-3"], "max_epochs"),
        (["--ckpt_path", "junk.ckpt"], "junk.ckpt is not a checkpoint"),
        (["--config", "slurm"], "--config ddp"),
        (["--output", "junk.ckpt"], "junk.ckpt is a file; expected a folder"),
    ],
)
def test_fit_refuses(belvedere: Command, tiny: list[str], arguments: list[str], message: str) -> None:
    Path("junk.ckpt").write_text("junk")
    assert message in belvedere("fit", *tiny, "--output", "run", *arguments).refusal
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.classes", "[Sugar,Fish,Flower,Gravel]"], "['Fish', 'Flower', "),
        (["--data.classes", "[cloud]"], "['cloud']"),
        (["--model.encoder", "resnet18"], "holds the weights of another network"),
    ],
)
def test_predict_refuses_what_the_checkpoint_is_not(
    belvedere: Command, fitted: Path, arguments: list[str], message: str
) -> None:
    assert message in belvedere("predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), *arguments).refusal


def test_predictions_of_pictures_lie_beside_those_of_the_data_set(
    belvedere: Command, fitted: Path, clouds_root: Path
) -> None:
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    one = next((clouds_root / "train_images").iterdir())
    assert belvedere("predict", "--ckpt_path", checkpoint).code == 0
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(one)).code == 0
    for folder, count in (("predict", 4), (f"predict-{one.stem}", 1)):
        assert len(list((fitted / folder / "overlays").iterdir())) == count


AESTHETICS = ["--config", "aesthetics/alexnet_torchvision", "--config", "debug", "--model.dense_width", "8",
        "--model.pretrained", "false", "--model.freeze_convolutions", "false", "--data.size", "63"]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network", "alexnet_torchvison"], "alexnet_torchvision"),
        (["--model.network", "mobilenetv3_small_05"], "mobilenetv3_small_050"),
        (["--model.dense_width", "0"], "dense_width"),
        (["--model.head", "both"], "['binary', 'distribution']"),
        (["--model.freeze_convolutions", "true"], "--model.pretrained"),
        (["--model.network", "alexnet", "--model.pretrained", "true"], "single-column"),
        (["--data.size", "62"], "--data.size is 62"),
        (["--model.head", "distribution", "--model.bins", "7"], "--model.bins 10"),
        (["--model.head", "distribution", "--data.threshold", "11"], "threshold 11"),
        (["--model.threshold", "6"], "--model.threshold"),
        (["--monitor", "val/srcc"], "--monitor val/srcc"),
        (["--data.labels", "votes.csv"], "votes.csv."),
    ],
)  # fmt: skip
def test_fit_of_aesthetics_refuses(options: list[str], message: str, belvedere: Command, aesthetics_root: Path) -> None:
    result = belvedere("fit", *AESTHETICS, "--data.root", str(aesthetics_root), "--output", "out", *options)
    assert message in result.refusal
    assert not Path("out").exists()


def spoil_line(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Changes the fields of the second line of votes."""

    def spoil(root: Path) -> None:
        lines = (root / "AVA.txt").read_text().splitlines()
        lines[1] = " ".join(change(lines[1].split()))
        (root / "AVA.txt").write_text("\n".join(lines) + "\n")

    return spoil


def repeat(root: Path) -> None:
    lines = (root / "AVA.txt").read_text().splitlines()
    (root / "AVA.txt").write_text("\n".join([*lines, lines[1]]) + "\n")


def train_on_all(root: Path) -> None:
    ids = [line.split()[1] for line in (root / "AVA.txt").read_text().splitlines()]
    (root / "train.txt").write_text("\n".join(ids))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_line(lambda fields: fields[:-1]), "AVA.txt, line 2: 14 fields"),
        (spoil_line(lambda fields: [*fields[:4], "-3", *fields[5:]]), "-3"),
        (spoil_line(lambda fields: [*fields[:2], *["0"] * 10, *fields[12:]]), "all counts are 0"),
        (repeat, "(line 2)"),
        (train_on_all, "train.txt"),
        (lambda root: (root / "AVA.txt").unlink(), "neither AVA.txt nor labels.csv"),
    ],
)
def test_wrong_votes_are_rejected(
    spoil: Callable[[Path], None], message: str, belvedere: Command, aesthetics_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(aesthetics_root, tmp_path / "AVA"))
    spoil(root)
    lists = ["--data.train_list", "train.txt"] if (root / "train.txt").exists() else []
    for command in ("fit", "describe"):
        result = belvedere(command, *AESTHETICS, "--data.root", str(root), "--output", "out", *lists)
        assert message in result.refusal
        assert not Path("out").exists()


def test_missing_images_are_listed_and_nothing_else_is_written(
    belvedere: Command, aesthetics_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(aesthetics_root, tmp_path / "AVA"))
    missing = sorted((root / "images").iterdir())[:2]
    for path in missing:
        path.unlink()
    for command in ("fit", "describe"):
        result = belvedere(command, *AESTHETICS, "--data.root", str(root), "--output", command)
        assert "2 of 30" in result.refusal
        [path] = Path(command).iterdir()
        assert f"{path.absolute()} lists all of them." in result.err
        assert path.read_text().splitlines() == [
            "name,problem", *(f"{each.name},There is no file {each}." for each in missing)]  # fmt: skip
