from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import LightningDataModule
from sklearn.model_selection import StratifiedGroupKFold

from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.folds import folds_of
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError, DataError
from tests.helpers import masked_images


def dealt(shares: np.ndarray, groups: list[str], count: int, seed: int = 0) -> np.ndarray:
    names = [f"{row:03}" for row in range(len(shares))]
    found = folds_of(names, shares, dict(zip(names, groups, strict=True)), count, seed)
    return np.array([found[name] for name in names])


@pytest.mark.parametrize(("count", "images"), [(3, 31), (5, 53), (10, 100)])
def test_folds_are_equally_large_and_show_classes_equally_often(count: int, images: int) -> None:
    rng = np.random.default_rng(1)
    shares = rng.random((images, 2)) ** 4 * (rng.random((images, 2)) < (0.6, 0.9))
    spreads, drawn = [], []
    for seed in range(5):
        fold = dealt(shares, [str(row) for row in range(images)], count, seed)
        assert np.ptp(np.bincount(fold, minlength=count)) <= 1
        spreads.append([np.ptp([shares[fold == each].sum(axis=0) for each in range(count)], axis=0)])
        drawn.append(tuple(fold.tolist()))
        random = rng.permutation(images) % count
        spreads[-1].append(np.ptp([shares[random == each].sum(axis=0) for each in range(count)], axis=0))
    ours, chance = np.mean(spreads, axis=0)
    assert (ours < 0.6 * chance).all()
    assert len(set(drawn)) == 5  # the seed decides
    assert tuple(dealt(shares, [str(row) for row in range(images)], count, 4).tolist()) == drawn[4]


def test_groups_stay_together_as_evenly_as_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 20, 120)
    label = (rng.random(120) < np.where(groups % 4 == 0, 0.9, 0.2)).astype(int)
    fold = dealt(np.eye(2)[label], [str(each) for each in groups], 4)
    assert all(len(set(fold[groups == each])) == 1 for each in set(groups))
    theirs = np.zeros(120, int)
    for number, (_, test) in enumerate(
        StratifiedGroupKFold(4, shuffle=True, random_state=0).split(groups, label, groups)
    ):
        theirs[test] = number

    def spread(folds: np.ndarray) -> float:
        return float(np.std([label[folds == each].mean() for each in range(4)]) + np.std(np.bincount(folds)) / 120)

    assert spread(fold) <= spread(theirs) + 0.01


def test_too_few_groups_are_rejected() -> None:
    with pytest.raises(DataError, match=r"2 groups of 4 images, too few for 3 folds"):
        dealt(np.zeros((4, 0)), ["a", "a", "b", "b"], 3)


def made(kind: type, root: Path, **options: object) -> LightningDataModule:
    small = {CloudsDataModule: {"size": (32, 48)}, RoadsDataModule: {"window": (64, 64), "size": (32, 32)},
             AvalanchesDataModule: {"photos": (32, 32)}, ColorizationDataModule: {"size": 32},
             AestheticsDataModule: {"size": 63, "load_size": 63, "threshold": 5.5}}[kind]  # fmt: skip
    data = kind(root, num_workers=0, **{**small, **options})
    data.prepare_data()
    data.setup("test")
    return data


@pytest.mark.parametrize("kind", [CloudsDataModule, RoadsDataModule, AvalanchesDataModule, ColorizationDataModule,
                                  AestheticsDataModule])  # fmt: skip
def test_every_image_of_every_task_is_tested_once(kind: type, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(f"{kind.__name__.removesuffix('DataModule').lower()}_root")
    parts = [made(kind, root, folds=3, fold=fold).picture_names() for fold in range(3)]
    everything = sorted(name for part in parts for name in part["test"])
    assert everything == sorted(set().union(*parts[0].values()))
    for part in parts:
        assert all(part.values())
        assert not {*part["test"]} & ({*part["train"]} | {*part["val"]})
        assert not {*part["val"]} & {*part["train"]}
    if kind is ColorizationDataModule:
        artist = made(kind, root, folds=3)._group_of
        owners = [{artist[name] for name in part["test"]} for part in parts]
        assert not owners[0] & owners[1]


def test_folds_follow_a_column_and_leave_fixed_test_images_out(tmp_path: Path) -> None:
    root = masked_images(tmp_path / "sky", ["cloud"])
    options = {"classes": ["cloud"], "folds": 3, "fold_by": "scene"}
    with pytest.raises(DataError, match="'scene'"):
        made(CloudsDataModule, root, **options)
    rows = ["name,scene", *(f"{number}.png,{number // 2}" for number in range(10))]
    (root / "groups.csv").write_text("\n".join(rows))
    (root / "splits.csv").write_text(
        "name,split\n" + "".join(f"{n}.png,{'test' if n > 7 else 'train'}\n" for n in range(10))
    )
    parts = [made(CloudsDataModule, root, fold=fold, **options).picture_names() for fold in range(3)]
    assert sorted(name for part in parts for name in part["test"]) == [f"{number}.png" for number in range(8)]
    for part in parts:
        scenes = [{int(name[0]) // 2 for name in part[split]} for split in ("train", "val", "test")]
        assert sum(map(len, scenes)) == 4
    (root / "groups.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match=r"no row of '9.png'"):
        made(CloudsDataModule, root, **options)


@pytest.mark.parametrize("options", [{"folds": 1}, {"folds": 3, "fold": 3}, {"fold": 1}])
def test_there_are_two_folds_or_more(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=r"fold"):
        CloudsDataModule(tmp_path, ["cloud"], **options)


@pytest.mark.parametrize("kind", [RoadsDataModule, AvalanchesDataModule, ColorizationDataModule, AestheticsDataModule])
def test_smaller_shares_of_the_training_images_lie_in_larger_ones(kind: type, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(f"{kind.__name__.removesuffix('DataModule').lower()}_root")
    shares = (0.5, 0.75, 1.0)
    parts = [made(kind, root, folds=3, train_share=share).picture_names() for share in shares]
    assert all({**part, "train": []} == {**parts[-1], "train": []} for part in parts)
    half, most, whole = ({*part["train"]} for part in parts)
    assert half
    assert half <= most <= whole
    if kind is ColorizationDataModule:
        artist = made(kind, root, folds=3)._group_of
        owners = {artist[name] for name in half}
        assert half == {name for name in whole if artist[name] in owners}
    else:
        assert len(half) == pytest.approx(len(whole) / 2, abs=0.5)


def test_a_share_is_drawn_by_the_split_seed_and_takes_as_many_steps(tmp_path: Path) -> None:
    root = masked_images(tmp_path / "sky", ["cloud"])

    def share(seed: int) -> LightningDataModule:
        options = {"classes": ["cloud"], "train_share": 0.5, "batch_size": 2, "val_fraction": 0.1,
                   "steps_per_epoch": None}  # fmt: skip
        (root / "splits.csv").write_text(
            "name,split\n" + "".join(f"{n}.png,{'train' if n < 8 else 'val'}\n" for n in range(10))
        )
        return made(CloudsDataModule, root, split_seed=seed, **options)

    drawn = {tuple(share(seed).picture_names()["train"]) for seed in range(6)}
    assert len(drawn) > 2
    assert {len(names) for names in drawn} == {4}
    assert len(share(0).train_dataloader()) == 4  # as of eight images
    with pytest.raises(ArgumentError, match=r"train_share is 0"):
        CloudsDataModule(tmp_path, ["cloud"], train_share=0.0)
