"""Progress bars that `--quiet` turns off with all notices."""

import logging
from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def notices_are_on() -> bool:
    """Returns whether notices are printed; problems and results always are."""
    return logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)


def progress(items: Iterable[T], text: str, total: int | None = None, shown: bool = True) -> Iterable[T]:
    """Returns the items behind a progress bar, which vanishes at the end; without it if notices are off.

    Args:
        items: What is counted.
        text: What is being done.
        total: How many items there are, if they do not say.
        shown: Whether this process shows bars.
    """
    bar: Iterable[T] = tqdm(items, text, total, unit="", leave=False, disable=not (shown and notices_are_on()))
    return bar
