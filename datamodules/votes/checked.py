"""A data set of photographs with votes, checked: which of them can be used, what they are, and how they are split."""

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
"""Pictures that are opened before training, unless asked for otherwise."""
NAMED = 5  # pictures that a refusal of too many names
LAYOUT = """    {root}/images/<id>.jpg   the pictures
    {root}/AVA.txt           15 whole numbers a line: index, id, counts of the votes 1 to 10, two tags, challenge
or  {root}/labels.csv        columns image,count_1,…,count_k"""


@dataclass(frozen=True)
class Checked:
    """A data set that was found to be as wanted.

    Attributes:
        votes: On all N pictures.
        tags: Of all pictures.
        scores: Mean or median votes (N,).
        threshold: What professional shots are above.
        professional: Which pictures are professional shots (N,).
        splits: Rows of the pictures of each split, ascending, δ left aside; those that cannot be used are in none.
        trained: Those of `train` that δ leaves.
        problems: What is wrong with pictures that cannot be used, by name.
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
        """Names of the pictures of a split."""
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
    """Reads votes and tags, splits pictures and looks for their files.

    Args:
        root: Of the data set.
        labels: File of the votes, or None.
        statistic: What is compared with the threshold.
        threshold: It, or None.
        delta: How near the threshold pictures are left out of training.
        split: Gives names by split, and what is wrong with names that there are no votes on.
        missing_share: Largest share of the pictures that may be unusable.
        open_all: Whether all pictures are opened; None opens up to 20,000.
        side: Of the squares that they are read as.
        unusable: Where pictures that cannot be used are listed where they are too many; None lists them nowhere.

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    try:
        votes = read_votes(find_labels(root, labels))
        if not (root / "images").is_dir():
            raise DataError(f"There is no folder {root / 'images'}.")
    except DataError as error:
        raise DataError(
            f"No data set in {root}. Wanted:\n{LAYOUT.format(root=root)}\n{error}", error.problems
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
    """What was found, in words: votes, threshold, class ratios and pictures of each split."""
    above, count = found.professional, len(found.votes)
    lines = [
        f"{found.votes.path}: votes 1 to {found.votes.bins} on {count} pictures; those with a {statistic} vote above "
        f"{found.threshold:g} are professional shots: {above.mean():.1%}"
    ]
    for split in SPLITS:
        rows = found.splits[split]
        line = f"  {split}: {len(rows)} pictures"
        if len(rows):
            line += f", {above[rows].mean():.1%} professional"
        if split == "train" and delta > 0:
            line += f"; {len(rows) - len(found.trained)} of them within {delta:g} of {found.threshold:g} are left out"
        lines.append(line)
    return "\n".join(lines)


def refuse_too_many(problems: Mapping[str, str], count: int, share: float, root: Path, path: Path | None) -> None:
    """Refuses a data set where more than a share of its pictures cannot be used, and lists these first.

    Args:
        problems: What is wrong with each of them, by name.
        count: Of all pictures.
        share: The largest that is no error.
        root: Of the data set.
        path: Of the list; None writes none.

    Raises:
        DataError: They are more; the message names the first few and the list.
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
            f"{len(problems)} of {count} pictures ({len(problems) / count:.1%}) cannot be used; at most {share:.1%} "
            f"were wanted. Fetch them, or leave them out by a larger --data.missing_share.{listing} The first:{first}"
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
    """Refuses a threshold that all or no pictures can be above."""
    if not 1 < threshold < bins:
        raise DataError(
            f"the threshold is {threshold:g}, and votes are 1 to {bins}; a number between them was wanted. Change "
            "--data.threshold."
        )


def _check_classes(found: Checked, counts: Mapping[str, int], root: Path, statistic: str, delta: float) -> None:
    """Refuses to train on one class or on nothing; tells where it is all that is measured on.

    The counts are those of the splits before anything was left out.
    """
    for split in SPLITS:
        rows = found.trained if split == "train" else found.splits[split]
        above = found.professional[rows]
        if len(rows) and above.any() and not above.all():
            continue
        of = f"{len(rows)} pictures of {split} in {root}"
        if len(rows) == 0 and split != "test":
            reason = f"unusable or within {delta:g} of the threshold" if split == "train" else "unusable"
            raise DataError(f"None is left of the {counts[split]} pictures of {split} in {root}: all are {reason}.")
        if split == "train":
            raise DataError(
                f"All {of} have a {statistic} vote {'above' if above.all() else 'of at most'} {found.threshold:g}; "
                "some of either kind were wanted. Change --data.threshold or --data.delta."
            )
        if len(rows):
            kind = "professional shots" if above.all() else "snapshots"
            rank_zero_warn(f"All {of} are {kind}: balanced accuracy and AUC say nothing of them.")
