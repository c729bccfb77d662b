"""What is wrong with options or votes of aesthetics: refused in a message, before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

TINY = ["--config", "aesthetics/alexnet_torchvision", "--config", "debug", "--model.dense_width", "8",
        "--model.pretrained", "false", "--model.freeze_convolutions", "false", "--data.size", "63"]  # fmt: skip


def refusal(result: Any) -> str:
    """What one message says, where nothing was written."""
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err.count("belvedere: ") == 1
    assert not Path("out").exists()
    return str(result.err.split("belvedere: ")[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network", "alexnet_torchvison"], "none of alexnet, alexnet_torchvision, vgg16; of timm's,"),
        (["--model.network", "mobilenetv3_small_05"], "mobilenetv3_small_050"),
        (["--model.dense_width", "0"], "dense_width is 0, "),
        (["--model.head", "both"], "--model.head: one of these was wanted: ['binary', 'distribution']"),
        (["--model.freeze_convolutions", "true"], "the convolutions would stay random noise. Give --model.pretrained"),
        (["--model.network", "alexnet", "--model.pretrained", "true"], "Nobody publishes weights of the single-column"),
        (["--data.size", "62"], "--data.size is 62; alexnet_torchvision takes "),
        (["--model.head", "distribution", "--model.bins", "7"], "the network has votes 1 to 7. "),
        (["--model.head", "distribution", "--data.threshold", "11"], "bins 10 and threshold 11;"),
        (["--model.threshold", "6"], "The data's threshold is 5, the model's is 6: "),
        (["--monitor", "val/srcc"], "--monitor val/srcc: there is no such figure."),
        (["--data.labels", "votes.csv"], "votes.csv."),
    ],
)  # fmt: skip
def test_fit_refuses(options: list[str], message: str, belvedere: Command, aesthetics_root: Path) -> None:
    result = belvedere("fit", *TINY, "--data.root", str(aesthetics_root), "--output", "out", *options)
    assert message in refusal(result)


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
        (spoil_line(lambda fields: fields[:-1]), "AVA.txt, line 2: 14 fields; 15 were wanted: the index, the image id"),
        (spoil_line(lambda fields: [*fields[:4], "-3", *fields[5:]]), "none below 0 were wanted"),
        (spoil_line(lambda fields: [*fields[:2], *["0"] * 10, *fields[12:]]), "has no votes, all counts are 0"),
        (repeat, "has votes already (line 2). Remove one."),
        (train_on_all, "train.txt. Remove it from one of them."),
        (lambda root: (root / "AVA.txt").unlink(), "has neither AVA.txt nor labels.csv; votes in one of them were"),
    ],
)
def test_data_that_are_not_as_wanted_are_refused(
    spoil: Callable[[Path], None], message: str, belvedere: Command, aesthetics_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(aesthetics_root, tmp_path / "AVA"))
    spoil(root)
    lists = ["--data.train_list", "train.txt"] if (root / "train.txt").exists() else []
    for command in ("fit", "describe"):
        result = belvedere(command, *TINY, "--data.root", str(root), "--output", "out", *lists)
        assert message in refusal(result)


def test_pictures_that_are_missing_are_listed_and_nothing_else_is_written(
    belvedere: Command, aesthetics_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(aesthetics_root, tmp_path / "AVA"))
    missing = sorted((root / "images").iterdir())[:2]
    for path in missing:
        path.unlink()
    for command in ("fit", "describe"):
        result = belvedere(command, *TINY, "--data.root", str(root), "--output", command)
        assert "2 of 30 pictures (6.7%) cannot be used; at most 5.0% were wanted." in refusal(result)
        [path] = Path(command).iterdir()
        assert f"{path.absolute()} lists all of them." in result.err
        assert path.read_text().splitlines() == [
            "name,problem", *(f"{each.name},There is no file {each}." for each in missing)]  # fmt: skip
