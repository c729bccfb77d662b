"""Grey pictures and Canny's edges, as OpenCV makes them, of batches on any device.

J. Canny, "A Computational Approach to Edge Detection", IEEE Trans. Pattern Analysis and Machine Intelligence 8 (1986).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Backend = Literal["opencv", "kornia"]

TANGENT = 13573
"""The tangent of 22.5 degrees in units of 2^-15, as OpenCV rounds it."""


def grey(image: Tensor) -> Tensor:
    """Grey pictures, equal to `cv2.cvtColor` with `COLOR_RGB2GRAY` to the last bit.

    0.299 R + 0.587 G + 0.114 B (Rec. 601), in whole numbers of 2^-15 and rounded.

    Args:
        image: RGB pictures, uint8 (B, 3, H, W).

    Returns:
        Grey pictures, uint8 (B, 1, H, W).

    Raises:
        ValueError: These are not such pictures.
    """
    _check(image, channels=3)
    red, green, blue = image.to(torch.int32).unbind(dim=1)
    return ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15).to(torch.uint8)[:, None]


def canny(image: Tensor, low: float, high: float, l2: bool = False, backend: Backend = "opencv") -> Tensor:
    """The edge pixels of grey pictures, found without smoothing them first.

    Candidates are pixels whose gradient (Sobel, 3 x 3) is above the lower threshold and the largest across the edge.
    Those above the higher threshold are edge pixels, and so are all that touch one, at a corner or through others.

    - `opencv` equals `cv2.Canny` in every pixel. Connected candidates are found by their labels, in a number of rounds
      that grows with the logarithm of the longest edge.
    - `kornia` is `kornia.filters.canny` with `kernel_size=1`, which knows the Euclidean gradient only and follows edges
      pixel by pixel. Its version 0.9 found the same pixels as OpenCV with `l2` on 16 photographs, and F1 is 0.86 beside
      OpenCV without it (`python -m benchmarks.edges`).

    Args:
        image: Grey pictures, uint8 (B, 1, H, W).
        low: The lower threshold, in levels of 0 to 255. A step of one level has a gradient of 4.
        high: The higher one; the two may be swapped.
        l2: Whether the size of a gradient is the root of the sum of squares, not the sum of absolute values.
        backend: One of the two.

    Returns:
        True at edge pixels, bool (B, 1, H, W).

    Raises:
        ValueError: These are not such pictures, a threshold is negative or not finite, or kornia is asked for what it
            does not have: the other gradient or a threshold of 0.
    """
    _check(image, channels=1)
    if not (0 <= low < math.inf and 0 <= high < math.inf):
        raise ValueError(f"thresholds {low} and {high}; wanted finite numbers, 0 or more")
    low, high = min(low, high), max(low, high)
    if backend == "opencv":
        weak, strong = _candidates(image[:, 0], low, high, l2)
        return _connected(weak, strong)[:, None]
    if backend != "kornia":
        raise ValueError(f"a backend {backend!r}; wanted 'opencv' or 'kornia'")
    if not l2 or low == 0:
        raise ValueError(
            f"l2={l2} and a lower threshold of {low}; kornia has the Euclidean gradient only, and thresholds above 0: "
            "set l2=True and a higher threshold, or take the backend 'opencv'"
        )
    from kornia.filters import canny as kornia_canny

    with torch.autocast(image.device.type, enabled=False):
        _, edges = kornia_canny(image.float(), low, high, kernel_size=1)
    return torch.as_tensor(edges).bool()


def _check(image: Tensor, channels: int) -> None:
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != channels:
        raise ValueError(
            f"pictures of {image.dtype} and shape {tuple(image.shape)}; wanted uint8, (B, {channels}, H, W)"
        )


def _candidates(image: Tensor, low: float, high: float, l2: bool) -> tuple[Tensor, Tensor]:
    """Pixels whose gradient is the largest across the edge: above the lower and above the higher threshold.

    All are of shape (B, H, W).
    """
    height, width = image.shape[1:]
    # PyTorch replicates no whole numbers, but single precision holds these exactly.
    padded = functional.pad(image[:, None].float(), [1] * 4, mode="replicate")[:, 0].to(torch.int16)
    sums_down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    sums_across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    across, down = sums_down[..., 2:] - sums_down[..., :-2], sums_across[:, 2:] - sums_across[:, :-2]
    run, rise = across.abs().to(torch.int32), down.abs().to(torch.int32)
    magnitude = run**2 + rise**2 if l2 else (run + rise).to(torch.int16)
    low, high = min(low, 32767), min(high, 32767)  # as OpenCV does; no gradient is as large as this
    if l2:
        low, high = low**2, high**2
    around = functional.pad(magnitude, [1] * 4)

    def at(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    horizontal = (rise << 15) < run * TANGENT
    vertical = (rise << 15) > run * (TANGENT + (2 << 15))  # the tangent of 67.5 degrees is larger by 2
    diagonal = ~(horizontal | vertical)
    falling = (across ^ down) >= 0  # of one sign: from the upper left to the lower right
    # Of two equal neighbours the left or upper one is the larger; on diagonals neither is.
    largest = horizontal & (magnitude > at(0, -1)) & (magnitude >= at(0, 1))
    largest |= vertical & (magnitude > at(-1, 0)) & (magnitude >= at(1, 0))
    largest |= diagonal & falling & (magnitude > at(-1, -1)) & (magnitude > at(1, 1))
    largest |= diagonal & ~falling & (magnitude > at(-1, 1)) & (magnitude > at(1, -1))
    return largest & (magnitude > math.floor(low)), largest & (magnitude > math.floor(high))


def _connected(weak: Tensor, strong: Tensor) -> Tensor:
    """Strong pixels (B, H, W), and the weak ones that touch them, at a corner or through others."""
    batch, height, width = weak.shape
    stride = width + 2
    # Within a rim of background every neighbour is a fixed distance away, and pictures do not touch.
    edges = functional.pad(strong, [1] * 4).flatten()
    undecided = functional.pad(weak & ~strong, [1] * 4).flatten()
    places = undecided.nonzero()[:, 0]
    forward = torch.tensor([1, stride - 1, stride, stride + 1], device=weak.device)
    touching = edges[places[:, None] + torch.cat([forward, -forward])].any(dim=1)
    numbers = torch.empty(undecided.shape, dtype=torch.int64, device=weak.device)
    numbers[places] = torch.arange(len(places), device=weak.device)
    neighbours = places[:, None] + forward
    first, direction = undecided[neighbours].nonzero(as_tuple=True)
    labels = _components(len(places), first, numbers[neighbours[first, direction]])
    kept = torch.zeros_like(touching)
    kept[labels[touching]] = True
    edges[places] = kept[labels]
    return edges.view(batch, height + 2, stride)[:, 1:-1, 1:-1]


def _components(count: int, first: Tensor, second: Tensor) -> Tensor:
    """Labels (count,) of a graph's nodes: the smallest node of the connected component that each is in.

    In each round every component takes the smallest label next to it. One that has only larger neighbours keeps its
    own, but then a neighbour takes that, or a smaller one that this component takes a round later: every second round
    at least halves the number of unfinished components.

    Args:
        count: Number of nodes.
        first: A node of each edge, (E,).
        second: The other one.
    """
    labels = torch.arange(count, device=first.device)
    while len(first):
        one, other = labels[first], labels[second]
        labels = labels.scatter_reduce(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(further := labels[labels], labels):
            labels = further
        apart = labels[first] != labels[second]
        first, second = first[apart], second[apart]
    return labels
