"""Reads the artists of paintings, and splits paintings by artist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.read.tables import Table, no_image
from ops.errors import DataError


@dataclass(frozen=True)
class Work:
    """A painting's row in a table; "" for empty or missing cells."""

    artist: str = ""
    title: str = ""
    year: str = ""


def read_works(path: Path, names: Sequence[str]) -> dict[str, Work]:
    """Reads a table `image,artist,title,year` by image name; empty if there is no table.

    Args:
        path: The table. `title` and `year` are optional, other columns are ignored.
        names: Names of all images.

    Raises:
        DataError: The table has an unknown image or names one twice; all problems are listed.
    """
    if not path.is_file():
        return {}
    table = Table(path, ["image", "artist"])
    table.known("image", names, no_image(path.parent / "images", "Give its path from there, or remove the row."))
    table.unique("image")
    table.check()
    empty = [""] * len(table.rows)
    columns = (table.rows.get(column, empty) for column in ("artist", "title", "year"))
    return dict(zip(table.rows["image"], map(Work, *columns), strict=True))


def groups(names: Sequence[str], works: Mapping[str, Work]) -> dict[str, str]:
    """Returns the group that each image is split by: its artist, ignoring case and extra spaces, or its own name."""
    artists = {name: " ".join(works.get(name, Work()).artist.split()).casefold() for name in names}
    return {name: f"artist {artist}" if artist else f"picture {name}" for name, artist in artists.items()}


def draw_by_group(group_of: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Draws splits group by group, so that no group is in two splits.

    The seed orders the groups. A split takes each group that does not exceed the number of images it still needs, then
    the smallest remaining group if that brings the number nearer or the split is still empty.

    Args:
        group_of: Group of each image.
        shares: Share of all images by split; the rest is `train`. A share above 0 gets at least one group.
        seed: Seed of the order.

    Raises:
        DataError: There are fewer groups than splits.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(group_of):
        members.setdefault(group_of[name], []).append(name)
    ordered = sorted(members)
    waiting = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    drawn = [split for split, share in shares.items() if share > 0]
    if len(ordered) <= len(drawn):
        raise DataError(
            f"All {len(group_of)} images are by {len(ordered)} artists; splitting by artist needs {len(drawn) + 1} or "
            f"more, for train, {', '.join(drawn)}. Add images by more artists, or a splits.csv with the columns "
            "name,split."
        )
    splits: dict[str, list[str]] = {split: [] for split in shares}
    for position, split in enumerate(drawn):
        part, wanted = splits[split], max(1, round(shares[split] * len(group_of)))
        others = len(drawn) - position  # groups that the remaining splits need at least
        for group in list(waiting):
            if len(members[group]) <= wanted - len(part) and len(waiting) > others:
                waiting.remove(group)
                part += members[group]
        smallest = min(waiting, key=lambda group: len(members[group]))
        if not part or (len(members[smallest]) < 2 * (wanted - len(part)) and len(waiting) > others):
            waiting.remove(smallest)
            part += members[smallest]
    splits["train"] = [name for group in waiting for name in members[group]]
    return {split: sorted(part) for split, part in splits.items()}
