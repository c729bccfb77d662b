from typing import Any

import pytest

from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError, DataError

MODULES = [AestheticsDataModule, AvalanchesDataModule, CloudsDataModule, ColorizationDataModule, RoadsDataModule]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (CloudsDataModule, {"classes": []}, r"classes are \[\]"),
        (CloudsDataModule, {"classes": ["a", "a"]}, "different names"),
        (CloudsDataModule, {"size": (0, 8)}, r"size is \[0, 8\]"),
        (CloudsDataModule, {"output_size": (8, 0)}, r"output_size is \[8, 0\]"),
        (CloudsDataModule, {"window": (0, 0)}, r"window is \[0, 0\]"),
        (CloudsDataModule, {"overlap": 1.0}, r"overlap is 1\.0"),
        (CloudsDataModule, {"window": (8, 8), "output_size": (8, 8)}, "one of them to null"),
        (CloudsDataModule, {"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction is 0.5"),
        (CloudsDataModule, {"batch_size": 0}, "batch_size is 0"),
        (CloudsDataModule, {"num_workers": -1}, "num_workers is -1"),
        (CloudsDataModule, {"small_mask_area": 1.5}, r"small_mask_area is 1\.5"),
        (RoadsDataModule, {"size": (0, 8)}, r"size is \[0, 8\]"),
        (RoadsDataModule, {"window": (8, 0)}, r"window is \[8, 0\]"),
        (RoadsDataModule, {"overlap": 1.0}, r"overlap is 1\.0"),
        (RoadsDataModule, {"size": (8, 16), "strategy": "both"}, "'both' rotates tiles"),
        (RoadsDataModule, {"filters": ["sharpen"]}, r"filters are \['sharpen'\]"),
        (RoadsDataModule, {"filters": ["detail", "detail"]}, r"filters are \['detail', 'detail'\]"),
        (RoadsDataModule, {"filters": []}, "at least one filter"),
        (RoadsDataModule, {"backend": "pillow"}, "'pillow' is unknown"),
        (RoadsDataModule, {"samples_per_category": 0}, "samples_per_category is 0"),
        (AvalanchesDataModule, {"window": 0}, "window is 0"),
        (AvalanchesDataModule, {"backend": "opencv"}, "'opencv' is unknown"),
        (AvalanchesDataModule, {"pyramid_levels": -1}, "pyramid_levels is -1"),
        (AvalanchesDataModule, {"ratio": "fair"}, "ratio is 'fair'"),
        (AvalanchesDataModule, {"windows_per_epoch": 0}, "windows_per_epoch is 0"),
        (AvalanchesDataModule, {"val_pictures": 0}, "val_pictures is 0"),
        (AvalanchesDataModule, {"crop": (8, 8)}, "crop is for whole photos"),
        (AvalanchesDataModule, {"photos": (8, 8), "crop": (8, 9)}, r"crop is \[8, 9\]"),
        (AvalanchesDataModule, {"augment": "none"}, "augment is 'none', which is for whole photos"),
        (ColorizationDataModule, {"size": 31}, "size is 31; expected 32"),
        (ColorizationDataModule, {"shear": 1.0}, r"shear is 1\.0"),
        (ColorizationDataModule, {"zoom": -0.1}, r"zoom is -0\.1"),
        (ColorizationDataModule, {"rotation": 181}, "rotation is 181"),
        (ColorizationDataModule, {"unreadable": "ignore"}, "unreadable is 'ignore'"),
        (ColorizationDataModule, {"batch_size": 0}, "batch_size is 0"),
        (AestheticsDataModule, {"size": 0}, "size is 0"),
        (AestheticsDataModule, {"size": 64, "load_size": 63}, "load_size is 63; expected 64"),
        (AestheticsDataModule, {"crop": "corner"}, "crop is 'corner'"),
        (AestheticsDataModule, {"statistic": "mode"}, "statistic is 'mode'"),
        (AestheticsDataModule, {"delta": -0.1}, r"delta is -0\.1"),
        (AestheticsDataModule, {"missing_share": 1.1}, r"missing_share is 1\.1"),
        (AestheticsDataModule, {"val_fraction": 1.0}, r"val_fraction is 1\.0"),
    ],
)
def test_arguments_out_of_range_are_rejected(
    kind: type[ImageDataModule], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("kind", "options", "advice"),
    [
        (CloudsDataModule, {"flips": False, "augment": "flips"}, "none"),
        (CloudsDataModule, {"flips": False, "augment": "photo"}, "none"),
        (AvalanchesDataModule, {"flips": False, "photos": (8, 8)}, "none"),
        (RoadsDataModule, {"flips": True, "augment": "none"}, "flips"),
        (RoadsDataModule, {"flips": False, "augment": "d4"}, "none"),
        (CloudsDataModule, {"flips": True, "augment": "none"}, "flips"),
    ],
)
def test_flips_that_contradict_augment_are_rejected_in_training(
    kind: type[ImageDataModule], options: dict[str, Any], advice: str
) -> None:
    data = kind(**options)
    for check in (data.check_training, data.train_dataloader):
        with pytest.raises(ArgumentError, match=f"flips is .*augment is .*--data.augment {advice}"):
            check()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CloudsDataModule, {"flips": False}),
        (CloudsDataModule, {"augment": "none"}),
        (CloudsDataModule, {"flips": False, "augment": "none"}),
        (AvalanchesDataModule, {"flips": False}),
        (AvalanchesDataModule, {"photos": (8, 8)}),
        (RoadsDataModule, {"augment": "d4"}),
        (RoadsDataModule, {"flips": True, "augment": "d4"}),
    ],
)
def test_other_flips_are_accepted(kind: type[ImageDataModule], options: dict[str, Any]) -> None:
    module = kind(**options)
    module.check_training()
    assert module.flips == options.get("flips", kind().flips), "what was given is kept"


@pytest.mark.parametrize(("options", "mirror"), [({}, True), ({"flips": False}, False), ({"augment": "none"}, False)])
def test_crops_are_flipped_as_whole_images_are(options: dict[str, Any], mirror: bool) -> None:
    views = CloudsDataModule(crop=(64, 64), **options).views
    assert views is not None
    assert views.jitter.mirror == mirror


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind is not CloudsDataModule])
def test_predict_needs_images(kind: type[ImageDataModule]) -> None:
    with pytest.raises(DataError, match=r"--data\.pictures"):
        kind("nowhere").setup("predict")


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (RoadsDataModule, ["No dataset", "images/<stem>.png"]),
        (ColorizationDataModule, ["images/**/<stem>.jpg", "metadata.csv", "no folder"]),
        (AestheticsDataModule, ["images/<id>.jpg", "AVA.txt", "image,count_1,…,count_k", "has neither AVA.txt"]),
    ],
)
def test_a_missing_dataset_shows_the_expected_layout(
    kind: type[ImageDataModule], parts: list[str], tmp_path: Any
) -> None:
    with pytest.raises(DataError) as caught:
        kind(tmp_path / "gone").setup("fit")
    assert str(tmp_path / "gone") in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
