"""Fits classical classifiers on feature vectors and computes their metrics.

The table follows figures 6 and 7 of F. Rubio, M. J. Flores and J. M. Puerta, "Optimización de las técnicas de
Transfer Learning para la clasificación de la calidad estética en fotografía", 2018.
"""

import csv
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("vector", "length", "classifier", "accuracy", "balanced_accuracy", "auc")
NEIGHBORS = 15
TREES = 300
BLOCK = 4096
"""Rows to classify at a time."""


def classifiers(length: int, seed: int) -> dict[str, Any]:
    """Returns unfitted scikit-learn classifiers by name, for standardized vectors.

    The linear ones are regularized in proportion to the vectors' length, as if these were unit vectors on average, so
    the same strength suits 500 values and 25,000. The curvature of the support vector machine's squared hinge is eight
    times that of the logistic loss, so its weight is one eighth.

    Args:
        length: Length V of the vectors.
        seed: Seeds the forest and the order in which the support vector machine visits images.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    threads = torch.get_num_threads()
    machine = LinearSVC(C=1 / (8 * length), intercept_scaling=math.sqrt(length), max_iter=5000, random_state=seed)
    return {
        "logistic_regression": LogisticRegression(C=1 / length, max_iter=2000),
        "linear_svm": machine,
        "gaussian_naive_bayes": GaussianNB(),
        "random_forest": RandomForestClassifier(TREES, random_state=seed, n_jobs=threads),
        "k_nearest_neighbors": KNeighborsClassifier(NEIGHBORS, n_jobs=threads),
    }


def classifier_scores(
    train: NDArray[Any], train_labels: NDArray[Any], test: NDArray[Any], test_labels: NDArray[Any], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Fits the classifiers on some vectors and returns their metrics on others.

    Values that are constant in the training vectors are dropped; the others are standardized by the training vectors.

    Args:
        train: Training vectors (N, V).
        train_labels: 0 or 1, (N,).
        test: Test vectors (M, V); read in blocks, so they may be mapped from a file.
        test_labels: 0 or 1, (M,).
        seed: Seeds what is random.

    Returns:
        For each classifier `accuracy`; `balanced_accuracy`, the mean recall of ones and zeros; and `auc`, the area
        under the ROC curve. The last two are NaN if the test vectors are of one class.

    Raises:
        ValueError: Vectors and labels have the wrong shapes, are not finite or are constant, or the training vectors
            are not of both classes or fewer than the 15 that k-nearest-neighbors needs.
    """
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train, train_labels, test, test_labels)
    prepare = make_pipeline(VarianceThreshold(), StandardScaler())
    prepared = prepare.fit_transform(train)
    scores = {}
    for name, classifier in classifiers(prepared.shape[1], seed).items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*failed to converge")  # only the last digits are missing
            classifier.fit(prepared, train_labels)
        decided, value = _decide(classifier, prepare, test)
        scores[name] = _scores(decided, value, test_labels)
    return scores


def _check(train: NDArray[Any], train_labels: NDArray[Any], test: NDArray[Any], test_labels: NDArray[Any]) -> None:
    shapes = train.shape, train_labels.shape, test.shape, test_labels.shape
    fit = train.ndim == test.ndim == 2 and train.shape[1:] == test.shape[1:] and len(test) > 0
    if not fit or train_labels.shape != train.shape[:1] or test_labels.shape != test.shape[:1]:
        raise ValueError(f"vectors and labels have the shapes {shapes}; expected (N, V), (N,), (M, V) and (M,)")
    counts = np.count_nonzero(train_labels == 0), np.count_nonzero(train_labels == 1)
    if min(counts) == 0 or sum(counts) != len(train) or len(train) < NEIGHBORS:
        raise ValueError(
            f"got {len(train)} training images, {counts[0]} with the label 0 and {counts[1]} with 1; expected at least "
            f"{NEIGHBORS}, of both labels and no other: add images, or change the threshold of the votes"
        )
    odd = sum(np.count_nonzero(~np.isfinite(vectors)) for vectors in (train, test))
    same = np.count_nonzero(train.min(axis=0) == train.max(axis=0))
    if odd or same == train.shape[1]:
        raise ValueError(
            f"{odd} values of the vectors are not finite, and {same} of {train.shape[1]} are constant in the training "
            "vectors: train the network that they come from, or use other vectors"
        )


