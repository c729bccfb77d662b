"""Who painted which picture, and splits that keep all pictures of an artist together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.files import DataError, read_table, refuse


@dataclass(frozen=True)
class Work:
    """What a table says of a picture; what it does not say is ""."""

    artist: str = ""
    title: str = ""
    year: str = ""


def read_works(path: Path, names: Sequence[str]) -> dict[str, Work]:
    """What a table `image,artist,title,year` says of pictures, by name; nothing where there is no table.

    Args:
        path: The table. `title` and `year` may be missing, other columns are passed over.
        names: Of all pictures that are there.

    Raises:
        DataError: It names a picture that is not there, or one twice; all are listed.
    """
    if not path.is_file():
        return {}
    table, known = read_table(path, ["image", "artist"]), set(names)
    for column in ("title", "year"):
        if column not in table:
            table[column] = ""
    again = table["image"][table["image"].duplicated()]
    unknown = table["image"][~table["image"].isin(known)]
    refuse(
        [f"{path}, row {row}: there is no picture {name!r} in {path.parent / 'images'}. Give its path from there, or "
         "remove the row." for row, name in unknown.items()]
        + [f"{path}, row {row}: {name!r} has a row already. Remove one of them." for row, name in again.items()],
        str(path),
    )  # fmt: skip
    columns = (table[column] for column in ("artist", "title", "year"))
    return dict(zip(table["image"], map(Work, *columns), strict=True))


def groups(names: Sequence[str], works: Mapping[str, Work]) -> dict[str, str]:
    """What each picture is split by: its artist, in small letters and with single spaces, or its own name."""
    artists = {name: " ".join(works.get(name, Work()).artist.split()).casefold() for name in names}
    return {name: f"artist {artist}" if artist else f"picture {name}" for name, artist in artists.items()}


def draw_by_group(group_of: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Names of pictures drawn group by group: none is in two splits.

    Groups are taken in an order that the seed decides, each that does not exceed the number of pictures that is wanted;
    then the smallest of the others, where that brings the number nearer or there is none yet.

    Args:
        group_of: The group of each picture.
        shares: Of all pictures, by split; what they leave is `train`. At least one group is drawn for a share above 0.
        seed: Of the order.

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
            f"All {len(group_of)} pictures are of {len(ordered)} artists, and splits are made by artist: "
            f"{len(drawn) + 1} or more were wanted, for train, {', '.join(drawn)}. Give pictures of more artists, or a "
            "splits.csv with the columns name,split."
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
