import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xgboost
from numpy.typing import NDArray

from tasks import boosting
from tests.checks import rejects

Array = NDArray[np.float32]


def checkerboard(count: int, features: int = 2, seed: int = 0) -> tuple[Array, Array]:
    """Label 1 where the first two features have one sign: no straight line tells the labels apart."""
    points = np.random.default_rng(seed).uniform(-1, 1, (count, features)).astype(np.float32)
    return points, (points[:, 0] * points[:, 1] > 0).astype(np.float32)


def straight_line(points: Array, labels: Array) -> Array:
    """The best straight line by least squares, as probabilities."""
    terms = np.column_stack([points, np.ones(len(points))])
    return terms @ np.linalg.lstsq(terms, labels, rcond=None)[0]


def make_booster(features: int = 2, seed: int = 0, **parameters: Any) -> xgboost.Booster:
    return boosting.fit_boosted(*checkerboard(500, features), seed, rounds=20, max_depth=3, **parameters)


def make_maps(features: int = 2, height: int = 23, width: int = 17) -> torch.Tensor:
    return torch.rand(features, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_trees_learn_a_checkerboard() -> None:
    booster = boosting.fit_boosted(*checkerboard(2000), seed=0, rounds=50)
    points, labels = checkerboard(500, seed=1)
    found = boosting.probabilities(booster, torch.from_numpy(points.T.copy())[:, None])[0]
    assert np.mean((found.numpy() >= 0.5) == labels) > 0.95
    assert np.mean((straight_line(*checkerboard(2000)) >= 0.5) == checkerboard(2000)[1]) < 0.6


def test_the_same_seed_gives_the_same_trees() -> None:
    first, same, other = (make_booster(4, seed, subsample=0.5, colsample_bytree=0.5) for seed in (0, 0, 1))
    assert first.save_raw("ubj") == same.save_raw("ubj")
    assert first.save_raw("ubj") != other.save_raw("ubj")


@pytest.mark.parametrize("name", ["trees.ubj", "new/folder/trees.json"])
def test_saved_trees_give_the_same_bits(name: str, tmp_path: Path) -> None:
    booster, path, maps = make_booster(), tmp_path / name, make_maps()
    (tmp_path / "trees.ubj").write_bytes(b"an earlier one")
    boosting.save(booster, path)
    again = boosting.load(path)
    assert torch.equal(boosting.probabilities(again, maps), boosting.probabilities(booster, maps))
    assert xgboost.Booster(model_file=path).num_boosted_rounds() == 20
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    booster, path = make_booster(), tmp_path / "trees.ubj"
    boosting.save(booster, path)
    whole = path.read_bytes()

    def broken(self: xgboost.Booster, name: Path) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xgboost.Booster, "save_model", broken)
    rejects("disk full", boosting.save, booster, path, error=OSError)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"trees.ubj": whole}


@pytest.mark.parametrize("block", [1, 2 * 17 * 5, 2 * 17 * 23, 1 << 24])
def test_blocks_of_any_size_give_the_probabilities_of_single_pixels(block: int) -> None:
    booster, maps = make_booster(), make_maps()
    found = boosting.probabilities(booster, maps, block)
    assert (found.shape, found.dtype) == ((23, 17), torch.float32)
    single = booster.predict(xgboost.DMatrix(maps.permute(1, 2, 0).reshape(-1, 2).numpy()))
    np.testing.assert_array_equal(found.numpy().ravel(), single)
    assert 0 < found.min() < 0.5 < found.max() < 1


def test_predicts_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    predict = xgboost.Booster.inplace_predict

    def seen(self: xgboost.Booster, data: Array) -> Any:
        sizes.append(data.size)
        return predict(self, data)

    monkeypatch.setattr(xgboost.Booster, "inplace_predict", seen)
    boosting.probabilities(make_booster(), make_maps(), block=100)
    assert max(sizes) <= 100
    assert sum(sizes) == 2 * 23 * 17


def test_accepts_maps_in_half_precision() -> None:
    booster, maps = make_booster(), make_maps().bfloat16().requires_grad_()
    assert torch.equal(boosting.probabilities(booster, maps), boosting.probabilities(booster, maps.detach().float()))


def test_rejects_files_without_trees(tmp_path: Path) -> None:
    rejects(r"no file .*nowhere.ubj", boosting.load, tmp_path / "nowhere.ubj")
    path = tmp_path / "trees.ubj"
    boosting.save(make_booster(), path)
    whole = path.read_bytes()
    for content in (b"", b"{}", whole[:-1], whole[: len(whole) // 2], b"\x89PNG\r\n" + bytes(99), bytes(99)):
        path.write_bytes(content)
        rejects(r"trees.ubj cannot be read", boosting.load, path)
    path = tmp_path / "trees.json"
    path.write_text(json.dumps({"learner": {}}))
    rejects(r"trees.json cannot be read", boosting.load, path)
    xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(*checkerboard(20)), 1).save_model(path)
    rejects(r"trees.json .* reg:squarederror", boosting.load, path)


def test_rejects_wrong_arguments(tmp_path: Path) -> None:
    points, labels = checkerboard(20)
    rejects(r"features .*\(20, 2\), 0 .*\(19,\)", boosting.fit_boosted, points, labels[:19], 0)
    rejects(r"40 of its values not finite", boosting.fit_boosted, points + np.float32(np.nan), labels, 0)
    rejects(r"values \[1.0\]; expected both 0 and 1", boosting.fit_boosted, points, np.ones_like(labels), 0)
    rejects(r"labels with the values \[0.0, 255.0\]", boosting.fit_boosted, points, labels * 255, 0)
    rejects(r"parameters max_dept, eta", boosting.fit_boosted, points, labels, 0, max_dept=3, eta=0.1)
    rejects(r"value -1 for Parameter max_depth", boosting.fit_boosted, points, labels, 0, max_depth=-1)
    rejects(r"objective is 'rank:pairwise'", boosting.fit_boosted, points, labels, 0, objective="rank:pairwise")
    rejects(r"trees.pkl .* expected .ubj or .json", boosting.save, make_booster(), tmp_path / "trees.pkl")
    rejects(r"\(3, 23, 17\); expected \(2, H, W\)", boosting.probabilities, make_booster(), make_maps(3))
