"""Votes on pictures, in arrays: a few megabytes for 250,000 pictures, which loader processes share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

Statistic = Literal["mean", "median"]


class Names(Sequence[str]):
    """Names one behind the other in one array.

    To look at a string of a list writes to it, since Python counts who does, and a process that was forked then copies
    the memory around it.

    Args:
        names: Any strings.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def nbytes(self) -> int:
        """Bytes that all take."""
        return self._text.nbytes + self._ends.nbytes

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [self[place] for place in range(len(self))[key]]
        place = range(len(self))[key]
        text: bytes = self._text[self._ends[place] : self._ends[place + 1]].tobytes()
        return text.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        text: bytes = self._text.tobytes()
        for begin, end in pairwise(self._ends.tolist()):
            yield text[begin:end].decode("utf-8", "surrogateescape")


class Singles(Sequence[range]):
    """For each of so many samples, itself alone: what `Samples` calls its groups, without a list of them.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._all = range(count)

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, key: int) -> range: ...
    @overload
    def __getitem__(self, key: slice) -> list[range]: ...
    def __getitem__(self, key: int | slice) -> range | list[range]:
        if isinstance(key, slice):
            return [range(place, place + 1) for place in self._all[key]]
        return range(self._all[key], self._all[key] + 1)


@dataclass(frozen=True)
class Votes:
    """Votes from 1 to K on N pictures.

    Attributes:
        path: The file that they were read from.
        names: Of the pictures, their paths below `images/`.
        counts: How often each vote was given, (N, K), of the smallest type that holds them.
        tags: Semantic tags of the pictures by number, (N, 2), 0 for none; (N, 0) where the file has no tags.
    """

    path: Path
    names: Names
    counts: NDArray[Any]
    tags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bins(self) -> int:
        """The best vote K."""
        return int(self.counts.shape[1])


def mean_votes(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of the votes 1 to K, (N,), from their counts (N, K), none of them empty."""
    votes = counts.astype(np.float64)
    means: NDArray[np.float64] = votes @ np.arange(1, counts.shape[1] + 1) / votes.sum(axis=1)
    return means


def median_votes(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Median of the votes 1 to K, (N,), from their counts (N, K): of an even number, the mean of the middle two."""
    upto = np.cumsum(counts, axis=1, dtype=np.int64)
    number = upto[:, -1:]
    lower, upper = ((upto > place).argmax(axis=1) for place in ((number - 1) // 2, number // 2))
    medians: NDArray[np.float64] = 1 + (lower + upper) / 2
    return medians


def vote_spreads(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Standard deviation of the votes 1 to K, (N,), from their counts (N, K)."""
    votes = counts.astype(np.float64)
    squares = np.square(np.arange(1, counts.shape[1] + 1) - mean_votes(counts)[:, None])
    spreads: NDArray[np.float64] = np.sqrt((votes * squares).sum(axis=1) / votes.sum(axis=1))
    return spreads


def statistics(counts: NDArray[Any], statistic: Statistic) -> NDArray[np.float64]:
    """The mean or median of the votes, (N,), which is compared with the threshold."""
    return mean_votes(counts) if statistic == "mean" else median_votes(counts)


def default_threshold(bins: int) -> float:
    """What professional shots are voted above: 5 of ten votes, as published, otherwise the middle of the scale.

    Args:
        bins: The best vote K.
    """
    return 5.0 if bins == 10 else (1 + bins) / 2


def near(scores: NDArray[np.float64], threshold: float, delta: float) -> NDArray[np.bool_]:
    """Which pictures lie so near the threshold that they are left out of training, (N,).

    Args:
        scores: Mean or median votes (N,).
        threshold: What professional shots are above.
        delta: The largest distance δ that is near; of 0, no picture is.
    """
    # What is printed as a distance of .1 may be .09999 or .10001 in binary.
    within: NDArray[np.bool_] = np.abs(scores - threshold) <= delta + 1e-9
    return within if delta > 0 else np.zeros_like(within)


def by_score(scores: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.int64]:
    """Rows in the order of the scores, those with equal ones in the order of their names."""
    encoded = np.array([name.encode("utf-8", "surrogateescape") for name in names])
    return np.lexsort((encoded, scores)).astype(np.int64)


def drawn_evenly(ordered: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows drawn so that their scores are spread as those of all: any threshold has the same share above it.

    The rows are cut into as many equal blocks as are drawn, and one is drawn from each.

    Args:
        ordered: Rows in the order of their scores.
        count: How many are drawn; all, if there are no more.
        rng: Draws.

    Returns:
        Rows in ascending order.
    """
    count = min(count, len(ordered))
    if count == 0:
        return ordered[:0]
    begins = np.arange(count + 1) * len(ordered) // count
    sizes = begins[1:] - begins[:-1]
    return np.sort(ordered[begins[:-1] + (rng.random(count) * sizes).astype(np.int64)])
