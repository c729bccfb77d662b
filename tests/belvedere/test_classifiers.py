import csv
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

from belvedere import classifiers as feature_classifiers
from belvedere.classifiers import (
    COLUMNS,
    NEIGHBORS,
    classifier_scores,
    classifier_table,
    classifiers,
    write_classifiers,
)
from tests.helpers import table

NAMES = ["logistic_regression", "linear_svm", "gaussian_naive_bayes", "random_forest", "k_nearest_neighbors"]
Data = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_classifiers, "TREES", 10)


def overlapping(count: int = 120, length: int = 4, seed: int = 0) -> Data:
    """Vectors of two overlapping classes, in different units; two thirds of the labels are 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 2 / 3).astype(np.int64)
    vectors = rng.normal(size=(count, length)) * 10.0 ** np.arange(length)
    vectors[:, 0] += labels
    vectors[:, 1] += 8 * labels
    train = vectors[: count // 2].astype(np.float32), labels[: count // 2]
    return *train, vectors[count // 2 :].astype(np.float32), labels[count // 2 :]


def standardized(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    mean, deviation = train.astype(float).mean(axis=0), train.astype(float).std(axis=0)
    return (train - mean) / deviation, (test - mean) / deviation


def by_hand(value: NDArray[Any], labels: NDArray[Any], limit: float) -> dict[str, float]:
    """Counts decisions above a limit; the area over all pairs of a one and a zero."""
    ones, zeros = value[labels == 1], value[labels == 0]
    pairs = [float(one > zero) + 0.5 * float(one == zero) for one, zero in product(ones, zeros)]
    shares = float(np.mean(ones > limit)), float(np.mean(zeros <= limit))
    accuracy = float(np.mean((value > limit) == (labels == 1)))
    return {"accuracy": accuracy, "balanced_accuracy": sum(shares) / 2, "auc": float(np.mean(pairs))}


def linear(train: NDArray[Any], labels: NDArray[Any], test: NDArray[Any], name: str) -> NDArray[Any]:
    """Decision values at the minimum of a linear classifier's objective, on vectors divided by √length."""
    length = train.shape[1]
    vectors, signs = train / math.sqrt(length), 2 * labels - 1

    def objective(weights: NDArray[Any]) -> float:
        margins = signs * (vectors @ weights[:-1] + weights[-1])
        if name == "logistic_regression":
            return float(weights[:-1] @ weights[:-1] / 2 + np.logaddexp(0, -margins).sum())
        return float(weights @ weights / 2 + (np.maximum(0, 1 - margins) ** 2).sum() / 8)

    weights = minimize(objective, np.zeros(length + 1), tol=1e-9).x
    return np.asarray(test / math.sqrt(length) @ weights[:-1] + weights[-1])


@pytest.mark.parametrize("name", NAMES[:2])
def test_linear_classifiers_are_at_the_minimum_of_their_objective(name: str) -> None:
    train, labels, test, test_labels = overlapping()
    left, right = standardized(train, test)
    wanted = linear(left, labels, right, name)
    classifier = classifiers(left.shape[1], seed=0)[name].fit(left, labels)
    np.testing.assert_allclose(classifier.decision_function(right), wanted, atol=5e-3)
    assert classifier_scores(train, labels, test, test_labels)[name] == pytest.approx(by_hand(wanted, test_labels, 0))


