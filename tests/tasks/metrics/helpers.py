from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Collected = Callable[[list[slice]], dict[str, Tensor]]


def numbers(scores: dict[str, Tensor]) -> dict[str, float]:
    assert all(score.shape == () and score.dtype == torch.float32 for score in scores.values())
    return {name: score.item() for name, score in scores.items()}


def cut(fields: dict[str, Any], batch: slice) -> dict[str, Any]:
    return {name: values[batch] for name, values in fields.items()}


def _run(rank: int, folder: Path, collected: Collected, shares: list[list[slice]]) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), len(shares))
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=len(shares))
    torch.save(collected(shares[rank]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def by_processes(collected: Collected, shares: list[list[slice]], folder: Path) -> list[dict[str, float]]:
    """The scores that each process computes when each updates its metrics with its own batches."""
    folder.mkdir()
    torch.multiprocessing.spawn(_run, (folder, collected, shares), nprocs=len(shares))
    return [numbers(torch.load(folder / f"{rank}.pt")) for rank in range(len(shares))]
