import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.clouds import CloudsDataModule
from datamodules.decoded.whole import PackedMasks
from datamodules.read.cache import cached_array


@pytest.fixture
def data(clouds_root: Path) -> CloudsDataModule:
    made = CloudsDataModule(clouds_root, size=(32, 44), num_workers=0)
    for stage in ("fit", "predict"):
        made.setup(stage)
    return made


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_array_equal(np.asarray(right[key]), np.asarray(value))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 44])
def test_packed_masks_unpack_to_their_width(width: int) -> None:
    masks = np.random.default_rng(0).random((3, 2, 5, width)) < 0.5
    packed = PackedMasks(
        cached_array(
            "packed", str(width), (3, 2, 5, -(-width // 8)), np.packbits(masks, axis=-1).__getitem__, "packing"
        ),
        width,
    )
    for row in range(3):
        np.testing.assert_array_equal(packed[row], masks[row])


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_copies_of_samples_are_small_and_the_same(split: str, data: CloudsDataModule) -> None:
    samples = data.datasets[split]
    copied = pickle.dumps(samples)
    assert len(copied) < 4000, "a worker would be sent the decoded pictures"
    for index in range(len(samples)):
        assert_equal(pickle.loads(copied)[3, index], samples[3, index])


def test_samples_are_the_callers_to_change(data: CloudsDataModule) -> None:
    samples = data.datasets["train"]
    first = samples[0, 0]
    before = first["image"].clone(), first["mask"].clone()
    first["image"].zero_()
    first["mask"].zero_()
    again = samples[0, 0]
    assert torch.equal(again["image"], before[0])
    assert torch.equal(again["mask"], before[1])


@pytest.mark.slow
def test_workers_that_are_started_afresh_make_the_same_batches(data: CloudsDataModule) -> None:
    alone = list(data.train_dataloader())
    data.num_workers = 1
    loader = data.train_dataloader()
    loader.multiprocessing_context = "spawn"
    for left, right in zip(alone, loader, strict=True):
        assert_equal(left, right)