def bayes(train: NDArray[Any], labels: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
    """The log odds for independent Gaussian features."""
    evidence = [
        np.log(np.mean(labels == label)) + norm.logpdf(test, rows.mean(axis=0), rows.std(axis=0)).sum(axis=1)
        for label in (0, 1)
        for rows in [train[labels == label].astype(float)]
    ]
    return np.asarray(evidence[1] - evidence[0])


def neighbors(train: NDArray[Any], labels: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
    """The share of ones among the nearest in standardized units."""
    left, right = standardized(train, test)
    nearest = [np.argsort(np.linalg.norm(left - vector, axis=1))[:NEIGHBORS] for vector in right]
    return np.array([labels[near].mean() for near in nearest])


@pytest.mark.parametrize(
    ("name", "decide", "limit"), [("gaussian_naive_bayes", bayes, 0), ("k_nearest_neighbors", neighbors, 0.5)]
)
def test_decisions_are_those_of_a_slow_copy(name: str, decide: Any, limit: float) -> None:
    train, labels, test, test_labels = overlapping()
    wanted = by_hand(decide(train, labels, test), test_labels, limit)
    assert classifier_scores(train, labels, test, test_labels)[name] == pytest.approx(wanted)


def test_all_classifiers_separate_distant_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    vectors = rng.normal(size=(80, 6)) + 8 * labels[:, None]
    vectors[:, 3] = 5  # constant: no deviation to divide by
    scores = classifier_scores(vectors[:40], labels[:40], vectors[40:], labels[40:])
    assert list(scores) == NAMES
    assert all(value == 1 for each in scores.values() for value in each.values())


def test_features_that_are_constant_in_training_are_ignored() -> None:
    train, labels, test, test_labels = overlapping()
    more = np.hstack([train, np.zeros((len(train), 1), np.float32)])
    strange = np.hstack([test, np.full((len(test), 1), 1e6, np.float32)])
    assert classifier_scores(more, labels, strange, test_labels) == classifier_scores(train, labels, test, test_labels)


def test_one_class_has_only_an_accuracy() -> None:
    train, labels, test, _ = overlapping()
    scores = classifier_scores(train, labels, test, np.ones(len(test), np.int64))
    for each in scores.values():
        assert 0 < each["accuracy"] <= 1
        assert math.isnan(each["auc"])
        assert math.isnan(each["balanced_accuracy"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, c, d: (a, b[1:], c, d), r"shapes \(\(60, 4\), \(59,\)"),
        (lambda a, b, c, d: (a, b, c[:, 1:], d), r"expected \(N, V\)"),
        (lambda a, b, c, d: (a, b, c[:0], d[:0]), r"expected \(N, V\)"),
        (lambda a, b, c, d: (a, b * 0, c, d), "60 with the label 0 and 0 with 1"),
        (lambda a, b, c, d: (a, b + 1, c, d), "both labels"),
        (lambda a, b, c, d: (a[:14], np.arange(14) % 2, c, d), "at least 15"),
        (lambda a, b, c, d: (a, b, c * np.nan, d), "240 values .* not finite, and 0 of 4"),
        (lambda a, b, c, d: (a * 0, b, c, d), "4 of 4 are constant"),
    ],
)
def test_invalid_vectors_are_rejected(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_scores(*change(*overlapping()))


def labelled(splits: list[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Shuffled vectors, labels and splits with these numbers of images."""
    train, labels, test, test_labels = overlapping(sum(splits))
    names = np.repeat(["train", "val", "test"], splits)
    order = np.random.default_rng(1).permutation(len(names))
    return np.concatenate([train, test])[order], np.concatenate([labels, test_labels])[order], names[order]


@pytest.mark.parametrize(("splits", "told"), [([60, 20, 40], "test"), ([60, 40, 0], "val")])
def test_metrics_are_those_of_test_images(splits: list[int], told: str) -> None:
    vectors, labels, names = labelled(splits)
    table = classifier_table({"fc7": vectors, "pooled": vectors[:, :2]}, labels, names, seed=2)
    assert tuple(table.columns) == COLUMNS
    assert table["vector"].tolist() == ["-", *["fc7"] * 5, *["pooled"] * 5]
    assert table["length"].tolist() == [0, *[4] * 5, *[2] * 5]
    train, test = names == "train", names == told
    for name, part in (("fc7", vectors), ("pooled", vectors[:, :2])):
        wanted = classifier_scores(part[train], labels[train], part[test], labels[test], seed=2)
        for classifier, row in table[table["vector"] == name].set_index("classifier").iterrows():
            assert {key: row[key] for key in wanted["linear_svm"]} == wanted[str(classifier)]
    majority = table.iloc[0]
    assert labels[train].mean() > 0.5
    assert majority["classifier"] == "majority"
    assert majority["accuracy"] == pytest.approx(labels[test].mean())
    assert (majority["balanced_accuracy"], majority["auc"]) == (0.5, 0.5)


def test_training_images_are_sampled_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels, names = labelled([60, 20, 40])
    drawn = []
    for seed, block in ((0, 7), (0, 1000), (1, 1000)):
        monkeypatch.setattr(feature_classifiers, "BLOCK", block)  # which changes nothing
        drawn.append(classifier_table({"fc7": vectors}, labels, names, most=30, seed=seed))
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])
    assert not drawn[0].equals(classifier_table({"fc7": vectors}, labels, names, seed=0))


def write(folder: Path, vectors: NDArray[Any], labels: NDArray[Any], names: NDArray[Any]) -> None:
    np.save(folder / "fc7.npy", vectors)
    with (folder / "names.csv").open("w", newline="") as file:
        rows = [[f"{i}.jpg", names[i], labels[i]] for i in range(len(names))]
        csv.writer(file).writerows([["name", "split", "professional"], *rows])


def test_the_table_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors, labels, names = labelled([60, 20, 40])
    write(tmp_path, vectors, labels, names)
    path = write_classifiers(tmp_path, seed=1)
    assert path == tmp_path / "classifiers.csv"
    wanted = classifier_table({"fc7": vectors}, labels, names, seed=1)
    found = table(path)
    assert [row["classifier"] for row in found] == ["majority", *NAMES]
    assert [float(row["auc"]) for row in found] == pytest.approx(wanted["auc"].tolist(), abs=1e-4)
    printed = capsys.readouterr().out
    assert all(f"{value:.3f}" in printed for value in wanted["balanced_accuracy"])


def test_images_without_votes_are_rejected(tmp_path: Path) -> None:
    vectors, _, names = labelled([60, 20, 40])
    write(tmp_path, vectors, np.full(len(names), ""), names)
    with pytest.raises(ValueError, match=r"names\.csv .*without a label"):
        write_classifiers(tmp_path)
    assert not (tmp_path / "classifiers.csv").exists()
