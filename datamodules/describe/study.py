"""What `belvedere describe` shows of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Panel: TypeAlias = tuple[list[str], list[list[NDArray[np.uint8]]]]
"""A grid of pictures (H, W, 3): titles of the columns, then the rows."""


@dataclass
class Study:
    """What `belvedere describe` shows of a data set.

    Attributes:
        tables: Tables by name; the first is the summary.
        charts: Bar charts by title: index = bins or categories, values = heights, named like their axes.
        examples: Title, picture uint8 (H, W, 3) and masks bool (K, H, W).
        classes: Names of the K classes.
        panels: Grids of pictures by name.
    """

    tables: "dict[str, pd.DataFrame]" = field(default_factory=dict)
    charts: "dict[str, pd.Series[Any]]" = field(default_factory=dict)
    examples: list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]] = field(default_factory=list)
    classes: Sequence[str] = ()
    panels: dict[str, Panel] = field(default_factory=dict)
