"""Samplers and loaders whose order is a function of (seed, epoch), not of workers or processes."""

import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ops.errors import DataError

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

    Attributes:
        samples: What is sampled.
        skipped: How many samples of the next epoch are left out, because an earlier run had them.
    """

    def __init__(self, dataset: "Samples", shuffle: bool, seed: int, world: int = 1, rank: int = 0) -> None:
        # the parent adds the epoch to its seed: one run's second epoch would be the next seed's first
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed * PRIME)
        self.samples, self.skipped = dataset, 0
        self.share = [index for group in dataset.groups[rank::world] for index in group]
        if not shuffle:
            self.num_samples = len(self.share)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices = super().__iter__() if self.shuffle else iter(self.share)
        skipped, self.skipped = self.skipped, 0
        yield from ((self.epoch, index) for index in islice(indices, skipped, None))


class EpochLoader(DataLoader[Any]):
    """A DataLoader that can go on in the middle of an epoch, and whose workers start at the first batch.

    Lightning calls `iter` before it tells the sampler the epoch; workers started then would draw the wrong one. It
    keeps `state_dict` in checkpoints: what was given is counted here, not what workers have fetched in advance.
    """

    _given = (0, 0)  # an epoch, and how many of its batches
    _resumed = (0, 0)  # likewise, of a run that is gone on with

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands, and what it is an epoch of."""
        epoch, given = self._given
        now: int = self.sampler.epoch  # type: ignore[attr-defined]  # an EpochSampler in training
        return {"epoch": now, "given": given if epoch == now else 0, **self._epochs()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Has the epoch go on where it stood.

        Raises:
            DataError: It was an epoch of other samples, in another order or in other batches.
        """
        now = self._epochs()
        changed = [f"{name} {state_dict[key]}, now {now[key]}" for key, name in NAMES.items()
                   if state_dict[key] != now[key]]  # fmt: skip
        if changed and state_dict["given"]:
            raise DataError(
                f"The checkpoint stands in the middle of epoch {state_dict['epoch']}, which cannot be gone on with: "
                f"{'; '.join(changed)}. Go on with the data and the batch size that it was written with, or from "
                "best.ckpt, which stands at an epoch's end."
            )
        self._resumed = state_dict["epoch"], state_dict["given"]

    def _epochs(self) -> dict[str, int]:
        """What decides which samples are in which batch."""
        assert isinstance(self.sampler, EpochSampler)
        assert self.batch_size is not None
        names = self.sampler.samples.names
        digest = zlib.crc32("\n".join(names).encode(errors="surrogateescape"))
        batch = self.batch_size * self.sampler.num_replicas
        return {"samples": len(names), "digest": digest, "batch": batch, "seed": self.sampler.seed // PRIME}

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is what makes it lazy
        now = getattr(self.sampler, "epoch", 0)  # Lightning puts another sampler into the place of ours to predict
        epoch, given = self._resumed
        self._resumed = 0, 0
        if given and epoch == now:
            self.sampler.skipped = given * (self.batch_size or 1)  # type: ignore[attr-defined]  # an EpochSampler
        else:
            given = 0
        for batch in super().__iter__():
            given += 1
            self._given = now, given
            yield batch


NAMES = {"samples": "samples", "digest": "digest of their names", "batch": "batch size of all processes",
         "seed": "seed"}  # fmt: skip


def leave_signals(worker: int) -> None:
    """Has a loader's worker ignore the signals of a scheduler, which go to every process: the main one answers them."""
    for each in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)


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
