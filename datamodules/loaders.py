"""Samples, samplers and loaders whose order depends on (seed, epoch), not on workers or processes."""

import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.read.cache import core_count
from ops.errors import DataError
from ops.processes import KEYBOARD, SIGNALS, blocked, obey_parent

PRIME = 1_000_003
FEW = 64  # samples below which worker processes take longer to start than they save
MOST_WORKERS = 8
NAMES = {"samples": "samples", "digest": "digest of their names", "batch": "batch size of all processes",
         "seed": "seed", "length": "samples per epoch"}  # fmt: skip


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed of everything random about one sample in one epoch, a 63-bit integer."""
    return ((seed * PRIME + epoch) * PRIME + index) % (1 << 63)


def epoch_of(key: tuple[int, int] | int) -> tuple[int, int]:
    """Returns epoch and number of a sample; with `trainer.overfit_batches` Lightning's own sampler gives the number."""
    return key if isinstance(key, tuple) else (0, key)


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, number), so that workers know the epoch.

    In training, each (seed, epoch) has one permutation, cut into batches that do not depend on the number of processes:
    step k takes the same samples however many processes share them, and the last step repeats a few of the first
    samples if the shares would be unequal. With a `length`, an epoch is the start of as many permutations as it takes,
    and the samples of permutation r have the numbers r N to r N + N - 1: each gets another seed in each permutation.
    Otherwise every index comes once, in order: process r takes the groups r, r + world, …, and nothing is repeated.

    It is a DistributedSampler so that Lightning does not replace it.

    Args:
        dataset: Samples to order.
        shuffle: Whether this is for training.
        seed: Seed of the permutations.
        world: Number of processes.
        rank: Number of this process.
        length: Samples of this process in a training epoch; None takes every sample once.
        without: Names of samples to leave out, unless shuffled.

    Attributes:
        samples: Samples to order.
        skipped: How many samples of the next epoch to skip, since an earlier run consumed them.
    """

    def __init__(
        self,
        dataset: "Samples",
        shuffle: bool,
        seed: int,
        world: int = 1,
        rank: int = 0,
        length: int | None = None,
        without: Collection[str] = (),
    ) -> None:
        # the parent adds the epoch to its seed, so epoch 1 of one seed would be epoch 0 of the next
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed * PRIME)
        self.samples, self.skipped = dataset, 0
        groups: Sequence[range] = dataset.groups
        if without:
            groups = [group for group in groups if dataset.names[group[0]] not in without]
        self.share = [index for group in groups[rank::world] for index in group]
        self.length = length if shuffle else None
        if not shuffle:
            self.num_samples = len(self.share)
        if self.length is not None:
            self.num_samples = self.length

    def _repeated(self) -> Iterator[int]:
        """Yields this process's numbers of one permutation after another, without end."""
        count, position = len(self.samples), 0
        for turn in itertools.count():
            generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, turn))
            for index in torch.randperm(count, generator=generator).tolist():
                if position % self.num_replicas == self.rank:
                    yield turn * count + index
                position += 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices: Iterator[int]
        if self.length is not None:
            indices = islice(self._repeated(), self.length)
        else:
            indices = super().__iter__() if self.shuffle else iter(self.share)
        skipped, self.skipped = self.skipped, 0
        yield from ((self.epoch, index) for index in islice(indices, skipped, None))


