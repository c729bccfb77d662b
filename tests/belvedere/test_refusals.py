"""Values that would fail deep inside a library, or silently: refused in a sentence, before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.batch_size", "0"], "batch_size is 0; 1 or more was wanted"),
        (["--data.size", "[0,0]"], "size is [0, 0]; height and width in pixels"),
        (["--data.output_size", "[-3,5]"], "output_size is [-3, 5]; height and width in pixels"),
        (["--data.num_workers", "-2"], "num_workers is -2; null, 0 or more was wanted"),
        (["--data.val_fraction", "1.5"], "val_fraction is 1.5 and test_fraction 0.25; shares in [0, 1)"),
        (["--data.small_mask_area", "7"], "small_mask_area is 7.0; a share of the picture in [0, 1] was wanted"),
        (["--data.classes", "[]"], "classes are []; one or more different names were wanted"),
        (["--early_stopping.patience", "-4"], "patience is -4; a number of epochs from 1"),
        (["--model.optimizer.lr", "-1"], "--model.optimizer: Invalid learning rate: -1.0."),
        (["--monitor", "val/dize"], "--monitor val/dize: there is no such figure. Did you mean val/dice?"),
        (["--trainer.max_epochs", "-3"], "`max_epochs` must be a non-negative integer or -1. You passed in -3."),
        (["--ckpt_path", "junk.ckpt"], "junk.ckpt is not a checkpoint of belvedere, or is truncated."),
        (["--config", "slurm"], "this one was not. Job files: docs/jobs. On this machine alone: --config ddp."),
        (["--output", "junk.ckpt"], "junk.ckpt is a file; a folder was wanted."),
    ],
)
def test_fit_refuses(belvedere: Command, tiny: list[str], arguments: list[str], message: str) -> None:
    Path("junk.ckpt").write_text("junk")
    result = belvedere("fit", *tiny, "--output", "run", *arguments)
    assert result.code == 2
    assert message in result.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.classes", "[Sugar,Fish,Flower,Gravel]"], "The checkpoint knows the classes ['Fish', 'Flower', "),
        (["--data.classes", "[cloud]"], "in this order; --data.classes is ['cloud']."),
        (["--model.encoder", "resnet18"], "holds the weights of another network"),
    ],
)
def test_predict_refuses_what_the_checkpoint_is_not(
    belvedere: Command, fitted: Path, arguments: list[str], message: str
) -> None:
    result = belvedere("predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), *arguments)
    assert result.code == 2
    assert message in result.err


def test_predictions_of_pictures_lie_beside_those_of_the_data_set(
    belvedere: Command, fitted: Path, clouds_root: Path
) -> None:
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    one = next((clouds_root / "train_images").iterdir())
    assert belvedere("predict", "--ckpt_path", checkpoint).code == 0
    assert belvedere("predict", "--ckpt_path", checkpoint, "--data.pictures", str(one)).code == 0
    for folder, count in (("predict", 4), (f"predict-{one.stem}", 1)):
        assert len(list((fitted / folder / "overlays").iterdir())) == count
