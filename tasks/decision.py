"""What is marked of probabilities: thresholds and minimum areas, kept in the checkpoint."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ops.regions import without_small_regions


class Decision(nn.Module):
    """Marks a class where its probability reaches a threshold, in regions no smaller than a minimum area.

    Both start at .5 and 0; `callbacks.thresholds` fits them on the validation pictures after training. In training no
    region is too small.

    Args:
        classes: Number K of classes.
    """

    thresholds: Tensor
    minimum_areas: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.full((classes,), 0.5))
        self.register_buffer("minimum_areas", torch.zeros(classes))

    def reset(self) -> None:
        """Unfits thresholds and areas."""
        self.thresholds.fill_(0.5)
        self.minimum_areas.zero_()

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels reach their class's threshold, bool, of probabilities (B, K, H, W)."""
        return probability >= self.thresholds.view(-1, 1, 1)

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The masks (K, H, W) of a whole picture without the regions below their class's minimum area."""
        return without_small_regions(masks, self.minimum_areas.tolist())

    def masks(self, probability: Tensor) -> Tensor:
        """Masks of whole pictures, bool, of probabilities (B, K, H, W); regions are found on the CPU."""
        marked = self.marked(probability)
        if self.training or not self.minimum_areas.any():  # which makes the host wait for the device
            return marked
        return torch.stack([torch.from_numpy(self.cleaned(mask.numpy())) for mask in marked.cpu()]).to(marked.device)
