"""Caches the outputs of frozen layers for images that do not change."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class Remembered:
    """Caches values of images by key, on the host.

    Args:
        gibibytes: Size of the cache; once it is full, further values are computed every time.

    Raises:
        ValueError: It is negative.
    """

    def __init__(self, gibibytes: float) -> None:
        if gibibytes < 0:
            raise ValueError(f"{gibibytes} GiB of cache; expected 0, for none, or more")
        self._left = self._limit = round(gibibytes * 2**30)
        self._full = self._limit == 0
        self._values: dict[Hashable, Tensor] = {}

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Empties the cache."""
        self._values.clear()
        self._left = self._limit
        self._full = self._limit == 0

    def takes(self, keys: Sequence[Hashable]) -> bool:
        """Returns whether all values of these keys are cached, or may be."""
        return not self._full or all(key in self._values for key in keys)

    def __call__(self, keys: Sequence[Hashable], image: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns values of images; only those of new images are computed.

        Args:
            keys: The key of each image.
            image: (B, …).
            compute: Returns the values (N, …) of any N images (N, …), each independent of the others.

        Returns:
            (B, …), without a gradient.
        """
        new = [row for row, key in enumerate(keys) if key not in self._values]
        if len(new) == len(keys):
            found = compute(image).detach()
        else:
            computed = iter(compute(image[new]).detach() if new else ())
            found = torch.stack([
                self._values[key].to(image.device, non_blocking=True) if key in self._values else next(computed)
                for key in keys
            ])  # fmt: skip
        for row in new:
            value = found[row]
            size = value.numel() * value.element_size()
            if size <= self._left:
                self._values[keys[row]] = value.cpu().clone()
                self._left -= size
            else:
                self._full = True
        return found
