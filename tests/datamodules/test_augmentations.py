import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.aesthetics import AestheticsDataModule
from datamodules.augmentations import Augmentations
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError, DataError
from tests.datamodules.helpers import Keeping, noise


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"albumentations.{name}", "init_args": arguments}


BRIGHTER = spec("RandomBrightnessContrast", p=1.0)
TURNED = spec("Affine", rotate=(-45, 45), p=1.0)
FLIPPED = spec("HorizontalFlip", p=1.0)


def sample(seed: int = 0, size: tuple[int, int] = (24, 32)) -> dict[str, Any]:
    """An image of noise with a mask that says where it is red and one where it is blue."""
    image = torch.from_numpy(noise(*size).transpose(2, 0, 1).copy())
    return {"image": image, "mask": (image[[0, 2]] > 127).to(torch.uint8), "seed": seed, "name": "a.png"}


def test_masks_are_transformed_along() -> None:
    changed = Augmentations([spec("D4", p=1.0)])(sample(size=(24, 24)))
    assert not torch.equal(changed["image"], sample(size=(24, 24))["image"])
    assert torch.equal(changed["mask"], (changed["image"][[0, 2]] > 127).to(torch.uint8))
    assert changed["name"] == "a.png"


def test_seeds_alone_decide() -> None:
    transforms = [BRIGHTER, spec("OneOf", transforms=[FLIPPED, spec("GaussNoise", p=1.0)], p=0.5), TURNED]
    first, again = Augmentations(transforms), pickle.loads(pickle.dumps(Augmentations(transforms)))
    for seed in (3, 2**63 - 1, 7):
        first(sample(seed + 1 if seed < 100 else 1))  # which must leave no trace
        assert torch.equal(first(sample(seed))["image"], again(sample(seed))["image"])
    assert not torch.equal(first(sample(3))["image"], first(sample(7))["image"])


def test_transforms_are_independent_of_each_other() -> None:
    made = Augmentations([spec("HorizontalFlip", p=0.5), spec("VerticalFlip", p=0.5)])
    image = sample()["image"]
    kinds = {(): 0, (1,): 0, (2,): 0, (1, 2): 0}
    for seed in range(200):
        changed = made(sample(seed))["image"]
        [axes] = [axes for axes in kinds if torch.equal(changed, image.flip(axes) if axes else image)]
        kinds[axes] += 1
    assert min(kinds.values()) > 25, "each of four has 50 in the mean"


def test_crops_are_brought_to_the_size_before() -> None:
    changed = Augmentations([spec("RandomCrop", height=12, width=16)])(sample())
    assert changed["image"].shape == (3, 24, 32)
    assert (changed["mask"].shape, changed["mask"].dtype) == ((2, 24, 32), torch.uint8)
    assert set(changed["mask"].unique().tolist()) == {0, 1}


