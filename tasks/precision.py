"""Mixed precision that a GPU has."""

import sys

import torch


def mixed_precision(asked: str | None, accelerator: str) -> str | None:
    """The precision that was asked for; `16-mixed` for `bf16-mixed` where the GPU has no bfloat16, which is said.

    Args:
        asked: `trainer.precision`.
        accelerator: `trainer.accelerator`.
    """
    on_gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if asked != "bf16-mixed" or not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False):
        return asked
    print(f"belvedere: {torch.cuda.get_device_name()} has no bfloat16; 16-mixed is taken instead.", file=sys.stderr)
    return "16-mixed"
