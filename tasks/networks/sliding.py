"""Applies a window classifier at every pixel of an image of any size."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.errors import NoDenseFormError
from tasks.networks.dense import DenseForm


@torch.no_grad()
def classify_picture(
    network: nn.Module,
    picture: Tensor,
    window: int,
    stride: Literal[1, 2, 4] = 1,
    tile: int = 128,
    batch: int = 128,
    head: Callable[[Tensor], Tensor] | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Returns the logits of every pixel of an image, computed by a window classifier.

    A pixel lies at the center of its window: row and column w // 2, counted from 0; in an even window that is the lower
    right of the four middle pixels. Beyond its border the image is mirrored without repeating its last pixels.

    A network that has a `DenseForm` is applied in that form, whatever the stride. Otherwise windows are classified one
    by one; at stride s, those around every s-th pixel of every s-th row, 1 / s² of the work. Logits in between are
    interpolated bilinearly.

    Memory holds the logits, and what a tile in the dense form or a batch of windows needs. Apart from rounding, the
    logits depend neither on `tile` nor on `batch`.

    Args:
        network: Maps windows (B, C, w, w) in [0, 1] to logits (B, K); in evaluation mode.
        picture: (C, H, W) in [0, 1], or uint8. It may be on another device than the network.
        window: Height and width w of the windows in pixels.
        stride: Distance of classified pixels, for networks without a dense form.
        tile: Height and width in pixels of the parts in which the image is classified.
        batch: Number of windows classified at a time without the dense form.
        head: Maps the network's output for a tile, (C, h, w), to logits (K, h, w) pixel by pixel, for networks that
            return features: these are many, and held for one tile only.
        where: Pixels to classify, bool (H, W); logits elsewhere are undefined. All by default.

    Returns:
        (K, H, W), on the image's device.

    Raises:
        ValueError: The image is smaller than the window, the network is in training mode, the stride is not one of the
            three, the network is not made for windows of this size, or there is nothing to classify.
    """
    height, width = picture.shape[-2:]
    if min(height, width) < window:
        raise ValueError(
            f"expected an image of at least {window} x {window}, the window, got {height} x {width}; remove it, or "
            "train a network for smaller windows"
        )
    if network.training:
        raise ValueError("the network is in training mode; call network.eval() first")
    if stride not in (1, 2, 4):
        raise ValueError(f"expected a stride of 1, 2 or 4, got {stride}")
    dense = _dense(network, window)
    if dense is None:
        evaluate: Callable[[Tensor], Tensor] = partial(
            classify_windows, network, window=window, stride=stride, batch=batch
        )
    else:
        evaluate, stride = lambda image: dense(image[None])[0], 1
    parameter = next(network.parameters())
    # One more row and column than fit into the image, so that every pixel lies between classified ones.
    rows, columns = (math.ceil((side - 1) / stride) + 1 for side in (height, width))
    logits: Tensor | None = None
    for tile_rows in _parts(rows, tile // stride):
        for tile_columns in _parts(columns, tile // stride):
            part = _wanted(where, tile_rows, tile_columns, stride)
            if part is None:
                continue
            (top, bottom), (left, right) = part
            places = [
                _reflected(torch.arange(first * stride, (last - 1) * stride + window) - window // 2, side)
                for first, last, side in ((top, bottom, height), (left, right, width))
            ]
            image = picture[:, places[0][:, None].to(picture.device), places[1].to(picture.device)].to(parameter)
            values = evaluate(image / 255 if picture.dtype == torch.uint8 else image)
            if head is not None:
                values = head(values)
            if logits is None:
                logits = picture.new_zeros((len(values), rows, columns), dtype=parameter.dtype)
            logits[:, top:bottom, left:right] = values
    if logits is None:
        raise ValueError("where is false everywhere; remove the image, or mark pixels to classify")
    if stride > 1:
        # align_corners keeps the k-th value at pixel k · stride; otherwise all would move by half a stride.
        size = [(rows - 1) * stride + 1, (columns - 1) * stride + 1]
        logits = F.interpolate(logits[None], size, mode="bilinear", align_corners=True)[0, :, :height, :width]
    return logits


@torch.no_grad()
def classify_windows(network: nn.Module, image: Tensor, window: int, stride: int = 1, batch: int = 128) -> Tensor:
    """Returns the logits of an image's windows, classified one by one.

    Args:
        network: Maps windows (B, C, w, w) to logits (B, K).
        image: (C, H, W), as the network expects it.
        window: Height and width w of the windows in pixels.
        stride: Pixels from one window to the next, down and across.
        batch: Number of windows classified at a time.

    Returns:
        (K, n, m): at (i, j) the logits of the window whose upper left pixel is (i · stride, j · stride).
    """
    windows = image.unfold(1, window, stride).unfold(2, window, stride)  # (C, n, m, w, w), a view of the image
    rows, columns = windows.shape[1:3]
    logits = []
    for first in range(0, rows * columns, batch):
        places = torch.arange(first, min(first + batch, rows * columns), device=image.device)
        logits.append(network(windows[:, places // columns, places % columns].transpose(0, 1)))
    return torch.cat(logits).T.reshape(-1, rows, columns)


def _dense(network: nn.Module, window: int) -> DenseForm | None:
    """Returns the network's dense form, if it has one."""
    try:
        return DenseForm(network, window)
    except NoDenseFormError:
        return None


def _parts(length: int, most: int) -> list[tuple[int, int]]:
    """Splits a length into equal parts (start, end) no longer than `most`; the last may be shorter."""
    part = math.ceil(length / math.ceil(length / max(most, 1)))
    return [(first, min(first + part, length)) for first in range(0, length, part)]


def _wanted(
    where: Tensor | None, rows: tuple[int, int], columns: tuple[int, int], stride: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns the rows and columns of a tile, in steps of the stride, around all pixels to classify."""
    if where is None:
        return rows, columns
    # A pixel's value is interpolated from those on both sides.
    (top, bottom), (left, right) = (((first - 1) * stride + 1, last * stride) for first, last in (rows, columns))
    inside = where[max(top, 0) : bottom, max(left, 0) : right]
    found = []
    for axis, first, (low, high) in ((1, max(top, 0), rows), (0, max(left, 0), columns)):
        places = inside.any(dim=axis).nonzero()
        if not len(places):
            return None
        lowest, highest = first + int(places[0]), first + int(places[-1])
        found.append((max(low, lowest // stride), min(high, math.ceil(highest / stride) + 1)))
    return found[0], found[1]


def _reflected(places: Tensor, length: int) -> Tensor:
    """Maps places in and beyond a row of this length into it, mirrored at its first and last pixel."""
    last = length - 1
    return last - (places % max(2 * last, 1) - last).abs()
