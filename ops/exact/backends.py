"""Chooses between this package's exact image operations and kornia's, and runs kornia in full precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Backend = Literal["exact", "kornia"]
"""`exact` equals OpenCV or Pillow value for value and is the faster one; `kornia` calls kornia on every device."""


def check_backend(backend: str) -> None:
    """Raises a ValueError for an unknown backend."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend {backend!r} is unknown; expected one of {', '.join(get_args(Backend))}")


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Computes kornia's float32 convolutions and conversions in float32, whatever training allows.

    Switches off autocast, TF32 (cuDNN's default) and what `torch.set_float32_matmul_precision` permits on the host:
    they would round results to about three digits. Restores all three afterwards. Matrix products on CUDA are left
    alone: PyTorch rejects them where its old and its new settings of TF32 disagree, and kornia converts colors by
    convolutions there.
    """
    # torch sets these attributes at run time
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    switches = cudnn.conv, mkldnn.conv, mkldnn.matmul  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
