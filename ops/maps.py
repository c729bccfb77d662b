"""Maps of probabilities at another resolution."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def resized_maps(maps: Tensor, size: Sequence[int] | None) -> Tensor:
    """Maps (B, K, h, w) enlarged or reduced to `size`, bilinearly; as they are where `size` is None or theirs."""
    if size is None or tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False, antialias=False)