def test_letterboxed_images_are_valid_where_they_are_moved_to() -> None:
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    image[:, 8:24, :] = 90
    box = torch.tensor([8, 0, 16, 32])
    changed = Augmentations([spec("Transpose", p=1.0)])({"image": image, "box": box, "seed": 0})
    assert (changed["valid"].shape, changed["valid"].dtype) == ((1, 32, 32), torch.bool)
    assert torch.equal(changed["valid"][0], changed["image"][0] == 90)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"class_path": "albumentations.RandomBrightnesContrast"}, "Did you mean albumentations.RandomBrightnessC"),
        ({"class_path": "nowhere.at.All"}, "no transform 'nowhere.at.All'"),
        ({"class_path": "Blur"}, "no transform 'Blur'"),
        ({"class_path": "torch.nn.Linear"}, "no transform 'torch.nn.Linear'"),
        (spec("Blur", limit=3), "no argument limit"),
        (spec("Blur", p="often"), "rejects its arguments"),
        (spec("OneOf", transforms=[spec("Blur", limit=3)]), "Blur has no argument limit"),
        (spec("OneOf", transforms=[spec("Blurr")]), "no transform 'albumentations.Blurr'"),
        (spec("OneOf"), "OneOf rejects its arguments"),
        ("Blur", "'Blur'; expected class_path"),
        ({"class_path": "albumentations.Blur", "args": {}}, "expected class_path and init_args"),
    ],
)
def test_wrong_transforms_are_rejected(transform: Any, message: str) -> None:
    for kind in (Augmentations, lambda transforms: CloudsDataModule(augmentations=transforms)):
        with pytest.raises(ArgumentError, match=message):
            kind([transform])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (spec("Normalize"), r"shape \(24, 32, 3\) and float32; expected \(H, W, 3\) of uint8"),
        (spec("RandomCrop", height=99, width=99), "Error: "),
    ],
)
def test_transforms_that_fail_are_named(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Augmentations([transform])(sample())


def test_windows_keep_the_pixel_of_their_label() -> None:
    for moving in (FLIPPED, spec("OneOf", transforms=[spec("Blur"), FLIPPED])):
        with pytest.raises(ArgumentError, match="HorizontalFlip moves pixels"):
            AvalanchesDataModule(augmentations=[moving])
    assert AvalanchesDataModule(augmentations=[BRIGHTER]).window_augmentations is not None


MODULES: dict[str, Callable[..., ImageDataModule]] = {
    "clouds": lambda root, **options: CloudsDataModule(root, size=(32, 48), leave_out_gaps=True, **options),
    "roads": lambda root, **options: RoadsDataModule(root, size=(64, 64), strategy="few", **options),
    "avalanches": lambda root, **options: AvalanchesDataModule(root, window=17, windows_per_epoch=20, **options),
    "colorization": lambda root, **options: ColorizationDataModule(
        root, size=32, shear=0, rotation=0, zoom=0, **options
    ),
    "aesthetics": lambda root, **options: AestheticsDataModule(root, size=28, crop="center", **options),
}


@pytest.fixture
def fitted(request: pytest.FixtureRequest, keep: Callable[..., Keeping]) -> Callable[..., Keeping]:
    """Trains a task for some epochs, from a checkpoint if there is one."""

    def run(task: str, epochs: int = 2, ckpt_path: Path | None = None, **options: Any) -> Keeping:
        data = MODULES[task](request.getfixturevalue(f"{task}_root"), batch_size=5, **options)
        return keep(data, epochs=epochs, ckpt_path=ckpt_path)

    return run


def assert_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert one.get("name") == other.get("name")
        for key in {"image", "mask", "valid"} & one.keys():
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("task", MODULES)
def test_training_images_are_transformed_and_others_are_not(task: str, fitted: Callable[..., Keeping]) -> None:
    darker = spec("RandomBrightnessContrast", brightness_limit=(-0.6, -0.5), contrast_limit=(0, 0), p=1.0)
    plain, changed = (fitted(task, 1, flips=False, augmentations=each).seen for each in (None, [darker]))
    for one, other in zip(plain["train"], changed["train"], strict=True):
        assert torch.all(other["image"].mean(dim=(1, 2, 3)) < 0.7 * one["image"].mean(dim=(1, 2, 3)))
        assert one.keys() - {"altered"} == other.keys() - {"altered"}
    assert_same(plain["val"], changed["val"])


@pytest.mark.parametrize("task", ["clouds", "colorization"])
def test_masks_and_valid_pixels_move_with_the_image(task: str, fitted: Callable[..., Keeping]) -> None:
    key = {"clouds": "mask", "colorization": "valid"}[task]
    plain, changed = (fitted(task, 1, flips=False, augmentations=each).seen["train"] for each in (None, [FLIPPED]))
    for one, other in zip(plain, changed, strict=True):
        assert torch.equal(other["image"], one["image"].flip(3))
        assert torch.equal(other[key], one[key].flip(3))


def test_any_number_of_workers_makes_the_same_batches(fitted: Callable[..., Keeping]) -> None:
    alone, one, two = (
        fitted("clouds", augmentations=[BRIGHTER, TURNED], num_workers=workers).seen["train"] for workers in (0, 1, 2)
    )
    assert_same(alone, one)
    assert_same(alone, two)
    assert not torch.equal(alone[0]["image"], alone[len(alone) // 2]["image"]), "another epoch, other changes"


@pytest.mark.parametrize("task", ["clouds", "avalanches"])
def test_a_resumed_run_transforms_as_the_whole_one(task: str, fitted: Callable[..., Keeping], tmp_path: Path) -> None:
    options = {"augmentations": [BRIGHTER]}
    whole = fitted(task, 2, **options).seen["train"]
    fitted(task, 1, **options).trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = fitted(task, 2, ckpt_path=tmp_path / "last.ckpt", **options).seen["train"]
    assert_same(whole[len(whole) // 2 :], resumed)


def test_other_loaders_of_training_images_do_not_transform(clouds_root: Path) -> None:
    data = CloudsDataModule(clouds_root, size=(32, 48), augmentations=[BRIGHTER], num_workers=0)
    data.setup("fit")
    data.datasets["train, in order"] = data.datasets["train"]
    given = data.loader("train, in order")
    np.testing.assert_array_equal(next(iter(given))["image"][0], data.datasets["train"][0, 0]["image"])
