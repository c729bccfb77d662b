from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[[Path, np.ndarray], None]


@pytest.fixture(scope="session")
def write() -> Write:
    """Writes an image file, in new folders if needed."""

    def written(path: Path, values: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values).astype(np.uint8)).save(path)

    return written
