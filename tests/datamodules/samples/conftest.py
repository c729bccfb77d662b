import csv
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def bytes_of() -> Callable[[Path], dict[str, bytes]]:
    """Reads all files of a folder."""
    return lambda root: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def table() -> Callable[[Path], list[dict[str, str]]]:
    """Reads a CSV file."""

    def read(path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    return read