class EpochLoader(DataLoader[Any]):
    """DataLoader that can resume in the middle of an epoch, and whose workers start with the first batch.

    Lightning calls `iter` before it sets the epoch of the sampler; workers started then would use the wrong epoch.
    Checkpoints contain `state_dict`, which counts the batches consumed, not those that workers have prefetched.
    """

    _given = (0, 0)  # an epoch, and how many of its batches were consumed
    _resumed = (0, 0)  # the same of the run to resume

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the epoch, and what identifies the epoch."""
        if not isinstance(self.sampler, EpochSampler):  # `trainer.overfit_batches` replaced it
            return {}
        epoch, given = self._given
        now = self.sampler.epoch
        return {"epoch": now, "given": given if epoch == now else 0, **self._epochs()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes an epoch at its position; warns if a new epoch has other samples, another order or other batches.

        Raises:
            DataError: The epoch had other samples, another order or other batches.
        """
        if not state_dict or not isinstance(self.sampler, EpochSampler):
            return
        now = self._epochs()
        before = {"length": None} | state_dict  # earlier versions always took every sample once
        changed = [f"{name} {before[key]}, now {now[key]}" for key, name in NAMES.items()
                   if before[key] != now[key]]  # fmt: skip
        if changed and state_dict["given"]:
            raise DataError(
                f"The checkpoint is from the middle of epoch {state_dict['epoch']}, which cannot be resumed: "
                f"{'; '.join(changed)}. Resume with the data and batch size that it was written with."
            )
        if changed:
            rank_zero_warn(f"The run resumes otherwise than it began: {'; '.join(changed)}.")
        self._resumed = state_dict["epoch"], state_dict["given"]

    def _epochs(self) -> dict[str, Any]:
        """Returns what decides which samples are in which batch."""
        assert isinstance(self.sampler, EpochSampler)
        assert self.batch_size is not None
        names = self.sampler.samples.names
        digest = zlib.crc32("\n".join(names).encode(errors="surrogateescape"))
        batch = self.batch_size * self.sampler.num_replicas
        length = self.sampler.length
        return {"samples": len(names), "digest": digest, "batch": batch, "seed": self.sampler.seed // PRIME,
                "length": None if length is None else length * self.sampler.num_replicas}  # fmt: skip

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator starts workers lazily
        now = getattr(self.sampler, "epoch", 0)  # Lightning replaces our sampler for predict
        epoch, given = self._resumed
        self._resumed = 0, 0
        if given and epoch == now:
            self.sampler.skipped = given * (self.batch_size or 1)  # type: ignore[attr-defined]  # an EpochSampler
        else:
            given = 0
        with blocked(*SIGNALS, *KEYBOARD):  # between its start and `_start_worker`, a signal would end a worker
            batches = super().__iter__()
        for batch in batches:
            given += 1
            self._given = now, given
            yield batch


def _start_worker(worker: int) -> None:
    obey_parent()


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a batch of samples: tensors and numbers stacked, everything else as a list."""
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
    """Dataset of named samples, each made by a function.

    Args:
        names: Names of the samples; those of one image share its name.
        make: Makes sample i: `image` uint8 (3, H, W) and what the task learns from.
        seed: Seed of everything random about the samples.
        groups: Samples that one process must see together, such as the windows of an image; None is each alone.
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
        self.pictures: Iterable[str] = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, number = epoch_of(key)
        index = number % len(self)
        return {
            "name": self.names[index],
            "index": index,
            "seed": sample_seed(self.seed, epoch, number),
            **self.make(index),
        }


class Changed(Dataset[dict[str, Any]]):
    """Samples that a function changes as they are loaded.

    Args:
        samples: Samples as they are made.
        change: Returns the changed sample; anything random depends on its `seed`.
    """

    def __init__(self, samples: Samples, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.samples, self.change = samples, change

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        return self.change(self.samples[key])


def make_loader(
    samples: Samples,
    split: str,
    batch_size: int,
    workers: int | None,
    seed: int,
    world: int = 1,
    rank: int = 0,
    most_workers: int = MOST_WORKERS,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    training: bool = False,
    steps: int | None = None,
    without: Collection[str] = (),
) -> EpochLoader:
    """Returns the loader of a split: shuffled for `training`, every sample once and in order otherwise.

    Args:
        samples: Samples of the split.
        split: Name of the split.
        batch_size: Samples per process and step.
        workers: Number of worker processes; None depends on the number of samples and cores.
        seed: Seed of the order.
        world: Number of processes.
        rank: Number of this process.
        most_workers: Largest number of workers if `workers` is None.
        change: Changes samples as they are loaded.
        training: Whether the loader is for training steps.
        steps: Batches in a training epoch; None takes every sample once.
        without: Names of samples to leave out, unless shuffled.

    Raises:
        DataError: A process would have no sample; `train`, whose samples are repeated, is not checked.
    """
    if len(samples.groups) < world and split != "train":
        raise DataError(
            f"{split} has {len(samples.groups)} images for {world} processes; expected one or more for each. Use fewer "
            "processes, such as --trainer.devices 1 --trainer.num_nodes 1, or more images."
        )
    if workers is None:
        workers = 0 if len(samples) < FEW else min(most_workers, core_count())
    if len(samples.groups) < len(samples):
        workers = min(1, workers)  # it keeps an image open while cutting its windows; several would all decode it
    length = None if steps is None else steps * batch_size
    sampler = EpochSampler(samples, training, seed, world, rank, length, without)
    return EpochLoader(
        samples if change is None else Changed(samples, change),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0 and training,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        # a last batch of one sample has no batch statistics
        drop_last=training and len(sampler) > batch_size and len(sampler) % batch_size == 1,
    )
