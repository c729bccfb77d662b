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
    """Computes float32 convolutions and matrix products in float32, whatever training allows.

    Switches off autocast, TF32 (cuDNN's default) and what `torch.set_float32_matmul_precision` permits: they would
    round kornia's filters to about three digits. Restores all three afterwards.
    """
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul,  # type: ignore[attr-defined]  # set at run time
                torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # fmt: skip
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
