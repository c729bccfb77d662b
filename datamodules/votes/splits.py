"""Which pictures with votes are trained, validated and tested on, where no `splits.csv` says so."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.votes.files import read_ids
from datamodules.votes.votes import Votes, by_score, drawn_evenly, mean_votes
from ops.errors import refuse

PUBLISHED_TEST = Path("aesthetics_image_lists", "generic_test.jpgl")
"""AVA's standard test set, 19,930 pictures."""


def read_lists(
    root: Path, test_list: str | Path | None, train_list: str | Path | None, names: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The pictures that lists give to `test` and `train`, where there are lists.

    Args:
        root: Where the lists are seen from.
        test_list: A file of names or ids; None is AVA's standard list, where `root` has it.
        train_list: Another one.
        names: Of all pictures that there are votes on.

    Returns:
        Names by split, and for each entry that there are no votes on, what is wrong with it.

    Raises:
        DataError: A list cannot be read, or a picture is in both; all are named.
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
    """Names of train, val and test; what is drawn has mean votes spread as those of all, see `drawn_evenly`.

    Neither the threshold, nor δ, nor the order of the file changes anything.

    Args:
        votes: On all pictures.
        lists: Names that are given to `test`, which is drawn otherwise, and to `train`, whose part is validated on; all
            others are where there is no list of them.
        val_fraction: Share of all pictures that is validated on.
        test_fraction: Share of all pictures that is drawn to be tested on.
        seed: Of what is drawn.
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
