"""Checks a dataset of images with votes: which can be used, which are professional, and how they are split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.base import SPLITS
from datamodules.votes.files import find_labels, read_votes
from datamodules.votes.pictures import absent, unreadable, write_unusable
from datamodules.votes.tags import Tags, read_tags
from datamodules.votes.votes import Statistic, Votes, default_threshold, near, statistics
from ops.errors import DataError, collected, refuse

OPENED = 20_000
"""Datasets with up to this many images are opened before training by default."""
NAMED = 5  # unusable images that an error shows
LAYOUT = """    {root}/images/<id>.jpg   the images
    {root}/AVA.txt           15 integers per line: index, id, counts of the votes 1 to 10, two tags, challenge
or  {root}/labels.csv        columns image,count_1,…,count_k"""


@dataclass(frozen=True)
class Checked:
    """A dataset that passed all checks.

    Attributes:
        votes: Votes on all N images.
        tags: Tags of all images.
        scores: Mean or median votes (N,).
        threshold: Professional shots are above it.
        professional: Which images are professional shots (N,).
        splits: Rows of the images of each split, ascending, before δ; unusable images are in none.
        trained: Rows of `train` that remain after δ.
        problems: Problems of unusable images by name.
    """

    votes: Votes
    tags: Tags
    scores: NDArray[np.float64]
    threshold: float
    professional: NDArray[np.bool_]
    splits: dict[str, NDArray[np.int64]]
    trained: NDArray[np.int64]
    problems: dict[str, str]

    def names(self, split: str) -> list[str]:
        """Returns the names of the images of a split."""
        return [self.votes.names[row] for row in self.splits[split].tolist()]


def checked_set(
    root: Path,
    labels: str | Path | None,
    statistic: Statistic,
    threshold: float | None,
    delta: float,
    split: Callable[[Votes], tuple[dict[str, list[str]], dict[str, str]]],
    missing_share: float,
    open_all: bool | None,
    side: int,
    unusable: Path | None,
) -> Checked:
    """Reads votes and tags, splits the images and looks for their files.

    Args:
        root: Folder of the dataset.
        labels: File of the votes, or None.
        statistic: Statistic to compare with the threshold.
        threshold: Threshold of professional shots, or None.
        delta: Distance from the threshold up to which images are not trained on.
        split: Returns names by split, and the problems of names without votes.
        missing_share: Largest share of the images that may be unusable.
        open_all: Whether to open all images; None opens up to 20,000.
        side: Side of the squares that images are read as.
        unusable: File to list unusable images in if there are too many; None lists them nowhere.

    Raises:
        DataError: The dataset is invalid; all problems are listed.
    """
    try:
        votes = read_votes(find_labels(root, labels))
        if not (root / "images").is_dir():
            raise DataError(f"There is no folder {root / 'images'}.")
    except DataError as error:
        raise DataError(
            f"No dataset in {root}; --data.root names another. Expected:\n{LAYOUT.format(root=root)}\n{error}",
            error.problems,
        ) from error
    limit = default_threshold(votes.bins) if threshold is None else threshold
    tags: list[Tags] = []
    parts: list[tuple[dict[str, list[str]], dict[str, str]]] = []
    refuse(
        collected(
            [
                lambda: tags.append(read_tags(root, votes)),
                lambda: parts.append(split(votes)),
                lambda: _check_threshold(limit, votes.bins),
            ]
        ),
        str(root),
    )
    splits, problems = parts[0]
    problems = {**problems, **absent(root / "images", votes.names)}
    refuse_too_many(problems, len(votes), missing_share, root, unusable)
    there = [name for name in votes.names if name not in problems]
    if len(there) <= OPENED if open_all is None else open_all:
        problems |= unreadable(root / "images", there, side)
        refuse_too_many(problems, len(votes), missing_share, root, unusable)
    scores = statistics(votes.counts, statistic)
    rows = _usable(votes, splits, problems)
    trained = rows["train"][~near(scores[rows["train"]], limit, delta)]
    found = Checked(votes, tags[0], scores, limit, scores > limit, rows, trained, problems)
    _check_classes(found, {name: len(names) for name, names in splits.items()}, root, statistic, delta)
    return found


def summary(found: Checked, statistic: Statistic, delta: float) -> str:
    """Returns a summary of the votes, the threshold, and the number and class ratio of the images of each split."""
    above, count = found.professional, len(found.votes)
    lines = [
        f"{found.votes.path}: votes 1 to {found.votes.bins} on {count} images; those with a {statistic} vote above "
        f"{found.threshold:g} are professional shots: {above.mean():.1%}"
    ]
    for split in SPLITS:
        rows = found.splits[split]
        line = f"  {split}: {len(rows)} images"
        if len(rows):
            line += f", {above[rows].mean():.1%} professional"
        if split == "train" and delta > 0:
            line += f"; {len(rows) - len(found.trained)} of them within {delta:g} of {found.threshold:g} are skipped"
        lines.append(line)
    return "\n".join(lines)


def refuse_too_many(problems: Mapping[str, str], count: int, share: float, root: Path, path: Path | None) -> None:
    """Rejects a dataset if more than a share of its images is unusable, and writes a list of them first.

    Args:
        problems: Problems of unusable images by name.
        count: Number of all images.
        share: Largest share that is allowed.
        root: Folder of the dataset.
        path: File of the list; None writes none.

    Raises:
        DataError: There are more; the message shows the first few and the path of the list.
    """
    if len(problems) <= share * count:
        return
    listing = ""
    if path is not None:
        write_unusable(path, problems)
        listing = f" {path} lists all of them."
    first = "".join(f"\n      {problem}" for problem in [*problems.values()][:NAMED])
    refuse(
        [
            f"{len(problems)} of {count} images ({len(problems) / count:.1%}) cannot be used; expected at most "
            f"{share:.1%}. Download them, or skip them with a larger --data.missing_share.{listing} The first:{first}"
        ],
        str(root),
    )


def _usable(votes: Votes, splits: Mapping[str, list[str]], problems: Mapping[str, str]) -> dict[str, NDArray[np.int64]]:
    row_of = {name: row for row, name in enumerate(votes.names)}
    return {
        split: np.array(sorted(row_of[name] for name in names if name not in problems), np.int64)
        for split, names in splits.items()
    }


def _check_threshold(threshold: float, bins: int) -> None:
    """Rejects a threshold that all images or none are above."""
    if not 1 < threshold < bins:
        raise DataError(
            f"the threshold is {threshold:g}, but votes are 1 to {bins}; expected a number between them. Change "
            "--data.threshold."
        )


def _check_classes(found: Checked, counts: Mapping[str, int], root: Path, statistic: str, delta: float) -> None:
    """Rejects training on one class or nothing, and warns about validation and test images of one class.

    Args:
        found: The dataset.
        counts: Number of images of each split, unusable ones included.
        root: Folder of the dataset.
        statistic: Statistic that is compared with the threshold.
        delta: Distance from the threshold up to which images are not trained on.
    """
    for split in SPLITS:
        rows = found.trained if split == "train" else found.splits[split]
        above = found.professional[rows]
        if len(rows) and above.any() and not above.all():
            continue
        of = f"{len(rows)} images of {split} in {root}"
        if len(rows) == 0 and split != "test":
            reason = f"unusable or within {delta:g} of the threshold" if split == "train" else "unusable"
            raise DataError(f"None of the {counts[split]} images of {split} in {root} is left: all are {reason}.")
        if split == "train":
            raise DataError(
                f"All {of} have a {statistic} vote {'above' if above.all() else 'of at most'} {found.threshold:g}; "
                "expected some of each class. Change --data.threshold or --data.delta."
            )
        if len(rows):
            kind = "professional shots" if above.all() else "snapshots"
            rank_zero_warn(f"All {of} are {kind}: balanced accuracy and AUC are undefined.")
