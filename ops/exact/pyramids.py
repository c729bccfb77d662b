"""Gaussian pyramids of image batches, equal to OpenCV's, on any device.

P. J. Burt, E. H. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Trans. Communications 31 (1983), with
their kernel [1 4 6 4 1] / 16 (a = 0.375) along each axis.

Pixel centers have integer coordinates: pixel k of a level lies at pixel 2k of the level below it, and so at
k · 2^levels of the full image. `kornia.geometry.transform.pyrdown` interpolates instead, half a pixel off and to
floor(n / 2) pixels, so only kornia's filter is used here.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from ops.exact.backends import Backend, check_backend, full_precision


def pyramid_down(image: Tensor, backend: Backend = "exact") -> Tensor:
    """Smooths images and halves their sides, like `cv2.pyrDown`.

    Keeps every second pixel of the smoothed image, starting with the first; the border is mirrored (reflect-101).
    `exact` calls OpenCV for images on the host (without gradients; about 60 times as fast there) and kornia on other
    devices; `kornia` calls kornia everywhere. For uint8 both give the same bits, because sums of 8-bit levels are
    exact in float32; for float32 they differ by at most 1e-6. Half precision is computed in float32, also under
    autocast.

    Args:
        image: Images (B, C, H, W), uint8 or floating point.
        backend: Which implementation to use.

    Returns:
        Images of the same type, (B, C, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: The images have another type or shape or no pixels, or the backend is unknown.
    """
    check_backend(backend)
    if image.ndim != 4 or not (image.dtype == torch.uint8 or image.is_floating_point()) or 0 in image.shape[2:]:
        raise ValueError(
            f"expected images (B, C, H, W) of uint8 or floating point with H and W at least 1, got {image.dtype} of "
            f"shape {tuple(image.shape)}"
        )
    precision = torch.promote_types(image.dtype, torch.float32)
    if backend == "exact" and image.device.type == "cpu":
        return _opencv(image if image.dtype == torch.uint8 else image.to(precision)).to(image.dtype)
    result = _kornia(image.to(precision))
    if image.dtype == torch.uint8:
        result = result + 0.5  # OpenCV rounds halves up; the conversion cuts off the fraction
    return result.to(image.dtype)


def pyramid(image: Tensor, levels: int, backend: Backend = "exact") -> list[Tensor]:
    """Returns the image and every level up to the one whose sides were halved `levels` times.

    Args:
        image: Images (B, C, H, W), uint8 or floating point.
        levels: Number of halvings.
        backend: See `pyramid_down`.

    Returns:
        1 + levels batches, `image` itself first.

    Raises:
        ValueError: `levels` is negative, or see `pyramid_down`.
    """
    if levels < 0:
        raise ValueError(f"expected 0 or more pyramid levels, got {levels}")
    images = [image]
    for _ in range(levels):
        images.append(pyramid_down(images[-1], backend))
    return images


def _opencv(image: Tensor) -> Tensor:
    batch, channels, height, width = image.shape
    result = image.new_empty(batch, channels, (height + 1) // 2, (width + 1) // 2)
    for source, target in zip(image.detach().flatten(0, 1), result.flatten(0, 1), strict=True):
        # OpenCV drops the axes of single pixels.
        target.copy_(torch.from_numpy(cv2.pyrDown(source.numpy())).view_as(target))
    return result


def _kornia(image: Tensor) -> Tensor:
    from kornia.filters import filter2d

    kernel = image.new_tensor([1, 4, 6, 4, 1]) / 16
    for dim in (2, 3):  # by index, since torch's own padding cannot mirror images of 1 or 2 pixels
        places = np.pad(np.arange(image.shape[dim]), 2, mode="reflect")
        image = image.index_select(dim, torch.from_numpy(places).to(image.device))
    with full_precision(image.device):
        smoothed: Tensor = filter2d(image, torch.outer(kernel, kernel)[None], padding="valid")
    return smoothed[:, :, ::2, ::2]
