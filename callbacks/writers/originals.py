"""Puts the images themselves beside what was predicted of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from callbacks.writers.format import Finished, Format, Row


class Originals(Format[Any]):
    """Writes `images/<path and name>`: links to the image files, or copies of them.

    Args:
        locate: Returns the file of an image by its name.
        copy: Whether to copy.
    """

    folders = ("images",)

    def __init__(self, locate: Callable[[str], Path], copy: bool) -> None:
        self.locate, self.copy = locate, copy

    def write(self, image: Finished, folder: Path) -> list[Row]:
        source, target = self.locate(image.name).resolve(), folder / "images" / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if self.copy:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source)
        return []
