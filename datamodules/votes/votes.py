"""Holds votes on images in arrays: a few megabytes for 250,000 images, shared by loader processes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

Statistic = Literal["mean", "median"]


class Names(Sequence[str]):
    """Immutable list of strings in one array.

    Reading a string from a Python list updates its reference count, and a forked process then copies the memory around
    it.

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
        """Size of all names in bytes."""
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
    """Groups of `Samples` in which every sample is alone, without a list of them.

    Args:
        count: Number of samples.
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
    """Votes from 1 to K on N images.

    Attributes:
        path: The file that they were read from.
        names: Paths of the images below `images/`.
        counts: How often each vote was given, (N, K), of the smallest type that fits.
        tags: Semantic tags of the images by number, (N, 2), 0 for none; (N, 0) if the file has no tags.
    """

    path: Path
    names: Names
    counts: NDArray[Any]
    tags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bins(self) -> int:
        """The highest vote K."""
        return int(self.counts.shape[1])


def mean_votes(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the mean of the votes 1 to K, (N,), from their counts (N, K); each row has votes."""
    votes = counts.astype(np.float64)
    means: NDArray[np.float64] = votes @ np.arange(1, counts.shape[1] + 1) / votes.sum(axis=1)
    return means


def median_votes(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the median of the votes 1 to K, (N,), from their counts (N, K).

    For an even number of votes it is the mean of the middle two.
    """
    upto = np.cumsum(counts, axis=1, dtype=np.int64)
    number = upto[:, -1:]
    lower, upper = ((upto > place).argmax(axis=1) for place in ((number - 1) // 2, number // 2))
    medians: NDArray[np.float64] = 1 + (lower + upper) / 2
    return medians


def vote_spreads(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the standard deviation of the votes 1 to K, (N,), from their counts (N, K)."""
    votes = counts.astype(np.float64)
    squares = np.square(np.arange(1, counts.shape[1] + 1) - mean_votes(counts)[:, None])
    spreads: NDArray[np.float64] = np.sqrt((votes * squares).sum(axis=1) / votes.sum(axis=1))
    return spreads


def statistics(counts: NDArray[Any], statistic: Statistic) -> NDArray[np.float64]:
    """Returns the mean or median of the votes, (N,), which is compared with the threshold."""
    return mean_votes(counts) if statistic == "mean" else median_votes(counts)


def default_threshold(bins: int) -> float:
    """Returns the threshold of professional shots: 5 on the scale to 10, as published, else the middle of the scale.

    Args:
        bins: The highest vote K.
    """
    return 5.0 if bins == 10 else (1 + bins) / 2


def near(scores: NDArray[np.float64], threshold: float, delta: float) -> NDArray[np.bool_]:
    """Returns which images are too close to the threshold to train on, (N,).

    Args:
        scores: Mean or median votes (N,).
        threshold: Professional shots are above it.
        delta: Largest distance δ that is too close; 0 excludes no image.
    """
    # In binary, a distance of .1 may be .09999 or .10001.
    within: NDArray[np.bool_] = np.abs(scores - threshold) <= delta + 1e-9
    return within if delta > 0 else np.zeros_like(within)


def by_score(scores: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.int64]:
    """Returns the rows sorted by score, equal scores by name."""
    encoded = np.array([name.encode("utf-8", "surrogateescape") for name in names])
    return np.lexsort((encoded, scores)).astype(np.int64)


def drawn_evenly(ordered: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws rows with the same distribution of scores as all: any threshold has the same share above it.

    The rows are cut into `count` equal blocks, and one row is drawn from each.

    Args:
        ordered: Rows sorted by score.
        count: How many to draw; all if there are fewer.
        rng: Random generator.

    Returns:
        Rows in ascending order.
    """
    count = min(count, len(ordered))
    if count == 0:
        return ordered[:0]
    begins = np.arange(count + 1) * len(ordered) // count
    sizes = begins[1:] - begins[:-1]
    return np.sort(ordered[begins[:-1] + (rng.random(count) * sizes).astype(np.int64)])
