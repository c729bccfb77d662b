"""Deals images into folds of equal size that show the classes equally often, groups kept together."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ops.errors import DataError

BINS = 10  # groups of about equal weight are dealt in random order


def folds_of(
    names: Sequence[str], shares: NDArray[np.float64], groups: Mapping[str, str], count: int, seed: int
) -> dict[str, int]:
    """Returns the fold of each image, 0 to `count` - 1.

    Groups are dealt one after another, those that weigh most first, each into the fold that it leaves most even, as
    scikit-learn's StratifiedGroupKFold does; but the seed decides between equal ones, and no fold is filled beyond its
    share of the images while another has room.

    Args:
        names: The images.
        shares: What folds balance besides the number of images, at least 0 (N, V): shares of classes, for example.
        groups: Group of each image; a group lies in one fold.
        count: Number of folds, at least 2.
        seed: Seed of the order.

    Raises:
        DataError: There are fewer groups than folds.
    """
    ordered = sorted(range(len(names)), key=lambda row: names[row])
    members: dict[str, list[int]] = {}
    for row in ordered:
        members.setdefault(groups[names[row]], []).append(row)
    if len(members) < count:
        kind = "images" if len(members) == len(names) else f"groups of {len(names)} images"
        raise DataError(f"There are {len(members)} {kind}, too few for {count} folds. Give fewer --data.folds.")
    sizes = np.array([len(rows) for rows in members.values()], np.float64)
    values = np.stack([shares[rows].sum(axis=0) for rows in members.values()])
    weights = np.concatenate([sizes[:, None], values], axis=1)
    totals = weights.sum(axis=0)
    weights = weights[:, totals > 0] / totals[totals > 0]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(weights))
    heavy = weights.max(axis=1)[order]
    places = np.argsort(np.argsort(-heavy, kind="stable"), kind="stable") * BINS // len(order)
    order = order[np.argsort(places, kind="stable")]
    room = np.full(count, math.ceil(len(names) / count), np.float64)
    filled, fold = np.zeros((count, weights.shape[1])), np.zeros(len(weights), np.int64)
    for group in order.tolist():
        cost = filled @ weights[group] + rng.random(count) * 1e-12
        fits = room >= sizes[group]
        cost[~fits] = np.inf if fits.any() else -room[~fits]  # a group larger than any room takes the largest
        fold[group] = best = int(cost.argmin())
        filled[best] += weights[group]
        room[best] -= sizes[group]
    return {names[row]: int(fold[group]) for group, rows in enumerate(members.values()) for row in rows}
