"""Values that would fail deep inside a library, or silently, are rejected before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
CASES: dict[str, list[tuple[list[str], str]]] = {
    "clouds": [
        (["--model.encodr", "resnet34"], "Did you mean --model.encoder?"),
        (["--data.batchsize", "4"], "Did you mean --data.batch_size?"),
        (["--data.photos", "[8,8]"], "not accepted. Other tasks have this option"),
        (["--trainer.max_epoch", "4"], "Did you mean --trainer.max_epochs?"),
        (["--moniter", "val/auprc"], "Did you mean --monitor?"),
        (["--outpt=x"], "Did you mean --output?"),
        (["--early_stopping.patence", "3"], "Did you mean --early_stopping.patience?"),
        (["--model.enc", "resnet34"], "'enc'"),  # abbreviations
        (["--mon", "val/auprc"], "--mon"),
        (["--config", "clouds/dmo"], "Did you mean clouds/demo"),
        (["--config", "typo.yaml"], "Did you mean --trainer.max_epochs?"),
        (["--config", "broken.yaml"], "broken.yaml is not valid YAML"),
        (["--data.batch_size", "four"], "--data.batch_size: expected an integer, got four."),
        (["--data.size", "[1,b]"], "--data.size: expected [an integer, an integer] or an integer, got "),
        (["--data.size", "big"], "--data.size: expected [an integer, an integer] or an integer, got big."),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs: expected an integer or null, got many."),
        (["--data.classes", "3"], "--data.classes: expected [a text, …], got 3."),
        (["--data.classes", "[yes,no]"], "--data.classes: expected [a text, …], got True; YAML|so quote them"),
        (["--data.root", "null"], "root is null; expected the folder"),
        (["--model.optimizer.lr", "high"], "--model.optimizer.lr: expected a number, got high."),
        (["--model.architecture", "fnp"], "--model.architecture: expected unet, pspnet, fpn or features, got fnp."),
        (["--model.encoder", "resnet35"], "'resnet35' is unknown|did you mean"),
        (["--model", "FooTask"], "--model: there is no class FooTask."),
        (["--model", "CloudTask"], "--model: there is no class CloudTask. Did you mean CloudsTask?"),
        (["--config", "class.yaml"], "--data: there is no class CloudDataModule. Did you mean CloudsDataModule?"),
        (["--trainer.callbacks+", "FooWriter"], "--trainer.callbacks: there is no class FooWriter."),
        (
            ["--trainer.callbacks+", "mine.Table"],
            "--trainer.callbacks: there is no class mine.Table: No module named 'mine'",
        ),
        (
            ["--trainer.callbacks+", "callbacks.best.Bset"],
            "there is no class callbacks.best.Bset: |no attribute 'Bset'",
        ),
        (["--data.batch_size", "0"], "batch_size is 0"),
        (["--data.size", "[0,0]"], "size is [0, 0]"),
        (["--data.output_size", "[-3,5]"], "output_size is [-3, 5]"),
        (["--data.num_workers", "-2"], "num_workers is -2"),
        (["--data.val_fraction", "1.5"], "val_fraction is 1.5"),
        (["--data.small_mask_area", "7"], "small_mask_area is 7.0"),
        (["--data.classes", "[]"], "classes are []"),
        (["--early_stopping.patience", "-4"], "patience is -4"),
        (["--best_checkpoint.tolerance", "-0.1"], "best_checkpoint.tolerance is -0.1"),
        (["--model.optimizer.lr", "-1"], "--model.optimizer: |-1.0"),
        (["--model.scheduler", "WarmupCosine", "--model.scheduler.warmup", "1.5"], "--model.scheduler: |1.5"),
        (["--best_checkpoint", "null"], "--best_checkpoint null|config file"),
        (["--monitor", "val/dize"], "Did you mean val/dice?"),
        (["--monitor", "val/iou"], "--monitor val/iou|The metrics are|val/loss|val/dice"),
        (["--help.trainers"], "Did you mean --help.trainer?"),
        (["--ckpt-path", "x"], "--ckpt-path|Did you mean --ckpt_path?"),
        (["--batch-size=4"], "Did you mean --batch_size?"),
        (["--epochs", "many"], "--trainer.max_epochs: expected an integer or null, got many."),
        (["--lr", "high"], "--model.optimizer.lr: expected a number, got high."),
        (["--data", "junk.ckpt"], "root is junk.ckpt, a file|folder"),
        (
            ["--data.classes", "[Fish,Tree]"],
            "has the classes Fish,Flower,Gravel,Sugar; expected Fish,Tree|--data.classes",
        ),
        (["--config", "gpu"], "no GPU|--config gpu"),
        (["--trainer.max_epochs", "-3"], "max_epochs"),
        (["--ckpt_path", "junk.ckpt"], "junk.ckpt is not a checkpoint"),
        (["--data.root", "nowhere", "--model.pretrained", "no.pth"], "No dataset in |nowhere"),
        (["--config", "slurm"], "--config ddp"),
        (["--output", "junk.ckpt"], "junk.ckpt is a file"),
    ],
    "avalanches": [(["--model.window", "17"], "--model.window|--data.window")],
    "colorization": [
        (["--model.temperature", "up"], "temperature"),
        (["--model.temperature", "-1"], "temperature"),
    ],
    "aesthetics": [
        (["--model.network", "alexnet_torchvison"], "alexnet_torchvision"),
        (["--model.network", "mobilenetv3_small_05"], "mobilenetv3_small_050"),
        (["--model.dense_width", "0"], "dense_width"),
        (["--model.head", "both"], "--model.head: expected binary or distribution, got both."),
        (["--model.pretrained", "false", "--model.freeze_convolutions", "true"], "--model.pretrained"),
        (["--model.network", "alexnet", "--model.pretrained", "true"], "single-column"),
        (["--data.size", "62"], "--data.size is 62"),
        (["--model.bins", "7"], "--model.bins 10"),
        (["--data.threshold", "11"], "threshold 11"),
        (["--data.threshold", "null", "--model.threshold", "6"], "--model.threshold"),
        (["--model.head", "binary", "--monitor", "val/srcc"], "--monitor val/srcc"),
        (["--data.labels", "votes.csv"], "votes.csv."),
    ],
}


MISSING = ["--data.root", "nowhere"]
CASES["clouds"] += [([*MISSING, "--model.pretrained", "true"], "nowhere")]
CASES["colorization"] += [(MISSING, "nowhere")]
CASES["aesthetics"] += [(MISSING, "nowhere")]


def cases_of(cases: dict[str, list[tuple[list[str], str]]]) -> list[Any]:
    return [
        pytest.param(task, arguments, words, id=f"{task} {' '.join(arguments)}")
        for task, rows in cases.items()
        for arguments, words in rows
    ]


@pytest.mark.parametrize(("task", "arguments", "words"), cases_of(CASES))
def test_fit_rejects(
    task: str, arguments: list[str], words: str, small: Callable[[str], list[str]], belvedere: Command
) -> None:
    Path("junk.ckpt").write_text("junk")
    Path("typo.yaml").write_text("trainer: {max_epoch: 3}")
    Path("class.yaml").write_text("data: {class_path: CloudDataModule}")
    Path("broken.yaml").write_text("trainer: [")
    message = belvedere("fit", *small(task), "--output", "run", *arguments).refusal
    assert [word for word in words.split("|") if word not in message] == []
    assert len(message.splitlines()) == 1 or " Expected:\n" in message  # then it draws the folder
    assert not Path("run").exists()
    assert not Path("runs").exists()


OF_CHECKPOINTS = {
    "clouds": [
        (["predict", "--data.classes", "[Sugar,Fish,Flower,Gravel]"], "['Fish', 'Flower', "),
        (["predict", "--data.classes", "[cloud]"], "['cloud']"),
        (["predict", "--model.encoder", "resnet18"], "weights of another network"),
        (["test", "--config", "roads/unet"], "checkpoint of CloudsTask|config is one of RoadsTask"),
        (["test", "--data.root", "moved"], "moved|no longer there|--data.root"),
    ],
    "roads": [(["predict"], "--data.pictures")],
    "avalanches": [(["test", "--data.window", "19"], "window 17|--data.window is 19")],
    "aesthetics": [
        (["test", "--data.threshold", "6"], "threshold 5.5|--data.threshold is 6.0"),
        (["test", "--data.size", "62"], "--data.size is 62"),
        (["predict", "--data.size", "62", "--data.pictures", "album"], "--data.size is 62"),
        (["test", "--data.root", "stars", "--data.threshold", "null"], "--model.bins 5"),
    ],
}


@pytest.mark.parametrize(("task", "arguments", "words"), cases_of(OF_CHECKPOINTS))
def test_a_checkpoint_rejects(
    task: str,
    arguments: list[str],
    words: str,
    trained: Callable[[str], Path],
    aesthetics_root: Path,
    belvedere: Command,
) -> None:
    given = [str(aesthetics_root / word) if word in ("album", "stars") else word for word in arguments]
    message = belvedere(*given, "--ckpt_path", str(trained(task)), "--output", "out").refusal
    assert [word for word in words.split("|") if word not in message] == []
    assert not Path("out").exists()


def test_predictions_of_given_images_have_their_own_folder(belvedere: Command, fitted: Path, clouds_root: Path) -> None:
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    one = next((clouds_root / "train_images").iterdir())
    assert belvedere("predict", "--ckpt_path", checkpoint).code == 0
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(one)).code == 0
    for folder, count in (("predict", 4), (f"predict-{one.stem}", 1)):
        assert len(list((fitted / folder / "overlays").iterdir())) == count


Lines = Callable[[list[list[str]]], None]


def with_votes(change: Lines) -> Callable[[Path], None]:
    """Changes the fields of the lines of AVA.txt."""

    def changed(root: Path) -> None:
        lines = [line.split() for line in (root / "AVA.txt").read_text().splitlines()]
        change(lines)
        (root / "AVA.txt").write_text("\n".join(map(" ".join, lines)) + "\n")

    return changed


def train_on_all(root: Path) -> None:
    ids = [line.split()[1] for line in (root / "AVA.txt").read_text().splitlines()]
    (root / "train.txt").write_text("\n".join(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_votes(lambda lines: lines[1].pop()), "AVA.txt, line 2: 14 fields"),
        (with_votes(lambda lines: lines[1].__setitem__(4, "-3")), "-3"),
        (with_votes(lambda lines: lines[1].__setitem__(slice(2, 12), ["0"] * 10)), "has no votes"),
        (with_votes(lambda lines: lines.append(lines[1])), "(line 2)"),
        (train_on_all, "train.txt"),
        (lambda root: (root / "AVA.txt").unlink(), "neither AVA.txt nor labels.csv"),
        (None, "2 of 30"),
    ],
)
def test_invalid_votes_are_rejected(
    change: Callable[[Path], None] | None,
    message: str,
    small: Callable[[str], list[str]],
    belvedere: Command,
    aesthetics_root: Path,
    tmp_path: Path,
) -> None:
    root = Path(shutil.copytree(aesthetics_root, tmp_path / "AVA"))
    missing = sorted((root / "images").iterdir())[:2]
    if change is not None:
        change(root)
    else:
        for path in missing:
            path.unlink()
    lists = ["--data.train_list", "train.txt"] if (root / "train.txt").exists() else []
    for command in ("fit", "describe"):
        result = belvedere(command, *small("aesthetics"), "--data.root", str(root), "--output", command, *lists)
        assert message in result.refusal
        if change is not None:
            assert not Path(command).exists()
            continue
        [path] = Path(command).iterdir()
        assert f"{path.absolute()} lists all" in result.err
        rows = [f"{each.name},There is no file {each}." for each in missing]
        assert path.read_text().splitlines() == ["name,problem", *rows]