def _decide(classifier: Any, prepare: Any, vectors: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns a classifier's decision for each vector, 0 or 1, and a value that is higher the likelier 1 is."""
    value: Callable[[Any], NDArray[Any]] = (
        classifier.decision_function
        if hasattr(classifier, "decision_function")
        else lambda block: classifier.predict_proba(block)[:, 1]
    )
    decided, values = [], []
    for first in range(0, len(vectors), BLOCK):
        block = prepare.transform(vectors[first : first + BLOCK])
        decided.append(classifier.predict(block))
        values.append(value(block))
    return np.concatenate(decided).astype(np.int64), np.concatenate(values).astype(np.float64)


def _scores(decided: NDArray[np.int64], value: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

    both = len(np.unique(labels)) == 2
    return {
        "accuracy": float(accuracy_score(labels, decided)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, decided)) if both else math.nan,
        "auc": float(roc_auc_score(labels, value)) if both else math.nan,
    }


def classifier_table(
    vectors: Mapping[str, NDArray[Any]],
    professional: NDArray[Any],
    splits: NDArray[Any],
    most: int = 20_000,
    seed: int = 0,
) -> "pd.DataFrame":
    """Fits the classifiers on the training images, for each kind of vector, and tests them on the test images.

    Args:
        vectors: By name, (N, V), each with its own V.
        professional: 0 or 1 for each of the N images.
        splits: `train`, `val` or `test`, (N,). Without test images, metrics are of `val`.
        most: Maximum number of training images, sampled with the seed.
        seed: Seeds what is random.

    Returns:
        A row per vector and classifier, columns `COLUMNS`; the first row is the `majority` baseline, which gives every
        image the most frequent label of the training images.

    Raises:
        ValueError: See `classifier_scores`.
    """
    import pandas as pd

    rows = np.flatnonzero(splits == "train")
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    scored = splits == ("test" if (splits == "test").any() else "val")
    labels, test_labels = professional[rows], professional[scored]
    answer = np.full(len(test_labels), int(labels.mean() > 0.5) if len(labels) else 0)
    found: list[dict[str, Any]] = []
    for name, array in vectors.items():
        scores = classifier_scores(np.asarray(array[rows]), labels, np.asarray(array[scored]), test_labels, seed)
        found += [{"vector": name, "length": array.shape[1], "classifier": each, **scores[each]} for each in scores]
    majority = {
        "vector": "-",
        "length": 0,
        "classifier": "majority",
        **_scores(answer, answer.astype(float), test_labels),
    }
    return pd.DataFrame([majority, *found], columns=list(COLUMNS))


def write_classifiers(folder: Path, most: int = 20_000, seed: int = 0) -> Path:
    """Fits classifiers on the files of a `FeatureWriter`, then writes and prints their metrics.

    Args:
        folder: Has `names.csv` and the arrays, and gets `classifiers.csv`.
        most: Maximum number of training images.
        seed: Seeds what is random.

    Returns:
        The file written.

    Raises:
        ValueError: Labels are missing, or no classifiers can be fitted; see `classifier_scores`.
    """
    with (folder / "names.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        names = list(csv.DictReader(file))
    if not names or any(row["professional"] not in ("0", "1") for row in names):
        raise ValueError(
            f"{folder / 'names.csv'} has images without a label in the column professional, or no images; use images "
            "with votes"
        )
    vectors = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    professional = np.array([int(row["professional"]) for row in names])
    table = classifier_table(vectors, professional, np.array([row["split"] for row in names]), most, seed)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    path = folder / "classifiers.csv"
    table.round(4).to_csv(path, index=False)
    return path
