"""The masks of one picture, put together from what a task says of its windows."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ops.maps import resized_maps
from ops.windows import Blend, window_grid


class Marker(Protocol):
    """A task that marks classes in pictures, as far as a canvas needs it."""

    classes: Sequence[str]

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels belong to their class, bool, of probabilities (B, K, H, W) in [0, 1]."""

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The masks (K, H, W) of a whole picture without what is too small."""


class Canvas:
    """The masks of one picture, filled from the top as its windows come.

    Probabilities are blended where windows overlap and are kept for a strip as high as a window only; of all rows above
    it the decision is kept, a byte a pixel and class.

    Args:
        task: Decides.
        size: Height and width of the masks.
        window: Height and width of the windows, in pixels of the masks.
        overlap: Least share of a window that it has in common with the next one.
    """

    def __init__(self, task: Marker, size: tuple[int, int], window: tuple[int, int], overlap: float) -> None:
        self.task, self.window = task, window
        self.waiting = len(window_grid(size, window, overlap))
        self.blend = Blend(size, window, overlap, len(task.classes))
        self.marks = np.zeros((len(task.classes), *size), np.bool_)
        self.rows = 0

    def add(self, probability: Tensor, origin: tuple[int, int]) -> bool:
        """Adds the next window and says whether it was the last.

        Args:
            probability: (K, h, w) in [0, 1], at the size of the network's output.
            origin: Top and left of the window.
        """
        self._mark(self.blend.add(resized_maps(probability[None].float(), self.window)[0], origin))
        self.waiting -= 1
        if not self.waiting:
            self._mark(self.blend.finish())
        return not self.waiting

    def masks(self) -> NDArray[np.bool_]:
        """The finished masks (K, H, W)."""
        return self.task.cleaned(self.marks)

    def _mark(self, probability: Tensor) -> None:
        bottom = self.rows + probability.shape[1]
        self.marks[:, self.rows : bottom] = self.task.marked(probability[None])[0].cpu().numpy()
        self.rows = bottom
