"""The output format of colored images, without torch, so that `belvedere.run` shares it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from callbacks.writers.format import Finished, Format, Row
from callbacks.writers.prediction import Prediction
from drawing.pictures import Picture, save_picture
from ops.files.names import safe_path


@dataclass(frozen=True, kw_only=True)
class Colored(Finished):
    """A colored image.

    Attributes:
        image: (H, W, 3) uint8; empty if there is a `problem`.
    """

    image: Picture

    def prediction(self) -> Prediction:
        return Prediction(self.name, image=None if self.problem else self.image, problem=self.problem)


Image = TypeVar("Image", bound=Colored)


class ColoredFiles(Format[Image]):
    """Writes `colored/<path and stem>.png` or `.jpg`.

    Args:
        suffix: File type.
    """

    folders = ("colored",)

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def write(self, image: Image, folder: Path) -> Iterable[Row]:
        save_picture(image.image, folder / "colored" / safe_path(image.name, f".{self.suffix}"))
        return []
