"""Finds and reads the files of annotation tools."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.read.tables import read_text
from ops.errors import DataError


def tree(source: Path, suffix: str) -> Iterator[Path]:
    """Yields the files of a suffix below a folder, sorted, or one file; hidden ones are skipped.

    Raises:
        DataError: There is no such file or folder.
    """
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise DataError(f"There is no file or folder {source}.")
    found = []
    for place, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if name.lower().endswith(suffix) and not name.startswith(".")]
    yield from sorted(found)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}. Export it again.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply; expected the export of an annotation tool.") from error
