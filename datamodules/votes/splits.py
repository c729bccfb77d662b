"""Splits images with votes into train, val and test, by lists or at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.votes.files import read_ids
from datamodules.votes.votes import Votes, by_score, drawn_evenly, mean_votes
from ops.errors import refuse

PUBLISHED_TEST = Path("aesthetics_image_lists", "generic_test.jpgl")
"""AVA's standard test split, 19,930 images."""


def read_lists(
    root: Path, test_list: str | Path | None, train_list: str | Path | None, names: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Reads the lists of images to test and to train on, if there are any.

    Args:
        root: Folder that the lists are relative to.
        test_list: A file of names or ids; None is AVA's standard list, if `root` has it.
        train_list: The same for training.
        names: Names of all images with votes.

    Returns:
        Names by split, and the problem of each entry without votes.

    Raises:
        DataError: A list cannot be read, or an image is in both; all are listed.
    """
    if test_list is None and (root / PUBLISHED_TEST).is_file():
        test_list = PUBLISHED_TEST
    lists: dict[str, list[str]] = {}
    unknown: dict[str, str] = {}
    for split, given in (("test", test_list), ("train", train_list)):
        if given is not None:
            lists[split], strange = read_ids(root / Path(given).expanduser(), names)
            unknown |= strange
    both = set(lists.get("train", ())) & set(lists.get("test", ()))
    refuse([f"{name!r} is in {root / str(test_list)} and in {root / str(train_list)}. Remove it from one of them."
            for name in sorted(both)], str(root))  # fmt: skip
    return lists, unknown


def drawn_splits(
    votes: Votes, lists: Mapping[str, Sequence[str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[str]]:
    """Draws train, val and test with the same distribution of mean votes, see `drawn_evenly`.

    The splits do not depend on the threshold, on δ or on the order of the file.

    Args:
        votes: Votes on all images.
        lists: Names for `test`, instead of a random draw, and for `train` and val together, instead of all others.
        val_fraction: Share of all images to validate on.
        test_fraction: Share of all images to test on.
        seed: Seed of the draw.
    """
    rng, row_of = np.random.default_rng(seed), {name: row for row, name in enumerate(votes.names)}
    ordered = by_score(mean_votes(votes.counts), votes.names)
    rows = {split: np.array(sorted(row_of[name] for name in names), np.int64) for split, names in lists.items()}
    left = _without(ordered, rows.get("train", ordered[:0]))
    if "test" not in rows:
        rows["test"] = drawn_evenly(left, _count(test_fraction, len(votes)), rng)
    known = _without(left, rows["test"])
    if "train" in rows:
        known = ordered[np.isin(ordered, rows["train"])]
    rows["val"] = drawn_evenly(known, _count(val_fraction, len(votes)), rng)
    rows["train"] = np.sort(_without(known, rows["val"]))
    return {split: [votes.names[row] for row in part.tolist()] for split, part in rows.items()}


def _without(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[~np.isin(rows, others)]


def _count(share: float, of: int) -> int:
    return max(1, round(share * of)) if share > 0 else 0
