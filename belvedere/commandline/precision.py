"""Chooses the precision of training."""

import sys
import time
from typing import Any

import torch

LEAST_GAIN = 1.3  # what bfloat16 must gain on a CPU; where it is emulated, it takes several times as long


def fastest_precision(accelerator: str, devices: Any) -> str:
    """Returns `bf16-mixed` where the device computes it clearly faster than float32, else `32-true`.

    A CPU is timed, unless several processes train: they would have to agree.

    Args:
        accelerator: `trainer.accelerator`.
        devices: `trainer.devices`.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    alone = accelerator in ("cpu", "auto") and devices in (1, "1", "auto")
    return "bf16-mixed" if alone and _seconds(torch.float32) > LEAST_GAIN * _seconds(torch.bfloat16) else "32-true"


def mixed_precision(precision: str | None, accelerator: str) -> str | None:
    """Returns the precision to train with: falls back to 16-mixed, with a notice, on GPUs without bfloat16.

    Args:
        precision: `trainer.precision`.
        accelerator: `trainer.accelerator`.
    """
    on_gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if precision != "bf16-mixed" or not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False):
        return precision
    print(f"belvedere: {torch.cuda.get_device_name()} has no bfloat16; using 16-mixed instead.", file=sys.stderr)
    return "16-mixed"


@torch.no_grad()
def _seconds(kind: torch.dtype) -> float:
    """Returns how long the CPU takes for a convolution, the shortest of three times."""
    image = torch.ones(4, 64, 64, 64, dtype=kind).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(kind)
    times = []
    for _ in range(4):  # the first one prepares the kernel
        start = time.perf_counter()
        layer(image)
        times.append(time.perf_counter() - start)
    return min(times)
