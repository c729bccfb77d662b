"""Samplers and loaders whose order is a function of (seed, epoch), not of workers or processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

PRIME = 1_000_003


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of all that is random about one sample in one epoch: a 63-bit integer."""
    return ((seed * PRIME + epoch) * PRIME + index) % (1 << 63)


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index), so that workers know the epoch.

    Training: one permutation a (seed, epoch), cut into batches that do not depend on the number of processes:
    step k consumes the same samples however many processes share them, and the last one repeats a few of the first
    where the processes would have unequal shares. Otherwise: every index once, in order,
    process r taking the groups r, r + world, …; none is repeated to even out the shares.

    A DistributedSampler, so that Lightning leaves it alone.

    Args:
        dataset: What is sampled.
        shuffle: Whether this is for training.
        seed: Of the permutations.
        world: Number of processes.
        rank: This process.
    """

    def __init__(self, dataset: "Samples", shuffle: bool, seed: int, world: int = 1, rank: int = 0) -> None:
        # the parent adds the epoch to its seed: one run's second epoch would be the next seed's first
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed * PRIME)
        self.share = [index for group in dataset.groups[rank::world] for index in group]
        if not shuffle:
            self.num_samples = len(self.share)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.shuffle:
            yield from ((self.epoch, index) for index in super().__iter__())
        else:
            yield from ((self.epoch, index) for index in self.share)


class EpochLoader(DataLoader[Any]):
    """A DataLoader whose workers start at the first batch instead of at `iter`.

    Lightning calls `iter` before it tells the sampler the epoch; workers started then would draw the wrong one.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is what makes it lazy
        yield from super().__iter__()


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of samples: tensors and numbers stacked, everything else as a list."""
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack(values)
        elif isinstance(first, int):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


class Samples(Dataset[dict[str, Any]]):
    """A data set of named samples, each made by a function.

    Args:
        names: Names of the samples.
        make: Makes sample i: `image` uint8 (3, H, W) and what the task learns from.
        seed: Of what is random about the samples.
        groups: Samples that one process must see together, such as the windows of a picture; None is each alone.
    """

    def __init__(
        self,
        names: list[str],
        make: Callable[[int], dict[str, Any]],
        seed: int = 0,
        groups: Sequence[range] | None = None,
    ) -> None:
        self.names, self.make, self.seed = names, make, seed
        self.groups = [range(index, index + 1) for index in range(len(names))] if groups is None else groups
        self.pictures: Iterable[str] = names  # the samples of one picture have its name

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {
            "name": self.names[index],
            "index": index,
            "seed": sample_seed(self.seed, epoch, index),
            **self.make(index),
        }
